package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// RealtimeThread gives the calling thread SCHED_RR priority 1. The goroutine must be locked to it. Threads made from it
// are ordinary again (reset on fork), so the garbage collector is not real-time. Needs CAP_SYS_NICE or RLIMIT_RTPRIO 1.
func RealtimeThread() error {
	attr := unix.SchedAttr{
		Size:     unix.SizeofSchedAttr,
		Policy:   unix.SCHED_RR,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK,
		Priority: 1,
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("ask for SCHED_RR: %w", err)
	}
	return nil
}

// LockMemory keeps what the process touches in memory, now and later (MCL_ONFAULT: untouched pages cost nothing). Under
// a limited RLIMIT_MEMLOCK the Go runtime would die at the next growth of its heap, so it is only done with
// CAP_IPC_LOCK or without a limit; the error says what is missing.
func LockMemory() error {
	if err := capability(unix.CAP_IPC_LOCK); err != nil {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			return fmt.Errorf("lock memory: getrlimit: %w", err)
		}
		if limit.Cur != unix.RLIM_INFINITY {
			return fmt.Errorf("lock memory: CAP_IPC_LOCK %w, and RLIMIT_MEMLOCK is %d bytes", err, limit.Cur)
		}
	}
	err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	if errors.Is(err, unix.ENOSYS) {
		return errors.New("lock memory: refused by the sandbox or the kernel")
	}
	if err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	return nil
}

// FineTimer is the kernel's own timer slack: how late it may end a sleep, to end several with one wake-up.
const FineTimer = 50 * time.Microsecond

// TimerSlack lets sleeps of all threads of this process, also of those to come, end up to d late. Not those on a
// timerfd: a Poller's are exact whatever the slack. When one goroutine waits in a system call, Go's runtime watches it
// with some sixty naps of 20 µs, for 10 ms, before it goes to sleep itself; with a slack of 2 ms these are eight. For a
// process that wakes up twice a second they are most of its CPU time: 1.4 of 1.9 ms a second. Needs CAP_SYS_NICE, unless
// it was inherited (TimerSlackNSec= of systemd).
func TimerSlack(d time.Duration) error {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil && time.Duration(now) == d {
		return nil
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	var refused error
	for _, t := range threads {
		err := os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(strconv.FormatInt(d.Nanoseconds(), 10)), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // ended meanwhile
			refused = fmt.Errorf("set timer slack: %w", err)
		}
	}
	return refused
}

// ThreadTimerSlack is TimerSlack for the calling thread alone. The goroutine must be locked to it.
func ThreadTimerSlack(d time.Duration) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	return nil
}
