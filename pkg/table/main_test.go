package table

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// envActor makes the test binary a guard that takes the actor lock, see actor_test.go.
const envActor = "TABLE_TEST_ACTOR"

func TestMain(m *testing.M) {
	if os.Getenv(envActor) != "" {
		os.Exit(actorMain())
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what another process must do sooner or later.
const patience = 60 * time.Second

// eventually polls until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// privateSegment is a segment without a key that vanishes with its mapping; it needs no namespace.
func privateSegment(t testing.TB, records int) *Segment {
	t.Helper()
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, records*RecordSize, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatalf("create a private segment: %v", err)
	}
	s, err := Attach(id, 0, records, false)
	removeSegment(t, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func removeSegment(t testing.TB, id int) {
	t.Helper()
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
		t.Fatalf("remove segment %d: %v", id, err)
	}
}

// raw is the memory of one slot.
func (s *Segment) raw(slot int) []byte {
	return s.mem[slot*RecordSize : (slot+1)*RecordSize]
}

// createTable makes and attaches the table of an own namespace.
func createTable(t *testing.T) *Segment {
	t.Helper()
	id, err := Create(DefaultKey, DefaultRecords, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Attach(id, DefaultKey, DefaultRecords, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// client is a running testdata/client.c.
type client struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func start(t *testing.T, args ...string) *client {
	t.Helper()
	cmd := exec.Command(nstest.CC(t, "testdata/client.c", "-pthread"), args...)
	cmd.Stderr = os.Stderr // no pipe of ours: what the child leaves behind would keep Wait waiting
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &client{cmd: cmd, out: bufio.NewReader(out)}
	t.Cleanup(c.kill)
	return c
}

func (c *client) pid() int32 { return int32(c.cmd.Process.Pid) }

// says reads the line that starts with word and returns its numbers; of them the client prints the pid first.
func (c *client) says(t *testing.T, word string) (pid int32, slot int) {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from the client, waiting for %q: %v", word, err)
	}
	if !strings.HasPrefix(line, word+" ") {
		t.Fatalf("client said %q, want %s", line, word)
	}
	fmt.Sscan(strings.TrimPrefix(line, word), &pid, &slot)
	return pid, slot
}

// kill ends the client with SIGKILL and reaps it; also one that has ended.
func (c *client) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

func registered(t *testing.T, args ...string) (c *client, slot int) {
	t.Helper()
	c = start(t, args...)
	pid, slot := c.says(t, "ready")
	if pid != c.pid() {
		t.Fatalf("client %d says it is %d", c.pid(), pid)
	}
	return c, slot
}

// asUID runs f on a thread that belongs to another user, without any capability, and that ends with f.
func asUID(uid int, f func()) {
	onThread(func() {
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			id := uintptr(uid)
			if _, _, errno := unix.RawSyscall(call, id, id, id); errno != 0 {
				panic(fmt.Sprintf("become uid %d: %v", uid, errno))
			}
		}
		f()
	})
}

// withoutCapability runs f on a thread that lacks one capability and ends with f.
func withoutCapability(capability int, f func()) {
	onThread(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			panic(fmt.Sprintf("capget: %v", err))
		}
		data[capability/32].Effective &^= 1 << (capability % 32)
		if err := unix.Capset(&header, &data[0]); err != nil {
			panic(fmt.Sprintf("capset: %v", err))
		}
		f()
	})
}

// onThread runs f on a thread of its own, which the runtime ends after it because it stays locked.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// bytesOf is r as it lies in memory.
func bytesOf(r *Record) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), RecordSize)
}
