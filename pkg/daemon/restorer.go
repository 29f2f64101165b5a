package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// restoreQueue bounds the units that wait for a look; more are answered as
	// failed, and tried again by the guard.
	restoreQueue = 1024
	// restoreWorkers units are brought back at a time: a start job waits for its
	// unit, and one that never becomes ready must not keep the others down.
	restoreWorkers = 8
	// restoreTimeout bounds one look and start: a start job waits for the unit.
	restoreTimeout = 90 * time.Second
	// learnTimeout bounds the question for a main process; maxMains bounds how
	// many answers are kept.
	learnTimeout = 10 * time.Second
	maxMains     = 8192
)

// restorer brings units back over D-Bus, on goroutines of its own: the bus can
// stall. While its targets are alive it learns which are
// main processes: systemd forgets that of a service that ended well, unless
// another unit that is loaded refers to it.
type restorer struct {
	units systemd.Units
	queue chan guard.RestoreUnit
	learn chan candidate
	post  func(guard.Observation)

	mu    sync.Mutex
	mains map[string]int32 // the last known main process of each service
}

// candidate is a process of a unit that may be its main one.
type candidate struct {
	unit string
	pid  int32
}

func newRestorer(post func(guard.Observation)) *restorer {
	return &restorer{queue: make(chan guard.RestoreUnit, restoreQueue), learn: make(chan candidate, restoreQueue), post: post,
		mains: map[string]int32{}}
}

// meet has a new target looked at, if it may be a main process: those are
// children of systemd. Where too many wait, what systemd knows at the end of it
// has to do.
func (r *restorer) meet(p guard.Facts, pid int32) {
	if p.PPID != 1 || !strings.HasSuffix(p.Unit, ".service") {
		return
	}
	select {
	case r.learn <- candidate{p.Unit, pid}:
	default:
	}
}

func (r *restorer) learnMains(ctx context.Context) {
	for {
		select {
		case m := <-r.learn:
			ctx, cancel := context.WithTimeout(ctx, learnTimeout)
			pid, err := r.units.MainPID(ctx, m.unit)
			cancel()
			if err != nil || pid != m.pid {
				continue
			}
			r.mu.Lock()
			if len(r.mains) >= maxMains {
				clear(r.mains)
			}
			r.mains[m.unit] = pid
			r.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// wasMain says whether pid was the unit's main process, by what systemd says
// now or, when it has forgotten, by what it said then.
func (r *restorer) wasMain(state systemd.UnitState, unit string, pid int32) bool {
	if state.ExecMainPID != 0 {
		return state.ExecMainPID == pid
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mains[unit] == pid
}

func (r *restorer) ask(x guard.RestoreUnit) {
	select {
	case r.queue <- x:
	default:
		r.post(guard.RestoreDone{Unit: x.Unit, PID: x.PID, Failed: true, Reason: "too many units wait to be restored"})
	}
}

func (r *restorer) run(ctx context.Context) {
	defer r.units.Close()
	var all sync.WaitGroup
	all.Go(func() { r.learnMains(ctx) })
	for range restoreWorkers {
		all.Go(func() { r.work(ctx) })
	}
	all.Wait()
}

func (r *restorer) work(ctx context.Context) {
	for {
		select {
		case x := <-r.queue:
			r.post(r.restore(ctx, x))
		case <-ctx.Done():
			return
		}
	}
}

func (r *restorer) restore(ctx context.Context, x guard.RestoreUnit) guard.RestoreDone {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	out := guard.RestoreDone{Unit: x.Unit, PID: x.PID}
	state, err := r.units.State(ctx, x.Unit)
	switch {
	case err != nil:
		out.Failed, out.Reason = true, err.Error()
		return out
	case !r.wasMain(state, x.Unit, x.PID):
		out.Reason = fmt.Sprintf("pid %d was not its main process", x.PID)
		return out
	case !state.Down():
		out.Reason = "systemd restarts it: " + state.Active
		return out
	}
	result, err := r.units.Start(ctx, x.Unit)
	switch {
	case err != nil:
		out.Failed, out.Reason = true, err.Error()
	case result != "done":
		out.Failed, out.Reason = true, "its start job ended as "+result
	default:
		out.Started, out.Reason = true, "it was "+state.Active
	}
	return out
}
