package guard

import (
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// State is where a target stands; the diagram is in the package's comment.
type State uint8

const (
	// Watched: a pidfd is held; not judged, because consent is not proven or no
	// record of it is latched yet.
	Watched State = iota
	// Guarded: it beats, or its silence is within its limit.
	Guarded
	// Rereading: its deadline has come; its records are read once more.
	Rereading
	// Late: its silence is beyond its limit; the evidence is being gathered.
	Late
	// Held: late, and stopped, traced, frozen or dumping: left alone for as long.
	Held
	// Waiting: starved or blocked, and given one more timeout.
	Waiting
	// Reported: late, and not acted on: a rule, an order, an observer, no consent.
	Reported
	// Braked: condemned, and the brake holds its ladder.
	Braked
	// Ladder: signals are under way.
	Ladder
	// Unkillable: SIGKILL and its wait are over, and it still exists.
	Unkillable
	// Wiped: it has no record any more; it is given time to end.
	Wiped
	// Unguarded: it lives, maps the table and has no record.
	Unguarded
	// Ended: its exit notice came.
	Ended
	numStates
)

// sigkill is the signal that nobody survives, by its name in a [LadderReport].
const sigkill = "SIGKILL"

var stateNames = [numStates]string{"watched", "guarded", "rereading", "late", "held", "waiting", "reported",
	"braked", "ladder", "unkillable", "wiped", "unguarded", "ended"}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "invalid"
}

const (
	never = time.Duration(math.MaxInt64)
	// marginMin is the least that a target is given beyond its timeout: many
	// clients beat exactly every timeout, and write whole seconds.
	marginMin = time.Second
	// wipedWait is how long a target without a record is given to end.
	wipedWait = 5 * time.Second
	// reapWait is how long a parent is given to reap. Where only the exit status says
	// whether it crashed, it is asked for again and again meanwhile, from reapLook on: it
	// goes with the pidfd if the daemon ends.
	reapWait = 5 * time.Second
	reapLook = 100 * time.Millisecond
	// lookWait bounds the wait for what a verdict needs. Reading the consent
	// anew can block on just the process that is stuck; the answer "unknown"
	// comes within a second then, or later when others are stuck as well. After
	// this the consent of old stands, and what evidence there is has to do. A
	// state that cannot be read is asked for again each lookAgain; without one
	// nobody is ended.
	lookWait = 10 * time.Second
	// prepareLead: the evidence is asked for so long before the deadline. It takes 50
	// ms, and a hang is to be acted on within one interval.
	prepareLead = 200 * time.Millisecond
	lookAgain   = time.Second
	// notLatched stands for the timeout of a target before its first record is
	// latched.
	notLatched = -1
	// tracerMax bounds a hold for a tracer that does not stop its target.
	tracerMax = time.Hour
	// failedWait is the pause after a signal that could not be sent.
	failedWait = time.Minute
)

// target is one verified process.
type target struct {
	// What each beat touches, in one cache line.
	since    time.Duration // last beat
	given    time.Duration // what stalls of the daemon have added to this silence
	limit    time.Duration // timeout in force: the rule's or the client's; 0: never late
	patience time.Duration // limit plus margin
	gaps     uint32        // between its beats, noted so far
	run      [2]uint32     // of these, those of two lengths that are not counted for its name yet
	alike    [2]gapCode    // what these are
	state    State
	soft     bool // the soft look at this silence was asked for
	softSeen bool // and answered: what is below about it counts
	prepared bool // its evidence was asked for before its deadline
	gapSpent bool // a gap has restarted this silence already
	beaten   bool // it has beaten at least once
	used     bool

	ring [gapsRemembered]gapCode // the last gaps between its beats

	id     TargetID
	pid    int32
	facts  Facts
	policy config.Policy
	gauges []gauge // of the limits of its rule, in their order

	shield   string // the pattern that protects it, "" for none
	misnamed bool   // its user may not use its name

	name    [table.NameSize]byte // of its first latched record
	timeout int32                // the longest latched one, seconds; 0: never late
	slots   int                  // records that name it
	latched int                  // of these, latched
	table   TableID              // its first record
	slot    int32

	known   bool // registered was said
	left    bool // a wiped record remembers it
	opening bool // known from the registry only; no pidfd is held yet

	consent   Consent
	proven    uint64 // scans so far when consent was proven
	asking    bool
	planned   bool // to be asked again later
	backoff   time.Duration
	complaint string // the refusal that was reported last

	// The soft look.
	softWhy   string // what excused it then
	softAt    time.Duration
	softCPU   time.Duration
	softRun   time.Duration
	softState byte

	habit int32 // of its name, -1: none

	// The episode.
	lateAt      time.Duration // when it became late
	limited     string        // the limit that it is to be ended for, "" for none
	began       time.Duration // when its episode began, which may see it late again; 0: it is in none
	verdict     string
	awaitLook   bool
	awaitAsk    bool
	awaitProof  bool
	examining   bool          // Examine is under way
	gathered    time.Duration // when the answers that are waited for were asked for
	readAt      time.Duration // when its records were read once more
	rereads     int
	look        Looked
	proof       *Examined // nil: it is not in
	channel     string    // the wait channel that it is blocked on, "" if it is not
	waited      bool      // it had its one more timeout
	waitEnd     time.Duration
	reported    bool // this episode was, without a ladder
	grouped     bool // its ladder is for its whole cgroup
	narrowed    bool // and goes on for it alone, once that is cancelled
	heldBy      bool // reported, because an order holds it
	heldSince   time.Duration
	brakedSince time.Duration
	let         bool   // the brake let it go: one more look, then its ladder
	killedBy    string // name of the last signal sent by a ladder, "" for none
	step        int32  // of the ladder: the step whose signal was sent last
	sent        bool
	sentMono    time.Duration
	struck      time.Duration // when its first signal was sent, mono; 0: there was none
	status      string        // how it ended
	ending      Ending
	endedMono   time.Duration
	newest      TargetID  // the latest target when it ended
	returns     bool      // it was planned to have it come back
	main        bool      // it is its unit's main process
	succeeds    bool      // it came in the place of one that ended
	inLadder    bool      // the last word of its ladder has not come
	farewell    EventName // how its end was or will be reported
	said        bool      // its end was reported
	unclear     bool      // it left its record behind, and its exit status may yet say whether it crashed
	reapAt      time.Duration
	cancelled   bool // an order to stop its ladder was given
	untraced    bool // a tracer excuses it no longer
	resume      bool // a ladder to go on with, once its identity stands again

}

func (t *target) displayName() string { return table.CleanName(&t.name) }

func (t *target) silence(now time.Duration) time.Duration { return now - t.since }

func (t *target) describe() string { return who(t.pid, t.displayName()) }

// newTarget makes room for a target and returns its index.
func (g *Guard) newTarget(id TargetID, pid int32, f Facts) int32 {
	var ix int32
	if n := len(g.free); n > 0 {
		ix, g.free = g.free[n-1], g.free[:n-1]
	} else {
		ix = int32(len(g.targets))
		g.targets = append(g.targets, target{})
		g.due = append(g.due, never)
	}
	g.targets[ix] = target{id: id, pid: pid, facts: f, used: true, timeout: notLatched, since: g.clock.attn, backoff: retryMin, slot: -1, habit: -1}
	g.due[ix] = never
	g.byPID[pid] = ix
	g.byID[id] = ix
	g.units = nil
	return ix
}

// inUnit lists targets of a unit in the order of their places: it holds all that are
// in it, and perhaps some that were. A wave asks for thousands of units in one step.
func (g *Guard) inUnit(unit string) []int32 {
	if g.units == nil {
		g.units = make(map[string][]int32)
		for ix := range g.targets {
			if t := &g.targets[ix]; t.used {
				g.units[t.facts.Unit] = append(g.units[t.facts.Unit], int32(ix))
			}
		}
	}
	return g.units[unit]
}

// livingIn are the targets in a unit that have not ended.
func (g *Guard) livingIn(unit string) iter.Seq2[int32, *target] {
	return func(yield func(int32, *target) bool) {
		for _, ix := range g.inUnit(unit) {
			if t := &g.targets[ix]; t.used && t.state != Ended && t.facts.Unit == unit && !yield(ix, t) {
				return
			}
		}
	}
}

// release gives up a target and forgets it.
func (g *Guard) release(ix int32) {
	t := &g.targets[ix]
	if t.state == Ended {
		if g.sayEnd(ix); t.unclear { // and so it stays
			g.planRecovery(ix, true, false)
		}
	}
	g.dropLimits(ix, "it is guarded no longer")
	g.unbrake(ix)
	g.forgetLate(t.id)
	g.fold(ix)
	g.dropHoldOf(t.id)
	g.decide(Release{t.id})
	g.eachRecord(ix, func(tb *tableState, i int32) {
		s := &tb.slots[i]
		if s.phase == slotLatched && t.state == Ended && t.consent == ConsentProven {
			g.sayWouldClear(tb, i)
		}
		s.owner = -1
		if s.phase == slotLatched || s.phase == slotForming {
			s.phase, s.since = slotOrphan, g.clock.attn
			g.listWaiting(tb, i)
		}
	})
	if t.left {
		g.forgetFormer(ix)
	}
	if g.byPID[t.pid] == ix {
		delete(g.byPID, t.pid)
	}
	delete(g.byID, t.id)
	*t = target{slot: -1, habit: -1}
	g.due[ix] = never
	g.free = append(g.free, ix)
}

// forgetFormer makes wiped records forget a target.
func (g *Guard) forgetFormer(ix int32) {
	for _, tb := range g.tables {
		for i := range tb.slots {
			if s := &tb.slots[i]; s.former == ix {
				s.former = -1
			}
		}
	}
}

// attach takes in that a record names a target; beat: and that this is a sign of
// life.
func (g *Guard) attach(ix int32, tb *tableState, i int32, beat bool) {
	t := &g.targets[ix]
	t.slots++
	if t.slots == 1 {
		t.table, t.slot = tb.id, i
	}
	switch t.state {
	case Wiped, Unguarded:
		// It came back. A record first seen counts as having just beaten.
		t.beat(g.clock.attn)
		t.awaitAsk = false
		g.settleState(ix)
	case Ended:
	default:
		if beat && (t.slots > 1 || t.state == Ladder || t.state == Unkillable) {
			g.beat(ix) // as above: who registers runs
		}
	}
}

// detach takes in that a record does not name its target any more.
func (g *Guard) detach(ix int32, tb *tableState, i int32) {
	t := &g.targets[ix]
	t.slots--
	if tb.slots[i].phase == slotLatched {
		t.latched--
	}
	if t.slots > 0 {
		if t.table == tb.id && t.slot == i {
			g.findFirst(ix)
		}
		return
	}
	switch t.state {
	case Ended:
		// A client zeroes all of its record, a guard that clears it its pid alone.
		if r := &tb.prev[i]; r.Timeout != 0 || r.Token != 0 {
			g.farewell(ix, EvExited)
		} else {
			g.farewell(ix, EvUnregistered)
		}
	case Ladder, Unkillable:
		// A clean exit wipes the record first and may hang after: go on.
	default:
		g.wiped(ix)
	}
}

// wiped gives a target without a record time to end.
func (g *Guard) wiped(ix int32) {
	t := &g.targets[ix]
	g.unbrake(ix)
	t.state, t.channel, t.limited = Wiped, "", ""
	t.dropQuestions()
	g.due[ix] = g.clock.attn + wipedWait
}

// findFirst looks for the first record of a target.
func (g *Guard) findFirst(ix int32) {
	for _, tb := range g.tables {
		for i := range tb.slots {
			if tb.slots[i].owner == ix {
				g.targets[ix].table, g.targets[ix].slot = tb.id, int32(i)
				return
			}
		}
	}
}

// dropQuestions forgets what was asked for a verdict: it is not needed any more.
func (t *target) dropQuestions() {
	t.awaitLook, t.awaitAsk, t.awaitProof, t.prepared, t.let = false, false, false, false, false
}

// eachRecord calls f for each record of a target.
func (g *Guard) eachRecord(ix int32, f func(tb *tableState, i int32)) {
	t := &g.targets[ix]
	if t.slots == 0 {
		return
	}
	if t.slots == 1 && t.slot >= 0 {
		if tb := g.table(t.table); tb != nil && tb.slots[t.slot].owner == ix {
			f(tb, t.slot)
			return
		}
	}
	for _, tb := range g.tables {
		for i := range tb.slots {
			if tb.slots[i].owner == ix {
				f(tb, int32(i))
			}
		}
	}
}

// applyPolicy looks up the rule for a target.
func (g *Guard) applyPolicy(ix int32) {
	t := &g.targets[ix]
	t.policy = g.cfg.Policy(t.displayName(), t.facts.User, t.facts.Unit)
	g.applyAccess(ix)
	g.applyLimits(ix)
	g.throttled = g.throttled || len(g.throttles) > 0 // some of them may be shielded by now
}

// setPatience works out how long a target may be silent.
func (g *Guard) setPatience(ix int32) {
	t := &g.targets[ix]
	t.limit = time.Duration(max(t.timeout, 0)) * time.Second
	if t.policy.Timeout > 0 {
		t.limit = t.policy.Timeout
	}
	before := t.patience
	t.patience = g.patienceOf(t)
	switch {
	case t.state == Guarded || t.state == Watched:
		g.settleState(ix)
	case t.state == Reported && t.patience != before:
		g.due[ix] = g.clock.attn // judged anew
	}
}

// patienceOf is how long a target may be silent: its limit with the margin, and
// the grace of its start before it has ever beaten.
func (g *Guard) patienceOf(t *target) time.Duration {
	d := t.limit + max(time.Duration(float64(t.limit)*g.cfg.CPActive.Margin), marginMin)
	if !t.beaten {
		d = max(d, t.policy.StartGrace)
	}
	return d
}

// settleState puts a target that is not in an episode to Watched or Guarded.
func (g *Guard) settleState(ix int32) {
	t := &g.targets[ix]
	t.verdict, t.channel, t.waited, t.heldBy, t.reported, t.proof, t.prepared, t.began = "", "", false, false, false, nil, false, 0
	t.limited = ""
	t.state, g.due[ix] = Watched, never
	if t.consent != ConsentProven {
		g.askLater(ix)
	} else {
		t.complaint = ""
	}
	if t.latched == 0 {
		return
	}
	// Without consent it is judged all the same, and then reported, not acted on.
	t.state = Guarded
	if t.limit > 0 {
		g.due[ix] = t.nextLook()
	}
}

// nextLook is when a silence wants a look: softly at half of what it may last,
// and at its end.
func (t *target) nextLook() time.Duration {
	switch {
	case !t.soft:
		return t.since + t.patience/2
	case !t.prepared && t.consent == ConsentProven:
		return t.since + t.patience - prepareLead
	}
	return t.since + t.patience
}

// beat begins a new silence.
func (t *target) beat(now time.Duration) {
	t.since, t.given, t.gapSpent, t.soft, t.softSeen, t.prepared, t.untraced = now, 0, false, false, false, false, false
}

// beat takes in that a record of a target moved.
func (g *Guard) beat(ix int32) {
	t := &g.targets[ix]
	silent := t.silence(g.clock.attn)
	g.noteGap(ix, silent)
	t.beat(g.clock.attn)
	if !t.beaten {
		t.beaten = true
		t.patience = g.patienceOf(t)
	}
	if t.limited != "" { // which no beat excuses
		return
	}
	switch t.state {
	case Watched:
		g.settleState(ix)
	case Rereading:
		if t.verdict != "" { // its episode began before
			g.recovered(ix, silent)
		} else {
			g.settleState(ix)
		}
	case Guarded:
		if t.limit > 0 {
			g.due[ix] = t.nextLook()
		}
	case Late, Held, Waiting, Reported:
		g.recovered(ix, silent)
	case Braked:
		g.brake.heldBeat = true
		g.recovered(ix, silent)
	case Unkillable:
		if t.killedBy != sigkill { // which nobody survives: not its own beat
			g.recovered(ix, silent)
		}
	case Ladder:
		// Its worker reads the records that it had when it was condemned before
		// each signal; this may be another.
		if t.inLadder && !t.cancelled && t.killedBy != sigkill {
			t.cancelled = true
			g.decide(CancelLadder{t.id})
		}
	}
	// Wiped and later have no record.
}

// recovered ends an episode well.
func (g *Guard) recovered(ix int32, silent time.Duration) {
	t := &g.targets[ix]
	was := t.state
	g.unbrake(ix)
	g.forgetLate(t.id)
	e := g.about(ix, EvRecovered, LevelNotice, "beats again")
	e.Silence = silent
	switch {
	case was == Ladder && t.killedBy != "":
		e.Message = fmt.Sprintf("%s beats again after %s: spared", t.describe(), t.killedBy)
	case was == Ladder || was == Braked:
		e.Message = fmt.Sprintf("%s beats again after %s of silence, before any signal: spared", t.describe(), seconds(silent))
	default:
		e.Message = fmt.Sprintf("%s beats again after %s of silence", t.describe(), seconds(silent))
	}
	g.recoveries++
	g.emit(e)
	t.killedBy, t.sent, t.step, t.struck = "", false, 0, 0
	t.resume = false
	t.dropQuestions()
	if t.slots == 0 {
		g.wiped(ix)
		return
	}
	g.settleState(ix)
}

// announce says that a target is registered, once all of it stands.
func (g *Guard) announce(ix int32) {
	t := &g.targets[ix]
	if t.known || t.latched == 0 || t.consent != ConsentProven || t.state == Ended {
		return
	}
	t.known = true
	g.findHabit(ix)
	e := g.about(ix, EvRegistered, LevelInfo, "")
	e.Silence = 0 // consent may have taken its time
	limit := "timeout " + seconds(t.limit)
	if t.limit <= 0 {
		limit = "without a timeout"
	}
	e.Message = fmt.Sprintf("%s registered in slot %d, %s", t.describe(), t.slot, limit)
	if t.facts.Unit != "" {
		e.Message += ", " + t.facts.Unit
	}
	g.emit(e)
}

// unguarded says that a live client has no record.
func (g *Guard) unguarded(ix int32, why string) {
	t := &g.targets[ix]
	t.state, g.due[ix] = Unguarded, never
	e := g.about(ix, EvUnguarded, LevelWarning, why)
	e.Message = fmt.Sprintf("%s lives but has lost its record (%s): not guarded any more; restart that program", t.describe(), why)
	g.emit(e)
}

func (o Identified) apply(g *Guard) {
	if ix, ok := g.byID[o.Target]; ok {
		g.reidentified(ix, o)
		return
	}
	refs := g.asking[o.PID]
	delete(g.asking, o.PID)
	ix := int32(-1)
	if o.Sight == SightVerified {
		ix = g.newTarget(o.Target, o.PID, o.Facts)
	}
	for _, ref := range refs {
		tb := g.table(ref.table)
		if tb == nil {
			continue
		}
		s := &tb.slots[ref.slot]
		if !s.asked || tb.prev[ref.slot].PID != o.PID {
			continue
		}
		s.asked = false
		switch o.Sight {
		case SightVerified:
			s.owner, s.phase, s.agreed = ix, slotForming, tb.scans
			g.listWaiting(tb, ref.slot)
			g.attach(ix, tb, ref.slot, true)
		case SightGone:
			g.orphanFound(tb, ref.slot)
		case SightRefused:
			if s.phase != slotRefused {
				e := g.aboutSlot(tb, ref.slot, EvRefused, LevelWarning, o.Reason)
				e.Verdict = "forged"
				e.Message = fmt.Sprintf("slot %d names %s: %s; never signalled, leaving the record alone", ref.slot, who(e.PID, e.Process), o.Reason)
				g.emit(e)
			}
			// The number may be a client's one day.
			s.phase, s.since = slotRefused, g.clock.attn+retryMax
			g.listWaiting(tb, ref.slot)
		case SightError:
			if s.phase != slotRetry {
				e := g.aboutSlot(tb, ref.slot, EvRefused, LevelWarning, o.Reason)
				e.Verdict = "unverified"
				e.Message = fmt.Sprintf("slot %d names %s, which could not be opened: %s; not guarded, trying again", ref.slot, who(e.PID, e.Process), o.Reason)
				g.emit(e)
			}
			s.phase = slotRetry
			s.backoff = min(max(2*s.backoff, retryMin), retryMax)
			s.since = g.clock.attn + s.backoff
			g.listWaiting(tb, ref.slot)
		}
	}
	switch {
	case ix < 0:
	case g.targets[ix].slots == 0: // nobody wanted it any more
		g.release(ix)
	default:
		g.ask(ix)
	}
}

// ask asks for the consent of a target.
func (g *Guard) ask(ix int32) {
	t := &g.targets[ix]
	if t.asking || t.opening { // in the latter case it is asked once it is open
		return
	}
	t.asking = true
	g.decide(AskConsent{t.id, t.pid, t.table})
}

// askLater asks for consent again after the backoff.
func (g *Guard) askLater(ix int32) {
	t := &g.targets[ix]
	if t.planned {
		return
	}
	t.planned = true
	g.asks = append(g.asks, timedAsk{g.clock.attn + t.backoff, t.id})
	t.backoff = min(2*t.backoff, retryMax)
}

func (o Consented) apply(g *Guard) {
	ix, ok := g.byID[o.Target]
	if !ok {
		return
	}
	t := &g.targets[ix]
	t.asking = false
	if t.state == Ended {
		return
	}
	before := t.consent
	if o.Consent != ConsentUnknown || before != ConsentProven {
		t.consent = o.Consent // what was proven stands while it cannot be read
	}
	if t.consent == ConsentProven && before != ConsentProven {
		t.proven = g.scans
		g.throttled = g.throttled || len(g.throttles) > 0
		if t.state == Late && !t.let { // that one was condemned with consent, before a restart
			// It joined just now, so the record that it is late by may be a
			// forged one, and its own has not been seen yet.
			g.forgetLate(t.id)
			t.state, g.due[ix] = Guarded, g.clock.attn
			if t.verdict != "" { // its episode began before
				t.state = Reported
			} else {
				t.began = 0
			}
			t.dropQuestions()
		}
	}
	switch {
	case t.opening: // its identity does not stand yet
		t.consent = before
		return
	case t.state == Wiped && t.awaitAsk:
		t.awaitAsk = false
		g.wipedAnswer(ix)
		return
	case t.resume:
		g.resumeSoon(ix)
		return
	case t.awaitAsk:
		t.awaitAsk = false
		if t.state == Late && !t.awaitProof {
			g.lastLook(ix)
		}
		return
	}
	if t.consent == ConsentProven {
		t.backoff = retryMin
		if before != ConsentProven {
			t.complaint = ""
			if t.state == Watched {
				g.settleState(ix)
			}
			if t.state == Reported && (t.verdict == "unverified" || t.verdict == "forged") {
				g.due[ix] = g.clock.attn
			}
			g.announce(ix)
		}
		return
	}
	g.complain(ix, o.Reason)
	g.askLater(ix)
}

// complain reports that a target's consent is not proven, once for each reason,
// and not while its record is forming: it is asked again soon.
func (g *Guard) complain(ix int32, reason string) {
	t := &g.targets[ix]
	if t.latched == 0 {
		return
	}
	verdict := "forged"
	switch t.consent {
	case ConsentNotMapped:
		reason = "it does not have this table mapped"
	case ConsentOtherNamespace:
		reason = "it lives in another IPC or pid namespace"
	default:
		verdict = "unverified"
		if reason == "" {
			reason = t.complaint
		}
		if reason == "" {
			reason = "its memory map could not be read"
		}
	}
	if t.complaint == reason {
		return
	}
	t.complaint = reason
	e := g.about(ix, EvRefused, LevelWarning, reason)
	e.Verdict = verdict
	e.Message = fmt.Sprintf("slot %d names %s, but %s: never signalled until that is proven", t.slot, t.describe(), reason)
	g.emit(e)
}

// wipedAnswer decides about a live process without a record.
func (g *Guard) wipedAnswer(ix int32) {
	t := &g.targets[ix]
	if t.consent == ConsentProven {
		g.unguarded(ix, "its record was wiped or overwritten, it still has the table mapped")
		g.vanished++
		return
	}
	if t.known {
		e := g.about(ix, EvUnregistered, LevelInfo, "left the table")
		e.Message = fmt.Sprintf("%s wiped its record and left the table, it lives on", t.describe())
		g.emit(e)
	}
	g.release(ix)
}

func (o Exited) apply(g *Guard) {
	if ix, ok := g.byID[o.Target]; ok {
		g.targets[ix].ending = o.Ending
		g.ended(ix, o.Status)
	}
}

// ended takes in that a target's process is gone.
func (g *Guard) ended(ix int32, status string) {
	t := &g.targets[ix]
	if t.state == Ended {
		return
	}
	was := t.state
	g.fell(ix)
	g.unbrake(ix)
	g.dropLimits(ix, "it has ended")
	t.state, t.status, t.channel = Ended, status, ""
	t.endedMono, t.newest = g.clock.last, g.nextID
	g.restLeft(t.id)
	t.resume = false
	t.dropQuestions()
	t.reapAt = g.clock.attn + reapWait
	g.due[ix] = t.reapAt
	g.exits++
	if g.byPID[t.pid] == ix {
		delete(g.byPID, t.pid) // the number may come again
	}
	switch {
	case t.inLadder:
		// Its last words come yet: whether a signal was sent decides the story.
	case was == Unkillable || was == Ladder: // the latter after a restart
		g.lastWords(ix)
	default:
		g.checkCollateral(ix)
	}
	if t.slots == 0 {
		g.farewell(ix, EvUnregistered)
		return
	}
	g.eachRecord(ix, func(tb *tableState, i int32) {
		if tb.slots[i].phase == slotLatched { // a forming one follows when two looks agree
			g.clearEnded(ix, tb, i)
		}
	})
}

// clearEnded clears a record of a target that ended. The end of a process that
// did not prove that it joined says nothing about the record: that may be one of
// a process with the same number in another pid namespace, and has to stand still
// like any other without a process.
func (g *Guard) clearEnded(ix int32, tb *tableState, i int32) {
	t := &g.targets[ix]
	if t.consent == ConsentProven {
		g.clear(tb, i)
		return
	}
	t.slots--
	s := &tb.slots[i]
	if s.phase == slotLatched {
		t.latched--
	}
	s.owner, s.phase, s.moves, s.since = -1, slotOrphan, 0, g.clock.attn
	g.listWaiting(tb, i)
	if t.slots > 0 && t.table == tb.id && t.slot == i {
		g.findFirst(ix)
	}
}

// lastWords reports the end of a target whose ladder is over.
func (g *Guard) lastWords(ix int32) {
	t := &g.targets[ix]
	switch {
	case t.said:
		return
	case t.killedBy == "": // it ended before the first signal
		if t.farewell != "" {
			g.farewell(ix, t.farewell)
		}
		return
	}
	g.farewell(ix, EvKilled)
	g.brake.proven++
	g.planRecovery(ix, false, true)
}

// farewell reports the end of a target, once.
func (g *Guard) farewell(ix int32, name EventName) {
	t := &g.targets[ix]
	if t.said || t.state != Ended {
		return
	}
	t.farewell = name
	if t.inLadder {
		return // see lastWords
	}
	t.said = true
	if !t.known && name != EvKilled {
		return
	}
	e := g.about(ix, name, LevelInfo, t.status)
	e.Signal = t.killedBy
	how := ""
	if t.status != "" {
		how = ", " + t.status
	}
	switch name {
	case EvKilled:
		g.kills++
		e.Level = LevelWarning
		e.Step = int(t.step) + 1
		e.Message = fmt.Sprintf("%s ended by the ladder after %s (step %d)%s", t.describe(), t.killedBy, t.step+1, how)
	case EvExited:
		e.Level = LevelNotice
		e.Message = fmt.Sprintf("%s ended without wiping its record%s", t.describe(), how)
		// A unit tells as well whether it crashed; that of a command is gone with
		// it, so its exit status is waited for: see Reaped.
		switch {
		case t.ending == EndedUnknown && t.policy.Restart == config.RestartCommand:
			t.unclear = true
			g.due[ix] = min(g.due[ix], g.clock.attn+reapLook)
		case t.ending != EndedWell:
			g.planRecovery(ix, true, t.ending == EndedBadly)
		}
	case EvUnregistered:
		e.Message = fmt.Sprintf("%s wiped its record and ended%s", t.describe(), how)
	}
	g.emit(e)
}

// sayEnd reports the end of a target at the latest: what its ladder did not say by
// now, it will not say.
func (g *Guard) sayEnd(ix int32) {
	g.targets[ix].inLadder = false
	g.lastWords(ix)
	g.farewell(ix, EvExited)
}

func (o Reaped) apply(g *Guard) {
	ix, ok := g.byID[o.Target]
	if !ok || g.targets[ix].state != Ended {
		return
	}
	t, attn := &g.targets[ix], g.clock.attn
	if attn >= t.reapAt {
		g.sayEnd(ix)
	}
	if t.unclear && o.Ending != EndedUnknown {
		t.unclear = false
		if o.Ending == EndedBadly {
			g.planRecovery(ix, true, true)
		}
	}
	if attn < t.reapAt {
		if g.due[ix] = t.reapAt; t.unclear {
			g.due[ix] = min(t.reapAt, attn+max(attn-t.reapAt+reapWait, reapLook))
		}
		return
	}
	if o.Zombie {
		e := g.about(ix, EvUnreaped, LevelWarning, "zombie")
		e.Message = fmt.Sprintf("%s ended, but its parent %s does not reap it", g.targets[ix].describe(), who(o.Parent, o.ParentComm))
		g.emit(e)
	}
	g.release(ix)
}
