package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// inGroup is the target of a ladder for its cgroup.
func inGroup(t *testing.T, c *client) *groupTarget {
	t.Helper()
	p, err := process.Open(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	units := &systemd.Units{}
	t.Cleanup(units.Close)
	g := &groupTarget{path: p.Cgroup, ladderTarget: ladderTarget{proc: p, pid: c.pid, exited: make(chan struct{}), releases: &atomic.Int32{}}, units: units}
	t.Cleanup(func() {
		for _, m := range g.members {
			_ = m.Close()
		}
	})
	return g
}

func joinGroup(t *testing.T, dir string, c *client) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.pid), 0); err != nil {
		t.Fatal(err)
	}
}

// TestGroupOfMovedTarget: a target that is moved between the signals takes no one
// of its new cgroup with it.
func TestGroupOfMovedTarget(t *testing.T) {
	if namespaces(t) {
		return
	}
	here, there := cgroup(t), cgroup(t)
	target, bystander := sleeper(t), sleeper(t)
	joinGroup(t, here, target)
	joinGroup(t, there, bystander)
	g := inGroup(t, target)
	if err := g.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	joinGroup(t, there, target)
	if err := g.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	target.endsBy(unix.SIGTERM)
	settle(100 * time.Millisecond)
	if !bystander.alive() {
		t.Errorf("a process of another cgroup was ended: %v", bystander.status)
	}
}

// TestGroupMemberThatLeft: who has left the cgroup gets no more signals.
func TestGroupMemberThatLeft(t *testing.T) {
	if namespaces(t) {
		return
	}
	here, there := cgroup(t), cgroup(t)
	target, leaver := sleeper(t), sleeper(t)
	joinGroup(t, here, target)
	joinGroup(t, here, leaver)
	g := inGroup(t, target)
	if err := g.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	joinGroup(t, there, leaver)
	if err := g.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	target.endsBy(unix.SIGTERM)
	settle(100 * time.Millisecond)
	if !leaver.alive() {
		t.Errorf("it had left the cgroup: %v", leaver.status)
	}
}

// TestGroupAfterRelease: the loop gives up an ended target after 5 s, and the ladder
// goes on for those that are left of its cgroup.
func TestGroupAfterRelease(t *testing.T) {
	if namespaces(t) {
		return
	}
	here := cgroup(t)
	target, left := sleeper(t), sleeper(t)
	joinGroup(t, here, target)
	joinGroup(t, here, left)
	g := inGroup(t, target)
	if err := g.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = target.cmd.Process.Kill()
	target.end()
	if err := g.Signal(unix.SIGCONT); err != nil || !g.Remains() {
		t.Fatal(err)
	}
	_ = g.proc.Close() // Daemon.release
	if err := g.Signal(unix.SIGCONT); err != nil {
		t.Errorf("the ladder ends as failed, with one left that did not get all of it: %v", err)
	}
}
