package table

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A model of what clients and guard do to a table of two records, and an explorer that visits every interleaving of
// their steps. Package comment, "Clearing", is what it found.
//
// # What is modelled
//
// A step is what nothing can come between: one load or store of a word, one semaphore operation, one system call.
//
// A client (see testdata/client.c) looks for its own pid, record by record and without the semaphore; takes the
// semaphore; looks for the first pid 0; stores pid, name, timeout and token one by one, upwards or downwards; gives the
// semaphore back, in one variant before it stores. A beat stores the token at the remembered record. An exit zeroes the
// four one by one, upwards or downwards, without a look at whose they are; it can come at any time, also while the
// client registers (a SIGTERM handler that calls exit). So can SIGKILL, which zeroes nothing. The semaphore is undone
// when its holder ends. An ended process is a zombie until it is reaped; then its number is free, and a successor may
// get it: a client, a process that is none, a thread of some process. A fork after registering leaves a child with the
// parent's record. A leader can end before its threads. A process can be one that the guard may not open (EPERM), or
// one of another pid namespace ("foreign"), whose number is nobody's here or somebody else's.
//
// The guard (pkg/guard, slot.go and target.go; pkg/daemon, act.go) looks at a record: pid, name, timeout, token, one by
// one. A pid seen for the first time is opened: held, refused, denied or gone. Two looks that agree latch the record.
// When the process that it holds has ended, it clears the latched record. A record whose pid is gone when it is opened
// (it is older than the guard, or its process was quick) is an orphan: cleared when its token stood still for
// max(timeout, 10 s) and its pid, asked again, still is gone; a token that moves twice makes it foreign, for good. To
// clear is to open the pid once more and, if it is gone or refused, one compare-and-swap of the pid word.
//
// Time is not counted. That a token stood still for long is possible for as long as no living process beats into the
// record: one that beats at all does so within its timeout. A token is not a number but "stored since the guard's last
// look", which is all that a guard that takes it as opaque learns; so the number of states is finite, and all are
// visited. What is bounded is the number of processes (three, each with one life) and, where a world says so, that the
// guard looks at record 0 alone, or that all store and zero upwards.
//
// # What is left out
//
// The semaphore's own accidents (a stopped holder, a missing SETVAL): they stop clients and lose no record. Forged
// records, where there is nothing to prove. exec, which leaves a living process with a record that nobody clears. The
// wait for a token that is still 0, and all about ladders, which write nothing. A guard that ends and starts anew: it
// begins with what it sees, as the model's guard does at any time. Memory that is reordered: the stores of a client may
// come in two orders, not in all.

type pc uint8

// Where a process stands.
const (
	unborn   pc = iota
	lookOwn     // looks at record i for its own pid
	waitSem     // wants the semaphore
	lookFree    // looks at record i for pid 0
	put         // i fields of its record are stored; has the semaphore
	giveSem     // registered, gives the semaphore back
	giveSoon    // gives the semaphore back and has stored nothing yet
	putLate     // as put, without the semaphore
	running     // registered, or the child of one that is
	roomless    // found no room
	other       // no client
	wipe        // leaves: i fields are zeroed
	zombie
	reaped
	numPC
)

// Fields of a record in the order of memory.
const (
	fieldPID = iota
	fieldName
	fieldTimeout
	fieldToken
	numFields
)

const records = 2

// record is the four fields. pid is a number; the others hold 1 + the index of the process that stored them.
type record [numFields]uint8

// process is one process of the model.
type process struct {
	at   pc
	i    uint8 // next record or number of fields done
	slot uint8 // 1 + the record that it remembers
	down bool  // stores the last field first
	z    bool  // its leader has ended, its threads live
}

type phase uint8

// What the guard makes of a record, see pkg/guard.
const (
	empty phase = iota
	fresh       // the first look at it is under way
	forming
	latched
	orphan
	foreign
	refused // or denied: asked again
)

// memory is what the guard knows of a record.
type memory struct {
	pid   uint8 // as seen last
	phase phase
	held  uint8 // 1 + the process whose pidfd it holds
	ended bool  // the exit notice of that one came
	moves uint8 // of the token, while an orphan
	news  uint8 // set of the fields that were stored to since the guard read them last, while that matters
}

type guardPC uint8

// Where the guard stands.
const (
	idle guardPC = iota
	readName
	readTimeout
	readToken
	opening  // opens the pid of the record
	checking // has decided to clear, and looks at the pid
	swapping // found it gone
)

type guardState struct {
	at      guardPC
	slot    uint8
	differs bool  // name or timeout, from the look before
	confirm bool  // an orphan that stood still is asked about
	late    uint8 // set of the processes that were born after the check
	mem     [records]memory
}

// modelState is one state of the whole. It is compared and hashed, so what does not matter any more is zero.
type modelState struct {
	table [records]record
	sem   uint8 // 1 + its holder
	procs [3]process
	guard guardState
}

// habit is what a process is like.
type habit struct {
	name    string
	pid     uint8
	here    bool // in the guard's pid namespace
	client  bool
	child   uint8 // 1 + the parent that forks it
	late    bool  // may be of the variant that gives the semaphore back first
	silent  bool  // never beats
	denied  bool  // the guard may not open it
	threads bool  // its leader may end before its threads
	thread  bool  // the number is a thread's
}

// flaw is a fault that a guard can have, or a way in which it could do otherwise.
type flaw uint8

const (
	noFlaw         flaw = iota
	noGuard             // clients alone
	noCheck             // clears without a look at the pid just before
	plainStore          // stores 0 in place of the compare-and-swap
	wipesAll            // compares, and then zeroes the whole record
	clearsForming       // takes a record that changes between two looks for a leftover
	deniedIsGone        // takes EPERM for gone
	orphanAtOnce        // does not wait for an orphan's token to stand still
	leaderIsAll         // takes the state Z of a leader for the end of its process
	unsettled           // clears at the exit notice also what two looks did not agree on
	anyoneEnds          // clears at the exit notice of whoever has the number, also if it has not mapped the table
	closedWindow        // none, in a world where nobody starts between the guard's look at a pid and its swap
	orphanNotAsked      // clears an orphan without asking for its pid again, but with the check
)

// finding is something that somebody loses.
type finding string

const (
	// By the guard, inherent: what it could not see at its last look.
	lostInWindow finding = "the guard clears a client born since it looked at the pid"
	lostUnread   finding = "the guard clears a client of another pid namespace that stored its token since the last look"
	lostSilent   finding = "the guard clears a silent client of another pid namespace"
	// By the guard, to be mended.
	lostNamesake finding = "the guard clears a client of another pid namespace when its namesake here ends"
	// By the guard, never.
	lostLiving finding = "VIOLATION: the guard clears a living client"
	wroteOther finding = "VIOLATION: the guard writes something else than one pid word, P to 0"

	// By clients.
	overwrites       finding = "a client takes the record of another"
	wipesOther       finding = "an exit wipes the record of another"
	mixes            finding = "a client stores into another's record, and leaves its pid"
	halfWipes        finding = "an exit zeroes fields of another's record, and leaves its pid"
	beatsOther       finding = "a beat goes into the record of another"
	beatsFree        finding = "a beat goes into a free record"
	childBeats       finding = "a child beats for its parent"
	childWipes       finding = "a child's exit wipes its parent's record"
	childHalfWipes   finding = "a child's exit zeroes fields of its parent's record"
	namesakeTakes    finding = "a client takes the record of its namesake in another pid namespace"
	namesakeBeats    finding = "a beat goes into the record of a namesake in another pid namespace"
	namesakeWipes    finding = "an exit wipes the record of a namesake in another pid namespace"
	namesakeHalfWipe finding = "an exit zeroes fields of a namesake's record in another pid namespace"
	findsNoRoom      finding = "a client finds no room"
)

// world is what does not change: who there is, and what the guard is like.
type world struct {
	habits  []habit
	flaw    flaw
	upwards bool  // all store and zero the first field first
	watched uint8 // 1 + the only record that the guard looks at; 0: both
}

// step changes s, when it is possible for process who (not used by the guard's steps).
type step struct {
	name string
	do   func(w *world, s *modelState, who int) bool
}

// The steps of a process, by where it stands.
var processSteps = [numPC][]step{
	unborn:   {{"starts", begin}},
	lookOwn:  {{"looks for its own pid", findOwn}, exits, exitsDown, dies},
	waitSem:  {{"takes the semaphore", takeSem}, exits, exitsDown, dies},
	lookFree: {{"looks for pid 0", findFree}, {"looks for pid 0, to store after V", findFreeLate}, exits, exitsDown, dies},
	put:      {{"stores a field", store}, {"stores a field, the last one first", storeDown}, exits, exitsDown, dies},
	giveSem:  {{"gives the semaphore back", leaveSem}, exits, exitsDown, dies},
	giveSoon: {{"gives the semaphore back", leaveSem}, exits, exitsDown, dies},
	putLate:  {{"stores a field", store}, {"stores a field, the last one first", storeDown}, exits, exitsDown, dies},
	running:  {{"beats", beat}, {"loses its leader, the threads live", loseLeader}, exits, exitsDown, dies},
	roomless: {exits, dies},
	other:    {dies},
	wipe:     {{"zeroes a field", zero}, dies},
	zombie:   {{"is reaped", reap}},
}

var (
	exits     = step{"exits", exitUp}
	exitsDown = step{"exits, to zero the last field first", exitDown}
	dies      = step{"is killed", die}
)

// begin starts a process, when its number is free in its namespace. A child begins with what its parent has.
func begin(w *world, s *modelState, who int) bool {
	h, p := &w.habits[who], &s.procs[who]
	if w.flaw == closedWindow && s.guard.at == swapping {
		return false
	}
	for i := range w.habits {
		if o := &w.habits[i]; i != who && o.pid == h.pid && o.here == h.here && s.procs[i].exists() {
			return false
		}
	}
	switch {
	case h.child > 0:
		parent := &s.procs[h.child-1]
		if parent.at != running {
			return false
		}
		*p = process{at: running, slot: parent.slot}
	case h.client:
		p.at = lookOwn
	default:
		p.at = other
	}
	if s.guard.at == swapping {
		s.guard.late |= 1 << who
	}
	return true
}

func findOwn(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if s.table[p.i][fieldPID] == w.habits[who].pid {
		p.slot, p.i, p.at = p.i+1, 0, waitSem
		return true
	}
	if p.i++; p.i == records {
		p.i, p.at = 0, waitSem
	}
	return true
}

// takeSem is P. Who has found its own record needs no free one.
func takeSem(_ *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if s.sem != 0 {
		return false
	}
	s.sem = uint8(who) + 1
	p.at = lookFree
	if p.slot > 0 {
		p.at = put
	}
	return true
}

func findFree(_ *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if s.table[p.i][fieldPID] == 0 {
		p.slot, p.i, p.at = p.i+1, 0, put
		return true
	}
	if p.i++; p.i == records {
		p.i, p.at = 0, giveSem
	}
	return true
}

func findFreeLate(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if !w.habits[who].late || s.table[p.i][fieldPID] != 0 {
		return false // without a free one it is as findFree
	}
	p.slot, p.i, p.at = p.i+1, 0, giveSoon
	return true
}

// leaveSem is V.
func leaveSem(_ *world, s *modelState, who int) bool {
	p := &s.procs[who]
	s.sem = 0
	switch {
	case p.at == giveSoon:
		p.at = putLate
	case p.slot == 0:
		p.at = roomless
	default:
		p.at = running
	}
	return true
}

func store(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	return !(p.i > 0 && p.down) && storeField(w, s, who)
}

func storeDown(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if w.upwards || p.i > 0 && !p.down {
		return false
	}
	p.down = true
	return storeField(w, s, who)
}

func storeField(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	f, value := p.field(), uint8(who)+1
	if f == fieldPID {
		value = w.habits[who].pid
	}
	s.set(p.slot-1, f, value)
	if p.i++; p.i == numFields {
		p.i, p.down = 0, false
		if p.at == put {
			p.at = giveSem
		} else {
			p.at = running
		}
	}
	return true
}

func beat(w *world, s *modelState, who int) bool {
	if w.habits[who].silent {
		return false
	}
	s.set(s.procs[who].slot-1, fieldToken, uint8(who)+1)
	return true
}

func loseLeader(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if !w.habits[who].threads || p.z {
		return false
	}
	p.z = true
	return true
}

// exitUp begins the destructor; the semaphore, if it has it, is undone at the very end.
func exitUp(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if p.slot == 0 {
		return die(w, s, who)
	}
	p.at, p.i, p.down = wipe, 0, false
	return true
}

func exitDown(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	if w.upwards || p.slot == 0 { // the latter is as exitUp
		return false
	}
	p.at, p.i, p.down = wipe, 0, true
	return true
}

func zero(w *world, s *modelState, who int) bool {
	p := &s.procs[who]
	s.set(p.slot-1, p.field(), 0)
	if p.i++; p.i == numFields {
		return die(w, s, who)
	}
	return true
}

func die(_ *world, s *modelState, who int) bool {
	s.procs[who] = process{at: zombie}
	if s.sem == uint8(who)+1 {
		s.sem = 0
	}
	return true
}

func reap(_ *world, s *modelState, who int) bool {
	s.procs[who].at = reaped
	return true
}

// field is the one that is stored or zeroed next.
func (p *process) field() uint8 {
	if p.down {
		return numFields - 1 - p.i
	}
	return p.i
}

func (p *process) exists() bool { return p.at != unborn && p.at != reaped }

func (p *process) lives() bool { return p.exists() && p.at != zombie }

// watches is the set of fields whose changes the guard still takes note of.
var watches = [...]uint8{
	fresh:   1<<fieldName | 1<<fieldTimeout | 1<<fieldToken,
	forming: 1<<fieldName | 1<<fieldTimeout | 1<<fieldToken,
	orphan:  1 << fieldToken,
	foreign: 1 << fieldToken,
	refused: 1 << fieldToken,
}

// set stores a field.
func (s *modelState) set(slot, field, value uint8) {
	s.table[slot][field] = value
	m := &s.guard.mem[slot]
	m.news |= 1 << field & watches[m.phase]
}

// owns says whether the record is process who's: it lives, has stored its pid there and does not leave.
func (w *world) owns(s *modelState, who int, slot uint8) bool {
	p := &s.procs[who]
	if p.slot != slot+1 || s.table[slot][fieldPID] != w.habits[who].pid {
		return false
	}
	switch p.at {
	case put, putLate:
		return p.i > 0 && !p.down
	case giveSem, running:
		return true
	}
	return false
}

// The steps of the guard.
var guardSteps = []step{
	{"looks at record 0: pid", func(w *world, s *modelState, _ int) bool { return look(w, s, 0) }},
	{"looks at record 1: pid", func(w *world, s *modelState, _ int) bool { return look(w, s, 1) }},
	{"reads the name", lookName},
	{"reads the timeout", lookTimeout},
	{"reads the token", lookToken},
	{"reads the token, which stood still for long", lookStill},
	{"opens the pid", openPID},
	{"takes in that the process of record 0 ended", func(w *world, s *modelState, _ int) bool { return notice(w, s, 0) }},
	{"takes in that the process of record 1 ended", func(w *world, s *modelState, _ int) bool { return notice(w, s, 1) }},
	{"decides to clear record 0", func(w *world, s *modelState, _ int) bool { return decide(w, s, 0) }},
	{"decides to clear record 1", func(w *world, s *modelState, _ int) bool { return decide(w, s, 1) }},
	{"gives up the process of record 0", func(w *world, s *modelState, _ int) bool { return giveUp(s, 0) }},
	{"gives up the process of record 1", func(w *world, s *modelState, _ int) bool { return giveUp(s, 1) }},
	{"looks at the pid just before", check},
	{"swaps the pid for 0", swap},
}

func look(w *world, s *modelState, slot uint8) bool {
	g := &s.guard
	m, pid := &g.mem[slot], s.table[slot][fieldPID]
	switch {
	case g.at != idle, w.watched != 0 && w.watched != slot+1:
		return false
	case pid == m.pid && (pid == 0 || m.phase == latched): // nothing new, and not worth a state
		return false
	case pid == 0: // nor is the rest of this look
		*m = memory{}
	case pid != m.pid:
		*m = memory{pid: pid, phase: fresh}
		g.to(readName, slot)
	case m.phase == forming:
		g.to(readName, slot)
	default: // the name does not matter any more
		g.to(readToken, slot)
	}
	return true
}

// read takes a field from the news of the record under way and says whether it was there.
func (g *guardState) read(field uint8) bool {
	m := &g.mem[g.slot]
	is := m.news&(1<<field) != 0
	m.news &^= 1 << field
	return is
}

func lookName(_ *world, s *modelState, _ int) bool {
	g := &s.guard
	if g.at != readName {
		return false
	}
	g.at, g.differs = readTimeout, g.read(fieldName)
	return true
}

func lookTimeout(_ *world, s *modelState, _ int) bool {
	g := &s.guard
	if g.at != readTimeout {
		return false
	}
	g.at, g.differs = readToken, g.read(fieldTimeout) || g.differs
	return true
}

func lookToken(w *world, s *modelState, _ int) bool {
	if s.guard.at != readToken {
		return false
	}
	w.take(s, false)
	return true
}

// lookStill is possible when nobody lives who would have moved the token in max(timeout, 10 s).
func lookStill(w *world, s *modelState, _ int) bool {
	g := &s.guard
	m := &g.mem[g.slot]
	if g.at != readToken || m.phase != orphan || m.news != 0 {
		return false
	}
	for i := range w.habits {
		p := &s.procs[i]
		switch {
		case p.slot != g.slot+1:
		case (p.at == running || p.at == giveSem) && !w.habits[i].silent:
			return false // it would have beaten
		case (p.at == put || p.at == putLate) && p.i > 0 && p.down:
			return false // its token was the first that it stored: it would be done
		}
	}
	w.take(s, true)
	return true
}

// take makes something of a look.
func (w *world) take(s *modelState, still bool) {
	g := &s.guard
	slot, differs := g.slot, g.differs
	m := &g.mem[slot]
	moved := g.read(fieldToken)
	g.to(idle, 0)
	switch {
	case m.phase == fresh, m.phase == refused, m.phase == foreign && moved:
		g.to(opening, slot)
	case m.phase == forming && differs:
		if w.flaw == clearsForming {
			g.to(swapping, slot)
		}
	case m.phase == forming:
		m.phase, m.news = latched, 0
	case m.phase == orphan && moved:
		m.moves = min(m.moves+1, 2)
		g.to(opening, slot)
	case m.phase == orphan && still && w.flaw == orphanNotAsked:
		g.to(checking, slot)
	case m.phase == orphan && still:
		g.to(opening, slot)
		g.confirm = true
	}
}

// to puts the guard somewhere and forgets what was on the way.
func (g *guardState) to(at guardPC, slot uint8) {
	g.at, g.slot, g.differs, g.confirm, g.late = at, slot, false, false, 0
}

type sight uint8

const (
	sightGone sight = iota
	sightOpen
	sightRefused // a thread's id, a kernel thread, the guard itself: no client has it
	sightDenied
)

// open is what pkg/process.Open says of a number, and who has it.
func (w *world) open(s *modelState, pid uint8) (sight, uint8) {
	for i := range w.habits {
		h, p := &w.habits[i], &s.procs[i]
		if !h.here || h.pid != pid || !p.exists() {
			continue
		}
		switch {
		case h.denied && w.flaw == deniedIsGone:
			return sightGone, 0
		case h.denied:
			return sightDenied, 0
		case p.at == zombie || p.z && w.flaw == leaderIsAll:
			return sightGone, 0
		case h.thread:
			return sightRefused, 0
		}
		return sightOpen, uint8(i) + 1
	}
	return sightGone, 0
}

func openPID(w *world, s *modelState, _ int) bool {
	g := &s.guard
	if g.at != opening {
		return false
	}
	slot, confirm := g.slot, g.confirm
	m := &g.mem[slot]
	g.to(idle, 0)
	if o := &g.mem[1-slot]; o.pid == m.pid && o.held > 0 && !o.ended { // one more record of a target
		m.settle(o.held)
		return true
	}
	switch seen, who := w.open(s, m.pid); {
	case seen == sightOpen:
		m.settle(who)
	case seen != sightGone:
		*m = memory{pid: m.pid, phase: refused}
	case m.phase == foreign:
	case m.phase == orphan && confirm:
		g.to(checking, slot)
	case m.phase == orphan && m.moves < 2:
	case m.phase == orphan:
		m.phase, m.moves = foreign, 0
	default:
		*m = memory{pid: m.pid, phase: orphan, news: m.news & watches[orphan]}
		if w.flaw == orphanAtOnce {
			g.to(checking, slot)
		}
	}
	return true
}

// settle gives a record to a process, as one that is forming.
func (m *memory) settle(who uint8) {
	m.phase, m.held, m.ended, m.moves = forming, who, false, 0
}

// notice is a pidfd that becomes readable: when the last thread has ended.
func notice(w *world, s *modelState, slot uint8) bool {
	g := &s.guard
	held := g.mem[slot].held
	if g.at != idle || held == 0 || g.mem[slot].ended {
		return false
	}
	if p := &s.procs[held-1]; p.lives() && !(p.z && w.flaw == leaderIsAll) {
		return false
	}
	for i := range g.mem {
		if g.mem[i].held == held {
			g.mem[i].ended = true
		}
	}
	return true
}

func decide(w *world, s *modelState, slot uint8) bool {
	g := &s.guard
	m := &g.mem[slot]
	if g.at != idle || !m.ended || m.phase != latched && w.flaw != unsettled {
		return false
	}
	if w.flaw != anyoneEnds && !w.habits[m.held-1].client {
		*m = memory{pid: m.pid, phase: orphan}
		return true
	}
	if g.to(checking, slot); w.flaw == noCheck {
		g.to(swapping, slot)
	}
	return true
}

// giveUp releases a target that ended while its record was forming.
func giveUp(s *modelState, slot uint8) bool {
	g := &s.guard
	m := &g.mem[slot]
	if g.at != idle || !m.ended || m.phase != forming {
		return false
	}
	*m = memory{pid: m.pid, phase: orphan, news: m.news & watches[orphan]}
	return true
}

func check(w *world, s *modelState, _ int) bool {
	g := &s.guard
	if g.at != checking {
		return false
	}
	slot := g.slot
	m := &g.mem[slot]
	switch seen, _ := w.open(s, m.pid); seen {
	case sightGone, sightRefused:
		g.to(swapping, slot)
	default: // the number is another's by now: seen for the first time
		*m = memory{pid: m.pid, phase: forming, news: watches[forming]}
		g.to(opening, slot)
	}
	return true
}

func swap(w *world, s *modelState, _ int) bool {
	g := &s.guard
	if g.at != swapping {
		return false
	}
	r := &s.table[g.slot]
	switch same := r[fieldPID] == g.mem[g.slot].pid; {
	case same && w.flaw == wipesAll:
		*r = record{}
	case same || w.flaw == plainStore:
		r[fieldPID] = 0
	}
	g.mem[g.slot] = memory{}
	g.to(idle, 0)
	return true
}

// findings is what anybody loses when process who, or the guard with who < 0, goes from s to t.
func (w *world) findings(s, t *modelState, who int, found func(finding)) {
	if who < 0 {
		if s.table != t.table {
			w.guardFindings(s, t, found)
		}
		return
	}
	p, now := &s.procs[who], &t.procs[who]
	if p.at == giveSem && now.at == roomless {
		found(findsNoRoom)
	}
	if p.slot == 0 {
		return
	}
	slot := p.slot - 1
	beats := p.at == running && now.at == running && p.z == now.z
	if !beats && p.at != put && p.at != putLate && p.at != wipe {
		return
	}
	if beats && s.table[slot][fieldPID] == 0 {
		found(beatsFree)
	}
	for i := range w.habits {
		if i == who || !w.owns(s, i, slot) {
			continue
		}
		child, namesake := int(w.habits[who].child) == i+1, w.habits[who].pid == w.habits[i].pid
		lost := t.table[slot][fieldPID] != s.table[slot][fieldPID]
		switch leaves := p.at == wipe; {
		case beats && child:
			found(childBeats)
		case beats && namesake:
			found(namesakeBeats)
		case beats:
			found(beatsOther)
		case leaves && child && lost:
			found(childWipes)
		case leaves && child:
			found(childHalfWipes)
		case leaves && namesake && lost:
			found(namesakeWipes)
		case leaves && namesake:
			found(namesakeHalfWipe)
		case leaves && lost:
			found(wipesOther)
		case leaves:
			found(halfWipes)
		case namesake:
			found(namesakeTakes)
		case lost:
			found(overwrites)
		default:
			found(mixes)
		}
	}
}

// guardFindings judges what the guard wrote.
func (w *world) guardFindings(s, t *modelState, found func(finding)) {
	slot, m := s.guard.slot, &s.guard.mem[s.guard.slot]
	want := s.table
	want[slot][fieldPID] = 0
	if t.table != want || s.table[slot][fieldPID] != m.pid {
		found(wroteOther)
	}
	for i := range w.habits {
		h, p := &w.habits[i], &s.procs[i]
		switch {
		case !w.owns(s, i, slot):
		case h.here && s.guard.late&(1<<i) != 0:
			found(lostInWindow)
		case !h.here && m.phase == latched:
			found(lostNamesake)
		case !h.here && m.phase == orphan && (m.news&(1<<fieldToken) != 0 || p.at == put || p.at == putLate):
			found(lostUnread)
		case !h.here && m.phase == orphan && h.silent && w.flaw != orphanAtOnce:
			found(lostSilent)
		default:
			found(lostLiving)
		}
	}
}

// explorer visits all states of a world, the nearest first, so the first way to a finding is a shortest.
type explorer struct {
	w      world
	index  map[modelState]int32
	states []modelState
	from   []int32
	by     []int8 // who made the step
	step   []uint8
	traces map[finding][]string
}

func explore(w world) *explorer {
	e := &explorer{w: w, index: map[modelState]int32{}, traces: map[finding][]string{}}
	e.reach(modelState{}, -1, -1, 0)
	for n := int32(0); int(n) < len(e.states); n++ {
		for who := range w.habits {
			for k, st := range processSteps[e.states[n].procs[who].at] {
				e.try(n, who, k, st)
			}
		}
		if w.flaw == noGuard {
			continue
		}
		for k, st := range guardSteps {
			e.try(n, -1, k, st)
		}
	}
	return e
}

func (e *explorer) try(n int32, who, k int, st step) {
	s := e.states[n]
	t := s
	if !st.do(&e.w, &t, who) {
		return
	}
	if e.w.flaw == noGuard {
		t.guard = guardState{}
	}
	e.w.findings(&s, &t, who, func(f finding) {
		if _, ok := e.traces[f]; !ok {
			e.traces[f] = append(e.trace(n), e.say(n, who, k))
		}
	})
	e.reach(t, n, who, k)
}

func (e *explorer) reach(s modelState, from int32, who, k int) {
	if _, ok := e.index[s]; ok {
		return
	}
	e.index[s] = int32(len(e.states))
	e.states = append(e.states, s)
	e.from, e.by, e.step = append(e.from, from), append(e.by, int8(who)), append(e.step, uint8(k))
}

// trace is the way to a state.
func (e *explorer) trace(n int32) []string {
	var out []string
	for ; e.from[n] >= 0; n = e.from[n] {
		out = append(out, e.say(e.from[n], int(e.by[n]), int(e.step[n])))
	}
	slices.Reverse(out)
	return out
}

func (e *explorer) say(n int32, who, k int) string {
	s := &e.states[n]
	if who < 0 {
		return "guard " + guardSteps[k].name
	}
	p := s.procs[who]
	what := processSteps[p.at][k].name
	line := fmt.Sprintf("%s (%c) %s", e.w.habits[who].name, 'O'+e.w.habits[who].pid, what)
	switch verb, _, _ := strings.Cut(what, " "); verb {
	case "looks":
		line += fmt.Sprintf(" in record %d", p.i)
	case "stores", "zeroes":
		p.down = p.down || p.at != wipe && k == 1
		line += fmt.Sprintf(": %s of record %d", [...]string{"pid", "name", "timeout", "token"}[p.field()], p.slot-1)
	case "beats":
		line += fmt.Sprintf(" into record %d", p.slot-1)
	}
	return line
}

// Who there is.
var (
	clientP   = habit{name: "client", pid: 1, here: true, client: true}
	clientQ   = habit{name: "client", pid: 2, here: true, client: true}
	nextP     = habit{name: "successor", pid: 1, here: true, client: true}
	lateP     = habit{name: "late client", pid: 1, here: true, client: true, late: true}
	lateQ     = habit{name: "late client", pid: 2, here: true, client: true, late: true}
	childR    = habit{name: "child", pid: 3, here: true, client: true, child: 1}
	otherP    = habit{name: "no client", pid: 1, here: true}
	threadP   = habit{name: "thread", pid: 1, here: true, thread: true}
	threadsP  = habit{name: "client with threads", pid: 1, here: true, client: true, threads: true}
	deniedP   = habit{name: "denied client", pid: 1, here: true, client: true, denied: true}
	silentP   = habit{name: "silent client", pid: 1, here: true, client: true, silent: true}
	quietP    = habit{name: "silent denied client", pid: 1, here: true, client: true, denied: true, silent: true}
	foreignP  = habit{name: "foreign client", pid: 1, client: true}
	foreignP2 = habit{name: "foreign successor", pid: 1, client: true}
	foreignS  = habit{name: "silent foreign client", pid: 1, client: true, silent: true}
)

type cast = []habit

// The worlds of the model, and all that anybody loses in each of them: no more, and no less.
var clearingWorlds = []struct {
	name  string
	world world
	large bool // a minute and some GB for all of these: with TABLE_TEST_MODEL=large
	want  []finding
}{
	// Clients alone.
	{"two clients alone", world{habits: cast{clientP, clientQ}, flaw: noGuard}, false, []finding{halfWipes}},
	{"successor alone", world{habits: cast{clientP, nextP, clientQ}, flaw: noGuard}, false, []finding{halfWipes}},
	{"late clients alone", world{habits: cast{lateP, lateQ}, flaw: noGuard}, false,
		[]finding{overwrites, wipesOther, mixes, halfWipes, beatsOther, beatsFree}},
	{"fork alone", world{habits: cast{clientP, childR}, flaw: noGuard}, false, []finding{beatsFree, childBeats, childWipes, childHalfWipes}},
	{"fork and a client alone", world{habits: cast{clientP, childR, clientQ}, flaw: noGuard}, false,
		[]finding{wipesOther, halfWipes, beatsOther, beatsFree, childBeats, childWipes, childHalfWipes}},
	{"full", world{habits: cast{clientP, clientQ, {name: "client", pid: 3, here: true, client: true}}, flaw: noGuard}, false,
		[]finding{halfWipes, findsNoRoom}},

	// One after the other, and the guard.
	{"client", world{habits: cast{clientP}}, false, nil},
	{"silent", world{habits: cast{silentP}}, false, nil},
	{"threads", world{habits: cast{threadsP}}, false, nil},
	{"denied", world{habits: cast{deniedP}}, false, nil},
	{"silent, denied", world{habits: cast{quietP}}, false, nil},
	{"successor", world{habits: cast{clientP, nextP}}, false, []finding{lostInWindow, beatsFree}},
	{"successor, closed window", world{habits: cast{clientP, nextP}, flaw: closedWindow}, false, nil},
	{"successor, unsettled", world{habits: cast{clientP, nextP}, flaw: unsettled}, false, []finding{lostInWindow, beatsFree}},
	{"successor, orphan not asked", world{habits: cast{clientP, nextP}, flaw: orphanNotAsked}, false, []finding{lostInWindow, beatsFree}},
	{"denied successor", world{habits: cast{clientP, deniedP}}, false, []finding{lostInWindow, beatsFree}},
	{"successor is no client", world{habits: cast{clientP, otherP}}, false, nil},
	{"successor is a thread", world{habits: cast{clientP, threadP}}, false, nil},
	{"fork", world{habits: cast{clientP, childR}}, false, []finding{beatsFree, childBeats, childWipes, childHalfWipes}},

	// Two that live at the same time, and the guard.
	{"two clients", world{habits: cast{clientP, clientQ}, watched: 1, upwards: true}, false, []finding{halfWipes}},
	{"two clients, both records", world{habits: cast{clientP, clientQ}}, true, []finding{halfWipes}},
	{"late clients", world{habits: cast{lateP, lateQ}, watched: 1}, true,
		[]finding{overwrites, wipesOther, mixes, halfWipes, beatsOther, beatsFree}},
	{"successor and a client", world{habits: cast{clientP, nextP, clientQ}, watched: 1, upwards: true}, true,
		[]finding{lostInWindow, overwrites, wipesOther, mixes, halfWipes, beatsOther, beatsFree}},
	{"successor and a client, closed window",
		world{habits: cast{clientP, nextP, clientQ}, flaw: closedWindow, watched: 1, upwards: true}, true, []finding{halfWipes}},
	{"fork and a client", world{habits: cast{clientP, childR, clientQ}, watched: 1, upwards: true}, true,
		[]finding{wipesOther, halfWipes, beatsOther, beatsFree, childBeats, childWipes, childHalfWipes}},

	// Other pid namespaces, and the guard.
	{"foreign", world{habits: cast{foreignP}}, false, []finding{lostUnread, beatsFree}},
	{"foreign, silent", world{habits: cast{foreignS}}, false, []finding{lostUnread, lostSilent}},
	{"foreign successor", world{habits: cast{foreignP, foreignP2}}, false, []finding{lostUnread, beatsFree}},
	{"foreign with a namesake", world{habits: cast{otherP, foreignP}}, false, []finding{lostUnread, beatsFree}},
	{"foreign with a namesake, anyone ends", world{habits: cast{otherP, foreignP}, flaw: anyoneEnds}, false, []finding{lostUnread, lostNamesake, beatsFree}},
	{"foreign with a client as namesake", world{habits: cast{clientP, foreignP}, watched: 1}, true,
		[]finding{lostInWindow, lostUnread, lostNamesake, beatsFree, namesakeTakes, namesakeBeats, namesakeWipes, namesakeHalfWipe}},
}

// envModel is "large" for all worlds of the model.
const envModel = "TABLE_TEST_MODEL"

func TestClearingModel(t *testing.T) {
	for _, test := range clearingWorlds {
		if test.large && os.Getenv(envModel) != "large" {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			begin := time.Now()
			e := explore(test.world)
			t.Logf("%d states in %v", len(e.states), time.Since(begin).Round(time.Millisecond))
			got := slices.Sorted(maps.Keys(e.traces))
			for _, f := range got {
				t.Logf("%s, shortest of all ways:\n\t%s", f, strings.Join(e.traces[f], "\n\t"))
			}
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("what is lost (-want +got):\n%s", diff)
			}
		})
	}
}

// TestClearingWindow shows that the one way to lose a client here is the window between the last look at a pid and the
// swap: the successor starts, registers and loses its pid within it.
func TestClearingWindow(t *testing.T) {
	e := explore(world{habits: cast{clientP, nextP}})
	trace := strings.Join(e.traces[lostInWindow], "\n")
	at := 0
	for _, want := range []string{
		"client (P) is reaped", "guard looks at the pid just before", "successor (P) starts",
		"successor (P) looks for its own pid in record 0", "successor (P) stores a field: pid of record 0",
		"guard swaps the pid for 0",
	} {
		i := strings.Index(trace[at:], want)
		if i < 0 {
			t.Fatalf("no %q, or not in this order, in\n%s", want, trace)
		}
		at += i + len(want)
	}
	if at != len(trace) {
		t.Errorf("it goes on after the swap:\n%s", trace)
	}
}

// TestClearingModelCanFail gives the guard one flaw at a time: the model finds each, by a shortest way.
func TestClearingModelCanFail(t *testing.T) {
	for _, test := range []struct {
		name  string
		world world
		want  finding
		steps int
	}{
		{"no check just before", world{habits: cast{clientP, nextP}, flaw: noCheck}, lostLiving, 24},
		{"a plain store", world{habits: cast{clientP, clientQ}, flaw: plainStore, watched: 1, upwards: true}, lostLiving, 28},
		{"a plain store writes more", world{habits: cast{clientP, clientQ}, flaw: plainStore, watched: 1, upwards: true}, wroteOther, 28},
		{"the whole record", world{habits: cast{clientP}, flaw: wipesAll}, wroteOther, 18},
		{"forming records are leftovers", world{habits: cast{clientP}, flaw: clearsForming}, lostLiving, 17},
		{"EPERM is gone, silent client", world{habits: cast{quietP}, flaw: deniedIsGone}, lostLiving, 16},
		{"EPERM is gone, successor", world{habits: cast{clientP, deniedP}, flaw: deniedIsGone}, lostLiving, 16},
		{"orphans at once", world{habits: cast{foreignP}, flaw: orphanAtOnce}, lostLiving, 16},
		{"Z of the leader is the end", world{habits: cast{threadsP}, flaw: leaderIsAll}, lostLiving, 24},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace := explore(test.world).traces[test.want]
			if len(trace) == 0 {
				t.Fatalf("not found: %s", test.want)
			}
			t.Logf("%s, after %d steps:\n\t%s", test.want, len(trace), strings.Join(trace, "\n\t"))
			if last := trace[len(trace)-1]; last != "guard swaps the pid for 0" {
				t.Errorf("the last step is %q", last)
			}
			if len(trace) != test.steps {
				t.Errorf("found after %d steps, a shortest way has %d", len(trace), test.steps)
			}
			sound := test.world
			sound.flaw = noFlaw
			if trace := explore(sound).traces[test.want]; trace != nil {
				t.Errorf("found without the flaw as well:\n\t%s", strings.Join(trace, "\n\t"))
			}
		})
	}
}
