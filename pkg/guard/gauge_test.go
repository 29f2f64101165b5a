package guard

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

const samplePeriod = 10 * sec

// sampleOf is a sample with one value.
func sampleOf(q config.Quantity, at time.Duration, value float64) *Sample {
	s := &Sample{At: at, CPU: missing}
	for i := range s.Values {
		s.Values[i] = missing
	}
	s.Values[q] = value
	return s
}

// TestGauge: a limit is exceeded if and only if all samples of the last For were above
// it, on a clock that stands still while nobody looks, and it is so until one is at Calm
// or less.
func TestGauge(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := gauge{Limit: config.Limit{Of: config.Threads, Above: 100, For: time.Duration(rapid.IntRange(1, 60).Draw(r, "for")) * sec}}
		if rapid.Bool().Draw(r, "has below") {
			m.Below = float64(rapid.IntRange(1, 100).Draw(r, "below"))
		}
		attn, above := 1000*sec, time.Duration(-1)
		over := false
		for range rapid.IntRange(1, 60).Draw(r, "samples") {
			step := time.Duration(rapid.Int64Range(int64(sec), int64(2*samplePeriod)).Draw(r, "step"))
			attn += step
			value := rapid.SampledFrom([]float64{0, 50, 89, 90, 91, 100, 101, 150, missing}).Draw(r, "value")
			changed := m.take(attn, sampleOf(config.Threads, 0, value), samplePeriod)
			if value == missing {
				if changed {
					r.Fatal("no value changed something")
				}
				attn -= step // the next one counts from the one before; longer than two periods counts as two
				continue
			}
			was := over
			switch {
			case over:
				over = value > m.Calm()
				above = -1
				if over && value > 100 {
					above = attn // it counts anew once it was over
				}
			case value <= 100:
				above = -1
			case above < 0:
				above = attn
			default:
				over = attn-above >= m.For
			}
			if m.over != over || changed != (was != over) {
				r.Fatalf("at %v %v: over %v, changed %v; want over %v", attn, value, m.over, changed, over)
			}
		}
	})
}

// TestGaugeMissed: samples that did not come say nothing.
func TestGaugeMissed(t *testing.T) {
	m := gauge{Limit: config.Limit{Of: config.Threads, Above: 100, For: time.Minute}}
	take := func(at time.Duration) bool { return m.take(at, sampleOf(config.Threads, at, 101), samplePeriod) }
	if take(1000*sec) || take(3000*sec) || take(5000*sec) || !take(7000*sec) || m.over != true {
		t.Errorf("%+v", m)
	}
	m = gauge{Limit: m.Limit}
	if take(1000*sec) || take(3000*sec) {
		t.Error("two samples made a minute")
	}
}

// TestGaugeAverage: the use of the processor is the average over For; nothing is said
// before that time is over, and no more than a sixteenth of it and a period older counts.
func TestGaugeAverage(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := gauge{Limit: config.Limit{Of: config.CPU, Above: 50, For: time.Duration(rapid.IntRange(1, 600).Draw(r, "for")) * sec}}
		at, used := 1000*sec, 77*sec
		first := at
		type point struct{ at, used time.Duration }
		var all []point
		for range rapid.IntRange(1, 100).Draw(r, "samples") {
			step := time.Duration(rapid.Int64Range(int64(8*sec), int64(12*sec)).Draw(r, "step"))
			at += step
			used += time.Duration(float64(step) * rapid.Float64Range(0, 2).Draw(r, "use"))
			if len(all) == 0 {
				first = at
			}
			all = append(all, point{at, used})
			s := sampleOf(config.CPU, at, missing)
			s.CPU = used
			was := m.over
			m.take(at, s, samplePeriod)
			if len(m.usage) > 2*usageParts {
				r.Fatalf("%d points are kept", len(m.usage))
			}
			if at-first < m.For {
				if m.seen {
					r.Fatalf("after %v of %v it says %v", at-first, m.For, m.value)
				}
				continue
			}
			// The window began between For ago and that much longer.
			ok := false
			for _, p := range all {
				if old := at - p.at; old >= m.For && old <= m.For+m.For/usageParts+12*sec+12*sec {
					ok = ok || math.Abs(m.value-100*float64(used-p.used)/float64(old)) < 1e-6
				}
			}
			if !ok {
				r.Fatalf("at %v of %v: %v is no average", at, m.For, m.value)
			}
			if want := m.value > 50 || was && m.value > 45; m.over != want {
				r.Fatalf("%v: over %v", m.value, m.over)
			}
		}
	})
	t.Run("not looked at for long", func(t *testing.T) {
		m := gauge{Limit: config.Limit{Of: config.CPU, Above: 50, For: time.Minute}}
		s := sampleOf(config.CPU, 1000*sec, missing)
		s.CPU = 0
		m.take(0, s, samplePeriod)
		s.At, s.CPU = 1000*sec+time.Hour, time.Hour
		if m.take(0, s, samplePeriod); m.seen {
			t.Error("an hour that nobody looked at counts")
		}
	})
}

func TestGaugeShare(t *testing.T) {
	m := gauge{Limit: config.Limit{Of: config.Descriptors, Above: 90, Share: true, For: sec}}
	s := sampleOf(config.Descriptors, 0, 950)
	if m.take(sec, s, samplePeriod); m.seen {
		t.Error("a share of nothing known")
	}
	s.OpenLimit = 1000
	m.take(2*sec, s, samplePeriod)
	if m.take(12*sec, s, samplePeriod); !m.over || m.value != 95 {
		t.Errorf("%+v", m)
	}
	s.OpenLimit = 2000 // prlimit
	if m.take(22*sec, s, samplePeriod); m.over {
		t.Errorf("%+v", m)
	}
}

// TestGaugeQuiet: what is left out of the registry makes no difference.
func TestGaugeQuiet(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := gauge{Limit: config.Limit{Of: config.Threads, Above: 100, For: 30 * sec}}
		values := rapid.SliceOfN(rapid.SampledFrom([]float64{10, 95, 150, missing}), 1, 30).Draw(r, "values")
		left := -1 // the sample after which it is forgotten, if that is allowed
		if rapid.Bool().Draw(r, "forget") {
			left = rapid.IntRange(0, 29).Draw(r, "after")
		}
		other := m
		for i, v := range values {
			at := time.Duration(i) * samplePeriod
			a, b := m.take(at, sampleOf(config.Threads, at, v), samplePeriod), other.take(at, sampleOf(config.Threads, at, v), samplePeriod)
			if a != b || m.over != other.over {
				r.Fatalf("sample %d: %v, without what was left out %v", i, m.over, other.over)
			}
			if i == left && other.quiet() {
				other = gauge{Limit: m.Limit}
			}
		}
	})
}

// TestGaugeSaved: what is read back is what was written.
func TestGaugeSaved(t *testing.T) {
	m := gauge{Limit: config.Limit{Of: config.CPU, Above: 50.5, Share: true, Below: 7, For: time.Minute, Action: config.LimitThrottle, MemoryHigh: 9, CPUQuota: 8.5},
		over: true, held: 3, at: 4, seen: true, value: 5.5, usage: []usage{{1, 2}, {3, 4}}, settled: true, again: 6, why: "x"}
	var w writer
	m.save(&w)
	var got gauge
	r := reader{b: w.b}
	got.restore(&r, 10)
	var again writer
	got.save(&again)
	if r.bad || len(r.b) != 0 || string(again.b) != string(w.b) || got.Limit != m.Limit || got.value != 5.5 || len(got.usage) != 2 || got.why != "x" {
		t.Errorf("%+v", got)
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		bad := m
		bad.value = v
		var w writer
		bad.save(&w)
		r := reader{b: w.b}
		if got.restore(&r, 10); !r.bad {
			t.Errorf("%v is taken for a value", v)
		}
	}
}
