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
			if err := c.AlertTest(ctx); err != nil {
				return err
			}
			return a.print(map[string]bool{"reported": true}, func(p *printer) {
				p.line("reported; see journalctl CHECKPROC_EVENT=alert-test, and what receives the alerts")
			})
		})
	})
	c.ValidArgsFunction = cobra.FixedCompletions([]string{"test"}, cobra.ShellCompDirectiveNoFileComp)
}

func onlyTest(c *cobra.Command, args []string) error {
	if len(args) == 1 && args[0] == "test" {
		return nil
	}
	return usageError{fmt.Errorf("%s takes test", c.Name())}
}
