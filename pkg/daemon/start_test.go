package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// awaitText waits until a file holds all of the texts.
func awaitText(t *testing.T, path string, texts ...string) {
	t.Helper()
	var b []byte
	defer func() {
		if t.Failed() {
			t.Logf("%s:\n%s", path, b)
		}
	}()
	for _, text := range texts {
		eventually(t, fmt.Sprintf("%s says %q", path, text), func() bool {
			b, _ = os.ReadFile(path)
			return bytes.Contains(b, []byte(text))
		})
	}
}

// TestUnderProcctl starts all as a start script of an old site does: signals ignored, descriptors closed, one process
// group for all services.
func TestUnderProcctl(t *testing.T) {
	if namespaces(t) {
		return
	}
	procctl := nstest.CC(t, "testdata/procctl.c")
	c := testConfig(t)
	conf, log := filepath.Join(c.RuntimeDir, "test.toml"), filepath.Join(c.RuntimeDir, "checkproc.log")
	if err := os.WriteFile(conf, c.TOML(), 0o644); err != nil {
		t.Fatal(err)
	}
	service := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(procctl, args...).CombinedOutput(); err != nil {
			t.Fatalf("procctl %v: %v\n%s", args, err, out)
		}
	}
	service(os.Getenv(envBinary), "--config", conf, log) // LOGFILE, as the old guard took it
	awaitText(t, log, "this guard acts", "table 0 created")

	g := &guardian{t: t, cfg: c, ended: make(chan struct{})}
	s, err := g.dial().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.SID != s.PID || p.PGID != s.PID {
		t.Errorf("pid %d is in session %d, process group %d: not its own", s.PID, p.SID, p.PGID)
	}
	// It writes to what it opened itself, and to nothing else that came under the numbers 0 to 2.
	for fd := range 3 {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", s.PID, fd))
		if err != nil || link != "/dev/null" {
			t.Errorf("descriptor %d of the daemon is %q, %v", fd, link, err)
		}
	}

	// A client without a SIGTERM handler ignores it here. Nor can it say "ready".
	service("/bin/sh", "-c", "exec "+clientProgram(t)+" --name healthy --timeout 600 --beat 200 >/dev/null")
	service("/bin/sh", "-c", "exec "+clientProgram(t)+" --name stubborn --timeout 1 --beat 100 --beats 3 >/dev/null")
	service("/bin/sh", "-c", "exec "+clientProgram(t)+" --name handler --timeout 1 --beat 100 --beats 3 --term-exit >/dev/null")
	awaitText(t, log, "(healthy) registered", "(stubborn) registered", "(handler) registered",
		"(stubborn) ended by the ladder after SIGKILL", "(handler) ended by the ladder after SIGTERM")

	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon ends", p.Exited)
	awaitText(t, log, "checkprocd stops")
	if b, _ := os.ReadFile(log); bytes.Contains(b, []byte("(healthy) silent")) || bytes.Contains(b, []byte("to pid 0")) {
		t.Errorf("log:\n%s", b)
	}
}

// TestLogFile: LOGFILE as an argument or an option; logrotate moves it away and sends SIGHUP.
func TestLogFile(t *testing.T) {
	for _, how := range []string{"argument", "option"} {
		t.Run(how, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			c := testConfig(t)
			log := filepath.Join(c.RuntimeDir, "log")
			g := launch(t, c, func(cmd *exec.Cmd) {
				if how == "option" {
					cmd.Args = append(cmd.Args, "--log-file")
				}
				cmd.Args = append(cmd.Args, log)
			})
			g.await(want{event: guard.EvTableAttached})
			awaitText(t, log, "this guard acts")
			first := run(t, "--name first --timeout 600 --beat 200")
			awaitText(t, log, "(first) registered")
			if err := os.Rename(log, log+".1"); err != nil {
				t.Fatal(err)
			}
			g.signal(unix.SIGHUP)
			g.await(want{event: evReloaded})
			second := run(t, "--name second --timeout 600 --beat 200")
			awaitText(t, log, "(second) registered")
			if b, _ := os.ReadFile(log + ".1"); bytes.Contains(b, []byte("(second)")) {
				t.Error("it still writes to the file that was moved away")
			}
			g.untouched(first, second)
		})
	}
}

// TestLogFileUnwritable: a file that cannot be written to costs the file, not the guarding.
func TestLogFileUnwritable(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t), func(c *exec.Cmd) { c.Args = append(c.Args, "/proc/nowhere/log") })
	g.await(want{event: guard.EvActing})
	e := g.await(want{event: evDegraded, reason: "log.file"})
	if !strings.Contains(e.Message, "ReadWritePaths=/proc/nowhere") {
		t.Errorf("%s", e.Message)
	}
	g.signal(unix.SIGHUP)
	g.await(want{event: evReloaded})
	g.scans(3)
}

func TestUsage(t *testing.T) {
	if namespaces(t) {
		return
	}
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	text := "interval = \"1 fortnight\"\n[cpactiv]\nkey = 1\n[ladder]\nsteps = [ { signal = \"SIGFOO\", wait = \"5s\" } ]\n"
	if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.toml")
	if err := os.WriteFile(good, []byte("interval = \"2s\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		args   []string
		status int
		says   []string
	}{
		{"all faults at once", []string{"--config", bad}, 78, []string{"bad.toml:1:", "bad.toml:2:", "bad.toml:5:", "fortnight", "cpactiv", "SIGFOO"}},
		{"the same when checked", []string{"--config", bad, "--check"}, 78, []string{"bad.toml:5:"}},
		{"no such file", []string{"--config", filepath.Join(dir, "none")}, 78, []string{"none"}},
		{"checked", []string{"--config", good, "--check"}, 0, []string{`interval = "2s"`}},
		{"no such option", []string{"--foo"}, 64, []string{"--foo"}},
		{"two files", []string{"a", "b"}, 64, []string{"LOGFILE"}},
		{"two files, one as an option", []string{"--log-file", "a", "b"}, 64, []string{"LOGFILE"}},
		{"no such format", []string{"--log-format", "xml"}, 64, []string{"xml"}},
		{"version", []string{"--version"}, 0, []string{"checkprocd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(os.Getenv(envBinary), test.args...)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if status := cmd.ProcessState.ExitCode(); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			for _, part := range test.says {
				if !bytes.Contains(out, []byte(part)) {
					t.Errorf("output lacks %q", part)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// TestEndsInOrder: SIGTERM and SIGINT are exit status 0, and leave the table and its clients alone.
func TestEndsInOrder(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	var fellow *client
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		g := launch(t, c)
		g.await(want{event: guard.EvActing})
		if fellow == nil {
			fellow = run(t, "--name fellow --timeout 600 --beat 200")
			g.await(want{event: guard.EvRegistered, pid: fellow.pid})
		}
		g.halt = func() { g.signal(sig) }
		g.stop()
		if g.err != nil {
			t.Errorf("%v: %v", sig, g.err)
		}
		g.await(want{event: evStopping})
		g.untouched(fellow)
		if mapTable(t).pid(fellow.slot) != fellow.pid {
			t.Error("the record is gone")
		}
		if _, err := control.Dial(c.Control.Socket); err == nil {
			t.Error("the control socket still answers")
		}
	}
}

// TestReload: a good configuration is put in force, a bad one changes nothing.
func TestReload(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	a, b := member(t, "a", 1, "exit"), member(t, "b", 60, "exit")
	for _, c := range []*client{a, b} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}

	if err := os.WriteFile(g.path, []byte("interval = 5\nfoo = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.signal(unix.SIGHUP)
	e := g.await(want{event: evConfigRejected})
	if e.Level != "error" || !strings.Contains(e.Message, "foo") || !strings.Contains(e.Message, "interval") {
		t.Errorf("%+v", e)
	}
	_, err := g.dial().Reload(t.Context())
	var rejected *control.Rejected
	if !errors.As(err, &rejected) || len(rejected.Faults) != 2 || rejected.Faults[0].Line == 0 {
		t.Errorf("reload: %v", err)
	}
	// The status says what is in force, not what lies there now, and that the last word was not taken.
	if err := os.Remove(g.path); err != nil {
		t.Fatal(err)
	}
	if s, err := g.dial().Status(t.Context()); err != nil || s.IntervalUsec != 100_000 || !slices.Equal(s.ConfigFiles, []string{g.path}) ||
		s.RejectedUsec <= 0 || !slices.Equal(s.ConfigFaults, rejected.Faults) {
		t.Errorf("the status is %+v, %v", s, err)
	}
	asUID(1001, func() {
		c, err := control.Dial(g.cfg.Control.Socket)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if s, err := c.Status(t.Context()); err != nil || s.RejectedUsec <= 0 || len(s.ConfigFaults) > 0 {
			t.Errorf("to others the status is %+v, %v", s, err)
		}
	})

	c.Control.ReadGroup = "auditors"
	c.Rules = []config.Rule{
		{Match: config.Match{Name: "a"}, Action: config.ActionReport},
		{Match: config.Match{Name: "b"}, Timeout: time.Second},
	}
	c.Interval = 50 * time.Millisecond
	g.write(c)
	result, err := g.dial().Reload(t.Context())
	if err != nil || len(result.Changed) == 0 || len(result.NeedsRestart) != 0 {
		t.Errorf("reload: %+v, %v", result, err)
	}
	if s, err := g.dial().Status(t.Context()); err != nil || s.RejectedUsec != 0 || len(s.ConfigFaults) > 0 || !slices.Equal(s.ConfigFiles, []string{g.path}) {
		t.Errorf("after a good reload the status is %+v, %v", s, err)
	}
	if e := g.await(want{event: evDegraded, reason: "control.group"}); !strings.Contains(e.Message, `no group "auditors"`) {
		t.Error(e.Message)
	}
	a.signal(unix.SIGUSR1)
	b.signal(unix.SIGUSR1)
	g.await(want{event: guard.EvWouldCondemn, pid: a.pid})
	b.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: b.pid})
	g.untouched(a)

	// The rule goes, and so does what only it kept alive.
	c.Rules = nil
	c.Ladder.MaxConcurrent = 3
	c.CPActive.Records = 500
	g.write(c)
	result, err = g.dial().Reload(t.Context())
	if err != nil || !strings.Contains(strings.Join(result.NeedsRestart, " "), "records") {
		t.Errorf("reload: %+v, %v", result, err)
	}
	a.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: a.pid})
}

// TestControl: what the socket answers, and to whom.
func TestControl(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	own, others := run(t, "--name own --timeout 600 --beat 200", as(1001)), run(t, "--name others --timeout 300 --beat 200")
	zero := run(t, "--name zero --timeout 0")
	for _, c := range []*client{own, others, zero} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	mapTable(t).put(700, 1, "forged", 1, 1)
	g.await(want{event: guard.EvRefused, pid: 1})

	c := g.dial()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.PID != g.pid() || s.Mode != control.ModeActing || s.Targets.Total != 3 || s.Targets.Refused != 1 || len(s.Tables) != 1 ||
		s.Tables[0].Used != 4 || s.Tables[0].Live != 3 || s.Tables[0].State != control.TableAttached || s.Registry.Bytes == 0 ||
		s.Registry.Error != "" || s.Scan.Count == 0 || len(s.Features) == 0 {
		t.Errorf("status: %+v", s)
	}
	list, _, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]control.TargetState{}
	for _, x := range list {
		states[x.Name] = x.State
		if x.Name == "own" && (x.PID != own.pid || x.UID != 1001 || x.Slot != own.slot || x.TimeoutUsec != 600e6 || x.DeadlineUsec < 500e6 || x.Rule != -1) {
			t.Errorf("list: %+v", x)
		}
	}
	for name, state := range map[string]control.TargetState{"own": "guarded", "others": "guarded", "zero": "ignored", "forged": "refused"} {
		if states[name] != state {
			t.Errorf("%s is %q, want %q", name, states[name], state)
		}
	}
	if _, err := c.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}

	asUID(1001, func() {
		c, err := control.Dial(g.cfg.Control.Socket)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		list, _, err := c.List(t.Context())
		if err != nil || len(list) != 1 || list[0].PID != own.pid {
			t.Errorf("another user sees %+v, %v", list, err)
		}
		if _, err := c.Check(t.Context()); !errors.Is(err, control.ErrNotAllowed) {
			t.Errorf("check by another user: %v", err)
		}
		if _, err := c.Reload(t.Context()); !errors.Is(err, control.ErrNotAllowed) {
			t.Errorf("reload by another user: %v", err)
		}
	})
	g.none(want{event: evReloaded}, want{event: evConfigRejected})
}

// TestNobodyReadsStderr: a log that takes nothing (a terminal under ^S, a stopped journald) stops neither the guard nor
// its end.
func TestNobodyReadsStderr(t *testing.T) {
	if namespaces(t) {
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe is not full: %v", err)
	}
	c := testConfig(t)
	conf := filepath.Join(c.RuntimeDir, "test.toml")
	if err := os.WriteFile(conf, c.TOML(), 0o644); err != nil {
		t.Fatal(err)
	}
	d := spawn(t, os.Getenv(envBinary), []string{"--config", conf}, func(c *exec.Cmd) { c.Stderr = w })
	eventually(t, "the guard made its table", func() bool {
		_, err := os.Stat(c.Control.Socket)
		return err == nil
	})
	target := run(t, "--name target --timeout 1 --beat 100 --beats 3 --ignore-term")
	target.endsBy(unix.SIGKILL)
	stopped := time.Now()
	d.signal(unix.SIGTERM)
	d.endsBy(0)
	if d := time.Since(stopped); d > 10*time.Second {
		t.Errorf("it took %v to end", d)
	}
}
