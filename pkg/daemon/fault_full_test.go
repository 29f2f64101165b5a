package daemon

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// TestDescriptorsExhausted: a pidfd for each client is more than the daemon may have open. It says so, guards the
// others, also those that hang while not one descriptor is left, samples what they use, and takes in the rest when some
// leave.
func TestDescriptorsExhausted(t *testing.T) {
	if namespaces(t) {
		return
	}
	const limit, clients = 48, 44
	c := testConfig(t)
	// What samples open comes out of what is left to the daemon, and is given back at once.
	c.Sample = time.Second
	c.Rules = []config.Rule{{Limits: []config.Limit{{Of: config.Memory, Above: 1, For: 2 * time.Second, Action: config.LimitReport},
		{Of: config.Descriptors, Above: 1, For: 2 * time.Second, Action: config.LimitReport}}}}
	g := launch(t, c, wrap("prlimit", fmt.Sprintf("--nofile=%d:%d", limit, limit), "--"))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range clients {
		all = append(all, member(t, fmt.Sprint("client", i), 1, "exit"))
	}
	e := g.await(want{event: guard.EvRefused, text: "too many open files"})
	if e.Verdict != "unverified" || e.Level != "warn" {
		t.Errorf("refused: %+v", e)
	}
	g.scans(20)
	var guarded, waiting []*client
	for _, c := range all {
		if len(g.find(want{event: guard.EvRegistered, pid: c.pid})) > 0 {
			guarded = append(guarded, c)
		} else {
			waiting = append(waiting, c)
		}
	}
	t.Logf("measured: with %d descriptors %d clients are guarded, %d wait", limit, len(guarded), len(waiting))
	if len(guarded) != limit/2 || len(waiting) == 0 {
		t.Fatalf("%d of %d clients are guarded, want half of %d descriptors", len(guarded), clients, limit)
	}
	for _, c := range guarded {
		for _, of := range []string{"memory", "descriptors"} {
			g.await(want{event: guard.EvLimit, pid: c.pid, text: of})
		}
	}
	g.none(want{event: evDegraded, text: "limits:"})
	hangs(t, g, guarded[0], 0)
	waiting[0].signal(unix.SIGUSR1) // nobody sees it
	for _, c := range guarded[1:] {
		c.signal(unix.SIGTERM)
		c.endsBy(0)
	}
	for _, c := range waiting {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
		if n := len(g.find(want{event: guard.EvRefused, pid: c.pid})); n > 1 {
			t.Errorf("said %d times about %s", n, c.name)
		}
	}
	waiting[0].endsBy(0)
	g.await(want{event: guard.EvKilled, pid: waiting[0].pid})
	g.untouched(waiting[1:]...)
}
