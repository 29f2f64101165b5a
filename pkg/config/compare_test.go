package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestPolicyDiff(t *testing.T) {
	c := Default()
	c.Rules = []Rule{{Match: Match{Name: "a"}, Action: ActionReport, Timeout: 45 * time.Second, Restart: RestartNone,
		Verdict: Responses{Blocked: RespondLadder}, Ladder: RuleLadder{Steps: []Step{{unix.SIGKILL, time.Second}}, Scope: new(ScopeCgroup), Shared: new(true)}}}
	before, after := c.Policy("b", "", ""), c.Policy("a", "", "")
	want := []string{
		"action: ladder -> report",
		"timeout: its own -> 45s",
		"restart: unit -> none",
		`ladder.steps: [ { signal = "SIGTERM", wait = "5s" }, { signal = "SIGKILL", wait = "5s" } ] -> [ { signal = "SIGKILL", wait = "1s" } ]`,
		"ladder.scope: process -> cgroup",
		"ladder.shared: false -> true",
		"verdict.blocked: wait -> ladder",
	}
	if diff := cmp.Diff(want, before.Diff(&after)); diff != "" {
		t.Error(diff)
	}
	if got := before.Diff(&before); got != nil {
		t.Errorf("a policy differs from itself: %q", got)
	}
}

// TestPolicyDiffComplete: whatever differs is said, and the index of the rule is not.
func TestPolicyDiffComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyConfig(t), anyConfig(t)
		p, q := a.Policy("a", "b", "c"), b.Policy("a", "b", "c")
		p.Rule, q.Rule = 0, 1
		got := len(p.Diff(&q)) == 0
		q.Rule = 0
		if got != cmp.Equal(p, q) {
			t.Fatalf("%q\n%s", p.Diff(&q), cmp.Diff(p, q))
		}
	})
	// anyConfig may not draw what is new: each field of a Policy has a line of its own.
	for i := range reflect.TypeFor[Policy]().NumField() {
		name := strings.ToLower(reflect.TypeFor[Policy]().Field(i).Name)
		found := name == "rule"
		for _, f := range policySchema {
			found = found || strings.ReplaceAll(f.key, "_", "") == name
			for _, below := range f.fields {
				found = found || below.key == name
			}
		}
		if !found {
			t.Errorf("Diff does not compare Policy.%s", name)
		}
	}
}

func TestParse(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", "/run/x")
	c, err := Parse("new.toml", []byte("interval = \"2s\"\n[[rule]]\nmatch = { name = \"a\" }\n"))
	if err != nil || c.Interval != 2*time.Second || len(c.Rules) != 1 || c.Control.Socket != "/run/x/io.checkproc" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = Parse("empty", nil); err != nil || !cmp.Equal(c, Default()) {
		t.Errorf("nothing is not the defaults: %v\n%s", err, cmp.Diff(Default(), c))
	}
	_, err = Parse("new.toml", []byte("intervall = 1\n[brake]\nat_least = 1\n"))
	if err == nil || !strings.Contains(err.Error(), "new.toml:1:1: intervall: unknown key") || !strings.Contains(err.Error(), "new.toml:3:12: brake.at_least: 1 is out of range") {
		t.Errorf("%v", err)
	}
	if _, err = Parse("new.toml", []byte(strings.Repeat("x\n", 500))); err == nil || !strings.Contains(err.Error(), "and 400 more faults") {
		t.Errorf("%v", err)
	}
}
