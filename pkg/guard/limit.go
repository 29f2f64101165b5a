package guard

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// verdictLimit is the verdict on a target that is ended because it exceeds a limit.
	verdictLimit = "limit"
)

// Sampling is a target that is to be sampled, and for what.
type Sampling struct {
	Target TargetID
	PID    int32
	What   uint16 // bit 1<<q: a config.Quantity q is wanted
	Share  bool   // and the soft limit of descriptors
}

// Sample is what a target used at one time. What could not be read is -1.
type Sample struct {
	Target    TargetID
	At        time.Duration // CLOCK_MONOTONIC
	CPU       time.Duration // processor time used so far
	OpenLimit int64         // soft limit of descriptors, 0: not known
	Values    [config.NumQuantities]float64
}

// Sampled is what was sampled since the last one.
type Sampled struct{ Samples []Sample }

// hasLimits says whether there is anything to be sampled.
func hasLimits(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Rules, func(r config.Rule) bool { return len(r.Limits) > 0 })
}

// ToSample appends the targets that have limits.
func (g *Guard) ToSample(to []Sampling) []Sampling {
	if !g.limits {
		return to
	}
	for ix := range g.targets {
		t := &g.targets[ix]
		if len(t.gauges) == 0 || t.opening || t.state == Ended || t.consent != ConsentProven {
			continue
		}
		s := Sampling{Target: t.id, PID: t.pid}
		for i := range t.gauges {
			s.What |= 1 << t.gauges[i].Of
			s.Share = s.Share || t.gauges[i].Share
		}
		to = append(to, s)
	}
	return to
}

func (o Sampled) apply(g *Guard) {
	for i := range o.Samples {
		s := &o.Samples[i]
		ix, ok := g.byID[s.Target]
		if !ok {
			continue
		}
		t := &g.targets[ix]
		if t.opening || t.state == Ended || t.consent != ConsentProven {
			continue
		}
		for k := range t.gauges {
			m := &t.gauges[k]
			changed := m.take(g.clock.attn, s, g.cfg.Sample)
			switch {
			case changed && m.over:
				g.exceeded(ix, m)
			case changed:
				g.within(ix, m, "")
			case m.over && !m.settled && m.again <= g.clock.attn:
				g.tryLimit(ix, m)
			}
		}
	}
}

// applyLimits gives a target the limits of its rule. What is known about those that it
// had before stays.
func (g *Guard) applyLimits(ix int32) {
	t := &g.targets[ix]
	limits := t.policy.Limits
	if slices.EqualFunc(t.gauges, limits, func(m gauge, l config.Limit) bool { return m.Limit == l }) {
		return
	}
	old := t.gauges
	t.gauges = make([]gauge, len(limits))
	for i, l := range limits {
		t.gauges[i].Limit = l
		if k := slices.IndexFunc(old, func(m gauge) bool { return m.Limit == l }); k >= 0 {
			t.gauges[i] = old[k]
			old = slices.Delete(old, k, k+1)
		}
	}
	for k := range old {
		if old[k].over {
			g.within(ix, &old[k], "its rule has no such limit any more")
		}
	}
}

// dropLimits ends what limits of a target are exceeded: it has ended, or is given up.
func (g *Guard) dropLimits(ix int32, why string) {
	gauges := g.targets[ix].gauges
	g.targets[ix].gauges = nil
	for k := range gauges {
		if gauges[k].over {
			g.within(ix, &gauges[k], why)
		}
	}
}

// what says how much of something a target has: memory 612.3MiB.
func (m *gauge) what() string {
	value := m.value
	switch m.Of {
	case config.Memory, config.GroupMemory, config.Age:
	default:
		value = math.Round(10*value) / 10
	}
	return fmt.Sprintf("%s %s", m.Of, m.Text(value))
}

// exceeds says which limits are exceeded by a target, and what is done about it.
func (t *target) exceeds() (out []string) {
	for k := range t.gauges {
		m := &t.gauges[k]
		if !m.over {
			continue
		}
		done := m.Action.String()
		if m.why != "" {
			done = "not acting: " + m.why
		}
		out = append(out, fmt.Sprintf("%s > %s: %s", m.what(), m.Text(m.Above), done))
	}
	return out
}

// sayLimit is an event about a limit of a target.
func (g *Guard) sayLimit(ix int32, name EventName, level Level, m *gauge, format string, args ...any) *Event {
	e := g.about(ix, name, level, fmt.Sprintf("%s, limit %s", m.what(), m.Text(m.Above)))
	e.Silence, e.Timeout = 0, 0
	e.Message = fmt.Sprintf("%s: %s", g.targets[ix].describe(), fmt.Sprintf(format, args...))
	return e
}

// exceeded reports that a limit is exceeded, and begins what its action says.
func (g *Guard) exceeded(ix int32, m *gauge) {
	m.settled, m.again, m.why, m.refused = false, 0, "", ""
	what := g.beginLimit(ix, m)
	g.emit(g.sayLimit(ix, EvLimit, LevelWarning, m, "%s is more than %s for %s: %s", m.what(), m.Text(m.Above), m.For, what))
}

// tryLimit tries again what an exceeded limit asks for, and says so if what keeps it
// from that is another thing by now.
func (g *Guard) tryLimit(ix int32, m *gauge) {
	before := m.why
	what := g.beginLimit(ix, m)
	if m.why == before || m.why == "" && m.refused != "" { // which is said if it is refused otherwise by now
		return
	}
	g.emit(g.sayLimit(ix, EvLimit, LevelWarning, m, "%s is still more than %s: %s", m.what(), m.Text(m.Above), what))
}

// beginLimit begins what an exceeded limit asks for, and says what that is.
func (g *Guard) beginLimit(ix int32, m *gauge) string {
	t := &g.targets[ix]
	unit := t.facts.Unit
	if m.Action == config.LimitReport {
		m.settled = true
		return "its limit says report"
	}
	if m.why = g.limitRefusal(ix, m); m.why != "" {
		if m.Action == config.LimitLadder && !g.acting {
			g.would++
		}
		return "not acting: " + m.why
	}
	m.settled = true
	switch m.Action {
	case config.LimitLadder:
		g.endForLimit(ix, m)
		return "ending it, after a last look"
	case config.LimitRestart:
		r := recovery{id: t.id, pid: t.pid, name: t.displayName(), user: t.facts.User, unit: unit, ended: g.clock.last}
		g.budgetOf(&r, &t.policy).take(&r, t.policy.Window, t.policy.Attempts, g.clock.attn)
		g.restarting = r
		g.decide(RestartForLimit{Unit: unit, Target: t.id, PID: t.pid, Asked: r.ended})
		return "restarting " + unit
	}
	g.throttled = true // see throttleAll
	return "throttling " + unit
}

// limitRefusal says why what a limit asks for is not done now, "" if it is.
func (g *Guard) limitRefusal(ix int32, m *gauge) string {
	t := &g.targets[ix]
	if why := g.limitBarred(ix); why != "" {
		return why
	}
	if m.Action == config.LimitLadder {
		switch {
		case t.state != Guarded:
			return "it is " + t.state.String()
		case g.clock.attn < g.judgeFrom:
			return "this host has stood still just now"
		}
		return ""
	}
	unit := t.facts.Unit
	if !isService(unit) {
		return "it is in no service of systemd"
	}
	// All that live in the unit are concerned.
	for k, o := range g.livingIn(unit) {
		if k == ix {
			continue
		}
		if why := g.limitBarred(k); why != "" && !o.forged() {
			return fmt.Sprintf("%s is in %s as well: %s", o.describe(), unit, why)
		}
	}
	if m.Action != config.LimitRestart {
		return ""
	}
	switch {
	case g.brake.on:
		return "the brake is on"
	case g.restarting.unit != "":
		return "a unit is being restarted for a limit, and that goes one by one"
	}
	g.pruneBudgets()
	if len(g.budgets) >= maxBudgets {
		return "too many wait to be started again"
	}
	if b := g.budgetOf(&recovery{name: t.displayName(), user: t.facts.User, unit: unit}, &t.policy); b.given || b.within(t.policy.Window, g.clock.attn) >= t.policy.Attempts {
		return fmt.Sprintf("%s was started %d times within %s", unit, t.policy.Attempts, seconds(t.policy.Window))
	}
	return ""
}

// limitBarred says why nothing is done to a target for a limit, "" if something may be.
func (g *Guard) limitBarred(ix int32) string {
	t := &g.targets[ix]
	if h := g.heldBy(ix); h != nil {
		return h.says()
	}
	if why := g.onlyReport(ix); why != "" {
		return why
	}
	if t.consent != ConsentProven {
		return "it has not proven that it joined this table"
	}
	return ""
}

// within reports that a limit is no longer exceeded. why is "" if it fell below.
func (g *Guard) within(ix int32, m *gauge, why string) {
	if m.Action == config.LimitThrottle {
		g.throttled = true
	}
	if why == "" {
		why = "within its limit again"
	}
	e := g.sayLimit(ix, EvLimitOver, LevelNotice, m, "%s (limit %s): %s", m.what(), m.Text(m.Above), why)
	g.told = append(g.told, e) // this may be between two steps
	m.over, m.held, m.settled, m.why = false, 0, false, ""
	if t := &g.targets[ix]; t.state == Braked && t.limited != "" && !t.limitStands(config.LimitLadder) { // and its silence is judged again
		g.setAside(ix, "", 0)
	}
}

// endForLimit begins to end a target that exceeds a limit: with all that belongs to a
// verdict, but its own beats do not save it.
func (g *Guard) endForLimit(ix int32, m *gauge) {
	t := &g.targets[ix]
	t.limited = fmt.Sprintf("%s is more than %s", m.what(), m.Text(m.Above))
	t.lateAt = g.clock.attn
	if t.began == 0 {
		t.began = max(t.lateAt, 1)
	}
	t.let, t.untraced = false, false
	g.forgetLate(t.id)
	g.overdue = append(g.overdue, overdue{at: g.clock.attn, id: t.id})
	g.gather(ix)
}

// limitStands says whether a limit with an action is exceeded by a target.
func (t *target) limitStands(action config.LimitAction) bool {
	return slices.ContainsFunc(t.gauges, func(m gauge) bool { return m.over && m.Action == action })
}

// spared says why a target is not ended for its limit after all, "" if it is.
func (g *Guard) spared(ix int32) string {
	t := &g.targets[ix]
	if !t.limitStands(config.LimitLadder) {
		return "no limit says so any more"
	}
	if why := t.look.excuse(); why != "" && t.responseTo(why) == config.RespondHold {
		return excuseTexts[why]
	}
	return g.limitBarred(ix)
}

// judgeLimit decides about a target that exceeds a limit, once all is in.
func (g *Guard) judgeLimit(ix int32) {
	t := &g.targets[ix]
	if why := g.spared(ix); why != "" {
		g.setAside(ix, why, 0)
		return
	}
	t.verdict = verdictLimit
	if t.let {
		t.let = false
		g.begin(ix)
		return
	}
	t.state, t.brakedSince, g.due[ix] = Braked, g.clock.attn, never
	g.condemned = append(g.condemned, t.id)
}

// setAside goes back to guarding a target that was to be ended for a limit. That is
// tried again with the first sample after wait, unless it is never.
func (g *Guard) setAside(ix int32, why string, wait time.Duration) {
	t := &g.targets[ix]
	g.unbrake(ix)
	g.forgetLate(t.id)
	for k := range t.gauges {
		if m := &t.gauges[k]; m.over && m.Action == config.LimitLadder && wait != never {
			said := m.why
			m.settled, m.again, m.why = false, g.clock.attn+wait, why
			if why != said {
				g.emit(g.sayLimit(ix, EvLimit, LevelWarning, m, "not ended for %s after all: %s", m.what(), why))
			}
		}
	}
	t.limited = ""
	t.killedBy, t.sent, t.step, t.resume, t.cancelled = "", false, 0, false, false
	t.dropQuestions()
	if t.slots == 0 {
		g.wiped(ix)
		return
	}
	g.settleState(ix)
}

// lookAtRestarting asks what became of a restart of which the answer was lost, with the
// guard that asked for it or with the bus. Nothing is restarted by that: who is over a limit, and may be
// dealt with for it, is another matter by now.
func (g *Guard) lookAtRestarting() {
	r := &g.restarting
	if r.unit == "" || !r.lost || !g.acting || r.at > g.clock.attn {
		return
	}
	r.lost, r.looking = false, true
	g.decide(RestartForLimit{Unit: r.unit, Target: r.id, PID: r.pid, Asked: r.ended, Look: true})
}

func (o RestartedForLimit) apply(g *Guard) {
	looked := false
	if r := &g.restarting; o.Unit == r.unit {
		looked = r.looking
		if o.Unknown {
			r.looking, r.lost, r.at = false, true, g.clock.attn+failedWait
			if !looked {
				e := &Event{Name: EvLimitFailed, Level: LevelError, PID: o.PID, Unit: o.Unit, Slot: -1, Reason: o.Problem}
				e.Message = fmt.Sprintf("whether %s was restarted, in which pid %d exceeds a limit, is not known: %s; looking at it in %s", o.Unit, o.PID, o.Problem, seconds(failedWait))
				g.emit(e)
			}
			return
		}
		if o.Begun || o.Problem == "" {
			g.unitStarted(r.name, r.user, r.unit, o.Problem, false)
		} else {
			p := g.policyOf(r)
			g.refund(r, &p, false)
		}
		g.restarting = recovery{}
	}
	wait := failedWait
	ix, ok := g.byID[o.Target]
	stands := ok && g.targets[ix].limitStands(config.LimitRestart)
	e := &Event{Name: EvLimitRestarted, Level: LevelNotice, PID: o.PID, Unit: o.Unit, Slot: -1, Reason: "limit"}
	e.Message = fmt.Sprintf("%s was restarted, because pid %d in it exceeded a limit", o.Unit, o.PID)
	switch {
	case o.Problem == "":
	case !o.Begun && (looked || !stands): // what is over its limit yet is dealt with as it was to be
		wait = 0
		e.Name, e.Reason = EvLimitFailed, o.Problem
		e.Message = fmt.Sprintf("%s was not restarted, although pid %d in it exceeded a limit: %s; its limits are judged anew", o.Unit, o.PID, o.Problem)
	default:
		e.Name, e.Level, e.Reason = EvLimitFailed, LevelError, o.Problem
		e.Message = fmt.Sprintf("%s could not be restarted, although pid %d in it exceeds a limit: %s; trying again in %s", o.Unit, o.PID, o.Problem, seconds(failedWait))
	}
	said := false
	if ok && o.Problem != "" {
		for k := range g.targets[ix].gauges {
			if m := &g.targets[ix].gauges[k]; m.over && m.Action == config.LimitRestart {
				m.settled, m.again = false, g.clock.attn+wait
				said = said || o.Refused && m.refused == o.Problem
				if m.refused = ""; o.Refused { // which may last
					m.refused, m.why = o.Problem, o.Problem
				}
			}
		}
	}
	if !said {
		g.emit(e)
	}
}

// saveRestarting writes the unit that is being restarted for a limit: a guard that is
// started anew asks what became of it.
func (g *Guard) saveRestarting(w *writer) {
	r := &g.restarting
	w.str(r.unit)
	w.str(r.name)
	w.str(r.user)
	w.u64(uint64(r.id))
	w.u32(uint32(r.pid))
	w.dur(r.start)
	w.dur(r.ended)
}

func (g *Guard) restoreRestarting(r *reader) {
	x := recovery{unit: r.str(), name: r.str(), user: r.str(), id: TargetID(r.u64()), pid: int32(r.u32()), start: r.upTo(g.clock.attn), ended: r.upTo(g.clock.last)}
	if x.unit != "" {
		x.taken, x.lost = true, true
		g.restarting = x
	}
}
