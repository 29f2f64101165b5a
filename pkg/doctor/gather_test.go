package doctor

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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// generous is for waits that end early when all is well.
const generous = 60 * time.Second

// running is a program of this test; it is killed at the test's end.
type running struct {
	*exec.Cmd
	pid int32
	out *bufio.Reader
}

// start runs a client and waits for its first line, which begins with word.
func start(t *testing.T, word, program string, args ...string) *running {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r := &running{cmd, int32(cmd.Process.Pid), bufio.NewReader(pipe)}
	if word != "" {
		line, err := r.out.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, word+" ") {
			t.Fatalf("%s %q: %q, %v", program, args, line, err)
		}
		fmt.Sscanf(line, word+" %d", &r.pid)
	}
	return r
}

func look(t *testing.T) []control.Finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	findings, err := Examine(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

func find(findings []control.Finding, id string) *control.Finding {
	if i := slices.IndexFunc(findings, func(f control.Finding) bool { return f.ID == id }); i >= 0 {
		return &findings[i]
	}
	return nil
}

// expect wants exactly this finding of its kind, about these pids.
func expect(t *testing.T, findings []control.Finding, id string, s control.Severity, pids ...int32) {
	t.Helper()
	f := find(findings, id)
	switch {
	case f == nil:
		t.Errorf("no finding %s in %+v", id, findings)
	case f.Severity != s:
		t.Errorf("%s is a %s, want %s", id, f.Severity, s)
	default:
		slices.Sort(f.PIDs)
		slices.Sort(pids)
		if !slices.Equal(f.PIDs, pids) {
			t.Errorf("%s is about %v, want %v: %+v", id, f.PIDs, pids, f)
		}
	}
}

func create(t *testing.T) {
	t.Helper()
	if _, err := table.Create(table.DefaultKey, table.DefaultRecords, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := table.CreateSemaphore(table.DefaultKey, 0o666); err != nil {
		t.Fatal(err)
	}
}

func copyProgram(t *testing.T, from, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

func sleepProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNoTable(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	expect(t, look(t), "missing", control.SeverityWarning)
}

func TestHealthyTable(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := nstest.CC(t, "../table/testdata/client.c")
	for _, name := range []string{"one", "two", "three"} {
		start(t, "ready", client, "--name", name, "--beat", "200")
	}
	findings := look(t)
	if len(findings) != 1 {
		t.Errorf("findings %+v", findings)
	}
	expect(t, findings, "table", control.SeverityOK)
}

// TestSickTable has one program for each fault.
func TestSickTable(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := nstest.CC(t, "../table/testdata/client.c")
	victim := start(t, "", sleepProgram(t), "600")

	dead := start(t, "ready", client, "--name", "dead")
	_ = dead.Process.Kill()
	_ = dead.Wait()
	zombie := start(t, "ready", client, "--name", "unreaped", "--zombie-child", "--beat", "1", "--beats", "1")
	forger := start(t, "ready", client, "--name", "forger", "--forge", fmt.Sprint(victim.pid))
	zero := start(t, "ready", client, "--name", "ftp", "--timeout", "0")
	init := start(t, "ready", client, "--name", "init", "--forge", "1")
	twins := []*running{start(t, "ready", client, "--name", "twin"), start(t, "ready", client, "--name", "twin")}
	// The first child's exit wipes the record that parent and second child go on beating.
	lost := start(t, "ready", client, "--name", "lost", "--fork-after-register", "2", "--child-life", "10", "--beat", "100")
	guard := start(t, "", copyProgram(t, sleepProgram(t), "checkproc"), "600")
	eventually(t, "the record is wiped", func() bool { return !inTable(t, lost.pid) })
	eventually(t, "the child has ended", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", zombie.pid))
		return err == nil && strings.Contains(string(text), ") Z ")
	})

	findings := look(t)
	expect(t, findings, "stale", control.SeverityWarning, dead.pid)
	expect(t, findings, "unreaped", control.SeverityWarning, zombie.pid)
	expect(t, findings, "timeout", control.SeverityWarning, zero.pid)
	expect(t, findings, "name-twice", control.SeverityNote, twins[0].pid, twins[1].pid)
	expect(t, findings, "lost-record", control.SeverityError)
	expect(t, findings, "old-guard", control.SeverityWarning, guard.pid)
	var forged []int32
	for _, f := range findings {
		if f.ID == "forged" {
			forged = append(forged, f.PIDs...)
		}
	}
	if slices.Sort(forged); !slices.Equal(forged, []int32{1, victim.pid}) {
		t.Errorf("forged: %v, want 1 and %d", forged, victim.pid)
	}
	// Those who run without a record of their own.
	unguarded := find(findings, "unguarded")
	for _, pid := range []int32{forger.pid, init.pid, lost.pid} {
		if unguarded == nil || !slices.Contains(unguarded.PIDs, pid) {
			t.Errorf("%d is not among the unguarded: %+v", pid, unguarded)
		}
	}
	for _, pid := range []int32{twins[0].pid, zero.pid, victim.pid, guard.pid} {
		if unguarded != nil && slices.Contains(unguarded.PIDs, pid) {
			t.Errorf("%d is among the unguarded: %+v", pid, unguarded)
		}
	}
	if find(findings, "table") != nil || find(findings, "incomplete") != nil {
		t.Errorf("findings %+v", findings)
	}
}

func inTable(t *testing.T, pid int32) bool {
	t.Helper()
	id, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	s, err := table.Attach(id, table.DefaultKey, table.DefaultRecords, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records := make([]table.Record, s.Len())
	s.Read(records)
	return slices.ContainsFunc(records, func(r table.Record) bool { return r.PID == pid })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(generous); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, generous)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestHeldSemaphore(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := nstest.CC(t, "../table/testdata/client.c")
	holder := start(t, "holding", client, "--hold-sem")
	findings := look(t)
	expect(t, findings, "semaphore-held", control.SeverityWarning, holder.pid)

	hanging := start(t, "", client, "--name", "hanging")
	sem, err := table.OpenSemaphore(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "somebody waits", func() bool { n, err := sem.Waiters(); return err == nil && n == 1 })
	findings = look(t)
	expect(t, findings, "semaphore-held", control.SeverityError, holder.pid)
	if f := find(findings, "semaphore-held"); f != nil && !strings.Contains(f.Message, "which is stopped: 1 program hangs") {
		t.Errorf("message %q", f.Message)
	}
	expect(t, findings, "unguarded", control.SeverityWarning, holder.pid, hanging.pid)
}

func TestUninitialisedSemaphore(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	client := nstest.CC(t, "../table/testdata/client.c")
	_ = start(t, "", client, "--sem-uninit").Wait()
	expect(t, look(t), "semaphore-uninitialised", control.SeverityWarning)
	start(t, "", client)
	sem, err := table.OpenSemaphore(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "somebody waits", func() bool { n, err := sem.Waiters(); return err == nil && n == 1 })
	expect(t, look(t), "semaphore-uninitialised", control.SeverityError)
}

func TestTutorialTable(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	id, err := unix.SysvShmGet(table.DefaultKey, 40*table.DefaultRecords, unix.IPC_CREAT|unix.IPC_EXCL|0o640)
	if err != nil {
		t.Fatal(err)
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		t.Fatal(err)
	}
	desc.Perm.Uid = 61234
	if _, err := unix.SysvShmCtl(id, unix.IPC_SET, &desc); err != nil {
		t.Fatal(err)
	}
	findings := look(t)
	expect(t, findings, "layout", control.SeverityError, int32(os.Getpid()))
	expect(t, findings, "mode", control.SeverityWarning)
	expect(t, findings, "removeipc", control.SeverityWarning)
}

func TestRemovedTable(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := start(t, "ready", nstest.CC(t, "../table/testdata/client.c"), "--name", "left", "--beat", "100")
	id, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
		t.Fatal(err)
	}
	findings := look(t)
	expect(t, findings, "removed", control.SeverityWarning, client.pid)
	expect(t, findings, "missing", control.SeverityWarning)
}

// TestProcessGroup puts a scheduler, two services and an old guard into one group, as start scripts do.
func TestProcessGroup(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := nstest.CC(t, "../table/testdata/client.c")
	procctl, checkproc := copyProgram(t, sleepProgram(t), "procctl"), copyProgram(t, sleepProgram(t), "checkproc")
	start(t, "", "/bin/sh", "-c", fmt.Sprintf(
		"%[1]s --name a --beat 100 & %[1]s --name b --beat 100 & %[2]s 600 & %[3]s 600 & wait", client, procctl, checkproc))
	eventually(t, "both are registered", func() bool { return find(look(t), "process-group") != nil })
	f := find(look(t), "process-group")
	if f == nil || f.Severity != control.SeverityError || len(f.PIDs) != 2 || !strings.Contains(f.Message, "1 procctl") {
		t.Errorf("finding %+v", f)
	}
}

func TestEndsWithContext(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Examine(ctx, Options{Between: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestWithoutRoot has a user without rights examine: what that user cannot see is said, and nothing is accused by it.
func TestWithoutRoot(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	create(t)
	client := start(t, "ready", nstest.CC(t, "../table/testdata/client.c"), "--name", "one", "--beat", "100")
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.Args = []string{"doctor.test"}
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = "/", []*os.File{exe}, os.Stderr
	cmd.Env = append(os.Environ(), "DOCTOR_TEST_NONROOT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var findings []control.Finding
	if err := json.Unmarshal(out, &findings); err != nil {
		t.Fatal(err)
	}
	expect(t, findings, "table", control.SeverityOK)
	expect(t, findings, "incomplete", control.SeverityNote)
	expect(t, findings, "unverified", control.SeverityNote, client.pid)
}

func nonRoot() {
	findings, err := Examine(context.Background(), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(findings)
}
