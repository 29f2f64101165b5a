package config

import "fmt"

// policySchema has what a policy says, each as the file would.
var policySchema = []field[Policy]{
	{key: "action", text: func(p *Policy) string { return p.Action.String() }},
	{key: "timeout", text: func(p *Policy) string {
		if p.Timeout == 0 {
			return "its own"
		}
		return durationText(p.Timeout)
	}},
	{key: "restart", text: func(p *Policy) string { return p.Restart.String() }},
	section("ladder",
		steps("", func(p *Policy) *[]Step { return &p.Steps }),
		field[Policy]{key: "scope", text: func(p *Policy) string { return p.Scope.String() }},
		field[Policy]{key: "shared", text: func(p *Policy) string { return fmt.Sprint(p.Shared) }},
	),
	{key: "limits", text: func(p *Policy) string {
		if len(p.Limits) == 0 {
			return "none"
		}
		return limitsText(p.Limits)
	}},
	section("verdict", responses(func(p *Policy) *Responses { return &p.Verdict })...),
}

// Diff names what differs for a target when another policy is in force for it, one line for each: `timeout: its own -> 45s`.
// The index of the rule is not compared.
func (p *Policy) Diff(to *Policy) []string { return diffFields(nil, "", p, to, policySchema) }
