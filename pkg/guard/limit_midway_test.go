package guard

import (
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestLimitMidway: what happens between the limit and its ladder does not save a target for good, and does not leave it
// in a state that no beat ends.
func TestLimitMidway(t *testing.T) {
	until := func(w *world, state string) {
		for n := 0; w.view(110).State != state; n++ {
			if n > 2000 {
				t.Fatalf("never %s\n%s", state, w)
			}
			w.run(100 * ms)
		}
	}
	for name, happens := range map[string]func(w *world){
		"restart": func(w *world) { w.restart() },
		"freeze":  func(w *world) { w.freeze(20 * sec) },
		"stall":   func(w *world) { w.stall(20 * sec) },
	} {
		t.Run(name, func(t *testing.T) {
			w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
			w.proofDelay = 3 * sec
			*threads = 150
			until(w, "late")
			happens(w)
			w.run(20 * sec)
			*threads = 10
			w.run(time.Minute)
			for _, e := range w.find(EvCondemned, 110) {
				if gap := w.find(EvGap, 0); len(gap) == 1 && e.at < gap[0].at+gapGrace {
					t.Errorf("condemned %v after a gap, by what was seen before it\n%s", e.at-gap[0].at, w)
				}
			}
			if !p.alive { // it was over it for long enough
				return
			}
			if v := w.view(110); v.State != "guarded" || v.Verdict != "" || v.Episode != "" {
				t.Errorf("%+v\n%s", v, w)
			}
			*threads = 150
			w.run(3 * time.Minute)
			if p.alive {
				t.Errorf("lives\n%s", w)
			}
		})
	}
	t.Run("excused", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		p.rec().Timeout, p.timeout = 600, 600*sec // so that it is not late meanwhile
		p.look.Dumping = true
		*threads = 150
		w.run(2 * time.Minute)
		if v := w.view(110); len(w.signals) > 0 || v.State != "guarded" {
			t.Fatalf("%+v\n%s", v, w)
		}
		w.none(EvCondemned)
		p.look.Dumping, p.next = false, w.now
		w.run(time.Minute)
		if p.alive {
			t.Error(w)
		}
	})
	t.Run("the brake is told to stop", func(t *testing.T) {
		w, p, threads := limited(t, threadsAbove(100, config.LimitLadder))
		for pid := int32(120); pid < 140; pid++ {
			w.use(w.client(pid, "c", 10, 5*sec), config.Threads, func() float64 { return 150 })
		}
		*threads = 150
		until(w, "braked")
		w.run(sec)
		w.g.OrderBrake(false, "ann")
		w.run(time.Minute)
		if v := w.view(110); len(w.signals) > 0 || v.State != "guarded" || v.Hold == "" {
			t.Fatalf("%+v\n%s", v, w)
		}
		w.run(30 * time.Minute)
		if p.alive {
			t.Error("lives after the hold")
		}
	})
}

// TestThrottleAskedTwice: what was asked for when the daemon was killed may have been done or not; it is asked for again.
func TestThrottleAskedTwice(t *testing.T) {
	x := throttle{unit: "a.service", known: true, was: UnitLimits{800, 900}, next: UnitLimits{MemoryHigh: 400}, under: true, at: never}
	var w writer
	x.save(&w)
	var got throttle
	r := reader{b: w.b}
	got.restore(&r, 7)
	if want := (throttle{unit: "a.service", known: true, was: x.was, next: x.next, redo: true, at: 7}); r.bad || got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	x.set, x.next = x.next, UnitLimits{} // it was being taken back
	w = writer{}
	x.save(&w)
	r = reader{b: w.b}
	if got.restore(&r, 7); got.set != x.set || got.under || !got.redo || got.at != 7 {
		t.Errorf("%+v", got)
	}
}
