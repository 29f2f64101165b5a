package guard

import (
	"fmt"
	"time"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// slotPhase is what the guard makes of a record.
type slotPhase uint8

const (
	slotEmpty   slotPhase = iota // pid 0
	slotForming                  // has a pid; not yet two looks that agree
	slotLatched                  // belongs to a target, name and timeout are latched
	slotOrphan                   // its pid is nobody here: cleared when its token stands still
	slotForeign                  // its pid is nobody here, but its token moves: left alone
	slotRefused                  // its pid is never to be signalled: left alone
	slotRetry                    // its pid could not be opened: asked again
)

const (
	// orphanMin is how long the token of a record without a living process must
	// at least stand still before the record is cleared.
	orphanMin = 10 * time.Second
	// tornWait is for how long a record without a token, which is written last,
	// counts as one that its client is writing: a client that is stopped in the
	// midst of that would be latched without its timeout.
	tornWait = 10 * time.Second
	// retryMin and retryMax bound the backoff of asking again.
	retryMin = time.Second
	retryMax = time.Minute
	// fullWarn and fullCalm are the shares of used records, in percent, at
	// which a table that fills up is reported, and at which that is forgotten.
	fullWarn = 95
	fullCalm = 90
)

// Things said once for a record.
const (
	saidLostBeat = 1 << iota
	saidName
	saidTimeout
	saidForming
)

// slot is the guard's memory of one record. It holds no pointers.
type slot struct {
	owner   int32 // index of its target, -1: none
	former  int32 // index of the target that had it before it was wiped, -1: none
	phase   slotPhase
	said    uint8
	moves   uint8 // beats seen while it was nobody's, saturating
	asked   bool  // Identify is under way
	listed  bool  // it is on its table's list of those that wait
	confirm bool  // ask once more whether the pid is gone, then clear

	timeout int32 // latched, seconds
	agreed  uint64
	since   time.Duration // token last moved (orphan), or next try (retry, foreign)
	backoff time.Duration
	name    [table.NameSize]byte // latched
}

// reset forgets what was known of a record.
func (s *slot) reset(former int32) {
	*s = slot{owner: -1, former: former, listed: s.listed}
}

// tableState is what the guard knows of one table.
type tableState struct {
	id      TableID
	removed bool
	prev    []table.Record // as last seen
	slots   []slot
	used    int
	scans   uint64
	forming []int32 // slots to look at after each scan: forming, orphan, retry
	full    uint8   // 0 calm, 1 nearly full was reported, 2 full was reported
}

func newTable(id TableID, n int) *tableState {
	tb := &tableState{id: id, prev: make([]table.Record, n), slots: make([]slot, n)}
	for i := range tb.slots {
		tb.slots[i].owner, tb.slots[i].former = -1, -1
	}
	return tb
}

func (g *Guard) table(id TableID) *tableState {
	for _, tb := range g.tables {
		if tb.id == id {
			return tb
		}
	}
	return nil
}

func (o *Scan) apply(g *Guard) {
	tb := g.table(o.Table)
	if tb == nil {
		return
	}
	tb.scans++
	g.scans++
	n := min(len(tb.prev), len(o.Records))
	prev, now := tb.prev[:n], o.Records[:n]
	attn := g.clock.attn
	for i := range now {
		p, r := &prev[i], &now[i]
		if r.PID == 0 && p.PID == 0 && r.Token == p.Token {
			continue
		}
		if r.Alike(p) {
			if r.Token == p.Token {
				continue
			}
			// The path of nearly all changes: a guarded target beat.
			if s := &tb.slots[i]; s.phase == slotLatched {
				if t := &g.targets[s.owner]; t.state == Guarded && t.beaten {
					p.Token = r.Token
					if silent := attn - t.since; !t.note(codeOf(silent)) {
						g.countAnew(s.owner, codeOf(silent))
					}
					t.beat(attn)
					if t.limit > 0 {
						g.due[s.owner] = attn + t.patience/2
					}
					continue
				}
			}
		}
		g.changed(tb, int32(i), r)
	}
	g.afterScan(tb)
}

// changed takes in a record that differs from the last look at it.
func (g *Guard) changed(tb *tableState, i int32, r *table.Record) {
	s, p := &tb.slots[i], &tb.prev[i]
	old := *p
	*p = *r
	if r.PID != old.PID {
		g.handOver(tb, i, old.PID)
		return
	}
	beat := r.Token != old.Token
	if r.PID == 0 {
		if beat && r.Token != 0 {
			g.lostBeat(tb, i)
		}
		return
	}
	if beat {
		g.slotBeat(tb, i)
	}
	if r.Name == old.Name && r.Timeout == old.Timeout {
		return
	}
	switch s.phase {
	case slotForming:
		s.agreed = tb.scans // begins anew
	case slotLatched:
		if !g.targets[s.owner].opening { // else it may be a successor's
			g.relatch(tb, i)
		}
	}
}

// handOver takes in that the pid of a record changed.
func (g *Guard) handOver(tb *tableState, i int32, oldPID int32) {
	s, r := &tb.slots[i], &tb.prev[i]
	owner := s.owner
	if owner >= 0 {
		s.owner = -1
		g.detach(owner, tb, i)
	}
	former := int32(-1)
	if r.PID == 0 && owner >= 0 && g.targets[owner].state != Ended {
		former = owner
	}
	s.reset(former)
	if former >= 0 {
		g.targets[former].left = true
	}
	switch {
	case oldPID == 0:
		tb.used++
	case r.PID == 0:
		tb.used--
	}
	if r.PID != 0 {
		g.beginForming(tb, i)
	}
}

// beginForming starts to look at a record with a new pid.
func (g *Guard) beginForming(tb *tableState, i int32) {
	s := &tb.slots[i]
	s.phase, s.agreed, s.since = slotForming, tb.scans, g.clock.attn
	g.listWaiting(tb, i)
	g.identify(tb, i)
}

// identify asks to open the process of a record, once for each pid. Where that
// pid is a target's already, the record is one more of it: the old record of a
// process whose number came again must not become another target.
func (g *Guard) identify(tb *tableState, i int32) {
	s, pid := &tb.slots[i], tb.prev[i].PID
	if ix, ok := g.byPID[pid]; ok {
		still := s.confirm // for long: it says nothing about who has the number now
		s.phase, s.agreed, s.owner, s.confirm = slotForming, tb.scans, ix, false
		g.listWaiting(tb, i)
		g.attach(ix, tb, i, !still)
		return
	}
	s.asked = true
	refs, under := g.asking[pid]
	g.asking[pid] = append(refs, slotRef{tb.id, i})
	if !under {
		g.nextID++
		g.decide(Identify{Target: g.nextID, PID: pid})
	}
}

// slotBeat takes in that the token of a record with a pid moved.
func (g *Guard) slotBeat(tb *tableState, i int32) {
	s := &tb.slots[i]
	switch s.phase {
	case slotOrphan, slotForeign:
		// Perhaps a new process has the number by now, and took over the record
		// that it found under it.
		s.moves, s.confirm = min(s.moves, 254)+1, false
		if s.phase == slotOrphan {
			s.since, s.backoff = g.clock.attn, 0
			g.identify(tb, i)
		} else if g.clock.attn >= s.since {
			s.backoff = min(max(2*s.backoff, retryMin), retryMax)
			s.since = g.clock.attn + s.backoff
			g.identify(tb, i)
		}
	default:
		if s.owner >= 0 {
			g.beat(s.owner)
		}
	}
}

// lostBeat takes in that the token of a record with pid 0 moved: a live client
// lost its record and goes on beating into it.
func (g *Guard) lostBeat(tb *tableState, i int32) {
	s := &tb.slots[i]
	if tb.scans <= 1 {
		return // seen for the first time
	}
	if s.former >= 0 {
		g.beat(s.former) // should it have another record, a forged one maybe
	}
	if s.moves < 255 {
		s.moves++
	}
	// One move can be a client that registers: some write the record before
	// its pid. Two are a heartbeat.
	if s.moves < 2 || s.said&saidLostBeat != 0 {
		return
	}
	s.said |= saidLostBeat
	if s.former >= 0 {
		switch g.targets[s.former].state {
		case Wiped:
			g.unguarded(s.former, "it goes on beating into its wiped record")
			return
		case Unguarded: // said before
			return
		}
	}
	e := g.aboutSlot(tb, i, EvUnguarded, LevelWarning, "a heartbeat moves in a record with pid 0")
	e.Message = fmt.Sprintf("slot %d has pid 0 but its heartbeat moves: a live client lost its record and is not guarded; restart that program", i)
	g.emit(e)
}

// relatch takes in that name or timeout of a latched record changed: only a
// longer timeout is taken.
func (g *Guard) relatch(tb *tableState, i int32) {
	s, r := &tb.slots[i], &tb.prev[i]
	// Clients leave garbage behind the NUL.
	if r.Name != s.name && s.said&saidName == 0 && table.CleanName(&r.Name) != table.CleanName(&s.name) {
		s.said |= saidName
		e := g.about(s.owner, EvChanged, LevelWarning, "name changed")
		e.Slot, e.Table = i, tb.id
		e.Message = fmt.Sprintf("%s: its record now says %q; keeping the name it registered with", who(e.PID, e.Process), table.CleanName(&r.Name))
		g.emit(e)
	}
	if r.Timeout == s.timeout {
		return
	}
	t := &g.targets[s.owner]
	if r.Timeout > s.timeout && s.timeout > 0 {
		e := g.about(s.owner, EvChanged, LevelNotice, "timeout raised")
		e.Slot, e.Table = i, tb.id
		e.Message = fmt.Sprintf("%s: timeout raised from %ds to %ds; taking it", who(e.PID, e.Process), s.timeout, r.Timeout)
		s.timeout = r.Timeout
		t.lengthen(r.Timeout)
		g.setPatience(s.owner)
		g.emit(e)
		return
	}
	if s.said&saidTimeout == 0 {
		s.said |= saidTimeout
		e := g.about(s.owner, EvChanged, LevelWarning, "timeout changed")
		e.Slot, e.Table = i, tb.id
		e.Message = fmt.Sprintf("%s: its record now says timeout %ds; keeping %ds", who(e.PID, e.Process), r.Timeout, s.timeout)
		g.emit(e)
	}
}

// afterScan looks at the records that wait for something.
func (g *Guard) afterScan(tb *tableState) {
	keep := tb.forming[:0]
	for _, i := range tb.forming {
		if tb.slots[i].listed = g.waiting(tb, i); tb.slots[i].listed {
			keep = append(keep, i)
		}
	}
	tb.forming = keep
	g.checkFull(tb)
	if tb.removed && tb.live() == 0 {
		g.decide(DropTable{tb.id})
		g.forgetTable(tb)
	}
}

// waiting advances one record that waits and says whether it still does.
func (g *Guard) waiting(tb *tableState, i int32) bool {
	s, r := &tb.slots[i], &tb.prev[i]
	// A process that was opened for another record is judged by all that it has.
	_, open := g.byPID[r.PID]
	switch s.phase {
	case slotForming:
		if tb.scans <= s.agreed {
			g.sayUnsettled(tb, i)
			return true
		}
		if s.owner < 0 {
			return s.asked // its Identify is under way
		}
		if r.Token == 0 && g.targets[s.owner].state != Ended && g.clock.attn-s.since < tornWait {
			return true // its pid is there, and the rest is to come
		}
		g.latch(tb, i)
		return s.phase == slotOrphan // its process ended, and had not joined
	case slotOrphan:
		still := max(time.Duration(r.Timeout)*time.Second, orphanMin)
		if !s.asked && (open || g.acting && g.clock.attn-s.since >= still) {
			s.confirm = true
			g.identify(tb, i)
		}
		return true
	case slotRetry, slotRefused:
		if !s.asked && (open || g.clock.attn >= s.since) {
			g.identify(tb, i)
		}
		return true
	}
	return false
}

// unsettledWait is how long a record may be forming before that is reported.
const unsettledWait = time.Minute

// sayUnsettled reports a record that two looks never agree on: its process is
// not guarded.
func (g *Guard) sayUnsettled(tb *tableState, i int32) {
	s := &tb.slots[i]
	if s.said&saidForming != 0 || g.clock.attn-s.since < unsettledWait {
		return
	}
	s.said |= saidForming
	e := g.aboutSlot(tb, i, EvChanged, LevelWarning, "never the same twice")
	e.Message = fmt.Sprintf("slot %d names %s with another name or timeout at each look: not guarded until two looks agree", i, who(e.PID, e.Process))
	g.emit(e)
}

// latch takes a record for good: two looks agreed on it.
func (g *Guard) latch(tb *tableState, i int32) {
	s, r := &tb.slots[i], &tb.prev[i]
	t := &g.targets[s.owner]
	if t.state == Ended {
		g.clearEnded(s.owner, tb, i)
		return
	}
	s.phase, s.timeout, s.name = slotLatched, r.Timeout, r.Name
	if t.latched == 0 {
		t.table, t.slot = tb.id, i
	}
	t.latched++
	if t.timeout == notLatched {
		// For the life of the process: a writer of the table could otherwise
		// wipe the record and register it anew, with a name that a stricter
		// rule matches, or a shorter timeout.
		t.name = r.Name
		g.applyPolicy(s.owner)
	} else {
		g.applyAccess(s.owner)
	}
	t.lengthen(r.Timeout)
	g.setPatience(s.owner)
	g.announce(s.owner)
	if t.latched > 1 && t.known {
		e := g.about(s.owner, EvChanged, LevelNotice, "several records")
		e.Table, e.Slot = tb.id, i
		e.Message = fmt.Sprintf("%s has %d records: one target, any beat counts, the longest timeout holds", t.describe(), t.latched)
		g.emit(e)
	}
	if t.limit <= 0 && t.latched == 1 {
		e := g.about(s.owner, EvIgnored, LevelWarning, "timeout <= 0")
		e.Message = fmt.Sprintf("%s registered with timeout %ds: never acted on, its exit is watched", who(e.PID, e.Process), r.Timeout)
		g.emit(e)
	}
}

// lengthen takes a timeout in seconds; the longest holds, and <= 0, which is
// never late, is longer than all.
func (t *target) lengthen(timeout int32) {
	if timeout <= 0 || t.timeout == 0 {
		t.timeout = 0
		return
	}
	t.timeout = max(t.timeout, timeout)
}

// orphanFound takes in that the pid of a record is nobody here.
func (g *Guard) orphanFound(tb *tableState, i int32) {
	s := &tb.slots[i]
	switch {
	case s.phase == slotForeign:
		return
	case s.phase == slotOrphan && s.confirm:
		s.confirm = false
		g.clear(tb, i)
		return
	case s.phase == slotOrphan && s.moves < 2: // one move: somebody registered, and ended
		return
	case s.phase == slotOrphan:
		s.phase = slotForeign
		e := g.aboutSlot(tb, i, EvForeign, LevelWarning, "token moves under a pid that is nobody here")
		e.Message = fmt.Sprintf("slot %d names %s, which does not exist here, but its heartbeat moves: a process of another pid namespace, or children of a dead parent; leaving it alone", i, who(e.PID, e.Process))
		g.emit(e)
		return
	}
	s.phase, s.owner, s.moves = slotOrphan, -1, 0
	s.since = g.clock.attn
	g.listWaiting(tb, i)
}

// listWaiting puts a record on the list that afterScan looks at.
func (g *Guard) listWaiting(tb *tableState, i int32) {
	if s := &tb.slots[i]; !s.listed {
		s.listed = true
		tb.forming = append(tb.forming, i)
	}
}

// clear asks to wipe the pid of a record, if this guard acts. Else somebody
// else does, and it is seen; should we come to act, it is an orphan once its
// target is released.
func (g *Guard) clear(tb *tableState, i int32) {
	if g.acting {
		g.decide(Clear{tb.id, i, tb.prev[i].PID, g.idOf(tb.slots[i].owner)})
	}
}

// sayWouldClear reports a record that stands 5 s after the end of its process, if
// nobody acts here.
func (g *Guard) sayWouldClear(tb *tableState, i int32) {
	if g.acting || g.holder != 0 {
		return
	}
	g.would++
	e := g.aboutSlot(tb, i, EvWouldClear, LevelInfo, "its process ended")
	e.Message = fmt.Sprintf("slot %d of %s would have been cleared: its process ended; not acting: %s", i, who(e.PID, e.Process), g.notActing)
	g.emit(e)
}

func (o ClearDone) apply(g *Guard) {
	tb := g.table(o.Table)
	if tb == nil || int(o.Slot) >= len(tb.slots) || o.Slot < 0 {
		return
	}
	s, r := &tb.slots[o.Slot], &tb.prev[o.Slot]
	if r.PID != o.PID {
		return
	}
	owner := s.owner
	if owner >= 0 {
		t := &g.targets[owner]
		t.slots--
		if s.phase == slotLatched {
			t.latched--
		}
		s.owner = -1
		if t.slots > 0 && t.table == tb.id && t.slot == o.Slot {
			g.findFirst(owner)
		}
	}
	switch {
	case o.Denied:
		s.phase = slotForeign // left alone, and looked at again when it moves
		if owner >= 0 {
			g.farewell(owner, EvExited)
		}
		return
	case o.Reused:
		// The number belongs to a new process, which took over the record that
		// it found under its own pid.
		s.reset(-1)
		g.beginForming(tb, o.Slot)
		if owner >= 0 {
			g.farewell(owner, EvExited)
		}
		return
	case o.Cleared:
		if owner >= 0 {
			g.farewell(owner, EvExited)
		}
		g.cleared++
		e := g.aboutSlot(tb, o.Slot, EvCleared, LevelInfo, "its process ended")
		if owner < 0 {
			e.Reason = "no such process, and its heartbeat stands still"
		}
		e.Message = fmt.Sprintf("slot %d of %s cleared: %s", o.Slot, who(e.PID, e.Process), e.Reason)
		g.emit(e)
	default:
		if owner >= 0 {
			g.farewell(owner, EvUnregistered)
		}
	}
	r.PID = 0
	tb.used--
	s.reset(-1)
}

// checkFull reports a table before the next client would fail to register:
// clients do not notice, they run unguarded.
func (g *Guard) checkFull(tb *tableState) {
	n := len(tb.slots)
	share := tb.used * 100
	switch {
	case tb.used >= n && tb.full < 2:
		tb.full = 2
	case share >= n*fullWarn && tb.full < 1:
		tb.full = 1
	case share < n*fullCalm:
		tb.full = 0
		return
	default:
		return
	}
	e := &Event{Name: EvTableFull, Level: LevelWarning, Table: tb.id, Slot: -1, Reason: "nearly full"}
	if tb.full == 2 {
		e.Level, e.Reason = LevelError, "full"
	}
	e.Message = fmt.Sprintf("table %d: %d of %d records are used; a client that finds none free runs unguarded without a word", tb.id, tb.used, n)
	g.emit(e)
}

// live counts the records that belong to a target, or may come to.
func (tb *tableState) live() int {
	n := 0
	for i := range tb.slots {
		if s := &tb.slots[i]; s.owner >= 0 || s.phase == slotForming || s.phase == slotRetry {
			n++
		}
	}
	return n
}
