package guard

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Preview is what another configuration would mean for a target.
type Preview struct {
	PID           int32
	UID           uint32
	Name, Unit    string
	Before, After int      // index of the rule, -1: the defaults
	Changes       []string // what would differ for it: "timeout: 30s -> 45s"
}

// Preview says for each target which rule it has and would have with next, in the order of their pids. It changes
// nothing. Targets that are forming have no rule yet.
func (g *Guard) Preview(next *config.Config) []Preview {
	var out []Preview
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used || t.state == Ended || t.timeout == notLatched {
			continue
		}
		after := next.Policy(t.displayName(), t.facts.User, t.facts.Unit)
		shield := next.Protected(t.displayName(), t.facts.Unit)
		p := Preview{PID: t.pid, UID: t.facts.UID, Name: t.displayName(), Unit: t.facts.Unit, Before: t.policy.Rule, After: after.Rule,
			Changes: t.policy.Diff(&after)}
		if shield != t.shield {
			p.Changes = append(p.Changes, fmt.Sprintf("protected: %s -> %s", orNot(t.shield), orNot(shield)))
		}
		if misnamed := !next.MayUse(t.facts.UID, t.facts.User, t.displayName()); misnamed != t.misnamed {
			p.Changes = append(p.Changes, "its name: "+map[bool]string{true: "allowed -> refused", false: "refused -> allowed"}[misnamed])
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Preview) int { return cmp.Compare(a.PID, b.PID) })
	return out
}

func orNot(shield string) string {
	if shield == "" {
		return "no"
	}
	return shield
}
