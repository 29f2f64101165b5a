package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// maxMembers bounds who is remembered of one cgroup: as many as a ladder holds.
const maxMembers = 1024

// leastRest is how many bytes a saved rest takes at least.
const leastRest = 63

// rest is whom a ladder for a whole cgroup is for beside its target. A target is
// forgotten 5 s after its end, while its ladder may go on for the others; and a daemon
// that dies meanwhile must leave the next one enough to go on.
//
//	begun ──its target ended──▶ left ──last word──▶ over
//	  └──its target is on no ladder──▶ over          ▲
//	                             left, in the registry ──at──▶ taken up, or left alone
type rest struct {
	id    TargetID
	pid   int32
	name  string
	user  string
	uid   uint32
	unit  string
	known bool // who they are was told
	group Group

	step     int32 // whose signal was sent last
	killedBy string
	sentMono time.Duration
	left     bool // its target has ended

	under bool          // the ladder is under way
	alone bool          // its latest signal went to these alone
	at    time.Duration // when it is taken up; never: it was, or its target lives
	stop  bool          // it was told to stop
}

// restOf is the rest of a target's cgroup, nil if its ladder is not for that.
func (g *Guard) restOf(id TargetID) *rest {
	for i := range g.rests {
		if g.rests[i].id == id {
			return &g.rests[i]
		}
	}
	return nil
}

func (g *Guard) dropRest(id TargetID) {
	g.rests = slices.DeleteFunc(g.rests, func(r rest) bool { return r.id == id })
}

// keepRest begins to remember the rest of the cgroup that a ladder is for, or goes on.
func (g *Guard) keepRest(t *target) *rest {
	r := g.restOf(t.id)
	if r == nil {
		g.rests = append(g.rests, rest{id: t.id, pid: t.pid, name: t.displayName(), user: t.facts.User, uid: t.facts.UID, unit: t.facts.Unit})
		r = &g.rests[len(g.rests)-1]
	}
	r.under, r.at = true, never
	return r
}

// restLeft takes in that the target has ended. Where its ladder is not under way, an
// earlier daemon began it: it is taken up once this one has seen who has registered
// meanwhile.
func (g *Guard) restLeft(id TargetID) {
	if r := g.restOf(id); r != nil {
		r.left = true
		if !r.under {
			r.at = g.clock.attn + g.cfg.Interval
		}
	}
}

func (o Gathered) apply(g *Guard) {
	r := g.restOf(o.Target)
	if r == nil {
		return
	}
	r.known, r.group, r.alone = true, o.Group, o.Alone
	r.group.Members = slices.Clone(o.Group.Members[:min(len(o.Group.Members), maxMembers)])
	if o.Unsure > 0 {
		g.sayRest(r, fmt.Sprintf("%d of it cannot be shown to be who they were before this daemon began", o.Unsure))
	}
}

// restReported takes in what a ladder says, as far as that is about the rest, and says
// whether nothing of it is about the target.
func (g *Guard) restReported(r *rest, o LadderReport) bool {
	switch o.Kind {
	case LadderSignalled:
		r.step, r.killedBy, r.sentMono = o.Step, o.Signal, g.clock.last
		if !r.alone {
			return false
		}
		g.signals++
		e := r.event(EvSignalled, LevelWarning, "cgroup")
		e.Signal, e.Step = o.Signal, int(o.Step)+1
		e.Message = fmt.Sprintf("%s sent to %s, step %d", o.Signal, r.what(), o.Step+1)
		g.emit(e)
		return true
	case LadderDumping:
		return false
	case LadderCancelled:
		r.under = false // the daemon ends, and the next one goes on; or tend has stopped it
		if ix, ok := g.byID[o.Target]; ok && r.left && !r.stop && g.targets[ix].cancelled {
			r.stop = true
			g.sayRest(r, "the ladder was stopped")
		}
		return false
	case LadderUnkillable:
		if r.left {
			e := r.event(EvUnkillable, LevelError, "cgroup")
			e.Signal = o.Signal
			e.Message = fmt.Sprintf("%s does not end after %s: nothing more is sent", r.what(), o.Signal)
			g.emit(e)
		}
	case LadderFailed:
		if r.left {
			g.sayRest(r, o.Reason)
		}
	}
	g.dropRest(r.id)
	return false
}

// tendRests stops what is not to go on, and takes up what an earlier daemon began.
func (g *Guard) tendRests() {
	if len(g.rests) == 0 {
		return
	}
	keep := g.rests[:0]
	for _, r := range g.rests {
		if g.tend(&r) {
			keep = append(keep, r)
		}
	}
	clear(g.rests[len(keep):])
	g.rests = keep
}

// tend looks after one and says whether it is still to be remembered.
func (g *Guard) tend(r *rest) bool {
	if !r.left {
		ix, ok := g.byID[r.id]
		return ok && g.targets[ix].state == Ladder
	}
	p := g.cfg.Policy(r.name, r.user, r.unit)
	why := g.restBarred(r, &p)
	switch {
	case r.stop: // its last word is on its way; a daemon that died had said why
		return r.under
	case !r.under && r.at == never: // the daemon ends
		return true
	case r.under && why == "", !r.under && r.at > g.clock.attn:
		return true
	case r.under:
		r.stop = true
		g.decide(CancelLadder{r.id})
		g.sayRest(r, why)
		return true
	case why == "" && p.Scope != config.ScopeCgroup:
		why = "its rule says so by now"
	case why == "" && !r.known:
		why = "nobody knows who was in it when the daemon before this one ended"
	}
	if why != "" {
		g.sayRest(r, why)
		return false
	}
	d := BeginLadder{Target: r.id, PID: r.pid, Steps: p.Steps, Scope: config.ScopeCgroup, Group: r.group, Left: true}
	// As for a target: with another ladder since, it begins anew.
	if steps := p.Steps; r.killedBy != "" && int(r.step) < len(steps) && steps[r.step].SignalName() == r.killedBy {
		d.From, d.Sent, d.Waited = int(r.step), true, max(g.clock.last-r.sentMono, 0)
	}
	r.under, r.at = true, never
	g.decide(d)
	return true
}

// restBarred says why the rest of a cgroup is left alone, "" if it is not. Those who came
// later are not among its members; one of these that has become a client counts for all.
func (g *Guard) restBarred(r *rest, p *config.Policy) string {
	switch by := g.cfg.Protected(r.name, r.unit); {
	case !g.acting:
		return g.notActing
	case by != "":
		return "protected by " + by
	case !g.cfg.MayUse(r.uid, r.user, r.name):
		return "[[names]] does not let " + r.user + " use that name"
	case p.Action != config.ActionLadder:
		return fmt.Sprintf("rule[%d] says report", p.Rule)
	case g.nameHeld(r.name), slices.ContainsFunc(g.holds, func(h hold) bool { return h.id == r.id }):
		return "an order holds it"
	}
	for _, m := range r.group.Members {
		if ix, ok := g.byPID[m.PID]; ok {
			if o := &g.targets[ix]; !o.doomed() && (!p.Shared || o.untouchable() != "") {
				return fmt.Sprintf("%s is among it, which is not to be ended", o.describe())
			}
		}
	}
	return ""
}

func (r *rest) what() string { return "the rest of the cgroup of " + who(r.pid, r.name) }

func (r *rest) event(name EventName, level Level, reason string) *Event {
	return &Event{Name: name, Level: level, Target: r.id, PID: r.pid, Process: r.name, Unit: r.unit, Slot: -1, Reason: reason}
}

// sayRest says that somebody is left alone.
func (g *Guard) sayRest(r *rest, why string) {
	e := r.event(EvRefused, LevelWarning, "cgroup")
	e.Message = fmt.Sprintf("%s: %s: leaving it alone", r.what(), why)
	g.emit(e)
}

func (r *rest) save(w *writer) {
	w.u64(uint64(r.id))
	w.u32(uint32(r.pid))
	w.str(r.name)
	w.str(r.user)
	w.u32(r.uid)
	w.str(r.unit)
	w.flag(r.known)
	w.str(r.group.Path)
	w.u64(r.group.Inode)
	w.u32(uint32(len(r.group.Members)))
	for _, m := range r.group.Members {
		w.u32(uint32(m.PID))
		w.u64(m.Start)
		w.u64(m.Inode)
	}
	w.u32(uint32(r.step))
	w.str(r.killedBy)
	w.dur(r.sentMono)
	w.flag(r.left)
	w.flag(r.stop)
}

func (x *rest) restore(r *reader) {
	*x = rest{id: TargetID(r.u64()), pid: int32(r.u32()), name: r.str(), user: r.str(), uid: r.u32(), unit: r.str(), known: r.flag(),
		group: Group{Path: r.str(), Inode: r.u64()}, at: never}
	for n := r.count(maxMembers); n > 0 && !r.bad; n-- {
		x.group.Members = append(x.group.Members, Member{int32(r.u32()), r.u64(), r.u64()})
	}
	x.step, x.killedBy, x.sentMono, x.left, x.stop = int32(r.u32()), r.str(), r.upTo(maxTime), r.flag(), r.flag()
	r.bad = r.bad || x.step < 0
}
