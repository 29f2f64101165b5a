// Package bench measures what checkprocd costs and how fast it is: the program as it is built, guarding real processes
// in namespaces of its own. `make bench` runs it and prints a table with the mark beside each figure; other runs of the
// tests skip it.
//
// Figures that contain a wake-up are upper limits on a virtual machine: waking from idle costs 20 to 40 µs there and 3
// to 10 µs on bare metal.
package bench

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// envTable names the file in which the tests in their namespaces leave the rows of the table.
const envTable = "CHECKPROCD_BENCH_TABLE"

func TestMain(m *testing.M) {
	flag.Parse()
	if nstest.Inside() || !wanted() {
		os.Exit(m.Run())
	}
	rows, err := os.CreateTemp("", "checkprocd-bench")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv(envTable, rows.Name())
	code := m.Run()
	text, err := os.ReadFile(rows.Name())
	os.Remove(rows.Name())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(text) > 0 {
		fmt.Printf("\n| figure | measured | mark | |\n|---|---|---|---|\n%s\n", text)
	}
	os.Exit(code)
}

// wanted says whether benchmarks were asked for (-bench).
func wanted() bool {
	f := flag.Lookup("test.bench")
	return f != nil && f.Value.String() != ""
}

// outside says that the caller is not the one in the namespaces, and is to return; it has seen to the rest.
func outside(t *testing.T) bool {
	t.Helper()
	if !nstest.Inside() && !wanted() {
		t.Skip("a measurement of a minute: asked for by -bench, see `make bench`")
	}
	return nstest.Run(t)
}

// row adds a line to the table. Nothing fails for a missed mark: machines differ, and the table says it.
func row(t *testing.T, figure, measured, mark string, reached bool) {
	t.Helper()
	verdict := "reached"
	if !reached {
		verdict = "**missed**"
	}
	line(t, figure, measured, mark, verdict)
}

// note adds a line without a mark.
func note(t *testing.T, figure, measured string) {
	t.Helper()
	line(t, figure, measured, "", "")
}

func line(t *testing.T, cells ...string) {
	t.Helper()
	text := "| " + strings.Join(cells, " | ") + " |"
	t.Log(text)
	f, err := os.OpenFile(os.Getenv(envTable), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, text); err != nil {
		t.Fatal(err)
	}
}

// short writes a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d >= 10*time.Microsecond:
		return d.Round(100 * time.Nanosecond).String()
	}
	return d.Round(10 * time.Nanosecond).String()
}
