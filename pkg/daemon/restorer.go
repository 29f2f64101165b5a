package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// restoreQueue bounds the units that wait for a look; more are answered as
	// failed, and tried again by the guard.
	restoreQueue = 1024
	// restoreTimeout bounds one look and start: a start job waits for the unit.
	restoreTimeout = 90 * time.Second
)

// restorer brings units back over D-Bus, one after the other, on its own
// goroutine: the bus can stall.
type restorer struct {
	units systemd.Units
	queue chan guard.RestoreUnit
	post  func(guard.Observation)
}

func newRestorer(post func(guard.Observation)) *restorer {
	return &restorer{queue: make(chan guard.RestoreUnit, restoreQueue), post: post}
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
	case state.ExecMainPID != x.PID:
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
