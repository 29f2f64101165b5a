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
	var first []guard.Identify
	out := make(map[int32]opened, n)
	for _, x := range decisions {
		if x, ok := x.(guard.Identify); ok {
			if _, twice := out[x.PID]; !twice {
				out[x.PID] = opened{}
				first = append(first, x)
			}
		}
	}
	results := make([]opened, len(first))
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(first)); i = next.Add(1) - 1 {
			results[i].proc, results[i].err = openOne(first[i])
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 4) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()
	for i, x := range first {
		out[x.PID] = results[i]
	}
	return out
}

// open opens a process, or takes the one that openMany has opened.
func (d *Daemon) open(x guard.Identify) (*process.Process, error) {
	if o, ok := d.opened[x.PID]; ok {
		delete(d.opened, x.PID)
		return o.proc, o.err
	}
	return openOne(x)
}

func openOne(x guard.Identify) (*process.Process, error) {
	e := x.Expect
	if e == nil {
		return process.Open(x.PID)
	}
	return process.Reopen(process.Facts{PID: x.PID, StartTime: e.Start, Inode: e.Inode, UID: e.UID, PPID: e.PPID, PGID: e.PGID,
		Comm: e.Comm, Cgroup: e.Cgroup, Unit: e.Unit})
}
