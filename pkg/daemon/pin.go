package daemon

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

const (
	// pinEvery is how often what is to be remembered is asked for anew: the bus may
	// have been away, and a unit may be new.
	pinEvery = 30 * time.Second
	// keepRuns is how long systemd remembers how a command ended about which nobody
	// asks.
	keepRuns = 10 * time.Minute
)

// follow has systemd keep what it knows about the units that are restarted after
// others: it forgets of one that is down, and to which nobody refers, since when.
func (r *restorer) follow(rules []config.Rule) {
	var units []string
	for i := range rules {
		units = append(units, rules[i].Then...)
	}
	r.mu.Lock()
	r.then = units
	r.mu.Unlock()
	r.pinSoon()
}

// remember does so for a unit that waits to be brought back: who starts and stops it
// meanwhile leaves no other trace.
func (r *restorer) remember(x guard.RememberUnit) {
	r.mu.Lock()
	if !x.Over {
		r.waits[x.Unit]++
	} else if r.waits[x.Unit]--; r.waits[x.Unit] <= 0 {
		delete(r.waits, x.Unit)
	}
	r.mu.Unlock()
	r.pinSoon()
}

func (r *restorer) pinSoon() {
	select {
	case r.pins <- struct{}{}:
	default:
	}
}

// pinAll pins what is to be remembered, and nothing else.
func (r *restorer) pinAll(ctx context.Context) {
	every := time.NewTicker(pinEvery)
	defer every.Stop()
	pinned, again := map[string]bool{}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.pins:
			again = false
		case <-every.C: // which costs nothing for those that still are
			again = true
			r.forgetRuns(ctx)
		}
		wanted := map[string]bool{}
		r.mu.Lock()
		for _, unit := range r.then {
			wanted[unit] = true
		}
		for unit := range r.waits {
			wanted[unit] = true
		}
		for unit := range r.runs {
			wanted[unit] = true
		}
		r.mu.Unlock()
		for unit := range pinned {
			if !wanted[unit] {
				r.pin(ctx, unit, r.units.Unpin)
				delete(pinned, unit)
			}
		}
		for unit := range wanted {
			if again || !pinned[unit] {
				r.pin(ctx, unit, r.units.Pin)
				pinned[unit] = true
			}
		}
	}
}

// forgetRuns forgets commands that have ended a while ago, and about which nobody asked.
func (r *restorer) forgetRuns(ctx context.Context) {
	r.mu.Lock()
	runs := slices.Collect(maps.Keys(r.runs))
	r.mu.Unlock()
	for _, unit := range runs {
		limited, cancel := context.WithTimeout(ctx, learnTimeout)
		state, err := r.units.State(limited, unit)
		cancel()
		if err == nil && (state.Load != "loaded" || state.Down() && process.Now()-state.Fell >= keepRuns) {
			r.forget(ctx, unit)
		}
	}
}

// keep has systemd remember how a command ends, until forget: it is gone with its exit
// status otherwise, and nobody can tell a crash from a stop.
func (r *restorer) keep(ctx context.Context, unit string) {
	r.mu.Lock()
	r.runs[unit] = true
	r.mu.Unlock()
	r.pin(ctx, unit, r.units.Pin)
}

// forget does nothing for other units.
func (r *restorer) forget(ctx context.Context, unit string) {
	r.mu.Lock()
	is := r.runs[unit] && r.waits[unit] == 0
	delete(r.runs, unit)
	r.mu.Unlock()
	if is {
		r.pin(ctx, unit, r.units.Unpin)
	}
}

// pin calls Pin or Unpin. Without a bus, or without that unit, there is nothing to
// remember: what is down then counts as stopped.
func (r *restorer) pin(ctx context.Context, unit string, do func(context.Context, string) error) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	_ = do(ctx, unit)
}
