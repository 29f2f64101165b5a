package daemon

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
)

// TestOddRegistrations: torn, late and dirty records are what real clients write; none is a reason for a report.
func TestOddRegistrations(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	long := strings.Repeat("n", 60)
	all := []*client{
		run(t, "--name torn --timeout 1 --beat 200 --torn 1500"),
		run(t, "--name after-v --timeout 1 --beat 200 --write-after-v"),
		run(t, "--name garbage --timeout 1 --beat 200 --garbage-padding"),
		run(t, "--name "+long+" --timeout 1 --beat 200 --garbage-padding"),
		spawn(t, clientProgram(t), []string{"--name", "bell\a\x1b[31m\xff", "--timeout", "1", "--beat", "200"}).ready(),
		spawn(t, clientProgram(t), []string{"--name", "", "--timeout", "1", "--beat", "200"}).ready(),
	}
	names := []string{"torn", "after-v", "garbage", long[:51], `bell\x07\x1b[31m\xff`, ""}
	for i, c := range all {
		if e := g.await(want{event: guard.EvRegistered, pid: c.pid}); e.Name != names[i] || e.TimeoutUsec != 1e6 {
			t.Errorf("registered: %+v, want %q", e, names[i])
		}
	}
	settle(3 * time.Second)
	g.untouched(all...)
	g.none(want{event: guard.EvLate}, want{event: guard.EvRefused}, want{event: guard.EvChanged}, want{event: guard.EvForeign},
		want{event: guard.EvUnguarded}, want{event: guard.EvIgnored}, want{event: guard.EvCleared})
}

// TestExec: the mapping vanishes at exec, and with it the consent: what runs now has joined nothing.
func TestExec(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, "--name wrapper --timeout 1 --exec "+path+" 1000")
	g.await(want{event: guard.EvRefused, pid: c.pid, text: "mapped"})
	settle(3 * time.Second)
	g.untouched(c)
}
