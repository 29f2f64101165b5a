// The number of processors is looked at once, not each second: three system calls less, for a guard that needs two.
//
//go:debug updatemaxprocs=0

// Command checkprocd guards processes that keep a heartbeat in shared memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/daemon"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// Exit statuses; 2 is how a Go program dies of a panic and is never ours.
const (
	exitFailure = 1
	exitUsage   = 64 // EX_USAGE
	exitConfig  = 78 // EX_CONFIG; the unit does not restart after it
)

// timerSlack halves the CPU time of an idle guard; the unit sets the same, which
// leaves nothing to do here. Without the right to it the guard costs what it costs.
const timerSlack = 2 * time.Millisecond

// version is set by the build.
var version = "devel"

type flags struct {
	config, format, level, file string
	check, observe              bool
}

func main() {
	process.HelperMain()
	err := command().Execute()
	var faults *config.Faults
	switch {
	case err == nil:
	case errors.As(err, &faults):
		fmt.Fprintf(os.Stderr, "checkprocd: the configuration is faulty:\n%v\n", err)
		os.Exit(exitConfig)
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "checkprocd: %v\nTry 'checkprocd --help'.\n", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintf(os.Stderr, "checkprocd: %v\n", err)
		os.Exit(exitFailure)
	}
}

type usageError struct{ error }

func command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "checkprocd [flags] [LOGFILE]",
		Short: "Guard processes that keep a heartbeat in shared memory",
		Long: `checkprocd watches the heartbeats of all processes in the table under SysV key 0x5095,
notices who has exited and who hangs, and ends the hung ones safely.
It stays in the foreground; systemd runs it as a service.`,
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && f.file != "" {
				return usageError{errors.New("at most one LOGFILE, as an argument or with --log-file")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.file = args[0] // as the old guard took it
			}
			return run(f)
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c.CompletionOptions.DisableDefaultCmd = true // LOGFILE is free
	p := c.Flags()
	p.StringVar(&f.config, "config", "", "read this configuration only (default "+config.DefaultPath+" and conf.d/*.toml beside it)")
	p.BoolVar(&f.check, "check", false, "validate the configuration, print what is in force, and end")
	p.BoolVar(&f.observe, "observe", false, "decide and report, act on nothing")
	p.StringVar(&f.format, "log-format", "", "auto, journal, console or json")
	p.StringVar(&f.level, "log-level", "", "trace, debug, info, warn or error")
	p.StringVar(&f.file, "log-file", "", "also write the events to this file")
	return c
}

func run(f flags) error {
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	override := func(c *config.Config) {
		for _, o := range []struct {
			to   *string
			from string
		}{{&c.Log.Format, f.format}, {&c.Log.Level, f.level}, {&c.Log.File, f.file}} {
			if o.from != "" {
				*o.to = o.from
			}
		}
	}
	override(&cfg)
	if err := cfg.Log.Validate(); err != nil {
		return usageError{err}
	}
	if f.check {
		_, err := os.Stdout.Write(cfg.TOML())
		return err
	}
	ownSession()
	debug.SetGCPercent(-1) // see collectGarbage
	debug.SetMemoryLimit(startHeap)
	_ = process.TimerSlack(timerSlack)
	signal.Ignore(unix.SIGPIPE) // whoever reads our lines may end; the guard guards on
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	return daemon.Run(ctx, daemon.Options{Config: cfg, ConfigPath: f.config, Override: override, Observe: f.observe, Version: version, Hangup: hup,
		Tidy: collectGarbage})
}

// startHeap is the heap up to which no garbage is collected before READY=1: with
// 1000 programs in the table that makes a start 8 ms shorter.
const startHeap = 32 << 20

// collectGarbage takes up the collection of garbage after the start, and gives back
// what the heap does not need: of an idle guard it would keep that for long. To let
// half as much grow in it costs less than it saves in memory.
func collectGarbage() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(math.MaxInt64)
	debug.FreeOSMemory()
}

// ownSession leaves the process group that all services of a start script share
// under procctl: some of them signal their whole group when they end. Under
// systemd and on a terminal the group is ours already.
func ownSession() {
	if systemd.UnderSystemd() {
		return
	}
	for _, fd := range []int{0, 1, 2} {
		if term.IsTerminal(fd) {
			return
		}
	}
	_, _ = unix.Setsid() // EPERM: leads a group of its own already
}
