package alert

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/control"
)

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// plain are terms that are the same for every alert.
func plain(floor, repeat time.Duration) func(*Alert) Terms {
	return func(*Alert) Terms { return Terms{Floor: floor, Repeat: repeat, Receivers: []string{"ops"}} }
}

func at(d time.Duration) time.Time { return epoch.Add(d) }

// levels are those that the guard gives to events that are no warnings.
var levels = map[string]control.Level{"late": control.LevelNotice, "recovered": control.LevelNotice, "exited": control.LevelNotice, "released": control.LevelInfo,
	"limit-over": control.LevelNotice, "unthrottled": control.LevelNotice, "restored": control.LevelNotice, "retrying": control.LevelNotice,
	"unkillable": control.LevelError, "refused": control.LevelError, "gave-up": control.LevelError, "restore-failed": control.LevelError}

func event(d time.Duration, name, episode string) control.Event {
	return control.Event{TimeUsec: at(d).UnixMicro(), Name: name, Level: cmp.Or(levels[name], control.LevelWarning), PID: 42, Process: "ftp", Episode: episode, Message: name}
}

// ordered is an event that an order led to.
func ordered(e control.Event) control.Event {
	e.Reason = "order"
	return e
}

// said is "status repeat event" of each order, since the last call.
func said(t *Tracker) string {
	var words []string
	for _, o := range t.Step().Orders {
		words = append(words, fmt.Sprintf("%s %d %s", o.Status, o.Repeat, o.Alert.Event))
	}
	return strings.Join(words, ", ")
}

func expect(t *testing.T, tr *Tracker, want string) {
	t.Helper()
	if got := said(tr); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
}

func TestEpisodeIsOneAlert(t *testing.T) {
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	tr.Event(event(0, "late", "1-5"))
	expect(t, tr, "")
	tr.Event(event(time.Second, "condemned", "1-5"))
	expect(t, tr, "firing 0 condemned")
	tr.Event(event(2*time.Second, "signalled", "1-5"))
	tr.Tick(at(time.Hour))
	expect(t, tr, "")
	tr.Tick(at(time.Hour + time.Second))
	expect(t, tr, "firing 1 signalled")
	tr.Event(event(2*time.Hour, "killed", "1-5"))
	expect(t, tr, "resolved 1 killed")
	tr.Event(event(2*time.Hour, "signalled", "1-5")) // after a reconciliation events may come late
	tr.Tick(at(9 * time.Hour))
	expect(t, tr, "")
	if tr.Watching() || !tr.next.IsZero() {
		t.Error("something is left open")
	}
}

func TestFloor(t *testing.T) {
	tr := NewTracker(plain(30*time.Second, 0), time.Minute, nil, nil)
	tr.Event(event(0, "late", "1-5"))
	tr.Event(event(time.Second, "held", "1-5"))
	if got := tr.next; !got.Equal(at(30 * time.Second)) { // from late on
		t.Errorf("next at %v", got)
	}
	tr.Event(event(29*time.Second, "recovered", "1-5"))
	tr.Event(event(40*time.Second, "late", "1-6"))
	tr.Event(event(41*time.Second, "condemned", "1-6"))
	tr.Tick(at(69 * time.Second))
	expect(t, tr, "")
	// Its end was read late: what it lasted counts, not when it was read.
	tr.Event(event(70*time.Second, "killed", "1-6"))
	expect(t, tr, "firing 0 condemned, resolved 0 killed")
}

// What an order does is no reason for an alert, and no end of one.
func TestOrdersAreNoVerdicts(t *testing.T) {
	tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
	tr.Event(event(0, "late", "1-5"))
	tr.Event(ordered(event(1, "held", "1-5")))
	expect(t, tr, "")
	tr.Event(event(2, "condemned", "1-5"))
	tr.Event(ordered(event(3, "released", "1-5")))
	expect(t, tr, "firing 0 condemned")
}

func TestConditions(t *testing.T) {
	tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
	for i, e := range []struct{ name, want string }{
		{"brake-on", "firing 0 brake-on"}, {"brake-on", ""}, {"brake-off", "resolved 0 brake-off"}, {"brake-off", ""},
		{"table-lost", "firing 0 table-lost"}, {"observing", "firing 0 observing"}, {"table-attached", "resolved 0 table-attached"},
		{"acting", "resolved 0 acting"}, {"registered", ""}, {"gap", ""}, {"degraded", ""},
		{"alert-test", "firing 0 alert-test"},
	} {
		tr.Event(event(time.Duration(i), e.name, ""))
		expect(t, tr, e.want)
	}
	tr.Tick(at(2 * time.Minute))
	expect(t, tr, "resolved 0 alert-test")

	e := event(time.Hour, "restore-failed", "")
	e.Unit = "a.service"
	tr.Event(e)
	if got := tr.Standing(); len(got) != 1 || got[0].Alert.Severity != "critical" || got[0].Alert.Kind != "restore-failed" {
		t.Errorf("%+v", got)
	}
	e.Name, e.Level = "restored", control.LevelNotice
	tr.Event(e)
	expect(t, tr, "firing 0 restore-failed, resolved 0 restored")
}

func TestLost(t *testing.T) {
	tr := NewTracker(plain(30*time.Second, 0), time.Minute, nil, nil)
	tr.Event(event(0, "late", "1-5"))
	tr.Event(event(1, "condemned", "1-5"))
	tr.Lost(at(time.Second), "refused")
	tr.TickLost(at(20 * time.Second))
	tr.Found(at(21 * time.Second))
	expect(t, tr, "")
	tr.Lost(at(22*time.Second), "refused")
	tr.TickLost(at(time.Minute))
	expect(t, tr, "firing 0 guard-lost") // and not the other one: perhaps it is over
	tr.Found(at(2 * time.Minute))
	expect(t, tr, "resolved 0 guard-found")
	tr.Tick(at(2 * time.Minute))
	expect(t, tr, "firing 0 condemned")
}

// TestBacklog: the events of the time when the guard was not to be reached come late, and are no clock that was set back.
func TestBacklog(t *testing.T) {
	tr := NewTracker(plain(5*time.Minute, 0), time.Minute, nil, nil)
	tr.Event(event(0, "late", "1-5"))
	tr.Event(event(1, "condemned", "1-5"))
	tr.Lost(at(time.Second), "busy")
	tr.TickLost(at(4 * time.Minute))
	tr.Found(at(4 * time.Minute))
	tr.Event(event(2*time.Second, "late", "2-5"))
	tr.Event(event(2*time.Minute, "recovered", "1-5"))
	tr.Tick(at(4 * time.Minute))
	expect(t, tr, "")
}

func TestReconcile(t *testing.T) {
	tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
	for _, e := range []control.Event{event(0, "late", "1-5"), event(1, "condemned", "1-5"), event(2, "condemned", "2-5"), event(3, "brake-on", "")} {
		tr.Event(e)
	}
	tr.Step()
	tr.Reconcile(at(time.Minute), control.Status{Mode: control.ModeActing, Tables: []control.Table{{State: control.TableMissing}}}, []control.Target{
		{PID: 2, Episode: "2-5", Verdict: "hung"}, {PID: 3, Episode: "3-1", Verdict: "stopped", State: control.StateHeld, Name: "x"}, {PID: 4},
		{PID: 5, Episode: "5-1", Verdict: "hung", Hold: "ordered by uid 0"}, {PID: 6, Episode: "6-1", Verdict: "unverified", State: control.StateUnverified},
	})
	expect(t, tr, "resolved 0 condemned, resolved 0 brake-on, firing 0 condemned, firing 0 table-lost")
	tr.Event(event(4, "signalled", "1-5")) // was on its way
	expect(t, tr, "")
}

func TestSuperseded(t *testing.T) {
	tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
	tr.Event(event(0, "condemned", "1-5"))
	tr.Event(event(1, "late", "12-6")) // another target
	expect(t, tr, "firing 0 condemned")
	tr.Event(event(time.Second, "late", "1-7"))
	expect(t, tr, "resolved 0 condemned")
}

func TestClockSetBack(t *testing.T) {
	tr := NewTracker(plain(time.Minute, 0), time.Minute, nil, nil)
	tr.Event(event(10*time.Hour, "condemned", "1-5"))
	tr.Tick(at(time.Hour)) // nine hours back
	tr.Tick(at(time.Hour + 59*time.Second))
	expect(t, tr, "")
	tr.Tick(at(time.Hour + time.Minute))
	expect(t, tr, "firing 0 condemned")
	tr.Event(event(2*time.Hour, "killed", "1-5"))
	if o := tr.Step().Orders; len(o) != 1 || o[0].Alert.EndsAt.Before(o[0].Alert.StartsAt) {
		t.Errorf("%+v", o)
	}
}

// TestReadAgain: events that are read a second time lead to nothing, and bring nothing forward that is due.
func TestReadAgain(t *testing.T) {
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	all := []control.Event{event(0, "condemned", "1-5"), event(time.Second, "killed", "1-5"), event(2*time.Second, "brake-on", ""),
		event(3*time.Second, "brake-off", ""), event(4*time.Second, "alert-test", ""), event(30*time.Minute, "condemned", "2-5")}
	for _, e := range all {
		tr.Event(e)
	}
	expect(t, tr, "firing 0 condemned, resolved 0 killed, firing 0 brake-on, resolved 0 brake-off, firing 0 alert-test, resolved 0 alert-test, firing 0 condemned")
	tr.Again()
	for _, e := range all {
		tr.Event(e)
	}
	tr.Tick(at(89 * time.Minute))
	expect(t, tr, "")
	tr.Tick(at(90 * time.Minute))
	expect(t, tr, "firing 1 condemned")
}

// A time of this process knows how long ago it was, whatever the clock was set to meanwhile. The tracker must not.
func TestOnlyTheWallClock(t *testing.T) {
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	tr.Tick(time.Now())
	if tr.now != tr.now.Round(0) {
		t.Errorf("%v: a step of the clock would not be seen", tr.now)
	}
}

func TestClockSetAhead(t *testing.T) {
	tr := NewTracker(plain(time.Minute, time.Hour), time.Minute, nil, nil)
	tr.Event(event(0, "condemned", "1-5"))
	tr.Tick(at(10 * time.Second))
	tr.SetAhead(setAhead(at(10*time.Second), at(9*time.Hour+11*time.Second), time.Second))
	tr.Tick(at(9*time.Hour + 59*time.Second))
	expect(t, tr, "")
	tr.Tick(at(9*time.Hour + time.Minute))
	expect(t, tr, "firing 0 condemned")
	tr.SetAhead(setAhead(at(0), at(time.Second), 0)) // is none
	tr.Tick(at(10*time.Hour + time.Minute))
	expect(t, tr, "firing 1 condemned")
}

func TestBounded(t *testing.T) {
	tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
	for i := range 3 * maxOpen {
		tr.Event(event(time.Duration(i), "condemned", fmt.Sprintf("%d-1", i)))
	}
	if n := len(tr.Step().Orders); n != maxOpen || tr.Dropped() != 2*maxOpen {
		t.Errorf("%d alerts, %d dropped", n, tr.Dropped())
	}
	for i := range 3 * maxOpen {
		tr.Event(event(time.Duration(3*maxOpen+i), "killed", fmt.Sprintf("%d-1", i)))
	}
	if tr.Watching() || len(tr.closed) > maxClosed {
		t.Error("what is closed stays")
	}
}

// BenchmarkWave is a wave of 10 000 targets, to the disk and to a queue: its time is that of an event.
func BenchmarkWave(b *testing.B) {
	s, _, err := OpenStore(filepath.Join(b.TempDir(), "queue"), []string{"ops"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const targets = 10_000
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	n := 0
	for b.Loop() {
		wave, i := n/(4*targets), n%targets
		name := []string{"late", "condemned", "signalled", "killed"}[n/targets%4]
		tr.Event(event(time.Duration(n)*time.Millisecond, name, fmt.Sprintf("%d-%d", i, wave)))
		if n++; n%batchEvents == 0 {
			if err := s.Put(tr.Step(), "c"); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestFloorOfEvent: what only has a beginning has no length, and a floor above event_hold swallows nothing of it. A
// failed start lasts until one succeeds.
func TestFloorOfEvent(t *testing.T) {
	for _, name := range []string{"alert-test", "config-blamed", "unkillable", "degraded"} {
		tr := NewTracker(plain(time.Hour, 0), time.Minute, nil, nil)
		e := event(0, name, "")
		if name == "degraded" {
			e.Level = control.LevelError
		}
		tr.Event(e)
		expect(t, tr, "firing 0 "+name)
		tr.Tick(at(time.Minute))
		expect(t, tr, "resolved 0 "+name)
	}
	tr := NewTracker(plain(time.Hour, 0), time.Minute, nil, nil)
	tr.Event(event(0, "restore-failed", ""))
	tr.Tick(at(time.Hour - 1))
	expect(t, tr, "")
	tr.Tick(at(time.Hour))
	expect(t, tr, "firing 0 restore-failed")
	tr.Tick(at(time.Hour + time.Minute))
	expect(t, tr, "resolved 0 restore-failed")
	tr.Event(event(3*time.Hour, "restore-failed", ""))
	tr.Event(event(3*time.Hour+time.Minute, "restored", ""))
	tr.Tick(at(9 * time.Hour))
	expect(t, tr, "")
}

// TestSameForItsLife: by whom and what an alert is about Alertmanager knows it.
func TestSameForItsLife(t *testing.T) {
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	e := event(0, "gave-up", "")
	e.Unit = "ftp.service"
	tr.Event(e)
	e.PID, e.Process, e.Message = 43, "ftp2", "again"
	tr.Event(e)
	tr.Tick(at(time.Hour))
	e.Name, e.PID = "restored", 44
	tr.Event(e)
	orders := tr.Step().Orders
	if len(orders) != 3 || orders[1].Alert.Message != "again" || orders[2].Status != Resolved {
		t.Fatalf("%+v", orders)
	}
	for _, o := range orders {
		if a := o.Alert; a.Process != "ftp" || a.PID != 42 || a.Unit != "ftp.service" {
			t.Errorf("%+v", a)
		}
	}
}

// TestGaveUp: what is given up is no alert that ends by itself, but with a start, or with what the guard says.
func TestGaveUp(t *testing.T) {
	about := func(d time.Duration, name, process, unit string, pid int32) control.Event {
		e := event(d, name, "")
		e.Process, e.Unit, e.PID = process, unit, pid
		return e
	}
	given := func(name, unit string) control.Status {
		return control.Status{Mode: control.ModeActing, Recoveries: []control.Recovery{{Name: name, Unit: unit, GivenUp: true, NextUsec: 1}}}
	}
	waits := control.Status{Mode: control.ModeActing, Recoveries: []control.Recovery{{Name: "db", Unit: "db.service", Starts: 1, NextUsec: 1}}}
	up := control.Status{Mode: control.ModeActing, Recoveries: []control.Recovery{{Name: "db", Unit: "db.service", Starts: 1}}}
	begin := func() *Tracker {
		tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
		tr.Event(about(0, "gave-up", "db", "db.service", 7))
		expect(t, tr, "firing 0 gave-up")
		tr.Tick(at(time.Hour))
		tr.Reconcile(at(time.Hour), given("db", "db.service"), nil)
		expect(t, tr, "")
		return tr
	}

	tr := begin()
	if s := tr.Standing(); len(s) != 1 || s[0].Alert.Severity != critical {
		t.Errorf("%+v", s)
	}
	tr.Event(about(2*time.Hour, "retrying", "db", "db.service", 0))
	tr.Reconcile(at(2*time.Hour), waits, nil)
	expect(t, tr, "") // a try is no success
	tr.Event(about(3*time.Hour, "restored", "db", "db.service", 8))
	expect(t, tr, "resolved 0 restored")

	tr = begin()
	tr.Reconcile(at(2*time.Hour), up, nil) // `checkprocctl recover`, and it ran already
	expect(t, tr, "resolved 0 gave-up")
	tr.Reconcile(at(3*time.Hour), given("db", "db.service"), nil) // its event was lost
	expect(t, tr, "firing 0 gave-up")

	// Two units of one name, and one unit whose program takes another name each time.
	tr = NewTracker(plain(0, 0), time.Minute, nil, nil)
	tr.Event(about(0, "gave-up", "ftp", "ftp@1.service", 7))
	tr.Event(about(1, "gave-up", "ftp", "ftp@2.service", 8))
	expect(t, tr, "firing 0 gave-up, firing 0 gave-up")
	tr.Event(about(2, "restored", "ftp-new", "ftp@1.service", 9))
	expect(t, tr, "resolved 0 restored")
	tr.Reconcile(at(time.Minute), given("ftp-newer", "ftp@2.service"), nil)
	expect(t, tr, "")

	// A command runs in another unit each time, the first one perhaps in a service.
	for _, unit := range []string{"", "session-1.scope", "checkprocd-run-c-1.service", "shell.service"} {
		tr = NewTracker(plain(0, 0), time.Minute, nil, nil)
		tr.Event(about(0, "restore-failed", "c", unit, 7))
		tr.Event(about(0, "gave-up", "c", unit, 7))
		expect(t, tr, "firing 0 restore-failed, firing 0 gave-up")
		tr.Reconcile(at(time.Second), given("c", ""), nil)
		expect(t, tr, "")
		tr.Event(about(2*time.Second, "restored", "c", unit, 7))
		expect(t, tr, "resolved 0 restored, resolved 0 restored")
	}
	tr.Event(about(0, "gave-up", "c", "checkprocd-run-c-1.service", 7))
	tr.Event(about(1, "restored", "c", "checkprocd-run-c-2.service", 8))
	expect(t, tr, "firing 0 gave-up, resolved 0 restored")
}

// TestLimits: a limit that is exceeded is an alert until it no longer is, and so is a unit that has less for it.
func TestLimits(t *testing.T) {
	about := func(d time.Duration, name string, pid int32, reason string) control.Event {
		e := event(d, name, "")
		e.PID, e.Reason, e.Unit = pid, reason, "ftp.service"
		return e
	}
	tr := NewTracker(plain(0, time.Hour), time.Minute, nil, nil)
	tr.Event(about(0, "limit", 7, "memory 612MiB, limit 500MiB"))
	tr.Event(about(1, "limit", 8, "memory 700MiB, limit 500MiB"))
	tr.Event(about(2, "limit", 7, "cpu 93.1%, limit 90%"))
	expect(t, tr, "firing 0 limit, firing 0 limit, firing 0 limit")
	tr.Event(about(3, "throttled", 0, "MemoryHigh=400MiB"))
	expect(t, tr, "firing 0 throttled")
	for _, o := range tr.Standing() {
		if o.Alert.Severity != warning {
			t.Errorf("%+v", o)
		}
	}
	tr.Event(about(4, "limit", 7, "memory 650MiB, limit 500MiB")) // what is done about it is another thing by now
	tr.Tick(at(10 * time.Minute))
	expect(t, tr, "")
	tr.Event(about(11*time.Minute, "limit-over", 7, "memory 390MiB, limit 500MiB"))
	expect(t, tr, "resolved 0 limit-over")

	now := control.Status{Mode: control.ModeActing, Throttled: []control.Throttle{{Unit: "ftp.service", Has: "MemoryHigh=400MiB"}}}
	tr.Reconcile(at(12*time.Minute), now, []control.Target{{PID: 7, Limits: []string{"cpu 95% > 90%: throttle"}}, {PID: 8, Limits: []string{"memory 701MiB > 500MiB: not acting: it is held"}}})
	expect(t, tr, "")
	now.Throttled[0].Unit = "web.service"
	tr.Reconcile(at(13*time.Minute), now, []control.Target{{PID: 8, Limits: []string{"memory 702MiB > 500MiB: throttle", "threads 99 > 90: report"}}})
	expect(t, tr, "resolved 0 limit, resolved 0 throttled, firing 0 limit, firing 0 throttled")
	tr.Event(about(14*time.Minute, "limit-over", 8, "threads 9, limit 90"))
	e := about(15*time.Minute, "unthrottled", 0, "MemoryHigh=infinity")
	e.Unit = "web.service"
	tr.Event(e)
	expect(t, tr, "resolved 0 limit-over, resolved 0 unthrottled")

	// In the middle of an episode: it is none of it.
	e = about(16*time.Minute, "limit", 9, "age 31d, limit 30d")
	e.Episode = "9-1"
	tr.Event(e)
	expect(t, tr, "firing 0 limit")
	e.Name = "limit-over"
	tr.Event(e)
	expect(t, tr, "resolved 0 limit-over")

	// Commands that the guard has started, and scopes, are units as well.
	tr = NewTracker(plain(0, 0), time.Minute, nil, nil)
	for _, unit := range []string{"checkprocd-run-a-1.service", "session-1.scope"} {
		e = about(15*time.Minute, "throttled", 0, "MemoryHigh=400MiB")
		e.Process, e.Unit = "", unit
		tr.Event(e)
	}
	expect(t, tr, "firing 0 throttled, firing 0 throttled")
	e.Name, e.Level = "unthrottled", control.LevelNotice
	tr.Event(e)
	tr.Reconcile(at(15*time.Minute), control.Status{Mode: control.ModeActing, Throttled: []control.Throttle{{Unit: "checkprocd-run-a-1.service"}}}, nil)
	expect(t, tr, "resolved 0 unthrottled")
	tr.Reconcile(at(15*time.Minute), control.Status{Mode: control.ModeActing}, nil)
	expect(t, tr, "resolved 0 throttled")
}

// history is one episode of the random ones.
type history struct {
	name       string
	start, end time.Duration
	verdicts   []time.Duration // what is worth an alert
	errors     int             // how many of them may raise it
}

// graveEvents are all that the guard says about an episode and that is worth an alert. The limit that a target is ended
// for is an alert of its own.
var graveEvents = []string{"condemned", "would-condemn", "waiting", "held", "signalled", "protected", "unkillable", "refused", "collateral"}

// TestEpisodes is what has to hold for any course of events: an episode that lasted for its floor, with a verdict, is
// one alert, notified once, repeated on time, closed once; one that did not is none. So it is over restarts of the
// tracker at any moment, each of which reads once more what led to nothing, with orders to hold at any time, and
// whenever it compares with what the guard says.
func TestEpisodes(t *testing.T) {
	// One of the events, or a comparison at its time.
	type moment struct {
		control.Event
		compare []control.Target
	}
	rapid.Check(t, func(t *rapid.T) {
		floor := time.Duration(rapid.IntRange(0, 5).Draw(t, "floor")) * time.Minute
		repeat := time.Duration(rapid.IntRange(0, 5).Draw(t, "repeat")) * 3 * time.Minute
		var all []history
		var events []control.Event
		for target := range rapid.IntRange(1, 4).Draw(t, "targets") {
			clock := time.Duration(0)
			for n := range rapid.IntRange(0, 3).Draw(t, "episodes") {
				span := func(what string, low, high int) time.Duration {
					return time.Duration(rapid.IntRange(low, high).Draw(t, what)) * 10 * time.Second
				}
				h := history{name: fmt.Sprintf("%d-%d", target+1, n), start: clock + span("pause", 1, 60)}
				events = append(events, event(h.start, "late", h.name))
				clock = h.start
				for range rapid.IntRange(0, 4).Draw(t, "more") {
					clock += span("then", 0, 30)
					switch what := rapid.SampledFrom(append([]string{"order to hold", "order to release"}, graveEvents...)).Draw(t, "what"); what {
					case "order to hold":
						events = append(events, ordered(event(clock, "held", h.name)))
					case "order to release":
						events = append(events, ordered(event(clock, "released", h.name)))
					default:
						e := event(clock, what, h.name)
						h.verdicts, events = append(h.verdicts, clock), append(events, e)
						if e.Level == control.LevelError {
							h.errors++
						}
					}
				}
				clock += span("rest", 1, 60)
				h.end = clock
				events = append(events, event(clock, rapid.SampledFrom([]string{"recovered", "killed", "exited", "released", "unregistered"}).Draw(t, "end"), h.name))
				all = append(all, h)
			}
		}
		slices.SortStableFunc(events, func(a, b control.Event) int { return cmp.Compare(a.TimeUsec, b.TimeUsec) })
		var course []moment
		for i, e := range events {
			course = append(course, moment{Event: e})
			if rapid.IntRange(0, 3).Draw(t, "compare") > 0 || i+1 < len(events) && events[i+1].TimeUsec == e.TimeUsec {
				continue
			}
			now := time.UnixMicro(e.TimeUsec).Sub(epoch)
			targets := []control.Target{{PID: 9}} // who is in no episode
			for _, h := range all {
				if h.start <= now && now < h.end {
					x := control.Target{PID: 42, Name: "ftp", Episode: h.name, State: control.StateLate}
					if len(h.verdicts) > 0 && h.verdicts[0] <= now {
						x.Verdict = "hung"
					}
					targets = append(targets, x)
				}
			}
			course = append(course, moment{Event: e, compare: targets})
		}

		run := func(restarts bool) (orders []Order) {
			tr := NewTracker(plain(floor, repeat), time.Minute, nil, nil)
			disk := map[string]Open{}
			var closed []string
			from := 0 // what was read before is on the disk
			for i := 0; i < len(course); i++ {
				if x := course[i]; x.compare != nil {
					tr.Reconcile(time.UnixMicro(x.TimeUsec), control.Status{Mode: control.ModeActing}, x.compare)
				} else {
					tr.Event(x.Event)
				}
				if s := tr.Step(); !s.Empty() {
					orders = append(orders, s.Orders...)
					for _, o := range s.Set {
						disk[o.Key] = o
					}
					for _, key := range s.Del {
						delete(disk, key)
					}
					closed, from = append(closed, s.Closed...), i+1
				}
				if restarts && rapid.IntRange(0, 5).Draw(t, "crash") == 0 {
					var open []Open
					for _, o := range disk {
						open = append(open, o)
					}
					tr = NewTracker(plain(floor, repeat), time.Minute, open, closed)
					i = from - 1
					if rapid.Bool().Draw(t, "at once again") {
						restarts = false
					}
				}
			}
			return orders
		}
		orders := run(false)
		if diff := gocmp.Diff(orders, run(true)); diff != "" {
			t.Fatalf("restarts make a difference:\n%s", diff)
		}

		about := map[string][]Order{}
		ids := map[string]bool{}
		for _, o := range orders {
			key, _, _ := strings.Cut(o.Alert.ID, "@")
			about[key] = append(about[key], o)
			if ids[o.ID] {
				t.Fatalf("%s comes twice", o.ID)
			}
			ids[o.ID] = true
		}
		for _, h := range all {
			list := about[h.name]
			if len(h.verdicts) == 0 || max(h.start+floor, h.verdicts[0]) > h.end {
				if len(list) > 0 {
					t.Fatalf("%+v: %+v", h, list)
				}
				continue
			}
			n := len(list)
			if n < 2 || list[n-1].Status != Resolved || !list[n-1].Alert.EndsAt.Equal(at(h.end)) {
				t.Fatalf("%+v: %+v", h, list)
			}
			for i, o := range list[:n-1] {
				if o.Status != Firing || o.Repeat != i || !o.Alert.StartsAt.Equal(at(h.start)) || !o.Alert.EndsAt.IsZero() {
					t.Fatalf("%+v: %d: %+v", h, i, o)
				}
			}
			most := min(h.errors, 1) // what it becomes critical by
			if repeat > 0 {
				most += int((h.end - max(h.start+floor, h.verdicts[0])) / repeat)
			}
			if n-2 > most {
				t.Fatalf("%+v: %d repeats, at most %d are due", h, n-2, most)
			}
		}
	})
}

// TestEpisodesLost is what has to hold when events are lost at any time, and the guard is asked then: an episode that
// it does not report is closed, one that stands with a verdict is one alert, and in the end nothing stands.
func TestEpisodesLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := NewTracker(plain(0, 0), time.Minute, nil, nil)
		episode, verdict := 0, false // 0: in none
		fired, resolved := map[int]int{}, map[int]int{}
		take := func() {
			for _, o := range tr.Step().Orders {
				var n int
				if _, err := fmt.Sscanf(o.Alert.ID, "1-%d@", &n); err != nil {
					t.Fatal(err)
				}
				if o.Status == Resolved {
					resolved[n]++
				} else if o.Repeat == 0 {
					fired[n]++
				}
			}
		}
		compare := func(now time.Duration) {
			target := control.Target{PID: 42, Name: "ftp"}
			if episode > 0 {
				target.Episode, target.State = fmt.Sprintf("1-%d", episode), control.StateLate
			}
			if verdict {
				target.Verdict = "hung"
			}
			tr.Reconcile(at(now), control.Status{Mode: control.ModeActing}, []control.Target{target})
			take()
			if stands := len(tr.Standing()) == 1; stands != verdict {
				t.Fatalf("episode %d with a verdict (%v), an alert stands: %v", episode, verdict, stands)
			}
		}
		next := 0
		for i := range 40 {
			now := time.Duration(i) * time.Minute
			var e control.Event
			switch {
			case episode == 0:
				next++
				episode, verdict = next, false
				e = event(now, "late", fmt.Sprintf("1-%d", episode))
			case rapid.Bool().Draw(t, "ends"):
				e = event(now, rapid.SampledFrom([]string{"recovered", "killed", "exited", "released", "unregistered"}).Draw(t, "end"), fmt.Sprintf("1-%d", episode))
				episode, verdict = 0, false
			default:
				e = event(now, rapid.SampledFrom(graveEvents).Draw(t, "what"), fmt.Sprintf("1-%d", episode))
				verdict = true
			}
			if rapid.IntRange(0, 2).Draw(t, "lost") > 0 {
				tr.Event(e)
				take()
			} else {
				compare(now)
			}
		}
		episode, verdict = 0, false
		compare(time.Hour)
		for n := range next + 1 {
			if fired[n] > 1 || resolved[n] != fired[n] {
				t.Fatalf("episode %d: told %d times that it stands, %d times that it is over", n, fired[n], resolved[n])
			}
		}
	})
}
