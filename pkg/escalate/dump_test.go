package escalate

import (
	"testing"
	"testing/synctest"
	"time"
)

// during returns what is true from one time after the beginning up to another.
func during(from, to time.Duration) func() bool {
	began := time.Now()
	return func() bool { return from <= time.Since(began) && time.Since(began) < to }
}

const second = time.Second

// TestDump walks the ladder (5 s, 3 s, 2 s) of a target that dumps core.
func TestDump(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(*fake, *Job)
		want  []string
		asked int // how often Dumping is
	}{
		{"to its end", func(f *fake, j *Job) {
			j.DumpWait, f.dumping = time.Minute, during(6*second, 21*second)
			time.AfterFunc(20500*time.Millisecond, f.exit)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 dumping 1 SIGABRT", "20.5s 1 gone 1 SIGABRT"}, 14},
		{"too long", func(f *fake, j *Job) { j.DumpWait, f.dumping = 10*second, during(6*second, time.Hour) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 dumping 1 SIGABRT", "18s 1 signalled 2 SIGKILL", "20s 1 unkillable 2 SIGKILL"}, 11},
		{"within the wait", func(f *fake, j *Job) { j.DumpWait, f.dumping = time.Minute, during(6*second, 8*second) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "10s 1 unkillable 2 SIGKILL"}, 2},
		{"without exit", func(f *fake, j *Job) { j.DumpWait, f.dumping = time.Minute, during(6*second, 9500*time.Millisecond) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 dumping 1 SIGABRT", "11s 1 signalled 2 SIGKILL", "13s 1 unkillable 2 SIGKILL"}, 4},
		{"exit soon after it", func(f *fake, j *Job) {
			j.DumpWait, f.dumping = time.Minute, during(6*second, 9500*time.Millisecond)
			time.AfterFunc(10700*time.Millisecond, f.exit)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 dumping 1 SIGABRT", "10.7s 1 gone 1 SIGABRT"}, 4},
		{"exit is not waited for beyond DumpWait", func(f *fake, j *Job) {
			j.DumpWait, f.dumping = 2500*time.Millisecond, during(6*second, 9500*time.Millisecond)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 dumping 1 SIGABRT", "10.5s 1 signalled 2 SIGKILL", "12.5s 1 unkillable 2 SIGKILL"}, 4},
		{"no time for it", func(f *fake, _ *Job) { f.dumping = during(0, time.Hour) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 signalled 1 SIGABRT", "8s 1 signalled 2 SIGKILL", "10s 1 unkillable 2 SIGKILL"}, 0},
		{"less than a second for it", func(f *fake, j *Job) { j.DumpWait, f.dumping = second/4, during(5*second, time.Hour) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "5.25s 1 signalled 1 SIGABRT", "8.25s 1 dumping 1 SIGABRT", "8.5s 1 signalled 2 SIGKILL", "10.5s 1 unkillable 2 SIGKILL"}, 2},
		{"in each step", func(f *fake, j *Job) { j.DumpWait, f.dumping = 10*second, during(0, time.Hour) },
			[]string{"0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "15s 1 signalled 1 SIGABRT", "18s 1 dumping 1 SIGABRT", "28s 1 signalled 2 SIGKILL", "30s 1 unkillable 2 SIGKILL"}, 20},
		{"after the last step", func(f *fake, j *Job) {
			j.DumpWait, j.Steps, f.dumping = 10*second, j.Steps[:1], during(0, 6*second)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "7s 1 unkillable 0 SIGTERM"}, 2},
		{"beats again after it", func(f *fake, j *Job) {
			j.DumpWait, f.dumping, f.recovered = time.Minute, during(0, 6*second), during(second, time.Hour)
		}, []string{"0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "7s 1 recovered 0 SIGTERM"}, 2},
		{"exit just when the wait does", func(f *fake, j *Job) {
			j.DumpWait, f.dumping = time.Minute, during(0, time.Hour)
			time.AfterFunc(5*second-1, f.exit)
		}, []string{"0s 1 signalled 0 SIGTERM", "4.999999999s 1 gone 0 SIGTERM"}, 0},

		// Ladders that an earlier daemon began.
		{"resumed in the wait", func(f *fake, j *Job) {
			j.From, j.Waited, j.DumpWait, f.dumping = 1, second, 10*second, during(0, time.Hour)
		}, []string{"2s 1 dumping 1 SIGABRT", "12s 1 signalled 2 SIGKILL", "14s 1 unkillable 2 SIGKILL"}, 10},
		{"resumed in the dump", func(f *fake, j *Job) {
			j.From, j.Waited, j.DumpWait, f.dumping = 1, 8*second, 10*second, during(0, time.Hour)
		}, []string{"0s 1 dumping 1 SIGABRT", "5s 1 signalled 2 SIGKILL", "7s 1 unkillable 2 SIGKILL"}, 5},
		{"resumed when its time was over", func(f *fake, j *Job) {
			j.From, j.Waited, j.DumpWait, f.dumping = 1, 13*second, 10*second, during(0, time.Hour)
		}, []string{"0s 1 signalled 2 SIGKILL", "2s 1 unkillable 2 SIGKILL"}, 0},
		{"resumed after it", func(f *fake, j *Job) { j.From, j.Waited, j.DumpWait = 1, 8*second, 10*second },
			[]string{"0s 1 signalled 2 SIGKILL", "2s 1 unkillable 2 SIGKILL"}, 1},
		{"resumed in the dump, which ends", func(f *fake, j *Job) {
			j.From, j.Sent, j.Waited, j.DumpWait, f.dumping = 1, true, time.Minute, time.Hour, during(0, time.Hour)
			time.AfterFunc(30*second-1, f.exit)
		}, []string{"0s 1 dumping 1 SIGABRT", "29.999999999s 1 gone 1 SIGABRT"}, 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDiary()
				p := New(4, d.report)
				f := newFake()
				j := f.job(1)
				tt.setup(f, &j)
				p.Start(j)
				time.Sleep(2 * time.Hour)
				d.want(t, tt.want...)
				if f.dumpingAsked != tt.asked {
					t.Errorf("Dumping was asked %d times, want %d", f.dumpingAsked, tt.asked)
				}
				p.Close()
			})
		})
	}
}

func TestDumpCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(4, d.report)
		a, b := newFake(), newFake()
		a.dumping, b.dumping = during(0, time.Hour), during(0, time.Hour)
		for i, f := range []*fake{a, b} {
			j := f.job(uint64(i))
			j.DumpWait = time.Hour
			p.Start(j)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(9 * second)
		p.Cancel(0)
		time.Sleep(second)
		p.Close()
		d.want(t, "0s 0 signalled 0 SIGTERM", "1ms 1 signalled 0 SIGTERM", "5s 0 dumping 0 SIGTERM", "5.001s 1 dumping 0 SIGTERM",
			"9.002s 0 cancelled 0 SIGTERM", "10.002s 1 cancelled 0 SIGTERM")
	})
}

// TestDumpQueued: the time in the queue counts for the dump, too.
func TestDumpQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		a, b := newFake(), newFake()
		p.Start(a.job(1))
		j := b.job(2)
		j.From, j.Waited, j.DumpWait, b.dumping = 1, 4*second, 10*second, during(0, time.Hour)
		p.Start(j)
		time.Sleep(3 * second)
		a.exit()
		time.Sleep(time.Minute)
		d.want(t, "0s 1 signalled 0 SIGTERM", "3s 1 gone 0 SIGTERM", "3s 2 dumping 1 SIGABRT", "9s 2 signalled 2 SIGKILL", "11s 2 unkillable 2 SIGKILL")
		p.Close()
	})
}

// TestDumpReported: a report from the middle of a dump may cancel the ladder.
func TestDumpReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		p := New(1, d.report)
		d.hook = func(o Outcome) {
			if o.Kind == Dumping {
				p.Cancel(o.ID)
			}
		}
		f := newFake()
		j := f.job(1)
		j.DumpWait, f.dumping = time.Hour, during(0, time.Hour)
		p.Start(j)
		time.Sleep(time.Minute)
		d.want(t, "0s 1 signalled 0 SIGTERM", "5s 1 dumping 0 SIGTERM", "5s 1 cancelled 0 SIGTERM")
		p.Close()
	})
}
