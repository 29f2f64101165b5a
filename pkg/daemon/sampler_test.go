package daemon

import (
	"testing"

	"github.com/checkprocd/checkprocd/pkg/guard"
)

// TestSamplesAreBounded: while the loop takes nothing no more is kept than it can use, and that is the newest; what it finds
// between two scans is kept, all of it.
func TestSamplesAreBounded(t *testing.T) {
	s := newSampler()
	const targets, most = 3, 10 // 10 s between scans, 1 s between samples
	keep := func(from, to int) {
		for i := from; i < to; i++ {
			for id := range targets {
				s.keep(targets, guard.Sample{Target: guard.TargetID(id), CPU: 1, OpenLimit: int64(i)}, nil, nil)
			}
		}
	}
	keep(0, most)
	if found, _ := s.take(nil); len(found) != targets*most {
		t.Errorf("%d samples", len(found))
	}
	keep(0, 1000)
	found, _ := s.take(nil)
	if n := len(found); n > targets*maxFound || n < targets*most || cap(found) > 4*targets*maxFound {
		t.Errorf("%d samples of %d targets, room for %d", n, targets, cap(found))
	}
	for i, x := range found {
		if back := (len(found) - 1 - i) / targets; x.OpenLimit != int64(999-back) {
			t.Fatalf("%d: %+v", i, x)
		}
	}
}
