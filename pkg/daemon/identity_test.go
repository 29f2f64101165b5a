package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestNeverSignalled: the old guard signals whatever number stands in a record: pid 1, -1 (everybody), a stranger.
func TestNeverSignalled(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	bystander := run(t, "--name bystander --timeout 600 --beat 200") // its consent starts the helper
	g.await(want{event: guard.EvRegistered, pid: bystander.pid})
	stranger, forger := sleeper(t), run(t, "--name forger --timeout 600 --forge "+strconv.Itoa(1<<21))

	forged := map[string]int32{
		"everybody":     -1,
		"a group":       -bystander.pid,
		"smallest":      -1 << 31,
		"pid 1":         1,
		"the guard":     g.pid(),
		"its helper":    helperOf(t, g.pid()),
		"a thread":      threadOf(t, g.pid()),
		"a stranger":    stranger.pid,
		"kernel limits": 1<<31 - 1,
	}
	m := mapTable(t)
	slot := 100
	slots := map[string]int{}
	for name, pid := range forged {
		m.put(slot, pid, name, 1, 1)
		slots[name] = slot
		slot++
	}
	m.put(slot, 0, "pid 0", 1, 1)
	for name, pid := range forged {
		if name != "kernel limits" { // nobody's: an old record, which is cleared in time
			e := g.await(want{event: guard.EvRefused, pid: pid})
			if e.Name != name || e.Verdict != "forged" || e.Slot == nil || *e.Slot != slots[name] {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
	settle(3 * time.Second) // timeout 1s, margin 1s
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvCondemned})
	g.untouched(bystander, stranger, forger)
	for name, pid := range forged {
		if now := m.pid(slots[name]); now != pid {
			t.Errorf("%s: the record says pid %d, was %d", name, now, pid)
		}
	}
	if m[slot].Token != 1 || m[slot].Timeout != 1 {
		t.Errorf("the record with pid 0 was written to: %+v", m[slot])
	}
}

// helperOf finds the helper that reads maps for the daemon.
func helperOf(t *testing.T, daemon int32) (pid int32) {
	t.Helper()
	eventually(t, "the helper runs", func() bool {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			line, _ := os.ReadFile(dir + "/cmdline")
			n, _ := strconv.Atoi(filepath.Base(dir))
			if strings.HasPrefix(string(line), process.HelperName+"\x00") {
				if parent, _, err := process.ParentOf(int32(n)); err == nil && parent == daemon {
					pid = int32(n)
				}
			}
		}
		return pid != 0
	})
	return pid
}

func threadOf(t *testing.T, pid int32) int32 {
	t.Helper()
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, dir := range dirs {
		if tid, _ := strconv.Atoi(filepath.Base(dir)); tid != int(pid) {
			return int32(tid)
		}
	}
	t.Fatalf("pid %d has one thread only", pid)
	return 0
}

// TestSecondRecordForged: a victim cannot be killed by a record that somebody else writes for it.
func TestSecondRecordForged(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	victim := run(t, "--name victim --timeout 2 --beat 300")
	early := run(t, "--name early --timeout 30 --beat 4000") // within its own timeout, not within the forged one
	g.await(want{event: guard.EvRegistered, pid: victim.pid})
	g.await(want{event: guard.EvRegistered, pid: early.pid})
	m := mapTable(t)
	m.put(500, victim.pid, "forged", 1, 1)
	m.put(501, early.pid, "forged", 1, 1)
	g.await(want{event: guard.EvChanged, pid: victim.pid, reason: "several records"})
	settle(4 * time.Second)
	g.untouched(victim, early)
	g.none(want{event: guard.EvLate})
}

// TestRecordChanges: name and timeout are latched; only a longer timeout is taken.
func TestRecordChanges(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	// Beats within 30s, not within 1s. Both are known long before they change.
	shorter := run(t, "--name shorter --timeout 30 --beat 2500 --name-change evil --timeout-change 1 --change-after 2")
	longer := run(t, "--name longer --timeout 2 --beat 300 --beats 17 --timeout-change 60 --change-after 16")
	g.await(want{event: guard.EvChanged, pid: shorter.pid, text: "keeping 30s"})
	name := g.await(want{event: guard.EvChanged, pid: shorter.pid, text: `"evil"`})
	if name.Name != "shorter" {
		t.Errorf("name changed: %+v", name)
	}
	g.await(want{event: guard.EvChanged, pid: longer.pid, text: "from 2s to 60s; taking it"})
	settle(4 * time.Second)
	g.untouched(shorter, longer)
	g.none(want{event: guard.EvLate})
}

// TestReusedPID: the number in a record may be somebody else's by now.
func TestReusedPID(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	first := run(t, "--name first --timeout 1 --beat 200")
	second := run(t, "--name second --timeout 1 --beat 200")
	for _, c := range []*client{first, second} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	g.pause() // so that it sees neither end before the numbers are taken again
	for _, c := range []*client{first, second} {
		_ = c.cmd.Process.Kill()
		c.end()
	}
	stranger := spawnAs(t, first.pid, "/bin/sleep", "1000")
	again := spawnAs(t, second.pid, clientProgram(t), strings.Fields("--name again --timeout 1 --beat 200 --beats 30 --default-term")...).ready()
	if again.slot != second.slot {
		t.Errorf("pid %d registered in slot %d, its record was slot %d", again.pid, again.slot, second.slot)
	}
	g.signal(unix.SIGCONT)

	g.await(want{event: guard.EvExited, pid: first.pid})
	g.await(want{event: guard.EvExited, pid: second.pid})
	g.await(want{event: guard.EvRefused, pid: stranger.pid})
	// The successor that registered is guarded in its own right.
	g.awaitNth(want{event: guard.EvRegistered, pid: again.pid}, 2)
	g.none(want{event: guard.EvSignalled})
	again.endsBy(unix.SIGTERM)
	g.await(want{event: guard.EvKilled, pid: again.pid})
	g.untouched(stranger)
	for _, e := range g.find(want{event: guard.EvSignalled}) {
		if e.PID != again.pid {
			t.Errorf("%s", e.Message)
		}
	}
}

// TestReusedPIDAcrossRestart: the same, while no daemon ran, and with a ladder under way on the first owner.
func TestReusedPIDAcrossRestart(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = 20 * time.Second
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	first := run(t, "--name first --timeout 1 --beat 200")
	second := run(t, "--name second --timeout 1 --beat 200")
	third := run(t, "--name third --timeout 1 --beat 100 --beats 3 --ignore-term")
	for _, c := range []*client{first, second, third} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	g.await(want{event: guard.EvSignalled, pid: third.pid, signal: "SIGTERM"})
	g.kill()
	for _, c := range []*client{first, second, third} {
		_ = c.cmd.Process.Kill()
		c.end()
	}
	strangers := []*client{spawnAs(t, first.pid, "/bin/sleep", "1000"), spawnAs(t, third.pid, "/bin/sleep", "1000")}
	again := spawnAs(t, second.pid, clientProgram(t), strings.Fields("--name again --timeout 1 --beat 200 --beats 20 --default-term")...).ready()

	c.Ladder.Steps[0].Wait = time.Second
	g = launch(t, c)
	g.await(want{event: guard.EvRegistered, pid: again.pid})
	for _, s := range strangers {
		g.await(want{event: guard.EvRefused, pid: s.pid})
	}
	again.endsBy(unix.SIGTERM)
	settle(2 * time.Second)
	g.untouched(strangers...)
	for _, e := range g.find(want{event: guard.EvSignalled}) {
		if e.PID != again.pid {
			t.Errorf("%s", e.Message)
		}
	}
}

// TestOtherIPCNamespace: a process with a table of its own, whose segment may even have the same id, is not ours.
func TestOtherIPCNamespace(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	guest := run(t, "--name guest --timeout 1 --beat 100 --beats 2", func(c *exec.Cmd) { attr(c).Cloneflags = unix.CLONE_NEWIPC })
	m := mapTable(t)
	if m.pid(guest.slot) != 0 {
		t.Fatalf("it is in our table")
	}
	m.put(guest.slot, guest.pid, "guest", 1, 1)
	e := g.await(want{event: guard.EvRefused, pid: guest.pid, text: "another IPC or pid namespace"})
	if e.Verdict != "forged" {
		t.Errorf("%+v", e)
	}
	settle(3 * time.Second)
	g.untouched(guest)
	if pid := m.pid(guest.slot); pid != guest.pid {
		t.Errorf("the record of a living process says pid %d", pid)
	}
}

// TestOtherPIDNamespace: the number in the record of a guest is nobody here, or somebody who has nothing to do with it.
func TestOtherPIDNamespace(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	// The guest under the number N of its namespace, behind a shell that is pid 1 there.
	guest := func(n int32, flags string) *client {
		t.Helper()
		script := fmt.Sprintf("echo %d >/proc/sys/kernel/ns_last_pid; %s %s & wait", n-1, clientProgram(t), flags)
		c := spawn(t, "/bin/sh", []string{"-c", script}, func(c *exec.Cmd) {
			attr(c).Cloneflags = unix.CLONE_NEWPID
		})
		outside := c.pid
		c.ready()
		if c.pid != n {
			t.Fatalf("the guest has pid %d in its namespace, want %d", c.pid, n)
		}
		c.pid = outside
		return c
	}
	const nobody, taken = 30001, 30011
	bystander := spawnAs(t, taken, "/bin/sleep", "1000")
	first := guest(nobody, "--name nobody --timeout 1 --beat 300")
	second := guest(taken, "--name taken --timeout 1 --beat 100 --beats 2")

	g.await(want{event: guard.EvForeign, pid: nobody})
	g.await(want{event: guard.EvRefused, pid: taken, text: "mapped"})

	// Under the number that it has here.
	real := childOf(t, second.pid)
	m := mapTable(t)
	m.put(600, real, "real", 1, 1)
	g.await(want{event: guard.EvRefused, pid: real, text: "another IPC or pid namespace"})

	settle(orphanTime + 2*time.Second)
	g.untouched(bystander, first, second)
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvCleared})
	if pid := m.pid(first.slot); pid != nobody {
		t.Errorf("the record of a living guest says pid %d", pid)
	}
}

// orphanTime is for how long the token of a record without a process must stand still before it is cleared.
const orphanTime = 10 * time.Second

func childOf(t *testing.T, parent int32) (pid int32) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		n, _ := strconv.Atoi(filepath.Base(dir))
		if p, _, err := process.ParentOf(int32(n)); err == nil && p == parent {
			return int32(n)
		}
	}
	t.Fatalf("pid %d has no child", parent)
	return 0
}

// TestOrphanedRecord: a record older than the daemon, whose process is gone, is cleared once it has stood still.
func TestOrphanedRecord(t *testing.T) {
	if namespaces(t) {
		return
	}
	old := run(t, "--name old --timeout 1 --beat 100")
	m := mapTable(t)
	_ = old.cmd.Process.Kill()
	old.end()
	started := time.Now()
	g := begin(t, testConfig(t))
	e := g.await(want{event: guard.EvCleared, pid: old.pid})
	if d := e.at.Sub(started); d < orphanTime {
		t.Errorf("cleared after %v", d)
	}
	if pid := m.pid(old.slot); pid != 0 {
		t.Errorf("the record says pid %d", pid)
	}
	g.none(want{event: guard.EvSignalled})
}

// TestWithoutRoot: to the old guard EPERM means "gone": run by an ordinary user, it wipes the records of all others.
func TestWithoutRoot(t *testing.T) {
	if namespaces(t) {
		return
	}
	const nobody = 65534
	// A login user's table would vanish at logout, so this daemon creates none.
	others := run(t, "--name others --timeout 1 --beat 100 --beats 5", as(1001))
	roots := run(t, "--name roots --timeout 1 --beat 100 --beats 5")
	c := testConfig(t)
	if err := os.Chown(c.RuntimeDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	g := launch(t, c, as(nobody))
	g.await(want{event: guard.EvActing})
	for _, lost := range []string{"CAP_KILL", "CAP_SYS_PTRACE"} {
		g.await(want{event: evDegraded, reason: lost})
	}
	own := run(t, "--name own --timeout 1 --beat 100 --beats 5 --default-term", as(nobody))
	g.await(want{event: guard.EvRegistered, pid: own.pid})
	own.endsBy(unix.SIGTERM)
	g.await(want{event: guard.EvKilled, pid: own.pid})
	for _, c := range []*client{others, roots} {
		e := g.await(want{event: guard.EvRefused, pid: c.pid})
		if e.Verdict != "unverified" || !strings.Contains(e.Message, "permission denied") {
			t.Errorf("refused: %+v", e)
		}
	}
	settle(2 * time.Second)
	g.untouched(others, roots)
	m := mapTable(t)
	for _, c := range []*client{others, roots} {
		if pid := m.pid(c.slot); pid != c.pid {
			t.Errorf("the record of pid %d says pid %d", c.pid, pid)
		}
	}
}

// TestNoTableWithoutRoot: an ordinary user's daemon says why it creates no table, and guards the one that comes.
func TestNoTableWithoutRoot(t *testing.T) {
	if namespaces(t) {
		return
	}
	const nobody = 65534
	c := testConfig(t)
	if err := os.Chown(c.RuntimeDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	g := launch(t, c, as(nobody))
	g.await(want{event: guard.EvTableLost, text: "start checkprocd as root"})
	g.scans(3)
	if _, err := table.Lookup(table.DefaultKey); err == nil {
		t.Error("there is a table")
	}
	own := run(t, "--name own --timeout 60 --beat 100", as(nobody))
	g.await(want{event: guard.EvRegistered, pid: own.pid})
}

// TestOldGuardWipes runs the old guard itself, as an ordinary user: what it wipes is reported.
func TestOldGuardWipes(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	victim := run(t, "--name victim --timeout 600 --beat 200", as(1001))
	g.await(want{event: guard.EvRegistered, pid: victim.pid})
	log := filepath.Join(g.cfg.RuntimeDir, "old.log")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(log, 0o666); err != nil {
		t.Fatal(err)
	}
	old := exec.Command(nstest.CC(t, "../table/testdata/oldguard.c"), log)
	old.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
	as(65534)(old)
	if out, err := old.CombinedOutput(); err != nil {
		t.Fatalf("old guard: %v\n%s", err, out)
	}
	if pid := mapTable(t).pid(victim.slot); pid != 0 {
		t.Fatalf("the old guard left the record of pid %d alone", pid)
	}
	g.await(want{event: guard.EvUnguarded, pid: victim.pid})
	g.untouched(victim)
}

// TestOldGuardBesides: an old guard in a start script is started anew for each pass and gone before anybody looks.
func TestOldGuardBesides(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	// Clients come and go meanwhile.
	fellow := run(t, "--name fellow --timeout 600 --beat 200")
	program := nstest.CC(t, "../table/testdata/oldguard.c")
	short := filepath.Join(g.cfg.RuntimeDir, "checkproc") // 15 bytes of a name are what the kernel keeps
	if err := os.Symlink(program, short); err != nil {
		t.Fatal(err)
	}
	// As many passes as take the 2 ms of one over a full table.
	loop := spawn(t, "/bin/sh", []string{"-c", "while :; do " + short + " --pass-only 2000; sleep 2; done"}, func(c *exec.Cmd) {
		c.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
		c.Stdout = nil
	})
	e := g.await(want{event: guard.EvOldGuard})
	if e.Name != "checkproc" || e.PID == 0 || !strings.Contains(e.Message, "(checkproc)") {
		t.Errorf("not named: %+v", e)
	}
	if period := time.Duration(e.SilenceUsec) * time.Microsecond; period < 1500*time.Millisecond || period > 4*time.Second {
		t.Errorf("period %v, it is 2s: %s", period, e.Message)
	}
	g.untouched(fellow)
	if !loop.alive() {
		t.Error("the old guard was touched")
	}
	// It is said once, not with each pass.
	settle(5 * time.Second)
	if n := len(g.find(want{event: guard.EvOldGuard})); n != 1 {
		t.Errorf("said %d times", n)
	}
	found, err := g.dial().Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.ID == "old-guard" {
			return
		}
	}
	t.Errorf("no finding about it: %+v", found)
}
