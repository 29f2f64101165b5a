package process

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Evidence about a process that is late. Names of threads, of the tracer and of what is open are raw bytes that the
// process chooses, as Facts.Comm is.
type Evidence struct {
	State       byte     // of the main thread, as in Look
	Threads     []Thread // at most 64: the main thread, then those in D, in R, stopped ones, all others
	ThreadCount int      // of the process, or of those looked at where that is not known
	Runnable    int      // in state R, of the first 4096 looked at
	Blocked     int      // in state D, the same
	Waiting     int      // of Threads: in state R at both samples, and not run in between

	CPU, RunWait time.Duration // as in Look

	Descriptors     int      // -1 where it cannot be had; counted up to 65536 before Linux 6.2, exact since
	DescriptorLimit int64    // the soft limit
	Open            []string // the first 32: "3 socket:[81]", cut at 256 bytes
	RSS, Swap       int64    // bytes

	TracerPID       int32 // as in Look
	TracerComm      string
	Dumping, Frozen bool // as in Look

	Host, Group Pressure // Group: of its cgroup in the unified hierarchy
	Cgroup      string   // as in Facts, now
	Members     []int32  // Group.Members, it itself among them; nil when not asked for or not to be had

	Problems []string      // what could not be read and why, each once: "syscall: permission denied"
	Took     time.Duration // for all of it, the 50 ms between the samples included
}

// Thread is what one thread was doing at the first of the two samples.
type Thread struct {
	TID          int32
	Comm         string        // raw
	State        byte          // a letter of proc(5)
	Channel      string        // the function of the kernel that it waits in; "" when it does not, or without the right
	Syscall      string        // its name, its number when it has none here, "running", "" outside of one
	CPU, RunWait time.Duration // since it began; RunWait as in Look
	Moved        bool          // it used CPU between the two samples
	Stack        string        // in the kernel, innermost call first, one in each line; "" without CAP_SYS_ADMIN
}

const (
	sampleTime = 50 * time.Millisecond // five clock ticks, in which a running thread's CPU time is sure to be counted
	callTime   = time.Second           // an answer about system calls that takes longer is given up
	maxLate    = 8                     // readers that were given up and have not returned
	maxLooked  = 4096                  // threads whose state is counted
	maxThreads = 64                    // threads that are described
)

// Examine gathers evidence about the process without stopping it. It reads nothing that waits for its mmap_lock (never
// maps, cmdline, environ or smaps). What waits for an exec under way (syscall and stack) is read aside, and done without
// when that takes a second. It takes 50 ms, and 15 more for each 1000 threads up to 4096: for a side goroutine. With
// group it lists who else is in its cgroup.
//
// Errors: ErrGone when the process has ended, ErrClosed, the context's, or why /proc/PID cannot be read at all. What
// else cannot be read is named in Problems. Rights for processes of other users: CAP_SYS_PTRACE for Channel and what
// descriptors are, and CAP_DAC_READ_SEARCH beside it for Syscall and anything about descriptors.
func (p *Process) Examine(ctx context.Context, group bool) (Evidence, error) {
	begin := Now()
	fd, err := p.dup()
	if err != nil {
		return Evidence{}, fmt.Errorf("examine %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	e, err := p.sys.examine(ctx, p.PID, func() bool { return exited(fd) }, group)
	if err != nil {
		return Evidence{}, fmt.Errorf("examine %d: %w", p.PID, err)
	}
	e.Took = Now() - begin
	return e, nil
}

// examine reads all of Evidence but Took. gone says whether the process has ended.
func (s *system) examine(ctx context.Context, pid int32, gone func() bool, group bool) (Evidence, error) {
	dir, err := s.folder(pid)
	// Now dir is its folder, if it lives: its number is given to another only after its end.
	if gone() {
		if err == nil {
			dir.close()
		}
		return Evidence{}, ErrGone
	}
	if err != nil {
		return Evidence{}, err
	}
	defer dir.close()
	x := examination{sys: s, pid: pid, dir: dir}
	err = x.run(ctx, group)
	if gone() {
		err = ErrGone
	}
	if err != nil {
		return Evidence{}, err
	}
	return x.Evidence, nil
}

// examination is one Examine under way.
type examination struct {
	Evidence
	sys     *system
	pid     int32
	dir     folder
	samples []sample // the first ones, in the order of Threads
	buf     [4096]byte
}

func (x *examination) problem(what string, err error) {
	// Threads and descriptors end while they are looked at.
	if err == nil || err == unix.ENOENT || err == unix.ESRCH {
		return
	}
	if p := what + ": " + err.Error(); !slices.Contains(x.Problems, p) {
		x.Problems = append(x.Problems, p)
	}
}

func (x *examination) run(ctx context.Context, group bool) error {
	if err := x.sampleThreads(ctx); err != nil {
		return err
	}
	again := time.NewTimer(sampleTime)
	defer again.Stop()
	answer := x.askCalls()

	x.readProcess()
	x.readGroup(group)
	x.readHost()

	var err error
	select {
	case <-again.C:
		err = x.sampleAgain()
	case <-ctx.Done():
	}
	x.awaitCalls(ctx, answer)
	return cmp.Or(err, ctx.Err())
}

// readProcess reads what belongs to the process as a whole.
func (x *examination) readProcess() {
	// What the threads share is read of one that lives: the leader may have ended.
	var tid int32
	if endedState(x.State) {
		for _, t := range x.Threads {
			if !endedState(t.State) {
				tid = t.TID
				break
			}
		}
	}
	fd, err := x.dir.open(tid, "status", unix.O_RDONLY)
	if err == nil {
		var st status
		st, err = readStatus(fd)
		unix.Close(fd)
		x.TracerPID, x.Dumping, x.RSS, x.Swap = st.tracer, st.dumping, st.rss, st.swap
	}
	x.problem("status", err)
	if x.TracerPID != 0 {
		var b []byte
		if fd, err = x.sys.open(x.TracerPID, "comm"); err == nil {
			b, err = readAll(fd, x.buf[:])
			unix.Close(fd)
		}
		x.problem("tracer", err)
		x.TracerComm = string(bytes.TrimSuffix(b, []byte("\n")))
	}

	b, err := x.dir.read(0, "limits", x.buf[:])
	x.problem("limits", err)
	x.DescriptorLimit = parseOpenLimit(b)
	x.Descriptors, x.Open, err = x.dir.descriptors(tid)
	x.problem("fd", err)
}

func (x *examination) readHost() {
	var err error
	x.Host, err = x.sys.hostPressure()
	x.problem("pressure of the host", err)
}

// readGroup reads what its cgroup says.
func (x *examination) readGroup(members bool) {
	x.Group = noPressure
	m, err := x.dir.membership()
	x.problem("cgroup", err)
	if err != nil {
		return
	}
	x.Cgroup = m.path()
	x.Frozen = x.sys.isFrozen(hierarchyV2, []byte(m.v2)) || x.sys.isFrozen(hierarchyFreezer, []byte(m.freezer))
	x.Group, err = x.sys.groupPressure([]byte(m.v2))
	x.problem("pressure of the cgroup", err)
	if !members {
		return
	}
	g, err := x.sys.groupOf(x.dir)
	if err == nil {
		x.Members, err = g.Members()
	}
	x.problem("members", err)
}

// endedState says whether a state is one of a thread that has ended and is still shown.
func endedState(state byte) bool { return state == 'Z' || state == 'X' }
