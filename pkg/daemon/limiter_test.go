package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// Get answers for one property of a unit.
func (u unitOf) Get(_, name string) (dbus.Variant, *dbus.Error) {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	v, ok := u.m.units[u.name][name]
	if !ok {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{"Unknown property " + name})
	}
	return v, nil
}

func (m *pid1) SetUnitProperties(unit string, runtime bool, properties []sddbus.Property) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.units[unit] == nil {
		return dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + unit + " not loaded."})
	}
	for _, p := range properties {
		m.units[unit][p.Name] = p.Value
		m.asked = append(m.asked, fmt.Sprintf("set %s %s=%v runtime=%v", unit, p.Name, p.Value.Value(), runtime))
	}
	return nil
}

// TestStays: a guard that stops says who stays throttled, and how that ends.
func TestStays(t *testing.T) {
	v := guard.ThrottleView{Unit: `app-a\x2db.service`, Has: "CPUQuota=50%", Had: "CPUQuota=infinity", Back: "CPUQuota="}
	one := `; app-a\x2db.service keeps CPUQuota=50% until then, or: systemctl set-property --runtime 'app-a\x2db.service' CPUQuota=`
	for n, want := range map[int]string{0: "", 1: one, staysNamed: strings.Repeat(one, staysNamed), staysNamed + 2: strings.Repeat(one, staysNamed) + "; so do 2 more units"} {
		if got := stays(slices.Repeat([]guard.ThrottleView{v}, n)); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// TestLimiter asks a fake systemd over a real bus.
func TestLimiter(t *testing.T) {
	m := fakeBus(t)
	m.set("a.service", "loaded", "active", 42)
	m.set("bare.service", "loaded", "active", 42)
	m.set("stuck.service", "loaded", "active", 42)
	m.set("held.service", "loaded", "active", 42)
	m.set("beside.service", "loaded", "active", 42)
	m.set("gone.service", "not-found", "inactive", 0)
	m.mu.Lock()
	m.units["a.service"]["MemoryHigh"], m.units["a.service"]["CPUQuotaPerSecUSec"] = dbus.MakeVariant(uint64(guard.Unlimited)), dbus.MakeVariant(uint64(7))
	m.result["stuck.service"] = "timeout"
	m.units["beside.service"]["Conflicts"] = dbus.MakeVariant([]string{"a.service", "gone.service"})
	m.units["held.service"]["RequiredBy"] = dbus.MakeVariant([]string{"a.service", "gone.service"})
	m.mu.Unlock()
	var units systemd.Units
	defer units.Close()
	posted := make(chan guard.Observation, 10)
	l := &limiter{units: &units, queue: make(chan limitJob, 1), post: func(o guard.Observation) { posted <- o }}
	l.forbids = func(_ context.Context, x guard.RestartForLimit, along []string) (string, error) {
		if x.Unit == "held.service" {
			return fmt.Sprintf("somebody holds %q", along), nil
		}
		return "", nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	go func() { l.run(ctx); close(done) }()
	ask := func(j limitJob) guard.Observation {
		t.Helper()
		l.ask(j)
		select {
		case o := <-posted:
			return o
		case <-ctx.Done():
			t.Fatal("no answer")
			return nil
		}
	}
	for _, tt := range []struct {
		job  limitJob
		want guard.Observation
	}{
		{l.look(guard.LookAtUnit{Unit: "a.service"}), guard.UnitSeen{Unit: "a.service", Limits: guard.UnitLimits{MemoryHigh: guard.Unlimited, CPUQuota: 7}}},
		{l.set(guard.SetUnitLimits{Unit: "a.service", Limits: guard.UnitLimits{MemoryHigh: 400 << 20}, Has: guard.UnitLimits{MemoryHigh: guard.Unlimited}}), guard.UnitLimitsSet{Unit: "a.service"}},
		{l.look(guard.LookAtUnit{Unit: "a.service"}), guard.UnitSeen{Unit: "a.service", Limits: guard.UnitLimits{MemoryHigh: 400 << 20, CPUQuota: 7}}},
		{l.set(guard.SetUnitLimits{Unit: "a.service", Limits: guard.UnitLimits{CPUQuota: 500_000}, Back: guard.UnitLimits{MemoryHigh: guard.Unlimited}, Has: guard.UnitLimits{MemoryHigh: 400 << 20, CPUQuota: 7}}), guard.UnitLimitsSet{Unit: "a.service"}},
		{l.set(guard.SetUnitLimits{Unit: "a.service", Back: guard.UnitLimits{CPUQuota: 7}, Has: guard.UnitLimits{CPUQuota: 600_000}}), guard.UnitLimitsSet{Unit: "a.service", Theirs: guard.UnitLimits{CPUQuota: 500_000}}},
		{l.look(guard.LookAtUnit{Unit: "gone.service"}), guard.UnitSeen{Unit: "gone.service", Gone: true}},
		{l.set(guard.SetUnitLimits{Unit: "gone.service", Back: guard.UnitLimits{CPUQuota: 7}, Has: guard.UnitLimits{CPUQuota: 600_000}}), guard.UnitLimitsSet{Unit: "gone.service", Gone: true}},
		{l.set(guard.SetUnitLimits{Unit: "a.service"}), guard.UnitLimitsSet{Unit: "a.service"}},
		{l.restart(guard.RestartForLimit{Unit: "a.service", Target: 3, PID: 42}), guard.RestartedForLimit{Unit: "a.service", Target: 3, PID: 42}},
		{l.restart(guard.RestartForLimit{Unit: "held.service", Target: 3, PID: 42}), guard.RestartedForLimit{Unit: "held.service", Target: 3, PID: 42, Problem: `somebody holds ["a.service"]`, Refused: true}},
		{l.restart(guard.RestartForLimit{Unit: "beside.service", Target: 3, PID: 42}), guard.RestartedForLimit{Unit: "beside.service", Target: 3, PID: 42, Problem: "a.service, which conflicts with it, is active", Refused: true}},
		{l.restart(guard.RestartForLimit{Unit: "stuck.service", Target: 3, PID: 42}), guard.RestartedForLimit{Unit: "stuck.service", Target: 3, PID: 42, Problem: "its restart job ended as timeout", Begun: true}},
	} {
		if got := ask(tt.job); got != tt.want {
			t.Errorf("got  %+v\nwant %+v", got, tt.want)
		}
	}
	if got := ask(l.look(guard.LookAtUnit{Unit: "bare.service"})).(guard.UnitSeen); !strings.Contains(got.Problem, "MemoryHigh of bare.service") {
		t.Errorf("%+v", got)
	}
	if got := ask(l.set(guard.SetUnitLimits{Unit: "none.service", Limits: guard.UnitLimits{CPUQuota: 1}})).(guard.UnitLimitsSet); !strings.Contains(got.Problem, "none.service") {
		t.Errorf("%+v", got)
	}
	want := []string{"set a.service MemoryHigh=419430400 runtime=true", "set a.service MemoryHigh=18446744073709551615 runtime=true",
		"set a.service CPUQuotaPerSecUSec=500000 runtime=true", "restart a.service", "restart stuck.service"}
	if got := m.calls(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	cancel()
	<-done
	// Nobody takes them any more: the first waits, the second is refused.
	l.ask(l.look(guard.LookAtUnit{Unit: "x"}))
	l.ask(l.look(guard.LookAtUnit{Unit: "y"}))
	if got := <-posted; got != (guard.UnitSeen{Unit: "y", Problem: "too many units wait"}) {
		t.Errorf("%+v", got)
	}
}

// TestSpread: samples of any number of targets are spread over the period, and each comes once in it.
func TestSpread(t *testing.T) {
	const n, period, parts = 1000, 10 * time.Second, 20
	list := make([]sampled, n)
	for i := range list {
		list[i].id = guard.TargetID(i + 77)
	}
	list = withDues(list, nil, period, true, time.Hour)
	var count [parts]int
	for i := range list {
		due := list[i].due - time.Hour
		if due < 0 || due >= period {
			t.Fatalf("due after %v", due)
		}
		count[due*parts/period]++
	}
	for i, got := range count {
		if got < n/parts*9/10 || got > n/parts*11/10 {
			t.Errorf("%d of %d in part %d of %d", got, n, i, parts)
		}
	}
	// Who was there before keeps its time.
	next := append([]sampled{{id: 5}}, slices.Clone(list)...)
	for i := range next {
		next[i].due = 0
	}
	next = withDues(next, list, period, false, 2*time.Hour)
	if next[0].due < 2*time.Hour || !slices.EqualFunc(next[1:], list, func(a, b sampled) bool { return a.due == b.due }) {
		t.Error("others have another time")
	}
}

// TestLimits: real processes that exceed each limit that there is, and one that is ended for it.
func TestLimits(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Sample = time.Second
	limit := func(of config.Quantity, above float64, action config.LimitAction) config.Limit {
		return config.Limit{Of: of, Above: above, For: time.Second, Action: action}
	}
	all := []config.Limit{limit(config.Memory, 1, config.LimitReport), limit(config.Descriptors, 1, config.LimitReport), limit(config.Age, 1, config.LimitReport),
		limit(config.GroupMemory, 1<<50, config.LimitReport), limit(config.Children, 1000, config.LimitReport), limit(config.CPU, 400_000, config.LimitReport),
		{Of: config.Descriptors, Above: 1e-9, Share: true, For: time.Second, Action: config.LimitReport}}
	c.Rules = []config.Rule{{Match: config.Match{Name: "all"}, Limits: all}, {Match: config.Match{Name: "old"}, Limits: []config.Limit{limit(config.Age, 2, config.LimitLadder)}}}
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	p := run(t, "--name all --timeout 600 --beat 200")
	q := run(t, "--name old --timeout 600 --beat 200")
	for _, text := range []string{"memory ", "descriptors ", "age ", "% is more than"} {
		g.await(want{event: guard.EvLimit, pid: p.pid, text: text})
	}
	g.await(want{event: guard.EvCondemned, pid: q.pid, text: "age "})
	g.await(want{event: guard.EvKilled, pid: q.pid})
	g.await(want{event: guard.EvLimitOver, pid: q.pid, text: "it has ended"})
	if n := len(g.find(want{event: guard.EvLimit, pid: p.pid})); n != 4 || !p.alive() {
		t.Errorf("%d limits are exceeded\n%s", n, g.print())
	}
	if len(g.find(want{event: guard.EvRecovered})) > 0 {
		t.Error(g.print())
	}
}

// TestSamplesOfNobody: targets that have ended are left out, and the others are sampled.
func TestSamplesOfNobody(t *testing.T) {
	if namespaces(t) {
		return
	}
	dead, live := run(t, "--name dead --timeout 600 --beat 200"), run(t, "--name live --timeout 600 --beat 200")
	var list []sampled
	for i, pid := range []int32{dead.pid, live.pid} {
		p, err := process.Open(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		list = append(list, sampled{id: guard.TargetID(i + 1), proc: p, want: process.WantMemory})
	}
	dead.signal(os.Kill)
	dead.endsBy(syscall.SIGKILL)
	s := newSampler()
	now := process.Now()
	if next := s.pass(list, time.Minute, now, map[string]bool{}); next <= now || next > now+time.Minute {
		t.Errorf("next in %v", next-now)
	}
	room := make([]guard.Sample, 1, 8)
	found, problems := s.take(room[:0])
	if len(found) != 1 || found[0].Target != 2 || found[0].Values[config.Memory] <= 0 || found[0].Values[config.Threads] != -1 || len(problems) != 0 {
		t.Errorf("%+v, %q", found, problems)
	}
	// What is found next goes into the room that was given for it.
	s.pass(list, time.Minute, now+2*time.Minute, map[string]bool{})
	if again, _ := s.take(nil); len(again) != 1 || &again[0] != &room[0] {
		t.Errorf("%+v", again)
	}
}

// TestLimiterThatEnds: what a job says that was broken off because the daemon ends is about nothing but that.
func TestLimiterThatEnds(t *testing.T) {
	var posted []guard.Observation
	l := &limiter{queue: make(chan limitJob, 1), post: func(o guard.Observation) { posted = append(posted, o) }}
	ctx, cancel := context.WithCancel(t.Context())
	l.ask(limitJob{do: func(limited context.Context) guard.Observation {
		cancel()
		<-limited.Done()
		return guard.RestartedForLimit{Unit: "a.service", Problem: limited.Err().Error()}
	}})
	l.run(ctx)
	if len(posted) > 0 {
		t.Errorf("%+v", posted)
	}
}
