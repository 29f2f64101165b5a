package alert

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

const (
	// reconcileEvery is how often what is open is compared with what the guard
	// says: an episode may come to nothing without an event.
	reconcileEvery = time.Minute
	// silentMax is how long the guard may say nothing; it does each 10 s.
	silentMax = 30 * time.Second
	// redial is the pause before the guard is called again.
	redial = time.Second
	// askTime bounds a question to the guard.
	askTime = 10 * time.Second
	// batchEvents are taken in before what they led to is written.
	batchEvents = 256
)

// Agent follows the guard's events and delivers what they mean.
type Agent struct {
	Config Config
	Store  *Store
	Report func(string) // what went wrong, a line each; from many goroutines
	Ready  func()       // called once the store is open and the guard was called for the first time
	Turn   func(status string)

	tracker  *Tracker
	cursor   string
	called   bool // the guard, for the first time
	caughtUp bool // all events up to now are taken in
	lost     bool
	failed   string // what is wrong with the store, said once
	unasked  string // why the guard could not be asked, said once
	seen     time.Time
	looked   time.Time // at the clock
	compared time.Time
	full     dropping // alerts
	over     dropping // notifications
}

// message is what the follower says to the agent.
type message struct {
	followed control.Followed
	err      error  // the guard is not to be reached
	refused  string // it takes no such cursor; the oldest event comes next
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	cursor, open, closed := a.Store.Load()
	a.cursor = cursor
	a.tracker = NewTracker(a.Config.Terms, a.Config.EventHold.Duration, open, closed)
	var all sync.WaitGroup
	defer all.Wait()
	messages := make(chan message, batchEvents)
	all.Go(func() { a.follow(ctx, cursor, messages) })
	for _, r := range a.Config.Receivers {
		d := delivery{name: r.Name, store: a.Store, post: newPoster(r, a.Config.Host).post, report: a.Report}
		if r.Type == TypeAlertmanager {
			d.refresh = r.ResolveTimeout.Duration / 4
		}
		all.Go(func() { d.run(ctx) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for a.turn(ctx, messages, tick.C) {
	}
}

// turn takes in what there is and does what is due; false: ctx has ended.
func (a *Agent) turn(ctx context.Context, messages <-chan message, tick <-chan time.Time) bool {
	select {
	case m := <-messages:
		a.take(m)
	case <-tick:
	case <-ctx.Done():
		a.keep(true)
		return false
	}
	now := a.now()
	for range batchEvents { // no alert fires for want of an event that is there
		select {
		case m := <-messages:
			a.take(m)
			continue
		default:
		}
		break
	}
	a.pass(ctx, now)
	return true
}

// now is the time; that the clock was set ahead since the last time is noted.
func (a *Agent) now() time.Time {
	now := time.Now()
	if !a.looked.IsZero() {
		a.tracker.SetAhead(setAhead(a.looked.Round(0), now.Round(0), now.Sub(a.looked)))
	}
	a.looked = now
	return now
}

// setAhead says by how much the wall clock was set ahead from one time of it to another, between which so much time went by
// on the monotonic clock. That one stands still while the host sleeps.
func setAhead(from, to time.Time, elapsed time.Duration) time.Duration { return to.Sub(from) - elapsed }

// follow reads the events and begins anew when the guard is gone.
func (a *Agent) follow(ctx context.Context, cursor string, out chan<- message) {
	say := func(m message) error {
		select {
		case out <- m:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for ctx.Err() == nil {
		client, err := control.Dial(a.Config.Socket)
		if err == nil {
			life, cancel := context.WithCancel(ctx)
			silent := time.AfterFunc(silentMax, cancel)
			err = client.Follow(life, cursor, func(x control.Followed) error {
				silent.Reset(silentMax)
				cursor = x.Cursor
				return say(message{followed: x})
			})
			silent.Stop()
			cancel()
			var refused *control.InvalidError
			switch {
			case errors.As(err, &refused) && cursor != control.CursorOldest:
				if say(message{refused: cursor}) != nil {
					return
				}
				cursor = control.CursorOldest
				continue
			case err == nil:
				err = fmt.Errorf("checkprocd has ended")
			}
		}
		if say(message{err: err}) != nil {
			return
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

// take takes in one message.
func (a *Agent) take(m message) {
	now := a.now()
	if !a.called {
		a.called = true
		a.Ready()
	}
	if m.err != nil {
		a.caughtUp = false
		if !a.lost {
			a.lost = true
			a.Report(fmt.Sprintf("the guard is not to be reached: %v; trying again each %s", m.err, redial))
			a.tracker.Lost(now, fmt.Sprintf("the guard is not to be reached: %v", m.err))
		}
		return
	}
	if m.refused != "" {
		a.caughtUp, a.compared = false, time.Time{}
		a.Report(fmt.Sprintf("the guard does not know the place %q in its events; reading all that it has", m.refused))
		a.tracker.Again()
		return
	}
	if a.lost {
		a.lost, a.compared = false, time.Time{}
		a.Report("the guard is there again")
		a.tracker.Found(now)
	}
	if m.followed.Missed != 0 {
		a.compared = time.Time{}
	}
	a.cursor = m.followed.Cursor
	a.caughtUp = m.followed.Event == nil
	if !a.caughtUp {
		a.tracker.Event(*m.followed.Event)
	}
}

// pass does what is due and writes what was decided.
func (a *Agent) pass(ctx context.Context, now time.Time) {
	switch {
	case a.lost:
		a.tracker.TickLost(now)
	case a.caughtUp:
		if a.compared.IsZero() || a.tracker.Watching() && now.Sub(a.compared) >= reconcileEvery {
			a.compare(ctx, now)
		}
		a.tracker.Tick(now)
	}
	a.keep(now.Sub(a.seen) >= reconcileEvery)
	waiting, dropped := a.Store.Waiting()
	a.sayDropped(&a.full, now, uint64(a.tracker.Dropped()), "%d events opened no alert: %d stand", maxOpen)
	a.sayDropped(&a.over, now, dropped, "%d notifications were dropped, the oldest of a receiver for which %d wait", maxQueue)
	status := fmt.Sprintf("%d alerts stand, %d notifications wait", len(a.tracker.Standing()), waiting)
	if a.lost {
		status += ", the guard is not to be reached"
	}
	if n := uint64(a.tracker.Dropped()) + dropped; n > 0 {
		status += fmt.Sprintf(", %d were dropped", n)
	}
	a.Turn(status)
}

// dropping is what was said about something that is dropped.
type dropping struct {
	at   time.Time
	said uint64
}

// sayDropped reports what was dropped, at once and then each hour while it is more.
func (a *Agent) sayDropped(d *dropping, now time.Time, n uint64, format string, bound int) {
	if n == d.said || !d.at.IsZero() && now.Sub(d.at) < sayAgain {
		return
	}
	a.Report(fmt.Sprintf(format, n-d.said, bound))
	d.at, d.said = now, n
}

// errPartial: the rights may change at any time, by a reload of the guard or in /etc/group.
var errPartial = errors.New("it does not show the processes of other users: see control.read_group")

// compare asks the guard what it knows. Meanwhile no event is taken in, so that
// none is newer than the answer.
func (a *Agent) compare(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a.compared = now
	client, err := control.Dial(a.Config.Socket)
	if err == nil {
		defer client.Close()
		var status control.Status
		var targets []control.Target
		var partial bool
		if status, err = client.Status(ctx); err == nil {
			if targets, partial, err = client.List(ctx); err == nil && partial {
				err = errPartial // what is not shown is not over
			}
			if err == nil {
				a.tracker.Reconcile(now, status, targets)
				a.unasked = ""
				return
			}
		}
	}
	a.compared = time.Time{} // in a second again
	if text := fmt.Sprintf("ask the guard what it knows: %v; trying again", err); text != a.unasked {
		a.unasked = text
		a.Report(text)
	}
}

// keep writes what was decided; always: also where that is nothing, so that the
// cursor does not stay too far behind.
func (a *Agent) keep(always bool) {
	step := a.tracker.Step()
	var err error
	switch {
	case !step.Empty() || always:
		a.seen = time.Now()
		err = a.Store.Put(step, a.cursor)
	default:
		err = a.Store.Flush()
	}
	switch {
	case err == nil && a.failed != "":
		a.failed = ""
		a.Report("the queue is on the disk again")
	case err != nil && a.failed != err.Error():
		a.failed = err.Error()
		a.Report(fmt.Sprintf("the queue cannot be written: %v; delivering from memory, a restart would deliver again or lose what is not written", err))
	}
}
