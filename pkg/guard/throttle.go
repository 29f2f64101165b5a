package guard

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// throttleTries bounds the tries to throttle a unit. That is never taken back by
	// giving up: each so many tries it is said that it is not.
	throttleTries = 6
	throttleWait  = 10 * time.Second // before the second one, doubled with each
	throttleMost  = 10 * time.Minute // up to this
	maxTries      = 1 << 20
	maxThrottles  = 4096
	minQuota      = 1000 // microseconds a second; the kernel takes no less
	// quotaStep is what systemd rounds a quota down to when it writes it to its drop-in,
	// from where it comes back with the next daemon-reload.
	quotaStep = 10_000
)

// Unlimited is a [UnitLimits] value without a limit, as systemd writes it.
const Unlimited = math.MaxUint64

// UnitLimits are the run-time properties of a unit that limits set.
type UnitLimits struct {
	MemoryHigh uint64 // bytes; 0: not set by us
	CPUQuota   uint64 // microseconds a second (CPUQuotaPerSecUSec); 0: not set by us
}

// throttle is a unit that is given less, or was:
//
//	asked for its values ──known──▶ set ──no limit wants it──▶ taken back ──▶ forgotten
//	       ▲                         │
//	       └────── no answer ────────┘
//
// What somebody else sets meanwhile is his: it is left as it is until no limit wants the
// unit to have less any more.
type throttle struct {
	unit   string
	known  bool
	was    UnitLimits // before, and again afterwards
	set    UnitLimits // by us
	theirs UnitLimits // set by somebody else since
	under  bool       // an answer is awaited
	next   UnitLimits // what set is, once that comes
	redo   bool       // whether next was set is not known
	sought UnitLimits // what was wanted of it when it was tried last
	gone   bool       // the unit is
	at     time.Duration
	tries  int
}

// wished is what the limits that are exceeded want a unit to have: the least of each.
func (g *Guard) wished(unit string) (w UnitLimits) {
	least := func(to *uint64, v uint64) {
		if v > 0 && (*to == 0 || v < *to) {
			*to = v
		}
	}
	for _, ix := range g.inUnit(unit) {
		t := &g.targets[ix]
		if t.facts.Unit != unit || t.untouchable() != "" {
			continue
		}
		for k := range t.gauges {
			if m := &t.gauges[k]; m.throttles() {
				least(&w.MemoryHigh, m.MemoryHigh)
				if m.CPUQuota > 0 {
					least(&w.CPUQuota, max(minQuota, uint64(math.Round(m.CPUQuota*10000))))
				}
			}
		}
	}
	return w
}

// wanted is what a unit is to have of what is wished: nothing that is more than it had, or
// as much, and nothing of what is somebody else's by now.
func (g *Guard) wanted(x *throttle) UnitLimits {
	w := g.wished(x.unit)
	if x.theirs.MemoryHigh > 0 || x.known && w.MemoryHigh >= x.was.MemoryHigh {
		w.MemoryHigh = 0
	}
	if x.theirs.CPUQuota > 0 || x.known && w.CPUQuota >= x.was.CPUQuota {
		w.CPUQuota = 0
	}
	return w
}

// shielded says whether somebody lives in a unit to whom nothing may be done: he came, or
// was protected, after it was throttled.
func (g *Guard) shielded(unit string) bool {
	for _, t := range g.livingIn(unit) {
		if t.consent == ConsentProven && (t.untouchable() != "" || t.policy.Action == config.ActionReport) {
			return true
		}
	}
	return false
}

// throttles says whether a limit has its target's unit throttled now.
func (m *gauge) throttles() bool {
	return m.over && m.settled && m.Action == config.LimitThrottle
}

// throttleAll brings all units to what is wanted of them.
func (g *Guard) throttleAll() {
	if g.throttled {
		g.throttled = false
		known := make(map[string]bool, len(g.throttles))
		for i := range g.throttles {
			known[g.throttles[i].unit] = true
		}
		for ix := range g.targets {
			t := &g.targets[ix]
			if !slices.ContainsFunc(t.gauges, func(m gauge) bool { return m.throttles() }) {
				continue
			}
			if g.shielded(t.facts.Unit) { // with the next sample it is said why
				for k := range t.gauges {
					if m := &t.gauges[k]; m.throttles() {
						m.settled = false
					}
				}
			} else if !known[t.facts.Unit] && len(g.throttles) < maxThrottles {
				g.throttles = append(g.throttles, throttle{unit: t.facts.Unit})
				known[t.facts.Unit] = true
			}
		}
		for i := range g.throttles {
			x := &g.throttles[i]
			if x.under || x.at != never && g.wanted(x) == x.sought { // it goes on with the answer, or when its time comes
				continue
			}
			x.tries, x.at = 0, min(x.at, g.clock.attn)
		}
	}
	if !g.acting && !g.off || len(g.throttles) == 0 {
		return
	}
	keep := g.throttles[:0]
	for i := range g.throttles {
		if x := g.throttles[i]; g.bring(&x) {
			keep = append(keep, x)
		}
	}
	clear(g.throttles[len(keep):])
	g.throttles = keep
}

// bring does the next thing that brings a unit to what is wanted of it, and says
// whether there is anything left to remember.
func (g *Guard) bring(x *throttle) bool {
	if x.gone {
		return false
	}
	if x.under || x.at > g.clock.attn {
		return true
	}
	want := g.wanted(x)
	x.sought = want
	if want == x.set && !x.redo {
		x.at = never
		return want != UnitLimits{} || g.wished(x.unit) != UnitLimits{}
	}
	if !x.known && want == (UnitLimits{}) {
		return false
	}
	x.under, x.at = true, never
	if !x.known || x.redo {
		g.decide(LookAtUnit{x.unit})
		return true
	}
	x.next = want
	d := SetUnitLimits{Unit: x.unit}
	d.Limits.MemoryHigh, d.Back.MemoryHigh, d.Has.MemoryHigh = valueFor(want.MemoryHigh, x.set.MemoryHigh, x.was.MemoryHigh)
	d.Limits.CPUQuota, d.Back.CPUQuota, d.Has.CPUQuota = valueFor(want.CPUQuota, x.set.CPUQuota, x.was.CPUQuota)
	g.decide(d)
	return true
}

// valueFor is what a property is to be set to, or back to, and what it has unless somebody
// else has set it; 0 leaves it alone.
func valueFor(want, set, was uint64) (to, back, has uint64) {
	has = set
	if set == 0 {
		has = was
	}
	switch {
	case want == set:
		return 0, 0, 0
	case want > 0:
		return want, 0, has
	}
	return 0, was, has
}

// Against says what of it is to be set of a unit that has now these limits, and what is
// left alone there: somebody else has set it.
func (d SetUnitLimits) Against(now UnitLimits) (to, theirs UnitLimits) {
	one := func(limit, back, has, now uint64, same bool) (to, theirs uint64) {
		switch {
		case has == 0:
			return 0, 0
		case now != has && !same:
			return 0, now
		}
		return max(limit, back), 0
	}
	to.MemoryHigh, theirs.MemoryHigh = one(d.Limits.MemoryHigh, d.Back.MemoryHigh, d.Has.MemoryHigh, now.MemoryHigh, false)
	to.CPUQuota, theirs.CPUQuota = one(d.Limits.CPUQuota, d.Back.CPUQuota, d.Has.CPUQuota, now.CPUQuota, sameQuota(d.Has.CPUQuota, now.CPUQuota))
	return to, theirs
}

// sameQuota says whether a quota is another one, or was that before a daemon-reload.
func sameQuota(a, b uint64) bool { return a == b || a != Unlimited && a/quotaStep*quotaStep == b }

// throttleOf finds a unit whose answer is awaited.
func (g *Guard) throttleOf(unit string) *throttle {
	for i := range g.throttles {
		if x := &g.throttles[i]; x.unit == unit && x.under {
			return x
		}
	}
	return nil
}

func (o UnitSeen) apply(g *Guard) {
	x := g.throttleOf(o.Unit)
	if x == nil {
		return
	}
	x.under, x.at = false, g.clock.attn
	switch {
	case o.Gone:
		g.throttleGone(x)
	case o.Problem != "":
		g.throttleFailed(x, o.Problem)
	case x.redo:
		x.redo, x.tries = false, 0
		x.set.MemoryHigh, x.theirs.MemoryHigh = found(o.Limits.MemoryHigh, x.was.MemoryHigh, x.set.MemoryHigh, x.next.MemoryHigh, x.theirs.MemoryHigh, same)
		x.set.CPUQuota, x.theirs.CPUQuota = found(o.Limits.CPUQuota, x.was.CPUQuota, x.set.CPUQuota, x.next.CPUQuota, x.theirs.CPUQuota, sameQuota)
		x.next = UnitLimits{}
	default:
		x.known, x.was, x.tries = true, o.Limits, 0
		if w := g.wished(x.unit); w != (UnitLimits{}) && g.wanted(x) == (UnitLimits{}) {
			g.notThrottled(x, fmt.Sprintf("it has %s, and a limit wants no less than %s", x.was.of(w), w))
		}
	}
}

func same(a, b uint64) bool { return a == b }

// found says what a property is that was to be set from set to next, where nobody knows
// whether it was: that of ours which it has, or somebody else's.
func found(now, was, set, next, theirs uint64, same func(a, b uint64) bool) (ours, others uint64) {
	switch {
	case set == 0 && next == 0:
		return 0, theirs
	case next > 0 && same(next, now):
		return next, 0
	case set > 0 && same(set, now):
		return set, 0
	case now == was:
		return 0, 0
	}
	return 0, now
}

// notThrottled says why a unit is not given less, although a limit wants that.
func (g *Guard) notThrottled(x *throttle, why string) {
	e := &Event{Name: EvLimitFailed, Level: LevelNotice, Unit: x.unit, Slot: -1, Reason: why}
	e.Message = fmt.Sprintf("%s is not throttled: %s", x.unit, why)
	g.emit(e)
}

func (o UnitLimitsSet) apply(g *Guard) {
	x := g.throttleOf(o.Unit)
	if x == nil {
		return
	}
	x.under, x.at = false, g.clock.attn
	switch {
	case o.Gone:
		g.throttleGone(x)
		return
	case o.Problem != "":
		x.redo = o.Unknown
		g.throttleFailed(x, o.Problem)
		return
	}
	before := x.set
	stays := ""
	if o.Theirs != (UnitLimits{}) {
		stays = fmt.Sprintf("somebody else has set %s meanwhile, and that stays", o.Theirs)
	}
	if o.Theirs.MemoryHigh > 0 {
		before.MemoryHigh, x.next.MemoryHigh, x.theirs.MemoryHigh = 0, 0, o.Theirs.MemoryHigh
	}
	if o.Theirs.CPUQuota > 0 {
		before.CPUQuota, x.next.CPUQuota, x.theirs.CPUQuota = 0, 0, o.Theirs.CPUQuota
	}
	had := x.set
	x.set, x.next, x.tries = x.next, UnitLimits{}, 0
	e := &Event{Name: EvThrottled, Level: LevelWarning, Unit: x.unit, Slot: -1, Reason: x.set.String()}
	switch {
	case x.set != UnitLimits{}:
		e.Message = fmt.Sprintf("%s has %s from now on, because a process in it exceeds a limit; before it had %s", x.unit, x.set, x.was.of(x.set))
	case had == UnitLimits{}:
		g.notThrottled(x, stays)
		return
	case before == UnitLimits{}:
		e.Name, e.Level, e.Reason = EvUnthrottled, LevelNotice, o.Theirs.String()
		e.Message = fmt.Sprintf("%s is throttled no more", x.unit)
	default:
		e.Name, e.Level, e.Reason = EvUnthrottled, LevelNotice, x.was.of(before).String()
		e.Message = fmt.Sprintf("%s has %s again: no limit is exceeded in it any more", x.unit, e.Reason)
	}
	if stays != "" {
		e.Message += "; " + stays
	}
	g.emit(e)
}

// throttleGone forgets a unit that is not there any more, and what it had with it.
func (g *Guard) throttleGone(x *throttle) {
	x.gone = true
	if x.set == (UnitLimits{}) {
		return
	}
	e := &Event{Name: EvUnthrottled, Level: LevelNotice, Unit: x.unit, Slot: -1, Reason: "gone"}
	e.Message = fmt.Sprintf("%s is throttled no more: it is gone", x.unit)
	x.set = UnitLimits{}
	g.emit(e)
}

// throttleFailed plans another try, or gives up where nothing is to be taken back.
func (g *Guard) throttleFailed(x *throttle, problem string) {
	x.tries = min(x.tries+1, maxTries)
	x.at = g.clock.attn + min(throttleWait<<min(x.tries-1, throttleTries), throttleMost)
	if x.tries > 1 && x.tries%throttleTries != 0 {
		return // that was said
	}
	e := &Event{Name: EvLimitFailed, Level: LevelError, Unit: x.unit, Slot: -1, Reason: problem}
	if g.wanted(x) == (UnitLimits{}) && x.known {
		e.Message = fmt.Sprintf("that %s was throttled could not be taken back: %s", x.unit, problem)
	} else {
		e.Message = fmt.Sprintf("%s could not be throttled: %s", x.unit, problem)
	}
	if x.set != (UnitLimits{}) || x.redo || x.tries < throttleTries {
		e.Message += fmt.Sprintf("; trying again in %s", seconds(x.at-g.clock.attn))
	} else {
		e.Message += "; giving up"
		x.known, x.at = false, never
	}
	g.emit(e)
}

// ThrottleView is a unit that has less for a limit: MemoryHigh=400MiB, and what it had. Back is that as systemctl takes it.
type ThrottleView struct{ Unit, Has, Had, Back string }

// Throttled lists the units that are throttled now.
func (g *Guard) Throttled() (out []ThrottleView) {
	for i := range g.throttles {
		if x := &g.throttles[i]; x.set != (UnitLimits{}) {
			had := x.was.of(x.set)
			out = append(out, ThrottleView{x.unit, x.set.String(), had.String(), had.assignments()})
		}
	}
	return out
}

// of is what l says about the properties that o has.
func (l UnitLimits) of(o UnitLimits) UnitLimits {
	if o.MemoryHigh == 0 {
		l.MemoryHigh = 0
	}
	if o.CPUQuota == 0 {
		l.CPUQuota = 0
	}
	return l
}

func (l UnitLimits) String() string {
	var parts []string
	if l.MemoryHigh > 0 {
		value := "infinity"
		if l.MemoryHigh != Unlimited {
			value = config.ByteText(float64(l.MemoryHigh))
		}
		parts = append(parts, "MemoryHigh="+value)
	}
	if l.CPUQuota > 0 {
		value := "infinity"
		if l.CPUQuota != Unlimited {
			value = fmt.Sprintf("%g%%", float64(l.CPUQuota)/10000)
		}
		parts = append(parts, "CPUQuota="+value)
	}
	return strings.Join(parts, " and ")
}

// assignments are the arguments of systemctl set-property that set them.
func (l UnitLimits) assignments() string {
	var parts []string
	switch l.MemoryHigh {
	case 0:
	case Unlimited:
		parts = append(parts, "MemoryHigh=infinity")
	default:
		parts = append(parts, fmt.Sprintf("MemoryHigh=%d", l.MemoryHigh))
	}
	switch l.CPUQuota {
	case 0:
	case Unlimited:
		parts = append(parts, "CPUQuota=")
	default:
		parts = append(parts, fmt.Sprintf("CPUQuota=%g%%", float64(l.CPUQuota)/10000))
	}
	return strings.Join(parts, " ")
}

func (x *throttle) save(w *writer) {
	w.str(x.unit)
	w.flag(x.known)
	for _, l := range []UnitLimits{x.was, x.set, x.theirs, x.next} {
		w.u64(l.MemoryHigh)
		w.u64(l.CPUQuota)
	}
	w.flag(x.under)
	w.flag(x.redo)
	w.dur(x.at)
	w.u32(uint32(x.tries))
}

func (x *throttle) restore(r *reader, attn time.Duration) {
	x.unit, x.known = r.str(), r.flag()
	for _, l := range []*UnitLimits{&x.was, &x.set, &x.theirs, &x.next} {
		l.MemoryHigh, l.CPUQuota = r.u64(), r.u64()
	}
	x.under, x.redo = r.flag(), r.flag()
	x.at, x.tries = r.upTo(never), r.count(maxTries)
	if x.under { // the answer was lost with the daemon; what was asked for may have been done
		x.under, x.at, x.redo = false, attn, x.known
	}
}
