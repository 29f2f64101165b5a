package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// app is a service with a configuration of its own: how it runs is what the file says when it starts. A reload keeps a
// copy of what was read, or fails.
const (
	app = `#!/bin/sh
mode=$(sed -n s/^mode=//p "$2")
case "$mode" in
crash) /usr/lib/rig/client --name "$1" --timeout 3 --beat 300 & sleep 2; exit 3 ;;
hang) exec /usr/lib/rig/client --name "$1" --timeout 2 --beat 300 --beats 5 ;;
esac
exec /usr/lib/rig/client --name "$1" --timeout 3 --beat 300
`
	// appNotify is of Type=notify, and fails in its start when the file says so.
	appNotify = `#!/bin/sh
grep -q ^mode=broken "$2" && exit 4
systemd-notify --ready
exec /usr/lib/rig/client --name "$1" --timeout 3 --beat 300
`
	appReload = `#!/bin/sh
grep -q ^mode=refuse "$1" && exit 1
cp "$1" "$RUNTIME_DIRECTORY/loaded"
`
	appCheck = `#!/bin/sh
grep -q ^mode=[a-z]*$ "$1" && exit
echo "no mode in $1"
exit 7
`
)

func appService(conf string, lines ...string) string {
	return service("/usr/lib/rig/app %N "+conf, append(lines, "RuntimeDirectory=%N", "ExecReload=/usr/lib/rig/app-reload "+conf)...)
}

// TestConfigurationOfServices changes the configuration of real services, well and badly, in the ways in which that is
// done: each takes what is good, goes on with what it has when its check refuses, and what fails afterwards is put down to
// the change.
func TestConfigurationOfServices(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		rule := func(unit, files, more string) string {
			return fmt.Sprintf("[[rule]]\nmatch = { unit = %q }\nwatch = { files = [ %q ], settle = \"500ms\", blame = \"30s\"%s }\n", unit+".service", files, more)
		}
		m := bootInstalled(t, root, Files{
			"/usr/lib/rig/app-notify": appNotify,
			"/usr/lib/rig/app":        app, "/usr/lib/rig/app-reload": appReload, "/usr/lib/rig/app-check": appCheck,
			"/etc/app/reloaded.conf":                "mode=one\n",
			"/etc/app/restarted/1/conf":             "mode=one\n",
			"/etc/app/hangs.conf":                   "mode=one\n",
			"/etc/app/safe.conf":                    "mode=one\n",
			"/etc/app/fails.conf":                   "mode=one\n",
			"/etc/app/checked.conf":                 "mode=one\n",
			"/etc/app/breaks.conf":                  "mode=one\n",
			"/etc/systemd/system/checked.service":   appService("/etc/app/checked.conf"),
			"/etc/systemd/system/breaks.service":    service("/usr/lib/rig/app-notify %N /etc/app/breaks.conf", "Type=notify", "NotifyAccess=all"),
			"/etc/systemd/system/fails.service":     appService("/etc/app/fails.conf"),
			"/etc/systemd/system/reloaded.service":  appService("/etc/app/reloaded.conf"),
			"/etc/systemd/system/restarted.service": appService("/etc/app/restarted/conf", "Restart=on-failure", "RestartSec=100ms"),
			"/etc/systemd/system/hangs.service":     appService("/etc/app/hangs.conf", "Restart=always", "RestartSec=100ms"),
			"/etc/systemd/system/safe.service":      appService("/etc/app/safe.conf"),
			"/etc/checkprocd/conf.d/watch.toml": noPressure + "[protect]\nunits = [ \"safe.service\" ]\n" +
				rule("reloaded", "/etc/app/reloaded.conf", `, check = [ "/usr/lib/rig/app-check", "/etc/app/reloaded.conf" ]`) +
				rule("restarted", "/etc/app/restarted/conf", `, action = "restart"`) +
				rule("hangs", "/etc/app/hang*.conf", `, action = "restart"`) +
				rule("fails", "/etc/app/fails.conf", `, action = "restart"`) +
				rule("safe", "/etc/app/safe.conf", `, action = "restart"`) +
				rule("checked", "/etc/app/checked.conf", `, check = [ "/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000; done" ]`) +
				rule("breaks", "/etc/app/breaks.conf", `, action = "restart"`) + "[recovery]\nwait = \"1s\"\nattempts = 3\n",
		})
		m.Run("cd /etc/app/restarted && ln -s 1 ..data && ln -s ..data/conf conf")
		m.Run("systemctl start checkprocd reloaded restarted hangs safe fails checked breaks")
		m.waitGuarded(7)
		pid := map[string]string{}
		for _, name := range []string{"reloaded", "restarted", "hangs", "safe"} {
			pid[name] = m.mainPID(name)
		}
		about := func(name string) Fields { return Fields{"CHECKPROC_UNIT": name + ".service"} }
		says := func(r Record, texts ...string) {
			t.Helper()
			for _, text := range texts {
				if !strings.Contains(r["MESSAGE"], text) {
					t.Errorf("%s: %s does not say %q: %s", root, r["CHECKPROC_EVENT"], text, r["MESSAGE"])
				}
			}
		}

		// A check that hangs, and does not care for SIGTERM: what comes of it is seen at the end. A pause holds what follows.
		m.WriteFile("/etc/app/checked.conf", "mode=two\n")
		m.awaitEvent("config-changed", about("checked"))
		m.Run("checkprocctl pause --for 10m")
		m.Run("sed -i s/one/paused/ /etc/app/reloaded.conf")
		says(m.awaitEvent("config-changed", Fields{"CHECKPROC_REASON": "/etc/app/reloaded.conf"}), "waiting: reloaded.service")
		m.Run("systemctl restart checkprocd; sed -i s/paused/one/ /etc/app/reloaded.conf; sleep 3; checkprocctl resume")
		m.Mark()

		// A good change by an editor: reloaded, the same process.
		m.Run("sed -i s/one/two/ /etc/app/reloaded.conf")
		says(m.awaitEvent("config-changed", about("reloaded")), "/etc/app/reloaded.conf", "checking it, then reload of reloaded.service")
		r := m.awaitEvent("config-applied", about("reloaded"))
		m.check(r, Fields{"PRIORITY": "5", "CHECKPROC_REASON": "reload", "OBJECT_SYSTEMD_UNIT": "reloaded.service"})
		if got := m.Run("cat /run/reloaded/loaded"); got != "mode=two" || m.mainPID("reloaded") != pid["reloaded"] {
			t.Errorf("%s: reloaded with %q, pid %s was %s", root, got, m.mainPID("reloaded"), pid["reloaded"])
		}
		// One that its check refuses: said with the check's own words at hand, and the service goes on with what it has.
		m.Mark()
		m.WriteFile("/etc/app/reloaded.conf", "mood=three\n")
		r = m.awaitEvent("config-check-failed", about("reloaded"))
		m.check(r, Fields{"PRIORITY": "3", "CHECKPROC_REASON": "exit status 7"})
		says(r, "/usr/lib/rig/app-check says exit status 7")
		if unit := r["MESSAGE"][strings.LastIndex(r["MESSAGE"], " ")+1:]; !strings.Contains(m.Run("journalctl -u "+strings.TrimSuffix(unit, ")")), "no mode in /etc/app/reloaded.conf") {
			t.Errorf("%s: the words of the check are not in the journal of %s", root, unit)
		}
		if out := m.Run("systemctl list-units --all --plain --no-legend 'checkprocd-check*' | grep -v checked.service || :"); out != "" {
			t.Errorf("%s: the check is left behind: %s", root, out)
		}
		// Back again, and nothing is to be done.
		m.Mark()
		m.WriteFile("/etc/app/reloaded.conf", "mode=two\n")
		says(m.awaitEvent("config-changed"), "back to what is in force")
		// The check takes it, the reload does not.
		m.Mark()
		m.WriteFile("/etc/app/reloaded.conf", "mode=refuse\n")
		says(m.awaitEvent("config-blamed", about("reloaded")), "reload of reloaded.service", "the probable cause is /etc/app/reloaded.conf")
		if got := m.Run("cat /run/reloaded/loaded"); got != "mode=two" || m.mainPID("reloaded") != pid["reloaded"] {
			t.Errorf("%s: after bad changes: %q, pid %s was %s", root, got, m.mainPID("reloaded"), pid["reloaded"])
		}

		// As kubernetes does it, with a crash soon after.
		m.Mark()
		swap := func(n, mode string) {
			m.Run(fmt.Sprintf("cd /etc/app/restarted && mkdir %s && echo mode=%s >%s/conf && ln -s %s ..tmp && mv -T ..tmp ..data", n, mode, n, n))
		}
		swap("2", "crash")
		m.check(m.awaitEvent("config-applied", about("restarted")), Fields{"CHECKPROC_REASON": "restart"})
		says(m.awaitEvent("config-blamed", about("restarted")), "the probable cause is /etc/app/restarted/conf")
		m.Mark()
		swap("3", "fine")
		m.awaitEvent("config-applied", about("restarted"))
		m.WaitUnit("restarted", "active")

		// One that makes it hang.
		m.Mark()
		m.Run("echo mode=hang >/etc/app/.new && mv /etc/app/.new /etc/app/hangs.conf")
		m.awaitEvent("config-applied", about("hangs"))
		says(m.awaitEvent("config-blamed", about("hangs")), "is hung", "/etc/app/hangs.conf")
		m.awaitEvent("condemned", about("hangs"))

		// One that ends it for good, until it is mended; and not when somebody has stopped it.
		m.Mark()
		m.WriteFile("/etc/app/fails.conf", "mode=crash\n")
		says(m.awaitEvent("config-blamed", about("fails")), "it failed: exit status 3", "/etc/app/fails.conf")
		m.WaitUnit("fails", "failed")
		m.Mark()
		m.WriteFile("/etc/app/fails.conf", "mode=mended\n")
		m.check(m.awaitEvent("config-applied", about("fails")), Fields{"CHECKPROC_REASON": "restart"})
		m.WaitUnit("fails", "active")
		m.Run("systemctl stop fails")
		m.Mark()
		m.WriteFile("/etc/app/fails.conf", "mode=better\n")
		says(m.awaitEvent("config-applied", about("fails")), "is inactive: it takes its changed configuration")
		if got := m.Property("fails", "ActiveState"); got != "inactive" {
			t.Errorf("%s: a stopped service is %s after a change", root, got)
		}

		// One that does not come up: it is tried again within its budget, and a good one is taken at once all the same.
		m.Mark()
		m.WriteFile("/etc/app/breaks.conf", "mode=broken\n")
		says(m.awaitEvent("config-blamed", about("breaks")), "its job ended as failed", "/etc/app/breaks.conf")
		m.awaitEvent("gave-up", about("breaks"))
		if got := m.events("restore-failed", about("breaks")); len(got) != 2 {
			t.Errorf("%s: of three starts one was for the configuration: %v", root, got)
		}
		m.Mark()
		m.WriteFile("/etc/app/breaks.conf", "mode=mended\n")
		m.awaitEvent("config-applied", about("breaks"))
		m.awaitEvent("retrying", about("breaks"))
		m.WaitUnit("breaks", "active")

		// What is protected is not touched, and the same text is no change.
		m.Mark()
		m.Run("echo mode=two >/etc/app/safe.conf; cp /etc/app/restarted/3/conf /etc/app/same && mv /etc/app/same /etc/app/restarted/3/conf")
		says(m.awaitEvent("config-changed"), "/etc/app/safe.conf", "waiting: safe.service is protected")
		if got := m.mainPID("safe"); got != pid["safe"] {
			t.Errorf("%s: the protected service had pid %s and has %s", root, pid["safe"], got)
		}
		if got := m.events("config-changed", about("restarted")); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
		m.Wait("the check that hangs is ended", func() bool {
			return len(m.Journal("CHECKPROC_EVENT=config-check-failed", "CHECKPROC_UNIT=checked.service")) > 0
		})
		r = m.Journal("CHECKPROC_EVENT=config-check-failed", "CHECKPROC_UNIT=checked.service")[0]
		m.check(r, Fields{"CHECKPROC_REASON": "timeout"})
		says(r, "did not end within 1m0s, and was ended")
		if out := m.Run("systemctl list-units --all --plain --no-legend 'checkprocd-check*'; systemctl list-units --failed --plain --no-legend 'checkprocd*'"); out != "" {
			t.Errorf("%s: the check is left behind: %s", root, out)
		}
	})
}

// appDecide is a check that has made up its mind about conf when something else happens, at its first run.
const appDecide = `#!/bin/sh
cd /etc/app/$1
grep -q ^good conf
accepts=$?
test -e /run/$1.decided || { touch /run/$1.decided; eval "$2"; }
exit $accepts
`

// TestConfigurationInBadMoments changes files while something else goes on: what a service loads is what a check has
// accepted, and at last what is there. What it has loaded is kept in order.
func TestConfigurationInBadMoments(t *testing.T) {
	const load = "/bin/sh -c '%s cat /etc/app/%%N/conf >>/run/%%N.loaded'"
	loads := "ExecReload=+" + fmt.Sprintf(load, "")
	cases := []struct {
		name   string
		unit   string // how the service loads its configuration
		during string // what happens while the check runs; "none": there is no check
		first  string // in the directory of the configuration
		event  string // of the unit, that follows
		says   string
		then   string
		want   string
	}{
		{"underway", loads, "echo bad >conf", "echo good 2 >conf", "config-check-failed", "is not put in force", "echo good 3 >conf", "good 3"},
		{"andback", loads, "echo bad >conf; echo good 2 >conf", "echo good 2 >conf", "", "", "", "good 2"},
		{"torn", "ExecReload=+" + fmt.Sprintf(load, "test -e /run/%N.loaded || echo bad >/etc/app/%N/conf;"), "", "echo good 2 >conf",
			"config-check-failed", "is in force already, perhaps", "echo good 3 >conf", "bad good 3"},
		{"badgood", loads, "", "echo bad >conf", "config-check-failed", "is not put in force", "echo good 2 >conf", "good 2"},
		{"mended", loads, "sed -i 's/app-decide/app-accepts/' /etc/checkprocd/conf.d/mended.toml", "echo better 2 >conf",
			"config-check-failed", "is not put in force", "systemctl reload checkprocd", "better 2"},
		{"swapped", loads, "", "mkdir 2 && echo good 2 >2/conf && ln -s 2 ..tmp && mv -T ..tmp ..data", "", "", "", "good 2"},
		{"appears", loads, "none", "mv conf away; sleep 2; echo good 2 >conf", "", "", "", "good 2"},
		{"noreload", "ExecStartPre=+" + fmt.Sprintf(load, ""), "none", "echo good 2 >conf", "config-delayed", `it has no ExecReload=; action = "restart"`,
			`sed -i 's/settle/action = "restart", settle/' /etc/checkprocd/conf.d/noreload.toml; systemctl reload checkprocd`, "good 1 good 2"},
	}
	eachSystemd(t, func(t *testing.T, root string) {
		files := Files{"/etc/checkprocd/conf.d/a.toml": noPressure, "/usr/lib/rig/app-decide": appDecide, "/usr/lib/rig/app-accepts": "#!/bin/sh\nexit 0\n"}
		var names []string
		for _, c := range cases {
			names = append(names, c.name)
			check := fmt.Sprintf(", check = [ \"/usr/lib/rig/app-decide\", %q, %q ]", c.name, c.during)
			if c.during == "none" {
				check = ""
			}
			files["/etc/checkprocd/conf.d/"+c.name+".toml"] = fmt.Sprintf("[[rule]]\nmatch = { unit = \"%[1]s.service\" }\nwatch = { files = [ \"/etc/app/%[1]s/conf\" ], settle = \"500ms\"%[2]s }\n", c.name, check)
			files["/etc/systemd/system/"+c.name+".service"] = service(beats(c.name), c.unit)
			files["/etc/app/"+c.name+"/1/conf"] = "good 1\n"
		}
		m := bootInstalled(t, root, files)
		all := strings.Join(names, " ")
		m.Run("cd /etc/app; for i in " + all + "; do (cd $i && ln -s 1 ..data && ln -s ..data/conf conf); done; systemctl start checkprocd " + all)
		m.waitGuarded(len(cases))
		for _, c := range cases {
			m.Run("cd /etc/app/" + c.name + "; " + c.first)
		}
		for _, c := range cases {
			if c.event == "" {
				continue
			}
			r := m.awaitEvent(c.event, Fields{"CHECKPROC_UNIT": c.name + ".service"})
			if !strings.Contains(r["MESSAGE"], c.says) {
				t.Errorf("%s: %s: %q is not in %q", root, c.name, c.says, r["MESSAGE"])
			}
			m.Run("cd /etc/app/" + c.name + "; " + c.then)
		}
		for _, c := range cases {
			var got string
			m.Wait(c.name+" has loaded "+c.want, func() bool {
				out, _ := m.Try("cat /run/" + c.name + ".loaded")
				got = strings.ReplaceAll(out, "\n", " ")
				return strings.HasSuffix(got, c.want)
			})
			if got != c.want {
				t.Errorf("%s: %s has loaded %q, want %q", root, c.name, got, c.want)
			}
		}
		if got := m.events("config-blamed"); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
	})
}
