package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// alert adds the command that tests whether alerts arrive.
func (a *app) alert(add func(use, short string, args cobra.PositionalArgs, do action) *cobra.Command) {
	c := add("alert test", "Have the guard report a test, to see that alerts arrive", onlyTest, func(ctx context.Context, _ []string) error {
		return a.ask(func(c *control.Client) error {
			tested, err := c.AlertTest(ctx)
			if err != nil {
				return err
			}
			told := alertTold{AlertTested: tested}
			if tested.Followers == 0 && tested.Unit == "" {
				told.Warning = "nobody is alerted: nothing follows the events (checkproc-alert would), and no alert.unit is started"
			}
			return a.print(told, func(p *printer) { p.alerted(told) })
		})
	})
	c.ValidArgsFunction = cobra.FixedCompletions([]string{"test"}, cobra.ShellCompDirectiveNoFileComp)
}

// alertTold is the answer, as JSON.
type alertTold struct {
	control.AlertTested
	Warning string `json:"warning"` // empty: none
}

func (p *printer) alerted(t alertTold) {
	p.line("reported; see journalctl CHECKPROC_EVENT=alert-test, and what receives the alerts")
	switch {
	case t.Followers == 1:
		p.line("1 program follows the events")
	case t.Followers > 1:
		p.line("%d programs follow the events", t.Followers)
	}
	if t.Unit != "" {
		p.line("%s is started", clean(t.Unit))
	}
	if t.Warning != "" {
		p.line("%s: %s", p.paint(yellow, "warning"), t.Warning)
	}
}

func onlyTest(c *cobra.Command, args []string) error {
	if len(args) == 1 && args[0] == "test" {
		return nil
	}
	return usageError{fmt.Errorf("%s takes test", c.Name())}
}
