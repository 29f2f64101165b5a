package guard

import (
	"slices"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Between a decision about a unit and its job the bus may stand still for long, and what
// somebody orders meanwhile, or a new configuration says, counts: who carries a decision
// out asks once more, just before.

// Forbids reports whether what a question about a recovery asks for ([RestoreUnit],
// [RestartUnit]) is not to be done any more. The answer to it is Forbidden then.
func (g *Guard) Forbids(ask uint64) bool {
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
		return !g.acting || p.Restart == config.RestartNone || why != "" || held
	}
	return true // nobody waits for it
}

// barred says why what ended is not to be started again, "" if it may be. held: an order
// holds it.
func (g *Guard) barred(r *recovery) (why string, held bool) {
	if by := g.cfg.Protected(r.name, r.unit); by != "" {
		why = "protected by " + by
	} else if r.pid != 0 && !g.cfg.MayUse(r.uid, r.user, r.name) {
		why = "[[names]] does not let " + r.user + " use that name"
	}
	return why, r.held > g.clock.last || slices.ContainsFunc(g.holds, func(h hold) bool { return h.All || h.id == 0 && config.Glob(h.Name, r.name) })
}

// ForbidsLimit says why a unit is not to be restarted for a limit any more, "" if it is.
func (g *Guard) ForbidsLimit(x RestartForLimit) string {
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
	for _, k := range g.inUnit(x.Unit) {
		o := &g.targets[k]
		if !o.used || o.state == Ended || o.facts.Unit != x.Unit || o.forged() && k != ix {
			continue
		}
		if why := g.limitBarred(k); why != "" {
			return o.describe() + ": " + why
		}
	}
	return ""
}
