package table

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func TestCreate(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	if _, err := Lookup(DefaultKey); !errors.Is(err, ErrNotExist) {
		t.Errorf("look up before there is one: %v, want ErrNotExist", err)
	}
	unix.Umask(0o077)
	id, err := Create(DefaultKey, DefaultRecords, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := StatID(id)
	if err != nil {
		t.Fatal(err)
	}
	if stat.ID != id || stat.Key != DefaultKey || stat.Size != 72000 || stat.Mode != 0o666 || stat.CPID != int32(os.Getpid()) ||
		stat.Attached != 0 || stat.Removed || stat.CTime == 0 || stat.ATime != 0 {
		t.Errorf("created %+v", stat)
	}
	if _, err := Create(DefaultKey, DefaultRecords, 0o666); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: %v, want fs.ErrExist", err)
	}
	if found, err := Lookup(DefaultKey); err != nil || found != id {
		t.Errorf("looked up %d, %v, want %d", found, err, id)
	}
}

func TestArguments(t *testing.T) {
	for what, err := range map[string]error{
		"Lookup(0)":          second(Lookup(0)),
		"Create(0)":          second(Create(0, 1000, 0o666)),
		"OpenSemaphore(0)":   second(OpenSemaphore(0)),
		"CreateSemaphore(0)": second(CreateSemaphore(0, 0o666)),
	} {
		if !errors.Is(err, errPrivate) {
			t.Errorf("%s: %v, want %v", what, err, errPrivate)
		}
	}
	for what, err := range map[string]error{
		"no records":       second(Create(DefaultKey, 0, 0o666)),
		"negative records": second(Create(DefaultKey, -1, 0o666)),
		"flags as mode":    second(Create(DefaultKey, 1, unix.IPC_CREAT|0o666)),
		"flags, semaphore": second(CreateSemaphore(DefaultKey, unix.IPC_EXCL|0o666)),
		"attach nothing":   second(Attach(0, DefaultKey, 0, false)),
	} {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v, want %v", what, err, fs.ErrInvalid)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestAttachRefuses(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	for i, size := range []int{64000, 68000, 40000, 36000, 72001, 144000} {
		key := DefaultKey + i
		id, err := unix.SysvShmGet(key, size, unix.IPC_CREAT|unix.IPC_EXCL|0o640)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Attach(id, uint32(key), DefaultRecords, false)
		var layout *LayoutError
		if !errors.As(err, &layout) {
			t.Errorf("%d bytes: %v, want a *LayoutError", size, err)
			continue
		}
		if layout.Want != 72000 || layout.Stat.Size != size || layout.Stat.Attached != 1 {
			t.Errorf("%d bytes: %+v", size, layout)
		}
		if want := fmt.Sprintf("created by uid 0, pid %d", os.Getpid()); !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
		if stat, err := StatID(id); err != nil || stat.Attached != 0 {
			t.Errorf("%d bytes: still attached after the refusal: %+v, %v", size, stat, err)
		}
	}

	s := createTableUnder(t, 0x1234)
	if _, err := Attach(s.ID(), DefaultKey, DefaultRecords, false); !errors.Is(err, ErrNotExist) {
		t.Errorf("another key: %v, want ErrNotExist", err)
	}
	if _, err := Attach(s.ID()+1000000, DefaultKey, DefaultRecords, false); !errors.Is(err, ErrNotExist) {
		t.Errorf("unknown id: %v, want ErrNotExist", err)
	}
	if _, err := StatID(-1); !errors.Is(err, ErrNotExist) {
		t.Errorf("stat of id -1: %v, want ErrNotExist", err)
	}

	id, err := Create(0x4321, DefaultRecords, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	asUID(1001, func() {
		if found, err := Lookup(0x4321); err != nil || found != id {
			t.Errorf("look up without a right to it: %d, %v, want %d", found, err, id)
		}
		if _, err := Attach(id, 0x4321, DefaultRecords, true); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("attach without a right to it: %v, want fs.ErrPermission", err)
		}
		if _, err := StatID(id); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("stat without a right to it: %v, want fs.ErrPermission", err)
		}
	})
}

func createTableUnder(t *testing.T, key uint32) *Segment {
	t.Helper()
	id, err := Create(key, DefaultRecords, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Attach(id, key, DefaultRecords, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRemovedSegment(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	s := createTable(t)
	c, slot := registered(t, "--name", "survivor", "--beat", "10")
	removeSegment(t, s.ID())

	if _, err := Lookup(DefaultKey); !errors.Is(err, ErrNotExist) {
		t.Errorf("look up after removal: %v, want ErrNotExist", err)
	}
	again, err := Attach(s.ID(), DefaultKey, DefaultRecords, false)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	stat, err := again.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !stat.Removed || stat.Key != 0 || stat.Attached != 3 || again.Key() != DefaultKey {
		t.Errorf("removed and mapped: %+v", stat)
	}
	if r := again.Load(slot); r.PID != c.pid() || CleanName(&r.Name) != "survivor" {
		t.Errorf("record through the removed segment: %+v", r)
	}
	next := createTable(t)
	if next.ID() == s.ID() {
		t.Errorf("the new segment has the id of the removed one, %d", s.ID())
	}

	c.kill()
	if !again.Clear(slot, c.pid()) {
		t.Error("clear in the removed segment")
	}
	for _, seg := range []*Segment{s, again} {
		if err := seg.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the removed segment goes with its last mapping", func() bool {
		_, err := StatID(s.ID())
		return errors.Is(err, ErrNotExist)
	})
}

func TestReadOnly(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	writer := createTable(t)
	put32(writer.raw(3), 4242)
	s, err := Attach(writer.ID(), DefaultKey, DefaultRecords, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.ReadOnly() || writer.ReadOnly() {
		t.Error("ReadOnly is wrong")
	}
	if s.Clear(3, 4242) {
		t.Error("cleared through a read-only mapping")
	}
	if pid, _ := s.Token(3); pid != 4242 {
		t.Errorf("pid %d, want 4242", pid)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(maps, []byte(" r--s ")); n != 1 {
		t.Errorf("%d read-only shared mappings, want 1", n)
	}
}

func TestClosedSegment(t *testing.T) {
	s := privateSegment(t, 10)
	put32(s.raw(3), 4242)
	all := make([]Record, 12)
	all[11].PID = 77 // beyond the table: not ours to write
	s.Read(all)
	if all[3].PID != 4242 {
		t.Fatalf("read %+v", all[3])
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Read(all)
	for i, r := range all {
		if want := (Record{}); i < 11 && r != want {
			t.Errorf("slot %d of a closed segment: %+v", i, r)
		}
	}
	if all[11].PID != 77 {
		t.Error("Read wrote beyond the table")
	}
	if r := s.Load(3); r != (Record{}) {
		t.Errorf("loaded %+v from a closed segment", r)
	}
	if pid, token := s.Token(3); pid != 0 || token != 0 {
		t.Errorf("pid %d, token %d in a closed segment", pid, token)
	}
	if s.Clear(3, 4242) {
		t.Error("cleared in a closed segment")
	}
	if _, err := s.Stat(); !errors.Is(err, ErrNotExist) {
		t.Errorf("stat of a closed segment: %v, want ErrNotExist", err)
	}
	if s.Len() != 10 {
		t.Errorf("Len is %d, want 10", s.Len())
	}
}

// TestCloseWhileReading crashes the test binary when a reader can meet unmapped memory.
func TestCloseWhileReading(t *testing.T) {
	for range 50 {
		s := privateSegment(t, 1000)
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				all := make([]Record, s.Len())
				for range 20 {
					s.Read(all)
					s.Load(999)
					s.Token(999)
					s.Clear(999, 1)
				}
			})
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		readers.Wait()
	}
}

func TestSlotBounds(t *testing.T) {
	s := privateSegment(t, 10)
	for i := range s.mem {
		s.mem[i] = 1
	}
	pid := s.Load(0).PID
	for _, slot := range []int{-1, 10, math.MaxInt, math.MinInt} {
		if r := s.Load(slot); r != (Record{}) {
			t.Errorf("loaded %+v from slot %d", r, slot)
		}
		if pid, token := s.Token(slot); pid != 0 || token != 0 {
			t.Errorf("pid %d, token %d in slot %d", pid, token, slot)
		}
		if s.Clear(slot, pid) {
			t.Errorf("cleared slot %d", slot)
		}
	}
	short := make([]Record, 3)
	s.Read(short)
	if short[2].PID != pid {
		t.Errorf("read %+v into a short slice", short[2])
	}
	s.Read(nil)
}

func TestClear(t *testing.T) {
	s := privateSegment(t, 3)
	for i := range s.mem {
		s.mem[i] = byte(i)
	}
	put32(s.raw(1), 4242)
	before := bytes.Clone(s.mem)
	if s.Clear(1, 4243) || s.Clear(1, 0) || !bytes.Equal(before, s.mem) {
		t.Fatal("cleared the record of another pid")
	}
	if !s.Clear(1, 4242) {
		t.Fatal("not cleared")
	}
	clear(before[RecordSize : RecordSize+4])
	if !bytes.Equal(before, s.mem) {
		t.Errorf("more than the pid word was written:\n%x\n%x", before, s.mem)
	}
	if s.Clear(1, 4242) || s.Clear(1, 0) {
		t.Error("cleared what was free")
	}
}

// TestClearConcurrent has one owner after another take a slot while several clear the pid of a dead one: a live owner's
// pid never vanishes, and each death is cleared exactly once.
func TestClearConcurrent(t *testing.T) {
	const (
		dead   = 4242
		live   = 4343
		rounds = 20000
	)
	s := privateSegment(t, 1)
	word := &s.records[0].PID
	var cleared atomic.Int64
	var stop atomic.Bool
	var guards sync.WaitGroup
	for range 3 {
		guards.Go(func() {
			for !stop.Load() {
				if s.Clear(0, dead) {
					cleared.Add(1)
				}
				runtime.Gosched() // on one processor each has it for 10 ms else
			}
		})
	}
	for i := range rounds {
		atomic.StoreInt32(word, live)
		atomic.StoreInt64(&s.records[0].Token, int64(i))
		if pid, token := s.Token(0); pid != live || token != int64(i) {
			t.Errorf("round %d: live record shows pid %d, token %d", i, pid, token)
			break
		}
		atomic.StoreInt32(word, dead)
		for atomic.LoadInt32(word) != 0 { // until one of the guards has it
			runtime.Gosched()
		}
		if token := s.Load(0).Token; token != int64(i) {
			t.Errorf("round %d: clearing changed the token to %d", i, token)
			break
		}
	}
	stop.Store(true)
	guards.Wait()
	if n := cleared.Load(); n != rounds && !t.Failed() {
		t.Errorf("%d deaths cleared %d times", rounds, n)
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	s := privateSegment(t, DefaultRecords)
	all := make([]Record, s.Len())
	if n := testing.AllocsPerRun(100, func() {
		s.Read(all)
		all[0] = s.Load(7)
		s.Token(7)
		s.Clear(7, 4242)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead1000(b *testing.B) {
	s := privateSegment(b, DefaultRecords)
	for i := range s.mem {
		s.mem[i] = byte(i)
	}
	all := make([]Record, s.Len())
	b.ReportAllocs()
	b.SetBytes(int64(len(s.mem)))
	for b.Loop() {
		s.Read(all)
	}
}

func BenchmarkToken(b *testing.B) {
	s := privateSegment(b, DefaultRecords)
	b.ReportAllocs()
	for b.Loop() {
		s.Token(500)
	}
}
