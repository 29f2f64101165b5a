package daemon

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
)

// queue is a bounded queue in front of a sink that may stall: a Write never
// blocks, one that finds it full is dropped and counted. (zerolog's diode loses
// a wake-up when a line comes just as its reader goes to sleep; that line then
// waits for the next one, for a minute when seen.)
type queue struct {
	to     io.Writer
	missed *atomic.Uint64
	done   chan struct{}

	mu     sync.RWMutex
	closed bool
	lines  chan []byte
}

func newQueue(to io.Writer, size int, missed *atomic.Uint64) *queue {
	q := &queue{to: to, missed: missed, done: make(chan struct{}), lines: make(chan []byte, size)}
	go func() {
		defer close(q.done)
		for line := range q.lines {
			if _, err := q.to.Write(line); err != nil {
				q.missed.Add(1)
			}
		}
	}()
	return q
}

func (q *queue) Write(line []byte) (int, error) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return 0, fmt.Errorf("write log: %w", fs.ErrClosed)
	}
	select {
	case q.lines <- slices.Clone(line):
	default:
		q.missed.Add(1)
	}
	return len(line), nil
}

// Close writes what waits and returns when that is done; it does not close the
// sink.
func (q *queue) Close() error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.lines)
	}
	q.mu.Unlock()
	<-q.done
	return nil
}
