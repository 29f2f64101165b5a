package guard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// unitDoes is what systemd does.
func (w *world) unitDoes(d Decision) {
	switch d := d.(type) {
	case RestartForLimit:
		daemon := w.restarts
		w.in(100*ms, func() {
			if w.restarts != daemon { // it ended before systemd was asked
				return
			}
			o := RestartedForLimit{Unit: d.Unit, Target: d.Target, PID: d.PID, Problem: w.unitFault, Refused: w.unitRefuses}
			switch {
			case d.Look && w.unitFault != "":
				o.Unknown = true
			case d.Look && w.restarted[d.Unit] <= d.Asked:
				o.Problem = "it was not"
			case !d.Look && w.unitFault == "":
				if w.restarted == nil {
					w.restarted = map[string]time.Duration{}
				}
				w.restarted[d.Unit] = w.now
				for _, p := range slices.Clone(w.running) {
					if p.facts.Unit == d.Unit {
						p.exit(true)
					}
				}
			}
			w.post(100*ms, o)
		})
	case LookAtUnit:
		o := UnitSeen{Unit: d.Unit, Limits: UnitLimits{Unlimited, Unlimited}, Problem: w.unitFault, Gone: w.unitGone}
		if l, ok := w.units[d.Unit]; ok {
			o.Limits = l
		}
		w.post(100*ms, o)
	case SetUnitLimits:
		if w.units == nil {
			w.units = map[string]UnitLimits{}
		}
		l, ok := w.units[d.Unit]
		if !ok {
			l = UnitLimits{Unlimited, Unlimited}
		}
		o := UnitLimitsSet{Unit: d.Unit, Problem: w.unitFault, Gone: w.unitGone}
		if w.unitFault == "" && !w.unitGone {
			var to UnitLimits
			if to, o.Theirs = d.Against(l); to.MemoryHigh > 0 {
				l.MemoryHigh = to.MemoryHigh
			}
			if to.CPUQuota > 0 {
				l.CPUQuota = to.CPUQuota
			}
			w.units[d.Unit] = l
		}
		w.post(100*ms, o)
	}
}

// use has the sampler find the value of a quantity for a process, each period from now on.
func (w *world) use(p *proc, q config.Quantity, value func() float64) {
	var sample func()
	sample = func() {
		if !p.alive {
			return
		}
		for id, held := range w.held {
			if held != p {
				continue
			}
			if i := slices.IndexFunc(w.g.ToSample(nil), func(s Sampling) bool { return s.Target == id }); i >= 0 {
				s := sampleOf(q, w.now, value())
				s.Target = id
				w.post(0, Sampled{[]Sample{*s}})
			}
		}
		w.in(w.cfg.Sample, sample)
	}
	w.in(0, sample)
}

// limited makes a world with one rule for the name "c" and one program of it, which has
// as many threads as the variable says.
func limited(t reporter, limits ...config.Limit) (w *world, p *proc, threads *float64) {
	w = newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Limits: limits}}
	})
	w.limitsToo = true
	p = w.client(110, "c", 10, 5*sec)
	p.facts.Unit = "c.service"
	w.client(111, "other", 10, 5*sec)
	threads = new(float64)
	w.use(p, config.Threads, func() float64 { return *threads })
	w.run(20 * sec)
	return w, p, threads
}

func threadsAbove(n float64, action config.LimitAction) config.Limit {
	return config.Limit{Of: config.Threads, Above: n, For: 30 * sec, Action: action}
}

func TestLimitReport(t *testing.T) {
	w, _, threads := limited(t, threadsAbove(100, config.LimitReport))
	*threads = 150
	w.run(20 * sec)
	w.none(EvLimit)
	w.run(30 * sec)
	*threads = 95
	w.run(time.Minute)
	w.none(EvLimitOver)
	*threads = 90
	w.run(time.Minute)
	w.want(110, "registered limit limit-over")
	e := w.find(EvLimit, 110)[0]
	if e.Reason != "threads 150, limit 100" || e.Message != "pid 110 (c): threads 150 is more than 100 for 30s: its limit says report" || e.Unit != "c.service" {
		t.Errorf("%+v", e.Event)
	}
	if e := w.find(EvLimitOver, 110)[0]; e.Message != "pid 110 (c): threads 90 (limit 100): within its limit again" {
		t.Errorf("%+v", e.Event)
	}
	if s := w.g.ToSample(nil); len(s) != 1 || s[0].PID != 110 || s[0].What != 1<<config.Threads || s[0].Share {
		t.Errorf("to be sampled: %+v", s)
	}
}

func TestLimitLadder(t *testing.T) {
	t.Run("beats do not save it", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		*threads = 150
		w.run(2 * time.Minute)
		w.want(110, "registered limit condemned signalled signalled killed limit-over cleared")
		if p.alive || len(w.find(EvCondemned, 110)) == 0 || w.find(EvCondemned, 110)[0].Verdict != "limit" ||
			!strings.Contains(w.find(EvCondemned, 110)[0].Message, "threads 150 is more than 100") {
			t.Error(w)
		}
		w.none(EvRecovered)
	})
	for name, bar := range map[string]struct {
		do, undo func(w *world, p *proc)
		why      string
	}{
		"hold": {func(w *world, _ *proc) {
			if _, err := w.g.Hold(HoldOrder{PID: 110, For: time.Hour, By: "ann"}); err != nil {
				w.t.Fatalf("%v", err)
			}
		}, func(w *world, _ *proc) { _, _ = w.g.Unhold(Selector{PID: 110}, "ann") }, "ann ordered to leave it alone"},
		"protected":   {func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Protect.Names = []string{"c"} }) }, func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Protect.Names = nil }) }, "protected by"},
		"report":      {func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Rules[0].Action = config.ActionReport }) }, func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Rules[0].Action = config.ActionLadder }) }, "rule[0] says report"},
		"not acting":  {func(w *world, _ *proc) { w.post(0, Acting{Reason: "told so"}) }, func(w *world, _ *proc) { w.post(0, Acting{Acts: true}) }, "told so"},
		"stopped":     {func(_ *world, p *proc) { p.look.Dumping = true }, func(w *world, p *proc) { p.look.Dumping, p.next = false, w.now }, "core dump"},
		"not to read": {func(_ *world, p *proc) { p.blind = "no such luck" }, func(_ *world, p *proc) { p.blind = "" }, "no such luck"},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
			bar.do(w, p)
			*threads = 150
			w.run(90 * sec)
			if len(w.signals) > 0 || len(w.find(EvLimit, 110)) == 0 || !strings.Contains(w.String(), bar.why) {
				t.Fatal(w)
			}
			if n := len(w.find(EvLimit, 110)); n > 2 {
				t.Errorf("said %d times\n%s", n, w)
			}
			bar.undo(w, p)
			w.run(3 * time.Minute)
			if p.alive {
				t.Error(w)
			}
		})
	}
	t.Run("the rule goes", func(t *testing.T) {
		// While its ladder is under way: it lives on, and is guarded again.
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		*threads = 150
		for len(w.signals) == 0 {
			w.run(100 * ms)
		}
		w.reload(func(c *config.Config) { c.Rules[0].Limits = nil })
		w.run(time.Minute)
		if v := w.view(110); !p.alive || len(w.signals) != 1 || v.State != "guarded" || v.Episode != "" || v.Verdict != "" {
			t.Errorf("%+v\n%s", v, w)
		}
		p.hang()
		w.run(time.Minute)
		if p.alive {
			t.Errorf("hangs and lives\n%s", w)
		}
	})
	t.Run("brake", func(t *testing.T) {
		w, _, _ := limited(t, threadsAbove(100, config.LimitLadder))
		for pid := int32(120); pid < 140; pid++ {
			w.use(w.client(pid, "c", 10, 5*sec), config.Threads, func() float64 { return 150 })
		}
		for len(w.find(EvCondemned, 0)) == 0 {
			w.run(sec)
		}
		w.run(5 * sec)
		if len(w.signals) > 0 || len(w.find(EvBrakeOn, 0)) != 1 {
			t.Error(w)
		}
		w.run(5 * time.Minute)
		if n := len(w.running); n != 2 {
			t.Errorf("%d live\n%s", n, w)
		}
	})
	t.Run("no SIGKILL", func(t *testing.T) {
		// It outlives its ladder, and is guarded; the limit is not tried again.
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		w.reload(func(c *config.Config) { c.Ladder.Steps = c.Ladder.Steps[:1] })
		*threads = 150
		w.run(10 * time.Minute)
		if v := w.view(110); !p.alive || len(w.signals) != 1 || v.State != "guarded" {
			t.Errorf("%+v\n%s", v, w)
		}
	})
	t.Run("late meanwhile", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		p.proof.TimedOut = true // it is starved: one more timeout
		p.hang()
		*threads = 150
		w.run(2 * time.Minute)
		if p.alive {
			t.Error(w)
		}
	})
	t.Run("not joined", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		p.consent = ConsentNotMapped // it has exec'ed something else
		*threads = 150
		w.run(10 * time.Minute)
		if !p.alive || len(w.signals) > 0 || len(w.g.ToSample(nil)) != 0 {
			t.Error(w)
		}
	})
}

// reload puts another configuration in force.
func (w *world) reload(change func(c *config.Config)) {
	next := *w.cfg
	next.Rules = slices.Clone(next.Rules)
	change(&next)
	w.cfg = &next
	w.g.SetConfig(w.cfg)
}

func TestLimitRestart(t *testing.T) {
	restarts := func(w *world) (n int) {
		for _, d := range w.asked {
			if _, is := d.(RestartForLimit); is {
				n++
			}
		}
		return n
	}
	t.Run("budget", func(t *testing.T) {
		w, _, _ := limited(t, threadsAbove(100, config.LimitRestart))
		w.cfg.Rules[0].Limits[0].For = sec
		w.reload(func(c *config.Config) {
			c.Rules[0].Limits = []config.Limit{{Of: config.Threads, Above: 100, For: sec, Action: config.LimitRestart}}
		})
		for range 20 { // systemd starts it again each time, and it is as before
			p := w.procs[110]
			if p == nil {
				p = w.client(110, "c", 10, 5*sec)
				p.facts.Unit = "c.service"
			}
			w.use(p, config.Threads, func() float64 { return 150 })
			w.run(25 * sec)
		}
		attempts := w.g.targets[w.g.byPID[110]].policy.Attempts
		if n := restarts(w); n != attempts || !strings.Contains(w.String(), "was started") || len(w.find(EvLimitRestarted, 0)) != attempts {
			t.Errorf("%d restarts, %d are allowed\n%s", n, attempts, w)
		}
	})
	t.Run("fails", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		w.unitFault = "no bus"
		*threads = 150
		w.run(50 * sec)
		w.want(110, "registered limit limit-failed")
		w.unitFault = ""
		w.run(2 * time.Minute)
		if p.alive || restarts(w) != 2 {
			t.Error(w)
		}
	})
	t.Run("refused", func(t *testing.T) { // which may last, and is said once
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		w.unitFault, w.unitRefuses = "it would take d.service along: held", true
		*threads = 150
		w.run(5 * time.Minute)
		w.want(110, "registered limit limit-failed")
		if got := restarts(w); got < 4 || len(w.g.targets[w.g.byPID[110]].exceeds()) != 1 || !strings.Contains(w.g.targets[w.g.byPID[110]].exceeds()[0], "not acting: it would take d.service along") {
			t.Errorf("asked for %d times: %q", got, w.g.targets[w.g.byPID[110]].exceeds())
		}
		w.unitFault = "it would take e.service along: held"
		w.run(2 * time.Minute)
		w.want(110, "registered limit limit-failed limit-failed")
		w.unitFault, w.unitRefuses = "", false
		w.run(2 * time.Minute)
		if p.alive || len(w.find(EvLimitRestarted, 110)) != 1 {
			t.Error(w)
		}
	})
	t.Run("another in the unit is held", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		q := w.client(112, "neighbour", 10, 5*sec)
		q.facts.Unit = "c.service"
		w.run(5 * sec)
		if _, err := w.g.Hold(HoldOrder{PID: 112, For: time.Hour, By: "ann"}); err != nil {
			t.Fatal(err)
		}
		*threads = 150
		w.run(2 * time.Minute)
		if !p.alive || restarts(w) != 0 || !strings.Contains(w.String(), "is in c.service as well") {
			t.Error(w)
		}
	})
	t.Run("no unit", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitRestart))
		w.g.targets[w.g.byPID[110]].facts.Unit = "session-1.scope"
		*threads = 150
		w.run(2 * time.Minute)
		if !p.alive || restarts(w) != 0 || !strings.Contains(w.String(), "in no service") {
			t.Error(w)
		}
	})
	t.Run("one at a time", func(t *testing.T) {
		w, _, threads := limited(t, threadsAbove(100, config.LimitRestart))
		for pid := int32(120); pid < 124; pid++ {
			p := w.client(pid, "c", 10, 5*sec)
			p.facts.Unit = fmt.Sprintf("c%d.service", pid)
			w.use(p, config.Threads, func() float64 { return 150 })
		}
		*threads = 150
		w.run(45 * sec)
		if n := restarts(w); n != 1 {
			t.Errorf("%d at once\n%s", n, w)
		}
		w.run(2 * time.Minute)
		if n := restarts(w); n != 5 {
			t.Errorf("%d restarts\n%s", n, w)
		}
	})
}

func TestThrottle(t *testing.T) {
	throttle := threadsAbove(100, config.LimitThrottle)
	throttle.MemoryHigh, throttle.CPUQuota = 400<<20, 50
	stronger := threadsAbove(200, config.LimitThrottle)
	stronger.CPUQuota = 20
	t.Run("there and back", func(t *testing.T) {
		w, _, threads := limited(t, throttle, stronger)
		w.units = map[string]UnitLimits{"c.service": {800 << 20, Unlimited}}
		*threads = 150
		w.run(50 * sec)
		if got := w.units["c.service"]; got != (UnitLimits{400 << 20, 500_000}) {
			t.Errorf("%+v\n%s", got, w)
		}
		*threads = 250
		w.run(50 * sec)
		if got := w.units["c.service"]; got != (UnitLimits{400 << 20, 200_000}) {
			t.Errorf("%+v\n%s", got, w)
		}
		*threads = 150
		w.run(50 * sec)
		if got := w.units["c.service"]; got != (UnitLimits{400 << 20, 500_000}) {
			t.Errorf("%+v\n%s", got, w)
		}
		*threads = 10
		w.run(50 * sec)
		if got := w.units["c.service"]; got != (UnitLimits{800 << 20, Unlimited}) || len(w.g.throttles) != 0 {
			t.Errorf("%+v\n%s", got, w)
		}
		if e := w.find(EvThrottled, 0); len(e) != 3 || e[0].Message != "c.service has MemoryHigh=400MiB and CPUQuota=50% from now on, because a process in it exceeds a limit; before it had MemoryHigh=800MiB and CPUQuota=infinity" {
			t.Error(w)
		}
		if e := w.find(EvUnthrottled, 0); len(e) != 1 || e[0].Reason != "MemoryHigh=800MiB and CPUQuota=infinity" {
			t.Error(w)
		}
	})
	t.Run("never more than it had", func(t *testing.T) {
		w, _, threads := limited(t, throttle)
		w.units = map[string]UnitLimits{"c.service": {100 << 20, 100_000}}
		*threads = 150
		w.run(50 * sec)
		if got := w.units["c.service"]; got != (UnitLimits{100 << 20, 100_000}) {
			t.Errorf("%+v\n%s", got, w)
		}
	})
	for name, end := range map[string]func(w *world, p *proc){
		"it ends":       func(_ *world, p *proc) { p.exit(true) },
		"the rule goes": func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Rules = nil }) },
		"protected":     func(w *world, _ *proc) { w.reload(func(c *config.Config) { c.Protect.Units = []string{"c.*"} }) },
	} {
		t.Run(name, func(t *testing.T) {
			w, p, threads := limited(t, throttle)
			*threads = 150
			w.run(50 * sec)
			end(w, p)
			w.run(30 * sec)
			if got := w.units["c.service"]; got != (UnitLimits{Unlimited, Unlimited}) || len(w.find(EvThrottled, 0)) != 1 || len(w.find(EvUnthrottled, 0)) != 1 {
				t.Errorf("%+v\n%s", got, w)
			}
		})
	}
	t.Run("fails", func(t *testing.T) {
		w, _, threads := limited(t, throttle)
		w.unitFault = "no bus"
		*threads = 150
		w.run(time.Hour)
		if e := w.find(EvLimitFailed, 0); len(e) != 2 || !strings.Contains(e[1].Message, "giving up") || len(w.asked) != throttleTries {
			t.Errorf("%d tries\n%s", len(w.asked), w)
		}
	})
	t.Run("not acting", func(t *testing.T) {
		w, _, threads := limited(t, throttle)
		*threads = 150
		w.run(50 * sec)
		w.post(0, Acting{Reason: "told so"})
		*threads = 10
		w.run(time.Minute)
		w.none(EvUnthrottled)
		w.post(0, Acting{Acts: true})
		w.run(time.Minute)
		if got := w.units["c.service"]; got != (UnitLimits{Unlimited, Unlimited}) {
			t.Errorf("%+v\n%s", got, w)
		}
	})
}

// TestLimitRestarts: whatever happens when, with the daemon killed before any of its
// wakes: at the end each unit has what it had before, or what the limits want.
func TestLimitRestarts(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		action := rapid.SampledFrom([]config.LimitAction{config.LimitReport, config.LimitLadder, config.LimitRestart, config.LimitThrottle}).Draw(r, "action")
		limit := threadsAbove(100, action)
		if action == config.LimitThrottle {
			limit.MemoryHigh, limit.CPUQuota = 400<<20, 50
		}
		w, p, threads := limited(r, limit)
		defer func() {
			if r.Failed() {
				r.Logf("%s", w)
			}
		}()
		p.termIn = sec
		w.units = map[string]UnitLimits{"c.service": {800 << 20, 900_000}}
		often := rapid.IntRange(2, 40).Draw(r, "restart before each wake that is a multiple of")
		w.restartAt = func(wake int) bool { return wake%often == 0 }
		for range rapid.IntRange(1, 12).Draw(r, "changes") {
			*threads = rapid.SampledFrom([]float64{10, 95, 150, missing}).Draw(r, "threads")
			switch rapid.IntRange(0, 7).Draw(r, "also") {
			case 7:
				w.unitFault = "no bus"
				w.run(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(r, "without a bus")))
				w.unitFault = ""
			case 0:
				w.stall(time.Duration(rapid.Int64Range(0, int64(10*sec)).Draw(r, "stall")))
			case 1:
				w.freeze(time.Duration(rapid.Int64Range(0, int64(40*sec)).Draw(r, "freeze")))
			}
			w.run(time.Duration(rapid.Int64Range(0, int64(100*sec)).Draw(r, "pause")))
		}
		w.restartAt = nil
		over := rapid.Bool().Draw(r, "over at the end")
		*threads = 10
		if over {
			*threads = 150
		}
		w.run(throttleMost + 5*time.Minute)
		want := UnitLimits{800 << 20, 900_000}
		if over && action == config.LimitThrottle {
			want = UnitLimits{400 << 20, 500_000}
		}
		if got := w.units["c.service"]; got != want {
			r.Errorf("the unit has %v, want %v", got, want)
		}
		ends := action == config.LimitLadder || action == config.LimitRestart
		if ends && over && p.alive {
			r.Error("it lives")
		}
		if !ends && !p.alive || action != config.LimitLadder && len(w.signals) > 0 {
			r.Error("it was signalled")
		}
		if action == config.LimitRestart {
			done := 0
			if w.restarted["c.service"] > 0 {
				done = 1
			}
			if b := w.g.budgets; !p.alive && done == 0 || len(b) > 0 && len(b[0].starts) > done {
				r.Errorf("%d restarts, and what is counted is %+v", done, b)
			}
		}
	})
}

// TestLimitRestartAnswers: a restart for a limit that was none gives its start back; one that leaves the unit down has it
// brought back, and one that fails before anybody registers counts as a failed start.
func TestLimitRestartAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		answer   RestartedForLimit
		look     RestoreDone
		restores int
		starts   int
	}{
		"somebody else's doing": {RestartedForLimit{Problem: "it is deactivating"}, RestoreDone{}, 0, 0},
		"its job failed":        {RestartedForLimit{Problem: "its restart job ended as failed", Begun: true}, RestoreDone{Up: true}, 1, 2},
		"it fails later":        {RestartedForLimit{}, RestoreDone{Failed: true, Reason: "it failed: exit status 1"}, 1, 2},
		"it is well":            {RestartedForLimit{}, RestoreDone{Up: true}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.onRestore = func(x RestoreUnit) RestoreDone {
				if x.PID != 0 || x.Unit != "c.service" {
					t.Errorf("%+v", x)
				}
				return RestoreDone{Up: true}
			}
			w.onLook = func(LookAtStarted) RestoreDone { return tt.look }
			w.run(sec)
			r := recovery{name: "c", unit: "c.service"}
			p := w.g.policyOf(&r)
			w.g.budgetOf(&r, &p).take(&r, p.Window, p.Attempts, w.g.clock.attn)
			w.g.restarting = r
			tt.answer.Unit = "c.service"
			w.post(0, tt.answer)
			w.run(8 * sec)
			early := w.g.budgetOf(&r, &p).starts
			w.run(20 * sec)
			if n := len(w.asked); n != tt.restores {
				t.Errorf("%d starts asked for\n%s", n, w)
			}
			if w.g.restarting.unit != "" {
				t.Error("it is under way for ever")
			}
			if tt.restores == 0 && len(early) != tt.starts {
				t.Errorf("%d starts count, want %d", len(early), tt.starts)
			}
		})
	}
}
