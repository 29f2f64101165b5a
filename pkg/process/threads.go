package process

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// sample is what one thread had used at one moment.
type sample struct {
	start uint64        // tells a thread from a later one of the same id
	run   time.Duration // of schedstat: nanoseconds, brought up to date at each tick
	ticks uint64        // of stat, which counts on a processor without a tick (nohz_full) as well
}

// sampleThreads takes the first sample: the state of all threads, and the rest about those that are described.
func (x *examination) sampleThreads(ctx context.Context) error {
	st, err := x.stat(0)
	if err != nil {
		return err
	}
	x.State, x.CPU, x.ThreadCount = st.state, ticks(st.cpu), st.threads

	tids, err := x.list()
	x.problem("threads", err)
	if len(tids) == maxLooked && x.ThreadCount > maxLooked {
		x.problem("threads", fmt.Errorf("looked at %d of them only", maxLooked))
	}
	type candidate struct {
		Thread
		sample
	}
	all := make([]candidate, 0, len(tids))
	for i, tid := range tids {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		st, err := x.stat(tid)
		if err != nil && i == 0 {
			return err
		}
		if err != nil { // most likely it has ended
			x.problem("stat of a thread", err)
			continue
		}
		switch st.state {
		case 'R':
			x.Runnable++
		case 'D':
			x.Blocked++
		}
		all = append(all, candidate{
			Thread{TID: tid, Comm: string(st.comm), State: st.state, CPU: ticks(st.cpu)},
			sample{start: st.start, ticks: st.cpu},
		})
	}
	slices.SortStableFunc(all[1:], func(a, b candidate) int { return rank(a.State) - rank(b.State) })

	for _, c := range all[:min(len(all), maxThreads)] {
		run, wait, err := x.schedstat(c.TID)
		x.problem("schedstat", err)
		if run != 0 {
			c.CPU, c.RunWait, c.run = run, wait, run
		}
		if c.State != 'R' && !endedState(c.State) {
			b, err := x.dir.read(c.TID, "wchan", x.buf[:128])
			x.problem("wchan", err)
			c.Channel = parseChannel(b)
		}
		if c.TID == x.pid {
			x.RunWait = wait
		}
		x.Threads = append(x.Threads, c.Thread)
		x.samples = append(x.samples, c.sample)
	}
	return nil
}

// rank orders threads by how much they tell of a hang.
func rank(state byte) int {
	switch state {
	case 'D':
		return 0
	case 'R':
		return 1
	case 'T', 't':
		return 2
	case 'Z', 'X':
		return 4
	}
	return 3
}

// list lists up to 4096 threads, the leader first.
func (x *examination) list() ([]int32, error) {
	tids := []int32{x.pid}
	fd, err := x.dir.open(0, "task", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return tids, err
	}
	defer unix.Close(fd)
	err = eachEntry(fd, func(name []byte, _ byte) bool {
		if n, ok := number(name); ok && n > 0 && n <= maxPID && int32(n) != x.pid {
			tids = append(tids, int32(n))
		}
		return len(tids) < maxLooked
	})
	return tids, err
}

// sampleAgain takes the second sample, and drops the threads that have ended since the first. Its error leaves open who
// moved.
func (x *examination) sampleAgain() error {
	alive := x.Threads[:0]
	for i, t := range x.Threads {
		before := x.samples[i]
		st, err := x.stat(t.TID)
		var run time.Duration
		if err == nil && st.start == before.start {
			run, _, err = x.schedstat(t.TID)
		}
		switch {
		case err == unix.ENOENT || err == unix.ESRCH || err == nil && st.start != before.start:
			continue
		case err != nil:
			return err
		}
		t.Moved = st.cpu != before.ticks || run != before.run
		if t.State == 'R' && st.state == 'R' && !t.Moved {
			x.Waiting++
		}
		alive = append(alive, t)
	}
	x.Threads = alive
	return nil
}

// stat reads the stat of a thread, or of the process for tid 0; comm of the result is valid until the next read.
func (x *examination) stat(tid int32) (stat, error) {
	b, err := x.dir.read(tid, "stat", x.buf[:])
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// schedstat is zeros from a kernel that does not count it.
func (x *examination) schedstat(tid int32) (run, wait time.Duration, err error) {
	b, err := x.dir.read(tid, "schedstat", x.buf[:])
	if err != nil {
		if err == unix.ENOENT {
			err = nil
		}
		return 0, 0, err
	}
	return parseSchedstat(b)
}

// parseChannel reads /proc/PID/wchan: the name of a function, or "0".
func parseChannel(b []byte) string {
	b = bytes.TrimSpace(b)
	if string(b) == "0" {
		return ""
	}
	return string(b)
}
