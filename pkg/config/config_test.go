package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestPolicy(t *testing.T) {
	c := Default()
	c.Rules = []Rule{
		{Match: Match{Name: "ftp*", User: "idc"}, Timeout: 45 * time.Second},
		{Match: Match{Unit: "batch-?*.service"}, Action: ActionReport, Restart: RestartNone},
		{Match: Match{Name: "ftp*"}, Timeout: time.Minute},
	}
	for _, tt := range []struct {
		name, user, unit string
		want             Policy
	}{
		{"ftpput", "idc", "", Policy{Timeout: 45 * time.Second}},
		{"ftpput", "root", "", Policy{Timeout: time.Minute, Rule: 2}},
		{"ftpput", "root", "batch-7.service", Policy{Action: ActionReport, Restart: RestartNone, Rule: 1}},
		{"ftpput", "root", "batch-.service", Policy{Timeout: time.Minute, Rule: 2}},
		{"", "", "", Policy{Rule: -1}},
	} {
		tt.want.Steps, tt.want.Verdict = c.Ladder.Steps, c.Verdict
		tt.want.Attempts, tt.want.Window = 5, 10*time.Minute
		if diff := cmp.Diff(tt.want, c.Policy(tt.name, tt.user, tt.unit)); diff != "" {
			t.Errorf("Policy(%q, %q, %q): %s", tt.name, tt.user, tt.unit, diff)
		}
	}
	if &c.Policy("ftpput", "idc", "").Steps[0] != &c.Ladder.Steps[0] {
		t.Error("Policy copies the steps")
	}
	if n := testing.AllocsPerRun(100, func() { c.Policy("ftpput", "root", "cron.service") }); n != 0 {
		t.Errorf("Policy allocates %v times", n)
	}
}

// TestPolicyLadder: a rule changes what it names, and nothing else.
func TestPolicyLadder(t *testing.T) {
	c := Default()
	own := []Step{{unix.SIGABRT, time.Minute}, {unix.SIGKILL, time.Second}}
	c.Verdict.Stopped = RespondLadder
	c.Ladder.Shared = true
	c.Rules = []Rule{
		{Match: Match{Name: "steps"}, Ladder: RuleLadder{Steps: own}},
		{Match: Match{Name: "scope"}, Action: ActionReport, Ladder: RuleLadder{Scope: new(ScopeCgroup)}},
		{Match: Match{Name: "alone"}, Ladder: RuleLadder{Shared: new(false)}},
		{Match: Match{Name: "verdict"}, Verdict: Responses{Hung: RespondReport, Blocked: RespondLadder, Stopped: RespondHold, Dumping: RespondLadder}},
		{Match: Match{Name: "all"}, Verdict: Responses{RespondReport, RespondReport, RespondReport, RespondHold, RespondLadder, RespondLadder, RespondLadder},
			Ladder: RuleLadder{own, new(ScopeProcess), new(true)}},
		{Match: Match{Name: "s*"}, Ladder: RuleLadder{Steps: c.Ladder.Steps[:1]}},
	}
	base := Policy{Rule: -1, Steps: c.Ladder.Steps, Shared: true, Verdict: c.Verdict, Attempts: 5, Window: 10 * time.Minute}
	for name, change := range map[string]func(*Policy){
		"none":  func(*Policy) {},
		"steps": func(p *Policy) { p.Rule, p.Steps = 0, own },
		"scope": func(p *Policy) { p.Rule, p.Action, p.Scope = 1, ActionReport, ScopeCgroup },
		"alone": func(p *Policy) { p.Rule, p.Shared = 2, false },
		"verdict": func(p *Policy) {
			p.Rule, p.Verdict = 3, Responses{RespondReport, RespondWait, RespondLadder, RespondHold, RespondHold, RespondHold, RespondLadder}
		},
		"all": func(p *Policy) {
			p.Rule, p.Steps = 4, own
			p.Verdict = Responses{RespondReport, RespondReport, RespondReport, RespondHold, RespondLadder, RespondLadder, RespondLadder}
		},
		"s": func(p *Policy) { p.Rule, p.Steps = 5, c.Ladder.Steps[:1] },
	} {
		want := base
		change(&want)
		if diff := cmp.Diff(want, c.Policy(name, "", "")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if n := testing.AllocsPerRun(100, func() { c.Policy(name, "", "") }); n != 0 {
			t.Errorf("%s: Policy allocates %v times", name, n)
		}
	}
	if diff := cmp.Diff(base, c.Policy("none", "", "")); diff != "" {
		t.Errorf("a rule has changed the defaults: %s", diff)
	}
}

// BenchmarkPolicy matches a record against as many rules as there may be; the last one matches.
func BenchmarkPolicy(b *testing.B) {
	c := Default()
	for i := range maxRules {
		c.Rules = append(c.Rules, Rule{Match: Match{Name: fmt.Sprintf("program-%d", i)}, Verdict: Responses{Blocked: RespondLadder}})
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Policy("program-999", "root", "cron.service")
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "anything", true},
		{"*", "", true},
		{"a", "a", true},
		{"a", "ab", false},
		{"ab", "a", false},
		{"*b", "aab", true},
		{"a*b*c", "aXbXbYc", true},
		{"a*b*c", "aXbXbY", false},
		{"/opt/*", "/opt/a/b", true}, // unlike path.Match
		{"?", "/", true},
		{"?", "ä", true},
		{"??", "ä", false},
		{"[a-c]x", "bx", true},
		{"[^a-c]x", "bx", false},
		{"[^a-c]x", "dx", true},
		{"[]]", "]", true},
		{"[a-]", "-", true},
		{"[ä-ö]", "ü", false},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`[\]a]`, "]", true},
		{"a**", "a", true},
		{"*[", "x", false},
		{"a", "\xff", false},
		{"*x", "\xff\xfex", true},
	} {
		if got := Glob(tt.pattern, tt.text); got != tt.want {
			t.Errorf("Glob(%q, %q) = %v", tt.pattern, tt.text, got)
		}
	}
	// Backtracking over all stars would take 2^50 steps here.
	if Glob(strings.Repeat("*a", 50)+"*b", strings.Repeat("a", 5000)) {
		t.Error("matches without a b")
	}
	for _, bad := range []string{"[", "[a", "[]", "[^", `\`, `a\`, `[\`, "[a-"} {
		if CheckGlob(bad) == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
}

func TestRuntimeDir(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		euid int
		want string
	}{
		{nil, 0, "/run/checkprocd"},
		{nil, 1000, "/run/checkprocd"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/checkprocd"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/checkprocd"},
		{map[string]string{"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/x"}, 1000, "/run/a"},
		{map[string]string{"RUNTIME_DIRECTORY": "relative"}, 0, "/run/checkprocd"},
	} {
		if got := runtimeDir(func(k string) string { return tt.env[k] }, tt.euid); got != tt.want {
			t.Errorf("runtimeDir(%v, %d) = %s, want %s", tt.env, tt.euid, got, tt.want)
		}
	}
}

func TestDiff(t *testing.T) {
	a := Default()
	a.Rules = []Rule{{Match: Match{Name: "a"}}, {Match: Match{Name: "z"}}}
	if got := Diff(a, a); got != nil {
		t.Errorf("a configuration differs from itself: %q", got)
	}
	b := Default()
	b.Interval = 2 * time.Second
	b.RuntimeDir = "/srv/check procd"
	b.Log.File = "/var/log/checkprocd.log"
	b.CPActive.Key, b.CPActive.SemKey, b.CPActive.Records = 1, 2, 3
	b.CPActive.Margin = 0.125
	b.Control.Socket = "/run/x"
	b.Verdict.Starved, b.Verdict.Dumping = RespondReport, RespondLadder
	b.Pressure.IO = 99.5
	b.Ladder.Steps = b.Ladder.Steps[:1]
	b.Ladder.Scope, b.Ladder.Shared, b.Ladder.DumpWait = ScopeCgroup, true, 0
	b.Rules = []Rule{{Match: Match{Name: "a"}}, {Match: Match{Name: "new"}, Timeout: time.Minute}, {Match: Match{Name: "z"}}}
	t.Setenv("RUNTIME_DIRECTORY", "/run/checkprocd")
	a.RuntimeDir, a.Control.Socket = Default().RuntimeDir, Default().Control.Socket
	want := []string{
		"interval: 1s -> 2s",
		`runtime_dir: /run/checkprocd -> "/srv/check procd"`,
		`log.file: "" -> /var/log/checkprocd.log`,
		"cpactive.key: 0x5095 -> 0x1",
		"cpactive.sem_key: 0x5095 -> 0x2",
		"cpactive.records: 1000 -> 3",
		"cpactive.margin: 10% -> 12.5%",
		"control.socket: /run/checkprocd/io.checkproc -> /run/x",
		"verdict.starved: wait -> report",
		"verdict.dumping: hold -> ladder",
		"pressure.io: 80% -> 99.5%",
		`ladder.steps: [ { signal = "SIGTERM", wait = "5s" }, { signal = "SIGKILL", wait = "5s" } ]` +
			` -> [ { signal = "SIGTERM", wait = "5s" } ]`,
		"ladder.scope: process -> cgroup",
		"ladder.shared: false -> true",
		"ladder.dump_wait: 2m -> 0s",
		`rule[1]: added { match = { name = "new" }, timeout = "1m" }`,
	}
	if diff := cmp.Diff(want, Diff(a, b)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(fixed, sorted(NeedsRestart(a, b))); diff != "" {
		t.Error(diff)
	}
	if got := NeedsRestart(a, a); got != nil {
		t.Errorf("a restart for nothing: %q", got)
	}

	if got, want := Diff(b, a)[len(want)-1:], []string{`rule[1]: removed { match = { name = "new" }, timeout = "1m" }`}; !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c := a
	c.Rules = []Rule{{Match: Match{Name: "a"}, Action: ActionReport}, {Match: Match{Name: "z"}}}
	if got, want := Diff(a, c), []string{`rule[0]: { match = { name = "a" } } -> { match = { name = "a" }, action = "report" }`}; !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDiffRule: the same rule at another address is the same rule, and each part of its own ladder counts.
func TestDiffRule(t *testing.T) {
	rule := func() Config {
		c := Default()
		c.Rules = []Rule{{
			Verdict: Responses{Frozen: RespondLadder},
			Ladder:  RuleLadder{Steps: slices.Clone(c.Ladder.Steps[1:]), Scope: new(ScopeProcess), Shared: new(false)},
		}}
		return c
	}
	const text = `{ verdict = { frozen = "ladder" }, ladder = { steps = [ { signal = "SIGKILL", wait = "5s" } ], scope = "process", shared = false } }`
	if got := Diff(rule(), rule()); got != nil {
		t.Errorf("a rule differs from itself: %q", got)
	}
	for want, change := range map[string]func(*Rule){
		`{ ladder = { steps = [ { signal = "SIGKILL", wait = "5s" } ], scope = "process", shared = false } }`: func(r *Rule) { r.Verdict.Frozen = RespondDefault },
		`{ verdict = { frozen = "ladder" }, ladder = { scope = "process", shared = false } }`:                 func(r *Rule) { r.Ladder.Steps = nil },
		strings.Replace(text, `"5s"`, `"6s"`, 1):                                                              func(r *Rule) { r.Ladder.Steps[0].Wait += time.Second },
		strings.Replace(text, `"process"`, `"cgroup"`, 1):                                                     func(r *Rule) { *r.Ladder.Scope = ScopeCgroup },
		strings.Replace(text, `, shared = false`, ``, 1):                                                      func(r *Rule) { r.Ladder.Shared = nil },
	} {
		changed := rule()
		change(&changed.Rules[0])
		if diff := cmp.Diff([]string{"rule[0]: " + text + " -> " + want}, Diff(rule(), changed)); diff != "" {
			t.Error(diff)
		}
	}
}

// sorted brings keys into the order of fixed.
func sorted(keys []string) []string {
	var list []string
	for _, f := range fixed {
		for _, k := range keys {
			if k == f {
				list = append(list, k)
			}
		}
	}
	return list
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Hour: "1h", time.Minute: "1m", 90 * time.Minute: "1h30m", 45 * time.Second: "45s",
		time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	} {
		if got := durationText(d); got != want {
			t.Errorf("durationText(%d) = %s, want %s", d, got, want)
		}
	}
	for f, want := range map[float64]string{0: "0%", 0.1: "10%", 0.07: "7%", 1: "100%", 0.125: "12.5%", 0.001: "0.1%", 1e-9: "0.0000001%"} {
		if got := percent(f); got != want {
			t.Errorf("percent(%v) = %s, want %s", f, got, want)
		}
	}
	if ActionLadder.String() != "ladder" || ActionReport.String() != "report" || RestartUnit.String() != "unit" || RestartNone.String() != "none" {
		t.Error("names of actions")
	}
	if ScopeProcess.String() != "process" || ScopeCgroup.String() != "cgroup" {
		t.Error("names of scopes")
	}
	for r, want := range []string{"default", "ladder", "wait", "hold", "report", "response 5"} {
		if got := Response(r).String(); got != want {
			t.Errorf("response %d is %s, want %s", r, got, want)
		}
	}
}
