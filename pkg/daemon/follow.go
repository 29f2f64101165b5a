package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

const (
	// ringSize is how many events are kept for those who follow them: 2 MB when
	// full.
	ringSize = 4096
	// followIdle is how often a follower hears that nothing happened.
	followIdle = 10 * time.Second
	// followBatch is how many events a follower copies at a time.
	followBatch = 64
	// followEnd is what followers have at the end to take what is there.
	followEnd = time.Second
)

// ring keeps the last events for those who follow them. Adding one never waits
// for a follower: each copies what it wants, and one that is too slow misses
// what was overwritten.
type ring struct {
	instance string // of this daemon: a cursor of another one is known as such

	mu     sync.Mutex
	events []control.Event // grows up to ringSize, then each new one takes the place of the oldest
	next   uint64          // how many there have been
	closed bool
	bells  map[chan struct{}]struct{} // of the followers
	idle   chan struct{}              // closed when the ring is, and nobody follows
}

func newRing() *ring {
	return &ring{instance: rand.Text(), bells: map[chan struct{}]struct{}{}, idle: make(chan struct{})}
}

func (r *ring) add(e control.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) < ringSize {
		r.events = append(r.events, e)
	} else {
		r.events[r.next%ringSize] = e
	}
	r.next++
	r.ring()
}

// ring wakes the followers; r.mu is held.
func (r *ring) ring() {
	for bell := range r.bells {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

// close says that nothing more will come, and waits, but not for long, until the
// followers have what is there.
func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.ring()
	if len(r.bells) == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	select {
	case <-r.idle:
	case <-time.After(followEnd):
	}
}

// enter counts a follower in, or says that it comes too late.
func (r *ring) enter() (bell chan struct{}, leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, false
	}
	bell = make(chan struct{}, 1)
	r.bells[bell] = struct{}{}
	return bell, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.bells, bell)
		if r.closed && len(r.bells) == 0 {
			close(r.idle)
		}
	}, true
}

// followers are those that get what is added now.
func (r *ring) followers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.bells)
}

// at finds the event that a cursor stands before. missed is -1 for a cursor of a
// daemon that has ended: what it had, and this one no longer has, is lost.
func (r *ring) at(cursor string) (next uint64, missed int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.next - uint64(len(r.events))
	switch cursor {
	case "":
		return r.next, 0, nil
	case control.CursorOldest:
		return oldest, 0, nil
	}
	instance, number, found := strings.Cut(cursor, ":")
	next, err = strconv.ParseUint(number, 10, 64)
	switch {
	case !found || err != nil || instance == r.instance && next > r.next:
		return 0, 0, &control.InvalidError{Parameter: "cursor"}
	case instance != r.instance:
		return oldest, -1, nil
	}
	return next, 0, nil
}

// take copies events from next on; missed is how many of them are overwritten.
func (r *ring) take(next uint64, into []control.Event) (events []control.Event, missed uint64, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if oldest := r.next - uint64(len(r.events)); next < oldest {
		missed, next = oldest-next, oldest
	}
	for ; next < r.next && len(into) < cap(into); next++ {
		into = append(into, r.events[next%ringSize])
	}
	return into, missed, r.closed
}

// follow sends the events from cursor on, until ctx ends, send fails or the ring
// is closed and empty.
func (r *ring) follow(ctx context.Context, cursor string, send func(control.Followed) error) error {
	next, missed, err := r.at(cursor)
	if err != nil {
		return err
	}
	bell, leave, ok := r.enter()
	if !ok {
		return errStopping
	}
	defer leave()
	still := time.NewTicker(followIdle)
	defer still.Stop()
	message := func(e *control.Event) error {
		x := control.Followed{Cursor: fmt.Sprintf("%s:%d", r.instance, next), Missed: missed, Event: e}
		missed = 0
		return send(x)
	}
	batch := make([]control.Event, 0, followBatch)
	quiet := false // it knows that there is nothing more
	for {
		events, lost, closed := r.take(next, batch[:0])
		next += lost
		if missed >= 0 {
			missed += int64(lost)
		}
		for _, e := range events {
			next++
			if err := message(&e); err != nil {
				return err
			}
			quiet = false
		}
		switch {
		case len(events) > 0:
			continue
		case closed:
			return nil
		case !quiet:
			if err := message(nil); err != nil {
				return err
			}
			quiet = true
		}
		select {
		case <-bell:
		case <-still.C:
			quiet = false
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var controlLevels = map[guard.Level]control.Level{
	guard.LevelInfo: control.LevelInfo, guard.LevelNotice: control.LevelNotice,
	guard.LevelWarning: control.LevelWarning, guard.LevelError: control.LevelError,
}

// keep puts an event into the ring.
func (d *Daemon) keep(e *guard.Event) {
	id := -1
	if hasTable(e) {
		id = int(e.Table)
	}
	d.ring.add(control.Event{TimeUsec: time.Now().UnixMicro(), Name: string(e.Name), Level: controlLevels[e.Level], Message: e.Message,
		PID: e.PID, Process: e.Process, Unit: e.Unit, Table: id, Slot: int(e.Slot), Verdict: e.Verdict, Reason: e.Reason,
		Signal: e.Signal, Episode: e.Episode})
}

func (h handler) Follow(ctx context.Context, _ control.Caller, cursor string, send func(control.Followed) error) error {
	return h.d.ring.follow(ctx, cursor, send)
}

func (h handler) AlertTest(ctx context.Context, c control.Caller) (x control.AlertTested, err error) {
	by := who(c)
	err = h.d.inLoop(ctx, func() {
		x.Followers = h.d.ring.followers()
		h.d.say(evAlertTest, guard.LevelNotice, by, "a test of the alerts, by "+by)
		if unit := h.d.cfg.Alert.Unit; unit != "" && h.d.alerter.left == 0 { // there was room for it
			x.Unit = instance(unit, &guard.Event{Name: evAlertTest})
		}
	})
	return x, err
}
