package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// heldLook is how often it is looked whether a change can be put in force that waits.
	heldLook = 2 * time.Second
	// retryMin and retryMax bound the wait between two tries while systemd or the bus
	// does not answer, retryFor all of them together.
	retryMin = 2 * time.Second
	retryMax = time.Minute
	retryFor = 30 * time.Minute
)

// watches carries changes of the configuration of guarded programs: for each rule
// that names files one goroutine looks at them, has the check run and the units
// reloaded or restarted, all through systemd. What it needs of the guard it asks
// the loop for.
type watches struct {
	d       *Daemon
	watcher *watch.Watcher // nil: no rule has needed one so far
	watched *watched
	dirty   chan struct{} // holds one value when the file of watched is to be written
	ours    atomic.Bool   // that file: this guard has the registry
	taking  sync.Mutex
	foreign bool // the file was another guard's when it was read
	all     sync.WaitGroup

	endWrite context.CancelFunc

	// Owned by the loop.
	running map[string]running // by keyOf
	rules   map[string]int     // index of the rule in force
	learn   bool               // a target has registered since units were learnt
	blames  map[string]*blame  // by unit
}

// running is a goroutine that watches files as a rule said when it began.
type running struct {
	says string
	end  context.CancelFunc
}

// blame is the window in which a failure of a unit is put down to a change.
type blame struct {
	files   string
	applied time.Duration
	end     context.CancelFunc
}

func newWatches(d *Daemon) *watches {
	return &watches{d: d, running: map[string]running{}, rules: map[string]int{}, blames: map[string]*blame{},
		dirty: make(chan struct{}, 1)}
}

// keyOf is what is known of files, and of the units that they are for, by.
func keyOf(r *config.Rule) string { return fmt.Sprintf("%q %q", r.Match, r.Watch.Files) }

// set has the files of these rules watched, on the loop or before it runs. A rule
// that is for whom and names what one was and did before keeps what is known of that.
func (w *watches) set(rules []config.Rule) {
	clear(w.rules)
	var begin []string
	for i := range rules {
		r := &rules[i]
		if len(r.Watch.Files) == 0 {
			continue
		}
		key := keyOf(r)
		for _, twice := w.rules[key]; twice; _, twice = w.rules[key] {
			key += "+"
		}
		w.rules[key] = i
		w.learn = true
		if now, ok := w.running[key]; ok && now.says == fmt.Sprintf("%q", r.Watch) {
			continue
		} else if ok {
			now.end()
		}
		begin = append(begin, key)
	}
	if w.watcher == nil && len(begin) > 0 {
		w.begin()
	}
	if w.watched != nil {
		w.watched.stand(w.rules)
	}
	for _, key := range begin {
		ctx, cancel := context.WithCancel(context.Background())
		watcher, spec, was := w.watcher, rules[w.rules[key]].Watch, &carrying{}
		w.running[key] = running{fmt.Sprintf("%q", spec), cancel}
		w.all.Go(func() {
			watcher.Run(ctx, watch.Spec{Files: spec.Files, Settle: spec.Settle, Known: w.watched.known(key)}, watch.Handlers{
				Changed: func(c watch.Change) watch.Answer { return w.changed(ctx, key, spec, c, was) },
				InForce: func(sums map[string]watch.Sum) { w.keep(key, sums) },
				Trouble: func(text string) { w.trouble(ctx, key, text) },
			})
		})
	}
	for key, now := range w.running {
		if _, ok := w.rules[key]; !ok {
			now.end()
			delete(w.running, key)
		}
	}
}

// begin makes what all rules share.
func (w *watches) begin() {
	var err error
	if w.watcher, err = watch.New(); err != nil {
		w.d.degraded("inotify", fmt.Sprintf("%v: files are looked at each few seconds instead", err))
	}
	w.watched = &watched{path: filepath.Join(w.d.cfg.RuntimeDir, "watched"), all: map[string]*watchedRule{}}
	if err := w.watched.load(); err != nil {
		w.d.degraded("watched", fmt.Sprintf("%v: what watched files hold now counts as in force", err))
	}
	w.ours.Store(w.d.registry != nil)
	w.foreign = w.d.registry == nil
	var ctx context.Context
	ctx, w.endWrite = context.WithCancel(context.Background())
	w.all.Go(func() { w.write(ctx) })
}

// takeOver reads what the guard has carried that had the registry before this one.
func (w *watches) takeOver() {
	w.taking.Lock()
	defer w.taking.Unlock()
	if w.foreign && w.ours.Load() {
		_ = w.watched.load() // it was said when it was read first
		w.foreign = false
	}
}

// learnUnits remembers to which services the rules apply, on the loop.
func (w *watches) learnUnits() {
	if ours := w.d.registry != nil; ours && !w.ours.Swap(ours) {
		w.save()
	}
	if !w.learn || len(w.rules) == 0 {
		return
	}
	w.learn = false
	of := make(map[int]string, len(w.rules))
	for key, index := range w.rules {
		of[index] = key
	}
	news := false
	for _, v := range w.d.guard.Views() {
		key, ok := of[v.Rule]
		if !ok || !v.Target || v.Shield != "" || v.State == "refused" || !strings.HasSuffix(v.Unit, ".service") || strings.HasPrefix(v.Unit, "user@") {
			continue
		}
		news = w.watched.learn(key, v.Unit, v.Name) || news
	}
	if news {
		w.save()
	}
}

// stop ends all of it, after the loop. A look that hangs is left behind.
func (w *watches) stop() {
	for _, now := range w.running {
		now.end()
	}
	for _, b := range w.blames {
		b.end()
	}
	if w.watcher == nil {
		return
	}
	w.endWrite()
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

// keep has it remembered what is in force.
func (w *watches) keep(key string, sums map[string]watch.Sum) {
	w.watched.keep(key, sums)
	w.save()
}

// save has the file written soon.
func (w *watches) save() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// write writes the file when that is wanted, until ctx ends.
func (w *watches) write(ctx context.Context) {
	for {
		select {
		case <-w.dirty:
		case <-ctx.Done():
			select {
			case <-w.dirty:
			default:
				return
			}
		}
		if !w.ours.Load() { // another guard's
			continue
		}
		w.takeOver()
		if err := w.watched.save(); err != nil {
			w.d.mail.leave(func() {
				w.d.degraded("watched", fmt.Sprintf("%v: a change of watched files under a restart of the guard is not seen", err))
			})
		}
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

// carrying is what has become of a change so far. It belongs to the goroutine of its rule.
type carrying struct {
	content watch.Sum
	checked bool
	said    string                   // what was said about it last
	trouble string                   // with systemd, the last that was said
	since   time.Duration            // that trouble, CLOCK_MONOTONIC
	tries   int                      // in vain
	asked   map[string]time.Duration // when a unit's start was asked for, and no answer came
}

// changed carries a change to the units that it is about, as far as that can be done
// now; it is asked again about the rest.
func (w *watches) changed(ctx context.Context, key string, spec config.Watch, c watch.Change, was *carrying) watch.Answer {
	if was.content != c.Content || was.asked == nil {
		*was = carrying{content: c.Content, asked: map[string]time.Duration{}}
	}
	w.takeOver()
	files := oneLine(strings.Join(c.Files(), ", "))
	var todo []string
	var names map[string]string
	var rest bool
	var answer watch.Answer
	err := w.d.inLoop(ctx, func() {
		var what string
		todo, names, rest, what, answer = w.plan(key, spec, c.Content)
		if what == "" || what == was.said || was.checked {
			return
		}
		was.said = what
		unit := ""
		if len(todo) == 1 {
			unit = todo[0]
		}
		w.d.tellUnit(evConfigChanged, guard.LevelInfo, unit, files, fmt.Sprintf("configuration changed (rule[%d]): %s: %s", w.rules[key], files, what))
	})
	if err != nil || len(todo) == 0 {
		was.tries = 0
		return answer
	}
	if !was.checked {
		outcome, says, err := w.check(ctx, spec, todo)
		switch {
		case ctx.Err() != nil: // another configuration is in force, or the daemon ends
			return watch.Answer{}
		case err != nil:
			return w.later(ctx, was, todo[0], files, fmt.Errorf("its check could not be run: %w", err))
		case outcome != "":
			_ = w.d.inLoop(ctx, func() {
				for _, unit := range todo {
					w.d.tellUnit(evConfigCheckFailed, guard.LevelError, unit, outcome, fmt.Sprintf("%s: its changed configuration (%s) is not put in force: %s", unit, files, says))
				}
			})
			return watch.Answer{}
		}
		was.checked = true
	}
	answer = watch.Answer{InForce: !rest, Again: heldLook}
	for _, unit := range todo {
		wait, err := w.apply(ctx, key, unit, names[unit], spec, files, was)
		switch {
		case ctx.Err() != nil:
			return watch.Answer{}
		case err != nil:
			return w.later(ctx, was, unit, files, err)
		case wait > 0:
			answer = watch.Answer{Again: max(min(wait, answer.Again), heldLook)}
		default:
			w.watched.took(key, unit, c.Content)
			w.save()
		}
	}
	was.tries = 0
	return answer
}

// plan says to which units a change is to be carried now, with a name of each, whether
// there are others that wait, and what to tell about it; for none the answer. On the loop.
func (w *watches) plan(key string, spec config.Watch, content watch.Sum) (todo []string, names map[string]string, rest bool, what string, answer watch.Answer) {
	if _, ok := w.rules[key]; !ok {
		return
	}
	w.learn = true
	w.learnUnits()
	acts, why := w.d.guard.Acts()
	if !acts {
		return nil, nil, true, "not acting: " + why, watch.Answer{Again: heldLook}
	}
	inForce := watch.SumOf(w.watched.known(key))
	names = map[string]string{}
	shielded, held := map[string]bool{}, map[string]string{}
	for _, v := range w.d.guard.Views() {
		if v.Unit != "" && v.Shield != "" {
			shielded[v.Unit] = true // whatever is said about the others in it
		}
		if v.Unit != "" && v.Hold != "" {
			held[v.Unit] = fmt.Sprintf("%s (pid %d) is held by an order", v.Unit, v.PID)
		}
	}
	holds := w.d.guard.Holds()
	known := w.watched.units(key)
	var waits []string
	done := 0
	for unit, u := range known {
		isShielded := shielded[unit] || w.d.cfg.Protected("", unit) != ""
		why := held[unit]
		for _, name := range u.Names { // also of those that have ended
			isShielded = isShielded || w.d.cfg.Protected(name, unit) != ""
			for _, h := range holds {
				if why == "" && (h.All || h.Name != "" && config.Glob(h.Name, name)) {
					why = fmt.Sprintf("%s (%s) is held by an order", unit, name)
				}
			}
		}
		took := inForce
		if u.Took != "" {
			n, err := hex.Decode(took[:], []byte(u.Took))
			if err != nil || n != len(took) {
				took = watch.Sum{}
			}
		}
		switch {
		case isShielded:
		case took == content:
			done++
		case why != "":
			waits = append(waits, why)
		default:
			todo = append(todo, unit)
			names[unit] = u.Names[len(u.Names)-1]
		}
	}
	slices.Sort(todo)
	slices.Sort(waits)
	switch rest = len(waits) > 0; {
	case len(todo) == 0 && rest:
		answer, what = watch.Answer{Again: heldLook}, "waiting: "+strings.Join(waits, ", ")
	case len(todo) == 0 && content == inForce:
		answer, what = watch.Answer{InForce: true}, "back to what is in force, nothing is to be done"
	case len(todo) == 0 && done > 0:
		answer = watch.Answer{InForce: true}
	case len(todo) == 0:
		answer, what = watch.Answer{InForce: true}, "no guarded process in a service has had that rule so far, nothing is to be done"
	default:
		what = spec.Action.String() + " of " + strings.Join(todo, ", ")
		if len(spec.Check) > 0 {
			what = "checking it, then " + what
		}
		if rest {
			what += "; waiting: " + strings.Join(waits, ", ")
		}
	}
	return todo, names, rest, what, answer
}

// later says why a change could not be carried further, each reason once, and when to try
// again: what systemd or the bus does not answer is no verdict.
func (w *watches) later(ctx context.Context, was *carrying, unit, files string, err error) watch.Answer {
	if was.tries == 0 {
		was.since = process.Now()
	}
	wait := min(retryMin<<min(was.tries, 10), retryMax)
	was.tries++
	over := process.Now()-was.since >= retryFor
	if text := err.Error(); text != was.trouble || over {
		was.trouble = text
		next := fmt.Sprintf("trying again, for %s at most", retryFor)
		if over {
			next = "giving up; it is tried again when it changes, or when the guard is started anew"
		}
		w.tell(ctx, evConfigDelayed, guard.LevelWarning, unit, text, fmt.Sprintf("%s: its changed configuration (%s) is not in force yet: %s; %s", unit, files, text, next))
	}
	if over {
		return watch.Answer{}
	}
	return watch.Answer{Again: wait}
}

// check runs the command that has to accept a new configuration, as a unit of its own. The
// outcome is "" where it did, or there is none, and says tells of it; an error says that
// nobody knows.
func (w *watches) check(ctx context.Context, spec config.Watch, units []string) (outcome, says string, err error) {
	if len(spec.Check) == 0 {
		return "", "", nil
	}
	// No two have one name: the last one may be under way yet, without anybody who waits.
	name := fmt.Sprintf("checkprocd-check-%d.service", process.Now().Microseconds())
	limited, cancel := context.WithTimeout(ctx, checkTimeout+restoreTimeout)
	defer cancel()
	outcome, err = w.d.restorer.units.RunTransient(limited, systemd.Transient{Name: name, Command: spec.Check, Timeout: checkTimeout,
		Description: "Check of the configuration of " + strings.Join(units, ", ")})
	switch {
	case err != nil && (systemd.Unanswered(err) || errors.Is(err, systemd.ErrBusy) || errors.Is(err, systemd.ErrExists)):
		return "", "", err
	case err != nil: // systemd cannot run it
		return err.Error(), err.Error(), nil
	case outcome == "":
		return "", "", nil
	}
	says = "says " + outcome
	if outcome == "timeout" {
		says = fmt.Sprintf("did not end within %s, and was ended", checkTimeout)
	}
	return outcome, fmt.Sprintf("%s %s (journalctl -u %s)", spec.Check[0], says, name), nil
}

// isStopped says whether somebody has stopped a unit, or is doing so; some fail over that.
func isStopped(s systemd.UnitState) bool {
	return s.Active == "inactive" || s.Active == "deactivating" || s.Active == "failed" && s.Stopped(process.Now())
}

// apply has a unit take its new configuration. An error says that systemd could not be
// asked, wait that it is too early.
func (w *watches) apply(ctx context.Context, key, unit, name string, spec config.Watch, files string, was *carrying) (wait time.Duration, err error) {
	limited, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	manager := &w.d.restorer.units
	if leaving, err := manager.Leaving(limited); err != nil || leaving {
		return heldLook, err
	}
	before, err := manager.State(limited, unit)
	asked, restarts := was.asked[unit]
	restarts = restarts && before.Begun >= asked && !before.Job // it was, although no answer came
	action := spec.Action
	switch {
	case systemd.Unanswered(err):
		return 0, err
	case err != nil:
	case before.Load == "not-found" && before.Active == "inactive":
		w.watched.forget(key, unit)
		return 0, nil
	case before.Load != "loaded":
		w.tell(ctx, evConfigApplied, guard.LevelNotice, unit, before.Load, fmt.Sprintf("%s is %s: it takes its changed configuration (%s) when it starts again", unit, before.Load, files))
		return 0, nil
	case isStopped(before): // by somebody
		w.tell(ctx, evConfigApplied, guard.LevelNotice, unit, before.Active, fmt.Sprintf("%s is %s: it takes its changed configuration (%s) when it starts", unit, before.Active, files))
		return 0, nil
	case before.Job: // somebody else's
		return heldLook, nil
	case before.Active == "failed", before.Active == "activating": // by what the files said before, perhaps
		action = config.WatchRestart
	}
	result := "done"
	switch {
	case err != nil:
	case action != config.WatchRestart:
		result, err = manager.Reload(limited, unit)
	case restarts:
		if before.Active == "failed" {
			result = "failed"
		}
	default:
		if _, ok := was.asked[unit]; !ok {
			down := before.Active == "failed" || before.Active == "activating"
			if wait, err := w.takeStart(ctx, unit, name, files, down, was); err != nil || wait > 0 {
				return wait, err
			}
		}
		was.asked[unit] = process.Now()
		if before.Active == "failed" {
			result, err = manager.Start(limited, unit)
		} else {
			result, err = manager.TryRestart(limited, unit)
		}
	}
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, systemd.ErrBusy), err == nil && result == "canceled":
		return heldLook, nil
	case systemd.Unanswered(err):
		return 0, err
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	} else if result != "done" {
		problem = "its job ended as " + result
	}
	if _, started := was.asked[unit]; started {
		delete(was.asked, unit)
		w.d.post(guard.UnitStarted{Unit: unit, Name: name, Problem: problem})
	}
	if problem != "" { // blamed, and not tried again with that content
		w.tell(ctx, evConfigBlamed, guard.LevelError, unit, action.String(), fmt.Sprintf("%s of %s after a change of its configuration failed: %s; the probable cause is %s", action, unit, problem, files))
		return 0, nil
	}
	w.tell(ctx, evConfigApplied, guard.LevelNotice, unit, action.String(), fmt.Sprintf("%s of %s: its changed configuration (%s) is in force; a failure in the next %s is put down to it",
		action, unit, files, spec.Blame))
	if action == config.WatchRestart {
		before.Restarts = 0 // systemd counts anew
	}
	_ = w.d.inLoop(ctx, func() { w.beginBlame(unit, files, spec.Blame, before.Restarts) })
	return 0, nil
}

// takeStart takes a start from the budget that all causes share, and says how long to wait
// where there is none.
func (w *watches) takeStart(ctx context.Context, unit, name, files string, down bool, was *carrying) (wait time.Duration, err error) {
	err = w.d.inLoop(ctx, func() {
		wait = w.d.guard.TakeStart(name, unit, down)
		w.d.saved.behind = true
		const text = "too many starts"
		if wait > 0 && was.trouble != text {
			was.trouble = text
			w.d.tellUnit(evConfigDelayed, guard.LevelWarning, unit, text, fmt.Sprintf("%s: its changed configuration (%s) is not in force yet: it was started too often lately; trying again in %s", unit, files, wait.Round(time.Second)))
		}
	})
	return wait, err
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
