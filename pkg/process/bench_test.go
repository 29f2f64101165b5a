package process

import (
	"context"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func BenchmarkOpen(b *testing.B) {
	c := actor(b, "pause")
	b.ReportAllocs()
	for b.Loop() {
		p, err := Open(c.pid())
		if err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
	}
}

func BenchmarkLook(b *testing.B) {
	p := open(b, actor(b, "pause").pid())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Look(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExamine waits 50 ms between its two samples: µs/op less that is what it costs.
func BenchmarkExamine(b *testing.B) {
	for _, threads := range []int{1, 100, 4000} {
		b.Run(strconv.Itoa(threads), func(b *testing.B) {
			p := open(b, states(b, "idle="+strconv.Itoa(threads-1)).pid())
			var before, after unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if e, err := p.Examine(context.Background(), false); err != nil || e.ThreadCount != threads {
					b.Fatal(e.ThreadCount, err)
				}
			}
			if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
				b.Fatal(err)
			}
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		Now()
	}
}

// BenchmarkExitNotice is the time from SIGKILL to the return of Wait.
func BenchmarkExitNotice(b *testing.B) {
	poller := newPoller(b)
	var took []time.Duration
	ready := make([]uint64, 0, 8)
	for b.Loop() {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		p := open(b, int32(cmd.Process.Pid))
		if err := poller.Watch(p.FD(), 1); err != nil {
			b.Fatal(err)
		}
		begin := Now()
		if err := p.Signal(unix.SIGKILL); err != nil {
			b.Fatal(err)
		}
		var err error
		if ready, err = poller.Wait(ready[:0]); err != nil || len(ready) != 1 {
			b.Fatal(ready, err)
		}
		took = append(took, Now()-begin)
		_ = poller.Unwatch(p.FD())
		_ = p.Close()
		_ = cmd.Wait()
	}
	reportQuantiles(b, took)
}

// BenchmarkPollerWake is the time from Wake on one goroutine to the return of Wait on another.
func BenchmarkPollerWake(b *testing.B) {
	poller := newPoller(b)
	var begin atomic.Int64
	next := make(chan struct{})
	go func() {
		for range next {
			begin.Store(int64(Now()))
			poller.Wake()
		}
	}()
	defer close(next)
	var took []time.Duration
	for b.Loop() {
		next <- struct{}{}
		if _, err := poller.Wait(nil); err != nil {
			b.Fatal(err)
		}
		took = append(took, Now()-time.Duration(begin.Load()))
	}
	reportQuantiles(b, took)
}

// BenchmarkTimer is the lateness of Wait after the armed time.
func BenchmarkTimer(b *testing.B) {
	poller := newPoller(b)
	var late []time.Duration
	for b.Loop() {
		at := Now() + 2*time.Millisecond
		if err := poller.Arm(at); err != nil {
			b.Fatal(err)
		}
		if _, err := poller.Wait(nil); err != nil {
			b.Fatal(err)
		}
		late = append(late, Now()-at)
	}
	reportQuantiles(b, late)
}

func BenchmarkAsk(b *testing.B) {
	c := actor(b, "pause")
	r, answers := newTestReader(b)
	r.Ask(c.pid(), testKey, 1, 0)
	<-answers
	for b.Loop() {
		r.Ask(c.pid(), testKey, 1, 0)
		if a := <-answers; a.Consent != ConsentNotMapped {
			b.Fatal(a)
		}
	}
}

func reportQuantiles(b *testing.B, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(d[len(d)*99/100].Nanoseconds())/1e3, "p99-µs")
}
