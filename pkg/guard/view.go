package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// View is what is to be seen of one target, or of one record without a target.
type View struct {
	ID       TargetID
	Table    TableID
	Slot     int32
	Slots    []int32
	PID      int32
	Name     string
	Unit     string
	User     string
	UID      uint32
	Target   bool // a verified process is behind it
	State    string
	Verdict  string
	Reason   string
	Timeout  time.Duration
	Silence  time.Duration
	Deadline time.Duration // until it is late; negative: since; 0 with Timeout 0: never
	Rule     int           // -1: the defaults
	Shield   string        // the pattern that protects it, "" if none does
	Hold     string        // why an order holds it, "" if none does
	Episode  string        // that it is in, "" if it is in none
	Recovery string        // how often it was started again lately, "" if never
	Limits   []string      // that it exceeds: "memory 612MiB > 500MiB: throttle"
}

var phaseNames = [...]string{"empty", "forming", "guarded", "stale", "foreign", "refused", "unverified"}

// Views lists all targets and all records that name nobody, in the order of
// tables and slots.
func (g *Guard) Views() []View { return g.views(func(uint32) bool { return true }) }

// ViewsOf lists those of a user; what that costs grows with his own targets only.
func (g *Guard) ViewsOf(uid uint32) []View {
	return g.views(func(of uint32) bool { return of == uid })
}

// views lists those of some users; a record that names nobody is of user 0.
func (g *Guard) views(of func(uid uint32) bool) []View {
	var out []View
	slots := make(map[int32][]int32)
	for _, tb := range g.tables {
		for i := range tb.slots {
			if ix := tb.slots[i].owner; ix >= 0 && of(g.targets[ix].facts.UID) {
				slots[ix] = append(slots[ix], int32(i))
			}
		}
	}
	for _, tb := range g.tables {
		for i := range tb.slots {
			s, r := &tb.slots[i], &tb.prev[i]
			switch {
			case r.PID == 0:
			case s.owner < 0 && of(0):
				out = append(out, View{Table: tb.id, Slot: int32(i), Slots: []int32{int32(i)}, PID: r.PID,
					Name: table.CleanName(&r.Name), State: phaseNames[s.phase], Rule: -1,
					Timeout: time.Duration(r.Timeout) * time.Second})
			case s.owner >= 0 && slots[s.owner] != nil && g.targets[s.owner].table == tb.id && g.targets[s.owner].slot == int32(i):
				out = append(out, g.view(s.owner, slots[s.owner]))
			}
		}
	}
	for ix := range g.targets {
		if t := &g.targets[ix]; t.used && t.slots == 0 && t.state != Ended && of(t.facts.UID) {
			out = append(out, g.view(int32(ix), nil))
		}
	}
	return out
}

func (g *Guard) view(ix int32, slots []int32) View {
	t := &g.targets[ix]
	v := View{ID: t.id, Table: t.table, Slot: t.slot, Slots: slots, PID: t.pid, Name: t.displayName(), Unit: t.facts.Unit, User: t.facts.User,
		UID: t.facts.UID, Target: true, State: t.state.String(), Verdict: t.verdict, Reason: t.complaint,
		Timeout: t.limit, Silence: t.silence(g.clock.attn), Rule: t.policy.Rule, Episode: t.episode(), Shield: t.shield, Recovery: g.recoveryOf(t),
		Limits: t.exceeds()}
	if h := g.heldBy(ix); h != nil {
		v.Hold = fmt.Sprintf("held by %s for %s more%s", orSomebody(h.by), seconds(h.until-g.clock.last), h.because())
	}
	switch {
	case t.state == Wiped || t.state == Unguarded: // nobody judges it
		v.Timeout = 0
	case t.limit > 0:
		v.Deadline = t.patience - v.Silence
	}
	switch {
	case t.slots > 0 && t.latched == 0:
		v.State, v.Rule = "forming", -1
	case t.forged():
		v.State = "refused"
	case t.misnamed:
		v.State, v.Reason = "refused", t.notAllowed()
	case t.state == Rereading:
		v.State = "late"
	case t.state == Watched || t.state == Guarded:
		switch {
		case t.consent != ConsentProven:
			v.State = "unverified"
		case t.limit <= 0:
			v.State = "ignored"
		}
	}
	return v
}

// Counters are counted since the registry began.
type Counters struct {
	Scans, Condemned, Signalled, Killed, Recovered, Cleared, Unkillable, Exits, Gaps uint64
	Would                                                                            uint64 // decided, and only reported
	Waited                                                                           uint64 // starved or blocked, and given one more timeout
}

// Count returns the counters.
func (g *Guard) Count() Counters {
	return Counters{Scans: g.scans, Condemned: g.condemnations, Signalled: g.signals, Killed: g.kills, Recovered: g.recoveries,
		Would: g.would, Waited: g.waits, Cleared: g.cleared, Unkillable: g.unkillables, Exits: g.exits, Gaps: g.gapCount}
}

// BrakeView is what is to be seen of the brake.
type BrakeView struct {
	On      bool
	Waiting int
	Since   time.Duration // how long it has been on
}

// Brake returns the state of the brake.
func (g *Guard) Brake() BrakeView {
	if !g.brake.on {
		return BrakeView{}
	}
	return BrakeView{On: true, Waiting: len(g.brake.queue), Since: g.clock.attn - g.brake.since}
}

// Tally counts targets by what the status line wants to know.
type Tally struct {
	Targets, Guarded, Forming, Late, Held, Ladders, Unverified, Refused, Unguarded, Used, Slots int
	GivenUp                                                                                     int // names
}

// Tally counts without allocating.
func (g *Guard) Tally() Tally {
	var n Tally
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used || t.state == Ended {
			continue
		}
		n.Targets++
		switch {
		case t.slots > 0 && t.latched == 0:
			n.Forming++
		case t.forged(), t.misnamed:
			n.Refused++
		case t.state == Wiped || t.state == Unguarded:
			n.Unguarded++
		case t.state == Held:
			n.Held++
		case t.state == Ladder || t.state == Unkillable:
			n.Ladders++
		case t.state == Late || t.state == Rereading || t.state == Waiting || t.state == Reported || t.state == Braked:
			n.Late++
		case t.state == Guarded && t.consent == ConsentProven:
			n.Guarded++
		default:
			n.Unverified++
		}
	}
	n.GivenUp = g.givenUp()
	for _, tb := range g.tables {
		n.Used += tb.used
		n.Slots += len(tb.slots)
	}
	return n
}

// Census counts what Views lists.
type Census struct {
	Refused, Foreign, Limited int
	Used, Live                map[TableID]int // records, and those of them that name a target
}

// Census counts without building what Views lists: anybody may ask for the status,
// again and again.
func (g *Guard) Census() Census {
	n := Census{Used: map[TableID]int{}, Live: map[TableID]int{}}
	for _, tb := range g.tables {
		for i := range tb.slots {
			switch s := &tb.slots[i]; {
			case s.owner >= 0:
				n.Live[tb.id]++
			case tb.prev[i].PID == 0:
				continue
			case s.phase == slotRefused:
				n.Refused++
			case s.phase == slotForeign:
				n.Foreign++
			}
			n.Used[tb.id]++
		}
	}
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used || t.slots == 0 && t.state == Ended {
			continue
		}
		if (t.forged() || t.misnamed) && !(t.slots > 0 && t.latched == 0) {
			n.Refused++
		}
		if slices.ContainsFunc(t.gauges, func(m gauge) bool { return m.over }) {
			n.Limited++
		}
	}
	return n
}

// forged says whether a target is named by a record and did not join itself.
func (t *target) forged() bool {
	return t.consent == ConsentNotMapped || t.consent == ConsentOtherNamespace
}

// Acts says whether this guard acts, and why not.
func (g *Guard) Acts() (acts bool, why string) {
	if g.acting {
		return true, ""
	}
	return false, g.notActing
}
