package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ReleaseMemory takes the memory of a process that got SIGKILL and does not go, in the place of the process itself
// (process_mrelease(2), Linux 5.15). It can take long: it
// waits for the mmap_lock.
// Errors: ErrGone when the process has no memory any more (reaped, or a zombie), EINVAL when it was not killed or
// writes a core dump, EAGAIN when the call shall be made again, ENOSYS, ErrClosed.
func (p *Process) ReleaseMemory() error {
	fd, err := p.dup()
	if err == nil {
		err = releaseMemory(fd)
		unix.Close(fd)
	}
	switch err {
	case nil:
		return nil
	case unix.ESRCH:
		err = ErrGone
	}
	return fmt.Errorf("release memory of %d: %w", p.PID, err)
}

// releaseMemory makes the system call; the error is the bare errno.
func releaseMemory(pidfd int) error {
	if _, _, errno := unix.Syscall(unix.SYS_PROCESS_MRELEASE, uintptr(pidfd), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// dup is a pidfd of the caller's own, for what takes long: Close would wait for a user of p.fd.
func (p *Process) dup() (int, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return -1, ErrClosed
	}
	return unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
}
