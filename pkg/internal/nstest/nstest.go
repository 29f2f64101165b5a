// Package nstest runs a test in namespaces of its own, and compiles the C programs that tests use.
//
// A test that makes SysV objects, floods a process table or lets a dangerous program loose starts with
//
//	if nstest.Run(t) {
//		return
//	}
//
// and from there on has an empty IPC namespace, an empty PID namespace with its own /proc, and a private mount
// namespace. There are three processes:
//
//	outer   the test as "go test" started it; it waits and reports
//	pid 1   the same binary, stopped in this package's init: mounts /proc, starts inner, reaps every orphan
//	inner   the same binary again, running that one test, usually as pid 2 and up
//
// The kernel ends the whole PID namespace with its pid 1, and pid 1 is killed when outer dies (PR_SET_PDEATHSIG) or when
// the deadline passes, so nothing that a test leaves behind survives it.
package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envRole tells a process of the three which one it is; outer has none.
const (
	envRole   = "CHECKPROCD_NSTEST_ROLE"
	roleInit  = "init"
	roleInner = "inner"
)

const (
	// longest is what a test inside Run may take when "go test" sets no earlier deadline.
	longest = 5 * time.Minute
	// spare is the time between the inner deadline, which prints all goroutines, and the kill by outer.
	spare = 5 * time.Second
)

// Run re-executes the calling test alone in fresh IPC, PID and mount namespaces (own /proc), as pid 1's child, and
// reports its result. It returns true in the outer process, whose caller returns at once, and false inside. It works
// for subtests too: what stands before the subtest's Run call then runs both outside and inside.
//
// Where the namespaces cannot be had (no root, a sandbox) the test is skipped with the reason; with CI=true it fails.
func Run(t *testing.T) (outer bool) {
	t.Helper()
	return RunWithin(t, longest)
}

// RunWithin is Run for a test that takes its time: inside it is ended after limit, or before the deadline of "go test".
func RunWithin(t *testing.T, limit time.Duration) (outer bool) {
	t.Helper()
	if Inside() {
		return false
	}
	if os.Geteuid() != 0 {
		Unavailable(t, "new IPC, PID and mount namespaces need root")
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test binary: %v", err)
	}

	if deadline, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-2*spare)
	}
	if limit <= 0 {
		t.Fatalf("no time left for %s: %v to the deadline of go test", t.Name(), limit+2*spare)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit+spare)
	defer cancel()

	// The kernel sends the death signal when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	out := &verdictWriter{to: t.Output(), name: t.Name()}
	cmd := exec.CommandContext(ctx, exe,
		"-test.run="+pattern(t.Name()), "-test.v=true", "-test.count=1", "-test.paniconexit0",
		"-test.timeout="+limit.String(), fmt.Sprintf("-test.short=%t", testing.Short()))
	cmd.Env = append(os.Environ(), envRole+"="+roleInit)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = spare
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			Unavailable(t, fmt.Sprintf("new IPC, PID and mount namespaces: %v", err))
			return true
		}
		t.Fatalf("start %s in new namespaces: %v", t.Name(), err)
	}
	err = cmd.Wait()
	out.flush()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s in new namespaces did not end within %v and was killed", t.Name(), limit+spare)
	case errors.As(err, &exit) && exit.ExitCode() == exitNoNamespace:
		Unavailable(t, "pid 1 of the new namespaces could not set them up, see its output")
	case err != nil:
		t.Fatalf("%s in new namespaces: %v", t.Name(), err)
	case out.skipped:
		t.Skip("skipped in its namespaces, see its output")
	case !out.passed:
		t.Fatalf("%s did not run in new namespaces", t.Name())
	}
	return true
}

// Inside says whether this process runs a test within the namespaces that Run made.
func Inside() bool { return os.Getenv(envRole) == roleInner }

// Unavailable skips the test because this machine lacks what reason says; with CI=true, where nothing may be lacking,
// it fails the test.
func Unavailable(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// pattern is the -test.run pattern that matches the test called name and no other.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// verdictWriter passes whole lines on and looks for the verdict about the test called name: exit status 0 alone does
// not tell a pass from a skip, nor from a pattern that matched nothing.
type verdictWriter struct {
	to      io.Writer
	name    string
	rest    []byte
	passed  bool
	skipped bool
}

func (w *verdictWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(p), nil
		}
		w.line(w.rest[:end+1])
		w.rest = w.rest[end+1:]
	}
}

func (w *verdictWriter) flush() {
	if len(w.rest) > 0 {
		w.line(append(w.rest, '\n'))
		w.rest = nil
	}
}

func (w *verdictWriter) line(line []byte) {
	text := strings.TrimSpace(string(line))
	if found, ok := strings.CutPrefix(text, "--- PASS: "); ok {
		w.passed = w.passed || strings.HasPrefix(found, w.name+" ")
	}
	if found, ok := strings.CutPrefix(text, "--- SKIP: "); ok {
		w.skipped = w.skipped || strings.HasPrefix(found, w.name+" ")
	}
	w.to.Write(line)
}
