package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
	"github.com/checkprocd/checkprocd/pkg/watch"
)

const (
	// checkTimeout bounds the command that checks a configuration; systemd ends it.
	checkTimeout = time.Minute
	// applyTimeout bounds a reload or restart: a restart waits for the stop, and
	// for the start.
	applyTimeout = 5 * time.Minute
	// blameEvery is how often a unit is looked at that took a new configuration.
	blameEvery = time.Second
	// watchEnd bounds the wait for those that look at files when the daemon ends:
	// a file may lie on a disk that is gone.
	watchEnd = time.Second
	// maxUnits bounds the services that are remembered for one rule.
	maxUnits = 1000
)

// watches carries changes of the configuration of guarded programs: for each rule
// that names files one goroutine looks at them, has the check run and the units
// reloaded or restarted, all through systemd. What it needs of the guard it asks
// the loop for.
type watches struct {
	d       *Daemon
	watcher *watch.Watcher // nil: no rule has needed one so far
	watched *watched
	all     sync.WaitGroup

	// Owned by the loop.
	running map[string]context.CancelFunc // by what the rule says
	rules   map[string]int                // index of the rule in force
	units   map[string]map[string]bool    // services of targets that have or had that rule
	learn   bool                          // a target has registered since units were learnt
	blames  map[string]*blame             // by unit
}

// blame is the window in which a failure of a unit is put down to a change.
type blame struct {
	files   string
	applied time.Duration
	end     context.CancelFunc
}

func newWatches(d *Daemon) *watches {
	return &watches{d: d, running: map[string]context.CancelFunc{}, rules: map[string]int{},
		units: map[string]map[string]bool{}, blames: map[string]*blame{}}
}

// set has the files of these rules watched, on the loop or before it runs. A rule
// that says what one said before keeps what is known of its files.
func (w *watches) set(rules []config.Rule) {
	clear(w.rules)
	for i := range rules {
		r := &rules[i]
		if len(r.Watch.Files) == 0 {
			continue
		}
		key := fmt.Sprintf("%q %q", r.Match, r.Watch)
		for _, twice := w.rules[key]; twice; _, twice = w.rules[key] {
			key += "+"
		}
		w.rules[key] = i
		w.learn = true
		if w.running[key] != nil {
			continue
		}
		if w.watcher == nil {
			var err error
			if w.watcher, err = watch.New(); err != nil {
				w.d.degraded("inotify", fmt.Sprintf("%v: files are looked at each few seconds instead", err))
			}
			if w.watched, err = loadWatched(w.d.cfg.RuntimeDir); err != nil {
				w.d.degraded("watched", fmt.Sprintf("%v: what watched files hold now counts as in force", err))
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		w.running[key] = cancel
		watcher, spec := w.watcher, r.Watch
		w.all.Go(func() {
			watcher.Run(ctx, watch.Spec{Files: spec.Files, Settle: spec.Settle, Known: w.watched.known(key)}, watch.Handlers{
				Changed: func(c watch.Change) bool { return w.changed(ctx, key, spec, c) },
				InForce: func(sums map[string]watch.Sum) { w.keep(ctx, key, sums) },
				Trouble: func(text string) { w.trouble(ctx, key, text) },
			})
		})
	}
	for key, cancel := range w.running {
		if _, ok := w.rules[key]; !ok {
			cancel()
			delete(w.running, key)
			delete(w.units, key)
		}
	}
}

// learnUnits remembers to which services the rules apply, on the loop: one that has
// failed because of a bad change has no target by the time of the good one.
func (w *watches) learnUnits() {
	if !w.learn || len(w.rules) == 0 {
		return
	}
	w.learn = false
	of := make(map[int]string, len(w.rules))
	for key, index := range w.rules {
		of[index] = key
	}
	for _, v := range w.d.guard.Views() {
		key, ok := of[v.Rule]
		if !ok || !v.Target || v.Shield != "" || v.State == "refused" || !strings.HasSuffix(v.Unit, ".service") || strings.HasPrefix(v.Unit, "user@") {
			continue
		}
		if w.units[key] == nil || len(w.units[key]) >= maxUnits {
			w.units[key] = map[string]bool{}
		}
		w.units[key][v.Unit] = true
	}
}

// unitsOf lists the services that a change is for, on the loop. What nothing may be
// done to is not among them.
func (w *watches) unitsOf(key string) []string {
	w.learn = true
	w.learnUnits()
	var out []string
	shielded := shieldedUnits(w.d.guard.Views())
	for unit := range w.units[key] {
		if w.d.cfg.Protected("", unit) == "" && !shielded[unit] {
			out = append(out, unit)
		}
	}
	slices.Sort(out)
	return out
}

// shieldedUnits are those in which somebody is to whom nothing may be done, by his
// name perhaps, whatever is said about the others in it.
func shieldedUnits(views []guard.View) map[string]bool {
	out := map[string]bool{}
	for i := range views {
		if v := &views[i]; v.Shield != "" && v.Unit != "" {
			out[v.Unit] = true
		}
	}
	return out
}

// stop ends all of it, after the loop. A look that hangs is left behind.
func (w *watches) stop() {
	for _, cancel := range w.running {
		cancel()
	}
	for _, b := range w.blames {
		b.end()
	}
	if w.watcher == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		w.all.Wait()
		w.watcher.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(watchEnd):
	}
}

// keep has it remembered over a restart what is in force.
func (w *watches) keep(ctx context.Context, key string, sums map[string]watch.Sum) {
	stand := map[string]bool{}
	err := w.d.inLoop(ctx, func() {
		for key := range w.rules {
			stand[key] = w.d.registry != nil // else another guard's
		}
	})
	if err != nil || !stand[key] {
		return
	}
	if err := w.watched.keep(key, sums, func(key string) bool { return stand[key] }); err != nil {
		_ = w.d.inLoop(ctx, func() {
			w.d.degraded("watched", fmt.Sprintf("%v: a change of watched files under a restart of the guard is not seen", err))
		})
	}
}

func (w *watches) trouble(ctx context.Context, key, text string) {
	_ = w.d.inLoop(ctx, func() {
		what := "watch " + key
		if index, ok := w.rules[key]; ok && text != "" {
			w.d.degraded(what, fmt.Sprintf("files of rule[%d]: %s; no change is taken before that is mended", index, text))
		} else {
			delete(w.d.lost, what)
		}
	})
}

// changed carries a change to the units that it is about, and says whether it is
// in force.
func (w *watches) changed(ctx context.Context, key string, spec config.Watch, c watch.Change) bool {
	files := oneLine(strings.Join(c.Files(), ", "))
	var units []string
	goesOn, inForce := false, true
	err := w.d.inLoop(ctx, func() {
		index, ok := w.rules[key]
		if !ok {
			return
		}
		acts, why := w.d.guard.Acts()
		units = w.unitsOf(key)
		var what string
		switch {
		case c.Back:
			what = "back to what is in force, nothing is to be done"
		case !acts:
			what, inForce = "not acting: "+why, false
		case len(units) == 0:
			what = "no guarded process in a service has had that rule so far, nothing is to be done"
		default:
			goesOn = true
			what = spec.Action.String() + " of " + strings.Join(units, ", ")
			if len(spec.Check) > 0 {
				what = "checking it, then " + what
			}
		}
		unit := ""
		if len(units) == 1 {
			unit = units[0]
		}
		w.d.tellUnit(evConfigChanged, guard.LevelInfo, unit, files, fmt.Sprintf("configuration changed (rule[%d]): %s: %s", index, files, what))
	})
	if err != nil || !goesOn {
		return err == nil && inForce
	}
	if !w.check(ctx, key, spec, files, units) {
		return false
	}
	for _, unit := range units {
		w.apply(ctx, unit, spec, files)
	}
	return true // what failed is blamed, and not tried again
}

// check runs the command that has to accept a new configuration, as a unit of its
// own, and says whether it did.
func (w *watches) check(ctx context.Context, key string, spec config.Watch, files string, units []string) bool {
	if len(spec.Check) == 0 {
		return true
	}
	name := fmt.Sprintf("checkprocd-check-%x.service", sha256.Sum256([]byte(key)))
	name = name[:len("checkprocd-check-")+16] + ".service"
	limited, cancel := context.WithTimeout(ctx, checkTimeout+restoreTimeout)
	defer cancel()
	outcome, err := w.d.restorer.units.RunTransient(limited, systemd.Transient{Name: name, Command: spec.Check, Timeout: checkTimeout,
		Description: "Check of the configuration of " + strings.Join(units, ", ")})
	if ctx.Err() != nil {
		return false // another configuration is in force, or the daemon ends
	}
	if err != nil {
		outcome = err.Error()
	}
	if outcome == "" {
		return true
	}
	_ = w.d.inLoop(ctx, func() {
		for _, unit := range units {
			w.d.tellUnit(evConfigCheckFailed, guard.LevelError, unit, outcome, fmt.Sprintf("%s: its changed configuration (%s) is not put in force: %s says %s (journalctl -u %s)",
				unit, files, spec.Check[0], outcome, name))
		}
	})
	return false
}

// isStopped says whether somebody has stopped a unit, or is doing so; some fail over that.
func isStopped(s systemd.UnitState) bool {
	return s.Active == "inactive" || s.Active == "deactivating" || s.Active == "failed" && s.Stopped(process.Now())
}

// apply has a unit take its new configuration.
func (w *watches) apply(ctx context.Context, unit string, spec config.Watch, files string) {
	limited, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	manager := &w.d.restorer.units
	before, err := manager.State(limited, unit)
	action := spec.Action
	switch {
	case isStopped(before): // by somebody
		w.tell(ctx, evConfigApplied, guard.LevelNotice, unit, before.Active, fmt.Sprintf("%s is %s: it takes its changed configuration (%s) when it starts", unit, before.Active, files))
		return
	case before.Active == "failed", before.Active == "activating": // by what the files said before, perhaps
		action = config.WatchRestart
	}
	var result string
	if err == nil && action == config.WatchRestart {
		result, err = manager.Restart(limited, unit)
	} else if err == nil {
		result, err = manager.Reload(limited, unit)
	}
	if err == nil && result != "done" {
		err = fmt.Errorf("its job ended as %s", result)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w.tell(ctx, evConfigBlamed, guard.LevelError, unit, action.String(), fmt.Sprintf("%s of %s after a change of its configuration failed: %v; the probable cause is %s", action, unit, err, files))
		return
	}
	w.tell(ctx, evConfigApplied, guard.LevelNotice, unit, action.String(), fmt.Sprintf("%s of %s: its changed configuration (%s) is in force; a failure in the next %s is put down to it",
		action, unit, files, spec.Blame))
	if action == config.WatchRestart {
		before.Restarts = 0 // systemd counts anew
	}
	_ = w.d.inLoop(ctx, func() { w.beginBlame(unit, files, spec.Blame, before.Restarts) })
}

func (w *watches) tell(ctx context.Context, name guard.EventName, level guard.Level, unit, reason, message string) {
	_ = w.d.inLoop(ctx, func() { w.d.tellUnit(name, level, unit, reason, message) })
}

// tellUnit reports an event about a unit.
func (d *Daemon) tellUnit(name guard.EventName, level guard.Level, unit, reason, message string) {
	d.report(&guard.Event{Name: name, Level: level, Table: -1, Slot: -1, Unit: unit, Reason: reason, Message: message})
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
	case now.Active == "failed":
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
	w.d.tellUnit(evConfigBlamed, guard.LevelError, unit, how, fmt.Sprintf("%s failed %.0fs after it took a changed configuration (%s): the probable cause is %s",
		unit, (process.Now()-b.applied).Seconds(), how, b.files))
}
