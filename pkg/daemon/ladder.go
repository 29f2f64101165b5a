package daemon

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/escalate"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

const (
	// releaseAfter is how long a process that got SIGKILL is given before its
	// memory is taken from outside; most are gone in a tenth of it.
	releaseAfter = 200 * time.Millisecond
	// maxReleases bounds the goroutines that do it: the call waits for a lock
	// that a stuck process may hold.
	maxReleases = 8
)

// ladderTarget is what a ladder's worker sees of its target.
type ladderTarget struct {
	proc     *process.Process
	pid      int32
	places   []place
	exited   <-chan struct{}
	releases *atomic.Int32 // under way in the whole daemon
}

type place struct {
	seg   *table.Segment
	slot  int
	token int64
}

func (t *ladderTarget) Signal(sig unix.Signal) error {
	err := t.proc.Signal(sig)
	if errors.Is(err, process.ErrGone) || errors.Is(err, process.ErrClosed) {
		return unix.ESRCH // the loop closes the pidfd of a process that has ended only
	}
	if err == nil && sig == unix.SIGKILL && t.releases.Add(1) <= maxReleases {
		go t.releaseMemory()
	} else if err == nil && sig == unix.SIGKILL {
		t.releases.Add(-1)
	}
	return err
}

// releaseMemory takes the memory of a process that SIGKILL does not end soon: it
// may sit in the kernel for long, and the host may be waiting for just that
// memory. Nobody waits for this goroutine.
func (t *ladderTarget) releaseMemory() {
	defer t.releases.Add(-1)
	timer := time.NewTimer(releaseAfter)
	defer timer.Stop()
	select {
	case <-t.exited:
	case <-timer.C:
		_ = t.proc.ReleaseMemory() // a convenience; whether it ends is seen anyway
	}
}

// Recovered says whether a record of the target has beaten since it was
// condemned: the same slot, the same pid, another token. A record that was
// wiped or given to somebody else says nothing.
func (t *ladderTarget) Recovered() bool {
	for _, p := range t.places {
		if pid, token := p.seg.Token(p.slot); pid == t.pid && token != p.token {
			return true
		}
	}
	return false
}

func (t *ladderTarget) Dumping() bool {
	l, err := t.proc.Look()
	return err == nil && l.Dumping
}

// Remains: only the process itself is ended.
func (t *ladderTarget) Remains() bool { return false }

// startLadders hands what was decided to the workers; the registry has it by
// now.
func (d *Daemon) startLadders() {
	for _, x := range d.ladders {
		if x.Left {
			d.endRest(x)
			continue
		}
		h := d.held[x.Target]
		if h == nil {
			d.post(guard.LadderReport{Target: x.Target, Kind: guard.LadderFailed, Reason: "its pidfd is not held"})
			continue
		}
		t := ladderTarget{proc: h.proc, pid: x.PID, exited: h.exited, releases: &d.releases}
		for _, p := range x.Places {
			if a := d.tables.find(p.Table); a != nil {
				t.places = append(t.places, place{a.seg, int(p.Slot), p.Token})
			}
		}
		job := escalate.Job{ID: uint64(x.Target), Target: &t, Steps: x.Steps, From: x.From, Sent: x.Sent, Waited: x.Waited, DumpWait: x.DumpWait, Exited: h.exited}
		if x.Scope == config.ScopeCgroup {
			group := d.newGroup(x, t, h.group)
			job.Target = group
		}
		d.pool.Start(job)
	}
	d.ladders = d.ladders[:0]
}

// newGroup makes the target of a ladder for a cgroup.
func (d *Daemon) newGroup(x guard.BeginLadder, t ladderTarget, path string) *groupTarget {
	group := &groupTarget{ladderTarget: t, target: x.Target, path: path, units: &d.restorer.units, helper: d.reader.PID(), earlier: x.Group, post: d.post}
	d.groups[x.Target] = group
	return group
}

// endRest goes on with the ladder of an earlier daemon for those of a cgroup whose
// target has ended.
func (d *Daemon) endRest(x guard.BeginLadder) {
	ended := make(chan struct{})
	close(ended)
	group := d.newGroup(x, ladderTarget{pid: x.PID, exited: ended, releases: &d.releases}, x.Group.Path)
	d.pool.Start(escalate.Job{ID: uint64(x.Target), Target: group, Steps: x.Steps, From: x.From, Sent: x.Sent, Waited: x.Waited, Left: true, Exited: ended})
}

// ladderOutcome is called by the workers.
func (d *Daemon) ladderOutcome(o escalate.Outcome) {
	r := guard.LadderReport{Target: guard.TargetID(o.ID), Step: int32(o.Step), Signal: unix.SignalName(o.Signal)}
	switch o.Kind {
	case escalate.Signalled:
		r.Kind = guard.LadderSignalled
	case escalate.Dumping:
		r.Kind = guard.LadderDumping
	case escalate.Recovered:
		r.Kind = guard.LadderRecovered
	case escalate.Gone:
		r.Kind = guard.LadderGone
	case escalate.Unkillable:
		r.Kind = guard.LadderUnkillable
	case escalate.Failed:
		r.Kind = guard.LadderFailed
	case escalate.Cancelled:
		r.Kind = guard.LadderCancelled
	}
	if o.Err != nil {
		r.Reason = o.Err.Error()
	}
	d.mail.leave(func() {
		if g := d.groups[r.Target]; g != nil && r.Kind != guard.LadderSignalled && r.Kind != guard.LadderDumping {
			g.close() // that was its last word
			delete(d.groups, r.Target)
		}
		d.see(r)
		d.saved.rest = 0 // a signal that was sent is written down at once
	})
}

var _ escalate.Target = (*ladderTarget)(nil)
