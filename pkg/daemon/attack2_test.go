package daemon

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
	"github.com/checkprocd/checkprocd/pkg/table"
	"github.com/checkprocd/checkprocd/pkg/watch"
)

// TestMayNotStart: what its operator stops stays stopped, also where the guard has ended what hung over that, and where
// what ended was a helper that a command would start outside of the unit.
func TestMayNotStart(t *testing.T) {
	const pid, s = 42, time.Second
	unit := func(active, result string, begun, left, ended time.Duration) systemd.UnitState {
		return systemd.UnitState{Load: "loaded", Active: active, Result: result, ExecMainPID: pid, Begun: begun, Left: left, Ended: ended}
	}
	struck := guard.RestoreUnit{PID: pid, Unit: "c.service", Sure: true, Struck: 1000 * s, Ended: 1005 * s}
	unsure := struck
	unsure.Struck = 1 // it is not known
	helper := guard.RestoreUnit{PID: 50, Unit: "c.service", Crashed: true, Sure: true, Ended: 1005 * s, Command: &config.Command{Args: []string{"/bin/x"}}}
	hung := helper
	hung.Crashed, hung.Struck = false, 1000*s
	for _, tt := range []struct {
		name  string
		x     guard.RestoreUnit
		s     systemd.UnitState
		main  bool
		start bool
	}{
		{"hung when it was stopped", struck, unit("failed", "signal", 10*s, 960*s, 1005*s), true, false},
		{"and ended well after all", struck, unit("inactive", "success", 10*s, 960*s, 1005*s), true, false},
		{"said STOPPING=1 after SIGTERM", struck, unit("inactive", "success", 10*s, 1000*s-20*time.Millisecond, 1005*s), true, true},
		{"hung", struck, unit("failed", "signal", 10*s, 1005*s, 1005*s), true, true},
		{"hung in its start, after an earlier life", struck, unit("failed", "signal", 900*s, 800*s, 1005*s), true, true},
		{"hung in its first start", struck, unit("failed", "signal", 900*s, 0, 1005*s), true, true},
		{"systemd's watchdog was faster", struck, unit("failed", "watchdog", 10*s, 990*s, 1005*s), true, true},
		{"signalled before a crash of the guard", unsure, unit("inactive", "success", 10*s, 1000*s, 1005*s), true, true},

		{"helper, its unit is being stopped", helper, unit("deactivating", "success", 10*s, 1004*s, 0), false, false},
		{"helper, killed when its unit was stopped", helper, unit("inactive", "success", 10*s, 915*s, 920*s), false, false},
		{"helper, its unit was stopped since", helper, unit("inactive", "success", 10*s, 1007*s, 1008*s), false, false},
		{"helper, its unit failed with it", helper, unit("failed", "exit-code", 10*s, 1006*s, 1006*s), false, true},
		{"helper, left behind by a start script", helper, unit("inactive", "success", 10*s, 12*s, 12*s), false, true},
		{"helper, of a start script of Type=oneshot", helper, unit("inactive", "success", 10*s, 0, 12*s), false, true},
		{"helper, its unit is well", helper, unit("active", "success", 10*s, 0, 0), false, true},
		{"helper that hung, its unit is being stopped", hung, unit("deactivating", "success", 10*s, 990*s, 0), false, false},
	} {
		var out guard.RestoreDone
		if start := mayStart(tt.x, tt.s, tt.main, &out); start != tt.start || out.Reason == "" {
			t.Errorf("%s: start %v, %+v", tt.name, start, out)
		}
	}
}

// TestLimitSparesTheStopped: a process that exceeds its limit while its unit is being stopped, or that was left behind by
// one that was, has nobody undo that.
func TestLimitSparesTheStopped(t *testing.T) {
	m := fakeBus(t)
	for unit, active := range map[string]string{"stops.service": "deactivating", "stopped.service": "inactive", "failed.service": "failed", "busy.service": "active", "up.service": "active"} {
		m.set(unit, "loaded", active, 42)
	}
	m.mu.Lock()
	m.units["busy.service"]["Job"] = dbus.MakeVariant(struct {
		ID   uint32
		Path dbus.ObjectPath
	}{7, "/j"})
	m.mu.Unlock()
	var units systemd.Units
	defer units.Close()
	l := &limiter{units: &units, forbids: func(context.Context, guard.RestartForLimit, []string) (string, error) { return "", nil }}
	for _, unit := range []string{"stops.service", "stopped.service", "failed.service", "busy.service", "up.service"} {
		got := l.restart(guard.RestartForLimit{Unit: unit, PID: 42}).do(t.Context()).(guard.RestartedForLimit)
		if (got.Problem == "") != (unit == "up.service") {
			t.Errorf("%s: %+v", unit, got)
		}
	}
	if calls := m.calls(); len(calls) != 1 || calls[0] != "restart up.service" {
		t.Errorf("%q", calls)
	}
}

// TestLimitRestartIsLookedAt: what became of the restart that another guard has asked for, and nothing is restarted.
func TestLimitRestartIsLookedAt(t *testing.T) {
	const asked = 1000 * time.Second
	m := fakeBus(t)
	for unit, x := range map[string]struct {
		active string
		begun  time.Duration
	}{"not.service": {"active", 5 * time.Second}, "done.service": {"active", asked + time.Second}, "failed.service": {"failed", asked + time.Second}, "stops.service": {"deactivating", 5 * time.Second}} {
		m.set(unit, "loaded", x.active, 42)
		m.mu.Lock()
		m.units[unit]["InactiveExitTimestampMonotonic"] = dbus.MakeVariant(uint64(x.begun.Microseconds()))
		m.mu.Unlock()
	}
	var units systemd.Units
	defer units.Close()
	l := &limiter{units: &units}
	time.AfterFunc(100*time.Millisecond, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.units["stops.service"]["ActiveState"] = dbus.MakeVariant("active")
		m.units["stops.service"]["InactiveExitTimestampMonotonic"] = dbus.MakeVariant(uint64((asked + 2*time.Second).Microseconds()))
	})
	for unit, want := range map[string]guard.RestartedForLimit{
		"not.service":    {Problem: "systemd was not asked, or has not done it"},
		"done.service":   {},
		"failed.service": {Problem: "it failed after its restart", Begun: true},
		"stops.service":  {},
	} {
		want.Unit, want.PID = unit, 42
		if got := l.restart(guard.RestartForLimit{Unit: unit, PID: 42, Asked: asked, Look: true}).do(t.Context()); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	// One that somebody else has started anew meanwhile is not restarted.
	if got := l.restart(guard.RestartForLimit{Unit: "done.service", PID: 42, Asked: asked}).do(t.Context()).(guard.RestartedForLimit); got.Problem == "" || got.Begun {
		t.Errorf("%+v", got)
	}
	if calls := m.calls(); len(calls) != 0 {
		t.Errorf("%q", calls)
	}
	units.Close()
	away := systemd.Units{}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	l.units = &away
	if got := l.restart(guard.RestartForLimit{Unit: "done.service", PID: 42, Asked: asked, Look: true}).do(t.Context()).(guard.RestartedForLimit); got.Problem == "" || !got.Unknown {
		t.Errorf("%+v", got)
	}
}

// TestWatchSparesTheStopped: a service that failed because it was stopped (many end with a status other than 0 then) is not
// started for the sake of its configuration; one that failed by itself, or never came up with the last one, is.
func TestWatchSparesTheStopped(t *testing.T) {
	const s = time.Second
	for name, tt := range map[string]struct {
		now  systemd.UnitState
		want bool
	}{
		"stopped":              {systemd.UnitState{Active: "inactive"}, true},
		"stops":                {systemd.UnitState{Active: "deactivating"}, true},
		"failed in its stop":   {systemd.UnitState{Load: "loaded", Active: "failed", Result: "exit-code", Begun: s, Left: 2 * s, Ended: 3 * s}, true},
		"crashed":              {systemd.UnitState{Load: "loaded", Active: "failed", Result: "signal", Begun: s, Left: 3 * s, Ended: 3 * s}, false},
		"watchdog":             {systemd.UnitState{Load: "loaded", Active: "failed", Result: "watchdog", Begun: s, Left: 2 * s, Ended: 3 * s}, false},
		"failed in its start":  {systemd.UnitState{Load: "loaded", Active: "failed", Result: "exit-code", Begun: 2 * s, Left: s, Ended: 3 * s}, false},
		"in its first start":   {systemd.UnitState{Load: "loaded", Active: "failed", Result: "exit-code", Begun: 2 * s, Ended: 3 * s}, false},
		"runs, after one stop": {systemd.UnitState{Load: "loaded", Active: "active", Begun: 4 * s, Left: 2 * s, Ended: 3 * s}, false},
	} {
		if got := isStopped(tt.now); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestWatchSparesTheShielded: one in a unit that is protected by his name keeps it from being restarted for the others.
func TestWatchSparesTheShielded(t *testing.T) {
	d := &Daemon{cfg: &config.Config{}, guard: guardWith(t, map[string]string{"web": "both.service", "db": "both.service", "alone": "web.service"}, "db")}
	d.guard.Step(1100*time.Second, guard.Acting{Acts: true})
	w := newWatches(d)
	w.rules["k"] = 0
	w.watched = &watched{all: map[string]*watchedRule{"k": {Files: map[string]string{}, Units: map[string]*watchedUnit{
		"both.service": {Names: []string{"web"}}, "web.service": {Names: []string{"alone"}}, "failed.service": {Names: []string{"gone"}}, "spared.service": {Names: []string{"db"}}}}}}
	carry := &carrying{w: w, key: "k", change: watch.Change{Content: watch.Sum{1}}}
	plan := func() []string {
		p := carry.plan()
		return p.todo
	}
	if got := plan(); !slices.Equal(got, []string{"failed.service", "spared.service", "web.service"}) {
		t.Errorf("%q", got)
	}
	// By a reload also he is protected whose process has failed: by the name that it had.
	d.cfg = &config.Config{Protect: config.Protect{Names: []string{"db", "go*"}}}
	if got := plan(); !slices.Equal(got, []string{"web.service"}) {
		t.Errorf("%q", got)
	}
	// An order holds them as it holds processes, those that have ended, too.
	d.cfg = &config.Config{}
	for _, o := range []guard.HoldOrder{{Name: "gone", For: time.Hour}, {Name: "alo*", For: time.Hour}} {
		if _, err := d.guard.Hold(o); err != nil {
			t.Fatal(err)
		}
	}
	if got := plan(); !slices.Equal(got, []string{"spared.service"}) {
		t.Errorf("%q", got)
	}
	if _, err := d.guard.Hold(guard.HoldOrder{All: true, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if p := carry.plan(); len(p.todo) != 0 || len(p.waits) != 4 || p.safe != 1 || p.done != 0 {
		t.Errorf("paused: %+v", p)
	}
}

// guardWith is a guard with targets in units, of which one name is protected.
func guardWith(t *testing.T, units map[string]string, protected string) *guard.Guard {
	t.Helper()
	cfg := config.Default()
	cfg.Protect.Names = []string{protected}
	g := guard.New(&cfg)
	now := 1000 * time.Second
	records := make([]table.Record, len(units))
	unit := map[int32]string{}
	for name, u := range units {
		pid := int32(100 + len(unit))
		r := &records[len(unit)]
		r.PID, r.Timeout, r.Token = pid, 60, 1
		copy(r.Name[:], name)
		unit[pid] = u
	}
	answers := []guard.Observation{guard.TableAttached{Table: 1, Slots: len(records)}}
	for range 10 {
		answers = append(answers, &guard.Scan{Table: 1, Records: records})
		var next []guard.Observation
		for _, d := range g.Step(now, answers...) {
			if x, is := d.(guard.Identify); is {
				next = append(next, guard.Identified{Target: x.Target, PID: x.PID, Sight: guard.SightVerified, Facts: guard.Facts{Unit: unit[x.PID]}})
			}
		}
		answers, now = next, now+time.Second
	}
	return g
}
