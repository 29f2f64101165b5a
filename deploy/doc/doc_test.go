// Package doc_test holds what the documents say against the programs.
package doc_test

import (
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/daemon"
)

const root = "../.."

// pages are the documents, seen from the root.
var pages = []string{"README.md", "deploy/doc/design.md", "deploy/doc/cpactive-table.md"}

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section is what stands under a heading of the second level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no heading %q", heading)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

// build compiles a program and returns its path.
func build(t *testing.T, program string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), program)
	cmd := exec.Command("go", "build", "-o", path, "./cmd/"+program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return path
}

// help is what a program says about itself.
func help(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, append(args, "--help")...).Output()
	if err != nil {
		t.Fatalf("%s %v --help: %v", path, args, err)
	}
	return string(out)
}

// commands are the names under "Available Commands:" of a help text.
func commands(text string) []string {
	_, list, _ := strings.Cut(text, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var names []string
	for line := range strings.Lines(list) {
		names = append(names, strings.Fields(line)[0])
	}
	return names
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	flag    = regexp.MustCompile(`--[a-z][a-z-]*`)
	call    = regexp.MustCompile("\\b(checkprocd|checkprocctl) ([^`\n|;#]*)")
)

func TestLinksResolve(t *testing.T) {
	links := 0
	for _, name := range pages {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(m[1], "#")
			to := name
			if path != "" {
				to = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(page(t, to)), anchor) {
				t.Errorf("%s: %s: no such heading", name, m[1])
			}
		}
	}
	if links < 8 {
		t.Errorf("only %d links were found", links)
	}
}

// anchors are the names of headings as GitHub makes them.
func anchors(text string) []string {
	var names []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		keep := func(r rune) rune {
			if r == ' ' {
				return '-'
			}
			if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}
		names = append(names, strings.Map(keep, strings.ToLower(m[1])))
	}
	return names
}

// The table of events has every one, and no other.
func TestEveryEventIsDescribed(t *testing.T) {
	var got []string
	name := regexp.MustCompile("`([a-z-]+)`")
	for line := range strings.Lines(section(t, page(t, "deploy/doc/design.md"), "Events")) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		for _, m := range name.FindAllStringSubmatch(cells[1], -1) {
			got = append(got, m[1])
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(daemon.MessageIDs())), got); diff != "" {
		t.Errorf("events of the program (-) and of the table (+):\n%s", diff)
	}
}

// Each field that a record can have stands in the manual; those of the evidence in the design, too.
func TestEveryFieldIsDescribed(t *testing.T) {
	key := regexp.MustCompile(`z\.(?:Str|Int|Int32|Int64|Bool)\("([a-z_]+)"|\{"([a-z_]+)", e\.`)
	manual, design := page(t, "deploy/man/checkprocd.8"), page(t, "deploy/doc/design.md")
	for _, source := range []string{"event.go", "examine.go"} {
		found := 0
		for _, m := range key.FindAllStringSubmatch(page(t, "pkg/daemon/"+source), -1) {
			name := m[1] + m[2]
			if name == "message_id" || name == "priority" || strings.HasPrefix(name, "object_") {
				continue // journald's own
			}
			found++
			field := regexp.MustCompile(`\bCHECKPROC_` + strings.ToUpper(name) + `\b`)
			if !field.MatchString(manual) {
				t.Errorf("checkprocd(8) does not say what %s is", field)
			}
			if source == "examine.go" && !field.MatchString(design) {
				t.Errorf("the design does not say what %s is", field)
			}
		}
		if found < 10 {
			t.Errorf("only %d fields were found in %s", found, source)
		}
	}
}

// The README shows the help of both programs; what it and the other pages call them with exists.
func TestCommandLines(t *testing.T) {
	readme := page(t, "README.md")
	known := map[string][]string{}
	for _, program := range []string{"checkprocd", "checkprocctl"} {
		path := build(t, program)
		text := help(t, path)
		if block := "```text\n$ " + program + " --help\n" + text + "```\n"; !strings.Contains(readme, block) {
			t.Errorf("README.md does not show this:\n%s", block)
		}
		all := text
		for _, c := range commands(text) {
			if c != "help" {
				all += help(t, path, c)
			}
			known[program] = append(known[program], c)
		}
		known[program] = append(known[program], flag.FindAllString(all, -1)...)
		manual := strings.ReplaceAll(page(t, "deploy/man/"+map[string]string{"checkprocd": "checkprocd.8", "checkprocctl": "checkprocctl.1"}[program]), `\-`, "-")
		for _, f := range flag.FindAllString(all, -1) {
			if f != "--help" && !strings.HasPrefix(f, "--no-desc") && !strings.Contains(manual, "Fl -"+f[2:]) {
				t.Errorf("the manual of %s does not have %s", program, f)
			}
		}
		for _, c := range commands(text) {
			if c != "help" && !strings.Contains(manual, "\n.It Cm "+c+"\n") {
				t.Errorf("the manual of %s does not have the command %s", program, c)
			}
		}
	}
	calls := 0
	for _, name := range pages {
		for _, m := range call.FindAllStringSubmatch(page(t, name), -1) {
			for _, f := range flag.FindAllString(m[2], -1) {
				calls++
				if !slices.Contains(known[m[1]], f) {
					t.Errorf("%s: %s: there is no %s", name, m[0], f)
				}
			}
		}
		for _, m := range regexp.MustCompile("(?m)(?:`|^ *)checkprocctl ([a-z]+)").FindAllStringSubmatch(page(t, name), -1) {
			calls++
			if !slices.Contains(known["checkprocctl"], m[1]) {
				t.Errorf("%s: there is no command %q", name, m[0])
			}
		}
	}
	if calls < 8 {
		t.Errorf("only %d flags and commands were found", calls)
	}
}

func TestMakeTargetsExist(t *testing.T) {
	makefile := page(t, "Makefile")
	for _, name := range pages {
		for _, m := range regexp.MustCompile("(?m)(?:`|^ *)make ([a-z]+)").FindAllStringSubmatch(page(t, name), -1) {
			if !strings.Contains(makefile, "\n.PHONY: "+m[1]+"\n") {
				t.Errorf("%s: there is no target %q", name, m[0])
			}
		}
	}
}

// What the manuals say about exit statuses is what the programs have as constants.
func TestExitStatuses(t *testing.T) {
	constant := regexp.MustCompile(`(?m)^\texit[A-Za-z]+ += ([0-9]+)`)
	item := regexp.MustCompile(`(?m)^\.It ([0-9]+)$`)
	for source, manual := range map[string]string{
		"cmd/checkprocd/main.go": "deploy/man/checkprocd.8", "cmd/checkprocctl/run.go": "deploy/man/checkprocctl.1",
	} {
		want := []string{"0"}
		for _, m := range constant.FindAllStringSubmatch(page(t, source), -1) {
			if m[1] != "0" {
				want = append(want, m[1])
			}
		}
		var got []string
		for _, m := range item.FindAllStringSubmatch(page(t, manual), -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("exit statuses of %s (-) and of %s (+):\n%s", source, manual, diff)
		}
	}
}

func TestEveryPackageIsNamed(t *testing.T) {
	dirs, err := filepath.Glob(root + "/pkg/*")
	if err != nil || len(dirs) < 5 {
		t.Fatalf("packages: %v, %v", dirs, err)
	}
	lives := section(t, page(t, "README.md"), "Where everything lives")
	table := section(t, page(t, "deploy/doc/design.md"), "Packages")
	for _, dir := range dirs {
		name := "pkg/" + filepath.Base(dir)
		if !strings.Contains(lives, name+" ") {
			t.Errorf("README.md does not say where %s is", name)
		}
		if !strings.Contains(table, "`"+name+"`") {
			t.Errorf("the design does not say what %s is", name)
		}
	}
}

func TestPictureIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(page(t, "deploy/doc/demo.svg")))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody else fills in the figures between these.
func TestFiguresHaveTheirPlace(t *testing.T) {
	if n := len(regexp.MustCompile(`(?s)\n<!-- figures -->\n.*<!-- /figures -->\n`).FindAllString(page(t, "README.md"), -1)); n != 1 {
		t.Errorf("%d places for figures", n)
	}
}
