package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// notifySocket listens where PID 1 would, and sets the environment of a service.
func notifySocket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("WATCHDOG_PID", "")
	return conn
}

func read(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotifierOrder(t *testing.T) {
	conn := notifySocket(t)
	n := NewNotifier()
	defer n.Close()
	n.Ready("guarding 3")
	if got := read(t, conn); got != "READY=1\nSTATUS=guarding 3" {
		t.Errorf("ready: %q", got)
	}
	before := monotonicUsec(t)
	n.Reloading()
	got := read(t, conn)
	usec, err := strconv.ParseInt(strings.TrimPrefix(got, "RELOADING=1\nMONOTONIC_USEC="), 10, 64)
	if err != nil || usec < before || usec > monotonicUsec(t) {
		t.Errorf("reloading: %q, not after %d", got, before)
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { n.Ready("") }, "READY=1"},
		{func() { n.Status("two\nREADY=1\x00\xff lines") }, "STATUS=two READY=1 ? lines"},
		{func() { n.Extend(1500 * time.Millisecond) }, "EXTEND_TIMEOUT_USEC=1500000"},
		{n.Stopping, "STOPPING=1"},
	} {
		step.do()
		if got := read(t, conn); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}

func TestNotifierStatusIsBounded(t *testing.T) {
	got := oneLine(strings.Repeat("ä", 10000))
	if len(got) > statusMax || strings.Trim(got, "ä") != "" {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// PID 1 stalls: nobody waits, nothing grows, and at the end the newest of each kind arrives in order.
func TestNotifierStalledManager(t *testing.T) {
	conn := notifySocket(t)
	n := NewNotifier()
	for i := range 10_000 { // the socket takes 10 to 512 (net.unix.max_dgram_qlen)
		n.Status(fmt.Sprint("count ", i))
		n.Reloading()
		n.Ready("")
		n.Alive()
	}
	n.Status("last")
	n.Stopping()
	n.mu.Lock()
	waiting := len(n.pending)
	n.mu.Unlock()
	if waiting > 5 {
		t.Errorf("%d notifications wait, want one of each kind", waiting)
	}
	began := time.Now()
	n.Close()
	if took := time.Since(began); took > patience {
		t.Errorf("close took %v", took)
	}
	n.Status("after close")
	var got []string
	for len(got) == 0 || got[len(got)-1] != "STOPPING=1" {
		got = append(got, read(t, conn))
	}
	if i := slices.Index(got, "STATUS=last"); i < 0 || i != len(got)-2 {
		t.Errorf("the last status is at %d of %d", i, len(got))
	}
	select {
	case <-n.done:
	case <-time.After(patience):
		t.Error("the goroutine outlives a socket that is read again")
	}
}

// A stalled PID 1 whose socket goes away ends the sender that waits for it.
func TestNotifierSocketGone(t *testing.T) {
	conn := notifySocket(t)
	n := NewNotifier()
	for i := range 2000 {
		n.Status(fmt.Sprint(i))
	}
	conn.Close()
	n.Close()
	select {
	case <-n.done:
	case <-time.After(patience):
		t.Error("the goroutine outlives its socket")
	}
}

func TestNotifierRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		var broken atomic.Bool
		broken.Store(true)
		n := newNotifier(0, func(s string) error {
			if broken.Load() {
				return errors.New("no buffer space")
			}
			sent = append(sent, s)
			return nil
		})
		n.Ready("")
		n.Status("old")
		synctest.Wait()
		n.Status("new")
		synctest.Wait()
		broken.Store(false)
		time.Sleep(2 * notifyRetry)
		n.Close()
		if diff := cmp.Diff([]string{"READY=1", "STATUS=new"}, sent); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNotifierCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		n := newNotifier(0, func(s string) error { sent = append(sent, s); return nil })
		n.Stopping()
		n.Status("bye")
		n.Close()
		n.Close()
		if diff := cmp.Diff([]string{"STOPPING=1", "STATUS=bye"}, sent); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWatchdogPingIsEarned(t *testing.T) {
	const timeout = 10 * time.Second
	for _, test := range []struct {
		name string
		beat func(n *Notifier)
		want []time.Duration // pings, since the start
	}{
		{"a beat each second", func(n *Notifier) {
			for range 21 {
				n.Alive()
				time.Sleep(time.Second)
			}
		}, []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second}},
		{"no token", func(n *Notifier) { time.Sleep(time.Minute) }, nil},
		{"a loop that stops", func(n *Notifier) {
			for range 7 {
				n.Alive()
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
		}, []time.Duration{5 * time.Second, 10 * time.Second}},
		{"a late token pings at once", func(n *Notifier) {
			time.Sleep(8 * time.Second)
			n.Alive()
			time.Sleep(5500 * time.Millisecond)
			n.Alive()
			time.Sleep(time.Second)
		}, []time.Duration{8 * time.Second, 13500 * time.Millisecond}},
		{"one token, one ping", func(n *Notifier) {
			time.Sleep(time.Second)
			n.Alive()
			time.Sleep(time.Minute)
		}, []time.Duration{5 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var pings []time.Duration
				began := time.Now()
				n := newNotifier(timeout, func(s string) error {
					if s == "WATCHDOG=1" {
						pings = append(pings, time.Since(began))
					}
					return nil
				})
				time.Sleep(time.Millisecond) // so that a token and the timer never fall on the same instant
				test.beat(n)
				n.Close()
				for i := range pings {
					pings[i] = pings[i].Truncate(100 * time.Millisecond)
				}
				if diff := cmp.Diff(test.want, pings); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// While PID 1 stalls the loop stops: the token that lies there since must not earn a ping when PID 1 reads again.
func TestWatchdogStaleToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := make(chan struct{})
		var pings int
		n := newNotifier(10*time.Second, func(s string) error {
			if s == "WATCHDOG=1" {
				pings++
				return nil
			}
			<-stall
			return nil
		})
		n.Status("into the stall")
		n.Alive()
		time.Sleep(time.Minute)
		close(stall)
		time.Sleep(time.Minute)
		if pings != 0 {
			t.Errorf("%d pings for a token of a minute ago", pings)
		}
		n.Alive()
		synctest.Wait()
		if pings != 1 {
			t.Errorf("%d pings after a fresh token, want 1", pings)
		}
		n.Close()
	})
}

func TestWatchdogEnvironment(t *testing.T) {
	for _, test := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"10000000", strconv.Itoa(os.Getpid()), 5 * time.Second},
		{"10000000", "", 5 * time.Second},
		{"10000000", strconv.Itoa(os.Getpid() + 1), 0},
		{"", "", 0},
		{"soon", "", 0},
	} {
		notifySocket(t)
		t.Setenv("WATCHDOG_USEC", test.usec)
		t.Setenv("WATCHDOG_PID", test.pid)
		n := NewNotifier()
		n.Alive()
		if n.half != test.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: a ping each %v, want %v", test.usec, test.pid, n.half, test.want)
		}
		n.Close()
	}
}

func TestNotifierNil(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	if n != nil {
		t.Fatal("a notifier without NOTIFY_SOCKET")
	}
	n.Ready("x")
	n.Status("x")
	n.Reloading()
	n.Stopping()
	n.Extend(time.Second)
	n.Alive()
	n.Close()
}

func TestAliveDoesNotAllocate(t *testing.T) {
	n := newNotifier(time.Hour, func(string) error { return nil })
	defer n.Close()
	if a := testing.AllocsPerRun(100, n.Alive); a != 0 {
		t.Errorf("%v allocations for a token", a)
	}
}

func TestUnderSystemd(t *testing.T) {
	t.Setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef") // inherited by whatever a service starts
	for value, want := range map[string]bool{
		strconv.Itoa(os.Getpid()):  true,
		strconv.Itoa(os.Getppid()): false,
		"":                         false,
		"x":                        false,
	} {
		t.Setenv("SYSTEMD_EXEC_PID", value)
		if got := UnderSystemd(); got != want {
			t.Errorf("SYSTEMD_EXEC_PID=%q: %v", value, got)
		}
	}
}

func TestJournalStream(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Fstat(2, &st); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	if !JournalStream() {
		t.Error("standard error is what JOURNAL_STREAM names, and is not recognised")
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino+1))
	if JournalStream() {
		t.Error("another inode is taken for the journal")
	}
}

func monotonicUsec(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}
