package guard

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const ms = time.Millisecond

// TestMargin has clients that beat exactly every timeout, in whole seconds, for
// an hour: none is ever late.
func TestMargin(t *testing.T) {
	w := newWorld(t)
	for timeout := int32(2); timeout <= 60; timeout++ {
		p := w.client(100+timeout, "exact", timeout, time.Duration(timeout)*sec)
		p.next += time.Duration(timeout) * 16 * ms
	}
	w.run(time.Hour)
	w.none(EvLate, EvGap, EvRefused)
	if n := len(w.find(EvRegistered, 0)); n != 59 {
		t.Errorf("%d registered", n)
	}
}

// TestNeverBeats has programs whose timeout is the longest allowed run time.
func TestNeverBeats(t *testing.T) {
	w := newWorld(t)
	w.client(110, "short", 30, 0)
	w.in(25*sec, func() { w.procs[110].exit(true) })
	w.client(120, "long", 30, 0)
	w.run(60 * sec)
	w.want(110, "registered unregistered")
	w.want(120, "registered late condemned signalled signalled killed cleared")
	if e := w.find(EvCondemned, 120)[0]; e.at != 1033*sec {
		t.Errorf("condemned after %v", e.at-1000*sec)
	}
}

// TestTokens has clients whose clock is ahead, behind, or stepped: a token is
// opaque.
func TestTokens(t *testing.T) {
	tokens := map[string]func(time.Duration) int64{
		"ahead":     func(now time.Duration) int64 { return wall(now) + 86400*365 },
		"behind":    func(now time.Duration) int64 { return wall(now) - 86400*365 },
		"backwards": func(now time.Duration) int64 { return -wall(now) },
		"stepped":   func(now time.Duration) int64 { return wall(now) + int64(now/(20*sec))*-3600 },
		"zero once": func(now time.Duration) int64 { return (wall(now) / 5) % 2 },
	}
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(110)
			p.token = token
			p.join(3, "c", 10)
			p.every, p.next = 5*sec, w.now+5*sec
			w.run(5 * time.Minute)
			w.want(110, "registered")
			p.hang()
			w.run(30 * sec)
			w.want(110, "registered late condemned signalled signalled killed cleared")
		})
	}
}

// TestSecondLook has a beat between the last scan and the deadline.
func TestSecondLook(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Interval = 10 * sec })
	p := w.client(110, "c", 12, 0)
	w.in(13100*ms, p.beat) // deadline at 13.2 s, scans at 10 and 20
	w.run(20 * sec)
	w.want(110, "registered")
	p.hang()
	w.run(30 * sec)
	if len(w.find(EvLate, 110)) != 1 {
		t.Error("not late after it hung\n", w)
	}
}

// TestLateness: a hang is never found before timeout plus margin, and at most
// one interval after it, whatever the schedule.
func TestLateness(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		interval := rapid.SampledFrom([]time.Duration{50 * ms, 300 * ms, sec, 2500 * ms, 10 * sec}).Draw(r, "interval")
		timeout := rapid.Int32Range(1, 100).Draw(r, "timeout")
		w := newWorld(r, func(c *config.Config) { c.Interval = interval })
		w.run(time.Duration(rapid.Int64Range(0, int64(5*sec)).Draw(r, "offset")))
		p := w.client(110, "c", timeout, 0)
		// Long enough to be latched; then one last beat.
		last := 2*interval + time.Duration(rapid.Int64Range(0, int64(timeout)*int64(sec)).Draw(r, "last"))
		p.token = func(now time.Duration) int64 { return int64(now) }
		w.in(min(last, time.Duration(timeout)*sec), p.beat)
		for range rapid.IntRange(0, 20).Draw(r, "wakes") { // things that wake the daemon at odd times
			w.post(time.Duration(rapid.Int64Range(0, int64(100*sec)).Draw(r, "wake")), Semaphore{})
		}
		w.run(time.Duration(timeout)*sec*3 + 4*interval)
		late := w.find(EvLate, 110)
		if len(late) != 1 {
			r.Fatalf("%d times late\n%s", len(late), w)
		}
		patience := time.Duration(timeout)*sec + max(time.Duration(timeout)*sec/10, sec)
		if over := late[0].at - p.lastBeat - patience; over < 0 || over > interval && late[0].at > w.find(EvRegistered, 110)[0].at {
			r.Errorf("late %v after its deadline, interval %v\n%s", over, interval, w)
		}
	})
}

// TestGap stalls the daemon, or daemon and clients.
func TestGap(t *testing.T) {
	t.Run("suspend", func(t *testing.T) {
		w := newWorld(t)
		hung := w.client(110, "hung", 10, 0)
		for pid := int32(111); pid < 150; pid++ {
			w.client(pid, "well", 10, 10*sec)
		}
		w.run(9500 * ms)
		attn := w.g.Attention()
		w.freeze(time.Hour)
		hung.lastBeat = 1000 * sec
		w.run(ms)
		if got := w.g.Attention() - attn; got > attentionStep+attentionSlack {
			t.Errorf("attention advanced by %v in an hour that was not seen", got)
		}
		w.run(30 * sec)

		if n := len(w.find(EvGap, 0)); n != 1 {
			t.Errorf("%d gaps", n)
		}
		if late := w.find(EvLate, 0); len(late) != 1 || late[0].PID != 110 {
			t.Errorf("late: %v", late)
		}
	})
	t.Run("once for each silence", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "hung", 20, 0)
		w.run(15 * sec)
		for range 4 {
			w.stall(5 * sec)
			w.run(8 * sec)
		}
		w.run(60 * sec)
		late := w.find(EvLate, 110)
		if len(late) != 1 {
			t.Fatal(w)
		}
		// 15 s, then anew: 22 s of attention; all stalls together take 20 s and
		// what they counted of it is given back, with what had passed of the
		// sleep that they came in.
		if at := late[0].at - 1000*sec; at > 15*sec+22*sec+4*5*sec+3*attentionStep {
			t.Errorf("late only after %v", at)
		}
		gaps := w.find(EvGap, 0)
		alarms := 0
		for _, e := range gaps {
			if e.Reason == "repeated" {
				alarms++
			}
		}
		if len(gaps) != 4 || alarms != 1 {
			t.Errorf("%d gaps, %d alarms", len(gaps), alarms)
		}
	})
	t.Run("grace", func(t *testing.T) {
		w := newWorld(t)
		w.client(110, "hung", 20, 0)
		w.run(10 * sec)
		w.stall(5 * sec) // takes the one restart
		w.run(5*sec + ms)
		w.run(20900 * ms) // 100 ms before the deadline
		w.stall(10 * sec)
		w.run(40 * sec)
		back := w.find(EvGap, 0)[1].at
		if late := w.find(EvLate, 110); len(late) != 1 || late[0].at < back+gapGrace {
			t.Errorf("judged within the grace\n%s", w)
		}
	})
	t.Run("always stalling", func(t *testing.T) {
		// Each sleep is overslept by seconds: blind half of the time, not for ever.
		for _, stall := range []time.Duration{2 * sec, 4 * sec} {
			w := newWorld(t)
			w.client(110, "hung", 20, 0)
			w.client(111, "well", 20, 20*sec)
			for range 200 {
				w.stall(stall)
				w.run(stall)
			}
			if late := w.find(EvLate, 0); len(late) != 1 || late[0].PID != 110 {
				t.Errorf("stall %v: late %v\n%s", stall, late, w)
			}
		}
	})
}

// TestFrozenTogether freezes daemon and clients for any time, again and again:
// those that beat exactly every timeout of the time that they were given are
// never late. Stops too short to be seen (below attentionStep and attentionSlack)
// are in it, but not more of them in one silence than its margin covers.
func TestFrozenTogether(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r)
		for pid := int32(110); pid < 170; pid++ {
			timeout := time.Duration(pid-108) * sec
			p := w.client(pid, "exact", pid-108, timeout)
			p.next -= time.Duration(rapid.Int64Range(0, int64(timeout)).Draw(r, "phase"))
		}
		for range 5 {
			w.run(time.Duration(rapid.Int64Range(int64(25*sec), int64(70*sec)).Draw(r, "between")))
			w.freeze(time.Duration(rapid.Int64Range(0, int64(10*sec)).Draw(r, "freeze")))
		}
		w.run(100 * sec)
		if late := w.find(EvLate, 0); len(late) > 0 {
			r.Errorf("%s", w)
		}
	})
}

// TestStoppedDaemon stops the daemon alone: nobody is acted on for what it did
// not see, and what hangs is found.
func TestStoppedDaemon(t *testing.T) {
	for _, stop := range []time.Duration{300 * ms, sec, 2 * sec, 3 * sec, 30 * sec, time.Hour} {
		t.Run(fmt.Sprint(stop), func(t *testing.T) {
			w := newWorld(t)
			for pid := int32(110); pid < 150; pid++ {
				w.client(pid, "well", 5, 5*sec)
			}
			w.client(150, "hung", 5, 0)
			for range 3 {
				w.run(2 * sec)
				w.stall(stop)
				w.run(stop)
			}
			w.run(30 * sec)
			if late := w.find(EvLate, 0); len(late) != 1 || late[0].PID != 150 {
				t.Errorf("late: %v\n%s", late, w)
			}
		})
	}
}
