package guard

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
)

// fate is what became of a process after a time.
type fate struct {
	alive, signalled bool
	recovered        bool          // its beats and the verdicts on it are a matter of moments
	condemned        time.Duration // or signalled, for the first time after it; 0: not
}

func fatesAfter(s *sim, at time.Duration) []fate {
	var out []fate
	for _, p := range s.all {
		f := fate{alive: p.alive, signalled: p.past.signals > 0}
		for _, e := range s.events {
			// A number may come again; the times of each process do not overlap.
			if e.PID != p.pid || e.at < max(at, p.past.beganAt) || !p.alive && e.at > p.past.endedAt {
				continue
			}
			f.recovered = f.recovered || e.Name == EvRecovered
			if f.condemned == 0 && (e.Name == EvCondemned || e.Name == EvSignalled) {
				f.condemned = e.at
			}
		}
		out = append(out, f)
	}
	return out
}

// differs compares what became of all with and without a restart: "" for the same.
// A restart costs another question for consent and a look at all records; and what
// would have been seen just then, an excuse say, may not be seen, so that a silence
// begins anew in one of the two.
func differs(plain, other *sim, at time.Duration) string {
	apart := func(x, y, most time.Duration) bool {
		if x == 0 || y == 0 {
			return x+y > 0 && x+y < min(plain.now, other.now)-most
		}
		return y-x > most // sooner is who waited for another try: a new daemon tries at once
	}
	a, b := fatesAfter(plain, at), fatesAfter(other, at)
	for i, x := range a {
		p, y := plain.all[i], b[i]
		pid, most := p.pid, 2*plain.slowest()+2*sec+plain.patience(plain.limitHigh(p))
		switch {
		case x.recovered || y.recovered || p.past.stale > 0 || p.past.heir || p.past.fooled: // what names it is not its own word alone
		case x.alive != y.alive || x.alive && x.signalled != y.signalled:
			return fmt.Sprintf("%d lives %v, signalled %v; with a restart %v, %v", pid, x.alive, x.signalled, y.alive, y.signalled)
		case (x.alive || x.condemned > 0 && y.condemned > 0) && apart(x.condemned, y.condemned, most):
			return fmt.Sprintf("%d is condemned or signalled after %v, with a restart after %v", pid, x.condemned-at, y.condemned-at)
		}
	}
	return ""
}

// touchy are actions of which the outcome may depend on when a daemon looks and how
// often it turns.
var touchy = []kind{actLateTicks, actRace, actCrashDaemon, actExec, actMapsUnreadable, actReload}

// TestSimRestart has the same happen with and without a restart of the daemon, on
// hosts and in states that schedules lead to: what becomes of all is the same.
func TestSimRestart(t *testing.T) {
	count := number(t, "SIMULATE", 20000) / 10
	if testing.Short() {
		count = 500
	}
	same := 0
	for n := range count {
		list := generate(3, n)
		list = list[:2+int(n)%(len(list)-1)]
		list[0].b &^= 1 // or who its targets are is asked anew, which may take its time
		// Nor is it said when systemd would have started again what ended meanwhile.
		if list[0].c >= variantRecover || slices.ContainsFunc(list, func(x act) bool { return x.kind >= actUnit || slices.Contains(touchy, x.kind) }) {
			continue
		}
		run := func(last kind) *sim {
			s := runSchedule(append(list[:len(list):len(list)], act{0, last, 0, 0, 0}, act{sec, actNotice, 0, 0, 0}), new(coverage), new(figures))
			if s.found == nil {
				s.world.run(time.Minute)
			}
			return s
		}
		plain, other := run(actNotice), run(actRestart)
		if plain.found != nil || other.found != nil {
			continue // TestSimulation's to find
		}
		same++
		if how := differs(plain, other, other.restartedAt); how != "" {
			t.Fatalf("schedule %d: %s\n%q\nwithout:\n%s\nwith:\n%s", n, how, list, plain.world, other.world)
		}
	}
	t.Logf("%d schedules", same)
}

// resaved checks that what is saved, restored and saved again is the same.
func (s *sim) resaved(state []byte) {
	g, err := Restore(s.cfg, state)
	if err != nil {
		s.failf("restore", "%v", err)
		return
	}
	once := g.Save(nil)
	if g, err = Restore(s.cfg, once); err != nil {
		s.failf("restore", "again: %v", err)
	} else if twice := g.Save(nil); !bytes.Equal(once, twice) {
		s.failf("restore", "what was restored saves as something else")
	}
}
