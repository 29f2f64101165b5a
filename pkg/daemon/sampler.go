package daemon

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

const (
	// sampleParts is into how many parts a period is divided: what falls due within
	// one is sampled together. Each wake costs some tens of microseconds.
	sampleParts = 10
	// sampleStep is how long such a part is at least.
	sampleStep = 250 * time.Millisecond
	// golden is the part of a period by which each next target is later than the one
	// before: so any number of them is spread evenly, whoever comes and goes.
	golden = 0.6180339887498949
)

// wants says what is read for a quantity.
var wants = [config.NumQuantities]process.Want{
	config.Memory: process.WantMemory, config.GroupMemory: process.WantGroupMemory, config.CPU: process.WantCPU,
	config.Descriptors: process.WantDescriptors, config.Threads: process.WantThreads, config.Children: process.WantChildren, config.Age: process.WantAge,
	config.PressureCPU: process.WantPressureCPU, config.PressureMemory: process.WantPressureMemory, config.PressureIO: process.WantPressureIO,
}

// samples is what the loop knows of the sampler.
type samples struct {
	list, next []guard.Sampling
	found      []guard.Sample
	period     time.Duration
}

// sampler looks at what targets use, on a goroutine of its own: each once a period. The
// loop hands it a list when that has changed, and takes what was found at its scans.
type sampler struct {
	kick chan struct{} // capacity 1: there is a new list

	mu       sync.Mutex
	list     []sampled
	period   time.Duration
	changed  bool
	found    []guard.Sample // not taken yet
	problems []string
}

// sampled is a target that is sampled.
type sampled struct {
	id   guard.TargetID
	proc *process.Process
	want process.Want
	due  time.Duration // CLOCK_MONOTONIC
}

func newSampler() *sampler { return &sampler{kick: make(chan struct{}, 1)} }

// takeSamples hands over who is to be sampled and sees what was found, on the loop.
func (d *Daemon) takeSamples() {
	s := &d.samples
	s.next = d.guard.ToSample(s.next[:0])
	if !slices.Equal(s.next, s.list) || s.period != d.cfg.Sample && len(s.list) > 0 {
		s.list, s.next, s.period = s.next, s.list, d.cfg.Sample
		d.sampler.look(d.toSample(s.list), s.period)
	}
	if len(s.list) == 0 {
		return
	}
	var problems []string
	s.found, problems = d.sampler.take(s.found[:0])
	if len(s.found) > 0 {
		d.see(guard.Sampled{Samples: s.found})
	}
	for _, p := range problems {
		d.degraded("limits "+p, fmt.Sprintf("limits: %s; what cannot be read exceeds no limit", p))
	}
}

func (d *Daemon) toSample(list []guard.Sampling) []sampled {
	out := make([]sampled, 0, len(list))
	_, limit := room()
	for _, x := range list {
		h := d.held[x.Target]
		if h == nil {
			continue
		}
		s := sampled{id: x.Target, proc: h.proc}
		if keepsFiles(limit) {
			s.want = process.KeepFiles
		}
		for q, want := range wants {
			if x.What&(1<<q) != 0 {
				s.want |= want
			}
		}
		if x.Share {
			s.want |= process.WantOpenLimit
		}
		out = append(out, s)
	}
	return out
}

// look replaces the list.
func (s *sampler) look(list []sampled, period time.Duration) {
	s.mu.Lock()
	s.list, s.period, s.changed = list, period, true
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// take returns what was found since the last time, and what could not be read. room is
// for what will be found.
func (s *sampler) take(room []guard.Sample) (found []guard.Sample, problems []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, problems = s.found, s.problems
	s.found, s.problems = room, nil
	return found, problems
}

func (s *sampler) run(ctx context.Context) {
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	var list []sampled
	var period time.Duration
	said := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		now := process.Now()
		s.mu.Lock()
		if s.changed {
			list, period = withDues(s.list, list, s.period, s.period != period, now), s.period
			s.list, s.changed = nil, false
			clear(said)
		}
		s.mu.Unlock()
		next := s.pass(list, period, now, said)
		if len(list) == 0 {
			timer.Reset(math.MaxInt64)
		} else {
			timer.Reset(max(next-process.Now(), period/sampleParts, sampleStep))
		}
	}
}

// withDues gives the targets of a new list the times that they had, and new ones a time
// within the first period.
func withDues(list, old []sampled, period time.Duration, anew bool, now time.Duration) []sampled {
	known := make(map[guard.TargetID]time.Duration, len(old))
	if !anew {
		for i := range old {
			known[old[i].id] = old[i].due
		}
	}
	for i := range list {
		x := &list[i]
		due, ok := known[x.id]
		if !ok {
			_, part := math.Modf(float64(x.id) * golden)
			due = now + time.Duration(part*float64(period))
		}
		x.due = due
	}
	return list
}

// pass samples all that are due, and says when the next one is.
func (s *sampler) pass(list []sampled, period, now time.Duration, said map[string]bool) (next time.Duration) {
	next = math.MaxInt64
	for i := range list {
		x := &list[i]
		if x.due <= now {
			if found, err := x.proc.Sample(x.want); err == nil {
				s.keep(len(list), asGuard(x.id, &found), found.Problems, said)
			} // else it has ended, and the loop hears of that
			x.due += period * ((now-x.due)/period + 1)
		}
		next = min(next, x.due)
	}
	return next
}

// maxFound bounds what the loop has not taken, for each target: it takes that at each scan, no more than ten samples of
// each, with the longest interval and the shortest period.
const maxFound = 32

func (s *sampler) keep(targets int, found guard.Sample, problems []string, said map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.found) >= maxFound*targets { // the loop stands still: what is so now counts more than what was
		s.found = slices.Delete(s.found, 0, len(s.found)/2)
	}
	s.found = append(s.found, found)
	for _, p := range problems {
		if !said[p] {
			said[p] = true
			s.problems = append(s.problems, p)
		}
	}
}

func asGuard(id guard.TargetID, s *process.Sample) guard.Sample {
	return guard.Sample{Target: id, At: s.At, CPU: s.CPU, OpenLimit: max(s.OpenLimit, 0), Values: [config.NumQuantities]float64{
		config.Memory: float64(s.Memory), config.GroupMemory: float64(s.GroupMemory), config.CPU: -1,
		config.Descriptors: float64(s.Descriptors), config.Threads: float64(s.Threads), config.Children: float64(s.Children),
		config.Age:         seconds(s.Age),
		config.PressureCPU: s.Pressure.CPU, config.PressureMemory: s.Pressure.Memory, config.PressureIO: s.Pressure.IO,
	}}
}

// seconds keeps what is not known at -1.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}
