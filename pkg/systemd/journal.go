package systemd

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/rs/zerolog"
)

// Journal writes JSON events, one in each Write as zerolog does, as native records to journald. It is an io.Writer and
// a zerolog.LevelWriter. No Write blocks: an event waits in a bounded queue, and one that finds the queue full is
// dropped and counted. When journald reads again one record says how many were dropped.
//
// The fields of a record: "message" is MESSAGE, "level" PRIORITY, "message_id" MESSAGE_ID, "object_pid" OBJECT_PID,
// "object_unit" OBJECT_SYSTEMD_UNIT, and every other key CHECKPROC_ and the key in upper case. SYSLOG_IDENTIFIER is
// always there.
type Journal struct {
	identifier string
	send       func(message string, priority journal.Priority, fields map[string]string) error
	dropped    atomic.Uint64

	mu     sync.RWMutex
	closed bool
	queue  chan entry
	done   chan struct{}
}

type entry struct {
	level zerolog.Level // of WriteLevel; NoLevel when the event says its own
	event []byte
}

// NewJournal returns a writer of records with SYSLOG_IDENTIFIER=identifier, of which up to queue wait for journald.
func NewJournal(identifier string, queue int) (*Journal, error) {
	if !journal.Enabled() {
		return nil, fmt.Errorf("open journal: %w", fs.ErrNotExist)
	}
	return newJournal(identifier, queue, journal.Send), nil
}

func newJournal(identifier string, queue int, send func(string, journal.Priority, map[string]string) error) *Journal {
	j := &Journal{
		identifier: identifier,
		send:       send,
		queue:      make(chan entry, max(1, queue)),
		done:       make(chan struct{}),
	}
	go j.run()
	return j
}

// Write queues one JSON event. Its error is fs.ErrClosed after Close, and else nil.
func (j *Journal) Write(event []byte) (int, error) { return j.WriteLevel(zerolog.NoLevel, event) }

// WriteLevel queues one JSON event, with the level for an event that has none in itself.
func (j *Journal) WriteLevel(level zerolog.Level, event []byte) (int, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.closed {
		return 0, fmt.Errorf("write journal: %w", fs.ErrClosed)
	}
	select {
	case j.queue <- entry{level, slices.Clone(event)}:
	default:
		j.dropped.Add(1)
	}
	return len(event), nil
}

// Dropped returns how many events were not written, because the queue was full or journald refused them.
func (j *Journal) Dropped() uint64 { return j.dropped.Load() }

// Close writes what is queued, for a second at most, and says how much was left unwritten.
func (j *Journal) Close() error {
	j.mu.Lock()
	if !j.closed {
		j.closed = true
		close(j.queue)
	}
	j.mu.Unlock()
	select {
	case <-j.done:
		return nil
	case <-time.After(closeWait):
		return fmt.Errorf("close journal: journald did not take the last %d records in %v", len(j.queue)+1, closeWait)
	}
}

func (j *Journal) run() {
	defer close(j.done)
	var told uint64
	for e := range j.queue {
		message, priority, fields := record(e.event, e.level)
		fields["SYSLOG_IDENTIFIER"] = j.identifier
		if j.send(message, priority, fields) != nil {
			j.dropped.Add(1)
			continue
		}
		if n := j.dropped.Load(); n != told && j.sendDropped(n-told, n) == nil {
			told = n
		}
	}
}

func (j *Journal) sendDropped(n, all uint64) error {
	fields := map[string]string{
		"SYSLOG_IDENTIFIER":       j.identifier,
		"CHECKPROC_DROPPED":       strconv.FormatUint(n, 10),
		"CHECKPROC_DROPPED_TOTAL": strconv.FormatUint(all, 10),
	}
	return j.send(fmt.Sprintf("%d records were dropped: journald did not take them in time", n), journal.PriWarning, fields)
}
