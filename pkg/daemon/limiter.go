package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// limitQueue bounds what waits for systemd; more fails, and is tried again by
	// the guard.
	limitQueue = 1024
	// limitWorkers: a restart waits for its unit, and no throttle waits for that.
	limitWorkers = 4
	// limitTimeout bounds a restart; properties take milliseconds.
	limitTimeout = 90 * time.Second
	limitLook    = time.Second // between two looks at a restart that another guard has begun
)

// limiter carries out over D-Bus what limits ask for, beside the loop.
type limiter struct {
	units *systemd.Units
	queue chan limitJob
	post  func(guard.Observation)
	// forbids asks the loop, just before a restart is asked for that takes these other units along.
	forbids func(ctx context.Context, x guard.RestartForLimit, along []string) (why string, err error)
}

// limitJob is one thing to be done; it says what came of it, or that it was given up.
type limitJob struct {
	do     func(ctx context.Context) guard.Observation
	refuse func(problem string) guard.Observation
}

func (l *limiter) run(ctx context.Context) {
	var all sync.WaitGroup
	for range limitWorkers {
		all.Go(func() {
			for {
				select {
				case j := <-l.queue:
					limited, cancel := context.WithTimeout(ctx, limitTimeout)
					if o := j.do(limited); ctx.Err() == nil { // else the next guard asks what became of it
						l.post(o)
					}
					cancel()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

func (l *limiter) ask(j limitJob) {
	select {
	case l.queue <- j:
	default:
		l.post(j.refuse("too many units wait"))
	}
}

func (l *limiter) restart(x guard.RestartForLimit) limitJob {
	done := guard.RestartedForLimit{Unit: x.Unit, Target: x.Target, PID: x.PID}
	answer := func(problem string) guard.Observation {
		done.Problem = problem
		return done
	}
	return limitJob{func(ctx context.Context) guard.Observation {
		state, err := l.units.State(ctx, x.Unit)
		for x.Look && err == nil && state.Begun <= x.Asked && underWay(&state) {
			select {
			case <-time.After(limitLook):
				state, err = l.units.State(ctx, x.Unit)
			case <-ctx.Done():
				return answer("") // what becomes of it is looked at later
			}
		}
		switch {
		case err != nil:
			done.Unknown = x.Look
			return answer(err.Error())
		case x.Look && state.Begun <= x.Asked:
			return answer("systemd was not asked, or has not done it")
		case x.Look && state.Active == "failed":
			done.Begun = true
			return answer("it failed after its restart")
		case x.Look:
			return answer("")
		case state.Begun > x.Asked:
			return answer("it was started anew meanwhile")
		}
		if leaving, err := l.units.Leaving(ctx); err != nil {
			return answer(err.Error())
		} else if leaving {
			return answer("the system goes down, or is in rescue mode")
		}
		// Somebody stops it, or has stopped it and a process is left behind: a
		// restart would undo that.
		if state.Active != "active" || state.Job {
			return answer("it is " + state.Active + ", and that is somebody else's doing")
		}
		along, rival, err := l.units.Along(ctx, x.Unit, state)
		if err != nil {
			return answer(err.Error())
		} else if rival != "" {
			done.Refused = true
			return answer(rival)
		}
		if why, err := l.forbids(ctx, x, along); err != nil {
			return answer(err.Error())
		} else if why != "" {
			done.Refused = true
			return answer(why)
		}
		result, err := l.units.TryRestart(ctx, x.Unit)
		switch {
		case errors.Is(err, systemd.ErrRuns): // what becomes of it is looked at later
		case err != nil:
			done.Unknown = systemd.Unanswered(err)
			return answer(err.Error())
		case result == "canceled":
			return answer("somebody else's job took the place of its restart")
		case result != "done":
			done.Begun = true
			return answer("its restart job ended as " + result)
		}
		return answer("")
	}, answer}
}

// underWay reports whether somebody is stopping or starting a unit.
func underWay(s *systemd.UnitState) bool {
	return s.Job || s.Active == "deactivating" || s.Active == "activating"
}

func (l *limiter) look(x guard.LookAtUnit) limitJob {
	answer := func(problem string) guard.Observation { return guard.UnitSeen{Unit: x.Unit, Problem: problem} }
	return limitJob{func(ctx context.Context) guard.Observation {
		now, err := l.units.Limits(ctx, x.Unit)
		switch {
		case l.gone(ctx, x.Unit):
			return guard.UnitSeen{Unit: x.Unit, Gone: true}
		case err != nil:
			return answer(err.Error())
		}
		return guard.UnitSeen{Unit: x.Unit, Limits: guard.UnitLimits(now)}
	}, answer}
}

// gone reports whether there is no such unit any more: one that is not there has no limits, and what is read of it says
// nothing.
func (l *limiter) gone(ctx context.Context, unit string) bool {
	state, err := l.units.State(ctx, unit)
	return err == nil && state.Load == "not-found"
}

func (l *limiter) set(x guard.SetUnitLimits) limitJob {
	answer := func(problem string) guard.Observation {
		return guard.UnitLimitsSet{Unit: x.Unit, Problem: problem}
	}
	return limitJob{func(ctx context.Context) guard.Observation {
		now, err := l.units.Limits(ctx, x.Unit)
		switch {
		case l.gone(ctx, x.Unit):
			return guard.UnitLimitsSet{Unit: x.Unit, Gone: true}
		case err != nil:
			return answer(err.Error())
		}
		to, theirs := x.Against(guard.UnitLimits(now))
		switch err := l.units.SetLimits(ctx, x.Unit, systemd.Limits(to)); {
		case err == nil:
			return guard.UnitLimitsSet{Unit: x.Unit, Theirs: theirs}
		case l.gone(ctx, x.Unit): // meanwhile
			return guard.UnitLimitsSet{Unit: x.Unit, Gone: true}
		default:
			return guard.UnitLimitsSet{Unit: x.Unit, Problem: err.Error(), Unknown: systemd.Unanswered(err)}
		}
	}, answer}
}

// startLimitJobs begins what limits ask for; the registry has it by now.
func (d *Daemon) startLimitJobs() {
	for _, j := range d.limitJobs {
		d.limiter.ask(j)
	}
	clear(d.limitJobs)
	d.limitJobs = d.limitJobs[:0]
}
