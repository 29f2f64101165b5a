package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Transient is a service that has no file and exists for as long as it runs.
type Transient struct {
	Name        string // ends in .service
	Description string
	Command     []string // an absolute path first
	User        string   // empty: root
	Timeout     time.Duration
}

// RunTransient runs a command as a oneshot service and waits for its end. outcome is empty when it succeeded, else how it
// ended: "exit status 1", "killed by SIGKILL", "timeout". What it says goes to the journal under its name. Nothing is left
// of it, also when nobody waits any more: systemd keeps it for this call's own connection to the bus only.
func (u *Units) RunTransient(ctx context.Context, t Transient) (outcome string, err error) {
	kept := true
	own := Units{dial: func(ctx context.Context) (*sddbus.Conn, error) {
		if u.dial != nil {
			return u.dial(ctx)
		}
		conn, err := sddbus.NewSystemConnectionContext(ctx)
		if err != nil && os.Geteuid() == 0 { // to PID 1 itself, which keeps nothing for those
			kept = false
			conn, err = sddbus.NewSystemdConnectionContext(ctx)
		}
		return conn, err
	}}
	defer own.Close()
	if _, err := own.connection(ctx); err != nil {
		return "", fmt.Errorf("run %s: %w", t.Name, err)
	}
	properties := []sddbus.Property{
		sddbus.PropType("oneshot"),
		sddbus.PropDescription(t.Description),
		sddbus.PropExecStart(t.Command, false), // true would ignore a failure, whatever its name says
		property("CollectMode", "inactive-or-failed"),
		property("TimeoutStartUSec", uint64(t.Timeout.Microseconds())),
		property("TimeoutStopUSec", uint64(stopWait.Microseconds())),
	}
	if kept {
		properties = append(properties, property("AddRef", true))
	}
	if t.User != "" {
		properties = append(properties, property("User", t.User))
	}
	result, err := own.job(ctx, "run", t.Name, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, t.Name, "fail", properties, results)
		return err
	})
	if err != nil || result == "done" {
		return "", err
	}
	outcome = "its job ended as " + result
	if state, err := own.State(ctx, t.Name); err == nil && state.Load == "loaded" {
		if end := state.End(); end != "" && end != "success" {
			outcome = end
		}
	}
	return outcome, nil
}

// stopWait is what is left to a command that took too long between SIGTERM and SIGKILL.
const stopWait = 5 * time.Second

// ErrExists: there is a unit of that name.
var ErrExists = errors.New("the unit exists")

// StartTransient starts a command as a service and waits until it is executed; Timeout does not count. When it has ended,
// well or not, the service is gone. The result is as that of Start. Errors: ErrExists.
func (u *Units) StartTransient(ctx context.Context, t Transient) (result string, err error) {
	properties := []sddbus.Property{
		sddbus.PropType("exec"),
		sddbus.PropDescription(t.Description),
		sddbus.PropExecStart(t.Command, false),
		property("CollectMode", "inactive-or-failed"),
	}
	if t.User != "" {
		properties = append(properties, property("User", t.User))
	}
	return u.job(ctx, "run", t.Name, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, t.Name, "fail", properties, results)
		return err
	})
}

func property(name string, value any) sddbus.Property {
	return sddbus.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// End says how the last main process of a service ended, or why the service failed.
func (s UnitState) End() string {
	switch {
	case s.Result == "timeout", s.Result == "watchdog", s.Result == "start-limit-hit", s.Result == "resources", s.Result == "oom-kill", s.Result == "protocol":
		return s.Result
	case s.ExitCode == cldExited && s.ExitStatus != 0:
		return fmt.Sprintf("exit status %d", s.ExitStatus)
	case s.ExitCode == cldKilled, s.ExitCode == cldDumped:
		return "killed by " + unix.SignalName(unix.Signal(s.ExitStatus))
	}
	return s.Result
}

// Codes of waitid(2).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)
