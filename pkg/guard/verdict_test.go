package guard

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestVerdicts has a client of timeout 10 s (patience 11 s) hang; what the looks
// see of it differs.
func TestVerdicts(t *testing.T) {
	const due = 11 * sec // from its last beat to its verdict
	for _, tc := range []struct {
		name    string
		hang    func(w *world, p *proc)
		verdict string
		says    string // in the condemned record
		waits   bool   // one more timeout
	}{
		{"in futex", func(w *world, p *proc) { p.proof = Examined{Threads: 12, Runnable: 0, Call: "futex"} },
			"hung", "none of 12 threads runnable, main thread in futex, no CPU used for", false},
		{"spinning", func(w *world, p *proc) {
			p.state, p.proof = 'R', Examined{Runnable: 1}
			w.each(100*ms, func() { p.look.CPU += 90 * ms })
		}, "hung", "of CPU used in", false},
		{"one thread runs and gets little", func(w *world, p *proc) {
			p.proof = Examined{Threads: 3, Runnable: 1, Starving: 1, Call: "futex"}
			p.look.CPU += ms // of seconds
		}, "starved", "1 of 3 threads runnable, 1 given no processor", true},
		{"one thread just wakes up", func(w *world, p *proc) { p.proof = Examined{Threads: 3, Runnable: 1} }, "hung", "1 of 3 threads runnable", false},
		{"main thread waits for a processor", func(w *world, p *proc) {
			p.state, p.proof = 'R', Examined{Runnable: 1}
			w.each(100*ms, func() { p.look.CPU += 20 * ms; p.look.RunWait += 80 * ms })
		}, "starved", "of that waiting for a processor", true},
		{"it waited for one before the soft look", func(w *world, p *proc) { p.look.RunWait += 100 * sec }, "hung", "", false},
		{"pressure on the host", func(w *world, p *proc) { p.proof.Host = Pressure{CPU: 95} }, "starved", "host under pressure (cpu 95%", true},
		{"at the limit", func(w *world, p *proc) { p.proof.Host = Pressure{CPU: 90, Memory: 40, IO: 80} }, "hung", "", false},
		{"no memory for its cgroup", func(w *world, p *proc) { p.proof.Group = Pressure{CPU: -1, Memory: 50, IO: -1} }, "starved", "cgroup under pressure (cpu 0%, memory 50%", true},
		{"blocked", func(w *world, p *proc) {
			p.state, p.proof = 'D', Examined{Blocked: 1, Channel: "nfs_wait_bit_killable", Call: "read"}
		}, "blocked", "main thread in D (nfs_wait_bit_killable)", true},
		{"blocked at the end only", func(w *world, p *proc) {
			w.in(10*sec, func() { p.state, p.proof = 'D', Examined{Blocked: 1, Channel: "io_schedule"} })
		}, "hung", "", false},
		{"in D, and gets on", func(w *world, p *proc) {
			p.state = 'D'
			w.each(sec, func() { p.look.CPU += 10 * ms })
		}, "hung", "", false},
		{"no evidence", func(w *world, p *proc) { p.proof.Problem = "permission denied" }, "hung", "state S, no more evidence (permission denied)", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.client(110, "c", 10, 5*sec)
			w.client(120, "other", 10, 5*sec)
			w.run(20 * sec)
			p.hang()
			tc.hang(w, p)
			w.run(60 * sec)
			condemned := w.find(EvCondemned, 110)
			if len(condemned) != 1 {
				t.Fatalf("%d condemned\n%s", len(condemned), w)
			}
			e := condemned[0]
			if e.Verdict != tc.verdict || !strings.Contains(e.Message, tc.says) || !strings.Contains(e.Message, ": "+tc.verdict+"; ") {
				t.Errorf("verdict %s: %s", e.Verdict, e.Message)
			}
			after, waits := due, len(w.find(EvWaiting, 110))
			if tc.waits {
				after += 10 * sec
			}
			if d := e.at - p.lastBeat; d < after || d > after+w.cfg.Interval {
				t.Errorf("condemned %v after its last beat", d)
			}
			if (waits == 1) != tc.waits || waits > 1 {
				t.Errorf("%d times given one more timeout", waits)
			}
			if len(e.Gaps) != 4 || e.Gaps[3] < 4*sec || e.Gaps[3] > 6*sec {
				t.Errorf("gaps %v", e.Gaps)
			}
			w.none(EvRecovered)
			if len(w.signals) == 0 || w.signals[0].pid != 110 {
				t.Errorf("signals %v", w.signals)
			}
		})
	}
}

// each has something happen again and again.
func (w *world) each(every time.Duration, do func()) {
	w.in(every, func() {
		do()
		w.each(every, do)
	})
}

// TestWaiting has a starved client beat within its extra timeout, and hang again.
func TestWaiting(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	w.run(15 * sec)
	if v := w.view(110); v.State != "waiting" || v.Verdict != "starved" {
		t.Errorf("%+v", v)
	}
	if n := w.g.Tally().Late; n != 1 {
		t.Errorf("%d late", n)
	}
	p.beat()
	w.run(15 * sec)
	w.want(110, "registered late waiting recovered late waiting") // once for each episode
	w.run(20 * sec)
	w.want(110, "registered late waiting recovered late waiting condemned signalled signalled killed cleared")
	if c := w.g.Count(); c.Waited != 2 || c.Condemned != 1 {
		t.Errorf("%+v", c)
	}
}

// TestWaitingOverRestart: the extra timeout is given once, also by two daemons.
func TestWaitingOverRestart(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	w.run(15 * sec)
	w.restart()
	w.run(8 * sec)
	if e := w.find(EvCondemned, 110); len(e) != 1 || e[0].at-p.lastBeat > 22*sec {
		t.Errorf("condemned: %v\n%s", e, w)
	}
	if n := len(w.find(EvWaiting, 110)); n != 1 {
		t.Errorf("%d times given one more timeout", n)
	}
}

// TestBeatAfterConsentAnew: a new daemon that has to ask for consent anew hears of it when the extra timeout is over. Who
// beats then has an episode of its own when it falls silent again, with an extra timeout of its own.
func TestBeatAfterConsentAnew(t *testing.T) {
	w := newWorld(t)
	w.noInodes = true
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	w.run(20500 * ms)
	w.want(110, "registered late waiting")
	w.restart()
	w.askDelay = 3 * sec
	for range 100 {
		if v := w.view(110); v.State == "late" {
			break
		}
		w.run(50 * ms)
	}
	for range 100 {
		if v := w.view(110); v.State != "late" {
			break
		}
		w.run(50 * ms)
	}
	p.beat()
	w.run(15 * sec)
	w.want(110, "registered late waiting recovered late waiting")
}

// TestGapWhileWaiting: the end of the extra timeout is judged with the grace that
// follows a gap.
func TestGapWhileWaiting(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	w.run(20500 * ms)
	p.every, p.next = 5*sec, w.now+1500*ms // it would go on in a moment
	w.freeze(time.Minute)
	w.run(4 * sec)
	w.none(EvCondemned)
	w.run(20 * sec)
	w.want(110, "registered late waiting recovered")
}

// TestResponses has rules say what is done on a verdict.
func TestResponses(t *testing.T) {
	rule := func(v config.Responses) func(*config.Config) {
		return func(c *config.Config) {
			c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Verdict: v}}
		}
	}
	t.Run("starved at once", func(t *testing.T) {
		w := newWorld(t, rule(config.Responses{Starved: config.RespondLadder}))
		p := w.client(110, "c", 10, 5*sec)
		w.run(20 * sec)
		p.hang()
		p.proof.Host = Pressure{CPU: 99}
		w.run(13 * sec)
		w.want(110, "registered late condemned signalled")
		if e := w.find(EvCondemned, 110); e[0].Verdict != "starved" {
			t.Errorf("%s", e[0].Verdict)
		}
	})
	t.Run("blocked is reported, and later hung is not", func(t *testing.T) {
		w := newWorld(t, rule(config.Responses{Blocked: config.RespondReport}))
		p := w.client(110, "c", 10, 5*sec)
		w.run(20 * sec)
		p.hang()
		p.state = 'D'
		w.run(4 * time.Minute)
		if n := len(w.find(EvWouldCondemn, 110)); n != 1 {
			t.Errorf("reported %d times", n)
		}
		if len(w.signals) > 0 {
			t.Error("signalled")
		}
		p.state = 'S'
		w.run(2 * time.Minute)
		w.find(EvCondemned, 110)
		if e := w.find(EvCondemned, 110); len(e) != 1 || e[0].Verdict != "hung" {
			t.Errorf("%v\n%s", e, w)
		}
	})
	t.Run("stopped gets its ladder", func(t *testing.T) {
		w := newWorld(t, rule(config.Responses{Stopped: config.RespondLadder}))
		w.stillToo = true
		p := w.client(110, "c", 10, 5*sec)
		w.run(20 * sec)
		p.hang()
		p.state = 'T'
		w.run(30 * sec)
		w.want(110, "registered late condemned signalled signalled killed cleared")
		if e := w.find(EvCondemned, 110); e[0].Verdict != "stopped" || !strings.Contains(e[0].Message, "it is stopped") {
			t.Errorf("%s", e[0].Message)
		}
	})
	t.Run("held, and then its rule says ladder", func(t *testing.T) {
		w := newWorld(t)
		w.stillToo = true
		p := w.client(110, "c", 10, 5*sec)
		w.run(20 * sec)
		p.hang()
		p.look.Frozen = true
		w.run(15 * sec)
		w.want(110, "registered late held")
		c := *w.cfg
		c.Rules = []config.Rule{{Verdict: config.Responses{Frozen: config.RespondLadder}}}
		w.g.SetConfig(&c)
		w.run(3 * sec)
		w.want(110, "registered late held condemned signalled")
	})
}

// TestEvidenceLate: a verdict waits for the evidence, for a time, and then looks
// at the records again.
func TestEvidenceLate(t *testing.T) {
	w := newWorld(t)
	w.proofDelay = 3 * sec
	p := w.client(110, "c", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	w.run(13 * sec)
	w.want(110, "registered late")
	p.beat()
	w.run(2 * sec)
	w.want(110, "registered late recovered")

	w.proofDelay = time.Hour
	w.run(15 * sec)
	w.want(110, "registered late recovered late")
	w.run(10 * sec) // a host that gives no time for it starves its programs, too
	if e := w.find(EvWaiting, 110); len(e) != 1 || e[0].Verdict != "starved" || !strings.Contains(e[0].Message, "no more evidence (it did not come in time)") {
		t.Errorf("%v\n%s", e, w)
	}
	w.run(20 * sec)
	if len(w.find(EvCondemned, 110)) != 1 {
		t.Errorf("%s", w)
	}
}

// TestStoppedWhileEvidenceIsGathered: the last look counts.
func TestStoppedWhileEvidenceIsGathered(t *testing.T) {
	w := newWorld(t)
	w.askDelay, w.proofDelay = sec, 2*sec
	p := w.client(110, "c", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	w.run(12 * sec)
	w.want(110, "registered late")
	p.state = 'T'
	w.run(5 * sec)
	w.want(110, "registered late held")
}

// TestScope: whom the signals go to.
func TestScope(t *testing.T) {
	scope := config.ScopeCgroup
	rules := func(shared bool) func(*config.Config) {
		return func(c *config.Config) {
			c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Ladder: config.RuleLadder{Scope: &scope, Shared: &shared,
				Steps: []config.Step{{Signal: unix.SIGABRT, Wait: 3 * sec}, {Signal: unix.SIGKILL, Wait: 2 * sec}}}}}
		}
	}
	for _, tc := range []struct {
		name   string
		proof  Examined
		shared bool
		refuse string
	}{
		{"its own", Examined{Members: []int32{110, 111}}, false, ""},
		{"not to be read", Examined{}, false, "its members could not be read"},
		{"pid 1", Examined{Members: []int32{110}, InitInside: true}, true, "pid 1 is in it"},
		{"the guard", Examined{Members: []int32{110}, GuardInside: true}, true, "the guard is in it"},
		{"a healthy one", Examined{Members: []int32{110, 120}}, false, "pid 120 (other) is in it, which is not to be ended"},
		{"shared", Examined{Members: []int32{110, 120}}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, rules(tc.shared))
			p := w.client(110, "c", 10, 5*sec)
			w.client(120, "other", 10, 5*sec)
			w.run(20 * sec)
			p.hang()
			p.proof = tc.proof
			w.run(12500 * ms)
			if len(w.ladders) != 1 || (w.ladders[0].Scope == config.ScopeCgroup) != (tc.refuse == "") || len(w.ladders[0].Steps) != 2 || w.ladders[0].Steps[0].Signal != unix.SIGABRT || w.ladders[0].DumpWait != 2*time.Minute {
				t.Fatalf("%+v\n%s", w.ladders, w)
			}
			e := w.find(EvRefused, 110)
			if (len(e) == 1 && e[0].Reason == tc.refuse) != (tc.refuse != "") {
				t.Errorf("%v\n%s", e, w)
			}
			w.restart() // and again for the rest of the ladder
			w.run(sec)
			if len(w.ladders) != 1 || (w.ladders[0].Scope == config.ScopeCgroup) != (tc.refuse == "") || !w.ladders[0].Sent {
				t.Errorf("after a restart: %+v\n%s", w.ladders, w)
			}
		})
	}
	t.Run("both hang", func(t *testing.T) {
		w := newWorld(t, rules(false))
		a, b := w.client(110, "c", 10, 5*sec), w.client(120, "c", 10, 5*sec)
		w.run(20 * sec)
		a.hang()
		b.hang()
		a.proof, b.proof = Examined{Members: []int32{110, 120}}, Examined{Members: []int32{110, 120}}
		w.run(13 * sec)
		w.none(EvRefused)
		if len(w.ladders) != 2 {
			t.Errorf("%d ladders\n%s", len(w.ladders), w)
		}
	})
}

// TestDumpReported: the ladder's wait for a core dump is told.
func TestDumpReported(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	w.run(13 * sec)
	w.post(0, LadderReport{Target: w.view(110).ID, Kind: LadderDumping, Signal: "SIGABRT"})
	w.run(sec)
	if e := w.find(EvHeld, 110); len(e) != 1 || e[0].Reason != "dumping" || w.view(110).State != "ladder" {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestObserved: what would have been done is said and counted.
func TestObserved(t *testing.T) {
	w := newWorld(t)
	w.acts = false
	a, b := w.client(110, "c", 10, 5*sec), w.client(120, "c", 10, 5*sec)
	w.run(20 * sec)
	a.hang()
	b.exit(false)
	w.run(30 * sec)
	w.want(110, "registered late would-condemn")
	w.want(120, "registered exited would-clear")
	if e := w.find(EvWouldCondemn, 110)[0]; !strings.Contains(e.Message, "it would have got SIGTERM, after 5.0s SIGKILL") {
		t.Errorf("%s", e.Message)
	}
	if c := w.g.Count(); c.Would != 2 || c.Condemned+c.Signalled+c.Cleared != 0 {
		t.Errorf("%+v", c)
	}
}

// TestEvidenceIsPrepared: evidence that takes 150 ms delays nobody's end, and is not
// asked for while there are beats.
func TestEvidenceIsPrepared(t *testing.T) {
	for _, stall := range []time.Duration{0, 700 * ms} { // just when it has been asked for
		w := newWorld(t)
		w.cfg.Interval = 100 * ms
		w.askDelay, w.proofDelay = 100*ms, 150*ms
		p := w.client(110, "c", 10, 9*sec)
		w.run(100 * sec)
		if w.asks != 1 {
			t.Errorf("asked %d times", w.asks)
		}
		p.hang()
		w.run(p.lastBeat + 11*sec - prepareLead + 150*ms - w.now)
		allowed := 11*sec + w.cfg.Interval
		if stall > 0 { // it is given back, and then asked for anew
			w.stall(stall)
			allowed += 2*stall + 500*ms
		}
		w.run(3 * sec)
		e := w.find(EvCondemned, 110)
		if len(e) != 1 || e[0].at-p.lastBeat > allowed || e[0].Verdict != "hung" || strings.Contains(e[0].Message, "no more evidence") {
			t.Errorf("%v\n%s", e, w)
		}
	}
}
