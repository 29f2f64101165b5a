package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// The systemd of a simulation, with what the daemon around a guard asks of it.

// unitState is what systemd says of a unit.
type unitState uint8

const (
	unitInactive unitState = iota
	unitActive
	unitFailed
	unitWaits // for systemd to start it again
	unitStopping
)

// fakeUnit is a unit.
type fakeUnit struct {
	name               string
	bare               bool   // one that follows others, and whose processes never register
	needs              string // the unit with which it is restarted
	state              unitState
	main               *proc // nil: it is down
	nobody             *proc // stands for whom it is started that never registered
	ran                *proc // its last main process
	b, c               uint16
	own                time.Duration // until systemd starts it again by itself; 0: never
	stoppedAt          time.Duration // by an operator; 0: not
	bootedAt           time.Duration // when it was begun to be started last
	flaps              int           // of its next starts, as many do not last
	flap               int           // what becomes of those
	refused            int           // of its next starts, as many fail at once
	asksBack, tookBack bool          // what was set is to be, or was taken back
	has, had           UnitLimits    // its properties, and what they are without us
	owed               time.Duration // attention time until which it is to be started; 0: it is not
}

const (
	simUnits = 4
	// settled is how long a unit has to stay up to count as started.
	settled = 2 * sec
)

var (
	unitNames     = []string{"u0.service", "u1.service", "u2.service", "u3.service"}
	unitNeeds     = []string{"t0.service", "", "u1.service", ""}
	followerNames = []string{"t0.service", "t1.service"}
)

func (s *sim) unit(name string) *fakeUnit {
	for _, u := range s.fakeUnits {
		if u.name == name {
			return u
		}
	}
	if slices.Contains(followerNames, name) {
		u := &fakeUnit{name: name, bare: true, state: unitActive, nobody: &proc{}}
		s.fakeUnits = append(s.fakeUnits, u)
		return u
	}
	return nil
}

// unitAt is the unit with a number, which is there from its first mention on.
func (s *sim) unitAt(n uint16) *fakeUnit {
	name := unitNames[n%simUnits]
	if u := s.unit(name); u != nil {
		return u
	}
	u := &fakeUnit{name: name, needs: unitNeeds[n%simUnits], nobody: &proc{}, had: UnitLimits{Unlimited, Unlimited}}
	if n%2 == 1 {
		u.had = UnitLimits{50, 300000}
	}
	u.has = u.had
	s.fakeUnits = append(s.fakeUnits, u)
	return u
}

// someUnit is the first unit from number a on that fits.
func (s *sim) someUnit(a uint16, fits func(*fakeUnit) bool, do func(*fakeUnit)) {
	for i := range uint16(simUnits) {
		if u := s.unit(unitNames[(a+i)%simUnits]); u != nil && fits(u) {
			do(u)
			return
		}
	}
}

func unitRuns(u *fakeUnit) bool { return u.main != nil }
func unitAny(*fakeUnit) bool    { return true }
func unitIdle(u *fakeUnit) bool { return u.main == nil && u.state != unitStopping }

// startUnit has an operator start a unit, which is made if it is not there yet.
func (s *sim) startUnit(x act) {
	u := s.unitAt(x.a)
	if !unitIdle(u) || len(s.tables) == 0 {
		return
	}
	if u.ran == nil {
		u.b, u.c = x.b, x.c
		if x.c>>13 == 1 { // Restart=always
			u.own = time.Duration(100+100*(x.c>>9&15)) * ms
		}
	}
	s.hitUnit(u, dutyOperatorStarts)
	u.stoppedAt = 0
	s.boot(u)
}

// boot starts the program of a unit.
func (s *sim) boot(u *fakeUnit) {
	u.bootedAt = s.now
	pid := s.freePid()
	if pid < 0 || len(s.tables) == 0 {
		u.state = unitFailed
		return
	}
	p := s.launch(pid, u.b, u.c&^(15<<3)&^6)
	p.zombie, p.facts.Unit = false, u.name
	p.past.unit, u.main, u.ran, u.state = u, p, p, unitActive
	if u.c>>11&3 == 1 {
		p.facts.User, p.facts.UID = "mal", 1001
	}
	if u.flaps == 0 {
		return
	}
	u.flaps--
	switch u.flap {
	case 0:
		s.in(500*ms, func() { p.exit(false) })
	case 1:
		s.in(3*sec, func() { p.exit(false) })
	case 2:
		p.hang()
	case 3:
		s.in(4*sec, func() { p.exit(true) })
	case 4: // registers never
		p.wipe()
		p.slot, p.every, p.consent = -1, 0, ConsentNotMapped
	}
}

// freePid is a number that nobody has, the one that was free for longest or so.
func (s *sim) freePid() int32 {
	for range int32(simPids) {
		s.pidAt = (s.pidAt + 1) % simPids
		if s.procs[simFirst+s.pidAt] == nil {
			return simFirst + s.pidAt
		}
	}
	return -1
}

// exiting takes in that a process ends; clean: after it wiped its record.
func (s *sim) exiting(p *proc, clean bool) {
	if s == nil {
		return
	}
	h := &p.past
	for _, tb := range s.tables { // what it wrote since the last look is seen yet
		for i := range tb.records {
			if r := &tb.records[i]; r.PID == p.pid {
				s.named(p, r)
			}
		}
	}
	h.wiped, h.really = clean && !s.readOnly && s.recordOf(p) == nil, EndedBadly // where nothing can be written, nobody looks
	if clean || h.shut {
		h.really = EndedWell
	}
	switch s.statuses {
	case 0, 1:
		p.ending = h.really
	case 2:
		p.late = h.really
	}
	u := h.unit
	if u == nil && p.facts.Parent == "procctl" {
		s.in(time.Duration(1+h.c>>7&7)*sec, func() {
			if pid := s.freePid(); pid >= 0 && len(s.tables) > 0 {
				s.launch(pid, h.b, h.c&^(15<<3))
			}
		})
	}
	if u == nil || u.main != p {
		return
	}
	u.main = nil
	stopped := u.state == unitStopping
	switch {
	case h.really == EndedBadly:
		u.state = unitFailed
	default:
		u.state = unitInactive
	}
	if u.own > 0 && !stopped {
		u.state = unitWaits
		s.in(u.own, func() {
			if u.state == unitWaits {
				s.boot(u)
			}
		})
	}
	for _, o := range s.running { // KillMode=control-group
		if o != p && o.facts.Unit == u.name {
			s.in(0, func() { s.shut(o) })
		}
	}
}

// shut has systemd end a process: it may wipe its record or not.
func (s *sim) shut(p *proc) {
	if !p.alive {
		return
	}
	p.past.shut = true
	p.exit(p.pid%2 == 0)
}

// stopUnit has an operator stop a unit.
func (s *sim) stopUnit(u *fakeUnit, after time.Duration) {
	s.hitUnit(u, dutyOperatorStops)
	u.stoppedAt = s.now
	p := u.main
	if p == nil {
		u.state = unitInactive
		return
	}
	u.state = unitStopping
	s.in(after, func() { s.shut(p) })
}

// systemd does what the guard asks of it, and answers as the daemon around the guard
// does. What a daemon had not begun ends with it, and so do answers.
func (s *sim) systemd(d Decision) {
	daemon := s.restarts
	answer := func(after time.Duration, o func() Observation) {
		s.in(after, func() {
			if s.restarts == daemon {
				s.post(0, o())
			}
		})
	}
	later := func(do func()) {
		s.in(100*ms+s.slowBus, func() {
			if s.restarts == daemon {
				do()
			}
		})
	}
	switch d := d.(type) {
	case RestoreUnit:
		later(func() {
			o, started := s.startAgain(d)
			if !started {
				answer(0, func() Observation { return o })
				return
			}
			answer(settled, func() Observation {
				if u := s.unit(d.Unit); u != nil && u.bare {
					return o
				}
				if p := s.startedBy(d, &o); p == nil || !p.alive && (p.past.really == EndedBadly || d.Command != nil) {
					o.Started, o.Failed, o.Reason = false, true, "it failed within 2s"
				}
				return o
			})
		})
	case LookAtStarted:
		later(func() { answer(100*ms, func() Observation { return s.seenStarted(d) }) })
	case RestartUnit:
		later(func() { answer(100*ms, func() Observation { return s.follow(d) }) })
	case RestartForLimit:
		later(func() {
			o := RestartedForLimit{Unit: d.Unit, Target: d.Target, PID: d.PID}
			u := s.unit(d.Unit)
			switch {
			case s.unitFault != "":
				o.Problem, o.Unknown = s.unitFault, d.Look
			case d.Look && (u == nil || u.bootedAt <= d.Asked):
				o.Problem = "it was not restarted"
			case d.Look:
				o.Begun = u.state == unitFailed
				if o.Begun {
					o.Problem = "it failed after its restart"
				}
			case u != nil && u.bootedAt > d.Asked:
				o.Problem = "it was started anew meanwhile"
			case u == nil || u.state != unitActive:
				o.Problem = "it is not active, and that is somebody else's doing"
			default:
				s.restartUnit(u)
			}
			answer(200*ms, func() Observation { return o })
		})
	case LookAtUnit:
		answer(100*ms, func() Observation {
			o := UnitSeen{Unit: d.Unit, Problem: s.unitFault, Limits: UnitLimits{Unlimited, Unlimited}}
			if u := s.unit(d.Unit); u != nil {
				o.Limits = u.has
			}
			return o
		})
	case SetUnitLimits:
		problem := s.unitFault
		later(func() {
			o := UnitLimitsSet{Unit: d.Unit, Problem: problem}
			if u := s.unit(d.Unit); u != nil && problem == "" {
				var to UnitLimits
				if to, o.Theirs = d.Against(u.has); to.MemoryHigh > 0 {
					u.has.MemoryHigh = to.MemoryHigh
				}
				if to.CPUQuota > 0 {
					u.has.CPUQuota = to.CPUQuota
				}
			}
			answer(50*ms, func() Observation { return o })
		})
	}
}

// startedBy is who was started: the main process of the unit, or the command.
func (s *sim) startedBy(d RestoreUnit, o *RestoreDone) *proc {
	if o.As == "" {
		return s.unit(d.Unit).ran
	}
	return s.commandOf(o.As)
}

// commandOf is the last process of the unit of a command.
func (s *sim) commandOf(unit string) *proc {
	for i := len(s.all) - 1; i >= 0; i-- {
		if s.all[i].facts.Unit == unit {
			return s.all[i]
		}
	}
	return nil
}

// startAgain does what the daemon does when it is asked to start what ended: nothing, if
// systemd says that it runs, comes by itself, or was stopped. It says what to answer.
func (s *sim) startAgain(d RestoreUnit) (o RestoreDone, started bool) {
	o = RestoreDone{Ask: d.Ask}
	p, u := s.procOf(d.Target), s.unit(d.Unit)
	if d.PID == 0 {
		p = s.unitNobody(d.Unit)
	}
	main := u != nil && (d.PID == 0 || p != nil && p.past.unit == u)
	for n := u; n != nil && n.needs != ""; n = s.unit(n.needs) {
		o.Beside = o.Beside || slices.Contains(d.Beside, n.needs)
	}
	switch {
	case s.busDown:
		o.Failed, o.Unasked, o.Reason = true, true, "the bus is away"
	case d.Command != nil && u != nil && (u.state == unitStopping || u.main == nil && u.stoppedAt > 0):
		o.Reason = "it was stopped"
	case d.Command != nil && !main:
		if d.Crashed && !d.Sure || p == nil {
			o.Reason = "nobody knows whether it crashed"
			break
		}
		s.runCommand(d, p, &o)
	case !main:
		o.Reason = "it was not its main process"
	case u.state == unitWaits, u.state == unitStopping:
		o.Coming, o.Reason = true, "systemd is at it"
	case u.main != nil, u.bare && u.state == unitActive:
		o.Up = true
	case d.Crashed && u.state != unitFailed, u.stoppedAt > 0 && (d.Crashed || u.stoppedAt <= d.Struck), d.PID != 0 && u.ran != p && u.state != unitFailed:
		o.Reason = "it was stopped"
	case d.Look:
		o.Down = true
	case d.Command != nil:
		s.runCommand(d, p, &o)
	case u.refused > 0 || s.refuse > 0:
		u.refused, s.refuse = max(u.refused-1, 0), max(s.refuse-1, 0)
		o.Failed, o.Reason = true, "its start job ended as failed"
	case u.bare:
		u.state, o.Started = unitActive, true
	default:
		if s.boot(u); u.main == nil {
			o.Failed, o.Reason = true, "no room"
			break
		}
		o.Started = true
	}
	return o, o.Started
}

// runCommand starts the command for what ended, in a unit of its own.
func (s *sim) runCommand(d RestoreUnit, p *proc, o *RestoreDone) {
	as := fmt.Sprintf("%s%d-%d.service", RunPrefix, d.PID, d.Ended.Microseconds())
	if q := s.commandOf(as); q != nil && q.alive {
		o.As, o.Up = as, true
		return
	}
	pid := s.freePid()
	switch {
	case d.Look:
		o.Down = true
	case pid < 0 || len(s.tables) == 0 || s.refuse > 0:
		s.refuse = max(s.refuse-1, 0)
		o.As, o.Failed, o.Reason = as, true, "it could not be started"
	default:
		q := s.launch(pid, p.past.b, p.past.c&^(15<<3)&^6)
		q.facts.Unit, q.zombie, q.past.cameFor = as, false, p
		o.As, o.Started = as, true
	}
}

// seenStarted is how a unit is that was started.
func (s *sim) seenStarted(d LookAtStarted) RestoreDone {
	o := RestoreDone{Ask: d.Ask}
	u, p := s.unit(d.Unit), s.commandOf(d.Unit)
	switch {
	case s.busDown:
		o.Failed, o.Unasked, o.Reason = true, true, "the bus is away"
	case u != nil && (u.state == unitWaits || u.state == unitStopping):
		o.Coming = true
	case u != nil && (u.main != nil || u.bare && u.state == unitActive), u == nil && p != nil && p.alive:
		o.Up = true
	case u != nil && u.state == unitFailed, u == nil && p != nil && p.past.really == EndedBadly:
		o.Failed, o.Reason = true, "it failed"
	}
	return o
}

// follow restarts a unit after another.
func (s *sim) follow(d RestartUnit) RestoreDone {
	o := RestoreDone{Ask: d.Ask}
	u := s.unit(d.Unit)
	switch {
	case s.busDown:
		o.Failed, o.Unasked, o.Reason = true, true, "the bus is away"
	case u != nil && u.bare && s.refuse > 0:
		s.refuse--
		u.state = unitFailed
		s.withUnit(u)
		o.Failed, o.Reason = true, "its start job ended as failed"
	case u != nil && u.bare:
		u.state, o.Started = unitActive, true
		s.withUnit(u)
	case u == nil || u.main == nil:
		o.Reason = "it was stopped before"
	default:
		s.restartAfter(u)
		o.Started = true
	}
	return o
}

// restartAfter restarts a unit because another came back, and those that need it.
func (s *sim) restartAfter(u *fakeUnit) {
	for _, p := range s.running {
		p.past.byThen = p.past.byThen || p.facts.Unit == u.name
	}
	s.restartUnit(u)
	s.withUnit(u)
}

func (s *sim) withUnit(u *fakeUnit) {
	for _, o := range s.fakeUnits {
		if o.needs == u.name && o.main != nil {
			s.restartAfter(o)
		}
	}
}

// restartUnit is systemd's own restart. Some do not stop in time, and are killed.
func (s *sim) restartUnit(u *fakeUnit) {
	u.state = unitStopping
	if p := u.main; p.pid%3 == 0 {
		p.exit(false)
	} else {
		s.shut(p)
	}
	s.boot(u)
}

// procOf is the process that a target is or was.
func (s *sim) procOf(id TargetID) *proc {
	for i := len(s.all) - 1; i >= 0; i-- {
		if s.all[i].past.id == id {
			return s.all[i]
		}
	}
	return nil
}

// policyOf is what the rules of now say to a name.
func (s *sim) policyOf(name string) *config.Policy {
	i := slices.Index(simNames, name)
	if i < 0 {
		i = len(simNames)
	}
	return &policies[s.cfgIndex][i]
}
