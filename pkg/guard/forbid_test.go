package guard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestForbids changes what is wanted while systemd has not answered: what is forbidden then is not begun any more, costs
// no start, and is begun when it may be.
func TestForbids(t *testing.T) {
	then := func(c *config.Config) { c.Rules = []config.Rule{{Then: []string{"next.service"}}} }
	for name, tt := range map[string]struct {
		then   bool // it is about the unit that follows
		change func(w *world)
		back   func(w *world) // nil: it is over
	}{
		"held": {change: func(w *world) { w.hold(HoldOrder{Name: "c", For: time.Hour}) },
			back: func(w *world) { _, _ = w.g.Unhold(Selector{Name: "c"}, "") }},
		"paused": {change: func(w *world) { w.hold(HoldOrder{All: true, For: time.Hour}) },
			back: func(w *world) { _, _ = w.g.Unhold(Selector{All: true}, "") }},
		"protected": {change: func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"c.service"} })
		}},
		"no restart": {change: func(w *world) {
			w.reload(func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartNone}} })
		}},
		"name not allowed": {change: func(w *world) {
			w.reload(func(c *config.Config) { c.Names = []config.Names{{User: "*", Allow: []string{"other"}}} })
		}},
		"follower held": {then: true, change: func(w *world) { w.hold(HoldOrder{Name: "next", For: time.Hour}) },
			back: func(w *world) { _, _ = w.g.Unhold(Selector{Name: "next"}, "") }},
		"follower protected": {then: true, change: func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"next.service"} })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Recovery.Wait = sec; then(c) })
			asked := func() (n int, last uint64) { // what it is about
				for _, d := range w.asked {
					_, restarts := d.(RestartUnit)
					if _, restores := d.(RestoreUnit); restarts || restores && !tt.then {
						n++
					}
				}
				return n, w.g.lastAsk
			}
			w.restoreTime = 1000 * time.Hour // none of these comes
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.client(111, "next", 5, 2*sec).facts.Unit = "next.service"
			w.run(10 * sec)
			p.exit(false)
			w.run(10 * sec)
			before, ask := asked()
			if tt.then {
				w.post(0, RestoreDone{Ask: ask, Started: true})
				for i := 0; i < 100 && before == 0; i++ { // the answer takes longer than that
					w.run(50 * ms)
					before, ask = asked()
				}
			}
			r := &w.g.pending[0]
			forbids := func(ask uint64) bool { is, _ := w.g.Forbids(ask, nil); return is }
			if forbids(ask) || !forbids(ask+1) || before != 1 {
				t.Fatalf("question %d of %d: forbidden\n%s", ask, before, w)
			}
			tt.change(w)
			if !forbids(ask) {
				t.Error("not forbidden")
			}
			policy := w.g.policyOf(r)
			starts := len(w.g.budgetOf(r, &policy).starts)
			w.post(0, RestoreDone{Ask: ask, Forbidden: true})
			w.run(time.Minute)
			if len(w.g.followed) > 0 {
				t.Errorf("there was no restart: %+v", w.g.followed)
			}
			if n, _ := asked(); n != before {
				t.Errorf("asked %d times, was %d\n%s", n, before, w)
			}
			b := w.g.budgetOf(&recovery{name: "c", user: "idc", unit: "c.service"}, &policy)
			if want := starts - map[bool]int{false: 1}[tt.then]; len(b.starts) != want {
				t.Errorf("%d starts are taken, want %d", len(b.starts), want)
			}
			switch {
			case tt.back != nil:
				tt.back(w)
				w.run(10 * sec)
				if n, _ := asked(); n != before+1 {
					t.Errorf("let go, and asked %d times, was %d\n%s", n, before, w)
				}
			case !tt.then && len(w.find(EvLeftDown, 110)) != 1, tt.then && len(w.find(EvRefused, 110)) != 1:
				t.Errorf("nothing is said\n%s", w)
			}
		})
	}
}

// TestForbidsAlong has units stopped or restarted with the one that is to be started, or restarted: it is not where one of
// them is not to be touched, which is said, and waits where an order holds somebody in them.
func TestForbidsAlong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w *world)
		want   string
		waits  bool
	}{
		{"nothing", func(*world) {}, "", false},
		{"protected unit", func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"taken.service"} })
		}, `it would take taken.service along: protected by protect.units "taken.service"`, false},
		{"protected unit without a client", func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"empty.*"} })
		}, `it would take empty.service along: protected by protect.units "empty.*"`, false},
		{"protected by another name", func(w *world) {
			w.reload(func(c *config.Config) {
				c.Protect.Units, c.Protect.Aliases = []string{"other.service"}, map[string]string{"taken.service": "other.service"}
			})
		}, `it would take taken.service along: protected by protect.units "other.service"`, false},
		{"protected client", func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Names = []string{"take*"} })
		}, `it would take taken.service along: pid 112 (taken): protected by protect.names "take*"`, false},
		{"a name that is not his", func(w *world) {
			w.reload(func(c *config.Config) { c.Names = []config.Names{{User: "*", Allow: []string{"c", "next"}}} })
		}, `it would take taken.service along: pid 112 (taken): [[names]] does not let idc use the name "taken"`, false},
		{"held", func(w *world) { w.hold(HoldOrder{PID: 112, For: time.Hour}) }, "", true},
		{"held, and the other one protected", func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Names = []string{"more"} })
			w.hold(HoldOrder{PID: 112, For: time.Hour})
		}, `it would take taken.service along: pid 113 (more): protected by protect.names "more"`, false},
		{"ended", func(w *world) {
			w.reload(func(c *config.Config) { c.Protect.Names = []string{"taken"} })
			w.procs[112].exit(true)
			w.run(sec)
		}, `it would take taken.service along: "taken" ended in it, protected by protect.names "taken"`, false},
		{"ended, and nothing protects it", func(w *world) {
			w.procs[112].exit(true)
			w.run(sec)
		}, "", false},
		{"crashed, and its unit waits for an order", func(w *world) {
			w.reload(func(c *config.Config) { c.Rules[1].Restart = config.RestartUnit })
			w.hold(HoldOrder{Name: "taken", For: time.Hour})
			w.procs[112].exit(false)
			w.procs[113].exit(true)
			w.run(sec)
		}, "", true},
	} {
		for _, then := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, then), func(t *testing.T) {
				w := newWorld(t, func(c *config.Config) {
					c.Recovery.Wait = sec
					c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"next.service", "last.service"}}, {Restart: config.RestartNone}}
				})
				w.restoreTime = 1000 * time.Hour // no answer comes
				w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) { return RestoreDone{}, w.restoreTime }
				p := w.member(110, "c", "c.service")
				w.member(111, "next", "next.service")
				w.member(112, "taken", "taken.service")
				w.member(113, "more", "taken.service")
				w.run(10 * sec)
				p.exit(false)
				w.run(10 * sec)
				if then {
					w.post(0, RestoreDone{Ask: w.g.lastAsk, Started: true})
					w.run(5 * sec)
				}
				ask := w.g.lastAsk
				asked, starts, along := w.startsOf("c.service"), 0, []string{"empty.service", "taken.service"}
				tt.change(w)
				is, why := w.g.Forbids(ask, along)
				if is != (tt.waits || tt.want != "") || why != tt.want {
					t.Fatalf("forbidden %v, %q", is, why)
				}
				if why, held := w.g.Spares(along); held != tt.waits || (why != "") != is {
					t.Errorf("%q, held %v", why, held)
				}
				if !is {
					return
				}
				w.post(0, RestoreDone{Ask: ask, Forbidden: true, Reason: why})
				w.run(10 * sec)
				for i := range w.g.budgets {
					starts += len(w.g.budgets[i].starts)
				}
				said, followers := w.find(EvLeftDown, 110), []string(nil)
				if then {
					said, followers = w.find(EvRefused, 110), []string{"next.service", "last.service"}
				}
				switch {
				case tt.waits: // and is asked for again
					if then {
						followers[1] = "next.service"
					} else {
						asked++
					}
					if len(said) > 0 {
						t.Error(w)
					}
				case len(said) != 1 || !strings.HasSuffix(said[0].Message, ": "+why):
					t.Error(w)
				}
				if starts != map[bool]int{false: 0, true: 1}[then || tt.waits] {
					t.Errorf("%d starts are taken\n%s", starts, w)
				}
				if got := w.startsOf("c.service"); got != asked || !slices.Equal(w.followers(), followers) {
					t.Errorf("asked for %d starts, want %d, and for %q, want %q\n%s", got, asked, w.followers(), followers, w)
				}
			})
		}
	}
}

// TestForbidsLimit has the same between the decision to restart a unit for a limit, and its job.
func TestForbidsLimit(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, p *proc, threads *float64)
		want   string
	}{
		"nothing":           {func(*world, *proc, *float64) {}, ""},
		"held":              {func(w *world, _ *proc, _ *float64) { w.hold(HoldOrder{Name: "c", For: time.Hour}) }, "pid 110 (c): uid 0 ordered to leave it alone"},
		"a neighbour held":  {func(w *world, _ *proc, _ *float64) { w.hold(HoldOrder{PID: 121, For: time.Hour}) }, "pid 121 (d): uid 0 ordered to leave it alone"},
		"ended":             {func(w *world, p *proc, _ *float64) { p.exit(true); w.run(sec) }, "its process has ended"},
		"another unit held": {func(w *world, _ *proc, _ *float64) { w.hold(HoldOrder{PID: 122, For: time.Hour}) }, ""},
		"within its limit":  {func(w *world, _ *proc, threads *float64) { *threads = 50; w.run(10 * sec) }, "no limit says so any more"},
		"another limit": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) { c.Rules[0].Limits = []config.Limit{threadsAbove(100, config.LimitReport)} })
			w.run(time.Minute)
		}, "no limit says so any more"},
		"no limit": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) { c.Rules = nil })
		}, "no limit says so any more"},
		"one along held": {func(w *world, _ *proc, _ *float64) { w.hold(HoldOrder{PID: 123, For: time.Hour}) }, "it would take f.service along: pid 123 (f): uid 0 ordered to leave it alone"},
		"one along says report": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) {
				c.Rules = append(c.Rules, config.Rule{Match: config.Match{Name: "f"}, Action: config.ActionReport})
			})
		}, "it would take f.service along: pid 123 (f): rule[1] says report"},
		"a unit along protected": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"empty.service"} })
		}, "it would take empty.service along: protected by protect.units \"empty.service\""},
		"one along protected by name, and down": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) { c.Protect.Names = []string{"f"} })
			w.procs[123].exit(true)
			w.run(sec)
		}, `it would take f.service along: "f" ended in it, protected by protect.names "f"`},
		"one along waits for an order": {func(w *world, _ *proc, _ *float64) {
			w.hold(HoldOrder{Name: "f", For: time.Hour})
			w.procs[123].exit(false)
			w.run(10 * sec)
		}, "it would take f.service along, which an order holds"},
		"unit protected": {func(w *world, _ *proc, _ *float64) {
			w.reload(func(c *config.Config) { c.Protect.Units = []string{"c.service"} })
		}, "pid 110 (c): protected by protect.units \"c.service\""},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
			*threads = 150
			w.unitFault = "no bus" // it is asked again and again
			w.client(121, "d", 10, 5*sec).facts.Unit = p.facts.Unit
			w.client(122, "e", 10, 5*sec).facts.Unit = "e.service"
			w.client(123, "f", 10, 5*sec).facts.Unit = "f.service"
			w.run(time.Minute)
			x := RestartForLimit{Unit: p.facts.Unit, Target: w.g.targets[w.g.byPID[110]].id, PID: 110}
			tt.change(w, p, threads)
			if got := w.g.ForbidsLimit(x, []string{"empty.service", "f.service"}); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			w.events = nil
			w.post(0, RestartedForLimit{Unit: x.Unit, Target: x.Target, PID: x.PID, Problem: "it is forbidden"})
			w.run(sec)
			again := tt.want != "no limit says so any more" && tt.want != "its process has ended"
			if e := w.find(EvLimitFailed, 0); len(e) != 1 || strings.Contains(e[0].Message, "trying again") != again {
				t.Errorf("tried again: want %v\n%s", again, w)
			}
		})
	}
}

// TestFallenAreRemembered: who is protected by name, and has ended, counts in his service until somebody is in it again.
func TestFallenAreRemembered(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Protect.Names = []string{"db*"} })
	p := w.member(110, "db1", "db.service")
	session := w.member(111, "db2", "session-1.scope")
	w.run(10 * sec)
	p.exit(false)
	session.exit(false)
	pid := int32(120)
	forgets := func() { // who has ended for long, when another one ends
		w.run(15 * time.Minute)
		p := w.member(pid, fmt.Sprint("db", pid), fmt.Sprint("db", pid, ".service"))
		pid++
		w.run(10 * sec)
		p.exit(true)
		w.run(10 * sec)
	}
	forgets()
	if why, _ := w.g.Spares([]string{"db.service"}); why != `it would take db.service along: "db1" ended in it, protected by protect.names "db*"` {
		t.Errorf("%q", why)
	}
	if why, _ := w.g.Spares([]string{"session-1.scope"}); why != "" {
		t.Error(why)
	}
	w.member(112, "worker", "db.service")
	forgets()
	if why, _ := w.g.Spares([]string{"db.service"}); why != "" {
		t.Error(why)
	}
}
