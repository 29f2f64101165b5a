package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Patrol is how often files are looked at where nothing was said to have moved: what is on a network file system,
	// or hangs below a directory that was moved, is found so.
	Patrol = 30 * time.Second
	// blindPatrol is the same where inotify is not to be had.
	blindPatrol = 2 * time.Second
	// slow is how long a look takes before that is said.
	slow = 10 * time.Second
	// maxLooks bounds the looks at one time, of which each has a thread while a disk does not answer.
	maxLooks = 128
)

// Spec names files.
type Spec struct {
	Files  []string      // absolute, clean paths; their last parts may be patterns (path.Match)
	Settle time.Duration // how long their content has to stay as it is

	Known map[string]Sum // their content that is in force; nil: what they hold when Run begins
	Tell  bool           // what they hold is reported first, also where that is Known
}

// Watcher watches the files of many Specs. Without inotify it looks often.
type Watcher struct {
	n     *notifier // nil: there is no inotify
	begin time.Time

	mu    sync.Mutex
	looks map[string]chan struct{} // under way, by the files: closed at the end
	slots chan struct{}
}

// New makes a Watcher. An error says why there is no inotify; the Watcher does without it then.
func New() (*Watcher, error) {
	w := &Watcher{begin: time.Now(), looks: map[string]chan struct{}{}, slots: make(chan struct{}, maxLooks)}
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
	Changed func(Change) Answer  // says what came of it
	InForce func(map[string]Sum) // is told of the content in force, also of that which Run begins with
	Trouble func(text string)    // what is missing or cannot be read, each text once; "" when that is over
}

// Run looks at the files until ctx ends, also where a disk does not answer: the look is left behind then, and no other one
// at the same files begins before it ends.
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
		d.Know(spec.Known, spec.Tell)
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
		var s Snapshot
		var failed error
		look := func() { s, failed = l.lookWatched(watch) }
		if !w.do(ctx, strings.Join(spec.Files, "\x00"), look, func(text string) {
			said = text
			h.Trouble(text)
		}) {
			return
		}
		if change, is := d.Look(w.now(), s); is {
			answer := h.Changed(change)
			d.Answer(w.now(), answer)
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

// lookWatched has the directories watched first and looks at the files then, so that nothing is missed in between; a link
// that was swapped leads to other directories.
func (l *looker) lookWatched(watch func(dirs []string) error) (s Snapshot, failed error) {
	dirs := l.directories()
	for range 3 {
		failed = watch(dirs)
		again := l.directories()
		if slices.Equal(dirs, again) {
			break
		}
		dirs = again
	}
	return l.look(), failed
}

// do runs a look on a goroutine of its own and waits for it: false if ctx ended before. Of those with one key one runs at a
// time, however many were left behind.
func (w *Watcher) do(ctx context.Context, key string, look func(), say func(text string)) bool {
	late := time.NewTimer(slow)
	defer late.Stop()
	wait := func(c <-chan struct{}) bool {
		for {
			select {
			case <-c:
				return true
			case <-ctx.Done():
				return false
			case <-late.C:
				say(fmt.Sprintf("no answer from their disk for %s: %s", slow, unseen))
			}
		}
	}
	done := make(chan struct{})
	for {
		w.mu.Lock()
		before := w.looks[key]
		if before == nil {
			w.looks[key] = done
		}
		w.mu.Unlock()
		if before == nil {
			break
		}
		if !wait(before) {
			return false
		}
	}
	go func() {
		defer func() {
			w.mu.Lock()
			delete(w.looks, key)
			w.mu.Unlock()
			close(done)
		}()
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		look()
		<-w.slots
	}()
	return wait(done) && ctx.Err() == nil
}

func (w *Watcher) now() time.Duration { return time.Since(w.begin) }

// unseen is what follows of files that cannot be looked at.
const unseen = "no change is taken before that is mended"

func trouble(s *Snapshot, failed error) string {
	var parts []string
	if len(s.Missing) > 0 {
		parts = append(parts, strings.Join(s.Missing, ", ")+" is not there")
	}
	parts = append(parts, s.Problems...)
	switch {
	case len(parts) > 0:
		parts = append(parts, unseen)
	case failed != nil:
		parts = append(parts, failed.Error(), fmt.Sprintf("changes are found each %s only", Patrol))
	}
	return strings.Join(parts, "; ")
}
