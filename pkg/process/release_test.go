package process

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// A process that got SIGKILL and does not go: its tracer wants to see it exit. All that it has is still its own then.
func TestReleaseMemory(t *testing.T) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	const size = 64 << 20
	cmd := exec.Command(nstest.CC(t, "testdata/big.c"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Process.Release() // it is reaped below
	}()
	pid := cmd.Process.Pid
	wait := func() unix.WaitStatus {
		t.Helper()
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				if err != nil {
					t.Fatal(err)
				}
				return status
			}
		}
	}
	if status := wait(); !status.Stopped() {
		t.Fatalf("after exec: %v", status)
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	p := open(t, int32(pid))
	rss := func() int64 {
		t.Helper()
		st, err := host().status(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		return st.rss
	}
	eventually(t, "64 MB", func() bool { return rss() >= size })
	if err := p.ReleaseMemory(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("not killed: %v", err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := wait(); status.TrapCause() != unix.PTRACE_EVENT_EXIT {
		t.Fatalf("after SIGKILL: %v, event %d", status, status.TrapCause())
	}
	before := rss()
	if before < size || p.Exited() {
		t.Fatalf("it holds %d bytes, exited %t", before, p.Exited())
	}
	var err error
	eventually(t, "the release", func() bool {
		err = p.ReleaseMemory()
		return !errors.Is(err, unix.EAGAIN)
	})
	if err != nil {
		t.Fatal(err)
	}
	if after := rss(); after > size/8 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	if err := p.ReleaseMemory(); err != nil {
		t.Errorf("once more: %v", err)
	}

	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exit", p.Exited)
	if err := p.ReleaseMemory(); !errors.Is(err, ErrGone) {
		t.Errorf("zombie: %v", err)
	}
	if status := wait(); status.Signal() != unix.SIGKILL {
		t.Errorf("ended: %v", status)
	}
	if err := p.ReleaseMemory(); !errors.Is(err, ErrGone) {
		t.Errorf("reaped: %v", err)
	}
	_ = p.Close()
	if err := p.ReleaseMemory(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
