package e2e

import (
	"strconv"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestRemovedSegment removes the segment under live clients: they stay guarded, beside those that come to the new one.
func TestRemovedSegment(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/old.service":      service(client + " --name old --timeout 2 --beat 500"),
			"/etc/systemd/system/old-hang.service": service(client+" --name old-hang --timeout 2 --beat 500 --beats 14", "Restart=always", "RestartSec=100ms"),
			"/etc/systemd/system/new-hang.service": service(client + " --name new-hang --timeout 2 --beat 500 --beats 3"),
			"/etc/checkprocd/conf.d/rules.toml":    "[[rule]]\nmatch = { name = \"new-*\" }\nrestart = \"none\"\n",
		})
		m.startGuard()
		m.Run("systemctl start old old-hang")
		m.waitGuarded(2)
		was := m.segment()["shmid"]
		hanging := m.mainPID("old-hang")
		m.Mark()
		m.Run("ipcrm -M 0x5095")
		m.check(m.awaitEvent("table-lost"), Fields{"PRIORITY": "3", "CHECKPROC_TABLE": was, "CHECKPROC_REASON": "removed"})
		m.awaitEvent("table-attached")
		now := m.segment()
		if now["shmid"] == was || now["perms"] != "666" || now["size"] != "72000" {
			t.Errorf("%s: segment after ipcrm: %v, before it %s", root, now, was)
		}
		var removed, attached int
		for _, x := range m.status().Tables {
			if x.Removed {
				removed++
			}
			if x.State == control.TableAttached {
				attached++
			}
		}
		if removed != 1 || attached != 2 {
			t.Errorf("%s: tables: %+v", root, m.status().Tables)
		}

		m.Run("systemctl start new-hang")
		m.check(m.awaitEvent("killed", Fields{"CHECKPROC_PID": hanging}), Fields{"CHECKPROC_TABLE": was, "CHECKPROC_NAME": "old-hang"})
		m.check(m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "new-hang"}), Fields{"CHECKPROC_TABLE": now["shmid"]})
		// It comes back, to the new table.
		m.Wait("old-hang in the new table", func() bool {
			return tableOf(m.list()["old-hang"]) == now["shmid"]
		})
		if list := m.list(); tableOf(list["old"]) != was || list["old"].State != control.StateGuarded {
			t.Errorf("%s: the healthy one of old: %+v", root, list["old"])
		}

		// When the last of the old table is gone, it is given up.
		m.Run("systemctl stop old")
		m.Wait("one table", func() bool { return len(m.status().Tables) == 1 })
	})
}

// TestOldGuard runs the guard of old beside the new one, started again and again as procctl does.
func TestOldGuard(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/old-guard.service": "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\n" +
				"Environment=CHECKPROCD_TEST_NAMESPACE=1\nExecStart=/usr/lib/rig/oldguard /run/old-guard.log\nRestart=always\nRestartSec=2s\n",
			"/etc/systemd/system/healthy.service": service(client + " --name healthy --timeout 30 --beat 500"),
		})
		m.startGuard()
		m.Run("systemctl start healthy old-guard")
		r := m.awaitEvent("old-guard")
		m.check(r, Fields{"PRIORITY": "4", "CHECKPROC_TABLE": m.segment()["shmid"], "CHECKPROC_REASON": "attaches in a rhythm"})
		t.Logf("%s: old guard reported: %s", root, r["MESSAGE"])
		out, code := m.Try("checkprocctl check --json")
		var findings []control.Finding
		m.parse(out, &findings)
		found := false
		for _, f := range findings {
			found = found || f.ID == "old-guard"
		}
		if code != 1 || !found {
			t.Errorf("%s: checkprocctl check: exit status %d\n%s", root, code, out)
		}
		if got := m.list()["healthy"].State; got != control.StateGuarded {
			t.Errorf("%s: healthy is %s", root, got)
		}
	})
}

// tableOf is the segment of a target; "" for no target.
func tableOf(x control.Target) string {
	if x.PID == 0 {
		return ""
	}
	return strconv.Itoa(x.Table)
}
