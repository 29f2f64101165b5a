package e2e

import (
	"strings"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestLimits has units exceed limits: one is throttled and gets back what it had, one is restarted by systemd, one is
// ended although it beats and comes back, and one that is protected is left alone.
func TestLimits(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		limit := func(name, text string) string {
			return "[[rule]]\nmatch = { name = \"" + name + "\" }\n[[rule.limit]]\nfor = \"1s\"\n" + text
		}
		const conf = "/etc/checkprocd/conf.d/limits.toml"
		throttle := limit("greedy", "of = \"memory\"\nabove = \"32KiB\"\naction = \"throttle\"\nmemory_high = \"400MiB\"\ncpu_quota = \"50%\"\n")
		rest := "interval = \"200ms\"\nlimits.sample = \"1s\"\nprotect.names = [\"kept\"]\n" +
			limit("leaks", "of = \"descriptors\"\nabove = 20\naction = \"restart\"\n") +
			limit("old", "of = \"age\"\nabove = \"5s\"\naction = \"ladder\"\n") +
			limit("kept", "of = \"age\"\nabove = \"2s\"\naction = \"ladder\"\n")
		m := bootInstalled(t, root, Files{
			conf:                                 rest + throttle,
			"/etc/systemd/system/greedy.service": service(beats("greedy"), "MemoryHigh=800M"),
			"/etc/systemd/system/leaks.service":  service("/usr/lib/leaks"),
			// It opens many files when it is started for the first time.
			"/usr/lib/leaks":                   "#!/bin/bash\nif mkdir /tmp/leaked; then for i in {10..60}; do eval \"exec $i</dev/null\"; done; fi\nexec " + beats("leaks") + "\n",
			"/etc/systemd/system/old.service":  service(beats("old")),
			"/etc/systemd/system/kept.service": service(beats("kept")),
		})
		m.startGuard()
		m.Run("systemctl start greedy leaks old kept")
		first := map[string]string{}
		for _, unit := range []string{"greedy", "leaks", "old", "kept"} {
			first[unit] = m.mainPID(unit)
		}
		about := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }

		m.awaitEvent("limit", about("greedy"))
		m.awaitEvent("throttled", about("greedy"))
		if high, quota := m.Property("greedy", "MemoryHigh"), m.Property("greedy", "CPUQuotaPerSecUSec"); high != "419430400" || quota != "500ms" {
			t.Errorf("%s: greedy has MemoryHigh=%s CPUQuotaPerSecUSec=%s", root, high, quota)
		}
		if got := m.list()["greedy"].Limits; len(got) != 1 || !strings.HasPrefix(got[0], "memory ") || !strings.HasSuffix(got[0], " > 32KiB: throttle") {
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

		m.awaitEvent("limit", about("leaks"))
		m.awaitEvent("limit-restarted", about("leaks"))
		m.Wait("leaks is back", func() bool { pid := m.mainPID("leaks"); return pid != "0" && pid != first["leaks"] })

		m.awaitEvent("condemned", Fields{"CHECKPROC_PID": first["old"], "CHECKPROC_VERDICT": "limit"})
		m.awaitEvent("killed", Fields{"CHECKPROC_PID": first["old"]})
		m.awaitEvent("restored", about("old"))

		r := m.awaitEvent("limit", about("kept"))
		if message := r["MESSAGE"]; !strings.Contains(message, "protected by") {
			t.Errorf("%s: %s", root, message)
		}
		if got := m.mainPID("kept"); got != first["kept"] || m.mainPID("greedy") != first["greedy"] {
			t.Errorf("%s: kept was %s, is %s", root, first["kept"], got)
		}
	})
}
