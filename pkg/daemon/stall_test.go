package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// goesOn waits for the end of a hold on a process that stood still: its beat is seen, or first that it goes on.
func goesOn(g *guardian, c *client) {
	g.t.Helper()
	eventually(g.t, c.name+" goes on", func() bool {
		return len(g.find(want{event: guard.EvRecovered, pid: c.pid}))+len(g.find(want{event: guard.EvReleased, pid: c.pid})) > 0
	})
}

// TestStoppedClient: a stopped process is not hung; its silence begins anew when it goes on.
func TestStoppedClient(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	c := member(t, "client", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	c.signal(unix.SIGSTOP)
	if e := g.await(want{event: guard.EvHeld, pid: c.pid}); e.Reason != "stopped" {
		t.Errorf("held: %+v", e)
	}
	settle(2 * time.Second)
	g.untouched(c)
	c.signal(unix.SIGCONT)
	goesOn(g, c)
	settle(2 * time.Second)
	g.untouched(c)
	if n := len(g.find(want{event: guard.EvHeld})); n != 1 {
		t.Errorf("held %d times", n)
	}

	// The hold excuses nothing that comes later.
	c.signal(unix.SIGUSR1)
	c.signal(unix.SIGSTOP)
	g.awaitNth(want{event: guard.EvHeld, pid: c.pid}, 2)
	let := time.Now()
	c.signal(unix.SIGCONT)
	g.await(want{event: guard.EvReleased, pid: c.pid})
	late := g.awaitNth(want{event: guard.EvLate, pid: c.pid}, 3)
	if d := late.at.Sub(let); d < 2*time.Second-g.cfg.Interval {
		t.Errorf("late %v after its silence began anew", d)
	}
	c.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: c.pid})
}

// TestStoppedDaemon: what the guard did not look at does not count. One client was stopped just as long, and is given
// time to beat.
func TestStoppedDaemon(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	beating := member(t, "beating", 1, "exit")
	slow := run(t, "--name slow --timeout 1 --beat-exact")
	stopped := member(t, "stopped", 1, "exit")
	for _, c := range []*client{beating, slow, stopped} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	g.pause()
	stopped.signal(unix.SIGSTOP)
	settle(5 * time.Second)
	g.signal(unix.SIGCONT)
	e := g.await(want{event: guard.EvGap})
	if d := time.Duration(e.SilenceUsec) * time.Microsecond; d < 3*time.Second || d > 30*time.Second {
		t.Errorf("gap of %v: %s", d, e.Message)
	}
	settle(500 * time.Millisecond)
	stopped.signal(unix.SIGCONT)
	settle(4 * time.Second)
	g.untouched(beating, slow, stopped)
	g.none(want{event: guard.EvLate})

	// It is not blind for what hangs afterwards.
	beating.signal(unix.SIGUSR1)
	beating.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: beating.pid})
}

// cgroup makes a cgroup v2 of its own.
func cgroup(t *testing.T) string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(info)) {
		left, right, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(right, "cgroup2 ") {
			root = strings.Fields(left)[4]
		}
	}
	if root == "" {
		nstest.Unavailable(t, "no cgroup v2 is mounted")
	}
	dir, err := os.MkdirTemp(root, "checkprocd-test")
	if err != nil {
		nstest.Unavailable(t, fmt.Sprintf("no cgroup v2 can be made: %v", err))
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup is empty", func() bool { return os.Remove(dir) == nil })
	})
	if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err != nil {
		nstest.Unavailable(t, fmt.Sprintf("no freezer in cgroup v2: %v", err))
	}
	return dir
}

func freeze(t *testing.T, dir string, on bool) {
	t.Helper()
	word := "0"
	if on {
		word = "1"
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(word), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cgroup is frozen: "+word, func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return err == nil && strings.Contains(string(b), "frozen "+word+"\n")
	})
}

// within starts the command in a cgroup.
func within(t *testing.T, dir string) func(*exec.Cmd) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return func(c *exec.Cmd) { attr(c).UseCgroupFD, attr(c).CgroupFD = true, int(f.Fd()) }
}

// TestFrozenTogether: guard and clients stand still together, as in a container that is paused.
func TestFrozenTogether(t *testing.T) {
	if namespaces(t) {
		return
	}
	dir := cgroup(t)
	g := launch(t, testConfig(t), within(t, dir))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range 12 { // enough for the brake, should they fall late
		all = append(all, member(t, fmt.Sprint("client", i), 1, "exit", within(t, dir)))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	freeze(t, dir, true)
	settle(5 * time.Second)
	freeze(t, dir, false)
	g.await(want{event: guard.EvGap})
	settle(4 * time.Second)
	g.untouched(all...)
	g.none(want{event: guard.EvLate}, want{event: guard.EvBrakeOn})
	g.stop()
	for _, c := range all {
		_ = c.cmd.Process.Kill()
		c.end()
	}
}

// TestFrozenClient: alone in its frozen cgroup, it is held.
func TestFrozenClient(t *testing.T) {
	if namespaces(t) {
		return
	}
	dir := cgroup(t)
	g := begin(t, testConfig(t))
	c := member(t, "client", 1, "exit", within(t, dir))
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	freeze(t, dir, true)
	e := g.await(want{event: guard.EvHeld, pid: c.pid})
	if e.Reason != "frozen" {
		t.Errorf("held: %+v", e)
	}
	settle(2 * time.Second)
	g.untouched(c)
	freeze(t, dir, false)
	settle(3 * time.Second)
	g.untouched(c)
	_ = c.cmd.Process.Kill()
	c.end()
}

// TestTraced: a process that a debugger has stopped is held.
func TestTraced(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	// Behind a shell: a tracer's stops would be taken for ends by who waits for its own child.
	c := spawn(t, "/bin/sh", []string{"-c", memberProgram(t) + " client 1 100 exit & wait"}).ready()
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	release, released := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // the tracer is this thread
		err := unix.PtraceSeize(int(c.pid))
		if err == nil {
			err = unix.PtraceInterrupt(int(c.pid))
		}
		<-release
		if err == nil { // the end of this thread would let go as well, but Go's first thread does not end
			_, err = unix.Wait4(int(c.pid), nil, unix.WALL, nil)
		}
		if err == nil {
			err = unix.PtraceDetach(int(c.pid))
		}
		released <- err
	}()
	e := g.await(want{event: guard.EvHeld, pid: c.pid})
	if e.Reason != "traced" {
		t.Errorf("held: %+v", e)
	}
	settle(2 * time.Second)
	g.untouched(c)
	close(release)
	if err := <-released; err != nil {
		t.Fatalf("trace pid %d: %v", c.pid, err)
	}
	goesOn(g, c)
	g.untouched(c)
}

// TestWave: many that fall overdue together are held by the brake, and spared when they beat again.
func TestWave(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	var all []*client
	for i := range 10 {
		all = append(all, member(t, fmt.Sprint("client", i), 1, "exit"))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	for _, c := range all { // a file server is gone, say
		c.signal(unix.SIGUSR1)
	}
	g.await(want{event: guard.EvBrakeOn})
	settle(2 * time.Second)
	for _, c := range all {
		if c.alive() {
			c.signal(unix.SIGUSR2)
		}
	}
	g.await(want{event: guard.EvBrakeOff})
	ended := 0
	for _, c := range all {
		if !c.alive() {
			ended++
		}
	}
	// Those that were condemned before the wave could be seen as one: seven at most.
	if ended >= 8 {
		t.Errorf("%d of %d were ended", ended, len(all))
	}
	if len(g.find(want{event: guard.EvRecovered})) != len(all)-ended {
		t.Errorf("%d were ended, %d recovered", ended, len(g.find(want{event: guard.EvRecovered})))
	}
}
