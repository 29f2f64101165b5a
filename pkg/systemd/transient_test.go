package systemd

import (
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
	for i, want := range []string{`good.service fail Type="oneshot" Description="a test" ExecStart=[["/bin/x", ["/bin/x", "-t"], false]] CollectMode="inactive-or-failed" TimeoutStartUSec=@t 60000000 TimeoutStopUSec=@t 5000000 AddRef=true`,
		`bad.service fail Type="oneshot" Description="a test" ExecStart=[["/bin/x", ["/bin/x", "-t"], false]] CollectMode="inactive-or-failed" TimeoutStartUSec=@t 60000000 TimeoutStopUSec=@t 5000000 AddRef=true User="idc"`} {
		if started[i] != want {
			t.Errorf("asked for %s\nwant %s", started[i], want)
		}
	}
	// Nothing is left of it, and nobody else sees it in between.
	if len(started) != 2 {
		t.Errorf("%q", started)
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
