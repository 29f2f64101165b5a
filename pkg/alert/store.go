package alert

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxQueue bounds what waits for one receiver: some MB. The oldest go first.
	maxQueue = 10_000
	// compactAt is the size from which on the file is written anew, once it has
	// grown to four times of what is in it.
	compactAt = 1 << 20
	// maxLine bounds a line that is read: a snapshot of all that is bounded.
	maxLine = 256 << 20
)

// ErrHeld says that another process has the store open.
var ErrHeld = errors.New("another process has it open")

// record is one line of the file: eight digits of its CRC-32, a blank, and this as
// JSON. A line that is damaged or not whole counts as not written.
type record struct {
	Snapshot bool   `json:"snapshot,omitempty"` // all before is void
	Cursor   string `json:"cursor,omitempty"`
	Step
	Queues map[string][]Notification `json:"queues,omitempty"` // of a snapshot
	Acked  map[string][]string       `json:"acked,omitempty"`  // ids, by receiver
}

// Store is the cursor, the open alerts and what waits for each receiver, in memory
// and in a file. Where the disk is full or broken it goes on in memory, and writes
// all anew as soon as that works. Its methods may be called from many goroutines.
type Store struct {
	path string
	lock *os.File

	mu      sync.Mutex
	f       *os.File
	size    int64
	least   int64 // size after the last snapshot
	behind  bool  // the file has not all
	cursor  string
	open    map[string]Open
	closed  []string
	queues  map[string][]Notification
	bells   map[string]chan struct{}
	dropped uint64
}

// OpenStore opens or makes the file for these receivers; what waits for others is
// forgotten. damage says what could not be read, "" if all could: such a file is
// kept beside it. Only a directory that cannot be used at all is an error.
func OpenStore(path string, receivers []string) (s *Store, damage string, err error) {
	s = &Store{path: path, open: map[string]Open{}, queues: map[string][]Notification{}, bells: map[string]chan struct{}{}}
	for _, name := range receivers {
		s.queues[name] = nil
		s.bells[name] = make(chan struct{}, 1)
	}
	if s.lock, err = os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, "", err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = s.lock.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrHeld
		}
		return nil, "", fmt.Errorf("lock %s.lock: %w", path, err)
	}
	bad, err := s.load()
	switch {
	case err != nil:
		damage = fmt.Sprintf("%v; going on with what could be read", err)
	case bad > 0:
		damage = fmt.Sprintf("%s: %d lines are damaged and were left out", path, bad)
	}
	if damage != "" { // the file is about to be replaced
		_ = os.Remove(path + ".damaged")
		if os.Link(path, path+".damaged") == nil {
			damage += "; the file is kept as " + path + ".damaged"
		}
	}
	s.behind = true
	_ = s.flush() // tried again
	return s, damage, nil
}

// load reads the file. A line that is cut off at the end is what a crash leaves,
// and no damage.
func (s *Store) load() (bad int, err error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewReader(io.LimitReader(f, maxLine))
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return bad, err
		}
		if r, ok := parseLine(line); ok {
			s.apply(&r)
		} else if len(bytes.TrimSpace(line)) > 0 {
			bad++
		}
	}
}

func parseLine(line []byte) (r record, ok bool) {
	sum, text, found := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{' '})
	if !found || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) {
		return record{}, false
	}
	return r, json.Unmarshal(text, &r) == nil
}

func formatLine(r *record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), nil
}

// apply brings what is in memory up to date with a record.
func (s *Store) apply(r *record) {
	if r.Snapshot {
		clear(s.open)
		s.closed = nil
		for name := range s.queues {
			s.queues[name] = r.Queues[name]
		}
	}
	if r.Cursor != "" {
		s.cursor = r.Cursor
	}
	s.closed = append(s.closed, r.Closed...)
	s.closed = s.closed[max(0, len(s.closed)-maxClosed):]
	for _, key := range r.Del {
		delete(s.open, key)
	}
	for _, o := range r.Set {
		s.open[o.Key] = o
	}
	for _, o := range r.Orders {
		for _, name := range o.To {
			s.enqueue(name, o.Notification)
		}
	}
	for name, ids := range r.Acked {
		if q, ok := s.queues[name]; ok {
			done := make(map[string]bool, len(ids))
			for _, id := range ids {
				done[id] = true
			}
			s.queues[name] = slices.DeleteFunc(q, func(n Notification) bool { return done[n.ID] })
		}
	}
}

// enqueue adds a notification to what waits for a receiver. A repeat says nothing
// to one that has not taken what was said before, unless it is more severe by now.
func (s *Store) enqueue(name string, n Notification) {
	q, ok := s.queues[name]
	if !ok || n.Status == Firing && n.Repeat > 0 && slices.ContainsFunc(q, func(o Notification) bool {
		return o.Alert.ID == n.Alert.ID && o.Alert.Severity == n.Alert.Severity
	}) {
		return
	}
	if len(q) >= maxQueue {
		q = q[len(q)-maxQueue+1:] // and not moved: ten thousand may come at once
		s.dropped++
	}
	s.queues[name] = append(q, n)
	select {
	case s.bells[name] <- struct{}{}:
	default:
	}
}

// Load returns where the events are to be read on, and what a Tracker goes on with.
func (s *Store) Load() (cursor string, open []Open, closed []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(s.open)) {
		open = append(open, s.open[key])
	}
	return s.cursor, open, slices.Clone(s.closed)
}

// Put takes in what the events up to cursor led to. After an error it is in memory,
// and will be written when that works again: see Flush.
func (s *Store) Put(step Step, cursor string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.append(&record{Cursor: cursor, Step: step}, true)
}

// Ack says that a receiver has taken notifications. It is not forced to the disk: at
// worst they are delivered twice.
func (s *Store) Ack(receiver string, list []Notification) error {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.append(&record{Acked: map[string][]string{receiver: ids}}, false)
}

// Flush writes what could not be written, if anything.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *Store) append(r *record, force bool) error {
	s.apply(r)
	if s.behind || s.f == nil || s.size > compactAt && s.size > 4*s.least {
		s.behind = true
		return s.flush()
	}
	line, err := formatLine(r)
	if err != nil {
		return err
	}
	n, err := s.f.Write(line)
	s.size += int64(n)
	if err == nil && force {
		err = s.f.Sync()
	}
	if err != nil {
		s.behind = true // what is torn is not appended to: all is written anew
	}
	return err
}

// flush writes all anew, beside the file, and puts it in its place.
func (s *Store) flush() error {
	if !s.behind {
		return nil
	}
	line, err := formatLine(&record{Snapshot: true, Cursor: s.cursor, Step: Step{Set: slices.Collect(maps.Values(s.open)), Closed: s.closed}, Queues: s.queues})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(line); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(s.path + ".new")
		return err
	}
	syncDir(filepath.Dir(s.path))
	if s.f != nil {
		_ = s.f.Close()
	}
	s.f, s.size, s.least, s.behind = f, int64(len(line)), int64(len(line)), false
	return nil
}

// syncDir makes the new name last; what it cannot do is done by the disk in time.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// head returns up to n of what waits for a receiver, the oldest first.
func (s *Store) head(receiver string, n int) []Notification {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[receiver]
	return slices.Clone(q[:min(n, len(q))])
}

// standing are the alerts that a receiver was told of and that stand.
func (s *Store) standing(receiver string) []Notification {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Notification
	for _, key := range slices.Sorted(maps.Keys(s.open)) {
		if o := s.open[key]; o.Fired && slices.Contains(o.To, receiver) {
			out = append(out, Notification{ID: o.Alert.ID, Status: Firing, Repeat: o.Repeats, Alert: o.Alert})
		}
	}
	return out
}

// Waiting counts what waits for all receivers, and what was dropped because too
// much did.
func (s *Store) Waiting() (waiting int, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		waiting += len(q)
	}
	return waiting, s.dropped
}

// Close writes what is to be written, and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = true
	err := s.flush()
	if s.f != nil {
		_ = s.f.Close()
		s.f = nil
	}
	_ = s.lock.Close()
	return err
}
