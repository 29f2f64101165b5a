package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// maxRecoveries bounds what is waited for.
	maxRecoveries = 10_000
	// maxLooks bounds the looks at a unit that somebody else starts or stops, and
	// looksApart the time between two: more than an hour and a half together.
	maxLooks   = 30
	looksApart = 5 * time.Minute
	// procctl is the scheduler of the cpactive sites: it starts again what ends.
	procctl = "procctl"
)

// recovery is one process that ended and is to come back. An exit after SIGTERM
// counts as clean for Restart=on-failure, and the guard must not turn a hang into
// an outage.
//
//	waits ──its time──▶ asked ──started, or up──▶ those after it, one by one ──▶ done, or
//	  ▲  ▲                │ │ └──left down, which is said──▶ done  looked at, until it registers
//	  │  └─failed, or ────┘ └──down, and its budget is spent──▶ given up          │
//	  │  │ somebody is at it                                       │     failed before that:
//	  │  └─────────────────────────────────────────────────────────┼───────── a failed start
//	  └──────────────── by hand, or after give_up ─────────────────┘
//
// Who asks looks before he starts. Where the budget has no start left he is to look only:
// what ended may be up, or be somebody's stop, and that is no reason to give it up.
//
// What procctl, or whoever started what is in no service, starts again is waited for where
// a rule names units after it, and is never asked about:
//
//	waits ──registered──▶ those after it ──▶ done
//	  └──nobody, for 10 min──▶ left down
//
// One without a process (pid 0) is of a unit that was started for another cause than an
// end: see [UnitStarted].
type recovery struct {
	at      time.Duration // when it goes on; never: asked or given up
	id      TargetID      // that ended
	newest  TargetID      // the latest target when it ended: those that come for it are later
	pid     int32
	name    string
	user    string
	uid     uint32
	unit    string
	crashed bool          // it ended by itself
	sure    bool          // and its exit status says so
	main    bool          // it was its unit's main process
	struck  time.Duration // when the first signal was sent, mono; 0: there was none
	ended   time.Duration // mono
	held    time.Duration // until when an order for its pid holds it, mono; 0: none does
	looks   int           // at which somebody else was starting or stopping it
	next    int           // who is to be started: 0 it itself, n the nth of those after it
	waits   bool          // somebody else starts it again
	look    bool          // it is to be looked at only: there was no start left
	under   bool          // asked, the answer has not come
	ask     uint64        // the number of that question
	asked   string        // of which unit
	looking bool          // asked how what was started is
	parked  bool          // given up with its budget
	started bool          // by this guard, at start
	as      string        // the unit of a command that was started

	taken   bool          // a start is taken from the budget for it, at
	start   time.Duration // when it was started, or came back by itself
	back    time.Duration // when that was known, mono
	beside  []string      // units that this guard restarted around its end
	caused  bool          // its end is the doing of that
	lost    bool          // the answer was, with a daemon that ended: it may have been started
	problem string        // that was reported last
}

// isService says whether a unit can be started: that of a user's own manager takes
// the whole session with it.
func isService(unit string) bool {
	return strings.HasSuffix(unit, ".service") && !strings.HasPrefix(unit, "user@")
}

// elsewhere says whether somebody else starts a target again: procctl, or whoever started
// what is in no service. waits: there are units after it.
func (t *target) elsewhere() bool {
	return t.facts.Parent == procctl || !isService(t.facts.Unit) && t.policy.Restart == config.RestartUnit
}

func (t *target) waits() bool { return t.elsewhere() && len(t.policy.Then) > 0 }

// planRecovery has a target that was ended, or has crashed, come back in a while.
func (g *Guard) planRecovery(ix int32, crashed, sure bool) {
	t := &g.targets[ix]
	p, unit := &t.policy, t.facts.Unit
	waits := t.waits()
	switch {
	case !g.acting || p.Restart == config.RestartNone || t.elsewhere() && !waits || waits && t.untouchable() != "":
		return
	case crashed && p.Action == config.ActionReport:
		return
	case t.returns: // once for each end
		return
	}
	t.returns = true
	r := recovery{id: t.id, newest: t.newest, pid: t.pid, name: t.displayName(), user: t.facts.User, uid: t.facts.UID, unit: unit, waits: waits, crashed: crashed, sure: sure, main: t.main, struck: t.struck, ended: t.endedMono}
	if t.state != Ended { // it is found gone just now
		r.newest, r.ended = g.nextID, g.clock.last
	}
	why := t.untouchable()
	if why == "" && crashed && !sure && !isService(unit) && !waits { // which would know
		why = "nobody knows whether it crashed"
	}
	if why != "" {
		g.leftDown(&r, why)
		return
	}
	if crashed { // and was not ended by a ladder
		r.beside = g.followedBeside(t)
		r.caused = slices.Contains(r.beside, unit)
	}
	g.pruneBudgets()
	if len(g.pending) >= maxRecoveries || len(g.budgets) >= maxBudgets {
		e := r.event(EvRestoreFailed, LevelError, "too many wait to be started again")
		e.Message = fmt.Sprintf("%s ended and is not started again: %s", r.what(), e.Reason)
		g.emit(e)
		return
	}
	b := g.budgetOf(&r, p)
	b.last = g.clock.attn
	r.at = g.clock.attn + b.backoff(&g.cfg.Recovery, b.streak)
	if r.look = !b.left(p.Window, p.Attempts, r.at); r.look {
		r.at = g.clock.attn + g.cfg.Recovery.Wait
	}
	if waits {
		r.at, r.look = g.clock.attn+g.waitsApart(), false
	}
	for i := range g.holds { // one for its pid ends with it; the others are looked at when its time has come
		if h := &g.holds[i]; h.id == t.id {
			r.held = h.until
		}
	}
	if r.key(p).unit != "" { // one that is given up is enough for each unit
		g.pending = slices.DeleteFunc(g.pending, func(o recovery) bool {
			same := o.parked && o.name == r.name && o.unit == r.unit
			if same {
				g.remember(&o, false)
			}
			return same
		})
	}
	g.remember(&r, true)
	g.pending = append(g.pending, r)
}

func (o MainProcess) apply(g *Guard) {
	if ix, ok := g.byID[o.Target]; ok {
		g.targets[ix].main = true
	}
	for i := range g.pending { // it ended meanwhile
		if r := &g.pending[i]; r.id == o.Target {
			r.main = true
		}
	}
}

// remember has systemd keep what it knows about the unit of a recovery, for as long as
// that waits: who has started and stopped it meanwhile wants it to be down.
func (g *Guard) remember(r *recovery, keep bool) {
	if isService(r.unit) && !r.waits {
		g.decide(RememberUnit{Unit: r.unit, Over: !keep})
	}
}

// leftDown says why what ended does not come back.
func (g *Guard) leftDown(r *recovery, why string) {
	e := r.event(EvLeftDown, LevelNotice, why)
	e.Message = fmt.Sprintf("%s is left down: %s", r.what(), why)
	g.emit(e)
}

// policyOf is what the rules say by now about what ended.
func (g *Guard) policyOf(r *recovery) config.Policy { return g.cfg.Policy(r.name, r.user, r.unit) }

// schedule sets the time of the next start, or gives up where the budget has none
// left then.
func (g *Guard) schedule(r *recovery, p *config.Policy) {
	b := g.budgetOf(r, p)
	r.look, r.at = false, g.clock.attn+b.backoff(&g.cfg.Recovery, b.streak)
	switch {
	case b.left(p.Window, p.Attempts, r.at):
	case !b.given && g.unsettled(b):
		r.look, r.at = true, g.clock.attn+g.cfg.Recovery.Wait
	default:
		g.giveUp(r, b, p)
	}
}

// what names what is to come back.
func (r *recovery) what() string {
	switch {
	case r.unit == "":
		return who(r.pid, r.name)
	case r.name == "":
		return r.unit
	}
	return fmt.Sprintf("%s (%s)", r.unit, r.name)
}

func (r *recovery) event(name EventName, level Level, reason string) *Event {
	return &Event{Name: name, Level: level, PID: r.pid, Process: r.name, Unit: r.unit, Slot: -1, Reason: reason}
}

// recoverDue goes on with all whose time has come.
func (g *Guard) recoverDue() {
	for _, e := range g.renewAll(fmt.Sprintf("it was given up for %s", seconds(g.cfg.Recovery.GiveUp)), func(b *budget) bool { return b.given && b.until <= g.clock.attn }) {
		g.emit(e)
	}
	keep := g.pending[:0]
	for i := range g.pending {
		r := g.pending[i]
		if r.at <= g.clock.attn && !g.proceed(&r) {
			g.remember(&r, false)
			continue
		}
		keep = append(keep, r)
	}
	clear(g.pending[len(keep):])
	g.pending = keep
}

// proceed takes the next step of a recovery and says whether there is more to come.
func (g *Guard) proceed(r *recovery) bool {
	p := g.policyOf(r)
	barred, held := g.barred(r)
	switch {
	case r.next > len(p.Then) && g.proven(r), p.Restart == config.RestartNone, barred != "": // by now
		if r.next == 0 && !r.waits {
			g.leftDown(r, cmp.Or(barred, "its rule says so by now"))
		}
		return false
	case g.acting && r.waits && r.next == 0 && g.succeeded(r): // a hold begins late, if it is long
		return g.takeRound(r, &p) && g.proceed(r)
	case r.waits && r.next == 0 && g.clock.last-r.ended >= thenLate:
		if g.acting { // and has looked
			g.leftDown(r, fmt.Sprintf("nobody has started it again for %s", seconds(thenLate)))
		}
		return false
	case r.waits && r.next == 0:
		r.at = g.clock.attn + g.waitsApart()
		return true
	case !g.acting || held: // as was ordered; nothing is lost
		r.at = g.clock.attn + g.cfg.Recovery.Wait
		return true
	case r.next > len(p.Then):
		r.asked, r.looking = r.runs(), true
		g.decide(LookAtStarted{Ask: g.question(r), Unit: r.asked})
	case r.next > 0:
		return g.restartNext(r, &p)
	case p.Restart == config.RestartCommand && g.succeeded(r):
		return g.takeRound(r, &p) && g.proceed(r)
	default:
		if !r.taken && !r.look {
			g.budgetOf(r, &p).take(r, p.Window, p.Attempts, g.clock.attn)
		}
		r.asked = r.unit
		g.decide(RestoreUnit{Ask: g.question(r), Unit: r.unit, PID: r.pid, Target: r.id, Look: !r.taken, Crashed: r.crashed, Sure: r.sure, Main: r.main, Command: p.Command, Name: r.name, User: r.user, Struck: r.struck, Ended: r.ended, Beside: r.beside})
	}
	r.under, r.look, r.at = true, false, never
	return true
}

// waitsApart is the time between two looks for who takes the place of what ended.
func (g *Guard) waitsApart() time.Duration { return min(g.cfg.Recovery.Wait, looksApart) }

// question numbers the question about a recovery: another may be about the same unit, and
// a process with the same number.
func (g *Guard) question(r *recovery) uint64 {
	g.lastAsk++
	r.ask = g.lastAsk
	return r.ask
}

// runs is the unit in which what was started runs.
func (r *recovery) runs() string {
	if r.as != "" {
		return r.as
	}
	return r.unit
}

// succeeded says whether somebody else has started again what ended: a process of that
// name and user has registered since. Of several that ended each takes another one for
// its own, and none what was started for one of them.
func (g *Guard) succeeded(r *recovery) bool {
	for ix := range g.targets {
		t := &g.targets[ix]
		if t.used && t.state != Ended && t.id > r.newest && !t.succeeds && t.facts.User == r.user && t.timeout != notLatched && t.displayName() == r.name &&
			!strings.HasPrefix(t.facts.Unit, RunPrefix) {
			t.succeeds = true
			return true
		}
	}
	return false
}

// RunPrefix begins the names of units in which commands are started again.
const RunPrefix = "checkprocd-run-"

func (r *recovery) save(w *writer) {
	w.dur(r.at)
	w.u64(uint64(r.id))
	w.u64(uint64(r.newest))
	w.u32(uint32(r.pid))
	w.str(r.name)
	w.str(r.user)
	w.u32(r.uid)
	w.str(r.unit)
	w.flag(r.crashed)
	w.flag(r.sure)
	w.flag(r.main)
	w.dur(r.struck)
	w.dur(r.ended)
	w.dur(r.held)
	w.u32(uint32(r.looks))
	w.u32(uint32(r.next))
	w.flag(r.waits)
	w.flag(r.look)
	w.flag(r.under)
	w.flag(r.parked)
	w.flag(r.started)
	w.str(r.as)
	w.flag(r.taken)
	w.dur(r.start)
	w.dur(r.back)
	w.u32(uint32(len(r.beside)))
	for _, unit := range r.beside {
		w.str(unit)
	}
	w.flag(r.caused)
	w.flag(r.lost)
	w.str(r.problem)
}

func (g *Guard) restoreRecoveries(r *reader) {
	attn := g.clock.attn
	for n := r.count(maxRecoveries); n > 0 && !r.bad; n-- {
		x := recovery{at: r.upTo(never), id: TargetID(r.u64()), newest: TargetID(r.u64()), pid: int32(r.u32()), name: r.str(), user: r.str(), uid: r.u32(), unit: r.str(), crashed: r.flag(), sure: r.flag(), main: r.flag(),
			struck: r.upTo(g.clock.last), ended: r.upTo(g.clock.last), held: r.upTo(maxTime), looks: r.count(maxLooks), next: r.count(maxThen), waits: r.flag(), look: r.flag(), under: r.flag(), parked: r.flag(), started: r.flag(), as: r.str(), taken: r.flag(), start: r.upTo(attn), back: r.upTo(g.clock.last)}
		for k := r.count(maxFollowed); k > 0 && !r.bad; k-- {
			x.beside = append(x.beside, r.str())
		}
		x.caused, x.lost, x.problem = r.flag(), r.flag(), r.str()
		if x.under { // the answer was lost with the daemon: ask again
			x.under, x.at, x.lost, x.look = false, attn, x.taken, !x.taken
		}
		if x.waits && x.next == 0 { // a new daemon takes a while to see who is there
			x.at = max(x.at, attn+thenKept)
		}
		if x.parked != (x.at == never) {
			r.bad = true
		}
		g.pending = append(g.pending, x)
		if ix, ok := g.byID[x.id]; ok {
			g.targets[ix].returns = true
		}
	}
	for n := r.count(maxBudgets); n > 0 && !r.bad; n-- {
		b := budget{name: r.str(), unit: r.str(), user: r.str()}
		for k := r.count(maxStarts); k > 0 && !r.bad; k-- {
			b.starts = append(b.starts, r.upTo(attn))
		}
		b.streak, b.last, b.given, b.until = r.count(maxStreak), r.upTo(attn), r.flag(), r.upTo(maxTime)
		g.budgets = append(g.budgets, b)
	}
	if g.indexBudgets(); len(g.budgetAt) < len(g.budgets) {
		r.bad = true // two for the same
		return
	}
	g.unpark() // a damaged state must not park one for ever
}
