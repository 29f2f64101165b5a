package daemon

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// envBinary is the path of the real daemon, for tests inside their namespaces.
const envBinary = "CHECKPROCD_TEST_BINARY"

func TestMain(m *testing.M) {
	process.HelperMain()
	if nstest.Inside() {
		before := openFiles()
		code := m.Run()
		if code == 0 {
			code = leaks(before)
		}
		os.Exit(code)
	}
	// Nearly all of a test is waiting, so more of them than processors are let run at once; -parallel overrides it.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	if path := os.Getenv(envBinary); path != "" {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// leaks counts what a test left behind in its process: goroutines and descriptors.
func leaks(before map[string]string) int {
	code := 0
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if after := openFiles(); len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors leaked: before %v, after %v\n", before, after)
		code = 1
	}
	return code
}

// openFiles lists this process's descriptors, without the runtime's epoll set and eventfd and the listing's own.
func openFiles() map[string]string {
	files := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		link, err := os.Readlink(name)
		if err == nil && link != "anon_inode:[eventpoll]" && link != "anon_inode:[eventfd]" {
			files[filepath.Base(name)] = link
		}
	}
	return files
}

// built builds the real daemon once for a run of the tests.
var built = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "checkprocd-test")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // it is also run as another user
		return err
	}
	path := filepath.Join(dir, "checkprocd")
	os.Setenv(envBinary, path)
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/checkprocd").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build ../../cmd/checkprocd: %w\n%s", err, out)
	}
	return nil
})

// namespaces runs the test beside others in IPC, pid and mount namespaces of its own; see nstest.Run.
func namespaces(t *testing.T) (outer bool) {
	t.Helper()
	prepare(t)
	return nstest.Run(t)
}

// prepare is what a test needs before it enters its namespaces.
func prepare(t *testing.T) {
	t.Helper()
	if !nstest.Inside() {
		t.Parallel()
		if err := built(); err != nil {
			t.Fatal(err)
		}
	}
}
