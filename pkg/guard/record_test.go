package guard

import (
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestForming has records that are torn while a client registers: only two looks
// that agree make a record.
func TestForming(t *testing.T) {
	w := newWorld(t)
	p := w.start(110)
	p.consent, p.slot = ConsentProven, 3
	*p.rec() = table.Record{PID: 110} // no name, timeout 0, token 0
	w.run(500 * ms)
	p.rec().Timeout = 1
	w.run(sec)
	copy(p.rec().Name[:], "half")
	w.run(sec)
	if v := w.view(110); v.State != "forming" {
		t.Errorf("state %s", v.State)
	}
	copy(p.rec().Name[:], "halfway")
	p.rec().Timeout = 60
	p.beat()
	w.run(20 * sec)
	w.want(110, "registered")
	if v := w.view(110); v.Name != "halfway" || v.Timeout != 60*sec || v.State != "guarded" {
		t.Errorf("%+v", v)
	}
}

// TestLeftovers has pid 0 with whatever behind it.
func TestLeftovers(t *testing.T) {
	w := newWorld(t)
	w.tb().records[3] = record(0, "left", 5, 12345)
	w.run(60 * sec)
	w.want(0, "acting table-attached")
	// A client that writes its record before its pid.
	p := w.start(110)
	w.tb().records[3] = record(0, "late", 5, 22345)
	w.run(1500 * ms)
	p.join(3, "late", 5)
	p.every, p.next = 5*sec, w.now+5*sec
	w.run(60 * sec)
	w.want(0, "acting table-attached registered")
}

func TestTimeoutZero(t *testing.T) {
	for _, timeout := range []int32{0, -5} {
		w := newWorld(t)
		p := w.client(110, "", timeout, 0)
		w.run(time.Hour)
		w.want(110, "registered ignored")
		if v := w.view(110); v.State != "ignored" {
			t.Errorf("state %s", v.State)
		}
		p.every, p.next = 3*sec, w.now
		w.run(time.Minute)
		// A record forged for it, with a timeout, changes nothing.
		w.tb().records[50] = record(110, "forged", 2, 1)
		p.hang()
		w.run(time.Minute)
		w.none(EvLate)
		w.tb().records[50] = table.Record{}
		w.run(5 * sec)
		p.exit(false)
		w.run(5 * sec)
		w.want(110, "registered ignored changed exited cleared")
	}
}

// TestChanged has name and timeout changed under way.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "first", 10, 5*sec)
	w.run(5 * sec)
	p.rec().Name = record(0, "second", 0, 0).Name
	p.rec().Timeout = 2
	w.run(30 * sec)
	w.want(110, "registered changed changed")
	if v := w.view(110); v.Name != "first" || v.Timeout != 10*sec {
		t.Errorf("%+v", v)
	}
	p.rec().Timeout, p.timeout = 40, 40*sec
	w.run(5 * sec)
	if v := w.view(110); v.Timeout != 40*sec {
		t.Errorf("%+v", v)
	}
	if e := w.find(EvChanged, 110); len(e) != 3 || e[2].Reason != "timeout raised" {
		t.Errorf("%v", e)
	}
	p.hang()
	w.run(60 * sec)
	if late := w.find(EvLate, 110)[0].at - p.lastBeat; late < 44*sec || late > 45*sec {
		t.Errorf("late after %v", late)
	}

	// Garbage behind the NUL is no name.
	w = newWorld(t)
	p = w.client(110, "first", 10, 5*sec)
	w.run(5 * sec)
	p.rec().Name[30] = 'x'
	w.run(5 * sec)
	w.want(110, "registered")
}

// TestRaisedAtTheDeadline has the timeout raised while the evidence is gathered,
// and while the brake holds.
func TestRaisedAtTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.askDelay = 1200 * ms
	p := w.client(110, "c", 10, 0)
	w.in(11500*ms, func() { p.rec().Timeout, p.timeout = 30, 30*sec })
	w.run(30 * sec)
	w.want(110, "registered late changed")
	w.run(15 * sec)
	w.want(110, "registered late changed late condemned signalled signalled killed cleared")
}

func TestSeveralRecords(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "two", 10, 5*sec)
	w.run(5 * sec)
	w.tb().records[50] = record(110, "other", 20, 1)
	w.run(30 * sec)
	w.want(110, "registered changed")
	p.timeout = 20 * sec
	// Beats into the second record count as well.
	p.hang()
	for range 20 {
		w.tb().records[50].Token++
		p.lastBeat = w.now
		w.run(5 * sec)
	}
	w.want(110, "registered changed")
	if v := w.view(110); len(v.Slots) != 2 || v.Timeout != 20*sec {
		t.Errorf("%+v", v)
	}
	w.run(60 * sec)
	w.want(110, "registered changed late condemned signalled signalled killed cleared cleared")
}

// TestForged has records that name others.
func TestForged(t *testing.T) {
	t.Run("no such record", func(t *testing.T) {
		w := newWorld(t)
		w.tb().records[3] = record(-1, "all", 1, 1)
		w.tb().records[4] = record(1, "init", 1, 1)
		w.tb().records[5] = record(-110, "group", 1, 1)
		w.run(time.Hour)
		w.want(-1, "refused")
		w.want(1, "refused")
		w.want(-110, "refused")
		if w.clears != 0 || w.tb().records[4].PID != 1 {
			t.Error("touched")
		}
	})
	t.Run("victim", func(t *testing.T) {
		w := newWorld(t)
		victim := w.start(110)
		w.tb().records[3] = record(110, "victim", 2, 1)
		w.run(10 * time.Minute)
		if n := len(w.find(EvLate, 110)); n != 1 {
			t.Errorf("%d times late", n)
		}
		w.none(EvCondemned, EvSignalled, EvCleared)
		if e := w.find(EvRefused, 110); len(e) < 1 || len(e) > 3 || e[0].Verdict != "forged" {
			t.Errorf("%v", e)
		}
		// It joins later: then it is a client as any other.
		victim.join(3, "victim", 10)
		w.run(3 * time.Minute)
		w.want(110, w.stories(110)+" killed cleared")
	})
	t.Run("before it registers", func(t *testing.T) {
		// It registers just when it is judged by the forged record.
		for offset := time.Duration(0); offset < 70*sec; offset += 300 * ms {
			w := newWorld(t, func(c *config.Config) { c.Interval = 3 * sec })
			victim := w.start(110)
			w.tb().records[3] = record(110, "forged", 1, 1)
			w.run(10*sec + offset)
			victim.join(4, "victim", 30)
			victim.every, victim.next = 30*sec, w.now+30*sec
			w.run(2 * time.Minute)
			w.none(EvSignalled)
		}
	})
	t.Run("second record", func(t *testing.T) {
		// A client that hardly ever beats, and a second record with a short
		// timeout, and the first wiped, and its name one of a strict rule.
		w := newWorld(t)
		w.client(110, "slow", 100, 100*sec)
		w.run(10 * sec)
		w.tb().records[50] = record(110, "forged", 1, 1)
		w.run(30 * sec)
		w.tb().records[10] = table.Record{}
		w.run(30 * sec)
		w.tb().records[50] = table.Record{}
		w.run(2 * sec)
		w.tb().records[10] = record(110, "forged", 1, 1)
		w.run(300 * sec)
		w.none(EvLate, EvSignalled)
	})
}

func (w *world) stories(pid int32) string {
	s := ""
	for i, name := range w.story(pid) {
		if i > 0 {
			s += " "
		}
		if name == string(EvKilled) {
			return s[:len(s)-1]
		}
		s += name
	}
	return s
}

// TestOrphan has a record whose process ended before the daemon came.
func TestOrphan(t *testing.T) {
	for _, timeout := range []int32{5, 60, 0} {
		w := newWorld(t)
		w.tb().records[3] = record(110, "gone", timeout, 1)
		still := max(time.Duration(timeout)*sec, orphanMin)
		w.run(still - 100*ms)
		w.want(110, "")
		w.run(2 * sec)
		w.want(110, "cleared")
		if w.tb().records[3].PID != 0 || w.clears != 1 {
			t.Error("not cleared")
		}
		if got := w.find(EvCleared, 110)[0]; got.Reason == "its process ended" {
			t.Errorf("%s", got.Message)
		}
	}
	t.Run("reused just before", func(t *testing.T) {
		w := newWorld(t)
		w.tb().records[3] = record(110, "gone", 20, 1)
		w.run(19 * sec)
		w.start(110) // somebody new under the number
		w.run(time.Hour)
		if w.tb().records[3].PID != 110 || w.clears != 0 {
			t.Error("cleared")
		}
		w.none(EvCondemned, EvCleared, EvRegistered)
	})
	t.Run("reused by a client", func(t *testing.T) {
		w := newWorld(t)
		w.tb().records[3] = record(110, "gone", 20, 1)
		w.run(5 * sec)
		w.client(110, "c", 5, 5*sec)
		w.run(time.Hour)
		w.want(110, "registered changed")
		if len(w.held) != 1 {
			t.Errorf("%d targets for one process", len(w.held))
		}
	})
	for _, moved := range []bool{false, true} {
		t.Run("taken over by a client", func(t *testing.T) {
			// It finds the record under its own pid, and goes on with it.
			w := newWorld(t)
			w.tb().records[10] = record(110, "c", 60, 1)
			w.run(5 * sec)
			if moved {
				w.tb().records[10].Token++
				w.run(5 * sec)
			}
			w.start(110).join(10, "c", 60)
			w.run(5 * sec)
			p := w.procs[110]
			p.every, p.next = 20*sec, w.now
			w.run(5 * time.Minute)
			p.hang()
			w.run(5 * time.Minute)
			if got := w.story(110); got[len(got)-1] != "cleared" || len(w.signals) != 2 {
				t.Errorf("%s", w)
			}
		})
	}
	t.Run("not while observing", func(t *testing.T) {
		w := newWorld(t)
		w.acts = false
		w.tb().records[3] = record(110, "gone", 5, 1)
		w.run(time.Hour)
		if w.clears != 0 {
			t.Error("cleared")
		}
		w.post(0, Acting{Acts: true})
		w.run(5 * sec)
		w.want(110, "cleared")
	})
}

// TestForeign has a record whose token moves under a pid that is nobody here.
func TestForeign(t *testing.T) {
	w := newWorld(t)
	w.tb().records[3] = record(110, "elsewhere", 5, 1)
	for range 10 {
		w.run(8 * sec)
		w.tb().records[3].Token++
	}
	w.run(time.Hour)
	w.want(110, "foreign")
	if w.clears != 0 {
		t.Error("cleared")
	}
}

// TestCannotOpen has a process that cannot be opened: never taken for gone.
func TestCannotOpen(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	p.sight, p.reason = SightError, "operation not permitted"
	w.run(time.Hour)
	w.want(110, "refused")
	if w.clears != 0 || p.rec().PID != 110 {
		t.Error("cleared")
	}
	p.sight = SightVerified
	w.run(2 * time.Minute)
	w.want(110, "refused registered late condemned signalled signalled killed cleared")
}

func TestExit(t *testing.T) {
	t.Run("clean", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 5*sec)
		w.run(8200 * ms)
		p.exit(true)
		w.run(20 * sec)
		w.want(110, "registered unregistered")
	})
	t.Run("wiped first", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 5*sec)
		w.run(8200 * ms)
		p.wipe()
		w.in(3*sec, func() { p.exit(false) })
		w.run(20 * sec)
		w.want(110, "registered unregistered")
	})
	t.Run("crash", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 5*sec)
		w.run(8200 * ms)
		p.exit(false)
		w.run(0)
		w.want(110, "registered exited cleared")
		if e := w.find(EvCleared, 110)[0]; e.at != w.now || w.tb().records[10].PID != 0 {
			t.Error("not at once")
		}
		w.run(20 * sec)
		w.want(110, "registered exited cleared")
	})
	t.Run("while forming", func(t *testing.T) {
		w := newWorld(t)
		w.run(100 * ms)
		p := w.client(110, "c", 5, 5*sec)
		w.run(sec)
		p.exit(false)
		w.run(20 * sec)
		w.want(110, "cleared")
	})
	t.Run("unreaped", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "c", 5, 5*sec)
		p.zombie = true
		w.run(8 * sec)
		p.exit(false)
		w.run(20 * sec)
		w.want(110, "registered exited cleared unreaped")
	})
	t.Run("while observing", func(t *testing.T) {
		w := newWorld(t)
		w.acts = false
		a, b := w.client(110, "c", 5, 5*sec), w.client(120, "c", 5, 5*sec)
		w.run(8 * sec)
		a.exit(false)
		b.exit(true)
		w.in(300*ms, func() { w.tb().records[10].PID = 0 }) // by the guard that acts
		w.run(20 * sec)
		w.want(110, "registered exited")
		w.want(120, "registered unregistered")
		if w.clears != 0 {
			t.Error("cleared")
		}
	})
}

// TestReused has the number of an ended process taken by another before its
// record was cleared.
func TestReused(t *testing.T) {
	t.Run("taken over", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "old", 5, 5*sec)
		w.run(8100 * ms)
		p.exit(false)
		next := w.start(110)
		next.join(10, "new", 30)
		next.every, next.next = 30*sec, w.now+30*sec
		w.run(5 * time.Minute)
		w.want(110, "registered exited registered")
		if v := w.view(110); v.Name != "new" || v.Timeout != 30*sec || w.tb().records[10].PID != 110 {
			t.Errorf("%+v", v)
		}
	})
	t.Run("not a client", func(t *testing.T) {
		w := newWorld(t)
		p := w.client(110, "old", 5, 5*sec)
		w.run(8100 * ms)
		p.exit(false)
		w.start(110)
		w.run(5 * time.Minute)
		w.none(EvCondemned, EvSignalled)
		if v := w.view(110); v.Verdict != "forged" || v.State != "refused" {
			t.Errorf("%+v", v)
		}
	})
}

// TestWipedAlive has the record of a live client wiped by a child that exits.
func TestWipedAlive(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "parent", 5, 0)
	w.run(3 * sec)
	p.wipe()
	w.run(2 * time.Minute)
	w.want(110, "registered unguarded")
	if v := w.view(110); v.State != "unguarded" {
		t.Errorf("%+v", v)
	}
	// It goes on beating into the record with pid 0: said once.
	p.every, p.next = 4*sec, w.now
	w.run(2 * time.Minute)
	w.want(0, "acting table-attached registered unguarded")
	// And comes back.
	p.join(10, "parent", 5)
	w.run(2 * time.Minute)
	w.want(110, "registered unguarded")
	if v := w.view(110); v.State != "guarded" {
		t.Errorf("%+v", v)
	}
	p.exit(true)
	w.run(time.Minute)
	w.want(110, "registered unguarded unregistered")
}

// TestLostBeat has somebody unknown beat into a record with pid 0.
func TestLostBeat(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.run(4 * sec)
		w.tb().records[3].Token++
	}
	w.want(0, "acting table-attached unguarded")
}

// TestLeft has a client that detaches and lives on.
func TestLeft(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 5, 0)
	w.run(3 * sec)
	p.wipe()
	p.consent = ConsentNotMapped
	w.run(time.Minute)
	w.want(110, "registered unregistered")
	if len(w.held) != 0 {
		t.Error("its pidfd is still held")
	}
}

func TestFull(t *testing.T) {
	w := newWorld(t)
	for pid := int32(100); pid < 193; pid++ {
		w.client(pid, "c", 60, 30*sec)
	}
	w.run(5 * sec)
	w.none(EvTableFull)
	for pid := int32(193); pid < 196; pid++ {
		w.client(pid, "c", 60, 30*sec)
	}
	w.run(5 * sec)
	for pid := int32(196); pid < 200; pid++ {
		w.client(pid, "c", 60, 30*sec)
	}
	w.run(5 * sec)
	for pid := int32(150); pid < 200; pid++ {
		w.procs[pid].exit(true)
	}
	w.run(5 * sec)
	for pid := int32(250); pid < 300; pid++ {
		w.client(pid, "c", 60, 30*sec)
	}
	w.run(5 * sec)
	var got []string
	for _, e := range w.find(EvTableFull, 0) {
		got = append(got, e.Reason)
	}
	if len(got) != 3 || got[0] != "nearly full" || got[1] != "full" || got[2] != "full" {
		t.Errorf("%q", got)
	}
	if n := w.g.Tally(); n.Used != 100 || n.Slots != 100 || n.Guarded != 100 {
		t.Errorf("%+v", n)
	}
}

// TestRemoved has a table removed under its clients, and a new one beside it.
func TestRemoved(t *testing.T) {
	w := newWorld(t)
	p, q := w.client(110, "c", 5, 5*sec), w.client(111, "hangs", 50, 0)
	w.run(5 * sec)
	w.post(0, TableRemoved{7})
	w.post(0, TableRemoved{7})
	w.run(5 * sec)
	w.addTable(8, 100)
	w.post(0, TableAttached{Table: 8, Slots: 100, Created: true})
	n := w.start(120)
	n.table = w.tables[1]
	n.join(5, "new", 5)
	n.every, n.next = 5*sec, w.now+5*sec
	w.run(80 * sec)
	w.want(0, "acting table-attached registered registered table-lost table-attached registered late condemned signalled signalled killed cleared")
	w.want(q.pid, "registered late condemned signalled signalled killed cleared")
	if len(w.asked) != 0 {
		t.Errorf("%v before the last was gone", w.asked)
	}
	p.exit(true)
	w.run(10 * sec)
	if len(w.asked) != 1 || w.asked[0] != (DropTable{7}) {
		t.Errorf("%v", w.asked)
	}
	if ids := w.g.TableIDs(); len(ids) != 1 || ids[0] != 8 {
		t.Errorf("%v", ids)
	}
	w.want(120, "registered")
}

func TestTableLost(t *testing.T) {
	w := newWorld(t)
	w.client(110, "c", 5, 5*sec)
	w.run(5 * sec)
	w.post(0, TableLost{Table: 7, Reason: "detached"})
	w.tables = nil
	w.run(20 * sec)
	w.want(110, "registered unguarded")
	if w.clears != 0 {
		t.Error("cleared")
	}
}

// TestNoise has a writer of the table change all of it in each scan.
func TestNoise(t *testing.T) {
	w := newWorld(t)
	n := int32(0)
	for range 600 {
		for i := range w.tb().records {
			n++
			w.tb().records[i] = record(-n, "x", 1, int64(n))
		}
		w.run(sec)
	}
	if got := len(w.find(EvRefused, 0)); got > noiseBurst+600 || got < 600 {
		t.Errorf("%d events", got)
	}
	w.tb().records = w.tb().records[:0]

	// The same with processes that did not join, late and beating by turns.
	w = newWorld(t)
	for pid := int32(100); pid < 200; pid++ {
		w.start(pid)
		w.tb().records[pid-100] = record(pid, "x", 1, 1)
	}
	for range 600 {
		w.run(3 * sec)
		for i := range w.tb().records {
			w.tb().records[i].Token++
		}
	}
	if got := len(w.events); got > noiseBurst+1800+10 {
		t.Errorf("%d events", got)
	}
	w.none(EvCondemned)
}
