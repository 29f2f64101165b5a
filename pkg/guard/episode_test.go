package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const killedStory = "registered late condemned signalled signalled killed cleared"

func TestHeld(t *testing.T) {
	set := map[string]func(p *proc, on bool){
		"stopped": func(p *proc, on bool) { p.state = pick(on, 'T') },
		"traced":  func(p *proc, on bool) { p.state = pick(on, 't') },
		"frozen":  func(p *proc, on bool) { p.look.Frozen = on },
		"dumping": func(p *proc, on bool) { p.look.Dumping = on },
	}
	for why, set := range set {
		t.Run(why, func(t *testing.T) {
			w := newWorld(t)
			p := w.client(110, "c", 5, 5*sec)
			w.run(8 * sec)
			set(p, true)
			w.run(time.Hour)
			w.want(110, "registered late held")
			if v := w.view(110); v.State != "held" || v.Verdict != why {
				t.Errorf("%+v", v)
			}
			set(p, false)
			p.hang()
			w.run(3 * sec)
			w.want(110, "registered late held released")
			p.lastBeat = w.now - 3*sec // released: its silence begins anew
			w.run(20 * sec)
			w.want(110, "registered late held released late condemned signalled signalled killed cleared")
			if e := w.find(EvLate, 110); e[1].at-w.find(EvReleased, 110)[0].at != 6*sec {
				t.Errorf("%s", w)
			}
		})
	}
	t.Run("beats while held", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		p.look.Tracer = 5
		w.run(20 * sec)
		p.every, p.next = 2*sec, w.now
		w.run(20 * sec)
		w.want(110, "registered late held recovered")
	})
	t.Run("exits while held", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 5*sec)
		w.run(8 * sec)
		p.state = 'T'
		w.run(20 * sec)
		p.exit(false) // SIGKILL by somebody
		w.run(20 * sec)
		w.want(110, "registered late held exited cleared")
	})
}

func pick(on bool, state byte) byte {
	if on {
		return state
	}
	return 'S'
}

// TestTracer has a debugger attached that does not stop its target: for an hour
// at most.
func TestTracer(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	p.look.Tracer = 99
	p.state = 't'
	w.run(2 * time.Hour) // stopped by it: as long as it lasts
	w.want(110, "registered late held")
	p.state = 'S'
	w.run(time.Hour - 5*sec)
	w.want(110, "registered late held")
	w.run(30 * sec)
	w.want(110, "registered late held condemned signalled signalled killed cleared")
}

// TestBlind has a process whose state cannot be read: nobody knows whether it is
// stopped.
func TestBlind(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	p.blind = "too many open files"
	w.in(12*sec, func() { p.blind = ""; p.state = 'T' })
	w.run(time.Minute)
	w.want(110, "registered late held")

	w = newWorld(t)
	p = w.client(110, "c", 5, 0)
	p.blind = "too many open files"
	w.run(5 * time.Minute)
	w.want(110, "registered late refused") // said once, asked for each minute
	p.blind = ""
	w.run(2 * time.Minute)
	w.want(110, "registered late refused condemned signalled signalled killed cleared")
}

// TestSoftLook has a client that is stopped for nearly all of its patience, and
// goes on just before its end: it must not be taken for hung.
func TestSoftLook(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 60, 5*sec)
	w.in(10*sec, func() { p.state, p.every = 'T', 0 })
	w.in(70*sec, func() { p.state = 'S' })
	w.in(80*sec, func() { p.every, p.next = 5*sec, w.now })
	w.run(5 * time.Minute)
	w.want(110, "registered late released")
}

func TestConsent(t *testing.T) {
	t.Run("not proven", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		p.consent = ConsentOtherNamespace
		w.run(time.Hour)
		w.none(EvCondemned, EvSignalled, EvRegistered)
		asked := 0
		for _, e := range w.find(EvRefused, 110) {
			asked++
			if e.Verdict != "forged" {
				t.Errorf("%s", e.Verdict)
			}
		}
		if asked == 0 || asked > 2 {
			t.Errorf("refused %d times", asked)
		}
		p.consent = ConsentProven
		w.run(2 * time.Minute)
		if got := strings.Join(w.story(110), " "); !strings.HasSuffix(got, "registered condemned signalled signalled killed cleared") {
			t.Error(got)
		}
	})
	t.Run("backoff", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 500, 0)
		p.consent = ConsentUnknown
		w.run(10 * time.Minute)
		if w.asks < 10 || w.asks > 25 {
			t.Errorf("asked %d times in 10 minutes", w.asks)
		}
	})
	t.Run("lost by exec at the deadline", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.run(3 * sec)
		p.consent = ConsentNotMapped
		w.run(time.Hour)
		w.want(110, "registered late refused")
	})
	t.Run("unreadable at the deadline", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.in(3*sec, func() { w.unreadable = p })
		w.run(time.Minute)
		w.want(110, killedStory)
	})
	t.Run("no answer at the deadline", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "c", 5, 0)
		w.in(3*sec, func() { w.askDelay = time.Hour })
		w.run(time.Minute)
		w.want(110, killedStory)
		if e := w.find(EvCondemned, 110)[0]; e.at != 1000*sec+6*sec+lookWait {
			t.Errorf("%v", e.at)
		}
	})
	t.Run("never readable", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.unreadable = p
		w.run(time.Hour)
		w.none(EvCondemned)
		for _, e := range w.find(EvRefused, 110) {
			if e.Verdict != "unverified" {
				t.Errorf("%s", e.Verdict)
			}
		}
	})
	t.Run("beat while it is asked", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		w.in(3*sec, func() { w.askDelay = sec })
		w.in(6500*ms, p.beat)
		w.in(6600*ms, func() { p.every, p.next = 2*sec, w.now })
		w.run(time.Minute)
		w.want(110, "registered late recovered")
	})
}

func TestLadder(t *testing.T) {
	begin := func(t *testing.T, set func(w *world, p *proc)) *world {
		w := newWorld(t)
		p := w.client(110, "c", 5, 0)
		if set != nil {
			set(w, p)
		}
		w.run(time.Minute)
		return w
	}
	t.Run("ends on SIGTERM", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) { p.termIn = 2 * sec })
		w.want(110, "registered late condemned signalled killed")
		if e := w.find(EvKilled, 110)[0]; e.Signal != "SIGTERM" || e.Step != 1 || len(w.signals) != 1 {
			t.Errorf("%+v", e)
		}
	})
	t.Run("ends on SIGTERM at once", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) { p.termIn = 0 })
		w.want(110, "registered late condemned signalled killed")
	})
	t.Run("ignores SIGTERM", func(t *testing.T) {
		w := begin(t, nil)
		w.want(110, killedStory)
		if len(w.signals) != 2 || w.signals[1].at-w.signals[0].at != 5*sec || w.signals[1].sig != unix.SIGKILL {
			t.Errorf("%v", w.signals)
		}
	})
	t.Run("recovers after SIGTERM", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) { w.in(8*sec, func() { p.every, p.next = 3*sec, w.now }) })
		w.want(110, "registered late condemned signalled recovered")
		if len(w.signals) != 1 {
			t.Errorf("%v", w.signals)
		}
	})
	t.Run("recovers before any signal", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) {
			w.cfg.Ladder.Steps = []config.Step{{Signal: unix.SIGCONT, Wait: 5 * sec}, {Signal: unix.SIGKILL, Wait: 5 * sec}}
			w.in(7*sec, func() { p.every, p.next = 3*sec, w.now })
		})
		w.want(110, "registered late condemned signalled recovered")
	})
	t.Run("unkillable", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) {
			p.stays = true
			w.in(40*sec, func() { w.tb().records[10].Token++ }) // a child of it
			w.in(50*sec, p.letGo)
		})
		w.want(110, "registered late condemned signalled signalled unkillable killed cleared")
		if len(w.signals) != 2 {
			t.Errorf("%v", w.signals)
		}
	})
	t.Run("signal refused", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) { w.signalErr = "operation not permitted" })
		w.want(110, "registered late condemned refused")
		w.signalErr = ""
		w.run(2 * time.Minute)
		w.want(110, "registered late condemned refused condemned signalled signalled killed cleared")
	})
	t.Run("exit overtakes the last words", func(t *testing.T) {
		for _, delay := range []time.Duration{100 * ms, 4 * sec, 8 * sec} {
			w := begin(t, func(w *world, p *proc) { w.wordDelay = delay })
			want := "registered late condemned signalled signalled cleared killed"
			w.want(110, want)
		}
	})
	t.Run("wiped on SIGTERM, hangs after", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) { w.in(8*sec, p.wipe) })
		w.want(110, "registered late condemned signalled signalled killed")
	})
	t.Run("wiped, signal refused", func(t *testing.T) {
		w := begin(t, func(w *world, p *proc) {
			w.in(8*sec, func() { p.wipe(); w.signalErr = "operation not permitted" })
		})
		w.want(110, "registered late condemned signalled refused unguarded")
		w.restart() // and that can be saved
	})
	t.Run("reused record", func(t *testing.T) {
		// The record of the condemned is wiped and given to another, who beats.
		w := begin(t, func(w *world, p *proc) {
			w.in(8*sec, func() {
				p.wipe()
				q := w.start(111)
				q.join(10, "next", 5)
				q.every, q.next = sec, w.now+sec
			})
		})
		w.want(110, "registered late condemned signalled signalled killed")
		w.want(111, "registered")
	})
}

func TestRules(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{
			{Match: config.Match{Name: "report*"}, Action: config.ActionReport},
			{Match: config.Match{Name: "quick*"}, Timeout: 2 * sec},
			{Match: config.Match{Name: "patient*"}, Timeout: 100 * sec},
		}
	})
	w.client(110, "reported", 5, 0)
	quick := w.client(111, "quick", 50, 0)
	quick.timeout = 2 * sec
	w.client(112, "patient", 5, 0)
	w.run(time.Minute)
	w.want(110, "registered late would-condemn")
	w.want(111, killedStory)
	w.want(112, "registered")
	if e := w.find(EvLate, 111)[0]; e.at != 1003*sec {
		t.Errorf("%v", e.at)
	}
	// Reload: the rules go.
	cfg := testConfig()
	w.cfg = cfg
	w.g.SetConfig(cfg)
	w.run(time.Minute)
	w.want(110, "registered late would-condemn condemned signalled signalled killed cleared")
	w.want(112, killedStory)
}

// TestReload has a reload with nothing changed, and one with a shorter interval.
func TestReload(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Interval = 10 * sec
		c.Rules = []config.Rule{{Match: config.Match{Name: "r"}, Action: config.ActionReport}}
	})
	w.client(110, "r", 5, 0)
	w.run(40 * sec)
	same := *w.cfg
	w.g.SetConfig(&same)
	w.run(20 * sec)
	w.want(110, "registered late would-condemn")
	same.Interval = 100 * ms
	w.g.SetConfig(&same)
	scans := w.g.Count().Scans
	w.run(5 * sec)
	if n := w.g.Count().Scans - scans; n < 45 || n > 50 {
		t.Errorf("%d scans in 5 s", n)
	}
	// A longer timeout: not late any more.
	longer := same
	longer.Rules = []config.Rule{{Match: config.Match{Name: "r"}, Action: config.ActionReport, Timeout: 2 * time.Minute}}
	w.g.SetConfig(&longer)
	w.run(20 * sec)
	if v := w.view(110); v.State != "guarded" {
		t.Errorf("%+v", v)
	}
	w.run(2 * time.Minute)
	w.want(110, "registered late would-condemn late would-condemn")
}

// TestActing hands the right to act over, both ways.
func TestActing(t *testing.T) {
	w := newWorld(t)
	w.acts = false
	w.client(110, "c", 5, 0)
	w.run(time.Minute)
	w.want(110, "registered late would-condemn")
	w.post(0, Acting{Reason: "told so"})
	w.run(sec)
	w.post(0, Acting{Acts: true})
	w.run(time.Minute)
	w.want(110, "registered late would-condemn condemned signalled signalled killed cleared")
	if n := len(w.find(EvObserving, 0)); n != 1 {
		t.Errorf("observing said %d times", n)
	}

	// Lost while a ladder is under way, and given back.
	w = newWorld(t)
	p := w.client(110, "c", 5, 0)
	w.in(8*sec, func() {
		w.post(0, Acting{Reason: "lost", Holder: 4711})
	})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled")
	w.post(0, Acting{Acts: true})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled condemned signalled signalled killed cleared")
	_ = p

	// Lost while the brake holds.
	w = newWorld(t)
	for pid := int32(110); pid < 130; pid++ {
		w.client(pid, "c", 5, 0)
	}
	w.in(8*sec, func() { w.post(0, Acting{Reason: "lost"}) })
	w.run(5 * time.Minute)
	w.none(EvSignalled)
	if n := len(w.find(EvWouldCondemn, 0)); n != 20 {
		t.Errorf("%d would be condemned", n)
	}
}

func TestBrake(t *testing.T) {
	wave := func(t *testing.T, hung, well int, configure ...func(*config.Config)) *world {
		w := newWorld(t, configure...)
		w.tables = nil
		w.addTable(7, 1000)
		for i := range hung {
			w.client(int32(1000+i), "hung", 30, 0)
		}
		for i := range well {
			w.client(int32(5500+i), "well", 30, 10*sec)
		}
		return w
	}
	// ladders is how many had begun when, by their SIGTERM.
	ladders := func(w *world, until time.Duration) int {
		n := 0
		for _, s := range w.signals {
			if s.sig == unix.SIGTERM && s.at <= until {
				n++
			}
		}
		return n
	}
	t.Run("wave of 100", func(t *testing.T) {
		w := wave(t, 100, 0)
		w.run(3 * time.Minute)
		late := w.find(EvLate, 0)[0].at
		for _, c := range []struct {
			after    time.Duration
			min, max int
		}{
			{9900 * ms, 0, 0}, {10500 * ms, 1, 1}, {14500 * ms, 5, 5}, // none has ended yet
			{15500 * ms, 6, 7}, {16500 * ms, 8, 11}, {21500 * ms, 100, 100},
		} {
			if n := ladders(w, late+c.after); n < c.min || n > c.max {
				t.Errorf("%d ladders %v after the wave, want %d to %d", n, c.after, c.min, c.max)
			}
		}
		if on, off := w.find(EvBrakeOn, 0), w.find(EvBrakeOff, 0); len(on) != 1 || len(off) != 1 {
			t.Errorf("on %d off %d", len(on), len(off))
		} else {
			t.Log(on[0].Message, "—", off[0].Message)
		}
		if n := len(w.find(EvKilled, 0)); n != 100 {
			t.Errorf("%d killed", n)
		}
	})
	t.Run("none ends", func(t *testing.T) {
		// Nothing is proven: one a second, and nobody for longer than a minute.
		w := wave(t, 100, 0)
		for _, p := range w.procs {
			p.stays = true
		}
		w.run(3 * time.Minute)
		late := w.find(EvLate, 0)[0].at
		if n := ladders(w, late+59500*ms); n != 50 {
			t.Errorf("%d ladders before a minute was over", n)
		}
		if n := ladders(w, late+61*sec); n != 100 {
			t.Errorf("%d ladders after a minute", n)
		}
	})
	t.Run("common cause passes", func(t *testing.T) {
		w := wave(t, 100, 0)
		w.in(41*sec, func() {
			for _, p := range w.running {
				p.every, p.next = 10*sec, w.now
			}
		})
		w.run(3 * time.Minute)
		w.none(EvSignalled, EvKilled)
		if off := w.find(EvBrakeOff, 0); len(off) != 1 || !strings.Contains(off[0].Message, "100 of them spared") {
			t.Errorf("%v", off)
		}
	})
	t.Run("a held one beats", func(t *testing.T) {
		w := wave(t, 100, 0)
		at := w.now + 33*sec + 24500*ms
		w.in(33*sec+24500*ms, func() {
			n := 0
			for i := 99; n < 1; i-- {
				if p := w.procs[int32(1000+i)]; p != nil && p.alive {
					p.beat()
					n++
				}
			}
		})
		w.run(24500*ms + 33*sec)
		before := ladders(w, at)
		w.run(1600 * ms)
		if n := ladders(w, at+1600*ms) - before; n > 2 {
			t.Errorf("%d ladders in the second after a held one beat, %d before", n, before)
		}
		w.run(time.Minute)
	})
	t.Run("7 of 100", func(t *testing.T) {
		w := wave(t, 7, 93)
		w.run(time.Minute)
		w.none(EvBrakeOn)
		if n := len(w.find(EvKilled, 0)); n != 7 {
			t.Errorf("%d killed", n)
		}
	})
	t.Run("40 of 100", func(t *testing.T) {
		w := wave(t, 40, 60)
		w.run(time.Minute)
		w.none(EvBrakeOn)
		if n := ladders(w, 1034*sec); n != 40 {
			t.Errorf("%d ladders at once", n)
		}
	})
	t.Run("all 7", func(t *testing.T) {
		w := wave(t, 7, 0)
		w.run(time.Minute)
		w.none(EvBrakeOn)
	})
	t.Run("off", func(t *testing.T) {
		w := wave(t, 100, 0, func(c *config.Config) { c.Brake.Enabled = false })
		w.run(time.Minute)
		w.none(EvBrakeOn)
		if n := ladders(w, 1034*sec); n != 100 {
			t.Errorf("%d ladders at once", n)
		}
	})
	t.Run("switched off", func(t *testing.T) {
		w := wave(t, 100, 0)
		w.run(38 * sec)
		cfg := *w.cfg
		cfg.Brake.Enabled = false
		w.g.SetConfig(&cfg)
		w.run(2 * sec)
		if n := ladders(w, w.now); n != 100 {
			t.Errorf("%d ladders", n)
		}
	})
	t.Run("timeout raised while held", func(t *testing.T) {
		w := wave(t, 100, 0)
		w.run(38 * sec)
		cfg := *w.cfg
		cfg.Rules = []config.Rule{{Timeout: 10 * time.Minute}}
		w.g.SetConfig(&cfg)
		w.run(5 * time.Minute)
		w.none(EvSignalled)
	})
	t.Run("gap while held", func(t *testing.T) {
		w := wave(t, 20, 0)
		w.run(33*sec + 8*sec)
		w.freeze(100 * sec)
		for _, p := range w.running {
			p.lastBeat -= 100 * sec
		}
		w.run(1900 * ms)
		w.none(EvSignalled)
		w.run(2 * sec)
		if n := ladders(w, w.now); n == 0 {
			t.Error("none let go")
		}
	})
}

func TestRestore(t *testing.T) {
	kill := func(t *testing.T, unit string, answers ...RestoreDone) *world {
		w := newWorld(t)
		w.restoreRes = answers
		w.client(110, "c", 5, 0).facts.Unit = unit
		w.run(2 * time.Minute)
		return w
	}
	t.Run("started", func(t *testing.T) {
		w := kill(t, "c.service", RestoreDone{Started: true})
		w.want(110, killedStory+" restored")
		want := []Decision{RestoreUnit{Unit: "c.service", PID: 110, Target: w.find(EvKilled, 110)[0].Target, Sure: true, Name: "c", User: "idc",
			Struck: w.find(EvSignalled, 110)[0].at, Ended: w.find(EvKilled, 110)[0].at}}
		if diff := cmp.Diff(want, w.asked); diff != "" {
			t.Error(diff)
		}
		if e := w.find(EvRestored, 110)[0].at - w.find(EvKilled, 110)[0].at; e != 5*sec+200*ms {
			t.Errorf("after %v", e)
		}
	})
	t.Run("not needed", func(t *testing.T) {
		w := kill(t, "c.service")
		w.want(110, killedStory)
	})
	t.Run("retried", func(t *testing.T) {
		w := kill(t, "c.service", RestoreDone{Failed: true, Reason: "bus"}, RestoreDone{Started: true})
		w.want(110, killedStory+" restore-failed restored")
	})
	t.Run("given up", func(t *testing.T) {
		f := RestoreDone{Failed: true, Reason: "bus"}
		w := kill(t, "c.service", f, f, f, f, f, f)
		w.run(10 * time.Minute)
		w.want(110, killedStory+" restore-failed restore-failed restore-failed restore-failed restore-failed gave-up")
		if len(w.asked) != 5 {
			t.Errorf("%v", w.asked)
		}
	})
	for _, unit := range []string{"", "user@1000.service", "session-1.scope"} {
		if w := kill(t, unit); len(w.asked) != 0 {
			t.Errorf("%q: %v", unit, w.asked)
		}
	}
	t.Run("none", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartNone}} })
		w.client(110, "c", 5, 0).facts.Unit = "c.service"
		w.run(time.Minute)
		w.want(110, killedStory)
		if len(w.asked) != 0 {
			t.Errorf("%v", w.asked)
		}
	})
}

func TestCollateral(t *testing.T) {
	w := newWorld(t)
	a, b, c, d := w.client(110, "a", 5, 0), w.client(111, "b", 60, 5*sec), w.client(112, "c", 60, 5*sec), w.client(113, "d", 60, 5*sec)
	a.facts.PGID, b.facts.PGID, c.facts.PGID, d.facts.PGID = 90, 90, 91, 90
	w.in(6300*ms, func() { b.exit(true); c.exit(true) })
	w.in(9*sec, func() { d.exit(true) })
	w.run(time.Minute)
	w.want(111, "registered collateral unregistered")
	w.want(112, "registered unregistered")
	w.want(113, "registered unregistered")
	_ = a
}

func TestSemaphore(t *testing.T) {
	look := func(w *world, d time.Duration, s Semaphore) {
		for ; d > 0; d -= sec {
			w.post(0, s)
			w.run(sec)
		}
	}
	never := Semaphore{ID: 3, Waiters: 2, Repairable: true}
	t.Run("repaired", func(t *testing.T) {
		w := newWorld(t)
		look(w, 5*sec, never)
		w.none(EvSemaphore)
		look(w, 2*sec, never)
		if len(w.asked) != 1 || w.asked[0] != (RepairSemaphore{3}) || len(w.find(EvSemaphore, 0)) != 1 {
			t.Errorf("%v %s", w.asked, w)
		}
		look(w, 20*sec, never) // it did not help: tried again, said once
		if n := len(w.asked); n < 4 || n > 5 || len(w.find(EvSemaphore, 0)) != 1 {
			t.Errorf("%v %s", w.asked, w)
		}
	})
	t.Run("changes", func(t *testing.T) {
		w := newWorld(t)
		for i := range 20 {
			s := never
			s.OTime = int64(i)
			look(w, 3*sec, s)
		}
		look(w, 20*sec, Semaphore{ID: 3, Value: 1})
		look(w, 20*sec, Semaphore{ID: 3, Value: 0, OTime: 7}) // taken, nobody waits
		w.none(EvSemaphore)
	})
	t.Run("held", func(t *testing.T) {
		w := newWorld(t)
		look(w, 60*sec, Semaphore{ID: 3, Waiters: 1, OTime: 5, LastPID: 99, LastComm: "ftp", Repairable: true})
		if e := w.find(EvSemaphore, 99); len(e) != 1 || e[0].Reason != "held" || len(w.asked) != 0 {
			t.Errorf("%v", e)
		}
	})
	t.Run("observing", func(t *testing.T) {
		w := newWorld(t)
		w.acts = false
		look(w, 60*sec, never)
		if len(w.asked) != 0 || len(w.find(EvSemaphore, 0)) != 1 {
			t.Errorf("%v %s", w.asked, w)
		}
	})
}

func TestOldGuard(t *testing.T) {
	// attach is one look a second at the table, after an attach by pid.
	attach := func(w *world, pid int32, comm string, quiet time.Duration) {
		at := int64(w.now / sec)
		for ; quiet > 0; quiet -= sec {
			w.post(0, Attachment{Table: 7, ATime: at, LastPID: pid, Comm: comm})
			w.run(sec)
		}
	}
	t.Run("named", func(t *testing.T) {
		w := newWorld(t)
		for i := range int32(60) {
			attach(w, 9000+i, "checkproc", 10*sec)
		}
		e := w.find(EvOldGuard, 0)
		if len(e) != 1 || e[0].Process != "checkproc" || e[0].Silence.Round(sec) != 10*sec {
			t.Errorf("%s", w)
		}
	})
	t.Run("caught", func(t *testing.T) {
		w := newWorld(t)
		for i := range int32(30) {
			attach(w, 9000+i, "", 10*sec)
			if len(w.asked) == 2 {
				w.post(0, GuardCaught{9100, "checkproc"})
			}
		}
		if c := w.asked[0].(CatchOldGuard); c.Mono <= 1000*sec || c.Table != 7 {
			t.Errorf("%+v", c)
		}
		if e := w.find(EvOldGuard, 0); len(e) != 1 || e[0].Process != "checkproc" {
			t.Errorf("%s", w)
		}
	})
	t.Run("not named", func(t *testing.T) {
		w := newWorld(t)
		for i := range int32(30) {
			attach(w, 9000+i, "", 10*sec)
		}
		if e := w.find(EvOldGuard, 0); len(e) != 1 || len(w.asked) != rhythmTries {
			t.Errorf("%s", w)
		}
	})
	t.Run("clients in a rhythm", func(t *testing.T) {
		w := newWorld(t)
		for i := range int32(60) {
			p := w.client(9000+i, "short", 60, 0)
			w.in(3*sec, func() { p.exit(true) })
			attach(w, p.pid, "short", 10*sec)
		}
		w.none(EvOldGuard)
	})
	t.Run("no rhythm", func(t *testing.T) {
		w := newWorld(t)
		for i := range int32(60) {
			attach(w, 9000+i, "ipcs", time.Duration(5+7*(i%3))*sec)
		}
		w.none(EvOldGuard)
	})
}
