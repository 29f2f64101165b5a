package systemd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// TestStoppedDown has the signals of jobs of units that are down, as 252 and 257 send them.
func TestStoppedDown(t *testing.T) {
	const checked = 100 // when the last start was tried, of all units
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	m.checked = checked
	m.unit(t, "a.service", "failed", 0)
	m.unit(t, "last.service", "failed", 0)
	told := make(chan string, 100)
	u.OnStop(func(unit string) { told <- unit })
	stranger, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Close() })
	// A signal of the stranger comes to us alone, whatever we have asked for; the bus has it when this returns.
	emit := func(from *dbus.Conn, path dbus.ObjectPath, iface, member string, body ...any) {
		t.Helper()
		msg := &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(path), dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
		}}
		if from == stranger {
			msg.Headers[dbus.FieldDestination] = dbus.MakeVariant(u.pins.conn.Names()[0])
		}
		from.Send(msg, nil)
		var id string
		if err := from.BusObject().Call(busName+".GetId", 0).Store(&id); err != nil {
			t.Fatal(err)
		}
	}
	changed := func(from *dbus.Conn, unit, active string, job uint32, checked uint64) {
		t.Helper()
		emit(from, unitPath(unit), "org.freedesktop.DBus.Properties", "PropertiesChanged", unitName, jobProperties(active, job, checked), []string{})
	}
	removed := func(from *dbus.Conn, unit string, job uint32, result string) {
		t.Helper()
		emit(from, systemdPath, managerName, "JobRemoved", job, dbus.ObjectPath("/job"), unit, result)
	}
	stop := func(from *dbus.Conn, unit string) {
		changed(from, unit, "failed", 7, checked)
		removed(from, unit, 7, "done")
		changed(from, unit, "failed", 0, checked)
	}
	down := UnitState{Load: "loaded", Active: "failed", Checked: checked}
	up, tried, busy := down, down, down
	up.Active, tried.Checked, busy.Job = "active", checked+1, true
	for _, tt := range []struct {
		name string
		do   func(unit string)
		s    UnitState
		want bool
	}{
		{"stopped", func(unit string) { stop(m.conn, unit) }, down, true},
		{"stopped and reset", func(unit string) { stop(m.conn, unit); changed(m.conn, unit, "inactive", 0, checked) }, down, true},
		{"nothing", func(string) {}, down, false},
		{"bound to one that fell", func(unit string) { changed(m.conn, unit, "deactivating", 7, checked); stop(m.conn, unit) }, down, false},
		{"the same, at once", func(unit string) { changed(m.conn, unit, "active", 0, checked); stop(m.conn, unit) }, down, false},
		{"fell, then stopped", func(unit string) {
			changed(m.conn, unit, "active", 6, checked)
			changed(m.conn, unit, "failed", 6, checked)
			removed(m.conn, unit, 6, "done")
			changed(m.conn, unit, "failed", 0, checked)
			stop(m.conn, unit)
		}, down, true},
		{"of another", func(string) { stop(m.conn, "other.service") }, down, false},
		{"by a stranger", func(unit string) { stop(stranger, unit) }, down, false},
		{"the stranger says it has ended", func(unit string) {
			changed(m.conn, unit, "failed", 7, checked)
			removed(stranger, unit, 7, "done")
			changed(m.conn, unit, "failed", 0, checked)
		}, down, false},
		{"try-restart", func(unit string) {
			removed(m.conn, unit, 7, "done")
			changed(m.conn, unit, "failed", 0, checked)
		}, down, false},
		{"canceled", func(unit string) {
			changed(m.conn, unit, "failed", 7, checked)
			removed(m.conn, unit, 7, "canceled")
			changed(m.conn, unit, "failed", 0, checked)
		}, down, false},
		{"a start that its condition prevents", func(unit string) {
			changed(m.conn, unit, "failed", 7, checked+1)
			removed(m.conn, unit, 7, "done")
			changed(m.conn, unit, "failed", 0, checked+1)
		}, tried, false},
		{"the same, seen before its condition is checked", func(unit string) {
			changed(m.conn, unit, "failed", 7, checked)
			changed(m.conn, unit, "failed", 7, checked+1)
			removed(m.conn, unit, 7, "done")
			changed(m.conn, unit, "failed", 0, checked+1)
		}, tried, false},
		{"a start", func(unit string) {
			changed(m.conn, unit, "failed", 7, checked)
			changed(m.conn, unit, "active", 7, checked+1)
			removed(m.conn, unit, 7, "done")
			changed(m.conn, unit, "active", 0, checked+1)
			changed(m.conn, unit, "failed", 0, checked+1)
		}, tried, false},
		{"stopped, then a start that fails", func(unit string) {
			stop(m.conn, unit)
			changed(m.conn, unit, "active", 8, checked+1)
			removed(m.conn, unit, 8, "done")
			changed(m.conn, unit, "failed", 0, checked+1)
		}, tried, false},
		{"stopped, and a start of which nothing was heard yet", func(unit string) { stop(m.conn, unit) }, tried, false},
		{"stopped, and up by now", func(unit string) { stop(m.conn, unit) }, up, false},
		{"stopped, and somebody starts it", func(unit string) { stop(m.conn, unit) }, busy, false},
	} {
		const unit = "a.service"
		if err := u.Pin(ctxFor(t), unit); err != nil {
			t.Fatal(err)
		}
		if err := u.Pin(ctxFor(t), "last.service"); err != nil {
			t.Fatal(err)
		}
		tt.do(unit)
		changed(m.conn, "last.service", "failed", 9, checked)
		removed(m.conn, "last.service", 9, "done")
		changed(m.conn, "last.service", "failed", 0, checked)
		for end := time.Now().Add(patience); !u.StoppedDown("last.service", down); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing is heard of jobs")
			}
		}
		if got := u.StoppedDown(unit, tt.s); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		var first string // of the other one it is said as well, after that
		if first = <-told; first == unit {
			<-told
		}
		// A start may come after it, of which this may not have heard yet.
		if later := strings.HasPrefix(tt.name, "stopped, "); len(told) > 0 || (first == unit) != (tt.want || later) {
			t.Errorf("%s: told of %s, and of %d more", tt.name, first, len(told))
		}
		for _, unit := range []string{unit, "last.service"} {
			if err := u.Unpin(ctxFor(t), unit); err != nil {
				t.Fatal(err)
			}
		}
		if u.StoppedDown(unit, down) {
			t.Errorf("%s: known of a unit that is not pinned", tt.name)
		}
	}
}

func jobProperties(active string, job uint32, checked uint64) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"ActiveState": dbus.MakeVariant(active), "ConditionTimestampMonotonic": dbus.MakeVariant(checked),
		"Job": dbus.MakeVariant(struct {
			ID   uint32
			Path dbus.ObjectPath
		}{job, "/"}),
	}
}

// TestStoppedBusRestarts: who had stopped a unit before the bus was restarted has stopped it afterwards.
func TestStoppedBusRestarts(t *testing.T) {
	const checked = 100
	b := newBus(t)
	m := newManager(t)
	u := newUnits(t)
	down := func(checked uint64) UnitState { return UnitState{Load: "loaded", Active: "failed", Checked: checked} }
	stop := func(unit string, checked uint64) {
		t.Helper()
		m.checked = checked
		m.unit(t, unit, "failed", 0)
		if err := u.Pin(ctxFor(t), unit); err != nil {
			t.Fatal(err)
		}
		_ = m.conn.Emit(unitPath(unit), "org.freedesktop.DBus.Properties.PropertiesChanged", unitName, jobProperties("failed", 7, checked), []string{})
		_ = m.conn.Emit(systemdPath, managerName+".JobRemoved", uint32(7), dbus.ObjectPath("/job"), unit, "done")
		_ = m.conn.Emit(unitPath(unit), "org.freedesktop.DBus.Properties.PropertiesChanged", unitName, jobProperties("failed", 0, checked), []string{})
		for end := time.Now().Add(patience); !u.StoppedDown(unit, down(checked)); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing is heard of jobs")
			}
		}
	}
	for _, unit := range []string{"a.service", "tried.service", "unknown.service", "other.service"} {
		stop(unit, checked)
	}
	stop("never.service", 0)
	for range 2 {
		b.stop()
		for end := time.Now().Add(patience); u.pins.conn.Connected(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the bus is away, and nobody sees it")
			}
		}
		b.start(t)
		m = newManager(t)
		m.checked = checked
		m.unit(t, "a.service", "failed", 0)
		m.checked = checked + 1 // as the bus was away
		m.unit(t, "tried.service", "failed", 0)
		for unit, answers := range map[string]bool{"a.service": true, "tried.service": true, "unknown.service": false} {
			if err := u.Pin(ctxFor(t), unit); (err == nil) != answers {
				t.Errorf("pin %s: %v", unit, err)
			}
		}
		for _, tt := range []struct {
			unit    string
			checked uint64
			want    bool
		}{
			{"a.service", checked, true}, {"a.service", checked + 1, false},
			{"tried.service", checked + 1, false},
			{"unknown.service", checked, true}, {"unknown.service", checked + 1, false}, // systemd did not answer
			{"other.service", checked, true}, // not pinned again yet
			{"never.service", 0, false},
		} {
			if got := u.StoppedDown(tt.unit, down(tt.checked)); got != tt.want {
				t.Errorf("%s, started at %d: %v", tt.unit, tt.checked, got)
			}
		}
	}
	for _, unit := range []string{"a.service", "unknown.service", "other.service"} {
		if err := u.Unpin(ctxFor(t), unit); err != nil || u.StoppedDown(unit, down(checked)) {
			t.Errorf("known of %s, which is not pinned: %v", unit, err)
		}
	}
}

// silent has properties of which nothing is said before asked returns.
type silent struct {
	unitProperties
	asked func()
}

func (s silent) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	s.asked()
	return s.unitProperties.Get(iface, name)
}

// TestHearUndone: where systemd does not answer in time, no match rules are left behind. The bus of the test allows 16.
func TestHearUndone(t *testing.T) {
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	const unit = "a.service"
	answer, asked := make(chan struct{}), make(chan struct{})
	say := func() {
		select {
		case asked <- struct{}{}:
			<-answer
		case <-answer:
		}
	}
	hang := func() {
		t.Helper()
		for range 20 {
			ctx, cancel := context.WithCancel(ctxFor(t))
			go func() {
				select {
				case <-asked:
				case <-ctx.Done():
				}
				cancel()
			}()
			if err := u.Pin(ctx, unit); !errors.Is(err, context.Canceled) {
				t.Errorf("pin: %v", err)
			}
			cancel()
		}
	}
	ask := func(f func()) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked = f
	}
	ask(func() {
		if _, err := m.conn.ReleaseName(systemdName); err != nil {
			t.Error(err)
		}
	})
	for range 20 { // systemd has gone just after the pin
		if err := u.Pin(ctxFor(t), unit); err == nil {
			t.Error("heard of the jobs of no systemd")
		}
	}
	if _, err := m.conn.RequestName(systemdName, 0); err != nil {
		t.Fatal(err)
	}
	ask(say)
	hang()
	ask(nil)
	properties := unitProperties{map[string]dbus.Variant{"ConditionTimestampMonotonic": dbus.MakeVariant(uint64(1))}}
	if err := m.conn.Export(silent{properties, say}, unitPath(unit), "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	hang()
	close(answer)
	if err := u.Pin(ctxFor(t), unit); err != nil {
		t.Error(err)
	}
}

// TestHearNewOwner: a systemd that comes instead of the one before is asked for signals as well, once.
func TestHearNewOwner(t *testing.T) {
	const unit = "a.service"
	newBus(t)
	m := newManager(t)
	m.unit(t, unit, "failed", 0)
	u := newUnits(t)
	asked := func(m *manager) int {
		t.Helper()
		if err := u.Pin(ctxFor(t), unit); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.subscribed)
	}
	if first, again := asked(m), asked(m); first != 1 || again != 1 {
		t.Errorf("asked %d and %d times", first, again)
	}
	if _, err := m.conn.ReleaseName(systemdName); err != nil {
		t.Fatal(err)
	}
	m = newManager(t)
	for end := time.Now().Add(patience); asked(m) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the new one is not asked for signals")
		}
	}
	if again := asked(m); again != 1 {
		t.Errorf("asked %d times", again)
	}
}

// TestHeardBound: of so many units are jobs heard, and of others when there is room again.
func TestHeardBound(t *testing.T) {
	j := &jobs{units: map[string]*heard{}, paths: map[dbus.ObjectPath]*heard{}}
	for i := range maxHeard {
		if !j.begin(string(rune('a' + i))) {
			t.Fatal(i)
		}
	}
	if j.begin("more") {
		t.Error("too many")
	}
	if !j.end("b") || j.end("b") || !j.begin("more") || j.begin("more") {
		t.Error("room was made")
	}
}

func TestHalted(t *testing.T) {
	down := func(active string) UnitState { return UnitState{Load: "loaded", Active: active} }
	stopped := down("inactive")
	stopped.Left, stopped.Ended = 5, 6
	ended := down("inactive")
	ended.Left, ended.Ended = 6, 5
	kept := ended
	kept.Kept = true
	badly := stopped
	badly.Active = "failed"
	crashed := ended
	crashed.Active, crashed.Kept = "failed", true
	up := stopped
	up.Active = "active"
	spared := stopped
	spared.Spared = true
	for _, tt := range []struct {
		name, unit string
		s          UnitState
		want       bool
	}{
		{"stopped", "x.service", stopped, true}, {"ended well", "x.service", ended, false}, {"stopped, of those that stay active", "x.service", kept, true},
		{"stopped, and failed over that", "x.service", badly, true}, {"failed", "x.service", crashed, false}, {"up", "x.service", up, false}, {"nobody needed it", "x.service", spared, false},
		{"target", "x.target", down("inactive"), true}, {"socket", "x.socket", down("inactive"), true}, {"a socket that failed", "x.socket", down("failed"), false},
		{"unmounted", "x.mount", down("inactive"), false}, {"gone", "x.device", down("inactive"), false},
	} {
		if got := tt.s.Halted(tt.unit); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
