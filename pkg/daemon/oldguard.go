package daemon

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

const (
	// An old guard's pass takes 0.1 ms over an empty table and 2 ms over a full
	// one: it is looked for that often (180 µs, as the sleep runs over)…
	stakeoutStep = 100 * time.Microsecond
	// …from this long before its next pass is due until as long after: the
	// passes were seen by scans, one interval apart.
	stakeoutBefore = 1500 * time.Millisecond
)

// catchOldGuard waits for the next attach of a process that is gone again
// before a scan can name it. It costs a fifth of a core for three seconds
// (measured), and the guard asks for it a few times at most.
func (d *Daemon) catchOldGuard(x guard.CatchOldGuard) {
	d.side(func() {
		timer := time.NewTimer(max(0, x.Mono-stakeoutBefore-process.Now()))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.ending:
			return
		}
		runtime.LockOSThread() // for good: the thread and its slack end with this goroutine
		_ = process.ThreadTimerSlack(process.FineTimer)
		first, err := table.StatID(int(x.Table))
		if err != nil {
			return
		}
		for until := x.Mono + stakeoutBefore; process.Now() < until; {
			select {
			case <-d.ending:
				return
			default:
			}
			pause := unix.NsecToTimespec(int64(stakeoutStep))
			_ = unix.Nanosleep(&pause, nil) // cut short by a signal: looked at sooner
			st, err := table.StatID(int(x.Table))
			if err != nil {
				return
			}
			if st.LPID == first.LPID {
				continue
			}
			first = st
			if comm := commOf(st.LPID); comm != "" {
				d.post(guard.GuardCaught{PID: st.LPID, Comm: comm})
				return
			}
		}
	})
}
