package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// followers are the units that were restarted after others, in order.
func (w *world) followers() []string {
	var units []string
	for _, d := range w.asked {
		if x, is := d.(RestartUnit); is {
			units = append(units, x.Unit)
		}
	}
	return units
}

// startsOf counts the starts of a unit that were asked for.
func (w *world) startsOf(unit string) int {
	n := 0
	for _, d := range w.asked {
		if x, is := d.(RestoreUnit); is && x.Unit == unit {
			n++
		}
	}
	return n
}

// member begins a process of a unit, which is known to crash when it ends.
func (w *world) member(pid int32, name, unit string) *proc {
	p := w.client(pid, name, 5, 2*sec)
	p.facts.Unit, p.ending = unit, EndedBadly
	return p
}

// TestThenBudget: a round of restarts counts as a start also when somebody else has started what ended; when there is none
// left, there is no round, and it is said once.
func TestThenBudget(t *testing.T) {
	for _, by := range []string{"systemd", "command", "procctl"} {
		t.Run(by, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) {
				r := config.Rule{Then: []string{"b.service"}, Recovery: config.RuleRecovery{Attempts: 2, Window: time.Hour}}
				if by == "command" {
					r.Restart, r.Command = config.RestartCommand, command
				}
				c.Rules = []config.Rule{r}
			})
			w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Up: true} }
			w.onGlance = w.onRestore
			p := w.member(200, "c", "c.service")
			for i := range int32(40) {
				if w.run(20 * sec); by == "procctl" {
					p.facts.Parent = by
				}
				p.exit(false)
				w.run(3 * sec)
				p = w.member(201+i, "c", "c.service")
			}
			if n := len(w.followers()); n != 2 || len(w.find(EvGaveUp, 0)) != 1 || len(w.find(EvLeftDown, 0)) != 0 {
				t.Errorf("restarted %d times\n%s", n, w)
			}
		})
	}
}

// TestThenElsewhere: what somebody else starts again is waited for, where a rule names units after it, and never started.
func TestThenElsewhere(t *testing.T) {
	back := []string{"b.service", "d.service"}
	for name, tt := range map[string]struct {
		unit, parent string
		ending       Ending // EndedUnknown: as on old kernels
		hangs        bool
		none         bool // it has no such units
		rule         config.Rule
		during       func(w *world) // once it has ended
		comes        time.Duration  // after its end
		as           string         // another name
		want         []string
		left         int
	}{
		"procctl, in a service":   {unit: "site.service", parent: "procctl", ending: EndedBadly, comes: 10 * sec, want: back},
		"procctl, ended by us":    {unit: "site.service", parent: "procctl", hangs: true, comes: 40 * sec, want: back},
		"procctl, in a session":   {unit: "session-1.scope", parent: "procctl", comes: 10 * sec, want: back},
		"procctl, with a command": {parent: "procctl", ending: EndedBadly, rule: config.Rule{Restart: config.RestartCommand, Command: command}, comes: 10 * sec, want: back},
		"a start script":          {unit: "session-1.scope", parent: "sh", ending: EndedBadly, comes: 10 * sec, want: back},
		"a start script, no unit": {comes: 10 * sec, want: back},
		"late":                    {parent: "procctl", comes: 9 * time.Minute, want: back},
		"too late":                {parent: "procctl", comes: 12 * time.Minute, left: 1},
		"another name":            {parent: "procctl", comes: 10 * sec, as: "x", left: 1},
		"ended well":              {parent: "procctl", ending: EndedWell, comes: 10 * sec},
		"names none":              {parent: "procctl", none: true, comes: 10 * sec},
		"none":                    {parent: "procctl", rule: config.Rule{Restart: config.RestartNone}, comes: 10 * sec},
		"report":                  {parent: "procctl", rule: config.Rule{Action: config.ActionReport}, comes: 10 * sec},
		"over a restart":          {parent: "procctl", comes: 30 * sec, want: back, during: func(w *world) { w.run(15 * sec); w.restart() }},
		"protected":               {parent: "procctl", comes: 10 * sec, rule: config.Rule{Match: config.Match{Unit: "safe.service"}}, unit: "safe.service"},
		"no guard for long": {parent: "procctl", comes: 10 * sec, want: back, during: func(w *world) {
			w.run(8900 * ms)
			w.g.pending[0].ended -= thenLate
			w.restart()
		}},
		"names none by now":         {parent: "procctl", comes: 10 * sec, during: func(w *world) { w.reload(func(c *config.Config) { c.Rules = nil }) }},
		"protected by now":          {parent: "procctl", comes: 10 * sec, during: func(w *world) { w.reload(func(c *config.Config) { c.Protect.Names = []string{"c"} }) }},
		"stopped, and never back":   {unit: "site.service", parent: "procctl", comes: time.Hour, left: 1},
		"held":                      {parent: "procctl", comes: 10 * sec, during: func(w *world) { w.hold(HoldOrder{Name: "c", For: 5 * time.Minute}) }, want: back},
		"held for too long":         {parent: "procctl", comes: 10 * sec, during: func(w *world) { w.hold(HoldOrder{Name: "c", For: 30 * time.Minute}) }},
		"an order begins them anew": {parent: "procctl", comes: 10 * sec, during: func(w *world) { _, _ = w.g.Recover("*", "op") }, want: back},
	} {
		t.Run(name, func(t *testing.T) {
			tt.rule.Match.Name = "c"
			if !tt.none {
				tt.rule.Then = back
			}
			w := newWorld(t, func(c *config.Config) {
				c.Rules, c.Protect.Units = []config.Rule{tt.rule}, []string{"safe.service"}
			})
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.facts.Parent, p.ending = tt.unit, tt.parent, tt.ending
			w.run(10 * sec)
			w.in(tt.comes, func() {
				q := w.client(111, cmp.Or(tt.as, "c"), 5, 2*sec)
				q.facts.Unit, q.facts.Parent = tt.unit, tt.parent
			})
			if tt.hangs {
				p.hang()
			} else {
				p.exit(false)
			}
			w.run(sec)
			if tt.during != nil {
				tt.during(w)
			}
			w.run(time.Hour)
			if got := w.followers(); !slices.Equal(got, tt.want) || len(w.find(EvLeftDown, 110)) != tt.left || len(w.g.pending) > 0 {
				t.Errorf("restarted: %q, want %q; left down %d times, want %d; %+v\n%s", got, tt.want, len(w.find(EvLeftDown, 110)), tt.left, w.g.pending, w)
			}
			for _, d := range w.asked {
				switch d.(type) {
				case RestoreUnit, LookAtStarted:
					t.Errorf("%+v", d)
				}
			}
		})
	}
	t.Run("one budget for each name", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Then: []string{"b.service"}, Recovery: config.RuleRecovery{Attempts: 1, Window: time.Hour}}}
		})
		names := []string{"c", "d", "e"}
		for round := range 2 {
			for i, name := range names {
				if p := w.procs[int32(110+i)]; p != nil {
					p.exit(false)
				}
				p := w.member(int32(110+10*round+i), name, "site.service")
				p.facts.Parent = "procctl"
			}
			w.run(20 * sec)
		}
		if n := len(w.followers()); n == 0 || len(w.find(EvGaveUp, 0)) > 0 || len(w.g.budgets) < len(names) {
			t.Errorf("%d restarts\n%s", n, w)
		}
	})
}

// TestThenOnce: who ends by such a restart, in the unit that follows or in one that is restarted with it, begins no other
// round, and costs no start.
func TestThenOnce(t *testing.T) {
	type schedule struct {
		stop, came, answer time.Duration // after it was asked for: the end, the next one, the answer
	}
	for name, s := range map[string]schedule{
		"before the answer":                  {500 * ms, 800 * ms, 2 * sec},
		"after the answer":                   {250 * ms, 800 * ms, 200 * ms},
		"before the next one registers":      {500 * ms, 20 * sec, 2 * sec},
		"the answer is late":                 {60 * sec, 61 * sec, 90 * sec},
		"it registered since that was asked": {40 * sec, 41 * sec, 40 * sec},
	} {
		for _, unit := range []string{"needs it", "is it"} {
			for _, ending := range []Ending{EndedUnknown, EndedBadly} {
				for _, restart := range []bool{false, true} {
					t.Run(fmt.Sprint(name, ", ", unit, ending, restart), func(t *testing.T) {
						w := newWorld(t, func(c *config.Config) {
							c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}, Recovery: config.RuleRecovery{Attempts: 1, Window: time.Hour}}}
						})
						w.onRestore = func(x RestoreUnit) RestoreDone {
							return RestoreDone{Up: true, Beside: x.Unit == "w.service" && slices.Contains(x.Beside, "b.service")}
						}
						w.onGlance = w.onRestore
						other := map[string]string{"needs it": "w.service", "is it": "b.service"}[unit]
						var q *proc
						if !strings.HasPrefix(name, "it registered") {
							q = w.member(350, "c", other)
						}
						w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) {
							w.in(sec/10, func() {
								if q == nil {
									q = w.member(350, "c", other)
								}
							})
							w.in(s.stop, func() {
								q.ending = ending
								q.exit(false)
							})
							w.in(s.came, func() { q = w.member(q.pid+1, "c", other) })
							return RestoreDone{Started: true}, s.answer
						}
						p := w.member(200, "c", "c.service")
						w.run(10 * sec)
						p.exit(false)
						w.in(2*sec, func() { w.member(201, "c", "c.service") })
						for len(w.followers()) == 0 && w.now < 1100*sec {
							w.run(100 * ms)
						}
						if restart { // in the midst of it, and what was asked for is asked for again
							w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) { return RestoreDone{Started: true}, s.answer }
							w.run(100 * ms)
							w.restart()
						}
						w.run(20 * time.Minute)
						want := 1
						if restart {
							want = 2
						}
						if n := len(w.followers()); n != want || len(w.find(EvGaveUp, 0)) != 0 || len(w.find(EvExited, 0)) != 2 {
							t.Errorf("restarted %d times, want %d\n%s", n, want, w)
						}
						q.ending = EndedBadly // its own end has a round
						q.exit(false)
						w.run(30 * sec)
						if n := len(w.followers()); (n == want+1) != (unit == "needs it") {
							t.Errorf("restarted %d times after another end\n%s", n, w)
						}
					})
				}
			}
		}
	}
}

// TestThenBeside: who ends while another unit is restarted, and has nothing to do with it, has his round; so has one whom
// the guard itself ends.
func TestThenBeside(t *testing.T) {
	for _, how := range []string{"crash", "hang"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) {
				c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}, {Match: config.Match{Name: "d"}, Then: []string{"e.service"}}}
			})
			d := w.member(350, "d", "d.service")
			w.onFollow = func(x RestartUnit) (RestoreDone, time.Duration) {
				if x.Unit == "b.service" && how == "crash" {
					w.in(sec, func() { d.exit(false) })
				} else if x.Unit == "b.service" {
					d.hang()
				}
				return RestoreDone{Started: true}, 20 * sec
			}
			p := w.member(200, "c", "c.service")
			w.run(10 * sec)
			p.exit(false)
			w.onRestore = func(x RestoreUnit) RestoreDone {
				if how == "hang" && x.Unit == "d.service" {
					return RestoreDone{Up: true, Beside: len(x.Beside) > 0}
				}
				return RestoreDone{Up: true}
			}
			w.run(2 * time.Minute)
			if got := w.followers(); !slices.Equal(got, []string{"b.service", "e.service"}) {
				t.Errorf("%v\n%s", got, w)
			}
		})
	}
}

// TestThenAfterRestarts: each daemon sees anew who has ended by a restart just before it began. Those before that are not
// of now for it, however many daemons there were.
func TestThenAfterRestarts(t *testing.T) {
	for after, want := range map[time.Duration][]string{sec: {"b.service"}, 10 * sec: {"b.service", "e.service"}} {
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}, {Match: config.Match{Name: "d"}, Then: []string{"e.service"}}}
		})
		d := w.member(350, "d", "b.service")
		p := w.member(200, "c", "c.service")
		w.run(10 * sec)
		p.exit(false)
		for len(w.followers()) == 0 {
			w.run(100 * ms)
		}
		w.run(5 * sec)
		w.restart()
		if w.run(after); after > 5*sec {
			w.restart()
			w.run(3 * sec)
		}
		d.exit(false)
		w.run(time.Minute)
		if got := w.followers(); !slices.Equal(got, want) {
			t.Errorf("%v after: %v\n%s", after, got, w)
		}
	}
}

// TestThenItself: a rule for many units may name one of them; that one is not restarted after itself.
func TestThenItself(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Unit: "web*.service"}, Then: []string{"webproxy.service", "log.service"}}}
	})
	w.restoreRes = []RestoreDone{{Started: true}}
	p := w.member(200, "proxy", "webproxy.service")
	w.run(10 * sec)
	p.exit(false)
	w.run(time.Minute)
	if got, e := w.followers(), w.find(EvRefused, 200); !slices.Equal(got, []string{"log.service"}) || len(e) != 1 || e[0].Unit != "webproxy.service" || !strings.Contains(e[0].Message, "its own unit") {
		t.Errorf("%v\n%s", got, w)
	}
}

// TestThenSparesTheDead: what protects or holds somebody holds for his unit when he has ended, too.
func TestThenSparesTheDead(t *testing.T) {
	for _, tt := range []struct {
		how   string
		name  string // of who ended in it
		after bool   // it is restarted later
	}{
		{"free", "db", true}, {"protected", "db", false}, {"by another record", "x", false}, {"misnamed", "db", false}, {"held", "db", true}, {"held pid", "db", true}, {"all held", "db", true}, {"held for long", "db", false},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.how, restart), func(t *testing.T) {
				w := newWorld(t, func(c *config.Config) {
					c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}, {Restart: config.RestartNone}}
					if tt.how == "protected" {
						c.Protect.Names = []string{"db"}
					} else if tt.how == "by another record" {
						c.Protect.Names = []string{"second"}
					}
				})
				if tt.how == "misnamed" {
					w.cfg.Names = []config.Names{{User: "*", Allow: []string{"c"}}}
				}
				w.restoreRes = []RestoreDone{{Started: true}}
				q := w.member(120, tt.name, "b.service")
				p := w.member(110, "c", "c.service")
				w.run(10 * sec)
				if tt.how == "by another record" {
					q.table.records[q.slot+1] = record(120, "second", 5, 1)
					w.run(2 * sec)
				}
				switch tt.how {
				case "held":
					w.hold(HoldOrder{Name: "d*", For: time.Minute})
				case "held pid":
					w.hold(HoldOrder{PID: 120, For: time.Minute})
				case "all held":
					w.hold(HoldOrder{All: true, For: time.Minute})
				case "held for long":
					w.hold(HoldOrder{Name: "db", For: time.Hour})
				}
				q.exit(false)
				w.run(200 * ms)
				if restart {
					w.restart()
				}
				p.exit(false)
				w.run(50 * sec)
				if n := len(w.followers()); n > 0 != (tt.how == "free") {
					t.Fatalf("restarted %d times\n%s", n, w)
				}
				w.run(20 * time.Minute)
				if n := len(w.followers()); n > 0 != tt.after || n > 1 {
					t.Errorf("restarted %d times later\n%s", n, w)
				}
				if e := w.find(EvRefused, 110); len(e) > 0 == tt.after {
					t.Errorf("%v", e)
				}
			})
		}
	}
}

// TestThenReleased: an order for a pid that has ended since, and which alone keeps a unit from its restart, can be released.
func TestThenReleased(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}, {Restart: config.RestartNone}}
		})
		w.restoreRes = []RestoreDone{{Started: true}}
		q, p := w.member(120, "db", "b.service"), w.member(110, "c", "c.service")
		w.run(10 * sec)
		w.hold(HoldOrder{PID: 120, For: time.Hour})
		q.exit(false)
		w.run(time.Minute)
		if restart {
			w.restart()
		}
		p.exit(false)
		w.run(20 * sec)
		if n := len(w.followers()); n != 0 {
			t.Fatalf("restarted %d times\n%s", n, w)
		}
		if n, err := w.g.Unhold(Selector{PID: 120}, "op"); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		w.run(20 * sec)
		if n := len(w.followers()); n != 1 {
			t.Errorf("restarted %d times\n%s", n, w)
		}
		if _, err := w.g.Unhold(Selector{PID: 120}, "op"); err == nil {
			t.Error("released twice")
		}
	}
}

// TestThenComesUp: what did not come up after its restart is started again, as its budget says.
func TestThenComesUp(t *testing.T) {
	for _, name := range []string{"", "d"} {
		for _, later := range []bool{false, true} { // it fails after its restart
			t.Run(fmt.Sprint(name, later), func(t *testing.T) {
				w := newWorld(t, func(c *config.Config) {
					c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}, {Match: config.Match{Name: "d"}, Then: []string{"c.service"}, Recovery: config.RuleRecovery{Attempts: 3}}}
				})
				if name != "" {
					q := w.member(120, name, "b.service")
					w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) {
						q.exit(true)
						return RestoreDone{Failed: !later, Started: later, Reason: "its restart job ended as failed"}, 2 * sec
					}
				} else {
					w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) {
						return RestoreDone{Failed: !later, Started: later, Reason: "its restart job ended as failed"}, 2 * sec
					}
				}
				w.onRestore = func(x RestoreUnit) RestoreDone {
					if x.Unit == "c.service" {
						w.in(sec, func() { w.member(111, "c", "c.service") })
						return RestoreDone{Started: true}
					}
					return RestoreDone{Failed: true, Reason: "its start job ended as failed"}
				}
				w.onLook = func(x LookAtStarted) RestoreDone {
					if x.Unit == "b.service" {
						return RestoreDone{Failed: true, Reason: "it failed"}
					}
					return RestoreDone{Up: true}
				}
				p := w.member(110, "c", "c.service")
				w.run(10 * sec)
				p.exit(false)
				w.run(30 * time.Minute)
				want := 5
				if name != "" {
					want = 3
				}
				if n := w.startsOf("b.service"); n != want || len(w.find(EvGaveUp, 0)) != 1 || len(w.followers()) != 1 || w.startsOf("c.service") != 1 {
					t.Errorf("started %d times, want %d\n%s", n, want, w)
				}
				w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Started: true} }
				w.onLook = nil
				w.run(time.Hour)
				if len(w.find(EvRetrying, 0)) != 1 || w.startsOf("b.service") != want+1 || len(w.followers()) != 1 {
					t.Errorf("%v\n%s", w.followers(), w)
				}
			})
		}
	}
}

// TestThenGivenUp: what is given up is started by hand or by time only.
func TestThenGivenUp(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Then: []string{"b.service"}}}
	})
	w.onFollow = func(RestartUnit) (RestoreDone, time.Duration) {
		return RestoreDone{Failed: true, Reason: "its restart job ended as failed"}, 2 * sec
	}
	w.onRestore = func(x RestoreUnit) RestoreDone {
		return RestoreDone{Failed: x.Unit == "b.service", Up: x.Unit == "c.service", Reason: "so it is"}
	}
	p := w.member(110, "c", "c.service")
	w.run(10 * sec)
	p.exit(false)
	w.run(30 * time.Minute)
	p = w.member(111, "c", "c.service")
	w.run(10 * sec)
	p.exit(false)
	w.run(time.Minute)
	if e := w.find(EvRefused, 111); len(w.followers()) != 1 || len(e) != 1 || !strings.Contains(e[0].Message, "it is given up for") {
		t.Errorf("%v\n%s", w.followers(), w)
	}
}
