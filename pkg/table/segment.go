package table

import (
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Segment owns one mapping of a table. Its methods may be called from several goroutines, also while another closes it.
// The memory is written by other processes at any time; nothing outside this file touches it.
type Segment struct {
	id       int
	key      uint32
	count    int
	readOnly bool

	mu      sync.RWMutex // held for writing by Close only: a reader of unmapped memory would crash the process
	mem     []byte       // as x/sys returned it, nil when closed
	records []Record     // the same memory
}

// Lookup is the id of the segment under key. ErrNotExist when there is none; no permission is needed.
func Lookup(key uint32) (id int, err error) {
	if key == 0 {
		return 0, fmt.Errorf("look up shared memory: %w", errPrivate)
	}
	id, err = unix.SysvShmGet(int(key), 0, 0)
	if err != nil {
		return 0, fmt.Errorf("look up shared memory under key %#x: %w", key, ipcError(err))
	}
	return id, nil
}

// Create makes a segment for this many records, all zero, and returns its id. The mode is exact: the umask does not
// apply to System V objects. When the key is taken, errors.Is(err, fs.ErrExist).
func Create(key uint32, records int, mode uint32) (id int, err error) {
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("create shared memory under key %#x: %w", key, err)
	}
	if key == 0 {
		return fail(errPrivate)
	}
	if records <= 0 {
		return fail(fmt.Errorf("%d records: %w", records, fs.ErrInvalid))
	}
	if err := checkMode(mode); err != nil {
		return fail(err)
	}
	id, err = unix.SysvShmGet(int(key), records*RecordSize, unix.IPC_CREAT|unix.IPC_EXCL|int(mode))
	if err != nil {
		return fail(err)
	}
	return id, nil
}

// Attach maps the segment with this id, also one that was removed while others have it mapped. ErrNotExist when there
// is none with this id or when it lies under another key than key (a removed one has no key, there key is taken on
// trust); a *LayoutError when it has another size than this many records.
func Attach(id int, key uint32, records int, readOnly bool) (*Segment, error) {
	fail := func(err error) (*Segment, error) {
		return nil, fmt.Errorf("attach shared memory segment %d: %w", id, err)
	}
	if records <= 0 {
		return fail(fmt.Errorf("%d records: %w", records, fs.ErrInvalid))
	}
	flag := 0
	if readOnly {
		flag = unix.SHM_RDONLY
	}
	mem, err := unix.SysvShmAttach(id, 0, flag)
	if err != nil {
		return fail(ipcError(err))
	}
	// Only now: while it is mapped the id cannot come to name another segment.
	stat, err := StatID(id)
	switch {
	case err != nil:
	case stat.Size != records*RecordSize:
		err = &LayoutError{Stat: stat, Want: records * RecordSize}
	case !stat.Removed && stat.Key != key:
		err = fmt.Errorf("it lies under key %#x, not %#x: %w", stat.Key, key, ErrNotExist)
	}
	if err != nil {
		unix.SysvShmDetach(mem)
		return fail(err)
	}
	return &Segment{
		id:       id,
		key:      key,
		count:    records,
		readOnly: readOnly,
		mem:      mem,
		records:  unsafe.Slice((*Record)(unsafe.Pointer(unsafe.SliceData(mem))), records),
	}, nil
}

// ID is the shmid, which is also the inode of the mapping in /proc/PID/maps.
func (s *Segment) ID() int { return s.id }

// Key is the key that the segment was attached for; a removed segment has lost it.
func (s *Segment) Key() uint32 { return s.key }

// Len is the number of records.
func (s *Segment) Len() int { return s.count }

// ReadOnly reports whether the mapping is read-only; Clear then does nothing.
func (s *Segment) ReadOnly() bool { return s.readOnly }

// Read copies all records to dst, which has room for Len of them; a shorter one is filled as far as it goes. It makes
// no system call and allocates nothing. Padding is not copied. Of a closed segment the records are zero.
func (s *Segment) Read(dst []Record) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	dst = dst[:min(len(dst), s.count)]
	if s.mem == nil {
		clear(dst)
		return
	}
	for i := range dst {
		load(&dst[i], &s.records[i])
	}
}

// Load reads one record again. It is zero for a slot that does not exist and when the segment is closed.
func (s *Segment) Load(slot int) Record {
	var r Record
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.at(slot); p != nil {
		load(&r, p)
	}
	return r
}

// Token reads a record's pid and then its token, each by one atomic load: the last look before acting. Both are zero
// for a slot that does not exist and when the segment is closed.
func (s *Segment) Token(slot int) (pid int32, token int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.at(slot); p != nil {
		return atomic.LoadInt32(&p.PID), atomic.LoadInt64(&p.Token)
	}
	return 0, 0
}

// Clear frees a record that belongs to pid: one compare-and-swap of the pid word from pid to 0, and nothing else is
// written. It reports whether that happened; not when the record has another pid by now, the slot does not exist, pid
// is 0, or the segment is read-only or closed.
func (s *Segment) Clear(slot int, pid int32) bool {
	if pid == 0 || s.readOnly {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.at(slot)
	return p != nil && atomic.CompareAndSwapInt32(&p.PID, pid, 0)
}

// Stat asks the kernel about the segment: whether it was removed, and how many have it mapped. ErrNotExist when closed.
func (s *Segment) Stat() (Stat, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mem == nil { // without the mapping the id may name another segment
		return Stat{}, fmt.Errorf("stat shared memory segment %d: detached: %w", s.id, ErrNotExist)
	}
	return StatID(s.id)
}

// Close detaches the segment and never removes it, except that a removed one goes with its last mapping. Calling it
// again does nothing.
func (s *Segment) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return nil
	}
	mem := s.mem
	s.mem, s.records = nil, nil
	if err := unix.SysvShmDetach(mem); err != nil {
		return fmt.Errorf("detach shared memory segment %d: %w", s.id, err)
	}
	return nil
}

// at is the record of a slot in shared memory, nil when there is none. The caller holds mu.
func (s *Segment) at(slot int) *Record {
	if slot < 0 || slot >= len(s.records) {
		return nil
	}
	return &s.records[slot]
}

// load copies the record at src, which others write to. The pid comes first and the token last: a client stores the
// other way round only while it registers, and such a record is looked at again.
func load(dst, src *Record) {
	dst.PID = atomic.LoadInt32(&src.PID)
	dst.Name = src.Name
	dst.Timeout = atomic.LoadInt32(&src.Timeout)
	dst.Token = atomic.LoadInt64(&src.Token)
}
