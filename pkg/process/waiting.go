package process

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// lateCalls counts the readers of system calls that were given up and have not returned.
var lateCalls atomic.Int32

// call is where one thread is: see Thread.
type call struct{ name, stack string }

// calls is the answer about several threads.
type calls struct {
	of  map[int32]call
	err error // the first one, about a system call
}

// askCalls has the system calls and stacks of the threads that are described read aside: the kernel lets nobody read them
// during an exec (exec_update_lock), and an exec waits for the mmap_lock of the memory that is left, and for the
// asynchronous I/O into it. nil when too many such reads have not returned.
func (x *examination) askCalls() <-chan calls {
	if lateCalls.Load() >= maxLate {
		x.problem("syscall", fmt.Errorf("%d earlier reads have not returned", maxLate))
		return nil
	}
	dir, err := x.dir.dup()
	if err != nil {
		x.problem("syscall", err)
		return nil
	}
	var tids []int32
	for _, t := range x.Threads {
		if !endedState(t.State) {
			tids = append(tids, t.TID)
		}
	}
	answer := make(chan calls, 1)
	go func() {
		defer dir.close()
		answer <- dir.calls(tids)
	}()
	return answer
}

// awaitCalls takes the answer over into Threads, or gives it up.
func (x *examination) awaitCalls(ctx context.Context, answer <-chan calls) {
	if answer == nil {
		return
	}
	limit := time.NewTimer(callTime)
	defer limit.Stop()
	select {
	case got := <-answer:
		x.takeCalls(got)
		return
	case <-limit.C:
		x.problem("syscall", fmt.Errorf("no answer within %v", callTime))
	case <-ctx.Done():
	}
	lateCalls.Add(1)
	go func() {
		<-answer
		lateCalls.Add(-1)
	}()
}

func (x *examination) takeCalls(got calls) {
	x.problem("syscall", got.err)
	channels := false
	for i := range x.Threads {
		t := &x.Threads[i]
		c := got.of[t.TID]
		t.Syscall, t.Stack = c.name, c.stack
		channels = channels || t.Channel != ""
	}
	// Without CAP_SYS_PTRACE wchan is "0" and no error.
	if got.err != nil && !channels && x.State != 'R' {
		x.problem("wchan", got.err)
	}
}

// calls reads the files that can wait.
func (f folder) calls(tids []int32) calls {
	got := calls{of: make(map[int32]call, len(tids))}
	var buf [4096]byte
	stacks := true
	for _, tid := range tids {
		var c call
		b, err := f.read(tid, "syscall", buf[:])
		switch {
		case err == nil:
			c.name = parseCall(b)
		case err == unix.EACCES || err == unix.EPERM:
			got.err = err
		}
		if stacks && c.name != "running" {
			b, err := f.read(tid, "stack", buf[:])
			stacks = err != unix.EACCES && err != unix.EPERM
			c.stack = parseStack(b)
		}
		got.of[tid] = c
	}
	return got
}

// parseStack reads /proc/PID/stack and keeps one function in each line: "hrtimer_nanosleep+0x74/0xf0". A line that was
// cut is left out.
func parseStack(b []byte) string {
	var out []byte
	for line := range bytes.Lines(b) {
		if line[len(line)-1] != '\n' {
			break
		}
		_, function, ok := bytes.Cut(line, []byte("] "))
		if ok {
			out = append(out, function...)
		}
	}
	return string(bytes.TrimSuffix(out, []byte("\n")))
}
