package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

func (o RestoreDone) apply(g *Guard) {
	for i := range g.pending {
		r := &g.pending[i]
		if !r.under || r.ask != o.Ask {
			continue
		}
		p := g.policyOf(r)
		r.under = false
		follower, begun := r.asked, false
		switch {
		case o.Forbidden:
			r.at = g.clock.attn + g.cfg.Recovery.Wait // as is said, or waited for, with the next step
			if r.next == 0 {
				g.refund(r, &p, false)
				r.taken, r.lost = false, false
			} else {
				g.followedTo(r.asked, false)
			}
			switch {
			case o.Reason == "":
			case r.next == 0:
				r.at = never
				g.leftDown(r, o.Reason)
			default:
				r.at = g.clock.attn
				g.passOver(r, r.asked, o.Reason)
			}
		case r.looking:
			r.looking = false
			g.proved(r, &p, o)
		case r.next > 0:
			begun = g.restarted(r, o)
		default:
			g.restored(r, &p, o)
			r.taken, r.lost = false, false
		}
		if r.at == never && !r.parked {
			g.remember(r, false)
			g.pending = slices.Delete(g.pending, i, i+1)
		}
		if begun {
			name, user := g.whoIn(follower)
			problem := ""
			if o.Failed {
				problem = o.Reason
			}
			g.unitStarted(name, user, follower, problem, true)
		}
		return
	}
}

// What is being asked about is not concerned: the answer says so as well. Nor is what came
// back while those after it are restarted.
func (o UnitStopped) apply(g *Guard) {
	g.pending = slices.DeleteFunc(g.pending, func(r recovery) bool {
		p := g.policyOf(&r)
		if r.under || r.runs() != o.Unit || r.next > 0 && r.next <= len(p.Then) {
			return false
		}
		g.refund(&r, &p, false)
		g.leftDown(&r, o.Reason)
		g.remember(&r, false)
		return true
	})
}

// restored takes in what came of a start; a recovery without a time is over.
func (g *Guard) restored(r *recovery, p *config.Policy, o RestoreDone) {
	attn := g.clock.attn
	r.caused = r.caused || o.Beside
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
		g.comeBack(r)
	case o.Up && (len(p.Then) == 0 || r.caused):
		g.refund(r, p, true)
	case o.Up && r.taken:
		g.comeBack(r)
	case o.Coming:
		g.refund(r, p, true)
		if r.looks++; r.looks < maxLooks {
			r.at, r.look = g.lookAgain(r), !r.taken
		} else {
			g.leftDown(r, fmt.Sprintf("%s, and that %s after its end", o.Reason, seconds(g.clock.last-r.ended)))
		}
	case o.Up, o.Down: // which was only to be looked at
		switch b := g.budgetOf(r, p); {
		case b.left(p.Window, p.Attempts, attn) || !b.given && g.unsettled(b):
			g.schedule(r, p) // one was given back, or may be
		case o.Down:
			g.giveUp(r, b, p)
		default: // those after it stay as they are
			g.spend(r, b, p)
		}
	case o.Failed && o.Unasked: // the bus is away, say: that is no fault of the unit
		g.refund(r, p, true)
		r.at, r.look = g.lookAgain(r), !r.taken
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

// lookAgain is when a unit is looked at once more: the later the longer it takes. Who was to look only looks only
// then, too: before a start that the budget has by then comes its backoff.
func (g *Guard) lookAgain(r *recovery) time.Duration {
	return g.clock.attn + max(g.cfg.Recovery.Wait, min((g.clock.last-r.ended)/2, looksApart))
}

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

// proven says whether nobody needs to look at what was started any more: its process
// has registered, and comes back for itself; or it has been there for long enough.
// Nor does anybody at what others have started.
func (g *Guard) proven(r *recovery) bool {
	return !r.started || g.clock.attn-r.start >= g.cfg.Recovery.Stable || g.registered(r)
}

// registered says whether a process of what was started has registered.
func (g *Guard) registered(r *recovery) bool {
	return slices.ContainsFunc(g.inUnit(r.runs()), func(ix int32) bool {
		t := &g.targets[ix]
		return t.used && t.known && t.facts.Unit == r.runs() && (t.state != Ended || t.id > r.newest)
	}) ||
		slices.ContainsFunc(g.pending, func(o recovery) bool { return o.unit == r.runs() && o.id > r.newest })
}

// proved takes in how what was started is.
func (g *Guard) proved(r *recovery, p *config.Policy, o RestoreDone) {
	attn := g.clock.attn
	switch {
	case g.registered(r): // meanwhile
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

func (o UnitStarted) apply(g *Guard) { g.unitStarted(o.Name, o.User, o.Unit, o.Problem, false) }

// unitStarted has a unit looked at that was started anew, or brought back where that
// failed. Its start has been taken; follows: it has none, and begins no round of its own.
func (g *Guard) unitStarted(name, user, unit, problem string, follows bool) {
	r := recovery{newest: g.nextID, name: name, user: user, unit: unit, caused: follows, crashed: true, sure: true, ended: g.clock.last, start: g.clock.attn, started: true, next: maxThen}
	p := g.policyOf(&r)
	switch {
	case !g.acting && !follows, p.Restart != config.RestartUnit, p.Action == config.ActionReport, !isService(unit), g.cfg.Protected(name, unit) != "", len(g.pending) >= maxRecoveries:
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
