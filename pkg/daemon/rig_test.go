package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// patience is how long a test waits for what must happen sooner or later.
const patience = 60 * time.Second

// eventually polls until done.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// event is one line of --log-format json.
type event struct {
	Event, Level, Message, Name, Verdict, Signal, Reason string
	PID                                                  int32
	Slot                                                 *int
	Step                                                 int
	TimeoutUsec                                          int64 `json:"timeout_usec"`
	SilenceUsec                                          int64 `json:"silence_usec"`

	at time.Time // when the test read it
}

// want is a pattern of an event: what is zero is not compared; text is part of the message.
type want struct {
	event  guard.EventName
	pid    int32
	signal string
	reason string
	text   string
}

func (w want) matches(e event) bool {
	return (w.event == "" || string(w.event) == e.Event) && (w.pid == 0 || w.pid == e.PID) &&
		(w.signal == "" || w.signal == e.Signal) && (w.reason == "" || w.reason == e.Reason) && strings.Contains(e.Message, w.text)
}

// journal is what a daemon has written.
type journal struct {
	mu     sync.Mutex
	events []event
	other  []string // lines that are no JSON
}

func (j *journal) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := event{at: time.Now()}
		err := json.Unmarshal(lines.Bytes(), &e)
		j.mu.Lock()
		if err != nil {
			j.other = append(j.other, lines.Text())
		} else {
			j.events = append(j.events, e)
		}
		j.mu.Unlock()
	}
}

// find returns the events that match.
func (j *journal) find(w want) []event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []event
	for _, e := range j.events {
		if w.matches(e) {
			out = append(out, e)
		}
	}
	return out
}

func (j *journal) print() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, e := range j.events {
		fmt.Fprintf(&b, "%s %-14s %s\n", e.at.Format("05.000"), e.Event, e.Message)
	}
	for _, line := range j.other {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

// guardian is a running daemon: in this process (cmd is nil), or the real binary.
type guardian struct {
	journal
	t    *testing.T
	cfg  config.Config
	path string // of the configuration file
	cmd  *exec.Cmd
	hup  chan os.Signal

	stopOnce sync.Once
	halt     func()
	ended    chan struct{}
	err      error // of Run, or of Wait
}

// testConfig is a configuration with short times and a runtime directory of its own.
func testConfig(t *testing.T) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "cpd") // t.TempDir's are too long for a socket, and closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Interval = 100 * time.Millisecond
	c.Pressure = config.Pressure{CPU: 100, Memory: 100, IO: 100} // else a busy machine gives each hang one more timeout
	c.RuntimeDir, c.Control.Socket = dir, filepath.Join(dir, "io.checkproc")
	c.Log.Format = "json"
	// Who obeys SIGTERM has done so within the wait on a machine that is busy.
	c.Ladder.Steps = []config.Step{{Signal: unix.SIGTERM, Wait: 3 * time.Second}, {Signal: unix.SIGKILL, Wait: 5 * time.Second}}
	return c
}

// begin starts a daemon in this process and waits until it acts.
func begin(t *testing.T, c config.Config, change ...func(*Options)) *guardian {
	t.Helper()
	g := embed(t, c, change...)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	return g
}

// embed starts a daemon in this process.
func embed(t *testing.T, c config.Config, change ...func(*Options)) *guardian {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g := &guardian{t: t, cfg: c, hup: make(chan os.Signal, 1), ended: make(chan struct{})}
	g.path = filepath.Join(c.RuntimeDir, "test.toml")
	opts := Options{Config: c, ConfigPath: g.path, Version: "test", Hangup: g.hup, Stderr: w}
	for _, f := range change {
		f(&opts)
	}
	if opts.ConfigPath == g.path {
		g.write(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.halt = cancel
	go func() {
		g.err = Run(ctx, opts)
		_ = w.Close()
	}()
	go func() {
		g.read(r)
		_ = r.Close()
		close(g.ended)
	}()
	g.cleanup()
	return g
}

// launch starts the real binary. change may change the command before it starts.
func launch(t *testing.T, c config.Config, change ...func(*exec.Cmd)) *guardian {
	t.Helper()
	g := &guardian{t: t, cfg: c, ended: make(chan struct{})}
	g.path = filepath.Join(c.RuntimeDir, "test.toml")
	g.write(c)
	g.cmd = exec.Command(os.Getenv(envBinary), "--config", g.path)
	g.cmd.Dir = "/"
	for _, f := range change {
		f(g.cmd)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stderr = w
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("start %v: %v", g.cmd.Args, err)
	}
	_ = w.Close()
	g.halt = func() { g.signal(unix.SIGTERM) }
	go func() {
		g.read(r)
		_ = r.Close()
		g.err = g.cmd.Wait()
		close(g.ended)
	}()
	g.cleanup()
	return g
}

func (g *guardian) write(c config.Config) {
	g.t.Helper()
	if err := os.WriteFile(g.path, c.TOML(), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guardian) cleanup() {
	g.t.Cleanup(func() {
		g.stop()
		if g.t.Failed() {
			g.t.Logf("journal of the guard:\n%s", g.print())
		}
	})
}

// stop ends the daemon in order and waits for it.
func (g *guardian) stop() {
	g.stopOnce.Do(func() {
		g.t.Helper()
		g.halt()
		select {
		case <-g.ended:
		case <-time.After(patience):
			g.t.Errorf("the daemon does not end")
		}
	})
}

// kill ends the real binary as kill -9 does.
func (g *guardian) kill() {
	g.stopOnce.Do(func() {
		if err := g.cmd.Process.Kill(); err != nil {
			g.t.Errorf("kill -9: %v", err)
		}
		<-g.ended
	})
}

func (g *guardian) signal(sig os.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		g.t.Errorf("send %v to the daemon: %v", sig, err)
	}
}

// pause stops the real binary and waits until it stands still.
func (g *guardian) pause() {
	g.t.Helper()
	g.signal(unix.SIGSTOP)
	eventually(g.t, "the daemon is stopped", func() bool {
		_, state, err := process.ParentOf(g.pid())
		return err == nil && state == 'T'
	})
}

func (g *guardian) pid() int32 {
	if g.cmd == nil {
		return int32(os.Getpid())
	}
	return int32(g.cmd.Process.Pid)
}

// await waits for an event.
func (g *guardian) await(w want) event { g.t.Helper(); return g.awaitNth(w, 1) }

// awaitNth waits for the nth event that matches.
func (g *guardian) awaitNth(w want, n int) event {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if found := g.find(w); len(found) >= n {
			return found[n-1]
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("no event %+v (the %dth) within %v", w, n, patience)
		}
		select {
		case <-g.ended:
			if len(g.find(w)) < n {
				g.t.Fatalf("the daemon ended (%v) without an event %+v", g.err, w)
			}
		default:
		}
	}
}

// none fails the test if an event was seen.
func (g *guardian) none(list ...want) {
	g.t.Helper()
	for _, w := range list {
		for _, e := range g.find(w) {
			g.t.Errorf("unwanted event %s: %s", e.Event, e.Message)
		}
	}
}

// untouched fails the test if a process was judged, or is gone.
func (g *guardian) untouched(list ...*client) {
	g.t.Helper()
	for _, c := range list {
		g.none(want{event: guard.EvCondemned, pid: c.pid}, want{event: guard.EvSignalled, pid: c.pid})
		if !c.alive() {
			g.t.Errorf("pid %d (%s) is gone: %v", c.pid, c.name, c.status)
		}
	}
}

// dial connects to the control socket.
func (g *guardian) dial() *control.Client {
	g.t.Helper()
	var c *control.Client
	eventually(g.t, "the control socket answers", func() bool {
		var err error
		c, err = control.Dial(g.cfg.Control.Socket)
		return err == nil
	})
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// scans waits until the daemon has looked n more times.
func (g *guardian) scans(n int64) {
	g.t.Helper()
	c := g.dial()
	first := int64(-1)
	eventually(g.t, "the daemon scans", func() bool {
		s, err := c.Status(context.Background())
		if err != nil {
			g.t.Fatalf("ask for the status: %v", err)
		}
		if first < 0 {
			first = s.Scan.Count
		}
		return s.Scan.Count >= first+n
	})
}

// client is a child of the test.
type client struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	pid    int32
	slot   int
	out    *bufio.Reader
	done   chan struct{}
	status syscall.WaitStatus // when done
}

// spawn starts a program; nothing is waited for. change may change the command before it starts.
func spawn(t testing.TB, path string, args []string, change ...func(*exec.Cmd)) *client {
	t.Helper()
	c := &client{t: t, name: filepath.Base(path), cmd: exec.Command(path, args...), done: make(chan struct{}), slot: -1}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr = w, os.Stderr
	for _, f := range change {
		f(c.cmd)
	}
	err = c.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		t.Fatalf("start %v: %v", c.cmd.Args, err)
	}
	c.out, c.pid = bufio.NewReader(r), int32(c.cmd.Process.Pid)
	go func() {
		_ = c.cmd.Wait()
		c.status = c.cmd.ProcessState.Sys().(syscall.WaitStatus)
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
		_ = r.Close()
	})
	return c
}

// line reads what the client says next.
func (c *client) line() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%v says nothing: %v", c.cmd.Args, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// ready waits for "ready PID SLOT".
func (c *client) ready() *client {
	c.t.Helper()
	line := c.line()
	if _, err := fmt.Sscanf(line, "ready %d %d", &c.pid, &c.slot); err != nil {
		c.t.Fatalf("%v says %q", c.cmd.Args, line)
	}
	return c
}

// run starts the client of pkg/table and waits until it is registered. flags are split at blanks.
func run(t testing.TB, flags string, change ...func(*exec.Cmd)) *client {
	t.Helper()
	return spawn(t, clientProgram(t), strings.Fields(flags), change...).ready()
}

func clientProgram(t testing.TB) string {
	t.Helper()
	return nstest.CC(t, "../table/testdata/client.c", "-pthread")
}

// member starts testdata/member.c, which obeys SIGUSR1 (hang) and SIGUSR2 (beat), and waits until it is registered.
func member(t testing.TB, name string, timeout int, term string, change ...func(*exec.Cmd)) *client {
	t.Helper()
	c := spawn(t, memberProgram(t), []string{name, strconv.Itoa(timeout), "100", term}, change...).ready()
	c.name = name
	return c
}

func memberProgram(t testing.TB) string {
	t.Helper()
	return nstest.CC(t, "testdata/member.c", "-I../table/testdata")
}

func (c *client) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *client) signal(sig os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatalf("send %v to %s: %v", sig, c.name, err)
	}
}

// end waits for the end of the client and says how it came.
func (c *client) end() syscall.WaitStatus {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("pid %d (%v) does not end within %v", c.pid, c.cmd.Args, patience)
	}
	return c.status
}

// endsBy waits for the end of the client by a signal; 0 is an exit.
func (c *client) endsBy(sig syscall.Signal) {
	c.t.Helper()
	status := c.end()
	if sig == 0 && !status.Exited() || sig != 0 && (!status.Signaled() || status.Signal() != sig) {
		c.t.Errorf("pid %d (%v) ended with status %#x, want signal %v", c.pid, c.cmd.Args, int(status), sig)
	}
}

// as runs the command as another user.
func as(uid uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		attr(c).Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
}

func attr(c *exec.Cmd) *syscall.SysProcAttr {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	return c.SysProcAttr
}

// spawnAs starts a program under a pid that is free, as the kernel would once the numbers have gone round.
func spawnAs(t testing.TB, pid int32, path string, args ...string) *client {
	t.Helper()
	for range 200 { // threads of ours take numbers as well
		text := strconv.Itoa(int(pid) - 1)
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(text), 0); err != nil {
			t.Fatalf("set the last pid: %v", err)
		}
		c := spawn(t, path, args)
		if c.pid == pid {
			return c
		}
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	t.Fatalf("no process could be given pid %d", pid)
	return nil
}

// memory is the table as a client sees it.
type memory []table.Record

// mapTable maps the segment under the key, which must be there.
func mapTable(t testing.TB) memory {
	t.Helper()
	id, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		t.Fatalf("attach table %d: %v", id, err)
	}
	t.Cleanup(func() {
		if err := unix.SysvShmDetach(b); err != nil {
			t.Error(err)
		}
	})
	return unsafe.Slice((*table.Record)(unsafe.Pointer(&b[0])), len(b)/table.RecordSize)
}

// put writes a record, its pid last.
func (m memory) put(slot int, pid int32, name string, timeout int32, token int64) {
	r := table.Record{Timeout: timeout, Token: token}
	copy(r.Name[:], name)
	m[slot] = r
	atomic.StoreInt32(&m[slot].PID, pid)
}

func (m memory) pid(slot int) int32 { return atomic.LoadInt32(&m[slot].PID) }

func (m memory) beat(slot int) { atomic.AddInt64(&m[slot].Token, 1) }

// wipe is what the destructor of a client does, or an old guard.
func (m memory) wipe(slot int) {
	atomic.StoreInt32(&m[slot].PID, 0)
	m[slot] = table.Record{}
}

// removeTable is ipcrm.
func removeTable(t testing.TB, id int) {
	t.Helper()
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
		t.Fatalf("remove segment %d: %v", id, err)
	}
}

// sleeper starts a process that has nothing to do with the table.
func sleeper(t testing.TB) *client { t.Helper(); return spawn(t, "/bin/sleep", []string{"1000"}) }

// settle lets a stretch pass in which something must not happen.
func settle(d time.Duration) { time.Sleep(d) }

// asUID runs f on a thread that belongs to another user, and that ends with f.
func asUID(uid uintptr, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		_ = unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, uid, uid, uid); errno != 0 {
				panic(fmt.Sprintf("become uid %d: %v", uid, errno))
			}
		}
		// A daemon of this process has locked its memory: without the right to do that, the next growth of the heap
		// on this thread would be the end of the process.
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		caps := [2]unix.CapUserData{{Effective: 1 << unix.CAP_IPC_LOCK, Permitted: 1 << unix.CAP_IPC_LOCK}}
		if err := unix.Capset(&head, &caps[0]); err != nil {
			panic(fmt.Sprintf("keep CAP_IPC_LOCK: %v", err))
		}
		f()
	}()
	<-done
}
