package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	systemdName = "org.freedesktop.systemd1"
	systemdPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerName = systemdName + ".Manager"
	unitName    = systemdName + ".Unit"
	busName     = "org.freedesktop.DBus"
)

// maxHeard bounds the pinned units of whose jobs is heard: each takes two match rules, and the system bus allows a
// connection 512.
const maxHeard = 200

// jobs are what is heard of the jobs of pinned units. Of a stop of a unit that is down systemd keeps nothing and logs
// nothing, but it has a job all the same, which ends as done and changes nothing. With 252 and 257 these signals come:
//
//	PropertiesChanged(Job=n, inactive or failed) ─▶ JobRemoved(n, done) ─▶ PropertiesChanged(Job=0, inactive or failed)
//
// The stop that takes a unit down ends with the same three, but was its Job before it was down. A start that a condition keeps from starting looks the same, but moves the time at which the conditions were checked; a
// job that is nothing for a unit that is down (try-restart) is never its Job.
type jobs struct {
	told  func(unit string) // that somebody has stopped a pinned unit while it was down; nil: nobody wants to know
	mu    sync.Mutex
	owner string // of systemd's name on the bus: anybody can send us signals
	asked string // the owner that was asked to send signals
	units map[string]*heard
	paths map[dbus.ObjectPath]*heard // the same

	before map[string]*heard // what was heard on earlier connections, of units that were not pinned again yet
}

type heard struct {
	unit    string
	checked uint64 // when its conditions were: with the last start that was tried
	job     uint32 // its job while it is down, 0: none
	done    bool   // that has ended as done
	stopped bool   // by somebody, and no start was tried since
	up      bool   // it was not down when it was heard of last
	fall    uint32 // the job with which it went down: that of a stop, or of a unit that it is bound to
}

// StoppedDown reports whether somebody has stopped a pinned unit while it was down, and has not tried to start it since.
func (u *Units) StoppedDown(unit string, s UnitState) bool {
	j := u.pins.jobs.Load()
	if j == nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	h := cmp.Or(j.units[unit], j.before[unit])
	return h != nil && h.stopped && s.Down() && s.Checked == h.checked
}

// matches are the signals about a unit. The first ones are about systemd itself.
func matches(unit string) [][]dbus.MatchOption {
	if unit == "" {
		return [][]dbus.MatchOption{{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, systemdName)}}
	}
	return [][]dbus.MatchOption{
		{dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(managerName), dbus.WithMatchMember("JobRemoved"), dbus.WithMatchArg(2, unit)},
		{dbus.WithMatchSender(systemdName), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchObjectPath(unitPath(unit)), dbus.WithMatchArg(0, unitName)},
	}
}

func unitPath(unit string) dbus.ObjectPath {
	return systemdPath + "/unit/" + dbus.ObjectPath(sddbus.PathBusEscape(unit))
}

// hear begins to hear of the jobs of a pinned unit.
func (p *pins) hear(ctx context.Context, unit string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.jobs.Load()
	if j == nil || !p.all[unit] {
		return nil
	}
	if err := p.follow(ctx, j); err != nil {
		return fmt.Errorf("hear of jobs: %w", err)
	}
	if !j.begin(unit) {
		return nil
	}
	checked, err := p.subscribe(ctx, unit)
	if err != nil {
		p.ignore(ctx, unit)
		return fmt.Errorf("hear of the jobs of %s: %w", unit, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.before, unit)
	if h := j.units[unit]; checked > h.checked { // a start was tried that was not heard
		h.stopped, h.checked = false, checked
	}
	return nil
}

// follow has systemd send signals at all, and the bus say when systemd is another: that one sends none before it is asked.
func (p *pins) follow(ctx context.Context, j *jobs) error {
	owner, asked := j.from()
	if owner == "" {
		for _, m := range matches("") {
			if err := p.conn.AddMatchSignalContext(ctx, m...); err != nil {
				p.unmatch(ctx, "")
				return err
			}
		}
		if err := p.conn.BusObject().CallWithContext(ctx, busName+".GetNameOwner", 0, systemdName).Store(&owner); err != nil {
			p.unmatch(ctx, "")
			return err
		}
		j.owned(owner)
	}
	if asked == owner {
		return nil
	}
	err := p.conn.Object(systemdName, systemdPath).CallWithContext(ctx, managerName+".Subscribe", 0).Err
	var e dbus.Error
	if err != nil && !(errors.As(err, &e) && e.Name == systemdName+".AlreadySubscribed") { // its answer came too late before
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = owner
	return nil
}

// subscribe has signals about a unit sent to us, and returns when its conditions were checked.
func (p *pins) subscribe(ctx context.Context, unit string) (checked uint64, err error) {
	for _, m := range matches(unit) {
		if err := p.conn.AddMatchSignalContext(ctx, m...); err != nil {
			return 0, err
		}
	}
	var v dbus.Variant
	err = p.conn.Object(systemdName, unitPath(unit)).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, unitName, "ConditionTimestampMonotonic").Store(&v)
	checked, _ = v.Value().(uint64)
	return checked, err
}

// forget is for one that is pinned no more.
func (j *jobs) forget(unit string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.before, unit)
}

// ignore hears no more of the jobs of a unit.
func (p *pins) ignore(ctx context.Context, unit string) {
	if j := p.jobs.Load(); j != nil && j.end(unit) {
		p.unmatch(ctx, unit)
	}
}

// unmatch has no more signals about a unit sent to us. It is also for what ctx has ended in the middle: a rule that stays
// is one for good, and of an ended context nothing is sent.
func (p *pins) unmatch(ctx context.Context, unit string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialWait)
	defer cancel()
	for _, m := range matches(unit) {
		_ = p.conn.RemoveMatchSignalContext(ctx, m...) // that it was not there yet is no fault
	}
}

// listen takes signals in until the connection ends.
func (j *jobs) listen(conn *dbus.Conn) {
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	go func() {
		for s := range signals {
			j.take(s)
		}
	}()
}

// anew is for the next connection: what somebody has stopped stays stopped, while the bus was away too. A unit of which
// systemd knows no start may be one that it has forgotten since, as pins end with their connection.
func (j *jobs) anew(told func(unit string)) *jobs {
	next := &jobs{told: told, units: map[string]*heard{}, paths: map[dbus.ObjectPath]*heard{}, before: map[string]*heard{}}
	if j == nil {
		return next
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, known := range []map[string]*heard{j.before, j.units} {
		for unit, h := range known {
			if h.stopped && h.checked > 0 {
				next.before[unit] = &heard{checked: h.checked, stopped: true}
			}
		}
	}
	return next
}

func (j *jobs) from() (owner, asked string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.owner, j.asked
}

func (j *jobs) owned(by string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.owner = by
}

func (j *jobs) begin(unit string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.units[unit] != nil || len(j.units) >= maxHeard {
		return false
	}
	h := &heard{}
	if b := j.before[unit]; b != nil {
		*h = *b
	}
	h.unit = unit
	j.units[unit], j.paths[unitPath(unit)] = h, h
	return true
}

func (j *jobs) end(unit string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.units[unit] == nil {
		return false
	}
	delete(j.units, unit)
	delete(j.paths, unitPath(unit))
	return true
}

// take takes in one signal.
func (j *jobs) take(s *dbus.Signal) {
	if unit := j.heed(s); unit != "" && j.told != nil {
		j.told(unit)
	}
}

// heed returns the unit of which a signal says that it was stopped while it was down, "" for none.
func (j *jobs) heed(s *dbus.Signal) (stopped string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case s.Name == busName+".NameOwnerChanged" && s.Sender == busName:
		var name, before, now string
		if dbus.Store(s.Body, &name, &before, &now) == nil && name == systemdName && now != "" { // systemd was executed anew
			j.owner = now
		}
	case s.Sender != j.owner || j.owner == "":
	case s.Name == managerName+".JobRemoved":
		var id uint32
		var job dbus.ObjectPath
		var unit, result string
		if dbus.Store(s.Body, &id, &job, &unit, &result) != nil {
			return ""
		}
		if h := j.units[unit]; h != nil && id == h.job {
			h.done = result == "done"
		}
	case s.Name == "org.freedesktop.DBus.Properties.PropertiesChanged":
		var iface string
		var p map[string]dbus.Variant
		var invalid []string
		if h := j.paths[s.Path]; h != nil && dbus.Store(s.Body, &iface, &p, &invalid) == nil && iface == unitName && h.changed(p) {
			return h.unit
		}
	}
	return ""
}

// changed takes in the properties of a unit, and says whether they are the last word of a stop while it was down.
func (h *heard) changed(p map[string]dbus.Variant) (stopped bool) {
	active, _ := p["ActiveState"].Value().(string)
	checked, is := p["ConditionTimestampMonotonic"].Value().(uint64)
	job, _ := p["Job"].Value().([]any)
	if !is || len(job) == 0 { // a signal always has all that change
		return false
	}
	id, _ := job[0].(uint32)
	down := active == "inactive" || active == "failed"
	if !down || h.up {
		h.fall = id
	}
	h.up = !down
	if !down || checked != h.checked || id == h.fall && id != 0 {
		h.stopped, h.done, id = false, false, 0
	} else if id == 0 && h.job != 0 && h.done {
		h.stopped, stopped = true, true
	}
	if h.job != id {
		h.job, h.done = id, false
	}
	h.checked = checked
	return stopped
}
