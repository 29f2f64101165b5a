package guard

import (
	"math"
	"slices"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// gauge follows one limit of one target:
//
//	within ──above for as long as it takes──▶ over ──at Calm or less──▶ within
//
// How long it was above is time on the attention clock between samples, so that
// what nobody saw does not count. Processor time is another matter: the kernel
// counts it, and its average over Limit.For is what is compared.
type gauge struct {
	config.Limit
	over  bool
	held  time.Duration // for how long it has been above without a break
	at    time.Duration // of the last sample, on the attention clock
	seen  bool          // there was one
	value float64       // of it
	usage []usage       // of config.CPU: over the last Limit.For, oldest first

	settled bool          // its action was begun, or there is nothing to be done
	again   time.Duration // its action is not tried before
	why     string        // it is not, as was said last
	refused string        // why a restart was not, when all that goes with it was known: said once
}

// usage is the processor time that a process had used at a time (CLOCK_MONOTONIC).
type usage struct{ at, used time.Duration }

// usageParts is into how many parts Limit.For is divided: the average is over this
// much more at most.
const usageParts = 8

// missing stands for a value that could not be read.
const missing = -1

// take takes in a sample and says whether that made the limit exceeded, or no longer
// so. period is the time between two samples.
func (m *gauge) take(attn time.Duration, s *Sample, period time.Duration) (changed bool) {
	value := m.valueOf(s, period)
	if value < 0 {
		return false
	}
	above := m.seen && m.value > m.Above // at the last one
	since := attn - m.at
	m.value, m.at, m.seen = value, attn, true
	if m.over {
		m.over = value > m.Calm()
		return !m.over
	}
	switch {
	case value <= m.Above:
		m.held = 0
	case m.Of == config.CPU:
		m.held = m.For // it is the average over this time
	case above:
		m.held += min(since, 2*period) // samples that were missed say nothing
	}
	m.over = value > m.Above && m.held >= m.For
	if m.over {
		m.held = 0
	}
	return m.over
}

// valueOf is the value of a sample in the unit of the limit, missing if it is not there.
func (m *gauge) valueOf(s *Sample, period time.Duration) float64 {
	switch {
	case m.Of == config.CPU:
		return m.average(s, period)
	case m.Of == config.Descriptors && m.Share:
		if s.Values[m.Of] < 0 || s.OpenLimit <= 0 {
			return missing
		}
		return 100 * s.Values[m.Of] / float64(s.OpenLimit)
	}
	return s.Values[m.Of]
}

// average is the use of the processor over the last Limit.For; missing until there are
// samples for all of it.
func (m *gauge) average(s *Sample, period time.Duration) float64 {
	if s.CPU < 0 {
		return missing
	}
	if n := len(m.usage); n > 0 {
		last := m.usage[n-1]
		if s.CPU < last.used || s.At <= last.at || s.At-last.at > 2*m.For+2*period { // another process, or not looked at for long
			m.usage = m.usage[:0]
		}
	}
	value := float64(missing)
	old := -1
	for i := range m.usage {
		if s.At-m.usage[i].at >= m.For {
			old = i
		}
	}
	if old >= 0 {
		u := m.usage[old]
		value = 100 * float64(s.CPU-u.used) / float64(s.At-u.at)
		m.usage = slices.Delete(m.usage, 0, old)
	}
	if n := len(m.usage); n == 0 || s.At-m.usage[n-1].at >= m.For/usageParts {
		m.usage = append(m.usage, usage{s.At, s.CPU})
	}
	return value
}

// forget begins anew with what may be another process.
func (m *gauge) forget() { m.held, m.seen, m.usage = 0, false, nil }

// quiet says that a gauge knows nothing that a new one would not find with its first
// sample. It is not saved: most are, and there may be thousands.
func (m *gauge) quiet() bool {
	return !m.over && m.held == 0 && len(m.usage) == 0 && !(m.seen && m.value > m.Above)
}

func (m *gauge) save(w *writer) {
	w.u8(uint8(m.Of))
	w.float(m.Above)
	w.flag(m.Share)
	w.float(m.Below)
	w.dur(m.For)
	w.u8(uint8(m.Action))
	w.u64(m.MemoryHigh)
	w.float(m.CPUQuota)
	w.flag(m.over)
	w.dur(m.held)
	w.dur(m.at)
	w.flag(m.seen)
	w.float(m.value)
	w.u32(uint32(len(m.usage)))
	for _, u := range m.usage {
		w.dur(u.at)
		w.dur(u.used)
	}
	w.flag(m.settled)
	w.dur(m.again)
	w.str(m.why)
}

func (m *gauge) restore(r *reader, attn time.Duration) {
	m.Limit = config.Limit{Of: config.Quantity(r.u8()), Above: r.float(), Share: r.flag(), Below: r.float(), For: r.upTo(maxTime),
		Action: config.LimitAction(r.u8()), MemoryHigh: r.u64(), CPUQuota: r.float()}
	m.over, m.held, m.at, m.seen, m.value = r.flag(), r.upTo(maxTime), r.upTo(attn), r.flag(), r.float()
	for n := r.count(2 * usageParts); n > 0 && !r.bad; n-- {
		m.usage = append(m.usage, usage{r.upTo(maxTime), r.upTo(maxTime)})
	}
	m.settled, m.again, m.why = r.flag(), r.upTo(maxTime), r.str()
	if m.Of >= config.NumQuantities || m.Action > config.LimitThrottle {
		r.bad = true
	}
}

func (w *writer) float(v float64) { w.u64(math.Float64bits(v)) }

// float reads a finite number from 0 up.
func (r *reader) float() float64 {
	v := math.Float64frombits(r.u64())
	if !(v >= 0) || math.IsInf(v, 0) {
		r.bad = true
		return 0
	}
	return v
}
