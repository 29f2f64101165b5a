package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/alert"
)

// examples are files of deploy/examples, and where its README says that they belong.
func examples(t *testing.T) map[string]string {
	t.Helper()
	index, err := os.ReadFile("../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)\\[([^]]+)\\]\\([^)]+\\) \\| `(/[^`]+)` \\|$").FindAllStringSubmatch(string(index), -1) {
		places[m[1]] = m[2]
	}
	return places
}

// useExamples copies examples, as they are installed, to their places.
func (m *Machine) useExamples(names ...string) {
	m.t.Helper()
	places := examples(m.t)
	for _, name := range names {
		m.Run("install -D -m 0644 '/usr/share/doc/checkprocd/examples/" + name + "' '" + places[name] + "'")
	}
	m.Run("systemctl daemon-reload")
}

// ownClient compiles a client of this test alone, and returns it as content for a machine.
func ownClient(t *testing.T, source string) string {
	t.Helper()
	const c = "../../pkg/table/testdata"
	program := filepath.Join(t.TempDir(), "client")
	if out, err := exec.Command("cc", "-std=gnu11", "-O2", "-static", "-pthread", "-I", c, "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", source, err, out)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExamples installs the examples as they are, all that go together at once, and sees of each what its comments
// promise.
func TestExamples(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		rootOf(t, root)
		together := []string{
			"observe-first.toml", "critical-short-timeout.toml", "core-dump.toml", "core-dump.conf", "whole-cgroup.toml", "protect.toml",
			"recovery.toml", "limits.toml", "configuration.toml", "alert.toml", "checkprocd-alert@.service", "alert-receivers.toml", "alert-secret.conf",
		}
		alone := []string{"nfs-site.toml", "many-programs.toml"}
		if places := examples(t); len(places) != len(together)+len(alone) {
			t.Errorf("%d examples, and %d are tried", len(places), len(together)+len(alone))
		}

		const hangs = " --timeout 2 --beat 500 --beats 3"
		hung := func(name string, lines ...string) string { return service(client+" --name "+name+hangs, lines...) }
		wave := func(name string, clients int) string {
			return service(fmt.Sprintf("/bin/sh -c 'for i in $(seq %d); do %s --name %s$i%s & done; wait'", clients, client, name, hangs))
		}
		stuck := func(name, timeout string) string {
			return service("/usr/lib/rig/member " + name + " " + timeout + " 200 exit vfork")
		}
		greedy := func(mib, files string) string { return "/usr/lib/rig/greedy " + mib + " " + files + " --beat 500 " }
		units := Files{
			"print1":    hangsOnce("always", ""),
			"batch1":    hung("batch1"),
			"control1":  hangsOnce("always", "--timeout 30 --ignore-term"),
			"control2":  stuck("control2", "30"),
			"dbwriter":  hangsOnce("always", "") + "WorkingDirectory=/var/tmp\n",
			"render@":   service(once("(trap \"\" TERM; exec sleep 77777) & (exec sleep 77777) & exec "+client+" --name %N --timeout 2 --beat 500 --beats 10"), "KillMode=process"),
			"trader1":   hung("trader1"),
			"bank-1":    hung("teller"),
			"visitor":   hung("visitor", "User=guest"),
			"queue":     service(beats("queue")),
			"reader":    service("/bin/sleep infinity"),
			"writer":    service("/bin/sleep infinity"),
			"collector": service(client+" --name collector"+hangs, "User=idc"),
			"ledger":    service("/bin/sh -c '(sleep 1; kill -SEGV $$$$) & exec " + beats("ledger") + "'"),
			"report1":   service(once("exec " + greedy("256", "0") + "--name %N --timeout 4")),
			"report2":   service(greedy("1", "61")+"--name report2 --timeout 4", "LimitNOFILE=64"),
			"index1":    service(greedy("256", "0") + "--name index1 --timeout 4"),
			"ftp":       service(beats("ftp"), "ExecReload=+/bin/cp /etc/ftp/ftp.conf /run/ftp.loaded"),
			"crowd":     crowd(20),
			"archive1":  stuck("archive1", "2"),
			"mounts":    wave("mount", 5),
			"wave":      wave("wave", 55),
		}
		files := Files{
			"/usr/lib/rig/member":             ownClient(t, "../../pkg/daemon/testdata/member.c"),
			"/usr/lib/rig/greedy":             ownClient(t, "testdata/greedy.c"),
			"/usr/bin/mail":                   "#!/bin/sh\n{ echo \"mail $*\"; cat; } >>/run/mail\nexit 1\n", // there is no MTA
			"/usr/sbin/ftpd":                  "#!/bin/sh\n[ \"$1\" = --check ] && grep -q ^port= /etc/ftp/ftp.conf\n",
			"/etc/ftp/ftp.conf":               "port=21\n",
			"/opt/collector/bin/collector":    "#!/bin/sh\n[ \"$1\" = --all ] && exec " + beats("collector") + "\n",
			"/etc/checkprocd/webhook.secret":  hookSecret + "\n",
			"/etc/checkprocd/conf.d/e2e.toml": noPressure,
		}
		for name, text := range units {
			files["/etc/systemd/system/"+name+".service"] = text
		}
		m := bootInstalled(t, root, files)
		m.Run("useradd idc; useradd guest; chmod 0600 /etc/checkprocd/webhook.secret")
		h := &hook{}
		h.open(m)
		m.useExamples(together...)
		m.startGuard()
		m.Run("systemctl start checkproc-alert reader writer queue ftp crowd")
		m.Run("checkprocctl alert test")
		m.waitGuarded(22) // enough that beat, so that those that hang are no wave

		all := "print1 batch1 control1 control2 dbwriter render@1 trader1 bank-1 visitor collector ledger report1 report2 index1"
		about := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }
		first := map[string]string{"reader": m.mainPID("reader"), "writer": m.mainPID("writer")}
		m.Run("systemctl start " + all)
		var renders []string
		m.Wait("three processes of render@1", func() bool {
			renders = strings.Fields(m.Run("cat /sys/fs/cgroup/system.slice/system-render.slice/render@1.service/cgroup.procs"))
			return len(renders) == 3
		})
		for _, unit := range append(strings.Fields(all), "queue", "ftp") {
			if unit == "visitor" {
				first[unit] = m.awaitEvent("refused", about(unit))["CHECKPROC_PID"]
				continue
			}
			first[unit] = m.awaitEvent("registered", about(unit))["CHECKPROC_PID"]
		}
		pid := func(unit string) Fields { return Fields{"CHECKPROC_PID": first[unit]} }
		m.WriteFile("/etc/ftp/ftp.conf", "port=2121\n")
		m.Run("systemctl kill --signal=USR1 --kill-who=main control2; systemctl kill --signal=SEGV --kill-who=main queue")

		// observe-first
		m.awaitEvent("killed", pid("print1"))
		m.awaitEvent("would-condemn", pid("batch1"))

		// critical-short-timeout
		r := m.awaitEvent("condemned", pid("control1"))
		m.check(r, Fields{"CHECKPROC_TIMEOUT_USEC": "2000000"})
		if got := m.status().IntervalUsec; got != 250_000 {
			t.Errorf("%s: interval %d µs", root, got)
		}
		term := m.awaitEvent("signalled", pid("control1"), Fields{"CHECKPROC_SIGNAL": "SIGTERM"})
		kill := m.awaitEvent("signalled", pid("control1"), Fields{"CHECKPROC_SIGNAL": "SIGKILL"})
		if waited := kill.Time().Sub(term.Time()); waited < 300*time.Millisecond || waited > 4500*time.Millisecond {
			t.Errorf("%s: SIGKILL came %v after SIGTERM", root, waited)
		}
		m.check(m.awaitEvent("condemned", pid("control2")), Fields{"CHECKPROC_VERDICT": "blocked"})
		if got := m.events("waiting", pid("control2")); len(got) != 0 {
			t.Errorf("%s: %s", root, got[0]["MESSAGE"])
		}

		// core-dump
		m.check(m.awaitEvent("signalled", pid("dbwriter")), Fields{"CHECKPROC_SIGNAL": "SIGABRT", "CHECKPROC_STEP": "1"})
		m.check(m.awaitEvent("killed", pid("dbwriter")), Fields{"CHECKPROC_SIGNAL": "SIGABRT"})
		if got := m.Property("dbwriter", "LimitCORE"); got != "infinity" {
			t.Errorf("%s: LimitCORE=%s", root, got)
		}
		pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(string(pattern[:1]), "|/@\n") {
			t.Logf("core dumps go to %q, not to the working directory", pattern)
		} else {
			m.Run("test -s /var/tmp/core*")
		}

		// whole-cgroup
		m.awaitEvent("killed", pid("render@1"))
		for _, pid := range renders {
			m.Wait("pid "+pid+" has ended", func() bool { _, code := m.Try("test ! -e /proc/" + pid); return code == 0 })
		}

		// protect
		for _, unit := range []string{"trader1", "bank-1"} {
			m.awaitEvent("protected", pid(unit))
		}
		if r := m.awaitEvent("refused", about("visitor")); !strings.Contains(r["MESSAGE"], "visitor") {
			t.Errorf("%s: %s", root, r["MESSAGE"])
		}

		// configuration
		m.check(m.awaitEvent("config-applied", about("ftp")), Fields{"CHECKPROC_REASON": "reload"})
		m.WriteFile("/etc/ftp/ftp.conf", "prot=21\n")
		m.awaitEvent("config-check-failed", about("ftp"))
		if got := m.Run("cat /run/ftp.loaded"); got != "port=2121" {
			t.Errorf("%s: in force is %q", root, got)
		}

		// recovery
		ended := m.awaitEvent("exited", pid("queue"))
		after := []time.Time{ended.Time().Add(1500 * time.Millisecond)}
		for _, unit := range []string{"queue", "reader", "writer"} {
			after = append(after, m.awaitEvent("restored", about(unit)).Time())
			if m.mainPID(unit) == first[unit] {
				t.Errorf("%s: %s was not restarted", root, unit)
			}
		}
		if !slices.IsSortedFunc(after, time.Time.Compare) {
			t.Errorf("%s: the order is %v", root, after)
		}

		m.awaitEvent("restored", pid("collector"))
		m.Wait("the collector is there", func() bool {
			x := m.list()["collector"]
			return x.State == "guarded" && strings.HasPrefix(x.Unit, "checkprocd-run-") && strconv.Itoa(int(x.UID)) == m.Run("id -u idc")
		})

		m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "ledger"})
		if got := len(m.events("restored", about("ledger"))) + len(m.events("restore-failed", about("ledger"))); got > 2 {
			t.Errorf("%s: it was started %d times", root, got)
		}

		// limits
		m.awaitEvent("limit", pid("report2"))
		m.awaitEvent("limit-restarted", about("report1"))
		m.Wait("another report1", func() bool { now := m.mainPID("report1"); return now != "0" && now != first["report1"] })
		m.awaitEvent("throttled", about("index1"))
		if got := m.Property("index1", "MemoryHigh"); got != strconv.Itoa(150<<20) {
			t.Errorf("%s: MemoryHigh=%s", root, got)
		}
		m.Run("systemctl stop index1")
		m.awaitEvent("unthrottled", about("index1"))
		if got := m.Property("index1", "MemoryHigh"); got != "infinity" {
			t.Errorf("%s: afterwards MemoryHigh=%s", root, got)
		}
		if got := m.mainPID("report2"); got != first["report2"] {
			t.Errorf("%s: report2 was pid %s, and is %s", root, first["report2"], got)
		}

		// alert
		for _, what := range []string{"alert-test", "condemned/print1/" + first["print1"], "gave-up/ledger"} {
			m.Wait("a mail about "+what, func() bool {
				out, _ := m.Try("cat /run/mail")
				return strings.Contains(out, "mail -s checkprocd on "+m.Run("uname -n")+": "+what)
			})
		}
		m.Run("grep -q 'hung; ending it' /run/mail")
		m.Run("journalctl -q -u 'checkprocd-alert@*' | grep -q 'Failed with result'")
		m.Wait("the failed mails to be forgotten", func() bool {
			return m.Run("systemctl list-units --all --no-legend --plain --state=failed 'checkprocd-alert@*'") == ""
		})

		// alert-receivers
		if n := h.await(m, "dbwriter", alert.Firing); n.Alert.Severity != "critical" {
			t.Errorf("%s: %+v", root, n)
		}
		h.await(m, "dbwriter", alert.Resolved)
		var n alert.Notification
		for _, what := range []string{"print1", "batch1"} {
			if h.count(what, alert.Firing, &n) != 0 {
				t.Errorf("%s: %+v", root, n)
			}
		}
		m.Wait("Alertmanager, which is not there, is told, too", func() bool {
			return strings.Contains(m.Run("journalctl --no-pager -u checkproc-alert"), "127.0.0.1:9093")
		})
		for _, unit := range []string{"batch1", "trader1", "bank-1", "visitor"} {
			if got := m.mainPID(unit); got != first[unit] {
				t.Errorf("%s: %s was pid %s, and is %s", root, unit, first[unit], got)
			}
		}
		for _, r := range m.events("signalled") {
			if slices.Contains([]string{first["batch1"], first["trader1"], first["bank-1"], first["visitor"]}, r["CHECKPROC_PID"]) {
				t.Errorf("%s: %s", root, r["MESSAGE"])
			}
		}

		// From here on each by itself.
		swap := func(name string) {
			m.Run("systemctl stop checkproc-alert reader writer queue ftp crowd 'checkprocd-run-*' " + all)
			m.Run("find /etc/checkprocd/conf.d -type f ! -name e2e.toml -delete")
			m.useExamples(name)
			m.Mark()
		}

		// How many are condemned before so many are late that it is a wave, is a matter of how fast they were started.
		braked := func(clients int) {
			t.Helper()
			on := m.awaitEvent("brake-on").Time()
			all, held := map[string]bool{}, map[string]bool{}
			m.Wait("all are condemned, some held by the brake", func() bool {
				for _, r := range m.events("condemned") {
					all[r["CHECKPROC_PID"]] = true
					if strings.Contains(r["MESSAGE"], "held by the brake") {
						held[r["CHECKPROC_PID"]] = true
					}
				}
				return len(all) == clients && len(held) > 0
			})
			for _, r := range m.events("signalled") {
				if after := r.Time().Sub(on); held[r["CHECKPROC_PID"]] && after < 9*time.Second {
					t.Errorf("%s: %v after the brake: %s", root, after, r["MESSAGE"])
				}
			}
		}

		// nfs-site
		swap("nfs-site.toml")
		m.Run("systemctl reload checkprocd")
		m.Run("systemctl start archive1 queue ftp mounts")
		archive := m.mainPID("archive1")
		m.awaitEvent("registered", Fields{"CHECKPROC_PID": archive})
		m.Run("systemctl kill --signal=USR1 --kill-who=main archive1")
		m.check(m.awaitEvent("would-condemn", Fields{"CHECKPROC_PID": archive}), Fields{"CHECKPROC_VERDICT": "blocked"})
		braked(5)
		if got := m.mainPID("archive1"); got != archive {
			t.Errorf("%s: archive1 was pid %s, and is %s", root, archive, got)
		}
		m.Run("systemctl stop archive1 mounts")

		// many-programs
		swap("many-programs.toml")
		m.Run("systemctl stop checkprocd; ipcrm -M 0x5095 -S 0x5095; systemctl start checkprocd")
		if got := m.segment()["size"]; got != strconv.Itoa(20000*72) {
			t.Errorf("%s: the segment has %s bytes", root, got)
		}
		if got := m.status().IntervalUsec; got != 2_000_000 {
			t.Errorf("%s: interval %d µs", root, got)
		}
		if out := m.Run("checkprocd --check"); !strings.Contains(out, "max_concurrent = 64 ") {
			t.Errorf("%s: in force is\n%s", root, out)
		}
		m.Run("systemctl start crowd wave")
		braked(55)
		m.Run("systemctl stop wave")
	})
}
