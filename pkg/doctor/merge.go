package doctor

import (
	"cmp"
	"slices"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// Merge adds what somebody who has looked for longer knows to an examination:
// what the examination found as well is left out.
func Merge(found, known []control.Finding) []control.Finding {
	out := slices.Clone(found)
	for _, k := range known {
		within := func(f control.Finding) bool {
			return f.ID == k.ID && !slices.ContainsFunc(k.PIDs, func(pid int32) bool { return !slices.Contains(f.PIDs, pid) })
		}
		if !slices.ContainsFunc(found, within) {
			out = append(out, k)
		}
	}
	if len(out) > len(found) {
		out = slices.DeleteFunc(out, func(f control.Finding) bool { return f.Severity == control.SeverityOK })
	}
	slices.SortStableFunc(out, func(a, b control.Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
	return out
}
