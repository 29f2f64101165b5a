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
// of it, also when nobody waits any more.
func (u *Units) RunTransient(ctx context.Context, t Transient) (outcome string, err error) {
	result, why, err := u.transient(ctx, t, func() {}, sddbus.PropType("oneshot"), property("TimeoutStartUSec", uint64(t.Timeout.Microseconds())),
		property("TimeoutStopUSec", uint64(stopWait.Microseconds())))
	switch {
	case err != nil || result == "done":
		return "", err
	case why == "":
		return "its job ended as " + result, nil
	}
	return why, nil
}

// stopWait is what is left to a command that took too long between SIGTERM and SIGKILL.
const stopWait = 5 * time.Second

// ErrExists: there is a unit of that name.
var ErrExists = errors.New("the unit exists")

// StartTransient starts a command as a service and waits until it is executed; Timeout does not count. When it has ended,
// well or not, the service is gone, with how it ended: keep is called before that, and can pin it. The result is as that
// of Start; of one that failed it says why. Errors: ErrExists.
func (u *Units) StartTransient(ctx context.Context, t Transient, keep func()) (result string, err error) {
	result, why, err := u.transient(ctx, t, keep, sddbus.PropType("exec"))
	if err == nil && why != "" {
		result += ": " + why
	}
	return result, err
}

// transient runs a command and waits for the result of its job; why says how the service ended where that is not done and
// systemd knows. systemd keeps it for that long, for a connection to the bus that is this call's own, and until keep returns.
func (u *Units) transient(ctx context.Context, t Transient, keep func(), more ...sddbus.Property) (result, why string, err error) {
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
		return "", "", fmt.Errorf("run %s: %w", t.Name, err)
	}
	properties := append(more, sddbus.PropDescription(t.Description), commandProperty(t.Command), property("CollectMode", "inactive-or-failed"))
	if kept {
		properties = append(properties, property("AddRef", true))
	}
	if t.User != "" {
		properties = append(properties, property("User", t.User))
	}
	result, err = own.job(ctx, "run", t.Name, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, t.Name, "fail", properties, results)
		return err
	})
	if !errors.Is(err, ErrExists) {
		keep()
	}
	if err != nil || result == "done" {
		return result, "", err
	}
	if state, err := own.State(ctx, t.Name); err == nil && state.Load == "loaded" {
		if end := state.End(); end != "success" {
			why = end
		}
	}
	return result, why, nil
}

// commandProperty has systemd execute a command as it stands: with ExecStart= it would put variables of the unit, mostly
// none, in the place of ${x} and of words such as $x, and make $$ one $. Specifiers (%n) count in files only.
func commandProperty(args []string) sddbus.Property {
	type command struct {
		Path  string
		Args  []string
		Flags []string
	}
	return property("ExecStartEx", []command{{args[0], args, []string{"no-env-expand"}}})
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
		if why := notExecuted[s.ExitStatus]; why != "" {
			return fmt.Sprintf("exit status %d/%s", s.ExitStatus, why)
		}
		return fmt.Sprintf("exit status %d", s.ExitStatus)
	case s.ExitCode == cldKilled, s.ExitCode == cldDumped:
		return "killed by " + unix.SignalName(unix.Signal(s.ExitStatus))
	}
	return s.Result
}

// notExecuted are the statuses of systemd.exec(5) for what most often keeps a command from being executed, in its words.
var notExecuted = map[int32]string{200: "CHDIR", 203: "EXEC", 216: "GROUP", 217: "USER", 226: "NAMESPACE", 243: "CREDENTIALS"}

// Codes of waitid(2).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)
