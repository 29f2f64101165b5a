package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// crasher is a unit whose program crashes again and again, always with a new pid.
type crasher struct {
	w     *world
	pid   int32
	lives func() time.Duration // how long each lives; 0: it hangs
	asks  []time.Duration      // when it was asked to be started
	ends  []time.Duration
	began []time.Duration // of each of procs
	procs []*proc

	starting bool
}

// crashes starts the unit c.service.
func crashes(w *world, lives func() time.Duration) *crasher {
	c := &crasher{w: w, pid: 200, lives: lives}
	w.onRestore = func(RestoreUnit) RestoreDone {
		if p := w.procs[c.pid]; c.starting || p != nil && p.alive {
			return RestoreDone{Up: true}
		}
		c.asks, c.starting = append(c.asks, w.now), true
		w.in(200*ms, c.start)
		return RestoreDone{Started: true}
	}
	w.onGlance = func(RestoreUnit) RestoreDone {
		if p := w.procs[c.pid]; c.starting || p != nil && p.alive {
			return RestoreDone{Up: true}
		}
		return RestoreDone{Down: true}
	}
	c.start()
	return c
}

// replaced is a restart by an operator, or by systemd itself: it dies of SIGTERM, say, and leaves its record behind.
func (c *crasher) replaced() {
	p := c.w.procs[c.pid]
	if p == nil || !p.alive || c.starting {
		return
	}
	p.ending = EndedUnknown
	c.ends = append(c.ends, c.w.now)
	p.exit(false)
	c.start()
}

func (c *crasher) start() {
	c.pid++
	c.starting = false
	p := c.w.client(c.pid, "c", 5, 2*sec)
	p.facts.Unit, p.ending = "c.service", EndedBadly
	c.procs, c.began = append(c.procs, p), append(c.began, c.w.now)
	if d := c.lives(); d > 0 {
		c.w.in(d, func() {
			if p.alive {
				c.ends = append(c.ends, c.w.now)
				p.exit(false)
			}
		})
	} else {
		p.every = 0
	}
}

func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func TestCrashed(t *testing.T) {
	for name, tt := range map[string]struct {
		unit, parent string
		ending, late Ending
		clean        bool
		rule         config.Rule
		observes     bool
		want         []Decision
	}{
		"crash":                          {unit: "c.service", ending: EndedBadly, want: []Decision{RestoreUnit{Unit: "c.service", PID: 110, Target: 1, Crashed: true, Sure: true, Name: "c", User: "idc"}}},
		"perhaps a crash":                {unit: "c.service", want: []Decision{RestoreUnit{Unit: "c.service", PID: 110, Target: 1, Crashed: true, Name: "c", User: "idc"}}},
		"told to end":                    {unit: "c.service", ending: EndedWell},
		"wiped its record":               {unit: "c.service", ending: EndedBadly, clean: true},
		"under procctl":                  {unit: "c.service", ending: EndedBadly, parent: "procctl"},
		"no unit":                        {ending: EndedBadly},
		"session":                        {unit: "session-1.scope", ending: EndedBadly},
		"none":                           {unit: "c.service", ending: EndedBadly, rule: config.Rule{Restart: config.RestartNone}},
		"report":                         {unit: "c.service", ending: EndedBadly, rule: config.Rule{Action: config.ActionReport}},
		"observer":                       {unit: "c.service", ending: EndedBadly, observes: true},
		"command":                        {ending: EndedBadly, rule: config.Rule{Restart: config.RestartCommand, Command: command}, want: []Decision{RestoreUnit{PID: 110, Target: 1, Crashed: true, Sure: true, Command: command, Name: "c", User: "idc"}}},
		"command, known late":            {late: EndedBadly, rule: config.Rule{Restart: config.RestartCommand, Command: command}, want: []Decision{RestoreUnit{PID: 110, Target: 1, Crashed: true, Sure: true, Command: command, Name: "c", User: "idc"}}},
		"command, ended well":            {late: EndedWell, rule: config.Rule{Restart: config.RestartCommand, Command: command}},
		"command, in a unit":             {unit: "checkprocd-run-1.service", late: EndedBadly, rule: config.Rule{Restart: config.RestartCommand, Command: command}, want: []Decision{RestoreUnit{Unit: "checkprocd-run-1.service", PID: 110, Target: 1, Crashed: true, Sure: true, Command: command, Name: "c", User: "idc"}}},
		"command, in a unit, ended well": {unit: "checkprocd-run-1.service", late: EndedWell, rule: config.Rule{Restart: config.RestartCommand, Command: command}},
		"command, old kernel":            {unit: "d.service", rule: config.Rule{Restart: config.RestartCommand, Command: command}, want: []Decision{RestoreUnit{Unit: "d.service", PID: 110, Target: 1, Crashed: true, Command: command, Name: "c", User: "idc"}}},
		"known late":                     {unit: "c.service", late: EndedBadly, want: []Decision{RestoreUnit{Unit: "c.service", PID: 110, Target: 1, Crashed: true, Name: "c", User: "idc"}}},
		"command, nobody knows":          {rule: config.Rule{Restart: config.RestartCommand, Command: command}},
		"command, under procctl":         {parent: "procctl", ending: EndedBadly, rule: config.Rule{Restart: config.RestartCommand, Command: command}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{tt.rule} })
			w.acts = !tt.observes
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.facts.Parent, p.ending, p.late = tt.unit, tt.parent, tt.ending, tt.late
			w.run(10 * sec)
			p.exit(tt.clean)
			w.run(time.Minute)
			for i, d := range w.asked {
				if x, is := d.(RestoreUnit); is {
					if x.Ended < 1009*sec || x.Ended > 1016*sec {
						t.Errorf("ended at %v", x.Ended)
					}
					x.Ended = 0
					w.asked[i] = x
				}
			}
			if diff := cmp.Diff(tt.want, w.asked); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var command = &config.Command{Args: []string{"/bin/c"}}

// TestUnitStopped: what somebody stops while it is down is said at once, and stays down, also for the next guard.
func TestUnitStopped(t *testing.T) {
	for name, tt := range map[string]struct {
		unit  string
		after time.Duration // the end
		slow  bool          // the question about it takes long
		then  []string
		asks  int
		left  int
	}{
		"waits":                    {unit: "c.service", after: 2 * sec, left: 1},
		"another one":              {unit: "d.service", after: 2 * sec, asks: 1},
		"asked about":              {unit: "c.service", after: 10 * sec, slow: true, asks: 1},
		"was started":              {unit: "c.service", after: 10 * sec, asks: 1, left: 1},
		"those after it come next": {unit: "c.service", after: 10 * sec, then: []string{"next.service"}, asks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Then: tt.then}} })
			w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Started: true} }
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.run(10 * sec)
			if p.exit(false); tt.slow || len(tt.then) > 0 {
				w.restoreTime = time.Hour
			}
			w.run(tt.after)
			if len(tt.then) > 0 { // it is up, and the next one waits
				w.hold(HoldOrder{All: true, For: time.Hour})
				for w.post(0, RestoreDone{Ask: w.g.lastAsk, Started: true}); w.g.pending[0].next != 1; {
					w.run(20 * ms)
				}
			}
			w.post(0, UnitStopped{Unit: tt.unit, Reason: "it was stopped"})
			w.run(50 * ms)
			left := w.find(EvLeftDown, 110)
			if len(left) != tt.left || tt.left > 0 && (left[0].Reason != "it was stopped" || len(w.g.pending) > 0) || tt.left == 0 && len(w.g.pending) == 0 {
				t.Errorf("%d times left down, %+v\n%s", len(left), w.g.pending, w)
			}
			if tt.slow || len(tt.then) > 0 {
				return
			}
			w.restart()
			w.run(time.Minute)
			asks := 0
			for _, d := range w.asked {
				if _, is := d.(RestoreUnit); is {
					asks++
				}
			}
			if asks != tt.asks {
				t.Errorf("started %d times, want %d\n%s", asks, tt.asks, w)
			}
		})
	}
}

// TestBackoff: each wait is twice the one before it, up to a tenth shorter, to the cap.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := config.Recovery{Wait: time.Duration(rapid.Int64Range(int64(sec), int64(time.Hour)).Draw(r, "wait")),
			Cap: time.Duration(rapid.Int64Range(int64(sec), int64(24*time.Hour)).Draw(r, "cap"))}
		b := budget{name: rapid.String().Draw(r, "name"), unit: "c.service"}
		most := max(c.Wait, c.Cap)
		if d := b.backoff(&c, 0); d != c.Wait {
			r.Errorf("the first wait is %v", d)
		}
		whole := c.Wait
		for streak := 1; streak < 40; streak++ {
			whole = min(2*whole, most)
			d := b.backoff(&c, streak)
			if d > whole || d < max(whole-whole/10, c.Wait) {
				r.Errorf("wait %d is %v, want up to a tenth less than %v", streak, d, whole)
			}
			if again := b.backoff(&c, streak); again != d {
				r.Errorf("wait %d is %v, then %v", streak, d, again)
			}
		}
	})
	c, names := config.Default().Recovery, map[time.Duration]bool{}
	for i := range 100 {
		b := budget{name: fmt.Sprint("worker", i)}
		names[b.backoff(&c, 3)] = true
	}
	if len(names) < 80 {
		t.Errorf("100 names have %d waits", len(names))
	}
}

// TestBudget: whatever a program does, and whenever the daemon is restarted, no window sees more starts than it may, no
// start comes before its wait is over or long after, and none while it is given up.
func TestBudget(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r, func(c *config.Config) {
			c.Recovery = config.Recovery{
				Wait: 5 * sec, Cap: rapid.SampledFrom([]time.Duration{sec, 40 * sec, 5 * time.Minute}).Draw(r, "cap"),
				Attempts: rapid.IntRange(1, 6).Draw(r, "attempts"),
				Window:   rapid.SampledFrom([]time.Duration{30 * sec, 10 * time.Minute}).Draw(r, "window"),
				Stable:   rapid.SampledFrom([]time.Duration{time.Minute, 10 * time.Minute}).Draw(r, "stable"),
				GiveUp:   rapid.SampledFrom([]time.Duration{2 * time.Minute, time.Hour}).Draw(r, "give up"),
			}
		})
		q := w.cfg.Recovery
		lives := rapid.SliceOfN(rapid.SampledFrom([]time.Duration{0, 2 * sec, 10 * sec, time.Minute, 11 * time.Minute}), 1, 8).Draw(r, "lives")
		n := 0
		c := crashes(w, func() time.Duration { n++; return lives[n%len(lives)] })
		if rapid.Bool().Draw(r, "restarts") {
			w.restartAt = func(wake int) bool { return wake%97 == 0 }
		}
		replaced := make([]bool, 40)
		if rapid.Bool().Draw(r, "operators") {
			replaced = rapid.SliceOfN(rapid.Bool(), 40, 40).Draw(r, "replaced")
		}
		for i := range 40 {
			w.run(time.Minute)
			if replaced[i] {
				c.replaced()
			}
			if w.begun && w.g.Tally().GivenUp > 1 {
				r.Fatalf("one name, %d given up", w.g.Tally().GivenUp)
			}
		}
		// The budget is a new one after "stable" without an end, and after "give up".
		fresh := []time.Duration{0}
		for _, e := range w.find(EvRetrying, 0) {
			fresh = append(fresh, e.at)
		}
		ends := slices.Clone(c.ends)
		for _, e := range w.find(EvKilled, 0) {
			ends = append(ends, e.at)
		}
		slices.Sort(ends)
		active := append(slices.Clone(ends), c.asks...)
		slices.Sort(active)
		for i, at := range c.asks {
			in := 0
			for _, b := range c.asks[:i] {
				renewed := slices.ContainsFunc(fresh, func(f time.Duration) bool { return f > b && f <= at })
				for j := 1; j < len(active); j++ {
					renewed = renewed || active[j-1] >= b && active[j] <= at && active[j]-active[j-1] >= q.Stable-2*sec
				}
				if !renewed && at-b < q.Window {
					in++
				}
			}
			if in >= q.Attempts {
				r.Errorf("start %d at %v is one of %d within %v\n%s", i, at, in+1, q.Window, w)
			}
			// After its wait, and the longest one with it.
			last := ends[0]
			for _, e := range ends {
				if e < at {
					last = e
				}
			}
			// The wait for an end that somebody else has seen to may be over just when the next one comes.
			if at-last < q.Wait-sec && !slices.Contains(replaced, true) {
				r.Errorf("start %d comes %v after the end", i, at-last)
			}
			limit := max(q.Cap, q.Wait)
			if slices.Contains(replaced, true) { // a start that is given back while there is none left is waited for once more
				limit += q.Wait
			}
			for _, g := range w.find(EvGaveUp, 0) {
				if g.at >= last && g.at <= at {
					limit += q.GiveUp
				}
			}
			if at-last > limit+3*sec {
				r.Errorf("start %d comes %v after the end\n%s", i, at-last, w)
			}
		}
		for _, e := range w.find(EvGaveUp, 0) {
			for i, p := range c.procs {
				if e.at > c.began[i]+sec && (p.alive || e.at < p.past.endedAt) { // the answer is a moment old
					r.Errorf("given up at %v, and lives from %v on", e.at, c.began[i])
				}
			}
		}
		gaveUp, renewed := w.find(EvGaveUp, 0), w.find(EvRetrying, 0)
		for i, e := range gaveUp {
			if i < len(renewed) && (renewed[i].at < e.at+q.GiveUp || renewed[i].at > e.at+q.GiveUp+sec) {
				r.Errorf("given up at %v, anew at %v", e.at, renewed[i].at)
			}
			end := w.now
			if i < len(renewed) {
				end = renewed[i].at
			}
			for _, at := range c.asks {
				if at > e.at && at < end {
					r.Errorf("started at %v, given up from %v to %v", at, e.at, end)
				}
			}
		}
		if d := len(gaveUp) - len(renewed); d < 0 || d > 1 {
			r.Errorf("given up %d times, anew %d times", len(gaveUp), len(renewed))
		}
	})
}

// TestFlap: a program that crashes at once is started five times, then given up, once, and tried anew after an hour.
func TestFlap(t *testing.T) {
	w := newWorld(t)
	c := crashes(w, always(2*sec))
	w.run(20 * time.Minute)
	if len(c.asks) != 5 || len(w.find(EvRestored, 0)) != 5 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Fatalf("%d starts\n%s", len(c.asks), w)
	}
	if e := w.find(EvGaveUp, 0)[0]; e.Process != "c" || e.Unit != "c.service" || e.Level != LevelError || !strings.Contains(e.Message, "5 times within 600.0s") {
		t.Errorf("%+v", e.Event)
	}
	for i := range c.asks {
		want := 5 * sec << i
		if d := c.asks[i] - c.ends[i]; d > want+sec || d < want-want/10-ms {
			t.Errorf("start %d %v after the end, want %v", i, d, want)
		}
	}
	v := w.g.Recoveries()
	if len(v) != 1 || v[0].Name != "c" || v[0].Unit != "c.service" || !v[0].GivenUp || v[0].Attempts != 5 || v[0].Next <= 0 || v[0].Next > time.Hour {
		t.Errorf("%+v", v)
	}
	w.run(50 * time.Minute)
	if n := len(w.find(EvRetrying, 0)); n != 1 || len(c.asks) <= 5 {
		t.Errorf("an hour later: %d times anew, %d starts", n, len(c.asks))
	}
}

// TestStable: who lives for ten minutes begins anew.
func TestStable(t *testing.T) {
	w := newWorld(t)
	c := crashes(w, always(11*time.Minute))
	w.run(3 * time.Hour)
	w.none(EvGaveUp)
	if len(c.asks) < 15 {
		t.Fatalf("%d starts", len(c.asks))
	}
	for i := range c.asks {
		if d := c.asks[i] - c.ends[i]; d > 6*sec {
			t.Errorf("start %d %v after the end", i, d)
		}
	}
}

// TestCausesShare: a hang and a crash take from one budget.
func TestCausesShare(t *testing.T) {
	w := newWorld(t)
	n := 0
	c := crashes(w, func() time.Duration { n++; return time.Duration(n%2) * 2 * sec })
	w.run(20 * time.Minute)
	if len(c.asks) != 5 || len(w.find(EvKilled, 0)) < 2 || len(c.ends) < 2 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Errorf("%d starts\n%s", len(c.asks), w)
	}
}

func TestRecoverOrder(t *testing.T) {
	w := newWorld(t)
	c := crashes(w, always(2*sec))
	var wrong *OrderError
	if _, err := w.g.Recover("c", "x"); !errors.As(err, &wrong) || !wrong.NoTarget {
		t.Errorf("nothing to recover: %v", err)
	}
	if _, err := w.g.Recover("[", "x"); !errors.As(err, &wrong) || wrong.NoTarget {
		t.Errorf("no pattern: %v", err)
	}
	w.run(20 * time.Minute)
	if w.g.Tally().GivenUp != 1 {
		t.Fatal(w)
	}
	c.lives = always(time.Hour)
	if n, err := w.g.Recover("c.serv*", "uid 0 (root)"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if w.g.Tally().GivenUp != 0 {
		t.Error("still given up")
	}
	w.run(2 * sec)
	if e := w.find(EvRetrying, 0); len(e) != 1 || !strings.Contains(e[0].Message, "uid 0 (root)") || len(c.asks) != 6 {
		t.Errorf("%d starts\n%s", len(c.asks), w)
	}
	w.run(2 * time.Hour)
	if len(w.find(EvRetrying, 0)) != 1 {
		t.Error(w)
	}
}

// TestRecoverRule: a rule has its own bounds.
func TestRecoverRule(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Recovery: config.RuleRecovery{Attempts: 2, Window: time.Minute}}}
	})
	c := crashes(w, always(2*sec))
	w.run(20 * time.Minute)
	if len(c.asks) != 2 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Errorf("%d starts\n%s", len(c.asks), w)
	}
}

// TestRecoverHeld: what an order holds is not started, and is once that is over.
func TestRecoverHeld(t *testing.T) {
	for name, o := range map[string]HoldOrder{"pid": {PID: 201, For: time.Minute}, "name": {Name: "c*", For: time.Minute}, "all": {All: true, For: time.Minute}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := 0
			c := crashes(w, func() time.Duration { n++; return []time.Duration{8 * sec, time.Hour}[min(n-1, 1)] })
			w.run(5 * sec)
			if _, err := w.g.Hold(o); err != nil {
				t.Fatal(err)
			}
			w.run(58 * sec)
			if len(c.asks) != 0 {
				t.Fatalf("started\n%s", w)
			}
			w.run(10 * sec)
			if len(c.asks) != 1 {
				t.Errorf("not started\n%s", w)
			}
		})
	}
}

// TestThen: those that follow come after it is up, in order, once, whoever started it.
func TestThen(t *testing.T) {
	follow := []Decision{RestartUnit{Unit: "b.service", After: "c.service"}, RestartUnit{Unit: "a.target", After: "c.service"}}
	for name, answers := range map[string][]RestoreDone{
		"started by the guard": {{Started: true}},
		"started by systemd":   {{Up: true}},
		"at the third look":    {{Coming: true}, {Coming: true}, {Up: true}},
		"at the second try":    {{Failed: true, Reason: "failed"}, {Started: true}},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, restart), func(t *testing.T) {
				w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Then: []string{"b.service", "a.target"}}} })
				w.restoreRes = answers
				w.client(110, "c", 5, 0).facts.Unit = "c.service"
				w.run(30 * sec)
				if restart {
					w.restart()
				}
				w.run(2 * time.Minute)
				got := slices.DeleteFunc(slices.Clone(w.asked), func(d Decision) bool { _, is := d.(RestoreUnit); return is })
				if len(got) != 2 {
					t.Fatalf("%+v\n%s", got, w)
				}
				for i, d := range got {
					x := d.(RestartUnit)
					if ended := w.find(EvKilled, 110)[0].at; x.Ended != ended {
						t.Errorf("ended at %v, want %v", x.Ended, ended)
					}
					if came := w.find(EvKilled, 110)[0].at; x.Back <= came {
						t.Errorf("it was back at %v", x.Back)
					}
					x.Ended, x.Back = 0, 0
					if x != follow[i] {
						t.Errorf("%+v", x)
					}
				}
			})
		}
	}
	t.Run("left alone", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Then: []string{"b.service"}}} })
		w.restoreRes = []RestoreDone{{Reason: "stopped"}}
		w.client(110, "c", 5, 0).facts.Unit = "c.service"
		w.run(2 * time.Minute)
		if len(w.asked) != 1 {
			t.Errorf("%+v", w.asked)
		}
	})
}

// TestKnownTwice: that it crashed is learnt at once by its unit, and later by its exit status; it comes back once.
func TestKnownTwice(t *testing.T) {
	w := newWorld(t)
	w.restoreRes = []RestoreDone{{Started: true}, {Started: true}}
	w.cfg.Recovery.Wait = sec
	p := w.client(110, "c", 5, 2*sec)
	p.facts.Unit, p.late = "c.service", EndedBadly
	w.run(5 * sec)
	p.exit(false)
	w.run(time.Minute)
	if len(w.asked) != 1 {
		t.Errorf("%+v", w.asked)
	}
}

// TestThenFlap: those that follow a unit that flaps do not flap with it for ever.
func TestThenFlap(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Then: []string{"b.service"}}} })
	c := crashes(w, always(2*sec))
	w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Up: true} } // systemd is faster
	w.onGlance = w.onRestore
	for range 30 {
		w.in(3*sec, c.start)
		w.run(20 * sec)
	}
	n := 0
	for _, d := range w.asked {
		if _, is := d.(RestartUnit); is {
			n++
		}
	}
	if n != 5 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Errorf("restarted %d times\n%s", n, w)
	}
}

// TestBusAway: while nobody can be asked nothing is given up, and it is said once.
func TestBusAway(t *testing.T) {
	w := newWorld(t)
	away := true
	w.onRestore = func(RestoreUnit) RestoreDone {
		if away {
			return RestoreDone{Failed: true, Unasked: true, Reason: "no bus"}
		}
		return RestoreDone{Started: true}
	}
	w.client(110, "c", 5, 0).facts.Unit = "c.service"
	w.run(3 * time.Hour)
	if len(w.find(EvRestoreFailed, 110)) != 1 || len(w.find(EvGaveUp, 0)) != 0 || len(w.asked) < 20 {
		t.Errorf("asked %d times\n%s", len(w.asked), w)
	}
	away = false
	w.run(6 * time.Minute)
	if len(w.find(EvRestored, 110)) != 1 {
		t.Error(w)
	}
}

// TestFailsAgain: what was started fails after it registered. That is one end, not two.
func TestFailsAgain(t *testing.T) {
	w := newWorld(t)
	n := 0
	start := func() *proc {
		n++
		p := w.client(200+int32(n), "c", 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		return p
	}
	var starts []time.Duration
	w.restoreTime = 2 * sec
	w.onRestore = func(RestoreUnit) RestoreDone {
		starts = append(starts, w.now)
		p := start()
		w.in(1500*ms, func() { p.exit(false) })
		return RestoreDone{Failed: true, Reason: "it failed within 2s"}
	}
	p := start()
	w.in(5*sec, func() { p.exit(false) })
	w.run(20 * time.Minute)
	if len(starts) != 5 || len(w.find(EvRestoreFailed, 0)) != 5 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Errorf("%d starts\n%s", len(starts), w)
	}
	for i := 1; i < len(starts); i++ {
		if d := starts[i] - starts[i-1]; d < 9*sec<<(i-1) {
			t.Errorf("start %d comes %v after the one before it", i, d)
		}
	}
}

// TestSucceeded: what somebody else has started again needs no command.
func TestSucceeded(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartCommand, Command: command}} })
		w.client(110, "c", 5, 0)
		w.run(12 * sec)
		w.want(110, killedStory)
		if again {
			w.client(111, "c", 5, 2*sec)
		}
		w.restoreRes = []RestoreDone{{Started: true, As: "x.service"}}
		w.run(time.Minute)
		if (len(w.asked) == 0) != again || (len(w.find(EvRestored, 110)) == 0) != again {
			t.Errorf("%v: %+v\n%s", again, w.asked, w)
		}
	}
}

// TestSucceededBeforePlan: who has come since an end has come in its place, also before it was known that it was a crash,
// and by whatever daemon. Who was there before has not.
func TestSucceededBeforePlan(t *testing.T) {
	for name, tt := range map[string]struct{ before, after, restart bool }{
		"nobody":                  {},
		"another":                 {after: true},
		"another, and a restart":  {after: true, restart: true},
		"one of before":           {before: true},
		"before, and a restart":   {before: true, restart: true},
		"of before, and of after": {before: true, after: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartCommand, Command: command}} })
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit = RunPrefix + "1.service" // which outlives a restart of the daemon, and tells how it ended
			if tt.before {
				w.client(111, "c", 5, 2*sec)
			}
			w.run(10 * sec)
			p.exit(false)
			if tt.after {
				w.client(112, "c", 5, 2*sec)
			}
			w.run(2900 * ms)
			if end := w.now - 2900*ms; len(w.g.pending) > 0 {
				t.Fatalf("planned before %v", end)
			}
			if tt.restart {
				w.restart()
			}
			w.in(100*ms, func() { p.late = EndedBadly })
			w.restoreRes = []RestoreDone{{Started: true, As: RunPrefix + "2.service"}}
			w.run(time.Minute)
			if (len(w.asked) == 0) != tt.after {
				t.Errorf("%+v\n%s", w.asked, w)
			}
			for _, d := range w.asked {
				if d := d.(RestoreUnit); d.Ended != 1010*sec {
					t.Errorf("it is said to have ended after %v", d.Ended)
				}
			}
		})
	}
}

// TestLooksOnlyAgain: who is to look only, because there was no start left, does so until he has an answer. A start that is
// given back meanwhile has its backoff before it.
func TestLooksOnlyAgain(t *testing.T) {
	for name, answer := range map[string]RestoreDone{
		"somebody is at it":     {Coming: true, Reason: "activating"},
		"nobody could be asked": {Failed: true, Unasked: true, Reason: "the bus is away"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Recovery.Wait, c.Recovery.Attempts = 2*sec, 1 })
			w.restoreTime = 8 * sec // when the start of the first is given back
			glances := 0
			w.onGlance = func(RestoreUnit) RestoreDone { glances++; return answer }
			for pid := int32(110); pid < 112; pid++ {
				p := w.client(pid, "c", 5, 2*sec)
				p.facts.Unit, p.ending = "c.service", EndedBadly
				w.in(10*sec+time.Duration(pid-110)*3*sec, func() { p.exit(false) })
			}
			w.run(40 * sec)
			if len(w.asked) != 1 || glances < 4 {
				t.Errorf("%d starts, %d looks\n%s", len(w.asked), glances, w)
			}
			answer = RestoreDone{Down: true, Reason: "failed"}
			w.run(time.Minute)
			if len(w.asked) != 2 {
				t.Errorf("%d starts when it is down\n%s", len(w.asked), w)
			}
		})
	}
}

// TestEachUnitItsOwn: many units of one name that fall together come back together.
func TestEachUnitItsOwn(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Brake.Enabled = false })
	w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Started: true} }
	for pid := int32(110); pid < 130; pid++ {
		w.client(pid, "worker", 5, 0).facts.Unit = fmt.Sprintf("worker@%d.service", pid)
	}
	w.run(time.Minute)
	if n := len(w.find(EvRestored, 0)); n != 20 {
		t.Errorf("%d of 20 came back\n%s", n, w)
	}
	w.none(EvGaveUp)
}

// TestStartGrace: who has never beaten is not judged before; one beat, and it is like all others.
func TestStartGrace(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{StartGrace: time.Minute}} })
	w.client(110, "begins", 5, 0)
	p := w.client(111, "hangs", 5, 2*sec)
	w.client(112, "long", 120, 0)
	w.in(7*sec, p.hang)
	w.run(50 * sec)
	w.want(110, "registered")
	w.want(111, killedStory)
	w.run(10*sec + 500*ms)
	if e := w.find(EvLate, 110); len(e) != 1 || e[0].Silence < time.Minute || e[0].Silence > 61*sec {
		t.Errorf("%v\n%s", e, w)
	}
	w.run(80 * sec)
	if e := w.find(EvLate, 112); len(e) != 1 || e[0].Silence < 132*sec {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestStartedAndFailed: what was started and fails before anybody in it has registered is started again, within its budget.
func TestStartedAndFailed(t *testing.T) {
	for name, rule := range map[string]config.Rule{"unit": {}, "command": {Restart: config.RestartCommand, Command: command}} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, restart), func(t *testing.T) {
				w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{rule} })
				started := time.Duration(0)
				w.onRestore = func(x RestoreUnit) RestoreDone {
					started = w.now
					if x.Command != nil {
						return RestoreDone{Started: true, As: RunPrefix + "x.service"}
					}
					return RestoreDone{Started: true}
				}
				w.onLook = func(x LookAtStarted) RestoreDone {
					if want := map[string]string{"unit": "c.service", "command": RunPrefix + "x.service"}[name]; x.Unit != want {
						t.Errorf("looked at %s, want %s", x.Unit, want)
					}
					if w.now-started > 8*sec {
						return RestoreDone{Failed: true, Reason: "it failed: exit status 1"}
					}
					return RestoreDone{Up: true}
				}
				p := w.client(110, "c", 5, 2*sec)
				p.facts.Unit, p.ending = "c.service", EndedBadly
				w.run(10 * sec)
				p.exit(false)
				if restart {
					w.restartAt = func(wake int) bool { return wake%41 == 0 }
				}
				w.run(20 * time.Minute)
				// An answer that is lost with the daemon is asked for again.
				if len(w.asked) != 5 && !restart || len(w.find(EvRestored, 0)) != 5 || len(w.find(EvGaveUp, 0)) != 1 {
					t.Errorf("%d starts\n%s", len(w.asked), w)
				}
				for _, e := range w.find(EvRestoreFailed, 0) {
					if !strings.Contains(e.Message, "nobody in it has registered: it failed: exit status 1") {
						t.Error(e.Message)
					}
				}
			})
		}
	}
}

// TestStartedAndWell: nobody looks at what was started any more once its process has registered, or after the time in which
// all is well; nor is anything done about what ended well, or was stopped.
func TestStartedAndWell(t *testing.T) {
	for name, answer := range map[string]RestoreDone{"registers": {Up: true}, "never registers": {Up: true}, "stopped": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.onRestore = func(RestoreUnit) RestoreDone {
				if name == "registers" {
					w.in(7*sec, func() { w.client(111, "c", 5, 2*sec).facts.Unit = "c.service" })
				}
				return RestoreDone{Started: true}
			}
			looks := 0
			w.onLook = func(LookAtStarted) RestoreDone { looks++; return answer }
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.run(10 * sec)
			p.exit(false)
			w.run(time.Minute)
			early := looks
			w.run(time.Hour)
			late := looks - early
			if len(w.asked) != 1 || early == 0 || (late > 0) != (name == "never registers") || late > 20 {
				t.Errorf("%d starts, %d and %d looks\n%s", len(w.asked), early, late, w)
			}
			w.none(EvRestoreFailed)
			if len(w.g.pending) != 0 {
				t.Errorf("%+v", w.g.pending)
			}
		})
	}
}

// TestEachWorkerItsOwn: of several that ended under one name each comes back, also after their budget was renewed; one that
// came from elsewhere takes the place of one.
func TestEachWorkerItsOwn(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newWorld(t, func(c *config.Config) {
			c.Rules = []config.Rule{{Restart: config.RestartCommand, Command: command, Recovery: config.RuleRecovery{Attempts: 2}}}
		})
		started := map[int32]bool{}
		w.onRestore = func(x RestoreUnit) RestoreDone {
			started[x.PID] = true
			return RestoreDone{Started: true, As: fmt.Sprintf("%s%d.service", RunPrefix, x.PID)}
		}
		w.onLook = func(LookAtStarted) RestoreDone { return RestoreDone{} }
		var procs []*proc
		for pid := int32(110); pid < 116; pid++ {
			p := w.client(pid, "c", 5, 2*sec)
			p.ending = EndedBadly
			procs = append(procs, p)
		}
		w.run(10 * sec)
		for _, p := range procs[:5] { // the last one lives on, and stands for none of them
			p.exit(false)
		}
		w.in(2*sec, func() { w.client(120, "c", 5, 2*sec) })
		w.run(time.Minute)
		if len(started) != 2 || len(w.find(EvGaveUp, 0)) != 1 {
			t.Fatalf("%v\n%s", started, w)
		}
		if restart {
			w.restart()
		}
		for range 2 {
			if _, err := w.g.Recover("c", "x"); err != nil {
				t.Fatal(err)
			}
			w.run(time.Minute)
		}
		if len(started) != 4 {
			t.Errorf("%v: %d of 5 were started, and one came by itself: %v\n%s", restart, len(started), started, w)
		}
	}
}

// TestLostQuestions: helpers fall with the main process of their unit, and the daemon is killed while it asks about all of
// them: what comes of that is no start, and the unit comes back.
func TestLostQuestions(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Brake.Enabled = false })
	w.restoreTime = 5 * sec
	w.onRestore = func(x RestoreUnit) RestoreDone {
		if x.PID == 129 {
			return RestoreDone{Started: true}
		}
		return RestoreDone{Reason: "pid was not its main process"}
	}
	var procs []*proc
	for pid := int32(110); pid < 130; pid++ {
		p := w.client(pid, fmt.Sprint("helper", pid), 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		procs = append(procs, p)
	}
	w.run(10 * sec)
	for _, p := range procs {
		p.exit(false)
	}
	w.run(8 * sec)
	if len(w.asked) != 5 {
		t.Fatalf("asked %d times\n%s", len(w.asked), w)
	}
	w.restart()
	w.run(2 * time.Minute)
	if len(w.find(EvRestored, 129)) != 1 {
		t.Errorf("%s", w)
	}
	w.none(EvGaveUp)
}

// TestConfigurationsShare: restarts because of a configuration take from the budget that all causes share, and what fails
// with one is brought back within it; a new one begins anew what was given up, as far as the window allows.
func TestConfigurationsShare(t *testing.T) {
	w := newWorld(t)
	starts := 0
	w.onRestore = func(RestoreUnit) RestoreDone {
		starts++
		return RestoreDone{Failed: true, Reason: "its start job ended as failed"}
	}
	w.run(sec)
	for i := range 2 {
		if wait := w.g.TakeStart("c", "idc", "c.service", false); wait != 0 {
			t.Fatalf("start %d waits %v", i, wait)
		}
	}
	w.post(0, UnitStarted{Unit: "c.service", Name: "c", Problem: "its job ended as failed"})
	w.run(3 * time.Minute)
	if starts != 3 || len(w.find(EvGaveUp, 0)) != 1 {
		t.Fatalf("%d starts\n%s", starts, w)
	}
	if wait := w.g.TakeStart("c", "idc", "c.service", false); wait <= 0 || wait > 10*time.Minute {
		t.Errorf("one start more than there are: wait %v", wait)
	}
	if wait := w.g.TakeStart("c", "idc", "c.service", true); wait != 0 || w.g.Tally().GivenUp != 0 {
		t.Errorf("it is down, and has another configuration: wait %v, %d given up", wait, w.g.Tally().GivenUp)
	}
	// What was taken stays taken: it fails once more, and is given up.
	w.post(0, UnitStarted{Unit: "c.service", Name: "c", Problem: "its job ended as failed"})
	w.run(sec)
	if starts != 3 || len(w.find(EvGaveUp, 0)) != 2 {
		t.Fatalf("%d starts\n%s", starts, w)
	}
	w.run(11 * time.Minute)
	if wait := w.g.TakeStart("c", "idc", "c.service", false); wait != 0 {
		t.Errorf("the window has room: wait %v", wait)
	}
}

// TestConfigurationThatFailsLater: a unit that was restarted for its configuration fails before anybody in it registers.
func TestConfigurationThatFailsLater(t *testing.T) {
	for name, rule := range map[string]config.Rule{"comes back": {}, "none": {Restart: config.RestartNone}, "report": {Action: config.ActionReport}} {
		w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{rule} })
		w.onRestore = func(x RestoreUnit) RestoreDone {
			if x.PID != 0 || x.Unit != "c.service" || !x.Crashed {
				t.Errorf("%+v", x)
			}
			return RestoreDone{Started: true}
		}
		fails := true
		w.onLook = func(LookAtStarted) RestoreDone {
			if fails {
				fails = false
				return RestoreDone{Failed: true, Reason: "it failed: exit status 1"}
			}
			return RestoreDone{Up: true}
		}
		w.run(sec)
		w.g.TakeStart("c", "idc", "c.service", false)
		w.post(0, UnitStarted{Unit: "c.service", Name: "c"})
		w.run(time.Minute)
		if n := len(w.asked); n != map[string]int{"comes back": 1}[name] {
			t.Errorf("%s: %d starts\n%s", name, n, w)
		}
	}
}

// TestThenLate: those that follow are not restarted long after it came back.
func TestThenLate(t *testing.T) {
	for _, paused := range []time.Duration{5 * time.Minute, 20 * time.Minute} {
		w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Then: []string{"b.service"}}} })
		w.onRestore = func(RestoreUnit) RestoreDone {
			if _, err := w.g.Hold(HoldOrder{All: true, For: paused}); err != nil {
				t.Error(err)
			}
			return RestoreDone{Up: true}
		}
		w.client(110, "c", 5, 0).facts.Unit = "c.service"
		w.run(30 * time.Minute)
		restarts := len(w.asked) - 1
		if want := map[bool]int{true: 1}[paused < thenLate]; restarts != want {
			t.Errorf("paused for %v: %d restarts\n%s", paused, restarts, w)
		}
	}
}

// TestLostStart: it was started, and the answer was lost with the daemon: that was a start.
func TestLostStart(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t)
		w.restoreTime = 5 * sec
		w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Up: true} }
		p := w.client(110, "c", 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		w.run(10 * sec)
		p.exit(false)
		w.run(8 * sec)
		if lost {
			w.restart()
		}
		w.run(time.Minute)
		if n := len(w.g.Recoveries()); (n == 1) != lost || len(w.asked) != map[bool]int{false: 1, true: 2}[lost] {
			t.Errorf("%v: %d budgets with starts, asked %d times\n%s", lost, n, len(w.asked), w)
		}
	}
}

// TestMainIsKept: that a process was its unit's main one is known until its unit is back,
// also by a daemon that was started after its end, and when the answer comes late.
func TestMainIsKept(t *testing.T) {
	for name, tt := range map[string]struct{ learnt, down time.Duration }{
		"alive":                      {5 * sec, 0},
		"the daemon is down":         {5 * sec, 10 * sec},
		"learnt after its end":       {11 * sec, 0},
		"learnt, and then restarted": {11 * sec, 12 * sec},
		"never":                      {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			if tt.learnt > 0 {
				w.in(tt.learnt, func() {
					w.post(0, MainProcess{w.find(EvRegistered, 110)[0].Target})
				})
			}
			if tt.down > 0 {
				w.in(tt.down-ms, w.restart)
			}
			w.in(10*sec, func() { p.exit(false) })
			w.run(time.Minute)
			if len(w.asked) != 1 {
				t.Fatalf("asked %v\n%s", w.asked, w)
			}
			if x := w.asked[0].(RestoreUnit); x.Main != (tt.learnt > 0) {
				t.Errorf("%+v", x)
			}
		})
	}
}

// TestStatusIsLate: the exit status of a command's process is asked for until it is known, and its crash outlives a restart
// from then on. Where the daemon ends before that, nobody will ever know, which is said.
func TestStatusIsLate(t *testing.T) {
	for name, tt := range map[string]struct {
		late     Ending
		at       time.Duration // when it is known
		restart  time.Duration // after the end
		down     time.Duration // for as long
		starts   int
		leftDown bool
	}{
		"at once":                   {late: EndedBadly, at: 10 * ms, restart: 200 * ms, starts: 1},
		"soon":                      {late: EndedBadly, at: 350 * ms, restart: sec, starts: 1},
		"late":                      {late: EndedBadly, at: 4900 * ms, starts: 1},
		"ended well":                {late: EndedWell, at: 350 * ms, restart: sec},
		"ended well, late":          {late: EndedWell, at: 3 * sec},
		"never":                     {leftDown: true},
		"never, and a restart":      {restart: sec, leftDown: true},
		"after a restart":           {late: EndedBadly, at: 3 * sec, restart: 2 * sec, leftDown: true},
		"while no daemon runs":      {late: EndedBadly, at: 3 * sec, restart: 50 * ms, down: 10 * sec, leftDown: true},
		"ended while no daemon ran": {late: EndedBadly, down: 10 * sec, leftDown: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartCommand, Command: command}} })
			w.restoreRes = []RestoreDone{{Started: true, As: RunPrefix + "1.service"}}
			p := w.client(110, "c", 5, 2*sec)
			w.run(10 * sec)
			if name == "ended while no daemon ran" {
				w.stall(tt.down)
				p.exit(false)
				w.restart()
			} else {
				p.exit(false)
				w.in(tt.at, func() { p.late = tt.late })
				if tt.restart > 0 {
					w.run(tt.restart)
					w.stall(tt.down)
					w.restart()
				}
			}
			w.run(time.Minute)
			if left := w.find(EvLeftDown, 110); len(w.asked) != tt.starts || (len(left) == 1) != tt.leftDown || len(left) > 1 || tt.leftDown && left[0].Reason != "nobody knows whether it crashed" {
				t.Errorf("%d starts, %v\n%s", len(w.asked), left, w)
			}
			if n := len(w.find(EvExited, 110)); n != 1 {
				t.Errorf("its end is said %d times", n)
			}
		})
	}
}

// TestStartedLookIsLate: that what was started has failed counts also where the answer comes when all would be well by now.
func TestStartedLookIsLate(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Recovery.Stable = time.Minute })
	w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Started: true} }
	w.lookTime = 2 * time.Minute
	w.onLook = func(LookAtStarted) RestoreDone { return RestoreDone{Failed: true, Reason: "it failed: exit status 1"} }
	p := w.client(110, "c", 5, 2*sec)
	p.facts.Unit, p.ending = "c.service", EndedBadly
	w.run(10 * sec)
	p.exit(false)
	w.run(3 * time.Minute)
	if n := len(w.find(EvRestoreFailed, 110)); n != 1 || len(w.asked) != 2 {
		t.Errorf("it is said %d times, and started %d times\n%s", n, len(w.asked), w)
	}
}
