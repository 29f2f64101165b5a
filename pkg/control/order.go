package control

import (
	"strings"
	"unicode"
)

// valid says which parameter of an order is out of bounds, as an *InvalidError.
func (r *HoldRequest) valid() error {
	if err := (&Selector{PID: r.PID, Name: r.Name, All: r.All}).valid(); err != nil {
		return err
	}
	if r.ForUsec < MinHold.Microseconds() || r.ForUsec > MaxHold.Microseconds() {
		return &InvalidError{"for_usec"}
	}
	return nil
}

// valid: one of the fields is set, and names what can be there. A name with a character that does not print would match
// nothing, as the names of targets are cleaned of them, and be shown on terminals.
func (s *Selector) valid() error {
	given := 0
	for _, is := range []bool{s.PID != 0, s.Name != "", s.All} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return &InvalidError{"pid, name, all"}
	case s.PID < 0:
		return &InvalidError{"pid"}
	case len(s.Name) > MaxText, strings.ContainsFunc(s.Name, unprintable):
		return &InvalidError{"name"}
	}
	return nil
}

// unprintable is true of what is not fit for a terminal.
func unprintable(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

// maxName bounds the name of a file, as the system does.
const maxName = 4096

func (r *DiffRequest) valid() error {
	if len(r.File) > maxName || strings.ContainsFunc(r.File, unprintable) || r.File == "" && r.Text != "" {
		return &InvalidError{"file"}
	}
	return nil
}

func (b *brakeParameters) valid() error {
	if b.Order != BrakeGo && b.Order != BrakeStop {
		return &InvalidError{"order"}
	}
	return nil
}
