package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/systemd"
	"github.com/checkprocd/checkprocd/pkg/watch"
)

const (
	// heldLook is how often it is looked whether a change can be put in force that waits.
	heldLook = 2 * time.Second
	// shieldLook is the same where only protection keeps it from that, which lasts.
	shieldLook = 10 * time.Second
	// retryMin and retryMax bound the wait between two tries while systemd or the bus
	// does not answer, retryFor all of them together.
	retryMin = 2 * time.Second
	retryMax = time.Minute
	retryFor = 30 * time.Minute
	// lookNow has the files looked at, and the change told again.
	lookNow = time.Nanosecond
)

// carrying is a change on its way to the units of a rule. It belongs to the goroutine of
// that rule.
//
//	change ─▶ plan ─▶ check ─▶ look ─▶ plan ─▶ apply, unit by unit ─▶ look ─▶ in force
//
// After each look it is told what the files hold. Where they were written meanwhile all
// begins anew: what no check has accepted is not applied, and what a unit has read while
// they were written is not known.
type carrying struct {
	w    *watches
	key  string
	spec config.Watch

	change   watch.Change
	files    string              // of it, as far as they are known; else all of the rule
	said     string              // about it, last
	repeated bool                // it began anew because the files were written with the same content
	verdict  *verdict            // of the check; nil: none yet
	checking attempt             // to have it checked
	rolled   []string            // units that took what the files hold
	rolledAt time.Duration       // when the last of these did, CLOCK_MONOTONIC
	failed   string              // how one of these failed: no other one takes it
	units    map[string]*attempt // to have it applied
}

// attempt is how far something has come that is asked of systemd.
type attempt struct {
	trouble string        // why it is not done yet, the last that was said
	since   time.Duration // that there is no answer, CLOCK_MONOTONIC
	tries   int           // without an answer
	next    time.Duration // it is not asked before
	asked   time.Duration // when the unit's start was asked for; 0: it was not, or has an answer
	over    bool          // it does not take what the files hold
	took    bool          // it has, and nobody has looked at the files since
	torn    bool          // the files were written while it took what they held before
}

// changed carries a change as far as that can be done now.
func (k *carrying) changed(ctx context.Context, c watch.Change) watch.Answer {
	if !k.looked(c) {
		return watch.Answer{Again: k.spec.Settle}
	}
	k.w.takeOver()
	var p plan
	err := k.w.d.inLoop(ctx, func() {
		if ctx.Err() == nil {
			p = k.plan()
			k.announce(&p)
		}
	})
	switch {
	case err != nil || ctx.Err() != nil: // another configuration is in force, or the daemon ends
		return watch.Answer{}
	case len(p.todo) == 0 && len(p.waits) > 0:
		return watch.Answer{Again: p.look()}
	case len(p.todo) == 0:
		return watch.Answer{InForce: p.over == 0}
	case k.verdict == nil && len(k.spec.Check) > 0:
		return k.judge(ctx, p.todo)
	case k.verdict != nil && k.verdict.outcome != "":
		k.refuse(p.todo)
		return watch.Answer{}
	}
	return k.put(ctx, &p)
}

// judge has the check run.
func (k *carrying) judge(ctx context.Context, units []string) watch.Answer {
	v, err := k.w.check(ctx, k.spec, units)
	if ctx.Err() != nil {
		return watch.Answer{}
	}
	if err != nil {
		wait := k.later(&k.checking, units[0], fmt.Errorf("its check could not be run: %w", err))
		if k.checking.over {
			return watch.Answer{}
		}
		return watch.Answer{Again: wait}
	}
	k.verdict, k.checking = &v, attempt{}
	return watch.Answer{Again: lookNow}
}

// put has those units take the change that can, one after the other: what breaks one of
// them shall not break them all.
func (k *carrying) put(ctx context.Context, p *plan) watch.Answer {
	soonest := watch.Never
	if len(p.waits) > 0 {
		soonest = p.look()
	}
	for _, unit := range p.todo {
		a := k.attempt(unit)
		if process.Now() >= a.next {
			if err := k.stayed(ctx); err != nil {
				return watch.Answer{}
			}
			if k.failed != "" {
				k.spare(unit, a)
				soonest = min(soonest, lookNow)
				continue
			}
			wait, err := k.apply(ctx, unit, p.of[unit], a)
			if ctx.Err() != nil {
				return watch.Answer{}
			}
			if err != nil {
				wait = k.later(a, unit, err)
			} else {
				wait, a.tries = min(wait, heldLook), 0 // the unit may be stopped meanwhile, or let go
			}
			a.next = process.Now() + wait
		}
		soonest = min(soonest, max(a.next-process.Now(), lookNow))
	}
	return watch.Answer{Again: soonest}
}

// stayed waits until the unit that took the change last has been up with it for a while,
// and looks whether one of those that have it has failed with it: by itself, and not so
// late that something else is the cause. Its error is that of ctx.
func (k *carrying) stayed(ctx context.Context) error {
	if len(k.rolled) == 0 || k.failed != "" {
		return nil
	}
	select {
	case <-time.After(k.w.d.restorer.settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	last, until := k.rolled[len(k.rolled)-1], k.rolledAt+max(k.w.d.restorer.settle, k.spec.Blame)
	if now, err := k.w.d.restorer.units.State(ctx, last); err == nil && now.Crashed() && now.Fell <= until {
		k.failed = fmt.Sprintf("%s failed with it: %s", last, now.End())
	}
	return k.w.d.inLoop(ctx, func() {
		for _, unit := range k.rolled {
			if how := k.w.blamed[unit]; how != "" && k.failed == "" {
				k.failed = fmt.Sprintf("%s failed with it: %s", unit, how)
			}
		}
	})
}

// spare leaves a unit with what it has, because another one did not stand the change.
func (k *carrying) spare(unit string, a *attempt) {
	a.over = true
	k.tell(evConfigDelayed, guard.LevelWarning, unit, k.failed, fmt.Sprintf("%s does not take its changed configuration (%s): %s; it is tried again when it changes, or its rule, or when the guard is started anew", unit, k.files, k.failed))
}

// looked takes in what the files hold, and forgets what became of a content that they held
// before. It is false where they hold the same but were written since the check began, or
// since units took it: that has to settle, and to be checked anew. Once: a check, or a
// start, that writes them or gives them an owner does so each time.
func (k *carrying) looked(c watch.Change) bool {
	relied := k.verdict != nil // on what the files held
	for _, a := range k.units {
		relied = relied || a.took
	}
	same, written := c.Content == k.change.Content, c.Written != k.change.Written
	k.change = c
	if files := c.Files(); len(files) > 0 { // none: it is what was in force before some units took another
		k.files = oneLine(strings.Join(files, ", "))
	}
	if same && !(written && relied && !k.repeated) {
		for _, a := range k.units {
			if a.took {
				*a = attempt{}
			}
		}
		return true
	}
	k.repeated, k.verdict, k.rolled, k.failed = same, nil, nil, ""
	for unit, a := range k.units {
		torn := a.torn || a.took
		if a.took {
			k.w.watched.took(k.key, unit, unsure)
			k.w.save()
		}
		if *a = (attempt{torn: torn}); !torn {
			delete(k.units, unit)
		}
	}
	if !same {
		k.said, k.checking = "", attempt{}
	}
	return !same
}

func (k *carrying) attempt(unit string) *attempt {
	a := k.units[unit]
	if a == nil {
		a = &attempt{}
		if k.units == nil {
			k.units = map[string]*attempt{}
		}
		k.units[unit] = a
	}
	return a
}

// plan is what can be done about a change now.
type plan struct {
	todo  []string         // units that can take it
	of    map[string]lived // a process of each
	waits []string         // why others cannot
	safe  int              // of these, because they are protected
	over  int              // units that do not take it
	done  int              // units that have it
	back  bool             // it was in force before
}

// lived is the name and the user of a process that a unit had: what rule the unit has
// depends on them.
type lived struct{ name, user string }

// look is when it is to be looked whether those that wait can take it.
func (p *plan) look() time.Duration {
	if p.safe == len(p.waits) {
		return shieldLook
	}
	return heldLook
}

// plan is made on the loop.
func (k *carrying) plan() plan {
	w := k.w
	views := w.d.guard.Views()
	w.learnFrom(views)
	if acts, why := w.d.guard.Acts(); !acts {
		return plan{waits: []string{"not acting: " + why}}
	}
	inForce := watch.SumOf(w.watched.known(k.key))
	p := plan{of: map[string]lived{}, back: k.change.Content == inForce}
	shielded, held := map[string]bool{}, map[string]string{}
	for _, v := range views {
		if v.Unit != "" && v.Shield != "" {
			shielded[v.Unit] = true // whatever is said about the others in it
		}
		if v.Unit != "" && v.Hold != "" {
			held[v.Unit] = fmt.Sprintf("%s (pid %d) is held by an order", v.Unit, v.PID)
		}
	}
	holds := w.d.guard.Holds()
	for unit, u := range w.watched.units(k.key) {
		isShielded := shielded[unit] || w.d.cfg.Protected("", unit) != ""
		why := held[unit]
		for _, name := range u.Names { // also of those that have ended
			isShielded = isShielded || w.d.cfg.Protected(name, unit) != ""
			for _, h := range holds {
				if why == "" && (h.All || h.Name != "" && config.Glob(h.Name, name)) {
					why = fmt.Sprintf("%s (%s) is held by an order", unit, name)
				}
			}
		}
		a := k.units[unit]
		switch {
		case u.has(k.change.Content, inForce):
			p.done++
		case a != nil && a.over:
			p.over++
		case isShielded:
			p.safe++
			p.waits = append(p.waits, unit+" is protected")
		case why != "":
			p.waits = append(p.waits, why)
		default:
			p.todo = append(p.todo, unit)
			p.of[unit] = lived{u.Names[len(u.Names)-1], u.User}
		}
	}
	slices.Sort(p.todo)
	slices.Sort(p.waits)
	return p
}

// announce says what becomes of a change, where that is news, on the loop.
func (k *carrying) announce(p *plan) {
	what := ""
	switch {
	case len(p.todo) > 0:
		what = k.spec.Action.String() + " of " + strings.Join(p.todo, ", ")
		if len(k.spec.Check) > 0 {
			what = "checking it, then " + what
		}
		if len(p.waits) > 0 {
			what += "; waiting: " + strings.Join(p.waits, ", ")
		}
	case len(p.waits) > 0:
		what = "waiting: " + strings.Join(p.waits, ", ")
	case k.said != "" || p.over > 0: // nothing is left to do
	case p.back:
		what = "back to what is in force, nothing is to be done"
	case p.done == 0:
		what = "no guarded process in a service has had that rule so far, nothing is to be done"
	}
	if what == "" || what == k.said || k.verdict != nil {
		return
	}
	k.said = what
	unit := ""
	if len(p.todo) == 1 {
		unit = p.todo[0]
	}
	k.w.d.tellUnit(evConfigChanged, guard.LevelInfo, unit, k.files, fmt.Sprintf("configuration changed (rule[%d]): %s: %s", k.w.rules[k.key], k.files, what))
}

// refuse says that the check has refused a change.
func (k *carrying) refuse(units []string) {
	for _, unit := range units {
		state := "is not put in force"
		if a := k.units[unit]; a != nil && a.torn {
			state = "is in force already, perhaps: it was written while the unit took what was there before, and may have been read then"
		}
		k.tell(evConfigCheckFailed, guard.LevelError, unit, k.verdict.outcome, fmt.Sprintf("%s: its changed configuration (%s) %s: %s", unit, k.files, state, k.verdict.says))
	}
}

// later says why a change could not be carried further, each reason once, and how long to
// wait. That there is no answer is no verdict, of the check nor of the unit, and neither
// is that systemd does not do what it is asked for.
func (k *carrying) later(a *attempt, unit string, err error) time.Duration {
	text, next := err.Error(), fmt.Sprintf("trying again each %s", retryMax)
	wait := retryMax
	switch {
	case errors.Is(err, systemd.ErrNotApplicable):
		text = `the unit cannot reload, it has no ExecReload=; action = "restart" in its rule would have it restarted`
	case systemd.Unanswered(err):
		if a.tries == 0 {
			a.since = process.Now()
		}
		wait = min(retryMin<<min(a.tries, 10), retryMax)
		a.tries++
		a.over = process.Now()-a.since >= retryFor
		next = fmt.Sprintf("trying again, for %s at most", retryFor)
	}
	if a.over {
		next = "giving up; it is tried again when it changes, or its rule, or when the guard is started anew"
	}
	if text != a.trouble || a.over {
		a.trouble = text
		k.tell(evConfigDelayed, guard.LevelWarning, unit, text, fmt.Sprintf("%s: its changed configuration (%s) is not in force yet: %s; %s", unit, k.files, text, next))
	}
	return wait
}

func (k *carrying) tell(name guard.EventName, level guard.Level, unit, reason, message string) {
	k.w.d.mail.leave(func() { k.w.d.tellUnit(name, level, unit, reason, message) })
}

// tellUnit reports an event about a unit.
func (d *Daemon) tellUnit(name guard.EventName, level guard.Level, unit, reason, message string) {
	d.report(&guard.Event{Name: name, Level: level, Table: -1, Slot: -1, Unit: unit, Reason: reason, Message: message})
}
