package doctor

import (
	"cmp"
	"slices"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// Merge adds what somebody who has looked for longer knows to an examination:
// a finding about the same processes replaces the one found here.
func Merge(found, known []control.Finding) []control.Finding {
	out := slices.Clone(known)
	for _, f := range found {
		same := func(k control.Finding) bool { return k.ID == f.ID && slices.Equal(k.PIDs, f.PIDs) }
		if f.Severity == control.SeverityOK && len(known) > 0 || slices.ContainsFunc(known, same) {
			continue
		}
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b control.Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
	return out
}
