package guard

import (
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// kind is a kind of action.
type kind uint8

const (
	actHost kind = iota
	actStart
	actBeat
	actHang
	actGoOn
	actExit
	actCrash
	actReap
	actStop
	actTrace
	actTracer
	actFreeze
	actDump
	actRelease
	actWipe
	actRejoin
	actTorn
	actForge
	actVictim
	actOverwrite
	actOrphan
	actForeign
	actUnsettled
	actTimeout
	actRename
	actReuse
	actExec
	actMapsUnreadable
	actMapsReadable
	actSlowMaps
	actBlind
	actNotOpen
	actLateNotices
	actLoseNotice
	actClock
	actSuspend
	actPause
	actStall
	actLateTicks
	actRestart
	actCrashDaemon
	actDown
	actReload
	actLock
	actSignalError
	actSlowWords
	actReadOnly
	actRemove
	actAttach
	actLoseTable
	actMassHang
	actMassGoOn
	actRace
	actNotice
	actBlock
	actStarve
	actPressure
	actSlowProof
	actNoProof
	actHold
	actUnhold
	actBrakeGo
	actBrakeStop
	actUnit
	actUnitStop
	actUnitCrash
	actUnitHang
	actFlap
	actRefuse
	actSlowBus
	actBus
	actRecover
	actUse
	actUnsampled
	actUnitFault
	numKinds
)

// kinds are the actions. What one names is taken modulo what there is: a process
// is the first from number a on that fits.
var kinds = [numKinds]struct {
	name string
	do   func(s *sim, x act)
}{
	actHost:           {"host", (*sim).host},
	actStart:          {"start", (*sim).startOne},
	actBeat:           {"beat", func(s *sim, x act) { s.some(x.a, joined, (*sim).beatOnce) }},
	actHang:           {"hang", func(s *sim, x act) { s.some(x.a, beating, func(s *sim, p *proc) { p.hang() }) }},
	actGoOn:           {"go-on", func(s *sim, x act) { s.some(x.a, joined, func(s *sim, p *proc) { s.goOn(p, x.b) }) }},
	actExit:           {"exit", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.end(p, true) }) }},
	actCrash:          {"crash", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.end(p, false) }) }},
	actReap:           {"reap", func(s *sim, x act) { s.some(x.a, unreaped, func(s *sim, p *proc) { delete(s.procs, p.pid) }) }},
	actStop:           {"stop", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.excuse(p, cellStop) }) }},
	actTrace:          {"trace", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.excuse(p, cellTrace) }) }},
	actTracer:         {"tracer", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.excuse(p, cellTracer) }) }},
	actFreeze:         {"freeze", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.excuse(p, cellFreeze) }) }},
	actDump:           {"dump", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.excuse(p, cellDump) }) }},
	actRelease:        {"release", func(s *sim, x act) { s.some(x.a, excused, (*sim).excuseOver) }},
	actWipe:           {"wipe", func(s *sim, x act) { s.some(x.a, recorded, (*sim).wipeRecords) }},
	actRejoin:         {"rejoin", func(s *sim, x act) { s.some(x.a, joined, func(s *sim, p *proc) { s.rejoin(p, x.b) }) }},
	actTorn:           {"torn", func(s *sim, x act) { s.some(x.a, recorded, func(s *sim, p *proc) { s.tear(p, x.b) }) }},
	actForge:          {"forge", func(s *sim, x act) { s.some(x.a, anybody, func(s *sim, p *proc) { s.forge(p, x.b, x.c) }) }},
	actVictim:         {"victim", (*sim).victim},
	actOverwrite:      {"overwrite", func(s *sim, x act) { s.some(x.a, recorded, func(s *sim, p *proc) { s.overwrite(p, x.b) }) }},
	actOrphan:         {"orphan", (*sim).orphan},
	actForeign:        {"foreign", (*sim).foreign},
	actUnsettled:      {"unsettled", func(s *sim, x act) { s.some(x.a, recorded, func(s *sim, p *proc) { s.unsettle(p, x.b) }) }},
	actTimeout:        {"timeout", func(s *sim, x act) { s.some(x.a, recorded, func(s *sim, p *proc) { s.otherTimeout(p, x.b) }) }},
	actRename:         {"rename", func(s *sim, x act) { s.some(x.a, recorded, func(s *sim, p *proc) { s.rename(p, x.b) }) }},
	actReuse:          {"reuse", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.reuse(p, x.b, x.c) }) }},
	actExec:           {"exec", func(s *sim, x act) { s.some(x.a, joined, (*sim).exec) }},
	actMapsUnreadable: {"maps-unreadable", func(s *sim, x act) { s.some(x.a, living, (*sim).hideMaps) }},
	actMapsReadable:   {"maps-readable", func(s *sim, x act) { s.showMaps() }},
	actSlowMaps:       {"slow-maps", func(s *sim, x act) { s.slowMaps(x.a) }},
	actBlind:          {"blind", func(s *sim, x act) { s.some(x.a, living, (*sim).blindTo) }},
	actNotOpen:        {"not-open", func(s *sim, x act) { s.some(x.a, living, (*sim).notOpen) }},
	actLateNotices:    {"late-notices", func(s *sim, x act) { s.exitDelay = []time.Duration{0, 30 * ms, 700 * ms, 3 * sec, 12 * sec}[x.a%5] }},
	actLoseNotice:     {"lose-notice", func(s *sim, x act) { s.some(x.a, living, (*sim).loseNotice) }},
	actClock:          {"clock", func(s *sim, x act) { s.step(time.Duration(int16(x.a)) * sec) }},
	actSuspend:        {"suspend", func(s *sim, x act) { s.step(time.Duration(x.a) * sec) }},
	actPause:          {"pause", func(s *sim, x act) { s.pauseHost(lengths[int(x.a)%len(lengths)]) }},
	actStall:          {"stall", func(s *sim, x act) { s.stall(lengths[int(x.a)%len(lengths)]) }},
	actLateTicks:      {"late-ticks", func(s *sim, x act) { s.late = jitter{left: int(x.a % 40), by: uint32(x.b)} }},
	actRestart:        {"restart", func(s *sim, x act) { s.restartNow() }},
	actCrashDaemon:    {"crash-daemon", func(s *sim, x act) { s.crashSoon(int(x.a % 4)) }},
	actDown:           {"down", func(s *sim, x act) { s.restartNow(); s.stall(lengths[int(x.a)%len(lengths)]) }},
	actReload:         {"reload", func(s *sim, x act) { s.reload(int(x.a)) }},
	actLock:           {"lock", func(s *sim, x act) { s.lock(x.a%2 == 1) }},
	actSignalError:    {"signal-error", func(s *sim, x act) { s.signalErr = []string{"", "operation not permitted"}[x.a%2] }},
	actSlowWords:      {"slow-words", func(s *sim, x act) { s.slowWords(x.a, x.b) }},
	actReadOnly:       {"read-only", func(s *sim, x act) { s.readOnly = x.a%2 == 1 }},
	actRemove:         {"remove-table", func(s *sim, x act) { s.removeTable() }},
	actAttach:         {"new-table", func(s *sim, x act) { s.newTable() }},
	actLoseTable:      {"lose-table", func(s *sim, x act) { s.loseTable(x.a) }},
	actMassHang:       {"mass-hang", func(s *sim, x act) { s.mass(func(p *proc) { p.hang() }) }},
	actMassGoOn:       {"mass-go-on", func(s *sim, x act) { s.mass(func(p *proc) { s.goOn(p, x.b) }) }},
	actRace: {"race", func(s *sim, x act) {
		s.race = race{on: raceAt(x.b) % numRaces, pid: simFirst + int32(x.a%simPids), inner: x.c, armed: true}
	}},
	actNotice:    {"notice", func(s *sim, x act) { s.post(0, Semaphore{}) }},
	actBlock:     {"block", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.waits(p, cellBlock) }) }},
	actStarve:    {"starve", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.waits(p, cellStarve) }) }},
	actPressure:  {"pressure", func(s *sim, x act) { s.pressure = x.a%2 == 1; s.press(x.b) }},
	actSlowProof: {"slow-proof", func(s *sim, x act) { s.slowProof(x.a) }},
	actNoProof: {"no-proof", func(s *sim, x act) {
		s.some(x.a, living, func(s *sim, p *proc) { p.proof.Problem = []string{"", "too many open files"}[x.b%2] })
	}},
	actHold:      {"hold", func(s *sim, x act) { s.holdOrder(x) }},
	actUnhold:    {"unhold", func(s *sim, x act) { s.unhold(int(x.a)) }},
	actBrakeGo:   {"brake-go", func(s *sim, x act) { s.orderBrake(true) }},
	actBrakeStop: {"brake-stop", func(s *sim, x act) { s.orderBrake(false) }},
	actUnit:      {"unit", (*sim).startUnit},
	actUnitStop: {"unit-stop", func(s *sim, x act) {
		s.someUnit(x.a, unitAny, func(u *fakeUnit) { s.stopUnit(u, time.Duration(x.b%3000)*ms) })
	}},
	actUnitCrash: {"unit-crash", func(s *sim, x act) { s.someUnit(x.a, unitRuns, func(u *fakeUnit) { s.end(u.main, false) }) }},
	actUnitHang:  {"unit-hang", func(s *sim, x act) { s.someUnit(x.a, unitRuns, func(u *fakeUnit) { u.main.hang() }) }},
	actFlap: {"flap", func(s *sim, x act) {
		s.someUnit(x.a, unitAny, func(u *fakeUnit) { u.flaps, u.flap = 1+int(x.b>>3%6), int(x.b%8%5) })
	}},
	actRefuse:  {"refuse", func(s *sim, x act) { s.refuse = int(x.b % 5) }},
	actSlowBus: {"slow-bus", func(s *sim, x act) { s.slowBus = []time.Duration{0, 0, sec, 4 * sec, 20 * sec}[x.a%5] }},
	actBus:     {"bus", func(s *sim, x act) { s.busDown = !s.busDown }},
	actRecover: {"recover", (*sim).recoverOrder},
	actUse:     {"use", func(s *sim, x act) { s.some(x.a, living, func(s *sim, p *proc) { s.use(p, x.b) }) }},
	actUnsampled: {"unsampled", func(s *sim, x act) {
		s.some(x.a, living, func(s *sim, p *proc) { p.past.unsampled = !p.past.unsampled })
	}},
	actUnitFault: {"unit-fault", func(s *sim, x act) { s.unitFault = []string{"", "the bus is away"}[x.a%2] }},
}

// lengths of stops and stalls.
var lengths = []time.Duration{0, 100 * ms, 240 * ms, 300 * ms, 600 * ms, sec, 1900 * ms, 2700 * ms, 3500 * ms, 6 * sec, 12 * sec, 30 * sec, 10 * time.Minute}

var simNames = []string{"c", "d", "r", "q", "p"}

// What a process may be like, by the bits of a number.
func living(_ *sim, p *proc) bool   { return p.alive }
func anybody(*sim, *proc) bool      { return true }
func unreaped(_ *sim, p *proc) bool { return !p.alive }
func beating(_ *sim, p *proc) bool  { return p.alive && p.every > 0 }
func joined(_ *sim, p *proc) bool {
	return p.alive && !p.pending && p.slot >= 0 && p.consent == ConsentProven
}
func excused(_ *sim, p *proc) bool {
	return p.alive && (p.still() || p.look.Tracer != 0 || p.past.waits)
}
func recorded(s *sim, p *proc) bool { return s.recordOf(p) != nil }

// some does something with the first process from number a on that fits.
func (s *sim) some(a uint16, fits func(*sim, *proc) bool, do func(*sim, *proc)) {
	for i := range int32(simPids) {
		if p := s.procs[simFirst+(int32(a%simPids)+i)%simPids]; p != nil && fits(s, p) {
			do(s, p)
			return
		}
	}
}

// recordOf is the first record that names the pid of a process, in the tables
// that it may have mapped.
func (s *sim) recordOf(p *proc) *table.Record {
	for _, tb := range s.tables {
		for i := range tb.records {
			if tb.records[i].PID == p.pid {
				return &tb.records[i]
			}
		}
	}
	return nil
}

// host says what the host is like; it comes first.
func (s *sim) host(x act) {
	if s.begun {
		return
	}
	s.noInodes = x.b&1 != 0
	s.askDelay = []time.Duration{0, 30 * ms, 300 * ms, sec, 3 * sec}[x.b>>1%8%5]
	s.statuses = int(x.b >> 4 & 3)
	s.interval, s.cfgIndex = int(x.a%uint16(len(intervals))), int(x.c)%numVariants
	s.setConfig()
	s.g = New(s.cfg)
}

func (s *sim) setConfig() {
	s.cfg = variants[s.interval][s.cfgIndex]
	s.intervalMost = max(s.intervalMost, s.cfg.Interval)
	if s.stableLeast == 0 || s.cfg.Recovery.Stable < s.stableLeast {
		s.stableLeast = s.cfg.Recovery.Stable
	}
}

// startOne starts a program on a free number and, unless it is a stranger, has
// it register in a free slot.
func (s *sim) startOne(x act) {
	if len(s.tables) == 0 {
		return
	}
	for i := range int32(simPids) {
		pid := simFirst + (int32(x.a%simPids)+i)%simPids
		if s.procs[pid] == nil {
			s.launch(pid, x.b, x.c)
			return
		}
	}
}

// launch starts a program. b: 3 bits timeout, 2 bits how often it beats, 2 bits
// how it takes SIGTERM, 3 bits name, then unreaped, stays, stranger (2 bits).
func (s *sim) launch(pid int32, b, c uint16) *proc {
	p := s.start(pid)
	s.all = append(s.all, p)
	p.proof.Host, p.proof.Group = s.squeeze[0], s.squeeze[1]
	p.past.b, p.past.c = b, c
	p.table = s.newest()
	p.token = func(now time.Duration) int64 { return s.stamp(p) }
	p.past.since, p.past.unproven, p.past.clean = s.attn, s.attn, true
	p.past.beganAt = s.now
	_, p.past.heir = s.g.byPID[pid]
	for _, o := range s.held {
		if o.pid == pid && o != p {
			o.past.fooled = true // what this one writes may be taken for its own
			s.hit(o, cellReuse)
		}
	}
	for _, tb := range s.tables { // what names it already
		for i := range tb.records {
			if r := &tb.records[i]; r.PID == pid {
				s.named(p, r)
				p.past.stale++
			}
		}
	}
	timeout := []int32{2, 3, 4, 5, 5, 8, 13, 30}[b&7]
	p.termIn = []time.Duration{termIgnored, 0, 2 * sec, 7 * sec}[b>>5&3]
	name := simNames[(b>>7&7)%5]
	p.zombie = b>>10&3 == 1
	p.stays = b>>12&3 == 1
	p.facts.PGID = int32(c&1) * 90
	if c>>1&3 == 1 {
		p.facts.Unit = s.unitAt(c >> 12).name
	}
	if c>>10&7 == 1 {
		p.facts.Parent = "procctl"
	}
	switch {
	case c>>3&15 == 1:
		return p // joins nothing, or later
	case c>>3&15 == 2: // writes its record, and has another namespace
		if i := s.freeSlot(c >> 7); i >= 0 {
			p.join(i, name, timeout)
			p.consent = ConsentOtherNamespace
		}
		return p
	case c>>3&15 == 3:
		timeout = -int32(c >> 7 & 1)
	}
	i := s.freeSlot(c >> 7)
	if i < 0 {
		return p
	}
	p.join(i, name, timeout)
	s.registers(p, name)
	p.timeout = time.Duration(timeout) * sec
	if every := b >> 3 & 3; every > 0 && timeout > 0 {
		p.every = time.Duration(timeout) * sec / time.Duration(every)
		p.next = s.now + p.every
	}
	return p
}

// stamp is the token that a client writes: whole seconds of the wall clock. One
// that is the same as before is no beat; a clock that is set back can do that.
func (s *sim) stamp(p *proc) int64 {
	token := wall(s.now + s.steps)
	if p.slot >= 0 && p.rec().PID == p.pid && p.rec().Token == token {
		p.lastBeat = p.past.visible
	} else {
		p.past.visible = s.now
	}
	return token
}

// registers notes that a program has registered.
func (s *sim) registers(p *proc, name string) {
	for i := range simNames {
		if simNames[i] == name {
			p.past.names |= 1 << i
		}
	}
}

// freeSlot is a slot of the newest table that is empty and that nobody beats
// into, -1: none. Who lost its record beats on: the next owner's hang is hidden,
// and nothing can be done about that.
func (s *sim) freeSlot(from uint16) int {
	if len(s.tables) == 0 {
		return -1
	}
	tb := s.newest()
	for i := range simSlots {
		k := (int(from) + i) % simSlots
		if tb.records[k] == (table.Record{}) && !slices.ContainsFunc(s.running, func(o *proc) bool { return o.table == tb && o.slot == k }) {
			for _, o := range s.all { // that it was wiped before may not be seen
				o.past.wiped = o.past.wiped && (o.alive || o.slot != k)
			}
			return k
		}
	}
	return -1
}

func (s *sim) newest() *fakeTable { return s.tables[len(s.tables)-1] }

func (s *sim) beatOnce(p *proc) {
	if !p.still() && !p.pending {
		p.beat()
	}
}

// goOn has a program beat again.
func (s *sim) goOn(p *proc, b uint16) {
	if !p.alive || p.pending || p.slot < 0 || p.timeout <= 0 {
		return
	}
	p.every, p.next = p.timeout/time.Duration(1+b%3), s.now
}

// end ends a process.
func (s *sim) end(p *proc, clean bool) {
	s.hit(p, cellExit)
	p.exit(clean)
}

// excuse lets something happen to a process that explains its silence.
func (s *sim) excuse(p *proc, why cell) {
	if p.past.waits && p.state == 'D' {
		return
	}
	s.hit(p, why)
	if !p.still() {
		p.past.stillSince = s.now
	}
	s.kept(p)
	switch why {
	case cellStop:
		p.state = 'T'
	case cellTrace:
		p.state, p.look.Tracer = 't', 9
	case cellTracer:
		p.look.Tracer = 9
	case cellFreeze:
		p.look.Frozen = true
	case cellDump:
		p.look.Dumping = true
	}
}

// kept notes that something keeps a process from running from now on.
func (s *sim) kept(p *proc) {
	if p.past.changedAt = s.now; !excused(s, p) {
		p.past.keptSince = s.now
	}
}

// excuseOver ends what excuse began; who dumps core ends with that.
func (s *sim) excuseOver(p *proc) {
	s.hit(p, cellRelease)
	dumped := p.look.Dumping
	s.unexcuse(p)
	if dumped {
		p.exit(false)
	}
}

func (s *sim) unexcuse(p *proc) {
	p.past.changedAt = s.now
	if p.still() || p.past.waits {
		p.past.stillFor += s.now - max(p.past.keptSince, p.lastBeat)
	}
	if p.past.waits {
		p.past.waits, p.every, p.proof.Runnable, p.proof.Starving, p.proof.Blocked, p.proof.Channel = false, p.past.every, 0, 0, 0, ""
		if !p.past.stays {
			p.stays = false
		}
	}
	p.state, p.look = 'S', Looked{}
	p.next = s.now
	if p.pending && !p.stays {
		p.exit(false)
	}
	s.allow(p, 2*max(s.cfg.Interval, sec))
}

// waits has a process wait in state D, or for a processor: it does not run, and
// who waits in D does not take signals.
func (s *sim) waits(p *proc, why cell) {
	h := &p.past
	if h.waits || p.still() && why == cellBlock {
		return
	}
	s.hit(p, why)
	s.kept(p)
	h.waits, h.every, h.stays = true, p.every, p.stays
	p.hang()
	if why == cellStarve {
		p.proof.Runnable, p.proof.Starving = 1, 1
		return
	}
	p.state, p.stays, p.proof.Blocked, p.proof.Channel = 'D', true, 1, "wait_on_disk"
}

// press has the host, or a cgroup, be under pressure of one kind, or no more.
func (s *sim) press(kind uint16) {
	s.pressedAt = s.now
	s.squeeze = [2]Pressure{}
	if s.pressure {
		s.pressed = true
		of := &s.squeeze[kind&1]
		*[]*float64{&of.CPU, &of.Memory, &of.IO}[kind>>1%3] = 99
	}
	for _, p := range s.running {
		p.proof.Host, p.proof.Group = s.squeeze[0], s.squeeze[1]
		s.delayed(p, s.slowest())
	}
}

func (s *sim) slowProof(a uint16) {
	before := s.proofDelay
	s.slowUntil = max(s.slowUntil, s.now+before)
	s.pressed = true // evidence that does not come in time is as good as pressure
	s.proofDelay = []time.Duration{0, 50 * ms, 600 * ms, 3 * sec, 8 * sec, 25 * sec}[a%6]
	for _, p := range s.running {
		s.allow(p, max(before, s.proofDelay))
	}
}

// order is one that stands.
type order struct {
	HoldOrder
	until time.Duration // 0: so long from the next wake on
	from  time.Duration // when that was
	maybe bool          // it is forgotten with its target, if that is
	p     *proc         // of its PID
}

// holds says whether an order is about a process, surely, or by one of the names
// that it may have.
func (o *order) holds(p *proc, surely bool) bool {
	if o.All || o.p != nil {
		return (o.All || o.p == p) && !(surely && o.maybe)
	}
	named := false
	for i, name := range append(simNames[:len(simNames):len(simNames)], "") {
		if p.past.names&(1<<i) != 0 {
			if named = name == o.Name; named != surely {
				return named
			}
		}
	}
	return named
}

// ordered says whether an order not to act on a process stands.
func (s *sim) ordered(p *proc, surely bool) bool {
	for i := range s.orders {
		if s.orders[i].holds(p, surely) {
			return true
		}
	}
	return false
}

// holdOrder has an operator give an order.
func (s *sim) holdOrder(x act) {
	if s.busy() {
		return
	}
	o := order{HoldOrder: HoldOrder{For: []time.Duration{sec, 3 * sec, 20 * sec, 2 * time.Minute}[x.c%4], By: "op"}}
	switch x.b % 4 {
	case 0, 1:
		s.some(x.a, living, func(s *sim, p *proc) { o.PID, o.p = p.pid, p })
		if o.p == nil || !s.heldProc(o.p) {
			return
		}
	case 2:
		o.Name = simNames[x.a%uint16(len(simNames))]
	case 3:
		o.All = true
	}
	s.give(o)
}

func (s *sim) give(o order) {
	s.hitRecovery(dutyHold, func(r *recovery) bool { return o.All || o.Name == r.name })
	for _, p := range s.procs {
		if o.holds(p, true) {
			s.hit(p, cellHold)
			s.hitGauge(p, -1, dutyHold)
		}
	}
	if _, err := s.g.Hold(o.HoldOrder); err != nil {
		if o.p == nil || !s.lostPid[o.PID-simFirst] && !o.p.past.heir && !s.mayReport(o.p) {
			s.failf("order", "%+v: %v", o.HoldOrder, err)
		}
		return
	}
	s.orders = slices.DeleteFunc(s.orders, func(x order) bool { return x.PID == o.PID && x.Name == o.Name && x.All == o.All })
	s.orders = append(s.orders, o)
	for _, p := range s.all {
		if !p.alive {
			s.holdsRound(p)
		}
	}
	s.obeyed()
}

// obeyed: what an operator says wakes the loop, and is in the registry before it is
// answered.
func (s *sim) obeyed() {
	s.steered, s.unturned = true, true
	s.putOffAll()
	s.post(0, Semaphore{})
	if s.crashIn > 0 {
		s.snap()
	}
}

func (s *sim) unhold(n int) {
	if len(s.orders) == 0 || s.busy() {
		return
	}
	n %= len(s.orders)
	o := s.orders[n]
	_, err := s.g.Unhold(Selector{o.PID, o.Name, o.All}, "op")
	if err != nil && o.p == nil {
		s.failf("order", "release %+v: %v", o.HoldOrder, err)
	}
	s.orderOver(n)
	s.obeyed()
}

// orderOver ends an order in the books of the world.
func (s *sim) orderOver(n int) {
	o := s.orders[n]
	s.hitRecovery(dutyUnhold, func(r *recovery) bool { return o.All || o.Name == r.name })
	if s.putOffAll(); o.p != nil {
		o.p.past.freed = true
	}
	for _, p := range s.procs {
		if o.holds(p, true) {
			s.hit(p, cellUnhold)
			s.hitGauge(p, -1, dutyUnhold)
		}
	}
	s.orders = slices.Delete(s.orders, n, n+1)
	for _, p := range s.running {
		if o.holds(p, false) {
			p.past.since = s.attn
		}
	}
	s.judgedAnew()
}

func (s *sim) orderBrake(letGo bool) {
	if s.busy() {
		return
	}
	if letGo {
		s.hitAll(cellBrakeGo)
	} else {
		s.hitAll(cellBrakeStop)
	}
	if s.g.OrderBrake(letGo, "op"); !letGo {
		s.brakeStop = s.now + brakeStopHold + attentionStep
	}
	s.obeyed()
}

// braked takes note of an order for one target that comes of one to the brake.
func (s *sim) braked(p *proc) {
	if s.now > s.brakeStop {
		s.failf("no order", "the brake was not told to stop, and %d is held", p.pid)
	}
	for _, v := range s.g.Holds() {
		if v.PID == p.pid {
			s.orders = slices.DeleteFunc(s.orders, func(x order) bool { return x.PID == p.pid })
			o := order{HoldOrder: HoldOrder{PID: p.pid, For: v.Left}, p: p, from: s.now, until: s.now + v.Left}
			if slices.ContainsFunc(s.g.holds, func(h hold) bool { return h.PID == p.pid && h.lasts > 0 }) {
				o.until = 0 // so long from the next wake on
			}
			s.orders = append(s.orders, o)
			p.past.condemnedAt = 0
		}
	}
}

// wipeRecords empties all records that name a process, as the old guard does.
func (s *sim) wipeRecords(p *proc) {
	s.hit(p, cellWipe)
	for _, tb := range s.tables {
		for i := range tb.records {
			if tb.records[i].PID == p.pid {
				tb.records[i] = table.Record{}
			}
		}
	}
}

// rejoin has a program register once more, in another slot.
func (s *sim) rejoin(p *proc, b uint16) {
	i := s.freeSlot(b)
	if i < 0 || p.still() {
		return
	}
	s.hit(p, cellRejoin)
	p.table = s.newest()
	timeout := []int32{2, 3, 5, 13}[b>>4&3]
	name := simNames[(b>>6)%5]
	p.table.records[i] = record(p.pid, name, timeout, p.token(s.now))
	p.slot, p.lastBeat = i, s.now
	s.registers(p, name)
}

// tear writes a part of a record: one that its client has not finished.
func (s *sim) tear(p *proc, b uint16) {
	r := s.recordOf(p)
	switch b % 3 {
	case 0:
		r.Token = 0
		p.past.erased = true // what it beat since the last look may look as before
	case 1:
		r.Name = [table.NameSize]byte{'x'}
	case 2:
		r.Timeout = 0
	}
	p.past.fooled = true
}

// forge writes one more record for a process.
func (s *sim) forge(p *proc, b, c uint16) {
	i := s.freeSlot(b)
	if i < 0 {
		return
	}
	s.hit(p, cellForge)
	s.newest().records[i] = record(p.pid, simNames[c%5], []int32{1, 2, 40, 0, -1}[(c>>3)%5], 1)
	p.past.fooled = true
}

// victim writes a record for a process that joined nothing.
func (s *sim) victim(x act) {
	s.some(x.a, func(_ *sim, p *proc) bool { return p.alive && p.slot < 0 }, func(s *sim, p *proc) { s.forge(p, x.b, x.c) })
}

// overwrite gives the record of a process to another number.
func (s *sim) overwrite(p *proc, b uint16) {
	s.hit(p, cellOverwrite)
	r := s.recordOf(p)
	pid := simFirst + int32(b%(2*simPids)) // half of them nobody
	if pid == p.pid {
		pid = 1
	}
	*r = record(pid, simNames[(b>>6)%5], []int32{2, 5}[b>>9&1], r.Token+1)
	for _, q := range s.all { // also one that has ended, and whose end is not known
		q.past.fooled = q.past.fooled || q.pid == pid
	}
	p.past.fooled = true
}

// orphan writes a record of nobody.
func (s *sim) orphan(x act) {
	if i := s.freeSlot(x.a); i >= 0 {
		s.newest().records[i] = record(900+int32(x.b%4), "o", []int32{1, 5, 20, 0}[x.b>>2&3], 1)
	}
}

// foreign moves the token of records of nobody, and of those with pid 0.
func (s *sim) foreign(x act) {
	for _, tb := range s.tables {
		for i := range tb.records {
			r := &tb.records[i]
			if q := s.procs[r.PID]; (q == nil || !q.alive) && r.Timeout != 0 && (i+int(x.a))%2 == 0 {
				r.Token += 1 + int64(x.b)
			}
		}
	}
}

// unsettle has a record be another at each look.
func (s *sim) unsettle(p *proc, b uint16) {
	r := s.recordOf(p)
	p.past.fooled = true
	for i := range time.Duration(1 + b%8) {
		s.in(i*400*ms, func() {
			if r.PID == p.pid {
				r.Timeout++
			}
		})
	}
}

// otherTimeout has a record say another timeout.
func (s *sim) otherTimeout(p *proc, b uint16) {
	r := s.recordOf(p)
	before := r.Timeout
	p.past.fooled = true
	r.Timeout = []int32{1, 3, 6, 20, 0, -5}[b%6]
	if r.Timeout > before {
		s.hit(p, cellLonger)
	} else {
		s.hit(p, cellShorter)
	}
}

func (s *sim) rename(p *proc, b uint16) {
	s.hit(p, cellRename)
	r := s.recordOf(p)
	r.Name = [table.NameSize]byte{simNames[b%5][0]}
}

// reuse ends a process and gives its number to another at once, which takes over
// its record, or registers elsewhere, or does not register.
func (s *sim) reuse(p *proc, b, c uint16) {
	was, zombie := s.recordOf(p), p.zombie
	p.zombie = false
	p.exit(false)
	p.zombie = zombie
	if s.procs[p.pid] != nil || len(s.tables) == 0 {
		return
	}
	c &^= 15 << 3
	if b>>13 == 0 {
		c |= 1 << 3 // a stranger
	}
	q := s.launch(p.pid, b, c)
	s.delayed(q, max(s.exitDelay, 0)+12*sec)
	if was != nil && b>>14 == 1 && q.consent == ConsentProven {
		q.past.fooled = true
		was.Token++
	}
}

// exec has a process become a program that has not joined.
func (s *sim) exec(p *proc) {
	s.hit(p, cellConsentLost)
	p.consent, p.every = ConsentNotMapped, 0
	p.past.lostConsent = s.now
}

func (s *sim) hideMaps(p *proc) {
	s.hit(p, cellConsentUnknown)
	s.showMaps()
	s.unreadable = p
}

func (s *sim) showMaps() {
	if p := s.unreadable; p != nil {
		s.unreadable = nil
		s.allow(p, retryMax+s.slowest())
	}
}

func (s *sim) slowMaps(a uint16) {
	before := s.askDelay
	s.slowUntil = max(s.slowUntil, s.now+before)
	s.askDelay = []time.Duration{0, 30 * ms, 300 * ms, 2 * sec, 8 * sec, 20 * sec}[a%6]
	for _, p := range s.running {
		s.allow(p, max(before, s.askDelay))
	}
}

func (s *sim) blindTo(p *proc) {
	s.hit(p, cellBlind)
	if p.blind != "" {
		p.blind = ""
		s.allow(p, failedWait+2*lookWait)
		return
	}
	p.blind, p.past.wasBlind = "too many open files", true
}

func (s *sim) notOpen(p *proc) {
	if p.sight == SightError {
		p.sight = SightVerified
		s.allow(p, retryMax+tornWait+s.slowest())
		return
	}
	p.sight, p.reason = SightError, "too many open files"
}

// slowWords has the reports of ladders come late: last words, and all others.
func (s *sim) slowWords(a, b uint16) {
	s.wordDelay = []time.Duration{0, 100 * ms, 2 * sec, 8 * sec}[a%4]
	s.reportDelay = min([]time.Duration{0, 0, 30 * ms, 400 * ms}[b%4], s.wordDelay)
}

// loseNotice ends a process whose exit notice never comes.
func (s *sim) loseNotice(p *proc) {
	s.hit(p, cellLostNotice)
	p.past.lost = true
	before := s.exitDelay
	s.exitDelay = -1
	p.exit(false)
	s.exitDelay = before
	s.lostPid[p.pid-simFirst] = true
}

// step sets the wall clock.
func (s *sim) step(by time.Duration) {
	s.steps += by
	for _, p := range s.procs {
		s.hit(p, cellClock)
	}
}

// pauseHost stops the whole host, with its clock going on.
func (s *sim) pauseHost(d time.Duration) {
	s.frozen += d
	for _, p := range s.running {
		p.past.visible += d
	}
	s.freeze(d)
	for _, l := range s.ladders { // waits are counted in small steps
		l.next += d
	}
}

// jitter makes wakes late.
type jitter struct {
	left int
	by   uint32
}

// restartNow kills the daemon and starts it again.
func (s *sim) restartNow() {
	if !s.begun {
		return
	}
	s.snap()
	s.restartSnapped()
}

// crashSoon kills the daemon some wakes from now, before it wrote anything to
// its registry; it writes before a ladder begins.
func (s *sim) crashSoon(wakes int) {
	if !s.begun || s.crashIn > 0 {
		return
	}
	s.snap()
	s.crashIn = wakes + 1
}

// busy says whether the daemon neither reloads nor takes orders: it is not up yet,
// or does not run.
func (s *sim) busy() bool { return s.fresh || s.now < s.stalledUntil }

// reload takes another configuration.
func (s *sim) reload(n int) {
	if s.busy() && s.begun {
		return
	}
	s.hitAll(cellReload)
	s.hitDuties(dutyReload)
	s.cfgIndex = n % numVariants
	s.setConfig()
	if !s.begun {
		s.g = New(s.cfg)
		return
	}
	s.g.SetConfig(s.cfg)
	s.steered, s.unturned, s.reloaded = true, true, s.now
	s.rulesChanged()
	s.putOffAll()
	s.post(0, Semaphore{}) // that wakes the loop
	s.judgedAnew()
}

// lock gives or takes the right to act.
func (s *sim) lock(acts bool) {
	if acts == s.acts {
		return
	}
	s.acts, s.steered = acts, true
	if !s.begun {
		return
	}
	if acts {
		s.hitAll(cellLockBack)
		s.hitDuties(dutyLockBack)
	} else {
		s.hitAll(cellLockLost)
		s.hitDuties(dutyLockLost)
	}
	s.post(0, Acting{Acts: acts, Reason: "told so"})
	s.judgedAnew()
}

func (s *sim) removeTable() {
	if len(s.tables) != 1 || !s.begun {
		return
	}
	s.hitAll(cellRemove)
	s.post(0, TableRemoved{s.tables[0].id})
	s.newTable()
}

// newTable attaches a table beside the one that there is.
func (s *sim) newTable() {
	if len(s.tables) != 1 {
		return
	}
	tb := s.addTable(s.tables[0].id+1, simSlots)
	if s.begun {
		s.post(0, TableAttached{Table: tb.id, Slots: simSlots, Created: true})
	}
}

// loseTable gives a table up.
func (s *sim) loseTable(a uint16) {
	if len(s.tables) != 2 || !s.begun {
		return
	}
	k := int(a % 2)
	s.hitAll(cellLoseTable)
	if a&2 != 0 { // by order: the right to act is given back first
		s.lock(false)
	}
	s.post(0, TableLost{Table: s.tables[k].id, Reason: "gone", Order: a&2 != 0})
	s.tables = slices.Delete(s.tables, k, k+1)
	for _, p := range s.running {
		p.past.tableLost = true
	}
}

// mass does something to all that live.
func (s *sim) mass(do func(*proc)) {
	for i := range int32(simPids) {
		if p := s.procs[simFirst+i]; p != nil && p.alive {
			do(p)
		}
	}
}

// raceAt is the decision that something overtakes.
type raceAt uint16

const (
	raceReread raceAt = iota
	raceLook
	raceAsk
	raceBegin
	raceClear
	raceIdentify
	raceExamine
	numRaces
)

// race is something that happens to a process just when the daemon acts on it.
type race struct {
	on    raceAt
	pid   int32
	inner uint16
	armed bool
}

func (s *sim) overtake(on raceAt, p *proc, pid int32) {
	r := &s.race
	if !r.armed || r.on != on || r.pid != pid {
		return
	}
	r.armed = false
	if p == nil || !p.alive {
		if on == raceClear && s.procs[pid] == nil && len(s.tables) > 0 { // the number comes again
			q := s.launch(pid, r.inner, 1<<7)
			s.delayed(q, 12*sec)
		}
		return
	}
	switch r.inner % 7 {
	case 0:
		s.hit(p, cellBeat)
		s.beatOnce(p)
	case 1:
		s.wipeRecords(p)
	case 2:
		s.end(p, true)
	case 3:
		s.end(p, false)
	case 4:
		if s.recordOf(p) != nil {
			s.overwrite(p, r.inner>>3)
		}
	case 5:
		s.excuse(p, cellStop)
	case 6:
		s.reuse(p, r.inner>>3, r.inner>>5)
	}
}

// heal ends all that keeps the guard from acting.
func (s *sim) heal() {
	s.signalErr, s.readOnly, s.late, s.race = "", false, jitter{}, race{}
	s.refuse, s.slowBus, s.busDown, s.unitFault = 0, 0, false, ""
	for _, u := range s.fakeUnits { // what is started from now on beats each 2 s
		u.flaps, u.b = 0, u.b&^31|1<<3
	}
	for _, p := range s.all {
		p.past.b = p.past.b&^31 | 1<<3
		p.past.use, p.past.unsampled = [config.NumQuantities]float64{}, false
	}
	s.putOffAll()
	s.exitDelay, s.pressure = 0, false
	s.press(0)
	for len(s.orders) > 0 && !s.busy() {
		s.unhold(0)
	}
	s.showMaps()
	for i := range int32(simPids) {
		p := s.procs[simFirst+i]
		if p == nil {
			continue
		}
		if p.blind != "" && p.alive {
			s.blindTo(p)
		}
		if p.sight != SightVerified {
			s.notOpen(p)
		}
		if excused(s, p) {
			s.excuseOver(p)
		}
		if p.stays {
			p.letGo()
		}
		if !p.alive {
			delete(s.procs, p.pid)
		}
	}
	if len(s.tables) > 0 {
		s.lock(true)
	}
}
