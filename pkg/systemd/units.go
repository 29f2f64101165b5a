package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	dialWait  = 5 * time.Second // for the bus to take us, when the caller's context allows longer
	aliveLook = time.Second     // while a job runs: is the connection that will tell its result still there
)

// Units asks the system's service manager about units and starts them. The zero value is ready: it connects to the
// system bus on first use (as root, and without a bus, to PID 1 itself), and anew after the connection was lost.
type Units struct {
	dial func(context.Context) (*sddbus.Conn, error) // nil: go-systemd's

	once sync.Once
	turn chan struct{} // holds one value while conn is free; a mutex that a context can give up on
	conn *sddbus.Conn
	end  context.CancelFunc // ends conn

	pins pins
}

// UnitState is what the service manager says about a unit. PIDs are 0 for a unit that is no service.
type UnitState struct {
	ID           string // by which of its names the service manager knows it, whichever was asked for
	Load         string // loaded, not-found, masked, …
	Active, Sub  string // inactive, failed, active, activating (with auto-restart), …
	MainPID      int32  // 0 while no main process runs
	ExecMainPID  int32  // the last main process, also when it has ended
	Job          bool   // a job is queued or running
	Type, Result string // of a service: notify, exec, forking, …; success, exit-code, signal, …
	Restart      string // of a service: always, on-failure, …; "" where that depends on more than the Result
	Restarts     uint32 // of a service, by its Restart=, since it was last started otherwise
	ExitCode     int32  // how the last main process ended: CLD_EXITED, CLD_KILLED, CLD_DUMPED; 0: not yet
	ExitStatus   int32  // its exit status, or the signal
	Forgiving    bool   // of a service: an end that is no clean one may count as success all the same
	Mute         bool   // of a service: it can tell systemd nothing (NotifyAccess=none)
	Expired      bool   // of a service: it left the state active as it had been in it for as long as it may (RuntimeMaxSec=)

	Begun   time.Duration // when it was last begun to be started, CLOCK_MONOTONIC; 0: never
	Left    time.Duration // when it last ceased to be active
	Fell    time.Duration // when it was last stopped, or had failed, with all of it
	Ended   time.Duration // when the last main process of a service ended
	Needs   []string      // the units with which it is stopped: BindsTo=, Requires=, Requisite=, PartOf=
	Takes   []string      // the units that are stopped, or restarted, with it: those that need it, and PropagatesStopTo=
	Pulls   []string      // the units that its start starts as well, or it is not started: Requires=, BindsTo=
	Rivals  []string      // the units that do not run beside it: Conflicts=, also theirs
	Kept    bool          // of a service: it is active when all its processes have ended well (RemainAfterExit)
	Spared  bool          // it is stopped when nobody needs it (StopWhenUnneeded)
	Checked uint64        // when its conditions were last, as a start was tried: opaque, 0 for never
}

// Down reports whether the unit has ended and nobody is about to start it: loaded, inactive or failed, no job queued.
// A unit that waits for its own automatic restart is activating, and one that is being stopped has a job.
func (s UnitState) Down() bool {
	return s.Load == "loaded" && (s.Active == "inactive" || s.Active == "failed") && !s.Job
}

// ownResults are those of a service that nobody has stopped, although it was deactivating when its main process ended. One
// that it was active for too long (RuntimeMaxSec=) leaves shares its result, timeout, with a stop that took too long.
var ownResults = []string{"watchdog", "oom-kill"}

// expiryLate is how long after that time, in microseconds, systemd begins to stop it: a timer of its has 250 ms for that.
// What is stopped later may be so by somebody: the time may be longer by chance (RuntimeRandomizedExtraSec=), or by the
// wish of the service (EXTEND_TIMEOUT_USEC=).
const expiryLate = 1e6

// Crashed reports whether the unit has failed by itself. A service that is being stopped leaves the state active before
// its main process ends, and fails all the same when that ends badly; one that crashes leaves it afterwards, or has not
// been active since it was begun.
func (s UnitState) Crashed() bool {
	return s.Down() && s.Active == "failed" && !s.Stopped(math.MaxInt64)
}

// Stopped reports whether somebody was stopping the service before a time, CLOCK_MONOTONIC, at which its main process
// was signalled otherwise: one that stops because of that signal, and says so (STOPPING=1), leaves the state active
// after it. One that cannot say so leaves it before its main process ends because it is being stopped, at any time.
func (s UnitState) Stopped(before time.Duration) bool {
	return s.Left > 0 && s.Left >= s.Begun && s.Left < s.Ended && (s.Left < before || s.Mute) &&
		!slices.Contains(ownResults, s.Result) && !(s.Expired && s.Result == "timeout")
}

// Dropped reports whether somebody has stopped a service between its end and the restart that systemd owed it: it would
// have been started again otherwise, or have failed. Or that it had failed is forgotten by order (reset-failed).
func (s UnitState) Dropped() bool {
	if !s.Down() || s.Active != "inactive" {
		return false
	}
	return s.Result != "success" && s.Result != "" || s.Restart == "always" || s.Restart == "on-success" || !s.clean() && !s.Forgiving
}

// Halted reports whether somebody has stopped a service, socket or target that is down: it has not failed, and it is none
// that ends by itself. What is mounted is unmounted for many reasons, and devices go.
func (s UnitState) Halted(unit string) bool {
	switch {
	case !s.Down() || s.Spared:
		return false
	case strings.HasSuffix(unit, ".service"):
		return s.Stopped(math.MaxInt64) || s.Kept && s.Active == "inactive"
	}
	return s.Active == "inactive" && (strings.HasSuffix(unit, ".target") || strings.HasSuffix(unit, ".socket"))
}

// clean reports whether the last main process ended as services do, see systemd.service(5).
func (s UnitState) clean() bool {
	if s.ExitCode == cldKilled || s.ExitCode == cldDumped {
		return slices.Contains([]unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE}, unix.Signal(s.ExitStatus))
	}
	return s.ExitStatus == 0
}

// State returns the state of a unit. A unit that does not exist is no error: its Load is not-found.
func (u *Units) State(ctx context.Context, unit string) (UnitState, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return UnitState{}, fmt.Errorf("read state of %s: %w", unit, err)
	}
	properties, err := conn.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		u.failed(conn, err)
		return UnitState{}, fmt.Errorf("read state of %s: %w", unit, err)
	}
	return unitState(properties), nil
}

// OfConnection reports whether a service is one of those that a socket starts for each connection (Accept=yes): without
// that it cannot be started. Its socket tells: of an instance that has ended, and is forgotten, systemd does not know it.
func (u *Units) OfConnection(ctx context.Context, unit string) (bool, error) {
	name, _, is := strings.Cut(unit, "@")
	if !is {
		return false, nil
	}
	conn, err := u.connection(ctx)
	if err != nil {
		return false, fmt.Errorf("read socket of %s: %w", unit, err)
	}
	property, err := conn.GetUnitTypePropertyContext(ctx, name+".socket", "Socket", "Accept")
	if err != nil {
		u.failed(conn, err)
		return false, fmt.Errorf("read socket of %s: %w", unit, err)
	}
	accept, _ := property.Value.Value().(bool)
	return accept, nil
}

// Idle returns those of some units that are inactive or have failed.
func (u *Units) Idle(ctx context.Context, units []string) ([]string, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	states, err := conn.ListUnitsByNamesContext(ctx, units)
	if err != nil {
		u.failed(conn, err)
		return nil, fmt.Errorf("read states: %w", err)
	}
	var idle []string
	for _, s := range states {
		if isIdle(s) {
			idle = append(idle, s.Name)
		}
	}
	return idle, nil
}

func isIdle(s sddbus.UnitStatus) bool {
	return s.ActiveState == "inactive" || s.ActiveState == "failed"
}

// ID returns by which name the service manager knows a unit, whichever of its names is asked for.
func (u *Units) ID(ctx context.Context, unit string) (string, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return "", fmt.Errorf("read the name of %s: %w", unit, err)
	}
	property, err := conn.GetUnitPropertyContext(ctx, unit, "Id")
	if err != nil {
		u.failed(conn, err)
		return "", fmt.Errorf("read the name of %s: %w", unit, err)
	}
	id, _ := property.Value.Value().(string)
	return id, nil
}

// MainPID returns the main process of a service, 0 while it has none.
func (u *Units) MainPID(ctx context.Context, unit string) (int32, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return 0, fmt.Errorf("read main process of %s: %w", unit, err)
	}
	property, err := conn.GetServicePropertyContext(ctx, unit, "MainPID")
	if err != nil {
		u.failed(conn, err)
		return 0, fmt.Errorf("read main process of %s: %w", unit, err)
	}
	pid, _ := property.Value.Value().(uint32)
	return int32(pid), nil
}

// Start starts a unit and waits for the job's result: done, canceled, timeout, failed, dependency or skipped. Nobody's
// job is replaced by it, nor by the others below: ErrBusy.
func (u *Units) Start(ctx context.Context, unit string) (result string, err error) {
	return u.job(ctx, "start", unit, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.StartUnitContext(ctx, unit, "fail", results)
		return err
	})
}

// ResetFailed has systemd forget that a unit failed, and how often it was started.
func (u *Units) ResetFailed(ctx context.Context, unit string) error {
	conn, err := u.connection(ctx)
	if err != nil {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	if err := conn.ResetFailedUnitContext(ctx, unit); err != nil {
		u.failed(conn, err)
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

// TryRestart stops and starts a unit that is up, and leaves one that is not: somebody may stop it at this very moment.
// The result is as that of Start.
func (u *Units) TryRestart(ctx context.Context, unit string) (result string, err error) {
	return u.job(ctx, "restart", unit, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.TryRestartUnitContext(ctx, unit, "fail", results)
		return err
	})
}

// Reload has a unit read its configuration. The result is as that of Start. Errors: ErrNotApplicable for one that has no way
// to.
func (u *Units) Reload(ctx context.Context, unit string) (result string, err error) {
	return u.job(ctx, "reload", unit, func(conn *sddbus.Conn, results chan<- string) error {
		_, err := conn.ReloadUnitContext(ctx, unit, "fail", results)
		return err
	})
}

// ErrBusy: a job of somebody else for that unit, or one that it needs, is in the way.
var ErrBusy = errors.New("another job is in its way")

// ErrNotApplicable: a unit of that kind, or without such a command, cannot do it.
var ErrNotApplicable = errors.New("the unit cannot do that")

// ErrRuns: the wait for a job was given up; it has been begun, and may go on.
var ErrRuns = errors.New("its job has not ended")

// Unanswered reports whether an error of a call to systemd says nothing about what was asked for: the bus was not there,
// or no answer came in time. What was asked for may have been done all the same.
func Unanswered(err error) bool {
	var answer dbus.Error
	if !errors.As(err, &answer) {
		return err != nil
	}
	return slices.Contains(ofTheBus, answer.Name) || strings.HasPrefix(answer.Name, "org.freedesktop.DBus.Error.Spawn.")
}

// ofTheBus are errors that the bus makes itself where systemd does not answer.
var ofTheBus = []string{"org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Timeout", "org.freedesktop.DBus.Error.TimedOut",
	"org.freedesktop.DBus.Error.Disconnected", "org.freedesktop.DBus.Error.NoServer", "org.freedesktop.DBus.Error.ServiceUnknown",
	"org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.LimitsExceeded", "org.freedesktop.DBus.Error.NoMemory"}

// Leaving reports whether the system goes down, or is in rescue or emergency mode: whoever brings it there wants nothing
// started.
func (u *Units) Leaving(ctx context.Context) (bool, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return false, fmt.Errorf("read the state of the system: %w", err)
	}
	state, err := conn.SystemStateContext(ctx)
	if err != nil {
		u.failed(conn, err)
		return false, fmt.Errorf("read the state of the system: %w", err)
	}
	text, _ := state.Value.Value().(string)
	return text == "stopping" || text == "maintenance", nil
}

// job begins a job and waits for its result.
func (u *Units) job(ctx context.Context, what, unit string, begin func(conn *sddbus.Conn, results chan<- string) error) (result string, err error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", what, unit, err)
	}
	results := make(chan string, 1) // buffered: an abandoned wait must not wedge the connection
	if err := begin(conn, results); err != nil {
		u.failed(conn, err)
		var answer dbus.Error
		if errors.As(err, &answer) {
			switch strings.TrimPrefix(answer.Name, "org.freedesktop.systemd1.") {
			case "TransactionIsDestructive", "TransactionJobsConflicting", "ShuttingDown":
				err = fmt.Errorf("%w: %w", ErrBusy, err)
			case "UnitExists":
				err = fmt.Errorf("%w: %w", ErrExists, err)
			case "JobTypeNotApplicable":
				err = fmt.Errorf("%w: %w", ErrNotApplicable, err)
			}
		}
		return "", fmt.Errorf("%s %s: %w", what, unit, err)
	}
	look := time.NewTicker(aliveLook)
	defer look.Stop()
	for {
		select {
		case result := <-results:
			return result, nil
		case <-ctx.Done():
			return "", fmt.Errorf("%s %s: %w: %w", what, unit, ErrRuns, ctx.Err())
		case <-look.C:
			if !conn.Connected() {
				return "", fmt.Errorf("%s %s: %w: %w", what, unit, ErrRuns, dbus.ErrClosed)
			}
		}
	}
}

// Kill has systemd send a signal to all processes of a unit.
func (u *Units) Kill(ctx context.Context, unit string, sig unix.Signal) error {
	conn, err := u.connection(ctx)
	if err != nil {
		return fmt.Errorf("kill %s: %w", unit, err)
	}
	if err := conn.KillUnitWithTarget(ctx, unit, sddbus.All, int32(sig)); err != nil {
		u.failed(conn, err)
		return fmt.Errorf("kill %s: %w", unit, err)
	}
	return nil
}

// Close ends the connection. A later call connects anew.
func (u *Units) Close() {
	u.init()
	<-u.turn
	u.drop()
	u.turn <- struct{}{}
	u.pins.close()
}

func (u *Units) init() {
	u.once.Do(func() {
		u.turn = make(chan struct{}, 1)
		u.turn <- struct{}{}
	})
}

// connection returns the connection, dialled anew when it is lost.
func (u *Units) connection(ctx context.Context) (*sddbus.Conn, error) {
	u.init()
	select {
	case <-u.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to the system bus: %w", ctx.Err())
	}
	defer func() { u.turn <- struct{}{} }()
	if u.conn != nil && u.conn.Connected() {
		return u.conn, nil
	}
	u.drop()
	dial := u.dial
	if dial == nil {
		dial = sddbus.NewWithContext
	}
	// The context of the dial is the connection's for life: it must not be the caller's.
	life, end := context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	stop := context.AfterFunc(ctx, end)
	conn, err := dial(life)
	if !stop() && err == nil { // the time was up just before the dial returned
		conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	u.conn, u.end = conn, end
	return conn, nil
}

// failed gives the connection up after an error that no one on the other end sent.
func (u *Units) failed(conn *sddbus.Conn, err error) {
	var answer dbus.Error
	if errors.As(err, &answer) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	<-u.turn
	if u.conn == conn {
		u.drop()
	}
	u.turn <- struct{}{}
}

func (u *Units) drop() {
	if u.conn != nil {
		u.conn.Close()
		u.end()
		u.conn, u.end = nil, nil
	}
}

// names reports whether a property (aiai), statuses and signals, has any.
func names(property any) bool {
	lists, _ := property.([]any)
	return slices.ContainsFunc(lists, func(l any) bool { list, ok := l.([]int32); return !ok || len(list) > 0 })
}

func unitState(p map[string]any) UnitState {
	s := UnitState{}
	s.ID, _ = p["Id"].(string)
	s.Load, _ = p["LoadState"].(string)
	s.Active, _ = p["ActiveState"].(string)
	s.Sub, _ = p["SubState"].(string)
	s.Type, _ = p["Type"].(string)
	s.Result, _ = p["Result"].(string)
	main, _ := p["MainPID"].(uint32)
	exec, _ := p["ExecMainPID"].(uint32)
	s.MainPID, s.ExecMainPID = int32(main), int32(exec)
	begun, _ := p["InactiveExitTimestampMonotonic"].(uint64)
	left, _ := p["ActiveExitTimestampMonotonic"].(uint64)
	fell, _ := p["InactiveEnterTimestampMonotonic"].(uint64)
	entered, _ := p["ActiveEnterTimestampMonotonic"].(uint64)
	most, _ := p["RuntimeMaxUSec"].(uint64) // all ones: for ever
	s.Expired = most > 0 && left >= entered && left-entered >= most && left-entered-most < expiryLate
	ended, _ := p["ExecMainExitTimestampMonotonic"].(uint64)
	of := func(kinds ...string) (all []string) {
		for _, kind := range kinds {
			units, _ := p[kind].([]string)
			all = append(all, units...)
		}
		return all
	}
	s.Needs = of("BindsTo", "Requires", "Requisite", "PartOf")
	s.Takes = of("BoundBy", "RequiredBy", "RequisiteOf", "ConsistsOf", "PropagatesStopTo")
	s.Pulls = of("BindsTo", "Requires")
	s.Rivals = of("Conflicts", "ConflictedBy")
	s.Kept, _ = p["RemainAfterExit"].(bool)
	s.Spared, _ = p["StopWhenUnneeded"].(bool)
	s.Checked, _ = p["ConditionTimestampMonotonic"].(uint64)
	s.Restart, _ = p["Restart"].(string)
	if names(p["RestartPreventExitStatus"]) {
		s.Restart = ""
	}
	access, _ := p["NotifyAccess"].(string)
	s.Mute = access == "none"
	s.Forgiving = names(p["SuccessExitStatus"])
	commands, _ := p["ExecStart"].([][]any) // a(sasb…): path, arguments, whether its failure is ignored, …
	for _, c := range commands {
		ignored, _ := c[min(2, len(c)-1)].(bool)
		s.Forgiving = s.Forgiving || ignored
	}
	s.Fell = time.Duration(fell) * time.Microsecond
	s.Begun, s.Left, s.Ended = time.Duration(begun)*time.Microsecond, time.Duration(left)*time.Microsecond, time.Duration(ended)*time.Microsecond
	s.Restarts, _ = p["NRestarts"].(uint32)
	s.ExitCode, _ = p["ExecMainCode"].(int32)
	s.ExitStatus, _ = p["ExecMainStatus"].(int32)
	if job, ok := p["Job"].([]any); ok && len(job) > 0 { // (uo): the id, 0 without a job, and the path
		id, _ := job[0].(uint32)
		s.Job = id != 0
	}
	return s
}
