package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Tests of limits and recovery that wrong versions of the guard asked for (see
// TestMutations).

// asksForRestarts counts the restarts of units that limits asked for.
func asksForRestarts(w *world) (n int) {
	for _, d := range w.asked {
		if _, is := d.(RestartForLimit); is {
			n++
		}
	}
	return n
}

// TestLimitWaitsForBrake: no unit is restarted for a limit while a wave is held.
func TestLimitWaitsForBrake(t *testing.T) {
	w, _, threads := limited(t, threadsAbove(100, config.LimitRestart))
	var all []*proc
	for pid := int32(120); pid < 140; pid++ {
		all = append(all, w.client(pid, "other", 10, 5*sec))
	}
	w.run(20 * sec)
	*threads = 150
	w.run(28 * sec)
	for _, p := range all {
		p.hang()
	}
	for n := 0; !w.g.Brake().On; n++ {
		if n > 300 {
			t.Fatal(w)
		}
		w.g.targets[w.g.byPID[110]].gauges[0].held = 0 // not before the wave
		w.run(100 * ms)
	}
	w.g.targets[w.g.byPID[110]].gauges[0].held = 30 * sec
	w.run(9 * sec)
	if n := asksForRestarts(w); n != 0 || !w.g.Brake().On {
		t.Fatalf("%d restarts, %+v\n%s", n, w.g.Brake(), w)
	}
	for _, p := range all {
		p.beat()
		p.every, p.next = 5*sec, w.now+5*sec
	}
	w.run(time.Minute)
	if n := asksForRestarts(w); n != 1 {
		t.Errorf("%d restarts\n%s", n, w)
	}
}

// TestLimitBesideForged: a record that somebody else wrote for a process of a unit does
// not keep that from being restarted.
func TestLimitBesideForged(t *testing.T) {
	w, _, threads := limited(t, threadsAbove(100, config.LimitRestart))
	p := w.start(130)
	p.facts.Unit = "c.service"
	w.tb().records[30] = record(130, "c", 10, 1)
	w.run(5 * sec)
	*threads = 150
	w.run(2 * time.Minute)
	if n := asksForRestarts(w); n != 1 {
		t.Errorf("%d restarts\n%s", n, w)
	}
}

// TestLimitOfNoRule: a limit that its rule has no more is over.
func TestLimitOfNoRule(t *testing.T) {
	w, _, threads := limited(t, threadsAbove(100, config.LimitReport))
	*threads = 150
	w.run(time.Minute)
	w.cfg = testConfig()
	w.g.SetConfig(w.cfg)
	w.run(sec)
	if e := w.find(EvLimitOver, 110); len(e) != 1 || !strings.HasSuffix(e[0].Message, "its rule has no such limit any more") {
		t.Error(w)
	}
}

// TestBrakeForgetsLimit: who is not to be ended for a limit after all is not held by the
// brake any more.
func TestBrakeForgetsLimit(t *testing.T) {
	w, _, threads := limited(t, threadsAbove(100, config.LimitLadder))
	for pid := int32(120); pid < 140; pid++ {
		w.use(w.client(pid, "c", 10, 5*sec), config.Threads, func() float64 { return 150 })
	}
	*threads = 150
	for n := 0; w.g.Brake().Waiting < 20; n++ {
		if n > 2000 {
			t.Fatal(w)
		}
		w.run(100 * ms)
	}
	w.g.OrderBrake(false, "ann")
	if b := w.g.Brake(); b.Waiting != 0 {
		t.Errorf("%+v\n%s", b, w)
	}
}

// TestLimitAfterRestart: who was about to be ended for a limit when the daemon ended is
// ended by the next one, if the limit still says so, and is judged like any other if not.
func TestLimitAfterRestart(t *testing.T) {
	late := func() (*world, *proc, *float64) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		w.proofDelay = 3 * sec
		*threads = 150
		for n := 0; w.view(110).State != "late"; n++ {
			if n > 2000 {
				t.Fatal(w)
			}
			w.run(100 * ms)
		}
		return w, p, threads
	}
	w, p, _ := late()
	w.restart()
	w.run(time.Minute)
	if p.alive {
		t.Errorf("lives\n%s", w)
	}
	w, p, threads := late()
	*threads = 10
	w.restart()
	if t := &w.g.targets[w.g.byPID[110]]; t.limited != "" {
		w.t.Errorf("%s", t.limited)
	}
	p.hang()
	w.run(time.Minute)
	if n := len(w.find(EvLate, 110)); n != 1 || p.alive {
		t.Errorf("late %d times\n%s", n, w)
	}
}

// TestBeatsSaveNoLimit: who beats after the only signal for a limit has not recovered.
func TestBeatsSaveNoLimit(t *testing.T) {
	w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
	next := *w.cfg
	next.Ladder.Steps = next.Ladder.Steps[:1]
	w.cfg = &next
	w.g.SetConfig(&next)
	p.every = sec
	*threads = 150
	w.run(2 * time.Minute)
	if len(w.signals) != 1 || len(w.find(EvUnkillable, 110)) != 1 {
		t.Error(w)
	}
	w.none(EvRecovered)
}

// TestThrottleLeast: of what several want for their unit it gets the least, whoever comes
// first.
func TestThrottleLeast(t *testing.T) {
	for _, quota := range [][2]float64{{20, 50}, {50, 20}} {
		w := newWorld(t, func(c *config.Config) {
			for i, name := range []string{"a", "b"} {
				l := threadsAbove(100, config.LimitThrottle)
				l.CPUQuota = quota[i]
				c.Rules = append(c.Rules, config.Rule{Match: config.Match{Name: name}, Limits: []config.Limit{l}})
			}
		})
		for i, name := range []string{"a", "b"} {
			p := w.client(int32(110+i), name, 10, 5*sec)
			p.facts.Unit = "c.service"
			w.use(p, config.Threads, func() float64 { return 150 })
		}
		w.run(2 * time.Minute)
		if got := w.units["c.service"].CPUQuota; got != 200000 {
			t.Errorf("%v: %d us a second\n%s", quota, got, w)
		}
	}
}

// TestCrashedWhileObserving: what ended while this guard only observed is not its to
// start, also when it acts later.
func TestCrashedWhileObserving(t *testing.T) {
	w := newWorld(t)
	w.acts = false
	p := w.client(110, "c", 5, 2*sec)
	p.facts.Unit, p.ending = "c.service", EndedBadly
	w.run(10 * sec)
	p.exit(false)
	w.run(10 * sec)
	w.post(0, Acting{Acts: true})
	w.run(time.Minute)
	if len(w.asked) > 0 {
		t.Errorf("%+v", w.asked)
	}
}
