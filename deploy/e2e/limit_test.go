package e2e

import (
	"strings"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestLimits has units exceed limits: one that leaks memory is throttled and gets back what it had, one that leaks
// descriptors is restarted by systemd, those that leak memory, spin or are old are ended although they beat and come
// back, as does one that its own limit of the kernel ends, and one that is protected is left alone.
func TestLimits(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		limit := func(name, text string) string {
			return "[[rule]]\nmatch = { name = \"" + name + "\" }\n[[rule.limit]]\nfor = \"1s\"\n" + text
		}
		const conf = "/etc/checkprocd/conf.d/limits.toml"
		throttle := limit("greedy", "of = \"memory\"\nabove = \"24MiB\"\naction = \"throttle\"\nmemory_high = \"400MiB\"\ncpu_quota = \"50%\"\n")
		rest := "interval = \"200ms\"\nlimits.sample = \"1s\"\nprotect.names = [\"kept\"]\n" +
			limit("leaks", "of = \"descriptors\"\nabove = \"90%\"\naction = \"restart\"\n") +
			limit("hog", "of = \"memory\"\nabove = \"32MiB\"\naction = \"ladder\"\n") +
			limit("spins", "of = \"cpu\"\nabove = \"30%\"\naction = \"ladder\"\n") +
			limit("bounded", "of = \"memory\"\nabove = \"1GiB\"\naction = \"ladder\"\n") +
			limit("old", "of = \"age\"\nabove = \"5s\"\naction = \"ladder\"\n") +
			limit("kept", "of = \"age\"\nabove = \"2s\"\naction = \"ladder\"\n")
		m := bootInstalled(t, root, Files{
			conf:                                  rest + throttle,
			"/etc/systemd/system/greedy.service":  service(beats("greedy")+" --leak memory --leak-by 8192 --leak-to 40000", "MemoryHigh=800M"),
			"/etc/systemd/system/leaks.service":   service(leaksOnce("leaks", "--leak descriptors --leak-by 5 --leak-to 46"), "LimitNOFILE=50"),
			"/etc/systemd/system/hog.service":     service(leaksOnce("hog", "--leak memory --leak-by 8192 --leak-to 60000"), "LimitDATA=400M"),
			"/etc/systemd/system/spins.service":   service(leaksOnce("spins", "--leak cpu --leak-by 300")),
			"/etc/systemd/system/bounded.service": service(leaksOnce("bounded", "--leak memory --leak-by 8192 --leak-to 900000"), "LimitDATA=40M"),
			"/etc/systemd/system/old.service":     service(beats("old")),
			"/etc/systemd/system/kept.service":    service(beats("kept")),
		})
		m.startGuard()
		m.Run("systemctl start greedy")
		greedy := m.mainPID("greedy")
		about := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }

		m.awaitEvent("limit", about("greedy"))
		m.awaitEvent("throttled", about("greedy"))
		if high, quota := m.Property("greedy", "MemoryHigh"), m.Property("greedy", "CPUQuotaPerSecUSec"); high != "419430400" || quota != "500ms" {
			t.Errorf("%s: greedy has MemoryHigh=%s CPUQuotaPerSecUSec=%s", root, high, quota)
		}
		if got := m.list()["greedy"].Limits; len(got) != 1 || !strings.HasPrefix(got[0], "memory ") || !strings.HasSuffix(got[0], " > 24MiB: throttle") {
			t.Errorf("%s: checkprocctl list: greedy exceeds %q", root, got)
		}
		if s := m.status(); s.Targets.Limited == 0 || len(s.Throttled) != 1 || s.Throttled[0] != (control.Throttle{Unit: "greedy.service",
			Has: "MemoryHigh=400MiB and CPUQuota=50%", Had: "MemoryHigh=800MiB and CPUQuota=infinity"}) {
			t.Errorf("%s: checkprocctl status: %+v, %+v", root, s.Targets, s.Throttled)
		}
		// The guard is killed, and the rule gone when it is back.
		m.WriteFile(conf, rest)
		m.Run("systemctl kill --signal=KILL --kill-who=main checkprocd")
		m.awaitEvent("unthrottled", about("greedy"))
		if high, quota := m.Property("greedy", "MemoryHigh"), m.Property("greedy", "CPUQuotaPerSecUSec"); high != "838860800" || quota != "infinity" {
			t.Errorf("%s: greedy has MemoryHigh=%s CPUQuotaPerSecUSec=%s afterwards", root, high, quota)
		}

		m.Run("systemctl start leaks hog spins bounded old kept")
		first := map[string]string{}
		for _, unit := range []string{"leaks", "hog", "spins", "old", "kept"} {
			first[unit] = m.mainPID(unit)
		}
		m.awaitEvent("limit", about("leaks"))
		m.awaitEvent("limit-restarted", about("leaks"))
		m.Wait("leaks is back", func() bool { pid := m.mainPID("leaks"); return pid != "0" && pid != first["leaks"] })

		for unit, what := range map[string]string{"old": "age ", "hog": "memory ", "spins": "cpu "} {
			r := m.awaitEvent("limit", Fields{"CHECKPROC_PID": first[unit]})
			if message := r["MESSAGE"]; !strings.Contains(message, what) || !strings.Contains(message, "ending it") {
				t.Errorf("%s: %s", root, message)
			}
			m.awaitEvent("condemned", Fields{"CHECKPROC_PID": first[unit], "CHECKPROC_VERDICT": "limit"})
			m.awaitEvent("killed", Fields{"CHECKPROC_PID": first[unit]})
			m.awaitEvent("restored", about(unit))
		}
		m.awaitEvent("exited", about("bounded"))
		m.awaitEvent("restored", about("bounded"))

		r := m.awaitEvent("limit", about("kept"))
		if message := r["MESSAGE"]; !strings.Contains(message, "protected by") {
			t.Errorf("%s: %s", root, message)
		}
		if got := m.mainPID("kept"); got != first["kept"] || m.mainPID("greedy") != greedy {
			t.Errorf("%s: kept was %s, is %s", root, first["kept"], got)
		}
	})
}

// leaksOnce is a command that leaks when it is started for the first time.
func leaksOnce(name, leak string) string {
	return "/bin/sh -c 'mkdir /tmp/" + name + " || exec " + beats(name) + "; exec " + beats(name) + " " + leak + "'"
}

// TestThrottleStays: what is throttled stays so over a restart of the guard. It is taken back by a guard that is switched
// off, and by the command that one names which stops.
func TestThrottleStays(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const off = "/etc/checkprocd/conf.d/off.toml"
		m := bootInstalled(t, root, Files{
			"/etc/checkprocd/conf.d/limits.toml": "interval = \"200ms\"\nlimits.sample = \"1s\"\n[[rule]]\nmatch = { name = \"greedy\" }\n[[rule.limit]]\nfor = \"1s\"\n" +
				"of = \"age\"\nabove = \"2s\"\naction = \"throttle\"\nmemory_high = \"400MiB\"\ncpu_quota = \"50%\"\n",
			"/etc/systemd/system/greedy.service": service(beats("greedy"), "MemoryHigh=800M"),
		})
		about := Fields{"CHECKPROC_UNIT": "greedy.service"}
		has := func(when string, want ...string) {
			t.Helper()
			if high, quota := m.Property("greedy", "MemoryHigh"), m.Property("greedy", "CPUQuotaPerSecUSec"); high != want[0] || quota != want[1] {
				t.Errorf("%s: %s: greedy has MemoryHigh=%s CPUQuotaPerSecUSec=%s", root, when, high, quota)
			}
		}
		less, all := []string{"419430400", "500ms"}, []string{"838860800", "infinity"}
		m.startGuard()
		m.Run("systemctl start greedy")
		m.awaitEvent("throttled", about)
		has("throttled", less...)
		m.Run("systemctl restart checkprocd")
		m.waitGuarded(1)
		has("after a restart of the guard", less...)
		if n := len(m.events("unthrottled", about)) + len(m.events("throttled", about)); n != 1 {
			t.Errorf("%s: %d changes", root, n)
		}

		m.WriteFile(off, "[cpactive]\nenabled = false\n")
		m.Run("systemctl reload checkprocd")
		m.awaitEvent("unthrottled", about)
		has("switched off", all...)
		if s := m.status(); len(s.Throttled) != 0 {
			t.Errorf("%s: checkprocctl status: %+v", root, s.Throttled)
		}

		m.Mark()
		m.Run("rm " + off + "; systemctl reload checkprocd")
		m.awaitEvent("throttled", about)
		m.Run("systemctl stop checkprocd")
		has("the guard has stopped", less...)
		_, command, is := strings.Cut(m.awaitEvent("stopping")["MESSAGE"], "greedy.service keeps MemoryHigh=400MiB and CPUQuota=50% until then, or: ")
		if !is {
			t.Fatalf("%s: %s", root, m.awaitEvent("stopping")["MESSAGE"])
		}
		m.Run(command)
		has("set back by hand", all...)
	})
}
