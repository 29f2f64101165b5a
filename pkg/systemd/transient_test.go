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
		return u.RunTransient(ctxFor(t), Transient{Name: name, Description: "a test", Command: []string{"/bin/x", "-t ${x} $$ %n"}, User: user, Timeout: time.Minute})
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
	for i, want := range []string{`good.service fail Type="oneshot" TimeoutStartUSec=@t 60000000 TimeoutStopUSec=@t 5000000 Description="a test" ExecStartEx=[["/bin/x", ["/bin/x", "-t ${x} $$ %n"], ["no-env-expand"]]] CollectMode="inactive-or-failed" AddRef=true`,
		`bad.service fail Type="oneshot" TimeoutStartUSec=@t 60000000 TimeoutStopUSec=@t 5000000 Description="a test" ExecStartEx=[["/bin/x", ["/bin/x", "-t ${x} $$ %n"], ["no-env-expand"]]] CollectMode="inactive-or-failed" AddRef=true User="idc"`} {
		if started[i] != want {
			t.Errorf("asked for %s\nwant %s", started[i], want)
		}
	}
	// Nothing is left of it, and nobody else sees it in between.
	if len(started) != 2 {
		t.Errorf("%q", started)
	}

	// One that is to stay: systemd keeps it until it is known why it could not be executed.
	m.result("nobody.service", "failed")
	m.unit(t, "nobody.service", "failed", 0, sentProperty{Name: "Result", Value: dbus.MakeVariant("exit-code")}, sentProperty{Name: "ExecMainCode", Value: dbus.MakeVariant(int32(1))}, sentProperty{Name: "ExecMainStatus", Value: dbus.MakeVariant(int32(217))})
	kept := 0
	for name, want := range map[string]string{"good.service": "done", "bad.service": "failed", "nobody.service": "failed: exit status 217/USER"} {
		if result, err := u.StartTransient(ctxFor(t), Transient{Name: name, Description: "a test", Command: []string{"/bin/x"}}, func() { kept++ }); result != want || err != nil {
			t.Errorf("%s: %q, %v", name, result, err)
		}
		all := m.starts()
		if last := all[len(all)-1]; last != name+` fail Type="exec" Description="a test" ExecStartEx=[["/bin/x", ["/bin/x"], ["no-env-expand"]]] CollectMode="inactive-or-failed" AddRef=true` {
			t.Errorf("asked for %s", last)
		}
	}
	if kept != 3 {
		t.Errorf("%d of 3 could be kept", kept)
	}
}

func TestEnd(t *testing.T) {
	for want, s := range map[string]UnitState{
		"exit status 3":        {Result: "exit-code", ExitCode: 1, ExitStatus: 3},
		"exit status 217/USER": {Result: "exit-code", ExitCode: 1, ExitStatus: 217},
		"killed by SIGSEGV":    {Result: "core-dump", ExitCode: 3, ExitStatus: 11},
		"killed by SIGKILL":    {Result: "signal", ExitCode: 2, ExitStatus: 9},
		"timeout":              {Result: "timeout", ExitCode: 2, ExitStatus: 15},
		"success":              {Result: "success", ExitCode: 1},
	} {
		if got := s.End(); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}
