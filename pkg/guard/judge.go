package guard

import (
	"fmt"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// wake looks at a target whose time has come.
func (g *Guard) wake(ix int32) {
	t := &g.targets[ix]
	attn := g.clock.attn
	if t.opening {
		g.due[ix] = attn + reopenWait
		return
	}
	switch t.state {
	case Guarded, Waiting, Reported:
		if t.state == Guarded && !t.soft && t.limit > 0 && attn < t.since+t.patience || t.state == Waiting && !t.soft && attn < t.waitEnd {
			// A soft look at half of it: who is stopped now, and goes on just
			// before the deadline, must not be taken for hung there; and what it
			// has used of the processors by then is compared with the deadline's.
			t.soft, t.awaitLook = true, true
			g.due[ix] = t.nextLook()
			if t.state == Waiting {
				g.due[ix] = t.waitEnd
			}
			g.decide(LookAt{t.id})
			return
		}
		if t.state == Guarded && !t.prepared && t.limit > 0 && attn < t.since+t.patience {
			t.prepared = true
			g.due[ix] = t.nextLook()
			g.askEvidence(ix)
			return
		}
		if attn < g.judgeFrom && t.given < t.limit { // just after a gap
			t.prepared = false // its evidence will be old by then, here and below
			g.due[ix] = g.judgeFrom
			return
		}
		if t.limit <= 0 || t.since+t.patience > attn { // a longer timeout was taken
			g.settleState(ix)
			if g.due[ix] <= attn { // its soft look is due already
				g.wake(ix)
			}
			return
		}
		// A record that is forming, or was not seen before its process proved
		// that it joined, may have a longer timeout.
		if t.latched < t.slots || t.consent == ConsentProven && g.scans == t.proven {
			t.prepared = false
			g.due[ix] = attn + g.cfg.Interval
			return
		}
		g.due[ix] = never
		t.state = Rereading
		g.readAgain(ix)
	case Late: // an answer did not come in time, or without a state
		switch {
		case !t.awaitLook: // what is known by now has to do
			t.awaitAsk, t.awaitProof = false, false
			g.lastLook(ix)
		case attn-t.gathered < lookWait:
			g.due[ix] = attn + lookAgain
			g.decide(LookAt{t.id})
		default:
			g.sayBlind(ix)
		}
	case Ladder:
		g.due[ix] = never
		if t.resume && t.awaitProof { // who is in its cgroup is not to be known
			t.awaitProof, t.proof = false, &noEvidence
			g.resumeLadder(ix)
		}
	case Held:
		g.due[ix] = attn + max(g.cfg.Interval, time.Second)
		t.awaitLook = true
		g.decide(LookAt{t.id})
	case Wiped:
		g.due[ix] = never
		t.awaitAsk = true
		g.ask(ix)
	case Ended:
		g.due[ix] = never
		g.decide(CheckReaped{t.id, t.pid})
	default:
		g.due[ix] = never
	}
}

func (o Reread) apply(g *Guard) {
	ix, ok := g.byID[o.Target]
	tb := g.table(o.Table)
	if !ok || tb == nil || o.Slot < 0 || int(o.Slot) >= len(tb.prev) {
		return
	}
	if o.Record != tb.prev[o.Slot] {
		r := o.Record
		g.changed(tb, o.Slot, &r)
	}
	t := &g.targets[ix]
	if t.state != Rereading && t.state != Late {
		return // it beat, or its record is gone
	}
	if t.rereads--; t.rereads > 0 {
		return
	}
	if t.state == Late {
		g.judge(ix)
		return
	}
	g.becomeLate(ix)
}

// readAgain asks for a second look at all records of a target.
func (g *Guard) readAgain(ix int32) {
	t := &g.targets[ix]
	t.rereads, t.readAt = 0, g.clock.attn
	g.eachRecord(ix, func(tb *tableState, i int32) {
		t.rereads++
		g.decide(ReadAgain{t.id, tb.id, i})
	})
}

// becomeLate begins an episode: the second look saw no beat either.
func (g *Guard) becomeLate(ix int32) {
	t := &g.targets[ix]
	again := t.verdict != "" // it was reported before, and is judged anew
	t.lateAt = g.clock.attn
	if t.began == 0 {
		t.began = max(t.lateAt, 1)
	}
	t.let, t.untraced = false, false
	g.forgetLate(t.id)
	g.overdue = append(g.overdue, overdue{at: g.clock.attn, id: t.id})
	if !again {
		e := g.about(ix, EvLate, LevelNotice, "silent")
		e.Message = fmt.Sprintf("%s is silent for %s (timeout %s)", t.describe(), seconds(e.Silence), seconds(t.limit))
		g.emit(e)
	}
	g.gather(ix)
}

// gather asks for what a verdict needs and takes its time: the evidence, and its
// consent once more (it may have exec'ed something else).
func (g *Guard) gather(ix int32) {
	t := &g.targets[ix]
	t.state, t.gathered, t.rereads = Late, g.clock.attn, 0
	t.look, t.awaitLook = Looked{}, false
	g.due[ix] = g.clock.attn + lookWait
	if !t.prepared {
		g.askEvidence(ix)
	}
	t.prepared = false // for the next time
	if !t.awaitAsk && !t.awaitProof {
		g.lastLook(ix)
	}
}

func (g *Guard) askEvidence(ix int32) {
	t := &g.targets[ix]
	t.awaitAsk, t.awaitProof, t.proof = true, true, nil
	g.examine(ix)
	g.ask(ix)
}

// examine asks for the evidence about a target.
func (g *Guard) examine(ix int32) {
	t := &g.targets[ix]
	if t.examining {
		return
	}
	t.examining = true
	g.decide(Examine{t.id, t.pid, t.policy.Scope == config.ScopeCgroup})
}

func (o Examined) apply(g *Guard) {
	ix, ok := g.byID[o.Target]
	if !ok {
		return
	}
	t := &g.targets[ix]
	t.examining = false
	if !t.awaitProof {
		return
	}
	t.awaitProof, t.proof = false, &o
	switch {
	case t.resume:
		g.resumeSoon(ix)
	case t.state == Late && !t.awaitAsk:
		g.lastLook(ix)
	}
}

// lastLook follows when all evidence is in: records and state at one and the same
// time, on which the verdict is given in this wake.
func (g *Guard) lastLook(ix int32) {
	t := &g.targets[ix]
	t.awaitLook, t.gathered = true, g.clock.attn
	g.due[ix] = g.clock.attn + lookAgain
	g.readAgain(ix)
	g.decide(LookAt{t.id})
}

// sayBlind gives up for a while on a target whose state cannot be read: without
// it nobody knows what excuses it.
func (g *Guard) sayBlind(ix int32) {
	t := &g.targets[ix]
	why := t.look.Problem
	if why == "" {
		why = "its state could not be read"
	}
	if t.limited != "" {
		g.setAside(ix, why, failedWait)
		return
	}
	g.forgetLate(t.id)
	t.state, t.verdict, g.due[ix] = Reported, "unverified", g.clock.attn+failedWait
	t.dropQuestions()
	if t.complaint == why {
		return
	}
	t.complaint = why
	e := g.about(ix, EvRefused, LevelError, why)
	e.Message = fmt.Sprintf("%s silent for %s (timeout %s), but its state could not be read: %s; leaving it alone, trying again in %s",
		t.describe(), seconds(e.Silence), seconds(t.limit), why, seconds(failedWait))
	g.emit(e)
}

func (o Looked) apply(g *Guard) {
	ix, ok := g.byID[o.Target]
	if !ok {
		return
	}
	t := &g.targets[ix]
	if !t.awaitLook || o.Vanished {
		return // its exit notice is on the way
	}
	if t.look.Problem = o.Problem; o.Problem != "" {
		t.awaitLook = t.state == Late // asked again
		return
	}
	t.awaitLook = false
	t.look = o
	if o.PGID != 0 {
		t.facts.PGID = o.PGID
	}
	switch t.state {
	case Guarded, Waiting:
		t.softWhy, t.softSeen = t.look.excuse(), true
		t.softAt, t.softState, t.softCPU, t.softRun = g.clock.attn, o.State, o.CPU, o.RunWait
	case Late:
		if g.clock.attn > t.readAt { // the look at its records is old by now
			g.readAgain(ix)
			return
		}
		g.judge(ix)
	case Held:
		g.stillHeld(ix)
	}
}

// judge decides about a late target once all that it rests on is in.
func (g *Guard) judge(ix int32) {
	t := &g.targets[ix]
	if t.state != Late || t.awaitLook || t.awaitAsk || t.awaitProof || t.rereads > 0 {
		return
	}
	if t.limited != "" {
		g.judgeLimit(ix)
		return
	}
	if why := t.look.excuse(); why != "" && !(why == excuseTracer && t.untraced) && t.responseTo(why) == config.RespondHold {
		g.hold(ix, why)
		return
	}
	if why := t.softExcuse(); why != "" && t.responseTo(why) == config.RespondHold {
		// It goes on since, perhaps only just.
		g.forgetLate(t.id)
		g.setFree(ix, fmt.Sprintf("%s was %s when its silence was half over", t.describe(), why))
		return
	}
	if g.standDown(ix) {
		return
	}
	before := t.verdict
	t.verdict = g.verdictOf(t)
	t.channel = ""
	if t.verdict == verdictBlocked {
		t.channel = t.evidence().Channel
	}
	if g.notActedOn(ix) {
		return
	}
	switch t.responseTo(t.verdict) {
	case config.RespondWait:
		if !t.waited {
			g.grantWait(ix)
			return
		}
	case config.RespondReport:
		if t.reported && before == t.verdict { // and that was said
			t.state, t.let = Reported, false
		} else {
			g.onlySay(ix, fmt.Sprintf("verdict.%s is report", t.verdict))
		}
		g.due[ix] = g.clock.attn + max(t.limit, failedWait) // the next verdict may be another
		return
	}
	if t.let { // condemned before, and the brake let it go
		t.let = false
		g.begin(ix)
		return
	}
	t.state, t.brakedSince, g.due[ix] = Braked, g.clock.attn, never
	g.condemned = append(g.condemned, t.id)
}

// grantWait gives a target one more timeout, once for each episode: what keeps it
// from beating is probably not in it.
func (g *Guard) grantWait(ix int32) {
	t := &g.targets[ix]
	t.state, t.waited, t.let = Waiting, true, false
	// With a soft look of its own: who is stopped for half of it did not have it.
	t.soft, t.waitEnd = false, g.clock.attn+t.limit
	g.due[ix] = g.clock.attn + t.limit/2
	g.waits++
	g.emit(g.verdictOn(ix, EvWaiting, fmt.Sprintf("it is given %s more, once", seconds(t.limit))))
}

// sayCondemned reports the verdict on a target and what comes of it.
func (g *Guard) sayCondemned(ix int32, what string) {
	g.condemnations++
	g.emit(g.verdictOn(ix, EvCondemned, what))
}

// verdictOn is the event of a verdict.
func (g *Guard) verdictOn(ix int32, name EventName, what string) *Event {
	t := &g.targets[ix]
	e := g.about(ix, name, LevelWarning, g.story(t))
	e.Gaps, e.Lateness = g.lastGaps(ix), t.given
	e.Message = fmt.Sprintf("%s silent for %s (timeout %s): %s: %s; %s", t.describe(), seconds(e.Silence), seconds(e.Timeout), e.Reason, t.verdict, what)
	if t.limited != "" {
		e.Message = fmt.Sprintf("%s: %s: %s; %s", t.describe(), t.limited, e.Reason, what)
	}
	return e
}

// standDown settles a late target that is not to be ended after all, and says
// whether that is so.
func (g *Guard) standDown(ix int32) bool {
	t := &g.targets[ix]
	switch {
	case t.limit <= 0 || t.since+t.patience > g.clock.attn: // a longer timeout was taken
		g.forgetLate(t.id)
		g.settleState(ix)
	case t.consent != ConsentProven:
		g.forgetLate(t.id)
		t.state, t.verdict, g.due[ix], t.let = Reported, "unverified", never, false
		if t.consent != ConsentUnknown {
			t.verdict = "forged"
		}
		g.complain(ix, "")
		g.askLater(ix)
	default:
		return false
	}
	return true
}

// notActedOn settles a target that is late without an excuse, and that an order, a
// rule or a missing right keeps from being ended; it says whether that is so.
func (g *Guard) notActedOn(ix int32) bool {
	if h := g.heldBy(ix); h != nil {
		g.holdByOrder(ix, h)
		return true
	}
	if why := g.onlyReport(ix); why != "" {
		g.onlySay(ix, why)
		return true
	}
	return false
}

// onlySay reports a condemned target instead of ending it.
func (g *Guard) onlySay(ix int32, why string) {
	t := &g.targets[ix]
	g.would++
	name := EvWouldCondemn
	if t.shield != "" {
		name = EvProtected
	}
	g.emit(g.verdictOn(ix, name, fmt.Sprintf("not acting: %s; it would have got %s", why, ladderText(t.policy.Steps))))
	t.state, g.due[ix], t.let, t.reported = Reported, never, false, true
}

// ladderText says what a ladder is: SIGTERM, after 5.0s SIGKILL.
func ladderText(steps []config.Step) string {
	var b strings.Builder
	for i := range steps {
		if i > 0 {
			fmt.Fprintf(&b, ", after %s ", seconds(steps[i-1].Wait))
		}
		b.WriteString(steps[i].SignalName())
	}
	return b.String()
}

// onlyReport says why a condemned target is not acted on, "" if it is.
func (g *Guard) onlyReport(ix int32) string {
	if !g.acting {
		return g.notActing
	}
	t := &g.targets[ix]
	if why := t.untouchable(); why != "" {
		return why
	}
	if t.policy.Action == config.ActionReport {
		return fmt.Sprintf("rule[%d] says report", t.policy.Rule)
	}
	return ""
}

// hold leaves a late target alone while something explains its silence.
func (g *Guard) hold(ix int32, why string) {
	t := &g.targets[ix]
	g.forgetLate(t.id)
	t.state, t.verdict, t.heldSince, t.let = Held, why, g.clock.attn, false
	g.due[ix] = g.clock.attn + max(g.cfg.Interval, time.Second)
	e := g.about(ix, EvHeld, LevelWarning, why)
	e.Message = fmt.Sprintf("%s silent for %s, but %s: nothing is done while that lasts", t.describe(), seconds(e.Silence), excuseTexts[why])
	g.emit(e)
}

// stillHeld looks whether the excuse still stands.
func (g *Guard) stillHeld(ix int32) {
	t := &g.targets[ix]
	why := t.look.excuse()
	if why == excuseTracer && t.verdict != why {
		t.heldSince = g.clock.attn // before, something else excused it
	}
	if why == excuseTracer && g.clock.attn-t.heldSince >= tracerMax {
		why = ""
	}
	if why != "" && t.responseTo(why) == config.RespondHold {
		t.verdict = why
		return
	}
	if why != "" { // its rule says ladder by now
		g.gather(ix)
		return
	}
	if t.verdict == excuseTracer && t.look.Tracer != 0 {
		// An hour is enough: it is judged as if nobody were attached.
		t.untraced, t.softSeen = true, false
		g.gather(ix)
		return
	}
	g.setFree(ix, fmt.Sprintf("%s %s", t.describe(), noLonger[t.verdict]))
}

// setFree begins the silence of a target anew, after something excused it.
func (g *Guard) setFree(ix int32, story string) {
	t := &g.targets[ix]
	why := t.verdict
	if soft := t.softExcuse(); soft != "" {
		why = soft
	}
	e := g.about(ix, EvReleased, LevelInfo, why)
	e.Message = story + ": its silence begins anew"
	t.beat(g.clock.attn)
	t.let = false
	g.emit(e)
	g.settleState(ix)
}

// begin starts the ladder of a condemned target. The brake may have held it for
// long: what it was condemned on is looked at again.
func (g *Guard) begin(ix int32) {
	t := &g.targets[ix]
	switch {
	case t.limited != "":
		if why := g.spared(ix); why != "" {
			g.setAside(ix, why, 0)
			return
		}
	case g.standDown(ix), g.notActedOn(ix):
		return
	}
	t.state, g.due[ix] = Ladder, never
	t.step, t.sent, t.killedBy, t.struck = 0, false, "", 0
	g.beginning = append(g.beginning, t.id) // others of its cgroup may begin in this step
}

// beginAll starts the ladders of this step.
func (g *Guard) beginAll() {
	for _, id := range g.beginning {
		if ix, ok := g.byID[id]; ok && g.targets[ix].state == Ladder && !g.targets[ix].inLadder {
			g.startLadder(ix, BeginLadder{})
		}
	}
	g.beginning = g.beginning[:0]
}

// narrow takes ladders for a whole cgroup down to their target alone, once somebody
// is in it who is not to be ended: a new client, or one that an order holds, or that
// beats again.
func (g *Guard) narrow() {
	if g.grouped == 0 {
		return
	}
	g.grouped = 0
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.inLadder || !t.grouped || t.state == Ended { // in the latter case see tendRests
			continue
		}
		g.grouped++
		if t.narrowed || t.cancelled {
			continue
		}
		if o := g.innocentIn(int32(ix)); o >= 0 {
			t.narrowed = true
			g.decide(CancelLadder{t.id})
			e := g.about(int32(ix), EvRefused, LevelWarning, "cgroup")
			e.Message = fmt.Sprintf("%s: the signals go to it alone from now on: %s is in its cgroup, which is not to be ended", t.describe(), g.targets[o].describe())
			g.emit(e)
		}
	}
}

// startLadder fills in what a ladder needs and asks for it.
func (g *Guard) startLadder(ix int32, d BeginLadder) {
	t := &g.targets[ix]
	t.inLadder, t.cancelled, t.grouped, t.narrowed = true, false, false, false
	d.Target, d.PID, d.Steps, d.DumpWait = t.id, t.pid, t.policy.Steps, g.cfg.Ladder.DumpWait
	if t.policy.Scope == config.ScopeCgroup {
		if why := g.groupRefusal(ix); why == "" {
			d.Scope, t.grouped = config.ScopeCgroup, true
			g.grouped++
			d.Group = g.keepRest(t).group
		} else {
			e := g.about(ix, EvRefused, LevelWarning, why)
			e.Message = fmt.Sprintf("%s: its rule says scope cgroup, but %s: ending it alone", t.describe(), why)
			g.emit(e)
		}
	}
	if !t.grouped {
		g.dropRest(t.id)
	}
	g.eachRecord(ix, func(tb *tableState, i int32) {
		if t.limited != "" { // beats do not save it
			return
		}
		d.Places = append(d.Places, Place{tb.id, i, tb.prev[i].Token})
	})
	g.decide(d)
}

func (o LadderReport) apply(g *Guard) {
	if r := g.restOf(o.Target); r != nil && g.restReported(r, o) {
		return
	}
	ix, ok := g.byID[o.Target]
	if !ok {
		return
	}
	t := &g.targets[ix]
	if !t.inLadder {
		return
	}
	switch o.Kind {
	case LadderSignalled:
		t.step, t.sent, t.sentMono, t.killedBy = o.Step, true, g.clock.last, o.Signal
		if t.struck == 0 {
			t.struck = g.clock.last
		}
		g.signals++
		g.groupSignalled(t)
		e := g.about(ix, EvSignalled, LevelWarning, "")
		e.Signal, e.Step = o.Signal, int(o.Step)+1
		e.Message = fmt.Sprintf("%s sent to %s, step %d", o.Signal, t.describe(), o.Step+1)
		g.emit(e)
		return
	}
	if o.Kind == LadderDumping {
		e := g.about(ix, EvHeld, LevelWarning, "dumping")
		e.Signal, e.Step = o.Signal, int(o.Step)+1
		e.Message = fmt.Sprintf("%s writes a core dump after %s: the next step waits for it, %s at most", t.describe(), o.Signal, seconds(g.cfg.Ladder.DumpWait))
		g.emit(e)
		return
	}
	t.inLadder = false
	if t.state == Ended {
		// Its exit notice overtook the ladder's last words.
		g.lastWords(ix)
		return
	}
	if o.Kind == LadderRecovered || o.Kind != LadderGone && t.beatsAgain() && t.killedBy != sigkill {
		t.cancelled = false
		g.brake.heldBeat = true // the common cause may be over
		g.offLadderWell(ix)
		return
	}
	switch o.Kind {
	case LadderUnkillable:
		t.state, t.verdict = Unkillable, "unkillable"
		e := g.about(ix, EvUnkillable, LevelError, o.Reason)
		e.Signal = t.killedBy
		stuck := "it is stuck in the kernel"
		if t.killedBy != sigkill {
			stuck = "that was the last step of the ladder"
		}
		e.Message = fmt.Sprintf("%s does not end after %s: %s; waiting for its exit notice, nothing more is sent", t.describe(), t.killedBy, stuck)
		g.unkillables++
		g.emit(e)
		if t.limited != "" && t.killedBy != sigkill {
			g.setAside(ix, "", never)
		}
	case LadderFailed:
		g.offLadder(ix, "unverified", g.clock.attn+failedWait)
		e := g.about(ix, EvRefused, LevelError, o.Reason)
		e.Message = fmt.Sprintf("%s could not be signalled: %s; trying again in %s", t.describe(), o.Reason, seconds(failedWait))
		g.emit(e)
	case LadderCancelled:
		// The daemon ends, and it goes on from the registry; or there was an
		// order to stop, and all that may follow begins anew; or it goes on for
		// the target alone.
		switch {
		case t.narrowed && !t.cancelled && g.acting:
			g.resumeSoon(ix)
		case t.cancelled:
			due := never
			if g.acting {
				due = g.clock.attn
			}
			t.cancelled, t.killedBy, t.sent, t.step, t.struck = false, "", false, 0, 0
			g.offLadder(ix, verdictHung, due)
		}
	case LadderGone:
		// The exit notice tells the rest.
	}
}

// offLadderWell spares a target that beat after it became late.
func (g *Guard) offLadderWell(ix int32) {
	t := &g.targets[ix]
	beat := g.clock.attn
	if t.beatsAgain() {
		beat = t.since
	}
	g.recovered(ix, t.patience+beat-t.lateAt)
}

// beatsAgain says whether a scan saw a beat of a target after it became late.
// Whom a limit ends is not saved by it.
func (t *target) beatsAgain() bool { return t.since > t.lateAt && t.limited == "" }

// offLadder takes a target off its ladder; it is judged anew at due.
func (g *Guard) offLadder(ix int32, verdict string, due time.Duration) {
	t := &g.targets[ix]
	if t.slots == 0 {
		g.wiped(ix)
		return
	}
	if t.limited != "" {
		wait := time.Duration(0)
		if verdict == "unverified" { // no signal could be sent
			wait = failedWait
		}
		g.setAside(ix, "its ladder was stopped", wait)
		return
	}
	t.state, t.verdict, g.due[ix] = Reported, verdict, due
}

// outlived judges anew who outlived a ladder that had no SIGKILL, now that there
// may be another ladder.
func (g *Guard) outlived(ix int32) {
	t := &g.targets[ix]
	steps := t.policy.Steps
	if t.state != Unkillable || t.killedBy == sigkill || steps[len(steps)-1].SignalName() != sigkill {
		return
	}
	t.killedBy, t.sent, t.step, t.struck = "", false, 0, 0
	g.offLadder(ix, verdictHung, g.clock.attn)
}
