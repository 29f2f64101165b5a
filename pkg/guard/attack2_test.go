package guard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestCrewCrashes: a unit falls with all of its helpers, which have the name of its
// main process. Only that one is worth a start; the questions about the others take
// none from it.
func TestCrewCrashes(t *testing.T) {
	for _, pause := range []time.Duration{0, 7 * sec} {
		w := newWorld(t)
		started := false
		w.onRestore = func(x RestoreUnit) RestoreDone {
			switch {
			case x.PID != 129:
				return RestoreDone{Reason: "it was not its main process"}
			case started:
				return RestoreDone{Up: true}
			}
			started = true
			return RestoreDone{Started: true}
		}
		for pid := int32(110); pid < 130; pid++ {
			p := w.client(pid, "worker", 5, 2*sec)
			p.facts.Unit, p.ending = "w.service", EndedBadly
			w.in(10*sec+pause*time.Duration(pid-110)/20, func() { p.exit(false) })
		}
		w.run(2 * time.Minute)
		w.none(EvGaveUp)
		if len(w.find(EvRestored, 129)) != 1 {
			t.Errorf("over %v: not started\n%s", pause, w)
		}
	}
}

// TestCrashesUnderNewNames: a program that calls itself another each time it is
// started has one budget all the same.
func TestCrashesUnderNewNames(t *testing.T) {
	w := newWorld(t)
	starts, pid := 0, int32(200)
	start := func() {
		pid++
		p := w.client(pid, fmt.Sprint("c-", pid), 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		w.in(3*sec, func() { p.exit(false) })
	}
	w.onRestore = func(RestoreUnit) RestoreDone {
		starts++
		w.in(200*ms, start)
		return RestoreDone{Started: true}
	}
	start()
	w.run(9 * time.Minute)
	if starts > 5 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Fatalf("%d starts\n%s", starts, w)
	}
	name := w.find(EvGaveUp, 0)[0].Process
	if n, err := w.g.Recover(name, "x"); n != 1 || err != nil {
		t.Errorf("recover %s, which was given up: %d, %v", name, n, err)
	}
}

// TestGivenUpThenReload: what was given up under one configuration and has another
// budget by the next does not wait for ever.
func TestGivenUpThenReload(t *testing.T) {
	w := newWorld(t)
	c := crashes(w, always(2*sec))
	w.run(20 * time.Minute)
	if len(w.find(EvGaveUp, 0)) != 1 {
		t.Fatal(w)
	}
	n := len(c.asks)
	w.cfg.Rules = []config.Rule{{Restart: config.RestartCommand, Command: command}}
	w.g.SetConfig(w.cfg)
	w.run(3 * time.Hour)
	if len(c.asks) == n {
		t.Errorf("not looked at within 3 hours: %+v\n%s", w.g.pending, w)
	}
}

// TestReloadUnderAQuestion: the answer about a unit that follows comes after the rule
// has lost it.
func TestReloadUnderAQuestion(t *testing.T) {
	g := New(testConfig())
	g.cfg.Rules = []config.Rule{{Then: []string{"a.service", "b.service"}}}
	g.Step(1000*sec, Acting{Acts: true})
	g.pending = []recovery{{id: 1, pid: 7, name: "c", unit: "c.service", next: 1, at: g.clock.attn}}
	g.Step(1001 * sec)
	if !g.pending[0].under {
		t.Fatalf("%+v", g.pending)
	}
	next := *g.cfg
	next.Rules = nil
	g.SetConfig(&next)
	g.Step(1002*sec, RestoreDone{Ask: g.pending[0].ask, Started: true})
	g.Step(1003 * sec)
	if slices.ContainsFunc(g.pending, func(r recovery) bool { return r.id == 1 }) { // a.service itself has to stay up
		t.Errorf("it stays for ever: %+v", g.pending)
	}
}

// TestThenSpares: a unit is not restarted because of another while somebody is in it
// who is protected by his name, or held.
func TestThenSpares(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spare func(w *world)
		after time.Duration // until it may be restarted; 0: never
	}{
		{"protected", func(w *world) { w.cfg.Protect.Names = []string{"db"}; w.g.SetConfig(w.cfg) }, 0},
		{"held", func(w *world) { w.hold(HoldOrder{Name: "db", For: 2 * time.Minute}) }, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) {
				c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}}
			})
			w.restoreRes = []RestoreDone{{Started: true}}
			w.client(120, "db", 5, 2*sec).facts.Unit = "b.service"
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit = "c.service"
			w.run(10 * sec)
			tt.spare(w)
			p.hang()
			restarted := func() bool {
				for _, d := range w.asked {
					if _, is := d.(RestartUnit); is {
						return true
					}
				}
				return false
			}
			w.run(100 * sec)
			if restarted() {
				t.Fatalf("b.service was restarted\n%s", w)
			}
			w.run(5 * time.Minute)
			if restarted() != (tt.after > 0) {
				t.Errorf("restarted later: %v\n%s", restarted(), w)
			}
		})
	}
}

// TestStruck: who looks at a unit knows when the first signal was sent.
func TestStruck(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	p.facts.Unit, p.termIn = "c.service", termIgnored
	w.run(time.Minute)
	x, is := w.asked[0].(RestoreUnit)
	first := w.find(EvSignalled, 110)[0].at
	if !is || x.Struck != first || x.Ended <= first {
		t.Errorf("%+v, the first signal was at %v", x, first)
	}
}
