package guard

import (
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestLimitRestartLost: a guard that ends while a unit is being restarted for a limit loses neither that nor its start: the
// next one asks what became of it.
func TestLimitRestartLost(t *testing.T) {
	for name, tt := range map[string]struct {
		later    time.Duration // than the decision the guard ends
		bus      bool          // is away for the next one at first
		restarts int           // asked for in all
	}{
		"before systemd is asked":       {0, false, 2},
		"before the answer":             {150 * ms, false, 1},
		"before the answer, no bus":     {150 * ms, true, 1},
		"before systemd is asked, none": {0, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
			*threads = 150
			looks := 0
			w.onLook = func(LookAtStarted) RestoreDone { looks++; return RestoreDone{Up: true} }
			for n := 0; w.g.restarting.unit == ""; n++ {
				if n > 2000 {
					t.Fatalf("never\n%s", w)
				}
				w.run(50 * ms)
			}
			w.run(tt.later)
			if tt.bus {
				w.unitFault = "no bus"
			}
			w.restart()
			w.run(20 * sec)
			w.unitFault = ""
			w.run(2 * time.Minute)
			restarts := 0
			for _, d := range w.asked {
				if x, is := d.(RestartForLimit); is && !x.Look {
					restarts++
				}
			}
			if p.alive || restarts != tt.restarts || w.g.restarting.unit != "" || len(w.find(EvLimitRestarted, 0)) != 1 {
				t.Errorf("alive %v, %d restarts\n%s", p.alive, restarts, w)
			}
			// It is seen to like any other that was restarted.
			if b := w.g.budgets; looks == 0 || len(b) != 1 || len(b[0].starts) != 1 {
				t.Errorf("%d looks, %+v\n%s", looks, b, w)
			}
		})
	}
	t.Run("it fell below", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		*threads = 150
		for w.g.restarting.unit == "" {
			w.run(50 * ms)
		}
		*threads = 10
		w.restart()
		w.run(time.Minute)
		if !p.alive || len(w.g.budgets) == 1 && len(w.g.budgets[0].starts) > 0 || w.g.restarting.unit != "" {
			t.Errorf("alive %v, %+v\n%s", p.alive, w.g.budgets, w)
		}
	})
	t.Run("a guard that only observes", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		*threads = 150
		for w.g.restarting.unit == "" {
			w.run(50 * ms)
		}
		w.acts = false
		n := len(w.asked)
		w.restart()
		w.run(time.Minute)
		if len(w.asked) > n {
			t.Errorf("it asks\n%s", w)
		}
		w.post(0, Acting{Acts: true})
		w.run(time.Minute)
		if p.alive || len(w.find(EvLimitRestarted, 0)) != 1 {
			t.Error(w)
		}
	})
	t.Run("nobody answered", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		*threads = 150
		for w.g.restarting.unit == "" {
			w.run(50 * ms)
		}
		w.run(100 * ms)
		w.post(0, RestartedForLimit{Unit: "c.service", Target: w.g.restarting.id, PID: 110, Problem: "no reply", Unknown: true})
		w.run(50 * ms)
		if w.g.restarting.unit == "" || len(w.g.budgets[0].starts) != 1 {
			t.Error("taken for one that was not done")
		}
		w.run(2 * time.Minute)
		if p.alive || w.g.restarting.unit != "" || len(w.find(EvLimitFailed, 0)) != 1 || len(w.find(EvLimitRestarted, 0)) == 0 {
			t.Error(w)
		}
	})
}
