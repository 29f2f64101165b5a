package e2e

import (
	"strconv"
	"testing"
)

// TestJournaldStalls has services hang while nobody reads the guard's records.
func TestJournaldStalls(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/one.service": hangsOnce("always", ""),
			"/etc/systemd/system/two.service": hangsOnce("always", ""),
		})
		m.startGuard()
		ended := func(unit, was string) func() bool {
			return func() bool { pid := m.mainPID(unit); return pid != was && pid != "0" }
		}
		onTime := func(pid string) {
			t.Helper()
			r := m.awaitEvent("condemned", Fields{"CHECKPROC_PID": pid})
			if usec, _ := strconv.Atoi(r["CHECKPROC_SILENCE_USEC"]); usec < 3_000_000 || usec > 6_000_000 {
				t.Errorf("%s: condemned after %d µs of silence, timeout and margin are 3 s: %s", root, usec, r["MESSAGE"])
			}
		}

		// Stopped, as under a debugger or on a dead disk: nothing is lost.
		m.Run("systemctl start one")
		pid := m.mainPID("one")
		m.awaitEvent("registered", Fields{"CHECKPROC_PID": pid})
		m.Run("systemctl kill --signal=STOP systemd-journald")
		m.Wait("the end of one.service without journald", ended("one", pid))
		m.Run("systemctl kill --signal=CONT systemd-journald")
		m.awaitEvent("killed", Fields{"CHECKPROC_PID": pid})
		onTime(pid)
		if got := m.status().Counters.DroppedLogRecords; got != 0 {
			t.Errorf("%s: %d records dropped", root, got)
		}

		// Gone, with its sockets: what could not be written is counted, and said afterwards.
		m.Run("systemctl start two")
		pid = m.mainPID("two")
		m.awaitEvent("registered", Fields{"CHECKPROC_PID": pid})
		m.Run("systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service 2>&1")
		if got := m.Property("systemd-journald.service", "ActiveState"); got != "inactive" {
			t.Fatalf("%s: systemd-journald is %s", root, got)
		}
		m.Wait("the end of two.service without journald", ended("two", pid))
		m.Wait("dropped records", func() bool { return m.status().Counters.DroppedLogRecords > 0 })
		m.Run("systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service")
		m.Run("systemctl reload checkprocd") // something to say
		r := m.Await(Fields{"CHECKPROC_DROPPED": "*", "SYSLOG_IDENTIFIER": "checkprocd"})
		if n, _ := strconv.ParseInt(r["CHECKPROC_DROPPED"], 10, 64); n != m.status().Counters.DroppedLogRecords {
			t.Errorf("%s: %s; the status says %d", root, r["MESSAGE"], m.status().Counters.DroppedLogRecords)
		}
		m.check(r, Fields{"PRIORITY": "4", "_UID": "0"})
		m.waitGuarded(2)
	})
}
