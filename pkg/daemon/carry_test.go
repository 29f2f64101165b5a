package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// carrier is a daemon with a rule that watches a file for services that had it before the daemon began; their processes
// have ended since.
type carrier struct {
	*guardian
	t    *testing.T
	m    *pid1
	cfg  config.Config
	file string
}

func carry(t *testing.T, w config.Watch, units ...string) *carrier {
	t.Helper()
	c := &carrier{t: t, m: fakeBus(t), cfg: testConfig(t)}
	c.file = filepath.Join(c.cfg.RuntimeDir, "a.conf")
	c.write("0")
	w.Files, w.Settle, w.Blame = []string{c.file}, 100*time.Millisecond, time.Second
	c.cfg.Rules = []config.Rule{{Match: config.Match{Name: "x*"}, Watch: w}}
	known := map[string]*watchedUnit{}
	for _, unit := range units {
		c.m.set(unit, "loaded", "active", 7)
		known[unit] = &watchedUnit{Names: []string{"x " + unit}}
	}
	text, err := json.Marshal(map[string]*watchedRule{keyOf(&c.cfg.Rules[0]): {Units: known}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.cfg.RuntimeDir, "watched"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.begin()
	return c
}

func (c *carrier) begin() {
	c.t.Helper()
	c.guardian = embed(c.t, c.cfg)
	c.await(only(guard.EvActing))
	c.settled()
}

// settled waits until the first look at the file is over.
func (c *carrier) settled() {
	c.t.Helper()
	eventually(c.t, "it is remembered what is in force", func() bool {
		text, err := os.ReadFile(filepath.Join(c.cfg.RuntimeDir, "watched"))
		var all map[string]*watchedRule
		if err != nil || json.Unmarshal(text, &all) != nil {
			return false
		}
		for _, r := range all {
			if r.Files != nil {
				return true
			}
		}
		return false
	})
}

func (c *carrier) write(text string) { c.t.Helper(); replace(c.t, c.file, text) }

// replace gives a file its text in one step: were it empty in between, that would be a change of its own where the machine
// stands still for the time to settle just then.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// asks waits until systemd has been asked for these, and sees that nothing follows.
func (c *carrier) asks(want ...string) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("systemd is asked for %q", want), func() bool { return len(c.m.calls()) >= len(want) })
	settle(2*heldLook + 500*time.Millisecond)
	if got := c.m.calls(); !slices.Equal(got, want) {
		c.t.Fatalf("asked for %q, want %q", got, want)
	}
}

// TestCarryWithoutBus: while systemd cannot be asked a change is neither refused nor blamed: it waits, and is carried once.
func TestCarryWithoutBus(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Check: []string{"/bin/check"}}, "a.service")
	if _, err := c.m.conn.ReleaseName("org.freedesktop.systemd1"); err != nil {
		t.Fatal(err)
	}
	c.write("1")
	c.await(only(evConfigDelayed))
	c.write("2")
	settle(time.Second)
	c.none(only(evConfigBlamed), only(evConfigCheckFailed), only(evConfigApplied))
	if _, err := c.m.conn.RequestName("org.freedesktop.systemd1", 0); err != nil {
		t.Fatal(err)
	}
	c.await(only(evConfigApplied))
	calls := c.m.calls()
	if len(calls) != 2 || calls[1] != "reload a.service" {
		t.Errorf("%q", calls)
	}
	c.none(only(evConfigBlamed), only(evConfigCheckFailed))
}

// TestCarryAfterHold: what is held does not take a change, the others do; it takes the newest one, once, when it is let go,
// also after a restart of the guard.
func TestCarryAfterHold(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{}, "a.service", "b.service")
	c.hold(control.HoldRequest{Name: "x a*"}, time.Hour)
	c.write("1")
	c.await(want{event: evConfigChanged, text: "reload of b.service; waiting: a.service"})
	c.asks("reload b.service")
	c.write("2")
	c.asks("reload b.service", "reload b.service")
	c.stop()
	c.begin()
	c.asks("reload b.service", "reload b.service")
	c.release(control.Selector{Name: "x a*"})
	c.asks("reload b.service", "reload b.service", "reload a.service")
	// All are paused, and it goes back to what is in force: nothing is left to do.
	c.hold(control.HoldRequest{All: true}, time.Hour)
	c.write("3")
	c.await(want{event: evConfigChanged, text: "b.service (x b.service) is held"})
	c.write("2")
	c.await(want{event: evConfigChanged, text: "nothing is to be done"})
	c.release(control.Selector{All: true})
	c.asks("reload b.service", "reload b.service", "reload a.service")
}

// TestCarryAfterProtection: who is protected does not take a change; that is said, and it takes the change once it is
// protected no longer.
func TestCarryAfterProtection(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{}, "a.service", "b.service")
	protect := func(names ...string) {
		c.cfg.Protect.Names = names
		c.guardian.write(c.cfg)
		if _, err := c.dial().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	protect("x a*")
	c.write("1")
	c.await(want{event: evConfigChanged, text: "reload of b.service; waiting: a.service is protected"})
	c.asks("reload b.service")
	protect()
	eventually(t, "a.service takes it", func() bool { return len(c.m.calls()) > 1 })
	c.asks("reload b.service", "reload a.service")
}

// TestCarryAlong: a unit does not take a change by a restart that would restart one that is protected, by whatever of its
// names, or is held; that is said once, and it takes the change when that is over.
func TestCarryAlong(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service", "b.service")
	c.m.set("db.service", "loaded", "active", 8)
	c.m.set("sql.service", "loaded", "active", 8)
	c.m.mu.Lock()
	c.m.units["a.service"]["RequiredBy"] = dbus.MakeVariant([]string{"db.service"})
	c.m.units["sql.service"]["Id"] = dbus.MakeVariant("db.service")
	c.m.mu.Unlock()
	protect := func(units ...string) {
		t.Helper()
		c.cfg.Protect.Units, c.cfg.Rules[0].Then = units, units
		c.guardian.write(c.cfg)
		if _, err := c.dial().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	protect("sql.service")
	c.await(want{event: evDegraded, text: "rule[0].then: sql.service is not restarted: it is another name of db.service"})
	c.write("1")
	delayed := want{event: evConfigDelayed, text: `a.service: its changed configuration (` + c.file + `) is not in force yet: it would take db.service along: protected by protect.units "sql.service"`}
	c.await(delayed)
	c.asks("restart b.service")
	protect("sql.service", "x.service") // it is as before at once: systemd is asked again later
	c.asks("restart b.service")
	if n := len(c.find(delayed)); n != 1 {
		t.Errorf("said %d times", n)
	}
	protect()
	c.asks("restart b.service", "restart a.service")
}

// TestCarryHeldMeanwhile: what is ordered while systemd is asked how a unit is counts: that may take long.
func TestCarryHeldMeanwhile(t *testing.T) {
	if namespaces(t) {
		return
	}
	for _, action := range []config.WatchAction{config.WatchReload, config.WatchRestart} {
		c := carry(t, config.Watch{Action: action}, "a.service")
		var once sync.Once
		c.m.mu.Lock()
		c.m.looked = func(string) {
			once.Do(func() { c.hold(control.HoldRequest{Name: "x a*"}, time.Hour) })
		}
		c.m.mu.Unlock()
		c.write("1")
		c.await(want{event: evConfigChanged, text: "waiting: a.service"})
		c.asks()
		c.release(control.Selector{Name: "x a*"})
		c.asks(action.String() + " a.service")
		c.stop()
	}
}

// TestCarryBack: a change that one of two units has taken is undone: that one takes what was in force before, also where
// no guard has seen it undone.
func TestCarryBack(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{}, "a.service", "b.service")
	c.hold(control.HoldRequest{Name: "x a*"}, time.Hour)
	c.write("1")
	c.asks("reload b.service")
	c.write("0")
	c.asks("reload b.service", "reload b.service")
	c.write("1")
	c.asks("reload b.service", "reload b.service", "reload b.service")
	c.stop()
	c.write("0")
	c.begin()
	c.await(want{event: evConfigApplied, text: "configuration (" + c.file + ")"})
	c.asks("reload b.service", "reload b.service", "reload b.service", "reload b.service")
	c.stop()
	c.begin()
	c.asks("reload b.service", "reload b.service", "reload b.service", "reload b.service")
	c.none(only(evConfigChanged))
}

// TestCarryAgainstJobs: a job of somebody else is waited for, and a unit that somebody stops is left so.
func TestCarryAgainstJobs(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service")
	c.m.mu.Lock()
	c.m.busy["a.service"] = true
	c.m.mu.Unlock()
	c.write("1")
	c.await(only(evConfigChanged))
	c.asks()
	c.m.mu.Lock()
	c.m.busy["a.service"] = false
	c.m.mu.Unlock()
	c.asks("restart a.service")
	// Five starts in ten minutes, whatever the cause.
	for n := 2; n <= 5; n++ {
		c.write(fmt.Sprint(n))
		c.awaitNth(only(evConfigApplied), n)
	}
	c.write("6")
	c.await(want{event: evConfigDelayed, text: "started too often"})
	if n := len(c.m.calls()); n != 5 {
		t.Errorf("%d starts", n)
	}
	c.m.set("a.service", "loaded", "inactive", 7)
	c.await(want{event: evConfigApplied, text: "is inactive"})
	if n := len(c.m.calls()); n != 5 {
		t.Errorf("%d starts", n)
	}
}

// TestCarryBesideRival: a unit that has failed is not started for a change while another runs that conflicts with it, and
// waits while that one is being stopped. One that is up beside it waits, too: its restart would stop the other.
func TestCarryBesideRival(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service", "b.service")
	for _, unit := range []string{"a.service", "b.service"} {
		c.m.set(unit, "loaded", "failed", 7)
		c.m.mu.Lock()
		c.m.units[unit]["ConflictedBy"] = dbus.MakeVariant([]string{"rival-" + unit})
		c.m.mu.Unlock()
	}
	c.m.set("rival-a.service", "loaded", "active", 8)
	c.m.set("rival-b.service", "loaded", "deactivating", 8)
	c.write("1")
	c.await(want{event: evConfigApplied, text: "a.service is failed: it takes its changed configuration (" + c.file + ") when it starts"})
	c.asks()
	c.m.set("rival-b.service", "loaded", "inactive", 8)
	c.asks("start b.service")
	c.m.set("b.service", "loaded", "active", 7)
	c.m.set("rival-b.service", "loaded", "active", 8)
	c.m.mu.Lock()
	c.m.units["b.service"]["Conflicts"] = dbus.MakeVariant([]string{"rival-b.service"})
	c.m.mu.Unlock()
	c.write("2")
	c.await(want{event: evConfigDelayed, text: "rival-b.service, which conflicts with it, is active; waiting for that"})
	c.asks("start b.service")
	c.m.set("rival-b.service", "loaded", "inactive", 8)
	c.asks("start b.service", "restart b.service")
}

// TestCarryThatFails: a unit that does not come up with its new configuration is blamed, and started again as one that
// crashed.
func TestCarryThatFails(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service")
	c.m.mu.Lock()
	c.m.result["a.service"] = "failed"
	c.m.units["a.service"]["ActiveState"] = dbus.MakeVariant("failed")
	c.m.mu.Unlock()
	c.write("1")
	c.await(only(evConfigBlamed))
	c.await(want{event: guard.EvRestoreFailed, text: "its start job ended as failed"})
	c.none(only(evConfigApplied))
	if got := c.m.calls(); !slices.Equal(got, []string{"start a.service", "start a.service"}) {
		t.Errorf("%q", got)
	}
}

// TestCarryRolls: units take a change one after the other, and no more of them when one fails with it: its job, or the unit
// soon after. The next content is for all again. One that was down before says nothing.
func TestCarryRolls(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service", "b.service", "c.service")
	set := func(how func(m *pid1)) {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		how(c.m)
	}
	// What has failed is started, too, as what has crashed; that is left out.
	restarts := func() string {
		return strings.Join(slices.DeleteFunc(c.m.calls(), func(call string) bool { return !strings.HasPrefix(call, "restart ") }), ", ")
	}
	set(func(m *pid1) { m.result["b.service"] = "failed" })
	c.write("1")
	c.await(want{event: evConfigDelayed, text: "c.service does not take its changed configuration (" + c.file + "): restart of b.service failed with it: its job ended as failed"})
	settle(2 * heldLook)
	if got := restarts(); got != "restart a.service, restart b.service" {
		t.Errorf("%q", got)
	}

	set(func(m *pid1) { delete(m.result, "b.service"); m.fails["a.service"], m.asked = true, nil })
	c.write("2")
	for _, unit := range []string{"b.service", "c.service"} {
		c.await(want{event: evConfigDelayed, text: unit + " does not take its changed configuration (" + c.file + "): a.service failed with it"})
	}
	settle(2 * heldLook)
	if got := restarts(); got != "restart a.service" {
		t.Errorf("%q", got)
	}

	set(func(m *pid1) { m.asked, m.result["a.service"] = nil, "failed" }) // it is down by now, and does not come up
	c.write("3")
	c.await(want{event: evConfigApplied, text: "restart of c.service"})
	if got := restarts(); got != "restart b.service, restart c.service" {
		t.Errorf("%q", got)
	}
}

// TestCheckThatHangs is what is said of a check that takes too long, and of one that cannot be asked for.
func TestCheckThatHangs(t *testing.T) {
	m := fakeBus(t)
	d := &Daemon{restorer: newRestorer(func(guard.Observation) {})}
	defer d.restorer.units.Close()
	w := newWatches(d)
	spec := config.Watch{Check: []string{"/bin/check"}}
	for result, want := range map[string]string{"": "", "failed": "/bin/check says its job ended as failed"} {
		m.mu.Lock()
		m.all = result
		m.mu.Unlock()
		v, err := w.check(t.Context(), spec, []string{"a.service"})
		got := v.says
		if err != nil || !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q, %v", result, got, err)
		}
	}
	m.mu.Lock()
	m.timeout = true
	m.mu.Unlock()
	if v, err := w.check(t.Context(), spec, []string{"a.service"}); err != nil || v.outcome != "timeout" || !strings.HasPrefix(v.says, "/bin/check did not end within 1m0s, and was ended (") {
		t.Errorf("%+v, %v", v, err)
	}
	names := map[string]bool{}
	for _, call := range m.calls() {
		names[call[len(call)-30:]] = true
	}
	if len(names) != 3 {
		t.Errorf("%q", m.calls())
	}
}

// reload has another rule in the place of the only one.
func (c *carrier) reload(change func(*config.Watch)) {
	c.t.Helper()
	n := len(c.find(only(evReloaded)))
	c.cfg.Rules = slices.Clone(c.cfg.Rules)
	change(&c.cfg.Rules[0].Watch)
	c.guardian.write(c.cfg)
	c.hup <- unix.SIGHUP
	c.awaitNth(only(evReloaded), n+1)
}

// at has f called before systemd does a thing for a unit, with how often it was asked for it.
func (c *carrier) at(f func(n int, what string) *dbus.Error) {
	seen := map[string]int{}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.before = func(what, unit string) *dbus.Error {
		if strings.HasPrefix(what, "run") {
			what = "check"
		} else {
			what += " " + unit
		}
		c.m.mu.Lock()
		c.m.all = "" // f says how it ends
		seen[what]++
		n := seen[what]
		c.m.mu.Unlock()
		return f(n, what)
	}
}

// ends has what is asked for now end as result.
func (c *carrier) ends(result string) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.all = result
}

// does waits until systemd has been asked for these, and sees that nothing follows.
func (c *carrier) does(want ...string) {
	c.t.Helper()
	did := func() []string {
		var all []string
		for _, call := range c.m.calls() {
			if strings.HasPrefix(call, "run") {
				call = "check"
			}
			all = append(all, call)
		}
		return all
	}
	eventually(c.t, fmt.Sprintf("systemd is asked for %q", want), func() bool { return len(did()) >= len(want) })
	settle(time.Second)
	if got := did(); !slices.Equal(got, want) {
		c.t.Fatalf("asked for %q, want %q", got, want)
	}
}

// TestCarryUnderItsCheck: what is written while a check runs is not put in force by it, and not refused by it, also where
// the same stands there again at its end.
func TestCarryUnderItsCheck(t *testing.T) {
	if namespaces(t) {
		return
	}
	const reload = "reload a.service"
	for name, tt := range map[string]struct {
		first, second string // how the checks end
		write         []string
		want          []string
	}{
		"accepted, then another":   {"", "", []string{"2"}, []string{"check", "check", reload}},
		"accepted, then a bad one": {"", "failed", []string{"2"}, []string{"check", "check"}},
		"accepted, and back":       {"", "failed", []string{"2", "1"}, []string{"check", "check"}},
		"refused, and back":        {"failed", "", []string{"2", "1"}, []string{"check", "check", reload}},
	} {
		t.Run(name, func(t *testing.T) {
			c := carry(t, config.Watch{Check: []string{"/bin/check"}}, "a.service")
			c.at(func(n int, what string) *dbus.Error {
				switch {
				case what == "check" && n == 1:
					for _, text := range tt.write {
						c.write(text)
					}
					c.ends(tt.first)
				case what == "check":
					c.ends(tt.second)
				}
				return nil
			})
			c.write("1")
			c.does(tt.want...)
			want := 0
			if tt.second != "" {
				want = 1
			}
			if n := len(c.find(only(evConfigCheckFailed))); n != want {
				t.Errorf("%d times refused, want %d", n, want)
			}
		})
	}
}

// TestCarryUnderItsReload: what is written while a unit takes what was checked may be in force, which is said where it is
// refused; whatever is there at last is put in force.
func TestCarryUnderItsReload(t *testing.T) {
	if namespaces(t) {
		return
	}
	const reload = "reload a.service"
	for name, tt := range map[string]struct{ during, after string }{
		"the same again":          {"1", ""},
		"back to what was before": {"bad", "0"},
		"back to what was taken":  {"bad", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := carry(t, config.Watch{Check: []string{"/bin/check"}}, "a.service")
			c.at(func(n int, what string) *dbus.Error {
				text, _ := os.ReadFile(c.file)
				switch {
				case what == reload && n == 1:
					c.write(tt.during)
				case what == "check" && string(text) == "bad":
					c.ends("failed")
				}
				return nil
			})
			c.write("1")
			calls := []string{"check", reload, "check"}
			if tt.after != "" {
				c.await(want{event: evConfigCheckFailed, text: "is in force already, perhaps"})
				c.write(tt.after)
				calls = append(calls, "check")
			}
			c.does(append(calls, reload)...)
			c.stop()
			c.begin()
			c.does(append(calls, reload)...)
		})
	}
}

// TestCarryThatWrites: a check, or a unit that takes the change, that writes the files each time, or gives them an owner,
// is not run for ever.
func TestCarryThatWrites(t *testing.T) {
	if namespaces(t) {
		return
	}
	const reload = "reload a.service"
	for writes, want := range map[string][]string{
		"check": {"check", "check", reload},
		reload:  {"check", reload, "check", reload},
	} {
		t.Run(writes, func(t *testing.T) {
			c := carry(t, config.Watch{Check: []string{"/bin/check"}}, "a.service")
			c.at(func(_ int, what string) *dbus.Error {
				if what == writes {
					c.write("1")
				}
				return nil
			})
			c.write("1")
			c.does(want...)
			c.write("2")
			c.at(func(int, string) *dbus.Error { return nil })
			c.does(append(want, "check", reload)...)
		})
	}
}

// TestCarryWithoutReload: that a unit cannot reload is not put down to its files. The change waits until it can, or the rule
// says another thing; others take it meanwhile.
func TestCarryWithoutReload(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Check: []string{"/bin/check"}}, "a.service", "b.service")
	c.at(func(_ int, what string) *dbus.Error {
		if what == "reload a.service" {
			return dbus.NewError("org.freedesktop.systemd1.JobTypeNotApplicable", []any{"Job type reload is not applicable for unit a.service."})
		}
		return nil
	})
	c.write("1")
	c.await(want{event: evConfigDelayed, text: `a.service: its changed configuration (` + c.file + `) is not in force yet: the unit cannot reload, it has no ExecReload=; action = "restart"`})
	c.does("check", "reload a.service", "reload b.service")
	c.none(only(evConfigBlamed))
	c.reload(restart)
	c.does("check", "reload a.service", "reload b.service", "check", "restart a.service")
}

// TestCarryAfterReload: a change that waits, that was refused or that comes with another rule is not lost where the rule
// says another thing about the same files.
func TestCarryAfterReload(t *testing.T) {
	if namespaces(t) {
		return
	}
	for name, tt := range map[string]struct {
		before config.Watch
		hold   bool
		await  want // of the change, before the rule is another one
		fails  string
		reload func(*config.Watch)
		want   []string
	}{
		"held":    {hold: true, await: want{event: evConfigChanged, text: "waiting: a.service"}, reload: restart, want: []string{"restart a.service"}},
		"at once": {reload: func(w *config.Watch) { w.Blame = 7 * time.Second }, want: []string{"reload a.service"}},
		"unchecked": {before: config.Watch{Check: []string{"/bin/bad"}}, fails: "check", await: only(evConfigCheckFailed),
			reload: func(w *config.Watch) { w.Check = nil }, want: []string{"check", "reload a.service"}},
		"not loaded": {fails: "reload a.service", await: only(evConfigBlamed), reload: restart, want: []string{"reload a.service", "restart a.service"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := carry(t, tt.before, "a.service")
			c.at(func(_ int, what string) *dbus.Error {
				if what == tt.fails {
					c.ends("failed")
				}
				return nil
			})
			if tt.hold {
				c.hold(control.HoldRequest{All: true}, time.Hour)
			}
			c.write("1")
			if tt.await.event != "" {
				c.await(tt.await)
			}
			c.reload(tt.reload)
			if tt.hold {
				c.release(control.Selector{All: true})
			}
			c.does(tt.want...)
		})
	}
}

// TestCarryWhileTheRuleChanges: a restart that is under way when a reload changes its rule, or takes it away, is one
// restart, and is said.
func TestCarryWhileTheRuleChanges(t *testing.T) {
	if namespaces(t) {
		return
	}
	for name, change := range map[string]func(*config.Watch){
		"another blame": func(w *config.Watch) { w.Blame = 7 * time.Second },
		"no rule":       func(w *config.Watch) { w.Files = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service")
			c.at(func(n int, what string) *dbus.Error {
				if n == 1 {
					c.reload(change)
				}
				return nil
			})
			c.write("1")
			c.await(only(evConfigApplied))
			settle(2 * heldLook)
			c.asks("restart a.service")
		})
	}
}

func restart(w *config.Watch) { w.Action = config.WatchRestart }

// TestCarryTakenOver: what the guard that acted has carried, the one that takes over does not carry again; what that one
// had not, it does.
func TestCarryTakenOver(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{}, "a.service", "b.service")
	second := embed(t, c.cfg)
	second.await(want{event: guard.EvObserving})
	second.await(want{event: evDegraded, reason: "registry"})
	c.write("1")
	c.awaitNth(only(evConfigApplied), 2)
	second.await(want{event: evConfigChanged, text: "not acting"})
	c.hold(control.HoldRequest{Name: "x a*"}, time.Hour)
	c.write("2")
	c.awaitNth(only(evConfigApplied), 3)
	second.awaitNth(only(evConfigChanged), 2)
	settle(500 * time.Millisecond) // it is written
	c.stop()
	second.await(only(guard.EvActing))
	c.asks("reload a.service", "reload b.service", "reload b.service", "reload a.service")
}

// TestCarryRollsOn: a unit that somebody has stopped since, or that failed long after it took a change, says nothing about
// it: the others take it once they may.
func TestCarryRollsOn(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := carry(t, config.Watch{Action: config.WatchRestart}, "a.service", "b.service")
	for n, left := range []time.Duration{-2 * time.Second, 0} { // before its main process ended: that is a stop
		c.hold(control.HoldRequest{Name: "x b*"}, time.Hour)
		c.write(fmt.Sprint(n + 1))
		c.awaitNth(want{event: evConfigApplied, text: "restart of a.service"}, n+1)
		if left == 0 {
			settle(settleTime + time.Second)
		}
		at := uint64(process.Now().Microseconds())
		c.m.set("a.service", "loaded", "failed", 7)
		c.m.mu.Lock()
		for name, value := range map[string]uint64{"InactiveEnter": at, "ExecMainExit": at, "ActiveExit": at - uint64(-left.Microseconds())} {
			c.m.units["a.service"][name+"TimestampMonotonic"] = dbus.MakeVariant(value)
		}
		c.m.mu.Unlock()
		c.release(control.Selector{Name: "x b*"})
		c.awaitNth(want{event: evConfigApplied, text: "restart of b.service"}, n+1)
		c.none(only(evConfigBlamed), only(evConfigDelayed))
		c.m.set("a.service", "loaded", "active", 7)
	}
}
