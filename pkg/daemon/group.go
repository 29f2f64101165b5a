package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/escalate"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// maxGroup bounds the pidfds that one ladder holds for the members of a
	// cgroup. What is beyond is ended by cgroup.kill, or by a later step.
	maxGroup = 1024
	// killRounds is how often members are looked for that were forked meanwhile.
	killRounds = 10
	// unitKillTimeout bounds the call to systemd, which takes a millisecond: an
	// order to stop the ladder waits for as long, on the loop.
	unitKillTimeout = 200 * time.Millisecond
)

// groupTarget is a target that is ended with its whole cgroup: the one that it was in
// when that was decided. Each member is signalled through a pidfd that was opened, and
// seen to be a member, while the target itself was alive; those that are left when it
// has ended get the rest of the ladder. Who comes later (a unit that was restarted into
// the same cgroup) is never among them, and who left it is spared.
//
// Of whom an earlier daemon's ladder was for, those are taken in again that can be shown
// to be who they were, as long as that very cgroup stands. Its target may have ended
// before: then there is none.
type groupTarget struct {
	ladderTarget // proc is nil where it had ended before
	target       guard.TargetID
	path         string // of that cgroup
	units        *systemd.Units
	helper       int32
	post         func(guard.Observation)

	mu      sync.Mutex // the pool asks for those that remain while a ladder waits in its queue
	inode   uint64     // of that cgroup, 0 as long as nobody has looked
	members map[int32]*process.Process
	earlier guard.Group // of an earlier daemon, to be taken in
}

// Signal sends to all that were found in the target's cgroup, and then to it: while it
// lives, nobody makes that cgroup anew.
func (t *groupTarget) Signal(sig unix.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeIn()
	if t.proc == nil || t.proc.Exited() || t.proc.FD() < 0 { // or was given up since
		t.tell(true, 0)
		t.signalMembers(sig)
		return nil // the steps go on for the others
	}
	defer t.tell(false, 0)
	sent := false
	if group := t.group(); group != nil {
		sent = t.signalGroup(group, sig)
	}
	err := t.ladderTarget.Signal(sig)
	if sent && errors.Is(err, unix.ESRCH) {
		return nil // it ended of what all were sent
	}
	return err
}

// group is the cgroup that the target was in when it was decided, nil when it has left
// it: then it is ended alone. t.mu is held, as in all that follow.
func (t *groupTarget) group() *process.Group {
	group, err := t.proc.Group()
	if err != nil || group.Path() != t.path {
		return nil
	}
	return group
}

// signalGroup signals all members. SIGKILL is for those as well that are just being
// forked: the kernel ends all at once; where cgroups can only be read, they are looked
// for again and again, and if that has no end, systemd does it for a unit.
func (t *groupTarget) signalGroup(group *process.Group, sig unix.Signal) (sent bool) {
	if sig == unix.SIGKILL && group.Kill() == nil {
		return true
	}
	for range killRounds {
		found := t.gather(group)
		t.signalMembers(sig)
		if found == 0 || sig != unix.SIGKILL {
			return false
		}
	}
	// Only where the target is directly in its unit's cgroup: that is what was
	// looked at before it was decided.
	if unit := t.proc.Unit; unit != "" && strings.HasSuffix(group.Path(), "/"+unit) && !t.proc.Exited() {
		ctx, cancel := context.WithTimeout(context.Background(), unitKillTimeout)
		defer cancel()
		return t.units.Kill(ctx, unit, sig) == nil
	}
	return false
}

// signalMembers signals those that were found and still are where they were.
func (t *groupTarget) signalMembers(sig unix.Signal) {
	for pid, m := range t.members {
		if group, err := m.Group(); m.Exited() || err != nil || !isBelow(group.Path(), t.path) {
			_ = m.Close()
			delete(t.members, pid)
			continue
		}
		_ = m.Signal(sig) // what it says of one member says nothing of the others
	}
}

func isBelow(path, group string) bool { return path == group || strings.HasPrefix(path, group+"/") }

// close gives the members up, when the ladder is over. The pool may still ask for those that remain.
func (t *groupTarget) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.earlier = guard.Group{}
	for pid, m := range t.members {
		_ = m.Close()
		delete(t.members, pid)
	}
}

// takeIn opens those who were members for an earlier daemon, once.
func (t *groupTarget) takeIn() {
	e := t.earlier
	t.earlier = guard.Group{}
	if len(e.Members) == 0 || e.Path != t.path {
		return
	}
	unsure := 0
	switch _, err := process.GroupAt(e.Path, e.Inode); {
	case errors.Is(err, fs.ErrNotExist): // with it went all who were in it
		return
	case err != nil:
		unsure = len(e.Members)
		e.Members = nil
	}
	t.inode, t.members = e.Inode, map[int32]*process.Process{}
	for _, was := range e.Members {
		m, err := process.Open(was.PID)
		if err != nil {
			continue
		}
		switch is := memberOf(m); {
		case !isBelow(m.Cgroup, t.path): // it has left
		case was.Start == 0:
			unsure++
		case is == was:
			t.members[was.PID] = m
			continue
		}
		_ = m.Close()
	}
	t.tell(false, unsure)
}

// memberOf says how another daemon can tell a process. Without an inode of its own a
// later one of its number has a later start, if this one lives after the tick in which
// it began.
func memberOf(m *process.Process) guard.Member {
	is := guard.Member{PID: m.PID}
	if now := process.Ticks(); m.Inode != 0 || m.StartTime < now && !m.Exited() {
		is.Start, is.Inode = m.StartTime, m.Inode
	}
	return is
}

// tell says whom the ladder is for beside its target.
func (t *groupTarget) tell(alone bool, unsure int) {
	o := guard.Gathered{Target: t.target, Group: guard.Group{Path: t.path, Inode: t.inode}, Alone: alone, Unsure: unsure}
	for _, m := range t.members {
		if !m.Exited() {
			o.Group.Members = append(o.Group.Members, memberOf(m))
		}
	}
	t.post(o)
}

// gather opens the members of the cgroup that are not known yet, and says how many.
func (t *groupTarget) gather(group *process.Group) (found int) {
	pids, err := group.Members()
	if err != nil {
		return 0
	}
	if t.members == nil {
		t.members = map[int32]*process.Process{}
	}
	t.inode = group.Inode()
	for _, pid := range pids {
		if pid == t.pid || t.members[pid] != nil || pid == int32(os.Getpid()) || pid == t.helper || len(t.members) >= maxGroup {
			continue
		}
		m, err := process.Open(pid) // refuses pid 1, kernel threads and this process
		if err != nil {
			continue
		}
		if !isBelow(m.Cgroup, t.path) {
			_ = m.Close() // it moved, or the number is another's
			continue
		}
		t.members[pid] = m
		found++
	}
	return found
}

// Remains says whether somebody is left, and gives up those who are not.
func (t *groupTarget) Remains() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeIn()
	for pid, m := range t.members {
		if m.Exited() {
			_ = m.Close()
			delete(t.members, pid)
		}
	}
	return len(t.members) > 0
}

var _ escalate.Target = (*groupTarget)(nil)
