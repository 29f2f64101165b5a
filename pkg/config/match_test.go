package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// oracle says what a pattern matches by translating it to a regular expression; false: it is no pattern. An invalid byte
// counts as U+FFFD in both, in patterns and in texts.
func oracle(pattern string) (matches func(string) bool, ok bool) {
	in := []rune(pattern)
	one := func() (c rune, ok bool) { // the next character, which a \ may stand before
		if len(in) > 0 && in[0] == '\\' {
			in = in[1:]
		}
		if len(in) == 0 {
			return 0, false
		}
		c, in = in[0], in[1:]
		return c, true
	}
	var out strings.Builder
	for len(in) > 0 {
		switch in[0] {
		case '*':
			out.WriteString(".*")
			in = in[1:]
		case '?':
			out.WriteString(".")
			in = in[1:]
		case '[':
			in = in[1:]
			not := len(in) > 0 && in[0] == '^'
			if not {
				in = in[1:]
			}
			var parts []string
			for closed, first := false, true; !closed; first = false {
				if closed = len(in) > 0 && in[0] == ']' && !first; closed {
					in = in[1:]
					break
				}
				low, ok := one()
				if !ok {
					return nil, false
				}
				high := low
				if len(in) > 1 && in[0] == '-' && in[1] != ']' {
					in = in[1:]
					if high, ok = one(); !ok {
						return nil, false
					}
				}
				if low <= high {
					parts = append(parts, fmt.Sprintf(`\x{%x}-\x{%x}`, low, high))
				}
			}
			switch all := strings.Join(parts, ""); {
			case all != "" && not:
				out.WriteString("[^" + all + "]")
			case all != "":
				out.WriteString("[" + all + "]")
			case not:
				out.WriteString(".")
			default:
				out.WriteString(`[^\x{0}-\x{10ffff}]`)
			}
		default:
			c, ok := one()
			if !ok {
				return nil, false
			}
			fmt.Fprintf(&out, `\x{%x}`, c)
		}
	}
	if pattern == "" {
		out.WriteString(".*")
	}
	return regexp.MustCompile(`(?s)\A` + out.String() + `\z`).MatchString, true
}

// matchesAll says what a match of three patterns makes of a target, by the oracle.
func matchesAll(m Match, name, user, unit string) bool {
	for _, x := range [...]struct{ pattern, text string }{{m.Name, name}, {m.User, user}, {m.Unit, unit}} {
		if is, ok := oracle(x.pattern); !ok || !is(x.text) {
			return false
		}
	}
	return true
}

// TestOracle keeps the oracle itself to what the manual says.
func TestOracle(t *testing.T) {
	for _, tt := range []struct {
		pattern, yes, no string
	}{
		{"", "any/thing\n", ""}, {"a*c", "a/b/c", "a/b/d"}, {"?", "ä", "ab"}, {"[a-c]x", "bx", "dx"}, {"[^a-c]x", "dx", "ax"},
		{`\*`, "*", "x"}, {"[]a]", "]", "b"}, {"[a-]", "-", "b"}, {`[\]]`, "]", `\`}, {"[z-a]", "", "z"}, {"a.b", "a.b", "axb"},
	} {
		is, ok := oracle(tt.pattern)
		if !ok || tt.yes != "" && !is(tt.yes) || tt.no != "" && is(tt.no) {
			t.Errorf("%q: %q, %q", tt.pattern, tt.yes, tt.no)
		}
	}
	for _, pattern := range []string{"[", "[a", "[]", "[^", "[^]", `\`, `a\`, `[\`, "[a-"} {
		if _, ok := oracle(pattern); ok {
			t.Errorf("%q is a pattern", pattern)
		}
	}
}

// FuzzGlob holds Glob and CheckGlob against the oracle.
func FuzzGlob(f *testing.F) {
	for _, pattern := range []string{"", "ftp*", "*a*b*c*", "[a-z]?", "[^]a-]*", `\[x\]`, "[\\", "[\xff-\U0010ffff]", "a[", "[z-a]", "[^z-a]"} {
		f.Add(pattern, "ftpget/x\n\xff")
		f.Add(pattern, "x]")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		is, ok := oracle(pattern)
		if err := CheckGlob(pattern); (err == nil) != ok {
			t.Fatalf("%q is a pattern: %v; CheckGlob says %v", pattern, ok, err)
		}
		if got := Glob(pattern, text); got != (ok && is(text)) {
			t.Fatalf("%q matches %q: %v", pattern, text, got)
		}
	})
}

// FuzzMatch holds the matching of rules, protection and names against the oracle: a rule matches with all its patterns,
// the first one that does wins, what it leaves out is as the defaults say, and no other has a part in it; a protected one
// is protected whatever else matches, and who is named nowhere may use any name. shape says what the rules set.
func FuzzMatch(f *testing.F) {
	f.Add("ftp*", "", "", "", "i?c", "*.service", "ftpget", "idc", "a.service", uint32(7), uint64(0x123456789))
	f.Add("[a-z]?", "1000", "x", "*", "*", "", "ab", "1000", "", uint32(1000), uint64(0))
	f.Add("a*", "u1", "", "*", "", "", "abc", "u2", "x.service", uint32(5), uint64(2))
	f.Add("*", "", "x.*", "*", "u[2]", "", "abc", "u2", "x.service", uint32(5), uint64(2))
	f.Add("\\", "*", "?*", "*b", "", "a*", "\\b", "*", "x", uint32(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, name1, user1, unit1, name2, user2, unit2, name, user, unit string, uid uint32, shape uint64) {
		bit := func() bool { b := shape&1 == 1; shape >>= 1; return b }
		rule := func(m Match) Rule {
			r := Rule{Match: m}
			cgroup, shared := ScopeCgroup, true
			for _, set := range []func(){
				func() { r.Action = ActionReport },
				func() { r.Timeout = time.Minute },
				func() { r.StartGrace = time.Hour },
				func() { r.Restart, r.Command = RestartCommand, &Command{Args: []string{"/x"}} },
				func() { r.Then = []string{"b.service"} },
				func() { r.Verdict.Hung = RespondReport },
				func() { r.Verdict.Starved, r.Verdict.Dumping = RespondLadder, RespondLadder },
				func() { r.Ladder.Steps = []Step{{unix.SIGINT, time.Second}} },
				func() { r.Ladder.Scope = &cgroup },
				func() { r.Ladder.Shared = &shared },
				func() { r.Recovery.Attempts = 9 },
				func() { r.Recovery.Window = time.Hour },
				func() { r.Limits = []Limit{{Of: Threads, Above: 7}} },
			} {
				if bit() {
					set()
				}
			}
			return r
		}
		c := Default()
		c.Rules = []Rule{rule(Match{name1, user1, unit1}), rule(Match{name2, user2, unit2}), rule(Match{Name: name1, Unit: unit2}), rule(Match{User: user2})}
		if bit() {
			slices.Reverse(c.Rules)
		}
		want := Policy{Rule: slices.IndexFunc(c.Rules, func(r Rule) bool { return matchesAll(r.Match, name, user, unit) }),
			Steps: c.Ladder.Steps, Verdict: c.Verdict, Attempts: c.Recovery.Attempts, Window: c.Recovery.Window}
		if want.Rule >= 0 {
			r := c.Rules[want.Rule]
			want.Action, want.Timeout, want.StartGrace, want.Restart, want.Command, want.Then, want.Limits = r.Action, r.Timeout, r.StartGrace, r.Restart, r.Command, r.Then, r.Limits
			if r.Verdict.Hung != RespondDefault {
				want.Verdict.Hung = r.Verdict.Hung
			}
			if r.Verdict.Starved != RespondDefault {
				want.Verdict.Starved, want.Verdict.Dumping = r.Verdict.Starved, r.Verdict.Dumping
			}
			if r.Ladder.Steps != nil {
				want.Steps = r.Ladder.Steps
			}
			if r.Ladder.Scope != nil {
				want.Scope = *r.Ladder.Scope
			}
			want.Shared = r.Ladder.Shared != nil
			if r.Recovery.Attempts > 0 {
				want.Attempts = r.Recovery.Attempts
			}
			if r.Recovery.Window > 0 {
				want.Window = r.Recovery.Window
			}
		}
		if diff := cmp.Diff(want, c.Policy(name, user, unit)); diff != "" {
			t.Fatalf("%q %q %q of %+v:\n%s", name, user, unit, c.Rules, diff)
		}

		is, ok := oracle(name1)
		if !ok || name1 == "" { // is a fault here
			return
		}
		c.Protect = Protect{Names: []string{"\x00never", name1}, Units: []string{"\x00never"}}
		if got := c.Protected(name, unit) != ""; got != is(name) && name != "\x00never" && unit != "\x00never" {
			t.Fatalf("names %q protect %q: %v", name1, name, got)
		}
		c.Protect = Protect{Units: []string{name1}}
		if got := c.Protected(name, unit) != ""; got != (is(unit) && unit != "") {
			t.Fatalf("units %q protect %q: %v", name1, unit, got)
		}
		whom, ok := oracle(user1)
		if !ok || user1 == "" {
			return
		}
		c.Names = []Names{{User: user1, Allow: []string{name1}}}
		concerned := whom(user)
		if strings.Trim(user1, "0123456789") == "" {
			id, err := strconv.ParseUint(user1, 10, 32)
			concerned = err == nil && uint32(id) == uid
		}
		if got := c.MayUse(uid, user, name); got != (!concerned || is(name)) {
			t.Fatalf("%q (%d) may use %q, where %q may use %q: %v", user, uid, name, user1, name1, got)
		}
	})
}

// TestUnitPattern: a pattern is refused when it matches no name of a unit that can have processes, and only then.
func TestUnitPattern(t *testing.T) {
	for _, pattern := range []string{"", "*", "a.service", "a*", "a@*", "*.service", "?.scope", "a@[0-9].service", "*@1.service", "a@*.service", "*ice", "*e", ".[s]ervice", "[a-z]service", "*t", `a\\x2db.mount`, `a\-b\*.service`, "*.swap", "a.b.socket"} {
		if err := checkUnitPattern(pattern); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for _, pattern := range []string{"a", "a.slice", "*.slice", "-.slice", "a.target", "*.timer", "a@.service", "*@.service", "[", "a.Service", ".service", "a.service?x", "*.service ", "a@.scope", `a\x2db.service`} {
		if checkUnitPattern(pattern) == nil {
			t.Errorf("%q can match", pattern)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`([a@*?.]|\[a-z\]|service|scope|slice|\\\\){0,5}`).Draw(t, "pattern")
		matches, ok := oracle(pattern)
		unit := rapid.StringMatching(`[a@.]{0,3}[a.](service|scope|socket|mount|swap)?\.(service|scope|socket|mount|swap)`).Draw(t, "unit")
		if ok && matches(unit) && checkUnitPattern(pattern) != nil {
			t.Errorf("%q matches %s", pattern, unit)
		}
	})
}
