package guard

import (
	"fmt"
	"time"
)

// semStuck is how long the clients' semaphore must look the same, taken and
// with waiters, before it is reported or repaired. Clients hold it for the
// copy of 72 bytes.
const semStuck = 5 * time.Second

// semWatch follows the clients' semaphore. The guard never takes it.
type semWatch struct {
	last  Semaphore
	since time.Duration
	said  bool
}

func (o Semaphore) apply(g *Guard) {
	w := &g.sem
	same := w.last.ID == o.ID && w.last.Value == o.Value && w.last.LastPID == o.LastPID && w.last.OTime == o.OTime && w.last.Waiters > 0
	stuck := o.Value == 0 && o.Waiters > 0
	if !same || !stuck {
		*w = semWatch{last: o, since: g.clock.attn}
		return
	}
	w.last = o
	held := g.clock.attn - w.since
	if held < semStuck {
		return
	}
	repair := o.OTime == 0 && g.acting && o.Repairable
	if repair {
		g.decide(RepairSemaphore{o.ID})
		w.since = g.clock.attn // should it not help: again
	}
	if w.said {
		return
	}
	w.said = true
	e := &Event{Name: EvSemaphore, Level: LevelError, PID: o.LastPID, Slot: -1, Silence: held}
	switch {
	case repair:
		e.Level, e.Reason = LevelWarning, "never initialised"
		e.Message = fmt.Sprintf("semaphore %d was never initialised (its creator died before it set it) and %d clients wait for it: set to 1", o.ID, o.Waiters)
	case o.OTime == 0:
		e.Reason = "never initialised"
		e.Message = fmt.Sprintf("semaphore %d was never initialised and %d clients wait for it: they hang before they are guarded; not repairing: not acting here or no right to", o.ID, o.Waiters)
	default:
		e.Reason = "held"
		e.Message = fmt.Sprintf("semaphore %d is held by %s for %s, %d clients wait for it and hang before they are guarded: look why that process is stopped, and let it go on or end it",
			o.ID, who(o.LastPID, o.LastComm), seconds(held), o.Waiters)
	}
	g.emit(e)
}
