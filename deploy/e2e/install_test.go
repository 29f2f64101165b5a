package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestInstalled starts the guard as a package installs it, and looks at all that it makes, says and answers.
func TestInstalled(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, nil)
		m.startGuard()
		for name, want := range map[string]Fields{
			"started":        {"PRIORITY": "6", "MESSAGE": "*", "_PID": m.mainPID("checkprocd"), "CHECKPROC_SLOT": ""},
			"table-attached": {"PRIORITY": "6", "CHECKPROC_TABLE": m.segment()["shmid"]},
			"acting":         {"PRIORITY": "6"},
		} {
			m.check(m.awaitEvent(name), want)
		}

		if out := m.Run("systemctl status checkprocd"); !strings.Contains(out, `Status: "guarding 0 of 0 targets, table 0 of 1000 used"`) {
			t.Errorf("systemctl status:\n%s", out)
		}
		seg := m.segment()
		if seg["perms"] != "666" || seg["size"] != "72000" || seg["uid"] != "0" {
			t.Errorf("segment: %v", seg)
		}
		sem := m.sysvipc("sem")
		if sem["perms"] != "666" || sem["nsems"] != "1" {
			t.Errorf("semaphore: %v", sem)
		}
		if out := m.Run("ipcs -s -i " + sem["semid"] + " | awk '$1 == \"0\" { print $2 }'"); out != "1" {
			t.Errorf("value of the semaphore: %q", out)
		}

		s := m.status()
		if s.Mode != control.ModeActing || s.Registry.Error != "" || len(s.Tables) != 1 || s.Tables[0].State != control.TableAttached {
			t.Errorf("checkprocctl status: %+v", s)
		}
		if list := m.list(); len(list) != 0 {
			t.Errorf("checkprocctl list: %v", list)
		}
		if out, code := m.Try("checkprocctl check --json"); code != 0 {
			t.Errorf("checkprocctl check: exit status %d\n%s", code, out)
		}
		m.Run("test -S /run/checkprocd/io.checkproc && test -s /run/checkprocd/registry")
		m.Run("getent group checkprocd; checkprocctl status | grep -q acting; bash -n /usr/share/bash-completion/completions/checkprocctl")

		if root != "bookworm" { // systemd 255 has varlinkctl
			const socket = "/run/checkprocd/io.checkproc"
			for command, want := range map[string]string{
				"info " + socket:                                               "io.checkproc",
				"introspect " + socket + " io.checkproc":                       "method GetStatus",
				"call --json=short " + socket + " io.checkproc.GetStatus {}":   `"mode":"acting"`,
				"call --more --json=short " + socket + " io.checkproc.List {}": `"targets":[]`,
				"call --json=short " + socket + " io.checkproc.Check {}":       `"findings":[`,
				"call --json=short " + socket + " io.checkproc.Reload {}":      `"changed":[]`,
			} {
				if out := m.Run("varlinkctl " + command); !strings.Contains(out, want) {
					t.Errorf("varlinkctl %s: %q is not in\n%s", command, want, out)
				}
			}
			// The test of the protocol that needs varlinkctl, where there is one.
			if out := m.Run("CI=true /usr/lib/rig/control.test -test.v -test.run '^TestVarlinkctl$'"); !strings.Contains(out, "--- PASS: TestVarlinkctl") {
				t.Errorf("pkg/control:\n%s", out)
			}
		}

		// What of the start is systemd's own: the same sandbox around a program that is active when it is executed.
		m.Run("sed 's/^Type=.*/Type=exec/; s/^ExecStart=.*/ExecStart=sleep inf/; s/^Watchdog.*//' /usr/lib/systemd/system/checkprocd.service >/run/systemd/system/sandbox.service; systemctl daemon-reload")
		median := func(unit string) time.Duration {
			var took []time.Duration
			for range 5 {
				m.Run("systemctl stop " + unit + "; systemctl start " + unit)
				took = append(took, m.startTook(unit))
			}
			slices.Sort(took)
			return took[len(took)/2]
		}
		t.Logf("measured: %s: start to READY=1: median %v, of which systemd's sandbox %v (mark 50ms)", root, median("checkprocd"), median("sandbox"))

		m.Mark()
		m.Run("systemctl stop checkprocd")
		m.check(m.awaitEvent("stopping"), Fields{"PRIORITY": "6"})
		if got := m.Property("checkprocd", "Result"); got != "success" {
			t.Errorf("after stop: Result=%s", got)
		}
		if again := m.segment(); again["shmid"] != seg["shmid"] || again["nattch"] != "0" {
			t.Errorf("after stop: segment %v, before it %v", again, seg)
		}
	})
}

// TestMakeInstall installs and uninstalls on a live system, with the defaults of the Makefile.
func TestMakeInstall(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		rootOf(t, root)
		staged, err := stage()
		if err != nil {
			t.Fatal(err)
		}
		m := Boot(t, root, staged)
		m.Run("make -C /usr/src/checkprocd uninstall PREFIX=/usr; rm -r /etc/checkprocd") // that is how the rig has it
		if got := m.Property("checkprocd", "LoadState"); got != "not-found" {
			t.Fatalf("%s: before make install, checkprocd.service is %s", root, got)
		}

		m.Run("make -C /usr/src/checkprocd install; systemctl enable --now checkprocd")
		if got := m.Property("checkprocd", "FragmentPath"); got != "/usr/local/lib/systemd/system/checkprocd.service" {
			t.Errorf("%s: the unit is %s", root, got)
		}
		if got := m.Run("readlink /proc/" + m.mainPID("checkprocd") + "/exe"); got != "/usr/local/bin/checkprocd" {
			t.Errorf("%s: it runs %s", root, got)
		}
		m.awaitEvent("started")
		if out := m.Run("journalctl -x --no-pager CHECKPROC_EVENT=started"); !strings.Contains(out, "Subject: The guard has started") {
			t.Errorf("%s: journalctl -x:\n%s", root, out)
		}
		m.Run("getent group checkprocd; test -d /etc/checkprocd/conf.d; systemctl reload checkprocd; checkprocctl check")

		if out := m.Run("stat -c '%a %U' /etc/checkprocd/alert.toml"); out != "600 root" {
			t.Errorf("%s: alert.toml, which may have secrets, is %s", root, out)
		}

		// An installation over it leaves the configuration of this host alone.
		m.WriteFile("/etc/checkprocd/checkprocd.toml", "interval = \"250ms\"\n")
		m.Run("make -C /usr/src/checkprocd install; systemctl restart checkprocd")
		if got := m.status().IntervalUsec; got != 250_000 {
			t.Errorf("%s: after the second installation: interval %d µs", root, got)
		}

		m.Run("make -C /usr/src/checkprocd uninstall")
		if got := m.Property("checkprocd", "LoadState"); got != "not-found" {
			t.Errorf("%s: after make uninstall, checkprocd.service is %s", root, got)
		}
		if out := m.Run("find /usr/local /etc/systemd /var/lib/systemd/catalog -name '*checkproc*'; pgrep -l checkprocd || true"); out != "" {
			t.Errorf("%s: left by make uninstall:\n%s", root, out)
		}
		m.Run("test -e /etc/checkprocd/checkprocd.toml")
		m.segment()
	})
}

// TestBoot enables the guard at boot: the table is there before the programs of rc.local are started.
func TestBoot(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/multi-user.target.d/guard.conf": "[Unit]\nWants=checkprocd.service\n",
			"/etc/rc.local": "#!/bin/sh\nipcs -m >/run/seen-by-rc-local\n" + client + " --name by-rc-local --timeout 3 --beat 500 &\n",
		})
		if out := m.Run("cat /run/seen-by-rc-local"); !strings.Contains(out, "0x00005095") {
			t.Errorf("%s: rc.local was started before the table was there:\n%s", root, out)
		}
		if seg := m.segment(); seg["perms"] != "666" || seg["uid"] != "0" {
			t.Errorf("%s: segment: %v", root, seg)
		}
		m.waitGuarded(1)
		if x := m.list()["by-rc-local"]; x.Unit != "rc-local.service" {
			t.Errorf("%s: %+v", root, x)
		}
		if out, _ := m.Try("systemctl is-system-running --wait"); out != "running" {
			t.Errorf("%s: the system is %s\n%s", root, out, m.Run("systemctl --failed"))
		}
	})
}
