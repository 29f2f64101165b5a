package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Feature is something that a kernel, a sandbox or missing rights can refuse.
type Feature struct {
	Name  string // one of the Feature constants
	Since string // the Linux version that has it; for a right, what it is for
	Err   string // why it cannot be had; "" when it can
}

// Names of features. Without FeaturePidfdOpen nothing can be guarded; each other one costs what its text says.
const (
	FeaturePidfdOpen   = "pidfd_open"
	FeaturePidfdSignal = "pidfd_send_signal"
	FeatureInode       = "unique pidfd inodes"
	FeatureExitStatus  = "exit status by pidfd"
	FeatureProc        = "foreign processes visible in /proc"
	FeatureFreezer     = "cgroup freezer visible"
	FeaturePtrace      = "CAP_SYS_PTRACE"
	FeatureKill        = "CAP_KILL"
	FeatureIPCOwner    = "CAP_IPC_OWNER"
	FeatureReadSearch  = "CAP_DAC_READ_SEARCH"
	FeatureRelease     = "process_mrelease"
)

// Probe tries what can be tried on this process itself, and looks at the effective capabilities for the rest.
func Probe() []Feature {
	var list []Feature
	add := func(name, since string, err error) {
		f := Feature{Name: name, Since: since}
		if err != nil {
			f.Err = err.Error()
		}
		list = append(list, f)
	}

	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	add(FeaturePidfdOpen, "Linux 5.3", err)
	if err == nil {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, 0, nil, 0)
	}
	add(FeaturePidfdSignal, "Linux 5.1", err)
	if err == nil && pidfdInode(fd) == 0 {
		add(FeatureInode, "Linux 6.9", errors.New("pidfds are anonymous inodes: a target is not recognised after a restart by its pidfd"))
	} else {
		add(FeatureInode, "Linux 6.9", err)
	}
	add(FeatureExitStatus, "Linux 6.15", probeExitStatus())

	add(FeatureRelease, "Linux 5.15", probeRelease())

	_, err = os.ReadFile("/proc/1/stat")
	add(FeatureProc, "hidepid=0, or CAP_SYS_PTRACE", err)
	err = nil
	if s := host(); s.cgroup2.dir == "" && s.freezer.dir == "" {
		err = errors.New("no cgroup2 or freezer mount: a frozen process looks hung")
	}
	add(FeatureFreezer, "Linux 5.2", err)

	add(FeaturePtrace, "reading maps and namespaces of other users", capability(unix.CAP_SYS_PTRACE))
	add(FeatureKill, "signalling processes of other users", capability(unix.CAP_KILL))
	add(FeatureIPCOwner, "attaching a 0640 table of another user", capability(unix.CAP_IPC_OWNER))
	add(FeatureReadSearch, "system calls and descriptors of other users' processes in the evidence", capability(unix.CAP_DAC_READ_SEARCH))
	return list
}

// probeExitStatus asks for the exit status of a thread of our own: Linux 6.13 and 6.14 have the ioctl without it.
func probeExitStatus() error {
	ch := make(chan endedThread)
	go endThread(ch)
	o := <-ch
	if o.err != nil {
		return o.err
	}
	defer unix.Close(o.fd)
	fds := []unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLHUP}}
	for {
		n, err := unix.Poll(fds, 1000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		// Before 6.15 a pidfd does not hang up; it would only be readable.
		if n == 0 {
			return errors.New("the kernel does not tell the reaping of a process")
		}
		break
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(o.fd, &info); err != nil {
		return err
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return errors.New("the kernel does not keep it")
	}
	return nil
}

// probeRelease asks for the memory of this process, which is refused because it was not killed.
func probeRelease() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := releaseMemory(fd); err != unix.EINVAL {
		return err
	}
	return nil
}

// endedThread is the pidfd of a thread that is about to end.
type endedThread struct {
	fd  int
	err error
}

// endThread ends the thread that it runs on: a goroutine that ends while locked takes its thread along, except for the
// process's first one, which the runtime parks. That one is held meanwhile, so that another goroutine is not on it.
func endThread(ch chan<- endedThread) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		other := make(chan endedThread)
		go endThread(other)
		ch <- <-other
		return
	}
	fd, err := unix.PidfdOpen(unix.Gettid(), unix.PIDFD_THREAD)
	ch <- endedThread{fd, err}
}

// capability is nil when the capability is effective, and against the processes of the whole system.
func capability(bit int) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if data[bit/32].Effective&(1<<(bit%32)) == 0 {
		return errors.New("not held")
	}
	// PrivateUsers=yes and the like: all capabilities, and void outside of the namespace.
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295" {
		return errors.New("held in a user namespace of its own only")
	}
	return nil
}
