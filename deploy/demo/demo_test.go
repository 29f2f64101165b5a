// Package demo_test runs the demonstration and asks whether every program met its fate.
package demo_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// longest is what the demonstration may take on a busy machine; it lasts half a minute.
const longest = 3 * time.Minute

// missing skips the test, saying what is missing; where everything has to be there (CI=true), it fails.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// stage is for tests that run the whole of it.
func stage(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root, for new IPC, PID and mount namespaces")
	}
	for _, program := range []string{"cc", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program)
		}
	}
	t.Parallel() // it waits most of the time, and its namespaces are its own
}

// build compiles both programs as `make build` does and returns their directory.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "../../cmd/checkprocd", "../../cmd/checkprocctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return dir
}

// run starts run.sh; its process ends with its test.
func run(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, "./run.sh", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("run.sh %s did not end within %v", strings.Join(args, " "), longest)
	}
	return string(out), err
}

func TestFates(t *testing.T) {
	stage(t)
	tmp := t.TempDir()
	out, err := run(t, []string{"BINDIR=" + build(t), "TMPDIR=" + tmp}, "--check")
	if err != nil {
		t.Fatalf("run.sh --check: %v\n%s", err, out)
	}
	if !strings.HasSuffix(out, "demo: every fate came true\n") {
		t.Errorf("no last word:\n%s", out)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v, %v", left, err)
	}
}

// A guard that acts on nothing must not pass.
func TestCheckCanFail(t *testing.T) {
	stage(t)
	dir := t.TempDir()
	real := build(t)
	for name, text := range map[string]string{
		"checkprocd":   "#!/bin/sh\nexec " + real + "/checkprocd --observe \"$@\"\n",
		"checkprocctl": "#!/bin/sh\nexec " + real + "/checkprocctl \"$@\"\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, err := run(t, []string{"BINDIR=" + dir, "TMPDIR=" + t.TempDir(), "PATIENCE=0"}, "--check")
	if err == nil || !strings.Contains(out, "demo: not as staged: hung") {
		t.Errorf("a guard that only observes: %v\n%s", err, out)
	}
}

func TestSaysWhatIsMissing(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		missing(t, "bash")
	}
	bare := t.TempDir() // a PATH without a compiler
	for _, name := range []string{"dirname", "id"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, bare+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		want, path, bindir string
		args               []string
	}{
		{"demo: no C compiler to build its programs with: apt-get install gcc libc6-dev\n", bare, "", nil},
		{"usage: ./run.sh [--check]\n", os.Getenv("PATH"), "", []string{"--chekc"}},
	} {
		cmd := exec.Command(bash, append([]string{"./run.sh"}, c.args...)...)
		cmd.Env = []string{"PATH=" + c.path}
		out, err := cmd.CombinedOutput()
		if err == nil || string(out) != c.want {
			t.Errorf("run.sh %v: %v, %q, want %q", c.args, err, out, c.want)
		}
	}
}
