package e2e

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestInitStalls has services hang while pid 1 stands still: it reads no notification, starts nothing, and reaps nobody.
func TestInitStalls(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/hung.service":     hangsOnce("always", "--beats 10"),
			"/etc/systemd/system/stubborn.service": hangsOnce("always", "--beats 10 --ignore-term"),
			"/etc/systemd/system/crowd.service":    crowd(10),
		})
		m.startGuard()
		m.Run("systemctl start crowd hung stubborn")
		guard := m.mainPID("checkprocd")
		was := map[string]string{"hung": m.mainPID("hung"), "stubborn": m.mainPID("stubborn")}
		for _, pid := range was {
			m.awaitEvent("registered", Fields{"CHECKPROC_PID": pid})
		}
		init, err := process.Open(int32(m.leader))
		if err != nil {
			t.Fatal(err)
		}
		defer init.Close()
		if err := init.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer init.Signal(unix.SIGCONT)
		m.Wait("pid 1 stands still", func() bool {
			_, state, err := process.ParentOf(int32(m.leader))
			return err == nil && state == 'T'
		})
		for _, r := range []Record{
			m.awaitEvent("killed", Fields{"CHECKPROC_PID": was["hung"], "CHECKPROC_SIGNAL": "SIGTERM"}),
			m.awaitEvent("killed", Fields{"CHECKPROC_PID": was["stubborn"], "CHECKPROC_SIGNAL": "SIGKILL"}),
		} {
			c := m.awaitEvent("condemned", Fields{"CHECKPROC_PID": r["CHECKPROC_PID"]})
			if usec, _ := strconv.Atoi(c["CHECKPROC_SILENCE_USEC"]); usec < 3_000_000 || usec > 6_000_000 {
				t.Errorf("%s: condemned after %d µs of silence, timeout and margin are 3 s: %s", root, usec, c["MESSAGE"])
			}
		}
		if s := m.status(); s.Mode != "acting" || s.Targets.Guarded != 10 || strconv.Itoa(int(s.PID)) != guard {
			t.Errorf("%s: without pid 1: %+v", root, s)
		}
		m.Mark()
		if err := init.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		// It takes up what it has missed: the services come back, and the guard was heard in time.
		for name, pid := range was {
			m.Wait(name+" is back", func() bool { now := m.mainPID(name); return now != pid && now != "0" })
		}
		m.waitGuarded(12)
		if now := m.mainPID("checkprocd"); now != guard {
			t.Errorf("%s: the guard was pid %s, and is pid %s", root, guard, now)
		}
		for _, name := range []string{"condemned", "signalled"} {
			for _, r := range m.events(name) {
				t.Errorf("%s: afterwards: %s", root, r["MESSAGE"])
			}
		}
	})
}
