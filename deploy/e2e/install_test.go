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

		took := []time.Duration{m.startTook()}
		for range 4 {
			m.Run("systemctl stop checkprocd; systemctl start checkprocd")
			took = append(took, m.startTook())
		}
		slices.Sort(took)
		t.Logf("measured: %s: start to READY=1 %v, median %v (mark 50ms)", root, took, took[len(took)/2])

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
