package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/process"
)

func TestMain(m *testing.M) {
	process.HelperMain()
	testscript.Main(m, map[string]func(){"checkprocctl": main, "fakeprocd": fakeprocd})
}

// scenario is what fakeprocd answers.
type scenario struct {
	Status   control.Status
	Targets  []control.Target
	Findings []control.Finding
	Reload   control.ReloadResult
	Faults   []control.Fault
	Advice   []control.Advice
	Diff     control.DiffResult
	Alerted  control.AlertTested
	Held     int    // targets that an order of any kind is about
	Error    string // "busy", "not allowed", "not there", or the text of any other; for each method but Status
}

func (s *scenario) fail() error {
	switch s.Error {
	case "":
		return nil
	case "busy":
		return control.ErrBusy
	case "not allowed":
		return fmt.Errorf("%w: it takes root", control.ErrNotAllowed)
	case "not there":
		return fmt.Errorf("%w: pid 7 is no target", control.ErrNoTarget)
	}
	return errors.New(s.Error)
}

// handler makes the scenario a control.Handler; each reload leaves a line in the file "reloads".
type handler struct{ *scenario }

func (h handler) Status(context.Context, control.Caller) (control.Status, error) {
	return h.scenario.Status, nil
}
func (h handler) List(context.Context, control.Caller) ([]control.Target, error) {
	return h.Targets, h.fail()
}
func (h handler) Check(context.Context, control.Caller) ([]control.Finding, error) {
	return h.Findings, h.fail()
}
func (h handler) Reload(context.Context, control.Caller) (control.ReloadResult, error) {
	if err := os.WriteFile("reloads", []byte("one\n"), 0o644); err != nil {
		return control.ReloadResult{}, err
	}
	if len(h.Faults) > 0 {
		return control.ReloadResult{}, &control.Rejected{Faults: h.Faults}
	}
	return h.scenario.Reload, h.fail()
}

func (h handler) Hold(_ context.Context, c control.Caller, r control.HoldRequest) (control.Hold, error) {
	ordered("hold", r)
	hold := control.Hold{PID: r.PID, Name: r.Name, All: r.All, LeftUsec: r.ForUsec, Reason: r.Reason, By: fmt.Sprintf("uid %d", c.UID),
		Targets: h.Held}
	return hold, h.fail()
}
func (h handler) Release(_ context.Context, _ control.Caller, s control.Selector) (int, error) {
	ordered("release", s)
	return 1, h.fail()
}
func (h handler) Brake(_ context.Context, _ control.Caller, order control.BrakeOrder) (int, error) {
	ordered("brake", order)
	return h.Held, h.fail()
}
func (h handler) Recover(_ context.Context, _ control.Caller, name string) (control.Recovered, error) {
	ordered("recover", name)
	return control.Recovered{Names: 3, Down: h.Held}, h.fail()
}
func (h handler) Denied(control.Caller, string, string) {}
func (h handler) Advise(context.Context, control.Caller) ([]control.Advice, error) {
	return h.Advice, h.fail()
}

func (h handler) Diff(_ context.Context, _ control.Caller, r control.DiffRequest) (control.DiffResult, error) {
	ordered("diff", r)
	if len(h.Faults) > 0 {
		return control.DiffResult{}, &control.Rejected{Faults: h.Faults}
	}
	return h.scenario.Diff, h.fail()
}

func (h handler) AlertTest(context.Context, control.Caller) (control.AlertTested, error) {
	ordered("alert", "test")
	return h.Alerted, h.fail()
}
func (h handler) Follow(context.Context, control.Caller, string, func(control.Followed) error) error {
	return h.fail()
}

// ordered appends a line to the file "orders".
func ordered(what string, order any) {
	f, err := os.OpenFile("orders", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		var text []byte
		text, err = json.Marshal(order)
		fmt.Fprintf(f, "%s %s\n", what, text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

// fakeprocd SOCKET SCENARIO.json serves until it is interrupted.
func fakeprocd() {
	text, err := os.ReadFile(os.Args[2])
	var s scenario
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	var server *control.Server
	if err == nil {
		server, err = control.Listen(os.Args[1], control.ServerConfig{OwnUID: uint32(os.Getuid()), Handler: handler{&s}})
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = server.Serve(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// commands of the scripts: "appears FILE" waits for a file and, where it is a socket, until somebody listens, which is later.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"appears": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: appears FILE")
		}
		for range 6000 {
			path := ts.MkAbs(args[0])
			info, err := os.Stat(path)
			if err == nil && info.Mode()&os.ModeSocket != 0 {
				var c net.Conn
				if c, err = net.Dial("unix", path); err == nil {
					_ = c.Close()
				}
			}
			if err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		ts.Fatalf("%s did not appear", args[0])
	},
	// "status N COMMAND…" runs a command that must end with exit status N.
	"status": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: status N COMMAND [ARG…]")
		}
		got := "0"
		var exit interface{ ExitCode() int }
		if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
			got = fmt.Sprint(exit.ExitCode())
		} else if err != nil {
			ts.Fatalf("%v", err)
		}
		if got != args[0] {
			ts.Fatalf("exit status %s, want %s", got, args[0])
		}
	},
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			if os.Getuid() != 0 && os.Getenv("CI") == "true" {
				return false, errors.New("new IPC namespaces need root")
			}
			return os.Getuid() == 0, nil
		},
	})
}
