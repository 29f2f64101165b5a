package alert

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// batchSize is how many notifications one request has at most.
	batchSize = 100
	// A receiver that fails is tried again after retryMin, then twice as long, up
	// to retryMax, each time up to half of it sooner; it may ask for up to
	// retryAsked.
	retryMin   = time.Second
	retryMax   = time.Minute
	retryAsked = 10 * time.Minute
	// sayAgain is how often a receiver that keeps failing is reported.
	sayAgain = time.Hour
	// lastChance is for a request that is under way at the end: one that was taken,
	// and is not recorded, would be sent again by the next process.
	lastChance = 2 * time.Second
)

// delivery brings to one receiver what waits for it, in order.
type delivery struct {
	name    string
	store   *Store
	post    func(context.Context, []Notification) error
	refresh time.Duration // how often the alerts that stand are sent again; 0: never
	report  func(string)

	failing time.Time // since when
	said    time.Time // when that was reported last
	refused time.Time // when it was reported last that what stands is rejected
	wait    time.Duration
	single  bool // one of the next batch was rejected
}

// run delivers until ctx ends.
func (d *delivery) run(ctx context.Context) {
	bell := d.store.bells[d.name]
	var again <-chan time.Time
	fresh := time.Time{} // when the alerts that stand were sent last
	for ctx.Err() == nil {
		if d.refresh > 0 && time.Since(fresh) >= d.refresh {
			if d.sendStanding(ctx) {
				fresh = time.Now()
			}
			continue
		}
		n := batchSize
		if d.single {
			n = 1
		}
		if batch := d.store.head(d.name, n); len(batch) > 0 {
			d.settle(ctx, d.send(ctx, batch), batch)
			continue
		}
		if d.refresh > 0 {
			again = time.After(d.refresh - time.Since(fresh))
		}
		select {
		case <-bell:
		case <-again:
		case <-ctx.Done():
		}
	}
}

// sendStanding says once more what stands. It does not wait until nothing else does:
// what is not said again ends at the receiver.
func (d *delivery) sendStanding(ctx context.Context) (done bool) {
	for batch := range slices.Chunk(d.store.standing(d.name), batchSize) {
		err := d.send(ctx, batch)
		if errors.Is(err, errRejected) { // some of it: Alertmanager takes the others
			if time.Since(d.refused) >= sayAgain {
				d.refused = time.Now()
				d.report(fmt.Sprintf("%s: what stands is rejected in part: %v", d.name, err))
			}
			continue
		}
		if !d.settle(ctx, err, nil) {
			return false
		}
	}
	return true
}

// send posts, and goes on for lastChance after the end of ctx.
func (d *delivery) send(ctx context.Context, list []Notification) error {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastChance, cancel) })
	defer stop()
	return d.post(longer, list)
}

// settle draws the consequences of an attempt, and waits after a failure.
func (d *delivery) settle(ctx context.Context, err error, batch []Notification) (done bool) {
	switch {
	case err == nil:
		d.ack(batch)
		if !d.failing.IsZero() {
			d.report(fmt.Sprintf("%s: delivers again, after %s", d.name, time.Since(d.failing).Round(time.Second)))
		}
		d.failing, d.said, d.wait, d.single = time.Time{}, time.Time{}, 0, false
		return true
	case ctx.Err() != nil:
		return false
	case errors.Is(err, errRejected) && len(batch) > 1:
		d.single = true // only that one is given up
		return false
	case errors.Is(err, errRejected) && len(batch) == 1:
		d.report(fmt.Sprintf("%s: notification %s is rejected, giving it up: %v", d.name, batch[0].ID, err))
		d.ack(batch)
		return true
	}
	now := time.Now()
	if d.failing.IsZero() {
		d.failing = now
	}
	d.wait = min(max(2*d.wait, retryMin), retryMax)
	pause := d.wait - rand.N(d.wait/2)
	var answer *statusError
	if errors.As(err, &answer) && answer.after > 0 {
		pause = min(answer.after, retryAsked)
	}
	if now.Sub(d.said) >= sayAgain {
		d.said = now
		d.report(fmt.Sprintf("%s: cannot deliver: %v; it waits in the queue, trying again", d.name, err))
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

func (d *delivery) ack(batch []Notification) {
	if len(batch) > 0 {
		_ = d.store.Ack(d.name, batch) // at worst it is delivered twice
	}
}
