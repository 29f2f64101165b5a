package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// noPressure keeps the verdicts of a scenario apart from what else runs on this host: the machines share its pressure.
const noPressure = "[pressure]\ncpu = \"100%\"\nmemory = \"100%\"\nio = \"100%\"\n"

// once is the script of a service that runs first in its first run, and a healthy client later.
func once(first string) string {
	return "/bin/sh -c 'test -e /var/tmp/%N && exec " + client + " --name %N --timeout 2 --beat 500; touch /var/tmp/%N; " + first + "'"
}

// threadLine is a line of CHECKPROC_THREADS.
var threadLine = regexp.MustCompile(`^(\d+) (\S+) state=(\S) wchan=(\S+) syscall=(\S+) cpu=\d+\.\d{3}s waited=\d+\.\d{3}s (moved|still)$`)

// TestCondemned compares the evidence in the journal record of a verdict with what is true, and reads its message.
func TestCondemned(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/victim.service": service("/usr/lib/rig/threads --name victim --timeout 2 --beat 500 --beats 6", "LimitNOFILE=1234"),
			"/etc/checkprocd/conf.d/e2e.toml":    "interval = \"250ms\"\n" + noPressure,
		})
		m.startGuard()
		m.Run("systemctl start victim")
		pid := m.mainPID("victim")
		m.Wait("all threads", func() bool { return m.Run("ls /proc/"+pid+"/task | wc -l") == "3" })
		open := strings.Fields(m.Run("ls /proc/" + pid + "/fd"))

		late := m.awaitEvent("late", Fields{"CHECKPROC_PID": pid})
		r := m.awaitEvent("condemned", Fields{"CHECKPROC_PID": pid})
		m.check(r, Fields{
			"CHECKPROC_NAME": "victim", "CHECKPROC_UNIT": "victim.service", "CHECKPROC_VERDICT": "hung", "PRIORITY": "4",
			"CHECKPROC_TIMEOUT_USEC": "2000000", "CHECKPROC_THREAD_COUNT": "3", "CHECKPROC_DESCRIPTORS": strconv.Itoa(len(open)),
			"CHECKPROC_DESCRIPTOR_LIMIT": "1234", "CHECKPROC_CGROUP": "/system.slice/victim.service", "CHECKPROC_SWAP_BYTES": "*",
			"CHECKPROC_TRACER": "", "CHECKPROC_DUMPING": "", "CHECKPROC_FROZEN": "", "CHECKPROC_EVIDENCE_PROBLEMS": "", "OBJECT_PID": pid,
		})
		message := fmt.Sprintf(`^pid %s \(victim\) silent for \d+\.\ds \(timeout 2\.0s\): none of 3 threads runnable, main thread in pause(, no CPU used for \d+\.\ds)?: hung; ending it$`, pid)
		if !regexp.MustCompile(message).MatchString(r["MESSAGE"]) {
			t.Errorf("%s: the message is %q", root, r["MESSAGE"])
		}

		calls := map[string]bool{}
		for i, line := range strings.Split(r["CHECKPROC_THREADS"], "\n") {
			f := threadLine.FindStringSubmatch(line)
			if f == nil {
				t.Errorf("%s: a thread is described as %q", root, line)
				continue
			}
			if i == 0 && (f[1] != pid || f[5] != "pause") {
				t.Errorf("%s: the main thread, pid %s, is to come first, and be in pause: %q", root, pid, line)
			}
			if f[2] != "threads" || f[3] != "S" || f[4] == "-" || f[6] != "still" {
				t.Errorf("%s: a thread that sleeps is described as %q", root, line)
			}
			calls[f[5]] = true
		}
		if !calls["pause"] || !calls["futex"] || !calls["clock_nanosleep"] || len(calls) != 3 {
			t.Errorf("%s: the system calls of pause(), sem_wait() and nanosleep() are %v", root, calls)
		}

		var named []string
		for _, file := range strings.Split(r["CHECKPROC_OPEN"], "; ") {
			number, what, _ := strings.Cut(file, " ")
			named = append(named, number)
			if number == "0" && what != "/dev/null" {
				t.Errorf("%s: standard input is %s", root, what)
			}
		}
		slices.Sort(named)
		slices.Sort(open)
		if !slices.Equal(named, open) || !strings.Contains(r["CHECKPROC_OPEN"], "/etc/hostname") || !strings.Contains(r["CHECKPROC_OPEN"], "socket:[") {
			t.Errorf("%s: of the descriptors %v, named are %s", root, open, r["CHECKPROC_OPEN"])
		}
		if rss, _ := strconv.Atoi(r["CHECKPROC_RSS_BYTES"]); rss < 16<<20 || rss > 32<<20 {
			t.Errorf("%s: it has written to 16 MiB, and rss is %s", root, r["CHECKPROC_RSS_BYTES"])
		}
		const three = `cpu \d+\.\d%% memory \d+\.\d%% io \d+\.\d%%`
		if !regexp.MustCompile(fmt.Sprintf("^host " + three + "; cgroup " + three + "$")).MatchString(r["CHECKPROC_PRESSURE"]) {
			t.Errorf("%s: pressure: %q", root, r["CHECKPROC_PRESSURE"])
		}
		if lateness, err := strconv.Atoi(r["CHECKPROC_LATENESS_USEC"]); err != nil || lateness < 0 {
			t.Errorf("%s: lateness: %q", root, r["CHECKPROC_LATENESS_USEC"])
		}
		// Six beats, half a second apart; on a busy host a scan may see two as one.
		var sum time.Duration
		gaps := strings.Fields(r["CHECKPROC_BEAT_GAPS_MSEC"])
		for _, text := range gaps {
			ms, err := strconv.Atoi(text)
			if err != nil || ms <= 0 {
				t.Errorf("%s: gaps %v", root, gaps)
			}
			sum += time.Duration(ms) * time.Millisecond
		}
		if lived := late.Time().Sub(m.awaitEvent("registered", Fields{"CHECKPROC_PID": pid}).Time()); len(gaps) < 2 || len(gaps) > 6 || sum > lived {
			t.Errorf("%s: after six beats, and %v from registering to being late, the gaps are %v ms", root, lived, gaps)
		}
	})
}

// TestScope ends services whose children outlive what systemd would do about them, and not a service that two share.
func TestScope(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const stubborn = `(trap "" TERM; exec sleep 77777) & (exec sleep 77777) & `
		hung := "exec " + client + " --name %N --timeout 2 --beat 500 --beats 3"
		m := bootInstalled(t, root, Files{
			// The main process ends at the first signal, a child outlives it.
			"/etc/systemd/system/family.service": service(once(stubborn+hung), "KillMode=process"),
			// The main process does not.
			"/etc/systemd/system/clan.service": service(once(stubborn+hung+" --ignore-term"), "KillMode=process"),
			// Each of its children forks another and ends.
			"/etc/systemd/system/swarm.service": service("/bin/sh -c 'f() { f & }; f; f; f; "+hung+" --ignore-term'", "KillMode=process"),
			"/etc/systemd/system/shared.service": service("/bin/sh -c '" + client + " --name mate --timeout 2 --beat 500 & " +
				client + " --name lost --timeout 2 --beat 500 --beats 3 & wait'"),
			// A ladder that leaves main process and child alive.
			"/etc/systemd/system/tough.service": service(once(stubborn+hung+" --ignore-term"), "KillMode=process"),
			"/etc/checkprocd/conf.d/e2e.toml": noPressure + "[ladder]\nscope = \"cgroup\"\n" +
				"steps = [ { signal = \"SIGTERM\", wait = \"1s\" }, { signal = \"SIGKILL\", wait = \"5s\" } ]\n" +
				"[[rule]]\nmatch = { name = \"swarm\" }\nrestart = \"none\"\n" +
				"[[rule]]\nmatch = { name = \"tough\" }\nladder = { steps = [ { signal = \"SIGTERM\", wait = \"1s\" } ] }\n",
		})
		if got := m.Property("checkprocd", "ProtectControlGroups"); got != "yes" {
			t.Errorf("%s: ProtectControlGroups=%s", root, got)
		}
		m.startGuard()
		m.Run("systemctl start family clan shared")
		members := func(unit string) []string {
			t.Helper()
			return strings.Fields(m.Run("cat /sys/fs/cgroup/system.slice/" + unit + ".service/cgroup.procs"))
		}
		first := map[string][]string{}
		for _, name := range []string{"family", "clan", "shared"} {
			m.Wait("three processes of "+name, func() bool { first[name] = members(name); return len(first[name]) == 3 })
		}
		main := map[string]string{"family": m.mainPID("family"), "clan": m.mainPID("clan")}

		for _, name := range []string{"family", "clan"} {
			about := Fields{"CHECKPROC_UNIT": name + ".service", "CHECKPROC_PID": main[name]}
			m.awaitEvent("signalled", about, Fields{"CHECKPROC_SIGNAL": "SIGTERM"})
			killed := m.awaitEvent("killed", about)
			// For those that the main process of family has left behind there is a second signal.
			m.awaitEvent("signalled", about, Fields{"CHECKPROC_SIGNAL": "SIGKILL"})
			for _, pid := range first[name] {
				if _, code := m.Try("test ! -e /proc/" + pid); code != 0 {
					t.Errorf("%s: %s: pid %s outlived %q", root, name, pid, killed["MESSAGE"])
				}
			}
			m.awaitEvent("restored", about)
			m.WaitUnit(name, "active")
			pid := m.mainPID(name)
			m.Wait("the new "+name+" in the list", func() bool { return m.list()[name].State == "guarded" })
			if got := m.mainPID(name); got != pid || pid == main[name] {
				t.Errorf("%s: %s had the main processes %s, %s and %s", root, name, main[name], pid, got)
			}
		}

		lost := m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "lost"})
		refused := m.awaitEvent("refused", Fields{"CHECKPROC_PID": lost["CHECKPROC_PID"]})
		m.check(refused, Fields{"PRIORITY": "4", "CHECKPROC_NAME": "lost", "CHECKPROC_UNIT": "shared.service", "CHECKPROC_VERDICT": "hung"})
		if !strings.Contains(refused["CHECKPROC_REASON"], "(mate) is in it, ") {
			t.Errorf("%s: refused: %s", root, refused["MESSAGE"])
		}
		if got := members("shared"); len(got) != 2 || slices.Contains(got, lost["CHECKPROC_PID"]) {
			t.Errorf("%s: of %v, %v live, after pid %s was to be ended alone", root, first["shared"], got, lost["CHECKPROC_PID"])
		}
		if list := m.list(); list["mate"].State != "guarded" {
			t.Errorf("%s: the healthy one: %+v", root, list["mate"])
		}

		// What a ladder has opened it closes, whatever comes of it.
		pidfds := func() int {
			t.Helper()
			return strings.Count(m.Run("ls -l /proc/"+m.mainPID("checkprocd")+"/fd"), "pidfd")
		}
		before := pidfds()
		m.Run("systemctl start tough")
		defer m.Try("systemctl kill --signal=KILL tough") // else the machine would wait for it to end
		tough := m.mainPID("tough")
		m.awaitEvent("unkillable", Fields{"CHECKPROC_PID": tough})
		m.check(m.awaitEvent("signalled", Fields{"CHECKPROC_PID": tough}), Fields{"CHECKPROC_SIGNAL": "SIGTERM"})
		m.Wait("as many pidfds as before, and one", func() bool { return pidfds() == before+1 })
		if got := m.mainPID("tough"); before < 3 || got != tough {
			t.Errorf("%s: %d pidfds for three targets; tough has main process %s, and had %s", root, before, got, tough)
		}

		// Children that are forked all the time: the unit may not write cgroup.kill, so they are looked for again and
		// again, and then systemd is asked.
		m.Run("systemctl start swarm")
		swarm := Fields{"CHECKPROC_UNIT": "swarm.service"}
		m.awaitEvent("killed", swarm)
		m.Wait("nobody is left of swarm", func() bool {
			_, code := m.Try("test -z \"$(cat /sys/fs/cgroup/system.slice/swarm.service/cgroup.procs 2>/dev/null)\"")
			return code == 0
		})
	})
}

// TestOrders has an operator hold processes, the brake and everything, and others try.
func TestOrders(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const hangs = " --timeout 2 --beat 500 --beats 3"
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/precious.service": service(client + " --name precious" + hangs),
			"/etc/systemd/system/wave.service":     service("/bin/sh -c 'for i in 1 2 3 4 5 6 7 8 9; do " + client + " --name wave$i" + hangs + " & done; wait'"),
			"/etc/checkprocd/conf.d/e2e.toml":      noPressure + "[[rule]]\nmatch = {}\nrestart = \"none\"\n",
		})
		m.Run("useradd --groups checkprocd steward; useradd --groups adm reader; useradd other")
		as := func(user, command string) string {
			return "setpriv --reuid=" + user + " --regid=" + user + " --init-groups checkprocctl " + command
		}
		m.startGuard()

		for _, order := range []string{"hold precious", "pause", "release --all", "resume", "brake go", "brake stop"} {
			for _, user := range []string{"reader", "other"} {
				want := 77
				if order == "release --all" {
					want = 0 // there is none to release
				}
				if out, code := m.Try(as(user, order)); code != want {
					t.Errorf("%s: %s of %s: exit status %d\n%s", root, order, user, code, out)
				}
			}
		}
		if got := m.status().Holds; len(got) != 0 {
			t.Fatalf("%s: those who may not have ordered %+v", root, got)
		}

		// A hold on a name, before there is one.
		var hold control.Hold
		m.fromJSON(as("steward", "hold precious --for 10m --reason 'under a debugger' --json 2>/dev/null"), &hold)
		m.check(m.awaitEvent("held", Fields{"CHECKPROC_REASON": "order"}), Fields{"PRIORITY": "4", "CHECKPROC_PID": ""})
		if _, code := m.Try(as("reader", "release --all")); code != 77 {
			t.Errorf("%s: release --all of a reader: exit status %d", root, code)
		}
		m.Run("systemctl start precious")
		pid := m.mainPID("precious")
		about := Fields{"CHECKPROC_PID": pid}
		r := m.awaitEvent("held", about)
		m.check(r, Fields{
			"CHECKPROC_REASON": "order", "CHECKPROC_VERDICT": "hung", "CHECKPROC_UNIT": "precious.service", "CHECKPROC_THREADS": "*", "OBJECT_PID": pid,
		})
		for _, text := range []string{"(steward, pid ", "(under a debugger)", "nothing is done"} {
			if !strings.Contains(r["MESSAGE"], text) {
				t.Errorf("%s: %s: does not say %q", root, r["MESSAGE"], text)
			}
		}

		// It outlives a restart, and its time runs on.
		left := func() time.Duration {
			t.Helper()
			holds := m.status().Holds
			if len(holds) != 1 || holds[0].Name != "precious" || holds[0].Reason != "under a debugger" || !strings.Contains(holds[0].By, "steward") || holds[0].Targets != 1 {
				t.Fatalf("%s: holds: %+v", root, holds)
			}
			return time.Duration(holds[0].LeftUsec) * time.Microsecond
		}
		before := left()
		m.Run("systemctl restart checkprocd")
		if after := left(); after >= before || after < before-patience || before > 10*time.Minute {
			t.Errorf("%s: the hold had %v left before the restart, and %v after it", root, before, after)
		}
		if x := m.list()["precious"]; x.State != "late" || !strings.Contains(x.Hold, "under a debugger") {
			t.Errorf("%s: after the restart: %+v", root, x)
		}

		// The hold ends and a pause goes on; then that ends, too.
		m.Mark()
		m.Run(as("steward", "pause --for 1h"))
		m.check(m.awaitEvent("paused"), Fields{"PRIORITY": "4", "CHECKPROC_REASON": "order"})
		m.Run(as("steward", "release precious"))
		m.check(m.awaitEvent("released"), Fields{"PRIORITY": "5", "CHECKPROC_REASON": "order"})
		if got := m.mainPID("precious"); got != pid {
			t.Errorf("%s: under a hold and a pause precious was ended: pid %s is now %s", root, pid, got)
		}
		if got := append(m.events("signalled"), m.events("condemned")...); len(got) != 0 {
			t.Errorf("%s: under a hold and a pause: %s", root, got[0]["MESSAGE"])
		}
		m.Run(as("steward", "resume"))
		m.check(m.awaitEvent("resumed"), Fields{"PRIORITY": "5", "CHECKPROC_REASON": "order"})
		m.awaitEvent("killed", about)
		if out, code := m.Try(as("steward", "resume")); code != 1 {
			t.Errorf("%s: resume of what is not paused: exit status %d\n%s", root, code, out)
		}

		// A wave that the brake is told to let go, and one that it is told to stop.
		answer := func(order string, want int) {
			t.Helper()
			var got map[string]int
			m.fromJSON(as("steward", order+" --json"), &got)
			if len(got) != 1 || got["targets"]+got["released"] != want {
				t.Errorf("%s: %s: %v, want %d", root, order, got, want)
			}
		}
		for _, order := range []string{"brake go", "brake stop"} {
			m.Mark()
			m.Run("systemctl start wave")
			// Eight make a wave. Those that fall late in the second before are ended, and belong to it.
			held := 0
			m.Wait("the brake to hold the wave", func() bool {
				s := m.status()
				held = s.Brake.Waiting
				return s.Brake.On && held > 0 && held+len(m.events("signalled")) == 9
			})
			m.check(m.awaitEvent("brake-on"), Fields{"PRIORITY": "3"})
			answer(order, held)
			if got := m.status(); got.Brake.Waiting != 0 {
				t.Errorf("%s: after %s: %+v", root, order, got.Brake)
			}
			if order == "brake go" {
				m.Wait("the end of the wave", func() bool { return len(m.events("killed")) == 9 })
				m.awaitEvent("brake-off")
				m.WaitUnit("wave", "inactive")
				continue
			}
			holds := m.status().Holds
			if len(holds) != held || holds[0].PID == 0 || holds[0].LeftUsec < (9*time.Minute).Microseconds() || !strings.Contains(holds[0].By, "steward") {
				t.Errorf("%s: after %s: %+v", root, order, holds)
			}
			if got := m.events("signalled"); len(got) != 9-held {
				t.Errorf("%s: after %s: %v", root, order, got)
			}
			answer("release --all", held)
			m.awaitEvent("killed")
		}

		// Advice is for those who see all.
		var advice []control.Advice
		m.fromJSON(as("reader", "advise --json"), &advice)
		i := slices.IndexFunc(advice, func(a control.Advice) bool { return a.Name == "precious" })
		if i < 0 || advice[i].Beats < 1 || advice[i].Verdict != "too-few" {
			t.Errorf("%s: advice: %+v", root, advice)
		}
		if out, code := m.Try(as("other", "advise")); code != 77 {
			t.Errorf("%s: advise of somebody: exit status %d\n%s", root, code, out)
		}
	})
}

// TestObserve runs the service with --observe.
func TestObserve(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/hung.service":    service(client + " --name hung --timeout 2 --beat 500 --beats 3"),
			"/etc/systemd/system/crashed.service": service(client + " --name crashed --timeout 2 --beat 500"),
			"/etc/checkprocd/conf.d/e2e.toml":     noPressure,
			dropIn:                                "[Service]\nExecStart=\nExecStart=/usr/bin/checkprocd --observe\n",
		})
		m.Run("systemctl start hung crashed")
		hung, crashed := m.mainPID("hung"), m.mainPID("crashed")
		m.startGuard()
		m.awaitEvent("observing")
		m.awaitEvent("registered", Fields{"CHECKPROC_PID": crashed})
		m.Run("systemctl kill --signal=KILL crashed")

		r := m.awaitEvent("would-condemn", Fields{"CHECKPROC_PID": hung})
		m.check(r, Fields{
			"PRIORITY": "4", "CHECKPROC_VERDICT": "hung", "CHECKPROC_UNIT": "hung.service", "CHECKPROC_THREADS": "*", "OBJECT_PID": hung,
		})
		if !strings.Contains(r["MESSAGE"], "it would have got SIGTERM, after 5.0s SIGKILL") {
			t.Errorf("%s: %s", root, r["MESSAGE"])
		}
		m.check(m.awaitEvent("would-clear", Fields{"CHECKPROC_PID": crashed}), Fields{"PRIORITY": "6", "CHECKPROC_NAME": "crashed", "OBJECT_PID": ""})

		status := m.status()
		if status.Mode != control.ModeObserving || status.Counters.Would != 2 || status.Counters.Signalled != 0 || status.Counters.Cleared != 0 {
			t.Errorf("%s: %s: %+v", root, status.Mode, status.Counters)
		}
		if got := m.mainPID("hung"); got != hung {
			t.Errorf("%s: an observer ended pid %s", root, hung)
		}
		if got := m.Property("crashed", "ActiveState"); got != "failed" {
			t.Errorf("%s: crashed.service is %s", root, got)
		}
		for _, name := range []string{"signalled", "killed", "cleared", "restored", "condemned"} {
			if got := m.events(name); len(got) != 0 {
				t.Errorf("%s: an observer: %s", root, got[0]["MESSAGE"])
			}
		}
		if used := status.Tables[0].Used; used != 2 {
			t.Errorf("%s: %d records are used", root, used)
		}
	})
}
