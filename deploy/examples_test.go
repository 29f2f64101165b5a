package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// exampleRow is a row of examples/README.md: file and place.
var exampleRow = regexp.MustCompile("(?m)^\\| .* \\| \\[([^]]+)\\]\\(([^)]+)\\) \\| `(/[^`]+)` \\|$")

// examples are the places of the examples, by file.
func examples(t *testing.T) map[string]string {
	t.Helper()
	places := map[string]string{}
	for _, m := range exampleRow.FindAllStringSubmatch(file(t, "examples/README.md"), -1) {
		if m[1] != m[2] {
			t.Errorf("%s leads to %s", m[1], m[2])
		}
		places[m[1]] = m[3]
	}
	return places
}

// build compiles a program and returns its path.
func build(t *testing.T, program string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), program)
	cmd := exec.Command("go", "build", "-o", path, "../cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return path
}

func TestExamplesAreListed(t *testing.T) {
	entries, err := os.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	var there, listed []string
	for _, e := range entries {
		if e.Name() != "README.md" {
			there = append(there, e.Name())
		}
	}
	for name := range examples(t) {
		listed = append(listed, name)
	}
	slices.Sort(listed)
	if diff := cmp.Diff(there, listed); diff != "" {
		t.Errorf("files (-) and rows of the table (+):\n%s", diff)
	}
	if len(there) < 10 {
		t.Errorf("only %d examples", len(there))
	}
}

// Each example is taken by the program that reads it, and changes something; each begins with what it is for.
func TestExamplesAreAccepted(t *testing.T) {
	guard, alerts := build(t, "checkprocd"), build(t, "checkproc-alert")
	in := func(config string) string {
		t.Helper()
		out, err := exec.Command(guard, "--check", "--config", config).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", config, err, out)
		}
		return string(out)
	}
	empty := filepath.Join(t.TempDir(), "empty.toml")
	write(t, empty, "", 0o644)
	defaults := in(empty)
	t.Setenv("CREDENTIALS_DIRECTORY", t.TempDir())
	write(t, filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), "webhook"), "a secret of some length\n", 0o600)

	units := t.TempDir()
	write(t, filepath.Join(units, "dbwriter.service"), "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	write(t, filepath.Join(units, "checkproc-alert.service"), file(t, installUnit(t, "checkproc-alert")), 0o644)
	var verify []string
	for name, place := range examples(t) {
		text := file(t, filepath.Join("examples", name))
		if !strings.HasPrefix(text, "# ") {
			t.Errorf("%s does not begin with what it is for", name)
		}
		for line := range strings.Lines(text) {
			if len(line) > 131 {
				t.Errorf("%s: a line of %d characters: %s", name, len(line), line)
			}
		}
		unit, isUnit := strings.CutPrefix(place, "/etc/systemd/system/")
		switch {
		case isUnit:
			write(t, filepath.Join(units, unit), text, 0o644)
			unit, _, _ = strings.Cut(unit, ".d/")
			verify = append(verify, filepath.Join(units, strings.Replace(unit, "@.", "@condemned.", 1)))
		case place == "/etc/checkprocd/alert.toml":
			if out, err := exec.Command(alerts, "--check", "--config", filepath.Join("examples", name)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		case strings.HasPrefix(place, "/etc/checkprocd/conf.d/") && strings.HasSuffix(place, ".toml"):
			if in(filepath.Join("examples", name)) == defaults {
				t.Errorf("%s changes nothing", name)
			}
		default:
			t.Errorf("%s: nothing is read from %s", name, place)
		}
	}
	if len(verify) != 3 {
		t.Errorf("units and drop-ins: %v", verify)
	}
	for _, unit := range verify {
		quiet(t, tool(t, "systemd-analyze", "systemd", "verify", "--man=no", "--recursive-errors=no", unit))
	}
}
