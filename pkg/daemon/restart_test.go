package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/registry"
)

// TestKilledInLadder: a ladder under way goes on where it stood, whether the daemon was killed or stopped in order.
func TestKilledInLadder(t *testing.T) {
	for name, end := range map[string]func(*guardian){"kill -9": (*guardian).kill, "stop": (*guardian).stop} {
		t.Run(name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			const silence, beat, wait, downtime = 2 * time.Second, 100 * time.Millisecond, 12 * time.Second, 8 * time.Second
			c := testConfig(t)
			c.Ladder.Steps[0].Wait = wait
			g := launch(t, c)
			g.await(want{event: guard.EvActing})
			g.await(want{event: guard.EvTableAttached})
			target := member(t, "target", 1, "tell")
			g.await(want{event: guard.EvRegistered, pid: target.pid})
			hung := time.Now()
			target.signal(unix.SIGUSR1)
			if line := target.line(); line != "term" {
				t.Fatalf("the target says %q", line)
			}
			g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGTERM"})
			end(g)
			g.none(want{signal: "SIGKILL"})
			settle(downtime)

			g = launch(t, c)
			acts := g.await(want{event: guard.EvActing}).at
			target.endsBy(unix.SIGKILL)
			if d := time.Since(hung); d < silence-beat+wait {
				t.Errorf("SIGKILL %v after it hung, silence and wait are %v", d, silence+wait)
			}
			g.await(want{event: guard.EvKilled, pid: target.pid})
			// Four seconds of the wait were left, or less; had it begun anew, it would be twelve.
			if d := g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGKILL"}).at.Sub(acts); d > wait-2*time.Second {
				t.Errorf("SIGKILL %v after the restart, %v of the wait had passed", d, downtime)
			}
			if n := len(g.find(want{event: guard.EvSignalled})); n != 1 {
				t.Errorf("%d signals after the restart, want SIGKILL alone", n)
			}
			if _, err := target.out.ReadString('\n'); err == nil {
				t.Error("it got a second SIGTERM")
			}
			g.await(want{event: guard.EvCleared, pid: target.pid})
		})
	}
}

// TestKilledInSilence: a silence under way is not forgotten. Downtime does not count, and no more than that is lost, unless
// it is so long that it is a gap, which is said.
func TestKilledInSilence(t *testing.T) {
	if namespaces(t) {
		return
	}
	const timeout, margin, beat, downtime, gap = 10 * time.Second, time.Second, 100 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second
	c := testConfig(t)
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	target := member(t, "target", 10, "exit")
	beating := member(t, "beating", 1, "exit")
	for _, c := range []*client{target, beating} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	hung := time.Now()
	target.signal(unix.SIGUSR1)
	settle(9 * time.Second)
	killed := time.Now()
	g.kill()
	settle(downtime)
	g = launch(t, c)
	acts := g.await(want{event: guard.EvActing}).at
	late := g.await(want{event: guard.EvLate, pid: target.pid})
	if d := late.at.Sub(hung); d < timeout+margin-beat {
		t.Errorf("late after %v: too early", d)
	}
	if len(g.find(want{event: guard.EvGap})) > 0 {
		if d := acts.Sub(killed); d < gap {
			t.Errorf("away for %v, and that is a gap", d)
		}
	} else if d := late.at.Sub(acts); d > timeout+margin-2*time.Second {
		// Two seconds of the silence were left; had it been forgotten, it would be eleven.
		t.Errorf("late %v after the restart", d)
	}
	target.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: target.pid})
	g.untouched(beating)
	g.none(want{event: guard.EvRegistered, pid: beating.pid}) // it is known
}

// TestRestartsUnderLoad kills the daemon again and again.
func TestRestartsUnderLoad(t *testing.T) {
	if namespaces(t) {
		return
	}
	const clients, restarts = 50, 10
	c := testConfig(t)
	c.Brake.Enabled = false
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range clients {
		all = append(all, member(t, fmt.Sprint("client", i), 2, "exit"))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	registered := map[int32]int{}
	for i := range restarts {
		g.kill()
		g.untouched(all...)
		g = launch(t, c)
		// At any moment: while it starts, after its first look, in the midst.
		settle(time.Duration(i*37) * time.Millisecond)
		for _, e := range g.find(want{event: guard.EvRegistered}) {
			registered[e.PID]++
		}
	}
	g.await(want{event: guard.EvActing})
	eventually(t, "all are guarded", func() bool {
		s, err := g.dial().Status(t.Context())
		return err == nil && s.Targets.Guarded == clients && s.Targets.Total == clients
	})
	settle(4 * time.Second) // longer than timeout and margin
	g.untouched(all...)
	for pid, n := range registered {
		t.Errorf("pid %d was registered %d times anew", pid, n)
	}
	for _, c := range all[:5] {
		c.signal(unix.SIGUSR1)
	}
	for _, c := range all[:5] {
		c.endsBy(0)
		g.await(want{event: guard.EvKilled, pid: c.pid})
	}
	g.untouched(all[5:]...)
}

// restartWith kills the daemon beside a client, does something to its registry, and starts it anew.
func restartWith(t *testing.T, do func(path string)) (g *guardian, c *client) {
	t.Helper()
	cfg := testConfig(t)
	g = launch(t, cfg)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	c = member(t, "client", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	g.kill()
	do(filepath.Join(cfg.RuntimeDir, "registry"))
	g = launch(t, cfg)
	g.await(want{event: guard.EvActing})
	return g, c
}

// stillGuarded hangs the client and waits for its end.
func stillGuarded(t *testing.T, g *guardian, c *client) {
	t.Helper()
	settle(2500 * time.Millisecond)
	g.untouched(c)
	c.signal(unix.SIGUSR1)
	c.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: c.pid})
}

func TestDamagedRegistry(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"flipped": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for i := range b {
				b[i] ^= 0x55
			}
			return os.WriteFile(path, b, 0o600)
		},
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"cut":   func(path string) error { return os.Truncate(path, 100) },
		"text":  func(path string) error { return os.WriteFile(path, []byte("hello\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			g, c := restartWith(t, func(path string) {
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
			})
			if name != "empty" { // which looks like a new one
				g.await(want{event: evDegraded, reason: "registry"})
			}
			g.await(want{event: guard.EvRegistered, pid: c.pid})
			stillGuarded(t, g, c)
		})
	}
}

// TestGarbledState: the file is whole, and what is in it is not: by its checksum it is this version's.
func TestGarbledState(t *testing.T) {
	if namespaces(t) {
		return
	}
	g, c := restartWith(t, func(path string) { rewrite(t, path, guard.StateVersion, guard.StateVersion) })
	g.await(want{event: evDegraded, reason: "registry", text: "beginning anew"})
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	stillGuarded(t, g, c)
}

// TestRegistryOfAnotherVersion: it is not read.
func TestRegistryOfAnotherVersion(t *testing.T) {
	if namespaces(t) {
		return
	}
	g, c := restartWith(t, func(path string) { rewrite(t, path, guard.StateVersion, guard.StateVersion+1) })
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	stillGuarded(t, g, c)
}

// rewrite saves what is no state as another version.
func rewrite(t *testing.T, path string, from, to uint32) {
	t.Helper()
	boot, err := registry.BootID()
	if err != nil {
		t.Fatal(err)
	}
	f, payload, err := registry.Open(path, from, boot)
	if err != nil || len(payload) == 0 {
		t.Fatalf("the daemon left %d bytes, %v", len(payload), err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if from != to {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	f, _, err = registry.Open(path, to, boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Save(payload[:len(payload)/2]); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRegistryOfAnotherBoot: after a reboot all numbers mean something else.
func TestRegistryOfAnotherBoot(t *testing.T) {
	if namespaces(t) {
		return
	}
	g, c := restartWith(t, func(path string) {
		boot, err := registry.BootID()
		if err != nil {
			t.Fatal(err)
		}
		f, payload, err := registry.Open(path, guard.StateVersion, boot)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		f, _, err = registry.Open(path, guard.StateVersion, "00000000-0000-0000-0000-000000000000")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Save(payload); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	})
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	g.none(want{event: evDegraded, reason: "registry"})
	stillGuarded(t, g, c)
}

// small mounts a file system over the runtime directory.
func small(t *testing.T, c config.Config, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", c.RuntimeDir, "tmpfs", flags, options); err != nil {
		t.Fatalf("mount over %s: %v", c.RuntimeDir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(c.RuntimeDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestRegistryOnFullDisk costs the memory of a restart, not the guarding.
func TestRegistryOnFullDisk(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	small(t, c, 0, "size=64k")
	if err := os.WriteFile(filepath.Join(c.RuntimeDir, "full"), make([]byte, 65<<10), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	g := embed(t, c, func(o *Options) { o.ConfigPath = "/dev/null" })
	g.await(want{event: guard.EvActing})
	e := g.await(want{event: evDegraded, reason: "registry"})
	if !strings.Contains(e.Message, "no space left on device") {
		t.Errorf("%s", e.Message)
	}
	client := member(t, "client", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: client.pid})
	stillGuarded(t, g, client)
	if n := len(g.find(want{event: evDegraded, reason: "registry"})); n > 2 {
		t.Errorf("said %d times", n)
	}
}

// TestRuntimeDirReadOnly: neither registry nor control socket; it guards all the same.
func TestRuntimeDirReadOnly(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	small(t, c, unix.MS_RDONLY, "")
	g := embed(t, c, func(o *Options) { o.ConfigPath = "/dev/null" })
	g.await(want{event: guard.EvActing})
	g.await(want{event: evDegraded, reason: "registry", text: "a restart forgets"})
	g.await(want{event: evDegraded, reason: "control"})
	client := member(t, "client", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: client.pid})
	stillGuarded(t, g, client)
}

// TestActsBeforeItResumes: what ended under the daemon before is restored only by a guard that acts, so this is known first.
func TestActsBeforeItResumes(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	g.stop()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	d, err := start(Options{Config: c, Version: "test", Stderr: null})
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop()
	d.openRegistry()
	acts := slices.IndexFunc(d.seen, func(o guard.Observation) bool { a, ok := o.(guard.Acting); return ok && a.Acts })
	resumed := slices.Index(d.seen, guard.Observation(guard.Resumed{}))
	if acts < 0 || resumed < acts {
		t.Errorf("the guard is told %+v", d.seen)
	}
	d.makeReady()
	d.turn(process.Now(), nil)
	d.wind()
}
