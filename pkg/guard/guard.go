package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

type slotRef struct {
	table TableID
	slot  int32
}

// timedAsk is a question for consent that waits for its backoff.
type timedAsk struct {
	at time.Duration
	id TargetID
}

// Guard holds all state. It is not safe for concurrent use: one loop owns it.
type Guard struct {
	cfg       *config.Config
	clock     clock
	decisions []Decision

	tables  []*tableState
	targets []target
	due     []time.Duration // attention time at which a target wants a look; parallel to targets
	free    []int32
	byPID   map[int32]int32
	byID    map[TargetID]int32
	asking  map[int32][]slotRef // Identify under way, by pid
	asks    []timedAsk
	reopens []timedAsk // to be identified again after a restart
	nextID  TargetID

	acting     bool
	off        bool   // see [Acting]
	notActing  string // why it does not act
	holder     int32
	actingSaid bool

	judgeFrom time.Duration // after a gap nobody is judged before
	gaps      []time.Duration
	gapsSpoke bool

	holds        []hold
	told         []*Event // what orders led to, for the next step
	habits       []habit  // of names
	habitOf      map[string]int32
	cancels      []TargetID // ladders that a new configuration stops
	condemned    []TargetID // of this step, before the brake has its say
	beginning    []TargetID // of this step, whose ladders start at its end
	resuming     []TargetID // of this step, whose ladders go on
	grouped      int        // ladders for a whole cgroup under way, or more
	overdue      []overdue
	brake        brake
	rests        []rest // of cgroups, of ladders under way and of those that an earlier daemon began
	groupSignals []groupSignal
	groupExits   []groupExit
	pending      []recovery
	lastAsk      uint64 // the number of the latest question about one
	followed     []followed
	fallen       []fallen
	budgets      []budget
	budgetAt     map[budgetKey]int32 // their indexes
	prunedAt     time.Duration       // attention time
	limits       bool                // some rule has some
	restarting   recovery            // of the unit that is being restarted for a limit; without one: none is
	throttles    []throttle
	throttled    bool               // what limits want of units may have changed
	units        map[string][]int32 // targets by unit, made when it is asked for: see inUnit
	sem          semWatch
	rhythm       rhythm
	noise, churn bucket

	nextScan time.Duration // mono

	// Counters since the registry began.
	scans, condemnations, signals, kills, recoveries, cleared, unkillables, exits, vanished, gapCount, would, waits uint64
}

// New returns a guard without tables that acts by cfg. It does not act before
// an [Acting] observation says so.
func New(cfg *config.Config) *Guard {
	return &Guard{
		cfg:       cfg,
		limits:    hasLimits(cfg),
		byPID:     map[int32]int32{},
		byID:      map[TargetID]int32{},
		asking:    map[int32][]slotRef{},
		habitOf:   map[string]int32{},
		budgetAt:  map[budgetKey]int32{},
		notActing: "not yet decided who acts",
		noise:     bucket{burst: noiseBurst, refill: noiseRefill},
		churn:     bucket{burst: churnBurst, refill: churnRefill},
	}
}

// SetConfig takes a new configuration: policies are looked up anew for all
// targets, and the deadlines follow. A ladder under way keeps its steps, unless its
// rule says report now: then it is cancelled.
func (g *Guard) SetConfig(cfg *config.Config) {
	g.cfg, g.limits, g.throttled = cfg, hasLimits(cfg), true
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used && t.timeout != notLatched {
			before, barred := t.policy, t.untouchable()
			g.applyPolicy(int32(ix))
			g.setPatience(int32(ix))
			if t.state == Reported && (t.policy.Action != before.Action || t.policy.Verdict != before.Verdict || t.untouchable() != barred) {
				g.due[ix] = g.clock.attn // judged anew
			}
			if !slices.Equal(t.policy.Steps, before.Steps) {
				g.outlived(int32(ix))
			}
			if t.inLadder && !t.toBeEnded() {
				t.cancelled = true
				g.cancels = append(g.cancels, t.id)
			}
		}
	}
	g.unpark()
	g.nextScan = min(g.nextScan, g.clock.last+cfg.Interval)
}

func (g *Guard) decide(d Decision) { g.decisions = append(g.decisions, d) }

// Step takes in what was seen at the mono time now and returns what to do. The
// answers to decisions "at once" are handed to another Step with the same now;
// the slice is valid until then.
func (g *Guard) Step(now time.Duration, observations ...Observation) []Decision {
	clear(g.decisions) // a wave's would be kept until the next one
	g.decisions = g.decisions[:0]
	before := g.clock.attn
	if missed := g.clock.advance(now); missed > 0 {
		g.stalled(missed, g.clock.attn-before)
	}
	for _, id := range g.cancels {
		g.decide(CancelLadder{id})
	}
	g.cancels = g.cancels[:0]
	g.beginHolds()
	g.holdsDue()
	g.tell()
	for _, o := range observations {
		o.apply(g)
	}
	g.resumeAll()
	g.timers()
	g.throttleAll()
	g.settle()
	g.beginAll()
	g.narrow()
	g.tendRests()
	g.tell() // a daemon that dies now has said it
	g.plan()
	return g.decisions
}

// ScanDue says whether the tables are to be read in this wake.
func (g *Guard) ScanDue(now time.Duration) bool { return now >= g.nextScan }

// scanLead: scans come that part of the interval sooner than it says. A deadline
// counts from the scan that saw the latest beat, and gathering evidence and
// writing the registry take some milliseconds; so a hang is acted on within one
// interval of its deadline, not 1 % later.
const scanLead = 20

// ScanDone takes note that they were; the next scan is one interval after the
// last was meant, or from now if that is past.
func (g *Guard) ScanDone(now time.Duration) {
	step := g.cfg.Interval - g.cfg.Interval/scanLead
	g.nextScan += step
	if g.nextScan <= now {
		g.nextScan = now + step
	}
}

// Next is the mono time at which the guard wants to be woken.
func (g *Guard) Next() time.Duration { return g.clock.plan }

// Attention is the attention clock.
func (g *Guard) Attention() time.Duration { return g.clock.attn }

// timers wakes what is due.
func (g *Guard) timers() {
	attn := g.clock.attn
	for ix := range g.due {
		if g.due[ix] <= attn {
			g.wake(int32(ix))
		}
	}
	if len(g.asks) > 0 {
		g.askAgain()
	}
	if len(g.reopens) > 0 {
		g.reopenDue()
	}
	if len(g.pending)+len(g.budgets) > 0 {
		g.recoverDue()
	}
	g.lookAtRestarting()
}

// askAgain asks for consent whose backoff is over.
func (g *Guard) askAgain() {
	keep := g.asks[:0]
	for _, a := range g.asks {
		if a.at > g.clock.attn {
			keep = append(keep, a)
			continue
		}
		ix, ok := g.byID[a.id]
		if !ok {
			continue
		}
		t := &g.targets[ix]
		t.planned = false
		switch {
		case t.consent == ConsentProven, t.slots == 0, t.state == Ended:
		default:
			g.ask(ix)
		}
	}
	g.asks = keep
}

// plan works out the next wake.
func (g *Guard) plan() {
	next := never
	for _, d := range g.due {
		next = min(next, d)
	}
	for _, a := range g.asks {
		next = min(next, a.at)
	}
	for _, a := range g.reopens {
		next = min(next, a.at)
	}
	for i := range g.pending {
		next = min(next, g.pending[i].at)
	}
	for i := range g.budgets {
		if b := &g.budgets[i]; b.given {
			next = min(next, b.until)
		}
	}
	if g.acting && g.restarting.lost {
		next = min(next, g.restarting.at)
	}
	for i := range g.throttles {
		if g.acting {
			next = min(next, g.throttles[i].at)
		}
	}
	for i := range g.rests {
		next = min(next, g.rests[i].at)
	}
	if g.brake.on {
		next = min(next, g.brake.next)
	}
	wake := min(g.clock.last+min(g.cfg.Interval, attentionStep), g.nextScan)
	if next != never {
		wake = min(wake, g.clock.monoAt(next))
	}
	for i := range g.holds {
		wake = min(wake, g.holds[i].until)
	}
	g.clock.plan = max(wake, g.clock.last)
}

// stalled takes in a late wake: missed of the stretch since the last one does
// not count, counted does. Nobody knows when in that stretch the clients stood
// still as well, so each silence under way is given what was counted; a gap
// restarts it. All this, and the grace after a gap, has a limit for each silence,
// or a host that always stalls would blind the guard: one restart, and once that
// and the rest have added up to the timeout, no more.
func (g *Guard) stalled(missed, counted time.Duration) {
	gap := missed > gapMin
	attn := g.clock.attn
	if gap {
		g.judgeFrom = attn + gapGrace
	}
	again, kept := 0, 0
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used {
			continue
		}
		switch t.state {
		case Watched, Guarded, Rereading, Late:
		case Ladder, Braked:
			// A new silence may have begun, and its worker will say so; or it is to be
			// ended for a limit, and its silence goes on beside that.
			if t.limited == "" && !t.beatsAgain() {
				continue
			}
		default:
			continue
		}
		t.prepared = false // what was found out before is of before
		switch {
		case gap && !t.gapSpent:
			t.given += attn - t.since
			// What the soft look saw is of before: there will be another.
			t.since, t.gapSpent, t.soft, t.softSeen = attn, true, false, false
			again++
		case t.given < t.limit, t.limit <= 0: // in the latter case it is not known yet, or a rule may give it one
			t.given += counted
			t.since += counted
			kept++
		default: // its allowance is spent: what is being found out about it goes on
			kept++
			continue
		}
		if t.limited != "" && t.state == Late {
			g.setAside(int32(ix), "this host stood still", 0)
			continue
		}
		if t.state == Rereading || t.state == Late {
			g.forgetLate(t.id)
			t.dropQuestions()
			t.state = Guarded
			if t.verdict != "" { // its episode began before
				t.state = Reported
				g.due[ix] = t.since + t.patience
			} else {
				t.began = 0
			}
		}
		if t.state == Guarded && t.limit > 0 {
			g.due[ix] = t.nextLook()
		}
	}
	if gap {
		g.reportGap(missed, again, kept)
	}
}

// reportGap reports a gap, and gaps that repeat.
func (g *Guard) reportGap(missed time.Duration, again, kept int) {
	g.gapCount++
	attn := g.clock.attn
	if b := &g.brake; b.on && !b.delayed { // once for each wave, or gaps that repeat would hold it for ever
		b.next, b.delayed = max(b.next, g.judgeFrom), true
	}
	e := &Event{Name: EvGap, Level: LevelWarning, Slot: -1, Silence: missed, Reason: "not witnessed"}
	e.Message = fmt.Sprintf("did not look for %s (suspend, a paused machine, starvation, or stopped): that does not count; %d silences begin anew, %d had begun anew before; nobody is judged for %s",
		seconds(missed), again, kept, seconds(gapGrace))
	keep := g.gaps[:0]
	for _, at := range g.gaps {
		if attn-at < gapAlarmWindow {
			keep = append(keep, at)
		}
	}
	g.gaps = append(keep[max(0, len(keep)-gapsKept+1):], attn)
	if len(g.gaps) >= gapAlarmCount {
		if !g.gapsSpoke {
			g.gapsSpoke = true
			e.Level, e.Reason = LevelError, "repeated"
			e.Message += fmt.Sprintf("; this is the %dth in %s: the guard is blind for as long, look for what stalls this host", len(g.gaps), gapAlarmWindow)
		}
	} else {
		g.gapsSpoke = false
	}
	g.emit(e)
}

func (o TableAttached) apply(g *Guard) {
	if tb := g.table(o.Table); tb != nil {
		if len(tb.slots) == o.Slots {
			return // known from the registry: its records are compared with what they were
		}
		g.forgetTable(tb)
	}
	g.tables = append(g.tables, newTable(o.Table, o.Slots))
	e := &Event{Name: EvTableAttached, Level: LevelInfo, Table: o.Table, Slot: -1}
	what := "attached"
	if o.Created {
		what = "created"
	}
	e.Message = fmt.Sprintf("table %d %s, %d records", o.Table, what, o.Slots)
	g.emit(e)
}

func (o TableRemoved) apply(g *Guard) {
	tb := g.table(o.Table)
	if tb == nil || tb.removed {
		return
	}
	tb.removed = true
	e := &Event{Name: EvTableLost, Level: LevelError, Table: o.Table, Slot: -1, Reason: "removed"}
	e.Message = fmt.Sprintf("table %d was removed (ipcrm, or logind's RemoveIPC at a logout) under %d live records: guarding them until the last is gone; new clients use a new table", o.Table, tb.live())
	g.emit(e)
}

func (o TableLost) apply(g *Guard) {
	tb := g.table(o.Table)
	if tb == nil {
		return
	}
	e := &Event{Name: EvTableLost, Level: LevelError, Table: o.Table, Slot: -1, Reason: o.Reason}
	e.Message = fmt.Sprintf("table %d is lost with %d live records: %s", o.Table, tb.live(), o.Reason)
	g.emit(e)
	g.forgetTable(tb)
	if !o.Order {
		return
	}
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used && t.slots == 0 && t.state != Ended {
			g.release(int32(ix))
		}
	}
}

// forgetTable gives up a table with its records; its targets end or are
// reported as unguarded like those whose record was wiped.
func (g *Guard) forgetTable(tb *tableState) {
	for i := range tb.slots {
		if s := &tb.slots[i]; s.owner >= 0 {
			owner := s.owner
			s.owner = -1
			g.detach(owner, tb, int32(i))
		}
	}
	for k := range g.tables {
		if g.tables[k] == tb {
			g.tables = append(g.tables[:k], g.tables[k+1:]...)
			return
		}
	}
}

func (o Acting) apply(g *Guard) {
	if g.actingSaid && g.acting == o.Acts && g.holder == o.Holder && (o.Acts || g.notActing == o.Reason) {
		return
	}
	g.acting, g.off, g.notActing, g.holder, g.actingSaid = o.Acts, o.Off, o.Reason, o.Holder, true
	if !o.Acts {
		for ix := range g.targets {
			if t := &g.targets[ix]; t.inLadder {
				t.cancelled = true
				g.decide(CancelLadder{t.id})
			}
		}
	}
	e := &Event{Name: EvObserving, Level: LevelWarning, PID: o.Holder, Slot: -1, Reason: o.Reason}
	e.Message = "deciding and reporting only, not acting: " + o.Reason
	if o.Acts {
		e.Name, e.Level, e.PID = EvActing, LevelInfo, 0
		e.Message = "this guard acts"
		for ix := range g.targets {
			if t := &g.targets[ix]; t.state == Reported && t.condemnable() && t.policy.Action == config.ActionLadder && t.untouchable() == "" {
				g.due[ix] = g.clock.attn // judged anew
			}
		}
	}
	g.emit(e)
}
