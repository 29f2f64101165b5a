package e2e

import (
	"strings"
	"testing"
)

// TestAlong has units that systemd would restart together with others, and units with two names: what is protected, by
// whichever name, is not ended, nor restarted with a unit that it needs, for a limit or after another; and nothing is
// restarted under another name than its own.
func TestAlong(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/checkprocd/conf.d/along.toml": "interval = \"200ms\"\nlimits.sample = \"1s\"\nprotect.units = [\"sql.service\", \"base.service\"]\n" + noPressure +
				"[[rule]]\nmatch = { name = \"lead\" }\nthen = [\"other.service\", \"net.service\", \"free.service\"]\n" +
				"[[rule]]\nmatch = { name = \"net\" }\n[[rule.limit]]\nfor = \"1s\"\nof = \"descriptors\"\nabove = \"90%\"\naction = \"restart\"\n",
			"/etc/systemd/system/net.service":  service(leaksOnce("net", "--leak descriptors --leak-by 5 --leak-to 46"), "LimitNOFILE=50"),
			"/etc/systemd/system/mid.service":  service("/bin/sleep infinity", "[Unit]\nPartOf=net.service"),
			"/etc/systemd/system/db.service":   service(client+" --name db --timeout 2 --beat 0", "[Unit]\nRequires=mid.service\nAfter=mid.service"),
			"/etc/systemd/system/free.service": service("/bin/sleep infinity"),
			"/etc/systemd/system/lead.service": service(beats("lead")),
			"/etc/systemd/system/base.service": service(beats("base")),
			"/etc/systemd/system/top.service":  service(beats("top"), "[Unit]\nRequires=base.service\nAfter=base.service"),
		})
		m.Run("cd /etc/systemd/system && ln -s db.service sql.service && ln -s free.service other.service && systemctl daemon-reload")
		m.Run("systemctl start mid db free lead")
		m.startGuard()
		about := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }
		says := func(r Record, text string) {
			t.Helper()
			if !strings.Contains(r["MESSAGE"], text) {
				t.Errorf("%s: %s, want %q in it", root, r["MESSAGE"], text)
			}
		}
		first := map[string]string{}
		for _, unit := range []string{"mid", "db", "free"} {
			first[unit] = m.mainPID(unit)
		}
		says(m.awaitEvent("protected", about("db")), `protected by protect.units "sql.service"`)
		m.awaitEvent("degraded", Fields{"CHECKPROC_REASON": "then other.service"})

		m.Run("systemctl start net")
		net := m.mainPID("net")
		const along = `it would take db.service along: protected by protect.units "sql.service"`
		says(m.awaitEvent("limit-failed", about("net")), `it would take db.service along: pid `+first["db"]+` (db): protected by protect.units "sql.service"`)

		m.waitGuarded(2)
		m.Run("systemctl kill --signal=SEGV --kill-who=main lead")
		m.awaitEvent("restored", about("lead"))
		says(m.awaitEvent("refused", about("other")), "other.service is not restarted after lead.service (lead) came back: it is another name of free.service, and its rule has to name that")
		says(m.awaitEvent("refused", about("net")), along)
		m.awaitEvent("restored", about("free"))
		for unit, pid := range map[string]string{"mid": first["mid"], "db": first["db"], "net": net} {
			if got := m.mainPID(unit); got != pid {
				t.Errorf("%s: %s has pid %s, had %s", root, unit, got, pid)
			}
		}
		if got := m.mainPID("free"); got == first["free"] {
			t.Errorf("%s: free was not restarted", root)
		}

		// With nobody of them up, nothing is in the way of the limit.
		m.Run("systemctl stop db")
		m.awaitEvent("limit-restarted", about("net"))
		m.Wait("net and mid are restarted", func() bool {
			n, mid := m.mainPID("net"), m.mainPID("mid")
			return n != "0" && n != net && mid != "0" && mid != first["mid"]
		})
		if got := len(m.events("limit-failed", about("net"))); got != 1 {
			t.Errorf("%s: it is said %d times that net cannot be restarted", root, got)
		}

		// What needs a protected unit that is down is not started, or that would be.
		m.Run("systemctl start top")
		m.waitGuarded(4)
		m.Run("systemctl kill --signal=SEGV --kill-who=main base top")
		says(m.awaitEvent("left-down", about("base")), "protected by")
		says(m.awaitEvent("left-down", about("top")), `it would take base.service along: protected by protect.units "base.service"`)
		for _, unit := range []string{"base", "top"} {
			m.WaitUnit(unit, "failed")
		}
	})
}
