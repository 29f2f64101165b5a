package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// blameEvery is how often a unit is looked at that took a new configuration.
const blameEvery = time.Second

// blame is the window in which a failure of a unit is put down to a change.
type blame struct {
	files   string
	applied time.Duration
	end     context.CancelFunc
}

// beginBlame opens the window in which a failure of a unit is put down to a change,
// on the loop.
func (w *watches) beginBlame(unit, files string, lasts time.Duration, restarts uint32) {
	if b := w.blames[unit]; b != nil {
		b.end() // the later change is the more probable cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	b := &blame{files: files, applied: process.Now(), end: cancel}
	w.blames[unit] = b
	delete(w.blamed, unit)
	w.all.Go(func() {
		defer cancel()
		how := w.follow(ctx, unit, restarts)
		w.d.mail.leave(func() {
			if w.blames[unit] != b {
				return
			}
			delete(w.blames, unit)
			if how != "" {
				w.sayBlamed(unit, b, how)
			}
		})
	})
}

// follow looks at a unit until ctx ends or it fails, and says how.
func (w *watches) follow(ctx context.Context, unit string, restarts uint32) (how string) {
	every := time.NewTicker(blameEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return ""
		case <-every.C:
		}
		now, err := w.d.restorer.units.State(ctx, unit)
		if err != nil {
			continue
		}
		if how := failedSince(restarts, now); how != "" {
			return how
		}
		restarts = now.Restarts // 0 again where an operator has started it anew
	}
}

// failedSince says how a service failed since systemd had restarted it so often by
// itself, "" if it did not. One that was stopped in order did not.
func failedSince(restarts uint32, now systemd.UnitState) string {
	switch {
	case now.Crashed():
		return "it failed: " + now.End()
	case now.Sub == "auto-restart" || now.Sub == "auto-restart-queued":
		return "systemd restarts it: " + now.End()
	case now.Restarts > restarts:
		return "systemd has restarted it"
	}
	return ""
}

// saw takes in an event of the guard, on the loop: a program that hangs since its
// configuration has changed fails as well. One that was silent before does not.
func (w *watches) saw(e *guard.Event) {
	w.learn = w.learn || e.Name == guard.EvRegistered && e.Unit != ""
	if e.Name != guard.EvCondemned && e.Name != guard.EvWouldCondemn && e.Name != guard.EvProtected {
		return
	}
	b := w.blames[e.Unit]
	if b == nil || e.Silence > process.Now()-b.applied+w.d.cfg.Interval {
		return
	}
	b.end()
	delete(w.blames, e.Unit)
	w.sayBlamed(e.Unit, b, fmt.Sprintf("pid %d (%s) is %s", e.PID, e.Process, e.Verdict))
}

func (w *watches) sayBlamed(unit string, b *blame, how string) {
	w.blamed[unit] = how
	w.d.tellUnit(evConfigBlamed, guard.LevelError, unit, how, fmt.Sprintf("%s failed %.0fs after it took a changed configuration (%s): the probable cause is %s",
		unit, (process.Now()-b.applied).Seconds(), how, b.files))
}
