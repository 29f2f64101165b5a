package guard

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// intervals that a host may have.
var intervals = []time.Duration{sec, 500 * ms, 3 * sec, 100 * ms}

const numVariants = 16

// withVariants are the configurations that a host may have.
func withVariants(interval time.Duration) []*config.Config {
	var out []*config.Config
	for v := range numVariants {
		c := config.Default()
		c.Interval = interval
		c.Rules = []config.Rule{
			{Match: config.Match{Name: "r"}, Action: config.ActionReport},
			{Match: config.Match{Name: "q"}, Timeout: 2 * sec},
			{Match: config.Match{Name: "p"}, Timeout: 25 * sec},
		}
		switch v {
		case 1:
			c.Rules = nil
		case 2:
			c.Ladder.Steps = c.Ladder.Steps[:1]
		case 3:
			c.Ladder.Steps = []config.Step{{Signal: unix.SIGTERM, Wait: 2 * sec}, {Signal: unix.SIGQUIT, Wait: 3 * sec}, {Signal: unix.SIGKILL, Wait: 5 * sec}}
		case 4:
			c.Ladder.Steps = []config.Step{{Signal: unix.SIGKILL, Wait: sec}}
		case 5:
			c.Brake.Enabled = false
		case 6:
			c.Brake.AtLeast, c.Brake.Fraction = 2, 0.1
		case 7:
			c.CPActive.Margin = 0.5
		case 8:
			c.Rules = []config.Rule{{Action: config.ActionReport}}
		case 9:
			c.Ladder.MaxConcurrent = 1
			c.Brake.AtLeast, c.Brake.Window = 3, 20*sec
		case 10:
			l := config.RespondLadder
			c.Verdict = config.Responses{Hung: l, Starved: l, Blocked: l, Stopped: l, Traced: l, Frozen: l, Dumping: l}
		case 11:
			c.Verdict.Hung, c.Verdict.Starved, c.Verdict.Blocked = config.RespondReport, config.RespondReport, config.RespondReport
		case variantRecover, variantBudget, variantLimits, variantProtect:
			withDuties(&c, v)
		}
		out = append(out, &c)
	}
	return out
}

// snapshot is what the registry holds, and what the daemon knew when it wrote that.
type snapshot struct {
	state            []byte
	at               time.Duration
	attn, last, plan time.Duration
	seen             []fakeSlots
	told             []told // by s.running
	procs            []*proc
	accounts         []account
	questions        []question
	owings           []owing
	brakeOn          bool
	limitRestart     string
	limitKey         [2]string
	limitTaken       time.Duration
}

// snap writes the registry.
func (s *sim) snap() {
	c := &s.crash
	c.state = s.g.Save(c.state[:0])
	c.at, c.attn, c.last, c.plan = s.now, s.attn, s.last, s.plan
	c.seen, c.told, c.procs = c.seen[:0], c.told[:0], c.procs[:0]
	for _, x := range s.seen {
		c.seen = append(c.seen, fakeSlots{x.table, slices.Clone(x.at)})
	}
	for _, p := range s.running {
		c.told, c.procs = append(c.told, p.past.told), append(c.procs, p)
	}
	for _, p := range s.all {
		if !p.alive && p.past.gauged != [numSimLimits]gauged{} { // which the daemon may not know
			c.told, c.procs = append(c.told, p.past.told), append(c.procs, p)
		}
	}
	c.accounts, c.brakeOn = c.accounts[:0], s.brakeOn
	c.limitRestart, c.limitKey, c.limitTaken = s.limitRestart, [2]string{}, s.limitTaken
	if a := s.limitAccount; a != nil {
		c.limitKey = [2]string{a.unit, a.name}
	}
	c.questions = append(c.questions[:0], s.questions...)
	c.owings = append(c.owings[:0], s.owings...)
	for _, a := range s.accounts {
		x := *a
		x.starts, x.streaks = slices.Clone(a.starts), slices.Clone(a.streaks)
		c.accounts = append(c.accounts, x)
	}
}

// restartSnapped starts the daemon from what the registry holds.
func (s *sim) restartSnapped() {
	c := &s.crash
	if c.at == s.now {
		s.hitAll(cellRestart)
		s.hitDuties(dutyRestart)
	} else {
		s.hitAll(cellCrash)
		s.hitDuties(dutyCrash)
	}
	s.attn, s.last, s.plan = c.attn, c.last, c.plan
	s.seen, c.seen = c.seen, nil // what was seen since is seen again
	s.crashIn = 0
	s.actsKnown = s.acts
	if s.restartedAt = s.now; s.restarts%4 == 0 {
		s.resaved(c.state)
	}
	s.restartFrom(c.state)
	for i := range s.orders {
		if o := &s.orders[i]; o.until == 0 || o.from >= c.at { // saved before the next wake: it counts from the last
			o.until = c.last + o.For
		}
	}
	for _, p := range s.running {
		h := &p.past
		notBefore := h.notBefore // that is of the world
		h.told = told{since: s.attn, unproven: s.attn}
		if i := slices.Index(c.procs, p); i >= 0 {
			h.told = c.told[i]
		}
		h.notBefore = max(h.notBefore, notBefore)
		h.unproven = s.attn
		if s.noInodes {
			h.answer = ConsentUnknown
		}
		h.askedAt, h.asked = s.attn, true
		s.delayed(p, s.slowest())
	}
	s.forgets()
}

// forgets takes in what a daemon that ended did not write down.
func (s *sim) forgets() {
	c := &s.crash
	s.cutOff = map[string]bool{c.limitRestart: c.limitRestart != "", s.limitRestart: s.limitRestart != ""}
	for _, q := range c.questions {
		s.cutOff[q.p.facts.Unit] = true
	}
	s.brakeOn, s.limitRestart, s.limitTaken, s.limitAccount = c.brakeOn, c.limitRestart, c.limitTaken, nil
	for i, p := range c.procs {
		if !p.alive {
			p.past.gauged = c.told[i].gauged
		}
	}
	for _, u := range s.fakeUnits {
		u.asksBack, u.tookBack = false, false
	}
	for i := range c.accounts {
		x := &c.accounts[i]
		a := s.account([2]string{x.unit, x.name})
		renewed := max(a.renewed, x.renewed)
		*a = *x
		a.starts, a.streaks, a.renewed = slices.Clone(x.starts), slices.Clone(x.streaks), renewed
	}
	if c.limitKey != [2]string{} {
		s.limitAccount = s.account(c.limitKey)
	}
	s.owings = append(s.owings[:0], c.owings...)
	// How it ended nobody knows who did not see it, and of a command there is no unit that says so.
	s.owings = slices.DeleteFunc(s.owings, func(o owing) bool { return o.then == 0 && o.key[0] == "" && (s.statuses > 1 || o.p.past.noticed == 0) })
	for _, q := range c.questions {
		if q.look {
			continue
		}
		if q.of == nil {
			s.oweNext(q.p, max(q.then-1, 0))
			if u := s.unit(q.unit); !plain(q.p) || !slices.Contains(s.policyOf(nameOfPlain(q.p)).Then, q.unit) { // it is not asked for anew
				u.owed = 0
			}
			continue
		}
		q.p.past.unheard = !q.only
		for i := range q.of.starts {
			if t := &q.of.starts[i]; !q.only && t.id == q.id && t.at == q.of.lastOf(q.id) {
				t.lost = true
			}
		}
		s.owings = append(s.owings, owing{p: q.p, key: [2]string{q.of.unit, q.of.name}, at: s.now, due: s.attn + s.longest()})
	}
	s.questions = s.questions[:0]
	s.putOffAll()
	s.rulesChanged() // those of now are in force
	for _, p := range s.procs {
		for i := range p.past.gauged {
			g := &p.past.gauged[i]
			g.maybe = g.maybe || g.over && s.unturned
			if s.noInodes && !g.over {
				*g = gauged{}
			}
		}
	}
}

// quiet says whether nothing is left to be done: all that lives beats or is
// nobody's business.
func (s *sim) quiet() bool {
	if len(s.ladders) > 0 || len(s.mail) > 0 || s.g.brake.on || s.stalledUntil > s.now {
		return false
	}
	for _, p := range s.held {
		if !p.alive && !s.lostPid[p.pid-simFirst] {
			return false
		}
	}
	if s.limitRestart != "" || len(s.questions) > 0 || slices.ContainsFunc(s.owings, func(o owing) bool { return !s.account(o.key).given || s.cfgIndex >= variantRecover }) {
		return false
	}
	for _, u := range s.fakeUnits {
		if u.has != u.had || u.state == unitStopping {
			return false
		}
	}
	for _, p := range s.running {
		if p.every == 0 && !s.hidden(p) && !p.past.begun && !s.onlyReports(p) {
			return false
		}
	}
	for ix := range s.g.targets {
		if t := &s.g.targets[ix]; t.used && t.state == Ended {
			return false
		}
	}
	return true
}

// checkEnd checks what must hold when all is over: nothing is left over, and each
// end is told once.
func (s *sim) checkEnd() {
	s.evened()
	for id, p := range s.held {
		if _, known := s.g.byID[id]; !known || !p.alive && !s.lostPid[p.pid-simFirst] {
			s.failf("left over", "the pidfd of target %d (pid %d)", id, p.pid)
		}
	}
	for _, p := range s.all {
		h := &p.past
		if p.alive || !h.registered || s.restarts > 0 || h.lost || s.lostPid[p.pid-simFirst] || h.tableLost {
			continue
		}
		if n := h.killed + h.ended; n != 1 {
			s.failf("no record", "the end of %d was told %d times", p.pid, n)
		}
		if h.begun && h.sent > 0 && h.killed != 1 {
			s.failf("no record", "%d was ended by its ladder, and that was not told", p.pid)
		}
	}
}
