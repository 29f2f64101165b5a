package e2e

import (
	"strings"
	"testing"
)

const confFile = "/etc/checkprocd/conf.d/e2e.toml"

// TestReload changes the configuration under a running guard, for good and for bad.
func TestReload(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/late-comer.service": service(client + " --name late-comer --timeout 2 --beat 500"),
		})
		m.startGuard()
		pid := m.mainPID("checkprocd")
		interval := func() int64 { return m.status().IntervalUsec }
		if got := interval(); got != 1_000_000 {
			t.Errorf("%s: interval %d µs", root, got)
		}

		// A change is in force when systemctl returns.
		m.WriteFile(confFile, "interval = \"250ms\"\n[ladder]\nmax_concurrent = 4\n")
		if out := m.Run("checkprocctl diff"); !strings.Contains(out, "interval: 1s -> 250ms") || interval() != 1_000_000 {
			t.Errorf("%s: checkprocctl diff, interval %d µs:\n%s", root, interval(), out)
		}
		m.Run("systemctl reload checkprocd")
		if got := interval(); got != 250_000 {
			t.Errorf("%s: after reload: interval %d µs", root, got)
		}
		r := m.awaitEvent("reloaded")
		m.check(r, Fields{"PRIORITY": "6", "CHECKPROC_REASON": "*"})
		if !strings.Contains(r["MESSAGE"], "interval") || !strings.Contains(r["MESSAGE"], "max_concurrent") {
			t.Errorf("%s: the record does not say what changed: %s", root, r["MESSAGE"])
		}

		// A faulty one is refused with all its faults, and nothing changes.
		m.Mark()
		m.WriteFile(confFile, "interval = \"1h\"\n\n[brake]\nat_leest = 8\n")
		if out, code := m.Try("checkprocctl diff"); code != 78 || !strings.Contains(out, confFile+":4:") {
			t.Errorf("%s: checkprocctl diff of a faulty configuration: exit status %d\n%s", root, code, out)
		}
		if out, code := m.Try("systemctl reload checkprocd"); code == 0 {
			t.Errorf("%s: reload of a faulty configuration: exit status 0\n%s", root, out)
		}
		r = m.awaitEvent("config-rejected")
		m.check(r, Fields{"PRIORITY": "3"})
		for _, fault := range []string{confFile + ":1:", "interval", confFile + ":4:", "at_leest"} {
			if !strings.Contains(r["MESSAGE"], fault) {
				t.Errorf("%s: the record does not name %s: %s", root, fault, r["MESSAGE"])
			}
		}
		if got := m.Property("checkprocd", "ActiveState"); got != "active" || interval() != 250_000 || m.mainPID("checkprocd") != pid {
			t.Errorf("%s: after a rejected reload: %s, interval %d µs, pid %s (was %s)", root, got, interval(), m.mainPID("checkprocd"), pid)
		}
		if out, code := m.Try("checkprocctl reload --wait"); code != 78 || !strings.Contains(out, confFile+":4:") {
			t.Errorf("%s: checkprocctl reload --wait: exit status %d\n%s", root, code, out)
		}

		// SIGHUP to all of the unit is a reload, and does not hurt the helper.
		m.Mark()
		m.WriteFile(confFile, "interval = \"500ms\"\n")
		m.Run("systemctl kill --signal=HUP checkprocd")
		m.check(m.awaitEvent("reloaded"), Fields{"CHECKPROC_REASON": "SIGHUP"})
		if got := interval(); got != 500_000 || m.mainPID("checkprocd") != pid {
			t.Errorf("%s: after SIGHUP: interval %d µs, pid %s (was %s)", root, got, m.mainPID("checkprocd"), pid)
		}
		m.Run("systemctl start late-comer")
		m.waitGuarded(1)

		// A faulty configuration at start: 78, and not again and again.
		m.Mark()
		m.WriteFile(confFile, "interval = \"1h\"\n")
		if _, code := m.Try("systemctl restart checkprocd"); code == 0 {
			t.Errorf("%s: start with a faulty configuration: exit status 0", root)
		}
		m.WaitUnit("checkprocd", "failed")
		for property, want := range map[string]string{"SubState": "failed", "ExecMainStatus": "78", "NRestarts": "0", "Result": "exit-code"} {
			if got := m.Property("checkprocd", property); got != want {
				t.Errorf("%s: with a faulty configuration: %s=%s, want %s", root, property, got, want)
			}
		}
		m.Wait("the fault in the unit's journal", func() bool {
			for _, r := range m.Records(Fields{"_SYSTEMD_UNIT": "checkprocd.service"}) {
				if strings.Contains(r["MESSAGE"], confFile+":1:") {
					return true
				}
			}
			return false
		})

		// Once mended, everybody is there again.
		m.WriteFile(confFile, "")
		m.startGuard()
		if list := m.list(); list["late-comer"].State != "guarded" {
			t.Errorf("%s: after it was mended: %v", root, list)
		}
	})
}
