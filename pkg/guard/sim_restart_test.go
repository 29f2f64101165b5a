package guard

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// fate is what became of a process after a time.
type fate struct {
	alive, signalled bool
	recovered        bool          // it beat, or kept its limit, again: that it did so in time is a matter of moments
	condemned        time.Duration // or signalled, for the first time after it; 0: not
}

// isOfAMoment says so of an event. Whose limit is kept again while its ladder is under way is spared by a new daemon.
func (e *logged) isOfAMoment(after time.Duration) bool {
	return e.Name == EvRecovered && e.at >= after || e.Name == EvLimitOver && e.at >= after-time.Minute && strings.HasSuffix(e.Message, "within its limit again")
}

func fatesAfter(s *sim, at time.Duration) []fate {
	var out []fate
	for _, p := range s.all {
		f := fate{alive: p.alive, signalled: p.past.signals > 0}
		for _, e := range s.events {
			// A number may come again; the times of each process do not overlap.
			if e.PID != p.pid || e.at < p.past.beganAt || !p.alive && e.at > p.past.endedAt {
				continue
			}
			f.recovered = f.recovered || e.isOfAMoment(at)
			if e.at < at {
				continue
			}
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
		if plain.all[i].past.beganAt > at { // these are units' and commands', in whatever order they were started
			break
		}
		p, y := plain.all[i], b[i]
		pid, most := p.pid, 2*plain.slowest()+2*sec+plain.patience(plain.limitHigh(p))
		switch {
		case x.recovered || y.recovered || p.past.stale > 0 || p.past.heir || p.past.fooled: // what names it is not its own word alone
		case other.cutOff[p.facts.Unit]: // its unit may be restarted for a limit, or not
		case x.alive != y.alive || x.alive && x.signalled != y.signalled:
			return fmt.Sprintf("%d lives %v, signalled %v; with a restart %v, %v", pid, x.alive, x.signalled, y.alive, y.signalled)
		case (x.alive || x.condemned > 0 && y.condemned > 0) && apart(x.condemned, y.condemned, most):
			return fmt.Sprintf("%d is condemned or signalled after %v, with a restart after %v", pid, x.condemned-at, y.condemned-at)
		}
	}
	return ""
}

// unitFate is what became of a unit after a time.
type unitFate struct {
	up, given bool
	starts    int        // that came of a crash, a hang, a limit or systemd
	has       UnitLimits // what is set for limits
}

func unitFateAfter(s *sim, u *fakeUnit, at time.Duration) unitFate {
	f := unitFate{up: u.main != nil, given: s.account([2]string{u.name, ""}).given, has: u.has}
	for _, p := range s.all {
		if p.past.unit == u && p.past.beganAt > at {
			f.starts++
		}
	}
	return f
}

// unitDiffers compares what became of a unit. What had been asked of systemd, and had no answer, is asked anew: at once,
// on a bus that may be quicker by now, so that what was started hangs, or fails, sooner or once more. And a unit that
// was to be restarted for a limit is not, where the limit is kept meanwhile. Neither is compared.
func unitDiffers(plain, other *sim, u *fakeUnit, at time.Duration) string {
	v := other.unit(u.name)
	if v == nil { // it came with somebody who came with one of the two only
		return ""
	}
	a, b := unitFateAfter(plain, u, at), unitFateAfter(other, v, at)
	forming := slices.ContainsFunc(plain.events, func(e logged) bool { // as far as the daemon before knew nobody had registered
		return e.Name == EvRegistered && e.Unit == u.name && e.at >= at && slices.ContainsFunc(plain.all, func(p *proc) bool { return p.pid == e.PID && p.past.id == e.Target && p.past.beganAt <= at })
	})
	moment := func(s *sim) bool { // its end is a matter of moments
		return slices.ContainsFunc(s.events, func(e logged) bool { return e.isOfAMoment(at) && e.Unit == u.name })
	}
	switch asked := other.cutOff[u.name]; {
	case asked, forming, moment(plain), moment(other):
		return ""
	case min(a.starts, b.starts) > plain.cfg.Recovery.Attempts: // of one that flaps, where its windows end
		a.starts, b.starts = 0, 0
	}
	if a != b {
		return fmt.Sprintf("%s: %+v, with a restart %+v", u.name, a, b)
	}
	return ""
}

// touchy are actions of which the outcome may depend on when a daemon looks and how
// often it turns. An exit notice that is lost is none: a new daemon sees that nobody is there.
var touchy = []kind{actLateTicks, actRace, actCrashDaemon, actExec, actMapsUnreadable, actReload, actLoseNotice}

// TestSimRestart has the same happen with and without a restart of the daemon, on
// hosts and in states that schedules lead to: what becomes of all is the same, of processes and of units.
func TestSimRestart(t *testing.T) {
	count := number(t, "SIMULATE", 20000) / 10
	if testing.Short() {
		count = 500
	}
	same, units := 0, 0
	for n := range count {
		list := generate(3, n)
		list = list[:2+int(n)%(len(list)-1)]
		list[0].b &^= 1 // or who its targets are is asked anew, which may take its time
		if slices.ContainsFunc(list, func(x act) bool { return slices.Contains(touchy, x.kind) }) {
			continue
		}
		run := func(last kind) *sim {
			s := runSchedule(append(list[:len(list):len(list)], act{0, last, 0, 0, 0}, act{sec, actNotice, 0, 0, 0}), new(coverage), new(figures))
			if s.found == nil {
				s.world.run(4 * time.Minute) // longer than anything is given up
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
		for _, u := range plain.fakeUnits {
			units++
			if how := unitDiffers(plain, other, u, other.restartedAt); how != "" {
				t.Fatalf("schedule %d: %s\n%q\nwithout:\n%s\nwith:\n%s", n, how, list, plain.world, other.world)
			}
		}
	}
	t.Logf("%d schedules, %d units in them", same, units)
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
