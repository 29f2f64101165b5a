package daemon

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// crowd is clients enough for a wave, registered and acted for.
func crowd(t *testing.T, g *guardian, n, timeout int) []*client {
	t.Helper()
	var all []*client
	for i := range n {
		all = append(all, member(t, fmt.Sprint("client", i), timeout, "exit"))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	return all
}

// hangs has one client hang, waits until the guard has ended it, and returns how late that was decided: the time
// between the deadline, which is timeout and margin after the last beat, and the record of the verdict.
func hangs(t *testing.T, g *guardian, c *client, deadline time.Duration) time.Duration {
	t.Helper()
	c.signal(unix.SIGUSR1)
	hung := time.Now()
	c.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: c.pid})
	return g.await(want{event: guard.EvCondemned, pid: c.pid}).at.Sub(hung) - deadline
}

// TestStoppedBoth: daemon and clients are stopped for longer than the timeouts, and the daemon goes on first. It has
// seen nothing of their silence, and nobody is late; what hangs afterwards is ended as ever.
func TestStoppedBoth(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	all := crowd(t, g, 12, 1) // enough for the brake, should they fall late
	for round := range 2 {
		g.pause()
		for _, c := range all {
			c.signal(unix.SIGSTOP)
		}
		settle(4 * time.Second)
		g.signal(unix.SIGCONT)
		g.awaitNth(want{event: guard.EvGap}, round+1)
		settle(time.Second)
		for _, c := range all {
			c.signal(unix.SIGCONT)
		}
		settle(time.Second)
	}
	settle(2 * time.Second)
	g.untouched(all...)
	g.none(want{event: guard.EvLate}, want{event: guard.EvHeld}, want{event: guard.EvBrakeOn})
	hangs(t, g, all[0], 0)
	g.untouched(all[1:]...)
}

// TestStoppedOften: a daemon that is stopped again and again for less than makes a gap. Its clients are stopped just as
// often, and beat in between; one hangs, and is not missed.
func TestStoppedOften(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	all := crowd(t, g, 4, 1)
	all[0].signal(unix.SIGUSR1)
	for n := 0; all[0].alive(); n++ {
		if n == 60 {
			t.Fatal("the one that hangs is not ended")
		}
		g.pause()
		for _, c := range all[1:] {
			c.signal(unix.SIGSTOP)
		}
		settle(1500 * time.Millisecond)
		g.signal(unix.SIGCONT)
		for _, c := range all[1:] {
			c.signal(unix.SIGCONT)
		}
		settle(300 * time.Millisecond)
	}
	g.await(want{event: guard.EvKilled, pid: all[0].pid})
	g.untouched(all[1:]...)
}

// traced attaches a debugger to a client, which with stops stands still from then on, until the returned function is
// called.
func traced(t *testing.T, c *client, stops bool) (detach func()) {
	t.Helper()
	attached, release, released := make(chan error), make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // the tracer is this thread
		pid := int(c.pid)
		stopped := func(err error) error {
			if err == nil {
				_, err = unix.Wait4(pid, nil, unix.WALL, nil)
			}
			return err
		}
		if !stops {
			attached <- unix.PtraceSeize(pid)
			<-release
			// It has to stand still to be let go. The end of this thread would do that as well, but Go's first thread does not end.
			if err := stopped(unix.PtraceInterrupt(pid)); err != nil {
				released <- err
				return
			}
		} else {
			attached <- stopped(unix.PtraceAttach(pid))
			<-release
		}
		released <- unix.PtraceDetach(pid)
	}()
	if err := <-attached; err != nil {
		t.Fatalf("trace pid %d: %v", c.pid, err)
	}
	return func() {
		t.Helper()
		close(release)
		if err := <-released; err != nil {
			t.Errorf("let go of pid %d: %v", c.pid, err)
		}
	}
}

// behindShell is a member that is not the test's own child: a tracer's stops would be taken for ends by who waits.
func behindShell(t *testing.T, name string, timeout int) *client {
	t.Helper()
	c := spawn(t, "/bin/sh", []string{"-c", fmt.Sprintf("%s %s %d 100 exit & wait", memberProgram(t), name, timeout)}).ready()
	c.name = name
	return c
}

// TestTracerBeside: a debugger that watches and does not stop its process (strace, a profiler). Who beats is guarded as
// before. Who is silent is held: only the debugger knows why; and ended when that has gone.
func TestTracerBeside(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	beats, silent := behindShell(t, "beats", 1), behindShell(t, "silent", 1)
	for _, c := range []*client{beats, silent} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	defer traced(t, beats, false)()
	p, err := process.Open(silent.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	settle(500 * time.Millisecond) // a signal that comes once it is traced would stop it for its tracer
	detach := traced(t, silent, false)
	g.await(want{event: guard.EvHeld, pid: silent.pid, text: "debugger"})
	settle(2 * time.Second)
	g.untouched(beats, silent)
	detach()
	silent.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: silent.pid})
	g.none(want{event: guard.EvLate, pid: beats.pid})
	g.untouched(beats)
}

// TestTracerStops: gdb stops what it is attached to, and lets it go on when it ends.
func TestTracerStops(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	c := behindShell(t, "client", 1)
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	detach := traced(t, c, true)
	inState(t, c, 't')
	if e := g.await(want{event: guard.EvHeld, pid: c.pid}); e.Reason != "traced" {
		t.Errorf("held: %+v", e)
	}
	settle(2 * time.Second)
	detach()
	goesOn(g, c)
	settle(2 * time.Second)
	g.untouched(c)
}
