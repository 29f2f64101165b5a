package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestDisabled pulls the switch: cpactive.enabled = false ends nobody any more, at a reload in the middle of a ladder and
// after a kill -9.
func TestDisabled(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = 3 * time.Second
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	stubborn := run(t, "--name stubborn --timeout 1 --beat 0 --ignore-term")
	g.await(want{event: guard.EvSignalled, pid: stubborn.pid})
	off := c
	off.CPActive.Enabled = false
	g.write(off)
	if _, err := g.dial().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.await(want{event: guard.EvObserving})
	settle(5 * time.Second) // SIGKILL was due after 3
	if !stubborn.alive() {
		t.Fatal("ended after the order to stop")
	}
	if s, err := g.dial().Status(t.Context()); err != nil || s.Targets.Total != 0 {
		t.Errorf("%d targets, %v", s.Targets.Total, err)
	}
	g.none(want{event: guard.EvUnguarded})
	// And back again.
	g.write(c)
	if _, err := g.dial().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.awaitNth(want{event: guard.EvSignalled, pid: stubborn.pid}, 2)
	g.kill()

	g = launch(t, off)
	g.await(want{event: guard.EvObserving})
	settle(4 * time.Second)
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvCondemned})
	if !stubborn.alive() {
		t.Fatal("ended by a guard that guards nothing")
	}
}

// TestLogFileTraps puts things under LOGFILE that must neither be written to nor stop the guard.
func TestLogFileTraps(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Log.File = filepath.Join(c.RuntimeDir, "log")
	secret := filepath.Join(c.RuntimeDir, "secret")
	if err := os.Symlink(secret, c.Log.File); err != nil {
		t.Fatal(err)
	}
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	if e := g.await(want{event: evDegraded, reason: "log.file"}); !strings.Contains(e.Message, "symbolic link") {
		t.Errorf("%s", e.Message)
	}
	if _, err := os.Stat(secret); err == nil {
		t.Error("the symbolic link was followed")
	}
	// It is mended, and a reload takes it.
	if err := os.Remove(c.Log.File); err != nil {
		t.Fatal(err)
	}
	g.signal(unix.SIGHUP)
	awaitText(t, c.Log.File, "reloaded")
	// A FIFO that nobody reads, in the place of a moved file.
	if err := os.Rename(c.Log.File, c.Log.File+".1"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(c.Log.File, 0o644); err != nil {
		t.Fatal(err)
	}
	g.signal(unix.SIGHUP)
	g.awaitNth(want{event: evReloaded}, 2)
	g.awaitNth(want{event: evDegraded, reason: "log.file"}, 2)
	g.scans(3)
	g.stop()
}

// TestReaderOfLinesEnds ends whoever reads the lines: the guard guards on.
func TestReaderOfLinesEnds(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	conf := filepath.Join(c.RuntimeDir, "test.toml")
	if err := os.WriteFile(conf, c.TOML(), 0o644); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(envBinary), "--config", conf)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	g := &guardian{t: t, cfg: c, ended: make(chan struct{})}
	hung := run(t, "--name hung --timeout 1 --beat 0 --term-exit")
	eventually(t, "the hung one is ended", func() bool { return !hung.alive() })
	g.scans(2)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
}

// TestNamesThatBreakLines has the holder of the clients' semaphore choose its name with care.
func TestNamesThatBreakLines(t *testing.T) {
	if namespaces(t) {
		return
	}
	if err := os.WriteFile("/proc/self/comm", []byte("x\n\x1b[31mroot"), 0); err != nil {
		t.Fatal(err)
	}
	if got := commOf(int32(os.Getpid())); got != `x\x0a\x1b[31mroot` {
		t.Errorf("%q", got)
	}
}

// TestManyRemovedTables makes more removed tables than are looked at.
func TestManyRemovedTables(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	g := begin(t, c)
	var clients []*client
	for i := range tablesMax {
		clients = append(clients, run(t, "--name old --timeout 60 --beat 200"))
		id, err := table.Lookup(c.CPActive.Key)
		if err != nil {
			t.Fatal(err)
		}
		g.awaitNth(want{event: guard.EvRegistered}, i+1)
		removeTable(t, id)
		if i < tablesMax-1 {
			g.awaitNth(want{event: guard.EvTableAttached}, i+2)
		}
	}
	g.await(want{event: guard.EvTableLost, reason: "no table"})
	// One of them goes, and there is room again.
	clients[0].signal(unix.SIGKILL)
	g.awaitNth(want{event: guard.EvTableAttached}, tablesMax+1)
	g.untouched(clients[1:]...)
}

// TestTakesTheRegistry has a second guard wait for registry and control socket as it waits for the right to act.
func TestTakesTheRegistry(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	first := launch(t, c)
	first.await(want{event: guard.EvActing})
	g := launch(t, c)
	g.await(want{event: guard.EvObserving})
	g.await(want{event: evDegraded, reason: "registry"})
	g.await(want{event: evDegraded, reason: "control"})
	first.kill()
	g.await(want{event: guard.EvActing})
	cl := g.dial()
	if s, err := cl.Status(t.Context()); err != nil || s.PID != g.pid() {
		t.Fatalf("pid %d answers, %v", s.PID, err)
	}
	eventually(t, "the registry is written", func() bool {
		s, err := cl.Status(t.Context())
		return err == nil && s.Registry.Error == "" && s.Registry.Bytes > 0
	})
	// What it wrote is read by the next.
	good := run(t, "--name good --timeout 60 --beat 200")
	g.await(want{event: guard.EvRegistered, pid: good.pid})
	g.kill()
	third := launch(t, c)
	third.await(want{event: guard.EvActing})
	third.scans(3)
	third.none(want{event: guard.EvRegistered}, want{event: evDegraded, reason: "registry"})
	third.untouched(good)
}
