package process

import (
	"errors"
	"fmt"

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
