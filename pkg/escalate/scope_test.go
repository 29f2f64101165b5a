package escalate

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestScope walks the ladder (5 s, 3 s, 2 s) of a target that others outlive.
func TestScope(t *testing.T) {
	exits := func(f *fake, after time.Duration) { time.AfterFunc(after, f.exit) }
	for _, tt := range []struct {
		name           string
		setup          func(*fake, *Job)
		want           []string
		recovered      int // how often Recovered is asked
		remainsAtLeast int // how often Remains is
		remainsAtMost  int
	}{
		{"nobody remains", func(f *fake, _ *Job) { exits(f, second) },
			[]string{"0s 1 signalled 0 SIGTERM", "1s 1 gone 0 SIGTERM"}, 1, 1, 1},
		{"for a while", func(f *fake, _ *Job) {
			exits(f, 1010*time.Millisecond)
			f.remains = during(0, 3020*time.Millisecond)
		}, []string{"0s 1 signalled 0 SIGTERM", "3.06s 1 gone 0 SIGTERM"}, 1, 42, 42},
		{"to the next signal", func(f *fake, _ *Job) {
			exits(f, second)
			f.remains = func() bool { return !slices.Contains(f.signals(), unix.SIGABRT) }
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "5s 1 gone 1 SIGABRT"}, 1, 82, 84},
		{"through all", func(f *fake, _ *Job) {
			exits(f, 6*second)
			f.remains = during(0, time.Hour)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "10s 1 unkillable 2 SIGKILL"}, 2, 80, 86},
		{"and it beat just before", func(f *fake, _ *Job) {
			exits(f, 6*second)
			f.remains, f.recovered = during(0, 9*second), during(5500*time.Millisecond, time.Hour)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "9s 1 gone 2 SIGKILL"}, 2, 60, 66},
		{"but it was never signalled", func(f *fake, _ *Job) {
			f.remains = during(0, time.Hour)
			f.exit()
		}, []string{"0s 1 gone"}, 0, 0, 0},
		{"but its first signal failed", func(f *fake, _ *Job) {
			exits(f, second/2)
			f.remains, f.fails = during(0, time.Hour), map[unix.Signal]error{unix.SIGTERM: unix.EPERM}
		}, []string{"500ms 1 gone"}, 1, 0, 0},
		{"and cannot be signalled", func(f *fake, _ *Job) {
			exits(f, second)
			f.remains, f.fails = during(0, time.Hour), map[unix.Signal]error{unix.SIGABRT: unix.EPERM}
		}, []string{"0s 1 signalled 0 SIGTERM", "6s 1 failed 1 SIGABRT: operation not permitted"}, 1, 100, 105},
		{"and are not found", func(f *fake, _ *Job) {
			exits(f, second)
			f.remains, f.fails = during(0, time.Hour), map[unix.Signal]error{unix.SIGABRT: unix.ESRCH}
		}, []string{"0s 1 signalled 0 SIGTERM", "6s 1 failed 1 SIGABRT: no such process"}, 1, 100, 105},
		{"and are gone when they are signalled", func(f *fake, _ *Job) {
			exits(f, second)
			f.remains, f.fails = during(0, 5020*time.Millisecond), map[unix.Signal]error{unix.SIGABRT: unix.ESRCH}
		}, []string{"0s 1 signalled 0 SIGTERM", "5.05s 1 gone 0 SIGTERM"}, 1, 82, 86},
		{"it dumps first", func(f *fake, j *Job) {
			exits(f, 7500*time.Millisecond)
			j.DumpWait, f.dumping, f.remains = time.Minute, during(second, time.Hour), during(0, 9*second+1)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "7.5s 1 signalled 1 SIGABRT", "9.05s 1 gone 1 SIGABRT"}, 1, 30, 36},
		{"asking is slow", func(f *fake, _ *Job) { // what a sleep of 50 ms is late by counts up to 250 ms
			exits(f, 1500*time.Millisecond)
			f.remains = func() bool { time.Sleep(10 * second); return true }
		}, []string{"0s 1 signalled 0 SIGTERM", "2m2s 1 signalled 1 SIGABRT", "3m22.3s 1 signalled 2 SIGKILL", "4m2.45s 1 unkillable 2 SIGKILL"}, 1, 24, 24},

		// Ladders that an earlier daemon began.
		{"resumed in a wait", func(f *fake, j *Job) {
			j.From, j.Waited, f.remains = 1, second, during(0, time.Hour)
			f.exit()
		}, []string{"2s 1 signalled 2 SIGKILL", "4s 1 unkillable 2 SIGKILL"}, 0, 80, 86},
		{"resumed before a signal", func(f *fake, j *Job) {
			j.From, f.remains = 2, during(0, second)
			f.exit()
		}, []string{"0s 1 signalled 2 SIGKILL", "1s 1 gone 2 SIGKILL"}, 0, 20, 23},
		{"resumed with its target gone, and nobody knows of a signal", func(f *fake, j *Job) {
			j.Left, f.remains = true, during(0, 6*second)
			f.exit()
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "6s 1 gone 1 SIGABRT"}, 0, 120, 126},
		{"resumed with all gone", func(f *fake, j *Job) {
			j.Left, f.remains = true, func() bool { return false }
			f.exit()
		}, []string{"0s 1 gone"}, 0, 1, 1},
		{"resumed after all", func(f *fake, j *Job) {
			j.From, j.Waited, f.remains = 2, time.Hour, during(0, time.Hour)
			f.exit()
		}, []string{"0s 1 unkillable 2 SIGKILL"}, 0, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDiary()
				p := New(4, d.report)
				f := newFake()
				j := f.job(1)
				tt.setup(f, &j)
				p.Start(j)
				time.Sleep(time.Hour / 2)
				synctest.Wait()
				d.want(t, tt.want...)
				if f.asked != tt.recovered || f.remainsAsked < tt.remainsAtLeast || f.remainsAsked > tt.remainsAtMost {
					t.Errorf("Recovered was asked %d times, Remains %d times", f.asked, f.remainsAsked)
				}
				p.Close()
			})
		})
	}
}

func TestScopeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		f := newFake()
		f.remains = during(0, time.Hour)
		p.Start(f.job(1))
		time.Sleep(second)
		f.exit()
		time.Sleep(5 * second / 4)
		p.Cancel(1)
		synctest.Wait()
		d.want(t, "0s 1 signalled 0 SIGTERM", "2.25s 1 cancelled 0 SIGTERM")
		p.Close()
	})
}

// TestScopeQueued: targets that end while their ladders are queued.
func TestScopeQueued(t *testing.T) {
	// start fills the only place, and queues a ladder that sent its SIGABRT a second ago.
	start := func(d *diary, remains func() bool) (p *Pool, first, f *fake) {
		p = New(1, d.report)
		first, f = newFake(), newFake()
		p.Start(first.job(1))
		f.remains = remains
		j := f.job(2)
		j.From, j.Waited = 1, second
		p.Start(j)
		time.Sleep(second)
		f.exit()
		return p, first, f
	}
	t.Run("others wait for a worker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p, first, f := start(d, during(0, time.Hour))
			time.Sleep(second / 2)
			synctest.Wait()
			if f.remainsAsked != 1 || p.Queued() != 1 {
				t.Errorf("asked %d times, %d queued", f.remainsAsked, p.Queued())
			}
			first.exit()
			time.Sleep(time.Minute)
			d.want(t, "0s 1 signalled 0 SIGTERM", "1.5s 1 gone 0 SIGTERM", "2s 2 signalled 2 SIGKILL", "4s 2 unkillable 2 SIGKILL")
			if f.asked != 0 {
				t.Error("asked whether it beats after its end")
			}
			p.Close()
		})
	})
	t.Run("others end meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p, first, _ := start(d, during(0, 2*second))
			time.Sleep(2 * second)
			first.exit()
			time.Sleep(time.Minute)
			d.want(t, "0s 1 signalled 0 SIGTERM", "3s 1 gone 0 SIGTERM", "3s 2 gone 1 SIGABRT")
			p.Close()
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p, _, _ := start(d, during(0, time.Hour))
			time.Sleep(second)
			p.Cancel(2)
			synctest.Wait()
			d.want(t, "0s 1 signalled 0 SIGTERM", "2s 2 cancelled 1 SIGABRT")
			p.Close()
		})
	})
	t.Run("a worker takes it while it is asked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p, first, _ := start(d, func() bool { time.Sleep(second); return false })
			time.Sleep(second / 2)
			first.exit()
			p.Start(newFake().job(3))
			time.Sleep(second * 9 / 2)
			p.Close()
			if want := []string{"0s 1 signalled 0 SIGTERM", "1.5s 1 gone 0 SIGTERM"}; !slices.Equal(d.lines[:2], want) {
				t.Errorf("%q", d.lines[:2])
			}
			rest := d.lines[2:]
			if len(rest) != 3 || rest[0][len(rest[0])-16:] != "2 gone 1 SIGABRT" {
				t.Errorf("%q", rest)
			}
		})
	})
	t.Run("never signalled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDiary()
			p := New(1, d.report)
			a, b := newFake(), newFake()
			b.remains = during(0, time.Hour)
			p.Start(a.job(1))
			p.Start(b.job(2))
			time.Sleep(second)
			b.exit()
			synctest.Wait()
			d.want(t, "0s 1 signalled 0 SIGTERM", "1s 2 gone")
			if b.remainsAsked != 0 {
				t.Error("asked who remains of a target that nobody has touched")
			}
			p.Close()
		})
	})
	t.Run("many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = maxWatched + 100
			var mu sync.Mutex
			over := map[Kind]int{}
			p := New(1, func(o Outcome) {
				mu.Lock()
				defer mu.Unlock()
				over[o.Kind]++
			})
			hold, f := newFake(), newFake()
			f.remains = during(0, time.Hour)
			p.Start(hold.job(0))
			for i := range n {
				j := f.job(uint64(i + 1))
				j.Sent = true
				p.Start(j)
			}
			f.exit()
			synctest.Wait()
			if f.remainsAsked != n || p.Queued() != n {
				t.Errorf("asked %d times, %d queued", f.remainsAsked, p.Queued())
			}
			p.Close()
			if over[Cancelled] != n+1 || over[Signalled] != 1 {
				t.Errorf("%v", over)
			}
		})
	})
}
