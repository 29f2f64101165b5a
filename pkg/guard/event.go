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
	EvWouldClear    EventName = "would-clear"
	EvWaiting       EventName = "waiting"
	EvSignalled     EventName = "signalled"
	EvRecovered     EventName = "recovered"
	EvKilled        EventName = "killed"
	EvProtected     EventName = "protected"
	EvUnkillable    EventName = "unkillable"
	EvRefused       EventName = "refused"
	EvForeign       EventName = "foreign"
	EvUnguarded     EventName = "unguarded"
	EvChanged       EventName = "changed"
	EvIgnored       EventName = "ignored"
	EvHeld          EventName = "held"
	EvReleased      EventName = "released"
	EvPaused        EventName = "paused"
	EvResumed       EventName = "resumed"
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
	EvLeftDown      EventName = "left-down"
	EvGaveUp        EventName = "gave-up"
	EvRetrying      EventName = "retrying"
	EvActing        EventName = "acting"
	EvObserving     EventName = "observing"
)

// The events of limits.
const (
	EvLimit          EventName = "limit"
	EvLimitOver      EventName = "limit-over"
	EvLimitRestarted EventName = "limit-restarted"
	EvLimitFailed    EventName = "limit-failed"
	EvThrottled      EventName = "throttled"
	EvUnthrottled    EventName = "unthrottled"
)

// A forger must not be able to flood the journal: events of kinds that a writer
// of a 0666 table can provoke at will may come in a burst, then at a rate. There
// are two buckets, so that loud forgeries do not hide who comes and goes.
const (
	// Forgeries and oddities: refused, foreign, changed, unguarded, ignored.
	noiseBurst  = 60
	noiseRefill = time.Second
	// Who comes and goes. journald takes 10000 records in 30 s of a service
	// before it drops any.
	churnBurst  = 5000
	churnRefill = 10 * time.Millisecond
)

// bucket is a token bucket on the attention clock.
type bucket struct {
	burst      int
	refill     time.Duration
	spent      int
	since      time.Duration
	suppressed int
}

func (n *bucket) allow(now time.Duration) bool {
	if back := int((now - n.since) / n.refill); back > 0 {
		n.spent = max(0, n.spent-back)
		n.since += time.Duration(back) * n.refill
	}
	if n.spent >= n.burst {
		n.suppressed++
		return false
	}
	n.spent++
	return true
}

// emit adds an event to the decisions of this step.
func (g *Guard) emit(e *Event) {
	if b := g.bucketOf(e); b != nil {
		if !b.allow(g.clock.attn) {
			return
		}
		if b.suppressed > 0 {
			e.Message += fmt.Sprintf(" (%d such reports before this one were left out)", b.suppressed)
			b.suppressed = 0
		}
	}
	g.decisions = append(g.decisions, e)
}

// bucketOf says what bounds an event that a writer of the table can provoke at
// will; nil: nothing, it comes of a verdict.
func (g *Guard) bucketOf(e *Event) *bucket {
	switch e.Name {
	case EvRefused:
		if e.Level == LevelError { // about a late target that cannot be acted on
			return nil
		}
		return &g.noise
	case EvForeign, EvChanged, EvUnguarded, EvIgnored:
		return &g.noise
	case EvLate, EvRecovered, EvHeld, EvReleased:
		if ix, ok := g.byID[e.Target]; ok && g.targets[ix].consent != ConsentProven {
			return &g.noise
		}
	case EvRegistered, EvUnregistered, EvExited, EvCleared, EvWouldClear, EvUnreaped, EvLimit, EvLimitOver:
		return &g.churn
	}
	return nil
}

// about is an event about a target, with its facts filled in.
func (g *Guard) about(ix int32, name EventName, level Level, reason string) *Event {
	t := &g.targets[ix]
	return &Event{
		Name: name, Level: level, Target: t.id, PID: t.pid, Process: t.displayName(),
		Table: t.table, Slot: t.slot, Timeout: t.limit, Silence: t.silence(g.clock.attn),
		Verdict: t.verdict, Unit: t.facts.Unit, Reason: reason, Episode: t.episode(),
	}
}

// episode names the episode that a target is in, "" if it is in none: no other one,
// of this target or of another, has ever the same name.
func (t *target) episode() string {
	if t.began == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", t.id, t.began.Microseconds())
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
