package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// stuckFS is a file system of the test's own that stands still when it is told to: who writes to it is in state D.
type stuckFS struct {
	*client
	dir string
}

func stuck(t *testing.T) stuckFS {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		nstest.Unavailable(t, fmt.Sprintf("no file system of the test's own: %v", err))
	}
	dir := t.TempDir()
	t.Cleanup(func() { // after the server's end, when nobody waits in it any more
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	fs := stuckFS{spawn(t, nstest.CC(t, "testdata/stuckfs.c"), []string{dir}), dir}
	if line := fs.line(); line != "ready" {
		t.Fatalf("the file system says %q", line)
	}
	return fs
}

func (fs stuckFS) hold() {
	fs.t.Helper()
	fs.signal(unix.SIGUSR1)
	if line := fs.line(); line != "holding" {
		fs.t.Fatalf("the file system says %q", line)
	}
}

// holds waits until it holds a write of each client.
func (fs stuckFS) holds(list ...*client) {
	fs.t.Helper()
	missing := map[string]bool{}
	for _, c := range list {
		missing[fmt.Sprint("held ", c.pid)] = true
	}
	for len(missing) > 0 {
		delete(missing, fs.line())
	}
}

func (fs stuckFS) thaw() { fs.t.Helper(); fs.signal(unix.SIGUSR2) }

// writer is a member that hangs in a write to the file system.
func (fs stuckFS) writer(name string, timeout string) *client {
	fs.t.Helper()
	c := spawn(fs.t, memberProgram(fs.t), []string{name, timeout, "100", "exit", filepath.Join(fs.dir, name)}).ready()
	c.name = name
	return c
}

// inState waits until the kernel shows the main thread in a state.
func inState(t *testing.T, c *client, want byte) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is in state %c", c.name, want), func() bool {
		_, state, err := process.ParentOf(c.pid)
		return err == nil && state == want
	})
}

// TestBlockedForATime: a disk that stands still for longer than the timeout. Who waits for it is given one more timeout,
// and lives when the disk comes back within.
func TestBlockedForATime(t *testing.T) {
	if namespaces(t) {
		return
	}
	fs := stuck(t)
	g := begin(t, punctual(testConfig(t)))
	shortly, longer := fs.writer("shortly", "600"), fs.writer("longer", "3")
	for _, c := range []*client{shortly, longer} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	fs.hold()
	for _, c := range []*client{shortly, longer} {
		c.signal(unix.SIGUSR1)
	}
	fs.holds(shortly, longer)
	inState(t, longer, 'D')
	if e := g.await(want{event: guard.EvWaiting, pid: longer.pid}); e.Verdict != "blocked" {
		t.Errorf("%s", e.Message)
	}
	fs.thaw()
	g.await(want{event: guard.EvRecovered, pid: longer.pid})
	settle(time.Second)
	g.untouched(shortly, longer)
	g.none(want{event: guard.EvLate, pid: shortly.pid})
}

// TestUnkillable: SIGKILL does not end who is in state D. The worker goes to the next one, the end is noticed when it
// comes, and so is the end of a ladder that was left over by a daemon that was killed.
func TestUnkillable(t *testing.T) {
	for _, how := range []string{"same daemon", "killed daemon"} {
		t.Run(how, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			fs := stuck(t)
			c := testConfig(t)
			c.Ladder.MaxConcurrent = 1
			c.Ladder.Steps[0].Wait, c.Ladder.Steps[1].Wait = 500*time.Millisecond, 500*time.Millisecond
			g := launch(t, c)
			g.await(want{event: guard.EvActing})
			g.await(want{event: guard.EvTableAttached})
			blocked, hung := fs.writer("blocked", "1"), member(t, "hung", 1, "exit")
			g.await(want{event: guard.EvRegistered, pid: blocked.pid})
			g.await(want{event: guard.EvRegistered, pid: hung.pid})
			fs.hold()
			blocked.signal(unix.SIGUSR1)
			fs.holds(blocked)
			g.await(want{event: guard.EvUnkillable, pid: blocked.pid})
			inState(t, blocked, 'D')

			// The one worker is free again.
			hung.signal(unix.SIGUSR1)
			hung.endsBy(0)
			g.await(want{event: guard.EvKilled, pid: hung.pid})
			if how == "killed daemon" {
				g.kill()
				g = launch(t, c)
				g.await(want{event: guard.EvActing})
			}
			g.scans(20)
			if n := len(g.find(want{event: guard.EvUnkillable, pid: blocked.pid})); how == "same daemon" && n != 1 {
				t.Errorf("said %d times", n)
			}
			if n := len(g.find(want{event: guard.EvSignalled, pid: blocked.pid, signal: "SIGKILL"})); n > 1 {
				t.Errorf("%d times SIGKILL", n)
			}
			if pid := mapTable(t).pid(blocked.slot); pid != blocked.pid {
				t.Errorf("the record of a process that still lives says pid %d", pid)
			}
			fs.thaw()
			blocked.endsBy(unix.SIGKILL)
			g.await(want{event: guard.EvCleared, pid: blocked.pid})
		})
	}
}

// TestBlockedTogether: many that wait in one place are a wave, and the disk is to blame: most of them live on when it
// comes back.
func TestBlockedTogether(t *testing.T) {
	if namespaces(t) {
		return
	}
	fs := stuck(t)
	g := begin(t, testConfig(t))
	var all []*client
	for i := range 12 {
		all = append(all, fs.writer(fmt.Sprint("writer", i), "1"))
	}
	healthy := member(t, "healthy", 1, "exit")
	for _, c := range append(all, healthy) {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	fs.hold()
	for _, c := range all {
		c.signal(unix.SIGUSR1)
	}
	fs.holds(all...)
	g.await(want{event: guard.EvLate, pid: all[0].pid})
	settle(2 * time.Second)
	fs.thaw()
	// SIGTERM is delivered when the wait ends. Seven may be condemned before it is a wave.
	settle(4 * time.Second)
	ended := 0
	for _, c := range all {
		if !c.alive() {
			ended++
		}
	}
	if ended > 7 {
		t.Errorf("%d of %d were ended", ended, len(all))
	}
	g.none(want{signal: "SIGKILL"})
	g.untouched(healthy)
	for _, c := range all {
		if c.alive() {
			g.none(want{event: guard.EvSignalled, pid: c.pid})
		}
	}
}

// TestVfork: a parent is in state D until its child runs a program. Only SIGKILL ends that wait, and the child's end.
func TestVfork(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, punctual(testConfig(t)))
	vforks := func(name, timeout string) *client {
		c := spawn(t, memberProgram(t), []string{name, timeout, "100", "exit", "vfork"}).ready()
		c.name = name
		g.await(want{event: guard.EvRegistered, pid: c.pid})
		c.signal(unix.SIGUSR1)
		inState(t, c, 'D')
		return c
	}
	slow, hung := vforks("slow", "2"), vforks("hung", "1")
	if e := g.await(want{event: guard.EvWaiting, pid: slow.pid}); e.Verdict != "blocked" {
		t.Errorf("%s", e.Message)
	}
	endChild(t, slow)
	g.await(want{event: guard.EvRecovered, pid: slow.pid})
	hung.endsBy(unix.SIGKILL)
	g.await(want{event: guard.EvKilled, pid: hung.pid})
	g.untouched(slow)
}

// endChild has the child of a vfork end.
func endChild(t *testing.T, c *client) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.pid, c.pid))
	if err != nil {
		t.Fatal(err)
	}
	var pid int32
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatalf("the children of pid %d are %q: %v", c.pid, b, err)
	}
	p, err := process.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
}

// dumper is a member that writes its core dump to the file system: a big dump on a slow disk.
func (fs stuckFS) dumper(name, term string) *client {
	fs.t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		fs.t.Fatal(err)
	}
	// It is not namespaced, so a test does not change it.
	if pattern := strings.TrimSpace(string(b)); pattern == "" || strings.ContainsAny(pattern[:1], "|/@") {
		nstest.Unavailable(fs.t, fmt.Sprintf("core dumps go to %q, not to the working directory", pattern))
	}
	return member(fs.t, name, 1, term, wrap("prlimit", "--core=unlimited:unlimited", "--"), func(c *exec.Cmd) { c.Dir = fs.dir })
}

func dumping(c *client) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	return bytes.Contains(b, []byte("CoreDumping:\t1"))
}

// TestDump: a process that writes its core dump is not hung, however long that takes. Its end is its own.
func TestDump(t *testing.T) {
	if namespaces(t) {
		return
	}
	fs := stuck(t)
	g := begin(t, testConfig(t))
	c := fs.dumper("dumper", "exit")
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	fs.hold()
	c.signal(unix.SIGSEGV)
	fs.holds(c)
	if e := g.await(want{event: guard.EvHeld, pid: c.pid}); e.Reason != "dumping" {
		t.Errorf("held: %+v", e)
	}
	settle(3 * time.Second)
	if !dumping(c) {
		t.Error("it does not dump any more")
	}
	g.untouched(c)
	fs.thaw()
	c.endsBy(unix.SIGSEGV)
	if !c.status.CoreDump() {
		t.Error("there is no dump")
	}
	g.await(want{event: guard.EvExited, pid: c.pid})
	g.await(want{event: guard.EvCleared, pid: c.pid})
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvCondemned})
}

// TestAbortDumps: the ladder's SIGABRT is for the dump, so the next step waits until that is written, and no longer than
// it is configured to.
func TestAbortDumps(t *testing.T) {
	for _, how := range []string{"waited for", "given up"} {
		t.Run(how, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			fs := stuck(t)
			c := punctual(testConfig(t))
			c.Ladder.Steps = []config.Step{{Signal: unix.SIGABRT, Wait: 500 * time.Millisecond}, {Signal: unix.SIGKILL, Wait: time.Second}}
			if how == "given up" {
				c.Ladder.DumpWait = time.Second
			}
			g := begin(t, c)
			target := fs.dumper("target", "exit")
			g.await(want{event: guard.EvRegistered, pid: target.pid})
			fs.hold()
			hung := time.Now()
			target.signal(unix.SIGUSR1)
			g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGABRT"})
			fs.holds(target)
			if how == "given up" {
				kill := g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGKILL"})
				// Timeout, margin and dump_wait, without the time between two beats.
				if d := kill.at.Sub(hung); d < 3*time.Second-100*time.Millisecond {
					t.Errorf("SIGKILL %v after it hung", d)
				}
				fs.thaw()
				target.end()
				g.await(want{event: guard.EvKilled, pid: target.pid})
				return
			}
			settle(3 * time.Second)
			if !dumping(target) {
				t.Error("it does not dump any more")
			}
			fs.thaw()
			target.endsBy(unix.SIGABRT)
			if !target.status.CoreDump() {
				t.Error("there is no dump")
			}
			g.await(want{event: guard.EvKilled, pid: target.pid})
			g.none(want{signal: "SIGKILL"})
		})
	}
}
