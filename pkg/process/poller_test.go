package process

import (
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPollerTimer(t *testing.T) {
	p := newPoller(t)
	if err := p.Arm(Now() + time.Hour); err != nil {
		t.Fatal(err)
	}
	// Replaces the earlier setting, in the future and in the past.
	for _, at := range []time.Duration{Now() + 20*time.Millisecond, Now() - time.Second, 0, -time.Second} {
		if err := p.Arm(at); err != nil {
			t.Fatal(err)
		}
		ready, err := p.Wait(nil)
		if err != nil || len(ready) != 0 {
			t.Fatalf("ready %v, %v", ready, err)
		}
		if now := Now(); now < at {
			t.Errorf("returned %v early", at-now)
		}
	}
}

func TestPollerWake(t *testing.T) {
	p := newPoller(t)
	p.Wake()
	p.Wake() // both before Wait: one return
	if ready, err := p.Wait(nil); err != nil || len(ready) != 0 {
		t.Fatalf("ready %v, %v", ready, err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				p.Wake()
			}
		})
	}
	if _, err := p.Wait(nil); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestPollerMany(t *testing.T) {
	p := newPoller(t)
	const n = 300 // more than one Wait returns
	for i := range n {
		fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := p.Watch(fd, uint64(i)<<32|uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]bool{}
	for range 10 {
		ready, err := p.Wait(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ready {
			seen[id] = true
			if id>>32 != id&0xffffffff || id>>32 >= n {
				t.Fatalf("id %#x was never given", id)
			}
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d were told", len(seen), n)
	}
}

func TestPollerErrors(t *testing.T) {
	p := newPoller(t)
	if err := p.Watch(0, wakeID); err == nil {
		t.Error("reserved id taken")
	}
	if err := p.Watch(1<<20, 1); !errors.Is(err, unix.EBADF) {
		t.Errorf("watch of nothing: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.Wake()
	for _, err := range []error{p.Watch(0, 1), p.Unwatch(0), p.Arm(0)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestPollerDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := newPoller(t)
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := p.Watch(fd, 1); err != nil {
		t.Fatal(err)
	}
	ready := make([]uint64, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		p.Wake()
		if err := p.Arm(Now()); err != nil {
			t.Fatal(err)
		}
		ready, err = p.Wait(ready[:0])
	}); n != 0 || err != nil || len(ready) != 1 {
		t.Errorf("%v allocations, ready %v, %v", n, ready, err)
	}
}
