package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCheckPath(t *testing.T) {
	for pattern, want := range map[string]string{
		"/etc/x/a.conf": "", "/etc/x/*.conf": "", "/etc/x/[a-c]?.conf": "", "/a": "",
		"etc/a": "is no absolute path", "": "is no absolute path",
		"/etc/": "is not the plain path of a file", "/etc/../a": "is not the plain path of a file", "/": "is not the plain path of a file",
		"/etc/*/a": "has a pattern before its last part", "/etc/[": "unfinished [ or \\", "/a\nb": "has control characters in it",
	} {
		got := ""
		if err := CheckPath(pattern); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}

func TestWatch(t *testing.T) {
	c, faults := parseText("[[rule]]\nwatch.files = ['/etc/a']\n[[rule]]\nwatch = { files = ['/etc/b'], settle = '1m', check = ['/bin/x', '-t'], action = 'restart', blame = '1h' }\n[[rule]]\n")
	if faults != nil {
		t.Fatal(lines(faults))
	}
	for i, want := range []Watch{
		{Files: []string{"/etc/a"}, Settle: 2 * time.Second, Blame: time.Minute},
		{Files: []string{"/etc/b"}, Settle: time.Minute, Check: []string{"/bin/x", "-t"}, Action: WatchRestart, Blame: time.Hour},
		{},
	} {
		if diff := cmp.Diff(want, c.Rules[i].Watch); diff != "" {
			t.Error(diff)
		}
	}
	if WatchReload.String() != "reload" || WatchRestart.String() != "restart" {
		t.Error("names of actions")
	}
	text := ""
	for range maxWatches {
		text += "[[rule]]\nwatch.files = ['/a']\n[[rule]]\n"
	}
	if _, faults = parseText(text); faults != nil {
		t.Error(lines(faults))
	}
	if _, faults = parseText(text + "[[rule]]\nwatch.files = ['/a']\n"); lines(faults) != "f:193:3: rule[128].watch: is one watch too many (expected at most 64)" {
		t.Error(lines(faults))
	}
}
