package guard

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// What must hold of limits. The values that programs have are whole levels, seen by a
// sampler as the daemon has one.

// simLimits are the limits that rules of a simulation have; each has a bound of its own.
var simLimits = []config.Limit{
	{Of: config.Threads, Above: 100, For: 5 * sec, Action: config.LimitReport},
	{Of: config.Threads, Above: 101, For: 4 * sec, Action: config.LimitLadder},
	{Of: config.Descriptors, Share: true, Above: 80, For: 4 * sec, Action: config.LimitRestart},
	{Of: config.Memory, Above: 102, For: 3 * sec, Action: config.LimitThrottle, MemoryHigh: 80, CPUQuota: 50},
	{Of: config.Threads, Above: 103, Below: 20, For: 2 * sec, Action: config.LimitThrottle, CPUQuota: 20},
	{Of: config.Descriptors, Above: 104, For: 3 * sec, Action: config.LimitLadder},
	{Of: config.Memory, Above: 105, For: 2 * sec, Action: config.LimitRestart},
}

// levels are what a program may have of something: much below each bound, between what
// is over and what is not, above.
var levels = []float64{10, 78, 98, 150}

var simQuantities = []config.Quantity{config.Threads, config.Descriptors, config.Memory}

// gauged is what the world counted of a limit of a process.
type gauged struct {
	seen  bool
	value float64
	at    time.Duration // of the last sample, attention time
	above time.Duration // of the first one of those above it without a break
	mono  time.Duration // the same on CLOCK_MONOTONIC
	held  time.Duration // for how long it was above at the least
	over  bool          // so it was said
	maybe bool          // what is said of it next may be lost
}

const numSimLimits = 7

// limitsOf are the numbers of the limits of a name.
func (s *sim) limitsOf(name string) (of []int) {
	for _, l := range s.policyOf(name).Limits {
		of = append(of, slices.Index(simLimits, l))
	}
	return of
}

// use has a program use so much of something.
func (s *sim) use(p *proc, b uint16) {
	p.past.use[simQuantities[b%3]] = levels[b>>2&3]
}

// sample samples all that the guard asks for, as the daemon does at its scans.
func (s *sim) sample() {
	if s.now < s.nextSample {
		return
	}
	s.nextSample = s.now + s.cfg.Sample
	var out []Sample
	for _, x := range s.g.ToSample(nil) {
		p := s.held[x.Target]
		if p == nil || !p.alive {
			continue
		}
		o := Sample{Target: x.Target, At: s.now, CPU: -1, OpenLimit: 100}
		for q := range o.Values {
			o.Values[q] = missing
			if x.What&(1<<q) != 0 && !p.past.unsampled {
				o.Values[q] = max(p.past.use[q], 1)
			}
		}
		out = append(out, o)
	}
	if len(out) > 0 {
		s.post(0, Sampled{out})
	}
}

// sampled sees samples that reach the guard.
func (s *sim) sampled(o *Sample) {
	p := s.held[o.Target]
	if p == nil || !p.alive || !plain(p) {
		return
	}
	for _, i := range s.limitsOf(nameOfPlain(p)) {
		l, g := &simLimits[i], &p.past.gauged[i]
		v := o.Values[l.Of]
		s.hitGauge(p, i, sampleCell(l, v))
		if v < 0 {
			continue
		}
		if v > l.Above {
			if g.value <= l.Above || !g.seen {
				g.above, g.mono, g.held = s.attn, s.now, 0
			} else {
				g.held += min(s.attn-g.at, 2*s.cfg.Sample)
			}
		} else {
			g.held = 0
		}
		g.seen, g.value, g.at = true, v, s.attn
	}
}

// measured checks, after the guard has seen samples, that what is exceeded was said,
// and that it is over.
func (s *sim) measured(p *proc) {
	h := &p.past
	if !p.alive || !plain(p) || !s.heldProc(p) || h.answer != ConsentProven {
		return
	}
	for _, i := range s.limitsOf(nameOfPlain(p)) {
		l, g := &simLimits[i], &h.gauged[i]
		switch {
		case !g.seen || g.maybe:
		case g.over && g.value <= l.Calm() && g.at < s.attn: // which is said in the next wake
			s.failf("limit", "%d has %v of %s, and that it is more than %v is not over", p.pid, g.value, l.Of, l.Above)
		case !g.over && g.value > l.Above && g.held >= l.For && g.at == s.attn:
			s.failf("limit", "%d has %v of %s for %v, and nothing is said", p.pid, g.value, l.Of, g.held)
		}
	}
}

// limitOf finds the limit that an event is about.
func limitOf(e *Event) int {
	return slices.IndexFunc(simLimits, func(l config.Limit) bool {
		return strings.HasPrefix(e.Reason, l.Of.String()+" ") && strings.HasSuffix(e.Reason, "limit "+l.Text(l.Above))
	})
}

// saysOfLimits checks what is said of limits.
func (s *sim) saysOfLimits(e *Event) {
	p := s.procOf(e.Target)
	if p == nil {
		return
	}
	h := &p.past
	i := limitOf(e)
	if i < 0 {
		s.failf("limit", "%s: %s: of which limit?", e.Name, e.Message)
		return
	}
	l, g := &simLimits[i], &h.gauged[i]
	switch {
	case e.Name == EvLimitOver:
		if !g.over && !g.maybe {
			s.failf("limit", "%s: which was not", e.Message)
		}
		if strings.HasSuffix(e.Message, "within its limit again") && plain(p) && s.restarts == 0 && g.value > l.Calm() {
			s.failf("limit", "%s: it has %v", e.Message, g.value)
		}
		*g = gauged{seen: g.seen, value: g.value, at: g.at, above: s.attn, mono: s.now}
	case strings.Contains(e.Message, "not ended for"):
		h.found, h.begun, h.condemnedAt = false, false, 0
		s.delayed(p, s.slowest()+lookWait)
	case strings.Contains(e.Message, "is still more than"):
		if !g.over {
			s.failf("limit", "%s: which was not said", e.Message)
		}
	default:
		if g.over && !g.maybe {
			s.failf("limit", "%s: said before", e.Message)
		}
		if plain(p) && (s.attn-g.above < l.For || s.now-g.mono < l.For || g.value <= l.Above) {
			s.failf("limit", "%s: after %v (%+v)", e.Message, s.attn-g.above, *g)
		}
		g.over, g.maybe = true, false
		s.figures.limits++
	}
	if l.Action == config.LimitLadder && e.Name == EvLimit {
		s.delayed(p, s.slowest()+lookWait)
	}
}

// stands says whether a limit with an action is exceeded by a process.
func (s *sim) stands(p *proc, action config.LimitAction) bool {
	return s.standing(p, func(l *config.Limit) bool { return l.Action == action })
}

func (s *sim) standing(p *proc, which func(*config.Limit) bool) bool {
	for i := range simLimits {
		l, g := &simLimits[i], &p.past.gauged[i]
		uses := !plain(p) && p.past.use[l.Of] > l.Above                 // of several names; which limits it has is not known
		if which(l) && (g.over || g.maybe || g.held >= l.For || uses) { // the latter two are said in this wake
			return true
		}
	}
	return false
}

// condemnedForLimit checks that a process may be ended for a limit.
func (s *sim) condemnedForLimit(p *proc, e *Event) {
	h := &p.past
	if !s.stands(p, config.LimitLadder) {
		s.failf("limit", "%d is condemned: %s", p.pid, e.Message)
	}
	if h.rereadAt < s.now && s.restarts == 0 || h.lookedAt < s.now && s.restarts == 0 && p.alive {
		s.failf("second look", "%s for %d, which was looked at %v ago", e.Message, p.pid, s.now-h.lookedAt)
	}
	if s.cfg.Verdict.Stopped == config.RespondHold && p.alive && (p.still() || p.look.Tracer != 0) && h.excusedAt == s.now {
		s.failf("excused", "%s for %d, which is %c", e.Message, p.pid, p.state)
	}
	if s.attn < s.gapUntil && s.restarts == 0 {
		s.failf("grace", "%s for %d, just after a gap", e.Message, p.pid)
	}
	s.figures.condemned++
	h.found, h.begun, h.foundAttn, h.condemnedAt, h.forLimit = true, false, s.attn, s.now, true
	h.stillToo = s.cfg.Verdict.Stopped != config.RespondHold
	h.held = strings.HasSuffix(e.Message, "held by the brake")
	h.clean = false
}

// asksForRestart checks that a unit may be restarted for a limit.
func (s *sim) asksForRestart(d RestartForLimit) {
	s.ladderBegan = true
	if d.Look {
		if d.Unit != s.limitRestart {
			s.failf("limit", "it is looked whether %s was restarted, and %q is", d.Unit, s.limitRestart)
		}
		return
	}
	p := s.held[d.Target]
	switch {
	case p == nil || p.pid != d.PID || p.facts.Unit != d.Unit:
		s.failf("identity", "%s is restarted for target %d", d.Unit, d.Target)
		return
	case !s.actsKnown:
		s.failf("not acting", "a restart of %s", d.Unit)
	case !s.stands(p, config.LimitRestart):
		s.failf("limit", "%s is restarted for %d, which exceeds no limit", d.Unit, d.PID)
	case s.brakeOn:
		s.failf("brake", "%s is restarted for a limit", d.Unit)
	case s.limitRestart != "":
		s.failf("limit", "%s is restarted, and %s is", d.Unit, s.limitRestart)
	case p.past.answer != ConsentProven:
		s.failf("consent", "%s is restarted for %d", d.Unit, d.PID)
	}
	s.limitRestart, s.limitAccount, s.limitTaken = d.Unit, nil, s.now
	s.figures.limitActs++
	s.concerned(d.Unit)
	if plain(p) {
		policy := s.policyOf(nameOfPlain(p))
		a := s.account(keyFor(policy, d.Unit, nameOfPlain(p)))
		if a.given {
			s.failf("given up", "%s is restarted for a limit", d.Unit)
		}
		s.take(a, 0, policy)
		s.limitAccount = a
	}
}

// concerned checks that nobody lives in a unit to whom nothing may be done.
func (s *sim) concerned(unit string) {
	for _, o := range s.running {
		if o.facts.Unit != unit || !plain(o) || !s.heldProc(o) || !o.past.registered || o.past.answer != ConsentProven {
			continue
		}
		switch name := nameOfPlain(o); {
		case s.ordered(o, true) && s.g.Next() > s.now:
			s.failf("order", "%s is dealt with for a limit, and an order holds %d in it", unit, o.pid)
		case s.barred(o, name):
			s.failf("protected", "%s is dealt with for a limit, and %d in it is protected", unit, o.pid)
		case s.policyOf(name).Action == config.ActionReport:
			s.failf("report", "%s is dealt with for a limit, and the rule of %d in it says report", unit, o.pid)
		}
	}
}

// setsLimits checks what is set of a unit.
func (s *sim) setsLimits(d SetUnitLimits) {
	s.ladderBegan = true
	u := s.unit(d.Unit)
	if !s.actsKnown {
		s.failf("not acting", "%s gets %s", d.Unit, d.Limits)
	}
	if u == nil {
		return
	}
	s.figures.limitActs++
	after := u.has
	if to, _ := d.Against(u.has); to != (UnitLimits{}) {
		after = UnitLimits{cmp.Or(to.MemoryHigh, after.MemoryHigh), cmp.Or(to.CPUQuota, after.CPUQuota)}
	}
	back := after == u.had
	for _, x := range [][3]uint64{{d.Limits.MemoryHigh, d.Back.MemoryHigh, u.had.MemoryHigh}, {d.Limits.CPUQuota, d.Back.CPUQuota, u.had.CPUQuota}} {
		if x[0] >= x[2] || x[1] > 0 && x[1] != x[2] {
			s.failf("throttle", "%s gets %s, or %s back, and had %s", d.Unit, d.Limits, d.Back, u.had)
		}
	}
	u.asksBack = back
	if back && u.tookBack {
		s.failf("throttle", "%s gets back what it has", d.Unit)
	}
	u.tookBack = false
	if d.Limits == (UnitLimits{}) {
		return
	}
	wanted, sure := false, s.restarts == 0 || s.now-s.restartedAt > 2*sec // who is still there is not known at once
	for _, o := range s.procs {
		if o.facts.Unit != d.Unit {
			continue
		}
		sure = sure && (plain(o) || !s.heldProc(o))
		wanted = wanted || s.stands(o, config.LimitThrottle)
	}
	if sure && !wanted {
		s.failf("throttle", "%s gets %s, and nobody in it exceeds a limit", d.Unit, d.Limits)
	}
}

// rulesChanged takes in that another configuration is in force.
func (s *sim) rulesChanged() {
	for _, p := range s.procs {
		if !plain(p) {
			continue
		}
		of := s.limitsOf(nameOfPlain(p))
		for i := range p.past.gauged {
			if g := &p.past.gauged[i]; !slices.Contains(of, i) {
				*g = gauged{over: g.over, maybe: g.over}
			}
		}
	}
}

// evened checks, at the end, that what was begun is over, once each.
func (s *sim) evened() {
	for _, p := range s.all {
		for i := range p.past.gauged {
			if g := &p.past.gauged[i]; g.over && !g.maybe && !p.alive && !s.lostPid[p.pid-simFirst] {
				s.failf("limit", "%d has ended, and its limit of %s is not over", p.pid, simLimits[i].Of)
			}
		}
	}
	if s.limitRestart != "" {
		s.failf("limit", "what became of the restart of %s nobody has asked", s.limitRestart)
	}
	for ix := range s.g.targets {
		t := &s.g.targets[ix]
		if t.used && t.state != Ended && s.limitRestart == "" && s.now-s.limitTaken > time.Minute && slices.ContainsFunc(t.gauges, func(m gauge) bool { return m.over && m.settled && m.Action == config.LimitRestart }) {
			s.failf("limit", "%d exceeds a limit, and nobody restarts %s: %s", t.pid, t.facts.Unit, t.exceeds())
		}
	}
	for _, u := range s.fakeUnits {
		if u.has != u.had {
			s.failf("throttle", "%s has %s, and had %s", u.name, u.has, u.had)
		}
	}
	for _, o := range s.owings {
		if s.acts && !s.account(o.key).given { // else that is for another guard to do
			s.failf("not started", "%d (%s), at the end", o.p.pid, o.p.facts.Unit)
		}
	}
}
