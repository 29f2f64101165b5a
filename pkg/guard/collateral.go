package guard

import (
	"fmt"
	"slices"
	"time"
)

const (
	// collateralWindow is how soon after a signal to a member of its process
	// group the end of a target is put down to that signal.
	collateralWindow = time.Second
	// overtaken is how much later than an exit notice the report of the signal
	// that led to it may come, on a busy machine.
	overtaken = 100 * time.Millisecond
)

// groupSignal notes a signal, for what ends with it.
type groupSignal struct {
	at   time.Duration
	pgid int32
	pid  int32
}

// checkCollateral reports a target that ended on its own within a second of a
// signal to another member of its process group: programs that signal their
// whole group when they are told to end take their neighbours with them.
func (g *Guard) checkCollateral(ix int32) {
	t := &g.targets[ix]
	g.pruneGroupSignals()
	for _, s := range g.groupSignals {
		if s.pgid == t.facts.PGID && s.pid != t.pid {
			g.emit(g.collateral(ix, s.pid))
			return
		}
	}
	// Its exit notice may come before the report of the signal that ended it.
	for k := range g.targets {
		if o := &g.targets[k]; o.inLadder && o.facts.PGID == t.facts.PGID {
			g.groupExits = slices.DeleteFunc(g.groupExits, func(x groupExit) bool { return g.clock.attn-x.at > overtaken })
			g.groupExits = append(g.groupExits, groupExit{g.clock.attn, t.facts.PGID, g.collateral(ix, o.pid)})
			return
		}
	}
}

// groupExit is the end of a target beside one that is being ended.
type groupExit struct {
	at    time.Duration
	pgid  int32
	event *Event
}

func (g *Guard) collateral(ix int32, by int32) *Event {
	t := &g.targets[ix]
	e := g.about(ix, EvCollateral, LevelWarning, fmt.Sprintf("process group %d", t.facts.PGID))
	e.Message = fmt.Sprintf("%s ended within a second of our signal to pid %d, which is in its process group %d: that one probably signals its whole group when it ends; start them in groups of their own", t.describe(), by, t.facts.PGID)
	return e
}

// groupSignalled takes in a signal to a member of a process group.
func (g *Guard) groupSignalled(t *target) {
	if t.facts.PGID == 0 {
		return
	}
	g.pruneGroupSignals()
	g.groupSignals = append(g.groupSignals, groupSignal{g.clock.attn, t.facts.PGID, t.pid})
	keep := g.groupExits[:0]
	for _, x := range g.groupExits {
		switch {
		case g.clock.attn-x.at > overtaken:
		case x.pgid == t.facts.PGID:
			g.emit(x.event)
		default:
			keep = append(keep, x)
		}
	}
	g.groupExits = keep
}

func (g *Guard) pruneGroupSignals() {
	old := 0
	for old < len(g.groupSignals) && g.clock.attn-g.groupSignals[old].at > collateralWindow {
		old++
	}
	g.groupSignals = append(g.groupSignals[:0], g.groupSignals[old:]...)
}
