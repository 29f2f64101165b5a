package daemon

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/escalate"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// maxGroup bounds the pidfds that one ladder holds for the members of a
	// cgroup. What is beyond is ended by cgroup.kill, or by a later step.
	maxGroup = 1024
	// unitKillTimeout bounds the call to systemd.
	unitKillTimeout = 5 * time.Second
)

// groupTarget is a target that is ended with its whole cgroup. Each member is
// signalled through a pidfd that was opened, and seen to be a member, while the
// target itself was alive; those that are left when it has ended get the rest of
// the ladder. Who comes later (a unit that was restarted into the same cgroup) is
// never among them.
type groupTarget struct {
	ladderTarget
	units  *systemd.Units
	helper int32

	mu      sync.Mutex // the pool asks for those that remain while a ladder waits in its queue
	members map[int32]*process.Process
}

// Signal sends to the target, and to all that were found in its cgroup.
func (t *groupTarget) Signal(sig unix.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	alive, sent := !t.proc.Exited(), false
	if alive {
		t.gather()
		sent = sig == unix.SIGKILL && t.killAll()
	}
	for pid, m := range t.members {
		if m.Exited() {
			_ = m.Close()
			delete(t.members, pid)
			continue
		}
		// What it says of one member says nothing of the others.
		sent = m.Signal(sig) == nil || sent
	}
	if !alive {
		return nil // the steps go on for the others
	}
	err := t.ladderTarget.Signal(sig)
	if sent && errors.Is(err, unix.ESRCH) {
		return nil // it ended of what all were sent, or the others had it
	}
	return err
}

// close gives the members up, when the ladder is over.
func (t *groupTarget) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for pid, m := range t.members {
		_ = m.Close()
		delete(t.members, pid)
	}
}

// gather opens the members of the cgroup that are not known yet. t.mu is held, as
// for killAll.
func (t *groupTarget) gather() {
	group, err := t.proc.Group()
	if err != nil {
		return
	}
	pids, err := group.Members()
	if err != nil {
		return
	}
	if t.members == nil {
		t.members = map[int32]*process.Process{}
	}
	for _, pid := range pids {
		if pid == t.pid || t.members[pid] != nil || pid == int32(os.Getpid()) || pid == t.helper || len(t.members) >= maxGroup {
			continue
		}
		m, err := process.Open(pid) // refuses pid 1, kernel threads and this process
		if err != nil {
			continue
		}
		if m.Cgroup != group.Path() && !strings.HasPrefix(m.Cgroup, group.Path()+"/") {
			_ = m.Close() // it moved, or the number is another's
			continue
		}
		t.members[pid] = m
	}
}

// killAll has the kernel end the whole cgroup at once, which also gets those that
// are just being forked; where cgroups can only be read, systemd does it for a
// unit. The pidfds get theirs in any case. It says whether that was done.
func (t *groupTarget) killAll() bool {
	group, err := t.proc.Group()
	if err != nil || t.proc.Exited() {
		return false
	}
	if group.Kill() == nil {
		return true
	}
	// Only where the target is directly in its unit's cgroup: that is what was
	// looked at before it was decided.
	unit := t.proc.Unit
	if unit == "" || !strings.HasSuffix(group.Path(), "/"+unit) || t.proc.Exited() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), unitKillTimeout)
	defer cancel()
	return t.units.Kill(ctx, unit, unix.SIGKILL) == nil
}

// Remains says whether somebody is left, and gives up those who are not.
func (t *groupTarget) Remains() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for pid, m := range t.members {
		if m.Exited() {
			_ = m.Close()
			delete(t.members, pid)
		}
	}
	return len(t.members) > 0
}

var _ escalate.Target = (*groupTarget)(nil)
