package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// defaultHold is for how long an order to hold stands when it does not say.
const defaultHold = 30 * time.Minute

// orders adds the commands that tell the guard whom to leave alone.
func (a *app) orders(add func(use, short string, args cobra.PositionalArgs, do action) *cobra.Command) {
	var r control.HoldRequest
	limit := lasting(defaultHold)
	order := func(ctx context.Context, s control.Selector) error {
		r.PID, r.Name, r.All, r.ForUsec = s.PID, s.Name, s.All, time.Duration(limit).Microseconds()
		return a.hold(ctx, r)
	}
	for _, c := range []*cobra.Command{
		add("hold NAME|PID", "Leave processes alone for a while, by pid or by a pattern of names", oneTarget, func(ctx context.Context, args []string) error {
			s, err := selector(args[0])
			if err != nil {
				return err
			}
			return order(ctx, s)
		}),
		add("pause", "Leave all processes alone for a while", noArgs, func(ctx context.Context, _ []string) error {
			return order(ctx, control.Selector{All: true})
		}),
	} {
		c.Flags().Var(&limit, "for", "how long, 1s to 7d")
		c.Flags().StringVar(&r.Reason, "reason", "", "why, for those who read the journal or the status")
	}

	var all bool
	release := add("release NAME|PID|--all", "End a hold before its time", func(c *cobra.Command, args []string) error {
		if all {
			return noArgs(c, args)
		}
		return oneTarget(c, args)
	}, func(ctx context.Context, args []string) error {
		if all {
			return a.releaseAll(ctx)
		}
		s, err := selector(args[0])
		if err != nil {
			return err
		}
		return a.release(ctx, s)
	})
	release.Flags().BoolVar(&all, "all", false, "end all holds, and a pause")
	add("resume", "End a pause before its time", noArgs, func(ctx context.Context, _ []string) error {
		return a.release(ctx, control.Selector{All: true})
	})

	brake := add("brake go|stop", "Let the brake go, or hold for ten minutes what it holds", goOrStop,
		func(ctx context.Context, args []string) error { return a.brake(ctx, control.BrakeOrder(args[0])) })
	brake.ValidArgsFunction = cobra.FixedCompletions([]string{string(control.BrakeGo), string(control.BrakeStop)}, cobra.ShellCompDirectiveNoFileComp)
	add("advise", "How the timeouts suit the beats", noArgs, a.advise)
}

func oneTarget(c *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return usageError{fmt.Errorf("%s: a name or a pid is missing", c.Name())}
	case 1:
		return nil
	}
	return usageError{fmt.Errorf("%s takes one name or pid, not %q too (a pattern goes in quotes)", c.Name(), args[1])}
}

func goOrStop(c *cobra.Command, args []string) error {
	if len(args) == 1 && (args[0] == string(control.BrakeGo) || args[0] == string(control.BrakeStop)) {
		return nil
	}
	return usageError{fmt.Errorf("%s takes go or stop", c.Name())}
}

// selector takes digits for a pid, and all else for the pattern of a name.
func selector(text string) (control.Selector, error) {
	if strings.Trim(text, "0123456789") == "" {
		pid, err := strconv.ParseInt(text, 10, 32)
		if err != nil || pid < 1 {
			return control.Selector{}, usageError{fmt.Errorf("%q is no pid and no name", text)}
		}
		return control.Selector{PID: int32(pid)}, nil
	}
	switch {
	case len(text) > control.MaxText:
		return control.Selector{}, usageError{fmt.Errorf("a name has %d bytes at most, not %d", control.MaxText, len(text))}
	case clean(text) != text:
		return control.Selector{}, usageError{fmt.Errorf("the name %q has characters that do not print; write ? for each", text)}
	}
	return control.Selector{Name: text}, nil
}

// lasting is the value of --for.
type lasting time.Duration

func (l *lasting) Type() string { return "duration" }
func (l *lasting) String() string {
	return strings.ReplaceAll(span(time.Duration(*l).Microseconds()), " ", "")
}

// Set reads what time.ParseDuration reads, and whole days.
func (l *lasting) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, found := strings.CutSuffix(text, "d"); found {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	switch {
	case err != nil:
		return errors.New("it takes a time such as 90s, 30m, 2h or 7d")
	case d < control.MinHold || d > control.MaxHold:
		return errors.New("it takes 1s to 7d")
	}
	*l = lasting(d)
	return nil
}

// ask makes a connection and has do use it.
func (a *app) ask(do func(c *control.Client) error) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

func (a *app) hold(ctx context.Context, r control.HoldRequest) error {
	return a.ask(func(c *control.Client) error {
		hold, err := c.Hold(ctx, r)
		if err != nil {
			return err
		}
		if hold.Targets == 0 && hold.PID == 0 {
			a.note("there is no such target now; it holds for those that come")
		}
		return a.print(hold, func(p *printer) { p.held(hold) })
	})
}

func (a *app) release(ctx context.Context, s control.Selector) error {
	return a.ask(func(c *control.Client) error {
		n, err := c.Release(ctx, s)
		if err != nil {
			return err
		}
		return a.released(n)
	})
}

// releaseAll releases one after the other what is in force.
func (a *app) releaseAll(ctx context.Context) error {
	return a.ask(func(c *control.Client) error {
		status, err := c.Status(ctx)
		if err != nil {
			return err
		}
		total := 0
		for _, h := range status.Holds {
			n, err := c.Release(ctx, control.Selector{PID: h.PID, Name: h.Name, All: h.All})
			if err != nil && !errors.Is(err, control.ErrNoTarget) { // it has run out since
				return err
			}
			total += n
		}
		return a.released(total)
	})
}

func (a *app) released(n int) error {
	answer := map[string]int{"released": n}
	return a.print(answer, func(p *printer) { p.line("%s released", plural(int64(n), "hold")) })
}

func (a *app) brake(ctx context.Context, order control.BrakeOrder) error {
	return a.ask(func(c *control.Client) error {
		n, err := c.Brake(ctx, order)
		if err != nil {
			return err
		}
		return a.print(map[string]int{"targets": n}, func(p *printer) { p.braked(order, n) })
	})
}

func (a *app) advise(ctx context.Context, _ []string) error {
	return a.ask(func(c *control.Client) error {
		advice, err := c.Advise(ctx)
		if err != nil {
			return err
		}
		return a.print(advice, func(p *printer) { p.advice(advice) })
	})
}
