package config

import (
	"fmt"
	"strings"
)

// maxFaults bounds the report about a file that is no configuration at all.
const maxFaults = 100

// Fault is one thing that is wrong with the configuration.
type Fault struct {
	File     string
	Line     int    // from 1; 0: the whole file
	Column   int    // from 1, in bytes
	Key      string // such as ladder.steps[0].wait; empty where no key can be named
	Problem  string
	Expected string // what would be right; may be empty
	Err      error  // what the system said, for a file that cannot be read; else nil
}

// String returns `FILE:LINE:COL: KEY: PROBLEM (expected …)`, without the parts that are not known.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Key != "" {
		b.WriteString(f.Key)
		b.WriteString(": ")
	}
	b.WriteString(f.Problem)
	if f.Expected != "" {
		fmt.Fprintf(&b, " (expected %s)", f.Expected)
	}
	return b.String()
}

// Faults is all that is wrong, by file, then by position.
type Faults struct {
	List []Fault
}

// Error returns one line for each fault.
func (f *Faults) Error() string {
	lines := make([]string, len(f.List))
	for i := range f.List {
		lines[i] = f.List[i].String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns what the system said about files that cannot be read: errors.Is(err, fs.ErrNotExist) works.
func (f *Faults) Unwrap() []error {
	var errs []error
	for i := range f.List {
		if f.List[i].Err != nil {
			errs = append(errs, f.List[i].Err)
		}
	}
	return errs
}
