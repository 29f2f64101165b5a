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
	{key: "start_grace", text: func(p *Policy) string {
		if p.StartGrace == 0 {
			return "none"
		}
		return durationText(p.StartGrace)
	}},
	{key: "restart", text: func(p *Policy) string { return p.Restart.String() }},
	{key: "command", text: func(p *Policy) string {
		if p.Command == nil {
			return "none"
		}
		return inline(commandSchema, p.Command)
	}},
	{key: "then", text: func(p *Policy) string { return stringsText(p.Then) }},
	section("recovery",
		field[Policy]{key: "attempts", text: func(p *Policy) string { return fmt.Sprint(p.Attempts) }},
		field[Policy]{key: "window", text: func(p *Policy) string { return durationText(p.Window) }},
	),
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
