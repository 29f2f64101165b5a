package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// asWritten are words that systemd would change in a unit file, and what they are as bytes of a command.
const (
	asWritten = `"sh", "${HOME}", "$HOME", "$$", "%n", "a  b", "\\x41", "", ";", "-x"`
	asBytes   = `${HOME}|$HOME|$$|%n|a  b|\x41||;|-x|`
)

// TestCommandsOfRules has systemd run checks and commands: each with the very words of its rule, and one that fails says why.
func TestCommandsOfRules(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		says := func(to, then string) string {
			return fmt.Sprintf(`"/bin/sh", "-c", "printf '%%s|' \"$@\" >%s; me=$$; test ${me} -gt 2 || exit 9; %s", %s`, to, then, asWritten)
		}
		// What cannot be started, or ends: the text of the command, and why.
		fail := map[string][2]string{
			"nouser":  {`{ command = [ "/bin/sleep", "100" ], user = "nobodyhere" }`, "its start job ended as failed: exit status 217/USER"},
			"noexec":  {`{ command = [ "/usr/bin/nosuchthing" ], user = "daemon" }`, "its start job ended as failed: exit status 203/EXEC"},
			"atonce":  {`{ command = [ "/bin/sh", "-c", "echo no luck today; exit 3" ], user = "daemon" }`, ": exit status 3"},
			"nowhere": {`{ command = [ "/bin/sh", "-c", "sleep 1; kill -KILL $$" ], user = "daemon" }`, "it failed within 2s: killed by SIGKILL"},
		}
		files := Files{
			"/etc/app/conf":                     "1",
			"/etc/systemd/system/app.service":   service(beats("app"), "ExecReload=/bin/true"),
			"/etc/systemd/system/again.service": service(beats("again")),
		}
		rules := noPressure + "[recovery]\nwait = \"1s\"\nattempts = 1\n" +
			"[[rule]]\nmatch = { name = \"app\" }\nwatch = { files = [ \"/etc/app/conf\" ], settle = \"300ms\", check = [ " + says("/run/check", "c=/etc/app/conf; test ! -f ${c}.reject") + " ] }\n" +
			"[[rule]]\nmatch = { name = \"again\" }\nrestart = { user = \"daemon\", command = [ " + says("/var/tmp/again", "exec "+beats("again")) + " ] }\n"
		units := "app again"
		for name, f := range fail {
			rules += "[[rule]]\nmatch = { name = \"" + name + "\" }\nrestart = " + f[0] + "\n"
			files["/etc/systemd/system/"+name+".service"] = service(beats(name))
			units += " " + name
		}
		files["/etc/checkprocd/conf.d/commands.toml"] = rules
		m := bootInstalled(t, root, files)
		m.Run("systemctl start checkprocd " + units)
		m.waitGuarded(2 + len(fail))

		m.Run("touch /etc/app/conf.reject; echo 2 >/etc/app/conf")
		m.check(m.awaitEvent("config-check-failed", Fields{"CHECKPROC_UNIT": "app.service"}), Fields{"CHECKPROC_REASON": "exit status 1"})
		m.Run("rm /etc/app/conf.reject; echo 3 >/etc/app/conf")
		m.awaitEvent("config-applied", Fields{"CHECKPROC_UNIT": "app.service"})
		if got := m.Run("cat /run/check"); got != asBytes {
			t.Errorf("%s: the check got %s, want %s", root, got, asBytes)
		}

		m.Run("systemctl kill --signal=SEGV again " + strings.TrimPrefix(units, "app again "))
		m.awaitEvent("restored", Fields{"CHECKPROC_NAME": "again"})
		if got := m.Run("cat /var/tmp/again"); got != asBytes {
			t.Errorf("%s: the command got %s, want %s", root, got, asBytes)
		}
		for name, f := range fail {
			r := m.awaitEvent("restore-failed", Fields{"CHECKPROC_NAME": name})
			text := r["MESSAGE"]
			at := strings.Index(text, "(journalctl -u checkprocd-run-")
			if at < 0 || !strings.Contains(text, f[1]) {
				t.Errorf("%s: %s: %q and the unit are not in %q", root, name, f[1], text)
				continue
			}
			unit, _, _ := strings.Cut(text[at+len("(journalctl -u "):], ")")
			if out := m.Run("journalctl --no-pager -u " + unit); name == "atonce" && !strings.Contains(out, "no luck today") {
				t.Errorf("%s: the words of %s are not in the journal of %s:\n%s", root, name, unit, out)
			}
		}
		if out := m.Run("systemctl list-units --all --plain --no-legend 'checkprocd-check*'; systemctl list-units --failed --plain --no-legend 'checkprocd*'"); out != "" {
			t.Errorf("%s: commands are left behind: %s", root, out)
		}
	})
}

// TestOrdersBehindABus: what is ordered, or protected, while the bus stands still and starts and a reload are on their way is
// not started, nor reloaded, when it goes on.
func TestOrdersBehindABus(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/app/conf": "1",
			"/etc/checkprocd/conf.d/bus.toml": "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"1s\"\n" +
				"[[rule]]\nmatch = { name = \"app\" }\nwatch = { files = [ \"/etc/app/conf\" ], settle = \"300ms\" }\n",
			"/etc/systemd/system/app.service":       service(beats("app"), "ExecReload=+/bin/touch /run/reloaded"),
			"/etc/systemd/system/held.service":      service(beats("held")),
			"/etc/systemd/system/protected.service": service(beats("protected")),
			"/etc/systemd/system/free.service":      service(beats("free")),
		})
		m.Run("systemctl start checkprocd app held protected free")
		m.waitGuarded(4)
		bus, held, protected, free := m.mainPID("dbus"), m.mainPID("held"), m.mainPID("protected"), m.mainPID("free")
		m.Run("kill -STOP " + bus)
		m.Run("echo 2 >/etc/app/conf; kill -SEGV " + held + " " + protected + " " + free)
		m.awaitEvent("config-changed", Fields{"CHECKPROC_UNIT": "app.service"})
		for _, pid := range []string{held, protected, free} {
			m.awaitEvent("exited", Fields{"CHECKPROC_PID": pid})
		}
		m.Run("sleep 4") // all are asked for by then
		m.Run("checkprocctl hold held --for 10m; checkprocctl hold app --for 10m; echo 'protect.units = [ \"protected.service\" ]' >/etc/checkprocd/conf.d/z.toml; checkprocctl reload")
		m.Run("kill -CONT " + bus)
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "free.service"})
		m.awaitEvent("left-down", Fields{"CHECKPROC_UNIT": "protected.service"})
		m.Run("sleep 5")
		for _, unit := range []string{"held", "protected"} {
			if got := m.mainPID(unit); got != "0" {
				t.Errorf("%s: %s was started", root, unit)
			}
		}
		if out := m.Run("ls /run/reloaded 2>&1 || :"); !strings.Contains(out, "No such file") {
			t.Errorf("%s: app was reloaded: %s", root, out)
		}
		m.Run("checkprocctl release held; checkprocctl release app")
		m.awaitEvent("restored", Fields{"CHECKPROC_UNIT": "held.service"})
		m.awaitEvent("config-applied", Fields{"CHECKPROC_UNIT": "app.service"})
	})
}
