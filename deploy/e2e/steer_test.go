package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestWhoMaySteer has users of each role give orders: who may not is refused and reported, who may is obeyed, by primary and
// by supplementary group, and a reload with another group says who that is.
func TestWhoMaySteer(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const conf = "/etc/checkprocd/conf.d/e2e.toml"
		base := "interval = \"200ms\"\n" + noPressure + "[recovery]\nwait = \"1s\"\ncap = \"1s\"\nattempts = 1\n"
		m := bootInstalled(t, root, Files{
			conf:                                 base,
			"/etc/systemd/system/flap.service":   service("/bin/sh -c '(sleep 3; kill -SEGV $$$$) & exec " + beats("flap") + "'"),
			"/etc/systemd/system/steady.service": service(beats("steady")),
		})
		m.Run("groupadd others; useradd joe; useradd -G adm reader; useradd -g adm reader2; useradd -G adm,checkprocd steerer; useradd -g checkprocd steerer2; useradd -G others other")
		m.startGuard()
		m.Run("systemctl start flap steady")
		m.Wait("steady is guarded", func() bool { return m.list()["steady"].State == "guarded" })
		m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "flap"})

		const (
			anyone = iota
			see
			steer
		)
		run := func(user, command string) int {
			t.Helper()
			if user == "root" {
				_, code := m.Try("checkprocctl " + command)
				return code
			}
			_, code := m.Try("runuser -u " + user + " -- checkprocctl " + command)
			return code
		}
		asks := map[string]int{"status": anyone, "list": anyone, "advise": see, "diff": see}
		orders := map[string]string{"alert test": "AlertTest", "recover flap": "Recover", "reload --wait": "Reload", "hold steady --for 10m": "Hold"}
		for _, x := range []struct {
			user string
			may  int
		}{{"joe", anyone}, {"reader", see}, {"reader2", see}, {"steerer", steer}, {"steerer2", steer}, {"root", steer}} {
			for command, takes := range asks {
				if code := run(x.user, command); (code == 0) != (x.may >= takes) || x.may < takes && code != 77 {
					t.Errorf("%s: %s as %s: exit status %d", root, command, x.user, code)
				}
			}
			m.Mark()
			if x.user == "reader2" { // more refusals than that are left out for a while
				continue
			}
			by := func(r Record) bool {
				return strings.HasPrefix(r["CHECKPROC_REASON"], "uid ") && strings.Contains(r["CHECKPROC_REASON"], "("+x.user+", pid ")
			}
			for command, method := range orders {
				code := run(x.user, command)
				if x.may == steer {
					if code != 0 {
						t.Errorf("%s: %s as %s: exit status %d", root, command, x.user, code)
					}
					continue
				}
				if code != 77 {
					t.Errorf("%s: %s as %s: exit status %d", root, command, x.user, code)
				}
				m.Wait(fmt.Sprintf("%s of %s is reported as refused", method, x.user), func() bool {
					for _, r := range m.events("denied") {
						if by(r) && r["PRIORITY"] == "4" && strings.Contains(r["MESSAGE"], " ordered "+method+", and may not: it takes root or a member of group checkprocd") {
							return true
						}
					}
					return false
				})
			}
			if x.may < steer {
				for _, event := range []string{"alert-test", "retrying", "reloaded", "held"} {
					if got := m.events(event); len(got) != 0 {
						t.Errorf("%s: %s may not: %s", root, x.user, got[0]["MESSAGE"])
					}
				}
				continue
			}
			for _, event := range []string{"alert-test", "reloaded"} {
				if r := m.awaitEvent(event); !by(r) {
					t.Errorf("%s: by %s: %s is said to be of %s", root, x.user, event, r["CHECKPROC_REASON"])
				}
			}
			for _, event := range []string{"retrying", "held"} {
				if r := m.awaitEvent(event); !strings.Contains(r["MESSAGE"], "("+x.user+", pid ") {
					t.Errorf("%s: by %s: %s", root, x.user, r["MESSAGE"])
				}
			}
			m.awaitEvent("restored", Fields{"CHECKPROC_NAME": "flap"})
			m.awaitEvent("gave-up", Fields{"CHECKPROC_NAME": "flap"}) // again
			m.Run("checkprocctl release steady")
		}

		// Another group, for callers to come and for those who are connected.
		if code := run("other", "alert test"); code != 77 {
			t.Errorf("%s: alert test as other: exit status %d", root, code)
		}
		m.WriteFile(conf, base+"[control]\ngroup = \"others\"\n")
		m.Run("systemctl reload checkprocd")
		for user, want := range map[string]int{"other": 0, "steerer": 77, "steerer2": 77, "reader": 77} {
			if code := run(user, "alert test"); code != want {
				t.Errorf("%s: alert test as %s after the reload: exit status %d", root, user, code)
			}
		}
	})
}
