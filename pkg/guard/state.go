package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// StateVersion is the version of the bytes that Save writes. It changes with
// every change of their meaning; another version is never read.
const StateVersion = 14

// maxSlots bounds what a damaged state can make Restore allocate; the daemon
// attaches 16 tables of 100000 records at most.
const maxSlots = 1 << 21

// maxTime bounds all times of a saved state: no host is up for a century. Sums
// of two do not overflow.
const maxTime = 100 * 365 * 24 * time.Hour

// maxGauges bounds the limits of one target.
const maxGauges = 256

// leastTarget is how many bytes a saved target takes at least. What Restore makes room
// for must have its bytes: a count that is damaged costs no memory.
const leastTarget = 292

// savedTarget is how many bytes a usual target takes, with its record and its habit.
const savedTarget = 512

var errState = errors.New("saved state is damaged")

// Save appends the state to buf: all that a restart must not lose. It is read
// back by [Restore]; little endian, no alignment.
func (g *Guard) Save(buf []byte) []byte {
	// As much as a target with its record takes: growing little by little would copy
	// all of it again and again, at a start into memory that is not there yet.
	w := writer{slices.Grow(buf, len(g.targets)*savedTarget)}
	w.dur(g.clock.last)
	w.dur(g.clock.plan)
	w.dur(g.clock.attn)
	w.u64(uint64(g.nextID))
	w.dur(g.judgeFrom)
	w.u32(uint32(len(g.gaps)))
	for _, at := range g.gaps {
		w.dur(at)
	}
	for _, c := range g.counters() {
		w.u64(*c)
	}
	w.u32(uint32(len(g.targets) - len(g.free)))
	for ix := range g.targets {
		if g.targets[ix].used {
			g.targets[ix].save(&w, g.due[ix])
		}
	}
	w.u32(uint32(len(g.tables)))
	for _, tb := range g.tables {
		g.saveTable(&w, tb)
	}
	b := &g.brake
	w.flag(b.on)
	w.flag(b.many)
	w.dur(b.stopEnd)
	w.str(b.stopBy)
	w.dur(b.since)
	w.dur(b.next)
	for _, n := range []int{b.rate, b.held, b.spared, b.released, len(b.queue)} {
		w.u32(uint32(n))
	}
	for _, id := range b.queue {
		w.u64(uint64(id))
	}
	w.u32(uint32(len(g.overdue)))
	for _, o := range g.overdue {
		w.dur(o.at)
		w.u64(uint64(o.id))
	}
	w.u32(uint32(len(g.pending)))
	for i := range g.pending {
		g.pending[i].save(&w)
	}
	w.u32(uint32(len(g.budgets)))
	for i := range g.budgets {
		g.budgets[i].save(&w)
	}
	g.saveThen(&w)
	w.u32(uint32(len(g.throttles)))
	for i := range g.throttles {
		g.throttles[i].save(&w)
	}
	g.saveRestarting(&w)
	w.u32(uint32(len(g.holds)))
	for i := range g.holds {
		h := &g.holds[i]
		w.u32(uint32(h.PID))
		w.str(h.Name)
		w.flag(h.All)
		w.u64(uint64(h.id))
		w.dur(h.until)
		w.str(h.reason)
		w.str(h.by)
	}
	g.foldAll()
	w.u32(uint32(len(g.habits)))
	for i := range g.habits {
		g.habits[i].save(&w)
	}
	w.u32(uint32(len(g.rests)))
	for i := range g.rests {
		g.rests[i].save(&w)
	}
	return w.b
}

// save writes the buckets that are not empty: a handful for most programs.
func (h *habit) save(w *writer) {
	w.str(h.name)
	w.u64(h.beats)
	w.u32(uint32(h.longest))
	w.u8(uint8(bits.OnesCount64(h.filled)))
	for left := h.filled; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		w.u8(uint8(i))
		w.u32(h.buckets[i])
	}
}

func (g *Guard) counters() [12]*uint64 {
	return [12]*uint64{&g.scans, &g.condemnations, &g.signals, &g.kills, &g.recoveries, &g.cleared, &g.unkillables, &g.exits, &g.vanished, &g.gapCount, &g.would, &g.waits}
}

func (t *target) save(w *writer, due time.Duration) {
	w.u64(uint64(t.id))
	w.u32(uint32(t.pid))
	w.u64(t.facts.Start)
	w.u64(t.facts.Inode)
	w.u32(t.facts.UID)
	w.u32(uint32(t.facts.PPID))
	w.u32(uint32(t.facts.PGID))
	w.str(t.facts.User)
	w.str(t.facts.Unit)
	w.str(t.facts.Comm)
	w.str(t.facts.Parent)
	w.u8(uint8(t.state))
	w.raw(t.name[:])
	w.u32(uint32(t.timeout))
	w.u32(uint32(t.table))
	w.u32(uint32(t.slot))
	w.dur(t.since)
	w.dur(t.given)
	w.flag(t.gapSpent)
	w.flag(t.soft)
	w.str(t.softWhy)
	w.flag(t.softSeen)
	w.dur(t.softAt)
	w.dur(t.softCPU)
	w.dur(t.softRun)
	w.u8(t.softState)
	w.flag(t.waited)
	w.flag(t.heldBy)
	w.str(t.channel)
	w.dur(t.waitEnd)
	w.flag(t.reported)
	w.str(t.facts.Cgroup)
	w.flag(t.beaten)
	w.flag(t.known)
	w.flag(t.succeeds)
	w.u8(uint8(t.consent))
	w.str(t.complaint)
	w.dur(t.lateAt)
	w.dur(t.began)
	w.str(t.verdict)
	w.dur(t.heldSince)
	w.dur(t.brakedSince)
	w.str(t.killedBy)
	w.u32(uint32(t.step))
	w.flag(t.let)
	w.flag(t.sent)
	w.dur(t.sentMono)
	w.dur(t.struck)
	w.flag(t.said)
	w.flag(t.unclear)
	w.str(t.limited)
	w.flag(t.main)
	w.dur(t.endedMono)
	w.u64(uint64(t.newest))
	at := len(w.b)
	w.u32(0)
	n := uint32(0)
	for i := range t.gauges {
		if m := &t.gauges[i]; !m.quiet() {
			n++
			m.save(w)
		}
	}
	binary.LittleEndian.PutUint32(w.b[at:], n)
	w.dur(due)
}

// saveTable writes a bit for each record, and then those that are not empty.
func (g *Guard) saveTable(w *writer, tb *tableState) {
	w.u32(uint32(tb.id))
	w.flag(tb.removed)
	w.u64(tb.scans)
	w.u8(tb.full)
	w.u32(uint32(len(tb.slots)))
	bits := len(w.b)
	w.b = slices.Grow(w.b, (len(tb.slots)+7)/8)[:bits+(len(tb.slots)+7)/8]
	clear(w.b[bits:])
	for i := range tb.slots {
		s, r := &tb.slots[i], &tb.prev[i]
		if r.PID == 0 && r.Token == 0 && s.former < 0 {
			continue
		}
		w.b[bits+i/8] |= 1 << (i % 8)
		w.u32(uint32(r.PID))
		w.raw(r.Name[:])
		w.u32(uint32(r.Timeout))
		w.u64(uint64(r.Token))
		w.u64(uint64(g.idOf(s.owner)))
		w.u64(uint64(g.idOf(s.former)))
		w.u8(uint8(s.phase))
		w.u8(s.said)
		w.u8(s.moves)
		w.u32(uint32(s.timeout))
		w.u64(s.agreed)
		w.dur(s.since)
		w.dur(s.backoff)
		w.raw(s.name[:])
	}
}

// idOf is 0 for no target.
func (g *Guard) idOf(ix int32) TargetID {
	if ix < 0 {
		return 0
	}
	return g.targets[ix].id
}

// Restore makes a guard from saved state. Any bytes are taken: what cannot be
// right is an error, and nothing of it is used. The first Step after it must
// carry [Resumed], after a [TableAttached] or [TableLost] for each of
// [Guard.TableIDs]. A scan is due at once after it, and not before: a record
// under a pid that was reused says nothing about the target of old.
func Restore(cfg *config.Config, state []byte) (*Guard, error) {
	g := New(cfg)
	g.nextScan = never // until what was known is identified: see Resumed
	r := reader{b: state}
	g.clock = clock{last: r.upTo(maxTime), plan: r.upTo(maxTime), started: true}
	g.clock.attn = r.upTo(g.clock.last)
	g.nextID = TargetID(r.u64())
	attn := g.clock.attn
	g.judgeFrom = r.upTo(attn + gapGrace)
	for n := r.count(1 << 10); n > 0; n-- {
		g.gaps = append(g.gaps, r.upTo(attn))
	}
	for _, c := range g.counters() {
		*c = r.u64()
	}
	used := r.count(min(maxSlots, len(r.b)/leastTarget))
	g.targets = make([]target, used)
	g.due = make([]time.Duration, used)
	g.byID, g.byPID = make(map[TargetID]int32, used), make(map[int32]int32, used)
	for ix := range g.targets {
		t := &g.targets[ix]
		t.restore(&r, attn)
		g.due[ix] = r.upTo(never)
		if r.bad || t.id == 0 || t.id > g.nextID || t.state >= numStates || t.consent > ConsentOtherNamespace || t.pid <= 1 || t.step < 0 || t.timeout < notLatched {
			return nil, errState
		}
		if _, twice := g.byID[t.id]; twice {
			return nil, errState
		}
		g.byID[t.id] = int32(ix)
		if t.state != Ended {
			if _, twice := g.byPID[t.pid]; twice {
				return nil, errState
			}
			g.byPID[t.pid] = int32(ix)
		}
	}
	for n := r.count(1 << 10); n > 0 && !r.bad; n-- {
		if err := g.restoreTable(&r); err != nil {
			return nil, err
		}
	}
	b := &g.brake
	b.on, b.many = r.flag(), r.flag()
	b.stopEnd, b.stopBy = r.upTo(g.clock.last+brakeStopHold), r.str()
	b.since, b.next = r.upTo(attn), r.upTo(attn+brakeHold)
	b.rate, b.held, b.spared, b.released = int(r.u32()), int(r.u32()), int(r.u32()), int(r.u32())
	for n := r.count(maxSlots); n > 0 && !r.bad; n-- {
		b.queue = append(b.queue, TargetID(r.u64()))
	}
	for n := r.count(maxSlots); n > 0 && !r.bad; n-- {
		g.overdue = append(g.overdue, overdue{r.upTo(attn), TargetID(r.u64())})
	}
	g.restoreRecoveries(&r)
	g.restoreThen(&r)
	for n := r.count(maxThrottles); n > 0 && !r.bad; n-- {
		var x throttle
		x.restore(&r, attn)
		g.throttles = append(g.throttles, x)
	}
	g.throttled = true
	g.restoreRestarting(&r)
	for n := r.count(maxHolds); n > 0 && !r.bad; n-- {
		g.holds = append(g.holds, hold{Selector: Selector{int32(r.u32()), r.str(), r.flag()}, id: TargetID(r.u64()), until: r.upTo(g.clock.last + holdMax), reason: r.str(), by: r.str()})
	}
	habits := r.count(maxHabits)
	g.habits = make([]habit, 0, habits)
	for n := habits; n > 0 && !r.bad; n-- {
		g.restoreHabit(&r)
	}
	for n := r.count(len(r.b) / leastRest); n > 0 && !r.bad; n-- {
		var x rest
		x.restore(&r)
		g.rests = append(g.rests, x)
	}
	if r.bad || len(r.b) != 0 {
		return nil, errState
	}
	if err := g.consistent(); err != nil {
		return nil, err
	}
	for i := range g.holds {
		if h := &g.holds[i]; !h.ofOne() || (h.PID != 0) != (h.id != 0) {
			return nil, fmt.Errorf("%w: a hold is for nobody", errState)
		}
	}
	g.holds = slices.DeleteFunc(g.holds, func(h hold) bool { _, known := g.byID[h.id]; return h.PID != 0 && !known })
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used {
			g.afterRestore(int32(ix))
		}
	}
	return g, nil
}

func (g *Guard) restoreHabit(r *reader) {
	h := habit{name: r.str(), beats: r.u64(), longest: gapCode(r.u32())}
	for n := r.u8(); n > 0 && !r.bad; n-- {
		i := r.u8()
		if i >= gapBuckets {
			r.bad = true
			return
		}
		h.count(int(i), r.u32())
	}
	if _, twice := g.habitOf[h.name]; twice {
		r.bad = true
		return
	}
	g.habitOf[h.name] = int32(len(g.habits))
	g.habits = append(g.habits, h)
}

// afterRestore puts a target into a state that needs no answer from before.
func (g *Guard) afterRestore(ix int32) {
	t := &g.targets[ix]
	due := g.due[ix]
	g.applyPolicy(ix)
	if t.known {
		g.findHabit(ix)
	}
	t.backoff = retryMin
	t.opening = t.state != Ended
	state := t.state
	g.setPatience(ix)
	g.due[ix] = due
	switch state {
	case Rereading, Late:
		if t.let && state == Late {
			return // see reidentified
		}
		t.limited = "" // its limit is tried again
		for k := range t.gauges {
			m := &t.gauges[k]
			m.settled = m.settled && (m.Action == config.LimitReport || m.Action == config.LimitThrottle)
		}
		t.state, g.due[ix] = Guarded, g.clock.attn
		if t.verdict != "" { // its episode began before
			t.state = Reported
		} else {
			t.began = 0
		}
		g.forgetLate(t.id)
	case Wiped:
		g.due[ix] = g.clock.attn + wipedWait
	case Ended:
		g.due[ix] = never
	}
}

func (t *target) restore(r *reader, attn time.Duration) {
	*t = target{
		used: true, habit: -1,
		id: TargetID(r.u64()), pid: int32(r.u32()),
		facts: Facts{Start: r.u64(), Inode: r.u64(), UID: r.u32(), PPID: int32(r.u32()), PGID: int32(r.u32()), User: r.str(), Unit: r.str(), Comm: r.str(), Parent: r.str()},
		state: State(r.u8()),
	}
	r.raw(t.name[:])
	t.timeout = int32(r.u32())
	t.table, t.slot = TableID(r.u32()), int32(r.u32())
	t.since, t.given = r.upTo(attn), r.upTo(maxTime)
	t.gapSpent, t.soft, t.softWhy = r.flag(), r.flag(), r.str()
	t.softSeen, t.softAt, t.softCPU, t.softRun, t.softState = r.flag(), r.upTo(attn), r.upTo(never), r.upTo(never), r.u8()
	t.waited, t.heldBy, t.channel = r.flag(), r.flag(), r.str()
	t.waitEnd, t.reported, t.facts.Cgroup = r.upTo(never), r.flag(), r.str()
	t.beaten, t.known, t.succeeds = r.flag(), r.flag(), r.flag()
	t.consent = Consent(r.u8())
	t.complaint = r.str()
	t.lateAt, t.began = r.upTo(attn), r.upTo(max(attn, 1))
	t.verdict = r.str()
	t.heldSince, t.brakedSince = r.upTo(attn), r.upTo(attn)
	t.killedBy = r.str()
	t.step, t.let, t.sent, t.sentMono, t.struck = int32(r.u32()), r.flag(), r.flag(), r.upTo(maxTime), r.upTo(maxTime)
	t.said, t.unclear, t.limited, t.main = r.flag(), r.flag(), r.str(), r.flag()
	t.endedMono, t.newest = r.upTo(maxTime), TargetID(r.u64())
	for n := r.count(maxGauges); n > 0 && !r.bad; n-- {
		var m gauge
		m.restore(r, attn)
		t.gauges = append(t.gauges, m)
	}
}

func (g *Guard) restoreTable(r *reader) error {
	id, removed, scans, full := TableID(r.u32()), r.flag(), r.u64(), r.u8()
	known := 0
	for _, tb := range g.tables {
		known += len(tb.slots)
	}
	n := r.count(maxSlots - known)
	bits := r.take((n + 7) / 8)
	if r.bad || g.table(id) != nil {
		return errState
	}
	tb := newTable(id, n)
	tb.removed, tb.scans, tb.full = removed, scans, full
	for i := range n {
		if bits[i/8]>>(i%8)&1 == 0 {
			continue
		}
		s, p := &tb.slots[i], &tb.prev[i]
		p.PID = int32(r.u32())
		r.raw(p.Name[:])
		p.Timeout = int32(r.u32())
		p.Token = int64(r.u64())
		*s = slot{owner: g.readTarget(r), former: g.readTarget(r), phase: slotPhase(r.u8()), said: r.u8(), moves: r.u8(),
			timeout: int32(r.u32()), agreed: r.u64(), since: r.upTo(g.clock.attn + retryMax), backoff: r.upTo(retryMax)}
		r.raw(s.name[:])
		if r.bad || s.phase > slotRetry || (p.PID != 0) != (s.phase != slotEmpty) {
			return errState
		}
		if s.former >= 0 {
			g.targets[s.former].left = true
		}
		if p.PID != 0 {
			tb.used++
		}
		switch s.phase {
		case slotForming:
			if s.owner < 0 {
				// Its process was not opened yet: begin anew.
				s.phase, s.since, s.backoff = slotRetry, g.clock.attn, 0
			}
			g.listWaiting(tb, int32(i))
		case slotOrphan, slotRetry, slotRefused:
			g.listWaiting(tb, int32(i))
		}
		if s.owner >= 0 {
			t := &g.targets[s.owner]
			if t.pid != p.PID {
				return errState
			}
			t.slots++
			if s.phase == slotLatched {
				t.latched++
			}
		}
	}
	g.tables = append(g.tables, tb)
	return nil
}

// readTarget reads the id of a target that is there, -1 for none.
func (g *Guard) readTarget(r *reader) int32 {
	id := TargetID(r.u64())
	if id == 0 {
		return -1
	}
	ix, ok := g.byID[id]
	if !ok {
		r.bad = true
		return -1
	}
	return ix
}

// consistent checks what ties targets, records and the brake together.
func (g *Guard) consistent() error {
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used {
			continue
		}
		if t.slots > 0 {
			tb := g.table(t.table)
			if tb == nil || t.slot < 0 || int(t.slot) >= len(tb.slots) {
				return fmt.Errorf("%w: target %d has no first record", errState, t.pid)
			}
		}
		switch t.state {
		case Guarded, Rereading, Late, Held, Waiting, Reported, Braked:
			if t.slots == 0 {
				return fmt.Errorf("%w: target %d is %s without a record", errState, t.pid, t.state)
			}
		}
	}
	for _, tb := range g.tables {
		for i := range tb.slots {
			s := &tb.slots[i]
			if s.phase == slotLatched && s.owner < 0 {
				return fmt.Errorf("%w: record %d is latched without a target", errState, i)
			}
		}
	}
	held := map[TargetID]bool{}
	for _, id := range g.brake.queue {
		if ix, ok := g.byID[id]; !ok || g.targets[ix].state != Braked || held[id] {
			return fmt.Errorf("%w: the brake holds a target that is not held", errState)
		}
		held[id] = true
	}
	for ix := range g.targets {
		if t := &g.targets[ix]; t.state == Braked && !held[t.id] {
			return fmt.Errorf("%w: target %d is held by nobody", errState, t.pid)
		}
	}
	if len(held) > 0 && !g.brake.on {
		return fmt.Errorf("%w: the brake holds targets, but is off", errState)
	}
	if g.brake.on && g.brake.rate < 1 {
		return fmt.Errorf("%w: the brake has no rate", errState)
	}
	return nil
}

// TableIDs lists the tables that the guard knows.
func (g *Guard) TableIDs() []TableID {
	ids := make([]TableID, 0, len(g.tables))
	for _, tb := range g.tables {
		ids = append(ids, tb.id)
	}
	return ids
}

type writer struct{ b []byte }

func (w *writer) u8(v uint8)          { w.b = append(w.b, v) }
func (w *writer) u32(v uint32)        { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)        { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) dur(v time.Duration) { w.u64(uint64(v)) }
func (w *writer) raw(v []byte)        { w.b = append(w.b, v...) }

func (w *writer) flag(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) str(s string) {
	s = s[:min(len(s), 1<<12)]
	w.u32(uint32(len(s)))
	w.b = append(w.b, s...)
}

// reader takes bytes apart; after the first fault all it returns is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || len(r.b) < n {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// upTo reads a time from 0 to most.
func (r *reader) upTo(most time.Duration) time.Duration {
	d := time.Duration(r.u64())
	if d < 0 || d > most {
		r.bad = true
		return 0
	}
	return d
}

func (r *reader) flag() bool     { return r.u8() != 0 }
func (r *reader) raw(dst []byte) { copy(dst, r.take(len(dst))) }

func (r *reader) str() string {
	n := r.u32()
	if n > 1<<12 {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}

// count reads a number that must not exceed most.
func (r *reader) count(most int) int {
	n := r.u32()
	if int64(n) > int64(most) {
		r.bad = true
		return 0
	}
	return int(n)
}
