package alert

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// Status says whether an alert stands.
type Status string

const (
	Firing   Status = "firing"
	Resolved Status = "resolved"
)

// Severities.
const (
	warning  = "warning"
	critical = "critical"
)

// Kinds of alerts; any other one is the name of an event that stands for itself.
const (
	KindProcess   = "process"   // an episode of a target
	KindBrake     = "brake"     // the brake holds a wave of kills
	KindTable     = "table"     // there is no table
	KindObserving = "observing" // the guard does not act
	KindLimit     = "limit"     // a target exceeds a limit
	KindThrottled = "throttled" // a unit has less for a limit
	KindGaveUp    = "gave-up"   // a unit or program does not stay up, and is not started any more
	KindGuard     = "guard"     // the guard is not to be reached
)

// Alert is one thing that somebody shall know of.
type Alert struct {
	ID       string    `json:"id"` // no other alert has it
	Kind     string    `json:"kind"`
	Severity string    `json:"severity"` // warning or critical; may rise
	Process  string    `json:"process"`
	PID      int32     `json:"pid"`
	Unit     string    `json:"unit"`
	Verdict  string    `json:"verdict"`
	Event    string    `json:"event"` // the last one about it
	Reason   string    `json:"reason"`
	Message  string    `json:"message"` // of that event
	StartsAt time.Time `json:"starts_at"`
	EndsAt   time.Time `json:"ends_at,omitzero"` // zero while it stands
}

// Notification is what receivers are told about an alert.
type Notification struct {
	ID     string `json:"id"` // the same when it is delivered twice
	Status Status `json:"status"`
	Repeat int    `json:"repeat"` // 0 for the first one of an alert that stands, then 1, 2, …
	Alert  Alert  `json:"alert"`
}

// Terms are what the configuration says about an alert.
type Terms struct {
	Off       bool
	Floor     time.Duration // what ends sooner is no alert
	Repeat    time.Duration // while it stands; 0: never
	Severity  string        // "": warning, or critical for events of level error
	Receivers []string
}

// Order is a notification and who gets it.
type Order struct {
	Notification
	To []string `json:"to"`
}

// Open is an alert that stands, or that may come to be one.
type Open struct {
	Key     string    `json:"key"` // the episode, or the condition
	Alert   Alert     `json:"alert"`
	Grave   bool      `json:"grave"`          // something was said that is worth an alert
	Fired   bool      `json:"fired"`          // it was notified
	Repeats int       `json:"repeats"`        // so often again
	Due     time.Time `json:"due,omitzero"`   // when it fires, or is repeated
	Until   time.Time `json:"until,omitzero"` // when it ends by itself
	To      []string  `json:"to"`
}

// Step is what a Tracker decided since the last one.
type Step struct {
	Orders []Order  `json:"orders,omitempty"`
	Set    []Open   `json:"set,omitempty"`
	Del    []string `json:"del,omitempty"`    // keys
	Closed []string `json:"closed,omitempty"` // see Tracker.closed
}

// Empty says that nothing was decided.
func (s *Step) Empty() bool { return len(s.Orders)+len(s.Set)+len(s.Del) == 0 }

const (
	// maxOpen bounds the alerts that stand: as many as wait for a receiver.
	maxOpen = maxQueue
	// maxClosed is how many closed alerts are remembered: as many as the guard
	// keeps events.
	maxClosed = 4096
)

// Tracker follows the events; see Event, Tick and Reconcile. Its time is that of
// the wall clock, as events have it, and goes on with them.
type Tracker struct {
	terms   func(*Alert) Terms
	hold    time.Duration // how long an alert stands that only has a beginning
	now     time.Time
	open    map[string]*Open
	current map[string]string // the key of a target's open episode
	next    time.Time         // nothing is due before; zero: nothing is
	// What was closed, so that an event that is read late, or again, opens it no
	// second time: the key of an episode, else the id of an alert. The oldest first.
	closed  []string
	isOver  map[string]bool // the same
	orders  []Order
	over    []string        // of closed, since the last Step
	touched map[string]bool // keys, since the last Step
	dropped int
}

// NewTracker goes on with the alerts that an earlier one had.
func NewTracker(terms func(*Alert) Terms, hold time.Duration, open []Open, closed []string) *Tracker {
	t := &Tracker{terms: terms, hold: hold, open: map[string]*Open{}, current: map[string]string{}, isOver: map[string]bool{}, touched: map[string]bool{}}
	for _, o := range open {
		t.open[o.Key] = &o
		if o.Alert.Kind == KindProcess {
			t.current[targetOf(o.Key)] = o.Key
		}
		t.expect(&o)
	}
	for _, x := range closed {
		t.close(x)
	}
	t.over = nil
	return t
}

// Step returns what was decided since the last call.
func (t *Tracker) Step() Step {
	s := Step{Orders: t.orders, Closed: t.over}
	for _, key := range slices.Sorted(maps.Keys(t.touched)) {
		if o := t.open[key]; o != nil {
			s.Set = append(s.Set, *o)
		} else {
			s.Del = append(s.Del, key)
		}
	}
	t.orders, t.over = nil, nil
	clear(t.touched)
	return s
}

// Standing lists the alerts that were notified and stand, the oldest first.
func (t *Tracker) Standing() []Open {
	var out []Open
	for _, o := range t.open {
		if o.Fired {
			out = append(out, *o)
		}
	}
	slices.SortFunc(out, func(a, b Open) int {
		return cmp.Or(a.Alert.StartsAt.Compare(b.Alert.StartsAt), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// Watching says whether any alert stands or may come.
func (t *Tracker) Watching() bool { return len(t.open) > 0 }

// Dropped counts alerts that were not opened because too many stood.
func (t *Tracker) Dropped() int { return t.dropped }

// expect notes when an alert is due.
func (t *Tracker) expect(o *Open) {
	for _, at := range []time.Time{o.Due, o.Until} {
		if !at.IsZero() && (t.next.IsZero() || at.Before(t.next)) {
			t.next = at
		}
	}
}

// Again says that events will come that were there before.
func (t *Tracker) Again() { t.now = time.Time{} }

// Tick lets time pass up to now. It is for times of which all events are known: an
// alert must not fire for want of the event that ends it.
func (t *Tracker) Tick(now time.Time) { t.advance(now, func(*Open) bool { return true }) }

// TickLost lets time pass while the guard is not to be reached: all that is known
// then is that.
func (t *Tracker) TickLost(now time.Time) {
	t.advance(now, func(o *Open) bool { return o.Key == KindGuard })
}

// ends are the events that end an episode.
var ends = map[string]bool{"recovered": true, "released": true, "killed": true, "exited": true, "unregistered": true}

// conditions are the events that begin or end something that stands until it is over.
var conditions = map[string]struct {
	kind string
	ends bool
}{
	"brake-on": {KindBrake, false}, "brake-off": {KindBrake, true},
	"table-lost": {KindTable, false}, "table-attached": {KindTable, true},
	"observing": {KindObserving, false}, "acting": {KindObserving, true},
	"limit": {KindLimit, false}, "limit-over": {KindLimit, true},
	"throttled": {KindThrottled, false}, "unthrottled": {KindThrottled, true},
	"gave-up": {KindGaveUp, false},
}

// conditionKey is what a condition is open under: its kind, and whom it is about.
func conditionKey(kind string, e *control.Event) string {
	switch kind {
	case KindLimit: // the reason is "memory 612MiB, limit 500MiB"
		what, _, _ := strings.Cut(e.Reason, " ")
		_, above, _ := strings.Cut(e.Reason, ", limit ")
		return fmt.Sprintf("%s %d %s %s", kind, e.PID, what, above)
	case KindThrottled, KindGaveUp:
		return kind + " " + subject(e)
	}
	return kind
}

// subject is whom an event is about that comes back: its unit, or its name where a
// command starts it, in another unit each time.
func subject(e *control.Event) string {
	if e.Process != "" && (strings.HasSuffix(e.Unit, ".scope") || strings.HasPrefix(e.Unit, "checkprocd-run-")) {
		return e.Process
	}
	return cmp.Or(e.Unit, e.Process)
}

// alone are events below the level of an error that are worth an alert of their own.
var alone = map[string]bool{"alert-test": true, "config-check-failed": true, "config-blamed": true}

// Event takes in one event. Events come in their order; those that are older than
// others before them count as now.
func (t *Tracker) Event(e control.Event) {
	at := time.UnixMicro(e.TimeUsec)
	t.Tick(at)
	t.take(&e, at)
}

func (t *Tracker) take(e *control.Event, at time.Time) {
	c, is := conditions[e.Name]
	switch {
	case is && c.ends:
		t.end(conditionKey(c.kind, e), e, at)
	case is:
		t.begin(conditionKey(c.kind, e), c.kind, e, at)
	case e.Episode != "":
		t.episode(e, at)
	case e.Name == "restored":
		t.end("restore-failed "+subject(e), e, at)
		t.end(conditionKey(KindGaveUp, e), e, at)
	case e.Level == control.LevelError, alone[e.Name]:
		about := subject(e)
		if about == "" && e.PID != 0 {
			about = fmt.Sprint(e.PID)
		}
		o := t.add(strings.TrimSuffix(e.Name+" "+about, " "), e.Name, at)
		if o == nil {
			return
		}
		o.tell(e)
		if e.Name == "restore-failed" { // a start may end it
			t.grave(o)
		} else if !o.Grave { // how long it lasts cannot be known: no floor
			o.Grave = true
			t.fire(o, t.now)
		}
		if o.Until = at.Add(t.hold); o.Due.After(at) && !o.Fired {
			o.Until = o.Due.Add(t.hold)
		}
		t.expect(o)
	}
}

func (t *Tracker) episode(e *control.Event, at time.Time) {
	byOrder := e.Reason == "order" // an order holds or releases it; what is the matter with it stays
	switch {
	case t.isOver[e.Episode]:
	case ends[e.Name] && !byOrder:
		t.end(e.Episode, e, at)
	default:
		t.supersede(e.Episode, at)
		o := t.add(e.Episode, KindProcess, at)
		if o == nil {
			return
		}
		o.tell(e)
		if e.Level == control.LevelWarning && !byOrder || e.Level == control.LevelError { // late alone is a notice: the verdict is to come
			t.grave(o)
		}
		if o.Fired && e.Level == control.LevelError {
			t.raise(o)
		}
	}
}

// supersede ends an earlier episode of the target, whose end was not seen.
func (t *Tracker) supersede(episode string, at time.Time) {
	if key, ok := t.current[targetOf(episode)]; ok && key != episode {
		t.end(key, nil, at)
	}
}

// targetOf is what the name of an episode begins with.
func targetOf(episode string) string {
	target, _, _ := strings.Cut(episode, "-")
	return target
}

// begin opens an alert that fires at its floor.
func (t *Tracker) begin(key, kind string, e *control.Event, at time.Time) *Open {
	o := t.add(key, kind, at)
	if o != nil {
		o.tell(e)
		t.grave(o)
	}
	return o
}

// add finds or makes what is open under a key; nil when it is over, or there is no
// room.
func (t *Tracker) add(key, kind string, at time.Time) *Open {
	o := t.open[key]
	if o == nil {
		id := fmt.Sprintf("%s@%d", strings.ReplaceAll(key, " ", "-"), at.UnixMicro())
		switch {
		case t.isOver[id]:
			return nil
		case len(t.open) >= maxOpen:
			t.dropped++
			return nil
		}
		o = &Open{Key: key, Alert: Alert{ID: id, Kind: kind, StartsAt: at}}
		t.open[key] = o
		if kind == KindProcess {
			t.current[targetOf(key)] = key
		}
	}
	t.touched[key] = true
	return o
}

// tell puts into an alert what an event says.
func (o *Open) tell(e *control.Event) {
	a := &o.Alert
	a.Event, a.Message, a.Reason = e.Name, e.Message, e.Reason
	a.Verdict = cmp.Or(e.Verdict, a.Verdict)
	if !o.Fired { // then its receivers know it by these: those of Alertmanager are its labels
		a.Process, a.Unit, a.PID = cmp.Or(e.Process, a.Process), cmp.Or(e.Unit, a.Unit), cmp.Or(e.PID, a.PID)
	}
	if !o.Fired && e.Level == control.LevelError {
		a.Severity = critical
	}
}

// grave says that an alert is worth firing, at its floor.
func (t *Tracker) grave(o *Open) {
	if o.Grave {
		return
	}
	o.Grave, o.Due = true, o.Alert.StartsAt.Add(t.terms(&o.Alert).Floor)
	if !o.Due.After(t.now) {
		t.fire(o, t.now)
	} else {
		t.expect(o)
	}
}

// fire notifies an alert that stands, for the first time or once more.
func (t *Tracker) fire(o *Open, at time.Time) {
	terms := t.terms(&o.Alert)
	t.touched[o.Key] = true
	o.Due = time.Time{}
	if !o.Fired {
		if terms.Off {
			return
		}
		o.Fired, o.To = true, terms.Receivers
		o.Alert.Severity = cmp.Or(terms.Severity, o.Alert.Severity, warning)
	} else {
		o.Repeats++
		for _, name := range terms.Receivers { // there may be more of them by now
			if !slices.Contains(o.To, name) {
				o.To = append(slices.Clone(o.To), name)
			}
		}
	}
	t.order(o, Firing)
	if terms.Repeat > 0 {
		o.Due = at.Add(terms.Repeat)
		t.expect(o)
	}
}

// raise makes an alert that was notified critical, and notifies it again: also those
// who want to hear of nothing less.
func (t *Tracker) raise(o *Open) {
	a := o.Alert
	a.Severity = critical
	if o.Alert.Severity == critical || t.terms(&a).Severity == warning {
		return
	}
	o.Alert.Severity = critical
	t.fire(o, t.now)
}

func (t *Tracker) order(o *Open, s Status) {
	n := Notification{ID: fmt.Sprintf("%s/%d", o.Alert.ID, o.Repeats), Status: s, Repeat: o.Repeats, Alert: o.Alert}
	if s == Resolved {
		n.ID = o.Alert.ID + "/resolved"
	}
	t.orders = append(t.orders, Order{n, o.To})
}

// end closes what is open under a key; e is nil where no event said so.
func (t *Tracker) end(key string, e *control.Event, at time.Time) {
	o := t.open[key]
	if o == nil {
		return
	}
	if e != nil {
		o.tell(e)
	}
	o.Alert.EndsAt = at
	if at.Before(o.Alert.StartsAt) { // the clock was set back
		o.Alert.EndsAt = o.Alert.StartsAt
	}
	if o.Fired {
		t.order(o, Resolved)
	}
	if o.Alert.Kind == KindProcess {
		t.close(key)
		delete(t.current, targetOf(key))
	} else {
		t.close(o.Alert.ID)
	}
	delete(t.open, key)
	t.touched[key] = true
}

// close remembers that an episode or an alert is over.
func (t *Tracker) close(x string) {
	t.closed, t.over, t.isOver[x] = append(t.closed, x), append(t.over, x), true
	if len(t.closed) > maxClosed {
		delete(t.isOver, t.closed[0])
		t.closed = t.closed[1:]
	}
}

// advance fires, repeats and ends what is due, in the order of its time.
func (t *Tracker) advance(now time.Time, which func(*Open) bool) {
	now = now.Round(0) // of the wall clock only: else it would not be seen that this was set
	if back := t.now.Sub(now); back > time.Second && !t.now.IsZero() {
		t.shift(-back) // the wall clock was set back: what is due is not put off by it
	} else if back > 0 {
		return
	}
	t.now = now
	if t.next.IsZero() || now.Before(t.next) {
		return
	}
	var due []*Open
	for _, o := range t.open {
		if which(o) && (!o.Due.IsZero() && !o.Due.After(now) || !o.Until.IsZero() && !o.Until.After(now)) {
			due = append(due, o)
		}
	}
	slices.SortFunc(due, func(a, b *Open) int { return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Key, b.Key)) })
	for _, o := range due {
		if !o.Due.IsZero() && !o.Due.After(now) && (o.Until.IsZero() || o.Due.Before(o.Until)) {
			t.fire(o, now)
		}
		if !o.Until.IsZero() && !o.Until.After(now) {
			t.end(o.Key, nil, o.Until)
		}
	}
	t.next = time.Time{}
	for _, o := range t.open {
		t.expect(o)
	}
}

func (t *Tracker) shift(by time.Duration) {
	for key, o := range t.open {
		for _, at := range []*time.Time{&o.Due, &o.Until} {
			if !at.IsZero() {
				*at = at.Add(by)
			}
		}
		t.touched[key] = true
	}
	if !t.next.IsZero() {
		t.next = t.next.Add(by)
	}
}

// SetAhead says that the wall clock was set ahead: what is due is not brought forward
// by it. Less than a second is none of this.
func (t *Tracker) SetAhead(by time.Duration) {
	if by > time.Second && !t.now.IsZero() {
		t.shift(by)
		t.now = t.now.Add(by)
	}
}

// Lost says that the guard cannot be reached, and why; Found that it can be again.
func (t *Tracker) Lost(now time.Time, why string) {
	t.TickLost(now)
	t.begin(KindGuard, KindGuard, &control.Event{Name: "guard-lost", Level: control.LevelError, Message: why}, now)
}

// Found ends what Lost began. The events of the time in between are to come.
func (t *Tracker) Found(now time.Time) {
	t.TickLost(now)
	t.end(KindGuard, &control.Event{Name: "guard-found", Message: "the guard answers"}, now)
	t.Again()
}

// Reconcile compares with what the guard says, after events were lost: what it no
// longer reports is closed, what it does is opened. No event that is newer than the
// answers may have been taken in.
func (t *Tracker) Reconcile(now time.Time, status control.Status, targets []control.Target) {
	t.Tick(now)
	stands := map[string]bool{}
	var begun []control.Event // what is not known of them
	say := func(key string, e control.Event) {
		stands[key] = true
		if o := t.open[key]; o == nil || !o.Grave && e.Level != control.LevelNotice {
			e.TimeUsec = now.UnixMicro()
			begun = append(begun, e)
		}
	}
	for i := range targets {
		x := &targets[i]
		about := control.Event{PID: x.PID, Process: x.Name, Unit: x.Unit, Level: control.LevelWarning}
		for _, text := range x.Limits { // "memory 612MiB > 500MiB: throttle"
			e := about
			value, rest, _ := strings.Cut(text, " > ")
			above, _, _ := strings.Cut(rest, ": ")
			e.Name, e.Reason, e.Message = "limit", value+", limit "+above, fmt.Sprintf("pid %d (%s) exceeds a limit: %s", x.PID, x.Name, text)
			say(conditionKey(KindLimit, &e), e)
		}
		if x.Episode == "" {
			continue
		}
		e := about
		e.Name = "condemned" // or held, or waiting: worth an alert
		if x.Verdict == "" || x.State == control.StateUnverified || x.Hold != "" {
			e.Name, e.Level = "late", control.LevelNotice
		}
		e.Verdict, e.Reason, e.Episode = x.Verdict, x.Reason, x.Episode
		e.Message = fmt.Sprintf("pid %d (%s) is silent for %s: %s", x.PID, x.Name, time.Duration(x.SilenceUsec)*time.Microsecond, x.State)
		say(x.Episode, e)
	}
	for _, x := range status.Throttled {
		e := control.Event{Name: "throttled", Level: control.LevelWarning, Unit: x.Unit, Reason: x.Has, Message: fmt.Sprintf("%s has %s; before it had %s", x.Unit, x.Has, x.Had)}
		say(conditionKey(KindThrottled, &e), e)
	}
	for _, x := range status.Recoveries {
		e := control.Event{Name: "gave-up", Level: control.LevelError, Process: x.Name, Unit: x.Unit, Reason: "too many starts",
			Message: fmt.Sprintf("%s %s was started %d times and does not stay up: given up", x.Unit, x.Name, x.Starts)}
		switch key := t.gaveUpKey(&e); {
		case x.GivenUp:
			say(key, e)
		case x.NextUsec > 0: // it is tried again, and nobody knows yet whether it stays up
			stands[key] = true
		}
	}
	if status.Brake.On {
		say(KindBrake, control.Event{Name: "brake-on", Level: control.LevelWarning, Message: fmt.Sprintf("the brake holds %d targets", status.Brake.Waiting)})
	}
	if slices.ContainsFunc(status.Tables, func(x control.Table) bool { return x.State != control.TableAttached }) {
		say(KindTable, control.Event{Name: "table-lost", Level: control.LevelWarning, Message: "there is no table"})
	}
	if status.Mode != control.ModeActing {
		say(KindObserving, control.Event{Name: "observing", Level: control.LevelWarning, Message: "not acting: " + status.ModeReason})
	}
	for _, key := range slices.Sorted(maps.Keys(t.open)) {
		if t.open[key].Until.IsZero() && !stands[key] {
			t.end(key, nil, now)
		}
	}
	for i := range begun {
		t.take(&begun[i], now)
	}
}

// gaveUpKey is what is open about a unit or name that is given up. The first process that
// a command starts again may have been in a unit that the guard does not name here.
func (t *Tracker) gaveUpKey(e *control.Event) string {
	if e.Unit == "" {
		for key, o := range t.open {
			if o.Alert.Kind == KindGaveUp && o.Alert.Process == e.Process {
				return key
			}
		}
	}
	return conditionKey(KindGaveUp, e)
}
