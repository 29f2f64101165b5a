// Package escalate walks ladders of signals: a bounded pool of workers, each of which ends one target.
//
// The pool knows a target by the questions of Target only; who is signalled, and why, is decided elsewhere.
package escalate

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// exitNotice is how long the notice of an exit may come after a signal found nobody. Measured: 0.1 ms, 56 ms on
	// busy cores, and 30 µs more for each MB that the process holds.
	exitNotice = time.Second

	// maxWatched bounds the select over queued jobs: one costs about 0.2 µs for each, and reflect allows 65536. Jobs
	// further behind are looked at when an earlier one leaves the queue.
	maxWatched = 4096
)

// Target is what a ladder ends.
type Target interface {
	// Signal sends sig. The error about a target that has ended already satisfies errors.Is(err, unix.ESRCH) or
	// errors.Is(err, os.ErrProcessDone).
	Signal(sig unix.Signal) error
	// Recovered reports whether the target beat again since it was condemned. It is asked before each signal.
	Recovered() bool
	// Dumping reports whether the target writes a core dump. It is asked when the wait after a step's signal is over.
	Dumping() bool
	// Remains reports whether others that the ladder is for outlive the target. It is asked once Exited is closed.
	Remains() bool
}

// Job is one ladder for one target.
type Job struct {
	ID     uint64 // of the ladder; free again after its last Outcome
	Target Target
	Steps  []config.Step
	From   int // the first step to take

	// Waited and Sent take a ladder up where an earlier process left it: the signal of step From was sent Waited ago.
	// A Waited above 0 implies Sent. Time in the queue counts.
	Waited time.Duration
	Sent   bool

	DumpWait time.Duration // for which the wait after a signal goes on at most while the target dumps core

	Exited <-chan struct{} // closed when the target has ended
}

// Kind is what an Outcome says.
type Kind uint8

const (
	Signalled  Kind = iota // the signal of Step was sent; the ladder goes on
	Dumping                // the wait of Step is over, and goes on for the core dump; once for each step, the ladder goes on
	Recovered              // beat again, and was spared
	Gone                   // ended
	Unkillable             // outlived the last step
	Failed                 // could not be signalled; Err says why. No further step is taken
	Cancelled              // by Cancel or Close
)

func (k Kind) String() string {
	switch k {
	case Signalled:
		return "signalled"
	case Dumping:
		return "dumping"
	case Recovered:
		return "recovered"
	case Gone:
		return "gone"
	case Unkillable:
		return "unkillable"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("kind %d", k)
}

// Outcome reports about a ladder: Signalled and Dumping for each step, then one of the other kinds, once.
type Outcome struct {
	ID     uint64
	Kind   Kind
	Step   int         // of Signalled, Dumping and Failed: that step; else the last one whose signal was sent, -1 for none
	Signal unix.Signal // of that step, 0 for none
	Err    error       // of Failed
}

// job is a Job under way. Its states:
//
//	queued ──▶ active ──▶ reported
//	   └─────────────────────▲
//
// The worker (or, while it is queued, the watcher) alone moves it on; cancel only leaves word.
type job struct {
	Job
	started time.Time // when Start took it

	mu        sync.Mutex // held while a signal is sent: none follows a cancel
	cancelled bool
	cancel    chan struct{} // closed with cancelled
}

func (j *job) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.cancelled {
		j.cancelled = true
		close(j.cancel)
	}
}

// Pool runs ladders, each in a goroutine of its own, and at most as many at once as it is allowed; one more goroutine
// waits for the exits of queued targets.
type Pool struct {
	report func(Outcome)

	mu       sync.Mutex
	max      int
	jobs     map[uint64]*job // queued and active, without those that were cancelled
	running  map[*job]bool   // active
	queue    []*job
	watching bool          // a watcher runs; true whenever the queue holds something
	wake     chan struct{} // tells the watcher that the queue or a job in it changed
	closed   bool
	workers  sync.WaitGroup
}

// New returns a pool that walks at most max ladders at once (at least one). report is called from the workers, for one
// ladder in order; it must not block and must not call Close.
func New(max int, report func(Outcome)) *Pool {
	return &Pool{
		report:  report,
		max:     atLeastOne(max),
		jobs:    map[uint64]*job{},
		running: map[*job]bool{},
		wake:    make(chan struct{}, 1),
	}
}

func atLeastOne(n int) int { return max(n, 1) }

// Start begins a ladder, or queues it behind those that came before. A job whose ID is under way already is ignored.
// After Close it is reported as Cancelled, by Start itself.
func (p *Pool) Start(spec Job) {
	spec.Sent = spec.Sent || spec.Waited > 0
	j := &job{Job: spec, started: time.Now(), cancel: make(chan struct{})}
	if !p.enqueue(j) {
		p.report(j.outcome(Cancelled, j.firstSent(), nil))
	}
}

// enqueue is false when the pool is closed.
func (p *Pool) enqueue(j *job) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.jobs[j.ID] != nil {
		return true
	}
	p.jobs[j.ID] = j
	p.queue = append(p.queue, j)
	p.admit()
	if len(p.queue) > 0 && !p.watching {
		p.watching = true
		p.workers.Go(p.watch)
	}
	p.wakeWatcher()
	return true
}

// Cancel ends a ladder: when it returns, no further signal is sent. Its Outcome is Cancelled, or Gone when the target
// has ended. An ID that is not under way is ignored.
func (p *Pool) Cancel(id uint64) {
	p.mu.Lock()
	j := p.jobs[id]
	delete(p.jobs, id)
	p.mu.Unlock()
	if j == nil {
		return
	}
	j.stop()
	p.wakeWatcher()
}

// SetMax changes how many ladders may be under way at once (at least one). Those under way go on.
func (p *Pool) SetMax(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = atLeastOne(n)
	p.admit()
	p.wakeWatcher()
}

// Active is the number of ladders under way.
func (p *Pool) Active() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.running)
}

// Queued is the number of ladders that wait for a worker.
func (p *Pool) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// Close cancels all ladders and waits until each has been reported. It may be called again.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	all := slices.Clone(p.queue)
	for j := range p.running {
		all = append(all, j)
	}
	p.mu.Unlock()
	for _, j := range all {
		j.stop()
	}
	p.wakeWatcher()
	p.workers.Wait()
}

func (p *Pool) wakeWatcher() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// admit starts a worker for each queued job that there is room for. p.mu is held.
func (p *Pool) admit() {
	for j := p.next(); j != nil; j = p.next() {
		p.workers.Go(func() { p.work(j) })
	}
}

// next makes the first of the queue active, where there is room for it. p.mu is held.
func (p *Pool) next() *job {
	if p.closed || len(p.queue) == 0 || len(p.running) >= p.max {
		return nil
	}
	j := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.running[j] = true
	return j
}

// work walks ladders until there is none left for it.
func (p *Pool) work(j *job) {
	for j != nil {
		last := p.walk(j)
		p.mu.Lock()
		delete(p.running, j)
		p.forget(j)
		j = p.next()
		p.mu.Unlock()
		p.wakeWatcher()
		p.report(last)
	}
}

// forget frees the ID, unless a cancelled job has left it to another already. p.mu is held.
func (p *Pool) forget(j *job) {
	if p.jobs[j.ID] == j {
		delete(p.jobs, j.ID)
	}
}

// watch reports queued jobs that end or are cancelled, until the queue is empty.
func (p *Pool) watch() {
	for {
		var over []Outcome
		p.mu.Lock()
		p.queue = slices.DeleteFunc(p.queue, func(j *job) bool {
			switch {
			case closed(j.Exited):
				over = append(over, j.outcome(Gone, j.firstSent(), nil))
			case closed(j.cancel):
				over = append(over, j.outcome(Cancelled, j.firstSent(), nil))
			default:
				return false
			}
			p.forget(j)
			return true
		})
		p.watching = len(p.queue) > 0
		again := p.watching
		cases := []reflect.SelectCase{{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(p.wake)}}
		for _, j := range p.queue[:min(len(p.queue), maxWatched)] {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(j.Exited)})
		}
		p.mu.Unlock()
		for _, o := range over {
			p.report(o)
		}
		if !again {
			return
		}
		reflect.Select(cases)
	}
}

// firstSent is the last step whose signal was sent before this pool took the job; -1 for none.
func (j *job) firstSent() int {
	if j.Sent {
		return j.From
	}
	return j.From - 1
}

func (j *job) outcome(kind Kind, step int, err error) Outcome {
	o := Outcome{ID: j.ID, Kind: kind, Step: -1, Err: err}
	if step >= 0 && step < len(j.Steps) {
		o.Step, o.Signal = step, j.Steps[step].Signal
	}
	return o
}

// walk takes the steps, and returns the last outcome.
func (p *Pool) walk(j *job) Outcome {
	sent := j.firstSent()
	if j.From < 0 || j.From >= len(j.Steps) {
		return j.outcome(Failed, -1, fmt.Errorf("ladder of %d steps has no step %d", len(j.Steps), j.From))
	}
	for i := j.From; i < len(j.Steps); i++ {
		wait := j.Steps[i].Wait
		if i == j.From && j.Sent {
			wait -= max(j.Waited, 0) + time.Since(j.started)
		} else {
			if closed(j.Exited) {
				return j.outcome(Gone, sent, nil)
			}
			if j.Target.Recovered() {
				return j.outcome(Recovered, sent, nil)
			}
			ok, err := j.signal(j.Steps[i].Signal)
			if !ok {
				return j.outcome(Cancelled, sent, nil)
			}
			if err != nil {
				return j.unsent(i, sent, err)
			}
			sent = i
			p.report(j.outcome(Signalled, i, nil))
		}
		if kind := j.await(wait); kind != Signalled {
			return j.outcome(kind, sent, nil)
		}
	}
	return j.outcome(Unkillable, sent, nil)
}

// signal sends sig; ok is false when the job was cancelled before.
func (j *job) signal(sig unix.Signal) (ok bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cancelled {
		return false, nil
	}
	return true, j.Target.Signal(sig)
}

// unsent is the outcome of a step whose signal could not be sent. Whatever the error is: when the notice of the exit
// comes, the target was gone.
func (j *job) unsent(step, sent int, err error) Outcome {
	kind := j.await(exitNotice)
	if kind != Signalled {
		return j.outcome(kind, sent, nil)
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return j.outcome(Gone, sent, nil)
	}
	return j.outcome(Failed, step, err)
}

// A wait is made of short sleeps, and what a sleep is late by counts only up to awaitSlack: a machine that was paused
// must not use up the grace of a target that was paused with it.
const (
	awaitStep  = time.Second
	awaitSlack = 250 * time.Millisecond
)

// await waits for the exit, for d at most: Gone, Cancelled, or Signalled when neither has come.
func (j *job) await(d time.Duration) Kind {
	timer := time.NewTimer(min(d, awaitStep))
	defer timer.Stop()
	for {
		step, begin := min(d, awaitStep), time.Now()
		select {
		case <-j.Exited:
		case <-j.cancel:
		case <-timer.C:
		}
		// Of several that are ready, select takes any: the exit counts before all.
		switch {
		case closed(j.Exited):
			return Gone
		case closed(j.cancel):
			return Cancelled
		}
		if d -= min(time.Since(begin), step+awaitSlack); d <= 0 {
			return Signalled
		}
		timer.Reset(min(d, awaitStep))
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
