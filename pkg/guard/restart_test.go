package guard

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// scenarios are what restarts are tried in: each sets up a world, and says for
// how long it runs.
var scenarios = map[string]func(w *world) time.Duration{
	"hang": func(w *world) time.Duration {
		w.client(110, "c", 10, 0).facts.Unit = "c.service"
		w.client(111, "well", 10, 10*sec)
		w.restoreRes = []RestoreDone{{Started: true}, {Started: true}, {Started: true}}
		return 40 * sec
	},
	"ends on SIGTERM": func(w *world) time.Duration {
		w.client(110, "c", 5, 0).termIn = 2 * sec
		return 20 * sec
	},
	"unkillable": func(w *world) time.Duration {
		p := w.client(110, "c", 5, 0)
		p.stays = true
		w.in(25*sec, p.letGo)
		return 40 * sec
	},
	"recovers on the ladder": func(w *world) time.Duration {
		p := w.client(110, "c", 5, 0)
		w.in(8*sec, func() { p.every, p.next = 3*sec, w.now })
		return 30 * sec
	},
	"recovers unseen": func(w *world) time.Duration { // one beat, then none for a while
		p := w.client(110, "c", 20, 0)
		w.in(22500*ms, p.beat)
		return 40 * sec
	},
	"stopped": func(w *world) time.Duration {
		p := w.client(110, "c", 5, 5*sec)
		w.in(7*sec, func() { p.state = 'T' })
		w.in(25*sec, func() { p.state = 'S'; p.next = w.now })
		return 40 * sec
	},
	"wave": func(w *world) time.Duration {
		for pid := int32(110); pid < 130; pid++ {
			w.client(pid, "c", 5, 0)
		}
		return 60 * sec
	},
	"wiped": func(w *world) time.Duration {
		p := w.client(110, "c", 5, 2*sec)
		w.in(7*sec, p.wipe)
		w.in(20*sec, func() { p.join(20, "c", 5) })
		w.in(30*sec, func() { p.exit(true) })
		return 40 * sec
	},
	"orphan, crash, foreign": func(w *world) time.Duration {
		w.tb().records[50] = record(150, "orphan", 5, 1)
		w.tb().records[51] = record(151, "foreign", 5, 1)
		w.in(6*sec, func() { w.tb().records[51].Token++ })
		w.in(9*sec, func() { w.tb().records[51].Token++ })
		p := w.client(110, "c", 5, 2*sec)
		w.in(7200*ms, func() { p.exit(false) })
		return 30 * sec
	},
	"victim": func(w *world) time.Duration {
		w.start(110)
		w.tb().records[3] = record(110, "victim", 5, 1)
		return 30 * sec
	},
	"crashes, and what follows it": func(w *world) time.Duration {
		w.cfg.Rules = []config.Rule{{Then: []string{"b.service", "d.service"}}}
		p := w.client(110, "c", 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		w.in(7*sec, func() { p.exit(false) })
		begun := w.now
		w.onRestore = func(RestoreUnit) RestoreDone {
			early := w.now-begun < 15*sec
			return RestoreDone{Started: !early, Failed: early, Reason: "no"}
		}
		return 40 * sec
	},
	"rule": func(w *world) time.Duration {
		w.cfg.Rules = []config.Rule{{Action: config.ActionReport}}
		w.client(110, "c", 5, 0)
		return 40 * sec
	},
}

// TestRestart runs each scenario with a restart of the daemon before each of its
// wakes, one at a time: what happens is the same.
func TestRestart(t *testing.T) {
	for name, scenario := range scenarios {
		for _, noInodes := range []bool{false, true} {
			if noInodes && name == "recovers unseen" {
				continue // it is judged a scan later, and has beaten by then
			}
			t.Run(fmt.Sprintf("%s/%v", name, noInodes), func(t *testing.T) {
				run := func(at int) (*world, bool) {
					w := newWorld(t)
					w.noInodes, w.askDelay = noInodes, 30*ms
					w.restartAt = func(wake int) bool { return wake == at }
					w.run(scenario(w))
					return w, w.wakes >= at
				}
				plain, _ := run(-1)
				for at := 2; ; at++ {
					w, more := run(at)
					if !more {
						break
					}
					compare(t, at, plain, w)
					if t.Failed() {
						return
					}
				}
			})
		}
	}
}

// compare checks that a run with a restart tells the same story. A report that
// was in the daemon's mailbox when it died is lost, with the signal in it; a
// late that was not yet judged is said again.
func compare(t *testing.T, at int, plain, w *world) {
	t.Helper()
	norm := func(w *world) map[string]time.Duration {
		out := map[string]time.Duration{}
		for _, e := range w.events {
			name := string(e.Name)
			switch e.Name {
			case EvSignalled, EvActing, EvTableAttached, EvLate:
				continue
			case EvKilled:
				name = string(EvExited)
			case EvReleased: // by the look at it, when the scan comes after
				name = string(EvRecovered)
			}
			key := fmt.Sprint(e.PID, " ", name)
			for n := 2; ; n++ {
				if _, twice := out[key]; !twice {
					break
				}
				key = fmt.Sprint(e.PID, " ", name, " ", n)
			}
			out[key] = e.at
		}
		return out
	}
	a, b := norm(plain), norm(w)
	for key, when := range a {
		got, ok := b[key]
		if !ok {
			t.Errorf("restart at wake %d: no %q", at, key)
		} else if d := got - when; d > 2*sec || d < -2*sec && !strings.Contains(key, "recovered") { // seen before the next step
			t.Errorf("restart at wake %d: %q is %v later", at, key, d)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			t.Errorf("restart at wake %d: %q is new", at, key)
		}
	}
	if n, m := len(plain.signals), len(w.signals); m < n || m > n+20 {
		t.Errorf("restart at wake %d: %d signals, without it %d", at, m, n)
	}
	if t.Failed() {
		t.Logf("without:\n%s", plain)
		t.Logf("with:\n%s", w)
	}
}

// TestRestarts has a restart before each third wake.
func TestRestarts(t *testing.T) {
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.restartAt = func(wake int) bool { return wake%3 == 0 }
			w.run(scenario(w) + 10*sec)
			for _, p := range w.procs {
				if p.pid == 110 && name == "hang" {
					t.Errorf("still there\n%s", w)
				}
			}
		})
	}
}

// TestDown has a daemon that is down for a while, during which things happen.
func TestDown(t *testing.T) {
	down := func(w *world, d time.Duration) {
		w.restart()
		w.stall(d)
		w.run(d)
	}
	t.Run("silence goes on", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "c", 20, 0)
		w.run(15 * sec)
		down(w, sec)
		w.run(30 * sec)
		if e := w.find(EvLate, 110); len(e) != 1 || e[0].at > 1024*sec {
			t.Error(w)
		}
	})
	t.Run("long", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "c", 20, 20*sec)
		w.run(15 * sec)
		down(w, time.Hour)
		w.run(50 * sec)
		w.want(0, "acting table-attached registered gap acting")
	})
	t.Run("pid reused", func(t *testing.T) {
		// In the middle of a ladder: the successor is never signalled.
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.run(8 * sec)
		w.restart()
		p.exit(false)
		q := w.start(110)
		w.run(5 * time.Minute)
		if !q.alive || len(w.signals) != 1 {
			t.Errorf("%v\n%s", w.signals, w)
		}
		w.want(110, "registered late condemned signalled killed refused late")
	})
	t.Run("pid reused by a client", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.run(8 * sec)
		w.restart()
		p.exit(false)
		q := w.start(110).join(10, "d", 30)
		q.every, q.next = 20*sec, w.now+20*sec
		w.run(5 * time.Minute)
		w.want(110, "registered late condemned signalled killed registered")
	})
	t.Run("consent asked anew", func(t *testing.T) {
		// Without unique inodes a successor with the same start tick looks the
		// same: it is asked before anything is sent.
		for _, at := range []time.Duration{3 * sec, 8 * sec} {
			w := newWorld(t)
			w.noInodes = true
			p := w.client(110, "c", 5, 0)
			w.run(at)
			before := len(w.signals)
			w.restart()
			p.exit(false)
			q := w.start(110)
			q.facts.Start = p.facts.Start
			w.run(5 * time.Minute)
			if !q.alive || len(w.signals) != before {
				t.Errorf("%v\n%s", w.signals, w)
			}
		}
		// The same held by the brake.
		w := newWorld(t)
		w.noInodes = true
		for pid := int32(110); pid < 130; pid++ {
			w.client(pid, "c", 5, 0)
		}
		w.run(15 * sec)
		w.restart()
		for pid := int32(110); pid < 130; pid++ {
			p := w.procs[pid]
			p.exit(false)
			w.start(pid).facts.Start = p.facts.Start
		}
		w.run(5 * time.Minute)
		w.none(EvSignalled)
	})
	t.Run("recovered", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.run(8 * sec)
		w.restart()
		p.every, p.next = 3*sec, w.now
		w.run(time.Minute)
		w.want(110, "registered late condemned signalled recovered")
	})
	t.Run("cannot be opened", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 10, 0)
		w.run(5 * sec)
		p.sight = SightError
		down(w, sec)
		w.run(30 * sec)
		w.want(110, "registered")
		p.sight = SightVerified
		w.run(30 * sec)
		w.want(110, killedStory)
	})
	t.Run("let go by the brake, and cannot be opened", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) { c.Brake.AtLeast, c.Brake.Fraction = 2, 0.1 })
		for pid := int32(110); pid < 113; pid++ {
			w.client(pid, "c", 5, 0)
		}
		w.run(8 * sec)
		stopped, ended := w.procs[110], w.procs[111]
		stopped.facts.Unit, ended.facts.Unit = "a.service", "b.service"
		stopped.sight, ended.sight = SightError, SightError
		w.restart()
		w.run(30 * sec)
		stopped.state = 'T' // of which nobody knew when it was condemned
		stopped.sight = SightVerified
		ended.exit(true) // by itself
		ended.sight = SightVerified
		w.run(30 * sec)
		w.want(110, "registered late condemned held")
		w.want(111, "registered late condemned unregistered")
		w.want(112, killedStory)
		if len(w.asked) > 0 {
			t.Errorf("%+v", w.asked)
		}
	})
	t.Run("table gone", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "c", 10, 0)
		w.run(12 * sec)
		w.restart()
		w.tables = nil
		w.run(time.Minute)
		if len(w.signals) != 2 && len(w.find(EvUnguarded, 110)) != 1 {
			t.Error(w)
		}
	})
}

// TestSaveSame: what is restored saves as what was saved, once it has settled.
func TestSaveSame(t *testing.T) {
	for name, scenario := range scenarios {
		w := newWorld(t)
		w.run(scenario(w) / 2)
		state := w.g.Save(nil)
		g, err := Restore(w.cfg, state)
		if err != nil {
			t.Fatal(name, err)
		}
		again := g.Save(nil)
		g2, err := Restore(w.cfg, again)
		if err != nil {
			t.Fatal(name, err)
		}
		if !slices.Equal(again, g2.Save(nil)) {
			t.Errorf("%s: not the same", name)
		}
		// Of these a question is under way, which is asked anew.
		if asked := []string{"wave", "hang", "ends on SIGTERM"}; !slices.Contains(asked, name) && !slices.Equal(state, again) {
			t.Errorf("%s: something is forgotten", name)
		}
		for n := range state {
			if _, err := Restore(w.cfg, state[:n]); err == nil {
				t.Fatalf("%s: cut after %d bytes, it is taken", name, n)
			}
		}
	}
}

// TestRestoreBounded: a count that is damaged is no reason to make room for what is not there.
func TestRestoreBounded(t *testing.T) {
	var w writer
	(&target{}).save(&w, 0)
	if len(w.b) != leastTarget {
		t.Errorf("a target takes %d bytes at least, not %d", len(w.b), leastTarget)
	}
	var before, after runtime.MemStats
	for _, name := range []string{"wave", "wiped", "crashes, and what follows it", "rule"} {
		w := newWorld(t)
		w.run(scenarios[name](w) / 2)
		state := w.g.Save(nil)
		for at := range len(state) - 4 {
			damaged := slices.Clone(state)
			binary.LittleEndian.PutUint32(damaged[at:], maxSlots)
			runtime.ReadMemStats(&before)
			_, _ = Restore(w.cfg, damaged)
			runtime.ReadMemStats(&after)
			// A bit of a table makes 176 bytes.
			if got, most := after.TotalAlloc-before.TotalAlloc, uint64(2048*len(state)); got > most {
				t.Fatalf("%s: %d bytes for a state of %d, damaged at %d", name, got, len(state), at)
			}
		}
	}
}

// FuzzRestore: any bytes are an error or a guard that works.
func FuzzRestore(f *testing.F) {
	names := make([]string, 0, len(scenarios))
	for name := range scenarios {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for part := time.Duration(1); part <= 4; part++ {
			w := newWorld(discard{})
			w.run(scenarios[name](w) * part / 5)
			state := w.g.Save(nil)
			f.Add(state)
			// And with a number of targets that it does not have.
			damaged := slices.Clone(state)
			binary.LittleEndian.PutUint32(damaged[44+8*len(w.g.gaps)+8*len(w.g.counters()):], maxSlots)
			f.Add(damaged)
		}
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		g, err := Restore(testConfig(), state)
		if err != nil {
			return
		}
		if n := g.Tally(); n.Slots > 5000 || len(g.targets) > 5000 {
			return // taken, but slow to run
		}
		w := newWorld(discard{})
		w.g, w.begun, w.now = g, true, g.clock.last
		w.client(110, "c", 5, 5*sec)
		w.client(111, "d", 5, 0)
		w.run(20 * sec)
		if _, err := Restore(testConfig(), w.g.Save(nil)); err != nil {
			t.Fatalf("not to be restored again: %v", err)
		}
		g.Views()
		g.Tally()
	})
}

// discard takes no note of what a world finds wrong: forged states may name
// anything.
type discard struct{}

func (discard) Helper()               {}
func (discard) Logf(string, ...any)   {}
func (discard) Errorf(string, ...any) {}
func (discard) Fatalf(f string, a ...any) {
	if !strings.Contains(f, "is not open") {
		panic(fmt.Sprintf(f, a...))
	}
}
