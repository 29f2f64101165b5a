package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

const (
	// thenLate is how long after it came back those after it are restarted: by
	// then an order has held them for so long that somebody has seen to them.
	thenLate = 10 * time.Minute
	maxThen  = 1000 // more than a rule can name
	// thenEcho is how long after a restart an end may be noticed that was of it, and
	// thenKept how long the restart is remembered: what its exit status says about an
	// end is waited for. A new daemon takes so long to see who has ended.
	thenEcho = time.Second
	thenKept = 2 * reapWait
	// maxFollowed bounds the units that were restarted just now, and the names of who
	// has ended in those that rules name; maxFallen those of one unit.
	maxFollowed = 10_000
	maxFallen   = 100
)

// followed is a unit that is being restarted because another came back, or was just now.
// Who ends by that, in it or in a unit that is restarted with it, begins no round of
// restarts: there would be no end of them.
type followed struct {
	unit string
	from time.Duration // when that was asked for
	over time.Duration // when it was answered; never: it is under way
	seen time.Duration // until when a new daemon sees who has ended by then
}

// fallen is a name of a process that ended in a unit that a rule has restarted after
// others. What protects the living protects a unit in which nobody is left as well.
type fallen struct {
	unit  string
	name  string
	user  string
	uid   uint32
	first bool          // of its names, by which [[names]] goes
	main  bool          // it was its unit's main process
	held  time.Duration // until when an order for a pid of that name holds it, mono; 0: none does
	pid   int32         // that one
	ended time.Duration // mono
}

// followedBeside lists the units of which a restart may have ended a target just now.
func (g *Guard) followedBeside(t *target) []string {
	var units []string
	at := t.reapAt - reapWait
	if t.reapAt == 0 { // it ended under an earlier daemon
		at = g.clock.attn
	}
	for i := range g.followed {
		if f := &g.followed[i]; at >= f.from && (f.over == never || at <= max(f.over+thenEcho, f.seen)) {
			units = append(units, f.unit)
		}
	}
	return units
}

// follow notes that a unit is about to be restarted.
func (g *Guard) follow(unit string) {
	g.followed = slices.DeleteFunc(g.followed, func(f followed) bool { return f.over != never && f.over < g.clock.attn-thenKept })
	for i := range g.followed {
		if f := &g.followed[i]; f.unit == unit && f.over == never { // for another one
			return
		}
	}
	if len(g.followed) >= maxFollowed {
		g.followed = slices.Delete(g.followed, 0, 1)
	}
	g.followed = append(g.followed, followed{unit: unit, from: g.clock.attn, over: never})
}

// followedTo notes that the restart of a unit is over, or that there was none.
func (g *Guard) followedTo(unit string, done bool) {
	if slices.ContainsFunc(g.pending, func(r recovery) bool { return r.under && r.next > 0 && !r.looking && r.asked == unit }) {
		return // for another one
	}
	for i := range g.followed {
		if f := &g.followed[i]; f.unit == unit && f.over == never {
			if f.over = g.clock.attn; !done {
				g.followed = slices.Delete(g.followed, i, i+1)
			}
			return
		}
	}
}

// comeBack goes on with those that follow: what ended runs again.
func (g *Guard) comeBack(r *recovery) {
	r.next, r.at, r.start, r.back = 1, g.clock.attn, g.clock.attn, g.clock.last
	if r.caused {
		r.next = maxThen
	}
}

// takeRound goes on with those that follow what somebody else has started again, and says
// whether there are any. That counts as a start, or they would flap with it.
func (g *Guard) takeRound(r *recovery, p *config.Policy) bool {
	if len(p.Then) == 0 || len(r.beside) > 0 { // and nobody knows what its unit has to do with those
		g.refund(r, p, true)
		return false
	}
	b := g.budgetOf(r, p)
	if !r.taken && !b.take(r, p.Window, p.Attempts, g.clock.attn) {
		if !g.unsettled(b) {
			g.spend(r, b, p)
		}
		return false
	}
	r.taken, r.lost = false, false
	g.comeBack(r)
	return true
}

// restartNext has the next unit restarted that follows what came back, and says whether
// there is more to come.
func (g *Guard) restartNext(r *recovery, p *config.Policy) bool {
	unit := p.Then[r.next-1]
	why, held := g.spares(r, unit)
	if late := g.clock.attn - r.start; late > thenLate {
		why, held = fmt.Sprintf("that was %s ago", seconds(late)), false
	}
	if why != "" {
		g.passOver(r, unit, why)
		return g.proceed(r)
	}
	if held {
		r.at = g.clock.attn + g.cfg.Recovery.Wait
		return true
	}
	g.follow(unit)
	r.asked, r.under, r.look, r.at = unit, true, false, never
	g.decide(RestartUnit{Ask: g.question(r), Unit: unit, After: r.unit, Ended: r.ended, Back: r.back})
	return true
}

// passOver goes on after a unit that is not restarted.
func (g *Guard) passOver(r *recovery, unit, why string) {
	e := r.event(EvRefused, LevelWarning, why)
	e.Unit = unit
	e.Message = fmt.Sprintf("%s is not restarted after %s came back: %s", unit, r.what(), why)
	g.emit(e)
	r.next++
}

// restarted takes in what came of the restart of a unit that follows another. What was
// stopped for that has to come up again: begun.
func (g *Guard) restarted(r *recovery, o RestoreDone) (begun bool) {
	e := r.event(EvRestored, LevelNotice, o.Reason)
	e.Unit = r.asked
	switch {
	case o.Started:
		e.Message = fmt.Sprintf("%s restarted, after %s came back", r.asked, r.what())
		g.emit(e)
	case o.Failed && o.Unasked:
		g.followedTo(r.asked, false)
		r.at = g.clock.attn + g.cfg.Recovery.Wait
		return false
	case o.Failed:
		e.Name, e.Level = EvRestoreFailed, LevelError
		e.Message = fmt.Sprintf("%s could not be restarted after %s came back: %s", r.asked, r.what(), o.Reason)
		g.emit(e)
	}
	begun = o.Started || o.Failed
	g.followedTo(r.asked, begun)
	r.next++
	r.at = g.clock.attn
	return begun
}

// spares says why a unit is not to be restarted because of another, "" if it may be: its
// own name, or somebody who is in it, or was until he ended. held: an order holds one of
// them.
func (g *Guard) spares(r *recovery, unit string) (why string, held bool) {
	if unit == r.unit || unit == r.runs() {
		return "that is its own unit", false
	}
	if why := g.cfg.Protected("", unit); why != "" {
		return "protected by " + why, false
	}
	if i, ok := g.budgetAt[budgetKey{unit: unit}]; ok && g.budgets[i].given {
		return fmt.Sprintf("it is given up for %s more", seconds(g.budgets[i].until-g.clock.attn)), false
	}
	names := map[string]bool{}
	for ix, t := range g.livingIn(unit) {
		if why := t.untouchable(); why != "" {
			return fmt.Sprintf("%s is in it, %s", t.describe(), why), false
		}
		names[t.displayName()] = true
		held = held || g.heldBy(ix) != nil
	}
	why, heldToo := g.sparesFallen(unit, names)
	return why, held || heldToo
}

// sparesFallen says why a unit is to be left alone for who has ended in it and is not back.
// held: an order holds one of them.
func (g *Guard) sparesFallen(unit string, back map[string]bool) (why string, held bool) {
	n := 0
	for i := range g.fallen {
		f := &g.fallen[i]
		if f.unit != unit {
			continue
		}
		if n++; n == maxFallen {
			return "too many have ended in it to know all of them", false
		}
		switch by := g.cfg.Protected(f.name, unit); {
		case back[f.name]:
		case by != "":
			return fmt.Sprintf("%q ended in it, protected by %s", f.name, by), false
		case f.first && !g.cfg.MayUse(f.uid, f.user, f.name):
			return fmt.Sprintf("%q ended in it, and [[names]] does not let %s use that name", f.name, f.user), false
		default:
			held = held || f.held > g.clock.last || g.nameHeld(f.name)
		}
	}
	return "", held
}

// fell remembers who has ended in a unit that a rule has restarted after others, or that
// is left down for his sake: the start of one that needs it would start it. That is for as
// long as one of those may come back that had ended by then, or is about to end; who is
// protected is remembered until somebody is in his service again.
func (g *Guard) fell(ix int32) {
	t := &g.targets[ix]
	unit := t.facts.Unit
	if !t.known || unit == "" || t.untouchable() == "" && !slices.ContainsFunc(g.cfg.Rules, func(r config.Rule) bool { return slices.Contains(r.Then, unit) }) {
		return
	}
	oldest := g.clock.last - thenLate
	for i := range g.pending {
		oldest = min(oldest, g.pending[i].ended-time.Minute)
	}
	g.fallen = slices.DeleteFunc(g.fallen, func(f fallen) bool {
		return f.ended < oldest && !(isService(f.unit) && g.cfg.Protected(f.name, f.unit) != "" && !g.populated(f.unit))
	})
	f := fallen{unit: unit, name: t.displayName(), user: t.facts.User, uid: t.facts.UID, first: true, main: t.main, ended: g.clock.last}
	for i := range g.holds {
		if h := &g.holds[i]; h.id == t.id {
			f.held, f.pid = h.until, t.pid
		}
	}
	g.hasFallen(f)
	g.eachRecord(ix, func(tb *tableState, i int32) {
		if s := &tb.slots[i]; s.phase == slotLatched {
			f.name, f.first = table.CleanName(&s.name), false
			g.hasFallen(f)
		}
	})
}

// populated says whether a client lives in a unit.
func (g *Guard) populated(unit string) bool {
	for range g.livingIn(unit) {
		return true
	}
	return false
}

// unholdEnded ends the order for a pid that has ended, and says whether it stood.
func (g *Guard) unholdEnded(pid int32) (stood bool) {
	for i := range g.fallen {
		if f := &g.fallen[i]; f.pid == pid && f.held > g.clock.last {
			f.held, stood = 0, true
		}
	}
	for i := range g.pending {
		if r := &g.pending[i]; r.pid == pid && r.held > g.clock.last {
			r.held, stood = 0, true
		}
	}
	return stood
}

func (g *Guard) hasFallen(f fallen) {
	n := 0
	for i := range g.fallen {
		o := &g.fallen[i]
		if o.unit != f.unit {
			continue
		}
		if o.name == f.name && o.uid == f.uid && (o.first || !f.first) {
			o.ended, o.main = f.ended, f.main
			if f.held > o.held {
				o.held, o.pid = f.held, f.pid
			}
			return
		}
		n++
	}
	if n < maxFallen && len(g.fallen) < maxFollowed {
		g.fallen = append(g.fallen, f)
	}
}

// whoIn is the name and the user of whom a unit is for: its main process, or another one.
func (g *Guard) whoIn(unit string) (name, user string) {
	best := -1
	is := func(n, u string, main bool) {
		rank := 0
		if main {
			rank = 1
		}
		if rank > best {
			best, name, user = rank, n, u
		}
	}
	for _, ix := range g.inUnit(unit) {
		if t := &g.targets[ix]; t.used && t.known && t.facts.Unit == unit {
			is(t.displayName(), t.facts.User, t.main)
		}
	}
	for i := range g.fallen {
		if f := &g.fallen[i]; f.unit == unit && f.first {
			is(f.name, f.user, f.main)
		}
	}
	return name, user
}

func (g *Guard) saveThen(w *writer) {
	w.u32(uint32(len(g.followed)))
	for i := range g.followed {
		f := &g.followed[i]
		w.str(f.unit)
		w.dur(f.from)
		w.dur(f.over)
	}
	w.u32(uint32(len(g.fallen)))
	for i := range g.fallen {
		f := &g.fallen[i]
		w.str(f.unit)
		w.str(f.name)
		w.str(f.user)
		w.u32(f.uid)
		w.flag(f.first)
		w.flag(f.main)
		w.dur(f.held)
		w.u32(uint32(f.pid))
		w.dur(f.ended)
	}
}

func (g *Guard) restoreThen(r *reader) {
	attn := g.clock.attn
	for n := r.count(maxFollowed); n > 0 && !r.bad; n-- {
		f := followed{unit: r.str(), from: r.upTo(attn), over: r.upTo(never)}
		if f.over >= attn-thenKept { // who has ended since is seen now
			f.over, f.seen = min(f.over, attn), attn+thenKept
		}
		g.followed = append(g.followed, f)
	}
	for n := r.count(maxFollowed); n > 0 && !r.bad; n-- {
		g.fallen = append(g.fallen, fallen{unit: r.str(), name: r.str(), user: r.str(), uid: r.u32(), first: r.flag(), main: r.flag(), held: r.upTo(maxTime), pid: int32(r.u32()), ended: r.upTo(g.clock.last)})
	}
}
