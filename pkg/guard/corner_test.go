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
		if len(w.find(EvKilled, 0)) == 10 {
			break
		}
	}
	if n := len(w.find(EvKilled, 0)); n != 10 || w.g.Attention() > 45*sec { // 24.4 s; 68.85 s where each gap puts the brake off
		t.Errorf("%d of 10 ended after %v", n, w.g.Attention())
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

// TestTracerThenExec has a target exec something else while its tracer excuses
// it: after the hour it must not be signalled on consent that is as old.
func TestTracerThenExec(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	p.look.Tracer = 4711
	w.in(30*time.Minute, func() { p.consent = ConsentNotMapped })
	w.run(3 * time.Hour)
	w.none(EvCondemned, EvSignalled)
}

// TestLetGoAndBack lets one of a wave go, which beats again in a stall: in the
// next wave it waits like all others.
func TestLetGoAndBack(t *testing.T) {
	w := newWorld(t)
	var all []*proc
	for pid := int32(110); pid < 120; pid++ {
		all = append(all, w.client(pid, "c", 5, 0))
	}
	w.askDelay = 500 * ms
	w.run(16600 * ms) // the first was let go, its consent is asked
	w.stall(4 * sec)
	w.run(100 * ms)
	for _, p := range all {
		p.every, p.next = sec, w.now
	}
	w.run(10 * time.Minute)
	signals := len(w.signals)
	for _, p := range all {
		p.hang()
	}
	w.run(12 * sec)
	if n := len(w.signals); n != signals || !w.g.Brake().On {
		t.Errorf("%d signals in the hold of the second wave", n-signals)
	}
}

// TestAlwaysLate has every wake come late: a hang is found all the same, and said
// once.
func TestAlwaysLate(t *testing.T) {
	for _, by := range []time.Duration{800 * ms, 1200 * ms} {
		w := newWorld(t)
		w.askDelay = 5 * ms
		w.client(110, "c", 5, 0)
		for range 600 {
			w.stall(by + attentionStep)
			w.run(by + attentionStep + ms)
		}
		if late, killed := len(w.find(EvLate, 110)), len(w.find(EvKilled, 110)); late > 3 || killed != 1 {
			t.Errorf("late by %v: said late %d times, killed %d", by, late, killed)
		}
	}
}

// TestVerdictNotDrowned has the bucket for forgeries empty: what comes of a verdict
// is said all the same.
func TestVerdictNotDrowned(t *testing.T) {
	w := newWorld(t)
	w.client(110, "c", 5, 0)
	w.signalErr = "operation not permitted"
	w.run(3 * sec)
	w.g.noise = bucket{refill: time.Hour} // as if a forger had emptied it
	w.run(30 * sec)
	if n := len(w.find(EvRefused, 110)); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestReportStopsLadder reloads a rule that says report in the middle of a ladder.
func TestReportStopsLadder(t *testing.T) {
	w := newWorld(t)
	stubborn(w, 110)
	w.in(8*sec, func() {
		next := *w.cfg
		next.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Action: config.ActionReport}}
		w.cfg = &next
		w.g.SetConfig(&next)
	})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled would-condemn")
}

// TestRightComesBack loses and regains the right to act before a slow worker says
// that it was cancelled.
func TestRightComesBack(t *testing.T) {
	w := newWorld(t)
	stubborn(w, 110)
	w.in(8*sec, func() {
		w.post(0, Acting{Reason: "lost"})
		w.post(0, Acting{Acts: true})
	})
	w.run(time.Minute)
	w.want(110, "registered late condemned signalled condemned signalled signalled killed cleared")
}

// TestReadOnlyTable has a client crash in a table that can only be read.
func TestReadOnlyTable(t *testing.T) {
	w := newWorld(t)
	w.readOnly = true
	p := w.client(110, "c", 5, sec)
	w.run(3 * sec)
	p.exit(false)
	w.run(5 * time.Minute)
	w.want(110, "registered exited")
}

// TestEndedInTwoTables has a target end whose first record is cleared, while one in
// another table never settles: it must know where that is, or what is saved then
// is refused.
func TestEndedInTwoTables(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, sec)
	w.run(3 * sec)
	other := w.addTable(8, 10)
	w.post(0, TableAttached{Table: 8, Slots: 10})
	w.run(sec)
	other.records[3] = record(110, "c", 5, 1)
	for range 5 {
		other.records[3].Timeout++
		w.run(400 * ms)
	}
	p.exit(false)
	other.records[3].Timeout++
	w.run(500 * ms)
	if v := w.tb().records[10].PID; v != 0 {
		t.Fatalf("the first record was not cleared: %d", v)
	}
	for ix := range w.g.targets {
		if o := &w.g.targets[ix]; o.used && o.pid == 110 && (o.state != Ended || o.table != 8 || o.slot != 3) {
			t.Errorf("%s, in slot %d of table %d, %d slots, %d latched", o.state, o.slot, o.table, o.slots, o.latched)
		}
	}
}

// TestCollateralOvertakes has the exit notice of a neighbour come before the report
// of the signal that led to it.
func TestCollateralOvertakes(t *testing.T) {
	w := newWorld(t)
	a, b := w.client(110, "a", 60, 5*sec), w.client(111, "b", 60, 5*sec)
	a.facts.PGID, b.facts.PGID = 90, 90
	w.run(3 * sec)
	ta, tb := &w.g.targets[w.g.byPID[110]], &w.g.targets[w.g.byPID[111]]
	ta.inLadder = true // its ladder began, and has not reported yet
	w.g.Step(w.now, Exited{Target: tb.id})
	found := false
	for _, d := range w.g.Step(w.now+ms, LadderReport{Target: ta.id, Kind: LadderSignalled, Signal: "SIGTERM"}) {
		e, ok := d.(*Event)
		found = found || ok && e.Name == EvCollateral && e.PID == 111
	}
	if !found {
		t.Error("not reported")
	}
}

// TestNamesake has a client of another pid namespace, and a process here with its
// number: the end of that one says nothing about the record.
func TestNamesake(t *testing.T) {
	w := newWorld(t)
	w.tb().records[10] = record(110, "foreign", 5, 1)
	p := w.start(110) // maps no table
	for i := range 200 {
		w.tb().records[10].Token++
		w.run(sec)
		if i == 20 {
			p.exit(false)
		}
	}
	w.none(EvCleared, EvCondemned)
	if n := len(w.find(EvForeign, 110)); n != 1 {
		t.Errorf("said foreign %d times", n)
	}
}
