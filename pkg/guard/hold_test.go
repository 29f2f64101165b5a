package guard

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

func (w *world) hold(o HoldOrder) HoldView {
	w.t.Helper()
	o.By = "uid 0"
	v, err := w.g.Hold(o)
	if err != nil {
		w.t.Fatalf("hold %+v: %v", o, err)
	}
	w.wake() // that an order comes in
	return v
}

// hung is a world with a client that hangs from now on, timeout 10 s, and one that
// is well.
func hung(t *testing.T) (*world, *proc) {
	w := newWorld(t)
	p := w.client(110, "ftpget", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	return w, p
}

func TestHold(t *testing.T) {
	for name, o := range map[string]HoldOrder{
		"by pid":  {PID: 110, For: 30 * sec, Reason: "debugging"},
		"by name": {Name: "ftp*", For: 30 * sec, Reason: "debugging"},
		"all":     {All: true, For: 30 * sec, Reason: "debugging"},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := hung(t)
			v := w.hold(o)
			if want := map[bool]int{false: 1, true: 2}[o.All]; v.Targets != want || v.Left != 30*sec || v.Reason != "debugging" || v.By != "uid 0" {
				t.Errorf("%+v", v)
			}
			w.run(25 * sec)
			if len(w.signals) > 0 || w.view(110).Hold == "" || w.view(110).State != "reported" {
				t.Errorf("%+v\n%s", w.view(110), w)
			}
			e := w.find(EvHeld, 110)
			if e := e[len(e)-1]; e.Verdict != "hung" || e.Reason != "order" || !strings.Contains(e.Message, "as uid 0 ordered (debugging)") {
				t.Errorf("%+v", e.Event)
			}
			if h := w.g.Holds(); len(h) != 1 || h[0].Left > 6*sec {
				t.Errorf("%+v", h)
			}
			w.run(8*sec + 11*sec) // its silence begins anew
			if len(w.g.Holds()) != 0 || len(w.signals) != 1 || w.signals[0].pid != 110 {
				t.Errorf("%v, signals %v\n%s", w.g.Holds(), w.signals, w)
			}
			if w.signals[0].at-p.lastBeat < 30*sec {
				t.Error("signalled while held")
			}
		})
	}
}

// TestHoldExpiresOnTime: the daemon wakes for it.
func TestHoldExpiresOnTime(t *testing.T) {
	w, _ := hung(t)
	w.cfg.Interval = 10 * sec
	begun := w.now
	w.hold(HoldOrder{PID: 110, For: 20*sec + 123*ms})
	w.run(30 * sec)
	if e := w.find(EvReleased, 110); len(e) != 1 || e[0].at-begun != 20*sec+123*ms {
		t.Errorf("%v\n%s", e, w)
	}
}

func TestUnhold(t *testing.T) {
	w, _ := hung(t)
	w.hold(HoldOrder{PID: 110, For: time.Hour})
	w.hold(HoldOrder{Name: "ftpget", For: time.Hour})
	w.run(30 * sec)
	if _, err := w.g.Unhold(Selector{Name: "other"}, ""); err == nil {
		t.Error("released what was not held")
	}
	if n, err := w.g.Unhold(Selector{PID: 110}, "uid 0"); n != 1 || err != nil {
		t.Error(n, err)
	}
	w.run(10 * sec)
	if len(w.signals) > 0 {
		t.Error("signalled while another hold stands")
	}
	if _, err := w.g.Unhold(Selector{Name: "ftpget"}, "uid 0"); err != nil {
		t.Error(err)
	}
	w.run(13 * sec)
	if len(w.signals) != 1 {
		t.Errorf("signals %v\n%s", w.signals, w)
	}
}

// TestHoldStopsLadder has the order come between the signals of a ladder.
func TestHoldStopsLadder(t *testing.T) {
	w, _ := hung(t)
	w.run(13 * sec)
	if len(w.signals) != 1 {
		t.Fatalf("%s", w)
	}
	w.hold(HoldOrder{All: true, For: time.Minute})
	w.run(50 * sec)
	if len(w.signals) != 1 || len(w.ladders) != 0 || w.view(110).State != "reported" {
		t.Errorf("signals %v, %+v\n%s", w.signals, w.view(110), w)
	}
	w.run(31 * sec)
	if len(w.signals) != 3 || len(w.find(EvKilled, 110)) != 1 {
		t.Errorf("signals %v\n%s", w.signals, w)
	}
	if len(w.find(EvPaused, 0)) != 1 || len(w.find(EvResumed, 0)) != 1 {
		t.Errorf("%s", w)
	}
}

// TestHoldBeats: who beats while it is held is well again.
func TestHoldBeats(t *testing.T) {
	w, p := hung(t)
	w.hold(HoldOrder{All: true, For: time.Minute})
	w.run(30 * sec)
	p.beat()
	p.every, p.next = 5*sec, w.now+5*sec
	w.run(2 * time.Minute)
	if len(w.signals) > 0 || w.view(110).State != "guarded" || len(w.find(EvRecovered, 110)) != 1 {
		t.Errorf("%+v\n%s", w.view(110), w)
	}
}

// TestHoldOverRestart: orders are kept, also one for a pid, and end on time.
func TestHoldOverRestart(t *testing.T) {
	for name, o := range map[string]HoldOrder{"pid": {PID: 110}, "name": {Name: "ftpget"}, "all": {All: true}} {
		t.Run(name, func(t *testing.T) {
			w, _ := hung(t)
			o.For = 40 * sec
			w.hold(o)
			w.run(15 * sec)
			w.restart()
			w.run(10 * sec)
			w.restart()
			w.run(10 * sec)
			if h := w.g.Holds(); len(w.signals) > 0 || len(h) != 1 || h[0].Left > 6*sec || h[0].By != "uid 0" {
				t.Errorf("%v, signals %v\n%s", h, w.signals, w)
			}
			w.run(19 * sec)
			if len(w.signals) != 1 {
				t.Errorf("signals %v\n%s", w.signals, w)
			}
		})
	}
}

// TestHoldAndLadderOverRestart: a ladder that was under way does not go on under an
// order that came with its last breath.
func TestHoldAndLadderOverRestart(t *testing.T) {
	w, _ := hung(t)
	w.run(13 * sec)
	w.hold(HoldOrder{PID: 110, For: time.Minute})
	w.restart() // before the cancelled ladder is reported
	w.run(30 * sec)
	if len(w.signals) != 1 {
		t.Errorf("signals %v\n%s", w.signals, w)
	}
}

// TestHoldOfReused: an order for a pid is for that process, not for the number.
func TestHoldOfReused(t *testing.T) {
	w, p := hung(t)
	w.hold(HoldOrder{PID: 110, For: time.Hour})
	p.exit(false)
	w.run(10 * sec)
	if h := w.g.Holds(); len(h) != 0 {
		t.Errorf("%+v", h)
	}
	p = w.client(110, "ftpget", 10, 5*sec)
	w.run(10 * sec)
	p.hang()
	w.run(20 * sec)
	if len(w.signals) == 0 {
		t.Errorf("%s", w)
	}
}

// TestHoldOfEnded: an order for a pid outlives the process with what is to come back of it, and can be released there.
func TestHoldOfEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		after    time.Duration // its end
		restarts bool
	}{
		"at once":             {after: 2 * sec}, // the order is there yet
		"the order is gone":   {after: time.Minute},
		"over a restart":      {after: time.Minute, restarts: true},
		"when it is released": {after: 3 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.run(10 * sec)
			w.hold(HoldOrder{PID: 110, For: 24 * time.Hour})
			w.run(sec)
			p.exit(false)
			w.run(sec)
			if v := w.g.Recoveries(); len(v) != 1 || v[0].Next < 23*time.Hour || v[0].Next > 24*time.Hour {
				t.Errorf("%+v", v)
			}
			w.run(tt.after - sec)
			if tt.restarts {
				w.restart()
				w.run(sec)
			}
			if len(w.asked) > 0 {
				t.Fatalf("started against an order\n%s", w)
			}
			if n, err := w.g.Unhold(Selector{PID: 110}, "op"); n != 1 || err != nil {
				t.Errorf("released %d, %v", n, err)
			}
			if n, err := w.g.Unhold(Selector{PID: 110}, "op"); err == nil {
				t.Errorf("released %d once more", n)
			}
			w.run(w.cfg.Recovery.Wait + sec)
			if len(w.asked) != 1 {
				t.Errorf("%d starts\n%s", len(w.asked), w)
			}
		})
	}
}

func TestHoldErrors(t *testing.T) {
	w, _ := hung(t)
	for _, o := range []HoldOrder{
		{For: time.Hour}, {PID: 110, Name: "x", For: time.Hour}, {All: true}, {All: true, For: 8 * 24 * time.Hour}, {All: true, For: -1},
	} {
		var oe *OrderError
		if _, err := w.g.Hold(o); !errors.As(err, &oe) || oe.NoTarget {
			t.Errorf("%+v: %v", o, err)
		}
	}
	var oe *OrderError
	if _, err := w.g.Hold(HoldOrder{PID: 999, For: time.Hour}); !errors.As(err, &oe) || !oe.NoTarget {
		t.Error(err)
	}
	for i := range maxPatterns {
		w.hold(HoldOrder{Name: strings.Repeat("x", i+1), For: time.Hour})
	}
	if _, err := w.g.Hold(HoldOrder{Name: "one more", For: time.Hour}); err == nil {
		t.Error("there is no end of holds")
	}
	w.hold(HoldOrder{Name: "x", For: 2 * time.Hour}) // one that stands is replaced
	if h := w.g.Holds(); len(h) != maxPatterns || h[0].Left != 2*time.Hour {
		t.Errorf("%d holds, the first %+v", len(h), h[0])
	}
}

// wave is a world of 20 clients, 16 of which hang from now on, with the brake on.
func wave(t *testing.T) (*world, []*proc) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 130; pid++ {
		all = append(all, w.client(pid, "c", 10, 5*sec))
	}
	w.run(20 * sec)
	for _, p := range all[:16] {
		p.hang()
	}
	w.run(14 * sec)
	if b := w.g.Brake(); !b.On || b.Waiting != 16 || len(w.signals) > 0 {
		t.Fatalf("%+v, signals %v\n%s", b, w.signals, w)
	}
	return w, all
}

func TestOrderBrakeGo(t *testing.T) {
	w, all := wave(t)
	all[0].beat()
	if n := w.g.OrderBrake(true, "uid 0"); n != 16 {
		t.Errorf("%d go", n)
	}
	w.run(sec)
	if len(w.signals) != 15 || w.g.Brake().Waiting != 0 {
		t.Errorf("signals %v, %+v\n%s", w.signals, w.g.Brake(), w)
	}
}

func TestOrderBrakeStop(t *testing.T) {
	w, _ := wave(t)
	if n := w.g.OrderBrake(false, "uid 0"); n != 16 {
		t.Errorf("%d stop", n)
	}
	w.run(5 * time.Minute)
	if b := w.g.Brake(); len(w.signals) != 0 || b.Waiting != 0 || len(w.g.Holds()) != 16 {
		t.Errorf("signals %v, %+v", w.signals, w.g.Brake())
	}
	w.run(6 * time.Minute)
	if len(w.g.Holds()) != 0 || len(w.signals) == 0 {
		t.Errorf("%d holds, signals %v", len(w.g.Holds()), w.signals)
	}
}

// TestAloneInWave: one that hangs while a wave is held, among neighbours that beat
// again, is ended on time.
func TestAloneInWave(t *testing.T) {
	w, all := wave(t)
	for _, p := range all[8:16] { // the others keep the brake on
		p.every, p.next = 5*sec, w.now
	}
	w.run(2 * sec)
	all[19].hang()
	w.run(12500 * ms)
	e, off := w.find(EvCondemned, 129), w.find(EvBrakeOff, 0)
	if len(e) != 1 || len(off) > 0 && off[0].at < e[0].at || !strings.HasSuffix(e[0].Message, "ending it") || e[0].at-all[19].lastBeat > 12*sec {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestStragglerOfWave: one whose longer timeout runs out while nobody beats again
// is of the wave.
func TestStragglerOfWave(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 130; pid++ {
		timeout := int32(10)
		if pid >= 122 {
			timeout = 17
		}
		all = append(all, w.client(pid, "c", timeout, 5*sec))
	}
	w.run(20 * sec)
	for _, p := range all {
		p.hang()
	}
	w.run(20 * sec)
	if len(w.signals) > 0 || w.g.Brake().Waiting != 20 {
		t.Errorf("%s", w)
	}
}

// TestSharedChannel: three of many that are blocked on one wait channel are a wave;
// one that hangs otherwise is not of it.
func TestSharedChannel(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 160; pid++ {
		all = append(all, w.client(pid, "c", 10, 5*sec))
	}
	w.run(20 * sec)
	for i, p := range all[:3] {
		p.hang()
		p.state, p.proof = 'D', Examined{Blocked: 1, Channel: "nfs_wait_bit_killable"}
		p.next += time.Duration(i) * sec
	}
	all[49].hang()
	w.run(24 * sec)
	on := w.find(EvBrakeOn, 0)
	if len(on) != 1 || on[0].Reason != "wait channel" || !strings.Contains(on[0].Message, "nfs_wait_bit_killable") {
		t.Errorf("%v\n%s", on, w)
	}
	if e := w.find(EvCondemned, 159); len(e) != 1 || !strings.HasSuffix(e[0].Message, "ending it") {
		t.Errorf("the one that hangs alone: %v\n%s", e, w)
	}
	for _, s := range w.signals {
		if s.pid != 159 {
			t.Errorf("%v\n%s", s, w)
		}
	}
	w.run(8 * sec)
	if e := w.find(EvSignalled, 110); len(e) != 1 || e[0].at-on[0].at < brakeHold {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestReportRuleAndHold: a released one with a report rule is reported, not ended.
func TestReportRuleAndHold(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{{Action: config.ActionReport}} })
	p := w.client(110, "c", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	w.hold(HoldOrder{PID: 110, For: 30 * sec})
	w.run(2 * time.Minute)
	w.want(110, "registered held late held released late would-condemn")
}

// TestWaveBeforeItsCount: 100 clients that beat every 5 s stop at one moment, and
// their deadlines are spread over 5 s. The first is not ended while the others are
// silent as they never were.
func TestWaveBeforeItsCount(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for i := range 100 {
		p := w.client(int32(200+i), "c", 20, 5*sec)
		p.next = w.now + time.Duration(i)*50*ms
		all = append(all, p)
	}
	w.run(60 * sec)
	for _, p := range all {
		p.hang()
	}
	w.run(30 * sec)
	on := w.find(EvBrakeOn, 0)
	if len(on) != 1 || len(w.find(EvCondemned, 0)) != 100 || len(w.signals) > 0 && w.signals[0].at < on[0].at+brakeHold {
		t.Errorf("%v, signals %v\n%s", on, w.signals, w)
	}
}

// TestSingleAmongSlowNeighbours: those that beat seldom, as they always did, are no
// wave.
func TestSingleAmongSlowNeighbours(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for i := range 20 {
		all = append(all, w.client(int32(200+i), "c", 20, 19*sec))
	}
	for _, p := range all[1:] { // silent for 15 s, more than half of 22, when the first is late
		p.next -= 12 * sec
	}
	w.run(5 * time.Minute)
	all[0].hang()
	w.run(45 * sec)
	if e := w.find(EvCondemned, 200); len(e) != 1 || len(w.signals) == 0 || w.signals[0].at != e[0].at {
		t.Errorf("%v, signals %v\n%s", e, w.signals, w)
	}
	w.none(EvBrakeOn)
}
