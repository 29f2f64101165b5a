package daemon

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// restoreQueue bounds the units that wait for a look; more are answered as
	// failed, and tried again by the guard.
	restoreQueue = 1024
	// restoresMax units are brought back at a time, each by a goroutine of its own: a
	// start job waits for its unit, and some that take long must not keep the others
	// down. The system bus allows 128 calls without an answer.
	restoresMax = 100
	// restoreTimeout bounds one look and start: a start job waits for the unit.
	restoreTimeout = 90 * time.Second
	// learnTimeout bounds the question for a main process.
	learnTimeout = 10 * time.Second
)

// restorer brings units back over D-Bus, on goroutines of its own: the bus can
// stall. While its targets are alive it learns which are main processes: systemd
// forgets that of a service that ended well, unless another unit that is loaded
// refers to it, and of one that it has started again. The guard keeps it, also over
// a restart of the daemon.
type restorer struct {
	units systemd.Units
	queue chan restoreJob
	learn chan unitProcess
	post  func(guard.Observation)

	settle time.Duration // settleTime
	// forbids asks the loop, just before a job is asked for that takes these other units along.
	forbids func(ctx context.Context, ask uint64, along []string) (is bool, why string)

	mu    sync.Mutex
	runs  map[string]bool // units of commands of which systemd is to remember how they end
	then  []string        // units that rules restart after others
	waits map[string]int  // units that wait to be brought back, and for how many

	pins  chan struct{} // either has changed: see pinAll
	stops chan string   // units that somebody has stopped while they were down

	names   []string                    // under mu: of units, in the configuration
	renamed chan struct{}               // they have changed: see learnNames
	known   func(ids map[string]string) // is told which of them are other names of units
}

// restoreJob is one question to systemd.
type restoreJob struct {
	ask uint64 // its number
	do  func(context.Context) guard.RestoreDone
}

// unitProcess is a target that may be the main process of its unit.
type unitProcess struct {
	target guard.TargetID
	unit   string
	pid    int32
}

func newRestorer(post func(guard.Observation)) *restorer {
	r := &restorer{queue: make(chan restoreJob, restoreQueue), learn: make(chan unitProcess, restoreQueue), post: post, settle: settleTime,
		forbids: func(context.Context, uint64, []string) (bool, string) { return false, "" },
		runs:    map[string]bool{}, waits: map[string]int{}, pins: make(chan struct{}, 1), stops: make(chan string, restoreQueue),
		renamed: make(chan struct{}, 1), known: func(map[string]string) {}}
	r.units.OnStop(func(unit string) {
		select {
		case r.stops <- unit:
		default: // it is still known when it would be started
		}
	})
	return r
}

// meet has a new target looked at, if it may be a main process: those are
// children of systemd. Where too many wait, what systemd knows at the end of it
// has to do.
func (r *restorer) meet(target guard.TargetID, p guard.Facts, pid int32) {
	if p.PPID != 1 || !strings.HasSuffix(p.Unit, ".service") {
		return
	}
	select {
	case r.learn <- unitProcess{target, p.Unit, pid}:
	default:
	}
}

func (r *restorer) learnMains(ctx context.Context) {
	for {
		select {
		case m := <-r.learn:
			ctx, cancel := context.WithTimeout(ctx, learnTimeout)
			pid, err := r.units.MainPID(ctx, m.unit)
			cancel()
			if err == nil && pid == m.pid {
				r.post(guard.MainProcess{Target: m.target})
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *restorer) ask(j restoreJob) {
	select {
	case r.queue <- j:
	default:
		r.post(guard.RestoreDone{Ask: j.ask, Failed: true, Unasked: true, Reason: "too many units wait to be restored"})
	}
}

func (r *restorer) run(ctx context.Context) {
	defer r.units.Close()
	var all sync.WaitGroup
	all.Go(func() { r.learnMains(ctx) })
	all.Go(func() { r.pinAll(ctx) })
	all.Go(func() { r.learnNames(ctx) })
	all.Go(func() {
		for {
			select {
			case unit := <-r.stops:
				r.stopped(ctx, unit)
			case <-ctx.Done():
				return
			}
		}
	})
	all.Go(func() {
		free := make(chan struct{}, restoresMax)
		for ctx.Err() == nil {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			select {
			case j := <-r.queue:
				all.Go(func() {
					limited, cancel := context.WithTimeout(ctx, restoreTimeout)
					defer cancel()
					o := j.do(limited)
					o.Ask = j.ask
					r.post(o)
					<-free
				})
			case <-ctx.Done():
			}
		}
	})
	all.Wait()
}

// startUnits begins to start what comes back; the registry has it by now: who ends by
// that is not taken for another crash by a daemon that starts meanwhile.
func (d *Daemon) startUnits() {
	for _, j := range d.starts {
		d.restorer.ask(j)
	}
	clear(d.starts)
	d.starts = d.starts[:0]
}
