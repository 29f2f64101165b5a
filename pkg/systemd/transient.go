package systemd

import (
	"context"
	"errors"
	"fmt"
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
// ended: "exit status 1", "killed by SIGKILL", "timeout". What it says goes to the journal under its name. A service of
// that name that failed before is forgotten first; one that runs is an error.
func (u *Units) RunTransient(ctx context.Context, t Transient) (outcome string, err error) {
	u.forget(ctx, t.Name)
	properties := []sddbus.Property{
		sddbus.PropType("oneshot"),
		sddbus.PropDescription(t.Description),
		sddbus.PropExecStart(t.Command, false), // true would ignore a failure, whatever its name says
		property("TimeoutStartUSec", uint64(t.Timeout.Microseconds())),
	}
	if t.User != "" {
		properties = append(properties, property("User", t.User))
	}
	result, err := u.job(ctx, "run", t.Name, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, t.Name, "fail", properties, results)
		return err
	})
	if err != nil || result == "done" {
		return "", err
	}
	// A unit that failed stays until it is forgotten, and tells how.
	outcome = "its job ended as " + result
	if state, err := u.State(ctx, t.Name); err == nil {
		if end := state.End(); end != "" && end != "success" {
			outcome = end
		}
	}
	u.forget(ctx, t.Name)
	return outcome, nil
}

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
	result, err = u.job(ctx, "run", t.Name, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, t.Name, "fail", properties, results)
		return err
	})
	if answer := (dbus.Error{}); errors.As(err, &answer) && answer.Name == "org.freedesktop.systemd1.UnitExists" {
		err = fmt.Errorf("%w: %w", ErrExists, err)
	}
	return result, err
}

func property(name string, value any) sddbus.Property {
	return sddbus.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// forget unloads a unit that has failed; there may be none.
func (u *Units) forget(ctx context.Context, unit string) {
	if conn, err := u.connection(ctx); err == nil {
		if err := conn.ResetFailedUnitContext(ctx, unit); err != nil && !errors.As(err, new(dbus.Error)) {
			u.failed(conn, err)
		}
	}
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
