package alert

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExample reads the example that is installed: as it stands it lacks a receiver and nothing else, its keys have the
// defaults, and what it shows in its comments is a configuration.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../deploy/alert.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("x", text); err == nil || err.Error() != "x: receiver: there is none (expected at least one [[receiver]])" {
		t.Errorf("as it stands: %v", err)
	}
	shown := ""
	for line := range strings.Lines(string(text)) {
		if after, ok := strings.CutPrefix(line, "#     "); ok {
			shown += after
		}
	}
	c, err := Parse("x", []byte(shown))
	if err != nil || len(c.Receivers) != 2 || len(c.Rules) != 3 {
		t.Fatalf("%v\n%s", err, shown)
	}
	keys := regexp.MustCompile(`(?m)^#([a-z_]+ = .*)$`).FindAllStringSubmatch(string(text), -1)
	all := ""
	for _, key := range keys {
		all += key[1] + "\n"
	}
	set, err := Parse("x", []byte(all+shown))
	if diff := cmp.Diff(c, set, cmp.AllowUnexported(Receiver{}, Duration{})); err != nil || diff != "" || len(keys) != 6 {
		t.Errorf("%v, %d keys: these are not the defaults:\n%s", err, len(keys), diff)
	}
}
