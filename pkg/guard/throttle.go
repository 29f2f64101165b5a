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
	// throttleTries bounds the tries to throttle a unit, or to take that back.
	throttleTries = 6
	throttleWait  = 10 * time.Second // before the second one, doubled with each
	maxThrottles  = 4096
	minQuota      = 1000 // microseconds a second; the kernel takes no less
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
type throttle struct {
	unit  string
	known bool
	was   UnitLimits // before, and again afterwards
	set   UnitLimits // by us
	under bool       // an answer is awaited
	next  UnitLimits // what set is, once that comes
	redo  bool       // whether set was set is not known
	at    time.Duration
	tries int
}

// wanted is what the limits that are exceeded want a unit to have: the least of each.
func (g *Guard) wanted(unit string) (w UnitLimits) {
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
			if slices.ContainsFunc(t.gauges, func(m gauge) bool { return m.throttles() }) && !known[t.facts.Unit] && len(g.throttles) < maxThrottles {
				g.throttles = append(g.throttles, throttle{unit: t.facts.Unit})
				known[t.facts.Unit] = true
			}
		}
		for i := range g.throttles {
			x := &g.throttles[i]
			if x.tries = 0; !x.under { // else it goes on with the answer
				x.at = min(x.at, g.clock.attn)
			}
		}
	}
	if !g.acting || len(g.throttles) == 0 {
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
	if x.under || x.at > g.clock.attn {
		return true
	}
	want := g.wanted(x.unit)
	if want == x.set && !x.redo {
		x.at = never
		return want != UnitLimits{}
	}
	if !x.known && want == (UnitLimits{}) {
		return false
	}
	x.under, x.at = true, never
	if !x.known {
		g.decide(LookAtUnit{x.unit})
		return true
	}
	x.next = want
	g.decide(SetUnitLimits{x.unit, UnitLimits{
		MemoryHigh: valueFor(want.MemoryHigh, x.set.MemoryHigh, x.was.MemoryHigh),
		CPUQuota:   valueFor(want.CPUQuota, x.set.CPUQuota, x.was.CPUQuota),
	}})
	return true
}

// valueFor is what a property is to be set to: never more than it was before; 0 leaves
// it alone.
func valueFor(want, set, was uint64) uint64 {
	switch {
	case want > 0:
		return min(want, was)
	case set > 0:
		return was
	}
	return 0
}

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
	if o.Problem != "" {
		g.throttleFailed(x, o.Problem)
		return
	}
	x.known, x.was, x.tries = true, o.Limits, 0
}

func (o UnitLimitsSet) apply(g *Guard) {
	x := g.throttleOf(o.Unit)
	if x == nil {
		return
	}
	x.under, x.at = false, g.clock.attn
	if o.Problem != "" {
		g.throttleFailed(x, o.Problem)
		return
	}
	e := &Event{Name: EvThrottled, Level: LevelWarning, Unit: x.unit, Slot: -1, Reason: x.next.String()}
	e.Message = fmt.Sprintf("%s has %s from now on, because a process in it exceeds a limit; before it had %s", x.unit, x.next, x.was.of(x.next))
	if x.next == (UnitLimits{}) {
		e.Name, e.Level, e.Reason = EvUnthrottled, LevelNotice, x.was.of(x.set).String()
		e.Message = fmt.Sprintf("%s has %s again: no limit is exceeded in it any more", x.unit, e.Reason)
	}
	x.set, x.next, x.redo, x.tries = x.next, UnitLimits{}, false, 0
	g.emit(e)
}

// throttleFailed plans another try, or gives up.
func (g *Guard) throttleFailed(x *throttle, problem string) {
	x.tries++
	x.at = g.clock.attn + throttleWait<<(x.tries-1)
	if x.tries > 1 && x.tries < throttleTries {
		return // that was said
	}
	e := &Event{Name: EvLimitFailed, Level: LevelError, Unit: x.unit, Slot: -1, Reason: problem}
	e.Message = fmt.Sprintf("%s could not be throttled, or that could not be taken back: %s", x.unit, problem)
	if x.tries < throttleTries {
		e.Message += fmt.Sprintf("; trying again in %s", seconds(throttleWait))
	} else {
		e.Message += "; giving up"
		x.known, x.set, x.redo, x.was = false, UnitLimits{}, false, UnitLimits{}
		x.at = never
	}
	g.emit(e)
}

// ThrottleView is a unit that has less for a limit: MemoryHigh=400MiB, and what it had.
type ThrottleView struct{ Unit, Has, Had string }

// Throttled lists the units that are throttled now.
func (g *Guard) Throttled() (out []ThrottleView) {
	for i := range g.throttles {
		if x := &g.throttles[i]; x.set != (UnitLimits{}) {
			out = append(out, ThrottleView{x.unit, x.set.String(), x.was.of(x.set).String()})
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

func (x *throttle) save(w *writer) {
	w.str(x.unit)
	w.flag(x.known)
	for _, l := range []UnitLimits{x.was, x.set, x.next} {
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
	for _, l := range []*UnitLimits{&x.was, &x.set, &x.next} {
		l.MemoryHigh, l.CPUQuota = r.u64(), r.u64()
	}
	x.under, x.redo = r.flag(), r.flag()
	x.at, x.tries = r.upTo(never), r.count(throttleTries)
	if x.under { // the answer was lost with the daemon; what was asked for may have been done
		x.under, x.at = false, attn
		if x.next != (UnitLimits{}) {
			x.redo, x.set, x.next = true, UnitLimits{max(x.next.MemoryHigh, x.set.MemoryHigh), max(x.next.CPUQuota, x.set.CPUQuota)}, UnitLimits{}
		}
	}
}
