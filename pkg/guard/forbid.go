package guard

import (
	"fmt"
	"slices"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Between a decision about a unit and its job the bus may stand still for long, and what
// somebody orders meanwhile, or a new configuration says, counts: who carries a decision
// out asks once more, just before.

// Forbids reports whether what a question about a recovery asks for ([RestoreUnit],
// [RestartUnit]) is not to be done any more. The answer to it is Forbidden then, and why
// its Reason: that is "" where the next step finds it, or has to wait. along are the other
// units that would be stopped or restarted by it.
func (g *Guard) Forbids(ask uint64, along []string) (forbidden bool, why string) {
	for i := range g.pending {
		r := &g.pending[i]
		if !r.under || r.ask != ask {
			continue
		}
		p := g.policyOf(r)
		why, held := g.barred(r)
		if r.next > 0 && why == "" && !held {
			why, held = g.spares(r, r.asked)
		}
		if !g.acting || p.Restart == config.RestartNone || why != "" || held {
			return true, ""
		}
		why, held = g.Spares(along)
		if held {
			return true, ""
		}
		return why != "", why
	}
	return true, "" // nobody waits for it
}

// Spares says why units are not to be started, stopped or restarted along with another, ""
// if they may be: one is protected, or somebody in it has a name that is not his, or had
// when he ended. held: an order holds somebody, or what waits to be started there, and
// nothing else is in the way.
func (g *Guard) Spares(along []string) (why string, held bool) {
	for _, unit := range along {
		if by := g.cfg.Protected("", unit); by != "" {
			return fmt.Sprintf("it would take %s along: protected by %s", unit, by), false
		}
		back := map[string]bool{}
		for ix, t := range g.livingIn(unit) {
			if by := t.untouchable(); by != "" {
				return fmt.Sprintf("it would take %s along: %s: %s", unit, t.describe(), by), false
			}
			back[t.displayName()] = true
			if h := g.heldBy(ix); h != nil {
				why, held = fmt.Sprintf("it would take %s along: %s: %s", unit, t.describe(), h.says()), true
			}
		}
		by, ordered := g.sparesFallen(unit, back)
		if by != "" {
			return fmt.Sprintf("it would take %s along: %s", unit, by), false
		}
		ordered = ordered || slices.ContainsFunc(g.pending, func(r recovery) bool {
			_, is := g.barred(&r)
			return r.unit == unit && r.next == 0 && is
		})
		if ordered && !held {
			why, held = fmt.Sprintf("it would take %s along, which an order holds", unit), true
		}
	}
	return why, held
}

// barred says why what ended is not to be started again, "" if it may be. held: an order
// holds it.
func (g *Guard) barred(r *recovery) (why string, held bool) {
	if by := g.cfg.Protected(r.name, r.unit); by != "" {
		why = "protected by " + by
	} else if r.pid != 0 && !g.cfg.MayUse(r.uid, r.user, r.name) {
		why = "[[names]] does not let " + r.user + " use that name"
	}
	return why, r.held > g.clock.last || g.nameHeld(r.name)
}

// ForbidsLimit says why a unit is not to be restarted for a limit any more, "" if it is.
// along are the other units that would be stopped or restarted by it.
func (g *Guard) ForbidsLimit(x RestartForLimit, along []string) string {
	if !g.acting || g.brake.on {
		return "the brake is on, or this guard does not act any more"
	}
	ix, ok := g.byID[x.Target]
	if !ok || g.targets[ix].state == Ended {
		return "its process has ended"
	}
	if !g.targets[ix].limitStands(config.LimitRestart) {
		return "no limit says so any more"
	}
	for _, unit := range append([]string{x.Unit}, along...) {
		for k, o := range g.livingIn(unit) {
			if o.forged() && k != ix {
				continue
			}
			switch barred := g.limitBarred(k); {
			case barred == "":
			case unit == x.Unit:
				return o.describe() + ": " + barred
			default:
				return fmt.Sprintf("it would take %s along: %s: %s", unit, o.describe(), barred)
			}
		}
	}
	why, _ := g.Spares(along) // and what is down there, and would be started
	return why
}
