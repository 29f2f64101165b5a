package nstest

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// exitNoNamespace is pid 1's exit status when it could not set up the namespaces; a test binary exits with 0, 1 or 2.
const exitNoNamespace = 125

// A test binary that Run started as pid 1 never reaches its own main: package initialization ends here. It leaves
// without os.Exit, which under the race detector takes a second.
func init() {
	if os.Getenv(envRole) == roleInit && os.Getpid() == 1 {
		unix.Exit(pid1())
	}
}

// pid1 mounts /proc, starts the same binary as the inner process, and reaps whatever the namespace hands it until the
// inner process has ended. It returns the inner process's exit status, 128+N for death by signal N.
func pid1() int {
	// Without this the mounts would propagate to the mount namespace of the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintf(os.Stderr, "make all mounts private: %v\n", err)
		return exitNoNamespace
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		fmt.Fprintf(os.Stderr, "mount /proc: %v\n", err)
		return exitNoNamespace
	}
	// What a test sends to its whole process group must not end pid 1. Caught, not ignored: ignored signals would be
	// inherited through exec.
	signal.Notify(make(chan os.Signal, 1))

	os.Setenv(envRole, roleInner)
	inner, err := syscall.ForkExec(os.Args[0], os.Args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "start %s: %v\n", os.Args[0], err)
		return exitNoNamespace
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fmt.Fprintf(os.Stderr, "wait for the children of pid 1: %v\n", err)
			return exitNoNamespace
		case pid == inner && status.Exited():
			return status.ExitStatus()
		case pid == inner:
			fmt.Fprintf(os.Stderr, "the test in its namespaces was ended by %v\n", status.Signal())
			return 128 + int(status.Signal())
		}
	}
}
