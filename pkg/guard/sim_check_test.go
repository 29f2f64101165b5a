package guard

import (
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// What must hold at each step of a simulation. The checks know the world, and of
// the guard nothing but what it asks for and what it says.

// past is what a simulation knows of a process.
type past struct {
	fooled           bool          // somebody else wrote into its records, or for it
	visible          time.Duration // the last beat that changed its token
	stillSince       time.Duration // stopped and the like
	keptSince        time.Duration // and for whatever kept it from running
	stillFor         time.Duration // for how long since its last beat
	lostConsent      time.Duration // when it became another program
	names            uint8         // of its records, by simNames; the last bit: another
	high             time.Duration // the longest that it may know
	endless          bool          // a timeout of 0 or less was seen
	tableLost        bool
	waits            bool          // in D, or for a processor
	every            time.Duration // before
	stays            bool
	wasBlind         bool
	beganAt, endedAt time.Duration
	changedAt        time.Duration // when what keeps it from running began or ended
	lost             bool          // its exit notice was
	erased           bool          // since its last beat that was seen
	heir             bool          // of a number whose last owner's end was not known yet: its record may be taken for that one's
	stale            int           // records that named its number before it began

	signals, killed, ended int
	told

	// Of units, starts and limits.
	id                                         TargetID // the last that it was
	unit                                       *fakeUnit
	b, c                                       uint16 // as it was launched
	cameFor                                    *proc  // it was started as a command for
	wiped, shut                                bool   // it ended after it wiped its record; systemd ended it
	really                                     Ending
	laddered                                   bool // a ladder began for it
	heldUntil, failedAt                        time.Duration
	unasked                                    bool          // failed because nobody could be asked
	unheard                                    bool          // what came of its start, with a daemon that ended
	freed                                      bool          // of an order, which it may have been before its end was known
	byThen                                     bool          // its unit is restarted because another came back
	fell                                       time.Duration // when its end was reported
	fellIn                                     int
	paid                                       bool          // its round of followers has cost a start
	settled, owed                              bool          // what becomes of it is decided; it is to come back
	settledIn, owedIn, then, thenIn, noticedIn int           // in which daemon
	noticed                                    time.Duration // when its end was
	use                                        [config.NumQuantities]float64
	unsampled                                  bool
}

// told is what the daemon was shown of a process and what it said. A daemon that
// dies forgets what came after its last word to the registry.
type told struct {
	low      time.Duration // the longest timeout that a guard must know by now
	seenAttn time.Duration // the last beat
	counted  silence       // as it may be held against the process

	askedAt, answeredAt, lateAt      time.Duration // attention
	excusedAt, lookedAt, condemnedAt time.Duration

	answer     Consent
	asked      bool // and not answered yet
	excusedIn  bool // a look in this silence found an excuse
	mustFree   bool // and no gap was since
	rereadAt   time.Duration
	looks      int           // at its state, in this silence
	waitFrom   time.Duration // attention time
	waitFor    time.Duration
	everProven bool
	sent       int  // signals of the ladder that is under way
	held       bool // by the brake
	lateIn     bool // it was late in this silence
	waitedIn   bool // and given one more timeout
	wouldIn    bool // and reported
	spared     bool // its ladder saw a beat
	registered bool

	// What a hang must lead to.
	since, given time.Duration // as the specification counts it, at the most
	gapSpent     bool
	notBefore    time.Duration // attention time at which it is judged at the earliest
	unproven     time.Duration // since when it is not known that it joined
	gauged       [numSimLimits]gauged
	forLimit     bool // condemned for one
	found        bool // condemned, or would be
	foundAttn    time.Duration
	limitThen    time.Duration // the timeout in force
	stillToo     bool          // and who stands still was to be ended as well
	begun        bool          // its ladder began
	clean        bool          // nothing delayed the verdict since the last beat
}

// silence is what was counted of one.
type silence struct {
	timely  time.Duration // in wakes that came in time
	late    time.Duration // in wakes that came late, as much of it as was witnessed
	spared  time.Duration // of both, what must not be held against it
	gap     bool          // one has restarted it
	atGap   time.Duration // spared by that
	raised  bool          // its timeout was found or raised meanwhile: a guard may know when better
	fair    time.Duration // host and daemon ran
	tardy   bool          // some of these wakes were late at all
	stopped time.Duration // of what was counted in time, the host did not run
}

// fakeSlot is a record as the last look saw it.
type fakeSlot struct {
	table.Record
	moved  time.Duration // attention time
	former int32         // who had it before it was wiped
}

// waking is the begin of a wake: the clock, and what is seen.
func (s *sim) waking() {
	if s == nil {
		return
	}
	if s.begun && s.crashIn > 0 {
		if s.crashIn--; s.crashIn == 0 {
			s.restartSnapped()
		}
	}
	if s.fresh {
		s.actsKnown = s.acts
	}
	s.tick()
	for i := len(s.orders) - 1; i >= 0; i-- {
		if o := &s.orders[i]; o.until == 0 {
			o.from, o.until = s.now, s.now+o.For
		} else if o.until <= s.now {
			s.orderOver(i)
		}
	}
	if s.g.limits && s.g.ScanDue(s.now) {
		s.sample()
	}
	for _, l := range s.mail {
		if l.at <= s.now {
			s.delivered(l.obs)
		}
	}
	s.unturned = false
	if s.g.ScanDue(s.now) {
		s.look()
		s.wasLate = false
	}
}

// tick advances the specification's clock.
func (s *sim) tick() {
	if !s.ticking {
		s.ticking, s.last, s.plan = true, s.now, s.now+attentionStep
		return
	}
	if s.now <= s.last {
		return
	}
	limit := max(s.plan, s.last) + attentionSlack
	counted := min(s.now, limit) - s.last
	missed := max(s.now-limit, 0)
	s.attn += counted
	s.wasLate = s.wasLate || s.now > s.plan
	gap := missed > gapMin
	if gap {
		s.gapUntil = s.attn + gapGrace
		s.hitAll(cellGap)
		s.hitDuties(dutyGap)
	} else if missed > 0 {
		s.hitAll(cellLate)
		s.hitDuties(dutyLate)
	}
	fair := max(s.now-s.last-s.frozen-missed, 0)
	s.figures.processes += (s.now - s.last) * time.Duration(len(s.running))
	for _, p := range s.running {
		h := &p.past
		h.counted.fair += fair
		if s.now > s.plan {
			h.counted.tardy, h.clean = true, false
		}
		if missed == 0 {
			h.counted.timely += counted
			h.counted.stopped += s.frozen
			continue
		}
		h.counted.late += counted
		h.clean = false
		if gap {
			h.mustFree, h.looks = false, 0 // what was seen is of before
		}
		switch low, _ := s.limits(p); {
		case h.lateIn: // what comes after is not given to a silence that was too long before
		case gap && !h.counted.gap:
			h.counted.spared, h.counted.gap = h.counted.timely+h.counted.late, true
			h.counted.atGap = h.counted.spared
		case h.counted.spared < low || low == 0:
			h.counted.spared += counted
		}
		// What is late already is given nothing while it waits or is only reported,
		// and all that it may be when it is judged anew.
		switch limit := s.limitHigh(p); {
		case gap && (!h.gapSpent || h.lateIn):
			h.given += s.attn - h.since
			h.since, h.gapSpent = s.attn, true
		case h.given < limit, h.low == 0, h.lateIn:
			h.given += counted
			h.since += counted
			h.notBefore = max(h.notBefore, s.attn+attentionStep+attentionSlack) // what was asked is asked anew
		}
		if gap && (h.given < s.limitHigh(p) || h.lateIn) {
			h.notBefore = max(h.notBefore, s.gapUntil)
		}
	}
	s.last, s.frozen = s.now, 0
}

// look sees all tables, as the scan of this wake does.
func (s *sim) look() {
	for _, tb := range s.tables {
		seen := s.seenOf(tb)
		for i := range tb.records {
			s.lookAt(&seen.at[i], &tb.records[i], true)
		}
	}
}

func (s *sim) seenOf(tb *fakeTable) *fakeSlots {
	for i := range s.seen {
		if s.seen[i].table == tb {
			return &s.seen[i]
		}
	}
	s.seen = append(s.seen, fakeSlots{tb, make([]fakeSlot, len(tb.records))})
	return &s.seen[len(s.seen)-1]
}

// lookAt sees one record.
func (s *sim) lookAt(f *fakeSlot, r *table.Record, scan bool) {
	if f.Record == *r {
		if r.PID == 0 || !scan {
			return
		}
		if p := s.procs[r.PID]; p != nil && p.slot >= 0 && r == p.rec() && r.Token != 0 && !p.past.heir && s.heldProc(p) {
			if t := time.Duration(r.Timeout) * sec; t > p.past.low {
				p.past.counted.raised = p.past.low > 0 || p.past.counted.spared > 0
				p.past.low = t
			}
		}
		return
	}
	before := f.Record
	f.Record = *r
	p := s.procs[r.PID]
	if before.PID != 0 && r.PID == 0 {
		f.former = before.PID
	} else if r.PID != 0 {
		f.former = 0
	}
	if before.Token != r.Token {
		f.moved = s.attn
	}
	if q := s.procs[f.former]; r.PID == 0 && before.PID == 0 && before.Token != r.Token && q != nil {
		q.past.since, q.past.clean, q.past.mustFree = s.attn, false, false // may be taken for its beat
	}
	if p != nil && !p.alive && before.PID == r.PID {
		s.hit(p, cellBeat) // somebody else's, into what it left
	}
	if p == nil || !p.alive {
		return
	}
	if before.PID == r.PID && before.Token != r.Token || before.PID != r.PID && r.PID != 0 {
		s.beatSeen(p, p.slot >= 0 && r == p.rec() && r.PID == p.pid)
	}
	if r.PID == 0 {
		return
	}
	if before.PID != r.PID || before.Timeout != r.Timeout || before.Name != r.Name {
		s.named(p, r)
		wait := 2 * s.intervalMost
		if r.Token == 0 {
			wait += tornWait
		}
		s.delayed(p, wait)
	}
	if r.Token == 0 {
		s.delayed(p, 2*s.intervalMost+tornWait)
	}
}

// named notes what a record says of the process that it names.
func (s *sim) named(p *proc, r *table.Record) {
	h := &p.past
	h.names |= 1 << nameIndex(&r.Name)
	h.high = max(h.high, time.Duration(r.Timeout)*sec)
	h.endless = h.endless || r.Timeout <= 0
}

// beatSeen begins a new silence. A beat in a record that is not its own counts
// for what it is owed; a guard may know better.
func (s *sim) beatSeen(p *proc, own bool) {
	h := &p.past
	s.hit(p, cellBeat)
	h.seenAttn, h.since, h.given, h.gapSpent = s.attn, s.attn, 0, false
	h.found, h.clean, h.excusedIn, h.mustFree, h.looks = false, false, false, false, 0
	if !own {
		return
	}
	h.counted, h.stillFor, h.excusedIn, h.lateIn, h.waitedIn, h.wouldIn = silence{}, 0, false, false, false, false
	h.clean, h.erased = !p.still() && !s.wasLate && s.now >= s.slowUntil && h.notBefore <= s.attn, false
	if excused(s, p) {
		h.keptSince = s.now
	}
}

// nameIndex is a name's place in simNames, or the place after the last.
func nameIndex(name *[table.NameSize]byte) int {
	if name[1] == 0 {
		for i, n := range simNames {
			if name[0] == n[0] {
				return i
			}
		}
	}
	return len(simNames)
}

// policies are what each variant of the configuration says to each name.
var policies = func() [numVariants][]config.Policy {
	var out [numVariants][]config.Policy
	for v := range out {
		for _, name := range append(slices.Clone(simNames), "x") {
			out[v] = append(out[v], variants[0][v].Policy(name, "idc", ""))
		}
	}
	return out
}()

// limit is the timeout in force for a process: the least (low), or the longest
// that it may be.
func (s *sim) limits(p *proc) (low, high time.Duration) {
	low, high = never, 0
	for i := range policies[s.cfgIndex] {
		if p.past.names&(1<<i) == 0 {
			continue
		}
		if t := policies[s.cfgIndex][i].Timeout; t > 0 {
			low, high = min(low, t), max(high, t)
		} else {
			low, high = min(low, p.past.low), max(high, p.past.high)
		}
	}
	if low == never {
		low = 0
	}
	return low, high
}

func (s *sim) limitHigh(p *proc) time.Duration { _, high := s.limits(p); return high }

func (s *sim) patience(limit time.Duration) time.Duration {
	return limit + max(time.Duration(float64(limit)*s.cfg.CPActive.Margin), marginMin)
}

// onlyReports says whether all rules that may be a process's say report;
// mayReport whether any does.
func (s *sim) onlyReports(p *proc) bool { return s.reports(p, true) }
func (s *sim) mayReport(p *proc) bool   { return s.reports(p, false) }

func (s *sim) reports(p *proc, all bool) bool {
	if s.cfg.Verdict.Hung == config.RespondReport { // then the others say so as well
		return true
	}
	for i := range policies[s.cfgIndex] {
		if p.past.names&(1<<i) == 0 {
			continue
		}
		name := ""
		if i < len(simNames) {
			name = simNames[i]
		}
		if (policies[s.cfgIndex][i].Action == config.ActionReport || s.barred(p, name)) != all {
			return !all
		}
	}
	return all && p.past.names != 0
}

// heldProc says whether a pidfd of a process is held.
func (s *sim) heldProc(p *proc) bool {
	for _, o := range s.held {
		if o == p {
			return true
		}
	}
	return false
}

// delivered sees an answer that reaches the daemon.
func (s *sim) delivered(o Observation) {
	switch o := o.(type) {
	case Consented:
		if p := s.held[o.Target]; p != nil {
			h := &p.past
			h.answeredAt, h.asked = s.attn, false
			if o.Consent == ConsentProven && h.answer != ConsentProven {
				s.delayed(p, s.slowest())
			}
			if o.Consent != ConsentUnknown {
				h.answer = o.Consent
			}
			h.everProven = h.everProven || h.answer == ConsentProven
			s.hit(p, cellAnswer)
		}
	case LadderReport:
		if p := s.held[o.Target]; p != nil {
			s.reported(p, o)
		}
	case Examined:
		if p := s.held[o.Target]; p != nil {
			s.hit(p, cellProof)
		}
	case Exited:
		if p := s.held[o.Target]; p != nil {
			s.hit(p, cellNotice)
			s.hitGauge(p, -1, dutyEnds)
			p.past.noticed, p.past.noticedIn = s.now, s.restarts
			s.hitRecovery(dutyAnother, func(r *recovery) bool { return r.unit == p.facts.Unit && r.unit != "" })
			if q := s.procs[p.pid]; q != nil && q != p { // only now can that one be a target
				// Its records are taken for those of nobody at first.
				s.allow(q, max(q.past.high, orphanMin)+2*s.intervalMost+s.slowest())
			}
		}
	case RestoreDone:
		s.hitRecovery(answerCell(&o), func(r *recovery) bool { return r.under && r.ask == o.Ask })
		s.answered(o)
	case RestartedForLimit:
		if o.Unit == s.limitRestart && !o.Unknown {
			s.limitRestart = ""
			if a := s.limitAccount; a != nil && o.Problem != "" { // it was no start
				if n := len(a.starts); n > 0 {
					a.starts = slices.DeleteFunc(a.starts, func(t taken) bool { return t.at == s.limitTaken })
					a.setStreak(s.now, a.streakNow()-1)
				}
			}
		}
		if p := s.held[o.Target]; p != nil {
			s.hitGauge(p, -1, doneCell(o.Problem))
		}
	case UnitLimitsSet:
		if u := s.unit(o.Unit); u != nil && o.Problem == "" {
			u.tookBack = u.asksBack && u.had == UnitLimits{Unlimited, Unlimited}
		}
		for _, p := range s.running {
			if p.facts.Unit == o.Unit {
				s.hitGauge(p, -1, doneCell(o.Problem))
			}
		}
	case UnitSeen: // what cannot be seen is not set either
		for _, p := range s.running {
			if p.facts.Unit == o.Unit && o.Problem != "" {
				s.hitGauge(p, -1, dutyFault)
			}
		}
	case Sampled:
		for i := range o.Samples {
			s.sampled(&o.Samples[i])
		}
	case Acting:
		if s.actsKnown != o.Acts {
			s.actsKnown, s.actsSince = o.Acts, s.now
		}
	case TableLost:
		if o.Order { // its targets are forgotten
			for _, p := range s.running {
				p.past.low = 0
			}
			for i := range s.orders {
				s.orders[i].maybe = s.orders[i].p != nil
			}
		}
	}
}

// reported sees a ladder's report.
func (s *sim) reported(p *proc, o LadderReport) {
	h := &p.past
	s.hit(p, cellSignalled+cell(o.Kind))
	switch o.Kind {
	case LadderRecovered:
		h.spared, h.begun = true, false
	case LadderFailed:
		h.found, h.begun = false, false
		s.delayed(p, failedWait+s.slowest())
	case LadderCancelled: // judged anew, at once or when the guard acts again
		h.found, h.begun, h.condemnedAt = !s.actsKnown || s.mayReport(p), false, 0
		s.delayed(p, s.slowest())
	}
}

// decided sees a decision before it is carried out.
func (s *sim) decided(d Decision) {
	if s == nil {
		return
	}
	switch d := d.(type) {
	case *Event:
		s.said(d)
	case ReadAgain:
		p := s.held[d.Target]
		s.overtake(raceReread, p, pidOf(p))
		if p != nil {
			p.past.rereadAt = s.now
		}
		for i := range s.tables {
			if s.tables[i].id == d.Table {
				s.lookAt(&s.seenOf(s.tables[i]).at[d.Slot], &s.tables[i].records[d.Slot], false)
			}
		}
	case Examine:
		s.overtake(raceExamine, s.held[d.Target], d.PID)
	case LookAt:
		p := s.held[d.Target]
		s.overtake(raceLook, p, pidOf(p))
		if p != nil && p.alive && p.blind == "" {
			p.past.lookedAt = s.now
			p.past.looks++
			if p.still() || p.look.Tracer != 0 {
				p.past.excusedAt, p.past.excusedIn, p.past.mustFree = s.now, true, true
			}
		}
	case AskConsent:
		p := s.held[d.Target]
		s.overtake(raceAsk, p, d.PID)
		if p != nil && !p.past.asked {
			p.past.askedAt, p.past.asked = s.attn, true
		}
	case Identify:
		s.overtake(raceIdentify, s.procs[d.PID], d.PID)
	case Clear:
		s.overtake(raceClear, s.procs[d.PID], d.PID)
		s.clearing(d)
	case BeginLadder:
		p := s.held[d.Target]
		s.overtake(raceBegin, p, d.PID)
		s.beginning(d, p)
	case CancelLadder:
	case RestoreUnit:
		s.asksForStart(d)
	case RestartUnit:
		s.asksForFollower(d)
	case LookAtStarted:
		s.looksAtStarted(d)
	case RestartForLimit:
		s.asksForRestart(d)
	case LookAtUnit:
		s.ladderBegan = true
	case SetUnitLimits:
		s.setsLimits(d)
	case Release:
		if p := s.held[d.Target]; p != nil {
			p.past.low, p.past.registered, p.past.answer = 0, false, ConsentUnknown
			s.orders = slices.DeleteFunc(s.orders, func(x order) bool { return x.p == p })
		}
	}
}

func pidOf(p *proc) int32 {
	if p == nil {
		return 0
	}
	return p.pid
}

// clearing checks that a record may be cleared: its process has ended, and had
// joined; or it is nobody's, and has stood still.
func (s *sim) clearing(d Clear) {
	if !s.actsKnown {
		s.failf("clear", "slot %d is cleared by a guard that does not act", d.Slot)
	}
	for i := len(s.all) - 1; i >= 0; i-- {
		if p := s.all[i]; p.pid == d.PID && !p.alive && p.past.everProven {
			return
		}
	}
	for _, tb := range s.tables {
		if tb.id != d.Table {
			continue
		}
		f := &s.seenOf(tb).at[d.Slot]
		still := max(time.Duration(f.Timeout)*sec, orphanMin)
		if s.attn-f.moved < still {
			s.failf("clear", "slot %d of pid %d is cleared, and has stood still for %v only (%v)", d.Slot, d.PID, s.attn-f.moved, still)
		}
	}
}

// secondLook checks that the records were read in this very wake.
func (s *sim) secondLook(p *proc, e *Event) {
	if p.past.rereadAt < s.now && s.restarts == 0 {
		s.failf("second look", "%s for %d, whose records were read %v ago", e.Name, p.pid, s.now-p.past.rereadAt)
	}
	if c := &p.past.counted; p.alive && s.attn < s.gapUntil && p.past.low > 0 && c.spared == 0 && !p.past.lateIn && !c.raised {
		s.failf("grace", "%s for %d, %v after a gap", e.Name, p.pid, s.attn-s.gapUntil+gapGrace)
	}
}

// excusable checks that a verdict takes into account what was to be seen.
func (s *sim) excusable(p *proc, e *Event) {
	h := &p.past
	if !p.alive || s.steered || s.restarts > 0 || h.low == 0 {
		return
	}
	v := &s.cfg.Verdict
	hold := v.Stopped == config.RespondHold
	if hold && h.mustFree {
		s.failf("excused", "%s for %d, which a look in this silence found stopped or the like", e.Name, p.pid)
	}
	wait := v.Starved == config.RespondWait
	if e.Name == EvCondemned && wait && !h.waitedIn && (e.Verdict == verdictStarved || e.Verdict == verdictBlocked) {
		s.failf("no wait", "%d is condemned as %s at once", p.pid, e.Verdict)
	}
	if e.Name == EvCondemned && h.waitedIn && s.attn-h.waitFrom < h.waitFor {
		s.failf("no wait", "%d is condemned %v after it was given %v more", p.pid, s.attn-h.waitFrom, h.waitFor)
	}
	if h.looks < 2 || s.now-h.changedAt < sec || s.askDelay > 300*ms || h.wasBlind || h.counted.tardy || p.proof.Problem != "" || s.proofDelay > sec || s.now < s.slowUntil || p.still() || p.look.Tracer != 0 || h.counted.fair < h.low {
		return
	}
	// What has kept it from running for all of its silence, or nothing.
	kept := h.waits && h.keptSince <= s.now-h.counted.fair
	want := ""
	switch {
	case kept && p.state == 'D':
		want = verdictBlocked
	case kept || s.pressure && !h.waits && h.stillFor == 0 && s.pressedFor(h.counted.fair):
		want = verdictStarved
	case !s.pressed && h.stillFor == 0 && !h.waits:
		want = verdictHung
	}
	if want != "" && e.Verdict != want {
		s.failf("verdict", "%s for %d as %s, it is %s", e.Name, p.pid, e.Verdict, want)
	}
}

// waveHeld checks that a ladder is held when all that live have fallen late.
func (s *sim) waveHeld(p *proc) {
	b := &s.cfg.Brake
	if p.past.held || !b.Enabled || s.steered || s.restarts > 0 || len(s.tables) != 1 {
		return
	}
	late := 0
	for _, o := range s.running {
		if h := &o.past; h.lateIn && s.attn-h.lateAt <= b.Window && !s.hidden(o) && h.answer == ConsentProven && (h.found || h.condemnedAt > 0) {
			late++
		}
	}
	if late >= b.AtLeast && late == len(s.running) && len(s.held) == len(s.running) {
		s.failf("brake", "%d of %d are late, and %d is ended", late, len(s.running), p.pid)
	}
}

// pressedFor says whether there has been pressure for d.
func (s *sim) pressedFor(d time.Duration) bool { return s.now-s.pressedAt >= d }

// paced checks that the brake holds a wave, and lets go at its pace.
func (s *sim) paced(p *proc, d BeginLadder) {
	if !p.past.held || d.Sent || s.steered || s.restarts > 0 || p.past.foundAttn < s.brakedAt {
		return
	}
	if s.attn < s.brakedAt+brakeHold {
		s.failf("brake", "a ladder for %d, %v after the begin of a wave", p.pid, s.attn-s.brakedAt)
	}
	if s.cfg.Ladder.MaxConcurrent == 1 && max(s.askDelay, s.proofDelay) <= 50*ms && s.now >= s.slowUntil && s.attn-s.letGoAt < brakePace && s.letGoAt > 0 && s.attn-p.past.foundAttn < brakeMax {
		s.failf("brake", "a ladder for %d, %v after the last", p.pid, s.attn-s.letGoAt)
	}
	s.letGoAt = s.attn
}

// beginning checks that a ladder may begin.
func (s *sim) beginning(d BeginLadder, p *proc) {
	s.ladderBegan = true
	if p == nil {
		s.failf("identity", "a ladder for target %d, which is not open", d.Target)
		return
	}
	h := &p.past
	if d.PID != p.pid {
		s.failf("identity", "a ladder for pid %d with a pidfd of %d", d.PID, p.pid)
	}
	for _, l := range s.ladders {
		if l.Target == d.Target || l.p == p {
			s.failf("two ladders", "for %d", p.pid)
		}
	}
	if !s.actsKnown {
		s.failf("not acting", "a ladder for %d", p.pid)
	}
	// A ladder that is under way goes on when the verdict alone would be a report now.
	if s.onlyReports(p) && (s.cfg.Verdict.Hung != config.RespondReport || h.condemnedAt == s.now) {
		s.failf("report", "a ladder for %d, whose rule says report", p.pid)
	}
	if h.condemnedAt == 0 {
		s.failf("no record", "a ladder for %d, which was not condemned", p.pid)
	}
	if h.answer != ConsentProven {
		s.failf("consent", "a ladder for %d, which has not joined (%d)", p.pid, h.answer)
	}
	fresh := max(h.lateAt-prepareLead-attentionSlack, s.attn-2*lookWait-2*sec)
	if h.askedAt < fresh && !h.asked && h.answeredAt < fresh && !d.Sent && s.restarts == 0 {
		s.failf("consent", "a ladder for %d, whose consent was asked %v ago, and it is late for %v", p.pid, s.attn-h.askedAt, s.attn-h.lateAt)
	}
	if (h.lookedAt < s.now || h.rereadAt < s.now) && !d.Sent && s.restarts == 0 {
		s.failf("second look", "a ladder for %d, which was looked at %v ago", p.pid, s.now-h.lookedAt)
	}
	if !d.Sent {
		h.stillToo = s.cfg.Verdict.Stopped != config.RespondHold
	}
	if s.ordered(p, true) {
		s.failf("order", "a ladder for %d, which an order holds", p.pid)
	}
	s.paced(p, d)
	h.begun, h.sent, h.held, h.laddered = true, 0, false, true
}

// signalled checks that a process may get a signal.
func (s *sim) signalled(p *proc) {
	if s == nil {
		return
	}
	h := &p.past
	h.signals++
	h.sent++
	if !p.alive {
		s.failf("ended", "a signal to %d, which has ended", p.pid)
	}
	if !s.actsKnown {
		s.failf("not acting", "a signal to %d", p.pid)
	}
	if s.ordered(p, true) && !s.orderedNow(p) {
		s.failf("order", "a signal to %d, which an order holds", p.pid)
	}
	// A timeout that is raised stops no ladder.
	// Stops of the whole host that are too short to be seen may add up to its margin.
	low := h.limitThen
	if !h.forLimit && s.inSight(p) && !h.erased && h.counted.stopped <= s.patience(low)-low && s.now-p.lastBeat <= low {
		s.failf("beats", "a signal to %d, which beat %v ago (timeout %v)", p.pid, s.now-p.lastBeat, low)
	}
	if p.still() && h.stillSince < h.lookedAt && !h.stillToo {
		s.failf("excused", "a signal to %d, which is %c (%+v) since %v", p.pid, p.state, p.look, s.now-h.stillSince)
	}
}

// orderedNow says whether the daemon has not turned since the order was given.
func (s *sim) orderedNow(p *proc) bool { return s.g.Next() <= s.now }

// inSight says whether a process beats into a record of its own that was seen: not
// one that it took since the last look, that others write, or that is lost.
func (s *sim) inSight(p *proc) bool {
	return p.slot >= 0 && slices.Contains(s.tables, p.table) && p.rec().PID == p.pid && s.seenOf(p.table).at[p.slot].PID == p.pid
}

// said checks an event.
func (s *sim) said(e *Event) {
	switch e.Name {
	case EvBrakeOn:
		s.brakedAt, s.letGoAt, s.brakeOn = s.attn, 0, true
	case EvBrakeOff:
		s.brakeOn = false
	case EvGaveUp, EvRetrying, EvRefused:
		s.saysOfStarts(e)
	case EvLimit, EvLimitOver:
		s.saysOfLimits(e)
	case EvKilled, EvExited, EvUnregistered:
		if p := s.procOf(e.Target); p != nil {
			s.ends(p, e.Name)
		}
	}
	p := s.held[e.Target]
	if p == nil {
		return
	}
	h := &p.past
	switch e.Name {
	case EvRegistered:
		h.registered = true
		if h.stale > 0 { // found only now, as below
			h.since, h.clean = s.attn, false
		}
	case EvLate:
		s.secondLook(p, e)
		h.lateAt, h.condemnedAt = s.attn, 0
		s.witnessed(p, e)
		h.lateIn, h.waitedIn = true, false
	case EvCondemned, EvWouldCondemn, EvProtected:
		if e.Verdict == verdictLimit {
			s.condemnedForLimit(p, e)
			break
		}
		h.forLimit = false
		s.witnessed(p, e)
		s.secondLook(p, e)
		s.excusable(p, e)
		if h.lateAt == 0 {
			s.failf("no record", "%d is condemned, and was not late", p.pid)
		}
		s.lateness(p)
		s.figures.condemned++
		h.found, h.foundAttn, h.begun = true, s.attn, false
		h.condemnedAt = s.now
		h.limitThen, _ = s.limits(p)
		if e.Name == EvCondemned {
			h.held = strings.HasSuffix(e.Message, "held by the brake")
			s.waveHeld(p)
		}
		if e.Name != EvCondemned {
			h.wouldIn = true
			h.condemnedAt = 0
		}
	case EvRecovered:
		// A record that named its number before it began may form only now: found like any other, it counts as a beat.
		if p.alive && h.seenAttn < s.attn && h.since < h.foundAttn && !h.spared && s.restarts == 0 && h.stale == 0 {
			s.failf("no beat", "%d recovered, and nothing moved", p.pid)
		}
		h.spared, h.excusedIn, h.mustFree, h.condemnedAt = false, false, false, 0
		s.newSilence(p)
	case EvWaiting:
		s.witnessed(p, e)
		s.excusable(p, e)
		h.waitFrom, h.waitFor = s.attn, h.low
		if low, _ := s.limits(p); low < h.waitFor {
			h.waitFor = low
		}
		if h.waitedIn {
			s.failf("waits twice", "%d: %s", p.pid, e.Message)
		}
		if p.alive && h.changedAt == 0 && !s.pressed {
			s.failf("no excuse", "%d waits: %s", p.pid, e.Message)
		}
		h.waitedIn = true
		h.given, h.gapSpent = 0, false // nothing is given while it waits
		s.delayed(p, s.limitHigh(p)+s.slowest())
	case EvHeld:
		if e.Reason == "order" { // at once, and in place of a verdict
			if !strings.Contains(e.Message, "silent for") {
				if strings.Contains(e.Message, "the brake was told to stop") {
					s.braked(p)
				}
				return
			}
			if !s.ordered(p, false) && s.now <= s.brakeStop { // the word of it was lost with a daemon
				s.braked(p)
			}
			if !s.ordered(p, false) && p.alive && s.restarts == 0 {
				s.failf("no order", "%d is held: %s", p.pid, e.Message)
			}
			h.found, h.condemnedAt = true, 0
			return
		}
		if e.Signal == "" && h.excusedAt < s.now && s.restarts == 0 {
			s.failf("no excuse", "%d is held: %s", p.pid, e.Message)
		}
	case EvReleased:
		if e.Reason == "order" {
			return
		}
		if !h.excusedIn && s.restarts == 0 {
			s.failf("no excuse", "%d is released: %s", p.pid, e.Message)
		}
		h.excusedIn, h.mustFree, h.condemnedAt, h.counted = false, false, 0, silence{}
		s.newSilence(p)
	case EvChanged:
		if e.Reason == "several records" && h.stale > 0 { // found only now
			h.since, h.clean = s.attn, false
		}
	case EvKilled:
		if p.alive {
			s.failf("ended", "%d is said to be killed, and lives", p.pid)
		}
		if h.signals == 0 {
			s.failf("killed", "%d is said to be killed by a ladder, and got no signal", p.pid)
		}
		if h.killed++; h.killed > 1 {
			s.failf("killed", "%d is said to be killed %d times", p.pid, h.killed)
		}
	case EvExited, EvUnregistered:
		if h.ended++; h.ended > 1 && s.restarts == 0 && !p.alive {
			s.failf("killed", "%d is said to have ended %d times", p.pid, h.ended)
		}
	}
}

// newSilence begins one after the guard said so.
func (s *sim) newSilence(p *proc) {
	h := &p.past
	h.since, h.given, h.gapSpent, h.clean = s.attn, 0, false, false
	h.lateIn = false
	h.found, h.begun = false, false
}

// witnessed checks that a silence is as long as it must be: on the clock that
// counts what the daemon saw, and on one that counts only while host and daemon
// ran.
func (s *sim) witnessed(p *proc, e *Event) {
	h := &p.past
	low, _ := s.limits(p)
	c := h.counted
	if !p.alive || low == 0 { // ended, or the guard need not know its own record

		return
	}
	patience := s.patience(low)
	have := c.timely + c.late - c.spared
	if c.raised && h.fooled { // a forged one was known before its own
		have = c.timely + c.late
	} else if c.raised {
		have = c.timely + c.late - max(c.atGap, min(c.spared, low))
	}
	if have < patience {
		s.failf("witnessed", "%s for %d after %v witnessed (%+v), its timeout and margin are %v", e.Name, p.pid, have, c, patience)
	}
	if c.late < low && !h.lateIn && c.stopped <= patience-low && h.stillFor == 0 && !p.still() && c.fair < low {
		s.failf("fair", "%s for %d after it could run for %v, its timeout is %v (%+v)", e.Name, p.pid, c.fair, low, c)
	}
}
