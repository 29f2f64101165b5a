package guard

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const (
	// maxBudgets bounds for how many units and names starts are counted.
	maxBudgets = 10_000
	// maxStarts is how many starts of a budget are remembered: a rule may allow
	// as many in a window.
	maxStarts = 100
	maxStreak = 1 << 30 // of starts
)

// budget counts the starts of a unit, or of the commands for one name, whatever
// ended it. A program that takes another name each time has the same one; processes
// with one name in several units have one for each: they fall together, and come back
// together.
type budget struct {
	name, unit string          // the name is the one that was started last, as
	user       string          // this one: a rule may be for some users only
	starts     []time.Duration // the latest last
	streak     int             // starts since all was well
	last       time.Duration   // the latest end or start
	given      bool            // given up
	until      time.Duration   // and until when
}

// RecoveryView is what is to be seen of a name that came, or is to come, back.
type RecoveryView struct {
	Name, Unit string
	GivenUp    bool
	Starts     int           // within the window
	Attempts   int           // that it may have there
	Next       time.Duration // until the next start, or until it is tried anew; 0: nothing waits
}

// budgetKey is whom a budget is for: a unit, or the name of what commands start.
type budgetKey struct{ unit, name string }

// keyOf is the budget for a name, by the policy for it: a command has a new unit each
// time.
func keyOf(p *config.Policy, name, unit string) budgetKey {
	if unit != "" && p.Restart != config.RestartCommand {
		return budgetKey{unit: unit}
	}
	return budgetKey{name: name}
}

// key is the budget of a recovery. What others start, in one unit or in none, has one for
// each name.
func (r *recovery) key(p *config.Policy) budgetKey {
	if r.waits {
		return budgetKey{name: r.name}
	}
	return keyOf(p, r.name, r.unit)
}

func (b *budget) key() budgetKey {
	if b.unit != "" {
		return budgetKey{unit: b.unit}
	}
	return budgetKey{name: b.name}
}

// mayBe says whether a recovery may be one of a budget, before its rule is looked up.
func (b *budget) mayBe(r *recovery) bool {
	return b.unit != "" && b.unit == r.unit || b.unit == "" && b.name == r.name
}

// budgetOf finds the budget of a recovery, or begins one.
func (g *Guard) budgetOf(r *recovery, p *config.Policy) *budget {
	key := r.key(p)
	i, ok := g.budgetAt[key]
	if !ok {
		i = int32(len(g.budgets))
		g.budgets = append(g.budgets, budget{name: r.name, unit: key.unit, user: r.user, last: g.clock.attn})
		g.budgetAt[key] = i
	}
	return &g.budgets[i]
}

// isOf says whether a recovery is of a budget, by the rules of now.
func (g *Guard) isOf(r *recovery, b *budget) bool {
	p := g.policyOf(r)
	return r.key(&p) == b.key()
}

// pruneBudgets forgets those of names that have been well for long enough. In one
// step nothing changes about that but by a start, which counts from then.
func (g *Guard) pruneBudgets() {
	if g.prunedAt == g.clock.attn {
		return
	}
	g.prunedAt = g.clock.attn
	before := len(g.budgets)
	g.budgets = slices.DeleteFunc(g.budgets, func(b budget) bool {
		return !b.given && g.clock.attn-b.last >= g.cfg.Recovery.Stable &&
			!slices.ContainsFunc(g.pending, func(r recovery) bool { return b.mayBe(&r) })
	})
	if len(g.budgets) < before {
		g.indexBudgets()
	}
}

func (g *Guard) indexBudgets() {
	clear(g.budgetAt)
	for i := range g.budgets {
		g.budgetAt[g.budgets[i].key()] = int32(i)
	}
}

// within counts the starts of a window that ends at a time.
func (b *budget) within(window, end time.Duration) int {
	n := 0
	for _, at := range b.starts {
		if end-at < window {
			n++
		}
	}
	return n
}

// left says whether a budget has a start left at a time.
func (b *budget) left(window time.Duration, attempts int, at time.Duration) bool {
	return !b.given && b.within(window, at) < attempts
}

// backoff is the wait before the next start. What fell together would come
// together: each wait but the first is up to a tenth shorter, by name.
func (b *budget) backoff(c *config.Recovery, streak int) time.Duration {
	if streak == 0 {
		return c.Wait
	}
	most := max(c.Cap, c.Wait)
	d := c.Wait
	for range streak {
		if d = 2 * d; d >= most {
			d = most
			break
		}
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s %d", b.name, b.unit, streak)
	return max(d-d/10*time.Duration(h.Sum32()%1000)/1000, c.Wait)
}

// take takes a start for a recovery, if there is one left.
func (b *budget) take(r *recovery, window time.Duration, attempts int, now time.Duration) bool {
	if !b.left(window, attempts, now) {
		return false
	}
	b.add(r, now)
	return true
}

func (b *budget) add(r *recovery, now time.Duration) {
	b.starts = append(b.starts[max(0, len(b.starts)-maxStarts+1):], now)
	b.streak++
	b.name, b.user, b.last, r.start, r.taken = r.name, r.user, now, now, true
}

// refund gives a start back that was none. Where the first answer was lost, and it runs
// by now, it may have been one.
func (g *Guard) refund(r *recovery, p *config.Policy, runs bool) {
	b := g.budgetOf(r, p)
	if i := slices.Index(b.starts, r.start); r.taken && i >= 0 && !(r.lost && runs) {
		b.starts = slices.Delete(b.starts, i, i+1)
		b.streak--
	}
}

// unsettled says whether a start of a budget is under way: where it was none, it is
// given back. Of many processes of a unit that end together one is its main one.
func (g *Guard) unsettled(b *budget) bool {
	return slices.ContainsFunc(g.pending, func(r recovery) bool { return r.taken && b.mayBe(&r) && g.isOf(&r, b) })
}

// giveUp parks a recovery until its budget is renewed.
func (g *Guard) giveUp(r *recovery, b *budget, p *config.Policy) {
	r.parked, r.at = true, never
	if b.given {
		g.leftDown(r, fmt.Sprintf("it is given up for %s more", seconds(b.until-g.clock.attn)))
		return
	}
	g.spend(r, b, p)
}

// spend gives a budget up, and reports that once.
func (g *Guard) spend(r *recovery, b *budget, p *config.Policy) {
	if b.given {
		return
	}
	b.name, b.user, b.given, b.until = r.name, r.user, true, g.clock.attn+g.cfg.Recovery.GiveUp
	e := r.event(EvGaveUp, LevelError, "too many starts")
	e.Unit = b.unit // as in what is said when it begins anew
	e.Message = fmt.Sprintf("%s was started %d times within %s and does not stay up: giving up for %s; `checkprocctl recover` begins anew",
		r.what(), p.Attempts, seconds(p.Window), seconds(g.cfg.Recovery.GiveUp))
	g.emit(e)
}

// TakeStart takes a start from the budget of a unit that is to be started anew because
// of its configuration, and says how long to wait where there is none left. One that is
// down is started whatever its budget says: it has failed with the former one, perhaps,
// and has nothing to lose. That it is given up is over then. Name and user are those of a
// process that it had: what rule it has depends on them.
func (g *Guard) TakeStart(name, user, unit string, down bool) (wait time.Duration) {
	p := g.cfg.Policy(name, user, unit)
	g.pruneBudgets()
	if len(g.budgets) >= maxBudgets {
		return p.Window
	}
	r := recovery{name: name, user: user, unit: unit}
	b := g.budgetOf(&r, &p)
	if !down && b.within(p.Window, g.clock.attn) >= p.Attempts {
		return max(b.starts[max(0, len(b.starts)-p.Attempts)]+p.Window-g.clock.attn, time.Second)
	}
	if b.given {
		starts := b.starts
		g.told = append(g.told, g.renewAll("its configuration has changed", func(o *budget) bool { return o == b })...)
		b.starts = starts
	}
	b.add(&r, g.clock.attn)
	return 0
}

// renewAll begins the budgets anew that which says, and has all that wait for them go
// on at once.
func (g *Guard) renewAll(why string, which func(*budget) bool) []*Event {
	var events []*Event
	var waiting map[budgetKey][]*recovery
	for i := range g.budgets {
		b := &g.budgets[i]
		if !which(b) {
			continue
		}
		if waiting == nil {
			waiting = map[budgetKey][]*recovery{}
			for k := range g.pending {
				if r := &g.pending[k]; !r.under && r.next == 0 {
					p := g.policyOf(r)
					key := r.key(&p)
					waiting[key] = append(waiting[key], r)
				}
			}
		}
		events = append(events, g.renew(b, why, waiting[b.key()]))
	}
	return events
}

func (g *Guard) renew(b *budget, why string, waiting []*recovery) *Event {
	b.starts, b.streak, b.given, b.until, b.last = nil, 0, false, 0, g.clock.attn
	e := &Event{Name: EvRetrying, Level: LevelNotice, Process: b.name, Unit: b.unit, Slot: -1, Reason: why}
	for _, r := range waiting {
		r.parked, r.at = false, g.clock.attn
		e.PID = r.pid
	}
	what := b.name
	if what == "" {
		what = b.unit
	}
	e.Message = fmt.Sprintf("%s begins anew, %s: %d that ended are looked at now", what, why, len(waiting))
	return e
}

// Recover begins the budgets of all names, or units, that match a pattern anew, as if they had
// never been started, and says how many. The error is an *OrderError.
func (g *Guard) Recover(name, by string) (names int, err error) {
	if err := config.CheckGlob(name); name == "" || err != nil {
		return 0, &OrderError{Problem: fmt.Sprintf("the name %q is no pattern", name)}
	}
	g.pruneBudgets()
	events := g.renewAll("ordered by "+orSomebody(by), func(b *budget) bool { return config.Glob(name, b.name) || config.Glob(name, b.unit) })
	if len(events) == 0 {
		return 0, &OrderError{NoTarget: true, Problem: fmt.Sprintf("nothing with the name %s was started again or given up", name)}
	}
	g.told = append(g.told, events...)
	return len(events), nil
}

// unpark has those go on that wait for a budget that is not given up: by another
// configuration they have another one.
func (g *Guard) unpark() {
	for i := range g.pending {
		x := &g.pending[i]
		p := g.policyOf(x)
		if x.parked && !g.budgetOf(x, &p).given {
			x.parked, x.at = false, g.clock.attn
		}
	}
}

// Recoveries lists the names that were started again lately, or wait for that, or
// are given up.
func (g *Guard) Recoveries() []RecoveryView {
	g.pruneBudgets()
	type waits struct {
		policy config.Policy
		next   time.Duration
	}
	pending := map[budgetKey]waits{}
	for k := range g.pending {
		r := &g.pending[k]
		p := g.policyOf(r)
		key := r.key(&p)
		x := waits{p, pending[key].next}
		if next := max(r.at-g.clock.attn, r.held-g.clock.last, 1); r.at != never && r.next == 0 && !r.waits && (x.next == 0 || next < x.next) {
			x.next = next
		}
		pending[key] = x
	}
	var out []RecoveryView
	for i := range g.budgets {
		b := &g.budgets[i]
		v := RecoveryView{Name: b.name, Unit: b.unit, GivenUp: b.given}
		x, ok := pending[b.key()]
		p := x.policy
		if v.Next = x.next; !ok {
			p = g.cfg.Policy(b.name, b.user, b.unit)
		}
		v.Starts, v.Attempts = b.within(p.Window, g.clock.attn), p.Attempts
		if b.given {
			v.Next = max(b.until-g.clock.attn, 1)
		}
		if v.Starts > 0 || v.Next > 0 {
			out = append(out, v)
		}
	}
	return out
}

// givenUp counts the names that are given up.
func (g *Guard) givenUp() int {
	n := 0
	for i := range g.budgets {
		if g.budgets[i].given {
			n++
		}
	}
	return n
}

// recoveryOf says for the list how often a target was started again, "" for never.
func (g *Guard) recoveryOf(t *target) string {
	r := recovery{name: t.displayName(), unit: t.facts.Unit, waits: t.waits()}
	i, ok := g.budgetAt[r.key(&t.policy)]
	if !ok {
		return ""
	}
	b := &g.budgets[i]
	n := b.within(t.policy.Window, g.clock.attn)
	switch {
	case b.given:
		return fmt.Sprintf("given up for %s more", seconds(b.until-g.clock.attn))
	case n > 0:
		return fmt.Sprintf("%d of %d starts", n, t.policy.Attempts)
	}
	return ""
}

func (b *budget) save(w *writer) {
	w.str(b.name)
	w.str(b.unit)
	w.str(b.user)
	w.u32(uint32(len(b.starts)))
	for _, at := range b.starts {
		w.dur(at)
	}
	w.u32(uint32(b.streak))
	w.dur(b.last)
	w.flag(b.given)
	w.dur(b.until)
}
