package guard

import "time"

const (
	// attentionStep is the longest stretch that the daemon sleeps, whether or
	// not a scan is due: what was not looked at in time does not count.
	// A stop of the whole host that begins and ends within one sleep is not seen
	// at all: step and slack together stay below marginMin, so that it alone
	// never makes anybody late.
	attentionStep = 500 * time.Millisecond
	// attentionSlack is how late a wake may be and still count in full. A busy
	// host wakes a thread some tens of milliseconds late.
	attentionSlack = 250 * time.Millisecond
	// gapMin is the unwitnessed excess from which a late wake is a gap.
	gapMin = 2 * time.Second
	// gapGrace is how long after a gap nobody is judged: the clients were most
	// likely stopped by what stopped the daemon, and need time to beat.
	gapGrace = 2 * time.Second
	// gapAlarmCount gaps within gapAlarmWindow are an alarm of their own.
	gapAlarmCount  = 3
	gapAlarmWindow = 10 * time.Minute
	// gapsKept bounds how many are remembered.
	gapsKept = 100
)

// clock is the attention clock. It advances from wake to wake by at most the
// planned sleep plus attentionSlack; what lies beyond was not witnessed and
// does not count. CLOCK_MONOTONIC stands still in suspend, so suspend does not
// count either, and a step of the wall clock is not seen at all.
type clock struct {
	last time.Duration // mono time of the latest wake
	plan time.Duration // mono time at which the next wake is meant to be
	attn time.Duration // attention time at the latest wake

	started bool
}

// advance takes note of a wake at the mono time now and returns the stretch
// that was not witnessed (0 for a wake in time).
func (c *clock) advance(now time.Duration) (missed time.Duration) {
	if !c.started {
		c.started = true
		c.last, c.plan = now, now+attentionStep
		return 0
	}
	if now <= c.last {
		return 0 // same wake, or a caller's clock that went backwards
	}
	limit := max(c.plan, c.last) + attentionSlack
	if now > limit {
		missed = now - limit
	}
	c.attn += min(now, limit) - c.last
	c.last = now
	return missed
}

// monoAt is the mono time at which the attention clock will show at, if every
// wake until then is in time.
func (c *clock) monoAt(at time.Duration) time.Duration {
	if at <= c.attn {
		return c.last
	}
	return c.last + (at - c.attn)
}
