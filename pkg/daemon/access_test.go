package daemon

import (
	"strings"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// TestAccess: nothing is done to what is protected, nor to who uses a name that is not his, by rules, orders or records;
// that ends with a reload.
func TestAccess(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Protect.Names = []string{"db*"}
	c.Names = []config.Names{{User: "1001", Allow: []string{"ftp*"}}}
	c.Rules = []config.Rule{{Match: config.Match{Name: "*"}, Action: config.ActionLadder}}
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	db, bad, good := run(t, "--name dbwriter --timeout 1 --beat 0"), run(t, "--name root-tool --timeout 1 --beat 0", as(1001)),
		run(t, "--name ftpget --timeout 1 --beat 0 --term-exit", as(1001))
	if e := g.await(want{event: guard.EvRefused, pid: bad.pid}); e.Reason != "name" {
		t.Errorf("%+v", e)
	}
	good.end()
	e := g.await(want{event: guard.EvProtected, pid: db.pid})
	if e.Level != "warn" || e.Verdict != "hung" || !strings.Contains(e.Message, `protected by protect.names "db*"`) {
		t.Errorf("%+v", e)
	}
	g.await(want{event: guard.EvWouldCondemn, pid: bad.pid})
	cl := g.dial()
	list, _, err := cl.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		switch x.PID {
		case db.pid:
			if x.Protected != `protect.names "db*"` || x.State != control.StateLate {
				t.Errorf("%+v", x)
			}
		case bad.pid:
			if x.State != control.StateRefused || !strings.Contains(x.Reason, "[[names]]") {
				t.Errorf("%+v", x)
			}
		}
	}
	if s, err := cl.Status(t.Context()); err != nil || s.Targets.Refused != 1 {
		t.Errorf("%+v, %v", s.Targets, err)
	}
	if _, err := cl.Hold(t.Context(), control.HoldRequest{PID: db.pid, ForUsec: 1e6}); err == nil || !strings.Contains(err.Error(), "protected") {
		t.Errorf("an order to hold what is protected: %v", err)
	}
	if _, err := cl.Brake(t.Context(), control.BrakeGo); err != nil {
		t.Error(err)
	}
	// It holds over a restart.
	g.kill()
	g = launch(t, c)
	g.await(want{event: guard.EvActing})
	g.scans(20)
	if !db.alive() || !bad.alive() {
		t.Fatal("ended after a restart")
	}
	g.none(want{event: guard.EvSignalled}, want{event: guard.EvCondemned})

	c.Protect, c.Names = config.Protect{}, nil
	g.write(c)
	if _, err := g.dial().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.await(want{event: guard.EvKilled, pid: db.pid})
	g.await(want{event: guard.EvKilled, pid: bad.pid})
}
