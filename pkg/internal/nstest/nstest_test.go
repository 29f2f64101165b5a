package nstest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func TestRunIsolates(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	if !nstest.Inside() {
		t.Setenv("NSTEST_OUTER_IPC", before)
	}
	if nstest.Run(t) {
		return
	}
	if before == os.Getenv("NSTEST_OUTER_IPC") {
		t.Errorf("same IPC namespace inside and outside: %s", before)
	}
	if os.Getppid() != 1 {
		t.Errorf("parent is %d, want pid 1", os.Getppid())
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	if pid := os.Getpid(); pid > 100 || self != filepath.Base(self) {
		t.Errorf("pid %d, /proc/self is %s: not a fresh PID namespace", pid, self)
	}
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(table), "\n"); lines != 1 {
		t.Errorf("segments in a fresh IPC namespace:\n%s", table)
	}
}

func TestRunReapsOrphans(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	out, err := exec.Command("sh", "-c", "(sleep 0.05 & echo $!)").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := "/proc/" + strings.TrimSpace(string(out))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("orphan %s was not reaped", dir)
		}
	}
}

func TestRunSubtest(t *testing.T) {
	t.Run("a name (with) [signs]", func(t *testing.T) {
		if nstest.Run(t) {
			return
		}
		if os.Getppid() != 1 {
			t.Errorf("parent is %d, want pid 1", os.Getppid())
		}
	})
}

// TestRunReports lets tests fail, panic, skip and leave processes behind in a test binary of their own, and looks at
// what the outer process makes of it.
func TestRunReports(t *testing.T) {
	if mode := os.Getenv("NSTEST_MODE"); mode != "" {
		if nstest.Run(t) {
			return
		}
		switch mode {
		case "fail":
			t.Error("it is broken")
		case "panic":
			panic("it is very broken")
		case "skip":
			t.Skip("it is not there")
		case "orphan":
			if err := exec.Command("sleep", "1000").Start(); err != nil {
				t.Fatal(err)
			}
		case "log":
			t.Log("it is fine")
		}
		return
	}
	if os.Geteuid() != 0 {
		nstest.Unavailable(t, "new namespaces need root")
	}
	tests := []struct {
		mode string
		code int
		want string
	}{
		{"fail", 1, "it is broken"},
		{"panic", 1, "it is very broken"},
		{"skip", 0, "--- SKIP: TestRunReports"},
		{"orphan", 0, "--- PASS: TestRunReports"},
		{"log", 0, "it is fine"},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestRunReports$", "-test.v=true", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), "NSTEST_MODE="+test.mode)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit status %d, want %d", code, test.code)
			}
			if !strings.Contains(string(out), test.want) {
				t.Errorf("output lacks %q", test.want)
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// TestRunEndsWithOuter kills the outer process and expects its namespaces to end.
func TestRunEndsWithOuter(t *testing.T) {
	pipe := os.Getenv("NSTEST_PIPE")
	if pipe != "" {
		if nstest.Run(t) {
			return
		}
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		select {} // holds the writing end until it is killed
	}
	if os.Geteuid() != 0 {
		nstest.Unavailable(t, "new namespaces need root")
	}
	pipe = filepath.Join(t.TempDir(), "alive")
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRunEndsWithOuter$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "NSTEST_PIPE="+pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	f, err := os.OpenFile(pipe, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1)
	if _, err := f.Read(buf); err != nil {
		t.Fatalf("read from the inner process: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(buf); n != 0 || os.IsTimeout(err) {
		t.Fatalf("inner process outlives outer: read %d bytes, %v", n, err)
	}
}

func TestCC(t *testing.T) {
	src := filepath.Join(t.TempDir(), "hello.c")
	if err := os.WriteFile(src, []byte("#include <stdio.h>\nint main(void) { puts(GREETING); return 0; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	program := nstest.CC(t, src, `-DGREETING="hello"`)
	if again := nstest.CC(t, src, `-DGREETING="hello"`); again != program {
		t.Errorf("compiled twice: %s and %s", program, again)
	}
	other := nstest.CC(t, src, `-DGREETING="bye"`)
	if other == program {
		t.Errorf("other flags, same program %s", other)
	}
	for path, want := range map[string]string{program: "hello\n", other: "bye\n"} {
		if out, err := exec.Command(path).Output(); err != nil || string(out) != want {
			t.Errorf("%s printed %q, %v; want %q", path, out, err, want)
		}
	}
}
