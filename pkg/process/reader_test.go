package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

const testKey = 0x5095

func newTestReader(t testing.TB, env ...string) (*Reader, chan ConsentAnswer) {
	t.Helper()
	answers := make(chan ConsentAnswer, 2*maxQueue)
	r := newReader(func(a ConsentAnswer) { answers <- a }, env...)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, answers
}

// ask asks until the answer is not merely late, as any can be on a busy machine.
func ask(r *Reader, answers <-chan ConsentAnswer, pid int32, key uint32, segment int) ConsentAnswer {
	for {
		r.Ask(pid, key, segment, 0)
		if a := <-answers; !errors.Is(a.Err, os.ErrDeadlineExceeded) {
			return a
		}
	}
}

func TestConsent(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	id, err := unix.SysvShmGet(testKey, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.SysvShmGet(testKey+1, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if err != nil {
		t.Fatal(err)
	}
	in := func(flags uintptr) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags} }
	}
	mapped := actor(t, fmt.Sprintf("attach %d", id))
	elsewhere := actor(t, fmt.Sprintf("create %d", testKey), in(unix.CLONE_NEWIPC))
	if elsewhere.ready != strconv.Itoa(id) {
		t.Fatalf("segment %s in the other namespace, %d here: the test needs equal ones", elsewhere.ready, id)
	}
	leaderless := start(t, exec.Command(nstest.CC(t, "testdata/leader.c", "-pthread"), strconv.Itoa(id)))
	ended := actor(t, fmt.Sprintf("attach %d", id))
	zombie := actor(t, fmt.Sprintf("attach %d", id))
	ended.end()
	p := open(t, zombie.pid())
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exit", p.Exited)

	r, answers := newTestReader(t)
	check := func(what string, pid int32, key uint32, segment int, want Consent) {
		t.Helper()
		if a := ask(r, answers, pid, key, segment); a.PID != pid || a.SegmentID != segment || a.Consent != want || a.Err != nil {
			t.Errorf("%s: %+v, want %v", what, a, want)
		}
	}
	check("mapped", mapped.pid(), testKey, id, ConsentProven)
	check("mapped, another segment", mapped.pid(), testKey+1, other, ConsentNotMapped)
	check("mapped, another key", mapped.pid(), testKey+1, id, ConsentNotMapped)
	check("mapped, another id", mapped.pid(), testKey, other, ConsentNotMapped)
	check("not mapped", actor(t, "pause").pid(), testKey, id, ConsentNotMapped)
	check("same id in another IPC namespace", elsewhere.pid(), testKey, id, ConsentOtherNamespace)
	check("mapped in another pid namespace", actor(t, fmt.Sprintf("attach %d", id), in(unix.CLONE_NEWPID)).pid(), testKey,
		id, ConsentOtherNamespace)
	check("mapped, leader ended", leaderless.pid(), testKey, id, ConsentProven)
	check("ended", ended.pid(), testKey, id, ConsentGone)
	check("zombie", zombie.pid(), testKey, id, ConsentGone)

	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
		t.Fatal(err)
	}
	check("removed segment", mapped.pid(), testKey, id, ConsentProven)
}

// Without CAP_SYS_PTRACE the maps of another user cannot be read: that is neither "gone" nor "not mapped".
func TestConsentWithoutRights(t *testing.T) {
	asNobody := nobody(t)
	got := actor(t, "ask "+strconv.Itoa(int(actor(t, "pause").pid())), asNobody).ready
	if f := strings.Fields(got); len(f) < 3 || f[1] != fmt.Sprint(uint8(ConsentUnknown)) || f[2] != "true" {
		t.Errorf("helper, consent, permission: %s", got)
	}
}

// A /proc that hides the processes of other users hides them, and does not end them.
func TestHiddenIsNotGone(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	asNobody := nobody(t)
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_REMOUNT, "hidepid=2"); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(int(actor(t, "pause").pid()))
	if got := actor(t, "open "+pid, asNobody).ready; got != "true false" {
		t.Errorf("open: error, gone: %s", got)
	}
	got := actor(t, "ask "+pid, asNobody).ready
	if f := strings.Fields(got); len(f) < 3 || f[1] != fmt.Sprint(uint8(ConsentUnknown)) || !strings.Contains(got, "open /proc/"+pid) {
		t.Errorf("helper, consent: %s", got)
	}
}

func TestHelperStuck(t *testing.T) {
	r, answers := newTestReader(t, envHelper+"=stuck")
	c := actor(t, "pause")
	if a := ask(r, answers, c.pid(), testKey, 1); a.Consent != ConsentNotMapped || a.Err != nil {
		t.Fatalf("%+v", a)
	}
	first := pidfdOf(t, r.PID())
	r.Ask(stuckPID, testKey, 1, 0)
	a := <-answers
	if a.PID != stuckPID || a.Consent != ConsentUnknown || a.Err == nil || !strings.Contains(a.Err.Error(), "no answer within 1s") {
		t.Errorf("%+v", a)
	}
	if a := ask(r, answers, c.pid(), testKey, 1); a.PID != c.pid() || a.Consent != ConsentNotMapped || a.Err != nil {
		t.Errorf("after the stuck one: %+v", a)
	}
	eventually(t, "exit of the stuck helper", func() bool { return exited(first) })
}

// Questions that wait behind a stuck one are answered by the next helper, one that is asked twice meanwhile once.
func TestQueueGoesOn(t *testing.T) {
	r, answers := newTestReader(t, envHelper+"=stuck")
	c := actor(t, "pause")
	r.Ask(stuckPID, testKey, 1, 0)
	for range 2 {
		for segment := range 10 {
			r.Ask(c.pid(), testKey, segment, 0)
		}
	}
	if a := <-answers; a.PID != stuckPID || a.Consent != ConsentUnknown {
		t.Errorf("%+v", a)
	}
	for segment := range 10 {
		a := <-answers
		if a.SegmentID != segment || a.Consent != ConsentNotMapped && !errors.Is(a.Err, os.ErrDeadlineExceeded) {
			t.Errorf("question %d: %+v", segment, a)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if len(answers) != 0 {
		t.Errorf("more answers than questions: %+v", <-answers)
	}
}

// pidfdOf opens the pidfd of a helper, which Open refuses.
func pidfdOf(t *testing.T, pid int32) int {
	t.Helper()
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestHelperFails(t *testing.T) {
	for kind, want := range map[string]string{
		"dies": errHelper.Error(),
		"liar": "malformed answer",
	} {
		t.Run(kind, func(t *testing.T) {
			r, answers := newTestReader(t, envHelper+"="+kind)
			c := actor(t, "pause")
			if a := ask(r, answers, c.pid(), testKey, 1); a.Consent != ConsentNotMapped {
				t.Fatalf("%+v", a)
			}
			for range 2 { // it worked before: the next question gets a new helper at once
				r.Ask(stuckPID, testKey, 1, 0)
				a := <-answers
				if a.Consent != ConsentUnknown || a.Err == nil || !strings.Contains(a.Err.Error(), want) {
					t.Errorf("%+v", a)
				}
				eventually(t, "a new helper", func() bool {
					r.Ask(c.pid(), testKey, 1, 0)
					return (<-answers).Consent == ConsentNotMapped
				})
			}
		})
	}
}

func TestHelperNeverStarts(t *testing.T) {
	r, answers := newTestReader(t, envHelper+"=mute")
	const n = 200
	for i := range int32(n) {
		r.Ask(100+i, testKey, 1, 0)
	}
	for range n {
		if a := <-answers; a.Consent != ConsentUnknown || a.Err == nil {
			t.Fatalf("%+v", a)
		}
	}
	if pid := r.PID(); pid != 0 {
		t.Errorf("helper %d", pid)
	}
}

func TestReaderOverflow(t *testing.T) {
	gate := make(chan struct{})
	answers := make(chan ConsentAnswer, 3*maxQueue)
	r := newReader(func(a ConsentAnswer) { <-gate; answers <- a }, envHelper+"=mute")
	const n = maxQueue + 100
	for i := range int32(n) {
		r.Ask(i+1, testKey, 1, 0)
	}
	close(gate)
	full := 0
	seen := map[int32]bool{}
	for range n {
		a := <-answers
		if seen[a.PID] || a.Consent != ConsentUnknown || a.Err == nil {
			t.Fatalf("%+v", a)
		}
		seen[a.PID] = true
		if strings.Contains(a.Err.Error(), errQueueFull.Error()) {
			full++
		}
	}
	if full < 99 {
		t.Errorf("%d refused for a full queue", full)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	r.Ask(1, testKey, 1, 0)
	if err := r.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestHelperKeepsNothing(t *testing.T) {
	// A descriptor that the daemon inherited without close-on-exec.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(pipe[0]))
	if err != nil {
		t.Fatal(err)
	}

	r, answers := newTestReader(t)
	ask(r, answers, int32(os.Getpid()), testKey, 1)
	proc := "/proc/" + strconv.Itoa(int(r.PID()))
	fds, err := filepath.Glob(proc + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		got, err := os.Readlink(fd)
		if err != nil {
			t.Fatal(err)
		}
		if got == link {
			t.Errorf("the helper has %s", got)
		}
	}
	st := slowStat(t, proc+"/stat")
	if st[1] != HelperName[:15] || st[5] != strconv.Itoa(int(r.PID())) {
		t.Errorf("name %s, session %s", st[1], st[5])
	}
	env, err := os.ReadFile(proc + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(env), "HOME=") {
		t.Errorf("environment %q", env)
	}
}

// The helper does not outlive a daemon that was killed.
func TestHelperDiesWithDaemon(t *testing.T) {
	daemon := actor(t, "ask 1")
	pid, err := strconv.Atoi(strings.Fields(daemon.ready)[0])
	if err != nil {
		t.Fatal(err)
	}
	helper := open(t, int32(pid))
	if helper.PPID != daemon.pid() {
		t.Fatalf("helper %d of %d has parent %d", pid, daemon.pid(), helper.PPID)
	}
	// Stopped, it does not see the end of the socket.
	if err := helper.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	daemon.end()
	eventually(t, "exit of the helper", helper.Exited)
}

// An upgrade removes the binary under the running daemon.
func TestHelperOfRemovedBinary(t *testing.T) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "daemon")
	if err := os.WriteFile(exe, b, 0o700); err != nil {
		t.Fatal(err)
	}
	c := actor(t, "ask-removed "+strconv.Itoa(int(actor(t, "pause").pid())), func(cmd *exec.Cmd) { cmd.Path = exe })
	if f := strings.Fields(c.ready); f[1] != fmt.Sprint(uint8(ConsentNotMapped)) {
		t.Errorf("helper, consent: %s", c.ready)
	}
	if _, err := os.Stat(exe); !os.IsNotExist(err) {
		t.Errorf("the binary is still there: %v", err)
	}
}

// Started with all signals ignored and descriptors 0 to 63 closed.
func TestBareStart(t *testing.T) {
	result := filepath.Join(t.TempDir(), "result")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nstest.CC(t, "testdata/bare.c"), exe)
	cmd.Env = append(os.Environ(), envRole+"=bare "+result)
	if err := cmd.Run(); err != nil {
		t.Errorf("run: %v", err)
	}
	b, err := os.ReadFile(result)
	if err != nil || string(b) != "ok" {
		t.Errorf("result %q, %v", b, err)
	}
}

func TestResponseError(t *testing.T) {
	r := response{pid: 42, op: opMaps, errno: unix.EACCES}
	if got, ok := parseResponse(marshalled(r)); !ok || got != r {
		t.Errorf("%+v came back as %+v", r, got)
	}
	err := r.err()
	if !errors.Is(err, fs.ErrPermission) || err.Error() != "read /proc/42/maps: permission denied" {
		t.Errorf("%v", err)
	}
}

func marshalled(r response) []byte { b := r.marshal(); return b[:] }
