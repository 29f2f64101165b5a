package control

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotAllowed: the caller's credentials do not suffice (io.checkproc.NotAllowed).
	ErrNotAllowed = errors.New("not allowed")
	// ErrNoTarget: the order names what is not there (io.checkproc.NoTarget).
	ErrNoTarget = errors.New("not there")
	// ErrBusy: the daemon has too many connections, or such a request is under way already (io.checkproc.Busy).
	ErrBusy = errors.New("checkprocd is busy")
)

// InvalidError: a parameter of an order is out of bounds (org.varlink.service.InvalidParameter).
type InvalidError struct {
	Parameter string
}

func (e *InvalidError) Error() string { return "invalid parameter: " + e.Parameter }

// Rejected is the answer to a reload or a comparison of a faulty configuration; the running one stays in force (io.checkproc.Rejected).
type Rejected struct {
	Faults []Fault
}

// Error has one line for each fault.
func (e *Rejected) Error() string {
	lines := make([]string, 0, len(e.Faults)+1)
	lines = append(lines, "the configuration has faults")
	for _, f := range e.Faults {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// String is `FILE:LINE:COL: KEY: PROBLEM (expected …)`, without what is not known.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Problem)
	if f.Expected != "" {
		b.WriteString(" (expected " + f.Expected + ")")
	}
	return b.String()
}

// RemoteError is any other varlink error that the daemon sent.
type RemoteError struct {
	Name    string // "io.checkproc.Failed", "org.varlink.service.MethodNotFound"
	Message string // its parameters, readable
}

func (e *RemoteError) Error() string {
	if e.Name == errFailed {
		return "checkprocd: " + e.Message
	}
	return strings.TrimSuffix("checkprocd: "+e.Name+": "+e.Message, ": ")
}

// Names of errors on the wire. The varlink standard defines those of org.varlink.service.
const (
	errNotAllowed        = Interface + ".NotAllowed"
	errNoTarget          = Interface + ".NoTarget"
	errRejected          = Interface + ".Rejected"
	errBusy              = Interface + ".Busy"
	errFailed            = Interface + ".Failed"
	errInterfaceNotFound = "org.varlink.service.InterfaceNotFound"
	errMethodNotFound    = "org.varlink.service.MethodNotFound"
	errInvalidParameter  = "org.varlink.service.InvalidParameter"
	errExpectedMore      = "org.varlink.service.ExpectedMore"
)
