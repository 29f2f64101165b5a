package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// held is a process whose pidfd the loop holds.
type held struct {
	proc   *process.Process
	seen   time.Duration     // when the daemon first saw it
	proof  *process.Evidence // of its last full look; nil: none
	group  string            // its cgroup at that look: what was decided about it is about that one
	exited chan struct{}     // closed by the exit notice
	gone   bool
}

// act carries out one decision; what it answers at once is seen in the same
// wake.
func (d *Daemon) act(decision guard.Decision) {
	switch x := decision.(type) {
	case *guard.Event:
		d.report(x)
		d.watches.saw(x)
	case guard.ReadAgain:
		if a := d.tables.find(x.Table); a != nil {
			d.see(&guard.Reread{Target: x.Target, Table: x.Table, Slot: x.Slot, Record: a.seg.Load(int(x.Slot))})
		}
	case guard.Identify:
		d.see(d.identify(x))
	case guard.Release:
		d.release(x.Target)
	case guard.AskConsent:
		d.asks = append(d.asks, x)
	case guard.LookAt:
		d.see(d.look(x.Target))
	case guard.Examine:
		d.examine(x)
	case guard.Clear:
		d.see(d.clear(x))
	case guard.BeginLadder:
		d.ladders = append(d.ladders, x)
	case guard.CancelLadder:
		d.pool.Cancel(uint64(x.Target))
	case guard.CheckReaped:
		d.see(d.checkReaped(x))
	case guard.RestoreUnit:
		d.starts = append(d.starts, restoreJob{x.Ask, func(ctx context.Context) guard.RestoreDone { return d.restorer.restore(ctx, x) }})
	case guard.RememberUnit:
		d.restorer.remember(x)
	case guard.RestartUnit:
		d.starts = append(d.starts, restoreJob{x.Ask, func(ctx context.Context) guard.RestoreDone { return d.restorer.restart(ctx, x) }})
	case guard.LookAtStarted:
		d.restorer.ask(restoreJob{x.Ask, func(ctx context.Context) guard.RestoreDone { return d.restorer.prove(ctx, x) }})
	case guard.RestartForLimit:
		d.limitJobs = append(d.limitJobs, d.limiter.restart(x))
	case guard.LookAtUnit:
		d.limitJobs = append(d.limitJobs, d.limiter.look(x))
	case guard.SetUnitLimits:
		d.limitJobs = append(d.limitJobs, d.limiter.set(x))
	case guard.RepairSemaphore:
		if sem := d.tables.sem; sem != nil && sem.ID() == x.ID {
			if err := sem.Repair(); err != nil {
				d.degraded("semaphore", fmt.Sprintf("repair semaphore %d: %v; the clients that wait for it go on waiting", x.ID, err))
			}
		}
	case guard.CatchOldGuard:
		d.catchOldGuard(x)
	case guard.DropTable:
		d.dropTable(x.Table)
	default:
		panic(fmt.Sprintf("daemon: decision %T is not carried out", decision))
	}
}

// identify opens a process and holds it.
func (d *Daemon) identify(x guard.Identify) guard.Identified {
	out := guard.Identified{Target: x.Target, PID: x.PID}
	p, err := d.open(x)
	var refused *process.RefusedError
	switch {
	case err == nil:
	case errors.Is(err, process.ErrGone):
		out.Sight = guard.SightGone
		return out
	case errors.As(err, &refused):
		out.Sight, out.Reason = guard.SightRefused, refused.Reason
		if x.Expect != nil { // the number is another's by now
			out.Sight = guard.SightGone
		}
		return out
	default:
		out.Sight, out.Reason = guard.SightError, err.Error()
		return out
	}
	if e := x.Expect; e != nil && (e.Start != p.StartTime || e.Inode != 0 && p.Inode != 0 && e.Inode != p.Inode) {
		_ = p.Close()
		out.Sight = guard.SightGone
		return out
	}
	if p.Comm == identifier {
		// A guard beside this one maps the table as well, and is no client.
		_ = p.Close()
		out.Sight, out.Reason = guard.SightRefused, "a guard"
		return out
	}
	if full := d.noRoom(); full != "" {
		_ = p.Close()
		out.Sight, out.Reason = guard.SightError, full
		return out
	}
	if err := d.poller.Watch(p.FD(), uint64(x.Target)); err != nil {
		_ = p.Close()
		out.Sight, out.Reason = guard.SightError, err.Error()
		return out
	}
	d.held[x.Target] = &held{proc: p, seen: process.Now(), exited: make(chan struct{})}
	out.Facts = guard.Facts{Start: p.StartTime, Inode: p.Inode, UID: p.UID, PPID: p.PPID, PGID: p.PGID,
		User: d.userName(p.UID), Unit: p.Unit, Comm: p.Comm, Parent: d.parentName(p.PPID), Cgroup: p.Cgroup}
	d.restorer.meet(x.Target, out.Facts, p.PID)
	return out
}

// maxUsers bounds the cache of user names.
const maxUsers = 1024

// userName looks a user up in /etc/passwd (without cgo nothing else is asked,
// so nothing can block); rules match on it. A user without a name is a number.
func (d *Daemon) userName(uid uint32) string {
	if name, ok := d.users[uid]; ok {
		return name
	}
	name := strconv.Itoa(int(uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	if len(d.users) >= maxUsers {
		clear(d.users)
	}
	d.users[uid] = name
	return name
}

// parent is the name of a process that has started targets.
type parent struct {
	comm string
	at   time.Duration
}

// parentAge is for how long the name of a parent counts: that of systemd and of a
// start script is read once for all that begin together.
const parentAge = time.Second

// parentName is the name of a parent; that of pid 1 is not asked for.
func (d *Daemon) parentName(pid int32) string {
	if pid <= 1 {
		return ""
	}
	now := process.Now()
	if p, ok := d.parents[pid]; ok && now-p.at < parentAge {
		return p.comm
	}
	if len(d.parents) >= maxUsers {
		clear(d.parents)
	}
	comm := commOf(pid)
	d.parents[pid] = parent{comm, now}
	return comm
}

// release gives a process up.
func (d *Daemon) release(id guard.TargetID) {
	h := d.held[id]
	if h == nil {
		return
	}
	if !h.gone {
		_ = d.poller.Unwatch(h.proc.FD())
	}
	_ = h.proc.Close()
	delete(d.held, id)
}

// exitNotice takes in that a pidfd is readable.
func (d *Daemon) exitNotice(id guard.TargetID) {
	h := d.held[id]
	if h == nil || h.gone {
		return
	}
	h.gone = true
	_ = d.poller.Unwatch(h.proc.FD())
	close(h.exited)
	o := guard.Exited{Target: id}
	if ws, ok := h.proc.ExitStatus(); ok {
		o.Status, o.Ending = endingOf(ws)
	}
	d.see(o)
}

// endingOf says in words how a process ended, and whether that is a crash: for
// systemd these four signals are an end on request, too (systemd.service(5),
// SuccessExitStatus=).
func endingOf(ws unix.WaitStatus) (string, guard.Ending) {
	switch {
	case ws.Exited():
		text := fmt.Sprintf("exit status %d", ws.ExitStatus())
		if ws.ExitStatus() == 0 {
			return text, guard.EndedWell
		}
		return text, guard.EndedBadly
	case ws.Signaled():
		text := "killed by " + unix.SignalName(ws.Signal())
		switch ws.Signal() {
		case unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE:
			return text, guard.EndedWell
		}
		return text, guard.EndedBadly
	}
	return "", guard.EndedUnknown
}

func (d *Daemon) look(id guard.TargetID) *guard.Looked {
	out := &guard.Looked{Target: id}
	h := d.held[id]
	if h == nil {
		out.Problem = "not opened"
		return out
	}
	l, err := h.proc.Look()
	switch {
	case errors.Is(err, process.ErrGone):
		out.Vanished = true
	case err != nil:
		out.Problem = err.Error()
	default:
		out.State, out.Tracer, out.PGID, out.Frozen, out.Dumping = l.State, l.TracerPID, l.PGID, l.Frozen, l.Dumping
		out.CPU, out.RunWait = l.CPU, l.RunWait
	}
	return out
}

// clear wipes the pid of a record whose process is gone. The number may be a
// new process's by now, which took over the record that it found under its own
// pid: so it is looked at just before.
func (d *Daemon) clear(x guard.Clear) guard.ClearDone {
	out := guard.ClearDone{Table: x.Table, Slot: x.Slot, PID: x.PID}
	a := d.tables.find(x.Table)
	if a == nil || a.seg.ReadOnly() {
		out.Denied = true
		return out
	}
	// Until it is reaped the number is its own. Most exits are noticed before that, and this takes a ninth of
	// the time of opening it.
	if h := d.held[x.Target]; h != nil && h.gone && h.proc.PID == x.PID && h.proc.Signal(0) == nil {
		out.Cleared = a.seg.Clear(int(x.Slot), x.PID)
		return out
	}
	p, err := process.Open(x.PID)
	var refused *process.RefusedError
	switch {
	case errors.Is(err, process.ErrGone) || errors.As(err, &refused):
		out.Cleared = a.seg.Clear(int(x.Slot), x.PID)
	default:
		if err == nil {
			_ = p.Close()
		}
		out.Reused = true
	}
	return out
}

func (d *Daemon) checkReaped(x guard.CheckReaped) guard.Reaped {
	out := guard.Reaped{Target: x.Target}
	// A zombie takes signal 0, a reaped process does not.
	h := d.held[x.Target]
	if h == nil {
		return out
	}
	if ws, ok := h.proc.ExitStatus(); ok {
		_, out.Ending = endingOf(ws)
	}
	if h.proc.Signal(0) == nil {
		if ppid, state, err := process.ParentOf(x.PID); err == nil && state == 'Z' {
			out.Zombie, out.Parent, out.ParentComm = true, ppid, commOf(ppid)
		}
	}
	return out
}

// askConsents asks what was decided to ask. At a start READY=1 is said before,
// and the helper does not compete with the loop for the processors.
func (d *Daemon) askConsents() {
	for _, x := range d.asks {
		d.reader.Ask(x.PID, d.cfg.CPActive.Key, int(x.Table), uint64(x.Target))
	}
	d.asks = d.asks[:0]
}

// consentAnswer takes in an answer of the reader. It went by number, so it
// counts only while the pidfd says that the process lives.
func (d *Daemon) consentAnswer(a process.ConsentAnswer) {
	o := guard.Consented{Target: guard.TargetID(a.ID)}
	h := d.held[o.Target]
	switch {
	case h == nil || h.proc.Exited():
		o.Reason = "it ended meanwhile"
	case a.Consent == process.ConsentProven:
		o.Consent = guard.ConsentProven
	case a.Consent == process.ConsentNotMapped:
		o.Consent = guard.ConsentNotMapped
	case a.Consent == process.ConsentOtherNamespace:
		o.Consent = guard.ConsentOtherNamespace
	case a.Err != nil:
		o.Reason = a.Err.Error()
	}
	d.see(o)
}
