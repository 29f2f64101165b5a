package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// plant creates a segment of another size under the key.
func plant(t *testing.T, size int) (id int) {
	t.Helper()
	id, err := unix.SysvShmGet(table.DefaultKey, size, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		t.Fatalf("plant a segment of %d bytes: %v", size, err)
	}
	return id
}

// TestForeignLayout: a segment of another layout is refused loudly, and a real one is taken when it comes.
func TestForeignLayout(t *testing.T) {
	for _, size := range []int{40000, 64000, 68000, 4096, 72 * 1001} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if namespaces(t) {
				return
			}
			foreign := plant(t, size)
			b, err := unix.SysvShmAttach(foreign, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.SysvShmDetach(b) }()
			for i := range b {
				b[i] = 1
			}
			g := embed(t, testConfig(t))
			e := g.await(want{event: guard.EvTableLost})
			for _, part := range []string{fmt.Sprintf("%d bytes", size), "uid 0", fmt.Sprintf("pid %d", os.Getpid())} {
				if !strings.Contains(e.Message, part) {
					t.Errorf("%q does not say %q", e.Message, part)
				}
			}
			g.scans(5)
			s, err := g.dial().Status(t.Context())
			if err != nil || len(s.Tables) != 1 || s.Tables[0].State != control.TableRefused {
				t.Errorf("status: %+v, %v", s.Tables, err)
			}
			if n := len(g.find(want{event: guard.EvTableLost})); n != 1 {
				t.Errorf("said %d times", n)
			}
			for i := range b {
				if b[i] != 1 {
					t.Fatalf("byte %d of the foreign segment was written to", i)
				}
			}
			removeTable(t, foreign)
			g.await(want{event: guard.EvTableAttached})
			c := run(t, "--name client --timeout 600 --beat 200")
			g.await(want{event: guard.EvRegistered, pid: c.pid})
		})
	}
}

// TestTableRemoved: a removed segment lives on in its clients. They stay guarded, beside those of the new one.
func TestTableRemoved(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	old, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	stays := member(t, "stays", 1, "exit")
	hangs := member(t, "hangs", 1, "exit")
	for _, c := range []*client{stays, hangs} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	removeTable(t, old)
	g.await(want{event: guard.EvTableLost, reason: "removed"})
	g.awaitNth(want{event: guard.EvTableAttached}, 2)
	newcomer := member(t, "newcomer", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: newcomer.pid})
	now, err := table.Lookup(table.DefaultKey)
	if err != nil || now == old {
		t.Fatalf("table %d, was %d: %v", now, old, err)
	}

	hangs.signal(unix.SIGUSR1)
	hangs.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: hangs.pid})
	g.untouched(stays, newcomer)
	if _, err := table.StatID(old); err != nil {
		t.Errorf("the old table is gone before its last client: %v", err)
	}
	stays.signal(unix.SIGTERM)
	g.await(want{event: guard.EvUnregistered, pid: stays.pid})
	eventually(t, "the old table is dropped with its last client", func() bool {
		_, err := table.StatID(old)
		return err != nil
	})
	newcomer.signal(unix.SIGUSR1)
	g.await(want{event: guard.EvKilled, pid: newcomer.pid})
}

// TestTwoLayouts: the table is removed under live clients, and one of another layout takes its key.
func TestTwoLayouts(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	stays := member(t, "stays", 1, "exit")
	hangs := member(t, "hangs", 1, "exit")
	for _, c := range []*client{stays, hangs} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	old, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	g.pause() // else it makes a new one at once
	removeTable(t, old)
	foreign := plant(t, 64000)
	g.signal(unix.SIGCONT)
	g.await(want{event: guard.EvTableLost, text: "64000 bytes"})
	g.await(want{event: guard.EvTableLost, reason: "removed"})

	// Not even a restart loses those of the old one.
	g.kill()
	g = launch(t, c)
	g.await(want{event: guard.EvTableLost, text: "64000 bytes"})
	hangs.signal(unix.SIGUSR1)
	hangs.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: hangs.pid})
	g.untouched(stays)

	removeTable(t, foreign)
	g.await(want{event: guard.EvTableAttached})
	newcomer := member(t, "newcomer", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: newcomer.pid})
	g.untouched(stays)
}

// TestTableFull: the clients do not notice, so the guard says it before it happens.
func TestTableFull(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	owner := run(t, "--name owner --timeout 600 --beat 200")
	g.await(want{event: guard.EvRegistered, pid: owner.pid})
	m := mapTable(t)
	fill := func(to int) {
		for i := range to {
			if m.pid(i) == 0 {
				m.put(i, owner.pid, "filled", 600, 1)
			}
		}
	}
	fill(940)
	g.scans(3)
	g.none(want{event: guard.EvTableFull})
	fill(960)
	if e := g.await(want{event: guard.EvTableFull, reason: "nearly full"}); e.Level != "warn" {
		t.Errorf("nearly full: level %s", e.Level)
	}
	fill(1000)
	if e := g.await(want{event: guard.EvTableFull, reason: "full"}); e.Level != "error" || !strings.Contains(e.Message, "1000 of 1000") {
		t.Errorf("full: %+v", e)
	}
	late := spawn(t, clientProgram(t), []string{"--name", "late", "--beat", "200"})
	if line := late.line(); line != fmt.Sprintf("full %d", late.pid) {
		t.Errorf("the client says %q", line)
	}
	g.scans(3)
	if n := len(g.find(want{event: guard.EvTableFull})); n != 2 {
		t.Errorf("said %d times", n)
	}
	for i := range 1000 {
		if i != owner.slot {
			m.wipe(i)
		}
	}
	g.scans(3)
	fill(1000) // begins anew
	g.awaitNth(want{event: guard.EvTableFull}, 3)
	g.untouched(owner, late)
}

// TestSemaphoreHeld: new clients hang before they are in the table, behind a holder that is stopped.
func TestSemaphoreHeld(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	fellow := run(t, "--name fellow --timeout 600 --beat 200")
	holder := spawn(t, clientProgram(t), strings.Fields("--name holder --timeout 600 --beat 200 --hold-sem"))
	if line := holder.line(); line != fmt.Sprintf("holding %d", holder.pid) {
		t.Fatalf("the client says %q", line)
	}
	waiter := spawn(t, clientProgram(t), strings.Fields("--name waiter --timeout 600 --beat 200"))
	e := g.await(want{event: guard.EvSemaphore})
	if e.PID != holder.pid || e.Reason != "held" {
		t.Errorf("the holder %d is not named: %+v", holder.pid, e)
	}
	g.scans(3)
	if n := len(g.find(want{event: guard.EvSemaphore})); n != 1 {
		t.Errorf("said %d times", n)
	}
	holder.signal(unix.SIGCONT)
	holder.ready()
	waiter.ready()
	for _, c := range []*client{holder, waiter} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	g.untouched(fellow, holder, waiter)
}

// TestSemaphoreNeverInitialised: its creator died between semget and SETVAL; without a repair all clients hang for ever.
func TestSemaphoreNeverInitialised(t *testing.T) {
	if namespaces(t) {
		return
	}
	creator := spawn(t, clientProgram(t), []string{"--sem-uninit"})
	creator.endsBy(0)
	g := begin(t, testConfig(t))
	waiter := spawn(t, clientProgram(t), strings.Fields("--name waiter --timeout 600 --beat 200"))
	e := g.await(want{event: guard.EvSemaphore})
	if e.Reason != "never initialised" || !strings.Contains(e.Message, "set to 1") {
		t.Errorf("%+v", e)
	}
	waiter.ready()
	g.await(want{event: guard.EvRegistered, pid: waiter.pid})
	next := run(t, "--name next --timeout 600 --beat 200")
	g.untouched(waiter, next)
}

// TestTableModes: the guard creates table and semaphore with the mode of the configuration whatever its umask is.
func TestTableModes(t *testing.T) {
	if namespaces(t) {
		return
	}
	defer unix.Umask(unix.Umask(0o077))
	g := begin(t, testConfig(t))
	id, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := table.StatID(id)
	if err != nil || st.Mode != 0o666 || st.Size != 72000 {
		t.Errorf("table: %+v, %v", st, err)
	}
	eventually(t, "the semaphore is there", func() bool {
		s, err := table.OpenSemaphore(table.DefaultKey)
		if err != nil {
			return false
		}
		state, err := s.State()
		if err != nil || state.Mode&0o777 != 0o666 || state.Value != 1 {
			t.Errorf("semaphore: %+v, %v", state, err)
		}
		return true
	})
	g.stop()
	if st, err := table.StatID(id); err != nil || st.Removed {
		t.Errorf("after the end of the guard: %+v, %v", st, err)
	}
}
