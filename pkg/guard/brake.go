package guard

import (
	"fmt"
	"time"
)

const (
	// brakeHold is how long a new wave is looked at before the first is let go.
	brakeHold = 10 * time.Second
	// brakePace is the time between two releases.
	brakePace = time.Second
	// brakeMax is the longest that one target is held by the brake.
	brakeMax = 60 * time.Second
	// brakeChannel: so many targets that are blocked on one wait channel are a
	// wave, however many others there are.
	brakeChannel = 3
	// A target is silent as it never was before when it is silent for that part of
	// the longest of its last gaps, of which so many have to be known.
	silentPercent = 150
	silentKnown   = 4
)

// overdue notes that a target fell late, for the brake's count of a wave.
type overdue struct {
	at time.Duration
	id TargetID
}

// brake stops a wave of kills: when many targets fall overdue together, the
// cause is probably not in them.
//
//	off ──wave──▶ on (holds brakeHold) ──▶ releases rate targets each brakePace ──nobody waits──▶ off
//	                                       rate: 1, doubled while the released prove hung,
//	                                       1 again when a held one beats
type brake struct {
	on       bool
	since    time.Duration
	next     time.Duration // of the next release
	rate     int
	queue    []TargetID    // held, oldest first
	proven   int           // ladders that ended their target, since the last release
	heldBeat bool          // a held or released one beat, since the last release
	delayed  bool          // a gap has put the next release off
	ordered  bool          // by an operator: all that are held now go
	stopEnd  time.Duration // mono: until then those of the wave are held by an order
	stopBy   string        // whose it is
	many     bool          // more than half fell late, not just some that share a wait channel

	held, spared, released int // of this wave
}

// forgetLate takes a target out of the count of a wave.
func (g *Guard) forgetLate(id TargetID) {
	for i := range g.overdue {
		if g.overdue[i].id == id {
			g.overdue = append(g.overdue[:i], g.overdue[i+1:]...)
			return
		}
	}
}

// unbrake takes a target out of the brake's queue.
func (g *Guard) unbrake(ix int32) {
	t := &g.targets[ix]
	if t.state != Braked {
		return
	}
	for i, id := range g.brake.queue {
		if id == t.id {
			g.brake.queue = append(g.brake.queue[:i], g.brake.queue[i+1:]...)
			g.brake.spared++
			return
		}
	}
}

// fallingSilent says whether a target that is not late yet is silent as it never
// was before: whatever stopped the first that is condemned probably stopped it, too.
func (g *Guard) fallingSilent(ix int32) bool {
	t := &g.targets[ix]
	silent := t.silence(g.clock.attn)
	if t.state != Guarded || t.limit <= 0 || t.gaps < silentKnown || silent <= t.patience/2 {
		return false
	}
	var longest gapCode
	for _, gap := range t.ring[:min(t.gaps, gapsRemembered)] {
		longest = max(longest, gap)
	}
	return silent > longest.duration()*silentPercent/100
}

// wave says whether those that fell late within the window, and those that are about
// to, are a wave.
func (g *Guard) wave() (late, of int, is bool) {
	b := &g.cfg.Brake
	keep := g.overdue[:0]
	for _, o := range g.overdue {
		if g.clock.attn-o.at <= b.Window {
			keep = append(keep, o)
		}
	}
	g.overdue = keep
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used && t.slots > 0 && t.state != Ended {
			of++
			if g.fallingSilent(int32(ix)) {
				late++
			}
		}
	}
	for _, o := range g.overdue {
		if ix, ok := g.byID[o.id]; !ok || g.targets[ix].state == Ended || g.targets[ix].slots == 0 {
			of++ // ended since: it was one of them
		}
	}
	late += len(g.overdue)
	return late, of, b.Enabled && late >= b.AtLeast && float64(late) > b.Fraction*float64(of)
}

// stuck says whether a target is blocked on a wait channel together with others: a
// mount or a device that hangs is not their fault.
func (g *Guard) stuck(ix int32) bool {
	channel := g.targets[ix].channel
	if channel == "" || !g.cfg.Brake.Enabled {
		return false
	}
	n := 0
	for k := range g.targets {
		if g.targets[k].channel == channel {
			if n++; n == brakeChannel {
				return true
			}
		}
	}
	return false
}

// othersBeat says whether more than half of all have beaten since the brake went on:
// then one that is condemned now has nothing to do with those that it holds.
func (g *Guard) othersBeat() bool {
	beat, of := 0, 0
	for i := range g.targets {
		t := &g.targets[i]
		if !t.used || t.slots == 0 || t.state == Ended || t.limit <= 0 {
			continue
		}
		of++
		// Without what was given to it: a gap begins silences anew as well.
		if t.since > g.brake.since && t.given == 0 && (t.state == Guarded || t.state == Watched) {
			beat++
		}
	}
	return 2*beat > of
}

// settle decides at the end of a step which condemned targets get their ladder.
func (g *Guard) settle() {
	b := &g.brake
	if len(g.condemned) > 0 {
		late, of, many := g.wave()
		alone := b.many && g.othersBeat()
		for _, id := range g.condemned {
			ix, ok := g.byID[id]
			if !ok || g.targets[ix].state != Braked {
				continue
			}
			stuck := g.stuck(ix)
			if !stuck && !many && !b.many || !stuck && b.many && alone {
				g.sayCondemned(ix, "ending it")
				g.begin(ix)
				continue
			}
			if !b.on {
				*b = brake{on: true, since: g.clock.attn, next: g.clock.attn + brakeHold, rate: 1}
				e := &Event{Name: EvBrakeOn, Level: LevelError, Slot: -1, Reason: "wave"}
				what := fmt.Sprintf("%d of %d targets fell overdue within %s, or are about to: the cause is probably not in them", late, of, seconds(g.cfg.Brake.Window))
				if !many {
					e.Reason = "wait channel"
					what = fmt.Sprintf("several targets are blocked in %s: the cause is probably there", g.targets[ix].channel)
				}
				e.Message = fmt.Sprintf("%s; holding new ladders for %s, then one by one", what, seconds(brakeHold))
				g.emit(e)
			}
			b.many = b.many || many
			g.sayCondemned(ix, "held by the brake")
			b.queue = append(b.queue, id)
			b.held++
			if b.stopEnd > g.clock.last { // an order to stop is for all of the wave
				g.stopOne(ix, b.stopEnd-g.clock.last, b.stopBy)
			}
		}
		g.condemned = g.condemned[:0]
	}
	if b.on {
		g.releaseBraked()
	}
}

// releaseBraked lets go of those whose time has come.
func (g *Guard) releaseBraked() {
	b := &g.brake
	attn := g.clock.attn
	if !g.cfg.Brake.Enabled || b.ordered {
		b.ordered = false
		for len(b.queue) > 0 {
			g.letGo()
		}
	}
	if attn >= b.next {
		switch {
		case b.heldBeat:
			b.rate = 1
		case b.proven > 0:
			b.rate = min(2*b.rate, g.cfg.Ladder.MaxConcurrent)
		}
		b.heldBeat, b.proven = false, 0
		for n := 0; n < b.rate && len(b.queue) > 0; n++ {
			g.letGo()
		}
		b.next = attn + brakePace
	}
	for len(b.queue) > 0 {
		ix, ok := g.byID[b.queue[0]]
		if ok && attn-g.targets[ix].brakedSince < brakeMax {
			b.next = min(b.next, g.targets[ix].brakedSince+brakeMax)
			break
		}
		g.letGo()
	}
	if len(b.queue) > 0 {
		return
	}
	if _, _, many := g.wave(); many || b.stopEnd > g.clock.last {
		return
	}
	e := &Event{Name: EvBrakeOff, Level: LevelWarning, Slot: -1, Reason: "over"}
	e.Message = fmt.Sprintf("the wave is over after %s: %d ladders were held, %d of them spared, %d let go",
		seconds(attn-b.since), b.held, b.spared, b.released)
	g.emit(e)
	*b = brake{}
}

// letGo lets the one go that was held longest: what it was condemned on is old by
// now, so it is looked at again, and then its ladder begins.
func (g *Guard) letGo() {
	b := &g.brake
	id := b.queue[0]
	b.queue = b.queue[1:]
	if ix, ok := g.byID[id]; ok && g.targets[ix].state == Braked {
		t := &g.targets[ix]
		b.released++
		if t.let = true; t.opening { // and once it is open: see reidentified
			t.state, g.due[ix] = Late, never
			return
		}
		g.gather(ix)
	}
}
