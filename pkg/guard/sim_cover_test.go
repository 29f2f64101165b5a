package guard

import (
	"fmt"
	"strings"
	"testing"
)

// cell is a thing that can happen to a target: a column of the table of what the
// simulation covers. Its rows are the states.
type cell uint8

const (
	cellBeat cell = iota
	cellWipe
	cellRejoin
	cellForge
	cellOverwrite
	cellLonger
	cellShorter
	cellRename
	cellExit
	cellNotice
	cellLostNotice
	cellReuse
	cellStop
	cellTrace
	cellTracer
	cellFreeze
	cellDump
	cellRelease
	cellClock
	cellGap
	cellLate
	cellRestart
	cellCrash
	cellReload
	cellLockLost
	cellLockBack
	cellRemove
	cellLoseTable
	cellConsentLost
	cellConsentUnknown
	cellAnswer
	cellBlind
	cellBlock
	cellStarve
	cellHold
	cellUnhold
	cellBrakeGo
	cellBrakeStop
	cellProof
	cellSignalled // the reports of a ladder, in the order of LadderKind
	cellRecovered
	cellGone
	cellUnkillable
	cellFailed
	cellCancelled
	cellDumping
	numCells
)

var cellNames = [numCells]string{"beat", "wiped", "rejoins", "forged", "overwritten", "longer timeout", "shorter timeout", "renamed",
	"ends", "exit notice", "lost notice", "pid reused", "stopped", "traced", "tracer", "frozen", "dumps core", "goes on", "clock set", "gap", "late wake",
	"restart", "crash", "reload", "lock lost", "lock back", "table removed", "table lost", "execs", "maps hidden", "consent answer", "state unreadable",
	"blocked", "starved", "hold", "hold over", "brake go", "brake stop", "evidence",
	"signalled", "spared", "gone", "unkillable", "failed", "cancelled", "waits for dump"}

// coverage counts what happened in which state, and where other duties stood.
type coverage struct {
	of     [numStates][numCells]uint64
	duties dutyCoverage
}

func (c *coverage) add(o *coverage) {
	for s := range c.of {
		for k := range c.of[s] {
			c.of[s][k] += o.of[s][k]
		}
	}
	c.duties.add(&o.duties)
}

// hit notes that something happens to a process.
func (s *sim) hit(p *proc, what cell) {
	for id, o := range s.held {
		if o != p {
			continue
		}
		if ix, ok := s.g.byID[id]; ok {
			s.cover.of[s.g.targets[ix].state][what]++
		}
	}
}

// hitAll notes that something happens to all targets.
func (s *sim) hitAll(what cell) {
	for ix := range s.g.targets {
		if t := &s.g.targets[ix]; t.used {
			s.cover.of[t.state][what]++
		}
	}
}

// stateOf is what the guard makes of a process.
func (s *sim) stateOf(p *proc) string {
	for id, o := range s.held {
		if ix, ok := s.g.byID[id]; ok && o == p {
			return s.g.targets[ix].state.String()
		}
	}
	return "unknown"
}

// String is the table, with what cannot happen in a state left blank.
func (c *coverage) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-18s", "")
	for s := range numStates {
		fmt.Fprintf(&b, "%11s", s)
	}
	for k := range numCells {
		fmt.Fprintf(&b, "\n%-18s", cellNames[k])
		for s := range numStates {
			fmt.Fprintf(&b, "%11d", c.of[s][k])
		}
	}
	return b.String()
}

// least says how often the rarest of the cells was hit that can be.
func (c *coverage) least() string {
	at, what := State(0), cell(0)
	n := uint64(1 << 63)
	for s := range numStates {
		for k := range numCells {
			if impossible(s, k) == "" && c.of[s][k] < n {
				n, at, what = c.of[s][k], s, k
			}
		}
	}
	return fmt.Sprintf("the rarest of what can happen in a state (%s, %s) happened %d times", at, cellNames[what], n)
}

// check checks that what cannot happen did not, and if enough was run that all
// else happened often.
func (c *coverage) check(t *testing.T, full bool) {
	for s := range numStates {
		for k := range numCells {
			switch why := impossible(s, k); {
			case why != "" && c.of[s][k] > 0:
				t.Errorf("%s in state %s happened %d times, although %s", cellNames[k], s, c.of[s][k], why)
			case why == "" && full && c.of[s][k] < cellMin:
				t.Errorf("%s in state %s happened %d times only", cellNames[k], s, c.of[s][k])
			}
		}
	}
}

// impossible says why something cannot happen in a state, "" if it can.
func impossible(s State, k cell) string {
	switch {
	case s == Rereading:
		switch k {
		case cellBeat, cellWipe, cellExit, cellOverwrite, cellReuse, cellStop:
		default:
			return "this state does not outlast the wake, and only what overtakes the second look happens in it"
		}
	case k >= cellSignalled && s != Ladder && s != Ended:
		return "its ladder is over, or has not begun"
	case s == Ended:
		switch k {
		case cellExit, cellNotice, cellLostNotice, cellRejoin, cellStop, cellTrace, cellTracer, cellFreeze, cellDump, cellRelease,
			cellConsentLost, cellConsentUnknown, cellBlind, cellBlock, cellStarve:
			return "its process is gone"
		}
	}
	return ""
}
