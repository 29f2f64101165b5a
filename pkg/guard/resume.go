package guard

import (
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// reopenWait is the pause before a target that could not be opened after a
// restart (no descriptors left, say) is opened again.
const reopenWait = time.Second

func (Resumed) apply(g *Guard) {
	g.nextScan = g.clock.last + time.Microsecond
	for i := range g.pending {
		g.remember(&g.pending[i], true)
	}
	for i := range g.rests {
		if r := &g.rests[i]; r.left {
			g.restLeft(r.id)
		}
	}
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used {
			continue
		}
		if t.state == Ended {
			// A record not cleared yet is cleared once it has stood still.
			g.release(int32(ix))
			continue
		}
		g.reopen(int32(ix))
	}
}

func (g *Guard) reopen(ix int32) {
	t := &g.targets[ix]
	expect := t.facts
	g.decide(Identify{Target: t.id, PID: t.pid, Expect: &expect})
}

func (g *Guard) reopenDue() {
	keep := g.reopens[:0]
	for _, a := range g.reopens {
		if a.at > g.clock.attn {
			keep = append(keep, a)
		} else if ix, ok := g.byID[a.id]; ok {
			g.reopen(ix)
		}
	}
	g.reopens = keep
}

// reidentified takes in how the identification of a target from the registry
// went.
func (g *Guard) reidentified(ix int32, o Identified) {
	t := &g.targets[ix]
	if !t.opening {
		return // answered before
	}
	switch o.Sight {
	case SightGone:
		t.opening = false
		if t.state == Ladder && t.killedBy == "" {
			g.planRecovery(ix, false, true) // a signal may have been sent, and its report lost
		}
		g.ended(ix, "")
		return
	case SightError:
		g.reopens = append(g.reopens, timedAsk{g.clock.attn + reopenWait, t.id})
		return
	case SightRefused:
		g.release(ix)
		return
	}
	// A pidfd's inode is unique for a boot (Linux 6.9): same inode, same
	// process, and what was proven of it stands. Without it, pid and start time
	// may be those of a successor: its consent is asked anew before any signal.
	sure := o.Facts.Inode != 0 && o.Facts.Inode == t.facts.Inode
	t.facts, t.opening = o.Facts, false
	g.units = nil
	if !sure {
		t.consent = ConsentUnknown
		for k := range t.gauges {
			t.gauges[k].forget()
		}
	}
	g.applyPolicy(ix)
	g.eachRecord(ix, func(tb *tableState, i int32) {
		if tb.slots[i].phase == slotLatched {
			g.relatch(tb, i)
		}
	})
	if t.state == Ladder {
		if sure {
			g.resumeSoon(ix)
		} else {
			t.resume = true
			g.ask(ix)
		}
		return
	}
	g.setPatience(ix)
	g.outlived(ix)
	if t.let && t.state == Late {
		g.gather(ix)
		return
	}
	if t.consent != ConsentProven {
		g.ask(ix)
	}
}

// resumeSoon has a ladder go on once all is taken in that this step was told: a
// beat or the loss of the right to act may follow.
func (g *Guard) resumeSoon(ix int32) {
	g.resuming = append(g.resuming, g.targets[ix].id)
}

func (g *Guard) resumeAll() {
	for _, id := range g.resuming {
		if ix, ok := g.byID[id]; ok && g.targets[ix].state == Ladder && !g.targets[ix].inLadder {
			g.resumeLadder(ix)
		}
	}
	g.resuming = g.resuming[:0]
}

// resumeLadder goes on with a ladder that was under way when the daemon ended.
func (g *Guard) resumeLadder(ix int32) {
	t := &g.targets[ix]
	t.resume = false
	if t.beatsAgain() && t.killedBy != sigkill {
		g.offLadderWell(ix)
		return
	}
	if t.consent != ConsentProven || g.onlyReport(ix) != "" || g.heldBy(ix) != nil || !t.toBeEnded() {
		// Judged anew, with all that belongs to it.
		t.killedBy, t.sent, t.step, t.struck = "", false, 0, 0
		g.offLadder(ix, verdictHung, g.clock.attn)
		return
	}
	if t.policy.Scope == config.ScopeCgroup && t.proof == nil { // who is in it now?
		t.resume, t.awaitProof = true, true
		g.due[ix] = g.clock.attn + lookWait
		g.examine(ix)
		return
	}
	if t.struck == 0 {
		t.struck = 1 // the report of a signal may be lost: nobody knows when it was sent
	}
	d := BeginLadder{}
	// With another ladder since, it begins anew: a signal twice harms less than
	// one that is taken for sent.
	if steps := t.policy.Steps; t.sent && int(t.step) < len(steps) && steps[t.step].SignalName() == t.killedBy {
		d.From, d.Sent, d.Waited = int(t.step), true, max(g.clock.last-t.sentMono, 0)
	}
	g.startLadder(ix, d)
}
