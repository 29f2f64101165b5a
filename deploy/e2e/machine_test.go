// Package e2e boots a real systemd in a container root, installs checkprocd into it and looks at what happens, from
// the outside: unit states, the journal field by field, exit statuses. A scenario is a Go test that reads from top
// to bottom:
//
//	m := Boot(t, root, Files{"/etc/systemd/system/x.service": "…"})
//	m.Run("systemctl start x")
//	rec := m.Await(Fields{"_SYSTEMD_UNIT": "x.service", "MESSAGE": "hello"})
//
// The roots are made by ./roots. systemd-nspawn gives each machine its own pid, IPC, mount and network namespaces,
// so that the table, its semaphore and every pid belong to that machine alone.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a scenario waits for something that will happen: only a broken build waits it out.
const patience = 60 * time.Second

// bootPatience is for pid 1 to reach its default target: 0.5 s when nothing else runs.
const bootPatience = 90 * time.Second

// Machine is one booted container. Its methods end the test when something does not work.
type Machine struct {
	t       *testing.T
	Root    string // "bookworm" or "trixie"
	leader  int    // pid 1 of the machine, as this side counts
	journal *follower
	console *lockedBuffer
}

// Files is what a machine finds in its root at boot: absolute path to content. A path that ends in a slash is a
// directory; content that begins with "#!" is executable.
type Files map[string]string

// eachSystemd runs a scenario against every systemd that there is a root of, beside all others: they mostly wait
// (go test -parallel says how many at once).
func eachSystemd(t *testing.T, scenario func(t *testing.T, root string)) {
	t.Parallel()
	for _, root := range []string{"bookworm", "trixie"} {
		t.Run(root, func(t *testing.T) {
			t.Parallel()
			scenario(t, root)
		})
	}
}

// Boot starts a machine on a root and returns when its pid 1 reports that the boot is complete. The root is not
// changed: an overlay in memory takes what the machine writes and vanishes with it. Each of layers is laid over the
// root, the first one on top.
func Boot(t *testing.T, root string, layers ...any) *Machine {
	t.Helper()
	base := rootOf(t, root)
	dir, err := os.MkdirTemp("", "checkprocd-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })

	var lower []string
	for i, l := range layers {
		switch l := l.(type) {
		case Files:
			at := filepath.Join(dir, fmt.Sprintf("layer%d", i))
			writeTree(t, at, l)
			lower = append(lower, at)
		case string:
			lower = append(lower, l)
		default:
			t.Fatalf("a layer is Files or a directory, not %T", l)
		}
	}
	lower = append(lower, base)

	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })

	m := &Machine{t: t, Root: root, journal: newFollower(), console: &lockedBuffer{}}
	name := filepath.Base(dir)
	cmd := exec.Command("/bin/sh", "-euc", `
		mount -t tmpfs -o mode=0755 tmpfs "$1"
		mkdir "$1/upper" "$1/work" "$1/root"
		mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
		exec systemd-nspawn --quiet --directory="$1/root" --machine="$3" --boot --register=no --keep-unit \
			--notify-ready=yes --console=pipe --private-network \
			--capability=CAP_IPC_LOCK --system-call-filter=process_mrelease`,
		"sh", mkdir(t, dir, "mnt"), strings.Join(lower, ":"), name)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_LOCK=0", "NOTIFY_SOCKET="+notify.LocalAddr().String())
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cgroup, dropCgroup := newCgroup(t, name)
	t.Cleanup(dropCgroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    syscall.SIGKILL, // and nspawn's own death ends the machine
		Unshareflags: unix.CLONE_NEWNS,
		UseCgroupFD:  true, // two machines in one cgroup would fight for "payload" below it
		CgroupFD:     int(cgroup.Fd()),
	}
	ended := startOnOwnThread(t, cmd)
	cgroup.Close()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: end of the journal:\n%s", root, m.journal.tail(80))
			t.Logf("%s: end of the console:\n%s", root, tail(m.console.String(), 20))
		}
		m.journal.stop()
		_ = cmd.Process.Signal(syscall.SIGTERM) // nspawn: an orderly poweroff
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		_ = unix.Rmdir("/run/systemd/nspawn/propagate/" + name) // nspawn leaves it
	})

	if err := m.awaitReady(notify, ended); err != nil {
		t.Fatalf("boot %s: %v\n%s", root, err, tail(m.console.String(), 40))
	}
	if err := m.journal.start(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// awaitReady reads nspawn's notifications until the machine's own pid 1 has said READY=1.
func (m *Machine) awaitReady(notify *net.UnixConn, ended <-chan error) error {
	ready := make(chan error, 1)
	_ = notify.SetReadDeadline(time.Now().Add(bootPatience))
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				select {
				case ready <- err:
				default:
				}
				return
			}
			for line := range strings.Lines(string(buf[:n])) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				switch key {
				case "X_NSPAWN_LEADER_PID":
					m.leader, _ = strconv.Atoi(value)
				case "READY":
					if m.leader == 0 {
						err = errors.New("ready, but nspawn did not name the machine's pid 1")
					}
					select {
					case ready <- err:
					default: // pid 1 is ready again after each daemon-reload
					}
					_ = notify.SetReadDeadline(time.Time{}) // and go on: who is not read to blocks, pid 1 as well
				}
			}
		}
	}()
	select {
	case err := <-ready:
		return err
	case err := <-ended:
		return fmt.Errorf("systemd-nspawn ended: %v", err)
	}
}

// Run executes a shell script as root inside the machine and returns what it printed, trimmed. It runs outside of
// the machine's units and with all capabilities: what depends on those is started by systemctl or systemd-run.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	out, code := m.Try(script)
	if code != 0 {
		m.t.Fatalf("%s: %s: exit status %d\n%s", m.Root, script, code, out)
	}
	return out
}

// Try is Run for scripts that may fail: it returns their exit status.
func (m *Machine) Try(script string) (out string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	b, err := m.command(ctx, "/bin/sh", "-euc", script).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		m.t.Fatalf("%s: %s: did not end within %v\n%s", m.Root, script, 2*patience, b)
	case errors.As(err, &exit):
		code = exit.ExitCode()
	default:
		m.t.Fatalf("%s: %s: %v", m.Root, script, err)
	}
	return strings.TrimSpace(string(b)), code
}

// command enters the machine's namespaces.
func (m *Machine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.leader), "--all", "--root", "--wd", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	return cmd
}

// WriteFile writes a file in the live machine and makes the directories above it.
func (m *Machine) WriteFile(name, text string) {
	m.t.Helper()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", m.leader)) // no link in it leads out
	if err != nil {
		m.t.Fatal(err)
	}
	defer root.Close()
	name = strings.TrimPrefix(name, "/")
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := root.WriteFile(name, []byte(text), modeOf(text)); err != nil {
		m.t.Fatal(err)
	}
}

// Wait polls until cond is true.
func (m *Machine) Wait(what string, cond func() bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: waited %v for %s", m.Root, patience, what)
		}
	}
}

// Property reads one property of a unit.
func (m *Machine) Property(unit, property string) string {
	m.t.Helper()
	return m.Run("systemctl show --value --property=" + property + " " + unit)
}

// WaitUnit waits until a unit's ActiveState is state.
func (m *Machine) WaitUnit(unit, state string) {
	m.t.Helper()
	m.Wait(unit+" "+state, func() bool { return m.Property(unit, "ActiveState") == state })
}

// rootOf finds the root that ./roots made, and holds it so that it is not rebuilt while it is in use.
func rootOf(t *testing.T, name string) string {
	t.Helper()
	missing := ""
	switch {
	case testing.Short():
		missing = "-short"
	case os.Geteuid() != 0:
		missing = "booting a container needs root"
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil && missing == "" {
		missing = "systemd-nspawn is not installed (package systemd-container; make deps)"
	}
	cache, err := os.UserCacheDir()
	if err != nil && missing == "" {
		missing = err.Error()
	}
	base := filepath.Join(cache, "checkprocd", "roots", name)
	if _, err := os.Stat(base + ".recipe"); err != nil && missing == "" {
		missing = "there is no root of " + name + " (make deps)"
	}
	if missing != "" {
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	lock, err := os.Open(base + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		t.Fatalf("lock %s: %v", lock.Name(), err)
	}
	return base
}

// newCgroup makes a cgroup of version 2 for one machine.
func newCgroup(t *testing.T, name string) (dir *os.File, drop func()) {
	t.Helper()
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.procs"); err != nil {
		top += "/unified" // version 1 for the controllers, version 2 beside them
	}
	at := filepath.Join(top, name)
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		// A machine that did not power off in time leaves processes behind, which end after nspawn.
		_ = os.WriteFile(filepath.Join(at, "cgroup.kill"), []byte("1"), 0o644)
		for range 100 {
			events, err := os.ReadFile(filepath.Join(at, "cgroup.events"))
			if err != nil || strings.Contains(string(events), "populated 0") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		// nspawn mirrors it in the hierarchy of version 1 that systemd itself would have.
		for _, at := range []string{at, filepath.Join("/sys/fs/cgroup/systemd", name)} {
			var dirs []string
			_ = filepath.WalkDir(at, func(p string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				_ = unix.Rmdir(dirs[i])
			}
		}
	}
}

// startOnOwnThread starts a command on a thread that lives as long as the command: Pdeathsig is about the thread
// that started it, and Go may end an idle one (golang/go#27505).
func startOnOwnThread(t *testing.T, cmd *exec.Cmd) (ended <-chan error) {
	t.Helper()
	started, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return done
}

func writeTree(t *testing.T, dir string, files Files) {
	t.Helper()
	mkdir(t, dir)
	for name, text := range files {
		at := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			mkdir(t, at)
			continue
		}
		mkdir(t, filepath.Dir(at))
		if err := os.WriteFile(at, []byte(text), modeOf(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func modeOf(text string) os.FileMode {
	if strings.HasPrefix(text, "#!") || strings.HasPrefix(text, "\x7fELF") {
		return 0o755
	}
	return 0o644
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lockedBuffer is a bytes.Buffer that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*lockedBuffer)(nil)

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
