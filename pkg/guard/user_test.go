package guard

import (
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestRuleOfUser: a rule for a user holds for all causes of a start: an end, a limit, a configuration. There is one budget
// for them, and status and list say the same of it, also after a restart of the guard.
func TestRuleOfUser(t *testing.T) {
	const user = "idc"
	of := config.Match{User: user}
	t.Run("restart none", func(t *testing.T) {
		for _, cause := range []Observation{RestartedForLimit{Unit: "c.service", Problem: "its restart job ended as failed", Begun: true}, UnitStarted{Unit: "c.service", Name: "c", User: user, Problem: "its job ended as failed"}} {
			for _, restart := range []bool{false, true} {
				w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Match: of, Restart: config.RestartNone}} })
				w.run(sec)
				r := recovery{name: "c", user: user, unit: "c.service"}
				p := w.g.policyOf(&r)
				w.g.budgetOf(&r, &p).take(&r, p.Window, p.Attempts, w.g.clock.attn)
				w.g.restarting = r
				if restart {
					w.restart()
				}
				w.post(0, cause)
				w.run(time.Minute)
				for _, d := range w.asked {
					if x, is := d.(RestoreUnit); is {
						t.Errorf("%T: %+v", cause, x)
					}
				}
			}
		}
	})
	t.Run("budget", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Match: of, Recovery: config.RuleRecovery{Attempts: 2}}}
		})
		p := w.client(110, "c", 10, 5*sec)
		p.facts.Unit, p.facts.User = "c.service", user
		w.run(5 * sec)
		starts := 0
		for range 10 {
			if w.g.TakeStart("c", user, "c.service", false) == 0 {
				starts++
			}
		}
		for range 2 {
			if v := w.g.Recoveries(); starts != 2 || len(v) != 1 || v[0].Starts != 2 || v[0].Attempts != 2 || w.view(110).Recovery != "2 of 2 starts" {
				t.Errorf("%d starts, status %+v, list %q", starts, v, w.view(110).Recovery)
			}
			w.restart()
			w.run(sec)
		}
	})
	t.Run("command", func(t *testing.T) {
		// What is started by a command is counted by its name, whatever the cause.
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Match: of, Restart: config.RestartCommand, Command: command}}
		})
		p := w.client(110, "c", 10, 5*sec)
		p.facts.Unit, p.facts.User, p.ending = "c.service", user, EndedBadly
		w.run(5 * sec)
		w.g.TakeStart("c", user, "c.service", false)
		w.restoreRes = []RestoreDone{{Started: true, As: RunPrefix + "1.service"}}
		p.exit(false)
		w.run(20 * sec)
		if v := w.g.Recoveries(); len(v) != 1 || v[0].Unit != "" || v[0].Name != "c" || v[0].Starts != 2 {
			t.Errorf("%+v\n%s", v, w)
		}
	})
	t.Run("a limit", func(t *testing.T) {
		// The restart of a limit takes its start there, and so does what it leads to.
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Match: of, Recovery: config.RuleRecovery{Attempts: 3}, Limits: []config.Limit{threadsAbove(100, config.LimitRestart)}}}
		})
		w.limitsToo = true
		p := w.client(110, "c", 10, 5*sec)
		p.facts.Unit, p.facts.User = "c.service", user
		w.use(p, config.Threads, func() float64 { return 150 })
		w.onLook = func(LookAtStarted) RestoreDone { return RestoreDone{Failed: true, Reason: "it failed"} }
		w.onRestore = func(x RestoreUnit) RestoreDone {
			if x.User != user {
				t.Errorf("%+v", x)
			}
			return RestoreDone{Failed: true, Reason: "its start job ended as failed"}
		}
		w.run(3 * time.Minute)
		if e := w.find(EvGaveUp, 0); len(e) != 1 {
			t.Error(w)
		}
		if v := w.g.Recoveries(); len(v) != 1 || v[0].Starts != 3 || v[0].Attempts != 3 {
			t.Errorf("%+v\n%s", v, w)
		}
	})
}
