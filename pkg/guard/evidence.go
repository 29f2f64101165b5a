package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Verdicts on a silence that nothing excuses.
const (
	verdictHung    = "hung"
	verdictStarved = "starved" // runnable, but it gets no processor; or the host is under pressure
	verdictBlocked = "blocked" // in an uninterruptible wait at both looks
)

// What excuses a silence for as long as it lasts; each is a verdict as well.
const (
	excuseFrozen  = "frozen"
	excuseDumping = "dumping"
	excuseStopped = "stopped"
	excuseTraced  = "traced"
	excuseTracer  = "tracer" // attached, and its target runs
)

var excuseTexts = map[string]string{
	excuseFrozen:  "its cgroup is frozen",
	excuseDumping: "it is writing a core dump",
	excuseStopped: "it is stopped",
	excuseTraced:  "it is stopped by a tracer",
	excuseTracer:  "a debugger is attached",
}

// noLonger says what ended with an excuse.
var noLonger = map[string]string{
	excuseFrozen:  "is no longer frozen",
	excuseDumping: "has written its core dump",
	excuseStopped: "is no longer stopped",
	excuseTraced:  "is no longer stopped by a tracer",
	excuseTracer:  "has no debugger attached any more",
}

const (
	// idleShare: who used less than this part of the time between the two looks
	// was given no processor, if it wanted one.
	idleShare = 100
	// starvedShare: who waited for a processor for more than this part of it is
	// starved, even if it got one at times.
	starvedShare = 2
	// waitShown is the part of it from which that wait is worth a word.
	waitShown = 10
)

// excuse says what explains a silence and ends by itself, "" for nothing.
func (o *Looked) excuse() string {
	switch {
	case o.Frozen:
		return excuseFrozen
	case o.Dumping:
		return excuseDumping
	case o.State == 'T':
		return excuseStopped
	case o.State == 't':
		return excuseTraced
	case o.Tracer != 0:
		return excuseTracer
	}
	return ""
}

// verdictOf weighs the evidence about a late target.
func (g *Guard) verdictOf(t *target) string {
	if why := t.look.excuse(); why != "" && !t.untraced { // and its rule says ladder
		return why
	}
	cpu, waited, since := t.sinceSoftLook()
	p := t.evidence()
	switch {
	case since > 0 && t.look.State == 'D' && t.softState == 'D' && cpu == 0:
		return verdictBlocked
	case since > 0 && p.Starving > 0 && cpu < since/idleShare,
		since > 0 && waited > since/starvedShare,
		g.pressed(&p.Host), g.pressed(&p.Group), p.TimedOut:
		return verdictStarved
	}
	return verdictHung
}

// sinceSoftLook says what a target used of the processors since the soft look, for
// how long its main thread waited for one, and how long ago that look was; 0 where
// there was none in this silence.
func (t *target) sinceSoftLook() (cpu, waited, since time.Duration) {
	if !t.softSeen {
		return 0, 0, 0
	}
	return max(t.look.CPU-t.softCPU, 0), max(t.look.RunWait-t.softRun, 0), t.readAt - t.softAt
}

// softExcuse is what excused a target at the soft look, "" for nothing.
func (t *target) softExcuse() string {
	if !t.softSeen {
		return ""
	}
	return t.softWhy
}

// pressed says whether there are more stalls than a verdict can be trusted with.
func (g *Guard) pressed(p *Pressure) bool {
	limit := &g.cfg.Pressure
	return p.CPU > limit.CPU || p.Memory > limit.Memory || p.IO > limit.IO
}

// responseTo is what is done on a verdict about a target.
func (t *target) responseTo(verdict string) config.Response {
	v := &t.policy.Verdict
	switch verdict {
	case verdictStarved:
		return v.Starved
	case verdictBlocked:
		return v.Blocked
	case excuseFrozen:
		return v.Frozen
	case excuseDumping:
		return v.Dumping
	case excuseStopped:
		return v.Stopped
	case excuseTraced, excuseTracer:
		return v.Traced
	}
	return v.Hung
}

// toBeEnded says whether a target with its verdict is one to be ended, by its rule.
func (t *target) toBeEnded() bool {
	if t.limited != "" {
		return t.limitStands(config.LimitLadder) && t.policy.Action == config.ActionLadder && t.untouchable() == ""
	}
	switch t.responseTo(t.verdict) {
	case config.RespondLadder, config.RespondWait:
		return t.policy.Action == config.ActionLadder && t.untouchable() == ""
	}
	return false
}

// condemnable says whether the verdict on a target is one that ends it.
func (t *target) condemnable() bool {
	switch t.verdict {
	case "", "unverified", "forged", "unkillable":
		return false
	}
	return true
}

var noEvidence = Examined{Problem: "it did not come in time", TimedOut: true}

// evidence is what was found about a late target.
func (t *target) evidence() *Examined {
	if t.proof == nil {
		return &noEvidence
	}
	return t.proof
}

// story says in one line what the verdict on a target rests on: 1 of 12 threads
// runnable, main thread in futex, no CPU used for 28.0s.
func (g *Guard) story(t *target) string {
	p := t.evidence()
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if p.Problem != "" {
		say("state %c, no more evidence (%s)", printable(t.look.State), p.Problem)
	} else {
		switch {
		case p.Runnable > 0:
			say("%d of %s runnable", p.Runnable, plural(p.Threads, "thread"))
		case p.Blocked > 0:
			say("%d of %s blocked", p.Blocked, plural(p.Threads, "thread"))
		default:
			say("none of %s runnable", plural(p.Threads, "thread"))
		}
		if p.Starving > 0 {
			say("%d given no processor", p.Starving)
		}
		say("main thread %s", p.mainThread())
	}
	if why := t.look.excuse(); why != "" {
		say("%s", excuseTexts[why])
	}
	if cpu, waited, since := t.sinceSoftLook(); since > 0 {
		if cpu == 0 {
			say("no CPU used for %s", seconds(since))
		} else {
			say("%s of CPU used in %s", seconds(cpu), seconds(since))
		}
		if waited > since/waitShown {
			say("%s of that waiting for a processor", seconds(waited))
		}
	}
	for _, where := range [...]struct {
		name string
		p    *Pressure
	}{{"host", &p.Host}, {"cgroup", &p.Group}} {
		if g.pressed(where.p) {
			say("%s under pressure (cpu %.0f%%, memory %.0f%%, io %.0f%%)", where.name, max(where.p.CPU, 0), max(where.p.Memory, 0), max(where.p.IO, 0))
		}
	}
	if !t.beaten {
		say("never beat: its timeout is the longest time it may run")
	}
	return strings.Join(parts, ", ")
}

// mainThread says what the main thread does: in futex, running, in D (io_schedule).
func (p *Examined) mainThread() string {
	switch {
	case p.State == 'R':
		return "running"
	case p.State == 'D' && p.Channel != "":
		return fmt.Sprintf("in D (%s)", p.Channel)
	case p.State == 'Z':
		return "ended"
	case p.Call != "":
		return "in " + p.Call
	case p.Channel != "":
		return "in " + p.Channel
	}
	return fmt.Sprintf("in state %c", printable(p.State))
}

// groupRefusal says why the signals for a target must not go to its whole cgroup,
// "" if they may.
func (g *Guard) groupRefusal(ix int32) string {
	t := &g.targets[ix]
	p := t.evidence()
	switch {
	case p.Problem != "" || len(p.Members) == 0:
		return "its members could not be read"
	case p.InitInside:
		return "pid 1 is in it"
	case p.GuardInside:
		return "the guard is in it"
	}
	if o := g.innocentIn(ix); o >= 0 {
		return fmt.Sprintf("%s is in it, which is not to be ended", g.targets[o].describe())
	}
	return ""
}

// innocentIn finds a target in another's cgroup that is not to be ended itself: one
// that was a member when the evidence was taken, or came since; -1 for none. Where its
// rule says shared, only one that nothing may be done to.
func (g *Guard) innocentIn(ix int32) int32 {
	t := &g.targets[ix]
	for k := range g.targets {
		o := &g.targets[k]
		if int32(k) == ix || !o.used || o.doomed() || t.policy.Shared && o.untouchable() == "" {
			continue
		}
		if within(o.facts.Cgroup, t.facts.Cgroup) || slices.Contains(t.evidence().Members, o.pid) {
			return int32(k)
		}
	}
	return -1
}

// within says whether a cgroup is another or below it; "" and "/" hold nobody.
func within(path, group string) bool {
	return len(group) > 1 && strings.HasPrefix(path, group) && (len(path) == len(group) || path[len(group)] == '/')
}

// doomed says whether a target is being ended, or has ended.
func (t *target) doomed() bool {
	switch t.state {
	case Ladder:
		return !t.cancelled && !t.beatsAgain()
	case Unkillable, Ended:
		return true
	}
	return false
}

func printable(b byte) byte {
	if b < 0x21 || b > 0x7e {
		return '?'
	}
	return b
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
