package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// states starts testdata/states.c.
func states(t testing.TB, args ...string) *child {
	t.Helper()
	return start(t, exec.Command(nstest.CC(t, "testdata/states.c", "-pthread"), args...))
}

// examineUntil examines p until the evidence is as it will be: a thread needs its time to get where it waits.
func examineUntil(t testing.TB, p *Process, what string, ok func(Evidence) bool) Evidence {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		e, err := p.Examine(context.Background(), false)
		if err != nil {
			t.Fatal(err)
		}
		if ok(e) {
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s: %+v", what, e)
		}
	}
}

func (e Evidence) thread(comm string) Thread {
	for _, t := range e.Threads {
		if t.Comm == comm {
			return t
		}
	}
	return Thread{}
}

func TestExamineThreads(t *testing.T) {
	if os.Geteuid() != 0 {
		nstest.Unavailable(t, "stacks need root")
	}
	const hostile = ") R 1 (\n\xff"
	c := states(t, "name="+hostile, "idle=2", "futex", "sleep", "pipe", "spin", "vfork")
	p := open(t, c.pid())
	want := []struct {
		comm, channel string // channel: a part of it
		calls         []string
		state         byte
		moved         bool
	}{
		{hostile, "pipe_read", []string{"read"}, 'S', false},
		{"vfork", "clone", []string{"vfork"}, 'D', false},
		{"spin", "", []string{"running"}, 'R', true},
		{"futex", "futex", []string{"futex"}, 'S', false},
		{"sleep", "nanosleep", []string{"clock_nanosleep", "nanosleep"}, 'S', false},
		{"pipe", "pipe_read", []string{"read"}, 'S', false},
	}
	if runtime.GOARCH == "arm64" {
		want[1].calls = []string{"clone"}
	}
	e := examineUntil(t, p, "all threads where they wait", func(e Evidence) bool {
		for _, w := range want {
			if got := e.thread(w.comm); got.State != w.state || got.Moved != w.moved || !slices.Contains(w.calls, got.Syscall) ||
				!strings.Contains(got.Channel, w.channel) || w.channel == "" && got.Channel != "" {
				return false
			}
		}
		return e.State == 'S' && e.Runnable == 1 // the idle ones have begun, too
	})

	if e.Threads[0].TID != c.pid() || e.Threads[0].Comm != hostile || e.Threads[1].Comm != "vfork" || e.Threads[2].Comm != "spin" {
		t.Errorf("not the main thread, D, R first: %+v", e.Threads)
	}
	if e.State != 'S' || e.ThreadCount != 8 || len(e.Threads) != 8 || e.Runnable != 1 || e.Blocked != 1 {
		t.Errorf("state %c, %d threads (%d described), %d runnable, %d blocked", e.State, e.ThreadCount, len(e.Threads), e.Runnable, e.Blocked)
	}
	if spin := e.thread("spin"); spin.CPU == 0 || spin.Channel != "" {
		t.Errorf("spinning: %+v", spin)
	}
	if sleep := e.thread("sleep"); !strings.Contains(sleep.Stack, "nanosleep") || strings.Contains(sleep.Stack, "[<0>]") {
		t.Errorf("stack of the sleeping one: %q", sleep.Stack)
	}
	if e.RSS < 1<<16 || e.TracerPID != 0 || e.TracerComm != "" || e.Dumping || e.Frozen {
		t.Errorf("%+v", e)
	}
	if e.Members != nil || e.Took < sampleTime {
		t.Errorf("members %v without being asked, took %v", e.Members, e.Took)
	}
	if len(e.Problems) != 0 {
		t.Errorf("problems: %q", e.Problems)
	}
	l, err := p.Look()
	if err != nil || l.CPU < e.CPU || l.RunWait < e.RunWait {
		t.Errorf("look afterwards: %+v, %v; CPU %v, wait %v before", l, err, e.CPU, e.RunWait)
	}

	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	examineUntil(t, p, "stopped", func(e Evidence) bool {
		return e.State == 'T' && e.thread("spin").State == 'T' && !e.thread("spin").Moved && e.Runnable == 0
	})
}

func TestExamineTraced(t *testing.T) {
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
	comm, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", unix.Gettid()))
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, int32(cmd.Process.Pid))
	e := examineUntil(t, p, "state t", func(e Evidence) bool { return e.State == 't' })
	if e.TracerPID != int32(unix.Gettid()) || e.TracerComm+"\n" != string(comm) || e.Threads[0].State != 't' {
		t.Errorf("tracer %d %q, this is %d %q", e.TracerPID, e.TracerComm, unix.Gettid(), comm)
	}
}

// The leader has ended: memory and descriptors are those of the threads that live.
func TestExamineLeaderEnded(t *testing.T) {
	c := start(t, exec.Command(nstest.CC(t, "testdata/leader.c", "-pthread")))
	p := open(t, c.pid())
	e := examineUntil(t, p, "a dead leader", func(e Evidence) bool {
		return e.State == 'Z' && e.ThreadCount == 2 && len(e.Threads) == 2 && e.Threads[1].Syscall == "read"
	})
	if e.Threads[0].TID != c.pid() {
		t.Errorf("%+v", e.Threads)
	}
	if e.RSS == 0 || e.Descriptors < 3 || len(e.Problems) != 0 {
		t.Errorf("%d bytes, %d descriptors, problems %q", e.RSS, e.Descriptors, e.Problems)
	}
}

func TestExamineManyThreads(t *testing.T) {
	const idle = 5000
	c := states(t, "idle="+strconv.Itoa(idle), "vfork", "spin")
	p := open(t, c.pid())
	e := examineUntil(t, p, "counts", func(e Evidence) bool { return e.ThreadCount == idle+3 && len(e.Threads) == maxThreads })
	if e.Threads[0].TID != c.pid() {
		t.Errorf("first is %+v", e.Threads[0])
	}
	if e.Blocked+e.Runnable > maxLooked || !slices.Contains(e.Problems, "threads: looked at 4096 of them only") {
		t.Errorf("%d blocked, %d runnable, problems %q", e.Blocked, e.Runnable, e.Problems)
	}
	t.Logf("measured: Examine of %d threads: %v", e.ThreadCount, e.Took)
}

// Among more than 64 threads those that tell something are described.
func TestExaminePicksThreads(t *testing.T) {
	c := states(t, "idle=200", "vfork", "spin")
	e := examineUntil(t, open(t, c.pid()), "the telling ones", func(e Evidence) bool {
		return len(e.Threads) == maxThreads && e.Threads[1].Comm == "vfork" && e.Threads[2].Comm == "spin"
	})
	if e.Threads[0].TID != c.pid() || e.ThreadCount != 203 || len(e.Problems) != 0 {
		t.Errorf("%+v", e)
	}
}

// A process that makes threads and ends them as fast as it can.
func TestExamineChurn(t *testing.T) {
	c := states(t, "churn", "churn", "futex")
	p := open(t, c.pid())
	for range 20 {
		e, err := p.Examine(context.Background(), false)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Threads) == 0 || e.Threads[0].TID != c.pid() || len(e.Threads) > maxThreads || len(e.Problems) != 0 {
			t.Fatalf("%+v", e)
		}
		seen := map[int32]bool{}
		for _, th := range e.Threads {
			if seen[th.TID] {
				t.Fatalf("%d comes twice: %+v", th.TID, e.Threads)
			}
			seen[th.TID] = true
		}
	}
}

func TestExamineDescriptors(t *testing.T) {
	const more = 5000
	c := states(t, "fds="+strconv.Itoa(more))
	p := open(t, c.pid())
	e, err := p.Examine(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.pid()))
	if err != nil || e.Descriptors != len(names) || len(names) < more {
		t.Errorf("%d descriptors, %d in the directory, %v", e.Descriptors, len(names), err)
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(int(c.pid()), unix.RLIMIT_NOFILE, nil, &limit); err != nil || uint64(e.DescriptorLimit) != limit.Cur {
		t.Errorf("limit %d, prlimit says %d, %v", e.DescriptorLimit, limit.Cur, err)
	}
	if len(e.Open) != maxOpen {
		t.Fatalf("%d named: %q", len(e.Open), e.Open)
	}
	for i, name := range e.Open {
		number, link, _ := strings.Cut(name, " ")
		if want, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.pid(), number)); err != nil || want != link || i < 3 && number != strconv.Itoa(i) {
			t.Errorf("%q is %q, %v", name, want, err)
		}
	}

	// As on a kernel that does not tell their number.
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd", c.pid()), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	first, count, err := nameDescriptors(fd, maxDescriptors)
	if count != len(names) || !slices.Equal(first, e.Open) || err != nil {
		t.Errorf("counted %d, named %q, %v", count, first, err)
	}
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, count, err := nameDescriptors(fd, 100); count != 100 || err != nil {
		t.Errorf("counted up to 100: %d, %v", count, err)
	}
}

// A name may be any bytes, and as long as a path.
func TestExamineHostileDescriptor(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("x", 250)+"\x1b\n\xff")
	f, err := os.Create(long)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := actor(t, "pause", func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{f} })
	e, err := open(t, c.pid()).Examine(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if want := "3 " + long[:maxLink]; !slices.Contains(e.Open, want) {
		t.Errorf("no %q in %q", want, e.Open)
	}
}

func TestExamineEnded(t *testing.T) {
	c := actor(t, "pause")
	p := open(t, c.pid())
	var e Evidence
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { e, err = p.Examine(context.Background(), false) })
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	// It ends long before the 50 ms are over, where a processor is free for that; else see TestExamineLooksAtTheEnd.
	if err != nil && (!errors.Is(err, ErrGone) || e.Threads != nil) {
		t.Errorf("ended meanwhile: %+v, %v", e, err)
	}
	eventually(t, "its end", p.Exited)
	for _, what := range []string{"zombie", "reaped"} {
		if e, err := p.Examine(context.Background(), true); !errors.Is(err, ErrGone) || e.Threads != nil {
			t.Errorf("%s: %+v, %v", what, e, err)
		}
		if what == "zombie" {
			c.reap()
		}
	}
	_ = p.Close()
	if _, err := p.Examine(context.Background(), false); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// The end is looked for after everything was read.
func TestExamineLooksAtTheEnd(t *testing.T) {
	asked := 0
	gone := func() bool { asked++; return asked > 1 }
	p := open(t, actor(t, "pause").pid())
	if e, err := host().examine(context.Background(), p.PID, gone, false); !errors.Is(err, ErrGone) || e.Threads != nil || asked != 2 {
		t.Errorf("%+v, %v, asked %d times", e, err, asked)
	}
}

// Close does not wait for an examination, which goes on with a pidfd of its own.
func TestExamineClose(t *testing.T) {
	c := actor(t, "pause")
	for range 5 {
		p := open(t, c.pid())
		type result struct {
			Evidence
			error
		}
		done := make(chan result, 1)
		go func() {
			e, err := p.Examine(context.Background(), false)
			done <- result{e, err}
		}()
		runtime.Gosched()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.error == nil && r.Threads[0].TID != c.pid() || r.error != nil && !errors.Is(r.error, ErrClosed) {
			t.Errorf("%+v, %v", r.Evidence, r.error)
		}
	}
}

func TestExamineCancelled(t *testing.T) {
	p := open(t, actor(t, "pause").pid())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if e, err := p.Examine(ctx, false); !errors.Is(err, context.Canceled) || e.Threads != nil {
		t.Errorf("%+v, %v", e, err)
	}
	eventually(t, "the end of the readers", func() bool { return lateCalls.Load() == 0 })
}

// A number that is used again: evidence is never that of the successor.
func TestExamineReusedPID(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	p, _ := reused(t)
	if e, err := p.Examine(context.Background(), true); !errors.Is(err, ErrGone) {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := p.Group(); !errors.Is(err, ErrGone) {
		t.Errorf("group: %v", err)
	}
}

// A directory of /proc finds nothing after the end of its process.
func TestFolderEnded(t *testing.T) {
	c := actor(t, "pause")
	dir, err := host().folder(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	for _, tid := range []int32{0, c.pid()} {
		if b, err := dir.read(tid, "stat", make([]byte, 100)); err != nil || len(b) == 0 {
			t.Errorf("stat of %d: %q, %v", tid, b, err)
		}
	}
	c.end()
	for _, tid := range []int32{0, c.pid()} {
		if b, err := dir.read(tid, "stat", make([]byte, 100)); err != unix.ESRCH && err != unix.ENOENT {
			t.Errorf("stat of %d after the end: %q, %v", tid, b, err)
		}
	}
}

// fakeExamined makes a /proc/42 of plain files, and pipes that nobody writes to in the place of what must not be read.
func fakeExamined(t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	s := &system{proc: dir}
	files := map[string]string{
		"stat": statLine(42, "x", "S", 0), "status": fmt.Sprintf(statusText, ""), "cgroup": "0::/a\n",
		"limits": "Max open files            1024                 524288               files     \n",
		"fd/0":   "",
	}
	for _, name := range []string{"stat", "schedstat", "wchan"} {
		files["task/42/"+name] = map[string]string{"stat": files["stat"], "schedstat": "1000 2000 3\n", "wchan": "futex_do_wait"}[name]
	}
	fakeProc(t, dir, 42, files)
	for _, name := range []string{"maps", "cmdline", "environ", "smaps", "smaps_rollup", "numa_maps", "mem", "io", "auxv", "exe"} {
		for _, below := range []string{"", "task/42"} {
			if err := unix.Mkfifo(filepath.Join(dir, "42", below, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func alive() bool { return false }

func TestExamineFakes(t *testing.T) {
	s := fakeExamined(t)
	fakeProc(t, s.proc, 42, map[string]string{"task/42/syscall": fmt.Sprintf("%d 0 0 0 0 0 0 0x7ffe42ab1a78 0x0\n", unix.SYS_FUTEX)})
	fakeProc(t, s.proc, 77, map[string]string{"comm": "gdb\n"})
	e, err := s.examine(context.Background(), 42, alive, false)
	if err != nil {
		t.Fatal(err)
	}
	if e.RunWait != 2000 || e.TracerPID != 77 || e.TracerComm != "gdb" || !e.Dumping || e.DescriptorLimit != 1024 || e.Cgroup != "/a" ||
		e.ThreadCount != 20 || e.CPU != 290*time.Millisecond || e.Host != noPressure || e.Group != noPressure {
		t.Errorf("%+v", e)
	}
	if want := (Thread{TID: 42, Comm: "x", State: 'S', Channel: "futex_do_wait", Syscall: "futex", CPU: 1000, RunWait: 2000}); len(e.Threads) != 1 || e.Threads[0] != want {
		t.Errorf("%+v", e.Threads)
	}
}

// A system call that cannot be read for ever (an exec that waits for memory): done without, and no more than eight readers
// are left behind.
func TestExamineStuckCalls(t *testing.T) {
	s := fakeExamined(t)
	pipe := filepath.Join(s.proc, "42/task/42/syscall")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	examine := func(ctx context.Context, want string) {
		e, err := s.examine(ctx, 42, alive, false)
		if err != nil || len(e.Threads) != 1 || e.Threads[0].Channel != "futex_do_wait" || e.Threads[0].Syscall != "" || !slices.Contains(e.Problems, want) {
			t.Errorf("%+v, %v, want the problem %q", e, err, want)
		}
	}
	var wg sync.WaitGroup
	for range maxLate - 1 {
		wg.Go(func() { examine(context.Background(), "syscall: no answer within 1s") })
	}
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if _, err := s.examine(ctx, 42, alive, false); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	cancel()
	wg.Wait()
	if n := lateCalls.Load(); n != maxLate-1 && n != maxLate { // the cancelled one may have ended before it asked
		t.Errorf("%d readers left behind", n)
	}
	for lateCalls.Load() < maxLate {
		examine(context.Background(), "syscall: no answer within 1s")
	}
	examine(context.Background(), "syscall: 8 earlier reads have not returned")
	if n := lateCalls.Load(); n != maxLate {
		t.Errorf("%d readers left behind", n)
	}

	eventually(t, "the return of the readers", func() bool {
		if fd, err := unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_, _ = unix.Write(fd, []byte("running\n"))
			unix.Close(fd)
		}
		return lateCalls.Load() == 0
	})
}

// Many at once, of one process and of several.
func TestExamineAtOnce(t *testing.T) {
	a, b := open(t, states(t, "idle=20", "spin").pid()), open(t, states(t, "idle=100").pid())
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			p, n := a, 22
			if i%2 == 0 {
				p, n = b, 101
			}
			e, err := p.Examine(context.Background(), i%3 == 0)
			if err != nil || e.Threads[0].TID != p.PID || e.ThreadCount != n {
				t.Errorf("%d threads of %d, %v", e.ThreadCount, p.PID, err)
			}
		})
	}
	wg.Wait()
}

func TestLookRunWait(t *testing.T) {
	var ps []*Process
	var set unix.CPUSet
	for range 2 {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		if set.Count() == 0 {
			if err := unix.SchedGetaffinity(cmd.Process.Pid, &set); err != nil {
				t.Fatal(err)
			}
			for cpu := 0; set.Count() > 1; cpu++ {
				set.Clear(cpu)
			}
		}
		if err := unix.SchedSetaffinity(cmd.Process.Pid, &set); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, open(t, int32(cmd.Process.Pid)))
	}
	// Two on one processor: each waits while the other runs.
	for _, p := range ps {
		first, err := p.Look()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "50 ms of waiting", func() bool {
			l, err := p.Look()
			return err == nil && l.RunWait >= first.RunWait+50*time.Millisecond
		})
	}
}

// A kernel without CONFIG_SCHED_INFO has no such file.
func TestLookWithoutSchedstat(t *testing.T) {
	dir := t.TempDir()
	s := &system{proc: dir}
	// stat of the process is not read: it asks each of its threads.
	files := map[string]string{"task/42/stat": statLine(42, "x", "S", 0), "status": fmt.Sprintf(statusText, "1"), "cgroup": "0::/\n"}
	fakeProc(t, dir, 42, files)
	if l, err := s.look(42); err != nil || l.RunWait != 0 || l.State != 'S' {
		t.Errorf("%+v, %v", l, err)
	}
	files["schedstat"] = "1 2000 3\n"
	fakeProc(t, dir, 42, files)
	if l, err := s.look(42); err != nil || l.RunWait != 2000 {
		t.Errorf("%+v, %v", l, err)
	}
}

// Who has ended between the samples, or has an id that another thread had, is left out; what cannot be read is no
// evidence of a thread that stands still.
func TestSampleAgain(t *testing.T) {
	sampled := func() (*examination, string) {
		t.Helper()
		s := fakeExamined(t)
		for _, tid := range []string{"43", "44"} {
			fakeProc(t, s.proc, 42, map[string]string{"task/" + tid + "/stat": statLine(43, "y", "S", 0), "task/" + tid + "/schedstat": "5 6 7\n"})
		}
		dir, err := s.folder(42)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(dir.close)
		x := &examination{sys: s, pid: 42, dir: dir}
		if err := x.sampleThreads(context.Background()); err != nil || len(x.Threads) != 3 {
			t.Fatalf("%+v, %v", x.Threads, err)
		}
		return x, filepath.Join(s.proc, "42/task")
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	x, _ := sampled()
	if err := x.sampleAgain(); err != nil || len(x.Threads) != 3 || slices.ContainsFunc(x.Threads, func(t Thread) bool { return t.Moved }) {
		t.Errorf("nothing changed: %+v, %v", x.Threads, err)
	}

	x, task := sampled()
	write(task+"/42/schedstat", "1001 2000 3\n")
	write(task+"/43/stat", strings.Replace(statLine(43, "y", "S", 0), " 14 ", " 15 ", 1))
	if err := x.sampleAgain(); err != nil || len(x.Threads) != 3 {
		t.Errorf("two moved: %+v, %v", x.Threads, err)
	}
	for _, th := range x.Threads { // 42 by nanoseconds, 43 by ticks
		if th.Moved != (th.TID != 44) {
			t.Errorf("two moved: %+v", th)
		}
	}

	x, task = sampled()
	write(task+"/43/stat", strings.Replace(statLine(43, "y", "S", 0), " 22 ", " 23 ", 1))
	if err := os.RemoveAll(task + "/44"); err != nil {
		t.Fatal(err)
	}
	if err := x.sampleAgain(); err != nil || len(x.Threads) != 1 || x.Threads[0].TID != 42 {
		t.Errorf("one begun anew, one ended: %+v, %v", x.Threads, err)
	}

	for _, name := range []string{"stat", "schedstat"} {
		x, task = sampled()
		if err := os.Remove(task + "/43/" + name); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(task+"/43/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := x.sampleAgain(); err != unix.EISDIR {
			t.Errorf("%s cannot be read: %+v, %v", name, x.Threads, err)
		}
	}
}
