package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestStoppedWhileDown has operators stop what is down already and waits to be started again, or what that needs: both stand.
// What looks alike and is nobody's stop does not keep a unit down.
func TestStoppedWhileDown(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		needs := func(kind, what, text string) string {
			return "[Unit]\n" + kind + "=" + what + ".service\nAfter=" + what + ".service\n" + strings.TrimPrefix(text, "[Unit]\n")
		}
		files := Files{
			"/etc/checkprocd/conf.d/recovery.toml":  "interval = \"200ms\"\nbrake.enabled = false\n" + noPressure + "[recovery]\nwait = \"5s\"\n",
			"/etc/systemd/system/need.service":      service("/bin/sleep infinity"),
			"/etc/systemd/system/need-part.service": service("/bin/true", "RemainAfterExit=yes"),
			"/etc/systemd/system/once.service":      strings.Replace(service("/bin/true"), "Type=exec", "Type=oneshot", 1),
			"/etc/systemd/system/spare.service":     "[Unit]\nStopWhenUnneeded=yes\n" + strings.TrimPrefix(service("/bin/sleep infinity"), "[Unit]\n"),
			"/etc/systemd/system/timed.service":     service("/bin/sleep infinity", "RuntimeMaxSec=2"),
			"/etc/systemd/system/quiet.service":     hangsOnce("no", "--term-exit"),
			"/etc/systemd/system/other.service":     service(beats("other")),
		}
		down := []string{"stopped", "reset", "needs-stopped", "needs", "needs-part"} // and quiet
		back := []string{"tried", "needs-once", "needs-spare", "needs-timed", "needs-other", "other"}
		for unit, text := range map[string]string{"stopped": "", "reset": "", "tried": "", "needs-stopped": "Requires stopped", "needs": "Requires need", "needs-part": "PartOf need-part",
			"needs-once": "Requires once", "needs-spare": "Requires spare", "needs-timed": "Requires timed", "needs-other": "Requires other"} {
			if kind, what, is := strings.Cut(text, " "); is {
				files["/etc/systemd/system/"+unit+".service"] = needs(kind, what, service(beats(unit)))
			} else {
				files["/etc/systemd/system/"+unit+".service"] = service(beats(unit))
			}
		}
		m := bootInstalled(t, root, files)
		m.startGuard()
		all := append(slices.Clone(down), back...)
		m.Run("systemctl start need-part quiet " + strings.Join(all, " "))
		m.Wait("all are guarded", func() bool {
			list := m.list()
			return !slices.ContainsFunc(all, func(name string) bool { return list[name].State != "guarded" })
		})
		about := func(unit string) Fields { return Fields{"CHECKPROC_UNIT": unit + ".service"} }
		m.awaitEvent("killed", about("quiet"))
		m.Run("checkprocctl pause --for 10m") // nothing is started before all is stopped
		m.Run("systemctl kill --signal=SEGV --kill-who=main " + strings.Join(all, " "))
		for _, unit := range all {
			m.awaitEvent("exited", about(unit))
			m.WaitUnit(unit, "failed")
		}
		m.WaitUnit("quiet", "inactive")
		for _, unit := range append([]string{"quiet"}, all...) {
			m.Wait(unit+" is remembered", func() bool { return m.Property(unit, "Refs") != "" })
		}
		m.Run("systemctl stop stopped quiet reset; systemctl reset-failed reset; systemctl try-restart tried; systemctl stop need need-part; systemctl restart timed")
		m.WaitUnit("timed", "failed")
		if got := m.events("restored"); len(got) != 0 {
			t.Fatalf("%s: started during a pause: %v", root, got)
		}
		for unit, why := range map[string]string{"stopped": "it was stopped while it was down", "quiet": "it was stopped while it was down",
			"reset": "it was stopped while it was down", "needs-stopped": "stopped.service, which it needs, was stopped while both were down"} {
			m.check(m.awaitEvent("left-down", about(unit)), Fields{"PRIORITY": "5", "CHECKPROC_REASON": why}) // at once
		}
		m.Run("systemctl restart checkprocd") // which has not heard it
		m.Run("checkprocctl resume")
		for unit, why := range map[string]string{
			"needs": "need.service, which it needs, was stopped: inactive", "needs-part": "need-part.service, which it needs, was stopped: inactive"} {
			m.check(m.awaitEvent("left-down", about(unit)), Fields{"PRIORITY": "5", "CHECKPROC_REASON": why})
		}
		for _, unit := range back {
			m.awaitEvent("restored", about(unit))
			m.WaitUnit(unit, "active")
		}
		for _, unit := range append(down, "quiet", "need", "need-part") {
			if pid := m.mainPID(unit); pid != "0" {
				t.Errorf("%s: %s was stopped, and runs as %s", root, unit, pid)
			}
		}
		if got := m.mainPID("spare"); got == "0" {
			t.Errorf("%s: spare was not started with what needs it", root)
		}
	})
}

// TestConflicts has operators start a standby while what it does not run beside is down and waits to be started again: the
// standby runs on, alone. What is only wanted takes no part in that.
func TestConflicts(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		files := Files{"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\nbrake.enabled = false\n" + noPressure + "[recovery]\nwait = \"5s\"\n"}
		unit := func(name, head, text string) {
			files["/etc/systemd/system/"+name+".service"] = "[Unit]\n" + head + strings.TrimPrefix(text, "[Unit]\n")
		}
		once := strings.Replace(service("/bin/true"), "Type=exec", "Type=oneshot", 1)
		unit("own", "Conflicts=own-standby.service\n", service(beats("own")))
		unit("own-standby", "", service("/bin/sleep infinity"))
		unit("theirs", "", service(beats("theirs")))
		unit("theirs-standby", "Conflicts=theirs.service\n", service("/bin/sleep infinity"))
		unit("needs", "Requires=needs-side.service\nAfter=needs-side.service\n", service(beats("needs")))
		unit("needs-side", "Conflicts=needs-standby.service\n", once)
		unit("needs-standby", "", service("/bin/sleep infinity"))
		unit("wants", "Wants=wants-side.service\n", service(beats("wants")))
		unit("wants-side", "Conflicts=wants-standby.service\n", service("/bin/sleep infinity"))
		unit("wants-standby", "", service("/bin/sleep infinity"))
		m := bootInstalled(t, root, files)
		m.startGuard()
		all := []string{"own", "theirs", "needs", "wants"}
		m.Run("systemctl start " + strings.Join(all, " "))
		m.waitGuarded(len(all))
		m.Run("checkprocctl pause --for 10m") // nothing is started before the standbys are
		m.Run("systemctl kill --signal=SEGV --kill-who=main " + strings.Join(all, " "))
		first := map[string]string{}
		for _, name := range all {
			m.awaitEvent("exited", Fields{"CHECKPROC_UNIT": name + ".service"})
			m.WaitUnit(name, "failed")
			m.Run("systemctl start " + name + "-standby")
			first[name] = m.mainPID(name + "-standby")
		}
		m.Run("checkprocctl resume")
		for name, why := range map[string]string{"own": "own-standby.service, which conflicts with it, is active", "theirs": "theirs-standby.service, which conflicts with it, is active",
			"needs": "needs-standby.service, which conflicts with needs-side.service, which it needs, is active"} {
			m.check(m.awaitEvent("left-down", Fields{"CHECKPROC_UNIT": name + ".service"}), Fields{"PRIORITY": "5", "CHECKPROC_REASON": why})
			if pid := m.mainPID(name); pid != "0" {
				t.Errorf("%s: %s runs beside what conflicts with it, as %s", root, name, pid)
			}
		}
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "wants.service"})
		m.WaitUnit("wants", "active")
		for _, name := range all {
			if pid := m.mainPID(name + "-standby"); pid != first[name] {
				t.Errorf("%s: %s-standby was %s, is %s", root, name, first[name], pid)
			}
		}
		if pid := m.mainPID("wants-side"); pid != "0" {
			t.Errorf("%s: wants-side runs beside what conflicts with it, as %s", root, pid)
		}
	})
}

// TestInstances has instances of a socket hang and crash that starts one for each connection: they are ended, and nobody
// starts them again.
func TestInstances(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		files := Files{
			"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"1s\"\n",
			"/usr/lib/rig/connect":                 "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/$1\nexec sleep infinity\n",
		}
		flags := map[string]string{"clean": "--beats 3 --term-exit", "killed": "--beats 3 --ignore-term", "crash": ""}
		port := 7000
		connect := ""
		for name, more := range flags {
			port++
			files["/etc/systemd/system/"+name+".socket"] = fmt.Sprintf("[Socket]\nListenStream=127.0.0.1:%d\nAccept=yes\n", port)
			files["/etc/systemd/system/"+name+"@.service"] = service(client+" --name "+name+" --timeout 2 --beat 500 "+more, "StandardInput=socket")
			connect += fmt.Sprintf("systemd-run --quiet --unit=to-%s /usr/lib/rig/connect %d\n", name, port)
		}
		files["/etc/systemd/system/worker@.service"] = service(beats("worker")) // of no socket
		m := bootInstalled(t, root, files)
		m.startGuard()
		m.Run("systemctl start worker@1 clean.socket killed.socket crash.socket\n" + connect)
		m.Wait("crash is guarded", func() bool { return m.list()["crash"].State == "guarded" })
		m.Run(fmt.Sprintf("kill -SEGV %d", m.list()["crash"].PID))
		for name := range flags {
			end := "killed"
			if name == "crash" {
				end = "exited"
			}
			m.awaitEvent(end, Fields{"CHECKPROC_NAME": name})
			r := m.awaitEvent("left-down", Fields{"CHECKPROC_NAME": name})
			m.check(r, Fields{"PRIORITY": "5", "CHECKPROC_REASON": "its socket starts it, for each connection"})
			if !strings.HasPrefix(r["CHECKPROC_UNIT"], name+"@0-") {
				t.Errorf("%s: %s", root, r["CHECKPROC_UNIT"])
			}
		}
		m.Wait("the worker is guarded", func() bool { return m.list()["worker"].State == "guarded" })
		m.Run("systemctl kill --signal=SEGV worker@1")
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "worker@1.service"})
		if got := append(m.events("restored"), m.events("restore-failed")...); len(got) != 1 {
			t.Errorf("%s: %v", root, got)
		}
	})
}

// leaving are units whose recovery comes due while the system goes down: the guard is stopped last, after one that takes
// longer to stop than it waits.
func leaving() Files {
	return Files{
		"/etc/checkprocd/conf.d/recovery.toml": "interval = \"200ms\"\nlimits.sample = \"1s\"\nbrake.enabled = false\n" + noPressure + "[recovery]\nwait = \"4s\"\n" +
			"[[rule]]\nmatch = { name = \"mute\" }\nrestart = { command = [\"/bin/touch\", \"/var/tmp/started\"], user = \"root\" }\n" +
			"[[rule]]\nmatch = { name = \"greedy\" }\n[[rule.limit]]\nfor = \"1s\"\nof = \"age\"\nabove = \"2s\"\naction = \"throttle\"\ncpu_quota = \"50%\"\n",
		"/etc/systemd/system/slow-stop.service": "[Unit]\nAfter=checkprocd.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep 6\n",
		"/etc/systemd/system/hangs.service":     "[Unit]\nAfter=checkprocd.service\n" + strings.TrimPrefix(service(client+" --name hangs --timeout 2 --beat 500 --beats 9 --ignore-term", "TimeoutStopSec=6s"), "[Unit]\n"),
		"/etc/systemd/system/greedy.service":    service(beats("greedy")),
		"/etc/systemd/system/crash.service":     service("/bin/sh -c 'echo crash is begun; exec " + beats("crash") + "'"),
	}
}

// leave has a system go down, or to rescue mode, with a process that hangs, a unit and a command that are to be started
// again, and one that is throttled.
func (m *Machine) leave(order string) {
	m.t.Helper()
	m.startGuard()
	m.Run("systemctl start slow-stop greedy crash")
	m.Run("setsid runuser -u daemon -- " + beats("mute") + " >/dev/null 2>&1 </dev/null &")
	m.waitGuarded(3)
	m.awaitEvent("throttled", Fields{"CHECKPROC_UNIT": "greedy.service"})
	mute := m.list()["mute"].PID
	m.Run("systemctl start hangs")
	m.awaitEvent("signalled", Fields{"CHECKPROC_UNIT": "hangs.service"})
	m.Run(fmt.Sprintf("kill -SEGV %d; systemctl kill --signal=SEGV --kill-who=main crash", mute))
	m.awaitEvent("exited", Fields{"CHECKPROC_UNIT": "crash.service"})
	m.awaitEvent("exited", Fields{"CHECKPROC_NAME": "mute"})
	m.Run("echo the system leaves | systemd-cat -t e2e; " + order)
}

// TestPoweroff: the guard starts nothing, and is no reason for a wait. With 252 the journal of a machine that goes down could
// not be followed to its end; TestRescue has both.
func TestPoweroff(t *testing.T) {
	for _, order := range []string{"poweroff", "reboot"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			const root = "trixie"
			m := bootInstalled(t, root, leaving())
			m.leave("systemctl --no-block " + order)
			m.Await(Fields{"MESSAGE": "Shutting down.", "_PID": "1"}) // when all has stopped
			said := ""
			for _, r := range m.Records(Fields{"MESSAGE": "*"}) {
				if said += r["MESSAGE"] + "\n"; r["MESSAGE"] == "the system leaves" {
					said = ""
				}
			}
			for _, want := range []string{"crash.service (crash) is left down: the system goes down", "(mute) is left down: the system goes down", "Stopped checkprocd.service", "Stopped slow-stop.service"} {
				if !strings.Contains(said, want) {
					t.Errorf("%s: nothing is said of %q", root, want)
				}
			}
			for line := range strings.Lines(said) {
				for _, bad := range []string{"started again", "its command was started", "crash is begun", "Started crash.service", "checkprocd-run", "checkprocd.service: State", "checkprocd.service: Failed", "checkprocd.service: Killing"} {
					if strings.Contains(line, bad) {
						t.Errorf("%s: %s", root, strings.TrimSpace(line))
					}
				}
			}
		})
	}
}

// TestRescue: the same in rescue mode, and for a guard that is started there.
func TestRescue(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, leaving())
		m.leave("systemctl isolate --no-block rescue.target")
		about := func(name string) Fields {
			return Fields{"CHECKPROC_NAME": name, "CHECKPROC_REASON": "the system goes down, or is in rescue mode"}
		}
		m.awaitEvent("left-down", about("crash"))
		m.awaitEvent("left-down", about("mute"))
		m.WaitUnit("rescue.target", "active")
		m.WaitUnit("checkprocd", "inactive")
		if got := m.Property("checkprocd", "Result"); got != "success" {
			t.Errorf("%s: the guard ended as %s", root, got)
		}
		m.Run("systemctl start checkprocd")
		m.awaitEvent("left-down", about("hangs")) // its time comes after that, unless this machine is slow
		for _, unit := range []string{"crash", "hangs", "greedy"} {
			if pid := m.mainPID(unit); pid != "0" {
				t.Errorf("%s: %s runs as %s", root, unit, pid)
			}
		}
		if out, code := m.Try("test ! -e /var/tmp/started"); code != 0 {
			t.Errorf("%s: the command was started: %s", root, out)
		}
		if got := append(m.Journal("CHECKPROC_EVENT=restored"), m.Journal("CHECKPROC_EVENT=restore-failed")...); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
	})
}
