package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Want says what a Sample is to have: each costs a few microseconds.
type Want uint16

const (
	WantMemory Want = 1 << iota
	WantGroupMemory
	WantCPU
	WantThreads
	WantDescriptors
	WantOpenLimit
	WantChildren
	WantAge
	WantPressureCPU
	WantPressureMemory
	WantPressureIO

	// KeepFiles has descriptors of what WantDescriptors and WantMemory read kept until Close, where there are not too
	// many of them: then these take a sixth and a quarter of the time.
	KeepFiles
)

const wantPressure = WantPressureCPU | WantPressureMemory | WantPressureIO

// Sample is what a process uses. What was not wanted, or cannot be had, is -1.
type Sample struct {
	At          time.Duration // CLOCK_MONOTONIC
	Memory      int64         // resident, bytes
	GroupMemory int64         // of its cgroup and those below, bytes: memory.current
	CPU         time.Duration // user and system time of all threads, to the nanosecond
	Threads     int
	Descriptors int
	OpenLimit   int64 // the soft limit of descriptors
	Children    int   // with those that it has not reaped; who comes and goes during the call can be missed
	Age         time.Duration
	Pressure    Pressure // of its cgroup
	Problems    []string // what could not be read and why: "group memory: no such file or directory"
}

var (
	errNoGroup      = errors.New("it is in no cgroup of the unified hierarchy but the root")
	errNoController = errors.New("no memory controller in the unified hierarchy")
	errNoPressure   = errors.New("the kernel does not count it")
)

// pageSize is the unit of statm.
var pageSize = int64(os.Getpagesize())

// maxSampledThreads bounds the threads whose children are counted.
const maxSampledThreads = 4096

// Sample reads what is wanted, and nothing that waits for the process or holds it up: its CPU clock, statm, stat,
// limits, the size of its fd directory, the lists of children, and its cgroup's memory.current and pressure files;
// never smaps. A file takes 4 to 7 microseconds, the clock and the size of a directory about one.
// Error: ErrGone when the process has ended, or ErrClosed.
func (p *Process) Sample(want Want) (Sample, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return Sample{}, fmt.Errorf("sample %d: %w", p.PID, ErrClosed)
	}
	descriptors, memory, rest := p.sampleKept(want)
	s := p.sys.sample(p.PID, p.StartTime, rest)
	if descriptors >= 0 {
		s.Descriptors = descriptors
	}
	if memory >= 0 {
		s.Memory = memory
	}
	if want&WantCPU != 0 {
		var err error
		s.CPU, err = cpuClock(p.PID)
		s.problem("processor time", err)
	}
	// As in Look.
	if exited(p.fd) {
		return Sample{}, fmt.Errorf("sample %d: %w", p.PID, ErrGone)
	}
	return s, nil
}

func (s *Sample) problem(what string, err error) {
	if err != nil {
		s.Problems = append(s.Problems, what+": "+err.Error())
	}
}

func (s *system) sample(pid int32, start uint64, want Want) Sample {
	out := Sample{At: Now(), Memory: -1, GroupMemory: -1, CPU: -1, Threads: -1, Descriptors: -1, OpenLimit: -1, Children: -1, Age: -1, Pressure: noPressure}
	var buf [statSize]byte
	if want&(WantThreads|WantChildren) != 0 {
		st, err := s.stat(pid, &buf)
		if err == nil {
			out.Threads = st.threads
			if want&WantMemory != 0 { // it has that number as well: one file less
				out.Memory = st.rss * pageSize
				want &^= WantMemory
			}
		}
		out.problem("stat", err)
	}
	if want&WantMemory != 0 {
		b, err := s.small(pid, "statm", buf[:])
		if err == nil {
			out.Memory, err = parseStatm(b)
		}
		out.problem("memory", err)
	}
	if want&WantDescriptors != 0 {
		var err error
		out.Descriptors, err = s.countDescriptors(pid)
		out.problem("descriptors", err)
	}
	if want&WantOpenLimit != 0 {
		var limits [2048]byte
		b, err := s.small(pid, "limits", limits[:])
		if err == nil {
			out.OpenLimit = parseOpenLimit(b)
		}
		out.problem("limit of descriptors", err)
	}
	if want&WantChildren != 0 {
		var err error
		out.Children, err = s.countChildren(pid, out.Threads)
		out.problem("children", err)
	}
	if want&WantAge != 0 {
		var now unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // the clock of starttime, Linux 3.17
		if err == nil {
			out.Age = max(time.Duration(now.Nano())-ticks(start), 0)
		}
		out.problem("age", err)
	}
	if want&(WantGroupMemory|wantPressure) != 0 {
		s.sampleGroup(&out, pid, want)
	}
	return out
}

// cpuClock reads the CPU clock of a process, which takes no right: one call, where stat takes three and counts in ticks.
func cpuClock(pid int32) (time.Duration, error) {
	var used unix.Timespec
	// CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
	if err := unix.ClockGettime(^pid<<3|2, &used); err != nil {
		return -1, err
	}
	return time.Duration(used.Nano()), nil
}

// small reads a file of a process with one read.
func (s *system) small(pid int32, name string, buf []byte) ([]byte, error) {
	fd, err := s.open(pid, name)
	if err != nil {
		return nil, err
	}
	n, err := read(fd, buf)
	unix.Close(fd)
	return buf[:max(n, 0)], err
}

// parseStatm takes the second number: resident pages. A process that has given its memory back has none.
func parseStatm(b []byte) (int64, error) {
	_, rest := cutWord(b)
	word, _ := cutWord(rest)
	n, ok := number(word)
	if !ok || n < 0 || n > (1<<63-1)/pageSize {
		return -1, errors.New("malformed statm")
	}
	return n * pageSize, nil
}

// countDescriptors takes the size of the directory (Linux 6.2), which takes no right; before, it counts.
func (s *system) countDescriptors(pid int32) (int, error) {
	var buf [512]byte
	size, err := sizeOf(s.path(buf[:0], pid, "fd"))
	if err != nil {
		return -1, err
	}
	if size > 0 {
		return int(size), nil
	}
	fd, err := s.open(pid, "fd")
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	n := 0
	err = eachEntry(fd, func([]byte, byte) bool { n++; return n < maxDescriptors })
	if err != nil {
		return -1, err
	}
	return n, nil
}

// sizeOf is st_size of a path that ends in NUL. unix.Statx would copy the path to the heap.
func sizeOf(path []byte) (uint64, error) {
	var st unix.Statx_t
	dir := unix.AT_FDCWD
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(&path[0])), 0, unix.STATX_SIZE, uintptr(unsafe.Pointer(&st)), 0)
	if errno != 0 {
		return 0, errno
	}
	return st.Size, nil
}

// countChildren adds up the children of all threads: each is listed with the one that made it.
func (s *system) countChildren(pid int32, threads int) (int, error) {
	if threads == 1 {
		return s.childrenOf(pid, pid)
	}
	fd, err := s.open(pid, "task")
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	all, seen := 0, 0
	var failed error
	err = eachEntry(fd, func(name []byte, _ byte) bool {
		tid, ok := number(name)
		if !ok {
			return true
		}
		n, err := s.childrenOf(pid, int32(tid))
		switch err {
		case nil:
			all += n
		case unix.ENOENT, unix.ESRCH: // it has ended meanwhile
		default:
			failed = err
		}
		seen++
		return failed == nil && seen < maxSampledThreads
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return -1, err
	}
	return all, nil
}

// childrenOf counts the pids in a thread's list of children (CONFIG_PROC_CHILDREN).
func (s *system) childrenOf(pid, tid int32) (int, error) {
	var buf [512]byte
	path := s.path(buf[:0], pid, "task/")
	path = strconv.AppendInt(path[:len(path)-1], int64(tid), 10)
	path = append(path, "/children\x00"...)
	fd, err := openPath(path)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	n := 0
	var content [4096]byte
	for {
		m, err := read(fd, content[:])
		if err != nil {
			return -1, err
		}
		if m <= 0 {
			return n, nil
		}
		n += bytes.Count(content[:m], []byte(" ")) // one behind each
	}
}

func (s *system) sampleGroup(out *Sample, pid int32, want Want) {
	var pathBuf [4352]byte
	path, err := s.unified(pid, pathBuf[:0])
	if err == nil && len(path) < 2 {
		err = errNoGroup
	}
	if err != nil {
		out.problem("cgroup", err)
		return
	}
	var name [4608]byte
	var content [256]byte
	if want&WantGroupMemory != 0 {
		b, err := readFile(s.cgroup2.file(name[:0], path, "memory.current"), content[:])
		if err == nil {
			n, ok := number(bytes.TrimSuffix(b, []byte("\n")))
			if out.GroupMemory = n; !ok || n < 0 {
				out.GroupMemory, err = -1, errors.New("malformed memory.current")
			}
		}
		if err == unix.ENOENT {
			err = errNoController
		}
		out.problem("group memory", err)
	}
	for _, x := range [...]struct {
		want             Want
		file, kind, what string
		to               *float64
	}{
		{WantPressureCPU, "cpu.pressure", "some", "cpu pressure", &out.Pressure.CPU},
		{WantPressureMemory, "memory.pressure", "full", "memory pressure", &out.Pressure.Memory},
		{WantPressureIO, "io.pressure", "full", "io pressure", &out.Pressure.IO},
	} {
		if want&x.want == 0 {
			continue
		}
		b, err := readFile(s.cgroup2.file(name[:0], path, x.file), content[:])
		if err == nil {
			*x.to = parsePressure(b, x.kind)
		}
		if err == nil && *x.to < 0 || err == unix.ENOENT || err == unix.EOPNOTSUPP {
			err = errNoPressure
		}
		out.problem(x.what, err)
	}
}

// unified appends the path of the process's cgroup in the unified hierarchy.
func (s *system) unified(pid int32, buf []byte) ([]byte, error) {
	fd, err := s.open(pid, "cgroup")
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	l := lines{fd: fd}
	for line := l.next(); line != nil; line = l.next() {
		if h, path := parseCgroupLine(line); h == hierarchyV2 {
			return append(buf, path...), nil
		}
	}
	return nil, l.err
}

// readFile reads a file whose path ends in NUL; nil stands for one that cannot be seen.
func readFile(path, buf []byte) ([]byte, error) {
	if path == nil {
		return nil, errNoGroup
	}
	fd, err := openPath(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, buf)
}
