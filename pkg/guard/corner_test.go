package guard

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Corners from which there was no way out, or a wrong one.

func stubborn(w *world, pid int32) *proc {
	p := w.client(pid, "c", 5, 0)
	p.termIn = termIgnored
	return p
}

// TestOtherLadder restarts under another ladder than the one that is under way:
// a signal that was not sent must not be taken for sent.
func TestOtherLadder(t *testing.T) {
	w := newWorld(t)
	stubborn(w, 110)
	w.in(8*sec, func() {
		w.cfg.Ladder.Steps = []config.Step{{Signal: unix.SIGKILL, Wait: 5 * sec}}
		w.restart()
	})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled signalled killed cleared")
}

// TestReportAfterRestart restarts under a rule that says report.
func TestReportAfterRestart(t *testing.T) {
	w := newWorld(t)
	stubborn(w, 110)
	w.in(8*sec, func() {
		w.cfg.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Action: config.ActionReport}}
		w.restart()
	})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled would-condemn")
}

// TestOutlived has a target outlive a ladder without SIGKILL, which then gets one.
func TestOutlived(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Ladder.Steps = c.Ladder.Steps[:1] })
	stubborn(w, 110)
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled unkillable")
	next := *w.cfg
	next.Ladder = config.Default().Ladder
	w.cfg = &next
	w.g.SetConfig(&next)
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled unkillable condemned signalled signalled killed cleared")
}

// TestBrakeUnderGaps has the brake hold while the daemon stalls again and again.
func TestBrakeUnderGaps(t *testing.T) {
	w := newWorld(t)
	for pid := int32(110); pid < 120; pid++ {
		w.client(pid, "c", 5, 0)
	}
	w.run(8 * sec)
	for range 300 {
		w.stall(3 * sec)
		w.run(4 * sec)
	}
	if n := len(w.find(EvKilled, 0)); n != 10 {
		t.Errorf("%d of 10 ended", n)
	}
}

// TestAgainInAnotherTable has a client lose its record in a table that goes, and
// register in another: a restart before that is latched must know where.
func TestAgainInAnotherTable(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, sec)
	w.run(3 * sec)
	p.wipe()
	w.post(0, TableRemoved{Table: w.tb().id})
	w.run(1100 * ms)
	other := w.addTable(8, 10)
	w.run(sec)
	p.table, p.slot = other, 3
	r := p.rec()
	copy(r.Name[:], "c")
	r.PID, r.Timeout, r.Token = 110, 5, 1
	for range 3 {
		w.run(200 * ms)
		w.restart()
	}
	w.run(10 * sec)
	w.none(EvUnguarded, EvCondemned)
	if v := w.view(110); v.Table != 8 || v.Slot != 3 {
		t.Errorf("%+v", v)
	}
}

// TestGivenUp gives a table up by order: nobody is reported, nobody is signalled.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	w.client(110, "c", 5, sec)
	stubborn(w, 111)
	w.in(8*sec, func() {
		w.post(0, Acting{Reason: "cpactive.enabled is false"})
		w.post(0, TableLost{Table: w.tb().id, Reason: "cpactive.enabled is false", Order: true})
	})
	w.run(time.Minute)
	w.none(EvUnguarded, EvKilled)
	if n := len(w.signals); n != 1 {
		t.Errorf("%d signals, one was sent before the order", n)
	}
	if v := w.g.Views(); len(v) != 0 {
		t.Errorf("%+v", v)
	}
}

// TestUnsettled has a record that is never the same twice.
func TestUnsettled(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, sec)
	p.rec().Timeout = 50
	w.run(500 * ms)
	for range 500 {
		p.rec().Timeout++
		w.run(400 * ms)
	}
	if n := len(w.find(EvChanged, 110)); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// TestChurn lets records of nobody appear and be cleared without end.
func TestChurn(t *testing.T) {
	w := newWorld(t)
	tb := w.addTable(8, 4000)
	for range 20 {
		for i := range tb.records {
			tb.records[i].PID = int32(20000 + i)
		}
		w.run(15 * sec)
	}
	if n := len(w.find(EvCleared, 0)); n < churnBurst || n > churnBurst+100*300 {
		t.Errorf("%d events of %d", n, 20*4000)
	}
}
