package table

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func state(t *testing.T, s *Semaphore) SemState {
	t.Helper()
	state, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func openSemaphore(t *testing.T) *Semaphore {
	t.Helper()
	s, err := OpenSemaphore(DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func waiters(t *testing.T, s *Semaphore, want int) {
	t.Helper()
	eventually(t, "the clients wait for the semaphore", func() bool {
		n, err := s.Waiters()
		if err != nil {
			t.Fatal(err)
		}
		return n == want
	})
}

func TestSemaphore(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	if _, err := OpenSemaphore(DefaultKey); !errors.Is(err, ErrNotExist) {
		t.Errorf("open before there is one: %v, want ErrNotExist", err)
	}
	unix.Umask(0o077)
	s, err := CreateSemaphore(DefaultKey, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateSemaphore(DefaultKey, 0o666); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: %v, want fs.ErrExist", err)
	}
	if again := openSemaphore(t); again.ID() != s.ID() {
		t.Errorf("opened %d, want %d", again.ID(), s.ID())
	}
	fresh := state(t, s)
	if fresh.ID != s.ID() || fresh.Value != 1 || fresh.Waiters != 0 || fresh.OTime != 0 || fresh.CTime == 0 ||
		fresh.Mode != 0o666 || fresh.UID != 0 || fresh.CUID != 0 || fresh.LastPID != int32(os.Getpid()) {
		t.Errorf("created %+v", fresh)
	}

	c, _ := registered(t)
	used := state(t, s)
	if used.Value != 1 || used.Waiters != 0 || used.OTime == 0 || used.LastPID != c.pid() {
		t.Errorf("after client %d has registered: %+v", c.pid(), used)
	}

	if _, err := semctl(s.ID(), unix.IPC_RMID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Waiters(); !errors.Is(err, ErrNotExist) {
		t.Errorf("waiters of a removed one: %v, want ErrNotExist", err)
	}
	if _, err := s.State(); !errors.Is(err, ErrNotExist) {
		t.Errorf("state of a removed one: %v, want ErrNotExist", err)
	}
	if err := s.Repair(); !errors.Is(err, ErrNotExist) {
		t.Errorf("repair a removed one: %v, want ErrNotExist", err)
	}
}

func TestSemaphoreNeverInitialised(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	creator := start(t, "--sem-uninit")
	if err := creator.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s := openSemaphore(t)
	stuck := start(t)
	waiters(t, s, 1)
	if got := state(t, s); got.Value != 0 || got.OTime != 0 || got.Waiters != 1 {
		t.Errorf("never initialised: %+v", got)
	}
	if err := s.Repair(); err != nil {
		t.Fatal(err)
	}
	stuck.says(t, "ready")
	if got := state(t, s); got.Value != 1 || got.OTime == 0 || got.Waiters != 0 {
		t.Errorf("after the repair: %+v", got)
	}
}

func TestSemaphoreHolderStopped(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	holder := start(t, "--hold-sem")
	holder.says(t, "holding")
	s := openSemaphore(t)
	stuck := []*client{start(t), start(t)}
	waiters(t, s, 2)
	if got := state(t, s); got.Value != 0 || got.OTime == 0 || got.LastPID != holder.pid() {
		t.Errorf("held by the stopped client %d: %+v", holder.pid(), got)
	}
	holder.kill() // the kernel undoes its P
	for _, c := range stuck {
		c.says(t, "ready")
	}
	if got := state(t, s); got.Value != 1 || got.Waiters != 0 {
		t.Errorf("after the holder's end: %+v", got)
	}
}

func TestSemaphoreOfOthers(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	s, err := CreateSemaphore(DefaultKey, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	asUID(1001, func() {
		if _, err := OpenSemaphore(DefaultKey); err != nil {
			t.Error(err)
		}
		if _, err := s.Waiters(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("waiters: %v, want fs.ErrPermission", err)
		}
		if _, err := s.State(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("state: %v, want fs.ErrPermission", err)
		}
		if err := s.Repair(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("repair: %v, want fs.ErrPermission", err)
		}
	})
}
