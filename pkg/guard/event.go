package guard

import (
	"fmt"
	"time"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// EventName is the stable name of a kind of event (CHECKPROC_EVENT).
type EventName string

// The events. deploy/checkprocd.catalog explains each to its reader.
const (
	EvRegistered    EventName = "registered"
	EvUnregistered  EventName = "unregistered"
	EvExited        EventName = "exited"
	EvCleared       EventName = "cleared"
	EvLate          EventName = "late"
	EvCondemned     EventName = "condemned"
	EvWouldCondemn  EventName = "would-condemn"
	EvSignalled     EventName = "signalled"
	EvRecovered     EventName = "recovered"
	EvKilled        EventName = "killed"
	EvUnkillable    EventName = "unkillable"
	EvRefused       EventName = "refused"
	EvForeign       EventName = "foreign"
	EvUnguarded     EventName = "unguarded"
	EvChanged       EventName = "changed"
	EvIgnored       EventName = "ignored"
	EvHeld          EventName = "held"
	EvReleased      EventName = "released"
	EvBrakeOn       EventName = "brake-on"
	EvBrakeOff      EventName = "brake-off"
	EvGap           EventName = "gap"
	EvTableAttached EventName = "table-attached"
	EvTableLost     EventName = "table-lost"
	EvTableFull     EventName = "table-full"
	EvSemaphore     EventName = "semaphore"
	EvOldGuard      EventName = "old-guard"
	EvCollateral    EventName = "collateral"
	EvUnreaped      EventName = "unreaped"
	EvRestored      EventName = "restored"
	EvRestoreFailed EventName = "restore-failed"
	EvActing        EventName = "acting"
	EvObserving     EventName = "observing"
)

const (
	// noiseBurst events of kinds that a writer of a 0666 table can provoke at
	// will (refused, foreign, changed, unguarded) may come at once, then one
	// each noiseRefill: a forger must not be able to flood the journal.
	noiseBurst  = 60
	noiseRefill = time.Second
)

// noise is a token bucket on the attention clock.
type noise struct {
	spent      int
	since      time.Duration
	suppressed int
}

func (n *noise) allow(now time.Duration) bool {
	if back := int((now - n.since) / noiseRefill); back > 0 {
		n.spent = max(0, n.spent-back)
		n.since += time.Duration(back) * noiseRefill
	}
	if n.spent >= noiseBurst {
		n.suppressed++
		return false
	}
	n.spent++
	return true
}

// emit adds an event to the decisions of this step.
func (g *Guard) emit(e *Event) {
	if g.provocable(e) {
		if !g.noise.allow(g.clock.attn) {
			return
		}
		if g.noise.suppressed > 0 {
			e.Message += fmt.Sprintf(" (%d such reports before this one were left out)", g.noise.suppressed)
			g.noise.suppressed = 0
		}
	}
	g.decisions = append(g.decisions, e)
}

// provocable says whether a writer of the table can provoke an event at will.
func (g *Guard) provocable(e *Event) bool {
	switch e.Name {
	case EvRefused, EvForeign, EvChanged, EvUnguarded, EvIgnored:
		return true
	case EvLate, EvRecovered, EvHeld, EvReleased:
		ix, ok := g.byID[e.Target]
		return ok && g.targets[ix].consent != ConsentProven
	}
	return false
}

// about is an event about a target, with its facts filled in.
func (g *Guard) about(ix int32, name EventName, level Level, reason string) *Event {
	t := &g.targets[ix]
	return &Event{
		Name: name, Level: level, Target: t.id, PID: t.pid, Process: t.displayName(),
		Table: t.table, Slot: t.slot, Timeout: t.limit, Silence: t.silence(g.clock.attn),
		Verdict: t.verdict, Unit: t.facts.Unit, Reason: reason,
	}
}

// aboutSlot is an event about a record without a target.
func (g *Guard) aboutSlot(tb *tableState, slot int32, name EventName, level Level, reason string) *Event {
	r := &tb.prev[slot]
	return &Event{
		Name: name, Level: level, PID: r.PID, Process: table.CleanName(&r.Name),
		Table: tb.id, Slot: slot, Timeout: time.Duration(r.Timeout) * time.Second, Reason: reason,
	}
}

// seconds prints a duration as a reader of a journal wants it: 33.0s.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// who names a process in a message: pid 4242 (ftpget).
func who(pid int32, name string) string {
	if name == "" {
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("pid %d (%s)", pid, name)
}
