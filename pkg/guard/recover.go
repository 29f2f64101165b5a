package guard

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// maxRecoveries bounds what is waited for, and maxBudgets what is counted.
	maxRecoveries = 10_000
	maxBudgets    = 10_000
	// maxStarts is how many starts of a budget are remembered: a rule may allow
	// as many in a window.
	maxStarts = 100
	// maxLooks bounds the looks at a unit that somebody else starts or stops, and
	// looksApart the time between two: more than an hour and a half together.
	maxLooks   = 30
	looksApart = 5 * time.Minute
	// thenLate is how long after it came back those after it are restarted: by
	// then an order has held them for so long that somebody has seen to them.
	thenLate = 10 * time.Minute
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
// One without a process (pid 0) is of a unit that was started for another cause than an
// end: see [UnitStarted].
type recovery struct {
	at      time.Duration // when it goes on; never: asked or given up
	id      TargetID      // that ended
	newest  TargetID      // the latest target when it ended: those that come for it are later
	pid     int32
	name    string
	user    string
	unit    string
	crashed bool          // it ended by itself
	sure    bool          // and its exit status says so
	main    bool          // it was its unit's main process
	struck  time.Duration // when the first signal was sent, mono; 0: there was none
	ended   time.Duration // mono
	looks   int           // at which somebody else was starting or stopping it
	next    int           // who is to be started: 0 it itself, n the nth of those after it
	look    bool          // it is to be looked at only: there was no start left
	under   bool          // asked, the answer has not come
	asked   string        // of which unit
	looking bool          // asked how what was started is
	parked  bool          // given up with its budget
	started bool          // by this guard, at start
	as      string        // the unit of a command that was started

	taken   bool          // a start is taken from the budget for it, at
	start   time.Duration // when it was started, or came back by itself
	lost    bool          // the answer was, with a daemon that ended: it may have been started
	problem string        // that was reported last
}

// budget counts the starts of a unit, or of the commands for one name, whatever
// ended it. A program that takes another name each time has the same one; processes
// with one name in several units have one for each: they fall together, and come back
// together.
type budget struct {
	name, unit string          // the name is the one that was started last
	starts     []time.Duration // the latest last
	streak     int             // starts since all was well
	last       time.Duration   // the latest end or start
	given      bool            // given up
	until      time.Duration   // and until when
}

// RecoveryView is what is to be seen of a name that came, or is to come, back.
type RecoveryView struct {
	Name, Unit string
	GivenUp    bool
	Starts     int           // within the window
	Attempts   int           // that it may have there
	Next       time.Duration // until the next start, or until it is tried anew; 0: nothing waits
}

// isService says whether a unit can be started: that of a user's own manager takes
// the whole session with it.
func isService(unit string) bool {
	return strings.HasSuffix(unit, ".service") && !strings.HasPrefix(unit, "user@")
}

// budgetUnit is the unit that a budget is for: a command has a new one each time.
func budgetUnit(p *config.Policy, unit string) string {
	if p.Restart == config.RestartCommand {
		return ""
	}
	return unit
}

// budgetKey is whom a budget is for: a unit, or the name of what commands start.
type budgetKey struct{ unit, name string }

// keyOf is the budget for a name, by the policy for it.
func keyOf(p *config.Policy, name, unit string) budgetKey {
	if unit = budgetUnit(p, unit); unit != "" {
		return budgetKey{unit: unit}
	}
	return budgetKey{name: name}
}

func (b *budget) key() budgetKey {
	if b.unit != "" {
		return budgetKey{unit: b.unit}
	}
	return budgetKey{name: b.name}
}

// mayBe says whether a recovery may be one of a budget, before its rule is looked up.
func (b *budget) mayBe(r *recovery) bool {
	return b.unit != "" && b.unit == r.unit || b.unit == "" && b.name == r.name
}

// planRecovery has a target that was ended, or has crashed, come back in a while.
func (g *Guard) planRecovery(ix int32, crashed, sure bool) {
	t := &g.targets[ix]
	p, unit := &t.policy, t.facts.Unit
	switch {
	case !g.acting || p.Restart == config.RestartNone || t.facts.Parent == procctl:
		return
	case crashed && p.Action == config.ActionReport:
		return
	case !isService(unit) && (p.Restart == config.RestartUnit || crashed && !sure):
		return
	case t.returns: // once for each end
		return
	}
	t.returns = true
	r := recovery{id: t.id, newest: g.nextID, pid: t.pid, name: t.displayName(), user: t.facts.User, unit: unit, crashed: crashed, sure: sure, main: t.main, struck: t.struck, ended: g.clock.last}
	if why := t.untouchable(); why != "" {
		g.leftDown(&r, why)
		return
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
	for i := range g.holds { // one for its pid ends with it; the others are looked at when its time has come
		if h := &g.holds[i]; h.id == t.id {
			r.at = max(r.at, g.clock.attn+h.until-g.clock.last)
		}
	}
	if keyOf(p, r.name, r.unit).unit != "" { // one that is given up is enough for each unit
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
	if isService(r.unit) {
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

// budgetOf finds the budget of a recovery, or begins one.
func (g *Guard) budgetOf(r *recovery, p *config.Policy) *budget {
	key := keyOf(p, r.name, r.unit)
	i, ok := g.budgetAt[key]
	if !ok {
		i = int32(len(g.budgets))
		g.budgets = append(g.budgets, budget{name: r.name, unit: key.unit, last: g.clock.attn})
		g.budgetAt[key] = i
	}
	return &g.budgets[i]
}

// pruneBudgets forgets those of names that have been well for long enough. In one
// step nothing changes about that but by a start, which counts from then.
func (g *Guard) pruneBudgets() {
	if g.prunedAt == g.clock.attn {
		return
	}
	g.prunedAt = g.clock.attn
	before := len(g.budgets)
	g.budgets = slices.DeleteFunc(g.budgets, func(b budget) bool {
		return !b.given && g.clock.attn-b.last >= g.cfg.Recovery.Stable &&
			!slices.ContainsFunc(g.pending, func(r recovery) bool { return b.mayBe(&r) })
	})
	if len(g.budgets) < before {
		g.indexBudgets()
	}
}

func (g *Guard) indexBudgets() {
	clear(g.budgetAt)
	for i := range g.budgets {
		g.budgetAt[g.budgets[i].key()] = int32(i)
	}
}

// within counts the starts of a window that ends at a time.
func (b *budget) within(window, end time.Duration) int {
	n := 0
	for _, at := range b.starts {
		if end-at < window {
			n++
		}
	}
	return n
}

// backoff is the wait before the next start. What fell together would come
// together: each wait but the first is up to a tenth shorter, by name.
func (b *budget) backoff(c *config.Recovery, streak int) time.Duration {
	if streak == 0 {
		return c.Wait
	}
	most := max(c.Cap, c.Wait)
	d := c.Wait
	for range streak {
		if d = 2 * d; d >= most {
			d = most
			break
		}
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s %d", b.name, b.unit, streak)
	return max(d-d/10*time.Duration(h.Sum32()%1000)/1000, c.Wait)
}

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

// left says whether a budget has a start left at a time.
func (b *budget) left(window time.Duration, attempts int, at time.Duration) bool {
	return !b.given && b.within(window, at) < attempts
}

// unsettled says whether a start of a budget is under way: where it was none, it is
// given back. Of many processes of a unit that end together one is its main one.
func (g *Guard) unsettled(b *budget) bool {
	return slices.ContainsFunc(g.pending, func(r recovery) bool { return r.taken && b.mayBe(&r) && g.isOf(&r, b) })
}

// isOf says whether a recovery is of a budget, by the rules of now.
func (g *Guard) isOf(r *recovery, b *budget) bool {
	p := g.policyOf(r)
	return keyOf(&p, r.name, r.unit) == b.key()
}

// giveUp parks a recovery until its budget is renewed, and reports that once.
func (g *Guard) giveUp(r *recovery, b *budget, p *config.Policy) {
	r.parked, r.at = true, never
	if b.given {
		g.leftDown(r, fmt.Sprintf("it is given up for %s more", seconds(b.until-g.clock.attn)))
		return
	}
	b.name, b.given, b.until = r.name, true, g.clock.attn+g.cfg.Recovery.GiveUp
	e := r.event(EvGaveUp, LevelError, "too many starts")
	e.Message = fmt.Sprintf("%s was started %d times within %s and does not stay up: giving up for %s; `checkprocctl recover` begins anew",
		r.what(), p.Attempts, seconds(p.Window), seconds(g.cfg.Recovery.GiveUp))
	g.emit(e)
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
	held := slices.ContainsFunc(g.holds, func(h hold) bool { return h.All || h.id == 0 && config.Glob(h.Name, r.name) })
	shield := g.cfg.Protected(r.name, r.unit)
	switch {
	case r.next > len(p.Then) && g.proven(r), p.Restart == config.RestartNone, shield != "": // by now
		if r.next == 0 && shield != "" {
			g.leftDown(r, "protected by "+shield)
		} else if r.next == 0 {
			g.leftDown(r, "its rule says so by now")
		}
		return false
	case !g.acting || held: // as was ordered; nothing is lost
		r.at = g.clock.attn + g.cfg.Recovery.Wait
		return true
	case r.next > len(p.Then):
		r.asked, r.looking = r.runs(), true
		g.decide(LookAtStarted{Unit: r.asked, PID: r.pid})
	case r.next > 0:
		unit := p.Then[r.next-1]
		why, held := g.spares(unit)
		if late := g.clock.attn - r.start; late > thenLate {
			why, held = fmt.Sprintf("that was %s ago", seconds(late)), false
		}
		if why != "" {
			e := r.event(EvRefused, LevelWarning, why)
			e.Unit = unit
			e.Message = fmt.Sprintf("%s is not restarted after %s came back: %s", unit, r.what(), why)
			g.emit(e)
			r.next++
			return g.proceed(r)
		}
		if held {
			r.at = g.clock.attn + g.cfg.Recovery.Wait
			return true
		}
		r.asked = unit
		g.decide(RestartUnit{Unit: unit, After: r.unit, PID: r.pid, Ended: r.ended})
	case p.Restart == config.RestartCommand && g.succeeded(r):
		r.comeBack(g.clock.attn)
		return g.proceed(r)
	default:
		if !r.taken && !r.look {
			g.budgetOf(r, &p).take(r, p.Window, p.Attempts, g.clock.attn)
		}
		r.asked = r.unit
		g.decide(RestoreUnit{Unit: r.unit, PID: r.pid, Target: r.id, Look: !r.taken, Crashed: r.crashed, Sure: r.sure, Main: r.main, Command: p.Command, Name: r.name, User: r.user, Struck: r.struck, Ended: r.ended})
	}
	r.under, r.look, r.at = true, false, never
	return true
}

// comeBack goes on with those that follow: what ended runs again.
func (r *recovery) comeBack(now time.Duration) { r.next, r.at, r.start = 1, now, now }

// runs is the unit in which what was started runs.
func (r *recovery) runs() string {
	if r.as != "" {
		return r.as
	}
	return r.unit
}

// proven says whether nobody needs to look at what was started any more: its process
// has registered, and comes back for itself; or it has been there for long enough.
// Nor does anybody at what others have started.
func (g *Guard) proven(r *recovery) bool {
	return !r.started || g.clock.attn-r.start >= g.cfg.Recovery.Stable ||
		slices.ContainsFunc(g.inUnit(r.runs()), func(ix int32) bool {
			t := &g.targets[ix]
			return t.used && t.known && t.facts.Unit == r.runs() && (t.state != Ended || t.id > r.newest)
		}) ||
		slices.ContainsFunc(g.pending, func(o recovery) bool { return o.unit == r.runs() && o.id > r.newest })
}

// proved takes in how what was started is.
func (g *Guard) proved(r *recovery, p *config.Policy, o RestoreDone) {
	attn := g.clock.attn
	switch {
	case g.proven(r): // meanwhile
		r.at = attn
	case o.Failed && !o.Unasked:
		e := r.event(EvRestoreFailed, LevelError, o.Reason)
		e.Message = fmt.Sprintf("%s failed %s after it was started, and nobody in it has registered: %s", r.runs(), seconds(attn-r.start), o.Reason)
		r.next, r.started, r.as = 0, false, ""
		g.startFailed(r, p, e)
	case o.Up, o.Coming, o.Unasked:
		r.at = attn + min(max((attn-r.start)/2, g.cfg.Recovery.Wait), max(g.cfg.Recovery.Cap, g.cfg.Recovery.Wait))
	default:
		g.leftDown(r, "it was stopped, or ended well, after it was started: "+o.Reason)
	}
}

// startFailed plans another start after one that failed; e tells of it.
func (g *Guard) startFailed(r *recovery, p *config.Policy, e *Event) {
	g.budgetOf(r, p).last = g.clock.attn
	g.emit(e)
	if g.schedule(r, p); r.parked {
		e.Message += "; giving up"
	} else {
		e.Message += fmt.Sprintf("; trying again in %s", seconds(r.at-g.clock.attn))
	}
}

// TakeStart takes a start from the budget of a unit that is to be started anew because
// of its configuration, and says how long to wait where there is none left. One that is
// down is started whatever its budget says: it has failed with the former one, perhaps,
// and has nothing to lose. That it is given up is over then.
func (g *Guard) TakeStart(name, unit string, down bool) (wait time.Duration) {
	p := g.cfg.Policy(name, "", unit)
	g.pruneBudgets()
	if len(g.budgets) >= maxBudgets {
		return p.Window
	}
	r := recovery{name: name, unit: unit}
	b := g.budgetOf(&r, &p)
	if !down && b.within(p.Window, g.clock.attn) >= p.Attempts {
		return max(b.starts[max(0, len(b.starts)-p.Attempts)]+p.Window-g.clock.attn, time.Second)
	}
	if b.given {
		starts := b.starts
		g.told = append(g.told, g.renewAll("its configuration has changed", func(o *budget) bool { return o == b })...)
		b.starts = starts
	}
	b.add(&r, g.clock.attn)
	return 0
}

func (o UnitStarted) apply(g *Guard) { g.unitStarted(o.Name, o.Unit, o.Problem) }

// unitStarted has a unit looked at that was started anew, or brought back where that
// failed. Its start has been taken.
func (g *Guard) unitStarted(name, unit, problem string) {
	r := recovery{newest: g.nextID, name: name, unit: unit, crashed: true, sure: true, ended: g.clock.last, start: g.clock.attn, started: true, next: maxThen}
	p := g.policyOf(&r)
	switch {
	case !g.acting, p.Restart != config.RestartUnit, p.Action == config.ActionReport, !isService(unit), g.cfg.Protected(name, unit) != "", len(g.pending) >= maxRecoveries:
		return
	case slices.ContainsFunc(g.pending, func(o recovery) bool { return o.unit == unit && o.under }): // it is looked at
		return
	}
	g.remember(&r, true)
	g.pending = slices.DeleteFunc(g.pending, func(o recovery) bool {
		same := o.pid == 0 && o.unit == unit
		if same {
			g.remember(&o, false)
		}
		return same
	})
	if problem == "" {
		r.at = g.clock.attn + g.cfg.Recovery.Wait
	} else {
		r.next, r.started = 0, false
		b := g.budgetOf(&r, &p)
		b.last = g.clock.attn
		g.schedule(&r, &p)
	}
	g.pending = append(g.pending, r)
}

// spares says why a unit is not to be restarted because of another, "" if it may be:
// its own name, or somebody in it. held: an order holds somebody in it.
func (g *Guard) spares(unit string) (why string, held bool) {
	if why := g.cfg.Protected("", unit); why != "" {
		return why, false
	}
	for _, ix := range g.inUnit(unit) {
		t := &g.targets[ix]
		if !t.used || t.state == Ended || t.facts.Unit != unit {
			continue
		}
		if t.shield != "" {
			return fmt.Sprintf("%s is in it, %s", t.describe(), t.untouchable()), false
		}
		held = held || g.heldBy(ix) != nil
	}
	return "", held
}

// take takes a start for a recovery, if there is one left.
func (b *budget) take(r *recovery, window time.Duration, attempts int, now time.Duration) bool {
	if !b.left(window, attempts, now) {
		return false
	}
	b.add(r, now)
	return true
}

func (b *budget) add(r *recovery, now time.Duration) {
	b.starts = append(b.starts[max(0, len(b.starts)-maxStarts+1):], now)
	b.streak++
	b.name, b.last, r.start, r.taken = r.name, now, now, true
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

// successor says whether a later process of the unit has registered, which may have
// ended since.
func (g *Guard) successor(r *recovery) bool {
	for _, ix := range g.inUnit(r.unit) {
		t := &g.targets[ix]
		if t.used && t.id > r.newest && t.known && t.facts.Unit == r.unit && t.displayName() == r.name {
			return true
		}
	}
	return false
}

// refund gives a start back that was none. Where the first answer was lost, and it runs
// by now, it may have been one.
func (g *Guard) refund(r *recovery, p *config.Policy, runs bool) {
	b := g.budgetOf(r, p)
	if i := slices.Index(b.starts, r.start); r.taken && i >= 0 && !(r.lost && runs) {
		b.starts = slices.Delete(b.starts, i, i+1)
		b.streak--
	}
}

func (o RestoreDone) apply(g *Guard) {
	for i := range g.pending {
		r := &g.pending[i]
		if !r.under || r.pid != o.PID || r.asked != o.Unit {
			continue
		}
		p := g.policyOf(r)
		r.under = false
		switch {
		case r.looking:
			r.looking = false
			g.proved(r, &p, o)
		case r.next > 0:
			g.restarted(r, o)
		default:
			g.restored(r, &p, o)
			r.taken, r.lost = false, false
		}
		if r.at == never && !r.parked {
			g.remember(r, false)
			g.pending = slices.Delete(g.pending, i, i+1)
		}
		return
	}
}

// restored takes in what came of a start; a recovery without a time is over.
func (g *Guard) restored(r *recovery, p *config.Policy, o RestoreDone) {
	attn := g.clock.attn
	switch {
	case o.Started:
		g.budgetOf(r, p).last = attn
		e := r.event(EvRestored, LevelNotice, o.Reason)
		switch {
		case o.As != "":
			e.Message = fmt.Sprintf("%s ended: its command was started as %s", who(r.pid, r.name), o.As)
		case r.pid == 0:
			e.Message = fmt.Sprintf("%s had failed: started again", r.unit)
		case r.crashed:
			e.Message = fmt.Sprintf("%s had failed after its main process %d crashed: started again", r.unit, r.pid)
		default:
			e.Message = fmt.Sprintf("%s was left stopped after its main process %d was ended: started again", r.unit, r.pid)
		}
		g.emit(e)
		r.started, r.as = true, o.As
		r.comeBack(attn)
	case o.Up:
		if len(p.Then) == 0 {
			g.refund(r, p, true)
			return
		}
		r.comeBack(attn)
	case o.Coming:
		g.refund(r, p, true)
		if r.looks++; r.looks < maxLooks {
			r.at = g.lookAgain(r)
		} else {
			g.leftDown(r, fmt.Sprintf("%s, and that %s after its end", o.Reason, seconds(g.clock.last-r.ended)))
		}
	case o.Down: // which was only to be looked at
		if b := g.budgetOf(r, p); b.left(p.Window, p.Attempts, attn) || !b.given && g.unsettled(b) {
			g.schedule(r, p) // one was given back, or may be
		} else {
			g.giveUp(r, b, p)
		}
	case o.Failed && o.Unasked: // the bus is away, say: that is no fault of the unit
		g.refund(r, p, true)
		r.at = g.lookAgain(r)
		if r.problem != o.Reason {
			r.problem = o.Reason
			e := r.event(EvRestoreFailed, LevelError, o.Reason)
			e.Message = fmt.Sprintf("nobody could be asked to start %s again after pid %d ended: %s; trying again in %s", r.what(), r.pid, o.Reason, seconds(r.at-attn))
			g.emit(e)
		}
	case o.Failed:
		e := r.event(EvRestoreFailed, LevelError, o.Reason)
		how := fmt.Sprintf(" after its main process %d was ended", r.pid)
		switch {
		case r.pid == 0:
			how = ""
		case r.crashed:
			how = fmt.Sprintf(" after its main process %d crashed", r.pid)
		}
		e.Message = fmt.Sprintf("%s could not be started again%s: %s", r.what(), how, o.Reason)
		r.taken = false
		if g.successor(r) { // what ended now is that one: it comes back for itself
			g.budgetOf(r, p).last = attn
			g.emit(e)
			e.Message += "; what was started had registered"
			return
		}
		g.startFailed(r, p, e)
	default:
		g.refund(r, p, false)
		g.leftDown(r, o.Reason)
	}
}

// lookAgain is when a unit is looked at once more: the later the longer it takes.
func (g *Guard) lookAgain(r *recovery) time.Duration {
	return g.clock.attn + max(g.cfg.Recovery.Wait, min((g.clock.last-r.ended)/2, looksApart))
}

// restarted takes in what came of the restart of a unit that follows another.
func (g *Guard) restarted(r *recovery, o RestoreDone) {
	e := r.event(EvRestored, LevelNotice, o.Reason)
	e.Unit = o.Unit
	switch {
	case o.Started:
		e.Message = fmt.Sprintf("%s restarted, after %s came back", o.Unit, r.what())
		g.emit(e)
	case o.Failed && o.Unasked:
		r.at = g.clock.attn + g.cfg.Recovery.Wait
		return
	case o.Failed:
		e.Name, e.Level = EvRestoreFailed, LevelError
		e.Message = fmt.Sprintf("%s could not be restarted after %s came back: %s", o.Unit, r.what(), o.Reason)
		g.emit(e)
	}
	r.next++
	r.at = g.clock.attn
}

// renewAll begins the budgets anew that which says, and has all that wait for them go
// on at once.
func (g *Guard) renewAll(why string, which func(*budget) bool) []*Event {
	var events []*Event
	var waiting map[budgetKey][]*recovery
	for i := range g.budgets {
		b := &g.budgets[i]
		if !which(b) {
			continue
		}
		if waiting == nil {
			waiting = map[budgetKey][]*recovery{}
			for k := range g.pending {
				if r := &g.pending[k]; !r.under && r.next == 0 {
					p := g.policyOf(r)
					key := keyOf(&p, r.name, r.unit)
					waiting[key] = append(waiting[key], r)
				}
			}
		}
		events = append(events, g.renew(b, why, waiting[b.key()]))
	}
	return events
}

func (g *Guard) renew(b *budget, why string, waiting []*recovery) *Event {
	b.starts, b.streak, b.given, b.until, b.last = nil, 0, false, 0, g.clock.attn
	e := &Event{Name: EvRetrying, Level: LevelNotice, Process: b.name, Unit: b.unit, Slot: -1, Reason: why}
	for _, r := range waiting {
		r.parked, r.at = false, g.clock.attn
		e.PID = r.pid
	}
	what := b.name
	if what == "" {
		what = b.unit
	}
	e.Message = fmt.Sprintf("%s begins anew, %s: %d that ended are looked at now", what, why, len(waiting))
	return e
}

// Recover begins the budgets of all names, or units, that match a pattern anew, as if they had
// never been started, and says how many. The error is an *OrderError.
func (g *Guard) Recover(name, by string) (names int, err error) {
	if err := config.CheckGlob(name); name == "" || err != nil {
		return 0, &OrderError{Problem: fmt.Sprintf("the name %q is no pattern", name)}
	}
	g.pruneBudgets()
	events := g.renewAll("ordered by "+orSomebody(by), func(b *budget) bool { return config.Glob(name, b.name) || config.Glob(name, b.unit) })
	if len(events) == 0 {
		return 0, &OrderError{NoTarget: true, Problem: fmt.Sprintf("nothing with the name %s was started again or given up", name)}
	}
	g.told = append(g.told, events...)
	return len(events), nil
}

// Recoveries lists the names that were started again lately, or wait for that, or
// are given up.
func (g *Guard) Recoveries() []RecoveryView {
	g.pruneBudgets()
	type waits struct {
		policy config.Policy
		next   time.Duration
	}
	pending := map[budgetKey]waits{}
	for k := range g.pending {
		r := &g.pending[k]
		p := g.policyOf(r)
		key := keyOf(&p, r.name, r.unit)
		x := waits{p, pending[key].next}
		if r.at != never && r.next == 0 && (x.next == 0 || r.at-g.clock.attn < x.next) {
			x.next = max(r.at-g.clock.attn, 1)
		}
		pending[key] = x
	}
	var out []RecoveryView
	for i := range g.budgets {
		b := &g.budgets[i]
		v := RecoveryView{Name: b.name, Unit: b.unit, GivenUp: b.given}
		x, ok := pending[b.key()]
		p := x.policy
		if v.Next = x.next; !ok {
			p = g.cfg.Policy(b.name, "", b.unit)
		}
		v.Starts, v.Attempts = b.within(p.Window, g.clock.attn), p.Attempts
		if b.given {
			v.Next = max(b.until-g.clock.attn, 1)
		}
		if v.Starts > 0 || v.Next > 0 {
			out = append(out, v)
		}
	}
	return out
}

// givenUp counts the names that are given up.
func (g *Guard) givenUp() int {
	n := 0
	for i := range g.budgets {
		if g.budgets[i].given {
			n++
		}
	}
	return n
}

// recoveryOf says for the list how often a target was started again, "" for never.
func (g *Guard) recoveryOf(t *target) string {
	i, ok := g.budgetAt[keyOf(&t.policy, t.displayName(), t.facts.Unit)]
	if !ok {
		return ""
	}
	b := &g.budgets[i]
	n := b.within(t.policy.Window, g.clock.attn)
	switch {
	case b.given:
		return fmt.Sprintf("given up for %s more", seconds(b.until-g.clock.attn))
	case n > 0:
		return fmt.Sprintf("%d of %d starts", n, t.policy.Attempts)
	}
	return ""
}

func (r *recovery) save(w *writer) {
	w.dur(r.at)
	w.u64(uint64(r.id))
	w.u64(uint64(r.newest))
	w.u32(uint32(r.pid))
	w.str(r.name)
	w.str(r.user)
	w.str(r.unit)
	w.flag(r.crashed)
	w.flag(r.sure)
	w.flag(r.main)
	w.dur(r.struck)
	w.dur(r.ended)
	w.u32(uint32(r.looks))
	w.u32(uint32(r.next))
	w.flag(r.look)
	w.flag(r.under)
	w.flag(r.parked)
	w.flag(r.started)
	w.str(r.as)
	w.flag(r.taken)
	w.dur(r.start)
	w.flag(r.lost)
	w.str(r.problem)
}

func (b *budget) save(w *writer) {
	w.str(b.name)
	w.str(b.unit)
	w.u32(uint32(len(b.starts)))
	for _, at := range b.starts {
		w.dur(at)
	}
	w.u32(uint32(b.streak))
	w.dur(b.last)
	w.flag(b.given)
	w.dur(b.until)
}

func (g *Guard) restoreRecoveries(r *reader) {
	attn := g.clock.attn
	for n := r.count(maxRecoveries); n > 0 && !r.bad; n-- {
		x := recovery{at: r.upTo(never), id: TargetID(r.u64()), newest: TargetID(r.u64()), pid: int32(r.u32()), name: r.str(), user: r.str(), unit: r.str(), crashed: r.flag(), sure: r.flag(), main: r.flag(),
			struck: r.upTo(g.clock.last), ended: r.upTo(g.clock.last), looks: r.count(maxLooks), next: r.count(maxThen), look: r.flag(), under: r.flag(), parked: r.flag(), started: r.flag(), as: r.str(), taken: r.flag(), start: r.upTo(attn), lost: r.flag(), problem: r.str()}
		if x.under { // the answer was lost with the daemon: ask again
			x.under, x.at, x.lost, x.look = false, attn, x.taken, !x.taken
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
		b := budget{name: r.str(), unit: r.str()}
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

// unpark has those go on that wait for a budget that is not given up: by another
// configuration they have another one.
func (g *Guard) unpark() {
	for i := range g.pending {
		x := &g.pending[i]
		p := g.policyOf(x)
		if x.parked && !g.budgetOf(x, &p).given {
			x.parked, x.at = false, g.clock.attn
		}
	}
}

const (
	maxThen   = 1000    // more than a rule can name
	maxStreak = 1 << 30 // of starts
)
