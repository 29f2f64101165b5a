package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestQueueWakes has each line arrive without another one behind it.
func TestQueueWakes(t *testing.T) {
	var missed atomic.Uint64
	arrived := make(chan string)
	q := newQueue(writerFunc(func(p []byte) (int, error) { arrived <- string(p); return len(p), nil }), 1, &missed)
	line := []byte("....")
	for i := range 20000 { // zerolog's diode fails here within the first few
		copy(line, fmt.Sprintf("%04x", i))
		if _, err := q.Write(line); err != nil {
			t.Fatal(err)
		}
		if got := <-arrived; got != string(line) {
			t.Fatalf("line %q came as %q", line, got)
		}
	}
	if err := q.Close(); err != nil || missed.Load() != 0 {
		t.Errorf("close: %v; %d missed", err, missed.Load())
	}
}

// TestQueueStalls fills the queue in front of a sink that does not take anything.
func TestQueueStalls(t *testing.T) {
	var missed atomic.Uint64
	var out bytes.Buffer
	entered, enter := make(chan struct{}), make(chan struct{})
	var once sync.Once
	q := newQueue(writerFunc(func(p []byte) (int, error) {
		once.Do(func() { close(entered); <-enter })
		return out.Write(p)
	}), 3, &missed)
	write := func(text string) {
		t.Helper()
		if n, err := io.WriteString(q, text); err != nil || n != len(text) {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	write("0")
	<-entered
	for _, text := range []string{"1", "2", "3", "4", "5"} {
		write(text)
	}
	if got := missed.Load(); got != 2 {
		t.Errorf("%d missed of 5 in a queue for 3", got)
	}
	close(enter)
	if err := q.Close(); err != nil || out.String() != "0123" {
		t.Errorf("close: %v; written %q", err, out.String())
	}
	if _, err := q.Write(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	_ = q.Close()
}

func TestQueueCountsFailures(t *testing.T) {
	var missed atomic.Uint64
	q := newQueue(writerFunc(func([]byte) (int, error) { return 0, io.ErrShortWrite }), 8, &missed)
	_, _ = io.WriteString(q, "a")
	_, _ = io.WriteString(q, "b")
	_ = q.Close()
	if got := missed.Load(); got != 2 {
		t.Errorf("%d missed, want 2", got)
	}
}
