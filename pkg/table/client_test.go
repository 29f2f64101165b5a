package table

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// moves waits for a beat in a slot.
func moves(t *testing.T, s *Segment, slot int) {
	t.Helper()
	_, first := s.Token(slot)
	eventually(t, fmt.Sprintf("the token of slot %d moves", slot), func() bool {
		_, token := s.Token(slot)
		return token != first
	})
}

func gone(t *testing.T, s *Segment, slot int) {
	t.Helper()
	eventually(t, fmt.Sprintf("slot %d is wiped", slot), func() bool { return s.Load(slot) == Record{} })
}

func state1(t *testing.T, pid int32) byte {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[0]
}

// TestClients shows each habit of the C client in a real table, as the table's reader sees it.
func TestClients(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	s := createTable(t)

	t.Run("register, beat and leave", func(t *testing.T) {
		c, slot := registered(t, "--name", "orderly", "--timeout", "35", "--beat", "5", "--token", "step", "--term-exit")
		if r := s.Load(slot); r.PID != c.pid() || CleanName(&r.Name) != "orderly" || r.Timeout != 35 {
			t.Errorf("%+v", r)
		}
		moves(t, s, slot)
		c.cmd.Process.Signal(unix.SIGTERM)
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("exit: %v", err)
		}
		gone(t, s, slot)
	})
	t.Run("killed and cleared", func(t *testing.T) {
		c, slot := registered(t)
		c.kill()
		r := s.Load(slot)
		if r.PID != c.pid() {
			t.Fatalf("%+v after SIGKILL", r)
		}
		if !s.Clear(slot, c.pid()) {
			t.Error("not cleared")
		}
		next, again := registered(t, "--name", "next")
		if again != slot {
			t.Fatalf("the next one is in slot %d, not %d", again, slot)
		}
		if s.Clear(slot, c.pid()) {
			t.Error("cleared the record of the next one")
		}
		if r := s.Load(slot); r.PID != next.pid() || CleanName(&r.Name) != "next" {
			t.Errorf("%+v", r)
		}
		next.kill()
		s.Clear(slot, next.pid())
	})
	t.Run("garbage and a full name", func(t *testing.T) {
		long := strings.Repeat("n", 60)
		c, slot := registered(t, "--name", long, "--garbage-padding")
		raw := s.raw(slot)
		if raw[55] != 0xa5 || raw[60] != 0xa5 || raw[63] != 0xa5 {
			t.Errorf("padding is not garbage: %x", raw)
		}
		r := s.Load(slot)
		if CleanName(&r.Name) != long[:51] {
			t.Errorf("name %q", CleanName(&r.Name))
		}
		want := Record{PID: c.pid(), Name: r.Name, Timeout: 10, Token: r.Token}
		if r != want || !r.Same(&want) {
			t.Errorf("%+v, want %+v", r, want)
		}
	})
	t.Run("torn", func(t *testing.T) {
		c := start(t, "--name", "torn", "--torn", "3000")
		torn := false
		eventually(t, "a torn record is seen", func() bool {
			for i := range s.Len() {
				if r := s.Load(i); r.PID == c.pid() {
					torn = r.Token == 0
					return true
				}
			}
			return false
		})
		_, slot := c.says(t, "ready")
		if r := s.Load(slot); !torn || CleanName(&r.Name) != "torn" || r.Token == 0 {
			t.Errorf("torn seen: %v, in the end %+v", torn, r)
		}
	})
	t.Run("ignores SIGTERM", func(t *testing.T) {
		c, slot := registered(t, "--ignore-term", "--beat", "5", "--token", "step")
		c.cmd.Process.Signal(unix.SIGTERM)
		moves(t, s, slot)
		moves(t, s, slot)
	})
	t.Run("wipes at SIGTERM and hangs", func(t *testing.T) {
		c, slot := registered(t, "--term-wipe-hang")
		c.cmd.Process.Signal(unix.SIGTERM)
		gone(t, s, slot)
		if st := state1(t, c.pid()); st == 'Z' {
			t.Errorf("state %c, want alive", st)
		}
	})
	t.Run("beats and hangs", func(t *testing.T) {
		c, slot := registered(t, "--beat", "1", "--beats", "3", "--token", "step", "--name-change", "renamed", "--timeout-change", "99")
		eventually(t, "name and timeout change", func() bool {
			r := s.Load(slot)
			return CleanName(&r.Name) == "renamed" && r.Timeout == 99
		})
		if st := state1(t, c.pid()); st == 'Z' {
			t.Errorf("state %c, want alive", st)
		}
	})
	t.Run("leader exits", func(t *testing.T) {
		c, slot := registered(t, "--leader-exit", "--beat", "5", "--token", "step")
		eventually(t, "the leader is a zombie", func() bool { return state1(t, c.pid()) == 'Z' })
		moves(t, s, slot)
		if pid, _ := s.Token(slot); pid != c.pid() {
			t.Errorf("pid %d, want %d", pid, c.pid())
		}
	})
	t.Run("forks after registering", func(t *testing.T) {
		c, slot := registered(t, "--fork-after-register", "2", "--child-life", "50")
		eventually(t, "the first child's exit wipes the parent's record", func() bool {
			pid, _ := s.Token(slot)
			return pid == 0
		})
		if st := state1(t, c.pid()); st == 'Z' {
			t.Errorf("the parent is in state %c", st)
		}
	})
	t.Run("zombie child", func(t *testing.T) {
		c := start(t, "--zombie-child")
		pid, slot := c.says(t, "ready")
		if pid == c.pid() {
			t.Fatal("the parent registered")
		}
		eventually(t, "the child is a zombie", func() bool { return state1(t, pid) == 'Z' })
		if r := s.Load(slot); r.PID != pid {
			t.Errorf("%+v, want pid %d", r, pid)
		}
	})
	t.Run("another's pid", func(t *testing.T) {
		c := start(t, "--forge", "1")
		_, slot := c.says(t, "ready")
		if r := s.Load(slot); r.PID != 1 {
			t.Errorf("%+v, want pid 1", r)
		}
		s.Clear(slot, 1)
	})
	t.Run("exec drops the mapping", func(t *testing.T) {
		c, slot := registered(t, "--exec", "sleep", "1000")
		if pid, _ := s.Token(slot); pid != c.pid() {
			t.Errorf("pid %d, want %d", pid, c.pid())
		}
		maps := fmt.Sprintf("/proc/%d/maps", c.pid())
		eventually(t, "the mapping is gone", func() bool {
			text, err := os.ReadFile(maps)
			return err == nil && len(text) > 0 && !strings.Contains(string(text), "/SYSV00005095")
		})
	})
	t.Run("tokens of other times", func(t *testing.T) {
		for mode, far := range map[string]func(token, now int64) bool{
			"ahead":  func(token, now int64) bool { return token > now+500000 },
			"behind": func(token, now int64) bool { return token < now-500000 },
		} {
			_, slot := registered(t, "--token", mode)
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
				t.Fatal(err)
			}
			if _, token := s.Token(slot); !far(token, now.Sec) {
				t.Errorf("%s: token %d at %d", mode, token, now.Sec)
			}
		}
	})
}

func TestTableFull(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	s := createTable(t)
	for i := range s.Len() {
		put32(s.raw(i), 1000000+int32(i))
	}
	c := start(t)
	c.says(t, "full")
	if !s.Clear(617, 1000617) {
		t.Error("not cleared")
	}
	if _, slot := registered(t); slot != 617 {
		t.Errorf("registered in slot %d, want 617", slot)
	}
}

// oldGuard is the command for testdata/oldguard.c, in a process group of its own: it may kill that.
func oldGuard(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(nstest.CC(t, "testdata/oldguard.c"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if nstest.Inside() {
		cmd.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
	}
	return cmd
}

func TestOldGuardRefuses(t *testing.T) {
	out, err := oldGuard(t, filepath.Join(t.TempDir(), "log")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 77 {
		t.Errorf("outside a test namespace: %v, %s", err, out)
	}
}

func TestOldGuardLooks(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	s := createTable(t)
	registered(t)
	registered(t, "--token", "behind")
	c, slot := registered(t)
	c.kill()
	out, err := oldGuard(t, "--pass-only", "3").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(out), "passes 3 wall ") || !strings.HasSuffix(string(out), " records 3 gone 1 overdue 1\n") {
		t.Errorf("printed %q", out)
	}
	if pid, _ := s.Token(slot); pid != c.pid() {
		t.Errorf("--pass-only cleared slot %d", slot)
	}
}

// TestOldGuardKillsItsGroup is the fault that made the old guard dangerous: the hung client wipes its record at SIGTERM
// and does not end, and the guard, reading the pid again, does kill(0, 9).
func TestOldGuardKillsItsGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("the old guard waits for 5 s")
	}
	if nstest.Run(t) {
		return
	}
	s := createTable(t)
	victim, slot := registered(t, "--term-wipe-hang", "--token", "behind", "--group")
	err := oldGuard(t, filepath.Join(t.TempDir(), "log")).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("the old guard ended with %v, want its own SIGKILL", err)
	}
	gone(t, s, slot)
	if st := state1(t, victim.pid()); st == 'Z' {
		t.Errorf("the hung client is in state %c, want alive", st)
	}
}
