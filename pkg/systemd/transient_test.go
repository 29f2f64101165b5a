package systemd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// property of a unit as it comes over the bus: (sv).
type sentProperty struct {
	Name  string
	Value dbus.Variant
}

type sentAux struct {
	Name       string
	Properties []sentProperty
}

func (m *manager) StartTransientUnit(name, mode string, properties []sentProperty, _ []sentAux) (dbus.ObjectPath, *dbus.Error) {
	var all []string
	for _, p := range properties {
		all = append(all, p.Name+"="+p.Value.String())
	}
	return m.StartUnit(name, mode+" "+strings.Join(all, " "))
}

func (m *manager) ResetFailedUnit(name string) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = append(m.forgotten, name)
	return dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not loaded."})
}

func TestRunTransient(t *testing.T) {
	newBus(t)
	m := newManager(t)
	m.result("good.service", "done")
	m.result("bad.service", "failed")
	m.unit(t, "bad.service", "failed", 0)
	u := newUnits(t)
	run := func(name, user string) (string, error) {
		return u.RunTransient(ctxFor(t), Transient{Name: name, Description: "a test", Command: []string{"/bin/x", "-t"}, User: user, Timeout: time.Minute})
	}
	if outcome, err := run("good.service", ""); outcome != "" || err != nil {
		t.Errorf("%q, %v", outcome, err)
	}
	if outcome, err := run("bad.service", "idc"); outcome != "its job ended as failed" || err != nil {
		t.Errorf("%q, %v", outcome, err)
	}
	if _, err := run("none.service", ""); err == nil || !strings.HasPrefix(err.Error(), "run none.service: ") {
		t.Errorf("%v", err)
	}
	started := m.starts()
	for i, want := range []string{`good.service fail Type="oneshot" Description="a test" ExecStart=[["/bin/x", ["/bin/x", "-t"], false]] TimeoutStartUSec=@t 60000000`,
		`bad.service fail Type="oneshot" Description="a test" ExecStart=[["/bin/x", ["/bin/x", "-t"], false]] TimeoutStartUSec=@t 60000000 User="idc"`} {
		if started[i] != want {
			t.Errorf("asked for %s\nwant %s", started[i], want)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if want := []string{"good.service", "bad.service", "bad.service", "none.service"}; !slices.Equal(m.forgotten, want) {
		t.Errorf("forgotten: %q, want %q", m.forgotten, want)
	}
}

func TestEnd(t *testing.T) {
	for want, s := range map[string]UnitState{
		"exit status 3":     {Result: "exit-code", ExitCode: 1, ExitStatus: 3},
		"killed by SIGSEGV": {Result: "core-dump", ExitCode: 3, ExitStatus: 11},
		"killed by SIGKILL": {Result: "signal", ExitCode: 2, ExitStatus: 9},
		"timeout":           {Result: "timeout", ExitCode: 2, ExitStatus: 15},
		"success":           {Result: "success", ExitCode: 1},
	} {
		if got := s.End(); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}
