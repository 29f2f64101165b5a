package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
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
	g := &groupTarget{path: p.Cgroup, ladderTarget: ladderTarget{proc: p, pid: c.pid, exited: make(chan struct{}), releases: &atomic.Int32{}}, units: units, post: func(guard.Observation) {}}
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

// TestGroupTakeIn: of whom an earlier daemon's ladder was for, only those are taken in that can be shown to be who they
// were, in that very cgroup.
func TestGroupTakeIn(t *testing.T) {
	if namespaces(t) {
		return
	}
	here, there := cgroup(t), cgroup(t)
	target, same, late, unsure, gone := sleeper(t), sleeper(t), sleeper(t), sleeper(t), sleeper(t)
	for _, c := range []*client{target, same, late, unsure, gone} {
		joinGroup(t, here, c)
	}
	var last guard.Gathered
	first := inGroup(t, target)
	first.post = func(o guard.Observation) { last = o.(guard.Gathered) }
	if err := first.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if last.Alone || last.Group.Inode == 0 || last.Group.Path != first.path || len(last.Group.Members) != 4 {
		t.Fatalf("%+v", last)
	}
	_ = target.cmd.Process.Kill()
	target.end()
	if err := first.Signal(unix.SIGCONT); err != nil || !last.Alone || len(last.Group.Members) != 4 {
		t.Fatalf("%+v, %v", last, err)
	}
	earlier := last.Group
	for i := range earlier.Members {
		switch m := &earlier.Members[i]; m.PID {
		case late.pid: // the number is another's by now
			m.Start++
		case unsure.pid:
			m.Start, m.Inode = 0, 0
		default:
			if m.Start == 0 {
				t.Errorf("nothing tells it from a later one: %+v", m)
			}
		}
	}
	joinGroup(t, there, gone)
	for name, tt := range map[string]struct {
		change func(g *guard.Group)
		want   int
		unsure int
	}{
		"that one":    {func(*guard.Group) {}, 1, 1},
		"a later one": {func(g *guard.Group) { g.Inode++ }, 0, 0},
		"another inode": {func(g *guard.Group) {
			g.Members = []guard.Member{{PID: same.pid, Start: memberFacts(t, same).Start, Inode: 1}}
		}, 0, 0},
		"a path that is none":  {func(g *guard.Group) { g.Path = "/../x" }, 0, 0},
		"somewhere else":       {func(g *guard.Group) { g.Path += "x" }, 0, 0},
		"nobody":               {func(g *guard.Group) { g.Members = nil }, 0, 0},
		"one that never lived": {func(g *guard.Group) { g.Members = []guard.Member{{PID: 1 << 22, Start: 1}} }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			group := earlier
			group.Members = slices.Clone(earlier.Members)
			tt.change(&group)
			found := guard.Gathered{}
			next := &groupTarget{path: group.Path, earlier: group, post: func(o guard.Observation) { found = o.(guard.Gathered) }, units: first.units}
			defer next.close()
			remains := next.Remains()
			if remains != (tt.want > 0) || len(next.members) != tt.want || found.Unsure != tt.unsure || len(found.Group.Members) != tt.want {
				t.Errorf("remains %v, %d members, %+v", remains, len(next.members), found)
			}
			if tt.want > 0 && next.members[same.pid] == nil {
				t.Errorf("%+v", next.members)
			}
		})
	}
	over := &groupTarget{path: earlier.Path, earlier: earlier, post: func(guard.Observation) {}, units: first.units}
	over.close()
	if over.Remains() || len(over.members) > 0 {
		t.Errorf("taken in after the ladder was over, for good: %+v", over.members)
	}
	// Those, and nobody else.
	next := &groupTarget{path: earlier.Path, earlier: earlier, post: func(guard.Observation) {}, units: first.units}
	defer next.close()
	if err := next.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	same.endsBy(unix.SIGKILL)
	settle(100 * time.Millisecond)
	for _, c := range []*client{late, unsure, gone} {
		if !c.alive() {
			t.Errorf("%d was ended", c.pid)
		}
	}
}

func memberFacts(t *testing.T, c *client) guard.Member {
	t.Helper()
	p, err := process.Open(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return memberOf(p)
}

// TestKilledInRest: a daemon that dies while it ends the rest of a cgroup leaves that to the next one, which ends those
// who were in it, and nobody who came later.
func TestKilledInRest(t *testing.T) {
	for name, end := range map[string]func(*guardian){"kill -9": (*guardian).kill, "stop": (*guardian).stop} {
		t.Run(name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			c := testConfig(t)
			scope := config.ScopeCgroup
			c.Rules = []config.Rule{{Match: config.Match{Name: "hung"}, Ladder: config.RuleLadder{Scope: &scope,
				Steps: []config.Step{{Signal: unix.SIGTERM, Wait: 4 * time.Second}, {Signal: unix.SIGKILL, Wait: time.Second}}}}}
			g := launch(t, c)
			g.await(want{event: guard.EvActing})
			here := cgroup(t)
			stubborn := spawn(t, "/bin/sh", []string{"-c", "trap '' TERM; exec sleep 1000"})
			target := run(t, "--name hung --timeout 1 --beat 100 --beats 3 --term-exit")
			joinGroup(t, here, stubborn)
			joinGroup(t, here, target)
			target.endsBy(0)
			g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGTERM"})
			sent := time.Now()
			settle(300 * time.Millisecond) // its exit notice
			end(g)
			later := sleeper(t)
			joinGroup(t, here, later)

			g = launch(t, c)
			stubborn.endsBy(unix.SIGKILL)
			if d := time.Since(sent); d < 3*time.Second {
				t.Errorf("SIGKILL %v after SIGTERM, its wait is 4s", d)
			}
			e := g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGKILL"})
			if !strings.Contains(e.Message, "the rest of the cgroup of") {
				t.Error(e.Message)
			}
			settle(time.Second)
			if !later.alive() {
				t.Errorf("one that came later was ended: %v", later.status)
			}
			g.none(want{event: guard.EvRefused})
		})
	}
}
