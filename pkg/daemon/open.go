package daemon

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// openAhead is from how many processes on they are opened by all processors
// together: one takes 30 to 50 µs, and READY=1 waits for those of a full table.
const openAhead = 64

// opened is what process.Open said.
type opened struct {
	proc *process.Process
	err  error
}

// openMany opens the processes that are to be identified, if they are many. The
// loop does its part, so it never waits for more than the one that a worker has
// under way.
func openMany(decisions []guard.Decision) map[int32]opened {
	n := 0
	for _, x := range decisions {
		if _, ok := x.(guard.Identify); ok {
			n++
		}
	}
	if n < openAhead {
		return nil
	}
	var pids []int32
	out := make(map[int32]opened, n)
	for _, x := range decisions {
		if x, ok := x.(guard.Identify); ok {
			if _, twice := out[x.PID]; !twice {
				out[x.PID] = opened{}
				pids = append(pids, x.PID)
			}
		}
	}
	results := make([]opened, len(pids))
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(pids)); i = next.Add(1) - 1 {
			results[i].proc, results[i].err = process.Open(pids[i])
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 4) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()
	for i, pid := range pids {
		out[pid] = results[i]
	}
	return out
}

// open opens a process, or takes the one that openMany has opened.
func (d *Daemon) open(pid int32) (*process.Process, error) {
	if o, ok := d.opened[pid]; ok {
		delete(d.opened, pid)
		return o.proc, o.err
	}
	return process.Open(pid)
}
