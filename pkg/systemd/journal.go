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
// The fields of a record: "message" is MESSAGE, "level" PRIORITY (or "priority", a number after it, for what zerolog has
// no level for), "message_id" MESSAGE_ID, "object_pid" OBJECT_PID, "object_unit" OBJECT_SYSTEMD_UNIT, and every other key
// CHECKPROC_ and the key in upper case. SYSLOG_IDENTIFIER is always there.
type Journal struct {
	identifier string
	send       func(fields map[string]string) error
	abort      func() // makes send fail from now on
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

// NewJournal returns a writer of records with SYSLOG_IDENTIFIER=identifier, of which up to queue wait for journald. It
// fails when journald's socket is not there.
func NewJournal(identifier string, queue int) (*Journal, error) {
	return openJournal(journaldSocket, identifier, queue)
}

func openJournal(path, identifier string, queue int) (*Journal, error) {
	d, err := dialJournald(path)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		identifier: identifier,
		send:       d.send,
		abort:      d.abort,
		queue:      make(chan entry, max(1, queue)),
		done:       make(chan struct{}),
	}
	go func() {
		defer close(j.done)
		defer d.drop()
		j.run()
	}()
	return j, nil
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

// Close writes what is queued, for a second at most, drops the rest, and says how much was dropped by it.
func (j *Journal) Close() error {
	j.mu.Lock()
	if !j.closed {
		j.closed = true
		close(j.queue)
	}
	j.mu.Unlock()
	before := j.Dropped()
	select {
	case <-j.done:
	case <-time.After(closeWait):
		j.abort()
		<-j.done
	}
	if n := j.Dropped() - before; n > 0 {
		return fmt.Errorf("close journal: journald did not take the last %d records", n)
	}
	return nil
}

// run writes until the queue is closed and empty.
func (j *Journal) run() {
	var told uint64
	for e := range j.queue {
		fields := record(e.event, e.level)
		fields["SYSLOG_IDENTIFIER"] = j.identifier
		if j.send(fields) != nil {
			j.dropped.Add(1)
			continue
		}
		// What was dropped is newer than what was queued, so it is told where it is missing: after the queue.
		if n := j.Dropped(); n > told && len(j.queue) == 0 && j.send(j.droppedRecord(n-told)) == nil {
			told = n
		}
	}
}

func (j *Journal) droppedRecord(n uint64) map[string]string {
	return map[string]string{
		"MESSAGE":           fmt.Sprintf("%d records are missing here: journald did not take them in time", n),
		"PRIORITY":          strconv.Itoa(int(journal.PriWarning)),
		"SYSLOG_IDENTIFIER": j.identifier,
		"CHECKPROC_DROPPED": strconv.FormatUint(n, 10),
	}
}
