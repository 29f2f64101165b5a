package guard

import (
	"fmt"
	"time"
)

const (
	// rhythmPasses attaches in a rhythm, none of which brought a record, are an
	// old guard at work: it is started anew for each pass and attaches each time.
	rhythmPasses = 4
	// rhythmSlack is how much two of its periods may differ: shm_atime has
	// whole seconds, and procctl counts from the end of a pass.
	rhythmSlack = 2 * time.Second
	// rhythmTries bounds the attempts to catch the short-lived process for its
	// name; rhythmQuiet is the pause after a report.
	rhythmTries = 3
	rhythmQuiet = time.Hour
)

// rhythm looks for an old guard beside this one.
type rhythm struct {
	last   Attachment
	begun  bool
	fresh  bool                        // last is not judged yet: its record may come with the next scan
	at     time.Duration               // when last was seen
	passes [rhythmPasses]time.Duration // attention times, oldest first
	n      int
	comm   string
	pid    int32
	tries  int
	quiet  time.Duration // nothing is said before
}

func (o Attachment) apply(g *Guard) {
	r := &g.rhythm
	if tb := g.table(o.Table); tb == nil || tb.removed {
		return // a removed table is not attached by anybody any more
	}
	if !r.begun || r.last.Table != o.Table {
		*r = rhythm{last: o, begun: true}
		return
	}
	if r.fresh {
		r.fresh = false
		if !g.isClient(r.last.LastPID) {
			g.pass(r.last, r.at)
		}
	}
	if o.ATime != r.last.ATime {
		r.last, r.fresh, r.at = o, true, g.clock.attn
	}
}

// isClient says whether a pid has or had a record lately.
func (g *Guard) isClient(pid int32) bool {
	if _, ok := g.byPID[pid]; ok {
		return true
	}
	for ix := range g.targets { // ended ones too
		if t := &g.targets[ix]; t.used && t.pid == pid {
			return true
		}
	}
	return false
}

// pass takes in an attach at the attention time at that brought no record.
func (g *Guard) pass(o Attachment, at time.Duration) {
	r := &g.rhythm
	if r.n > 0 {
		// A new client attaches at any time, and its attach may hide a pass:
		// only attaches that do not fit begin the count anew.
		if period := r.period(); period > 0 && absDuration(at-r.passes[r.n-1]-period) > rhythmSlack {
			r.n = 0
		}
	}
	if r.n == rhythmPasses {
		copy(r.passes[:], r.passes[1:])
		r.n--
	}
	r.passes[r.n] = at
	r.n++
	r.pid = o.LastPID
	if o.Comm != "" {
		r.comm = o.Comm
	}
	if r.n < rhythmPasses || at < r.quiet {
		return
	}
	if r.comm == "" && r.tries < rhythmTries {
		r.tries++
		g.decide(CatchOldGuard{o.Table, g.clock.monoAt(at + r.period())})
		return
	}
	g.oldGuard()
}

// period is the mean time between the passes seen, 0 with fewer than two.
func (r *rhythm) period() time.Duration {
	if r.n < 2 {
		return 0
	}
	return (r.passes[r.n-1] - r.passes[0]) / time.Duration(r.n-1)
}

func (o GuardCaught) apply(g *Guard) {
	if o.Comm != "" && !g.isClient(o.PID) {
		g.rhythm.pid, g.rhythm.comm = o.PID, o.Comm
	}
}

// oldGuard reports the old guard.
func (g *Guard) oldGuard() {
	r := &g.rhythm
	name := r.comm
	if name == "" {
		name = "too short-lived to be named"
	}
	e := &Event{Name: EvOldGuard, Level: LevelWarning, PID: r.pid, Process: r.comm, Table: r.last.Table, Slot: -1, Silence: r.period(), Reason: "attaches in a rhythm"}
	e.Message = fmt.Sprintf("another guard is at work beside this one: %s attached table %d, and so did others before it every %s without registering; stop it (a line \"procctl N …\" in a start script?), it can kill whole process groups",
		who(r.pid, name), r.last.Table, seconds(r.period()))
	if g.vanished > 0 {
		e.Message += fmt.Sprintf("; %d records of live targets have vanished so far", g.vanished)
	}
	g.emit(e)
	r.quiet = g.clock.attn + rhythmQuiet
	r.tries = 0
}

func absDuration(d time.Duration) time.Duration {
	if d < 0 {
		return -d
	}
	return d
}

// OldGuard is the old guard that was reported last, while it goes on; a period
// of 0 says that there is none.
func (g *Guard) OldGuard() (pid int32, comm string, period time.Duration) {
	r := &g.rhythm
	if r.quiet == 0 || r.n < 2 {
		return 0, "", 0
	}
	return r.pid, r.comm, r.period()
}
