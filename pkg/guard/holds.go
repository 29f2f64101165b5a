package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// holdMin and holdMax bound how long an order holds: one without an end is
	// forgotten by those who gave it.
	holdMin = time.Second
	holdMax = 7 * 24 * time.Hour
	// maxHolds bounds the orders that stand, maxPatterns those for a name: each is
	// matched against each target that is looked at.
	maxHolds    = 1000
	maxPatterns = 64
	// brakeStopHold is how long those are held whose ladders an order to the
	// brake stops.
	brakeStopHold = 10 * time.Minute
)

// HoldOrder is an order not to act on some targets: on one by its PID, on all
// whose name matches Name (a glob as in rules, also those that come later), or on
// All.
type HoldOrder struct {
	PID    int32
	Name   string
	All    bool
	For    time.Duration
	Reason string
	By     string // who gave it
}

// Selector names orders: that for a PID, that for a Name as it was given, that for
// all.
type Selector struct {
	PID  int32
	Name string
	All  bool
}

// HoldView is an order that stands.
type HoldView struct {
	PID     int32
	Name    string
	All     bool
	Left    time.Duration // until it ends by itself
	Reason  string
	By      string
	Targets int // that it holds now
}

// OrderError says why an order cannot be carried out.
type OrderError struct {
	NoTarget bool // it names nobody
	Problem  string
}

func (e *OrderError) Error() string { return e.Problem }

// hold is an order that stands. It ends at a time of CLOCK_MONOTONIC: an operator
// means half an hour of his own.
type hold struct {
	Selector
	id     TargetID // of the target with that pid
	until  time.Duration
	lasts  time.Duration // until is not known yet: so long from the next step on
	reason string
	by     string
}

func (h *hold) matches(t *target) bool {
	switch {
	case h.All:
		return true
	case h.id != 0:
		return h.id == t.id
	}
	return config.Glob(h.Name, t.displayName())
}

// patterns counts the orders for a name.
func (g *Guard) patterns() (n int) {
	for i := range g.holds {
		if g.holds[i].Name != "" {
			n++
		}
	}
	return n
}

// ofOne says whether a selector is one of a pid, of a name, or of all.
func (s *Selector) ofOne() bool {
	n := 0
	for _, is := range [...]bool{s.PID != 0, s.Name != "", s.All} {
		if is {
			n++
		}
	}
	return n == 1
}

// what names those that a hold is about.
func (h *hold) what() string {
	switch {
	case h.All:
		return "all targets"
	case h.id != 0:
		return fmt.Sprintf("pid %d", h.PID)
	}
	return h.Name
}

func (h *hold) because() string {
	if h.reason == "" {
		return ""
	}
	return " (" + h.reason + ")"
}

// nameHeld says whether an order holds all of a name, be they alive or not.
func (g *Guard) nameHeld(name string) bool {
	return slices.ContainsFunc(g.holds, func(h hold) bool { return h.All || h.id == 0 && config.Glob(h.Name, name) })
}

// says is what the order was to somebody whom it holds.
func (h *hold) says() string { return orSomebody(h.by) + " ordered to leave it alone" + h.because() }

// Hold takes an order; one for the same targets is replaced. Ladders under way
// that it is about are stopped. The error is an *OrderError.
func (g *Guard) Hold(o HoldOrder) (HoldView, error) {
	h := hold{Selector: Selector{o.PID, o.Name, o.All}, until: g.clock.last + o.For, lasts: o.For, reason: o.Reason, by: o.By}
	switch {
	case !h.ofOne():
		return HoldView{}, &OrderError{Problem: "a hold is for one pid, or for one name, or for all"}
	case o.Name != "" && config.CheckGlob(o.Name) != nil:
		return HoldView{}, &OrderError{Problem: fmt.Sprintf("the name %q is no pattern: %v", o.Name, config.CheckGlob(o.Name))}
	case o.For < holdMin || o.For > holdMax:
		return HoldView{}, &OrderError{Problem: fmt.Sprintf("a hold lasts from %s to %s, not %s", holdMin, holdMax, o.For)}
	}
	if o.PID != 0 {
		ix, ok := g.byPID[o.PID]
		if !ok || g.targets[ix].state == Ended {
			return HoldView{}, &OrderError{NoTarget: true, Problem: fmt.Sprintf("pid %d is no target", o.PID)}
		}
		if t := &g.targets[ix]; t.shield != "" {
			return HoldView{}, &OrderError{Problem: fmt.Sprintf("%s is %s: nothing is ever done to it, a hold changes nothing", t.describe(), t.untouchable())}
		}
		h.id = g.targets[ix].id
	}
	at := slices.IndexFunc(g.holds, func(x hold) bool { return x.Selector == h.Selector })
	switch {
	case at >= 0:
		g.holds[at] = h
	case len(g.holds) >= maxHolds:
		return HoldView{}, &OrderError{Problem: fmt.Sprintf("%d holds stand already", maxHolds)}
	case o.Name != "" && g.patterns() >= maxPatterns:
		return HoldView{}, &OrderError{Problem: fmt.Sprintf("%d holds for names stand already: pause, or use a pattern", maxPatterns)}
	default:
		g.holds = append(g.holds, h)
	}
	v := g.holdView(&h)
	for ix := range g.targets {
		if t := &g.targets[ix]; t.inLadder && h.matches(t) {
			t.cancelled = true
			g.cancels = append(g.cancels, t.id)
		}
	}
	e := &Event{Name: EvHeld, Level: LevelWarning, Slot: -1, PID: h.PID, Reason: "order"}
	if h.All {
		e.Name = EvPaused
	} else if h.id != 0 {
		e = g.about(g.byID[h.id], EvHeld, LevelWarning, "order")
	}
	e.Message = fmt.Sprintf("%s ordered: %s %s not acted on for %s%s; %s held now", orSomebody(o.By), h.what(), isAre(&h), o.For, h.because(), plural(v.Targets, "target"))
	g.told = append(g.told, e)
	return v, nil
}

func isAre(h *hold) string {
	if h.All {
		return "are"
	}
	return "is"
}

func orSomebody(by string) string {
	if by == "" {
		return "somebody"
	}
	return by
}

// Unhold ends orders before their time and says how many; All ends only the one
// for all. The error is an *OrderError for orders that do not stand.
func (g *Guard) Unhold(s Selector, by string) (released int, err error) {
	at := slices.IndexFunc(g.holds, func(x hold) bool { return x.Selector == s })
	ended := s.PID != 0 && g.unholdEnded(s.PID)
	switch {
	case at < 0 && ended:
		return 1, nil
	case at < 0:
		h := hold{Selector: s, id: TargetID(s.PID)}
		return 0, &OrderError{NoTarget: true, Problem: fmt.Sprintf("no hold on %s stands", h.what())}
	}
	g.endHold(at, fmt.Sprintf("released by %s", orSomebody(by)))
	return 1, nil
}

// endHold ends an order. Those that it held have a whole silence before them: what
// was done to them meanwhile (a debugger, a stop) was not looked at.
func (g *Guard) endHold(at int, how string) {
	h := g.holds[at]
	g.holds = slices.Delete(g.holds, at, at+1)
	n := 0
	free := func(ix int32) {
		t := &g.targets[ix]
		if !t.used || t.state == Ended || !h.matches(t) || g.heldBy(ix) != nil {
			return
		}
		n++
		if t.state == Reported && t.heldBy {
			t.beat(g.clock.attn)
			g.settleState(ix)
		}
	}
	if ix, ok := g.byID[h.id]; ok {
		free(ix)
	} else {
		for ix := range g.targets {
			free(int32(ix))
		}
	}
	e := &Event{Name: EvReleased, Level: LevelNotice, Slot: -1, PID: h.PID, Reason: "order"}
	if h.All {
		e.Name = EvResumed
	} else if ix, ok := g.byID[h.id]; ok {
		e = g.about(ix, EvReleased, LevelNotice, "order")
	}
	e.Message = fmt.Sprintf("the hold on %s by %s%s is over, %s: acting on %s again", h.what(), orSomebody(h.by), h.because(), how, plural(n, "target"))
	g.told = append(g.told, e)
}

// beginHolds has orders that came since the last step begin now: that step may have
// been half a second ago.
func (g *Guard) beginHolds() {
	for i := range g.holds {
		if h := &g.holds[i]; h.lasts > 0 {
			h.until, h.lasts = g.clock.last+h.lasts, 0
		}
	}
}

// holdsDue ends the orders whose time is over.
func (g *Guard) holdsDue() {
	for i := len(g.holds) - 1; i >= 0; i-- {
		if g.holds[i].until <= g.clock.last {
			g.endHold(i, "its time is up")
		}
	}
}

// tell reports what orders led to.
func (g *Guard) tell() {
	for _, e := range g.told {
		g.emit(e)
	}
	g.told = g.told[:0]
}

// dropHoldOf forgets the order for a target that is given up.
func (g *Guard) dropHoldOf(id TargetID) {
	g.holds = slices.DeleteFunc(g.holds, func(h hold) bool { return h.id == id })
}

// heldBy is the order that holds a target, the one that ends last; nil for none.
func (g *Guard) heldBy(ix int32) *hold {
	var by *hold
	for i := range g.holds {
		if h := &g.holds[i]; h.matches(&g.targets[ix]) && (by == nil || h.until > by.until) {
			by = h
		}
	}
	return by
}

// holdByOrder leaves a condemned target alone, as was ordered.
func (g *Guard) holdByOrder(ix int32, h *hold) {
	t := &g.targets[ix]
	g.forgetLate(t.id)
	e := g.verdictOn(ix, EvHeld, fmt.Sprintf("nothing is done for %s more, as %s ordered%s", seconds(h.until-g.clock.last), orSomebody(h.by), h.because()))
	e.Reason = "order"
	g.emit(e)
	t.state, g.due[ix], t.let, t.heldBy = Reported, never, false, true
}

// Holds lists the orders that stand, in the order in which they were given.
func (g *Guard) Holds() []HoldView {
	var out []HoldView
	for i := range g.holds {
		out = append(out, g.holdView(&g.holds[i]))
	}
	return out
}

func (g *Guard) holdView(h *hold) HoldView {
	v := HoldView{PID: h.PID, Name: h.Name, All: h.All, Left: max(h.until-g.clock.last, 0), Reason: h.reason, By: h.by}
	if h.id != 0 { // a thousand such orders may stand
		if ix, ok := g.byID[h.id]; ok && g.targets[ix].state != Ended {
			v.Targets = 1
		}
		return v
	}
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used && t.state != Ended && h.matches(t) {
			v.Targets++
		}
	}
	return v
}

// OrderBrake is an operator's word to the brake: let go of all that it holds now,
// or let none of them be ended, which holds each for 10 min. It says how many.
func (g *Guard) OrderBrake(letGo bool, by string) (targets int) {
	b := &g.brake
	if letGo {
		b.ordered = len(b.queue) > 0
		return len(b.queue)
	}
	if b.on {
		b.stopEnd, b.stopBy = g.clock.last+brakeStopHold, by
	}
	for _, id := range slices.Clone(b.queue) {
		if ix, ok := g.byID[id]; ok && g.stopOne(ix, brakeStopHold, by) {
			targets++
		}
	}
	return targets
}

// stopOne takes a target out of the brake's queue and holds it by an order, as long
// as no other holds it for longer; it is false when no more orders can stand.
func (g *Guard) stopOne(ix int32, lasts time.Duration, by string) bool {
	t := &g.targets[ix]
	if h := g.heldBy(ix); h == nil || h.id != t.id || h.until-g.clock.last < lasts && h.lasts < lasts {
		if _, err := g.Hold(HoldOrder{PID: t.pid, For: max(lasts, holdMin), Reason: "the brake was told to stop", By: by}); err != nil {
			return false
		}
	}
	if t.limited != "" {
		g.setAside(ix, "the brake was told to stop", 0)
		return true
	}
	g.unbrake(ix)
	t.state, g.due[ix], t.heldBy = Reported, never, true
	return true
}
