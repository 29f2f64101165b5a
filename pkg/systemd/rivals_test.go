package systemd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// TestRival: who is in the way of a start, its own rival or that of what is started with it, but of nothing else.
func TestRival(t *testing.T) {
	newBus(t)
	m := newManager(t)
	u := newUnits(t)
	lists := func(unit, active string, lists ...string) { // Conflicts=a,b
		var all []sentProperty
		for _, list := range lists {
			kind, units, _ := strings.Cut(list, "=")
			all = append(all, sentProperty{kind, dbus.MakeVariant(strings.Split(units, ","))})
		}
		m.unit(t, unit, active, 1, all...)
	}
	for _, active := range []string{"active", "activating", "deactivating", "reloading", "inactive", "failed"} {
		lists(active+".service", active)
	}
	lists("coming.service", "inactive")
	m.jobOf["coming.service"] = 7
	lists("begins.service", "activating")
	m.jobOf["begins.service"] = 7
	lists("job.service", "active")
	m.jobOf["job.service"] = 7
	lists("side.service", "inactive", "ConflictedBy=active.service", "Requires=deep.service")
	lists("deep.service", "failed", "Conflicts=far.service,self.service", "BindsTo=deeper.service")
	lists("deeper.service", "inactive", "Conflicts=farther.service,deep.service", "Requires=deep.service")
	lists("far.service", "inactive")
	lists("farther.service", "reloading")
	lists("up.service", "active", "Conflicts=active.service")
	lists("wanted.service", "inactive", "Conflicts=active.service")
	var many []string
	for i := range maxPulled + 1 {
		many = append(many, fmt.Sprintf("m%d.service", i))
		lists(many[i], "inactive")
	}
	for _, tt := range []struct {
		lists []string
		want  string
		busy  bool
	}{
		{nil, "", false},
		{[]string{"Conflicts=inactive.service,failed.service,missing.target"}, "", false},
		{[]string{"Conflicts=inactive.service,active.service"}, "active.service, which conflicts with it, is active", false},
		{[]string{"ConflictedBy=active.service"}, "active.service, which conflicts with it, is active", false},
		{[]string{"Conflicts=reloading.service"}, "reloading.service, which conflicts with it, is reloading", false},
		{[]string{"Conflicts=activating.service"}, "activating.service, which conflicts with it, is activating", false},
		{[]string{"Conflicts=begins.service"}, "begins.service, which conflicts with it, is activating", false},
		{[]string{"Conflicts=deactivating.service"}, "another job is in its way: deactivating.service, which conflicts with it, is deactivating", true},
		{[]string{"Conflicts=coming.service"}, "another job is in its way: coming.service, which conflicts with it, is inactive", true},
		{[]string{"Conflicts=job.service"}, "another job is in its way: job.service, which conflicts with it, is active", true},
		{[]string{"Conflicts=coming.service,reloading.service"}, "reloading.service, which conflicts with it, is reloading", false},
		{[]string{"Conflicts=self.service"}, "", false},
		{[]string{"Requires=side.service"}, "active.service, which conflicts with side.service, which it needs, is active", false},
		{[]string{"BindsTo=deep.service"}, "farther.service, which conflicts with deeper.service, which it needs, is reloading", false},
		{[]string{"Requires=up.service", "Requisite=side.service", "PartOf=side.service", "Wants=wanted.service"}, "", false},
		{[]string{"Requires=" + strings.Join(many[1:], ",")}, "", false},
		{[]string{"Requires=" + strings.Join(many, ",")}, "read what a start of self.service starts: more than 50 units", false},
	} {
		lists("self.service", "active", tt.lists...)
		s, err := u.State(ctxFor(t), "self.service")
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := u.Along(ctxFor(t), "self.service", s)
		if err != nil {
			got += err.Error()
		}
		if got != tt.want || errors.Is(err, ErrBusy) != tt.busy {
			t.Errorf("%q: %q, want %q", tt.lists, got, tt.want)
		}
	}
	if _, _, err := u.Along(t.Context(), "self.service", UnitState{Rivals: []string{"away"}}); err == nil || Unanswered(err) {
		t.Errorf("an answer that is none: %v", err)
	}
}
