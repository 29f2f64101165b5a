// Package house holds the rules of the house that are about the whole tree: which package may import which.
// Calls that are forbidden by name are in .ci/house.
package house

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/checkprocd/checkprocd/"

// rule says what a package may import of ours, and what of the rest of the world it must not. A name with a
// trailing slash stands for everything below it.
type rule struct {
	ours   []string
	forbid []string
}

// Libraries do not log and parse no flags; the daemon does the one, the commands the other.
var quiet = []string{"log", "log/", "flag", "github.com/rs/zerolog", "github.com/rs/zerolog/", "github.com/spf13/"}

// rules has one line for each package; one direction only, and a leaf imports nothing of ours.
var rules = map[string]rule{
	"pkg/table":    {forbid: quiet},
	"pkg/process":  {forbid: quiet},
	"pkg/config":   {forbid: append([]string{"os/exec", "net"}, quiet...)},
	"pkg/registry": {forbid: quiet},
	"pkg/systemd":  {forbid: []string{"flag", "github.com/spf13/"}}, // it writes the daemon's log
	"pkg/control":  {forbid: quiet},
	// The pure core: no clock, no goroutine of its own, no system call.
	"pkg/guard":    {ours: []string{"pkg/table", "pkg/config"}, forbid: append([]string{"os", "os/", "sync", "context", "net", "net/", "syscall", "golang.org/x/sys/"}, quiet...)},
	"pkg/escalate": {ours: []string{"pkg/config"}, forbid: quiet},
	"pkg/watch":    {forbid: quiet},
	"pkg/doctor":   {ours: []string{"pkg/table", "pkg/process", "pkg/control"}, forbid: quiet},
	// Runs in a process of its own, without rights: nothing of the guard but what it says.
	"pkg/alert":    {ours: []string{"pkg/config", "pkg/control"}, forbid: quiet},
	"pkg/daemon":   {ours: []string{"pkg/"}, forbid: []string{"flag", "log", "github.com/spf13/"}},
	"pkg/internal": {forbid: quiet},
	"cmd":          {ours: []string{"pkg/"}},
	"deploy":       {ours: []string{"pkg/"}},
}

func TestImports(t *testing.T) {
	faults, packages := imports(t, os.DirFS("../../.."))
	for _, f := range faults {
		t.Error(f)
	}
	if packages < 2 {
		t.Errorf("only %d packages were read: is this the root of the module?", packages)
	}
}

// TestImportsCanFail breaks each kind of rule in a small tree.
func TestImportsCanFail(t *testing.T) {
	got, _ := imports(t, os.DirFS("testdata/tree"))
	want := []string{
		"pkg/extra: has no line in the table of imports (pkg/internal/house)",
		"pkg/guard/guard.go: pkg/guard imports os",
		"pkg/guard/guard.go: pkg/guard imports pkg/process",
		"pkg/guard/guard.go: pkg/guard imports golang.org/x/sys/unix",
		"pkg/table/table.go: pkg/table imports log/slog",
		"pkg/table/table.go: pkg/table imports cmd/tool",
		"pkg/table/table.go: pkg/table imports pkg/config",
		"pkg/table/table.go: pkg/table imports github.com/rs/zerolog",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults of the fixture (-want +got):\n%s", diff)
	}
}

// imports reads the import lines of all Go files below root, tests and testdata left out.
func imports(t *testing.T, root fs.FS) (faults []string, packages int) {
	t.Helper()
	seen := map[string]bool{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || len(name) > 1 && strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir := path.Dir(name)
		r, ok := find(dir)
		if !ok && !seen[dir] {
			faults = append(faults, dir+": has no line in the table of imports (pkg/internal/house)")
		}
		seen[dir] = true
		if !ok {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ours, isOurs := strings.CutPrefix(imported, module)
			if isOurs && !matches(r.ours, ours) || matches(r.forbid, imported) {
				faults = append(faults, fmt.Sprintf("%s: %s imports %s", name, dir, strings.TrimPrefix(imported, module)))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return faults, len(seen)
}

// find gives the rule of a directory: its own, or that of the nearest directory above it.
func find(dir string) (rule, bool) {
	for ; dir != "."; dir = path.Dir(dir) {
		if r, ok := rules[dir]; ok {
			return r, true
		}
	}
	return rule{}, false
}

func matches(list []string, imported string) bool {
	return slices.ContainsFunc(list, func(l string) bool {
		return l == imported || strings.HasSuffix(l, "/") && strings.HasPrefix(imported, l)
	})
}
