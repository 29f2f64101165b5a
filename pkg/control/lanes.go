package control

import (
	"context"
	"time"
)

const (
	// strangersLane and readersLane are how many requests of each kind are under way at a time.
	strangersLane = 1
	readersLane   = 4
	// A place in a lane is free again after restShare times as long as its request took, from restMin on, which is 50
	// requests a second, and up to restMax.
	restShare = 9
	restMin   = 20 * time.Millisecond
	restMax   = time.Second
)

// lanes keep callers that may not steer from asking without a break: what they ask is answered by the loop that guards, of
// which each place gets a tenth. A lane is for all of its kind together and not for each uid: one user may have thousands of
// those (subuid(5)), and connections as they like. Who steers waits for nobody.
type lanes struct {
	strangers, readers chan struct{} // of those who may not see all, and may
}

func newLanes() lanes {
	return lanes{make(chan struct{}, strangersLane), make(chan struct{}, readersLane)}
}

// enter waits for a place in the caller's lane; leave is to be called when the request is answered. Not ok: ctx has ended.
func (l *lanes) enter(ctx context.Context, c *Caller) (leave func(), ok bool) {
	lane := l.strangers
	switch {
	case c.CanSteer:
		return func() {}, true
	case c.CanSeeAll:
		lane = l.readers
	}
	select {
	case lane <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	begun := time.Now()
	return func() {
		rest := min(max(restShare*time.Since(begun), restMin), restMax)
		time.AfterFunc(rest, func() { <-lane })
	}, true
}
