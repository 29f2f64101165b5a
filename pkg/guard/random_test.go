package guard

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestRandom lets faults of all kinds happen at any time. The world checks each
// signal; at the end what hangs must be gone, what is well must live, and no
// pidfd may be left over.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r)
		w.noInodes = rapid.Bool().Draw(r, "no inodes")
		w.cfg.Interval = rapid.SampledFrom([]time.Duration{100 * ms, sec, 3 * sec}).Draw(r, "interval")
		w.askDelay = rapid.SampledFrom([]time.Duration{0, 30 * ms, sec}).Draw(r, "ask delay")
		some := func() *proc {
			return w.procs[rapid.Int32Range(100, 115).Draw(r, "pid")]
		}
		slot := func() int { return rapid.IntRange(0, 19).Draw(r, "slot") }
		for range rapid.IntRange(1, 60).Draw(r, "actions") {
			w.run(time.Duration(rapid.Int64Range(0, int64(20*sec)).Draw(r, "pause")))
			w.sameSeen()
			p := some()
			switch action := rapid.IntRange(0, 15).Draw(r, "action"); {
			case p == nil: // start one, in a free slot
				pid := rapid.Int32Range(100, 115).Draw(r, "new")
				i := slot()
				// Who lost its record beats on into it: the next owner's hang is
				// hidden, and nothing can be done about that.
				if w.procs[pid] != nil || w.tb().records[i].PID != 0 || lost(w, i) {
					continue
				}
				p = w.start(pid)
				p.zombie = rapid.Bool().Draw(r, "unreaped")
				timeout := rapid.Int32Range(2, 30).Draw(r, "timeout")
				p.join(i, "c", timeout)
				p.every = time.Duration(timeout) * sec
				p.next = w.now + p.every
				p.termIn = rapid.SampledFrom([]time.Duration{termIgnored, 0, 2 * sec}).Draw(r, "on SIGTERM")
			case !p.alive: // reaped at last
				delete(w.procs, p.pid)
			case action == 0:
				p.exit(true)
			case action == 1:
				p.exit(false)
			case action <= 4:
				p.hang()
			case action == 5 && w.now-p.lastBeat < p.timeout:
				p.state = 'T'
			case action == 6 && p.state == 'T':
				p.state, p.next = 'S', w.now
			case action == 7:
				w.freeze(time.Duration(rapid.Int64Range(int64(3*sec), int64(40*sec)).Draw(r, "freeze")))
			case action == 8:
				w.stall(time.Duration(rapid.Int64Range(0, int64(40*sec)).Draw(r, "stall")))
			case action == 9:
				if w.begun {
					w.restart()
				}
			case action == 10: // a second record for it
				if i := slot(); w.tb().records[i] == (table.Record{}) && !lost(w, i) && known(w, p) && p.rec().PID == p.pid {
					w.tb().records[i] = record(p.pid, "forged", rapid.Int32Range(-1, 40).Draw(r, "forged timeout"), 1)
				}
			case action == 11: // a record of it is wiped by somebody
				// Not while a ladder is under way, which that does not stop, and not
				// so that a forged one alone is left.
				i := slot()
				if q := w.procs[w.tb().records[i].PID]; known(w, q) && w.now-q.lastBeat < q.timeout && len(viewOf(w, q.pid).Slots) == 1 {
					w.tb().records[i] = table.Record{}
				}
			case action == 12 && p != w.unreadable && w.now-p.lastBeat < p.timeout: // exec, before it is late
				p.consent, p.every = ConsentNotMapped, 0
			case action == 13 && p.consent == ConsentProven:
				w.unreadable = p
			case action == 14:
				w.signalErr = rapid.SampledFrom([]string{"", "operation not permitted"}).Draw(r, "signals")
			case action == 15: // beats again
				if p.every == 0 && p.consent == ConsentProven {
					p.every, p.next = sec, w.now
				}
			}
		}
		defer func() {
			if r.Failed() {
				r.Logf("%s", w)
			}
		}()
		w.signalErr, w.unreadable = "", nil
		w.run(10 * time.Minute)
		for _, p := range w.procs {
			records := 0
			for i := range w.tb().records {
				if w.tb().records[i].PID == p.pid {
					records++
				}
			}
			hangs := p.alive && p.every == 0 && !p.still() && p.consent == ConsentProven && records > 0
			if v := viewOf(w, p.pid); hangs && (v == nil || v.Timeout > 0) {
				r.Errorf("%d hangs and lives (%+v)\n%s", p.pid, v, w)
			}
			if !p.alive && records > 0 {
				r.Errorf("%d is dead and has %d records\n%s", p.pid, records, w)
			}
		}
		for id, p := range w.held {
			if _, known := w.g.byID[id]; !known || !p.alive {
				r.Errorf("the pidfd of target %d (pid %d) is left over\n%s", id, p.pid, w)
			}
		}
	})
}

// lost says whether a process that lives beats into a slot.
func lost(w *world, i int) bool {
	return slices.ContainsFunc(w.running, func(o *proc) bool { return o.slot == i })
}

// known says whether the record of a process was latched. Before that nobody can
// tell it from one that is forged for it, should its own be wiped.
func known(w *world, p *proc) bool {
	if p == nil {
		return false
	}
	v := viewOf(w, p.pid)
	return v != nil && w.held[v.ID] == p && v.Timeout >= p.timeout
}

func viewOf(w *world, pid int32) *View {
	for _, v := range w.g.Views() {
		if v.PID == pid {
			return &v
		}
	}
	return nil
}
