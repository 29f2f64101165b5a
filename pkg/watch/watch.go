package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// Patrol is how often files are looked at where nothing was said to have moved: what is on a network file system,
	// or hangs below a directory that was moved, is found so.
	Patrol = 30 * time.Second
	// blindPatrol is the same where inotify is not to be had.
	blindPatrol = 2 * time.Second
)

// Spec names files.
type Spec struct {
	Files  []string      // absolute, clean paths; their last parts may be patterns (path.Match)
	Settle time.Duration // how long their content has to stay as it is

	Known map[string]Sum // their content that is in force; nil: what they hold when Run begins
}

// Watcher watches the files of many Specs. Without inotify it looks often.
type Watcher struct {
	n     *notifier // nil: there is no inotify
	begin time.Time
}

// New makes a Watcher. An error says why there is no inotify; the Watcher does without it then.
func New() (*Watcher, error) {
	w := &Watcher{begin: time.Now()}
	n, err := newNotifier()
	if err != nil {
		return w, err
	}
	w.n = n
	go n.run()
	return w, nil
}

// Close ends what New began, once no Run is under way.
func (w *Watcher) Close() {
	if w.n != nil {
		w.n.close()
	}
}

// Handlers are what Run calls, on its own goroutine: while one of them runs nothing is looked at, and nothing is lost.
type Handlers struct {
	Changed func(Change) (inForce bool) // says whether the new content is in force now
	InForce func(map[string]Sum)        // is told of the content in force, also of that which Run begins with
	Trouble func(text string)           // what is missing or cannot be read, each text once; "" when that is over
}

// Run looks at the files until ctx ends.
func (w *Watcher) Run(ctx context.Context, spec Spec, h Handlers) { w.run(ctx, spec, h, nil) }

// run calls looked, if there is one, after each look.
func (w *Watcher) run(ctx context.Context, spec Spec, h Handlers, looked func()) {
	patrol := Patrol
	var moved chan struct{}
	l := looker{patterns: spec.Files}
	watch := func([]string) error { return nil }
	if w.n == nil {
		patrol = min(blindPatrol, max(spec.Settle, time.Millisecond))
	} else {
		s := w.n.subscribe()
		defer s.end()
		moved, watch = s.moved, s.watch
	}
	d := NewDebouncer(spec.Settle, patrol)
	if spec.Known != nil {
		d.Know(spec.Known)
	}
	inForce := spec.Known
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-moved:
			d.Touch(w.now())
			timer.Reset(max(d.Next()-w.now(), 0))
			continue
		case <-timer.C:
		}
		// Watched first and looked at then, so that nothing is missed in between; a link that was swapped leads to
		// other directories.
		var failed error
		dirs := l.directories()
		for range 3 {
			failed = watch(dirs)
			again := l.directories()
			if slices.Equal(dirs, again) {
				break
			}
			dirs = again
		}
		s := l.look()
		if change, is := d.Look(w.now(), s); is && h.Changed(change) {
			d.InForce()
		}
		if d.inForce != nil && (inForce == nil || !maps.Equal(d.inForce, inForce)) {
			inForce = d.inForce
			h.InForce(inForce)
		}
		if text := trouble(&s, failed); text != said {
			said = text
			h.Trouble(text)
		}
		if looked != nil {
			looked()
		}
		timer.Reset(max(d.Next()-w.now(), 0))
	}
}

func (w *Watcher) now() time.Duration { return time.Since(w.begin) }

func trouble(s *Snapshot, failed error) string {
	var parts []string
	if len(s.Missing) > 0 {
		parts = append(parts, strings.Join(s.Missing, ", ")+" is not there")
	}
	if s.Problem != "" {
		parts = append(parts, s.Problem)
	}
	if failed != nil {
		parts = append(parts, fmt.Sprintf("%v (changes are found each %s only)", failed, Patrol))
	}
	return strings.Join(parts, "; ")
}
