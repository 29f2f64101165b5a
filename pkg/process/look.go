package process

import (
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of times in /proc: 100 ticks a second on amd64 and arm64, whatever the kernel's own HZ.
const userHZ = 100

// ticks converts clock ticks; what no clock can have counted (beyond 292 years) becomes the longest time.
func ticks(n uint64) time.Duration {
	return time.Duration(min(n, (1<<63-1)/uint64(time.Second/userHZ))) * (time.Second / userHZ)
}

// Look is evidence about a process that is alive.
type Look struct {
	State           byte          // of the leader, a letter of proc(5); Z while only other threads live
	PPID, PGID      int32         // 0: outside of this pid namespace
	TracerPID       int32         // id of the tracing thread, 0: not traced
	Frozen, Dumping bool          // by its cgroup, or about to be; writing a core
	CPU             time.Duration // user and system time of all threads, in steps of 10 ms
	RunWait         time.Duration // the leader stood in a run queue; a wait counts when it is over
	Threads         int
}

// Look reads stat, schedstat, status, cgroup and the freezer's files, and the CPU clock: none of them waits for the process. It
// does not allocate. stat is that of the leader alone: that of the process asks each thread, which takes 10 ms for 30 000 of
// them, the CPU clock 4 ms.
// Error: ErrGone when the process has ended, ErrClosed, or the errno.
func (p *Process) Look() (Look, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return Look{}, fmt.Errorf("look at %d: %w", p.PID, ErrClosed)
	}
	l, err := p.sys.look(p.PID)
	if err == nil {
		l.CPU, err = cpuClock(p.PID)
		l.CPU = l.CPU.Truncate(ticks(1)) // a thread that only looks around has used none
	}
	// As in Open: what was read by number belongs to the process only if its pidfd is not readable afterwards.
	if exited(p.fd) {
		err = ErrGone
	}
	if err != nil {
		return Look{}, fmt.Errorf("look at %d: %w", p.PID, err)
	}
	return l, nil
}

func (s *system) look(pid int32) (Look, error) {
	var buf [statSize]byte
	st, err := s.leader(pid, &buf)
	if err != nil {
		return Look{}, err
	}
	_, wait, err := s.schedstat(pid)
	if err != nil {
		return Look{}, err
	}
	status, err := s.status(pid)
	if err != nil {
		return Look{}, err
	}
	frozen, err := s.frozen(pid)
	if err != nil {
		return Look{}, err
	}
	return Look{
		State:     st.state,
		PPID:      st.ppid,
		PGID:      st.pgid,
		TracerPID: status.tracer,
		Frozen:    frozen,
		Dumping:   status.dumping,
		RunWait:   wait,
		Threads:   st.threads,
	}, nil
}

// leader reads the stat of the first thread of a process; its times are of that thread only.
func (s *system) leader(pid int32, buf *[statSize]byte) (stat, error) {
	var name [512]byte
	path := s.path(name[:0], pid, "task")
	path[len(path)-1] = '/'
	path = append(strconv.AppendInt(path, int64(pid), 10), "/stat\x00"...)
	fd, err := openPath(path)
	if err != nil {
		return stat{}, err
	}
	n, err := read(fd, buf[:])
	unix.Close(fd)
	if err != nil {
		return stat{}, err
	}
	return parseStat(buf[:n])
}

// frozen asks both freezers: in hybrid mode either can hold a process.
func (s *system) frozen(pid int32) (bool, error) {
	fd, err := s.open(pid, "cgroup")
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	l := lines{fd: fd}
	for line := l.next(); line != nil; line = l.next() {
		if h, path := parseCgroupLine(line); s.isFrozen(h, path) {
			return true, nil
		}
	}
	return false, l.err
}
