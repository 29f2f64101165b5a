package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/watch"
)

// watchEnd bounds the wait for those that look at files when the daemon ends: a file
// may lie on a disk that is gone.
const watchEnd = time.Second

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
	blamed  map[string]string  // how units failed with the change that they took last
}

// running is a goroutine that watches files as a rule said when it began.
type running struct {
	says string
	end  context.CancelFunc
	over chan struct{} // closed when it has ended
}

func newWatches(d *Daemon) *watches {
	return &watches{d: d, running: map[string]running{}, rules: map[string]int{}, blames: map[string]*blame{}, blamed: map[string]string{},
		dirty: make(chan struct{}, 1)}
}

// keyOf is what is known of files, and of the units that they are for, by.
func keyOf(r *config.Rule) string { return fmt.Sprintf("%q %q", r.Match, r.Watch.Files) }

// set has the files of these rules watched, on the loop or before it runs. A rule
// that is for whom and names what one was and did before keeps what is known of that.
func (w *watches) set(rules []config.Rule) {
	clear(w.rules)
	named := map[string][]string{}
	var begin []string
	before := map[string]chan struct{}{}
	for i := range rules {
		r := &rules[i]
		if len(r.Watch.Files) == 0 {
			continue
		}
		key := keyOf(r)
		for _, twice := w.rules[key]; twice; _, twice = w.rules[key] {
			key += "+"
		}
		w.rules[key], named[key] = i, r.Watch.Files
		w.learn = true
		if now, ok := w.running[key]; ok && now.says == fmt.Sprintf("%q", r.Watch) {
			continue
		} else if ok {
			now.end()
			before[key] = now.over
		}
		begin = append(begin, key)
	}
	if w.watcher == nil && len(begin) > 0 {
		w.begin()
	}
	if w.watched != nil {
		w.watched.stand(named)
	}
	for _, key := range begin {
		ctx, cancel := context.WithCancel(context.Background())
		watcher, spec := w.watcher, rules[w.rules[key]].Watch
		carry := &carrying{w: w, key: key, spec: spec, files: oneLine(strings.Join(spec.Files, ", "))}
		over, former := make(chan struct{}), before[key]
		w.running[key] = running{fmt.Sprintf("%q", spec), cancel, over}
		w.all.Go(func() {
			defer close(over)
			if former != nil {
				<-former // it may be waiting for a job that it has begun
			}
			watcher.Run(ctx, watch.Spec{Files: spec.Files, Settle: spec.Settle, Known: w.watched.known(key), Tell: w.watched.astray(key)}, watch.Handlers{
				Changed: func(c watch.Change) watch.Answer { return carry.changed(ctx, c) },
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
	w.learnFrom(w.d.guard.Views())
}

// learnFrom remembers them of what was seen.
func (w *watches) learnFrom(views []guard.View) {
	w.learn = false
	of := make(map[int]string, len(w.rules))
	for key, index := range w.rules {
		of[index] = key
	}
	news := false
	for _, v := range views {
		key, ok := of[v.Rule]
		if !ok || !v.Target || v.State == "refused" || !strings.HasSuffix(v.Unit, ".service") || strings.HasPrefix(v.Unit, "user@") {
			continue
		}
		news = w.watched.learn(key, v.Unit, v.Name, v.User) || news
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
			w.d.degraded(what, fmt.Sprintf("files of rule[%d]: %s", index, text))
		} else {
			delete(w.d.lost, what)
		}
	})
}
