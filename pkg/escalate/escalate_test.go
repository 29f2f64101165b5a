package escalate

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ladder = []config.Step{
	{Signal: unix.SIGTERM, Wait: 5 * time.Second},
	{Signal: unix.SIGABRT, Wait: 3 * time.Second},
	{Signal: unix.SIGKILL, Wait: 2 * time.Second},
}

// fake is a target that does what a test wants.
type fake struct {
	exited chan struct{}
	once   sync.Once

	mu        sync.Mutex
	sent      []unix.Signal
	fails     map[unix.Signal]error
	ends      map[unix.Signal]time.Duration // after that signal
	recovered func() bool
	asked     int
	onSignal  func(unix.Signal)

	dumping      func() bool
	dumpingAsked int
	remains      func() bool
	remainsAsked int
}

func newFake() *fake { return &fake{exited: make(chan struct{})} }

func (f *fake) exit() { f.once.Do(func() { close(f.exited) }) }

func (f *fake) Signal(sig unix.Signal) error {
	if f.onSignal != nil {
		f.onSignal(sig)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails[sig]; err != nil {
		return err
	}
	f.sent = append(f.sent, sig)
	if after, ok := f.ends[sig]; ok {
		time.AfterFunc(after, f.exit)
	}
	return nil
}

func (f *fake) Recovered() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.recovered != nil && f.recovered()
}

func (f *fake) Dumping() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumpingAsked++
	return f.dumping != nil && f.dumping()
}

func (f *fake) Remains() bool {
	f.mu.Lock()
	f.remainsAsked++
	f.mu.Unlock() // two may ask at once
	return f.remains != nil && f.remains()
}

func (f *fake) job(id uint64) Job {
	return Job{ID: id, Target: f, Steps: ladder, Exited: f.exited}
}

func (f *fake) signals() []unix.Signal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent)
}

// diary notes what a pool reports, and when.
type diary struct {
	began time.Time
	mu    sync.Mutex
	lines []string
	hook  func(Outcome)
}

func newDiary() *diary { return &diary{began: time.Now()} }

func (d *diary) report(o Outcome) {
	line := fmt.Sprintf("%v %d %v", time.Since(d.began), o.ID, o.Kind)
	if o.Step >= 0 {
		line += fmt.Sprintf(" %d %s", o.Step, unix.SignalName(o.Signal))
	}
	if o.Err != nil {
		line += ": " + o.Err.Error()
	}
	d.mu.Lock()
	d.lines = append(d.lines, line)
	d.mu.Unlock()
	if d.hook != nil {
		d.hook(o)
	}
}

func (d *diary) want(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if diff := cmp.Diff(want, d.lines); diff != "" {
		t.Error(diff)
	}
}

// TestPaths walks one ladder in every way that it can go.
func TestPaths(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(*fake, *Job)
		want  []string
		asked int // how often Recovered is
	}{
		{"unkillable", func(*fake, *Job) {},
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "10s 1 unkillable 2 SIGKILL"}, 3},
		{"ends by SIGTERM", func(f *fake, _ *Job) { f.ends = map[unix.Signal]time.Duration{unix.SIGTERM: time.Second} },
			[]string{"0s 1 signalled 0 SIGTERM", "1s 1 gone 0 SIGTERM"}, 1},
		{"ends by SIGKILL", func(f *fake, _ *Job) { f.ends = map[unix.Signal]time.Duration{unix.SIGKILL: 0} },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "8s 1 gone 2 SIGKILL"}, 3},
		{"ends just when the wait does", func(f *fake, _ *Job) { f.ends = map[unix.Signal]time.Duration{unix.SIGTERM: 5*time.Second - 1} },
			[]string{"0s 1 signalled 0 SIGTERM", "4.999999999s 1 gone 0 SIGTERM"}, 1},
		{"gone before", func(f *fake, _ *Job) { f.exit() },
			[]string{"0s 1 gone"}, 0},
		{"recovered before", func(f *fake, _ *Job) { f.recovered = func() bool { return true } },
			[]string{"0s 1 recovered"}, 1},
		{"recovered after SIGTERM", func(f *fake, _ *Job) { f.recovered = func() bool { return f.asked > 1 } },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 recovered 0 SIGTERM"}, 2},
		{"recovered before the last", func(f *fake, _ *Job) { f.recovered = func() bool { return f.asked > 2 } },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 recovered 1 SIGABRT"}, 3},
		{"EPERM at once", func(f *fake, _ *Job) { f.fails = map[unix.Signal]error{unix.SIGTERM: unix.EPERM} },
			[]string{"1s 1 failed 0 SIGTERM: operation not permitted"}, 1},
		{"EPERM later", func(f *fake, _ *Job) { f.fails = map[unix.Signal]error{unix.SIGABRT: unix.EPERM} },
			[]string{"0s 1 signalled 0 SIGTERM", "6s 1 failed 1 SIGABRT: operation not permitted"}, 2},
		{"ESRCH, then the notice", func(f *fake, _ *Job) {
			f.fails = map[unix.Signal]error{unix.SIGTERM: fmt.Errorf("signal 7: %w", unix.ESRCH)}
			time.AfterFunc(50*time.Millisecond, f.exit)
		}, []string{"50ms 1 gone"}, 1},
		{"ESRCH without notice", func(f *fake, _ *Job) { f.fails = map[unix.Signal]error{unix.SIGABRT: unix.ESRCH} },
			[]string{"0s 1 signalled 0 SIGTERM", "6s 1 gone 0 SIGTERM"}, 2},
		{"already done", func(f *fake, _ *Job) { f.fails = map[unix.Signal]error{unix.SIGTERM: os.ErrProcessDone} },
			[]string{"1s 1 gone"}, 1},
		{"another error, then the notice", func(f *fake, _ *Job) {
			f.fails = map[unix.Signal]error{unix.SIGTERM: errors.New("already closed")}
			time.AfterFunc(50*time.Millisecond, f.exit)
		}, []string{"50ms 1 gone"}, 1},
		{"no notice at all", func(_ *fake, j *Job) { j.Exited = nil; j.Steps = j.Steps[:1] },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 unkillable 0 SIGTERM"}, 1},
		{"no steps", func(_ *fake, j *Job) { j.Steps = nil },
			[]string{"0s 1 failed: ladder of 0 steps has no step 0"}, 0},
		{"past the end", func(_ *fake, j *Job) { j.From = 3 },
			[]string{"0s 1 failed: ladder of 3 steps has no step 3"}, 0},
		{"before the beginning", func(_ *fake, j *Job) { j.From = -1 },
			[]string{"0s 1 failed: ladder of 3 steps has no step -1"}, 0},

		// Ladders that an earlier daemon began.
		{"resumed at a step", func(_ *fake, j *Job) { j.From = 2 },
			[]string{"0s 1 signalled 2 SIGKILL", "2s 1 unkillable 2 SIGKILL"}, 1},
		{"resumed in a wait", func(_ *fake, j *Job) { j.From, j.Sent, j.Waited = 1, true, time.Second },
			[]string{"2s 1 signalled 2 SIGKILL", "4s 1 unkillable 2 SIGKILL"}, 1},
		{"resumed by Waited alone", func(_ *fake, j *Job) { j.Waited = 4 * time.Second },
			[]string{"1s 1 signalled 1 SIGABRT", "4s 1 signalled 2 SIGKILL", "6s 1 unkillable 2 SIGKILL"}, 2},
		{"resumed right after the signal", func(_ *fake, j *Job) { j.From, j.Sent = 2, true },
			[]string{"2s 1 unkillable 2 SIGKILL"}, 0},
		{"resumed after the wait", func(_ *fake, j *Job) { j.From, j.Waited = 1, time.Hour },
			[]string{"0s 1 signalled 2 SIGKILL", "2s 1 unkillable 2 SIGKILL"}, 1},
		{"resumed, recovered meanwhile", func(f *fake, j *Job) {
			j.From, j.Waited, f.recovered = 1, time.Second, func() bool { return true }
		}, []string{"2s 1 recovered 1 SIGABRT"}, 1},
		{"resumed, gone meanwhile", func(f *fake, j *Job) { j.From, j.Sent = 1, true; f.exit() },
			[]string{"0s 1 gone 1 SIGABRT"}, 0},
		{"resumed before its signal, gone meanwhile", func(f *fake, j *Job) { j.From = 1; f.exit() },
			[]string{"0s 1 gone 0 SIGTERM"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDiary()
				p := New(4, d.report)
				f := newFake()
				j := f.job(1)
				tt.setup(f, &j)
				p.Start(j)
				time.Sleep(time.Minute)
				d.want(t, tt.want...)
				if f.asked != tt.asked {
					t.Errorf("Recovered was asked %d times, want %d", f.asked, tt.asked)
				}
				if p.Active() != 0 || p.Queued() != 0 {
					t.Errorf("%d active, %d queued at the end", p.Active(), p.Queued())
				}
				p.Close()
			})
		})
	}
}

// TestThousand: a thousand stubborn targets, 256 at once.
func TestThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const jobs, limit = 1000, 256
		var mu sync.Mutex
		under, most, total := 0, 0, 0
		order := make([]uint64, 0, jobs)
		p := New(limit, func(o Outcome) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case o.Kind == Signalled && o.Step == 0:
				under++
				most = max(most, under)
				order = append(order, o.ID)
			case o.Kind == Gone:
				under--
				total++
			case o.Kind != Signalled:
				t.Errorf("%+v", o)
			}
		})
		began := time.Now()
		targets := make([]*fake, jobs)
		for i := range targets {
			f := newFake()
			f.ends = map[unix.Signal]time.Duration{unix.SIGKILL: time.Millisecond}
			targets[i] = f
			p.Start(f.job(uint64(i)))
			if n := p.Active(); n > limit {
				t.Fatalf("%d active", n)
			}
		}
		if p.Active() != limit || p.Queued() != jobs-limit {
			t.Errorf("%d active, %d queued", p.Active(), p.Queued())
		}
		for p.Active() > 0 {
			synctest.Wait()
			if n := p.Active(); n > limit {
				t.Fatalf("%d active", n)
			}
			time.Sleep(time.Millisecond / 2)
		}
		p.Close()
		if total != jobs || most < limit {
			t.Errorf("%d ended, %d at once", total, most)
		}
		for wave := range slices.Chunk(order, limit) {
			slices.Sort(wave)
			if wave[len(wave)-1]-wave[0] != uint64(len(wave)-1) {
				t.Error("the queue is not in order")
			}
		}
		if took := time.Since(began); took > 4*8100*time.Millisecond {
			t.Errorf("four waves of 8 s took %v", took)
		}
		for i, f := range targets {
			if want := []unix.Signal{unix.SIGTERM, unix.SIGABRT, unix.SIGKILL}; !slices.Equal(f.signals(), want) {
				t.Fatalf("target %d got %v", i, f.signals())
			}
		}
	})
}

func TestQueuedExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		a, b, c := newFake(), newFake(), newFake()
		p.Start(a.job(1))
		p.Start(b.job(2))
		resumed := c.job(3)
		resumed.From = 2
		p.Start(resumed)
		time.Sleep(time.Second)
		b.exit()
		time.Sleep(time.Second)
		c.exit()
		time.Sleep(time.Second)
		a.exit()
		synctest.Wait()
		d.want(t, "0s 1 signalled 0 SIGTERM", "1s 2 gone", "2s 3 gone 1 SIGABRT", "3s 1 gone 0 SIGTERM")
		if len(b.signals())+len(c.signals()) > 0 || b.asked+c.asked > 0 {
			t.Error("a queued target was touched")
		}
		p.Close()
	})
}

// TestQueuedWait: the time in the queue counts for a signal that was sent before.
func TestQueuedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		a, b := newFake(), newFake()
		p.Start(a.job(1))
		j := b.job(2)
		j.From, j.Waited = 1, time.Second
		p.Start(j)
		time.Sleep(time.Second)
		a.exit()
		time.Sleep(time.Minute)
		d.want(t, "0s 1 signalled 0 SIGTERM", "1s 1 gone 0 SIGTERM", "2s 2 signalled 2 SIGKILL", "4s 2 unkillable 2 SIGKILL")
		p.Close()
	})
}

// TestManyQueuedExits: more than one select watches.
func TestManyQueuedExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = maxWatched + 100
		gone := 0
		p := New(1, func(o Outcome) {
			if o.Kind == Gone {
				gone++
			}
		})
		hold := newFake()
		p.Start(hold.job(0))
		f := newFake()
		for i := range n {
			p.Start(f.job(uint64(i + 1)))
		}
		f.exit()
		synctest.Wait()
		if gone != n {
			t.Errorf("%d of %d gone", gone, n)
		}
		p.Close()
	})
}

func TestCancel(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a, b := newFake(), newFake()
			p.Start(a.job(1))
			p.Start(b.job(2))
			time.Sleep(time.Second)
			p.Cancel(2)
			synctest.Wait()
			if p.Queued() != 0 {
				t.Error("still queued")
			}
			a.exit()
			time.Sleep(time.Minute)
			d.want(t, "0s 1 signalled 0 SIGTERM", "1s 2 cancelled", "1s 1 gone 0 SIGTERM")
			if len(b.signals()) > 0 {
				t.Error("signalled")
			}
			p.Close()
		})
	})
	t.Run("in a wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a := newFake()
			p.Start(a.job(1))
			time.Sleep(6 * time.Second)
			p.Cancel(1)
			time.Sleep(time.Minute)
			d.want(t, "0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "6s 1 cancelled 1 SIGABRT")
			p.Close()
		})
	})
	t.Run("while it is asked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a := newFake()
			a.recovered = func() bool { p.Cancel(1); return false }
			p.Start(a.job(1))
			time.Sleep(time.Minute)
			d.want(t, "0s 1 cancelled")
			if len(a.signals()) > 0 {
				t.Error("signalled after Cancel")
			}
			p.Close()
		})
	})
	t.Run("after a failed signal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a := newFake()
			a.fails = map[unix.Signal]error{unix.SIGTERM: unix.EPERM}
			p.Start(a.job(1))
			time.Sleep(exitNotice / 2)
			p.Cancel(1)
			synctest.Wait()
			d.want(t, "500ms 1 cancelled")
			p.Close()
		})
	})
	t.Run("at the exit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a := newFake()
			p.Start(a.job(1))
			synctest.Wait()
			a.exit()
			p.Cancel(1)
			synctest.Wait()
			d.want(t, "0s 1 signalled 0 SIGTERM", "0s 1 gone 0 SIGTERM")
			p.Close()
		})
	})
	t.Run("waits for a signal under way", func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		a := newFake()
		begun, goOn, cancelled := make(chan struct{}), make(chan struct{}), make(chan struct{})
		a.onSignal = func(unix.Signal) { close(begun); <-goOn }
		p.Start(a.job(1))
		<-begun
		go func() {
			p.Cancel(1)
			if len(a.signals()) != 1 {
				t.Error("Cancel returned while a signal was under way")
			}
			close(cancelled)
		}()
		for range 100 {
			runtime.Gosched()
		}
		close(goOn)
		<-cancelled
		p.Close()
		if len(d.lines) != 2 {
			t.Errorf("%q", d.lines)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		p := New(1, func(o Outcome) { t.Errorf("%+v", o) })
		p.Cancel(7)
		p.Close()
	})
	t.Run("ID used again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(2, d.report)
			a := newFake()
			p.Start(a.job(1))
			p.Start(a.job(1)) // ignored
			time.Sleep(time.Second)
			p.Cancel(1)
			p.Start(a.job(1))
			time.Sleep(time.Second)
			a.exit()
			synctest.Wait()
			slices.Sort(d.lines)
			d.want(t, "0s 1 signalled 0 SIGTERM", "1s 1 cancelled 0 SIGTERM", "1s 1 signalled 0 SIGTERM", "2s 1 gone 0 SIGTERM")
			p.Close()
		})
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(2, d.report)
		var all []*fake
		for i := range 5 {
			f := newFake()
			all = append(all, f)
			p.Start(f.job(uint64(i)))
		}
		time.Sleep(5500 * time.Millisecond)
		all[4].exit() // the exit counts, although Close comes at the same time
		go p.Close()  // two at once
		p.Close()
		slices.Sort(d.lines)
		d.want(t,
			"0s 0 signalled 0 SIGTERM", "0s 1 signalled 0 SIGTERM",
			"5.5s 0 cancelled 1 SIGABRT", "5.5s 1 cancelled 1 SIGABRT", "5.5s 2 cancelled", "5.5s 3 cancelled", "5.5s 4 gone",
			"5s 0 signalled 1 SIGABRT", "5s 1 signalled 1 SIGABRT")
		late := all[0].job(9)
		p.Start(late)
		p.SetMax(7)
		time.Sleep(time.Minute)
		if got := d.lines[len(d.lines)-1]; got != "5.5s 9 cancelled" {
			t.Errorf("a job after Close: %s", got)
		}
		p.Close()
		for i, f := range all {
			if n := len(f.signals()); n > 2 || i >= 2 && n > 0 {
				t.Errorf("target %d got %d signals", i, n)
			}
		}
	})
	t.Run("empty", func(t *testing.T) { New(0, nil).Close() })
}

func TestSetMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(4, func(Outcome) {})
		var all []*fake
		for i := range 12 {
			f := newFake()
			all = append(all, f)
			p.Start(f.job(uint64(i)))
		}
		check := func(active, queued int) {
			t.Helper()
			synctest.Wait()
			if p.Active() != active || p.Queued() != queued {
				t.Errorf("%d active, %d queued; want %d, %d", p.Active(), p.Queued(), active, queued)
			}
		}
		check(4, 8)
		p.SetMax(6)
		check(6, 6)
		p.SetMax(-1) // means 1: those under way go on
		check(6, 6)
		for i := range 5 {
			all[i].exit()
		}
		check(1, 6)
		all[5].exit()
		check(1, 5)
		p.SetMax(100)
		check(6, 0)
		p.Close()
		check(0, 0)
	})
}

func TestReportInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := map[uint64]int{}
		var mu sync.Mutex
		p := New(8, func(o Outcome) {
			mu.Lock()
			defer mu.Unlock()
			want := last[o.ID]
			if o.Kind == Signalled {
				if o.Step != want {
					t.Errorf("ladder %d: step %d, want %d", o.ID, o.Step, want)
				}
				last[o.ID]++
			} else if o.Kind != Unkillable || want != 3 {
				t.Errorf("%+v after %d signals", o, want)
			}
		})
		for i := range 40 {
			p.Start(newFake().job(uint64(i)))
		}
		time.Sleep(time.Minute)
		p.Close()
		if len(last) != 40 {
			t.Errorf("%d ladders", len(last))
		}
	})
}
