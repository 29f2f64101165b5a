package guard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// throttled makes a world in which c.service had so much, and is throttled to 400 MiB and half a processor.
func throttled(t reporter, had UnitLimits) (w *world, p *proc, threads *float64) {
	l := threadsAbove(100, config.LimitThrottle)
	l.MemoryHigh, l.CPUQuota = 400<<20, 50
	w, p, threads = limited(t, l)
	w.units = map[string]UnitLimits{"c.service": had}
	*threads = 150
	w.run(time.Minute)
	return w, p, threads
}

// TestThrottleIsTakenBack: however long nobody answers; that it is not taken back is said at a slow pace.
func TestThrottleIsTakenBack(t *testing.T) {
	had := UnitLimits{800 << 20, Unlimited}
	for _, away := range []time.Duration{time.Minute, 10 * time.Minute, 24 * time.Hour} {
		for _, restart := range []bool{false, true} {
			w, _, threads := throttled(t, had)
			w.unitFault = "no bus"
			*threads = 10
			w.run(away)
			if restart {
				w.restart()
			}
			if v := w.g.Throttled(); len(v) != 1 || v[0].Had != "MemoryHigh=800MiB and CPUQuota=infinity" || v[0].Back != "MemoryHigh=838860800 CPUQuota=" {
				t.Errorf("%v: status says %v", away, v)
			}
			said := w.find(EvLimitFailed, 0)
			if n := len(said); n == 0 || n > 2+int(away/time.Hour) || !strings.Contains(said[0].Message, "that c.service was throttled could not be taken back: no bus; trying again in 10.0s") {
				t.Errorf("%v: said %d times\n%s", away, n, w)
			}
			w.unitFault = ""
			w.run(throttleMost + time.Minute)
			if w.units["c.service"] != had || len(w.g.throttles) != 0 || len(w.find(EvUnthrottled, 0)) != 1 {
				t.Errorf("%v: it has %v\n%s", away, w.units["c.service"], w)
			}
		}
	}
}

// TestThrottleOff: a guard that is switched off takes back what it has throttled, also when its successor finds that it was.
// One that does not act for another reason leaves it.
func TestThrottleOff(t *testing.T) {
	had := UnitLimits{800 << 20, Unlimited}
	for _, off := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			w, _, _ := throttled(t, had)
			less := w.units["c.service"]
			if restart {
				w.restart()
			}
			w.post(0, Acting{Off: off, Reason: "told so"})
			w.post(0, TableLost{Table: w.tb().id, Reason: "told so", Order: true})
			w.run(time.Minute)
			if off && (w.units["c.service"] != had || len(w.find(EvUnthrottled, 0)) != 1 || len(w.g.throttles) != 0) || !off && w.units["c.service"] != less {
				t.Errorf("off %v, restart %v: it has %v\n%s", off, restart, w.units["c.service"], w)
			}
			w.post(0, Acting{Acts: true})
			w.run(time.Minute)
			if w.units["c.service"] != had || len(w.find(EvUnthrottled, 0)) != 1 || len(w.g.throttles) != 0 {
				t.Errorf("off %v, restart %v, acting again: it has %v\n%s", off, restart, w.units["c.service"], w)
			}
		}
	}
}

// TestThrottleIsPatient: what cannot be done is not tried at once whenever anything changes.
func TestThrottleIsPatient(t *testing.T) {
	w, _, threads := throttled(t, UnitLimits{800 << 20, Unlimited})
	w.unitFault = "no bus"
	*threads = 10
	n := len(w.asked)
	for range 120 {
		w.run(5 * sec)
		w.reload(func(*config.Config) {})
	}
	if tries := len(w.asked) - n; tries < 5 || tries > 8 {
		t.Errorf("%d tries in ten minutes\n%s", tries, w)
	}
}

// TestThrottleUnknown: systemd does not answer, and does what it is asked for, or does not.
func TestThrottleUnknown(t *testing.T) {
	had := UnitLimits{800 << 20, Unlimited}
	for _, done := range []bool{false, true} {
		w, _, threads := throttled(t, had)
		*threads = 10
		for len(w.g.throttles) == 0 || !w.g.throttles[0].under {
			w.run(50 * ms)
		}
		if !done {
			w.units["c.service"] = UnitLimits{400 << 20, 500_000}
		}
		w.post(0, UnitLimitsSet{Unit: "c.service", Problem: "no reply", Unknown: true}) // sooner than the other answer
		w.run(time.Minute)
		if w.units["c.service"] != had || len(w.g.throttles) != 0 {
			t.Errorf("done %v: it has %v, %+v\n%s", done, w.units["c.service"], w.g.throttles, w)
		}
		// The same when it is to be throttled, and then no limit is exceeded any more.
		*threads = 150
		for len(w.g.throttles) == 0 || !w.g.throttles[0].known {
			w.run(10 * ms)
		}
		if !done {
			w.units["c.service"] = had
		}
		w.post(0, UnitLimitsSet{Unit: "c.service", Problem: "no reply", Unknown: true})
		w.run(sec)
		*threads = 10
		w.run(2 * time.Minute)
		if w.units["c.service"] != had || len(w.g.throttles) != 0 {
			t.Errorf("done %v: it keeps %v, %+v\n%s", done, w.units["c.service"], w.g.throttles, w)
		}
	}
}

// TestThrottleOfOthers: what somebody else has set while the unit is throttled is his, and stays.
func TestThrottleOfOthers(t *testing.T) {
	had := UnitLimits{800 << 20, Unlimited}
	for name, tt := range map[string]struct{ sets, stays UnitLimits }{
		"memory":               {UnitLimits{600 << 20, 500_000}, UnitLimits{600 << 20, Unlimited}},
		"both":                 {UnitLimits{600 << 20, 700_000}, UnitLimits{600 << 20, 700_000}},
		"back to what it was":  {UnitLimits{800 << 20, 500_000}, had},
		"nothing":              {UnitLimits{400 << 20, 500_000}, had},
		"a reload of units":    {UnitLimits{400 << 20, 500_000}, had},
		"a restart of a guard": {UnitLimits{600 << 20, 500_000}, UnitLimits{600 << 20, Unlimited}},
	} {
		w, _, threads := throttled(t, had)
		w.units["c.service"] = tt.sets
		if strings.Contains(name, "restart") {
			w.restart()
		}
		w.run(time.Minute)
		w.reload(func(*config.Config) {}) // all are looked at again
		w.run(time.Minute)
		if w.units["c.service"] != tt.sets {
			t.Errorf("%s: while it is throttled it has %v\n%s", name, w.units["c.service"], w)
		}
		*threads = 10
		w.run(time.Minute)
		if w.units["c.service"] != tt.stays || len(w.g.throttles) != 0 || len(w.find(EvUnthrottled, 0)) != 1 {
			t.Errorf("%s: it has %v\n%s", name, w.units["c.service"], w)
		}
		if e := w.find(EvUnthrottled, 0); tt.sets.MemoryHigh == 600<<20 && !strings.Contains(e[0].Message, "somebody else has set MemoryHigh=600MiB") {
			t.Errorf("%s: %s", name, e[0].Message)
		}
	}
	// Also when it is to have even less: the rest of its time it is as he wants.
	weak, strong := threadsAbove(100, config.LimitThrottle), threadsAbove(200, config.LimitThrottle)
	weak.MemoryHigh, strong.MemoryHigh, strong.CPUQuota = 400<<20, 200<<20, 20
	w, _, threads := limited(t, weak, strong)
	w.units = map[string]UnitLimits{"c.service": had}
	*threads = 150
	w.run(time.Minute)
	w.units["c.service"] = UnitLimits{600 << 20, Unlimited}
	*threads = 250
	w.run(time.Minute)
	if w.units["c.service"] != (UnitLimits{600 << 20, 200_000}) {
		t.Errorf("it has %v\n%s", w.units["c.service"], w)
	}
	*threads = 10
	w.run(time.Minute)
	if w.units["c.service"] != (UnitLimits{600 << 20, Unlimited}) {
		t.Errorf("it has %v\n%s", w.units["c.service"], w)
	}
	// And where he sets it between the look and the first setting.
	w, _, threads = limited(t, threadsAbove(100, config.LimitThrottle))
	w.reload(func(c *config.Config) { c.Rules[0].Limits[0].MemoryHigh = 400 << 20 })
	w.units = map[string]UnitLimits{"c.service": had}
	*threads = 150
	for len(w.g.throttles) == 0 || !w.g.throttles[0].known {
		w.run(10 * ms)
	}
	w.units["c.service"] = UnitLimits{600 << 20, Unlimited}
	w.post(0, UnitLimitsSet{Unit: "c.service", Theirs: UnitLimits{MemoryHigh: 600 << 20}}) // sooner than the other answer
	w.run(time.Minute)
	if w.units["c.service"].MemoryHigh != 600<<20 || len(w.find(EvThrottled, 0)) > 0 || len(w.g.Throttled()) > 0 {
		t.Errorf("it has %v\n%s", w.units["c.service"], w)
	}
}

// TestAgainst: systemd rounds a quota down to whole percent in what a daemon-reload reads.
func TestAgainst(t *testing.T) {
	const m = 1 << 20
	for _, tt := range []struct {
		d       SetUnitLimits
		now     UnitLimits
		to, not UnitLimits
	}{
		{SetUnitLimits{Limits: UnitLimits{400 * m, 500_000}, Has: UnitLimits{800 * m, Unlimited}}, UnitLimits{800 * m, Unlimited}, UnitLimits{400 * m, 500_000}, UnitLimits{}},
		{SetUnitLimits{Limits: UnitLimits{400 * m, 0}, Has: UnitLimits{800 * m, 0}}, UnitLimits{600 * m, 7}, UnitLimits{}, UnitLimits{600 * m, 0}},
		{SetUnitLimits{Back: UnitLimits{0, Unlimited}, Has: UnitLimits{0, 125_000}}, UnitLimits{5, 120_000}, UnitLimits{0, Unlimited}, UnitLimits{}},
		{SetUnitLimits{Back: UnitLimits{0, Unlimited}, Has: UnitLimits{0, 125_000}}, UnitLimits{5, 110_000}, UnitLimits{}, UnitLimits{0, 110_000}},
		{SetUnitLimits{Back: UnitLimits{0, Unlimited}, Has: UnitLimits{0, 120_000}}, UnitLimits{5, 125_000}, UnitLimits{}, UnitLimits{0, 125_000}},
	} {
		if to, not := tt.d.Against(tt.now); to != tt.to || not != tt.not {
			t.Errorf("%+v against %v: %v, left alone %v", tt.d, tt.now, to, not)
		}
	}
}

// TestThrottleGone: a unit that is gone is done.
func TestThrottleGone(t *testing.T) {
	w, p, _ := throttled(t, UnitLimits{Unlimited, Unlimited})
	w.unitGone = true
	p.exit(true)
	w.run(20 * sec)
	w.none(EvLimitFailed)
	if e := w.find(EvUnthrottled, 0); len(e) != 1 || e[0].Message != "c.service is throttled no more: it is gone" || len(w.g.throttles) != 0 {
		t.Errorf("%+v\n%s", w.g.throttles, w)
	}
	// Before it was throttled nothing is to be said.
	l := threadsAbove(100, config.LimitThrottle)
	l.MemoryHigh = 400 << 20
	w, _, threads := limited(t, l)
	w.unitGone = true
	*threads = 150
	w.run(2 * time.Minute)
	w.none(EvLimitFailed)
	w.none(EvUnthrottled)
	if len(w.g.throttles) != 0 {
		t.Errorf("%+v", w.g.throttles)
	}
}

// TestThrottleShielded: a unit in which somebody is protected by now, or only reported, gets back what it had, and why it is
// not throttled is said; one that is protected no more is throttled again.
func TestThrottleShielded(t *testing.T) {
	had := UnitLimits{800 << 20, Unlimited}
	less := UnitLimits{400 << 20, 500_000}
	protect := func(names ...string) func(*config.Config) {
		return func(c *config.Config) { c.Protect.Names = names }
	}
	report := func(c *config.Config) {
		c.Rules = append([]config.Rule{{Match: config.Match{Name: "db"}, Action: config.ActionReport}}, c.Rules...)
	}
	for name, tt := range map[string]struct {
		later  bool // than the throttle the other registers
		before func(*config.Config)
		change func(*config.Config)
	}{
		"itself":           {change: protect("c")},
		"another":          {change: protect("db")},
		"one that is new":  {change: protect("db"), later: true},
		"who comes is":     {before: protect("db"), later: true},
		"a report":         {change: report},
		"who comes is one": {before: report, later: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := threadsAbove(100, config.LimitThrottle)
			l.MemoryHigh, l.CPUQuota = 400<<20, 50
			w, _, threads := limited(t, l)
			w.units = map[string]UnitLimits{"c.service": had}
			if tt.before != nil {
				w.reload(tt.before)
			}
			join := func() { w.client(112, "db", 10, 5*sec).facts.Unit = "c.service" }
			if !tt.later {
				join()
			}
			*threads = 150
			w.run(time.Minute)
			if w.units["c.service"] != less {
				t.Fatalf("it has %v\n%s", w.units["c.service"], w)
			}
			if tt.later {
				join()
				w.run(20 * sec)
			}
			if tt.change != nil {
				w.reload(tt.change)
			}
			w.run(time.Minute)
			if w.units["c.service"] != had || !strings.Contains(fmt.Sprint(w.view(110).Limits), "not acting") || len(w.g.Throttled()) != 0 {
				t.Fatalf("it has %v, %v\n%s", w.units["c.service"], w.view(110).Limits, w)
			}
			w.reload(func(c *config.Config) { c.Protect.Names, c.Rules = nil, c.Rules[len(c.Rules)-1:] })
			w.run(time.Minute)
			if w.units["c.service"] != less {
				t.Errorf("protected no more: it has %v\n%s", w.units["c.service"], w)
			}
		})
	}
}

// TestThrottleSaysWhatIsSet: a unit that has less than a limit gives it keeps that, and nobody says otherwise.
func TestThrottleSaysWhatIsSet(t *testing.T) {
	w, _, threads := throttled(t, UnitLimits{300 << 20, Unlimited})
	if e := w.find(EvThrottled, 0); len(e) != 1 || e[0].Reason != "CPUQuota=50%" {
		t.Error(w)
	}
	if v := w.g.Throttled(); len(v) != 1 || v[0] != (ThrottleView{"c.service", "CPUQuota=50%", "CPUQuota=infinity", "CPUQuota="}) {
		t.Errorf("%v", v)
	}
	*threads = 10
	w.run(time.Minute)
	if w.units["c.service"] != (UnitLimits{300 << 20, Unlimited}) || len(w.g.throttles) != 0 {
		t.Errorf("it has %v\n%s", w.units["c.service"], w)
	}
	w, _, threads = throttled(t, UnitLimits{400 << 20, 500_000})
	w.none(EvThrottled)
	if e := w.find(EvLimitFailed, 0); len(e) != 1 || e[0].Level != LevelNotice || e[0].Message != "c.service is not throttled: it has MemoryHigh=400MiB and CPUQuota=50%, and a limit wants no less than MemoryHigh=400MiB and CPUQuota=50%" {
		t.Error(w)
	}
	w.reload(func(*config.Config) {})
	w.run(time.Minute)
	*threads = 10
	w.run(time.Minute)
	w.none(EvUnthrottled)
	for _, d := range w.asked {
		if x, is := d.(SetUnitLimits); is {
			t.Errorf("%+v", x)
		}
	}
	if len(w.find(EvLimitFailed, 0)) != 1 || len(w.g.throttles) != 0 {
		t.Error(w)
	}
}

// TestFound: what a property is after a lost answer.
func TestFound(t *testing.T) {
	const was, set, next, other = 800, 400, 200, 600
	for _, tt := range []struct{ now, set, next, theirs, ours, others uint64 }{
		{next, set, next, 0, next, 0},
		{set, set, next, 0, set, 0},
		{was, set, next, 0, 0, 0},
		{other, set, next, 0, 0, other},
		{set, set, 0, 0, set, 0},
		{other, 0, 0, other, 0, other}, // it was not to be set
		{was, 0, 0, 0, 0, 0},
	} {
		if ours, others := found(tt.now, was, tt.set, tt.next, tt.theirs, same); ours != tt.ours || others != tt.others {
			t.Errorf("%+v: ours %d, others' %d", tt, ours, others)
		}
	}
}
