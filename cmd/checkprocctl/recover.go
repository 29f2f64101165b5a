package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// recover adds the command that has the guard bring back what it has given up.
func (a *app) recover(add func(use, short string, args cobra.PositionalArgs, do action) *cobra.Command) {
	add("recover NAME|UNIT", "Bring back what was given up, as if it had never been started again", oneName, func(ctx context.Context, args []string) error {
		s, err := selector(args[0])
		if err != nil {
			return err
		}
		if s.Name == "" { // digits are a name here
			s.Name = args[0]
		}
		return a.ask(func(c *control.Client) error {
			r, err := c.Recover(ctx, s.Name)
			if errors.Is(err, control.ErrNoTarget) {
				return fmt.Errorf("nothing to bring back: no name or unit %s was started again lately or is given up (checkprocctl status shows which are)", s.Name)
			}
			if err != nil {
				return err
			}
			return a.print(r, func(p *printer) {
				what := "nothing of that is down, nothing is started"
				if r.Down > 0 {
					what = fmt.Sprintf("%d down, to be started now", r.Down)
				}
				p.line("%s: starts are counted anew; %s", plural(int64(r.Names), "name"), what)
			})
		})
	})
}

func oneName(c *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return usageError{fmt.Errorf("%s: a name or a unit is missing", c.Name())}
	case 1:
		return nil
	}
	return usageError{fmt.Errorf("%s takes one name or unit, not %q too (a pattern goes in quotes)", c.Name(), args[1])}
}

// recoveries are the names that were started again lately.
func (p *printer) recoveries(list []control.Recovery) {
	if len(list) == 0 {
		return
	}
	var rows [][]cell
	for _, r := range list {
		state, next := cell{text: "up"}, cell{text: "-"}
		switch {
		case r.GivenUp:
			state = cell{"given up", red}
		case r.NextUsec > 0:
			state = cell{"waits", yellow}
		}
		if r.NextUsec > 0 {
			next.text = "in " + span(r.NextUsec)
		}
		rows = append(rows, []cell{text(r.Name), text(r.Unit), state, {text: fmt.Sprintf("%d of %d", r.Starts, r.Attempts)}, next})
	}
	p.table([]string{"STARTED AGAIN", "UNIT", "STATE", "STARTS", "NEXT"}, nil, rows)
	p.line("")
}
