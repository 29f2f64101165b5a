// Package process holds the identity of other processes: a pidfd and the facts that were read while it was held.
// It signals through the pidfd only, tells when a process has exited, and reads evidence about one that is alive.
//
// Sources: pidfd_open(2), pidfd_send_signal(2), proc(5), cgroups(7), Linux Documentation/admin-guide/cgroup-v2.rst.
package process

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone says that the process has ended (ESRCH, or a readable pidfd). A missing right is never ErrGone.
	ErrGone = errors.New("no such process")

	// ErrZombie says that the process has ended and its parent does not reap it. errors.Is(err, ErrGone) holds as well.
	ErrZombie error = zombieError{}

	// ErrClosed is returned by the methods of a closed Process or Poller.
	ErrClosed = errors.New("already closed")
)

type zombieError struct{}

func (zombieError) Error() string        { return "exited, not reaped by its parent" }
func (zombieError) Is(target error) bool { return target == ErrGone }

// RefusedError names a process that is never a target.
type RefusedError struct {
	PID    int32
	Reason string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refuse pid %d: %s", e.PID, e.Reason) }

// Facts are what was true of a process while its pidfd was held. They are kept for the day when it is stuck or dead.
type Facts struct {
	PID       int32
	StartTime uint64 // clock ticks (1/100 s) since boot; no identity, pids reused within a tick share it
	Inode     uint64 // of the pidfd, unique for a boot; 0 where the kernel has none such (before Linux 6.9)
	UID       uint32 // effective, as ps shows it

	PPID, PGID, SID int32 // 0: outside of this pid namespace

	Comm     string // raw bytes: the process chooses them, spaces and control characters included
	Cgroup   string // path in the hierarchy that systemd uses; "/" or "" when there is none
	Unit     string // the system unit, "" outside of one
	UserUnit string // the unit of the user's manager, below user@UID.service
	Threads  int
}

// Process is a process that was alive when Open returned. It owns the pidfd. All methods may be called at once from
// several goroutines.
type Process struct {
	Facts

	sys *system
	mu  sync.RWMutex // held for reading around each use of fd, so that Close never hands a reused number to a call
	fd  int          // -1 when closed

	files keptFiles // closed with fd
}

// helpers are the pids (int32) of the running consent helpers, one for each Reader. Open refuses them.
var helpers sync.Map

// Open takes the pidfd of pid first, reads the facts from /proc with it in hand, and then sees through the pidfd that
// the process still lives: so the facts belong to the pidfd, whatever happened to the number.
//
// Errors: ErrGone, ErrZombie, *RefusedError; everything else (a missing right, no descriptors left, a hidden /proc)
// says nothing about whether the process exists.
func Open(pid int32) (*Process, error) { return host().openProcess(pid, nil) }

// Reopen opens the process that facts were read of earlier in this boot, by a program that has ended since. Where the
// inode of the pidfd says that it is the same one, they are not read again, which takes half the time of Open; else it
// is Open: the caller compares. Errors are those of Open.
func Reopen(known Facts) (*Process, error) { return host().openProcess(known.PID, &known) }

func (s *system) openProcess(pid int32, known *Facts) (*Process, error) {
	switch {
	case pid <= 0:
		return nil, &RefusedError{pid, "not the pid of a process"}
	case pid == 1:
		return nil, &RefusedError{pid, "pid 1"}
	case pid == int32(os.Getpid()):
		return nil, &RefusedError{pid, "this process itself"}
	}
	if _, ours := helpers.Load(pid); ours {
		return nil, &RefusedError{pid, "the helper of this process"}
	}

	fd, err := s.pidfd(pid)
	if err != nil {
		return nil, err
	}

	// An ended one is found out before the reads, which cost ten times as much.
	var facts Facts
	inode := pidfdInode(fd)
	err = ended(pid, fd)
	switch {
	case err != nil:
	case known != nil && inode != 0 && inode == known.Inode:
		facts = *known
	default:
		facts, err = s.facts(pid, fd)
		// The look through the pidfd comes after the reads and decides: a pid is reused only after its pidfd has
		// become readable.
		if gone := ended(pid, fd); gone != nil {
			err = gone
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	facts.Inode = inode
	return &Process{Facts: facts, sys: s, fd: fd}, nil
}

// ended is nil while the process behind a pidfd lives, else it is ErrGone or ErrZombie.
func ended(pid int32, fd int) error {
	if !exited(fd) {
		return nil
	}
	err := ErrGone
	// Signal 0 reaches a zombie and not a reaped process. EPERM also means that there is somebody.
	if e := unix.PidfdSendSignal(fd, 0, nil, 0); e != unix.ESRCH {
		err = ErrZombie
	}
	return fmt.Errorf("open pidfd %d: %w", pid, err)
}

// pidfd opens the pidfd of a thread-group leader.
func (s *system) pidfd(pid int32) (int, error) {
	// Twice: a thread's id may end and come back as a leader's between pidfd_open and the read of status.
	for range 2 {
		fd, err := unix.PidfdOpen(int(pid), 0)
		switch err {
		case nil:
			return fd, nil
		case unix.ESRCH:
			return -1, fmt.Errorf("open pidfd %d: %w", pid, ErrGone)
		case unix.EINVAL, unix.ENOENT:
			// A thread that leads no group: EINVAL before Linux 6.15, ENOENT since. Older kernels also say EINVAL of
			// a leader that is reaped during the call, so /proc is asked.
		default:
			return -1, fmt.Errorf("open pidfd %d: %w", pid, err)
		}

		st, err := s.status(pid)
		switch {
		case err == unix.ENOENT || err == unix.ESRCH:
			return -1, fmt.Errorf("open pidfd %d: %w", pid, ErrGone)
		case err != nil:
			return -1, fmt.Errorf("read status of %d: %w", pid, err)
		case st.tgid != pid:
			return -1, &RefusedError{pid, "not a thread-group leader"}
		}
	}
	return -1, fmt.Errorf("open pidfd %d: %w", pid, unix.EINVAL)
}

// facts reads what Facts holds, except for the inode. fd is the pidfd.
func (s *system) facts(pid int32, fd int) (Facts, error) {
	var buf [statSize]byte
	st, err := s.stat(pid, &buf)
	if err != nil {
		return Facts{}, fmt.Errorf("read stat of %d: %w", pid, err)
	}
	if st.flags&pfKthread != 0 {
		return Facts{}, &RefusedError{pid, "kernel thread"}
	}
	uid, ok := effectiveUID(fd)
	if !ok {
		status, err := s.status(pid)
		if err != nil {
			return Facts{}, fmt.Errorf("read status of %d: %w", pid, err)
		}
		uid = status.euid
	}
	cgroup, err := s.cgroup(pid)
	if err != nil {
		return Facts{}, fmt.Errorf("read cgroup of %d: %w", pid, err)
	}
	f := Facts{
		PID:       pid,
		StartTime: st.start,
		UID:       uid,
		PPID:      st.ppid,
		PGID:      st.pgid,
		SID:       st.sid,
		Comm:      string(st.comm),
		Cgroup:    cgroup,
		Threads:   st.threads,
	}
	f.Unit, f.UserUnit = s.unit(cgroup)
	return f, nil
}

// FD is the pidfd, for Poller.Watch; -1 when closed. It stays owned by p.
func (p *Process) FD() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.fd
}

// Close gives the pidfd back. A second Close does nothing.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	p.files.close()
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close pidfd of %d: %w", p.PID, err)
	}
	return nil
}

// Signal sends sig through the pidfd. Errors: ErrGone when the process has been reaped (a zombie takes signals and
// stays), ErrClosed, or the errno.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return fmt.Errorf("send %s to pid %d: %w", unix.SignalName(sig), p.PID, ErrClosed)
	}
	switch err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err {
	case nil:
		return nil
	case unix.ESRCH:
		return fmt.Errorf("send %s to pid %d: %w", unix.SignalName(sig), p.PID, ErrGone)
	default:
		return fmt.Errorf("send %s to pid %d: %w", unix.SignalName(sig), p.PID, err)
	}
}

// Exited says whether all threads of the process have ended, reaped or not. /proc cannot tell: a leader shows state Z
// while its threads live. False when closed.
func (p *Process) Exited() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.fd >= 0 && exited(p.fd)
}

// ExitStatus is the wait status of a process that has been reaped, by whomever. ok is false before that and on a
// kernel older than 6.15.
func (p *Process) ExitStatus() (status unix.WaitStatus, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return 0, false
	}
	return exitStatus(p.fd)
}

func exitStatus(fd int) (unix.WaitStatus, bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}

// effectiveUID asks the pidfd, which takes 1 µs where /proc/PID/status takes 15. ok is false before Linux 6.13.
func effectiveUID(fd int) (uid uint32, ok bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CREDS}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || info.Mask&unix.PIDFD_INFO_CREDS == 0 {
		return 0, false
	}
	return info.Euid, true
}

// exited polls a pidfd without waiting.
func exited(fd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds[:], 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 1 && fds[0].Revents&(unix.POLLIN|unix.POLLHUP) != 0
	}
}

// pidfsMagic is PID_FS_MAGIC of linux/magic.h: "PIDF".
const pidfsMagic = 0x50494446

// pidfdInode is 0 where pidfds are anonymous inodes, which all share one number (before Linux 6.9).
func pidfdInode(fd int) uint64 {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != pidfsMagic {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0
	}
	return st.Ino
}
