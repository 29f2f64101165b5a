package daemon

import (
	"testing"

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
