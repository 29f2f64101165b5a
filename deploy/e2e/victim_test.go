package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hangsOnce is a unit whose first run hangs after a second and a half, and whose later runs are healthy.
func hangsOnce(restart string, flags string) string {
	return service("/bin/sh -c 'test -e /var/tmp/%N && exec "+client+" --name %N --timeout 2 --beat 500; "+
		"touch /var/tmp/%N; exec "+client+" --name %N --timeout 2 --beat 500 --beats 3 "+flags+"'",
		"Restart="+restart, "RestartSec=100ms")
}

// TestVictims hangs services of another user, one for each way in which a service comes back, and reads their own
// journals.
func TestVictims(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/always.service":     hangsOnce("always", ""),
			"/etc/systemd/system/on-failure.service": hangsOnce("on-failure", ""),
			"/etc/systemd/system/no.service":         hangsOnce("no", "--term-exit"),
			"/etc/systemd/system/none.service":       hangsOnce("no", ""),
			"/etc/systemd/system/stubborn.service":   hangsOnce("on-failure", "--ignore-term"),
			"/etc/systemd/system/reported.service":   hangsOnce("always", ""),
			"/etc/systemd/system/healthy.service":    service(client + " --name healthy --timeout 2 --beat-exact"),
			"/etc/checkprocd/conf.d/rules.toml": noPressure + "[[rule]]\nmatch = { unit = \"none.service\" }\nrestart = \"none\"\n" +
				"[[rule]]\nmatch = { name = \"reported\", user = \"daemon\" }\naction = \"report\"\n",
		})
		m.startGuard()
		m.Run("systemctl start always on-failure no none stubborn reported healthy")
		first := map[string]string{}
		for _, name := range []string{"always", "on-failure", "no", "none", "stubborn", "reported", "healthy"} {
			first[name] = m.mainPID(name)
		}

		for name, restored := range map[string]bool{"always": false, "on-failure": true, "no": true, "none": false, "stubborn": false} {
			unit := name + ".service"
			about := Fields{"CHECKPROC_UNIT": unit, "CHECKPROC_PID": first[name]}
			common := Fields{
				"CHECKPROC_UNIT": unit, "OBJECT_SYSTEMD_UNIT": unit, "CHECKPROC_NAME": name, "CHECKPROC_TABLE": m.segment()["shmid"],
				"CHECKPROC_SLOT": "*", "CHECKPROC_TIMEOUT_USEC": "2000000",
			}
			alive := Fields{"OBJECT_PID": first[name], "OBJECT_UID": "1", "OBJECT_COMM": "client"}
			dead := Fields{"OBJECT_PID": "", "OBJECT_COMM": ""}

			killed := m.awaitEvent("killed", about)
			m.check(killed, common)
			m.check(killed, dead)
			// All of it stands in the service's own journal.
			own := m.Journal("--unit=" + unit)
			story := map[string]Record{}
			var order []string
			for _, r := range own {
				if r["CHECKPROC_PID"] == first[name] && r["CHECKPROC_EVENT"] != "" {
					order = append(order, r["CHECKPROC_EVENT"])
					story[r["CHECKPROC_EVENT"]+r["CHECKPROC_STEP"]] = r
				}
			}
			want := []string{"registered", "late", "condemned", "signalled", "killed"}
			step, signal := "1", "SIGTERM"
			if name == "stubborn" {
				step, signal = "2", "SIGKILL"
				want = slices.Insert(want, 4, "signalled")
			}
			got := slices.DeleteFunc(order, func(e string) bool { return e == "cleared" || e == "restored" })
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s: the events are %v, want %v", root, unit, got, want)
			}
			for _, r := range story {
				m.check(r, event(r["CHECKPROC_EVENT"]))
			}
			for _, x := range []struct {
				record string
				want   Fields
			}{
				{"registered", Fields{"PRIORITY": "6", "CHECKPROC_SILENCE_USEC": ""}},
				{"late", Fields{"PRIORITY": "5", "CHECKPROC_SILENCE_USEC": "*", "CHECKPROC_REASON": "silent"}},
				{"condemned", Fields{"PRIORITY": "4", "CHECKPROC_SILENCE_USEC": "*", "CHECKPROC_VERDICT": "hung", "CHECKPROC_REASON": "*"}},
				{"signalled1", Fields{"PRIORITY": "4", "CHECKPROC_VERDICT": "hung", "CHECKPROC_SIGNAL": "SIGTERM", "CHECKPROC_STEP": "1"}},
				{"killed" + step, Fields{"PRIORITY": "4", "CHECKPROC_VERDICT": "hung", "CHECKPROC_SIGNAL": signal, "CHECKPROC_STEP": step}},
			} {
				r := story[x.record]
				if r == nil {
					t.Errorf("%s: no %s in the journal of %s", root, x.record, unit)
					continue
				}
				m.check(r, common)
				m.check(r, x.want)
				if x.record == "late" || x.record == "condemned" {
					m.check(r, alive)
				}
			}
			if usec, _ := strconv.Atoi(story["condemned"]["CHECKPROC_SILENCE_USEC"]); usec < 3_000_000 {
				t.Errorf("%s: %s was condemned after %d µs of silence; timeout and margin are 3 s", root, unit, usec)
			}

			if got := story["condemned"]["CHECKPROC_REASON"]; !strings.HasPrefix(got, "none of 1 thread runnable, main thread in pause") {
				t.Errorf("%s: why %s was condemned: %s", root, name, got)
			}

			switch {
			case restored:
				r := m.awaitEvent("restored", about)
				m.check(r, Fields{"PRIORITY": "5", "OBJECT_SYSTEMD_UNIT": unit, "CHECKPROC_REASON": "*", "CHECKPROC_SLOT": "", "OBJECT_PID": ""})
				if waited := r.Time().Sub(killed.Time()); waited < 4*time.Second {
					t.Errorf("%s: %s was restored after %v: systemd is given 5 s", root, unit, waited)
				}
				fallthrough
			case name != "none":
				m.WaitUnit(unit, "active")
				if pid := m.mainPID(name); pid == first[name] {
					t.Errorf("%s: %s still has the main process %s", root, unit, pid)
				}
			}
		}

		// A rule that says report: nothing is done.
		m.check(m.awaitEvent("would-condemn", Fields{"CHECKPROC_PID": first["reported"]}), Fields{
			"PRIORITY": "4", "CHECKPROC_VERDICT": "hung", "CHECKPROC_UNIT": "reported.service", "OBJECT_PID": first["reported"],
		})
		// By now 5 s after the end of "none" are over for sure: "stubborn" had that long a ladder more.
		if got := m.Property("none", "ActiveState"); got == "active" {
			t.Errorf("%s: none.service came back, although a rule says restart = none", root)
		}
		if got := m.events("restored", Fields{"CHECKPROC_UNIT": "none.service"}); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
		if got := m.events("restore-failed"); len(got) != 0 {
			t.Errorf("%s: %v", root, got)
		}
		for _, name := range []string{"healthy", "reported"} {
			if pid := m.mainPID(name); pid != first[name] {
				t.Errorf("%s: %s was pid %s and is %s", root, name, first[name], pid)
			}
		}
		if got := m.events("late", Fields{"CHECKPROC_NAME": "healthy"}); len(got) != 0 {
			t.Errorf("%s: it beats exactly every timeout: %v", root, got)
		}

		// The catalog's text, with the fields of the record in it.
		out := m.Run("journalctl -x --no-pager CHECKPROC_EVENT=killed CHECKPROC_PID=" + first["always"])
		for _, text := range []string{
			"Subject: Process " + first["always"] + " (always) was ended by the guard", "Defined-By: checkprocd",
			"The hanging process " + first["always"] + ", always, has ended",
		} {
			if !strings.Contains(out, text) {
				t.Errorf("%s: journalctl -x does not say %q:\n%s", root, text, out)
			}
		}
		m.Wait("the healthy ones in the list", func() bool {
			list := m.list()
			for _, name := range []string{"always", "on-failure", "no", "stubborn", "healthy"} {
				if list[name].State != "guarded" || list[name].Unit != name+".service" || list[name].UID != 1 {
					return false
				}
			}
			return true
		})
	})
}
