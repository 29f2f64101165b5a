package guard

import (
	"time"
)

// A hang must be found: what a process is owed, counted by the world.

// woken is the end of a wake.
func (s *sim) woken() {
	if s == nil {
		return
	}
	s.plan = s.g.Next()
	if s.ladderBegan && s.crashIn > 0 {
		s.snap() // as the daemon does before a ladder begins
	}
	s.ladderBegan = false
	if s.plan > s.now+attentionStep {
		s.failf("sleeps", "the next wake is in %v", s.plan-s.now)
	}
	for _, p := range s.running {
		s.owed(p)
		if s.g.limits {
			s.measured(p)
		}
	}
	s.comeBack()
	if s.late.left > 0 {
		s.late.left--
		s.late.by = s.late.by*1664525 + 1013904223
		s.stalledUntil = max(s.stalledUntil, s.plan+time.Duration(s.late.by>>16%1300)*ms)
	}
}

// slowest is how long the answers that a verdict waits for may take.
func (s *sim) slowest() time.Duration {
	return min(max(s.askDelay, s.proofDelay), lookWait+sec) + 2*s.intervalMost
}

// allow gives a process time from now on, because something that hid its
// silence is over.
func (s *sim) allow(p *proc, d time.Duration) {
	p.past.since = s.attn
	s.delayed(p, d)
}

// delayed says that a process is judged after d at the earliest.
func (s *sim) delayed(p *proc, d time.Duration) {
	p.past.clean = false
	p.past.notBefore = max(p.past.notBefore, s.attn+d)
}

// judgedAnew says that a new verdict is due on those of whom one was only
// reported, now that they may be ended.
func (s *sim) judgedAnew() {
	for _, p := range s.running {
		if p.past.condemnedAt == 0 && s.acts && !s.mayReport(p) && !s.ordered(p, false) {
			p.past.found = false
		}
		p.past.given, p.past.gapSpent = 0, false // nothing was given while it was reported
		s.delayed(p, attentionStep+s.slowest())
	}
}

// hidden says whether nobody can be expected to find that a process hangs.
func (s *sim) hidden(p *proc) bool {
	h := &p.past
	switch {
	case !p.alive, p.still(), p.look.Tracer != 0, p.consent != ConsentProven, p == s.unreadable,
		p.sight != SightVerified, p.blind != "", h.endless, h.tableLost, h.high <= 0, s.lostPid[p.pid-simFirst]:
		return true
	}
	return !s.inSight(p) || !s.begun
}

// owed checks that a process that hangs is found in time, and once found, ended.
func (s *sim) owed(p *proc) {
	h := &p.past
	if s.hidden(p) {
		h.since, h.clean = s.attn, false
		h.notBefore = max(h.notBefore, s.attn+2*s.intervalMost)
		h.unproven = s.attn
		return
	}
	if h.answer != ConsentProven { // and can be proven
		h.since, h.clean = s.attn, false
		if s.attn-h.unproven > 2*retryMax+s.askDelay {
			s.failf("never asked", "%d joined, and for %v that is not known", p.pid, s.attn-h.unproven)
		}
		return
	}
	h.unproven = s.attn
	if h.found || h.begun || h.wouldIn && s.mayReport(p) { // which is said once
		return
	}
	_, high := s.limits(p)
	due := max(h.since+s.patience(high), h.notBefore) + min(max(s.askDelay, s.proofDelay), lookWait)
	if h.stale > 0 { // torn ones may be among them
		due += tornWait + 2*s.intervalMost
	}
	if h.counted.tardy { // the answers are seen late as well
		due += 2 * (attentionStep + attentionSlack)
	}
	if s.attn > due+10*ms {
		s.failf("missed", "%d hangs for %v and is not found: its timeout and margin are %v, it was given %v (%s)",
			p.pid, s.attn-h.since, s.patience(high), h.given, s.stateOf(p))
	}
}

// lateness notes how late a hang was found.
func (s *sim) lateness(p *proc) {
	h := &p.past
	if h.found || !h.clean || s.hidden(p) {
		return
	}
	low, high := s.limits(p)
	if low != high || p.rec().PID != p.pid {
		return
	}
	late := s.now - p.lastBeat - s.patience(low)
	if late > s.cfg.Interval+max(s.askDelay, s.proofDelay)+10*ms {
		s.failf("late", "%d is found %v after its timeout and margin", p.pid, late)
	}
	if max(s.askDelay, s.proofDelay) <= 30*ms {
		s.figures.late(late, s.cfg.Interval)
	}
}
