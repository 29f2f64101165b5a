package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/doctor"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// handler answers the control socket. What it needs of the loop's state it asks
// the loop for.
type handler struct{ d *Daemon }

// denials bounds the reports of orders that were refused: anybody can give them.
type denials struct {
	mu   sync.Mutex
	pace pace
	left int // out, since one was said
}

func (h handler) Denied(c control.Caller, order, takes string) {
	d := &h.d.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pace.wait(time.Now()) > 0 {
		d.left++
		return
	}
	by, more := who(c), ""
	if d.left > 0 {
		more = fmt.Sprintf(" (%d such orders before this one were left out)", d.left)
		d.left = 0
	}
	h.d.mail.leave(func() {
		h.d.say(evDenied, guard.LevelWarning, by, fmt.Sprintf("%s ordered %s, and may not: %s%s", by, order, takes, more))
	})
}

// states translates a target's state to the one that the socket knows.
var states = map[string]control.TargetState{
	"watched": control.StateUnverified, "rereading": control.StateLate, "late": control.StateLate, "reported": control.StateLate,
	"held": control.StateHeld, "braked": control.StateHeld, "ladder": control.StateLadder, "unkillable": control.StateLadder,
	"wiped": control.StateEnded, "ended": control.StateEnded,
}

func (h handler) Status(ctx context.Context, _ control.Caller) (control.Status, error) {
	var s control.Status
	err := h.d.inLoop(ctx, func() { s = h.d.status() })
	return s, err
}

func (h handler) List(ctx context.Context, c control.Caller) ([]control.Target, error) {
	var out []control.Target
	err := h.d.inLoop(ctx, func() {
		if c.CanSeeAll {
			out = h.d.targets(h.d.guard.Views())
		} else {
			out = h.d.targets(h.d.guard.ViewsOf(c.UID))
		}
	})
	return out, err
}

func (h handler) Check(ctx context.Context, _ control.Caller) ([]control.Finding, error) {
	o := doctor.Options{Ignore: []int32{int32(os.Getpid())}}
	var known []control.Finding
	err := h.d.inLoop(ctx, func() {
		c := h.d.cfg.CPActive
		o.Key, o.SemKey, o.Records = c.Key, c.SemKey, c.Records
		known = h.d.findings()
	})
	if err != nil {
		return nil, err
	}
	found, err := doctor.Examine(ctx, o)
	if err != nil {
		return nil, err
	}
	return doctor.Merge(found, known), nil
}

func (h handler) Reload(ctx context.Context, c control.Caller) (control.ReloadResult, error) {
	return h.d.reload(ctx, who(c))
}

func (h handler) Hold(ctx context.Context, c control.Caller, r control.HoldRequest) (control.Hold, error) {
	o := guard.HoldOrder{PID: r.PID, Name: r.Name, All: r.All, For: time.Duration(r.ForUsec) * time.Microsecond, Reason: reasonOf(r.Reason), By: who(c)}
	var v guard.HoldView
	err := h.order(ctx, func() (err error) {
		v, err = h.d.guard.Hold(o)
		return err
	})
	return holdOf(v), err
}

func (h handler) Release(ctx context.Context, c control.Caller, s control.Selector) (released int, err error) {
	by := who(c)
	err = h.order(ctx, func() (err error) {
		released, err = h.d.guard.Unhold(guard.Selector{PID: s.PID, Name: s.Name, All: s.All}, by)
		return err
	})
	return released, err
}

func (h handler) Brake(ctx context.Context, c control.Caller, order control.BrakeOrder) (targets int, err error) {
	by := who(c)
	err = h.order(ctx, func() error {
		targets = h.d.guard.OrderBrake(order == control.BrakeGo, by)
		switch {
		case targets == 0: // who gives an order is told in any case
			h.d.say(guard.EvReleased, guard.LevelInfo, "order", fmt.Sprintf("%s ordered the brake to %s: it holds nobody", by, order))
		case order == control.BrakeGo: // of the others each hold is reported
			h.d.say(guard.EvReleased, guard.LevelWarning, "order", fmt.Sprintf("%s ordered: the brake lets go of all %d that it holds", by, targets))
		}
		return nil
	})
	return targets, err
}

func (h handler) Recover(ctx context.Context, c control.Caller, name string) (r control.Recovered, err error) {
	by := who(c)
	err = h.order(ctx, func() (err error) {
		for _, v := range h.d.guard.Recoveries() {
			if v.Next > 0 && (config.Glob(name, v.Name) || config.Glob(name, v.Unit)) {
				r.Down++
			}
		}
		r.Names, err = h.d.guard.Recover(name, by)
		return err
	})
	return r, err
}

func (h handler) Advise(ctx context.Context, _ control.Caller) ([]control.Advice, error) {
	var list []guard.Advice
	if err := h.d.inLoop(ctx, func() { list = h.d.guard.Advice() }); err != nil {
		return nil, err
	}
	out := make([]control.Advice, len(list))
	for i, a := range list {
		out[i] = control.Advice{Name: a.Name, Targets: a.Targets, Beats: int64(a.Beats), P50Usec: a.P50.Microseconds(), P99Usec: a.P99.Microseconds(),
			P999Usec: a.P999.Microseconds(), MaxUsec: a.Max.Microseconds(), TimeoutUsec: a.Timeout.Microseconds(), WantsUsec: a.Wants.Microseconds(),
			Verdict: a.Verdict}
	}
	return out, nil
}

func (h handler) Diff(ctx context.Context, _ control.Caller, r control.DiffRequest) (control.DiffResult, error) {
	return h.d.diff(ctx, r.File, r.Text)
}

// order has the loop carry out an order; what follows from it is decided in the
// same turn.
func (h handler) order(ctx context.Context, do func() error) error {
	var refused error
	if err := h.d.inLoop(ctx, func() { refused = do() }); err != nil {
		return err
	}
	var wrong *guard.OrderError
	if errors.As(refused, &wrong) && wrong.NoTarget {
		return fmt.Errorf("%w: %w", control.ErrNoTarget, refused)
	}
	return refused
}

// who names the one that gives an order, for the journal: "uid 1000 (alice, pid
// 42)". A process of another pid namespace has no pid here.
func who(c control.Caller) string {
	var known []string
	if u, err := user.LookupId(strconv.FormatUint(uint64(c.UID), 10)); err == nil {
		known = append(known, oneLine(u.Username))
	}
	if c.PID != 0 {
		known = append(known, fmt.Sprintf("pid %d", c.PID))
	}
	text := fmt.Sprintf("uid %d", c.UID)
	if len(known) > 0 {
		text += " (" + strings.Join(known, ", ") + ")"
	}
	return text
}

// reasonOf is what is kept of the reason that a caller gives.
func reasonOf(text string) string { return oneLine(strings.TrimSpace(text)) }

// oneLine makes what others wrote fit for log and terminal: what does not print
// is escaped, and what is beyond control.MaxText bytes is cut off.
func oneLine(text string) string {
	var out []byte
	for _, r := range text {
		n := len(out)
		if unicode.IsPrint(r) {
			out = utf8.AppendRune(out, r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			out = append(out, quoted[1:len(quoted)-1]...)
		}
		if len(out) > control.MaxText {
			return string(out[:n])
		}
	}
	return string(out)
}

func holdOf(v guard.HoldView) control.Hold {
	return control.Hold{PID: v.PID, Name: v.Name, All: v.All, LeftUsec: v.Left.Microseconds(), Reason: v.Reason, By: v.By, Targets: v.Targets}
}

// status is the daemon as a whole, on the loop.
func (d *Daemon) status() control.Status {
	n, count, brake := d.guard.Tally(), d.guard.Count(), d.guard.Brake()
	acts, why := d.guard.Acts()
	s := control.Status{
		Version: d.opts.Version, PID: int32(os.Getpid()), SinceUsec: (process.Now() - d.begun).Microseconds(),
		Mode: control.ModeActing, ModeReason: why, IntervalUsec: d.cfg.Interval.Microseconds(),
		ConfigFiles: d.sources.files, ConfigFaults: d.sources.faults,
		Targets: control.Targets{Total: n.Targets, Guarded: n.Guarded, Forming: n.Forming, Late: n.Late, Held: n.Held, Ladders: n.Ladders, Unverified: n.Unverified},
		Counters: control.Counters{Condemned: int64(count.Condemned), Signalled: int64(count.Signalled), Killed: int64(count.Killed),
			Recovered: int64(count.Recovered), Cleared: int64(count.Cleared), Unkillable: int64(count.Unkillable),
			Gaps: int64(count.Gaps), Exits: int64(count.Exits), DroppedLogRecords: int64(d.sinks.dropped()),
			Would: int64(count.Would), Waited: int64(count.Waited)},
		Brake:    control.Brake{On: brake.On, Waiting: brake.Waiting, SinceUsec: brake.Since.Microseconds()},
		Scan:     control.Scan{Count: d.scan.count, LastUsec: d.scan.last.Microseconds(), MaxUsec: d.scan.max.Microseconds()},
		BootID:   d.saved.boot,
		Registry: control.Registry{Path: d.saved.path, Bytes: int64(len(d.saved.buf)), Error: d.saved.error},
	}
	if !acts {
		s.Mode = control.ModeObserving
	}
	if d.sources.rejected > 0 {
		s.RejectedUsec = max((process.Now() - d.sources.rejected).Microseconds(), 1)
	}
	for _, v := range d.guard.Holds() {
		s.Holds = append(s.Holds, holdOf(v))
	}
	for _, v := range d.guard.Recoveries() {
		s.Recoveries = append(s.Recoveries, control.Recovery{Name: v.Name, Unit: v.Unit, GivenUp: v.GivenUp, Starts: v.Starts, Attempts: v.Attempts,
			NextUsec: v.Next.Microseconds()})
	}
	for _, v := range d.guard.Throttled() {
		s.Throttled = append(s.Throttled, control.Throttle{Unit: v.Unit, Has: v.Has, Had: v.Had})
	}
	for _, f := range d.features {
		s.Features = append(s.Features, control.Feature{Name: f.Name, Since: f.Since, Error: f.Err})
	}
	all := d.guard.Census()
	s.Targets.Refused, s.Targets.Foreign, s.Targets.Limited = all.Refused, all.Foreign, all.Limited
	for _, a := range d.tables.list {
		s.Tables = append(s.Tables, control.Table{ID: a.seg.ID(), Key: int64(d.cfg.CPActive.Key), Size: int64(a.seg.Len()) * 72,
			Records: a.seg.Len(), Used: all.Used[a.id], Live: all.Live[a.id], Removed: a.removed, State: control.TableAttached})
	}
	if d.tables.current == nil && d.cfg.CPActive.Enabled {
		state := control.TableMissing
		if d.tables.refused {
			state = control.TableRefused
		}
		s.Tables = append(s.Tables, control.Table{ID: -1, Key: int64(d.cfg.CPActive.Key), State: state, Problem: d.tables.problem})
	}
	return s
}

// targets are views in the words of the socket, on the loop.
func (d *Daemon) targets(views []guard.View) []control.Target {
	out := make([]control.Target, 0, len(views))
	for _, v := range views {
		t := control.Target{
			Table: int(v.Table), Slot: int(v.Slot), PID: v.PID, Name: v.Name, Unit: v.Unit, UID: v.UID,
			TimeoutUsec: v.Timeout.Microseconds(), SilenceUsec: v.Silence.Microseconds(), DeadlineUsec: v.Deadline.Microseconds(),
			Verdict: v.Verdict, Reason: v.Reason, Rule: v.Rule, State: control.TargetState(v.State), Protected: v.Shield, Hold: v.Hold,
			Recovery: v.Recovery, Episode: v.Episode, Limits: v.Limits,
		}
		if s, ok := states[v.State]; ok {
			t.State = s
		}
		for _, s := range v.Slots {
			t.Slots = append(t.Slots, int(s))
		}
		if h := d.held[v.ID]; h != nil {
			t.RegisteredUsec = (process.Now() - h.seen).Microseconds()
		}
		out = append(out, t)
	}
	return out
}

// findings are what only the daemon knows: it has been looking for longer.
func (d *Daemon) findings() []control.Finding {
	var out []control.Finding
	for _, v := range d.guard.Views() {
		f := control.Finding{ID: v.State, Severity: control.SeverityWarning, PIDs: []int32{v.PID}}
		for _, s := range v.Slots {
			f.Slots = append(f.Slots, int(s))
		}
		f.Subject = fmt.Sprintf("pid %d", v.PID)
		if v.Name != "" {
			f.Subject += " (" + v.Name + ")"
		}
		switch v.State {
		case "foreign":
			f.Message = "its heartbeat moves under a pid that is nobody here: a process of another pid namespace, or children of a dead parent"
			f.Advice = "start it in the pid namespace of the guard, or let the children register for themselves"
		case "unguarded":
			f.Message = "it lives and has the table mapped, but has lost its record"
			f.Advice = "restart that program, and look for what wipes records (an old guard, a forked child that ended)"
		default:
			continue
		}
		out = append(out, f)
	}
	if pid, comm, period := d.guard.OldGuard(); period > 0 {
		out = append(out, control.Finding{ID: "old-guard", Severity: control.SeverityError, Subject: "old guard", PIDs: []int32{pid},
			Message: fmt.Sprintf("pid %d (%s) and others before it attach the table every %.0fs without registering", pid, comm, period.Seconds()),
			Advice:  "stop it: take its line out of the start script and end its procctl"})
	}
	return out
}
