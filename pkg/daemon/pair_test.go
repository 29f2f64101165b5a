package daemon

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestTwoGuards: one acts; the other says who does, and takes over when that one is killed.
func TestTwoGuards(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = 5 * time.Second // the second is to see it hang as well
	first := launch(t, c)
	first.await(want{event: guard.EvActing})
	first.await(want{event: guard.EvTableAttached})
	second := launch(t, testConfig(t))
	e := second.await(want{event: guard.EvObserving})
	if e.PID != first.pid() || !strings.Contains(e.Message, fmt.Sprintf("pid %d (checkprocd)", first.pid())) {
		t.Errorf("the second does not say who acts: %+v", e)
	}
	second.await(want{event: guard.EvTableAttached})

	a, b := member(t, "a", 1, "tell"), member(t, "b", 1, "tell")
	seen := member(t, "seen", 1, "tell") // hangs under the first, which observes it only until it is killed
	for _, c := range []*client{a, b, seen} {
		first.await(want{event: guard.EvRegistered, pid: c.pid})
		second.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	oneSignal := func(c *client) {
		t.Helper()
		c.endsBy(unix.SIGKILL)
		if line := c.line(); line != "term" {
			t.Errorf("%s says %q", c.name, line)
		}
		if line, err := c.out.ReadString('\n'); err == nil {
			t.Errorf("%s got a second signal: %q", c.name, line)
		}
	}
	a.signal(unix.SIGUSR1)
	oneSignal(a)
	first.await(want{event: guard.EvKilled, pid: a.pid})
	second.await(want{event: guard.EvWouldCondemn, pid: a.pid})
	second.none(want{event: guard.EvSignalled}, want{event: guard.EvCleared}, want{event: guard.EvActing})
	if n := len(first.find(want{event: guard.EvSignalled})); n != 2 {
		t.Errorf("the first sent %d signals, want 2", n)
	}

	first.kill()
	killed := time.Now()
	acts := second.await(want{event: guard.EvActing})
	if d := acts.at.Sub(killed); d > 5*time.Second {
		t.Errorf("took over after %v", d)
	}
	b.signal(unix.SIGUSR1)
	oneSignal(b)
	second.await(want{event: guard.EvKilled, pid: b.pid})
	second.untouched(seen)

	// And back: the next one observes again.
	third := launch(t, testConfig(t))
	if e := third.await(want{event: guard.EvObserving}); e.PID != second.pid() {
		t.Errorf("%+v", e)
	}
	second.stop()
	third.await(want{event: guard.EvActing})
	third.await(want{event: guard.EvRegistered, pid: seen.pid})
	seen.signal(unix.SIGUSR1)
	oneSignal(seen)
}

// TestTakenOverWhileHung: what the second could only report is ended by it once it acts.
func TestTakenOverWhileHung(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = time.Minute // the first is killed within
	first := launch(t, c)
	first.await(want{event: guard.EvActing})
	first.await(want{event: guard.EvTableAttached})
	second := launch(t, testConfig(t))
	second.await(want{event: guard.EvObserving})
	target := run(t, "--name target --timeout 1 --beat 100 --beats 3 --ignore-term")
	first.await(want{event: guard.EvSignalled, pid: target.pid})
	second.await(want{event: guard.EvWouldCondemn, pid: target.pid})
	first.kill()
	second.await(want{event: guard.EvActing})
	target.endsBy(unix.SIGKILL)
	second.await(want{event: guard.EvKilled, pid: target.pid})
}

// TestSameRuntimeDir: the second neither breaks the registry of the first nor takes its socket.
func TestSameRuntimeDir(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	first := launch(t, c)
	first.await(want{event: guard.EvActing})
	first.await(want{event: guard.EvTableAttached})
	client := member(t, "client", 1, "exit")
	first.await(want{event: guard.EvRegistered, pid: client.pid})
	second := launch(t, c)
	second.await(want{event: guard.EvObserving})
	second.await(want{event: evDegraded, reason: "registry"})
	second.await(want{event: evDegraded, reason: "control"})
	second.await(want{event: guard.EvRegistered, pid: client.pid})
	second.stop()
	if s, err := first.dial().Status(t.Context()); err != nil || s.PID != first.pid() {
		t.Errorf("the socket answers with pid %d, %v", s.PID, err)
	}
	first.kill()
	first = launch(t, c)
	first.await(want{event: guard.EvActing})
	first.scans(3)
	first.none(want{event: evDegraded, reason: "registry"}, want{event: guard.EvRegistered, pid: client.pid})
	first.untouched(client)
}

// TestHostileLock: another user made the object of the right to act first, and holds it for ever.
func TestHostileLock(t *testing.T) {
	for name, change := range map[string][]func(*exec.Cmd){
		"removed":       nil,
		"not removable": {wrap("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")},
	} {
		t.Run(name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			const setval = 16 // SETVAL of sys/sem.h
			asUID(1001, func() {
				id, _, errno := unix.RawSyscall(unix.SYS_SEMGET, table.ActorKey, 1, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
				if errno == 0 {
					_, _, errno = unix.RawSyscall6(unix.SYS_SEMCTL, id, 0, setval, 1, 0, 0)
				}
				if errno != 0 {
					t.Errorf("plant a semaphore: %v", errno)
				}
			})
			g := launch(t, testConfig(t), change...)
			g.await(want{event: guard.EvActing})
			if change != nil {
				if e := g.await(want{event: evDegraded, reason: "lock"}); !strings.Contains(e.Message, "ipcrm -s") {
					t.Errorf("%s", e.Message)
				}
			}
			target := run(t, "--name target --timeout 1 --beat 100 --beats 3 --default-term")
			target.endsBy(unix.SIGTERM)
			g.scans(10)
			g.none(want{event: guard.EvObserving})
			if n := len(g.find(want{event: evDegraded, reason: "lock"})); n > 1 {
				t.Errorf("said %d times", n)
			}
		})
	}
}
