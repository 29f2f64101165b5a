package guard

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

func groupRule(name string) config.Rule {
	scope := config.ScopeCgroup
	return config.Rule{Match: config.Match{Name: name}, Ladder: config.RuleLadder{Scope: &scope,
		Steps: []config.Step{{Signal: unix.SIGTERM, Wait: 5 * sec}, {Signal: unix.SIGKILL, Wait: 5 * sec}}}}
}

// groupLadders are those under way whose signals go to a whole cgroup.
func (w *world) groupLadders() (n int) {
	for _, l := range w.ladders {
		if l.Scope == config.ScopeCgroup {
			n++
		}
	}
	return n
}

// TestGroupSparesTheHeld: a neighbour that hangs too, but is not to be ended (an
// order, a report rule), keeps signals from the whole cgroup.
func TestGroupSparesTheHeld(t *testing.T) {
	for name, keep := range map[string]func(w *world){
		"order":  func(w *world) { w.hold(HoldOrder{PID: 120, For: time.Hour}) },
		"report": func(w *world) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) {
				c.Rules = []config.Rule{groupRule("c")}
				if name == "report" {
					c.Rules = append(c.Rules, config.Rule{Match: config.Match{Name: "kept"}, Action: config.ActionReport})
				}
			})
			a, b := w.client(110, "c", 10, 5*sec), w.client(120, "kept", 10, 5*sec)
			a.proof.Members, b.proof.Members = []int32{110, 120}, []int32{110, 120}
			w.run(20 * sec)
			keep(w)
			b.hang()
			w.run(15 * sec)
			a.hang()
			w.run(14 * sec)
			if w.groupLadders() > 0 || len(w.ladders) != 1 {
				t.Errorf("%d ladders for the whole cgroup, of %d; %+v\n%s", w.groupLadders(), len(w.ladders), w.view(120), w)
			}
		})
	}
}

// TestGroupLadderAndChange: while a cgroup gets its ladder, one of its members is
// held by an order, or is well again, or is new and well.
func TestGroupLadderAndChange(t *testing.T) {
	for name, change := range map[string]func(w *world, b *proc){
		"held": func(w *world, b *proc) { w.hold(HoldOrder{PID: 120, For: time.Hour}) },
		"well": func(w *world, b *proc) { b.beat(); b.every, b.next = 2*sec, w.now+2*sec },
		"new":  func(w *world, b *proc) { b.exit(true); w.client(120, "new", 10, 2*sec) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{groupRule("c")} })
			a, b := w.client(110, "c", 10, 5*sec), w.client(120, "other", 10, 5*sec)
			a.proof.Members, b.proof.Members = []int32{110, 120}, []int32{110, 120}
			w.run(20 * sec)
			a.hang()
			b.hang()
			w.run(13 * sec)
			if w.groupLadders() != 1 || len(w.signals) == 0 {
				t.Fatalf("%d ladders for the cgroup\n%s", w.groupLadders(), w)
			}
			change(w, b)
			w.run(3 * sec) // SIGKILL for all comes after 5 s
			if w.groupLadders() != 0 {
				t.Errorf("the ladder for the whole cgroup goes on\n%s", w)
			}
		})
	}
}

// TestStoppedWhileWaiting: who is given one more timeout, and is stopped for nearly
// all of it, has not had it.
func TestStoppedWhileWaiting(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	w.run(12 * sec)
	w.want(110, "registered late waiting")
	p.state = 'T'
	w.run(p.lastBeat + 20500*ms - w.now)
	p.state = 'S'
	p.every, p.next = 5*sec, w.now+4*sec
	w.run(3 * sec)
	if len(w.signals) > 0 {
		t.Errorf("signalled 1 s after a stop of 8 s: %v\n%s", w.signals, w)
	}
}

// TestStoppedWhileHeldByOrder: an operator holds a client, stops it, lets it go on,
// and then ends his order: it was late, and then stopped for long.
func TestStoppedWhileHeldByOrder(t *testing.T) {
	w, p := hung(t)
	w.hold(HoldOrder{PID: 110, For: time.Hour})
	w.run(15 * sec)
	p.state = 'T'
	w.run(10 * time.Minute)
	p.state = 'S'
	p.every, p.next = 5*sec, w.now+5*sec
	w.run(500 * ms)
	if _, err := w.g.Unhold(Selector{PID: 110}, ""); err != nil {
		t.Fatal(err)
	}
	w.run(3 * sec)
	if len(w.signals) > 0 {
		t.Errorf("signalled 1 s after a stop of 10 min: %v\n%s", w.signals, w)
	}
}

// TestTwoChannels: two hung mounts at the same time are two waves, not one.
func TestTwoChannels(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 160; pid++ {
		all = append(all, w.client(pid, "c", 10, 5*sec))
	}
	w.run(20 * sec)
	for i, p := range all[:6] {
		p.hang()
		p.state, p.proof = 'D', Examined{Blocked: 1, Channel: []string{"nfs_wait_bit_killable", "jbd2_log_wait_commit"}[i%2]}
	}
	w.run(24 * sec)
	if len(w.signals) > 0 || w.g.Brake().Waiting != 6 {
		t.Errorf("signals %v, %+v\n%s", w.signals, w.g.Brake(), w)
	}
}

// TestBrakeGoesForNobody: all that the brake holds beat just when it is told to let
// them go; what is saved then has to be read again, and the brake must not get
// stuck.
func TestBrakeGoesForNobody(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Name: "told"}, Action: config.ActionReport}}
	})
	var all []*proc
	for pid := int32(110); pid < 130; pid++ {
		name := "c"
		if pid >= 118 {
			name = "told" // only reported
		}
		all = append(all, w.client(pid, name, 10, 5*sec))
	}
	w.run(20 * sec)
	for _, p := range all {
		p.hang()
	}
	w.run(12500 * ms)
	if b := w.g.Brake(); !b.On || b.Waiting == 0 {
		t.Fatalf("%+v\n%s", b, w)
	}
	for _, p := range all[:8] {
		p.beat()
	}
	w.g.OrderBrake(true, "")
	w.g.nextScan = w.now // the order is opened in the wake of a scan
	w.wake()
	if _, err := Restore(w.cfg, w.g.Save(nil)); err != nil {
		t.Errorf("a restart forgets everything: %v; %+v\n%s", err, w.g.brake, w)
	}
}

// TestBrakeGoIsOver: an order to let go is for those that are held then, not for
// those that the brake takes in afterwards.
func TestBrakeGoIsOver(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 130; pid++ {
		all = append(all, w.client(pid, "c", 10, 5*sec))
	}
	w.run(20 * sec)
	for _, p := range all[:14] {
		p.hang()
	}
	w.run(5500 * ms) // a beat later
	for _, p := range all[14:] {
		p.hang()
	}
	w.run(8 * sec)
	if b := w.g.Brake(); !b.On || b.Waiting != 14 {
		t.Fatalf("%+v\n%s", b, w)
	}
	w.g.OrderBrake(true, "uid 0")
	w.run(4500 * ms)
	late := 0
	for _, s := range w.signals {
		if s.pid >= 124 {
			late++
		}
	}
	if late > 2 {
		t.Errorf("%d of the 6 that the brake took in after the order got a signal, each second %d are let go\n%s", late, w.g.brake.rate, w)
	}
}

// TestAloneAfterGap: silences that a gap begins anew are no beats.
func TestAloneAfterGap(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 150; pid++ {
		timeout := int32(10)
		if pid >= 131 {
			timeout = 300
		}
		all = append(all, w.client(pid, "c", timeout, 5*sec))
	}
	w.run(20 * sec)
	for _, p := range all {
		p.hang()
	}
	w.run(14 * sec)
	if b := w.g.Brake(); !b.On || b.Waiting != 21 {
		t.Fatalf("%+v\n%s", b, w)
	}
	w.freeze(time.Minute)
	w.run(sec)
	for i, p := range all[:3] { // three show life, once; 37 of 40 do not
		w.in(time.Duration(i)*2*sec, p.beat)
	}
	w.run(15 * sec)
	off := w.find(EvBrakeOff, 0)
	for _, e := range w.find(EvCondemned, 0) {
		if len(off) > 0 && e.at >= off[0].at {
			break
		}
		if e.PID < 113 && strings.Contains(e.Message, "ending it") {
			t.Errorf("it passed the brake, while 3 of 40 have beaten since that came on: %v %s", e.at-1000*sec, e.Message)
		}
	}
}

// TestBrakeStopKeepsHolds: an order to the brake does not shorten one that stands.
func TestBrakeStopKeepsHolds(t *testing.T) {
	w, _ := wave(t)
	w.hold(HoldOrder{PID: 110, For: 24 * time.Hour, Reason: "do not touch"})
	w.g.OrderBrake(false, "uid 0")
	for _, h := range w.g.Holds() {
		if h.PID == 110 && h.Left < time.Hour {
			t.Errorf("held for %v more, 24 h were ordered: %+v", h.Left, h)
		}
	}
}

// TestResumeWithoutEvidence: a ladder for a cgroup goes on after a restart, also if
// the evidence never comes.
func TestResumeWithoutEvidence(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Rules = []config.Rule{groupRule("c")} })
	p := w.client(110, "c", 10, 5*sec)
	p.proof.Members = []int32{110}
	w.run(20 * sec)
	p.hang()
	w.run(13 * sec)
	if len(w.signals) != 1 || w.groupLadders() != 1 {
		t.Fatalf("%s", w)
	}
	w.proofDelay = 24 * time.Hour
	w.restart()
	w.run(10 * time.Minute)
	if len(w.signals) < 2 {
		t.Errorf("hangs for 10 min: %+v\n%s", w.view(110), w)
	}
}

// TestReportedLines: an episode that is only reported does not fill the journal.
func TestReportedLines(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Verdict.Hung = config.RespondReport })
	p := w.client(110, "c", 10, 5*sec)
	w.run(20 * sec)
	p.hang()
	w.run(24 * time.Hour)
	if n, c := len(w.find(EvWouldCondemn, 110)), w.g.Count().Would; n > 30 || c > 30 {
		t.Errorf("one episode of a day is reported %d times, counted %d times", n, c)
	}
}

// TestVerdictReportStopsLadder: who is only to be reported now gets no more
// signals: by a reload, or by the configuration of the next daemon.
func TestVerdictReportStopsLadder(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w, _ := hung(t)
		w.run(13 * sec)
		if len(w.signals) != 1 {
			t.Fatalf("%s", w)
		}
		c := *w.cfg
		c.Verdict.Hung = config.RespondReport
		w.cfg = &c
		if restart {
			w.restart()
		} else {
			w.g.SetConfig(&c)
		}
		w.run(30 * sec)
		if len(w.signals) != 1 {
			t.Errorf("restart %v: signals %v\n%s", restart, w.signals, w)
		}
	}
}

// TestRestoreHoldOfNothing: an order that is for nobody holds everybody.
func TestRestoreHoldOfNothing(t *testing.T) {
	w, _ := hung(t)
	for name, h := range map[string]hold{
		"nobody":           {},
		"a pid without id": {Selector: Selector{PID: 110}},
		"several":          {Selector: Selector{PID: 110, Name: "x", All: true}, id: w.g.targets[0].id},
	} {
		h.until = w.g.clock.last + time.Hour
		w.g.holds = []hold{h}
		g, err := Restore(w.cfg, w.g.Save(nil))
		if err == nil && len(g.Holds()) > 0 {
			t.Errorf("%s: taken, holds %d", name, g.Holds()[0].Targets)
		}
	}
}

// TestOverlappingHolds: the end of one order does not claim what another forbids.
func TestOverlappingHolds(t *testing.T) {
	w, _ := hung(t)
	w.hold(HoldOrder{PID: 110, For: time.Hour})
	w.hold(HoldOrder{Name: "*", For: time.Hour})
	w.run(15 * sec)
	if _, err := w.g.Unhold(Selector{Name: "*"}, "uid 0"); err != nil {
		t.Fatal(err)
	}
	w.run(sec)
	for _, e := range w.find(EvReleased, 0) {
		if e.Reason == "order" && strings.Contains(e.Message, "acting on 2 targets again") {
			t.Errorf("one of them is held still: %s", e.Message)
		}
	}
}
