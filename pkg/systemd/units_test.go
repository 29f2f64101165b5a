package systemd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
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
)

func TestUnitState(t *testing.T) {
	got := unitState(map[string]any{
		"LoadState": "loaded", "ActiveState": "activating", "SubState": "auto-restart", "MainPID": uint32(0),
		"ExecMainPID": uint32(4242), "Job": []any{uint32(17), dbus.ObjectPath("/org/freedesktop/systemd1/job/17")},
		"Type": "exec", "Result": "signal", "NRestarts": uint32(3), "ExecMainCode": int32(2), "ExecMainStatus": int32(9),
	})
	want := UnitState{
		Load: "loaded", Active: "activating", Sub: "auto-restart", ExecMainPID: 4242, Job: true, Type: "exec", Result: "signal",
		Restarts: 3, ExitCode: 2, ExitStatus: 9,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = unitState(map[string]any{"ActiveState": 7, "Job": []any{uint32(0), dbus.ObjectPath("/")}, "MainPID": "x"})
	if diff := cmp.Diff(UnitState{}, got); diff != "" {
		t.Errorf("other types: %s", diff)
	}
}

func TestUnitStateDown(t *testing.T) {
	for _, test := range []struct {
		state UnitState
		want  bool
	}{
		{UnitState{Load: "loaded", Active: "inactive", Sub: "dead"}, true},
		{UnitState{Load: "loaded", Active: "failed", Sub: "failed"}, true},
		{UnitState{Load: "loaded", Active: "inactive", Job: true}, false},
		{UnitState{Load: "loaded", Active: "failed", Job: true}, false},
		{UnitState{Load: "loaded", Active: "active", Sub: "running"}, false},
		{UnitState{Load: "loaded", Active: "activating", Sub: "auto-restart"}, false},
		{UnitState{Load: "loaded", Active: "deactivating", Sub: "stop-sigterm"}, false},
		{UnitState{Load: "not-found", Active: "inactive"}, false},
		{UnitState{Load: "masked", Active: "inactive"}, false},
		{UnitState{}, false},
	} {
		if got := test.state.Down(); got != test.want {
			t.Errorf("%+v: down %v", test.state, got)
		}
	}
}

// bus is a private message bus, at one address over restarts.
type bus struct {
	dir string
	cmd *exec.Cmd
}

func newBus(t *testing.T) *bus {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		need(t, "dbus-daemon (package dbus-daemon or dbus)")
	}
	dir, err := os.MkdirTemp("", "bus") // short: an address of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context="default"><allow send_destination="*"/>
<allow eavesdrop="true"/><allow own="*"/></policy><limit name="max_match_rules_per_connection">16</limit></busconfig>`, "unix:path="+filepath.Join(dir, "bus"))
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "bus"))
	b := &bus{dir: dir}
	t.Cleanup(b.stop)
	b.start(t)
	return b
}

func (b *bus) start(t *testing.T) {
	t.Helper()
	b.cmd = exec.Command("dbus-daemon", "--config-file="+filepath.Join(b.dir, "conf"), "--nofork", "--nopidfile", "--print-address")
	b.cmd.Stderr = os.Stderr
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // the address: it listens
		t.Fatalf("start dbus-daemon: %v", err)
	}
}

func (b *bus) stop() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
		_ = os.Remove(filepath.Join(b.dir, "bus"))
	}
}

// manager stands in for PID 1 on the bus.
type manager struct {
	conn *dbus.Conn

	mu              sync.Mutex
	results         map[string]string // by unit; a unit without one has a job that never ends
	active          map[string]string // by unit
	jobOf           map[string]uint32 // of those that have one queued
	started, pinned []string
	jobs            uint32
	checked         uint64 // ConditionTimestampMonotonic of units that are made
	subscribed      []dbus.Sender
	asked           func() // before RefUnit and Subscribe are answered
}

const managerInterface = "org.freedesktop.systemd1.Manager"

func newManager(t *testing.T) *manager {
	t.Helper()
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{conn: conn, results: map[string]string{}, active: map[string]string{}, jobOf: map[string]uint32{}}
	if err := conn.Export(m, "/org/freedesktop/systemd1", managerInterface); err != nil {
		t.Fatal(err)
	}
	if err := conn.Export(unitProperties{map[string]dbus.Variant{"SystemState": dbus.MakeVariant("stopping")}}, "/org/freedesktop/systemd1", "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.systemd1", 0); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *manager) unit(t *testing.T, name, active string, pid uint32, more ...sentProperty) {
	t.Helper()
	properties := map[string]dbus.Variant{
		"LoadState": dbus.MakeVariant("loaded"), "ActiveState": dbus.MakeVariant(active), "MainPID": dbus.MakeVariant(pid),
		"Job": dbus.MakeVariant(struct {
			ID   uint32
			Path dbus.ObjectPath
		}{0, "/"}),
		"ConditionTimestampMonotonic": dbus.MakeVariant(m.checked),
	}
	for _, p := range more {
		properties[p.Name] = p.Value
	}
	m.mu.Lock()
	m.active[name] = active
	m.mu.Unlock()
	path := dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + sddbus.PathBusEscape(name))
	if err := m.conn.Export(unitProperties{properties}, path, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
}

// result has the job of a start of unit end with a result.
func (m *manager) result(unit, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.results[unit] = result
}

// starts returns what was asked for: unit and mode.
func (m *manager) starts() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.started)
}

type unitProperties struct{ all map[string]dbus.Variant }

func (p unitProperties) GetAll(string) (map[string]dbus.Variant, *dbus.Error) { return p.all, nil }

func (p unitProperties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	v, ok := p.all[name]
	if !ok {
		return v, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{"Unknown property " + name})
	}
	return v, nil
}

func (m *manager) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == "none.service" {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit none.service not found."})
	}
	if name == "stopping.service" {
		return "", dbus.NewError("org.freedesktop.systemd1.TransactionIsDestructive", []any{"Transaction is destructive."})
	}
	m.started = append(m.started, name+" "+mode)
	m.jobs++
	job := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", m.jobs))
	if result := m.results[name]; result != "" {
		// Before the answer to the call, as it happens with a job that ends at once.
		_ = m.conn.Emit("/org/freedesktop/systemd1", managerInterface+".JobRemoved", m.jobs, job, name, result)
	}
	return job, nil
}

func (m *manager) TryRestartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.StartUnit(name, "restart "+mode)
}

func (m *manager) ReloadUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.StartUnit(name, "reload "+mode)
}

// Subscribe takes each once, as systemd does.
func (m *manager) Subscribe(by dbus.Sender) *dbus.Error {
	m.mu.Lock()
	m.subscribed = append(m.subscribed, by)
	again := slices.Index(m.subscribed, by) < len(m.subscribed)-1
	m.mu.Unlock()
	m.ask()
	if again {
		return dbus.NewError("org.freedesktop.systemd1.AlreadySubscribed", []any{"Client is already subscribed."})
	}
	return nil
}

func (m *manager) ask() {
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	if asked != nil {
		asked()
	}
}

func (m *manager) RefUnit(name string) *dbus.Error {
	m.ask()
	return m.pin("ref " + name)
}

func (m *manager) UnrefUnit(name string) *dbus.Error { return m.pin("unref " + name) }

func (m *manager) pin(what string) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinned = append(m.pinned, what)
	return nil
}

func (m *manager) pins() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.pinned)
}

func (m *manager) ListUnitsByNames(names []string) ([]sddbus.UnitStatus, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []sddbus.UnitStatus
	for _, name := range names {
		if name == "away" {
			return nil, dbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", []any{"no name of a unit"})
		}
		s := sddbus.UnitStatus{Name: name, LoadState: "loaded", ActiveState: m.active[name], Path: "/", JobId: m.jobOf[name], JobPath: "/"}
		if s.ActiveState == "" {
			s.LoadState, s.ActiveState = "not-found", "inactive"
		}
		all = append(all, s)
	}
	return all, nil
}

// TestAlong: who is stopped or restarted with a unit, also through others, but through none that is down; and who is
// started with it, because it is down and needed.
func TestAlong(t *testing.T) {
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	id := func(name string) sentProperty { return sentProperty{"Id", dbus.MakeVariant(name)} }
	list := func(kind string, units ...string) sentProperty { return sentProperty{kind, dbus.MakeVariant(units)} }
	m.unit(t, "net.service", "active", 1, id("net.service"), list("RequiredBy", "db.service", "down.service", "failed.service"), list("ConsistsOf", "part.service"),
		list("Requires", "needed.service", "idle.service"), list("WantedBy", "wants.service"))
	m.unit(t, "idle.service", "inactive", 0, list("BindsTo", "deep.service"), list("RequiredBy", "net.service"))
	m.unit(t, "deep.service", "failed", 0, list("Requires", "idle.service", "needed.service"))
	m.unit(t, "fallen.service", "failed", 0, list("Requires", "idle.service"), list("RequiredBy", "needed.service"))
	m.unit(t, "db.service", "active", 2, list("BoundBy", "app.service"), list("RequiredBy", "net.service", "app.service"))
	m.unit(t, "app.service", "reloading", 3, list("PropagatesStopTo", "stopped.service"))
	m.unit(t, "stopped.service", "active", 4)
	m.unit(t, "part.service", "activating", 5, list("RequisiteOf", "requisite.service"), list("ConflictedBy", "hostile.service"))
	m.unit(t, "requisite.service", "deactivating", 6)
	m.unit(t, "hostile.service", "active", 6, list("RequiredBy", "ally.service"))
	m.unit(t, "down.service", "inactive", 0, list("RequiredBy", "far.service"))
	m.unit(t, "failed.service", "failed", 0, list("RequiredBy", "far.service"))
	for _, far := range []string{"far.service", "needed.service", "wants.service"} {
		m.unit(t, far, "active", 7)
	}
	m.unit(t, "ally.service", "active", 9)
	m.unit(t, "alone.service", "active", 10, id("alone.service"))
	var many []string
	for i := range maxAlong {
		many = append(many, fmt.Sprintf("m%d.service", i))
		m.unit(t, many[i], "active", 11)
	}
	m.unit(t, "many.service", "active", 11, id("many.service"), list("RequiredBy", many...))
	m.unit(t, "more.service", "active", 11, id("more.service"), list("RequiredBy", append(many, "net.service")...))
	for _, tt := range []struct {
		unit string
		want []string
	}{
		{"net.service", []string{"ally.service", "app.service", "db.service", "deep.service", "hostile.service", "idle.service", "part.service", "requisite.service", "stopped.service"}},
		{"fallen.service", []string{"deep.service", "idle.service"}},
		{"alone.service", nil},
		{"many.service", slices.Sorted(slices.Values(many))},
	} {
		s, err := u.State(ctxFor(t), tt.unit)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := u.Along(ctxFor(t), tt.unit, s)
		if slices.Sort(got); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("with %s: %q, %v; want %q", tt.unit, got, err, tt.want)
		}
	}
	s, err := u.State(ctxFor(t), "more.service")
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := u.Along(ctxFor(t), "more.service", s); err == nil {
		t.Errorf("more than are looked at: %q", got)
	}
}

// TestID: a unit has one name, whichever it is asked for by.
func TestID(t *testing.T) {
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	m.unit(t, "mysql.service", "active", 1, sentProperty{"Id", dbus.MakeVariant("mariadb.service")})
	if id, err := u.ID(ctxFor(t), "mysql.service"); id != "mariadb.service" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
	if s, err := u.State(ctxFor(t), "mysql.service"); s.ID != "mariadb.service" || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if id, err := u.ID(ctxFor(t), "none"); id != "" || err == nil || Unanswered(err) {
		t.Errorf("%q, %v", id, err)
	}
}

// TestPins: once each, and anew when the bus was away, as pins end with their connection.
func TestPins(t *testing.T) {
	b := newBus(t)
	m := newManager(t)
	u := newUnits(t)
	do := func(f func(context.Context, string) error, unit string) {
		t.Helper()
		if err := f(ctxFor(t), unit); err != nil {
			t.Error(err)
		}
	}
	m.unit(t, "a.service", "failed", 0)
	m.unit(t, "c.service", "failed", 0)
	do(u.Pin, "a.service")
	do(u.Pin, "a.service")
	do(u.Unpin, "b.service")
	do(u.Pin, "c.service")
	do(u.Unpin, "c.service")
	if got := m.pins(); !slices.Equal(got, []string{"ref a.service", "ref c.service", "unref c.service"}) {
		t.Errorf("%q", got)
	}
	b.stop()
	for end := time.Now().Add(patience); u.pins.conn.Connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the bus is away, and nobody sees it")
		}
	}
	if err := u.Pin(ctxFor(t), "a.service"); err == nil {
		t.Error("a pin without a bus")
	}
	b.start(t)
	m = newManager(t)
	m.unit(t, "a.service", "failed", 0)
	do(u.Pin, "a.service")
	if got := m.pins(); !slices.Equal(got, []string{"ref a.service"}) {
		t.Errorf("%q", got)
	}
}

func TestUnanswered(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {context.DeadlineExceeded, true}, {fmt.Errorf("x: %w", dbus.ErrClosed), true}, {errors.New("connect"), true},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.NoReply"}, true}, {dbus.Error{Name: "org.freedesktop.DBus.Error.ServiceUnknown"}, true},
		{fmt.Errorf("reload: %w", dbus.Error{Name: "org.freedesktop.systemd1.JobTypeNotApplicable"}), false},
		{dbus.Error{Name: "org.freedesktop.systemd1.UnitMasked"}, false}, {dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"}, false},
	} {
		if got := Unanswered(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}

func TestDropped(t *testing.T) {
	for _, tt := range []struct {
		active, result, restart string
		prevent                 []int32
		want                    bool
	}{
		{"inactive", "success", "no", nil, false},
		{"inactive", "success", "on-failure", nil, false}, // ended by SIGTERM
		{"inactive", "signal", "on-failure", nil, true},
		{"inactive", "success", "always", nil, true},
		{"inactive", "success", "on-success", nil, true},
		{"inactive", "success", "always", []int32{15}, false},
		{"failed", "signal", "always", nil, false}, // its start limit is hit
		{"activating", "signal", "always", nil, false},
	} {
		s := unitState(map[string]any{"LoadState": "loaded", "ActiveState": tt.active, "Result": tt.result, "Restart": tt.restart,
			"RestartPreventExitStatus": []any{[]int32(nil), tt.prevent}})
		if got := s.Dropped(); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	// One that had failed, and was reset.
	for _, tt := range []struct {
		code, status int32
		success      []int32
		ignored      bool
		want         bool
	}{
		{cldKilled, 9, nil, false, true},
		{cldDumped, 11, nil, false, true},
		{cldExited, 1, nil, false, true},
		{cldKilled, 15, nil, false, false},
		{cldExited, 0, nil, false, false},
		{0, 0, nil, false, false}, // forgotten
		{cldKilled, 9, []int32{9}, false, false},
		{cldKilled, 9, nil, true, false},
	} {
		s := unitState(map[string]any{"LoadState": "loaded", "ActiveState": "inactive", "Result": "success", "Restart": "no", "ExecMainCode": tt.code, "ExecMainStatus": tt.status,
			"SuccessExitStatus": []any{[]int32(nil), tt.success}, "ExecStart": [][]any{{"/bin/x", []string{"/bin/x"}, tt.ignored}}})
		if got := s.Dropped(); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestExpired: a service that was active for as long as it may (RuntimeMaxSec=) has failed by itself; one that somebody has
// stopped, and that took too long for that, ends with the same result.
func TestExpired(t *testing.T) {
	const s = 1e6
	for _, tt := range []struct {
		result  string
		left    uint64 // ended is a second later
		most    uint64
		crashed bool
	}{
		{"timeout", 130 * s, 30 * s, true},
		{"timeout", 130*s + expiryLate - 1, 30 * s, true},
		{"timeout", 130*s - 1, 30 * s, false},
		{"timeout", 130*s + expiryLate, 30 * s, false}, // it had more time than that
		{"timeout", 130 * s, math.MaxUint64, false},
		{"timeout", 100 * s, 0, false}, // it is not known
		{"exit-code", 130 * s, 30 * s, false},
		{"watchdog", 110 * s, 30 * s, true},
	} {
		got := unitState(map[string]any{"LoadState": "loaded", "ActiveState": "failed", "Result": tt.result, "InactiveExitTimestampMonotonic": uint64(99 * s),
			"ActiveEnterTimestampMonotonic": uint64(100 * s), "ActiveExitTimestampMonotonic": tt.left, "ExecMainExitTimestampMonotonic": tt.left + s, "RuntimeMaxUSec": tt.most})
		if got.Crashed() != tt.crashed || got.Stopped(math.MaxInt64) == tt.crashed || got.Halted("x.service") == tt.crashed {
			t.Errorf("%+v: %+v", tt, got)
		}
	}
}

func TestOfConnection(t *testing.T) {
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	for socket, accept := range map[string]bool{"echo.socket": true, "plain.socket": false} {
		if err := m.conn.Export(unitProperties{map[string]dbus.Variant{"Accept": dbus.MakeVariant(accept)}}, unitPath(socket), "org.freedesktop.DBus.Properties"); err != nil {
			t.Fatal(err)
		}
	}
	for unit, want := range map[string]bool{"echo@1-10.0.0.1:7-10.0.0.2:40000.service": true, "echo.service": false, "plain@a.service": false} {
		if got, err := u.OfConnection(ctxFor(t), unit); got != want || err != nil {
			t.Errorf("%s: %v, %v", unit, got, err)
		}
	}
}

func newUnits(t *testing.T) *Units {
	t.Helper()
	u := &Units{dial: sddbus.NewSystemConnectionContext} // never the real PID 1's private socket
	t.Cleanup(u.Close)
	return u
}

func ctxFor(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestUnits(t *testing.T) {
	newBus(t)
	m := newManager(t)
	m.unit(t, "ftp@a-1.service", "failed", 7)
	m.result("ftp@a-1.service", "done")
	m.result("bad.service", "failed")
	u := newUnits(t)
	first, cancel := context.WithTimeout(context.Background(), patience)
	state, err := u.State(first, "ftp@a-1.service")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(UnitState{Load: "loaded", Active: "failed", MainPID: 7}, state); diff != "" {
		t.Error(diff)
	}
	if pid, err := u.MainPID(ctxFor(t), "ftp@a-1.service"); err != nil || pid != 7 {
		t.Errorf("main process of ftp@a-1.service: %d, %v", pid, err)
	}
	if pid, err := u.MainPID(ctxFor(t), "none.service"); err == nil {
		t.Errorf("main process of no unit: %d", pid)
	}
	cancel() // the context of the call that dialled is not the connection's
	conn := u.conn
	for unit, want := range map[string]string{"ftp@a-1.service": "done", "bad.service": "failed"} {
		if result, err := u.Start(ctxFor(t), unit); err != nil || result != want {
			t.Errorf("start %s: %q, %v; want %q", unit, result, err, want)
		}
	}
	if result, err := u.TryRestart(ctxFor(t), "bad.service"); err != nil || result != "failed" {
		t.Errorf("restart: %q, %v", result, err)
	}
	if result, err := u.Reload(ctxFor(t), "ftp@a-1.service"); err != nil || result != "done" {
		t.Errorf("reload: %q, %v", result, err)
	}
	if started := m.starts(); !slices.Equal(started[2:], []string{"bad.service restart fail", "ftp@a-1.service reload fail"}) {
		t.Errorf("asked for %q", started)
	}
	if _, err := u.Start(ctxFor(t), "stopping.service"); !errors.Is(err, ErrBusy) || Unanswered(err) {
		t.Errorf("a start against a job: %v", err)
	}
	if leaving, err := u.Leaving(ctxFor(t)); err != nil || !leaving {
		t.Errorf("the system goes down: %v, %v", leaving, err)
	}
	var answer dbus.Error
	if _, err := u.Start(ctxFor(t), "none.service"); !errors.As(err, &answer) || answer.Name != "org.freedesktop.systemd1.NoSuchUnit" {
		t.Errorf("start of no unit: %v", err)
	}
	if u.conn != conn {
		t.Error("the connection was dialled anew without need")
	}
	for _, start := range m.starts() {
		if !strings.HasSuffix(start, " fail") { // nobody's job is replaced
			t.Errorf("mode: %s", start)
		}
	}
}

// A job without an end is waited for as long as the context says, and wedges nothing.
func TestUnitsJobWithoutEnd(t *testing.T) {
	newBus(t)
	m := newManager(t)
	m.result("good.service", "done")
	u := newUnits(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for began := time.Now(); time.Since(began) < patience; time.Sleep(time.Millisecond) {
			if len(m.starts()) > 0 {
				return
			}
		}
	}()
	if _, err := u.Start(ctx, "endless.service"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	begun, give := context.WithCancel(context.Background())
	_, err := u.job(begun, "start", "endless.service", func(*sddbus.Conn, chan<- string) error { give(); return nil })
	if !errors.Is(err, ErrRuns) || !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was given up: %v", err)
	}
	_ = m.conn.Emit("/org/freedesktop/systemd1", managerInterface+".JobRemoved",
		uint32(1), dbus.ObjectPath("/org/freedesktop/systemd1/job/1"), "endless.service", "done") // nobody waits for it any more
	if result, err := u.Start(ctxFor(t), "good.service"); err != nil || result != "done" {
		t.Errorf("after an abandoned wait: %q, %v", result, err)
	}
}

func TestUnitsBusRestarts(t *testing.T) {
	b := newBus(t)
	newManager(t).unit(t, "a.service", "active", 1)
	u := newUnits(t)
	if _, err := u.State(ctxFor(t), "a.service"); err != nil {
		t.Fatal(err)
	}
	old := u.conn
	b.stop()
	if _, err := u.State(ctxFor(t), "a.service"); err == nil {
		t.Error("a state without a bus")
	}
	b.start(t)
	m := newManager(t)
	m.unit(t, "a.service", "failed", 0)
	m.result("a.service", "done")
	state, err := u.State(ctxFor(t), "a.service")
	if err != nil || state.Active != "failed" {
		t.Errorf("after the restart of the bus: %+v, %v", state, err)
	}
	if result, err := u.Start(ctxFor(t), "a.service"); err != nil || result != "done" {
		t.Errorf("start after the restart of the bus: %q, %v", result, err)
	}
	if u.conn == old {
		t.Error("the dead connection is still in use")
	}
}

// The bus ends while a job runs: the wait ends too, long before its context.
func TestUnitsBusEndsUnderJob(t *testing.T) {
	b := newBus(t)
	m := newManager(t)
	u := newUnits(t)
	failed := make(chan error, 1)
	go func() {
		_, err := u.Start(ctxFor(t), "endless.service")
		failed <- err
	}()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if len(m.starts()) > 0 {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("StartUnit was not called")
		}
	}
	b.stop()
	if err := <-failed; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A bus that accepts and never answers costs the caller no more than its context, and the next one as well.
func TestUnitsStalledBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	u := newUnits(t)
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if _, err := u.State(ctx, "a.service"); err == nil {
			t.Error("a state from a bus that says nothing")
		}
		cancel()
	}
	// While one call waits for the bus, another gives up by its own context.
	long, end := context.WithCancel(context.Background())
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		_, _ = u.State(long, "a.service")
	}()
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := u.State(short, "a.service"); err == nil {
		t.Error("a state from a bus that says nothing")
	}
	end()
	<-waits
}
