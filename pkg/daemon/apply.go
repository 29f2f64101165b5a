package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// checkTimeout bounds the command that checks a configuration; systemd ends it.
	checkTimeout = time.Minute
	// applyTimeout bounds a reload or restart: a restart waits for the stop, and
	// for the start.
	applyTimeout = 5 * time.Minute
)

// verdict is what a check says of a new configuration.
type verdict struct {
	outcome string // "": it accepts it
	says    string // else of that, at length
}

// check runs the command that has to accept a new configuration, as a unit of its own. An
// error says that nobody knows.
func (w *watches) check(ctx context.Context, spec config.Watch, units []string) (verdict, error) {
	// No two have one name: the last one may be under way yet, without anybody who waits.
	name := fmt.Sprintf("checkprocd-check-%d.service", process.Now().Microseconds())
	limited, cancel := context.WithTimeout(ctx, checkTimeout+restoreTimeout)
	defer cancel()
	outcome, err := w.d.restorer.units.RunTransient(limited, systemd.Transient{Name: name, Command: spec.Check, Timeout: checkTimeout,
		Description: "Check of the configuration of " + strings.Join(units, ", ")})
	switch {
	case err != nil && (systemd.Unanswered(err) || errors.Is(err, systemd.ErrBusy) || errors.Is(err, systemd.ErrExists)):
		return verdict{}, err
	case err != nil: // systemd cannot run it
		return verdict{err.Error(), err.Error()}, nil
	case outcome == "":
		return verdict{}, nil
	}
	says := "says " + outcome
	if outcome == "timeout" {
		says = fmt.Sprintf("did not end within %s, and was ended", checkTimeout)
	}
	return verdict{outcome, fmt.Sprintf("%s %s (journalctl -u %s)", spec.Check[0], says, name)}, nil
}

// isStopped says whether somebody has stopped a unit, or is doing so; some fail over that.
func isStopped(s systemd.UnitState) bool {
	return s.Active == "inactive" || s.Active == "deactivating" || s.Active == "failed" && s.Stopped(process.Now())
}

// apply has a unit take its new configuration. An error says that systemd could not be
// asked, or refuses; wait that it is too early. What it has begun it sees to the end, also
// when the rule says something else by then.
func (k *carrying) apply(ctx context.Context, unit string, of lived, a *attempt) (wait time.Duration, err error) {
	limited, cancel := context.WithTimeout(context.Background(), applyTimeout)
	defer cancel()
	manager := &k.w.d.restorer.units
	if leaving, err := manager.Leaving(limited); err != nil || leaving {
		return heldLook, err
	}
	before, err := manager.State(limited, unit)
	if err != nil {
		return 0, err
	}
	unwanted, along := "", []string(nil)
	if before.Active == "failed" {
		unwanted, along, err = k.w.d.restorer.unwanted(limited, unit, before, before.Fell)
		switch {
		case errors.Is(err, systemd.ErrBusy):
			return heldLook, nil
		case err != nil:
			return 0, err
		}
	}
	restarted := a.asked > 0 && before.Begun >= a.asked && !before.Job // although no answer came
	down := before.Active == "failed" || before.Active == "activating" // by what the files said before, perhaps
	action := k.spec.Action
	switch {
	case before.Load == "not-found" && before.Active == "inactive":
		k.w.watched.forget(k.key, unit)
		k.w.save()
		return 0, nil
	case before.Load != "loaded":
		k.took(unit, a, evConfigApplied, guard.LevelNotice, before.Load, fmt.Sprintf("%s is %s: it takes its changed configuration (%s) when it starts again", unit, before.Load, k.files))
		return 0, nil
	case isStopped(before) || unwanted != "": // by somebody
		k.took(unit, a, evConfigApplied, guard.LevelNotice, before.Active, fmt.Sprintf("%s is %s: it takes its changed configuration (%s) when it starts", unit, before.Active, k.files))
		return 0, nil
	case before.Job: // somebody else's
		return heldLook, nil
	case down:
		action = config.WatchRestart
	}
	result := "done"
	if !restarted {
		start := action == config.WatchRestart && a.asked == 0
		var rival string
		if action == config.WatchRestart && before.Active != "failed" {
			along, rival, err = manager.Along(limited, unit, before)
			switch {
			case errors.Is(err, systemd.ErrBusy):
				return heldLook, nil
			case err != nil:
				return 0, err
			}
		}
		if wait, err := k.leave(ctx, limited, unit, of, rival, along, start, down, a); err != nil || wait > 0 {
			return wait, err
		}
	}
	switch {
	case action == config.WatchReload:
		result, err = manager.Reload(limited, unit)
	case restarted:
		if before.Active == "failed" {
			result = "failed"
		}
	default:
		a.asked = process.Now()
		if before.Active == "failed" {
			result, err = manager.Start(limited, unit)
		} else {
			result, err = manager.TryRestart(limited, unit)
		}
	}
	switch {
	case errors.Is(err, systemd.ErrBusy), err == nil && result == "canceled":
		return heldLook, nil
	case err != nil:
		return 0, err
	}
	problem := ""
	if result != "done" {
		problem = "its job ended as " + result
	}
	if a.asked > 0 {
		k.w.d.post(guard.UnitStarted{Unit: unit, Name: of.name, User: of.user, Problem: problem})
	}
	if !down { // else its state says nothing about what the files hold now
		k.rolled, k.rolledAt = append(k.rolled, unit), process.Now()
	}
	if problem != "" { // blamed, and not tried again with that content
		if !down {
			k.failed = fmt.Sprintf("%s of %s failed with it: %s", action, unit, problem)
		}
		k.took(unit, a, evConfigBlamed, guard.LevelError, action.String(), fmt.Sprintf("%s of %s after a change of its configuration failed: %s; the probable cause is %s", action, unit, problem, k.files))
		if action == config.WatchReload { // it goes on with what it had, as a rule
			k.w.watched.took(k.key, unit, unsure)
			a.took, a.over = false, true
		}
		return 0, nil
	}
	k.took(unit, a, evConfigApplied, guard.LevelNotice, action.String(), fmt.Sprintf("%s of %s: its changed configuration (%s) is in force; a failure in the next %s is put down to it",
		action, unit, k.files, k.spec.Blame))
	if action == config.WatchRestart {
		before.Restarts = 0 // systemd counts anew
	}
	files := k.files
	k.w.d.mail.leave(func() { k.w.beginBlame(unit, files, k.spec.Blame, before.Restarts) })
	return 0, nil
}

// took says and remembers that a unit has what the files held at the last look.
func (k *carrying) took(unit string, a *attempt, name guard.EventName, level guard.Level, reason, message string) {
	*a = attempt{took: true}
	k.w.watched.took(k.key, unit, hex.EncodeToString(k.change.Content[:]))
	k.w.save()
	k.tell(name, level, unit, reason, message)
}

// leave asks the loop, just before a job for a unit is asked for, whether that is not
// forbidden by now: the answers of systemd may have taken long. For a start that was not
// asked for before one is taken from the budget that all causes share. It says how long to
// wait where the unit is to be left alone, itself, for its rival or for those that its restart
// takes along; ctx is of the rule.
func (k *carrying) leave(ctx, limited context.Context, unit string, of lived, rival string, along []string, start, down bool, a *attempt) (wait time.Duration, err error) {
	d := k.w.d
	delayed := func(trouble, text string) {
		if a.trouble != trouble {
			a.trouble = trouble
			d.tellUnit(evConfigDelayed, guard.LevelWarning, unit, trouble, fmt.Sprintf("%s: its changed configuration (%s) is not in force yet: %s", unit, k.files, text))
		}
	}
	err = d.inLoop(limited, func() {
		if p := k.plan(); ctx.Err() != nil || !slices.Contains(p.todo, unit) {
			wait = heldLook
			return
		}
		why := rival
		if why == "" {
			why, _ = d.guard.Spares(along)
		}
		if why != "" {
			wait = heldLook
			delayed(why, why+"; waiting for that")
			return
		}
		if !start {
			return
		}
		wait = d.guard.TakeStart(of.name, of.user, unit, down)
		d.saved.behind = true
		if wait > 0 {
			delayed("too many starts", fmt.Sprintf("it was started too often lately; trying again in %s", wait.Round(time.Second)))
		}
	})
	return wait, err
}
