package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const dropIn = "/etc/systemd/system/checkprocd.service.d/e2e.conf"

// foreignTable makes a table that only its owner, a user without rights, may read.
const foreignTable = `setpriv --reuid=daemon --regid=daemon --clear-groups perl -e 'defined shmget(0x5095, 72000, 01640) or die "$!\n"'`

// mayRaiseLimits says whether the machines' pid 1 can raise hard limits: in a container that may not itself,
// LimitRTPRIO= and LimitMEMLOCK= have no effect.
func mayRaiseLimits(t *testing.T) bool {
	t.Helper()
	const sysResource = 24
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return caps&(1<<sysResource) != 0
		}
	}
	t.Fatal("no CapEff in /proc/self/status")
	return false
}

// TestRights shows that the unit as it is shipped lets the guard do its work on processes and a table of others, and
// that each of its capabilities is needed for that.
func TestRights(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/victim.service": service(client+" --name victim --timeout 2 --beat 500 --beats 2", "Restart=always", "RestartSec=100ms"),
		})
		degraded := func() (reasons []string) {
			t.Helper()
			for _, r := range m.events("degraded") {
				m.check(r, Fields{"PRIORITY": "4", "CHECKPROC_REASON": "*"})
				reasons = append(reasons, r["CHECKPROC_REASON"])
			}
			slices.Sort(reasons)
			return reasons
		}
		with := func(lines string) {
			t.Helper()
			m.WriteFile(dropIn, "[Service]\n"+lines)
			m.Run("systemctl daemon-reload; systemctl stop checkprocd")
			m.Mark()
			m.startGuard()
			m.Run("systemctl restart victim") // a new process: what was proven of the one before says nothing about it
		}
		m.Run(foreignTable)
		table := m.segment()
		if table["perms"] != "640" || table["uid"] != "1" {
			t.Fatalf("%s: the table to be: %v", root, table)
		}

		// As it is shipped.
		m.Run("systemctl start victim")
		m.startGuard()
		m.check(m.awaitEvent("table-attached"), Fields{"CHECKPROC_TABLE": table["shmid"]})
		killed := m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "victim"})
		m.check(killed, Fields{"CHECKPROC_UNIT": "victim.service", "CHECKPROC_SIGNAL": "SIGTERM"})
		want := []string{"mlock", "realtime"}
		if mayRaiseLimits(t) {
			want = nil
		}
		if got := degraded(); !slices.Equal(got, want) {
			t.Errorf("%s: as shipped, degraded is %v, want %v", root, got, want)
		}
		t.Logf("measured: %s: %s", root, m.Run("systemd-analyze security checkprocd.service --no-pager | tail -n 1"))

		// With the rights that the limits stand for, where the limits cannot be had.
		if len(want) > 0 {
			with("CapabilityBoundingSet=CAP_SYS_NICE CAP_IPC_LOCK\n")
			if got := degraded(); got != nil {
				t.Errorf("%s: with CAP_SYS_NICE and CAP_IPC_LOCK, degraded is %v", root, got)
			}
		}
		pid := m.mainPID("checkprocd")
		if out := m.Run("chrt --all-tasks --pid " + pid); strings.Count(out, "SCHED_RR|SCHED_RESET_ON_FORK") != 1 {
			t.Errorf("%s: one thread is to be real-time:\n%s", root, out)
		}
		if out := m.Run("awk '/^VmLck/ { print $2 }' /proc/" + pid + "/status"); out == "0" || out == "" {
			t.Errorf("%s: locked memory: %q kB", root, out)
		}

		// Without each capability.
		for _, x := range []struct {
			name  string
			fails Fields
		}{
			{"CAP_KILL", Fields{"CHECKPROC_EVENT": "refused", "CHECKPROC_NAME": "victim", "CHECKPROC_REASON": "*", "PRIORITY": "3"}},
			{"CAP_SYS_PTRACE", Fields{"CHECKPROC_EVENT": "refused", "CHECKPROC_NAME": "victim", "CHECKPROC_VERDICT": "unverified"}},
			{"CAP_IPC_OWNER", Fields{"CHECKPROC_EVENT": "table-lost", "PRIORITY": "3"}},
		} {
			name := x.name
			with("CapabilityBoundingSet=~" + name + "\n")
			r := m.Await(x.fails)
			if !slices.Contains(degraded(), name) {
				t.Errorf("%s: without %s, degraded is %v", root, name, degraded())
			}
			t.Logf("%s: without %s: %s", root, name, r["MESSAGE"])
			if got := m.events("killed"); len(got) != 0 {
				t.Errorf("%s: without %s: %s", root, name, got[0]["MESSAGE"])
			}
			if m.mainPID("checkprocd") == "0" {
				t.Errorf("%s: without %s, the guard does not run", root, name)
			}
		}

		// Guarding goes on without this one; TestEvidence shows what is lost.
		with("CapabilityBoundingSet=~CAP_DAC_READ_SEARCH\n")
		m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "victim"})
		if got := degraded(); !slices.Contains(got, "CAP_DAC_READ_SEARCH") {
			t.Errorf("%s: without CAP_DAC_READ_SEARCH, degraded is %v", root, got)
		}

		// A log file where the sandbox forbids it: said, with what to do, and guarding goes on.
		m.Run("mkdir /opt/guard")
		const logfile = "ExecStart=\nExecStart=/usr/bin/checkprocd /opt/guard/log\n"
		with(logfile)
		r := m.awaitEvent("degraded", Fields{"CHECKPROC_REASON": "log.file"})
		for _, text := range []string{"/opt/guard/log", "systemctl edit checkprocd", "ReadWritePaths=/opt/guard"} {
			if !strings.Contains(r["MESSAGE"], text) {
				t.Errorf("%s: %s: does not say %q", root, r["MESSAGE"], text)
			}
		}
		m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "victim"})
		with(logfile + "ReadWritePaths=/opt/guard\n")
		if got := degraded(); slices.Contains(got, "log.file") {
			t.Errorf("%s: with the drop-in that it named, degraded is %v", root, got)
		}
		m.Wait("the log file", func() bool {
			out, _ := m.Try("cat /opt/guard/log")
			return strings.Contains(out, "guards the table")
		})
		with("ExecStart=\nExecStart=/usr/bin/checkprocd --log-file /var/log/checkprocd/log\n")
		m.Wait("the log file", func() bool {
			out, _ := m.Try("cat /var/log/checkprocd/log")
			return strings.Contains(out, "guards the table")
		})
	})
}

// TestEvidence examines a process of another user from inside the unit's sandbox, with the rights as they are shipped
// and without each of those that it takes.
func TestEvidence(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/victim.service": service("/bin/sleep 100000"),
		})
		m.Run("systemctl start victim")
		pid := m.mainPID("victim")
		m.Run("sed 's/^Type=.*/Type=oneshot/; s/^Restart.*//; s/^Watchdog.*//; s/^RuntimeDirectory.*//; s/^ExecReload.*//; " +
			"s|^ExecStart=.*|Environment=\"CHECKPROCD_TEST_ROLE=examine " + pid + "\"\\nExecStart=/usr/lib/rig/process.test|' " +
			"/usr/lib/systemd/system/checkprocd.service >/run/systemd/system/sandbox.service")
		type evidence struct {
			Threads     []struct{ Channel, Syscall string }
			Descriptors int
			Open        []string
			Members     []int
			Cgroup      string
			Host, Group struct{ CPU, Memory, IO float64 }
			Problems    []string
			Release     string
		}
		examine := func(lines string) (e evidence) {
			t.Helper()
			m.WriteFile("/run/systemd/system/sandbox.service.d/e2e.conf", "[Service]\n"+lines)
			m.Mark()
			m.Run("systemctl daemon-reload; systemctl start sandbox")
			// Not _COMM: a busy journald may have looked before the program was there.
			r := m.Await(Fields{"_SYSTEMD_UNIT": "sandbox.service", "MESSAGE": "*", "SYSLOG_IDENTIFIER": "process.test"})
			if err := json.Unmarshal([]byte(r["MESSAGE"]), &e); err != nil || len(e.Threads) != 1 {
				t.Fatalf("%s: %s: %v", root, r["MESSAGE"], err)
			}
			slices.Sort(e.Problems)
			return e
		}

		e := examine("")
		main := e.Threads[0]
		if main.Syscall != "clock_nanosleep" || main.Channel == "" || e.Descriptors < 3 || len(e.Open) != e.Descriptors || e.Problems != nil {
			t.Errorf("%s: as shipped: %+v", root, e)
		}
		if !slices.Equal(e.Members, []int{atoi(t, pid)}) || e.Cgroup != "/system.slice/victim.service" {
			t.Errorf("%s: cgroup %s, members %v", root, e.Cgroup, e.Members)
		}
		for name, p := range map[string]struct{ CPU, Memory, IO float64 }{"host": e.Host, "cgroup": e.Group} {
			if p.CPU < 0 || p.Memory < 0 || p.IO < 0 {
				t.Errorf("%s: pressure of the %s: %+v", root, name, p)
			}
		}
		if !strings.HasSuffix(e.Release, "invalid argument") { // it was not killed
			t.Errorf("%s: process_mrelease: %s", root, e.Release)
		}

		e = examine("CapabilityBoundingSet=~CAP_DAC_READ_SEARCH\n")
		if want := []string{"fd: permission denied", "syscall: permission denied"}; !slices.Equal(e.Problems, want) ||
			e.Threads[0].Syscall != "" || e.Threads[0].Channel == "" || e.Descriptors != -1 {
			t.Errorf("%s: without CAP_DAC_READ_SEARCH: %+v", root, e)
		}
		e = examine("CapabilityBoundingSet=~CAP_SYS_PTRACE\n")
		if want := []string{"fd: permission denied", "syscall: operation not permitted", "wchan: operation not permitted"}; !slices.Equal(e.Problems, want) ||
			e.Threads[0].Syscall != "" || e.Threads[0].Channel != "" || e.Descriptors < 3 {
			t.Errorf("%s: without CAP_SYS_PTRACE: %+v", root, e)
		}
		e = examine("SystemCallFilter=~process_mrelease\n")
		if !strings.HasSuffix(e.Release, "operation not permitted") {
			t.Errorf("%s: process_mrelease outside of the filter: %s", root, e.Release)
		}
	})
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
