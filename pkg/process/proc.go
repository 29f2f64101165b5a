package process

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// system is where processes and cgroups are read from. Tests point it at a directory of their own.
type system struct {
	proc    string // "/proc"
	cgroup2 mount  // the unified hierarchy, also beside v1 ones
	freezer mount  // the v1 freezer
	systemd mount  // v1, name=systemd
	root    string // cgroup of the manager that runs as pid 1, "" when it has the root
}

// host is the running system. The mounts are read once: nobody mounts cgroups under a running system.
var host = sync.OnceValue(func() *system { return newSystem("/proc") })

// newSystem finds the mounts. What cannot be read is as if it were not mounted.
func newSystem(proc string) *system {
	s := &system{proc: proc}
	if b, err := os.ReadFile(proc + "/self/mountinfo"); err == nil {
		s.cgroup2, s.freezer, s.systemd = parseMounts(string(b))
	}
	if path, err := s.cgroup(1); err == nil {
		s.root = managerRoot(path)
	}
	return s
}

// statSize is more than a stat line can have: 52 numbers of at most 21 bytes, and a name of at most 64.
const statSize = 1280

// stat reads /proc/PID/stat with one read into buf; comm of the result points into it.
func (s *system) stat(pid int32, buf *[statSize]byte) (stat, error) {
	fd, err := s.open(pid, "stat")
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

func (s *system) status(pid int32) (status, error) {
	fd, err := s.open(pid, "status")
	if err != nil {
		return status{}, err
	}
	defer unix.Close(fd)
	return readStatus(fd)
}

func readStatus(fd int) (status, error) {
	l := lines{fd: fd}
	var st status
	for line := l.next(); line != nil && !st.complete(); line = l.next() {
		st.parseLine(line)
	}
	if l.err != nil {
		return status{}, l.err
	}
	return st, st.check()
}

// cgroup is the path that Facts have.
func (s *system) cgroup(pid int32) (string, error) {
	fd, err := s.open(pid, "cgroup")
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	m, err := readMembership(fd)
	return m.path(), err
}

// ParentOf reads the parent and the state (a letter of proc(5)) of pid by number: it says who does not reap a zombie.
// The caller holds a Process or knows otherwise that the number still belongs to whom it means.
func ParentOf(pid int32) (ppid int32, state byte, err error) {
	var buf [statSize]byte
	st, err := host().stat(pid, &buf)
	if err == unix.ENOENT || err == unix.ESRCH {
		err = ErrGone
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read stat of %d: %w", pid, err)
	}
	return st.ppid, st.state, nil
}

// schedstat reads how long the leader of pid has run and has waited for a processor; zeros from a kernel that does not
// count it (without CONFIG_SCHED_INFO there is no such file).
func (s *system) schedstat(pid int32) (run, wait time.Duration, err error) {
	fd, err := s.open(pid, "schedstat")
	if err == unix.ENOENT {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	var buf [64]byte
	n, err := read(fd, buf[:])
	unix.Close(fd)
	if err != nil {
		return 0, 0, err
	}
	return parseSchedstat(buf[:n])
}

// open opens /proc/PID/name. The error is the bare errno.
func (s *system) open(pid int32, name string) (int, error) {
	var buf [512]byte
	return openPath(s.path(buf[:0], pid, name))
}

// path appends /proc/PID/name with NUL.
func (s *system) path(b []byte, pid int32, name string) []byte {
	b = append(b, s.proc...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(pid), 10)
	b = append(b, '/')
	b = append(b, name...)
	return append(b, 0)
}

// openPath opens a path that ends in NUL for reading.
func openPath(path []byte) (int, error) { return openAt(unix.AT_FDCWD, path, unix.O_RDONLY) }

// openAt opens a path that ends in NUL, relative to a directory. unix.Openat would copy it to the heap.
func openAt(dir int, path []byte, flags int) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])),
			uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// lines reads a descriptor line by line in bounded memory. A line longer than the buffer is cut.
type lines struct {
	fd         int
	start, end int
	err        error
	eof, skip  bool
	buf        [4352]byte // a cgroup path has at most PATH_MAX (4096) bytes
}

// next is the next line without its newline, nil at the end or after an error; valid until the next call.
func (l *lines) next() []byte {
	for {
		for i := l.start; i < l.end; i++ {
			if l.buf[i] != '\n' {
				continue
			}
			line := l.buf[l.start:i]
			l.start = i + 1
			if !l.skip {
				return line
			}
			l.skip = false
			i = l.start - 1
		}
		rest := l.buf[l.start:l.end]
		switch {
		case l.eof && (l.skip || len(rest) == 0):
			return nil
		case l.eof:
			l.start = l.end
			return rest
		case len(rest) == len(l.buf):
			l.start, l.end = 0, 0
			if !l.skip {
				l.skip = true
				return rest
			}
		default:
			l.start, l.end = 0, copy(l.buf[:], rest)
		}
		n, err := read(l.fd, l.buf[l.end:])
		if err != nil {
			l.err, l.eof, l.start, l.end = err, true, 0, 0
			return nil
		}
		l.eof = n == 0
		l.end += n
	}
}
