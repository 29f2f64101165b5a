package guard

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// figures are what a simulation measures.
type figures struct {
	schedules, signals, restarts int
	hosts                        time.Duration // that passed on them
	processes                    time.Duration // times those that ran
	condemned                    int           // hangs that were found
	hangs                        int           // of these, such as nothing hid or delayed
	lateness                     [2001]int     // of those, in thousandths of an interval
	most                         time.Duration
	gaveUp, limits, limitActs    int // names given up, limits exceeded, what was done about units for them
}

// late notes a hang that nothing hid, found by so much after its timeout and margin.
func (f *figures) late(by, interval time.Duration) {
	f.hangs++
	f.most = max(f.most, by*1000/interval)
	f.lateness[max(0, min(int(by*1000/interval), len(f.lateness)-1))]++
}

func (f *figures) add(o *figures) {
	f.schedules += o.schedules
	f.signals += o.signals
	f.restarts += o.restarts
	f.hosts += o.hosts
	f.processes += o.processes
	f.condemned += o.condemned
	f.hangs += o.hangs
	for i := range f.lateness {
		f.lateness[i] += o.lateness[i]
	}
	f.most = max(f.most, o.most)
	f.gaveUp += o.gaveUp
	f.limits += o.limits
	f.limitActs += o.limitActs
}

// percentile is how late that share of the hangs was found at most, in intervals.
func (f *figures) percentile(share float64) float64 {
	left := int(share * float64(f.hangs))
	for i, n := range f.lateness {
		if left -= n; left < 0 {
			return float64(i) / 1000
		}
	}
	return float64(f.most) / 1000
}

// campaign runs the schedules of a seed on all processors, until there were count
// of them, the time is up, or one finds a fault.
type campaign struct {
	seed, count uint64
	until       time.Time
	all         figures
	cover       coverage
	fault       string

	mu sync.Mutex
}

func (c *campaign) run(progress func(*campaign)) {
	var next atomic.Uint64
	var over atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !over.Load() {
				c.share(&next, &over)
			}
		})
	}
	done := make(chan struct{})
	if progress != nil {
		go func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(10 * time.Second):
					c.mu.Lock()
					progress(c)
					c.mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	close(done)
}

// share runs some schedules, and adds up what they measured.
func (c *campaign) share(next *atomic.Uint64, over *atomic.Bool) {
	var fig figures
	var cover coverage
	fault := ""
	for range 500 {
		n := next.Add(1)
		if n > c.count || !c.until.IsZero() && time.Now().After(c.until) {
			over.Store(true)
			break
		}
		list := generate(c.seed, n)
		if s := runSchedule(list, &cover, &fig); s.found != nil {
			if !over.Swap(true) {
				fault = explain(c.seed, n, list, s)
			}
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.add(&fig)
	c.cover.add(&cover)
	c.fault += fault
}

// explain says what a schedule found, with the smallest that finds it as well.
func explain(seed, n uint64, list schedule, s *sim) string {
	small := shrink(list, s.found.check)
	again := runSchedule(small, new(coverage), new(figures))
	return fmt.Sprintf("seed %d, schedule %d: %s: %s\nsmallest: %q\n%s: %s\n%s",
		seed, n, s.found.check, s.found.text, small, again.found.check, again.found.text, again.world)
}

// number is a setting of the environment, with its default.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// fullRun is from how many schedules on each cell must have been hit cellMin times.
const (
	fullRun = 200000
	cellMin = 100
)

// TestSimulation runs the schedules of a seed (SIMULATE_SEED=1): 10000, or as many
// as SIMULATE says, or for as long as SIMULATE_FOR says.
func TestSimulation(t *testing.T) {
	count := uint64(10000)
	if testing.Short() {
		count = 2000
	}
	c := campaign{seed: number(t, "SIMULATE_SEED", 1), count: number(t, "SIMULATE", count)}
	var progress func(*campaign)
	if text := os.Getenv("SIMULATE_FOR"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		c.count, c.until = 1<<63, time.Now().Add(d)
		progress = func(c *campaign) {
			fmt.Printf("%d schedules, %.0f hours of processes, %d signals, %d hangs found, 0 faults\n",
				c.all.schedules, c.all.processes.Hours(), c.all.signals, c.all.condemned)
		}
	}
	begin := time.Now()
	c.run(progress)
	if c.fault != "" {
		t.Error(c.fault)
	}
	took, f := time.Since(begin), &c.all
	t.Logf("measured: simulation: %d fault schedules in %.0f s (%.0f/s), %.0f hours of hosts, %.0f hours of processes, %d restarts of the daemon, %d signals",
		f.schedules, took.Seconds(), float64(f.schedules)/took.Seconds(), f.hosts.Hours(), f.processes.Hours(), f.restarts, f.signals)
	if c.fault == "" {
		t.Logf("measured: simulation: false kills 0, missed hangs 0, of %d condemned; of the %d whose finding nothing delayed, beyond timeout and margin, in intervals: p50 %.2f, p99 %.2f, most %.2f",
			f.condemned, f.hangs, f.percentile(0.5), f.percentile(0.99), float64(f.most)/1000)
	}
	t.Logf("measured: simulation: %d names given up, %d limits exceeded, %d times something was done to a unit for one", f.gaveUp, f.limits, f.limitActs)
	t.Logf("measured: simulation: %s; %s", c.cover.least(), c.cover.duties.least())
	if testing.Verbose() {
		t.Logf("what happened in which state:\n%s\n%s", &c.cover, &c.cover.duties)
	}
	c.cover.check(t, c.fault == "" && f.schedules >= fullRun)
	c.cover.duties.check(t, c.fault == "" && f.schedules >= fullRun)
}

// TestSameSeed runs some schedules twice: all that is said is the same.
func TestSameSeed(t *testing.T) {
	for n := range uint64(100) {
		list := generate(7, n)
		a := runSchedule(list, new(coverage), new(figures))
		b := runSchedule(list, new(coverage), new(figures))
		if x, y := a.String(), b.String(); x != y {
			t.Fatalf("schedule %d:\n%s\nand then:\n%s", n, x, y)
		}
		again, err := parseSchedule(list.String())
		if err != nil || !slices.Equal(again, list) {
			t.Fatalf("schedule %d is read as another: %v", n, err)
		}
	}
}
