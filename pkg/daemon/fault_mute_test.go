package daemon

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mute makes a datagram socket that nobody reads, and whose queue is full from the start.
func mute(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	addr := &net.UnixAddr{Name: path, Net: "unixgram"}
	l, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := net.DialUnix("unixgram", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for err == nil {
		if err = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err == nil {
			_, err = c.Write([]byte("FILLER=1\n"))
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("fill %s: %v", path, err)
	}
	return l
}

// hears reads until all texts have come.
func hears(t *testing.T, l *net.UnixConn, texts ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, text := range texts {
		missing[text] = true
	}
	buf := make([]byte, 1<<16)
	for len(missing) > 0 {
		if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("without %v: %v", missing, err)
		}
		for text := range missing {
			if strings.Contains(string(buf[:n]), text) {
				delete(missing, text)
			}
		}
	}
}

// TestNobodyListens: journald does not read, nor does PID 1, from before the daemon starts. It guards all the same, also
// after it was killed in between; what it had to say comes when they read again, and the watchdog's ping as well.
func TestNobodyListens(t *testing.T) {
	if namespaces(t) {
		return
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	journald, pid1 := mute(t, "/run/systemd/journal/socket"), mute(t, "/run/systemd/notify")
	c := testConfig(t)
	c.Log.Format = "journal"
	start := func() *guardian {
		t.Helper()
		g := launch(t, c, func(c *exec.Cmd) {
			c.Env = append(os.Environ(), "NOTIFY_SOCKET=/run/systemd/notify", "WATCHDOG_USEC=1000000")
		})
		g.scans(3)
		return g
	}
	g := start()
	term, kill, later := member(t, "term", 1, "exit"), member(t, "kill", 1, "tell"), member(t, "later", 1, "exit")
	healthy := member(t, "healthy", 1, "exit")
	for _, c := range []*client{term, kill} {
		c.signal(unix.SIGUSR1)
	}
	hung := time.Now()
	term.endsBy(0)
	t.Logf("measured: journald and PID 1 not reading: ended %v after the last beat, timeout and margin are 2s", time.Since(hung).Round(time.Millisecond))
	kill.endsBy(unix.SIGKILL)

	g.kill()
	g = start()
	later.signal(unix.SIGUSR1)
	later.endsBy(0)
	if s, err := g.dial().Status(t.Context()); err != nil || s.Counters.Killed == 0 {
		t.Errorf("status: %+v, %v", s, err)
	}
	hears(t, pid1, "READY=1", "WATCHDOG=1")
	hears(t, journald, "CHECKPROC_EVENT=condemned", "CHECKPROC_EVENT=killed")
	g.stop()
	if !healthy.alive() {
		t.Errorf("the healthy one is gone: %v", healthy.status)
	}
}
