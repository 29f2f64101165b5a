package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func TestOpenFacts(t *testing.T) {
	c := actor(t, "pause", func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} })
	p := open(t, c.pid())
	stat := slowStat(t, "/proc/"+strconv.Itoa(int(c.pid()))+"/stat")
	if p.PID != c.pid() || p.PPID != int32(os.Getpid()) || p.PGID != c.pid() || p.SID != c.pid() ||
		p.UID != uint32(os.Geteuid()) || p.Comm != stat[1] || strconv.FormatUint(p.StartTime, 10) != stat[21] ||
		p.Threads < 1 {
		t.Errorf("facts %+v, stat %q", p.Facts, stat)
	}
	if again := open(t, c.pid()); again.Inode != p.Inode || again.FD() == p.FD() {
		t.Errorf("second pidfd: inode %d and %d, descriptor %d and %d", p.Inode, again.Inode, p.FD(), again.FD())
	}
	if other := open(t, actor(t, "pause").pid()); p.Inode != 0 && other.Inode == p.Inode {
		t.Errorf("two processes with pidfd inode %d", p.Inode)
	}
	if p.Exited() {
		t.Error("exited while alive")
	}
	if status, ok := p.ExitStatus(); ok {
		t.Errorf("exit status %v while alive", status)
	}
}

func TestExitThroughPoller(t *testing.T) {
	c := actor(t, "pause")
	p := open(t, c.pid())
	poller := newPoller(t)
	const id = 0xfedcba9876543210
	if err := poller.Watch(p.FD(), id); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 2 { // level-triggered: told again until it is unwatched
		ready, err := poller.Wait(nil)
		if err != nil || len(ready) != 1 || ready[0] != id {
			t.Fatalf("ready %#x, %v", ready, err)
		}
	}

	// Now it is a zombie of ours.
	if !p.Exited() {
		t.Error("not exited after the notice")
	}
	if _, err := Open(c.pid()); !errors.Is(err, ErrZombie) || !errors.Is(err, ErrGone) {
		t.Errorf("open a zombie: %v", err)
	}
	if ppid, state, err := ParentOf(c.pid()); err != nil || ppid != int32(os.Getpid()) || state != 'Z' {
		t.Errorf("parent of the zombie: %d, state %c, %v", ppid, state, err)
	}
	if _, err := p.Look(); !errors.Is(err, ErrGone) {
		t.Errorf("look at a zombie: %v", err)
	}
	if _, ok := p.ExitStatus(); ok {
		t.Error("exit status before it was reaped")
	}
	c.reap()

	if _, err := Open(c.pid()); !errors.Is(err, ErrGone) || errors.Is(err, ErrZombie) {
		t.Errorf("open a reaped process: %v", err)
	}
	if _, _, err := ParentOf(c.pid()); !errors.Is(err, ErrGone) {
		t.Errorf("parent of a reaped process: %v", err)
	}
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("signal a reaped process: %v", err)
	}
	status, ok := p.ExitStatus()
	if kernelHas(FeatureExitStatus) != ok || ok && (!status.Signaled() || status.Signal() != unix.SIGKILL) {
		t.Errorf("exit status %v %t", status, ok)
	}
	if err := poller.Unwatch(p.FD()); err != nil {
		t.Error(err)
	}
}

func kernelHas(name string) bool {
	for _, f := range Probe() {
		if f.Name == name {
			return f.Err == ""
		}
	}
	return false
}

func TestRefused(t *testing.T) {
	refused := func(pid int32, reason string) {
		t.Helper()
		_, err := Open(pid)
		if e := (*RefusedError)(nil); !errors.As(err, &e) || e.PID != pid || !strings.Contains(e.Reason, reason) {
			t.Errorf("open %d: %v, want refused: %s", pid, err, reason)
		}
	}
	refused(0, "not the pid of a process")
	refused(-1, "not the pid of a process")
	refused(-1<<31, "not the pid of a process")
	refused(1, "pid 1")
	refused(int32(os.Getpid()), "this process itself")

	c := actor(t, "pause")
	eventually(t, "a second thread", func() bool {
		tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(int(c.pid())) + "/task")
		return len(tasks) > 1
	})
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(int(c.pid())) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if tid, _ := strconv.Atoi(task.Name()); tid != int(c.pid()) {
			refused(int32(tid), "not a thread-group leader")
		}
	}

	r, answers := newTestReader(t)
	ask(r, answers, c.pid(), testKey, 1)
	refused(r.PID(), "helper")
}

func TestRefuseKernelThread(t *testing.T) {
	b, err := os.ReadFile("/proc/2/comm")
	if err != nil || string(b) != "kthreadd\n" {
		t.Skipf("no kernel threads in this pid namespace: pid 2 is %q, %v", b, err)
	}
	for _, pid := range []int32{2, 3} {
		_, err := Open(pid)
		if e := (*RefusedError)(nil); !errors.As(err, &e) || e.Reason != "kernel thread" {
			t.Errorf("open %d: %v", pid, err)
		}
	}
}

func TestLeaderEndsFirst(t *testing.T) {
	c := start(t, exec.Command(nstest.CC(t, "testdata/leader.c", "-pthread")))
	eventually(t, "leader is a zombie", func() bool {
		_, state, err := ParentOf(c.pid())
		return err == nil && state == 'Z'
	})
	p := open(t, c.pid())
	if p.Exited() {
		t.Error("exited while a thread lives")
	}
	l, err := p.Look()
	if err != nil || l.State != 'Z' || l.Threads < 1 {
		t.Errorf("look: %+v, %v", l, err)
	}
	c.stdin.Close()
	eventually(t, "exit of the last thread", p.Exited)
	if _, err := Open(c.pid()); !errors.Is(err, ErrZombie) {
		t.Errorf("open after the last thread: %v", err)
	}
}

// A number that is used again: what was opened for the old process never reaches the new one.
func TestReusedPID(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	p, fresh := reused(t)

	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("signal to the old process: %v", err)
	}
	if !p.Exited() {
		t.Error("the old process has not exited")
	}
	if _, err := p.Look(); !errors.Is(err, ErrGone) {
		t.Errorf("look at the old process: %v", err)
	}
	next := open(t, fresh.pid())
	if p.Inode != 0 && next.Inode == p.Inode {
		t.Errorf("old and new process have pidfd inode %d", p.Inode)
	}
	if next.Exited() {
		t.Error("the new process was hit")
	}
}

// reused is a process that has ended, and another one that has its number now. Inside nstest.Run only.
func reused(t *testing.T) (ended *Process, fresh *child) {
	t.Helper()
	for range 50 {
		old := actor(t, "pause")
		p := open(t, old.pid())
		old.end()
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(int(p.PID)-1)), 0); err != nil {
			t.Fatalf("set the next pid: %v", err)
		}
		// A thread that the Go runtime starts can take the number, and keeps it: then with another number.
		if fresh = actor(t, "pause"); fresh.pid() == p.PID {
			return p, fresh
		}
		fresh.end()
	}
	t.Fatal("no pid came again")
	return nil, nil
}

func TestClosedNeverHitsAnother(t *testing.T) {
	p := open(t, actor(t, "pause").pid())
	fd := p.FD()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	victim := open(t, actor(t, "pause").pid())
	if fd != victim.FD() {
		// Take the number by force, else the test proves nothing.
		if err := unix.Dup3(victim.FD(), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrClosed) {
		t.Errorf("signal: %v", err)
	}
	if _, err := p.Look(); !errors.Is(err, ErrClosed) {
		t.Errorf("look: %v", err)
	}
	if _, ok := p.ExitStatus(); ok || p.Exited() || p.FD() != -1 {
		t.Errorf("closed, yet exited %t, exit status %t, descriptor %d", p.Exited(), ok, p.FD())
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if victim.Exited() {
		t.Error("the signal hit another process")
	}
}

// For the race detector, and for numbers that are reused while Signal runs.
func TestCloseDuringSignal(t *testing.T) {
	victim := actor(t, "pause")
	for range 50 {
		p := open(t, actor(t, "pause").pid())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for p.Signal(unix.SIGKILL) == nil {
					runtime.Gosched()
				}
			})
		}
		wg.Go(func() { _ = p.Close() })
		v := open(t, victim.pid())
		wg.Wait()
		if v.Exited() {
			t.Fatal("the signal hit another process")
		}
		_ = v.Close()
	}
}

func TestLookStates(t *testing.T) {
	c := actor(t, "pause")
	p := open(t, c.pid())
	state := func(want byte) {
		t.Helper()
		eventually(t, "state "+string(want), func() bool {
			l, err := p.Look()
			if err != nil {
				t.Fatal(err)
			}
			return l.State == want
		})
	}
	state('S')
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	state('T')
	if err := p.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	state('S')

	l, err := p.Look()
	if err != nil || l.PPID != int32(os.Getpid()) || l.TracerPID != 0 || l.Frozen || l.Dumping || l.Threads < 1 {
		t.Errorf("look: %+v, %v", l, err)
	}
}

func TestLookTraced(t *testing.T) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	p := open(t, int32(cmd.Process.Pid))
	eventually(t, "state t", func() bool {
		l, err := p.Look()
		return err == nil && l.State == 't' && l.TracerPID == int32(unix.Gettid())
	})
}

func TestLookCPU(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	p := open(t, int32(cmd.Process.Pid))
	eventually(t, "50 ms of CPU", func() bool {
		l, err := p.Look()
		return err == nil && l.CPU >= 50*time.Millisecond
	})
}

func TestFrozen(t *testing.T) {
	for _, test := range []struct{ name, dir, file, freeze, thaw string }{
		{"v2", host().cgroup2.dir, "cgroup.freeze", "1", "0"},
		{"v1", host().freezer.dir, "freezer.state", "FROZEN", "THAWED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.dir == "" {
				if test.name == "v2" {
					nstest.Unavailable(t, "no cgroup2 mount")
				}
				t.Skip("no v1 freezer mount")
			}
			outer := filepath.Join(test.dir, "checkprocd-test-"+strconv.Itoa(os.Getpid()))
			inner := filepath.Join(outer, "inner")
			if err := os.MkdirAll(inner, 0o755); err != nil {
				nstest.Unavailable(t, "no cgroup can be made: "+err.Error())
			}
			set := func(value string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(outer, test.file), []byte(value), 0); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() {
				for _, dir := range []string{inner, outer} {
					eventually(t, "removal of "+dir, func() bool { return os.Remove(dir) == nil })
				}
			})
			c := actor(t, "pause")
			if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(int(c.pid()))), 0); err != nil {
				t.Fatal(err)
			}
			p := open(t, c.pid())
			frozen := func(want bool) {
				t.Helper()
				eventually(t, "frozen "+strconv.FormatBool(want), func() bool {
					l, err := p.Look()
					if err != nil {
						t.Fatal(err)
					}
					return l.Frozen == want
				})
			}
			frozen(false)
			set(test.freeze) // of the parent: the child is frozen with it
			frozen(true)
			set(test.thaw)
			frozen(false)
		})
	}
}

// Without CAP_KILL: EPERM is told, and is not "gone".
func TestSignalWithoutRights(t *testing.T) {
	asNobody := nobody(t)
	victim := actor(t, "pause")
	if got := actor(t, "signal "+strconv.Itoa(int(victim.pid())), asNobody).ready; got != "true false" {
		t.Errorf("EPERM, gone: %s", got)
	}
	if open(t, victim.pid()).Exited() {
		t.Error("signalled after all")
	}
}

// nobody makes a child another user.
func nobody(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		nstest.Unavailable(t, "another user needs root")
	}
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

func TestLookDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := open(t, actor(t, "pause").pid())
	if n := testing.AllocsPerRun(100, func() {
		if _, err := p.Look(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestReopen: what was known of a process stands where the kernel says that it is the same one, and is read anew else.
func TestReopen(t *testing.T) {
	c := actor(t, "pause")
	was := open(t, c.pid()).Facts
	old := was
	old.Comm = "as it was"
	reopen := func() *Process {
		t.Helper()
		p, err := Reopen(old)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	want := was
	if was.Inode != 0 {
		want = old
	}
	if p := reopen(); p.Facts != want || p.Exited() {
		t.Errorf("%+v, it is %+v", p.Facts, want)
	}
	old.Inode++ // another process had the number
	if p := reopen(); p.Facts != was {
		t.Errorf("%+v, it is %+v", p.Facts, was)
	}
	old.Inode = 0 // before Linux 6.9
	if p := reopen(); p.Facts != was {
		t.Errorf("%+v, it is %+v", p.Facts, was)
	}
	c.end()
	for _, known := range []Facts{old, was} {
		if _, err := Reopen(known); !errors.Is(err, ErrGone) {
			t.Errorf("of a dead one: %v", err)
		}
	}
	var refused *RefusedError
	if _, err := Reopen(Facts{PID: 1, Inode: 5}); !errors.As(err, &refused) {
		t.Error(err)
	}
}
