// Command checkproc-alert follows the events of the process guard checkprocd and delivers alerts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/alert"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// Exit statuses, as those of checkprocd.
const (
	exitFailure = 1
	exitUsage   = 64 // EX_USAGE
	exitConfig  = 78 // EX_CONFIG; the unit does not restart after it
)

// version is set by the build.
var version = "devel"

// usageError is a wrong command line, configError a faulty configuration.
type (
	usageError  struct{ error }
	configError struct{ error }
)

func main() {
	err := command().Execute()
	switch {
	case err == nil:
	case errors.As(err, new(configError)):
		fmt.Fprintf(os.Stderr, "checkproc-alert: the configuration is faulty:\n%v\n", err)
		os.Exit(exitConfig)
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "checkproc-alert: %v\nTry 'checkproc-alert --help'.\n", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintf(os.Stderr, "checkproc-alert: %v\n", err)
		os.Exit(exitFailure)
	}
}

func command() *cobra.Command {
	var path, state string
	var check bool
	c := &cobra.Command{
		Use:   "checkproc-alert",
		Short: "Deliver alerts of the process guard checkprocd",
		Long: `checkproc-alert follows the events of checkprocd over its control socket, makes alerts of them, and delivers these
to webhooks and to Alertmanager. It takes no rights but to see all of the guard, and runs as a service of its own.`,
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("it takes no argument, not %q", args[0])}
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			config, err := alert.Load(path)
			var unread []string
			if err == nil {
				unread, err = config.ReadFiles()
			}
			switch {
			case err != nil:
				return configError{err}
			case check:
				fmt.Printf("%s: %d receivers, %d rules\n", path, len(config.Receivers), len(config.Rules))
				for _, x := range unread {
					fmt.Printf("%s is a credential of the unit: not looked at\n", x)
				}
				return nil
			case len(unread) > 0:
				return configError{fmt.Errorf("%s: %s is a credential, and $CREDENTIALS_DIRECTORY is not set", path, unread[0])}
			}
			return run(config, state)
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c.CompletionOptions.DisableDefaultCmd = true
	p := c.Flags()
	p.StringVar(&path, "config", alert.DefaultPath, "read this configuration")
	p.StringVar(&state, "state-dir", os.Getenv("STATE_DIRECTORY"), "keep the queue here ($STATE_DIRECTORY)")
	p.BoolVar(&check, "check", false, "validate the configuration, and end")
	return c
}

func run(config alert.Config, state string) error {
	if state == "" {
		return usageError{errors.New("--state-dir is missing: where the queue is kept")}
	}
	names := make([]string, len(config.Receivers))
	for i, r := range config.Receivers {
		names[i] = r.Name
	}
	store, damage, err := alert.OpenStore(filepath.Join(state, "queue"), names)
	if err != nil {
		return err
	}
	report := func(text string) { fmt.Fprintln(os.Stderr, warning()+text) }
	if damage != "" {
		report(damage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	notify := systemd.NewNotifier()
	defer notify.Close()
	last := ""
	agent := alert.Agent{Config: config, Store: store, Report: report,
		Ready: func() { notify.Ready(last) },
		Turn: func(status string) {
			notify.Alive()
			if status != last {
				last = status
				notify.Status(status)
			}
		},
	}
	agent.Run(ctx)
	notify.Stopping()
	return store.Close()
}

// warning is what makes a line a warning in the journal; see sd-daemon(3).
func warning() string {
	if systemd.JournalStream() {
		return "<4>"
	}
	return "checkproc-alert: "
}
