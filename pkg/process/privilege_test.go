package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func TestTimerSlack(t *testing.T) {
	err := TimerSlack(2 * time.Millisecond)
	if errors.Is(err, fs.ErrPermission) {
		nstest.Unavailable(t, "the timer slack of other threads needs CAP_SYS_NICE: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := TimerSlack(FineTimer); err != nil {
			t.Error(err)
		}
	}()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, dir := range threads {
		got, err := os.ReadFile(filepath.Join("/proc", filepath.Base(dir), "timerslack_ns"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || strings.TrimSpace(string(got)) != "2000000" {
			t.Errorf("slack of thread %s: %q, %v", filepath.Base(dir), got, err)
		}
	}
}
