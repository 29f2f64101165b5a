package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// settleTime is how long a unit has to stay up before it counts as started: of
	// Type=exec and simple it is active before its program does anything.
	settleTime = 2 * time.Second
	// alike is how much earlier than an exit notice a unit may have gone down that
	// went because of that end.
	alike = time.Second
	// stopMax is how long before the end of one of its processes a unit may have
	// been stopped for that end to belong to it: longer than most TimeoutStopSec=.
	stopMax = 5 * time.Minute
	// fallTime is how long after the end of a process the units go down that need its.
	fallTime = 5 * time.Second
	// needsAsked bounds the units that one needs, and are down, about which systemd is asked.
	needsAsked = 8
	// maxNeeds bounds the units that are looked at for what a unit needs.
	maxNeeds = 50
)

// leaving says whether the system goes down: nothing is started any more.
func (r *restorer) leaving(ctx context.Context, out *guard.RestoreDone) bool {
	if is, err := r.units.Leaving(ctx); err != nil {
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
		return true
	} else if is {
		out.Reason = "the system goes down, or is in rescue mode"
		return true
	}
	return false
}

// restore starts what ended, if it is down and nobody wants it to be.
func (r *restorer) restore(ctx context.Context, x guard.RestoreUnit) guard.RestoreDone {
	var out guard.RestoreDone
	if r.leaving(ctx, &out) {
		return out
	}
	var state systemd.UnitState
	if strings.HasSuffix(x.Unit, ".service") {
		var err error
		if state, err = r.units.State(ctx, x.Unit); err != nil {
			out.Failed, out.Unasked, out.Reason = true, true, err.Error()
			return out
		}
	}
	if len(x.Beside) > 0 {
		var err error
		if out.Beside, err = r.needs(ctx, x.Unit, state, x.Beside); err != nil {
			out.Failed, out.Unasked, out.Reason = true, true, err.Error()
			return out
		}
	}
	var along []string
	start := mayStart(x, state, x.Main || state.ExecMainPID == x.PID, &out)
	if start && state.Down() {
		since := x.Ended
		if x.Struck > 0 {
			since = x.Struck
		}
		why, with, err := r.unwanted(ctx, x.Unit, state, since-alike)
		if errors.Is(err, systemd.ErrBusy) {
			out.Coming, out.Reason = true, err.Error()
			return out
		}
		if err != nil {
			return guard.RestoreDone{Failed: true, Unasked: true, Reason: err.Error()}
		}
		if why != "" {
			start, out.Reason = false, why
		}
		if x.Command == nil { // which has a unit of its own, that needs none
			along = with
		}
	}
	if state.Down() && !x.Look {
		r.forget(ctx, x.Unit) // it is decided
	}
	if !start {
		return out
	}
	if x.Look {
		out.Down = true
		return out
	}
	if r.forbidden(ctx, x.Ask, along, &out) {
		return out
	}
	unit := x.Unit
	var result string
	var err error
	if x.Command == nil {
		result, err = r.start(ctx, unit, state)
	} else {
		// The name is the same when it is asked for again after a crash of the
		// guard: then it runs already.
		unit = fmt.Sprintf("%s%d-%d.service", guard.RunPrefix, x.PID, x.Ended.Microseconds())
		user := x.Command.User
		if user == "" {
			user = x.User
		}
		out.As = unit
		result, err = r.units.StartTransient(ctx, systemd.Transient{Name: unit, Description: oneLine(x.Name) + ", started again by the process guard", Command: x.Command.Args, User: user},
			func() { r.keep(ctx, unit) })
		if errors.Is(err, systemd.ErrExists) {
			out.Up, out.Reason = true, "its command runs"
			return out
		}
	}
	switch {
	case errors.Is(err, systemd.ErrBusy): // an order to stop it, perhaps
		out.Coming, out.Reason = true, err.Error()
	case errors.Is(err, systemd.ErrRuns): // what becomes of it is looked at later
		out.Started = true
	case systemd.Unanswered(err):
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
	case err != nil:
		out.Failed, out.Reason = true, err.Error()
	case result == "canceled": // a stop, most likely
		out.Reason = "somebody else's job took the place of its start"
	case result != "done":
		out.Failed, out.Reason = true, "its start job ended as "+result
	default:
		if why := r.fails(ctx, unit, x.Command != nil); why != "" {
			out.Failed, out.Reason = true, why
			break
		}
		out.Started = true
	}
	if !out.Started {
		r.forget(ctx, unit)
	}
	if out.Failed && !out.Unasked {
		out.Reason += ofCommand(unit)
	}
	return out
}

// unwanted says why a unit that is down is not to be started although it did not go down
// by a stop, "" if it may be: it is of a connection, or somebody has stopped it since, or
// one that it needs, with which systemd would have stopped it, too; its start would start
// that one. Or another one runs by now that is not to run beside it. Else along are those
// that its start would start. ErrBusy: see Along.
func (r *restorer) unwanted(ctx context.Context, unit string, s systemd.UnitState, since time.Duration) (why string, along []string, err error) {
	if r.units.StoppedDown(unit, s) {
		return "it was stopped while it was down", nil, nil
	}
	if is, err := r.units.OfConnection(ctx, unit); is || err != nil {
		return "its socket starts it, for each connection", nil, err
	}
	if along, why, err = r.units.Along(ctx, unit, s); why != "" || err != nil || len(s.Needs) == 0 {
		return why, along, err
	}
	idle, err := r.units.Idle(ctx, s.Needs)
	if err != nil {
		return "", nil, err
	}
	for _, need := range idle[:min(len(idle), needsAsked)] {
		n, err := r.units.State(ctx, need)
		if err != nil {
			return "", nil, err
		}
		r.mu.Lock()
		ours := r.waits[need] > 0 // by a signal of the guard, most likely
		r.mu.Unlock()
		fell := slices.Contains(n.Needs, unit) && n.Fell <= s.Fell+fallTime // with it
		if r.units.StoppedDown(need, n) || n.Halted(need) && n.Fell >= since && !ours && !fell {
			return fmt.Sprintf("%s, which it needs, was stopped: %s", need, n.Active), nil, nil
		}
	}
	return "", along, nil
}

// stopped tells the guard at once that somebody has stopped a unit that was down: this
// memory ends with the daemon. What needs that unit, and waits as well, is stopped with
// it; systemd says nothing of that. The unit itself comes last: what is heard of it is
// forgotten when nothing of it waits any more. Where systemd does not say who needs it, it
// goes on waiting, and is found to be stopped when its time has come.
func (r *restorer) stopped(ctx context.Context, unit string) {
	r.mu.Lock()
	waits := slices.Sorted(maps.Keys(r.waits))
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	for _, other := range waits {
		state, err := r.units.State(ctx, other)
		if err == nil && (other == unit || !state.Down()) {
			continue
		}
		var is bool
		if err == nil {
			is, err = r.needs(ctx, other, state, []string{unit})
		}
		if err != nil {
			return
		}
		if is {
			r.post(guard.UnitStopped{Unit: other, Reason: unit + ", which it needs, was stopped while both were down"})
		}
	}
	r.post(guard.UnitStopped{Unit: unit, Reason: "it was stopped while it was down"})
}

// forbidden asks the loop whether a unit is not to be started, or restarted, after all: for
// itself, or for those that systemd would start, stop or restart with it.
func (r *restorer) forbidden(ctx context.Context, ask uint64, along []string, out *guard.RestoreDone) bool {
	is, why := r.forbids(ctx, ask, along)
	if is {
		out.Forbidden, out.Reason = true, why
	}
	return is
}

// ofCommand says where the words of a command are: nobody else knows the name of its unit.
func ofCommand(unit string) string {
	if !strings.HasPrefix(unit, guard.RunPrefix) {
		return ""
	}
	return fmt.Sprintf(" (journalctl -u %s)", unit)
}

// needs says whether a unit is restarted together with one of some others.
func (r *restorer) needs(ctx context.Context, unit string, s systemd.UnitState, others []string) (bool, error) {
	seen, next := map[string]bool{unit: true}, s.Needs
	for i := 0; i < len(next) && len(seen) < maxNeeds; i++ {
		name := next[i]
		if slices.Contains(others, name) {
			return true, nil
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		state, err := r.units.State(ctx, name)
		if err != nil {
			return false, err
		}
		next = append(next, state.Needs...)
	}
	return false, nil
}

// start starts a unit that was down. The result tells why it failed, where systemd knows.
// How often it is started is for the guard's budget to say: where systemd refuses another
// start without having tried, the count of its start limit begins anew.
func (r *restorer) start(ctx context.Context, unit string, was systemd.UnitState) (result string, err error) {
	for range 2 {
		if result, err = r.begin(ctx, unit, was.Type); err != nil || result != "failed" {
			return result, err
		}
		state, err := r.units.State(ctx, unit)
		switch {
		case err != nil:
			return result, nil
		case state.Begun != was.Begun:
			return result + ": " + state.End(), nil
		}
		result += ": systemd refuses another start (StartLimitBurst=, or resources)"
		if r.units.ResetFailed(ctx, unit) != nil {
			return result, nil
		}
	}
	return result, nil
}

// begin starts a unit and waits for its job, but with Type=oneshot for its program only:
// there the job lasts for as long as that runs.
func (r *restorer) begin(ctx context.Context, unit, kind string) (result string, err error) {
	if kind != "oneshot" {
		return r.units.Start(ctx, unit)
	}
	limited, runs := context.WithCancel(ctx)
	defer runs()
	go func() {
		every := time.NewTicker(r.settle)
		defer every.Stop()
		for {
			select {
			case <-limited.Done():
				return
			case <-every.C:
			}
			if state, err := r.units.State(limited, unit); err == nil && state.Active == "activating" && state.Sub == "start" && state.MainPID != 0 {
				runs()
			}
		}
	}()
	return r.units.Start(limited, unit)
}

// mayStart says whether a process is to be started again, by what systemd says
// about its unit; what comes of it is in out, and so is the reason.
func mayStart(x guard.RestoreUnit, s systemd.UnitState, main bool, out *guard.RestoreDone) bool {
	known := s.Load == "loaded" && (main || x.PID == 0)
	switch {
	case !known && x.Command != nil && stoppedWith(x, s): // not outside of it, either
		out.Reason = fmt.Sprintf("%s was stopped: %s", x.Unit, s.Active)
	case !known && x.Command != nil: // its unit is another's, or gone with it
		out.Reason = "its exit status says that it crashed"
		if !x.Crashed {
			out.Reason = "it was ended"
		} else if !x.Sure {
			out.Reason = "nobody knows whether it crashed"
		}
		return !x.Crashed || x.Sure
	case x.PID == 0 && s.Load == "loaded" && s.Down() && (s.Active != "failed" || s.Stopped(process.Now())):
		out.Reason = "it was stopped: " + s.Active
	case x.PID == 0 && s.Load == "loaded" && s.Down():
		out.Reason = "it was failed"
		return true
	case x.PID != 0 && !main:
		out.Reason = fmt.Sprintf("pid %d was not its main process", x.PID)
	case !known:
		out.Reason = "it is " + s.Load
	case s.Job || s.Active == "activating" || s.Active == "deactivating":
		out.Coming, out.Reason = true, "somebody else starts or stops it: it is "+s.Active
	case !s.Down():
		out.Up, out.Reason = true, "systemd restarted it: "+s.Active
	case !x.Crashed && s.Stopped(x.Struck-alike): // somebody was stopping it, and it hung over that
		out.Reason = "it was being stopped: " + s.Active
	case (x.Crashed || s.ExecMainPID != 0 && s.ExecMainPID != x.PID) && !s.Crashed():
		out.Reason = "it was stopped: " + s.Active // by somebody who wants it to be
	case s.Dropped():
		out.Reason = "it was stopped before systemd restarted it, or reset"
	default:
		out.Reason = "it was " + s.Active
		return true
	}
	return false
}

// stoppedWith says whether the unit of a process that was not its main one is being
// stopped, or was around its end. A start script that leaves programs behind has
// ended long before.
func stoppedWith(x guard.RestoreUnit, s systemd.UnitState) bool {
	return s.Active == "deactivating" || s.Down() && !s.Crashed() && s.Left > max(x.Ended-stopMax, 0)
}

// fails says why a unit that was just started does not stay up, "" if it does. A
// command shall not end well, either.
func (r *restorer) fails(ctx context.Context, unit string, command bool) string {
	select {
	case <-time.After(r.settle):
	case <-ctx.Done():
		return ""
	}
	state, err := r.units.State(ctx, unit)
	switch {
	case err != nil: // it was started
		return ""
	case state.Active == "failed":
		return fmt.Sprintf("it failed within %s: %s", r.settle, state.End())
	case command && state.Active == "inactive":
		return fmt.Sprintf("it ended within %s", r.settle)
	}
	return ""
}

// prove looks how a unit is that was started a while ago.
func (r *restorer) prove(ctx context.Context, x guard.LookAtStarted) guard.RestoreDone {
	var out guard.RestoreDone
	state, err := r.units.State(ctx, x.Unit)
	switch {
	case err != nil:
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
		return out
	case state.Job || state.Active == "activating" || state.Active == "deactivating":
		out.Coming = true
		return out
	case state.Active == "failed" && !state.Stopped(process.Now()):
		out.Failed, out.Reason = true, "it failed: "+state.End()+ofCommand(x.Unit)
	case state.Active == "failed", state.Active == "inactive": // and whoever knows how has forgotten, perhaps
		out.Reason = "it is " + state.Active
	default:
		out.Up = true
		return out
	}
	r.forget(ctx, x.Unit)
	return out
}

// restart restarts a unit that follows another, unless somebody has stopped it, or is
// about to.
func (r *restorer) restart(ctx context.Context, x guard.RestartUnit) guard.RestoreDone {
	var out guard.RestoreDone
	if r.leaving(ctx, &out) {
		return out
	}
	state, err := r.units.State(ctx, x.Unit)
	var first systemd.UnitState
	if err == nil && state.Down() && slices.Contains(state.Needs, x.After) {
		first, err = r.units.State(ctx, x.After)
	}
	switch {
	case err != nil:
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
		return out
	case state.Load != "loaded":
		out.Failed, out.Reason = true, "it is "+state.Load
		return out
	case state.ID != "" && state.ID != x.Unit: // by which those are known that live in it, and what stands over it
		out.Forbidden, out.Reason = true, otherName(state.ID)
		return out
	case state.Job || state.Active == "activating" || state.Active == "deactivating":
		out.Reason = "somebody else starts or stops it: it is " + state.Active
		return out
	case x.Back > 0 && state.Begun > x.Back && !state.Down(): // for another one, or before the guard was restarted
		out.Started, out.Reason = true, "it was begun since"
		return out
	case state.Active == "failed" && state.Fell < x.Ended-alike:
		out.Reason = "it had failed before"
		return out
	case state.Down() && !state.Crashed() && !fellWith(state, first, x):
		out.Reason = "it was stopped"
		return out
	}
	var why string
	var along []string
	if state.Down() {
		why, along, err = r.unwanted(ctx, x.Unit, state, x.Ended-alike)
	} else {
		along, why, err = r.units.Along(ctx, x.Unit, state)
	}
	switch {
	case err != nil:
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
		return out
	case why != "":
		out.Forbidden, out.Reason = !state.Down(), why
		return out
	case r.forbidden(ctx, x.Ask, along, &out):
		return out
	}
	var result string
	if state.Down() {
		result, err = r.start(ctx, x.Unit, state)
	} else {
		result, err = r.units.TryRestart(ctx, x.Unit)
		if err == nil && result == "failed" {
			if now, err := r.units.State(ctx, x.Unit); err == nil {
				result += ": " + now.End()
			}
		}
	}
	switch {
	case errors.Is(err, systemd.ErrBusy):
		out.Reason = err.Error()
	case errors.Is(err, systemd.ErrRuns):
		out.Started, out.Reason = true, "it was "+state.Active
	case systemd.Unanswered(err):
		out.Failed, out.Unasked, out.Reason = true, true, err.Error()
	case err != nil:
		out.Failed, out.Reason = true, err.Error()
	case result != "done":
		out.Failed, out.Reason = true, "its restart job ended as "+result
	default:
		if why := r.fails(ctx, x.Unit, false); why != "" {
			out.Failed, out.Reason = true, why
			break
		}
		out.Started, out.Reason = true, "it was "+state.Active
	}
	return out
}

// fellWith says whether a unit that is down was stopped together with the one that it
// follows and needs: when that fell last, or at that end, where it has fallen again since:
// restarted with another unit that follows it, for one.
// One that systemd knows nothing of has not run since this guard began.
func fellWith(s, first systemd.UnitState, x guard.RestartUnit) bool {
	switch {
	case !slices.Contains(s.Needs, x.After) || s.Left == 0:
		return false
	case s.Left >= first.Fell && s.Left <= first.Fell+alike:
		return true
	}
	again := first.Fell > x.Ended+fallTime || x.Back > 0 && first.Fell > x.Back
	return again && s.Left >= x.Ended-alike && s.Left <= x.Ended+fallTime
}
