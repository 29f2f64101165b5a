package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// diff adds the command that says what a reload would do.
func (a *app) diff(add func(use, short string, args cobra.PositionalArgs, do action) *cobra.Command) {
	var file string
	c := add("diff", "What a reload would change, and which rule each process would have", noArgs, func(ctx context.Context, _ []string) error {
		var r control.DiffRequest
		if file != "" {
			text, err := os.ReadFile(file) // by the caller's own rights, not the daemon's
			if err != nil {
				return err
			}
			r = control.DiffRequest{File: strings.ToValidUTF8(clean(file), "?"), Text: string(text)}
		}
		return a.ask(func(c *control.Client) error {
			result, err := c.Diff(ctx, r)
			if err != nil {
				return a.rejected(err)
			}
			return a.print(result, func(p *printer) { p.diff(result) })
		})
	})
	c.Flags().StringVar(&file, "config", "", "compare this file, read alone, instead of the guard's own files")
	_ = c.MarkFlagFilename("config", "toml")
}

// ruleText names a rule as the lines about what changed do.
func ruleText(index int) string {
	if index < 0 {
		return "defaults"
	}
	return fmt.Sprintf("rule[%d]", index)
}

func (p *printer) diff(r control.DiffResult) {
	if len(r.Changed) == 0 && len(r.NeedsRestart) == 0 {
		p.line("a reload would change nothing")
	}
	if len(r.Changed) > 0 {
		p.line("a reload would change:")
		for _, c := range r.Changed {
			p.line("  %s", clean(c))
		}
	}
	if len(r.NeedsRestart) > 0 {
		p.line("%s", p.paint(yellow, "needs a restart of checkprocd:"))
		for _, c := range r.NeedsRestart {
			p.line("  %s", clean(c))
		}
	}
	p.line("")
	if len(r.Targets) == 0 {
		p.line("no targets")
		return
	}
	var rows [][]cell
	for _, m := range r.Targets {
		after := cell{text: ruleText(m.After)}
		if m.After != m.Before || len(m.Changes) > 0 {
			after.colour = yellow
		}
		rows = append(rows, []cell{number(int64(m.PID)), text(m.Name), text(m.Unit), {text: ruleText(m.Before)}, after, text(strings.Join(m.Changes, "; "))})
	}
	p.table([]string{"PID", "NAME", "UNIT", "NOW", "AFTER", "CHANGES"}, []string{"PID"}, rows)
}
