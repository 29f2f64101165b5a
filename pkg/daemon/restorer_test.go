package daemon

import (
	"bufio"
	gocmp "cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/registry"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// TestMayStart has each thing that systemd can say about the unit of a process that ended.
func TestMayStart(t *testing.T) {
	const pid = 42
	ended := func(active, result string, left, at time.Duration) systemd.UnitState {
		return systemd.UnitState{Load: "loaded", Active: active, Result: result, ExecMainPID: pid, Left: left, Ended: at}
	}
	starting := func(result string) systemd.UnitState {
		s := ended("failed", result, 0, 9)
		s.Begun = 5
		return s
	}
	job := ended("failed", "signal", 10, 9)
	job.Job = true
	again := ended("failed", "signal", 10, 9)
	again.ExecMainPID = 43
	stopped := again
	stopped.Active, stopped.Result = "inactive", "success"
	dropped := ended("inactive", "signal", 10, 9) // a stop of one that waits for its restart leaves the result
	forgotten := systemd.UnitState{Load: "loaded", Active: "inactive"}
	killed := ended("inactive", "success", 10, 9) // and reset: it was failed
	killed.ExitCode, killed.ExitStatus = 2, int32(unix.SIGKILL)
	forgiven := killed
	forgiven.Forgiving = true
	mute := ended("failed", "signal", 8, 9)
	mute.Mute = true
	unready := ended("failed", "exit-code", 5, 9)
	unready.Begun = 7
	command := &config.Command{Args: []string{"/bin/x"}}
	by, crash, perhaps := guard.RestoreUnit{PID: pid, Sure: true}, guard.RestoreUnit{PID: pid, Crashed: true, Sure: true}, guard.RestoreUnit{PID: pid, Crashed: true}
	with := func(x guard.RestoreUnit) guard.RestoreUnit { x.Command = command; return x }
	for _, tt := range []struct {
		name  string
		x     guard.RestoreUnit
		s     systemd.UnitState
		main  bool
		start bool
		out   guard.RestoreDone
	}{
		{"ended, clean", by, ended("inactive", "success", 10, 9), true, true, guard.RestoreDone{Reason: "it was inactive"}},
		{"ended, killed", by, ended("failed", "signal", 10, 9), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"ended, said STOPPING=1", by, ended("inactive", "success", 8, 9), true, true, guard.RestoreDone{Reason: "it was inactive"}},
		{"ended, forgotten", by, forgotten, true, true, guard.RestoreDone{Reason: "it was inactive"}},
		{"ended, systemd gave up", by, again, true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"ended, and stopped since", by, stopped, true, false, guard.RestoreDone{Reason: "it was stopped: inactive"}},
		{"ended, and stopped before systemd restarted it", by, dropped, true, false, guard.RestoreDone{Reason: "it was stopped before systemd restarted it, or reset"}},
		{"ended, and reset", by, killed, true, false, guard.RestoreDone{Reason: "it was stopped before systemd restarted it, or reset"}},
		{"ended by what counts as success", by, forgiven, true, true, guard.RestoreDone{Reason: "it was inactive"}},
		{"ended while it was being stopped, and cannot say STOPPING=1", by, mute, true, false, guard.RestoreDone{Reason: "it was being stopped: failed"}},
		{"ended, then failed before READY=1", by, func() systemd.UnitState { s := unready; s.ExecMainPID = 43; return s }(), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"no main process", by, ended("inactive", "success", 10, 9), false, false, guard.RestoreDone{Reason: "pid 42 was not its main process"}},
		{"systemd restarts", by, systemd.UnitState{Load: "loaded", Active: "activating", ExecMainPID: pid}, true, false, guard.RestoreDone{Coming: true, Reason: "somebody else starts or stops it: it is activating"}},
		{"a job", by, job, true, false, guard.RestoreDone{Coming: true, Reason: "somebody else starts or stops it: it is failed"}},
		{"it stops", by, systemd.UnitState{Load: "loaded", Active: "deactivating", ExecMainPID: pid}, true, false, guard.RestoreDone{Coming: true, Reason: "somebody else starts or stops it: it is deactivating"}},
		{"systemd restarted", by, systemd.UnitState{Load: "loaded", Active: "active", ExecMainPID: 43}, true, false, guard.RestoreDone{Up: true, Reason: "systemd restarted it: active"}},
		{"gone", by, systemd.UnitState{Load: "not-found", Active: "inactive"}, true, false, guard.RestoreDone{Reason: "it is not-found"}},
		{"masked", by, systemd.UnitState{Load: "masked", Active: "inactive"}, true, false, guard.RestoreDone{Reason: "it is masked"}},

		{"crash", crash, ended("failed", "signal", 10, 9), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash in its start", crash, starting("signal"), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash in its start, or stopped", crash, starting("exit-code"), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash, told by the unit alone", perhaps, ended("failed", "exit-code", 9, 9), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash before READY=1, after an earlier life", crash, unready, true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash before READY=1", crash, func() systemd.UnitState { s := unready; s.Left = 0; return s }(), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"stopped", perhaps, ended("inactive", "success", 8, 9), true, false, guard.RestoreDone{Reason: "it was stopped: inactive"}},
		{"stopped, and crashed of it", crash, ended("failed", "exit-code", 8, 9), true, false, guard.RestoreDone{Reason: "it was stopped: failed"}},
		{"a crash that counts as success", crash, ended("inactive", "success", 10, 9), true, false, guard.RestoreDone{Reason: "it was stopped: inactive"}},
		{"watchdog", crash, ended("failed", "watchdog", 8, 9), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"out of memory", crash, ended("failed", "oom-kill", 8, 9), true, true, guard.RestoreDone{Reason: "it was failed"}},
		{"crash of a helper", crash, ended("active", "success", 0, 0), false, false, guard.RestoreDone{Reason: "pid 42 was not its main process"}},

		{"command, no unit", with(by), systemd.UnitState{}, false, true, guard.RestoreDone{Reason: "it was ended"}},
		{"command, crash", with(crash), systemd.UnitState{}, false, true, guard.RestoreDone{Reason: "its exit status says that it crashed"}},
		{"command, perhaps", with(perhaps), systemd.UnitState{}, false, false, guard.RestoreDone{Reason: "nobody knows whether it crashed"}},
		{"command, its unit went with it", with(crash), systemd.UnitState{Load: "not-found"}, true, true, guard.RestoreDone{Reason: "its exit status says that it crashed"}},
		{"command, stopped", with(crash), ended("failed", "exit-code", 8, 9), true, false, guard.RestoreDone{Reason: "it was stopped: failed"}},
		{"command, systemd restarted", with(crash), systemd.UnitState{Load: "loaded", Active: "active", ExecMainPID: 43}, true, false, guard.RestoreDone{Up: true, Reason: "systemd restarted it: active"}},
		{"command, in its own unit, stopped", with(crash), ended("failed", "exit-code", 8, 9), true, false, guard.RestoreDone{Reason: "it was stopped: failed"}},
		{"command, a helper of another unit", with(by), systemd.UnitState{Load: "loaded", Active: "active", ExecMainPID: 7}, false, true, guard.RestoreDone{Reason: "it was ended"}},
	} {
		var out guard.RestoreDone
		if start := mayStart(tt.x, tt.s, tt.main, &out); start != tt.start {
			t.Errorf("%s: start %v", tt.name, start)
		}
		if diff := cmp.Diff(tt.out, out); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestEndingOf(t *testing.T) {
	for status, want := range map[unix.WaitStatus]guard.Ending{
		0: guard.EndedWell, 1 << 8: guard.EndedBadly, 0x7f: guard.EndedUnknown, unix.WaitStatus(unix.SIGTERM): guard.EndedWell,
		unix.WaitStatus(unix.SIGHUP): guard.EndedWell, unix.WaitStatus(unix.SIGPIPE): guard.EndedWell, unix.WaitStatus(unix.SIGINT): guard.EndedWell,
		unix.WaitStatus(unix.SIGKILL): guard.EndedBadly, unix.WaitStatus(unix.SIGSEGV) | 0x80: guard.EndedBadly,
	} {
		if _, got := endingOf(status); got != want {
			t.Errorf("%#x: %v", status, got)
		}
	}
}

// pid1 stands in for systemd on a bus of its own.
type pid1 struct {
	conn *dbus.Conn

	mu     sync.Mutex
	units  map[string]map[string]dbus.Variant
	result map[string]string // of a start; none: done
	fails  map[string]bool   // it fails right after its start
	runs   map[string]bool   // its start job lasts for as long as its program
	busy   map[string]bool   // somebody else's job is in the way
	pinned map[string]bool
	state  string // of the system
	all    string // result of all jobs that have none of their own
	// What ends as failed did because it took too long.
	timeout bool
	before  func(what, unit string) *dbus.Error // called before a job is begun, if there is one
	looked  func(unit string)                   // called before it is said how a unit is, if there is one
	limited map[string]bool                     // units that are not started until they are reset: true
	asked   []string
	jobs    uint32
}

const (
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = "org.freedesktop.systemd1.Manager"
)

// fakeBus starts a bus with a fake systemd on it, and points this process to it.
func fakeBus(t *testing.T) *pid1 {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := "unix:path=" + filepath.Join(dir, "bus")
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context="default"><allow send_destination="*"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, address)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start dbus-daemon (package dbus-daemon or dbus): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("start dbus-daemon: %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &pid1{conn: conn, units: map[string]map[string]dbus.Variant{}, result: map[string]string{}, fails: map[string]bool{}, busy: map[string]bool{}, pinned: map[string]bool{}, state: "running"}
	if err := conn.Export(m, managerPath, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Export(m, managerPath, managerIface); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.systemd1", 0); err != nil {
		t.Fatal(err)
	}
	m.set("gone.service", "not-found", "inactive", 0)
	return m
}

// set makes a unit what it is from now on.
func (m *pid1) set(unit, load, active string, main uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.units[unit] = map[string]dbus.Variant{
		"LoadState": dbus.MakeVariant(load), "ActiveState": dbus.MakeVariant(active), "MainPID": dbus.MakeVariant(uint32(0)),
		"ExecMainPID": dbus.MakeVariant(main), "Result": dbus.MakeVariant(resultOf(active, m.timeout)), "ActiveExitTimestampMonotonic": dbus.MakeVariant(uint64(10)),
		"ExecMainExitTimestampMonotonic": dbus.MakeVariant(uint64(9)),
	}
	_ = m.conn.Export(unitOf{m, unit}, dbus.ObjectPath("/org/freedesktop/systemd1/unit/"+sddbus.PathBusEscape(unit)), "org.freedesktop.DBus.Properties")
}

func resultOf(active string, timeout bool) string {
	switch {
	case active == "inactive":
		return "success"
	case timeout:
		return "timeout"
	}
	return "exit-code"
}

// unitOf answers for one unit.
type unitOf struct {
	m    *pid1
	name string
}

func (u unitOf) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	u.m.mu.Lock()
	looked := u.m.looked
	u.m.mu.Unlock()
	if looked != nil {
		looked(u.name)
	}
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	return maps.Clone(u.m.units[u.name]), nil // it is encoded after this
}

func (m *pid1) job(what, unit string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	if m.busy[unit] {
		m.mu.Unlock()
		return "", dbus.NewError("org.freedesktop.systemd1.TransactionIsDestructive", []any{"Transaction is destructive."})
	}
	m.asked = append(m.asked, what+" "+unit)
	if before := m.before; before != nil {
		m.mu.Unlock()
		err := before(what, unit)
		m.mu.Lock()
		if err != nil {
			m.mu.Unlock()
			return "", err
		}
	}
	if m.runs[unit] {
		m.jobs++
		m.units[unit]["ActiveState"], m.units[unit]["SubState"], m.units[unit]["MainPID"] = dbus.MakeVariant("activating"), dbus.MakeVariant("start"), dbus.MakeVariant(uint32(7))
		m.mu.Unlock()
		return "/org/freedesktop/systemd1/job/1", nil
	}
	result, fails := gocmp.Or(m.result[unit], m.all), m.fails[unit]
	limited := m.limited[unit]
	if m.timeout || limited {
		result = "failed"
	}
	m.jobs++
	id, path := m.jobs, dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", m.jobs))
	m.mu.Unlock()
	if result == "" {
		result = "done"
	}
	switch {
	case limited:
		m.set(unit, "loaded", "failed", 7) // as it was, and nothing was begun
	case fails, m.timeout:
		m.set(unit, "loaded", "failed", 7)
	case result == "done":
		m.set(unit, "loaded", "active", 7)
	}
	if !limited {
		m.mu.Lock()
		if m.units[unit] != nil {
			m.units[unit]["InactiveExitTimestampMonotonic"] = dbus.MakeVariant(uint64(id))
		}
		m.mu.Unlock()
	}
	_ = m.conn.Emit(managerPath, managerIface+".JobRemoved", id, path, unit, result)
	return path, nil
}

func (m *pid1) StartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) { return m.job("start", unit) }
func (m *pid1) TryRestartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("restart", unit)
}
func (m *pid1) ReloadUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("reload", unit)
}

func (m *pid1) ResetFailedUnit(unit string) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, "reset "+unit)
	delete(m.limited, unit)
	return nil
}

func (m *pid1) Subscribe() *dbus.Error { return nil }

func (m *pid1) ListUnitsByNames(names []string) ([]sddbus.UnitStatus, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []sddbus.UnitStatus
	for _, name := range names {
		if u, ok := m.units[name]; ok {
			active, _ := u["ActiveState"].Value().(string)
			job, _ := u["JobId"].Value().(uint32) // in the place of Job
			all = append(all, sddbus.UnitStatus{Name: name, LoadState: "loaded", ActiveState: active, Path: "/", JobId: job, JobPath: "/"})
		}
	}
	return all, nil
}

func (m *pid1) RefUnit(unit string) *dbus.Error   { return m.pin(unit, true) }
func (m *pid1) UnrefUnit(unit string) *dbus.Error { return m.pin(unit, false) }

func (m *pid1) pin(unit string, is bool) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinned[unit] = is
	return nil
}

// Get answers for the state of the system.
func (m *pid1) Get(_, _ string) (dbus.Variant, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return dbus.MakeVariant(m.state), nil
}

func (m *pid1) StartTransientUnit(unit, _ string, properties []sddbus.Property, _ []sddbus.PropertyCollection) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	_, exists := m.units[unit]
	m.mu.Unlock()
	if exists {
		return "", dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit exists."})
	}
	text := ""
	for _, p := range properties {
		text += fmt.Sprintf(" %s=%v", p.Name, p.Value.Value())
	}
	return m.job("run"+text, unit)
}

func (m *pid1) calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

// TestRestorer asks a fake systemd over a real bus.
func TestRestorer(t *testing.T) {
	m := fakeBus(t)
	for unit, active := range map[string]string{"down.service": "failed", "bad.service": "failed", "flap.service": "inactive", "up.service": "active",
		"b.service": "active", "failed.service": "failed", "failed-before.service": "failed", "failed-stopped.service": "failed", "limited.service": "failed", "look.service": "failed",
		"flaps.service": "active", "stopped.service": "inactive"} {
		m.set(unit, "loaded", active, 42)
	}
	const s = 1e6 // in microseconds
	property := func(unit, name string, value any) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.units[unit][name] = dbus.MakeVariant(value)
	}
	for unit, left := range map[string]uint64{"bound.service": 100 * s, "late.service": 160 * s, "stopped-later.service": 200 * s, "stopped-before.service": 90 * s, "unknown.service": 0, "free.service": 100 * s} {
		m.set(unit, "loaded", "inactive", 0)
		property(unit, "ActiveExitTimestampMonotonic", left)
		if unit != "free.service" {
			property(unit, "BindsTo", []string{"x.service", "a.service"})
		}
	}
	property("failed.service", "InactiveEnterTimestampMonotonic", uint64(101*s))
	property("b.service", "Id", "b.service")
	m.set("alias.service", "loaded", "active", 42)
	property("alias.service", "Id", "b.service")
	property("up.service", "Requires", []string{"target.target", "mid.service"})
	m.set("target.target", "loaded", "active", 0)
	m.set("mid.service", "loaded", "active", 7)
	property("mid.service", "PartOf", []string{"up.service", "follows.service"})
	m.set("follows.service", "loaded", "active", 8)
	m.set("begun.service", "loaded", "active", 7)
	property("begun.service", "InactiveExitTimestampMonotonic", uint64(120*s))
	property("failed-before.service", "InactiveEnterTimestampMonotonic", uint64(98*s))
	property("failed-stopped.service", "InactiveEnterTimestampMonotonic", uint64(101*s))
	property("failed-stopped.service", "ActiveExitTimestampMonotonic", uint64(8)) // before its main process ended
	m.set("a.service", "loaded", "active", 42)
	property("a.service", "InactiveEnterTimestampMonotonic", uint64(160*s))
	m.set("c.service", "loaded", "active", 42)
	property("c.service", "InactiveEnterTimestampMonotonic", uint64(100*s))
	for unit, left := range map[string]uint64{"just-before.service": 100*s - 1, "with.service": 100*s + 1} {
		m.set(unit, "loaded", "inactive", 0)
		property(unit, "ActiveExitTimestampMonotonic", left)
		property(unit, "PartOf", []string{"c.service"})
	}
	m.set("d.service", "loaded", "active", 42)
	property("d.service", "InactiveEnterTimestampMonotonic", uint64(104*s))
	m.set("again.service", "loaded", "inactive", 0)
	property("again.service", "ActiveExitTimestampMonotonic", uint64(101*s))
	property("again.service", "BindsTo", []string{"d.service"})
	for unit, active := range map[string]string{"busy.service": "active", "stops.service": "deactivating", "comes.service": "activating", "busy-down.service": "failed", "echo@1.service": "failed"} {
		m.set(unit, "loaded", active, 42)
	}
	m.set("echo.socket", "loaded", "active", 0)
	property("echo.socket", "Accept", true)
	m.set("once.service", "loaded", "failed", 42)
	property("once.service", "Type", "oneshot")
	m.set("once-bad.service", "loaded", "failed", 42)
	property("once-bad.service", "Type", "oneshot")
	m.mu.Lock()
	m.busy["busy.service"], m.busy["busy-down.service"] = true, true
	m.result["once-bad.service"], m.runs = "failed", map[string]bool{"once.service": true}
	m.result["bad.service"], m.fails["flap.service"], m.fails["flaps.service"] = "failed", true, true
	m.limited = map[string]bool{"limited.service": true}
	m.mu.Unlock()
	r := newRestorer(func(guard.Observation) {})
	r.settle = time.Millisecond
	defer r.units.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := &config.Command{Args: []string{"/bin/x", "a b"}}
	const as = "checkprocd-run-42-5000.service"
	for _, tt := range []struct {
		x    guard.RestoreUnit
		want guard.RestoreDone
	}{
		{guard.RestoreUnit{Unit: "down.service"}, guard.RestoreDone{Started: true, Reason: "it was failed"}},
		{guard.RestoreUnit{Unit: "bad.service"}, guard.RestoreDone{Failed: true, Reason: "its start job ended as failed: exit-code"}},
		{guard.RestoreUnit{Unit: "limited.service"}, guard.RestoreDone{Started: true, Reason: "it was failed"}},
		{guard.RestoreUnit{Unit: "look.service", Look: true}, guard.RestoreDone{Down: true, Reason: "it was failed"}},
		{guard.RestoreUnit{Unit: "flap.service"}, guard.RestoreDone{Failed: true, Reason: "it failed within 1ms: exit-code"}},
		{guard.RestoreUnit{Unit: "busy-down.service"}, guard.RestoreDone{Coming: true, Reason: "start busy-down.service: another job is in its way: Transaction is destructive."}},
		{guard.RestoreUnit{Unit: "echo@1.service"}, guard.RestoreDone{Reason: "its socket starts it, for each connection"}},
		{guard.RestoreUnit{Unit: "once.service"}, guard.RestoreDone{Started: true, Reason: "it was failed"}},
		{guard.RestoreUnit{Unit: "once-bad.service"}, guard.RestoreDone{Failed: true, Reason: "its start job ended as failed: exit-code"}},
		{guard.RestoreUnit{Unit: "up.service"}, guard.RestoreDone{Up: true, Reason: "systemd restarted it: active"}},
		{guard.RestoreUnit{Unit: "up.service", Beside: []string{"x.service", "follows.service"}}, guard.RestoreDone{Up: true, Beside: true, Reason: "systemd restarted it: active"}},
		{guard.RestoreUnit{Unit: "up.service", Beside: []string{"x.service"}}, guard.RestoreDone{Up: true, Reason: "systemd restarted it: active"}},
		{guard.RestoreUnit{Unit: "gone.service"}, guard.RestoreDone{Reason: "pid 42 was not its main process"}},
		{guard.RestoreUnit{Command: command, Name: "x", User: "idc", Ended: 5 * time.Millisecond}, guard.RestoreDone{Started: true, As: as, Reason: "it was ended"}},
		{guard.RestoreUnit{Command: command, Name: "x", User: "idc", Ended: 5 * time.Millisecond}, guard.RestoreDone{Up: true, As: as, Reason: "its command runs"}},
	} {
		tt.x.PID = 42
		if diff := cmp.Diff(tt.want, r.restore(ctx, tt.x)); diff != "" {
			t.Errorf("%+v: %s", tt.x, diff)
		}
	}
	ended := 100 * time.Second
	stopped := guard.RestoreDone{Reason: "it was stopped"}
	for _, tt := range []struct {
		x    guard.RestartUnit
		want guard.RestoreDone
	}{
		{guard.RestartUnit{Unit: "b.service"}, guard.RestoreDone{Started: true, Reason: "it was active"}},
		{guard.RestartUnit{Unit: "begun.service", Back: 119 * time.Second}, guard.RestoreDone{Started: true, Reason: "it was begun since"}},
		{guard.RestartUnit{Unit: "begun.service", Back: 121 * time.Second}, guard.RestoreDone{Started: true, Reason: "it was active"}},
		{guard.RestartUnit{Unit: "failed.service"}, guard.RestoreDone{Started: true, Reason: "it was failed"}},
		{guard.RestartUnit{Unit: "failed-before.service"}, guard.RestoreDone{Reason: "it had failed before"}},
		{guard.RestartUnit{Unit: "failed-stopped.service"}, stopped},
		{guard.RestartUnit{Unit: "flaps.service"}, guard.RestoreDone{Failed: true, Reason: "it failed within 1ms: exit-code"}},
		{guard.RestartUnit{Unit: "stopped.service", Ended: ended}, stopped},
		{guard.RestartUnit{Unit: "bound.service"}, guard.RestoreDone{Started: true, Reason: "it was inactive"}},
		{guard.RestartUnit{Unit: "late.service"}, guard.RestoreDone{Started: true, Reason: "it was inactive"}}, // with the last of it
		{guard.RestartUnit{Unit: "stopped-later.service"}, stopped},
		{guard.RestartUnit{Unit: "just-before.service", After: "c.service"}, stopped},
		{guard.RestartUnit{Unit: "with.service", After: "c.service"}, guard.RestoreDone{Started: true, Reason: "it was inactive"}},
		{guard.RestartUnit{Unit: "again.service", After: "d.service", Back: 105 * time.Second}, stopped}, // before that fell
		{guard.RestartUnit{Unit: "again.service", After: "d.service", Back: 103 * time.Second}, guard.RestoreDone{Started: true, Reason: "it was inactive"}},
		{guard.RestartUnit{Unit: "stopped-before.service"}, stopped},
		{guard.RestartUnit{Unit: "unknown.service"}, stopped}, // it has not run for as long as it is known
		{guard.RestartUnit{Unit: "free.service"}, stopped},    // nothing but somebody stops it
		{guard.RestartUnit{Unit: "busy.service"}, guard.RestoreDone{Reason: "restart busy.service: another job is in its way: Transaction is destructive."}},
		{guard.RestartUnit{Unit: "stops.service"}, guard.RestoreDone{Reason: "somebody else starts or stops it: it is deactivating"}},
		{guard.RestartUnit{Unit: "comes.service"}, guard.RestoreDone{Reason: "somebody else starts or stops it: it is activating"}},
		{guard.RestartUnit{Unit: "gone.service"}, guard.RestoreDone{Failed: true, Reason: "it is not-found"}},
		{guard.RestartUnit{Unit: "alias.service"}, guard.RestoreDone{Forbidden: true, Reason: "it is another name of b.service, and its rule has to name that"}},
	} {
		tt.x.After, tt.x.Ended = gocmp.Or(tt.x.After, "a.service"), ended
		if diff := cmp.Diff(tt.want, r.restart(ctx, tt.x)); diff != "" {
			t.Errorf("%+v: %s", tt.x, diff)
		}
	}
	want := []string{"start down.service", "start bad.service", "start limited.service", "reset limited.service", "start limited.service", "start flap.service", "start once.service", "start once-bad.service",
		"run Type=exec Description=x, started again by the process guard ExecStartEx=[[/bin/x [/bin/x a b] [no-env-expand]]] CollectMode=inactive-or-failed AddRef=true User=idc " + as,
		"restart b.service", "restart begun.service", "start failed.service", "restart flaps.service", "start bound.service", "start late.service", "start with.service", "start again.service"}
	if diff := cmp.Diff(want, m.calls()); diff != "" {
		t.Error(diff)
	}
	// It is forbidden by now: neither is anything started.
	r.forbids = func(_ context.Context, ask uint64, along []string) (bool, string) {
		return ask >= 5, strings.Join(along, " ")
	}
	for _, got := range []guard.RestoreDone{r.restore(ctx, guard.RestoreUnit{Ask: 5, Unit: "bad.service", PID: 42}), r.restart(ctx, guard.RestartUnit{Ask: 5, Unit: "b.service"}),
		r.restore(ctx, guard.RestoreUnit{Ask: 5, Command: command, Name: "x", User: "idc", PID: 43})} {
		if !got.Forbidden || got.Started || got.Failed {
			t.Errorf("%+v", got)
		}
	}
	if diff := cmp.Diff(want, m.calls()); diff != "" {
		t.Error(diff)
	}
	// For those that would be stopped or restarted with it.
	property("b.service", "RequiredBy", []string{"up.service", "stopped.service"})
	property("up.service", "ConflictedBy", []string{"mid.service", "shutdown.target"})
	property("bad.service", "RequiredBy", []string{"up.service"}) // which a start leaves alone
	property("failed-before.service", "InactiveEnterTimestampMonotonic", uint64(101*s))
	property("failed-before.service", "RequiredBy", []string{"up.service"})
	for _, tt := range []struct {
		got  guard.RestoreDone
		want string
	}{
		{r.restart(ctx, guard.RestartUnit{Ask: 6, Unit: "b.service"}), "up.service mid.service"},
		{r.restore(ctx, guard.RestoreUnit{Ask: 6, Unit: "bad.service", PID: 42}), ""},
		{r.restart(ctx, guard.RestartUnit{Ask: 6, Unit: "failed-before.service", Ended: ended}), ""},
	} {
		if diff := cmp.Diff(guard.RestoreDone{Forbidden: true, Reason: tt.want}, tt.got); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(want, m.calls()); diff != "" {
		t.Error(diff)
	}
	r.forbids = func(context.Context, uint64, []string) (bool, string) { return false, "" }
	// The system goes down: nothing is started any more.
	m.mu.Lock()
	m.state = "stopping"
	m.mu.Unlock()
	for _, got := range []guard.RestoreDone{r.restore(ctx, guard.RestoreUnit{Unit: "bad.service", PID: 42}), r.restart(ctx, guard.RestartUnit{Unit: "b.service"})} {
		if got.Started || got.Failed || got.Reason != "the system goes down, or is in rescue mode" {
			t.Errorf("%+v", got)
		}
	}
	if len(m.calls()) != len(want) {
		t.Errorf("%q", m.calls())
	}
}

// TestUnwanted has units that fail, and others that these need, which are down for different reasons.
func TestUnwanted(t *testing.T) {
	m := fakeBus(t)
	const s = 1e6 // in microseconds
	property := func(unit, name string, value any) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.units[unit][name] = dbus.MakeVariant(value)
	}
	// Each needs one that fell at a time; those that fell by a stop left the state active before their process ended.
	const ended = 100 * time.Second
	for _, tt := range []struct {
		name, kind, need string
		active           string
		fell, left       uint64 // of what it needs, seconds
		also             string // a property of it
		value            any
		struck           time.Duration
		ours             bool // the guard brings it back
		want             string
	}{
		{name: "stopped", kind: "Requires", active: "inactive", fell: 130, left: 129, want: "stopped-need.service, which it needs, was stopped: inactive"},
		{name: "bound", kind: "BindsTo", active: "inactive", fell: 130, left: 129, want: "bound-need.service, which it needs, was stopped: inactive"},
		{name: "part", kind: "PartOf", active: "inactive", fell: 130, left: 129, want: "part-need.service, which it needs, was stopped: inactive"},
		{name: "badly", kind: "Requires", active: "failed", fell: 130, left: 129, want: "badly-need.service, which it needs, was stopped: failed"},
		{name: "target", kind: "Requires", need: "need.target", active: "inactive", fell: 130, want: "need.target, which it needs, was stopped: inactive"},
		{name: "remains", kind: "Requires", active: "inactive", fell: 130, left: 130, also: "RemainAfterExit", value: true, want: "remains-need.service, which it needs, was stopped: inactive"},
		{name: "ladder", kind: "Requires", active: "inactive", fell: 95, left: 94, struck: 90 * time.Second, want: "ladder-need.service, which it needs, was stopped: inactive"},
		{name: "before", kind: "Requires", active: "inactive", fell: 90, left: 89},
		{name: "crashed", kind: "Requires", active: "failed", fell: 130, left: 130},
		{name: "through", kind: "Requires", active: "inactive", fell: 130, left: 130},
		{name: "mount", kind: "Requires", need: "srv.mount", active: "inactive", fell: 130, left: 129},
		{name: "spare", kind: "Requires", active: "inactive", fell: 130, left: 129, also: "StopWhenUnneeded", value: true},
		{name: "mutual", kind: "Requires", active: "inactive", fell: 103, left: 102, also: "PartOf", value: []string{"mutual.service"}},
		{name: "ours", kind: "Requires", active: "inactive", fell: 130, left: 129, ours: true},
		{name: "runs", kind: "Requires", active: "active", fell: 50, left: 49},
	} {
		unit, need := tt.name+".service", gocmp.Or(tt.need, tt.name+"-need.service")
		m.set(unit, "loaded", "failed", 42)
		property(unit, tt.kind, []string{"up.service", need})
		property(unit, "InactiveEnterTimestampMonotonic", uint64(100*s))
		m.set("up.service", "loaded", "active", 43)
		m.set(need, "loaded", tt.active, 43)
		property(need, "InactiveEnterTimestampMonotonic", tt.fell*s)
		property(need, "ActiveExitTimestampMonotonic", tt.left*s)
		main := tt.left + 1 // its main process was ended by the stop
		if tt.left == tt.fell {
			main = tt.left - 1
		}
		property(need, "ExecMainExitTimestampMonotonic", main*s)
		if tt.also != "" {
			property(need, tt.also, tt.value)
		}
		r := newRestorer(func(guard.Observation) {})
		r.settle = time.Millisecond
		if tt.ours {
			r.remember(guard.RememberUnit{Unit: need})
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		got := r.restore(ctx, guard.RestoreUnit{Unit: unit, PID: 42, Struck: tt.struck, Ended: ended})
		want := guard.RestoreDone{Reason: gocmp.Or(tt.want, "it was failed"), Started: tt.want == ""}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		cancel()
		r.units.Close()
	}
}

// TestStopped has somebody stop a unit that is down: the guard is told at once, also of what needs it and waits.
func TestStopped(t *testing.T) {
	m := fakeBus(t)
	needs := func(unit, active, kind string, others ...string) {
		m.set(unit, "loaded", active, 42)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.units[unit][kind] = dbus.MakeVariant(others)
	}
	m.set("a.service", "loaded", "failed", 42)
	needs("b.service", "failed", "Requires", "a.service")
	needs("c.service", "failed", "PartOf", "b.service")
	needs("up.service", "active", "Requires", "a.service")
	needs("wants.service", "failed", "Wants", "a.service")
	needs("idle.service", "failed", "Requires", "a.service") // which does not wait
	var got []guard.Observation
	r := newRestorer(func(o guard.Observation) { got = append(got, o) })
	t.Cleanup(r.units.Close)
	for _, unit := range []string{"a", "b", "c", "up", "wants"} {
		r.remember(guard.RememberUnit{Unit: unit + ".service"})
	}
	r.stopped(t.Context(), "a.service")
	const why = "a.service, which it needs, was stopped while both were down"
	want := []guard.Observation{guard.UnitStopped{Unit: "b.service", Reason: why}, guard.UnitStopped{Unit: "c.service", Reason: why},
		guard.UnitStopped{Unit: "a.service", Reason: "it was stopped while it was down"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// Nobody knows who needs it: what was heard must not be forgotten.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r.stopped(gone, "a.service")
	if got = got[len(want):]; len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

// TestRivals has units fail while another runs that conflicts with them, or with what they need: they are left down, and
// where that one is about to go, or to come, it is waited for.
func TestRivals(t *testing.T) {
	m := fakeBus(t)
	r := newRestorer(func(guard.Observation) {})
	r.settle = time.Millisecond
	defer r.units.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const ended = 100 * time.Second
	fails := func(unit string, properties map[string]any) {
		m.set(unit, "loaded", "failed", 42)
		m.mu.Lock()
		defer m.mu.Unlock()
		for name, value := range properties {
			m.units[unit][name] = dbus.MakeVariant(value)
		}
		m.units[unit]["InactiveEnterTimestampMonotonic"] = dbus.MakeVariant(uint64(ended.Microseconds()))
	}
	for _, tt := range []struct {
		active string
		job    uint32
		runs   bool
		passes bool
	}{
		{"active", 0, true, false},
		{"reloading", 0, true, false},
		{"activating", 0, true, false},
		{"activating", 1, true, false},
		{"active", 1, false, true},
		{"deactivating", 1, false, true},
		{"deactivating", 0, false, true},
		{"inactive", 1, false, true},
		{"inactive", 0, false, false},
		{"failed", 0, false, false},
	} {
		m.set("standby.service", "loaded", tt.active, 43)
		m.mu.Lock()
		m.units["standby.service"]["JobId"] = dbus.MakeVariant(tt.job)
		m.mu.Unlock()
		for _, kind := range []string{"Conflicts", "ConflictedBy"} {
			text := "standby.service, which conflicts with it, is " + tt.active
			for _, look := range []bool{false, true} {
				fails("app.service", map[string]any{kind: []string{"shutdown.target", "standby.service"}})
				want := guard.RestoreDone{Reason: "it was failed", Started: !look, Down: look}
				switch {
				case tt.runs:
					want = guard.RestoreDone{Reason: text}
				case tt.passes:
					want = guard.RestoreDone{Coming: true, Reason: "another job is in its way: " + text}
				}
				if diff := cmp.Diff(want, r.restore(ctx, guard.RestoreUnit{Unit: "app.service", PID: 42, Ended: ended, Look: look})); diff != "" {
					t.Errorf("%+v, %s, look %v: %s", tt, kind, look, diff)
				}
			}
			fails("app.service", map[string]any{kind: []string{"standby.service"}})
			want := guard.RestoreDone{Reason: "it was failed", Started: true}
			switch {
			case tt.runs:
				want = guard.RestoreDone{Reason: text}
			case tt.passes: // it is asked for again
				want = guard.RestoreDone{Failed: true, Unasked: true, Reason: "another job is in its way: " + text}
			}
			if diff := cmp.Diff(want, r.restart(ctx, guard.RestartUnit{Unit: "app.service", After: "a.service", Ended: ended})); diff != "" {
				t.Errorf("%+v, %s, after another: %s", tt, kind, diff)
			}
		}
	}
	m.set("standby.service", "loaded", "active", 43)
	asked := m.calls()
	m.set("up.service", "loaded", "active", 42)
	m.mu.Lock()
	m.units["up.service"]["Conflicts"] = dbus.MakeVariant([]string{"standby.service"})
	m.mu.Unlock()
	for _, want := range []guard.RestoreDone{{Forbidden: true, Reason: "standby.service, which conflicts with it, is active"},
		{Failed: true, Unasked: true, Reason: "another job is in its way: standby.service, which conflicts with it, is deactivating"}} {
		if diff := cmp.Diff(want, r.restart(ctx, guard.RestartUnit{Unit: "up.service", After: "a.service", Ended: ended})); diff != "" {
			t.Error(diff)
		}
		m.set("standby.service", "loaded", "deactivating", 43)
	}
	if diff := cmp.Diff(asked, m.calls()); diff != "" {
		t.Error(diff)
	}
	m.set("standby.service", "loaded", "active", 43)
	fails("side.service", map[string]any{"Conflicts": []string{"standby.service"}})
	fails("needs.service", map[string]any{"Requires": []string{"side.service"}})
	want := guard.RestoreDone{Reason: "standby.service, which conflicts with side.service, which it needs, is active"}
	if diff := cmp.Diff(want, r.restore(ctx, guard.RestoreUnit{Unit: "needs.service", PID: 42, Ended: ended})); diff != "" {
		t.Error(diff)
	}
}

// TestProve looks at units that were started a while ago, and at a unit that nobody ended.
func TestProve(t *testing.T) {
	m := fakeBus(t)
	const run = guard.RunPrefix + "42-5000.service"
	for unit, active := range map[string]string{"up.service": "active", "bad.service": "failed", "stopped-bad.service": "failed", "down.service": "inactive", "again.service": "activating", run: "failed"} {
		m.set(unit, "loaded", active, 42)
	}
	m.mu.Lock()
	m.units["stopped-bad.service"]["ActiveExitTimestampMonotonic"] = dbus.MakeVariant(uint64(8))
	m.units[run]["ExecMainCode"], m.units[run]["ExecMainStatus"] = dbus.MakeVariant(int32(1)), dbus.MakeVariant(int32(3))
	m.mu.Unlock()
	r := newRestorer(func(guard.Observation) {})
	defer r.units.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.keep(ctx, run)
	const old, young = guard.RunPrefix + "43-1.service", guard.RunPrefix + "44-1.service"
	for unit, fell := range map[string]time.Duration{old: keepRuns, young: 0} {
		m.set(unit, "loaded", "failed", 43)
		m.mu.Lock()
		m.units[unit]["InactiveEnterTimestampMonotonic"] = dbus.MakeVariant(uint64((process.Now() - fell).Microseconds()))
		m.mu.Unlock()
		r.keep(ctx, unit)
	}
	r.keep(ctx, "up.service")
	r.forgetRuns(ctx)
	for _, tt := range []struct {
		unit string
		want guard.RestoreDone
	}{
		{"up.service", guard.RestoreDone{Up: true}},
		{"bad.service", guard.RestoreDone{Failed: true, Reason: "it failed: exit-code"}},
		{"stopped-bad.service", guard.RestoreDone{Reason: "it is failed"}},
		{"down.service", guard.RestoreDone{Reason: "it is inactive"}},
		{"again.service", guard.RestoreDone{Coming: true}},
		{run, guard.RestoreDone{Failed: true, Reason: "it failed: exit status 3 (journalctl -u " + run + ")"}},
	} {
		if diff := cmp.Diff(tt.want, r.prove(ctx, guard.LookAtStarted{Unit: tt.unit})); diff != "" {
			t.Errorf("%s: %s", tt.unit, diff)
		}
	}
	m.mu.Lock()
	if diff := cmp.Diff(map[string]bool{run: false, old: false, young: true, "up.service": true}, m.pinned); diff != "" {
		t.Errorf("what is remembered: %s", diff)
	}
	m.mu.Unlock()
	for unit, want := range map[string]guard.RestoreDone{
		"stopped-bad.service": {Reason: "it was stopped: failed"}, "down.service": {Reason: "it was stopped: inactive"},
		"up.service": {Up: true, Reason: "systemd restarted it: active"}, "bad.service": {Started: true, Reason: "it was failed"},
	} {
		if diff := cmp.Diff(want, r.restore(ctx, guard.RestoreUnit{Unit: unit, Crashed: true, Sure: true})); diff != "" {
			t.Errorf("%s: %s", unit, diff)
		}
	}
}

// TestMainProcess has the guard told who is the main process of a unit, while that lives.
func TestMainProcess(t *testing.T) {
	m := fakeBus(t)
	m.set("a.service", "loaded", "active", 42)
	m.mu.Lock()
	m.units["a.service"]["MainPID"] = dbus.MakeVariant(uint32(42))
	m.mu.Unlock()
	told := make(chan guard.Observation, 10)
	r := newRestorer(func(o guard.Observation) { told <- o })
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { r.run(ctx) })
	defer all.Wait()
	defer cancel()
	r.meet(1, guard.Facts{PPID: 1, Unit: "a.service"}, 41) // a helper of it
	r.meet(2, guard.Facts{PPID: 9, Unit: "a.service"}, 42) // no child of systemd
	r.meet(3, guard.Facts{PPID: 1, Unit: "session-1.scope"}, 42)
	r.meet(4, guard.Facts{PPID: 1, Unit: "b.service"}, 42) // unknown
	r.meet(5, guard.Facts{PPID: 1, Unit: "a.service"}, 42)
	select {
	case o := <-told:
		if o != (guard.MainProcess{Target: 5}) {
			t.Errorf("%+v", o)
		}
	case <-time.After(patience):
		t.Error("nothing is told")
	}
}

// TestSlowStarts: units that take long to start do not keep others down.
func TestSlowStarts(t *testing.T) {
	answers := make(chan guard.Observation, restoresMax)
	r := newRestorer(func(o guard.Observation) { answers <- o })
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { r.run(ctx) })
	slow := func(ctx context.Context) guard.RestoreDone { <-ctx.Done(); return guard.RestoreDone{} }
	for range restoresMax - 1 {
		r.ask(restoreJob{1, slow})
	}
	quick := guard.RestoreDone{Ask: 2, Started: true}
	r.ask(restoreJob{quick.Ask, func(context.Context) guard.RestoreDone { return guard.RestoreDone{Started: true} }})
	select {
	case o := <-answers:
		if o != quick {
			t.Errorf("%+v", o)
		}
	case <-time.After(patience):
		t.Error("no answer")
	}
	cancel()
	done.Wait()
}

// TestRemember has systemd remember units while they wait to be brought back, or are in a rule.
func TestRemember(t *testing.T) {
	m := fakeBus(t)
	r := newRestorer(func(guard.Observation) {})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { r.run(ctx) })
	defer done.Wait()
	defer cancel()
	pinned := func(want ...string) {
		t.Helper()
		var got []string
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			got = nil
			m.mu.Lock()
			for unit, is := range m.pinned {
				if is {
					got = append(got, unit)
				}
			}
			m.mu.Unlock()
			if slices.Sort(got); slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("%q are remembered, want %q", got, want)
	}
	r.follow([]config.Rule{{Then: []string{"then.service"}}})
	for range 2 {
		r.remember(guard.RememberUnit{Unit: "a.service"})
	}
	r.remember(guard.RememberUnit{Unit: "then.service"})
	pinned("a.service", "then.service")
	r.remember(guard.RememberUnit{Unit: "a.service", Over: true})
	r.remember(guard.RememberUnit{Unit: "b.service"})
	pinned("a.service", "b.service", "then.service")
	r.remember(guard.RememberUnit{Unit: "a.service", Over: true})
	r.follow(nil)
	pinned("b.service", "then.service")
	r.remember(guard.RememberUnit{Unit: "then.service", Over: true})
	pinned("b.service")
}

// TestSavedFirst: nothing that ends or starts a unit is asked for before the registry has it: a daemon that starts after a
// crash of this one would take who ends by that for another crash.
func TestSavedFirst(t *testing.T) {
	cfg := testConfig(t)
	cfg.CPActive.Enabled = false
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, decision := range []guard.Decision{guard.RestoreUnit{Ask: 1, Unit: "a.service"}, guard.RestartUnit{Ask: 1, Unit: "a.service"},
		guard.RestartForLimit{Unit: "a.service"}, guard.SetUnitLimits{Unit: "a.service"}} {
		d, err := start(Options{Config: cfg, Stderr: null})
		if err != nil {
			t.Fatal(err)
		}
		d.openRegistry()
		begun := 0
		look := func(guard.Observation) { // an answer at once: there is nobody to do it
			begun++
			text, err := os.ReadFile(d.saved.path)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(t.TempDir(), "registry")
			if err := os.WriteFile(copied, text, 0o600); err != nil {
				t.Fatal(err)
			}
			file, saved, err := registry.Open(copied, guard.StateVersion, d.saved.boot)
			if err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
			if !slices.Equal(saved, d.guard.Save(nil)) {
				t.Errorf("%T is begun, and %d bytes are saved", decision, len(saved))
			}
		}
		d.restorer.queue, d.restorer.post = nil, look
		d.limiter.queue, d.limiter.post = nil, look
		d.turn(process.Now(), nil)
		d.saved.rest = math.MaxInt64 // that it saves what is decided is not enough
		d.act(decision)
		d.turn(process.Now(), nil)
		if begun != 1 {
			t.Errorf("%T is begun %d times", decision, begun)
		}
		d.stop()
		if err := os.Remove(d.saved.path); err != nil {
			t.Error(err)
		}
	}
}
