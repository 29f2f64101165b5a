package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

func TestHungTargetIsEnded(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	neighbour := run(t, "--name neighbour --timeout 1 --beat 300")
	hung := run(t, "--name hung --timeout 1 --beat 100 --beats 3 --term-exit")
	hung.endsBy(0)

	late := g.await(want{event: guard.EvLate, pid: hung.pid})
	if s := time.Duration(late.SilenceUsec) * time.Microsecond; s < 2*time.Second {
		t.Errorf("late after %v of silence: the timeout is 1s and the margin 1s", s)
	}
	g.await(want{event: guard.EvCondemned, pid: hung.pid})
	sent := g.await(want{event: guard.EvSignalled, pid: hung.pid, signal: "SIGTERM"})
	if sent.Step != 1 || sent.Name != "hung" || sent.Slot == nil || *sent.Slot != hung.slot || sent.TimeoutUsec != 1e6 {
		t.Errorf("event %+v", sent)
	}
	killed := g.await(want{event: guard.EvKilled, pid: hung.pid})
	if !strings.Contains(killed.Message, "SIGTERM") {
		t.Errorf("killed: %s", killed.Message)
	}
	g.none(want{signal: "SIGKILL"}, want{event: guard.EvUnregistered, pid: hung.pid}, want{event: guard.EvExited, pid: hung.pid})
	g.untouched(neighbour)
}

func TestStubbornTargetGetsSIGKILL(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	began := time.Now()
	stubborn := run(t, "--name stubborn --timeout 1 --beat 100 --beats 3 --ignore-term")
	stubborn.endsBy(unix.SIGKILL)
	g.await(want{event: guard.EvSignalled, pid: stubborn.pid, signal: "SIGTERM"})
	kill := g.await(want{event: guard.EvSignalled, pid: stubborn.pid, signal: "SIGKILL"})
	if d := kill.at.Sub(began); d < 5*time.Second {
		t.Errorf("SIGKILL %v after it came: timeout and margin are 1s, the wait after SIGTERM 3s", d)
	}
	g.await(want{event: guard.EvKilled, pid: stubborn.pid})
	g.await(want{event: guard.EvCleared, pid: stubborn.pid})
	if n := len(g.find(want{event: guard.EvSignalled})); n != 2 {
		t.Errorf("%d signals, want 2", n)
	}
	if pid := mapTable(t).pid(stubborn.slot); pid != 0 {
		t.Errorf("the record still says pid %d", pid)
	}
}

// TestWipedWhileWaited: the old guard reads the pid again after SIGTERM, finds 0, and its kill(0, 9) ends its whole
// process group, the scheduler and all services in it.
func TestWipedWhileWaited(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t), func(c *exec.Cmd) {
		// In one process group with all of them, as under procctl; ownSession cannot leave it.
		attr(c).Setpgid = true
	})
	g.await(want{event: guard.EvActing})
	together := func(c *exec.Cmd) { attr(c).Setpgid, attr(c).Pgid = true, int(g.pid()) }
	siblings := []*client{
		run(t, "--name sibling --timeout 30 --beat 200", together),
		run(t, "--name sibling --timeout 30 --beat 200", together),
		spawn(t, "/bin/sleep", []string{"1000"}, together),
	}
	target := run(t, "--name target --timeout 1 --beat 100 --beats 3 --term-wipe-hang", together)
	target.endsBy(unix.SIGKILL)
	g.await(want{event: guard.EvKilled, pid: target.pid})
	g.scans(5)
	g.untouched(siblings...)
	for _, e := range g.find(want{event: guard.EvSignalled}) {
		if e.PID != target.pid {
			t.Errorf("%s", e.Message)
		}
	}
}

// TestRecoveredIsSpared: the target beats again while it is given time after SIGTERM.
func TestRecoveredIsSpared(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	target := member(t, "target", 1, "resume")
	target.signal(unix.SIGUSR1)
	g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGTERM"})
	e := g.await(want{event: guard.EvRecovered, pid: target.pid})
	if !strings.Contains(e.Message, "spared") {
		t.Errorf("recovered: %s", e.Message)
	}
	settle(g.cfg.Ladder.Steps[0].Wait + time.Second)
	g.none(want{signal: "SIGKILL"})
	if !target.alive() {
		t.Fatalf("it was not spared: %v", target.status)
	}

	// And it is guarded as before.
	target.signal(unix.SIGUSR1)
	g.awaitNth(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGTERM"}, 2)
	g.awaitNth(want{event: guard.EvRecovered, pid: target.pid}, 2)
}

// TestFailedSignal: a guard that may not signal says so, goes on, and does not clear the record.
func TestFailedSignal(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t), wrap("setpriv", "--bounding-set=-kill", "--inh-caps=-kill"))
	g.await(want{event: guard.EvActing})
	if len(g.find(want{event: evDegraded, reason: "CAP_KILL"})) != 1 {
		t.Error("the missing right is not reported")
	}
	hung := run(t, "--name hung --timeout 1 --beat 100 --beats 2", as(1001))
	e := g.await(want{event: guard.EvRefused, pid: hung.pid, text: "could not be signalled"})
	if e.Level != "error" || !strings.Contains(e.Message, "operation not permitted") {
		t.Errorf("refused: %+v", e)
	}
	settle(time.Second)
	g.none(want{event: guard.EvSignalled})
	if !hung.alive() || mapTable(t).pid(hung.slot) != hung.pid {
		t.Errorf("alive %v, record says pid %d", hung.alive(), mapTable(t).pid(hung.slot))
	}
}

// wrap has another program start the command.
func wrap(program string, args ...string) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		path, err := exec.LookPath(program)
		if err != nil {
			panic(err)
		}
		c.Args = append(append([]string{program}, args...), c.Args...)
		c.Args[len(args)+1] = c.Path
		c.Path = path
	}
}

func TestCollateral(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	leader := member(t, "leader", 1, "group", func(c *exec.Cmd) { attr(c).Setpgid = true })
	other := member(t, "other", 30, "exit", func(c *exec.Cmd) { attr(c).Setpgid, attr(c).Pgid = true, int(leader.pid) })
	bystander := member(t, "bystander", 30, "exit")
	g.await(want{event: guard.EvRegistered, pid: other.pid})
	leader.signal(unix.SIGUSR1)
	e := g.await(want{event: guard.EvCollateral, pid: other.pid})
	if !strings.Contains(e.Message, fmt.Sprintf("pid %d", leader.pid)) {
		t.Errorf("collateral does not name the target: %s", e.Message)
	}
	leader.endsBy(0)
	other.endsBy(0)
	g.none(want{event: guard.EvSignalled, pid: other.pid})
	g.untouched(bystander)
}

func TestRules(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Rules = []config.Rule{
		{Match: config.Match{Name: "watch*"}, Action: config.ActionReport},
		{Match: config.Match{Name: "quick"}, Timeout: time.Second},
		{Match: config.Match{User: "daemon"}, Timeout: time.Hour},
	}
	g := begin(t, c)
	watched := run(t, "--name watched --timeout 1 --beat 100 --beats 2")
	quick := run(t, "--name quick --timeout 600 --beat 100 --beats 2 --default-term")
	slow := run(t, "--name slow --timeout 1 --beat 100 --beats 2", as(1)) // daemon, on Debian and elsewhere
	quick.endsBy(unix.SIGTERM)
	e := g.await(want{event: guard.EvWouldCondemn, pid: watched.pid})
	if !strings.Contains(e.Message, "rule[0] says report") {
		t.Errorf("would-condemn: %s", e.Message)
	}
	settle(2 * time.Second)
	g.untouched(watched, slow)
	g.none(want{event: guard.EvLate, pid: slow.pid})
	if n := len(g.find(want{event: guard.EvWouldCondemn})); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestObserve: --observe decides and reports; it neither signals nor clears.
func TestObserve(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t), func(c *exec.Cmd) { c.Args = append(c.Args, "--observe") })
	g.await(want{event: guard.EvObserving})
	g.await(want{event: guard.EvTableLost, text: "--observe"})
	hung := run(t, "--name hung --timeout 1 --beat 100 --beats 2") // it creates the table
	g.await(want{event: guard.EvTableAttached})
	dead := run(t, "--name dead --timeout 30 --beat 100")
	g.await(want{event: guard.EvRegistered, pid: dead.pid})
	if err := dead.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	dead.end()
	g.await(want{event: guard.EvWouldCondemn, pid: hung.pid})
	g.scans(10)
	g.untouched(hung)
	g.none(want{event: guard.EvCleared}, want{event: guard.EvActing})
	if m := mapTable(t); m.pid(dead.slot) != dead.pid {
		t.Errorf("an observer cleared the record of pid %d", dead.pid)
	}
	s, err := g.dial().Status(context.Background())
	if err != nil || s.Mode != "observing" || !strings.Contains(s.ModeReason, "--observe") {
		t.Errorf("status: mode %q, %q, %v", s.Mode, s.ModeReason, err)
	}
}

// TestNeverBeating: for 142 of 582 programs the timeout is the longest time that they may run.
func TestNeverBeating(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	long := run(t, "--name long --timeout 60")
	job := run(t, "--name job --timeout 1 --default-term")
	job.endsBy(unix.SIGTERM)
	if e := g.await(want{event: guard.EvCondemned, pid: job.pid}); !strings.Contains(e.Message, "never beat") {
		t.Errorf("condemned: %s", e.Message)
	}
	g.untouched(long)
}

// TestTimeoutZero: such a record is real; the old guard kills its healthy owner.
func TestTimeoutZero(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	zero := spawn(t, clientProgram(t), []string{"--name", "", "--timeout", "0"}).ready()
	negative := run(t, "--name negative --timeout -5")
	g.await(want{event: guard.EvIgnored, pid: zero.pid})
	g.await(want{event: guard.EvIgnored, pid: negative.pid})
	settle(3 * time.Second)
	g.untouched(zero, negative)
	g.none(want{event: guard.EvLate})
	if err := zero.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.await(want{event: guard.EvExited, pid: zero.pid})
	g.await(want{event: guard.EvCleared, pid: zero.pid})
}

// TestEnds: a clean exit and a crash are told apart, and a crash leaves no record behind for longer than a moment.
func TestEnds(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	clean := run(t, "--name clean --timeout 600 --beat 100 --term-exit")
	crash := run(t, "--name crash --timeout 600 --beat 100")
	for _, c := range []*client{clean, crash} {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	clean.signal(unix.SIGTERM)
	crash.signal(unix.SIGSEGV)
	crash.end()
	killed := time.Now()
	g.await(want{event: guard.EvUnregistered, pid: clean.pid})
	g.await(want{event: guard.EvExited, pid: crash.pid})
	cleared := g.await(want{event: guard.EvCleared, pid: crash.pid})
	if d := cleared.at.Sub(killed); d > 5*time.Second {
		t.Errorf("cleared %v after the end", d)
	}
	g.scans(3)
	g.none(want{event: guard.EvCleared, pid: clean.pid}, want{event: guard.EvExited, pid: clean.pid}, want{event: guard.EvUnregistered, pid: crash.pid})
	if crash.status.CoreDump() {
		_ = os.Remove("core")
	}
}

// TestZombie: the old guard takes a zombie for alive, waits for it for 5 s and calls its end forced.
func TestZombie(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	parent := spawn(t, clientProgram(t), strings.Fields("--name zombie --timeout 600 --beat 200 --beats 100000 --zombie-child"))
	parentPID := parent.pid
	parent.ready() // it is the child that says so
	g.await(want{event: guard.EvRegistered, pid: parent.pid})
	child, err := process.Open(parent.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	if err := child.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exited := g.await(want{event: guard.EvExited, pid: parent.pid})
	cleared := g.await(want{event: guard.EvCleared, pid: parent.pid})
	if d := cleared.at.Sub(exited.at); d > 2*time.Second {
		t.Errorf("cleared %v after the exit notice", d)
	}
	e := g.await(want{event: guard.EvUnreaped, pid: parent.pid})
	if !strings.Contains(e.Message, fmt.Sprintf("parent pid %d", parentPID)) {
		t.Errorf("the parent %d is not named: %s", parentPID, e.Message)
	}
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvLate})
}

// TestLeaderDead: a leader that has ended shows state Z while its threads live.
func TestLeaderDead(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	beating := run(t, "--name beating --timeout 1 --beat 200 --leader-exit")
	hung := run(t, "--name hung --timeout 1 --beat 100 --beats 5 --leader-exit --ignore-term")
	hung.endsBy(unix.SIGKILL)
	g.await(want{event: guard.EvKilled, pid: hung.pid})
	settle(time.Second)
	g.untouched(beating)
	g.none(want{event: guard.EvExited, pid: beating.pid}, want{event: guard.EvRefused})
	if len(g.find(want{event: guard.EvRegistered, pid: beating.pid})) != 1 {
		t.Error("never registered")
	}
}

// TestTokens: a token is opaque, any change is a beat; the old guard compares it with its wall clock.
func TestTokens(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	var all []*client
	for _, mode := range []string{"ahead", "behind", "step"} {
		all = append(all, run(t, "--name "+mode+" --timeout 1 --beat 300 --token "+mode))
	}
	hung := run(t, "--name hung --timeout 1 --beat 100 --beats 4 --token ahead --default-term")
	hung.endsBy(unix.SIGTERM)
	settle(2 * time.Second)
	g.untouched(all...)
	for _, c := range all {
		g.none(want{event: guard.EvLate, pid: c.pid})
	}
}

// TestUnguarded: a client that lost its record is reported, not killed.
func TestUnguarded(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	m := mapTable(t)
	wiped := run(t, "--name wiped --timeout 1 --beat 200")
	g.await(want{event: guard.EvRegistered, pid: wiped.pid})
	m.wipe(wiped.slot)
	g.await(want{event: guard.EvUnguarded, pid: wiped.pid})

	// Registered before it forked: the first child's exit wipes the parent's record.
	parent := run(t, "--name server --timeout 1 --beat 200 --fork-after-register 2 --child-life 4000")
	g.await(want{event: guard.EvRegistered, pid: parent.pid})
	g.await(want{event: guard.EvUnguarded, pid: parent.pid})
	settle(2 * time.Second)
	g.untouched(wiped, parent)
	for _, c := range []*client{wiped, parent} {
		if n := len(g.find(want{event: guard.EvUnguarded, pid: c.pid})); n != 1 {
			t.Errorf("%s: said %d times", c.name, n)
		}
	}
}
