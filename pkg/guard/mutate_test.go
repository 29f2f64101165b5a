package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mutation is a wrong version of the guard: in one function, other text.
type mutation struct {
	function string // Type.Name, or Name
	what     string
	old, new string
}

func (m *mutation) String() string { return m.function + ": " + m.what }

const (
	mutationsMin = 255
	// mutantSchedules is how many schedules are to find a wrong version.
	mutantSchedules = 10000
	mutantsSample   = 5
	// mutantWait bounds a run of a wrong version, which takes seconds.
	mutantWait = 20 * time.Minute
)

// TestMutations makes wrong versions of the guard, and each is caught: by a schedule
// of the simulation, or by another test of this package. All of them are in one
// binary: each function that has some is there as often. MUTATE=all tests all, and
// MUTATE=brake those with that word in their names; otherwise it is a sample.
func TestMutations(t *testing.T) {
	all := readMutations(t, "testdata/mutations.txt")
	which := os.Getenv("MUTATE")
	run := mutants{binary: buildMutants(t, all), schedules: mutantSchedules}
	// The right one passes, or nothing is shown by those that do not.
	if by := run.inSimulation(t, 0) + run.inTests(t, 0); by != "" {
		t.Fatalf("the guard as it is fails: %s", by)
	}
	var chosen []int
	for i := range all {
		switch {
		case which == "all", which != "" && strings.Contains(all[i].String(), which), which == "" && (i+1)*mutantsSample/len(all) != i*mutantsSample/len(all):
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 0 {
		t.Fatalf("no mutation has %q in its name", which)
	}
	var caught, simulated atomic.Int32
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				simulation, tests := run.inSimulation(t, i+1), run.inTests(t, i+1)
				if simulation != "" {
					simulated.Add(1)
				}
				if simulation == "" && tests == "" {
					t.Errorf("not caught: %s", &all[i])
					continue
				}
				caught.Add(1)
				t.Logf("%s\n\ttests:      %s\n\tsimulation: %s", &all[i], orNobody(tests), orNobody(simulation))
			}
		})
	}
	for _, i := range chosen {
		next <- i
	}
	close(next)
	wg.Wait()
	t.Logf("measured: mutation: %d of %d wrong versions of the guard caught, %d of them by the simulation alone", caught.Load(), len(chosen), simulated.Load())
}

func orNobody(by string) string {
	if by == "" {
		return "-"
	}
	return by
}

// readMutations reads the list of mutations.
func readMutations(t *testing.T, path string) []mutation {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []mutation
	for i, line := range strings.Split(string(text), "\n") {
		last := len(all) - 1
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "== "):
			function, what, ok := strings.Cut(line[3:], ": ")
			if !ok {
				t.Fatalf("%s:%d: want function: what is wrong", path, i+1)
			}
			all = append(all, mutation{function: function, what: what})
		case last >= 0 && line[0] == '-':
			all[last].old += "\n" + line[1:]
		case last >= 0 && line[0] == '+':
			all[last].new += "\n" + line[1:]
		default:
			t.Fatalf("%s:%d: neither a mutation nor text of one", path, i+1)
		}
	}
	names := map[string]bool{}
	for i := range all {
		m := &all[i]
		m.old, m.new = strings.TrimPrefix(m.old, "\n"), strings.TrimPrefix(m.new, "\n")
		if m.old == "" || m.old == m.new || names[m.String()] {
			t.Fatalf("%s: %s: changes nothing, or is there twice", path, m)
		}
		names[m.String()] = true
	}
	if len(all) < mutationsMin {
		t.Errorf("only %d mutations", len(all))
	}
	return all
}

// buildMutants builds the tests of this package with all mutations: the one whose
// number is in MUTANT, from 1 on, is at work.
func buildMutants(t *testing.T, all []mutation) (binary string) {
	t.Helper()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for name, path := range map[string]string{"mutant.go": "switch.go", "mutant_test.go": "switch_test.go"} {
		replace[filepath.Join(here, name)] = filepath.Join(here, "testdata", "mutant", path)
	}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	placed := make([]bool, len(all))
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text := mutate(t, path, all, placed)
		to := filepath.Join(dir, path)
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(here, path)] = to
	}
	for i, ok := range placed {
		if !ok {
			t.Fatalf("%s: there is no such function", &all[i])
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "mutants")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", list, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the mutants: %v\n%s", err, out)
	}
	return binary
}

// mutate returns a source file in which each function that has mutations is a switch
// over its versions.
func mutate(t *testing.T, path string, all []mutation, placed []bool) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	at := 0
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		// Positions of the only file of a set begin at 1.
		begin, end := int(f.Body.Lbrace), int(f.Body.Rbrace)-1
		body := string(text[begin:end])
		var versions strings.Builder
		for i := range all {
			m := &all[i]
			if m.function != nameOf(f) {
				continue
			}
			if placed[i] {
				t.Fatalf("%s: there are two such functions", m)
			}
			placed[i] = true
			if n := strings.Count(body, m.old); n != 1 {
				t.Fatalf("%s: its text occurs %d times: %s", m, n, m.old)
			}
			fmt.Fprintf(&versions, "case %d:%s\n", i+1, strings.Replace(body, m.old, m.new, 1))
		}
		if versions.Len() > 0 {
			out.Write(text[at:begin])
			fmt.Fprintf(&out, "\nswitch mutant {\n%sdefault:%s\n}\n", &versions, body)
			at = end
		}
	}
	out.Write(text[at:])
	return out.Bytes()
}

// nameOf is the name of a function with that of its receiver's type: Guard.judge.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	if p, ok := of.(*ast.StarExpr); ok {
		of = p.X
	}
	return of.(*ast.Ident).Name + "." + f.Name.Name
}

// mutants are all versions of the guard with its tests.
type mutants struct {
	binary    string
	schedules int
}

// inSimulation runs a version in the simulation and says what caught it, "" for nothing.
func (m mutants) inSimulation(t *testing.T, n int) string {
	return m.run(t, n, "-test.run=^TestMutant$")
}

// inTests runs the other tests on a version.
func (m mutants) inTests(t *testing.T, n int) string {
	return m.run(t, n, "-test.skip=^(TestMutant|TestMutations|TestSimulation|TestSameSeed)$")
}

var failure = regexp.MustCompile(`(?: *--- FAIL: (\S+).*\n)+(.*)`)

func (m mutants) run(t *testing.T, n int, which string) string {
	ctx, cancel := context.WithTimeout(t.Context(), mutantWait)
	defer cancel()
	c := exec.CommandContext(ctx, m.binary, which, "-test.short", "-test.failfast", "-rapid.nofailfile", "-rapid.seed=1", "-rapid.shrinktime=0s")
	c.Env = append(os.Environ(), fmt.Sprintf("MUTANT=%d", n), fmt.Sprintf("SIMULATE=%d", m.schedules), "GOMAXPROCS=1", "GOGC=400")
	out, err := c.CombinedOutput()
	if err == nil {
		return ""
	}
	if f := failure.FindSubmatch(out); f != nil {
		return fmt.Sprintf("%s: %.150s", f[1], bytes.TrimSpace(f[2]))
	}
	t.Errorf("mutant %d: no test failed, but it did not end well: %v\n%s", n, err, out)
	return ""
}
