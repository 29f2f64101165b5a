package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// kinds are the values of Restart=, and what systemd itself starts again: a clean end such as that after SIGTERM, and a crash.
var kinds = map[string]struct{ clean, crash bool }{
	"no": {false, false}, "always": {true, true}, "on-success": {true, false}, "on-failure": {false, true},
	"on-abnormal": {false, true}, "on-abort": {false, true}, "on-watchdog": {false, false},
}

// beats is a healthy client.
func beats(name string) string { return client + " --name " + name + " --timeout 4 --beat 500" }

// TestRecovery has units of every kind hang, crash, be stopped and flap; each comes back once, by systemd or by the guard,
// and what was stopped stays down.
func TestRecovery(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		files := Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"2s\"\ncap = \"3s\"\nattempts = 3\n" +
				"[[rule]]\nmatch = { name = \"lead\" }\nthen = [\"follows.service\", \"bound.service\", \"down.service\"]\n" +
				"[[rule]]\nmatch = { name = \"collector\" }\nrestart = { command = [\"" + client + "\", \"--name\", \"collector\", \"--timeout\", \"4\", \"--beat\", \"500\"], user = \"daemon\" }\n" +
				"[[rule]]\nmatch = { name = \"slow\" }\nstart_grace = \"10m\"\n",
			// A process that crashes 2 s after its start, whenever it is started.
			"/etc/systemd/system/flap.service":        service("/bin/sh -c '(sleep 2; kill -SEGV $$$$) & exec " + beats("flap") + "'"),
			"/etc/systemd/system/stopped.service":     service(beats("stopped")),
			"/etc/systemd/system/stopped-bad.service": service(beats("stopped-bad")+" --ignore-term", "TimeoutStopSec=500ms"),
			"/etc/systemd/system/lead.service":        service(beats("lead")),
			"/etc/systemd/system/follows.service":     service("/bin/sleep infinity"),
			"/etc/systemd/system/bound.service":       "[Unit]\nBindsTo=lead.service\nAfter=lead.service\n" + strings.TrimPrefix(service("/bin/sleep infinity"), "[Unit]\n"),
			"/etc/systemd/system/down.service":        service("/bin/sleep infinity"),
			"/etc/systemd/system/sched.service":       service("/usr/lib/rig-sched/procctl " + beats("scheduled")),
			"/etc/systemd/system/slow.service":        service(client + " --name slow --timeout 2 --beat 0"),
			"/usr/lib/rig-sched/procctl":              "#!/bin/sh\nwhile :; do \"$@\"; sleep 1; done\n",
		}
		var hang, crash []string
		for kind := range kinds {
			hang, crash = append(hang, "hang-"+kind), append(crash, "crash-"+kind)
			files["/etc/systemd/system/hang-"+kind+".service"] = hangsOnce(kind, "--term-exit")
			files["/etc/systemd/system/crash-"+kind+".service"] = service(beats("crash-"+kind), "Restart="+kind, "RestartSec=100ms")
		}
		m := bootInstalled(t, root, files)
		m.startGuard()

		all := append(slices.Concat(hang, crash), "stopped", "stopped-bad", "lead", "follows", "bound", "sched", "slow")
		m.Run("systemctl start down; systemctl stop down; systemctl start " + strings.Join(all, " "))
		first := map[string]string{}
		for _, unit := range all {
			first[unit] = m.mainPID(unit)
		}
		m.Wait("all that crash or are stopped are guarded", func() bool {
			list := m.list()
			for _, name := range append(slices.Clone(crash), "stopped", "stopped-bad", "lead", "scheduled", "slow") {
				if list[name].State != "guarded" {
					return false
				}
			}
			return true
		})
		scheduled := m.list()["scheduled"].PID
		m.Run("systemctl stop stopped stopped-bad; systemctl kill --signal=SEGV --kill-who=main lead " + strings.Join(crash, " "))
		m.Run(fmt.Sprintf("kill -SEGV %d", scheduled))
		if got := m.Property("stopped-bad", "ActiveState"); got != "failed" {
			t.Fatalf("%s: stopped-bad is %s: a stop that ends badly was to be tried", root, got)
		}

		for kind, by := range kinds {
			for unit, systemd := range map[string]bool{"hang-" + kind: by.clean, "crash-" + kind: by.crash} {
				m.Wait(unit+" is back", func() bool { pid := m.mainPID(unit); return pid != "0" && pid != first[unit] })
				about := Fields{"CHECKPROC_UNIT": unit + ".service"}
				if systemd {
					if got := m.events("restored", about); len(got) != 0 {
						t.Errorf("%s: %s was systemd's: %v", root, unit, got)
					}
					continue
				}
				r := m.awaitEvent("restored", about, Fields{"CHECKPROC_PID": first[unit]})
				ended := m.Records(Fields{"CHECKPROC_PID": first[unit], "CHECKPROC_EVENT": map[bool]string{true: "killed", false: "exited"}[strings.HasPrefix(unit, "hang")]})
				if len(ended) != 1 || r.Time().Sub(ended[0].Time()) < 1500*time.Millisecond {
					t.Errorf("%s: %s restored at %v after %v", root, unit, r.Time(), ended)
				}
			}
		}

		// Those that follow, in order; who was down before stays down.
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "lead.service"})
		after := []Record{m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "follows.service"}), m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "bound.service"})}
		if after[1].Time().Before(after[0].Time()) {
			t.Errorf("%s: %v", root, after)
		}
		for unit, state := range map[string]string{"lead": "active", "follows": "active", "bound": "active", "down": "inactive"} {
			if got := m.Property(unit, "ActiveState"); got != state {
				t.Errorf("%s: %s is %s, want %s", root, unit, got, state)
			}
		}
		for _, unit := range []string{"follows", "bound"} {
			if m.mainPID(unit) == first[unit] {
				t.Errorf("%s: %s was not restarted", root, unit)
			}
		}

		// It flaps: three starts, then no more, until somebody says so.
		m.Run("systemctl start flap")
		gaveUp := m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "flap"})
		m.check(gaveUp, Fields{"CHECKPROC_UNIT": "flap.service", "PRIORITY": "3", "CHECKPROC_REASON": "*"})
		starts := func() int {
			about := Fields{"CHECKPROC_NAME": "flap"}
			return len(m.events("restored", about)) + len(m.events("restore-failed", about))
		}
		m.Wait("three starts are told", func() bool { return starts() >= 3 })
		status := m.Run("checkprocctl status")
		if !strings.Contains(status, "given up") {
			t.Errorf("%s: checkprocctl status:\n%s", root, status)
		}
		if out := m.Run("systemctl status checkprocd"); !strings.Contains(out, "1 given up") {
			t.Errorf("%s: systemctl status:\n%s", root, out)
		}
		m.Run("systemctl kill --signal=KILL checkprocd; sleep 1")
		m.Wait("the guard is back, and knows what is given up", func() bool {
			out, code := m.Try("checkprocctl status")
			return code == 0 && strings.Contains(out, "given up")
		})
		if got := m.Property("flap", "ActiveState"); got != "failed" {
			t.Errorf("%s: flap is %s", root, got)
		}
		if n := starts(); n != 3 {
			t.Errorf("%s: flap was started %d times", root, n)
		}
		m.Mark()
		m.Run("checkprocctl recover flap")
		m.check(m.awaitEvent("retrying", Fields{"CHECKPROC_NAME": "flap"}), Fields{"PRIORITY": "5"})
		m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "flap"})
		if out, code := m.Try("checkprocctl recover nobody"); code != 1 {
			t.Errorf("%s: recover nobody: exit status %d, %s", root, code, out)
		}

		// By now all waits of what was stopped are over.
		for _, unit := range []string{"stopped", "stopped-bad", "down"} {
			if pid := m.mainPID(unit); pid != "0" {
				t.Errorf("%s: %s was stopped, and runs as %s", root, unit, pid)
			}
		}
		m.Wait("procctl has started its own again", func() bool {
			x := m.list()["scheduled"]
			return x.State == "guarded" && x.PID != scheduled
		})
		if got := m.mainPID("slow"); got != first["slow"] {
			t.Errorf("%s: slow was ended within its grace", root)
		}

		// A process without a unit, brought back by a command: twice, as the new one is guarded too.
		m.Run("setsid runuser -u daemon -- " + beats("collector") + " >/dev/null 2>&1 </dev/null &")
		pid := int32(0)
		for range 2 {
			m.Wait("a collector is guarded", func() bool { x := m.list()["collector"]; return x.State == "guarded" && x.PID != pid })
			x := m.list()["collector"]
			if pid != 0 && (!strings.HasPrefix(x.Unit, "checkprocd-run-") || x.UID != 1) {
				t.Errorf("%s: %+v", root, x)
			}
			pid = x.PID
			m.Run(fmt.Sprintf("kill -SEGV %d", pid))
			r := m.awaitEvent("restored", Fields{"CHECKPROC_NAME": "collector", "CHECKPROC_PID": fmt.Sprint(pid)})
			m.check(r, Fields{"PRIORITY": "5"})
		}
		for _, name := range []string{"stopped.service", "stopped-bad.service", "down.service", "sched.service"} {
			if got := m.Journal("CHECKPROC_EVENT=restored", "CHECKPROC_UNIT="+name); len(got) != 0 {
				t.Errorf("%s: %s: %v", root, name, got)
			}
		}
	})
}

// TestOperatorsWord has operators stop and mask at the wrong moments: that stands. What was started and fails before it
// registers is noticed, and nothing is left behind of it.
func TestOperatorsWord(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		bound := func(to string) string {
			return "[Unit]\nBindsTo=" + to + ".service\nAfter=" + to + ".service\n" + strings.TrimPrefix(service("/bin/sleep infinity"), "[Unit]\n")
		}
		m := bootInstalled(t, root, Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"7s\"\ncap = \"7s\"\nattempts = 3\n" +
				"[[rule]]\nmatch = { name = \"lead\" }\nthen = [\"tied.service\", \"stopped.service\", \"stopped-later.service\"]\n" +
				"[[rule]]\nmatch = { name = \"mute\" }\nrestart = { command = [\"/bin/sh\", \"-c\", \"sleep 4; exit 3\"], user = \"daemon\" }\n",
			"/etc/systemd/system/lead.service":          service(beats("lead")),
			"/etc/systemd/system/tied.service":          bound("lead"),
			"/etc/systemd/system/stopped.service":       bound("lead"),
			"/etc/systemd/system/stopped-later.service": service("/bin/sleep infinity"),
			"/usr/lib/systemd/system/masked.service":    service(beats("masked")),
			"/etc/systemd/system/removed.service":       service(beats("removed")),
			"/etc/systemd/system/once.service":          service("/usr/lib/rig/once"),
			"/usr/lib/rig/once":                         "#!/bin/sh\nmkdir /tmp/once 2>/dev/null && exec " + beats("once") + "\nsleep 4; exit 5\n",
		})
		m.startGuard()
		m.Run("systemctl start lead tied stopped stopped-later masked removed once")
		m.Run("setsid runuser -u daemon -- " + beats("mute") + " >/dev/null 2>&1 </dev/null &")
		m.waitGuarded(5)
		tied := m.mainPID("tied")
		m.Run("systemctl stop stopped")
		mute := m.list()["mute"].PID
		m.Run("systemctl kill --signal=SEGV --kill-who=main lead masked removed once; sleep 1")
		m.Run(fmt.Sprintf("kill -SEGV %d; systemctl stop stopped-later; systemctl mask masked; rm /etc/systemd/system/removed.service; systemctl daemon-reload", mute))

		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "lead.service"})
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "tied.service"})
		for unit, state := range map[string]string{"lead": "active", "tied": "active", "stopped": "inactive", "stopped-later": "inactive"} {
			m.WaitUnit(unit, state)
		}
		if got := m.mainPID("tied"); got == tied || got == "0" {
			t.Errorf("%s: tied has pid %s, had %s", root, got, tied)
		}

		// Neither process ever registers: each start counts, and three are enough.
		r := m.awaitEvent("restore-failed", Fields{"CHECKPROC_UNIT": "once.service"})
		if !strings.Contains(r["MESSAGE"], "nobody in it has registered: it failed: exit status 5") {
			t.Errorf("%s: %s", root, r["MESSAGE"])
		}
		m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "once"})
		r = m.awaitEvent("restore-failed", Fields{"CHECKPROC_NAME": "mute"})
		if !strings.Contains(r["MESSAGE"], "nobody in it has registered: it failed: exit status 3") {
			t.Errorf("%s: %s", root, r["MESSAGE"])
		}
		m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "mute"})
		if out := m.Run("systemctl list-units --all --plain --no-legend 'checkprocd-run*'"); out != "" {
			t.Errorf("%s: commands are left behind: %s", root, out)
		}
		for _, unit := range []string{"stopped", "stopped-later", "masked", "removed"} {
			if got := m.Property(unit, "ActiveState"); got == "active" || got == "activating" {
				t.Errorf("%s: %s is %s", root, unit, got)
			}
			if got := m.Journal("CHECKPROC_EVENT=restored", "CHECKPROC_UNIT="+unit+".service"); len(got) != 0 {
				t.Errorf("%s: %s: %v", root, unit, got)
			}
		}
	})
}

// TestDown has units end in the ways that only a real systemd shows: what is on its way is waited for, what systemd gives up
// comes back, what somebody wants to be down stays down, and each that stays down is explained.
func TestDown(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		hangs := func(flags string) string { // the first time
			return "/bin/sh -c 'test -e /var/tmp/%N && exec " + client + " --name %N --timeout 2 --beat 500; touch /var/tmp/%N; exec " + client + " --name %N --timeout 2 --beat 500 --beats 3 " + flags + "'"
		}
		const leftover = "(trap \"\" TERM; while :; do sleep 1; done) & "
		of := func(kind, text string) string { return strings.Replace(text, "Type=exec", "Type="+kind, 1) }
		limited := func(text string) string {
			return strings.Replace(text, "StartLimitIntervalSec=0", "StartLimitIntervalSec=60\nStartLimitBurst=3", 1)
		}
		forking := func(command string) string {
			return of("forking", strings.Replace(service("/bin/sh -c '"+command+" & echo $$! >/run/%N.pid'", "PIDFile=/run/%N.pid"), "User=daemon\n", "", 1))
		}
		units := map[string]string{
			// They come back.
			"slow-stop":   service(strings.Replace(hangs("--term-exit"), "-c '", "-c '"+leftover, 1), "TimeoutStopSec=6"),
			"slow-post":   service(hangs("--term-exit"), "Restart=on-failure", "ExecStopPost=/bin/sleep 6"),
			"slow-crash":  service("/bin/sh -c '"+leftover+"exec "+beats("%N")+"'", "TimeoutStopSec=6"),
			"unready":     limited(of("notify\nNotifyAccess=all", service("/usr/lib/rig/few %N ready", "Restart=on-failure", "RestartSec=100ms"))),
			"limited":     limited(service("/usr/lib/rig/few %N", "Restart=on-failure", "RestartSec=100ms")),
			"oneshot":     of("oneshot", service(hangs("--term-exit"))),
			"forks-hangs": forking("(" + strings.TrimSuffix(strings.TrimPrefix(hangs("--term-exit"), "/bin/sh -c '"), "'") + ")"),
			"forks":       forking(beats("%N")),
			"lead":        service(beats("lead")),
			"spent":       service(beats("spent")),
			// They stay down.
			"auto":          service(hangs("--term-exit"), "Restart=always", "RestartSec=30"),
			"meanwhile":     service(hangs("--term-exit")),
			"reset":         service(hangs("--ignore-term")),
			"walk":          service(hangs("--ignore-term"), "TimeoutStopSec=20"),
			"spent-stopped": service(beats("spent-stopped")),
			"failed":        service("/bin/sh -c 'test -e /var/tmp/%N && exec sleep infinity; touch /var/tmp/%N; exit 3'"),
			"follower":      service("/bin/sh -c 'test -e /var/tmp/%N && exit 3; touch /var/tmp/%N; exec sleep infinity'"),
		}
		files := Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\nbrake.enabled = false\n" + noPressure + "[recovery]\nwait = \"7s\"\ncap = \"7s\"\nattempts = 3\n" +
				"[[rule]]\nmatch = { name = \"lead\" }\nthen = [\"failed.service\", \"follower.service\"]\n" +
				"[[rule]]\nmatch = { name = \"spent*\" }\nrecovery = { attempts = 1 }\n",
			// It fails the second and the third time.
			"/usr/lib/rig/few": "#!/bin/sh\nn=$(cat /var/tmp/$1 2>/dev/null || echo 0)\necho $((n+1)) >/var/tmp/$1\ncase $n in 1|2) sleep 0.2; exit 1;; esac\n" +
				"[ -n \"$2\" ] && systemd-notify --ready\nexec " + client + " --name $1 --timeout 4 --beat 500\n",
		}
		for unit, text := range units {
			files["/etc/systemd/system/"+unit+".service"] = text
		}
		m := bootInstalled(t, root, files)
		m.startGuard()
		m.Try("systemctl start failed; sleep 0.2")
		m.WaitUnit("failed", "failed")
		m.Run("sleep 1.5") // what fell within the second before lead fell with it
		back := strings.Fields("slow-stop slow-post slow-crash unready limited oneshot forks-hangs forks lead spent")
		down := strings.Fields("auto meanwhile reset walk spent-stopped")
		m.Run("systemctl start --no-block follower " + strings.Join(append(back, down...), " "))
		crash := []string{"slow-crash", "unready", "limited", "forks", "lead", "spent", "spent-stopped"}
		m.Wait("all that crash are guarded", func() bool {
			list := m.list()
			return !slices.ContainsFunc(crash, func(name string) bool { return list[name].State != "guarded" })
		})
		first := map[string]string{}
		for _, unit := range back {
			first[unit] = m.mainPID(unit)
		}
		m.Run("systemctl kill --signal=SEGV --kill-who=main " + strings.Join(crash, " "))

		of1 := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }
		m.awaitEvent("signalled", of1("walk"))
		m.Run("systemctl stop --no-block walk")
		m.awaitEvent("killed", of1("auto"))
		m.awaitEvent("killed", of1("meanwhile"))
		m.WaitUnit("auto", "activating")
		m.Run("systemctl stop auto; systemctl start meanwhile; systemctl stop meanwhile")
		m.awaitEvent("killed", of1("reset"))
		m.WaitUnit("reset", "failed")
		m.Run("systemctl reset-failed reset")

		for _, unit := range back {
			m.Wait(unit+" is back", func() bool { pid := m.mainPID(unit); return pid != "0" && pid != first[unit] })
			m.awaitEvent("restored", of1(unit)) // of oneshot as well, whose start lasts for as long as it runs
		}
		// That a budget is spent says nothing about what is up, or was stopped.
		m.awaitEvent("restored", of1("spent-stopped"))
		m.Wait("those that were started are guarded", func() bool {
			list := m.list()
			return list["spent"].State == "guarded" && list["spent-stopped"].State == "guarded"
		})
		m.Run("systemctl restart spent; systemctl stop spent-stopped")
		for _, unit := range down {
			ends := m.events("exited", of1(unit))
			if unit == "spent-stopped" {
				m.Wait("its second end is told", func() bool { ends = m.events("exited", of1(unit)); return len(ends) == 2 })
			}
			// Whose exit status was there with his end, and says that he was asked to, is not asked about.
			if len(ends) == 0 || !strings.Contains(ends[len(ends)-1]["MESSAGE"], "SIGTERM") {
				e := m.awaitEvent("left-down", of1(unit))
				m.check(e, Fields{"PRIORITY": "5", "CHECKPROC_REASON": "*"})
			}
			if pid := m.mainPID(unit); pid != "0" {
				t.Errorf("%s: %s was stopped, and runs as %s", root, unit, pid)
			}
		}
		if got := m.events("gave-up"); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
		m.Wait("spent is guarded again", func() bool { return m.list()["spent"].State == "guarded" })
		m.Run("systemctl kill --signal=SEGV spent")
		m.awaitEvent("gave-up", of1("spent"))
		m.Run("systemctl start spent")
		m.Wait("spent is guarded by hand", func() bool { return m.list()["spent"].State == "guarded" })
		m.Run("systemctl kill --signal=SEGV spent")
		if e := m.awaitEvent("left-down", of1("spent")); !strings.Contains(e["MESSAGE"], "given up") {
			t.Errorf("%s: %s", root, e["MESSAGE"])
		}
		m.Run("checkprocctl recover spent")
		m.Wait("spent is back", func() bool { return m.mainPID("spent") != "0" })

		if e := m.awaitEvent("restore-failed", of1("follower")); !strings.Contains(e["MESSAGE"], "exit status 3") {
			t.Errorf("%s: %s", root, e["MESSAGE"])
		}
		if got := m.Property("failed", "ActiveState"); got != "failed" {
			t.Errorf("%s: failed, which had failed before, is %s", root, got)
		}
	})
}

// TestKilledMeanwhile kills the guard after it has ended a program and before the unit of that is started again. It ended
// well and nobody refers to it: systemd remembers nothing of it.
func TestKilledMeanwhile(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"8s\"\n",
			"/etc/systemd/system/hog.service": service("/bin/sh -c 'test -e /var/tmp/hog && exec " + client + " --name hog --timeout 2 --beat 500; touch /var/tmp/hog; exec " +
				client + " --name hog --timeout 2 --beat 500 --beats 3 --term-exit'"),
		})
		m.startGuard()
		m.Run("systemctl start hog")
		first := m.mainPID("hog")
		m.awaitEvent("killed", Fields{"CHECKPROC_UNIT": "hog.service"})
		m.Run("systemctl kill --signal=KILL checkprocd")
		m.Wait("hog is back", func() bool { pid := m.mainPID("hog"); return pid != "0" && pid != first })
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "hog.service"})
	})
}

// TestThenTogether has one rule for several units, of which some need others, and each follows the others: who ends because
// another one is restarted, by the guard or with it by systemd, is not brought back by a round of its own, nor twice.
func TestThenTogether(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		follow := []string{"web1", "web2", "web3", "web4", "web5", "cache"}
		files := Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"1s\"\ncap = \"1s\"\n" +
				"[[rule]]\nmatch = { unit = \"web*.service\" }\nthen = [\"" + strings.Join(follow, ".service\", \"") + ".service\"]\n",
		}
		for unit, needs := range map[string]string{"web1": "", "web2": "Requires=web1", "web3": "BindsTo=web1", "web4": "BindsTo=web2", "web5": "Requires=web1", "cache": "Requires=web1"} {
			command := beats(unit)
			if unit == "cache" {
				command = "/bin/sleep infinity"
			}
			text := service(command, "ExecStartPre=/bin/sh -c 'echo >>/var/tmp/%N'")
			if _, need, is := strings.Cut(needs, "="); is {
				text = "[Unit]\n" + needs + ".service\nAfter=" + need + ".service\n" + strings.TrimPrefix(text, "[Unit]\n")
			}
			files["/etc/systemd/system/"+unit+".service"] = text
		}
		m := bootInstalled(t, root, files)
		m.startGuard()
		m.Run("systemctl start " + strings.Join(follow, " "))
		m.waitGuarded(5)
		m.Run("systemctl stop web5")
		for _, x := range []struct {
			crash  string
			starts string // of each, all in all
		}{
			{"web1", "2 2 2 2 1 2"},
			{"web2", "3 4 3 3 1 3"}, // it came back, and was restarted with web1
		} {
			m.Mark()
			m.Run("systemctl kill --signal=SEGV --kill-who=main " + x.crash)
			for _, unit := range follow {
				if unit != "web5" {
					m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": unit + ".service"})
				}
			}
			m.waitGuarded(4)
			m.Run("sleep 3") // another round would have begun by then
			if got := m.Run("cd /var/tmp; for unit in " + strings.Join(follow, " ") + "; do wc -l <$unit; done | xargs"); got != x.starts {
				t.Errorf("%s: after the crash of %s: started %s times, want %s", root, x.crash, got, x.starts)
			}
			for _, unit := range follow {
				want := map[bool]string{true: "active", false: "inactive"}[unit != "web5"]
				if got := m.Property(unit, "ActiveState"); got != want {
					t.Errorf("%s: after the crash of %s: %s is %s", root, x.crash, unit, got)
				}
			}
			if got := m.events("restored"); len(got) != len(follow)-1 {
				t.Errorf("%s: after the crash of %s: %v", root, x.crash, got)
			}
		}
		if got := m.Journal("CHECKPROC_EVENT=restore-failed", "+", "CHECKPROC_EVENT=gave-up"); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
	})
}

// TestSiteFollowers has a site whose programs procctl starts again, below one start script: what follows one of them is
// restarted each time that one is back, once, and the guard itself starts nothing of the site.
func TestSiteFollowers(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/checkprocd/conf.d/site.toml":   "interval = \"200ms\"\n" + noPressure + "[[rule]]\nmatch = { name = \"store\" }\nthen = [\"report.service\"]\n",
			"/usr/lib/rig/procctl":               "#!/bin/sh\nevery=$1; shift\nwhile :; do \"$@\"; sleep $every; done\n",
			"/usr/lib/rig/store":                 "#!/bin/sh\necho >>/var/tmp/store\n[ $(wc -l </var/tmp/store) = 1 ] && exec " + client + " --name store --timeout 2 --beat 500 --beats 6\nexec " + beats("store") + "\n",
			"/etc/systemd/system/site.service":   "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=none\nExecStart=/bin/sh -c '/usr/lib/rig/procctl 2 /usr/lib/rig/store & /usr/lib/rig/procctl 2 " + beats("other") + " &'\n",
			"/etc/systemd/system/report.service": service("/bin/sleep infinity", "ExecStartPre=/bin/sh -c 'echo >>/var/tmp/%N'"),
		})
		m.Run("chmod 0755 /usr/lib/rig/procctl /usr/lib/rig/store; systemctl start report")
		m.startGuard()
		m.Run("systemctl start site")
		starts := func() string { return m.Run("cd /var/tmp; wc -l <store; wc -l <report") }
		m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "store"}) // it hangs
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "report.service"})
		if got := strings.Fields(starts()); !slices.Equal(got, []string{"2", "2"}) {
			t.Errorf("%s: store and its follower were started %s times after it hung", root, got)
		}
		m.Mark()
		m.waitGuarded(2)
		list := m.list() // who ends within a second after that restart may have ended by it
		m.Run(fmt.Sprintf("sleep 3; kill -SEGV %d %d", list["store"].PID, list["other"].PID))
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "report.service"})
		m.waitGuarded(2)
		m.Run("sleep 3") // another round would have begun by then
		if got := strings.Fields(starts()); !slices.Equal(got, []string{"3", "3"}) {
			t.Errorf("%s: store and its follower were started %s times after it crashed", root, got)
		}
		if got := m.Property("site", "ActiveState"); got != "active" {
			t.Errorf("%s: the site is %s", root, got)
		}
	})
}
