package watch

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestStuck: of looks at files on a disk that does not answer one is left behind, however often their rule is changed; it is
// said once, whoever waits can go, and other files are looked at meanwhile.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{looks: map[string]chan struct{}{}, slots: make(chan struct{}, maxLooks)}
		answer := make(chan struct{})
		var begun atomic.Int32
		stuck := func() { begun.Add(1); <-answer }
		for range 10 {
			said := 0
			ctx, cancel := context.WithTimeout(t.Context(), 10*slow)
			if w.do(ctx, "dead", stuck, func(string) { said++ }) {
				t.Error("it has looked")
			}
			cancel()
			if said != 1 {
				t.Errorf("said %d times", said)
			}
			if !w.do(t.Context(), "alive", func() {}, func(text string) { t.Error(text) }) {
				t.Error("other files are not looked at")
			}
		}
		if n := begun.Load(); n != 1 {
			t.Errorf("%d looks are stuck", n)
		}
		close(answer)
		synctest.Wait()
		looked := false
		if !w.do(t.Context(), "dead", func() { looked = true }, func(text string) { t.Error(text) }) || !looked {
			t.Error("the disk answers, and nobody looks")
		}
		// Nor is there any number of threads where each rule names other files of it.
		answer = make(chan struct{})
		begun.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan bool)
		for i := range 2 * maxLooks {
			go func() { done <- w.do(ctx, string(rune('a'+i)), func() { begun.Add(1); <-answer }, func(string) {}) }()
		}
		for range 2 * maxLooks {
			<-done
		}
		if n := begun.Load(); n != maxLooks {
			t.Errorf("%d looks are stuck", n)
		}
		close(answer)
	})
}

// TestStuckDirectory: who waits for a directory on such a disk keeps no watch from others, and takes none away.
func TestStuckDirectory(t *testing.T) {
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	a, b, dir := n.subscribe(), n.subscribe(), t.TempDir()
	n.mu.Lock()
	n.adding++ // somebody waits
	n.mu.Unlock()
	for _, s := range []*subscription{a, b} {
		if err := s.watch([]string{dir}); err != nil {
			t.Fatal(err)
		}
	}
	a.end()
	b.end()
	if len(n.by) != 0 || len(n.unused) != 1 {
		t.Errorf("%d watches, %d to be ended", len(n.by), len(n.unused))
	}
	c := n.subscribe()
	if err := c.watch([]string{dir}); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.adding--
	n.sweep()
	n.mu.Unlock()
	if len(n.by) != 1 || len(n.unused) != 0 {
		t.Errorf("%d watches, %d to be ended", len(n.by), len(n.unused))
	}
	go n.run()
	r := &rig{t: t, dir: dir}
	r.write("x", "1")
	select {
	case <-c.moved:
	case <-time.After(patience):
		t.Error("its watch was ended")
	}
}
