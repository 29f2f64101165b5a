package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/doctor"
)

// Exit statuses; those from 64 on are of sysexits.h.
const (
	exitOK          = 0
	exitFound       = 1  // check found warnings or errors; or another error at run time
	exitUsage       = 64 // EX_USAGE
	exitUnavailable = 69 // EX_UNAVAILABLE: the daemon cannot be reached, or is busy
	exitNotAllowed  = 77 // EX_NOPERM
	exitRejected    = 78 // EX_CONFIG: the configuration that was to be reloaded
)

// answerTime bounds a call; the daemon itself grants a call 30 s.
const answerTime = 40 * time.Second

// errFound ends check with status 1 when everything has been said.
var errFound = errors.New("warnings or errors were found")

// usageError is a wrong command line.
type usageError struct{ error }

// app is one invocation.
type app struct {
	out, err io.Writer
	socket   string // "": where the daemon is by default
	json     bool
}

// run is the whole program but for its exit.
func run(ctx context.Context, args []string, out, stderr io.Writer) int {
	a := &app{out: out, err: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && err != errFound {
		fmt.Fprintf(stderr, "checkprocctl: %v\n", err)
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(stderr, "checkprocctl: see checkprocctl --help")
	}
	return exitStatus(err)
}

func exitStatus(err error) int {
	var usage usageError
	var dial *control.DialError
	var lost *control.LostError
	var rejected *control.Rejected
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, control.ErrNotAllowed), errors.Is(err, fs.ErrPermission):
		return exitNotAllowed
	case errors.As(err, &rejected):
		return exitRejected
	case errors.As(err, &dial), errors.As(err, &lost), errors.Is(err, control.ErrBusy):
		return exitUnavailable
	}
	return exitFound
}

// action is what a command does with its arguments.
type action func(ctx context.Context, args []string) error

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "checkprocctl",
		Short:         "Ask and steer the process guard checkprocd",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("a command is missing")}
		},
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "control socket of the daemon (default "+control.DefaultSocket+")")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })

	add := func(use, short string, args cobra.PositionalArgs, do action) *cobra.Command {
		c := &cobra.Command{
			Use: use, Short: short, Args: args,
			ValidArgsFunction: cobra.NoFileCompletions,
			RunE: func(c *cobra.Command, args []string) error {
				ctx, cancel := context.WithTimeout(c.Context(), answerTime)
				defer cancel()
				return do(ctx, args)
			},
		}
		root.AddCommand(c)
		return c
	}
	add("status", "How the guard is, what it guards, and what it cannot do here", noArgs, a.status)
	add("list", "The guarded processes", noArgs, a.list)
	add("check", "Examine table, semaphore and programs; works without the daemon too", noArgs, a.check)
	reload := add("reload", "Have the guard read its configuration anew", noArgs, a.reload)
	// A reload that does not wait could not say that it was refused.
	reload.Flags().Bool("wait", true, "wait until it is in force or rejected, and say which; it always does")
	a.diff(add)
	a.orders(add)
	a.recover(add)
	a.alert(add)
	add("version", "The version of this program", noArgs, a.version)
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" { // left alone it answers a wrong shell with its help
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(*cobra.Command, []string) error {
				return usageError{errors.New("completion takes bash, zsh, fish or powershell")}
			}
			for _, shell := range c.Commands() {
				shell.Args = noArgs
			}
		}
	}
	return root
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasParent() {
		return usageError{fmt.Errorf("%s takes no argument, not %q", c.Name(), args[0])}
	}
	return usageError{fmt.Errorf("there is no command %q", args[0])}
}

func (a *app) dial() (*control.Client, error) {
	path := a.socket
	if path == "" {
		path = defaultSocket()
	}
	return control.Dial(path)
}

// defaultSocket is the configured one where the configuration can be read and names one, else that of the system's
// daemon, else, when there is none, that of a daemon of the user's own.
func defaultSocket() string {
	own := config.Default().Control.Socket
	if c, err := config.Load(""); err == nil && c.Control.Socket != own {
		return c.Control.Socket
	}
	if exists(own) && !exists(control.DefaultSocket) {
		return own
	}
	return control.DefaultSocket
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// print writes v as JSON, or as text for people.
func (a *app) print(v any, text func(*printer)) error {
	if a.json {
		e := json.NewEncoder(a.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	p := newPrinter(a.out)
	text(p)
	return p.flush()
}

// note says something beside the answer.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.err, "checkprocctl: "+format+"\n", args...)
}

func (a *app) status(ctx context.Context, _ []string) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return a.print(status, func(p *printer) { p.status(status) })
}

func (a *app) list(ctx context.Context, _ []string) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	targets, _, err := c.List(ctx)
	if err != nil {
		return err
	}
	if err := a.print(targets, func(p *printer) { p.list(targets) }); err != nil || a.json {
		return err
	}
	if status, err := c.Status(ctx); err == nil && status.Targets.Total > len(targets) {
		a.note("%d of %d are shown: the others belong to other users", len(targets), status.Targets.Total)
	}
	return nil
}

func (a *app) check(ctx context.Context, _ []string) error {
	findings, err := a.findings(ctx)
	if err != nil {
		return err
	}
	if err := a.print(findings, func(p *printer) { p.findings(findings) }); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Severity != control.SeverityOK && f.Severity != control.SeverityNote {
			return errFound
		}
	}
	return nil
}

// findings come from the daemon, and from the table itself where no daemon is.
func (a *app) findings(ctx context.Context) ([]control.Finding, error) {
	c, err := a.dial()
	if err == nil {
		defer c.Close()
		return c.Check(ctx)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	a.note("%v", err)
	a.note("reading the table without it")
	conf, err := config.Load("")
	if err != nil {
		a.note("%v", err)
		a.note("taking the default keys")
		conf = config.Default()
	}
	return doctor.Examine(ctx, doctor.Options{Key: conf.CPActive.Key, SemKey: conf.CPActive.SemKey, Records: conf.CPActive.Records})
}

func (a *app) reload(ctx context.Context, _ []string) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	result, err := c.Reload(ctx)
	if err != nil {
		if err = a.rejected(err); errors.As(err, new(*control.Rejected)) {
			return fmt.Errorf("rejected, the running configuration stays in force: %w", err)
		}
		return err
	}
	return a.print(result, func(p *printer) { p.reload(result) })
}

// rejected prints the faults of a configuration as JSON where that is asked for, and returns err.
func (a *app) rejected(err error) error {
	var rejected *control.Rejected
	if errors.As(err, &rejected) && a.json {
		faults := struct {
			Faults []control.Fault `json:"faults"`
		}{rejected.Faults}
		if err := a.print(faults, nil); err != nil {
			return err
		}
	}
	return err
}

func (a *app) version(context.Context, []string) error {
	v := version
	if v == "" {
		v = "unknown"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			v = strings.Trim(info.Main.Version, "()")
		}
	}
	return a.print(map[string]string{"version": v}, func(p *printer) { p.line("checkprocctl %s", v) })
}
