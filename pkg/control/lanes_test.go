package control

import (
	"bufio"
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLanes: many users, over as many connections as there may be, take a tenth of the loop's time at most, and no more than
// 50 answers a second; who may steer never waits for them.
func TestLanes(t *testing.T) {
	for name, tt := range map[string]struct {
		caller Caller
		takes  time.Duration
		share  float64 // of the time, of all answers together
		atOnce int
		most   int // answers in a second
	}{
		"strangers, cheap": {Caller{}, 100 * time.Microsecond, 0.1, 1, 51},
		"strangers, dear":  {Caller{}, 10 * time.Millisecond, 0.1 + 1e-3, 1, 51},
		"readers, dear":    {Caller{CanSeeAll: true}, 10 * time.Millisecond, 0.4 + 1e-2, 4, 204},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const lasts = 20 * time.Second
				ctx, cancel := context.WithTimeout(t.Context(), lasts)
				defer cancel()
				l := newLanes()
				var mu sync.Mutex
				var now, atOnce, answers int
				count := func(by int) {
					mu.Lock()
					defer mu.Unlock()
					now += by
					atOnce = max(atOnce, now)
					answers += max(by, 0)
				}
				var flood sync.WaitGroup
				for uid := range 56 {
					flood.Go(func() {
						c := tt.caller
						c.UID = uint32(1000 + uid)
						for {
							leave, ok := l.enter(ctx, &c)
							if !ok {
								return
							}
							count(1)
							time.Sleep(tt.takes)
							count(-1)
							leave()
						}
					})
				}
				for range 1000 {
					time.Sleep(time.Millisecond)
					asked := time.Now()
					leave, ok := l.enter(ctx, &Caller{UID: 7, CanSteer: true, CanSeeAll: true})
					if waited := time.Since(asked); !ok || waited > 0 {
						t.Fatalf("who may steer waited %v", waited)
					}
					leave()
				}
				flood.Wait()
				if atOnce != tt.atOnce || answers > tt.most*int(lasts/time.Second) || float64(answers)*tt.takes.Seconds() > tt.share*lasts.Seconds() {
					t.Errorf("%d answers, %d at once", answers, atOnce)
				}
				if answers < 9*int(lasts/time.Second) {
					t.Errorf("only %d answers", answers)
				}
				time.Sleep(restMax) // the last places become free
			})
		})
	}
}

// TestFloodHoldsUpNobodyElse: where the lane of those who may see only their own is full, all others are answered.
func TestFloodHoldsUpNobodyElse(t *testing.T) {
	h := &fake{}
	s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), roles: newRoles(990, "50", "4"), lanes: newLanes()}
	connect := func(c Caller) *raw {
		conn, done := connected(t, s, c)
		t.Cleanup(func() { conn.Close(); <-done })
		_ = conn.SetDeadline(time.Now().Add(generous))
		return &raw{t, conn, bufio.NewReader(conn)}
	}
	s.lanes.strangers <- struct{}{}
	stranger, other := connect(Caller{UID: 1000, GID: 1000}), connect(Caller{UID: 1001, GID: 1001})
	stranger.say(`{"method":"io.checkproc.GetStatus"}` + "\x00")
	other.say(`{"method":"io.checkproc.GetStatus"}` + "\x00")
	for _, c := range []Caller{{UID: 0}, {UID: 990}, {UID: 1002, GID: 50}, {UID: 1003, GID: 4}, {UID: 1000, GID: 1000, Groups: []uint32{50}}} {
		r := connect(c)
		for range 3 {
			r.say(`{"method":"io.checkproc.List"}` + "\x00")
			if got := r.hear(); got != `{"parameters":{"targets":[],"partial":false}}` {
				t.Errorf("%+v: %s", c, got)
			}
		}
	}
	if slices.Contains(h.calls, "GetStatus") {
		t.Error("a stranger was answered although one was under way")
	}
	<-s.lanes.strangers
	stranger.hear()
	other.hear()
}
