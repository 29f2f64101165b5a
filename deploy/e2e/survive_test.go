package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// crowdSize clients live through all of TestSurvives.
const crowdSize = 50

// TestSurvives kills, restarts, stops and replaces the guard under fifty live clients: nobody is lost, nobody is ended,
// and a ladder that was under way goes on.
func TestSurvives(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/crowd.service":      crowd(crowdSize),
			"/etc/systemd/system/stubborn.service":   service(client + " --name stubborn --timeout 2 --beat 500 --beats 3 --ignore-term"),
			"/etc/systemd/system/late-comer.service": service(client + " --name late-comer --timeout 3 --beat 500"),
			"/etc/checkprocd/conf.d/rules.toml":      "[[rule]]\nmatch = { name = \"stubborn\" }\nrestart = \"none\"\n",
		})
		m.startGuard()
		m.Run("systemctl start crowd")
		m.waitGuarded(crowdSize)
		before := m.list()
		var lost string // the client that the scenario itself ends
		healthy := func(after string) {
			t.Helper()
			now := m.list()
			for name, was := range before {
				if is := now[name]; name != lost && (is.PID != was.PID || is.State != control.StateGuarded || is.Slot != was.Slot) {
					t.Errorf("%s: after %s: %s was pid %d in slot %d, %s, and is pid %d in slot %d, %s",
						root, after, name, was.PID, was.Slot, was.State, is.PID, is.Slot, is.State)
				}
			}
			for _, name := range []string{"registered", "late", "condemned", "signalled", "refused", "unguarded", "exited", "recovered"} {
				for _, r := range m.events(name) {
					if strings.HasPrefix(r["CHECKPROC_NAME"], "crowd") && r["CHECKPROC_NAME"] != lost {
						t.Errorf("%s: after %s: %s", root, after, r["MESSAGE"])
					}
				}
			}
			if got := m.Run("pgrep --count --exact client"); got != strconv.Itoa(len(before)) && lost == "" {
				t.Errorf("%s: after %s: %s clients live, of %d", root, after, got, len(before))
			}
		}

		// kill -9 in the middle of a ladder.
		m.Run("systemctl start stubborn")
		victim := Fields{"CHECKPROC_PID": m.mainPID("stubborn")}
		term := m.awaitEvent("signalled", victim)
		m.check(term, Fields{"CHECKPROC_SIGNAL": "SIGTERM", "CHECKPROC_STEP": "1"})
		first := m.mainPID("checkprocd")
		m.Mark()
		m.Run("systemctl kill --signal=KILL --kill-whom=main checkprocd")
		if r := m.awaitEvent("started"); r["_PID"] == first {
			t.Errorf("%s: pid %s says it started, after its end", root, first)
		}
		m.check(m.awaitEvent("killed", victim), Fields{"CHECKPROC_SIGNAL": "SIGKILL", "CHECKPROC_STEP": "2"})
		var signals []string
		for _, r := range m.Journal("CHECKPROC_EVENT=signalled", "CHECKPROC_PID="+victim["CHECKPROC_PID"]) {
			signals = append(signals, r["CHECKPROC_SIGNAL"])
			if r["CHECKPROC_SIGNAL"] == "SIGKILL" {
				if waited := r.Time().Sub(term.Time()); waited < 4*time.Second {
					t.Errorf("%s: SIGKILL %v after SIGTERM, with a restart between; the ladder says 5 s", root, waited)
				}
			}
		}
		if got := fmt.Sprint(signals); got != "[SIGTERM SIGKILL]" {
			t.Errorf("%s: signals %s: one ladder has one of each", root, got)
		}
		if got := m.Property("stubborn", "ExecMainStatus"); got != "9" {
			t.Errorf("%s: stubborn.service: ExecMainStatus=%s", root, got)
		}
		healthy("kill -9")

		m.Mark()
		m.Run("systemctl restart checkprocd")
		healthy("restart")

		// Stop and start; meanwhile one client dies, which is noticed.
		m.Mark()
		m.Run("systemctl stop checkprocd")
		seg := m.segment()
		if seg["nattch"] != strconv.Itoa(crowdSize) || seg["size"] != "72000" {
			t.Errorf("%s: after stop: segment %v", root, seg)
		}
		m.Run("test -s /run/checkprocd/registry")
		healthyStop := m.Run("pgrep --count --exact client")
		if healthyStop != strconv.Itoa(crowdSize) {
			t.Errorf("%s: after stop: %s clients live", root, healthyStop)
		}
		lost = "crowd7"
		m.Run(fmt.Sprintf("kill -KILL %d", before[lost].PID))
		m.startGuard()
		m.awaitEvent("cleared", Fields{"CHECKPROC_NAME": lost})
		healthy("stop and start")
		if again := m.segment(); again["shmid"] != seg["shmid"] {
			t.Errorf("%s: after stop and start: segment %v, before %v", root, again, seg)
		}

		// Stopped for longer than the clients' timeout: a gap.
		m.Mark()
		m.Run("systemctl kill --signal=STOP --kill-whom=main checkprocd; sleep 4; systemctl kill --signal=CONT --kill-whom=main checkprocd")
		m.check(m.awaitEvent("gap"), Fields{"PRIORITY": "4"})
		m.Wait("looks after the gap", func() bool { return m.status().Counters.Gaps > 0 })
		healthy("a gap")

		// Stopped until systemd's watchdog replaces it.
		m.WriteFile("/etc/systemd/system/checkprocd.service.d/watchdog.conf", "[Service]\nWatchdogSec=2s\n")
		m.Run("systemctl daemon-reload; systemctl restart checkprocd")
		stopped := m.mainPID("checkprocd")
		m.Mark()
		m.Run("systemctl kill --signal=STOP --kill-whom=main checkprocd")
		if r := m.awaitEvent("started"); r["_PID"] == stopped {
			t.Errorf("%s: pid %s says it started", root, stopped)
		}
		m.WaitUnit("checkprocd", "active")
		if got := m.Property("checkprocd", "NRestarts"); got == "0" {
			t.Errorf("%s: the watchdog did not restart it", root)
		}
		healthy("the watchdog")

		// An upgrade: the running guard starts its helper from its own program, the next guard takes all over.
		m.Mark()
		m.Run("cp /usr/lib/rig/checkprocd-next /usr/bin/.next; mv /usr/bin/.next /usr/bin/checkprocd")
		if s := m.status(); s.Version == "next" {
			t.Errorf("%s: version %s before the restart", root, s.Version)
		}
		m.Run("systemctl start late-comer")
		m.awaitEvent("registered", Fields{"CHECKPROC_NAME": "late-comer"})
		m.Run("systemctl restart checkprocd")
		if s := m.status(); s.Version != "next" || s.Registry.Error != "" {
			t.Errorf("%s: after the upgrade: version %s, registry %+v", root, s.Version, s.Registry)
		}
		before["late-comer"] = m.list()["late-comer"]
		healthy("the upgrade")
		if got := m.events("registered", Fields{"CHECKPROC_NAME": "late-comer"}); len(got) != 1 {
			t.Errorf("%s: late-comer registered %d times", root, len(got))
		}
		for _, r := range m.Journal("CHECKPROC_EVENT=killed") {
			if r["CHECKPROC_NAME"] != "stubborn" {
				t.Errorf("%s: %s", root, r["MESSAGE"])
			}
		}
	})
}
