package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// TestDiff: what is said of a reload is what it does; saying it does nothing, whoever asks.
func TestDiff(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	a, b := run(t, "--name a --timeout 60 --beat 200"), run(t, "--name b --timeout 60 --beat 200", as(1001))
	g.await(want{event: guard.EvRegistered, pid: a.pid})
	g.await(want{event: guard.EvRegistered, pid: b.pid})
	cl := g.dial()
	diff := func(r control.DiffRequest) control.DiffResult {
		t.Helper()
		result, err := cl.Diff(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if r := diff(control.DiffRequest{}); len(r.Changed)+len(r.NeedsRestart) != 0 || len(r.Targets) != 2 || r.Targets[0].After != -1 {
		t.Errorf("of nothing: %+v", r)
	}

	next := c
	next.Interval, next.CPActive.Records = 50*time.Millisecond, 500
	next.Rules = []config.Rule{{Match: config.Match{Name: "b"}, Timeout: 2 * time.Minute}}
	g.write(next)
	said := diff(control.DiffRequest{})
	for _, m := range said.Targets {
		want := control.Match{PID: a.pid, Name: "a", Unit: m.Unit, Before: -1, After: -1, Changes: []string{}}
		if m.PID == b.pid {
			want = control.Match{PID: b.pid, UID: 1001, Name: "b", Unit: m.Unit, Before: -1, Changes: []string{"timeout: its own -> 2m"}}
		}
		if d := cmp.Diff(want, m); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	// Of a text that only the caller has.
	if r := diff(control.DiffRequest{File: "x.toml", Text: "interval = \"9s\"\n"}); !strings.Contains(strings.Join(r.Changed, " "), "interval: 100ms -> 9s") {
		t.Errorf("of a text: %+v", r)
	}
	_, err := cl.Diff(t.Context(), control.DiffRequest{File: "x.toml", Text: "intervall = 9\n"})
	var rejected *control.Rejected
	if !errors.As(err, &rejected) || len(rejected.Faults) != 1 || rejected.Faults[0].File != "x.toml" || rejected.Faults[0].Key != "intervall" {
		t.Errorf("of a text with a fault: %v", err)
	}
	asUID(1001, func() {
		c, err := control.Dial(g.cfg.Control.Socket)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if r, err := c.Diff(t.Context(), control.DiffRequest{}); !errors.Is(err, control.ErrNotAllowed) {
			t.Errorf("another user is told %+v, %v", r, err)
		}
	})
	if s, err := cl.Status(t.Context()); err != nil || s.IntervalUsec != 100_000 {
		t.Errorf("the interval is %d µs, %v", s.IntervalUsec, err)
	}
	g.none(want{event: evReloaded}, want{event: evConfigRejected})

	done, err := cl.Reload(t.Context())
	if d := cmp.Diff(control.ReloadResult{Changed: said.Changed, NeedsRestart: said.NeedsRestart}, done); err != nil || d != "" {
		t.Errorf("the reload did something else: %v\n%s", err, d)
	}
	for _, m := range diff(control.DiffRequest{}).Targets {
		if m.Before != m.After || len(m.Changes) != 0 || m.Before != map[int32]int{a.pid: -1, b.pid: 0}[m.PID] {
			t.Errorf("after the reload: %+v", m)
		}
	}
	g.untouched(a, b)
}
