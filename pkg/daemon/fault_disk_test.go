package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// smallDisk is a configuration whose runtime directory, with the log file in it, is a file system of four megabytes.
func smallDisk(t *testing.T) config.Config {
	t.Helper()
	c := testConfig(t)
	if err := unix.Mount("tmpfs", c.RuntimeDir, "tmpfs", 0, "size=4m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(c.RuntimeDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c.Log.File = filepath.Join(c.RuntimeDir, "log")
	return c
}

// fill leaves not one page free in a directory; free gives all of it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill %s: %v", dir, err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull: the disk of registry and log file fills up under a running daemon, and is full when one takes over. It
// says so once, guards on, and has both again when there is room.
func TestDiskFull(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := smallDisk(t)
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	free := fill(t, c.RuntimeDir)
	spawn(t, memberProgram(t), []string{"--crowd", "600", "600"}).ready() // more than the registry has room for
	for _, reason := range []string{"registry", "log.file"} {
		g.await(want{event: evDegraded, reason: reason, text: "no space left on device"})
	}
	hung, later := member(t, "hung", 1, "exit"), member(t, "later", 1, "exit")
	eventually(t, "all are guarded", func() bool {
		s, err := g.dial().Status(t.Context())
		return err == nil && s.Targets.Guarded == 602 && s.Registry.Error != "" && s.Counters.DroppedLogRecords > 0
	})
	hangs(t, g, hung, 0)
	for _, reason := range []string{"registry", "log.file"} {
		if n := len(g.find(want{event: evDegraded, reason: reason})); n != 1 {
			t.Errorf("%s: said %d times", reason, n)
		}
	}

	free()
	recovers(t, g, "after")
	b, err := os.ReadFile(c.Log.File)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if bytes.Count(line, []byte(" INF "))+bytes.Count(line, []byte(" WRN ")) > 1 {
			t.Errorf("two lines in one: %s", line)
		}
	}

	free = fill(t, c.RuntimeDir)
	g.kill()
	g = launch(t, c)
	g.await(want{event: guard.EvActing})
	hangs(t, g, later, 0)
	g.none(want{event: guard.EvRegistered, pid: later.pid}) // what was saved is there
	free()
	recovers(t, g, "last")
}

// TestDiskFullAtStart: the disk is full when the daemon first starts.
func TestDiskFullAtStart(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := smallDisk(t)
	c.Control.Socket = t.TempDir() + "/control" // a socket is an inode, and takes a page of a tmpfs
	free := fill(t, c.RuntimeDir)
	conf := filepath.Join(t.TempDir(), "test.toml")
	if err := os.WriteFile(conf, c.TOML(), 0o644); err != nil {
		t.Fatal(err)
	}
	g := embed(t, c, func(o *Options) { o.ConfigPath = conf })
	g.await(want{event: guard.EvActing})
	for _, reason := range []string{"registry", "log.file"} {
		g.await(want{event: evDegraded, reason: reason, text: "no space left on device"})
	}
	hangs(t, g, member(t, "hung", 1, "exit"), 0)
	free()
	recovers(t, g, "after")
	if n := len(g.find(want{event: evDegraded, reason: "registry"})); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// recovers waits until registry and log file are written again.
func recovers(t *testing.T, g *guardian, name string) {
	t.Helper()
	client := member(t, name, 600, "exit")
	g.await(want{event: guard.EvRegistered, pid: client.pid})
	awaitText(t, g.cfg.Log.File, fmt.Sprintf("pid %d (%s) registered", client.pid, name))
	eventually(t, "the registry is written again", func() bool {
		s, err := g.dial().Status(t.Context())
		return err == nil && s.Registry.Error == "" && s.Registry.Bytes > 0
	})
}
