package daemon

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestNamesKnown: a target is protected by another name of its unit once that is known, and stays so over a reload until
// systemd has been asked again; but not when that name is named no longer.
func TestNamesKnown(t *testing.T) {
	cfg := config.Default()
	cfg.Protect.Units = []string{"mysql.service", "x.service"}
	d := &Daemon{cfg: &cfg, guard: guardWith(t, map[string]string{"db": "mariadb.service"}, "never")}
	d.guard.SetConfig(d.cfg)
	shield := func(want string) {
		t.Helper()
		if got := d.guard.Views()[0].Shield; got != want {
			t.Errorf("protected by %q, want %q", got, want)
		}
	}
	shield("")
	ids := map[string]string{"mysql.service": "mariadb.service", "other.service": "c.service"}
	d.namesKnown(ids)
	shield(`protect.units "mysql.service"`)
	for _, units := range [][]string{{"mysql.service"}, {"x.service"}} {
		next := config.Default()
		next.Protect.Units = units
		compare(d.cfg, &next)
		d.cfg = &next
		d.guard.SetConfig(d.cfg)
		if units[0] == "mysql.service" {
			shield(`protect.units "mysql.service"`)
		} else {
			shield("")
		}
	}
	d.cfg = &cfg
	d.namesKnown(nil)
	shield("")
}

// TestAliasOfRules: a name in the rules that is another name of a unit is reported once, however many rules have it and
// however often systemd says so.
func TestAliasOfRules(t *testing.T) {
	cfg := config.Default()
	cfg.Rules = []config.Rule{{Then: []string{"sql.service"}}, {Then: []string{"b.service", "sql.service"}}, {Then: []string{"web.service"}}}
	d := &Daemon{ring: newRing(), cfg: &cfg, guard: guardWith(t, nil, "never"), lost: map[string]string{}, alerter: newAlerter(func(string) {})}
	var said bytes.Buffer
	d.log.set(zerolog.New(&said))
	for range 3 {
		d.namesKnown(map[string]string{"sql.service": "db.service", "web.service": "nginx.service"})
	}
	for text, want := range map[string]int{
		"rule[0].then, rule[1].then: sql.service is not restarted: it is another name of db.service": 1,
		"rule[2].then: web.service is not restarted: it is another name of nginx.service":            1,
		"is not restarted": 2,
	} {
		if got := strings.Count(said.String(), text); got != want {
			t.Errorf("%q is said %d times, want %d\n%s", text, got, want, &said)
		}
	}
}
