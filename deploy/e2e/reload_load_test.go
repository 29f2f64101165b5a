package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// reloads is how often TestReloadsUnderLoad reloads; `make soak` asks for more.
func reloads(t *testing.T) int {
	text := os.Getenv("SOAK_RELOADS")
	if text == "" {
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SOAK_RELOADS: %v", err)
	}
	return n
}

// TestReloadsUnderLoad reloads the guard again and again, with files of its configuration that change, come, go and are
// faulty, while the configurations of real services change in all ways, and others hang: no registration is lost, nobody
// healthy is touched, whoever hangs is ended, and each service takes each change of its configuration.
func TestReloadsUnderLoad(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const (
			conf     = "/etc/checkprocd/conf.d/"
			base     = "brake.enabled = false\nrecovery = { attempts = 100, window = \"1s\" }\n" + noPressure
			services = 6 // of these the last two are restarted, all others reloaded
			healthy  = 20
		)
		// The rules of the services, at another place and with another wait each time.
		rules := func(i int) string {
			text := "[[rule]]\nmatch = { name = \"hung*\" }\nrestart = \"none\"\n"
			if i%3 == 1 {
				text += "[[rule]]\nmatch = { name = \"nobody*\" }\naction = \"report\"\n"
			}
			for n := range services {
				more := ""
				if n >= services-2 {
					more = ", action = \"restart\""
				}
				text += fmt.Sprintf("[[rule]]\nmatch = { unit = \"app%d.service\" }\nwatch = { files = [ \"/etc/app/%d*.conf\" ], settle = \"%dms\", blame = \"1s\"%s }\n", n, n, 200+100*(i%2), more)
			}
			return text
		}
		files := Files{
			conf + "base.toml":                  base,
			conf + "rules.toml":                 rules(0),
			"/usr/lib/rig/loads":                "#!/bin/sh\ncp \"$2\" \"$RUNTIME_DIRECTORY/loaded\"\nexec " + client + " --name \"$1\" --timeout 4 --beat 300\n",
			"/etc/systemd/system/crowd.service": service(fmt.Sprintf("/bin/sh -c 'for i in $(seq %d); do %s --name crowd$i --timeout 4 --beat 500 & done; wait'", healthy, client)),
			"/etc/systemd/system/hung@.service": service(client + " --name hung%i --timeout 1 --beat 100 --beats 3 --term-exit"),
		}
		unit := func(n int) string { return fmt.Sprintf("app%d", n) }
		file := func(n int) string { return fmt.Sprintf("/etc/app/%d.conf", n) }
		var all []string
		for n := range services {
			files[file(n)] = "0\n"
			files["/etc/systemd/system/"+unit(n)+".service"] = service("/usr/lib/rig/loads %N "+file(n), "RuntimeDirectory=%N", "ExecReload=/bin/cp "+file(n)+" /run/%N/loaded")
			all = append(all, unit(n))
		}
		m := bootInstalled(t, root, files)
		m.startGuard()
		m.Run("systemctl start crowd " + strings.Join(all, " "))
		m.waitGuarded(healthy + services)
		first := m.list()

		takes := func(n int, text string) {
			t.Helper()
			m.Wait(fmt.Sprintf("%s takes %q", unit(n), text), func() bool {
				out, _ := m.Try("cat /run/" + unit(n) + "/loaded")
				return out == text
			})
		}
		total, hung, rejected := reloads(t), 0, 0
		last := map[int]string{}
		for i := range total {
			// A service, in one of the ways in which files are changed; its last change is in force by now.
			n := i % services
			if text, changed := last[n]; changed {
				takes(n, text)
			}
			last[n] = fmt.Sprint(i + 1)
			m.Run(fmt.Sprintf([]string{
				"echo %[1]s >%[2]s",
				"echo %[1]s >%[2]s.new; mv %[2]s.new %[2]s",
				"sed -i s/.*/%[1]s/ %[2]s",
				"rm %[2]s; echo %[1]s >%[2]s",
			}[i%4], last[n], file(n)))
			if i%10 == 5 {
				m.Run(fmt.Sprintf("systemctl start hung@%d", i))
				hung++
			}
			// The guard.
			if i%7 == 3 {
				m.WriteFile(conf+"faulty.toml", "interval = 1\n[[rule]\n")
				if out, code := m.Try("checkprocctl reload --wait"); code != 78 {
					t.Fatalf("%s: reload %d of a faulty configuration: exit status %d\n%s", root, i, code, out)
				}
				m.Run("rm " + conf + "faulty.toml")
				rejected++
				continue
			}
			m.WriteFile(conf+"base.toml", fmt.Sprintf("interval = \"%dms\"\nladder.max_concurrent = %d\n", 100+50*(i%6), 1+i%5)+base)
			m.WriteFile(conf+"rules.toml", rules(i))
			m.Run(fmt.Sprintf("rm -f %s*-extra.toml; echo 'protect.names = [ \"nobody%d\" ]' >%s%d-extra.toml", conf, i, conf, i%2))
			if i%5 == 4 {
				m.Run("systemctl reload checkprocd")
			} else {
				m.Run("checkprocctl reload --wait")
			}
		}
		for n, text := range last {
			takes(n, text)
		}

		m.Wait("who hung has ended", func() bool { return len(m.events("killed")) == hung })
		m.Wait("all are guarded, and those who were restarted have left no record", func() bool {
			s := m.status()
			return s.Targets.Guarded == healthy+services && len(s.Tables) == 1 && s.Tables[0].Used == healthy+services
		})
		now := m.list()
		for name, was := range first {
			if restarted := name == unit(services-1) || name == unit(services-2); restarted != (now[name].PID != was.PID) || now[name].State != control.StateGuarded {
				t.Errorf("%s: %s was pid %d, and is pid %d, %s", root, name, was.PID, now[name].PID, now[name].State)
			}
		}
		pids := map[string]int{}
		for _, r := range m.events("registered") {
			pids[r["CHECKPROC_PID"]]++
		}
		for pid, n := range pids {
			if n != 1 {
				t.Errorf("%s: pid %s registered %d times", root, pid, n)
			}
		}
		for _, event := range []string{"late", "condemned", "signalled", "killed"} {
			for _, r := range m.events(event) {
				if !strings.HasPrefix(r["CHECKPROC_NAME"], "hung") {
					t.Errorf("%s: %s", root, r["MESSAGE"])
				}
			}
		}
		for _, event := range []string{"unguarded", "changed", "config-blamed", "config-check-failed", "config-delayed", "restored", "restore-failed", "gave-up"} {
			if got := m.events(event); len(got) > 0 {
				t.Errorf("%s: %d times: %s", root, len(got), got[0]["MESSAGE"])
			}
		}
		if n := len(m.events("config-rejected")); n != rejected {
			t.Errorf("%s: %d rejections are reported, %d were", root, n, rejected)
		}
		if n := len(m.events("reloaded")); n != total-rejected {
			t.Errorf("%s: %d reloads are reported, %d were", root, n, total-rejected)
		}
		// The rules that stand at the end see their files, and nothing is in the way of what they say. (Of a change that is
		// carried while its rule becomes another one, and overtaken by the next change, nobody knows how it ended.)
		m.Mark()
		for n := range services {
			m.Run("echo last >" + file(n))
		}
		for n := range services {
			m.awaitEvent("config-applied", Fields{"CHECKPROC_UNIT": unit(n) + ".service"})
			takes(n, "last")
		}
		t.Logf("measured: %s: %d reloads, %d of them rejected, as many changes of services, %d ended", root, total, rejected, hung)
	})
}
