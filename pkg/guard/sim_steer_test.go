package guard

import (
	"math/rand/v2"
	"time"
)

// aim is a cell that a schedule is steered to.
type aim struct {
	state State
	what  cell
}

// aims are the cells that can be hit: the more often the less often a try hits.
var aims = func() (list []aim) {
	for s := range numStates {
		for k := range numCells {
			if impossible(s, k) != "" {
				continue
			}
			for range tries(s, k) {
				list = append(list, aim{s, k})
			}
		}
	}
	return list
}()

// tries is how many times as often as others a cell is aimed at.
func tries(s State, k cell) int {
	switch {
	case s == Waiting && k == cellProof, s == Held && (k == cellRejoin || k == cellBlock):
		return 8
	case s == Held && k == cellProof, s == Waiting && (k == cellBlock || k == cellStarve), s == Ladder && k == cellLockBack,
		s == Ended && (k == cellWipe || k >= cellForge && k <= cellRename || k == cellHold || k == cellUnhold || k >= cellSignalled):
		return 4
	case s == Rereading, s == Unkillable && (k == cellRejoin || k == cellConsentLost || k == cellLoseTable):
		return 3
	case s == Waiting, s == Wiped && k <= cellRename, s == Unguarded && k <= cellRename, s == Ladder && k == cellUnhold, s == Braked && (k == cellLonger || k == cellShorter):
		return 2
	}
	return 1
}

// draft is a schedule that is being written.
type draft struct {
	r    *rand.Rand
	list schedule
	next time.Duration // before the next action
}

// wait draws a pause before the next action.
func (d *draft) wait(from, to time.Duration) {
	d.next += (from + time.Duration(d.r.Int64N(int64(to-from)))).Truncate(ms)
}

func (d *draft) act(k kind, abc ...uint16) {
	x := act{pause: d.next, kind: k}
	for i, to := range []*uint16{&x.a, &x.b, &x.c} {
		if i < len(abc) {
			*to = abc[i]
		}
	}
	d.list, d.next = append(d.list, x), 0
}

// one draws one of some numbers.
func (d *draft) one(of ...uint16) uint16 { return of[d.r.IntN(len(of))] }
func (d *draft) some() uint16            { return uint16(d.r.Uint32()) }
func (d *draft) rarely() bool            { return d.r.IntN(4) == 0 }

// Programs as launch takes them: those that are not named beat never, ignore
// SIGTERM and have a timeout of 2 s.
const (
	with4s    = 2
	beats     = 1 << 3
	endsLate  = 3 << 5
	reported  = 2 << 7
	unreapedB = 1 << 10
	staysB    = 1 << 12
)

// Variants of withVariants.
const (
	variantTerm = 2  // SIGTERM alone
	variantKill = 4  // SIGKILL alone
	variantFew  = 6  // two are a wave
	variantAll  = 10 // nothing is waited for
)

// steer draws a schedule that is to hit a cell: the first process is brought into
// a state, and then it happens; what comes after is any.
func steer(r *rand.Rand) schedule { return steerTo(r, aims[r.IntN(len(aims))]) }

func steerTo(r *rand.Rand, to aim) schedule {
	d := &draft{r: r, list: schedule{drawHost(r)}}
	d.list[0].a = 0 // an interval of 1 s
	if r.IntN(2) == 0 {
		d.list[0].b &^= 14 // no delay of what is asked
	}
	answers := to.what == cellAnswer || to.what == cellProof
	switch {
	case to.what >= cellSignalled:
		d.ladderTo(to)
	case answers && to.state != Late && to.state != Guarded:
		d.answerIn(to)
	default:
		d.reach(to.state)
		d.happen(to)
	}
	for range r.IntN(4) {
		d.next += pause(r)
		d.act(actStart+kind(r.IntN(int(numKinds-actStart))), d.some(), d.some(), d.some())
	}
	return d.list
}

// reach brings a process into a state.
func (d *draft) reach(s State) {
	host := &d.list[0]
	if s != Reported && d.rarely() { // bystanders
		defer func() {
			d.list = append(d.list[:1:1], append(schedule{{0, actStart, 6, d.some(), d.some()}}, d.list[1:]...)...)
		}()
	}
	switch s {
	case Watched: // between its first two looks, an interval of 3 s apart
		host.a = 2
		d.act(actStart)
		d.wait(2900*ms, 5*sec)
	case Guarded:
		d.act(actStart, 0, beats|d.some()&7)
		d.wait(2*sec, 6*sec)
	case Rereading: // something overtakes its second look
		d.act(actStart)
		d.act(actRace, 0, uint16(raceReread), d.some())
		d.wait(4*sec, 5*sec)
	case Late:
		d.act(actStart)
		if d.rarely() {
			d.next += 2 * sec
			d.act(actSlowMaps, 4)
		} else {
			d.act(actSlowProof, 3)
		}
		d.wait(4*sec, 6*sec)
	case Held:
		host.c = 0
		d.act(actStart)
		d.next += 2 * sec
		d.act([]kind{actStop, actTrace, actTracer, actFreeze, actDump}[d.r.IntN(5)])
		d.wait(2200*ms, 5*sec)
	case Waiting:
		host.c = 0
		d.act(actStart, 0, with4s)
		if !d.rarely() {
			d.act(actPressure, 1)
		} else {
			d.next += 2 * sec
			d.act([]kind{actBlock, actStarve}[d.r.IntN(2)])
		}
		d.wait(4500*ms, 7500*ms)
	case Reported:
		host.c = d.one(0, 3, 9)
		d.act(actStart, 0, reported)
		d.wait(4200*ms, 8*sec)
	case Braked:
		host.c = variantFew
		for range 3 {
			d.act(actStart)
		}
		d.wait(4200*ms, 13*sec)
	case Ladder:
		host.c = d.one(0, 3, 5, 7)
		d.act(actStart, 0, d.one(0, staysB, endsLate))
		d.wait(5*sec, 9*sec)
	case Unkillable:
		if host.c = variantTerm; d.r.IntN(2) == 0 {
			host.c = variantKill
			d.act(actStart, 0, staysB)
		} else {
			d.act(actStart)
		}
		d.wait(9200*ms, 12*sec)
	case Wiped, Unguarded:
		d.act(actStart, 0, beats)
		d.next += 2500 * ms
		d.act(actWipe)
		if d.wait(sec, 5*sec); s == Unguarded {
			d.next += 6500 * ms
		}
	case Ended:
		d.act(actStart, 0, beats|d.one(unreapedB, unreapedB, 0))
		if d.r.IntN(2) == 0 {
			d.act(actLock)
		}
		d.next += 2500 * ms
		d.act(actCrash)
		d.wait(0, 4500*ms)
	}
}

// happen has something happen to the first process.
func (d *draft) happen(to aim) {
	if to.state == Rereading {
		return
	}
	if to.state == Ladder && (to.what == cellLockBack || to.what == cellUnhold) { // which ends with the first of two, once its last word has come
		d.act(actSlowWords, 2)
	}
	noRecord := to.state == Wiped || to.state == Unguarded
	switch to.what {
	case cellWipe, cellOverwrite, cellLonger, cellShorter, cellRename:
		if noRecord {
			d.act(actForge, 0, d.some(), d.some())
		}
	case cellRelease:
		if to.state != Held {
			d.act([]kind{actStop, actTrace, actFreeze}[d.r.IntN(3)])
		}
	case cellLockBack:
		d.act(actLock)
		d.wait(0, 300*ms)
	case cellLoseTable:
		d.act(actAttach)
		d.wait(0, 100*ms)
	case cellUnhold:
		d.act(actHold, 0, 0, 3)
	case cellNotice:
		d.act(actLateNotices, d.one(0, 1))
	}
	switch to.what {
	case cellBeat:
		if to.state == Ended {
			d.act(actForeign, 0, 1)
			d.act(actForeign, 1, 1)
		} else {
			d.act(actBeat)
		}
	case cellLonger:
		d.act(actTimeout, 0, 3)
	case cellShorter:
		d.act(actTimeout, 0, 0)
	case cellGap:
		d.act(actStall, 8)
	case cellLate:
		d.act(actStall, 5)
	case cellCrash:
		d.act(actCrashDaemon, 2)
		d.next += 500 * ms
		d.act(actNotice)
	case cellReload:
		d.act(actReload, d.list[0].c)
	case cellLockBack:
		d.act(actLock, 1)
	case cellHold:
		d.act(actHold, 0, d.one(0, 3), d.some())
	case cellNotice, cellExit:
		d.act([]kind{actExit, actCrash}[d.r.IntN(2)])
	case cellAnswer, cellProof:
		d.wait(0, 8*sec)
	default:
		if k, ok := doing[to.what]; ok {
			d.act(k, 0, d.some(), d.some())
		}
	}
	d.wait(0, 2*sec)
}

// doing is the action that hits a column.
var doing = map[cell]kind{
	cellWipe: actWipe, cellRejoin: actRejoin, cellForge: actForge, cellOverwrite: actOverwrite, cellRename: actRename,
	cellLostNotice: actLoseNotice, cellReuse: actReuse, cellStop: actStop, cellTrace: actTrace, cellTracer: actTracer, cellFreeze: actFreeze,
	cellDump: actDump, cellRelease: actRelease, cellClock: actClock, cellRestart: actRestart, cellLockLost: actLock, cellRemove: actRemove,
	cellLoseTable: actLoseTable, cellConsentLost: actExec, cellConsentUnknown: actMapsUnreadable, cellBlind: actBlind, cellBlock: actBlock,
	cellStarve: actStarve, cellUnhold: actUnhold, cellBrakeGo: actBrakeGo, cellBrakeStop: actBrakeStop,
}

// answerIn has an answer that was asked for come when its target is in a state.
func (d *draft) answerIn(to aim) {
	slow := func() {
		d.act(actSlowMaps, d.one(4, 5))
		d.act(actSlowProof, d.one(4, 5))
	}
	switch to.state {
	case Watched: // it loses its record while it is asked, and registers anew
		d.list[0].a = 2
		d.act(actStart)
		d.next += 4 * sec
		d.act(actSlowMaps, 4)
		d.act(actSlowProof, 4)
		d.wait(2500*ms, 4*sec)
		d.act(actWipe)
		d.wait(2100*ms, 3300*ms)
		d.act(actRejoin, 0, d.some())
		d.wait(5*sec, 10*sec)
	case Ended, Wiped, Unguarded:
		d.act(actStart)
		d.next += 2 * sec
		slow()
		d.wait(1900*ms, 4*sec)
		if to.state == Ended {
			d.act(actCrash)
		} else {
			d.act(actWipe)
		}
		d.next += 25 * sec
	case Waiting: // for want of an answer
		d.list[0].c = 0
		d.act(actStart, 0, 7) // 30 s
		d.next += 20 * sec
		d.act(actSlowMaps, 5)
		d.act(actSlowProof, 5)
		d.wait(40*sec, 60*sec)
	case Unkillable:
		d.list[0].c = variantAll
		d.act(actStart, 0, staysB)
		d.next += 2 * sec
		d.act([]kind{actSlowProof, actSlowMaps}[to.what&1], 5)
		d.next += 30 * sec
	default:
		before := len(d.list)
		d.reach(to.state)
		at := before + 1 // after its start
		for at < len(d.list) && d.list[at].kind == actStart {
			at++
		}
		tail := append(schedule{{2 * sec, actSlowMaps, d.one(4, 5), 0, 0}, {0, actSlowProof, d.one(4, 5), 0, 0}}, d.list[at:]...)
		d.list = append(d.list[:at:at], tail...)
		d.wait(15*sec, 45*sec)
	}
}

// ladderTo has a ladder report something, to a target that is on it or that has
// ended by then.
func (d *draft) ladderTo(to aim) {
	host := &d.list[0]
	host.c = 0
	program := uint16(0)
	switch to.what {
	case cellUnkillable:
		program = staysB
		if host.c = variantKill; to.state == Ended {
			d.act(actSlowWords, 2, 0)
		}
	case cellDumping:
		host.c = 3
	}
	if to.state == Ended && to.what != cellUnkillable {
		d.act(actSlowWords, d.one(2, 3), 3)
	}
	d.act(actStart, 0, program)
	switch to.what {
	case cellSignalled: // and ends at once
		d.list[len(d.list)-1].b = d.one(1<<5, 2<<5, 0)
		if to.state == Ended {
			d.list[len(d.list)-1].b = 1 << 5
		}
		d.next += 7 * sec
	case cellRecovered:
		// Its worker looks 5 s after SIGTERM, the scans before and after that.
		d.wait(8560*ms, 8940*ms)
		d.act(actBeat)
		d.next += 400 * ms
	case cellGone:
		d.list[len(d.list)-1].b = d.one(1<<5, 2<<5, 0)
		d.next += 12 * sec
	case cellUnkillable:
		d.next += 5 * sec
	case cellFailed:
		d.act(actSignalError, 1)
		d.next += 4 * sec
	case cellCancelled:
		d.wait(4*sec, 8*sec)
		if d.r.IntN(2) == 0 {
			d.act(actLock)
		} else {
			d.act(actHold, 0, 0, 3)
		}
	case cellDumping:
		d.next += 5500 * ms
		d.act(actDump)
		d.next += 460 * ms // the first wait is over
	}
	if to.state == Ended {
		switch to.what {
		case cellSignalled, cellGone:
		case cellDumping:
			d.wait(0, 350*ms)
			d.act(actCrash)
		default:
			d.wait(0, sec)
			d.act(actCrash)
		}
	}
	d.wait(2*sec, 9*sec)
	d.act(actNotice)
}
