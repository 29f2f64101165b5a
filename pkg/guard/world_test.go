package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

const sec = time.Second

// reporter is a *testing.T or a *rapid.T.
type reporter interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// world is a fake host with tables, processes, and the part of the daemon that
// stands around a [Guard]. Its time is w.now (CLOCK_MONOTONIC), which moves
// from one thing that happens to the next; the same calls always give the same
// events. It watches what must always hold at each signal and each clear.
type world struct {
	t   reporter
	cfg *config.Config
	g   *Guard
	now time.Duration

	tables  []*fakeTable
	procs   map[int32]*proc // those that exist, zombies too
	running []*proc         // those that may beat, in the order of their start
	script  []scripted
	starts  uint64 // processes started so far

	// The daemon.
	begun        bool
	stalledUntil time.Duration // the daemon does not run before
	fresh        bool          // a new daemon: its first wake has not been
	acts         bool
	held         map[TargetID]*proc // pidfds
	mail         []letter
	ladders      []*ladder
	restartAt    func(wake int) bool // a new daemon before this wake; nil: never
	restarts     int
	state        []byte

	// How the host behaves.
	askDelay    time.Duration                 // until an answer about consent
	proofDelay  time.Duration                 // until the evidence is in
	unreadable  *proc                         // whose maps cannot be read
	wordDelay   time.Duration                 // until the last word of a ladder comes
	reportDelay time.Duration                 // until its other reports come
	signalErr   string                        // why no signal can be sent
	readOnly    bool                          // the tables can only be read
	stillToo    bool                          // rules say that those who stand still are ended as well
	noInodes    bool                          // a kernel without unique inodes of pidfds
	restoreRes  []RestoreDone                 // answers to RestoreUnit, in turn
	exitDelay   time.Duration                 // until an exit notice comes; negative: never
	sim         *sim                          // what watches this world instead of the checks below; nil: nothing
	onRestore   func(RestoreUnit) RestoreDone // answers it instead, where it is set
	onGlance    func(RestoreUnit) RestoreDone // answers one that is to look only; nil: it is down
	onLook      func(LookAtStarted) RestoreDone
	onFollow    func(RestartUnit) (RestoreDone, time.Duration) // the answer, and how long that takes
	restoreTime time.Duration                                  // until an answer comes, if more than 200 ms
	lookTime    time.Duration                                  // the same about what was started

	// What programs use, see limit_test.go.
	units       map[string]UnitLimits    // what units have
	restarted   map[string]time.Duration // for limits
	unitGone    bool                     // there is none
	unitFault   string                   // why nothing can be done to a unit
	unitRefuses bool                     // because this guard says so
	limitsToo   bool                     // who exceeds a limit may be signalled while it beats

	// What was seen.
	events  []logged
	signals []sent
	asked   []Decision     // decisions that tests look at, without the numbers of questions: RestoreUnit (not Look), RepairSemaphore, CatchOldGuard, DropTable
	kept    map[string]int // units that are remembered, and for how many
	clears  int
	asks    int // for consent
	wakes   int
}

type fakeTable struct {
	id      TableID
	records []table.Record
	scan    Scan
}

// scripted is something that happens at a time.
type scripted struct {
	at time.Duration
	do func()
}

// letter is an observation for the daemon's mailbox.
type letter struct {
	at  time.Duration
	obs Observation
}

type logged struct {
	at time.Duration
	*Event
}

type sent struct {
	at  time.Duration
	pid int32
	sig unix.Signal
}

// proc is a fake process.
type proc struct {
	w     *world
	pid   int32
	facts Facts
	table *fakeTable
	slot  int // where it beats, -1: nowhere

	every    time.Duration // between two beats, 0: it never beats
	next     time.Duration // when it beats next
	lastBeat time.Duration // or registration
	token    func(now time.Duration) int64

	alive  bool   // false: a zombie, or gone
	zombie bool   // when it ends it is not reaped
	ending Ending // as the exit notice says it
	late   Ending // as it is known later
	sight  Sight
	reason string
	state  byte
	look   Looked // Frozen, Dumping, Tracer
	blind  string // why its state cannot be read
	child  bool   // of a client, no client itself: it is signalled only with its cgroup
	proof  Examined

	consent Consent // what its maps show now
	termIn  time.Duration
	stays   bool // it does not end on SIGKILL, until it is let go
	pending bool // it got one

	timeout time.Duration // the longest that it registered with, for the world's checks
	past    past          // for those of a simulation
}

// Answers of a process to SIGTERM.
const (
	termIgnored = -1 // termIn: never; otherwise it exits cleanly after that time
)

func testConfig() *config.Config {
	c := config.Default()
	return &c
}

func newWorld(t reporter, configure ...func(*config.Config)) *world {
	w := &world{t: t, cfg: testConfig(), now: 1000 * sec, procs: map[int32]*proc{}, held: map[TargetID]*proc{}, kept: map[string]int{}, acts: true, fresh: true}
	for _, f := range configure {
		f(w.cfg)
	}
	w.g = New(w.cfg)
	w.addTable(7, 100)
	return w
}

func (w *world) addTable(id TableID, records int) *fakeTable {
	tb := &fakeTable{id: id, records: make([]table.Record, records)}
	tb.scan = Scan{id, tb.records}
	w.tables = append(w.tables, tb)
	return tb
}

func (w *world) tb() *fakeTable { return w.tables[0] }

// wall is a token as clients write it: whole seconds of the wall clock.
func wall(now time.Duration) int64 { return 1_700_000_000 + int64(now/sec) }

// start starts a process that joins no table yet.
func (w *world) start(pid int32) *proc {
	if old := w.procs[pid]; old != nil && old.alive {
		w.t.Fatalf("pid %d is taken", pid)
	}
	w.starts++
	p := &proc{w: w, pid: pid, slot: -1, alive: true, state: 'S', token: wall, table: w.tb(), consent: ConsentNotMapped, termIn: termIgnored}
	p.facts = Facts{Start: w.starts, Inode: 100 + w.starts, UID: 1000, PPID: 2, User: "idc"}
	if w.noInodes {
		p.facts.Inode = 0
	}
	w.procs[pid] = p
	w.running = append(w.running, p)
	return p
}

// client starts a process that registers at once in the slot pid%len and beats
// every so often; 0: never.
func (w *world) client(pid int32, name string, timeout int32, every time.Duration) *proc {
	p := w.start(pid)
	p.join(int(pid)%len(p.table.records), name, timeout)
	p.every, p.next = every, w.now+every
	return p
}

// join registers: the process maps the table and writes its record.
func (p *proc) join(slot int, name string, timeout int32) *proc {
	p.consent, p.slot, p.lastBeat = ConsentProven, slot, p.w.now
	p.timeout = max(p.timeout, time.Duration(timeout)*sec)
	p.table.records[slot] = record(p.pid, name, timeout, p.token(p.w.now))
	return p
}

func record(pid int32, name string, timeout int32, token int64) table.Record {
	r := table.Record{PID: pid, Timeout: timeout, Token: token}
	copy(r.Name[:], name)
	return r
}

func (p *proc) rec() *table.Record { return &p.table.records[p.slot] }

func (p *proc) beat() {
	p.lastBeat = p.w.now
	if p.slot >= 0 {
		p.rec().Token = p.token(p.w.now)
	}
}

// hang ends the beats.
func (p *proc) hang() { p.every = 0 }

// wipe zeroes the record, as the clients' destructor does.
func (p *proc) wipe() {
	if p.slot >= 0 {
		*p.rec() = table.Record{}
	}
}

// exit ends the process; clean: after it wiped its record.
func (p *proc) exit(clean bool) {
	if !p.alive {
		return
	}
	if clean {
		p.wipe()
	}
	p.w.sim.exiting(p, clean)
	p.alive, p.state = false, 'Z'
	p.past.endedAt = p.w.now
	if !p.zombie {
		delete(p.w.procs, p.pid)
	}
	w := p.w
	w.running = slices.DeleteFunc(w.running, func(o *proc) bool { return o == p })
	for id, held := range w.held {
		if held == p && w.exitDelay >= 0 {
			w.post(w.exitDelay, Exited{Target: id, Status: "exit", Ending: p.ending})
		}
	}
}

// still says whether the process does not run.
func (p *proc) still() bool {
	return p.state == 'T' || p.state == 't' || p.look.Frozen || p.look.Dumping
}

// signal is what the kernel does with a signal.
func (p *proc) signal(sig unix.Signal) {
	w := p.w
	w.signals = append(w.signals, sent{w.now, p.pid, sig})
	switch {
	case p.child:
	case w.sim != nil:
		w.sim.signalled(p)
	case p.consent != ConsentProven:
		w.t.Errorf("%v: %v to %d, which has not joined the table", w.now, sig, p.pid)
	case w.now-p.lastBeat <= p.timeout && !w.limitsToo:
		w.t.Errorf("%v: %v to %d, which beat %v ago (timeout %v)", w.now, sig, p.pid, w.now-p.lastBeat, p.timeout)
	case p.still() && !w.stillToo:
		w.t.Errorf("%v: %v to %d, which is held by something (%c)", w.now, sig, p.pid, p.state)
	}
	switch {
	case sig == unix.SIGKILL && p.stays:
		p.pending, p.every = true, 0
	case sig == unix.SIGKILL:
		p.exit(false)
	case sig == unix.SIGTERM && p.termIn == 0:
		p.exit(true)
	case sig == unix.SIGTERM && p.termIn > 0:
		w.in(p.termIn, func() { p.exit(true) })
	}
}

// letGo lets a process end that could not.
func (p *proc) letGo() {
	p.stays = false
	if p.pending {
		p.exit(false)
	}
}

// in has something happen after d.
func (w *world) in(d time.Duration, do func()) {
	at := w.now + d
	i, _ := slices.BinarySearchFunc(w.script, at, func(s scripted, at time.Duration) int {
		if s.at <= at {
			return -1
		}
		return 1
	})
	w.script = slices.Insert(w.script, i, scripted{at, do})
}

// post has an observation arrive after d.
func (w *world) post(d time.Duration, o Observation) {
	w.mail = append(w.mail, letter{w.now + d, o})
}

// stall keeps the daemon, and it alone, from running for d.
func (w *world) stall(d time.Duration) { w.stalledUntil = max(w.stalledUntil, w.now+d) }

// freeze stops daemon and processes together for d: work under way goes on
// afterwards where it was. The time passes at once.
func (w *world) freeze(d time.Duration) {
	w.now += d
	for _, p := range w.running {
		p.next += d
		p.lastBeat += d // for the world's checks: the process had no chance
	}
}

// run lets time pass for d.
func (w *world) run(d time.Duration) {
	end := w.now + d
	for {
		next := w.nextWake()
		if len(w.script) > 0 {
			next = min(next, w.script[0].at)
		}
		for _, p := range w.running {
			if p.every > 0 && !p.still() {
				next = min(next, max(p.next, w.now))
			}
		}
		for _, l := range w.ladders {
			next = min(next, max(l.next, w.now))
		}
		if next > end {
			w.now = end
			return
		}
		w.now = max(next, w.now)
		for len(w.script) > 0 && w.script[0].at <= w.now {
			do := w.script[0].do
			w.script = w.script[1:]
			do()
		}
		for _, p := range w.running {
			if p.every > 0 && p.next <= w.now && !p.still() {
				p.beat()
				p.next += p.every * max(1, (w.now-p.next)/p.every)
			}
		}
		w.walk()
		if w.nextWake() <= w.now {
			w.wake()
		}
	}
}

// nextWake is when the daemon runs next.
func (w *world) nextWake() time.Duration {
	at := w.now
	if w.begun {
		at = w.g.Next()
	}
	for _, l := range w.mail {
		at = min(at, l.at)
	}
	return max(at, w.stalledUntil)
}

// restart kills the daemon; the next wake is a new one's.
func (w *world) restart() {
	w.state = w.g.Save(w.state[:0])
	w.restartFrom(w.state)
}

// restartFrom is a restart of which the last word to the registry was state.
func (w *world) restartFrom(state []byte) {
	w.restarts++
	g, err := Restore(w.cfg, state)
	if err != nil {
		w.t.Fatalf("%v: %v", w.now, err)
	}
	w.g, w.fresh = g, true
	clear(w.held)
	clear(w.kept)
	// What was under way in the daemon is lost; the semaphore, attachments and
	// whatever a test posted are of the world.
	w.mail = slices.DeleteFunc(w.mail, func(l letter) bool {
		switch l.obs.(type) {
		case Consented, Examined, Exited, LadderReport, Gathered, RestoreDone, RestartedForLimit, UnitStarted, UnitSeen, UnitLimitsSet:
			return true
		}
		return false
	})
	w.ladders = nil
}

// wake is one wake of the daemon.
func (w *world) wake() {
	w.wakes++
	if w.restartAt != nil && w.begun && w.restartAt(w.wakes) {
		w.restart()
	}
	w.sim.waking()
	var obs []Observation
	if w.fresh {
		obs = append(obs, Acting{Acts: w.acts, Reason: "told so"})
		known := w.g.TableIDs()
		for _, tb := range w.tables {
			obs = append(obs, TableAttached{Table: tb.id, Slots: len(tb.records)})
			known = slices.DeleteFunc(known, func(id TableID) bool { return id == tb.id })
		}
		for _, id := range known {
			obs = append(obs, TableLost{Table: id, Reason: "gone"})
		}
		if w.begun {
			obs = append(obs, Resumed{})
		}
		w.fresh, w.begun = false, true
	}
	// First the mailbox, then the exit notices.
	for _, exits := range []bool{false, true} {
		for _, l := range w.mail {
			if _, exit := l.obs.(Exited); exit == exits && l.at <= w.now {
				obs = append(obs, l.obs)
			}
		}
	}
	w.mail = slices.DeleteFunc(w.mail, func(l letter) bool { return l.at <= w.now })
	if w.g.ScanDue(w.now) {
		for _, tb := range w.tables {
			obs = append(obs, &tb.scan)
		}
		w.g.ScanDone(w.now)
	}
	for first := true; first || len(obs) > 0; first = false {
		if debugWorld {
			for _, o := range obs {
				if s, ok := o.(*Scan); !ok {
					w.t.Logf("%v   ◀ %T%+v", w.now, o, o)
				} else {
					w.t.Logf("%v   ◀ scan %d", w.now, s.Table)
				}
			}
		}
		decisions := w.g.Step(w.now, obs...)
		obs = nil
		for _, d := range decisions {
			if o := w.do(d); o != nil {
				obs = append(obs, o)
			}
		}
	}
	if next := w.g.Next(); next <= w.now && !w.g.ScanDue(w.now) {
		w.t.Fatalf("%v: the guard wants to be woken at once, again", next)
	}
	w.sim.woken()
}

const debugWorld = false

// do carries out one decision; the answer to one "at once" is returned.
func (w *world) do(d Decision) Observation {
	if debugWorld {
		w.t.Logf("%v ▶ %T%+v", w.now, d, d)
	}
	w.sim.decided(d)
	switch d := d.(type) {
	case *Event:
		w.events = append(w.events, logged{w.now, d})
	case ReadAgain:
		return Reread{d.Target, d.Table, d.Slot, w.record(d.Table, d.Slot)}
	case Identify:
		return w.identify(d)
	case Release:
		delete(w.held, d.Target)
	case AskConsent:
		w.need(d, d.Target)
		p := w.held[d.Target]
		w.asks++
		w.in(w.askDelay, func() {
			if p != nil && w.held[d.Target] == p {
				o := Consented{Target: d.Target, Consent: p.consent}
				if p == w.unreadable {
					o.Consent, o.Reason = ConsentUnknown, "no answer in time"
				}
				w.post(0, o)
			}
		})
	case Examine:
		w.need(d, d.Target)
		p := w.held[d.Target]
		w.in(w.proofDelay, func() {
			if p == nil || w.held[d.Target] != p {
				return
			}
			o := p.proof
			o.Target, o.State, o.Threads = d.Target, p.state, max(o.Threads, 1)
			w.post(0, o)
		})
	case LookAt:
		w.need(d, d.Target)
		p := w.held[d.Target]
		if p == nil || !p.alive {
			return Looked{Target: d.Target, Vanished: true}
		}
		if p.blind != "" {
			return Looked{Target: d.Target, Problem: p.blind}
		}
		o := p.look
		o.Target, o.State, o.PGID = d.Target, p.state, p.facts.PGID
		return o
	case Clear:
		return w.clear(d)
	case BeginLadder:
		l := &ladder{BeginLadder: d, w: w, p: &proc{}, step: d.From, next: w.now}
		if !d.Left {
			w.need(d, d.Target)
			l.p = w.held[d.Target]
		}
		for _, m := range d.Group.Members {
			if c := w.procs[m.PID]; c != nil && c.alive && c.facts.Start == m.Start && c.facts.Inode == m.Inode && within(c.facts.Cgroup, d.Group.Path) {
				l.others = append(l.others, c)
			}
		}
		w.ladders = append(w.ladders, l)
		w.walk()
	case CancelLadder:
		if i := slices.IndexFunc(w.ladders, func(l *ladder) bool { return l.Target == d.Target }); i >= 0 {
			w.ladders = slices.Delete(w.ladders, i, i+1)
			w.post(w.wordDelay, LadderReport{Target: d.Target, Kind: LadderCancelled})
		}
	case CheckReaped:
		p := w.held[d.Target]
		ending := EndedUnknown
		if p != nil {
			ending = p.late
		}
		return Reaped{Target: d.Target, Ending: ending, Zombie: p != nil && w.procs[p.pid] == p, Parent: 2, ParentComm: "procctl"}
	case LookAtStarted:
		w.systemd(d)
	case RememberUnit:
		if w.kept[d.Unit]++; d.Over {
			if w.kept[d.Unit] -= 2; w.kept[d.Unit] < 0 {
				w.t.Errorf("%v: %s is forgotten, and was not remembered", w.now, d.Unit)
			}
		}
	case RestoreUnit:
		if !d.Look {
			q := d
			q.Ask = 0
			w.asked = append(w.asked, q)
		}
		w.systemd(d)
	case RestartUnit:
		q := d
		q.Ask = 0
		w.asked = append(w.asked, q)
		w.systemd(d)
	case RestartForLimit, LookAtUnit, SetUnitLimits:
		w.asked = append(w.asked, d)
		w.systemd(d)
	case DropTable:
		w.asked = append(w.asked, d)
		w.tables = slices.DeleteFunc(w.tables, func(tb *fakeTable) bool { return tb.id == d.Table })
	case RepairSemaphore, CatchOldGuard:
		w.asked = append(w.asked, d)
	default:
		w.t.Fatalf("no such decision: %T", d)
	}
	return nil
}

// systemd has it do what is asked of it.
func (w *world) systemd(d Decision) {
	if w.sim != nil {
		w.sim.systemd(d)
		return
	}
	switch d := d.(type) {
	case RestoreUnit:
		o := RestoreDone{Up: true, Reason: "active"}
		switch {
		case d.Look && w.onGlance != nil:
			o = w.onGlance(d)
		case d.Look:
			o = RestoreDone{Down: true, Reason: "it was failed"}
		case w.onRestore != nil:
			o = w.onRestore(d)
		}
		if len(w.restoreRes) > 0 && !d.Look {
			o, w.restoreRes = w.restoreRes[0], w.restoreRes[1:]
		}
		o.Ask = d.Ask
		if d.Look {
			w.post(200*ms, o)
		} else {
			w.post(max(w.restoreTime, 200*ms), o)
		}
	case LookAtStarted:
		if w.onLook != nil {
			o := w.onLook(d)
			o.Ask = d.Ask
			w.post(max(w.lookTime, 200*ms), o)
		} else {
			w.post(200*ms, RestoreDone{Ask: d.Ask, Up: true})
		}
	case RestartUnit:
		o, after := RestoreDone{Started: true}, 200*ms
		if w.onFollow != nil {
			o, after = w.onFollow(d)
		}
		o.Ask = d.Ask
		w.post(after, o)
	default:
		w.unitDoes(d)
	}
}

// need checks that a decision is about a process of which a pidfd is held.
func (w *world) need(d Decision, id TargetID) {
	if _, ok := w.held[id]; !ok {
		w.t.Fatalf("%v: %T about target %d, which is not open", w.now, d, id)
	}
}

func (w *world) record(id TableID, slot int32) table.Record {
	for _, tb := range w.tables {
		if tb.id == id {
			return tb.records[slot]
		}
	}
	return table.Record{}
}

func (w *world) identify(d Identify) Observation {
	o := Identified{Target: d.Target, PID: d.PID}
	p := w.procs[d.PID]
	switch {
	case d.PID <= 1:
		o.Sight, o.Reason = SightRefused, "never signalled"
	case p == nil || !p.alive: // a zombie is gone
		o.Sight = SightGone
	case p.sight != SightVerified:
		o.Sight, o.Reason = p.sight, p.reason
	case d.Expect != nil && (d.Expect.Start != p.facts.Start || d.Expect.Inode != p.facts.Inode):
		o.Sight = SightGone
	default:
		o.Facts = p.facts
		w.held[d.Target] = p
		p.past.id = d.Target
	}
	return o
}

func (w *world) clear(d Clear) Observation {
	w.clears++
	o := ClearDone{Table: d.Table, Slot: d.Slot, PID: d.PID}
	if p := w.held[d.Target]; p != nil && (p.alive || p.pid != d.PID) {
		w.t.Errorf("%v: the record of %d is to be cleared for target %d, which is %d, alive: %t", w.now, d.PID, d.Target, p.pid, p.alive)
	}
	if p := w.procs[d.PID]; p != nil && p.alive {
		o.Reused = true
		return o
	}
	if w.readOnly {
		o.Denied = true
		return o
	}
	for _, tb := range w.tables {
		if tb.id == d.Table && tb.records[d.Slot].PID == d.PID {
			tb.records[d.Slot].PID, o.Cleared = 0, true
		}
	}
	return o
}

// ladder is one ladder of the fake pool.
type ladder struct {
	BeginLadder
	w      *world
	p      *proc
	step   int
	next   time.Duration // when it goes on
	took   bool          // the first look was taken
	dumped time.Duration // for which it waited for a core dump
	others []*proc       // of its cgroup, whom it is for as well
}

// remains says whether others outlive the target.
func (l *ladder) remains() bool {
	l.others = slices.DeleteFunc(l.others, func(p *proc) bool { return !p.alive })
	return len(l.others) > 0 && (l.Left || l.took)
}

// gather finds the others, and tells of them.
func (l *ladder) gather() {
	o := Gathered{Target: l.Target, Group: l.Group, Alone: !l.p.alive}
	if o.Group.Members = nil; l.p.alive {
		o.Group.Path, o.Group.Inode, l.others = l.p.facts.Cgroup, 7, nil
		for _, c := range l.w.running {
			if c.child && within(c.facts.Cgroup, l.p.facts.Cgroup) {
				l.others = append(l.others, c)
			}
		}
	}
	l.Group = o.Group
	for _, c := range l.others {
		o.Group.Members = append(o.Group.Members, Member{c.pid, c.facts.Start, c.facts.Inode})
	}
	l.w.post(l.w.reportDelay, o)
}

// walk lets all ladders go on whose time has come.
func (w *world) walk() {
	for i := 0; i < len(w.ladders); i++ {
		l := w.ladders[i]
		for over := false; !over && (l.next <= w.now || !l.p.alive && !l.remains()); {
			if over = l.go1(); over {
				w.ladders = slices.Delete(w.ladders, i, i+1)
				i--
			}
		}
	}
}

// go1 takes one step of a ladder and says whether that was the last.
func (l *ladder) go1() (over bool) {
	w := l.w
	report := func(kind LadderKind, step int, reason string) {
		r := LadderReport{Target: l.Target, Kind: kind, Step: int32(step), Reason: reason}
		if step >= 0 && step < len(l.Steps) {
			r.Signal = unix.SignalName(l.Steps[step].Signal)
		}
		delay := w.wordDelay
		if kind == LadderSignalled || kind == LadderDumping {
			delay = w.reportDelay
		}
		w.post(delay, r)
	}
	if !l.p.alive && !l.remains() {
		report(LadderGone, l.step-1, "")
		return true
	}
	if !l.took && l.Sent {
		l.took, l.next = true, w.now+max(l.Steps[l.step].Wait-l.Waited, 0)
		l.step++
		return false
	}
	if l.took && l.p.look.Dumping && l.dumped < l.DumpWait {
		if l.dumped == 0 {
			report(LadderDumping, l.step-1, "")
		}
		l.dumped, l.next = l.dumped+sec, w.now+sec
		return false
	}
	l.took = true
	if l.step >= len(l.Steps) {
		report(LadderUnkillable, l.step-1, "")
		return true
	}
	for _, at := range l.Places {
		if r := w.record(at.Table, at.Slot); r.PID == l.PID && r.Token != at.Token {
			report(LadderRecovered, l.step-1, "")
			return true
		}
	}
	if w.signalErr != "" {
		report(LadderFailed, l.step, w.signalErr)
		return true
	}
	step := l.Steps[l.step]
	if l.Scope == config.ScopeCgroup {
		l.gather()
	}
	report(LadderSignalled, l.step, "")
	l.step++
	l.next = w.now + step.Wait
	for _, c := range l.others {
		c.signal(step.Signal)
	}
	if l.p.alive {
		l.p.signal(step.Signal)
	}
	return false
}

// story is the names of the events about a pid (0: all), with their times since
// the start of the world, in the order in which they came.
func (w *world) story(pid int32) []string {
	var out []string
	for _, e := range w.events {
		if pid == 0 || e.PID == pid {
			out = append(out, string(e.Name))
		}
	}
	return out
}

// find returns the events of a name about a pid (0: any).
func (w *world) find(name EventName, pid int32) []logged {
	var out []logged
	for _, e := range w.events {
		if e.Name == name && (pid == 0 || e.PID == pid) {
			out = append(out, e)
		}
	}
	return out
}

// want checks the story of a pid: the names of its events, blanks between.
func (w *world) want(pid int32, story string) {
	w.t.Helper()
	if got := strings.Join(w.story(pid), " "); got != story {
		w.t.Errorf("story of %d:\n got %s\nwant %s\n%s", pid, got, story, w)
	}
	w.sameSeen()
}

// none checks that there is no event of these names.
func (w *world) none(names ...EventName) {
	w.t.Helper()
	for _, name := range names {
		if e := w.find(name, 0); len(e) > 0 {
			w.t.Errorf("%d events %s, the first %v: %s", len(e), name, e[0].at, e[0].Message)
		}
	}
}

// view is what is to be seen of a pid.
func (w *world) view(pid int32) View {
	w.t.Helper()
	for _, v := range w.g.Views() {
		if v.PID == pid {
			return v
		}
	}
	w.t.Fatalf("pid %d is not to be seen", pid)
	return View{}
}

func (w *world) String() string {
	var b strings.Builder
	for _, e := range w.events {
		fmt.Fprintf(&b, "%10v %-14s %s\n", e.at-1000*sec, e.Name, e.Message)
	}
	return b.String()
}
