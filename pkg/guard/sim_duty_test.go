package guard

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// The duties beside watching: what is to come back, and limits. Where one of them
// stands is a row of a table, what can happen to it there a column.

// dutyState is where a recovery or a limit stands.
type dutyState uint8

const (
	recoveryWaits  dutyState = iota // for its time
	recoveryAsked                   // systemd is asked
	recoveryAgain                   // for its time, after it could not be started
	recoveryThen                    // those after it
	recoveryLooks                   // what was started is looked at
	recoveryParked                  // given up
	gaugeWithin
	gaugeAbove // not for long enough
	gaugeReported
	gaugeRefused  // exceeded, and what it asks for is not to be done now
	gaugeEnding   // exceeded, and its target is to be ended, or was
	gaugeRestarts // exceeded, and its unit was restarted
	gaugeThrottles
	numDutyStates
)

var dutyStateNames = [numDutyStates]string{"waits", "asked", "again", "then", "looks", "given up",
	"within", "above", "reported", "refused", "ending", "restarts", "throttles"}

// dutyCell is what can happen to it.
type dutyCell uint8

const (
	dutyRestart dutyCell = iota
	dutyCrash
	dutyReload
	dutyHold
	dutyUnhold
	dutyLockLost
	dutyLockBack
	dutyGap
	dutyLate
	// To a recovery.
	dutyOperatorStops
	dutyOperatorStarts
	dutyRecover
	dutyAnother // of its unit or name ends
	dutyStarted
	dutyFailed
	dutyUnasked
	dutyUp
	dutyComing
	dutyLeft // it is left alone
	// To a limit.
	dutySampleAbove
	dutySampleBetween
	dutySampleBelow
	dutySampleFails
	dutyEnds
	dutyFault // its unit cannot be dealt with
	dutyDone
	numDutyCells
)

var dutyCellNames = [numDutyCells]string{"restart", "crash", "reload", "hold", "hold over", "lock lost", "lock back", "gap", "late wake",
	"operator stops", "operator starts", "recover", "another ends", "started", "failed", "unasked", "up", "coming", "left alone",
	"sample above", "sample between", "sample below", "sample fails", "ends", "unit fails", "unit done"}

type dutyCoverage [numDutyStates][numDutyCells]uint64

func (c *dutyCoverage) add(o *dutyCoverage) {
	for s := range c {
		for k := range c[s] {
			c[s][k] += o[s][k]
		}
	}
}

func (c *dutyCoverage) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-18s", "")
	for s := range numDutyStates {
		fmt.Fprintf(&b, "%10s", dutyStateNames[s])
	}
	for k := range numDutyCells {
		fmt.Fprintf(&b, "\n%-18s", dutyCellNames[k])
		for s := range numDutyStates {
			fmt.Fprintf(&b, "%10d", c[s][k])
		}
	}
	return b.String()
}

func (c *dutyCoverage) least() string {
	at, what, n := dutyState(0), dutyCell(0), uint64(1<<63)
	for s := range numDutyStates {
		for k := range numDutyCells {
			if noDuty(s, k) == "" && dutyMin(s, k) == dutyCellMin && c[s][k] < n {
				n, at, what = c[s][k], s, k
			}
		}
	}
	return fmt.Sprintf("of the other duties it (%s, %s) happened %d times", dutyStateNames[at], dutyCellNames[what], n)
}

func (c *dutyCoverage) check(t *testing.T, full bool) {
	for s := range numDutyStates {
		for k := range numDutyCells {
			switch why := noDuty(s, k); {
			case why != "" && c[s][k] > 0:
				t.Errorf("%s of what %s happened %d times, although %s", dutyCellNames[k], dutyStateNames[s], c[s][k], why)
			case why == "" && full && c[s][k] < dutyMin(s, k):
				t.Errorf("%s of what %s happened %d times only", dutyCellNames[k], dutyStateNames[s], c[s][k])
			}
		}
	}
}

// noDuty says why something cannot happen there, "" if it can.
func noDuty(s dutyState, k dutyCell) string {
	recovery := s <= recoveryParked
	switch {
	case recovery && k >= dutySampleAbove, !recovery && k >= dutyOperatorStops && k < dutySampleAbove:
		return "that is of the other duty"
	case recovery && k >= dutyStarted && s != recoveryAsked && s != recoveryThen && s != recoveryLooks:
		return "nothing was asked, or a new daemon asks anew"
	case s == recoveryThen && (k == dutyUp || k == dutyComing), s == recoveryLooks && k == dutyStarted:
		return "that is no answer to what was asked"
	case k == dutyFault && s != gaugeRestarts && s != gaugeThrottles, k == dutyDone && s != gaugeThrottles && !recovery:
		return "nothing is asked for it, or its target has ended by then"
	}
	return ""
}

// dutyCellMin is how often each of the others happens at least.
const dutyCellMin = cellMin / 2

// dutyMin is how often something has to happen there in a full run. Some of it is over
// as soon as it begins: an order that is given stops what is to end a target, and who
// lives in a unit that is restarted does not for long.
func dutyMin(s dutyState, k dutyCell) uint64 {
	if s == gaugeEnding && (k == dutyUnhold || k == dutyLockBack || k == dutySampleBetween) ||
		s == gaugeRestarts && (k == dutyHold || k == dutyUnhold || k == dutyGap || k == dutyLockBack || k == dutySampleBetween) {
		return 1
	}
	return dutyCellMin
}

// stateOfRecovery is where one stands.
func (s *sim) stateOfRecovery(r *recovery) dutyState {
	switch {
	case r.parked:
		return recoveryParked
	case r.next > len(s.g.policyOf(r).Then):
		return recoveryLooks
	case r.next > 0:
		return recoveryThen
	case r.under:
		return recoveryAsked
	case r.looks > 0 || r.taken || r.start > 0:
		return recoveryAgain
	}
	return recoveryWaits
}

func stateOfGauge(t *target, m *gauge) dutyState {
	switch {
	case !m.over && m.seen && m.value > m.Above:
		return gaugeAbove
	case !m.over:
		return gaugeWithin
	case m.Action == config.LimitReport:
		return gaugeReported
	case !m.settled:
		return gaugeRefused
	case m.Action == config.LimitLadder:
		return gaugeEnding
	case m.Action == config.LimitRestart:
		return gaugeRestarts
	}
	return gaugeThrottles
}

// hitRecoveries notes that something happens to all recoveries.
func (s *sim) hitRecoveries(what dutyCell) { s.hitRecovery(what, func(*recovery) bool { return true }) }

func (s *sim) hitRecovery(what dutyCell, which func(*recovery) bool) {
	for i := range s.g.pending {
		// By other rules it may stand elsewhere than when it was asked.
		if r := &s.g.pending[i]; which(r) && (s.reloaded == 0 || noDuty(s.stateOfRecovery(r), what) == "") {
			s.duties[s.stateOfRecovery(r)][what]++
		}
	}
}

// hitUnit notes that something happens to a unit.
func (s *sim) hitUnit(u *fakeUnit, what dutyCell) {
	s.hitRecovery(what, func(r *recovery) bool { return r.unit == u.name })
}

// hitGauge notes that something happens to a limit of a process, -1: to each.
func (s *sim) hitGauge(p *proc, limit int, what dutyCell) {
	for id, o := range s.held {
		if o != p {
			continue
		}
		ix, ok := s.g.byID[id]
		if !ok {
			return
		}
		t := &s.g.targets[ix]
		for k := range t.gauges {
			m := &t.gauges[k]
			if (what == dutyFault || what == dutyDone) && noDuty(stateOfGauge(t, m), what) != "" {
				continue // of another limit
			}
			if limit < 0 || m.Limit == simLimits[limit] {
				s.duties[stateOfGauge(t, m)][what]++
			}
		}
	}
}

// hitDuties notes that something happens to all of it.
func (s *sim) hitDuties(what dutyCell) {
	s.hitRecoveries(what)
	if !s.g.limits {
		return
	}
	for ix := range s.g.targets {
		t := &s.g.targets[ix]
		for k := range t.gauges {
			s.duties[stateOfGauge(t, &t.gauges[k])][what]++
		}
	}
}

func sampleCell(l *config.Limit, value float64) dutyCell {
	switch {
	case value < 0:
		return dutySampleFails
	case value > l.Above:
		return dutySampleAbove
	case value > l.Calm():
		return dutySampleBetween
	}
	return dutySampleBelow
}

func doneCell(problem string) dutyCell {
	if problem != "" {
		return dutyFault
	}
	return dutyDone
}

func answerCell(o *RestoreDone) dutyCell {
	switch {
	case o.Started:
		return dutyStarted
	case o.Up:
		return dutyUp
	case o.Coming:
		return dutyComing
	case o.Unasked:
		return dutyUnasked
	case o.Failed:
		return dutyFailed
	}
	return dutyLeft
}

// The variants of the configuration with these duties.
const (
	variantRecover = 12 + iota
	variantBudget
	variantLimits
	variantProtect
)

// withDuties changes a configuration to one of them.
func withDuties(c *config.Config, v int) {
	c.Recovery = config.Recovery{Wait: 2 * sec, Cap: 9 * sec, Attempts: 3, Window: 40 * sec, Stable: 60 * sec, GiveUp: 50 * sec}
	c.Sample = sec
	command := &config.Command{Args: []string{"/bin/q"}}
	rules := map[string]config.Rule{}
	for _, name := range simNames {
		rules[name] = config.Rule{}
	}
	set := func(name string, change func(r *config.Rule)) {
		r := rules[name]
		change(&r)
		rules[name] = r
	}
	set("r", func(r *config.Rule) { r.Action = config.ActionReport })
	set("q", func(r *config.Rule) { r.Timeout = 2 * sec })
	limits := func(name string, of ...int) {
		set(name, func(r *config.Rule) {
			for _, i := range of {
				r.Limits = append(r.Limits, simLimits[i])
			}
		})
	}
	switch v {
	case variantRecover:
		set("c", func(r *config.Rule) { r.Then = []string{"t0.service", "t1.service"} })
		set("q", func(r *config.Rule) { r.Restart, r.Command = config.RestartCommand, command })
		set("p", func(r *config.Rule) { r.Restart = config.RestartNone })
	case variantBudget:
		c.Protect = config.Protect{Names: []string{"p"}, Units: []string{"u3.service"}}
		c.Names = []config.Names{{User: "mal", Allow: []string{"d"}}}
		set("c", func(r *config.Rule) { r.Recovery = config.RuleRecovery{Attempts: 1, Window: 20 * sec} })
		set("d", func(r *config.Rule) { r.Then = []string{"u3.service", "u1.service", "t1.service"} })
		set("q", func(r *config.Rule) {
			r.Restart, r.Command, r.Then = config.RestartCommand, command, []string{"t0.service"}
		})
		set("r", func(r *config.Rule) { r.Restart = config.RestartNone })
	case variantLimits:
		limits("c", 0, 3)
		limits("d", 1)
		limits("q", 2)
		limits("p", 4, 5)
		limits("r", 1, 6)
	case variantProtect:
		c.Protect = config.Protect{Names: []string{"p"}, Units: []string{"u3.service"}}
		c.Names = []config.Names{{User: "mal", Allow: []string{"c"}}}
		c.Brake.AtLeast, c.Brake.Fraction = 2, 0.1
		limits("c", 1, 2)
		limits("d", 3, 4)
		limits("q", 5, 0)
		limits("p", 6)
		limits("r", 4)
	}
	c.Rules = nil
	for _, name := range simNames {
		r := rules[name]
		r.Match.Name = name
		c.Rules = append(c.Rules, r)
	}
}

// duty draws units that fail, or programs that use too much, with what may happen
// meanwhile.
func duty(r *rand.Rand) schedule {
	d := &draft{r: r, list: schedule{drawHost(r)}}
	d.list[0].a = 0
	d.list[0].c = uint16(variantRecover + r.IntN(4))
	if r.IntN(2) == 0 {
		d.list[0].b &^= 14
	}
	switch r.IntN(12) {
	case 0:
		return d.unending()
	case 1:
		return d.givenUp()
	}
	limits := d.list[0].c >= variantLimits
	for range 1 + r.IntN(3) {
		if d.rarely() && limits || d.list[0].c < variantLimits && r.IntN(3) == 0 {
			d.act(actStart, d.some(), d.program(), d.some()&^(15<<3))
			continue
		}
		d.act(actUnit, d.some(), d.program(), d.some()&^(15<<3))
	}
	d.wait(2*sec, 5*sec)
	switch r.IntN(8) {
	case 0, 1:
		d.unseen()
	case 2, 3, 4, 5, 6:
		if limits {
			d.exceeds()
		} else {
			d.followed()
		}
	}
	for range 3 + r.IntN(10) {
		d.trouble(limits)
		d.wait(0, []time.Duration{200 * ms, 2 * sec, 6 * sec, 15 * sec}[r.IntN(4)])
		if r.IntN(2) == 0 {
			d.happens(limits)
			d.wait(0, []time.Duration{200 * ms, 2 * sec, 6 * sec, 15 * sec}[r.IntN(4)])
		}
	}
	return d.list
}

// unseen has a unit started again, of which nobody registers for long.
func (d *draft) unseen() {
	d.act(actUnit, 0, d.program(), 0)
	d.next += 3 * sec
	d.act(actFlap, 0, 4|5<<3)
	d.act(actUnitCrash, 0)
	d.wait(5*sec, 30*sec)
	if d.rarely() {
		d.act(actUnitStop, 0, 2999) // and it is looked at meanwhile
	} else {
		d.operated()
	}
	d.wait(0, 10*sec)
}

// operated has something happen, often that a unit ends and that an operator is first to start it again.
func (d *draft) operated() {
	if !d.rarely() {
		d.happens(false)
		return
	}
	d.act(actUnitCrash, 0)
	d.wait(0, sec)
	d.act(actUnit, 0)
}

// unending has something happen to a limit that ends a target, and that target cannot be ended.
func (d *draft) unending() schedule {
	d.list[0].c = variantLimits
	d.act(actStart, 0, d.program()&7|beats|1<<7|staysB)
	d.next += 3 * sec
	d.act(actUse, 0, 3<<2)
	d.wait(6*sec, 30*sec)
	switch d.r.IntN(9) {
	case 0:
		d.act(actRestart)
	case 1:
		d.act(actCrashDaemon, 2)
	case 2:
		d.act(actReload, variantLimits)
	case 3, 4:
		d.act(actHold, 0, d.one(0, 3), d.some())
		d.wait(0, sec)
		d.act(actUnhold)
	case 5:
		d.act(actLock, 0)
		d.wait(0, 3*sec)
		d.act(actLock, 1)
	case 6:
		d.act(actStall, d.one(5, 8))
	case 7:
		d.act(actUnsampled, 0)
	case 8:
		d.act(actUse, 0, 9)
	}
	d.wait(0, 5*sec)
	d.happens(true)
	return d.list
}

// givenUp has something happen to a unit that is given up, often that an operator starts it.
func (d *draft) givenUp() schedule {
	d.list[0].c = variantRecover
	d.act(actUnit, 0, d.program()&^(7<<7)|1<<7, 0)
	d.next += 3 * sec
	d.act(actFlap, 0, 2<<3)
	d.act(actUnitCrash, 0)
	d.wait(22*sec, 60*sec)
	if d.rarely() {
		d.happens(false)
		d.wait(0, 3*sec)
	}
	d.act(actUnit, 0)
	d.wait(sec, 6*sec)
	d.act(actUnitCrash, 0)
	d.wait(0, 10*sec)
	return d.list
}

// followed has something happen while those after a unit are restarted.
func (d *draft) followed() {
	d.list[0].c = variantRecover
	d.act(actUnit, 0, d.program()&^(7<<7), 0)
	d.next += 3 * sec
	d.act(actUnitCrash, 0)
	d.next += 3 * sec
	d.act(actSlowBus, 4)
	d.wait(3*sec, 25*sec)
	d.operated()
	d.act(actSlowBus)
	d.wait(0, 10*sec)
}

// exceeds has a unit exceed a limit that says restart or throttle, which fails or is slow.
func (d *draft) exceeds() {
	d.list[0].c = variantLimits
	name, of := uint16(3), uint16(1)
	if d.rarely() { // one that says throttle
		name, of = 0, 2
	}
	d.act(actUnit, 0, d.program()&^(7<<7)|name<<7, 0)
	d.act(actUnitFault, 1)
	d.act(actSlowBus, d.one(3, 4))
	d.wait(2*sec, 4*sec)
	d.act(actUse, 1, of|3<<2) // the first that runs
	d.wait(7*sec, 12*sec)
	if d.r.IntN(8) == 0 {
		d.act(actCrashDaemon, 2)
	} else {
		d.happens(true)
	}
	if d.r.IntN(2) == 0 {
		d.wait(0, 4*sec)
		d.act(actUse, 0, of|d.one(0, 1, 2)<<2)
	}
	d.wait(0, 12*sec)
	d.act(actUnitFault)
	d.act(actSlowBus)
}

// program draws one that beats.
func (d *draft) program() uint16 {
	return d.some()&^(3<<3)&^(3<<10)&^(3<<12) | uint16(1+d.r.IntN(3))<<3
}

// trouble has a unit fail, or a program use much.
func (d *draft) trouble(limits bool) {
	if limits && d.r.IntN(5) > 0 {
		if d.r.IntN(8) == 0 {
			d.act([]kind{actUnsampled, actUnitFault}[d.r.IntN(2)], d.some(), d.some())
		}
		d.act(actUse, d.some(), d.some()|12*d.one(0, 1, 1))
		return
	}
	if d.r.IntN(3) == 0 {
		d.act([]kind{actRefuse, actFlap, actFlap, actSlowBus, actBus}[d.r.IntN(5)], d.some(), d.some())
	}
	d.act([]kind{actUnitCrash, actUnitCrash, actUnitHang, actCrash, actHang}[d.r.IntN(5)], d.some())
}

// happens draws what happens to a duty that is under way.
func (d *draft) happens(limits bool) {
	switch d.r.IntN(13) {
	case 0:
		d.act(actRestart)
	case 1:
		d.act(actCrashDaemon, 2)
	case 2:
		d.act(actReload, uint16(variantRecover+d.r.IntN(4)))
	case 3:
		d.act(actHold, d.some(), d.some(), d.some())
	case 4:
		d.act(actUnhold, d.some())
	case 5:
		d.act(actLock, 0)
		d.wait(0, 3*sec)
		d.act(actLock, 1)
	case 6:
		d.act(actStall, d.one(8, 5, 9))
	case 7, 8:
		if limits {
			d.act(actUnitFault, d.some())
		} else {
			d.act(actUnitStop, d.some(), d.some())
		}
	case 9:
		d.act(actUnit, d.some(), d.program(), d.some()&^(15<<3))
	case 10, 11:
		if limits {
			d.act(actUse, d.some(), d.some())
		} else {
			d.act(actRecover, d.some())
		}
	default:
		d.act(actUnit+kind(d.r.IntN(int(numKinds-actUnit))), d.some(), d.some(), d.some())
	}
}
