package escalate

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// exitNotice is how long the notice of an exit may come after a signal found nobody, or after a core dump was written.
// Measured: 0.1 ms, 56 ms on busy cores, and 30 µs more for each MB that the process holds.
const exitNotice = time.Second

// A wait is made of short sleeps, and what a sleep is late by counts only up to awaitSlack: a machine that was paused
// must not use up the grace of a target that was paused with it.
const (
	awaitStep   = time.Second
	remainsStep = 50 * time.Millisecond // where no notice tells the end of the last of a scope
	awaitSlack  = 250 * time.Millisecond
)

// job is a Job under way. Its states:
//
//	queued ──▶ active ──▶ reported
//	   └─────────────────────▲
//
// The worker (or, while it is queued, the watcher) alone moves it on; cancel only leaves word.
type job struct {
	Job
	started time.Time // when Start took it
	last    int       // the last step whose signal was sent; -1: none
	end     end       // of a queued job, as the watcher knows it

	mu        sync.Mutex // held while a signal is sent: none follows a cancel
	cancelled bool
	cancel    chan struct{} // closed with cancelled
}

func newJob(spec Job) *job {
	j := &job{Job: spec, started: time.Now(), cancel: make(chan struct{})}
	j.Sent = j.Sent || j.Waited > 0
	if j.last = j.From - 1; j.Sent {
		j.last = j.From
	}
	return j
}

func (j *job) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.cancelled {
		j.cancelled = true
		close(j.cancel)
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

// outcome is about the last step that was taken.
func (j *job) outcome(kind Kind) Outcome { return j.outcomeOf(kind, j.last, nil) }

func (j *job) outcomeOf(kind Kind, step int, err error) Outcome {
	o := Outcome{ID: j.ID, Kind: kind, Step: -1, Err: err}
	if step >= 0 && step < len(j.Steps) {
		o.Step, o.Signal = step, j.Steps[step].Signal
	}
	return o
}

// remains reports whether an ended target has left others to this ladder. One that ended before it got a signal has
// not: they did nothing that this ladder is for.
func (j *job) remains() bool { return (j.last >= 0 || j.Left) && j.Target.Remains() }

// end is what the watcher knows about the target of a queued job.
type end uint8

const (
	endNone    end = iota // it lives
	endUnknown            // it ended; Remains was not asked yet
	endGone               // it ended, and nobody remains
	endLeft               // it ended, and others remain: the worker will see to them, however long that takes
)

// queuedEnd looks whether the target of a queued job has ended.
func (j *job) queuedEnd() end {
	if j.end == endNone && closed(j.Exited) {
		j.end = endUnknown
		if j.last < 0 && !j.Left {
			j.end = endGone
		}
	}
	return j.end
}

// askRemains is asked of endUnknown. A worker may have taken the job meanwhile: what is the worker's is not touched.
func (j *job) askRemains() {
	j.end = endGone
	if j.Target.Remains() {
		j.end = endLeft
	}
}

// walk takes the steps, and returns the last outcome.
func (p *Pool) walk(j *job) Outcome {
	if j.From < 0 || j.From >= len(j.Steps) {
		return j.outcomeOf(Failed, -1, fmt.Errorf("ladder of %d steps has no step %d", len(j.Steps), j.From))
	}
	for i := j.From; i < len(j.Steps); i++ {
		wait := j.Steps[i].Wait
		if i == j.From && j.Sent {
			wait -= max(j.Waited, 0) + time.Since(j.started)
		} else {
			switch {
			case closed(j.Exited):
				if !j.remains() {
					return j.outcome(Gone)
				}
			case j.Target.Recovered():
				return j.outcome(Recovered)
			}
			ok, err := j.signal(j.Steps[i].Signal)
			if !ok {
				return j.outcome(Cancelled)
			}
			if err != nil {
				return j.unsent(i, err)
			}
			j.last = i
			p.report(j.outcome(Signalled))
		}
		_, kind := j.await(wait, nil)
		if kind == Signalled {
			kind = p.awaitDump(j, j.DumpWait+min(wait, 0))
		}
		if kind != Signalled {
			return j.outcome(kind)
		}
	}
	return j.outcome(Unkillable)
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
func (j *job) unsent(step int, err error) Outcome {
	_, kind := j.await(exitNotice, nil)
	if kind != Signalled {
		return j.outcome(kind)
	}
	nobody := errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone)
	if nobody && !closed(j.Exited) { // else others remain, whom the signal did not find
		return j.outcome(Gone)
	}
	return j.outcomeOf(Failed, step, err)
}

// awaitDump lets the wait after a signal go on while the target dumps core, for d at most, and returns what await does.
// SIGKILL alone reaches a process that dumps, and cuts the dump off (prepare_signal of kernel/signal.c): what still
// dumps after that is stuck.
func (p *Pool) awaitDump(j *job, d time.Duration) Kind {
	dumping := func() bool { return !closed(j.Exited) && j.Target.Dumping() }
	if d <= 0 || j.Steps[j.last].Signal == unix.SIGKILL || !dumping() {
		return Signalled
	}
	p.report(j.outcome(Dumping))
	d, kind := j.await(d, dumping)
	if kind == Signalled && !closed(j.Exited) {
		// After its dump it ends by itself, once its memory is given back: no signal is to claim that.
		_, kind = j.await(min(d, exitNotice), nil)
	}
	return kind
}

// await waits for the end of the target and of all that remains, for d at most: Gone, Cancelled, or Signalled when
// neither has come. It also returns when still, asked after each sleep, is false; left is what d has then.
func (j *job) await(d time.Duration, still func() bool) (left time.Duration, kind Kind) {
	exited, longest := j.Exited, awaitStep
	timer := time.NewTimer(min(d, longest))
	defer timer.Stop()
	for {
		step, begin := min(d, longest), time.Now()
		select {
		case <-exited:
		case <-j.cancel:
		case <-timer.C:
		}
		// Of several that are ready, select takes any: the exit counts before all.
		if closed(j.Exited) {
			if !j.remains() {
				return d, Gone
			}
			exited, longest = nil, remainsStep
		}
		if closed(j.cancel) {
			return d, Cancelled
		}
		if d -= min(time.Since(begin), step+awaitSlack); d <= 0 || still != nil && !still() {
			return d, Signalled
		}
		timer.Reset(min(d, longest))
	}
}
