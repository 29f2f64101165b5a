// Package escalate walks ladders of signals: a bounded pool of workers, each of which ends one target.
//
// The pool knows a target by the questions of Target only; who is signalled, and why, is decided elsewhere.
package escalate

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// maxWatched bounds the select over queued jobs: one costs about 0.2 µs for each, and reflect allows 65536. Jobs
// further behind are looked at when an earlier one leaves the queue.
const maxWatched = 4096

// Target is what a ladder ends: a process, and where its scope is wider, others with it. Remains may be asked by two
// goroutines at once; all else comes from one at a time.
type Target interface {
	// Signal sends sig. The error about a target that has ended already, with nobody of its scope left, satisfies
	// errors.Is(err, unix.ESRCH) or errors.Is(err, os.ErrProcessDone).
	Signal(sig unix.Signal) error
	// Recovered reports whether the target beat again since it was condemned. It is asked before each signal while the
	// target lives.
	Recovered() bool
	// Dumping reports whether the target writes a core dump. It is asked when the wait after a signal is over: that wait
	// then goes on, and it is asked again each second.
	Dumping() bool
	// Remains reports whether others of the scope outlive the target. It is asked once Exited is closed, if this ladder
	// has sent a signal, or Left says so: while it is true, waits and signals go on for the others. Each 50 ms of a wait it is asked anew.
	Remains() bool
}

// Job is one ladder for one target.
type Job struct {
	ID     uint64 // of the ladder; free again after its last Outcome
	Target Target
	Steps  []config.Step
	From   int // the first step to take

	// Waited and Sent take a ladder up where an earlier process left it: the signal of step From was sent Waited ago.
	// A Waited above 0 implies Sent. Time in the queue counts. What is beyond the step's wait counts for DumpWait.
	Waited time.Duration
	Sent   bool

	// Left says that the target had ended when this process took the ladder up: it goes on for the others of its scope.
	// Exited is closed.
	Left bool

	// DumpWait is for how long, at most, the wait after each signal goes on while the target dumps core; 0: not at all.
	// After SIGKILL it does not: that cuts a dump off.
	DumpWait time.Duration

	Exited <-chan struct{} // closed when the target has ended
}

// Kind is what an Outcome says.
type Kind uint8

const (
	Signalled  Kind = iota // the signal of Step was sent; the ladder goes on
	Dumping                // the wait of Step is over, and goes on for a core dump; the ladder goes on
	Recovered              // beat again, and was spared
	Gone                   // ended, and nobody of its scope remains; or ended before any signal was sent
	Unkillable             // outlived the last step, or others of its scope did
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

// Outcome reports about a ladder: Signalled for each step, then Dumping if the step waits for a dump, once; at the end
// one of the other kinds, once. A ladder that is taken up in the middle of a dump reports that dump again.
type Outcome struct {
	ID     uint64
	Kind   Kind
	Step   int         // of Signalled, Dumping and Failed: that step; else the last one whose signal was sent, -1 for none
	Signal unix.Signal // of that step, 0 for none
	Err    error       // of Failed
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
	j := newJob(spec)
	if !p.enqueue(j) {
		p.report(j.outcome(Cancelled))
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
// has ended and nobody of its scope remains. An ID that is not under way is ignored.
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
		over, ended, cases := p.sweep()
		for _, o := range over {
			p.report(o)
		}
		switch {
		case len(ended) > 0:
			for _, j := range ended {
				j.askRemains()
			}
		case cases == nil:
			return
		default:
			reflect.Select(cases)
		}
	}
}

// sweep takes what is over out of the queue. It returns the outcomes, the jobs of which Remains has to be asked before
// the next sweep (without the lock: it may read files), and what to wait for; no cases: the queue is empty.
func (p *Pool) sweep() (over []Outcome, ended []*job, cases []reflect.SelectCase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = slices.DeleteFunc(p.queue, func(j *job) bool {
		switch {
		case j.queuedEnd() == endUnknown:
			ended = append(ended, j)
			return false
		case j.queuedEnd() == endGone:
			over = append(over, j.outcome(Gone))
		case closed(j.cancel):
			over = append(over, j.outcome(Cancelled))
		default:
			return false
		}
		p.forget(j)
		return true
	})
	if p.watching = len(p.queue) > 0; !p.watching {
		return over, nil, nil
	}
	cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(p.wake)})
	for _, j := range p.queue[:min(len(p.queue), maxWatched)] {
		if j.end == endNone {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(j.Exited)})
		}
	}
	return over, ended, cases
}
