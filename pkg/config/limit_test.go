package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// anyLimit draws a valid limit.
func anyLimit(t *rapid.T) Limit {
	bytes := rapid.OneOf(rapid.Int64Range(1, maxBytes), rapid.SampledFrom([]int64{1, 1023, 1024, 500 << 20, 3 << 40, maxBytes}))
	percent := func(most float64, label string) float64 {
		return rapid.OneOf(rapid.Float64Range(1e-9, most), rapid.SampledFrom([]float64{0.1, 1, 50, 90, most})).Draw(t, label)
	}
	l := Limit{
		Of:     rapid.SampledFrom(quantities()).Draw(t, "of"),
		For:    time.Duration(rapid.Int64Range(int64(time.Second), int64(maxFor)).Draw(t, "for")),
		Action: rapid.SampledFrom(limitActions).Draw(t, "action"),
	}
	value := func(most float64, label string) float64 {
		switch {
		case l.unit() == unitBytes:
			return float64(bytes.Draw(t, label))
		case l.unit() == unitTime:
			return float64(rapid.Int64Range(1, int64(maxAge/time.Second)).Draw(t, label))
		case l.Of == CPU:
			return percent(maxPercent, label)
		case l.unit() == unitPercent:
			return percent(100, label)
		}
		return float64(rapid.Int64Range(1, maxNumber).Draw(t, label))
	}
	l.Share = l.Of == Descriptors && rapid.Bool().Draw(t, "share")
	l.Above = value(maxBytes, "above")
	if l.Of != Age && rapid.Bool().Draw(t, "has below") {
		l.Below = min(value(maxBytes, "below"), l.Above)
	}
	if l.Action == LimitThrottle {
		l.MemoryHigh = uint64(bytes.Draw(t, "memory_high"))
		if rapid.Bool().Draw(t, "has cpu_quota") {
			l.CPUQuota = percent(maxPercent, "cpu_quota")
			if rapid.Bool().Draw(t, "only cpu_quota") {
				l.MemoryHigh = 0
			}
		}
	}
	return l
}

func TestLimits(t *testing.T) {
	c, faults := parseText(`
limits.sample = "5s"
[[rule]]
match = { name = "a" }
[[rule.limit]]
of = "memory"
above = "1.5GiB"
action = "report"
[[rule.limit]]
of = "descriptors"
above = 900
below = 500
for = "1s"
action = "ladder"
[[rule.limit]]
of = "descriptors"
above = "90%"
action = "restart"
[[rule.limit]]
of = "age"
above = "1d12h"
action = "restart"
[[rule.limit]]
action = "throttle"
cpu_quota = "50%"
memory_high = "500MiB"
above = "250%"
of = "cpu"
[[rule]]
match = { name = "b" }
limit = [ { of = "pressure-io", above = "40%", action = "report" } ]
`)
	if faults != nil {
		t.Fatal(lines(faults))
	}
	want := []Limit{
		{Of: Memory, Above: 1536 << 20, For: time.Minute, Action: LimitReport},
		{Of: Descriptors, Above: 900, Below: 500, For: time.Second, Action: LimitLadder},
		{Of: Descriptors, Above: 90, Share: true, For: time.Minute, Action: LimitRestart},
		{Of: Age, Above: 36 * 3600, For: time.Minute, Action: LimitRestart},
		{Of: CPU, Above: 250, For: time.Minute, Action: LimitThrottle, MemoryHigh: 500 << 20, CPUQuota: 50},
	}
	if diff := cmp.Diff(want, c.Policy("a", "", "").Limits); diff != "" {
		t.Error(diff)
	}
	if got := c.Policy("b", "", "").Limits; len(got) != 1 || got[0].Of != PressureIO {
		t.Errorf("limits of the second rule: %v", got)
	}
	if got := c.Policy("c", "", "").Limits; got != nil || c.Sample != 5*time.Second {
		t.Errorf("limits without a rule: %v, sampled each %v", got, c.Sample)
	}
	if calm := want[0].Calm(); calm != 0.9*(1536<<20) || want[1].Calm() != 500 {
		t.Errorf("over again at %v", calm)
	}
}

func TestLimitFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no list", "limit = 1", `f:2:9: rule[0].limit: is the integer 1 (expected [[rule.limit]])`},
		{"no table", "limit = [ 1 ]", `f:2:11: rule[0].limit[0]: is the integer 1 (expected [[rule.limit]])`},
		{"empty", "[[rule.limit]]", `f:2:8: rule[0].limit[0].of: is missing (expected ` + enumExpected(quantities()) + `)
f:2:8: rule[0].limit[0].above: is missing (expected a size, a percentage, a time or an integer, as the key "of" says)
f:2:8: rule[0].limit[0].action: is missing (expected "report" or "ladder" or "restart" or "throttle")`},
		{"of", "limit = [ { of = 'heap', above = 1, action = 'report' } ]", `f:2:18: rule[0].limit[0].of: "heap" is not known (expected ` + enumExpected(quantities()) + `)`},
		{"unknown key", "limit = [ { of = 'age', above = '1d', action = 'report', over = 1 } ]", `f:2:58: rule[0].limit[0].over: unknown key (expected one of of, above, for, below, action, memory_high, cpu_quota)`},
		{"size as number", "limit = [ { of = 'memory', above = 500, action = 'report' } ]", `f:2:36: rule[0].limit[0].above: is the integer 500 (expected a size such as "500MiB", in B, KiB, MiB, GiB or TiB, 1B to 1024TiB)`},
		{"size", "limit = [ { of = 'memory', above = '500MB', action = 'report' } ]", `f:2:36: rule[0].limit[0].above: "500MB" is no size (expected a size such as "500MiB", in B, KiB, MiB, GiB or TiB, 1B to 1024TiB)`},
		{"size signed", "limit = [ { of = 'memory', above = '-1MiB', action = 'report' } ]", `f:2:36: rule[0].limit[0].above: "-1MiB" is no size (expected a size such as "500MiB", in B, KiB, MiB, GiB or TiB, 1B to 1024TiB)`},
		{"size 0", "limit = [ { of = 'group-memory', above = '0B', action = 'report' } ]", `f:2:42: rule[0].limit[0].above: "0B" is out of range (expected a size such as "500MiB", in B, KiB, MiB, GiB or TiB, 1B to 1024TiB)`},
		{"cpu", "limit = [ { of = 'cpu', above = 90, action = 'report' } ]", `f:2:33: rule[0].limit[0].above: is the integer 90 (expected a percentage of one processor such as "90%", above 0% and at most 409600%)`},
		{"pressure", "limit = [ { of = 'pressure-cpu', above = '101%', action = 'report' } ]", `f:2:42: rule[0].limit[0].above: "101%" is out of range (expected a percentage such as "40%", above 0% and at most 100%)`},
		{"share", "limit = [ { of = 'descriptors', above = '101%', action = 'report' } ]", `f:2:41: rule[0].limit[0].above: "101%" is out of range (expected an integer, 1 to 2147483648, or a percentage of the soft limit such as "90%", at most 100%)`},
		{"share of threads", "limit = [ { of = 'threads', above = '90%', action = 'report' } ]", `f:2:37: rule[0].limit[0].above: is the string "90%" (expected an integer, 1 to 2147483648)`},
		{"children", "limit = [ { of = 'children', above = 0, action = 'report' } ]", `f:2:38: rule[0].limit[0].above: 0 is out of range (expected an integer, 1 to 2147483648)`},
		{"age", "limit = [ { of = 'age', above = '30', action = 'report' } ]", `f:2:33: rule[0].limit[0].above: "30" is no time in whole seconds (expected a time in whole seconds such as "30d" or "12h", at most 3650d)`},
		{"age in parts of a second", "limit = [ { of = 'age', above = '1d1ms', action = 'report' } ]", `f:2:33: rule[0].limit[0].above: "1d1ms" is no time in whole seconds (expected a time in whole seconds such as "30d" or "12h", at most 3650d)`},
		{"age long", "limit = [ { of = 'age', above = '3651d', action = 'report' } ]", `f:2:33: rule[0].limit[0].above: "3651d" is out of range (expected a time in whole seconds such as "30d" or "12h", at most 3650d)`},
		{"age negative", "limit = [ { of = 'age', above = '1d-1h', action = 'report' } ]", `f:2:33: rule[0].limit[0].above: "1d-1h" is out of range (expected a time in whole seconds such as "30d" or "12h", at most 3650d)`},
		{"age below", "limit = [ { of = 'age', above = '1d', below = '1h', action = 'report' } ]", `f:2:47: rule[0].limit[0].below: is never reached: nobody grows younger (expected none for age)`},
		{"below above", "limit = [ { of = 'threads', above = 10, below = 11, action = 'report' } ]", `f:2:49: rule[0].limit[0].below: 11 is more than above (expected the same as above, and not more)`},
		{"below of another kind", "limit = [ { of = 'descriptors', above = '90%', below = 11, action = 'report' } ]", `f:2:56: rule[0].limit[0].below: is the integer 11 (expected the same as above, and not more)`},
		{"for", "limit = [ { of = 'threads', above = 10, for = '0s', action = 'report' } ]", `f:2:47: rule[0].limit[0].for: "0s" is out of range (expected a duration such as "5s", 1s to 168h)`},
		{"action", "limit = [ { of = 'threads', above = 10, action = 'kill' } ]", `f:2:50: rule[0].limit[0].action: "kill" is not known (expected "report" or "ladder" or "restart" or "throttle")`},
		{"throttle without a value", "limit = [ { of = 'threads', above = 10, action = 'throttle' } ]", `f:2:11: rule[0].limit[0]: says throttle, but not how (expected memory_high or cpu_quota)`},
		{"values without throttle", "limit = [ { of = 'threads', above = 10, action = 'report', cpu_quota = '1%' } ]", `f:2:11: rule[0].limit[0]: has memory_high or cpu_quota without an action that needs them (expected action = "throttle")`},
		{"quota", "limit = [ { of = 'threads', above = 10, action = 'throttle', cpu_quota = '0%' } ]", `f:2:74: rule[0].limit[0].cpu_quota: "0%" is out of range (expected a percentage of one processor such as "90%", above 0% and at most 409600%)`},
		{"bare quota", "[[rule.limit]]\ncpu_quota = 5s", `f:3:14: rule.limit.cpu_quota: strings must be quoted (expected a percentage of one processor such as "90%", above 0% and at most 409600%)`},
		{"many", "limit = [" + strings.Repeat("{},", 33) + "]", `f:2:9: rule[0].limit: has 33 limits (expected at most 32)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, faults := parseText("[[rule]]\n" + tt.text + "\n")
			got := strings.Split(lines(faults), "\n")
			if tt.name == "bare quota" { // beside what is missing
				got = got[len(got)-1:]
			}
			if diff := cmp.Diff(strings.Split(tt.want, "\n"), got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, faults := parseText("limits.sample = '999ms'"); len(faults) != 1 {
		t.Error("samples come as often as one likes")
	}
}

func TestLimitTexts(t *testing.T) {
	for n, want := range map[float64]string{1: "1B", 1023: "1023B", 1024: "1KiB", 1025: "1025B", 500 << 20: "500MiB", 1536 << 20: "1536MiB", maxBytes: "1024TiB"} {
		if got := exactBytes(n); got != want {
			t.Errorf("exactBytes(%v) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[float64]string{0: "0B", 1023: "1023B", 1024: "1KiB", 1025: "1KiB", 1536 << 20: "1.5GiB", 642042265: "612.3MiB"} {
		if got := ByteText(n); got != want {
			t.Errorf("ByteText(%v) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[float64]string{1: "1s", 90: "1m30s", 86400: "1d", 86400 * 1.5: "1d12h", 30 * 86400: "30d"} {
		if got := ageText(n); got != want {
			t.Errorf("ageText(%v) = %s, want %s", n, got, want)
		}
	}
	for l, want := range map[Limit]string{
		{Of: Memory}: "512B", {Of: CPU}: "512%", {Of: Descriptors}: "512", {Of: Descriptors, Share: true}: "512%", {Of: Age}: "8m32s", {Of: PressureIO}: "512%", {Of: Children}: "512",
	} {
		if got := l.Text(512); got != want {
			t.Errorf("512 of %s are %s, want %s", l.Of, got, want)
		}
	}
	if NumQuantities.String() != "quantity 10" || LimitAction(9).String() != "action 9" || slices.Contains(quantityNames[:], "") {
		t.Error("names of quantities and actions")
	}
}
