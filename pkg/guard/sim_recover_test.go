package guard

import (
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// What must hold of starts: who is started, how often and when, and that who is to
// come back does.

// account is what the world counts of the starts of a unit, or of the commands for a
// name. A daemon that dies forgets what came after its last word to the registry.
type account struct {
	unit, name string
	called     string // the name that was started last, or given up
	starts     []taken
	streaks    []streak      // how many there were, from when on
	last       time.Duration // the latest start, or answer about one
	given      bool
	doubt      bool // how many starts there were
	givenAt    time.Duration
	until      time.Duration // attention time at which it begins anew at the latest
	renewed    time.Duration // when it did
}

// taken is a start that counts.
type taken struct {
	at   time.Duration
	id   TargetID
	lost bool // nobody heard what came of it
}

type streak struct {
	at time.Duration
	n  int
}

// question is a start that was asked for, and not answered yet.
type question struct {
	ask  uint64
	p    *proc
	id   TargetID
	name string   // of what is started
	unit string   // that follows
	look bool     // whether what was started is there
	only bool     // whether it were to be started
	of   *account // nil: of one of those after it
	then int      // which one
}

// owing is a process that is to come back, or whose followers are to be restarted.
type owing struct {
	p    *proc
	key  [2]string
	at   time.Duration // when that began
	due  time.Duration // attention time
	then int           // who is next

	waits bool // somebody else starts it again, and then those after it are to be restarted
}

// plain says whether a process has one name only, which nobody else had a hand in.
func plain(p *proc) bool {
	h := &p.past
	return bits.OnesCount8(h.names) == 1 && !h.fooled && h.stale == 0 && !h.heir && !h.tableLost
}

func nameOfPlain(p *proc) string {
	if i := bits.TrailingZeros8(p.past.names); i < len(simNames) {
		return simNames[i]
	}
	return ""
}

// barred says whether nothing may be done to a process with a name.
func (s *sim) barred(p *proc, name string) bool {
	c := s.cfg
	if slices.Contains(c.Protect.Names, name) || slices.Contains(c.Protect.Units, p.facts.Unit) {
		return true
	}
	for i := range c.Names {
		if c.Names[i].User == p.facts.User && !slices.Contains(c.Names[i].Allow, name) {
			return true
		}
	}
	return false
}

// elsewhere says whether somebody else starts a process again.
func elsewhere(p *proc, policy *config.Policy) bool {
	return p.facts.Parent == "procctl" || !isService(p.facts.Unit) && policy.Restart == config.RestartUnit
}

// keyOfRound is the account of the restarts of those after a process.
func keyOfRound(p *proc, policy *config.Policy) [2]string {
	if elsewhere(p, policy) {
		return [2]string{"", nameOfPlain(p)}
	}
	return keyFor(policy, p.facts.Unit, nameOfPlain(p))
}

func keyFor(p *config.Policy, unit, name string) [2]string {
	if p.Restart == config.RestartCommand || unit == "" {
		return [2]string{"", name}
	}
	return [2]string{unit, ""}
}

func (s *sim) account(key [2]string) *account {
	for _, a := range s.accounts {
		if a.unit == key[0] && a.name == key[1] {
			return a
		}
	}
	a := &account{unit: key[0], name: key[1]}
	s.accounts = append(s.accounts, a)
	return a
}

// streakOf counts the starts since all was well.
func (a *account) streakNow() int {
	if len(a.streaks) == 0 {
		return 0
	}
	return a.streaks[len(a.streaks)-1].n
}

// leastSince is the least that the streak was since a time.
func (a *account) leastSince(at time.Duration) int {
	least := a.streakNow()
	for i := len(a.streaks) - 1; i >= 0; i-- {
		least = min(least, a.streaks[i].n)
		if a.streaks[i].at < at {
			return least
		}
	}
	return 0
}

func (a *account) setStreak(now time.Duration, n int) {
	a.streaks = append(a.streaks, streak{now, max(n, 0)})
}

// rests begins an account anew that has not been touched for so long that all is well.
func (s *sim) rests(a *account) {
	if s.now-a.last >= s.stableLeast {
		a.starts = a.starts[:0]
		a.setStreak(s.now, 0)
		a.doubt = a.doubt || s.now-s.began-s.attn > ms // it was not so long for the guard
	}
}

// take counts a start.
func (s *sim) take(a *account, id TargetID, p *config.Policy) {
	s.rests(a)
	n := 0
	for _, t := range a.starts {
		if s.now-t.at < p.Window {
			n++
		}
	}
	if n >= p.Attempts {
		s.failf("budget", "start %d of %s%s within %v, of %d", n+1, a.unit, a.name, p.Window, p.Attempts)
	}
	a.starts = append(a.starts, taken{s.now, id, false})
	a.setStreak(s.now, a.streakNow()+1)
	a.last = s.now
}

// asksForStart checks that what ended may be started.
func (s *sim) asksForStart(d RestoreUnit) {
	p := s.procOf(d.Target)
	if d.PID == 0 {
		p = s.unitNobody(d.Unit)
	}
	if u := s.unit(d.Unit); u != nil {
		u.owed = 0
	}
	if p == nil || p.pid != d.PID {
		s.failf("start", "target %d, which nobody knows, is to be started", d.Target)
		return
	}
	h := &p.past
	policy := s.policyOf(d.Name)
	key := keyFor(policy, d.Unit, d.Name)
	a := s.account(key)
	switch {
	case p.alive:
		s.failf("start", "%d is to be started, and lives", p.pid)
	case !s.actsKnown:
		s.failf("not acting", "a start for %d", p.pid)
	case s.orderedName(d.Name) && s.g.Next() > s.now:
		s.failf("order", "%d (%s) is to be started, which an order holds", p.pid, d.Name)
	case h.heldUntil > s.now && !h.freed:
		s.failf("order", "%d is to be started, and was held until %v", p.pid, h.heldUntil-1000*sec)
	case p.facts.Parent == "procctl" || elsewhere(p, policy) && s.reloaded == 0 && d.PID != 0:
		s.failf("start", "%d is to be started, which somebody else does", p.pid)
	case policy.Restart == config.RestartNone:
		s.failf("start", "%d is to be started, whose rule says none", p.pid)
	case (d.Command != nil) != (policy.Restart == config.RestartCommand):
		s.failf("start", "%d is to be started, by the wrong way", p.pid)
	case slices.Contains(s.cfg.Protect.Names, d.Name) || slices.Contains(s.cfg.Protect.Units, d.Unit):
		s.failf("protected", "%d (%s, %s) is to be started", p.pid, d.Name, d.Unit)
	case plain(p) && s.reloaded < h.endedAt && s.barred(p, d.Name):
		s.failf("protected", "%d (%s of %s) is to be started", p.pid, d.Name, p.facts.User)
	case plain(p) && d.Name != nameOfPlain(p):
		s.failf("start", "%d is to be started as %s", p.pid, d.Name)
	case d.Command != nil && s.restarts == 0 && s.replaced(p):
		s.failf("start", "%d (%s) is to be started, which somebody else has done", p.pid, d.Name)
	case d.PID == 0:
		if a.given && !d.Look {
			s.failf("given up", "%s is to be started", d.Unit)
		}
	case d.Unit != p.facts.Unit || d.User != p.facts.User:
		s.failf("start", "%d is to be started in %s for %s", p.pid, d.Unit, d.User)
	case d.Crashed && plain(p) && (h.wiped || p.ending == EndedWell) && s.restarts == 0 && h.lostConsent == 0: // a new daemon does not know it
		s.failf("start", "%d is to be started, and ended well", p.pid)
	case d.Crashed && plain(p) && s.reloaded < h.endedAt && policy.Action == config.ActionReport:
		s.failf("report", "%d is to be started, whose rule says report", p.pid)
	case d.Crashed && d.Sure && h.really != EndedBadly:
		s.failf("start", "%d is to be started: who says that it crashed?", p.pid)
	case !d.Crashed && !h.laddered:
		s.failf("start", "%d is to be started, and had no ladder", p.pid)
	case h.settled && h.settledIn == s.restarts:
		s.failf("start", "%d is to be started again, which was settled", p.pid)
	case a.given && !d.Look:
		s.failf("given up", "%d is to be started, and %s%s is given up", p.pid, a.unit, a.name)
	}
	if !d.Look {
		lost := h.unheard
		s.paced2(p, a, lost)
		if !lost {
			s.take(a, d.Target, policy)
		}
		a.called = d.Name
	}
	s.questions = append(s.questions, question{ask: d.Ask, p: p, id: d.Target, name: d.Name, of: a, only: d.Look})
	s.owings = slices.DeleteFunc(s.owings, func(o owing) bool { return o.p == p })
	s.ladderBegan = true // the registry is written
}

// paced2 checks that a start is not asked for too early.
func (s *sim) paced2(p *proc, a *account, lost bool) {
	h := &p.past
	from := max(h.endedAt, h.failedAt)
	if lost || a.renewed >= from || s.reloaded >= from {
		return
	}
	c := &s.cfg.Recovery
	wait := c.Wait
	for range a.leastSince(from) {
		if h.unasked || s.now-a.last >= s.stableLeast { // that is no fault of the unit; all was well
			break
		}
		wait = min(2*wait, max(c.Cap, c.Wait))
	}
	if wait > c.Wait {
		wait = max(wait-wait/10, c.Wait)
	}
	if s.now-from < wait {
		s.failf("backoff", "%d is to be started %v after its end, start %d", p.pid, s.now-from, a.leastSince(from)+1)
	}
}

// heldAtEnd says whether a process was held when it ended, and would be by now. An order for a pid outlives it, for those
// who would restart its unit.
func (s *sim) heldAtEnd(p *proc) bool {
	return !p.alive && p.past.heldUntil > s.now && !p.past.freed
}

// heldIn says whether one who ended in a unit is held still.
func (s *sim) heldIn(unit string) bool {
	return slices.ContainsFunc(s.all, func(o *proc) bool { return o.facts.Unit == unit && s.heldAtEnd(o) })
}

// orderedName says whether an order holds all of a name.
func (s *sim) orderedName(name string) bool {
	return slices.ContainsFunc(s.orders, func(o order) bool { return o.All || o.p == nil && o.Name == name })
}

// answered sees what came of a start.
func (s *sim) answered(o RestoreDone) {
	i := slices.IndexFunc(s.questions, func(q question) bool { return q.ask == o.Ask })
	if i < 0 {
		return
	}
	q := s.questions[i]
	s.questions = slices.Delete(s.questions, i, i+1)
	h, a := &q.p.past, q.of
	if q.look {
		if o.Failed && !o.Unasked { // a failed start
			h.settled, h.then, h.failedAt, h.unasked = false, 0, s.now, false
		}
		return
	}
	if a == nil { // one of those after it
		if o.Unasked { // which is tried again
			q.then--
			h.then = min(h.then, q.then)
		}
		s.oweNext(q.p, q.then)
		if u := s.unit(q.unit); u != nil && u.bare && o.Started {
			u.owed = 0
		} else if u != nil && u.bare && o.Failed && !o.Unasked {
			u.owed = s.attn + s.longest()
		}
		return
	}
	a = s.account(keyFor(s.policyOf(q.name), q.p.facts.Unit, q.name)) // by the rules of now, which it was not taken from perhaps
	if a != q.of {
		s.rests(a)
	}
	var then []string
	if plain(q.p) {
		then = s.policyOf(nameOfPlain(q.p)).Then
	}
	refund := func(runs bool) {
		if q.only {
			return
		}
		if n := slices.IndexFunc(a.starts, func(t taken) bool { return t.id == q.id && !(t.lost && runs) && t.at == a.lastOf(q.id) }); n >= 0 {
			a.starts = slices.Delete(a.starts, n, n+1)
			a.setStreak(s.now, a.streakNow()-1)
		}
	}
	settle := func() { h.settled, h.settledIn = true, s.restarts }
	caused := o.Beside || slices.ContainsFunc(s.g.pending, func(r recovery) bool { return r.under && r.ask == o.Ask && r.caused })
	if at, is := s.followed[q.p.facts.Unit]; caused && !o.Beside && q.p.pid != 0 && (!is || h.fell > at+5*time.Minute) {
		s.failf("then", "the end of %d is taken for this guard's own doing", q.p.pid)
	}
	switch {
	case o.Started:
		a.last = s.now
		settle()
		if !caused {
			s.oweNext(q.p, 0)
		}
	case o.Up:
		switch {
		case len(then) == 0 || caused:
			settle()
			refund(true)
		case !q.only: // else no start is left, or it is looked at once more
			settle()
			s.oweNext(q.p, 0)
		}
	case o.Failed:
		if h.failedAt, h.unasked = s.now, o.Unasked; o.Unasked {
			refund(true)
		} else {
			a.last = s.now
		}
		// What was started had registered: that one comes back for itself.
		if !slices.ContainsFunc(s.all, func(p *proc) bool { return p.past.id > h.id && p.facts.Unit == q.p.facts.Unit && p.past.id > 0 }) || o.Unasked {
			s.owings = append(s.owings, owing{p: q.p, key: [2]string{a.unit, a.name}, at: s.now, due: s.attn + s.longest() + (s.now-h.endedAt)/2})
		}
	case o.Coming, o.Down:
		refund(true)
		s.owings = append(s.owings, owing{p: q.p, key: [2]string{a.unit, a.name}, at: s.now, due: s.attn + s.longest() + (s.now-h.endedAt)/2})
	default:
		refund(false)
		settle()
	}
	h.unheard = false
	for i := range q.of.starts {
		if q.of.starts[i].id == q.id {
			q.of.starts[i].lost = false
		}
	}
	s.putOff(func(o *owing) bool { return o.key == [2]string{a.unit, a.name} })
}

func (a *account) lastOf(id TargetID) time.Duration {
	for i := len(a.starts) - 1; i >= 0; i-- {
		if a.starts[i].id == id {
			return a.starts[i].at
		}
	}
	return -1
}

// longest is how long a start may take that nothing hinders.
func (s *sim) longest() time.Duration {
	c := &s.cfg.Recovery
	return max(c.Wait, c.Cap) + reapWait + 2*(attentionStep+attentionSlack)
}

// putOff gives some of those who are to come back their time anew.
func (s *sim) putOff(which func(*owing) bool) {
	for i := range s.owings {
		if o := &s.owings[i]; which(o) {
			o.due = max(o.due, s.attn+s.longest())
		}
	}
}

func (s *sim) putOffAll() { s.putOff(func(*owing) bool { return true }) }

// ends notes that the end of a process is known, and whether it is to come back.
func (s *sim) ends(p *proc, name EventName) {
	h := &p.past
	h.fell, h.fellIn = s.now, s.restarts
	for i := range s.orders {
		if o := &s.orders[i]; o.p == p && o.until > 0 {
			h.heldUntil = o.until
		}
	}
	s.owings = slices.DeleteFunc(s.owings, func(o owing) bool { // of those that are given up one is enough
		return o.then == 0 && o.p != p && o.p.facts.Unit == p.facts.Unit && s.account(o.key).given
	})
	acts := s.actsKnown && s.actsSince < s.now // of one wake nobody knows which came first
	if name == EvUnregistered || p.alive || !plain(p) || !acts || h.owed && h.owedIn == s.restarts {
		return
	}
	policy := s.policyOf(nameOfPlain(p))
	crashed := name == EvExited
	switch {
	case policy.Restart == config.RestartNone, s.barred(p, nameOfPlain(p)):
		return
	case crashed && (policy.Action == config.ActionReport || h.really == EndedWell):
		return
	case elsewhere(p, policy):
		if len(s.orders) > 0 {
			s.holdsRound(p)
		}
		if len(policy.Then) > 0 && len(s.followed) == 0 { // nobody knows what those that follow have to do with it
			h.owed, h.owedIn = true, s.restarts
			s.owings = append(s.owings, owing{p: p, key: keyOfRound(p, policy), at: s.now, due: s.attn + s.longest(), waits: true})
		}
		return
	case crashed && policy.Restart == config.RestartCommand && (s.statuses == 3 || h.noticed == 0 || h.noticedIn != s.restarts):
		return // nobody knows whether it crashed
	}
	h.owed, h.owedIn = true, s.restarts
	key := keyFor(policy, p.facts.Unit, nameOfPlain(p))
	s.owings = append(s.owings, owing{p: p, key: key, at: s.now, due: s.attn + s.longest()})
}

// holdsRound takes in that an order may hold the round of those after a process that somebody else starts again: its start is
// taken when that one is there, and shows only when the order is over.
func (s *sim) holdsRound(p *proc) {
	if policy := s.policyOf(nameOfPlain(p)); elsewhere(p, policy) {
		s.account(keyOfRound(p, policy)).doubt = true
	}
}

// oweNext notes that the next of those who follow a process is to be restarted.
func (s *sim) oweNext(p *proc, after int) {
	if !plain(p) {
		return
	}
	if then := s.policyOf(nameOfPlain(p)).Then; after < len(then) {
		s.owings = append(s.owings, owing{p: p, at: s.now, due: s.attn + s.longest(), then: after + 1})
	}
}

// asksForFollower checks that a unit may be restarted after another.
func (s *sim) asksForFollower(d RestartUnit) {
	p := s.whose(d.Ask)
	if p == nil || p.alive || p.facts.Unit != d.After || p.past.endedAt > d.Ended {
		s.failf("then", "%s is restarted after %s, in which nobody has ended", d.Unit, d.After)
		return
	}
	h := &p.past
	switch {
	case !s.actsKnown:
		s.failf("not acting", "a restart of %s", d.Unit)
	case slices.Contains(s.cfg.Protect.Units, d.Unit):
		s.failf("protected", "%s is restarted after %s", d.Unit, d.After)
	}
	for _, o := range s.running {
		if o.facts.Unit == d.Unit && plain(o) && s.heldProc(o) && o.past.registered && (s.ordered(o, true) && s.g.Next() > s.now || slices.Contains(s.cfg.Protect.Names, nameOfPlain(o))) {
			s.failf("then", "%s is restarted, and %d in it is protected or held", d.Unit, o.pid)
		}
	}
	s.followed[d.Unit] = s.now
	for _, o := range s.all {
		h := &o.past
		if o.facts.Unit != d.Unit || o.alive || !plain(o) || h.fell == 0 || s.reloaded >= h.endedAt || s.now-h.fell > time.Minute ||
			slices.ContainsFunc(s.running, func(x *proc) bool { return x.facts.Unit == d.Unit && x.past.names&h.names != 0 }) {
			continue
		}
		if name := nameOfPlain(o); s.barred(o, name) || s.orderedName(name) && s.g.Next() > s.now || s.heldAtEnd(o) {
			s.failf("then", "%s is restarted, and %d (%s), who ended in it, was protected or held", d.Unit, o.pid, name)
		}
	}
	then := 0
	if plain(p) {
		policy := s.policyOf(nameOfPlain(p))
		switch first := h.then == 0 || h.thenIn != s.restarts; {
		case h.byThen && !h.laddered && h.noticed-h.endedAt <= thenEcho: // else nobody can connect the two
			s.failf("then", "%s is restarted after %s, of which %d was ended by a restart of that kind", d.Unit, d.After, p.pid)
		case d.Unit == p.facts.Unit:
			s.failf("then", "%s is restarted after itself", d.Unit)
		case first && !h.paid && s.restarts == 0 && s.reloaded == 0:
			h.paid = true
			switch a := s.account(keyOfRound(p, policy)); {
			case a.lastOf(h.id) >= 0:
			case a.renewed >= h.endedAt:
				a.doubt = true // whether the round was begun before
			case policy.Restart == config.RestartCommand, elsewhere(p, policy): // somebody else has started it again
				s.take(a, h.id, policy)
			default:
				s.failf("budget", "%s is restarted after %s (%s), which costs no start", d.Unit, d.After, nameOfPlain(p))
			}
		}
		then = slices.Index(policy.Then, d.Unit) + 1
		if then == 0 || policy.Restart == config.RestartNone {
			s.failf("then", "%s is restarted after %s, which its rule does not say", d.Unit, d.After)
		}
		if then <= h.then && h.thenIn == s.restarts && s.reloaded < h.endedAt {
			s.failf("then", "%s is restarted once more after %s", d.Unit, d.After)
		}
		if !h.settled && policy.Restart != config.RestartCommand && !(elsewhere(p, policy) && s.another(p)) && s.restarts == 0 && s.reloaded == 0 {
			s.failf("then", "%s is restarted after %s, which has not come back", d.Unit, d.After)
		}
		h.then, h.thenIn = then, s.restarts
		s.owings = slices.DeleteFunc(s.owings, func(o owing) bool { return o.p == p })
	} else {
		for i, name := range simNames { // this may have cost a start of one of them
			if h.names&(1<<i) != 0 {
				s.account(keyFor(s.policyOf(name), p.facts.Unit, name)).doubt = true
			}
		}
	}
	s.questions = append(s.questions, question{ask: d.Ask, p: p, unit: d.Unit, then: then})
	s.ladderBegan = true // the registry is written
}

// unitNobody stands for whom a unit is started that never registered.
func (s *sim) unitNobody(unit string) *proc {
	if u := s.unit(unit); u != nil {
		u.nobody.facts.Unit, u.nobody.past.settled = unit, false
		return u.nobody
	}
	return nil
}

// whose is whose end a question is about.
func (s *sim) whose(ask uint64) *proc {
	i := slices.IndexFunc(s.g.pending, func(r recovery) bool { return r.under && r.ask == ask })
	switch {
	case i < 0:
		return nil
	case s.g.pending[i].pid == 0:
		return s.unitNobody(s.g.pending[i].unit)
	}
	return s.procOf(s.g.pending[i].id)
}

// looksAtStarted notes whom it is about that what was started is looked at.
func (s *sim) looksAtStarted(d LookAtStarted) {
	p := s.whose(d.Ask)
	if q := s.commandOf(d.Unit); p == nil || p.alive || p.facts.Unit != d.Unit && (q == nil || q.past.cameFor != p) {
		s.failf("start", "%s is looked at, and was not started", d.Unit)
		return
	}
	s.questions = append(s.questions, question{ask: d.Ask, p: p, look: true})
}

// saysOfStarts checks what is said of starts.
func (s *sim) saysOfStarts(e *Event) {
	switch e.Name {
	case EvGaveUp:
		policy := s.policyOf(e.Process)
		a := s.account(keyFor(policy, e.Unit, e.Process))
		if a.given {
			s.failf("given up", "%s%s twice", a.unit, a.name)
		}
		if slices.ContainsFunc(s.questions, func(q question) bool { return q.of == a && !q.only }) && s.restarts == 0 {
			s.failf("given up", "%s%s, while a start is under way", a.unit, a.name)
		}
		if n := len(a.starts); n < policy.Attempts && !a.doubt && s.restarts == 0 && s.reloaded == 0 {
			s.failf("given up", "%s%s after %d starts of %d", a.unit, a.name, n, policy.Attempts)
		}
		a.called = e.Process
		a.given, a.givenAt, a.until = true, s.now, s.attn+s.cfg.Recovery.GiveUp
		s.figures.gaveUp++
	case EvRetrying:
		key := [2]string{e.Unit, ""}
		if e.Unit == "" {
			key[1] = e.Process
		}
		a := s.account(key)
		if by := strings.HasPrefix(e.Reason, "ordered"); !by && (!a.given || s.attn < a.until) {
			s.failf("given up", "%s%s begins anew (%+v)", a.unit, a.name, a)
		}
		s.renewed(a)
	case EvRefused:
		if strings.Contains(e.Message, "is not restarted after") {
			s.account([2]string{"", e.Process}).doubt = true // this may have been the first of a round
			for i := range s.owings {
				o := &s.owings[i]
				if o.p.pid == e.PID && o.waits {
					s.owings = slices.Delete(s.owings, i, i+1)
					break
				}
				if o.p.pid == e.PID && o.then > 0 && s.policyOf(nameOfPlain(o.p)).Then[o.then-1] == e.Unit {
					if o.then++; o.then > len(s.policyOf(nameOfPlain(o.p)).Then) {
						s.owings = slices.Delete(s.owings, i, i+1)
					}
					break
				}
			}
		}
	}
}

// renewed begins the account of a name anew.
func (s *sim) renewed(a *account) {
	a.starts, a.given, a.doubt, a.renewed = a.starts[:0], false, false, s.now
	a.setStreak(s.now, 0)
	s.putOff(func(o *owing) bool { return o.key == [2]string{a.unit, a.name} })
}

// recoverOrder has an operator order to begin anew.
func (s *sim) recoverOrder(x act) {
	if s.busy() {
		return
	}
	pattern := append(append([]string{"*"}, simNames...), unitNames...)[x.a%uint16(1+len(simNames)+len(unitNames))]
	s.hitRecoveries(dutyRecover)
	if n, err := s.g.Recover(pattern, "op"); (err == nil) != (n > 0) {
		s.failf("order", "recover %s: %d, %v", pattern, n, err)
	}
	// What it says comes in the next wake. What a budget is called before its first start is not known.
	for _, a := range s.accounts {
		if given := a.given; a.unit != "" || config.Glob(pattern, a.name) {
			sure := config.Glob(pattern, a.called) || config.Glob(pattern, a.unit) || a.unit == ""
			s.renewed(a)
			a.given, a.doubt = given && !sure, a.doubt || !sure
		}
	}
	s.obeyed()
}

// comeBack checks, at the end of a wake, that who is to come back does.
func (s *sim) comeBack() {
	for _, a := range s.accounts {
		if a.given && s.attn > a.until+2*(attentionStep+attentionSlack) {
			s.failf("given up", "%s%s for longer than it should be", a.unit, a.name)
		}
	}
	for _, u := range s.fakeUnits {
		switch {
		case u.owed == 0:
		case !s.acts || !s.actsKnown || len(s.orders) > 0 || len(s.questions) > 0 || s.account([2]string{u.name, ""}).given:
			u.owed = max(u.owed, s.attn+s.longest())
		case s.attn > u.owed:
			s.failf("not started", "%s, which did not come up after its restart", u.name)
		}
	}
	for i := len(s.owings) - 1; i >= 0; i-- {
		o := &s.owings[i]
		policy := s.policyOf(nameOfPlain(o.p))
		if o.waits {
			s.waitsFor(i)
			continue
		}
		switch {
		case !plain(o.p), policy.Restart == config.RestartNone, policy.Restart == config.RestartUnit && !isService(o.p.facts.Unit), o.then == 0 && o.key != keyFor(policy, o.p.facts.Unit, nameOfPlain(o.p)),
			o.then > len(policy.Then), s.barred(o.p, nameOfPlain(o.p)),
			o.then == 0 && o.key[0] == "" && s.statuses > 1 && !s.actsKnown, // just when it is known how it ended
			policy.Restart == config.RestartCommand && o.then == 0 && s.another(o.p):
			s.owings = slices.Delete(s.owings, i, i+1)
		case !s.acts || !s.actsKnown || s.ordered(o.p, false) || o.p.past.heldUntil > s.now || s.account(o.key).given || len(s.questions) > 0 || o.then > 0 && (len(s.orders) > 0 || s.heldIn(policy.Then[o.then-1])):
			o.due = max(o.due, s.attn+s.longest())
		case s.attn > o.due:
			s.failf("not started", "%d (%s, %s, follower %d) ended %v ago", o.p.pid, nameOfPlain(o.p), o.p.facts.Unit, o.then, s.now-o.p.past.endedAt)
		}
	}
}

// waitsFor checks that those are restarted whose rule names them after what somebody else has started again.
func (s *sim) waitsFor(i int) {
	o := &s.owings[i]
	h := &o.p.past
	switch policy := s.policyOf(nameOfPlain(o.p)); {
	case !plain(o.p), !elsewhere(o.p, policy), policy.Restart == config.RestartNone, len(policy.Then) == 0, s.barred(o.p, nameOfPlain(o.p)),
		s.reloaded > h.endedAt, s.now-h.endedAt > thenLate-s.longest(), s.account(o.key).given:
		s.owings = slices.Delete(s.owings, i, i+1)
	case !s.acts || !s.actsKnown || len(s.orders) > 0 || h.heldUntil > s.now || len(s.questions) > 0 || !s.replaced(o.p):
		o.due = max(o.due, s.attn+s.longest())
	case s.attn > o.due:
		s.failf("not restarted", "who follows %d (%s), who came back; it ended %v ago", o.p.pid, nameOfPlain(o.p), s.now-h.endedAt)
	}
}

// another says whether somebody with the name and user of a process may have come
// after it.
func (s *sim) another(p *proc) bool {
	return slices.ContainsFunc(s.all, func(o *proc) bool { return o.past.id > p.past.id && o.past.names&p.past.names != 0 })
}

// replaced says whether somebody else has surely started again what ended: another of its name and user has registered since,
// and nobody else of these has ended.
func (s *sim) replaced(p *proc) bool {
	alike := func(o *proc) bool { return o != p && o.past.names&p.past.names != 0 && o.facts.User == p.facts.User }
	return plain(p) && p.past.noticed > 0 &&
		!slices.ContainsFunc(s.all, func(o *proc) bool { return alike(o) && !o.alive }) &&
		slices.ContainsFunc(s.running, func(o *proc) bool {
			return alike(o) && plain(o) && o.past.registered && o.past.beganAt > p.past.noticed && s.heldProc(o) && !strings.HasPrefix(o.facts.Unit, RunPrefix)
		})
}
