package guard

import (
	"math"
	"slices"
	"strings"
	"time"
)

// gapsRemembered is how many gaps between beats are kept for each target.
const gapsRemembered = 32

// gapCode is a length of time as the upper half of its float32 in ns (bfloat16): 2
// bytes for all from 1 ns to years, exact to 0.4 %. A scan in which 1000 targets beat
// notes 1000 of them.
type gapCode uint16

const codeBits = 16 // of a float32 that a code leaves out

func codeOf(d time.Duration) gapCode { return gapCode(math.Float32bits(float32(d)) >> codeBits) }

// duration is the middle of what a code stands for.
func (c gapCode) duration() time.Duration {
	return time.Duration(math.Float32frombits(uint32(c)<<codeBits | 1<<(codeBits-1)))
}

// lastGaps lists the gaps that are remembered of a target, the newest last.
func (g *Guard) lastGaps(ix int32) []time.Duration {
	var out []time.Duration
	n := g.targets[ix].gaps
	for i := n - min(n, gapsRemembered); i < n; i++ {
		out = append(out, g.targets[ix].ring[i%gapsRemembered].duration().Round(time.Millisecond))
	}
	return out
}

// note takes note of a gap between two beats, inlined into the path of each beat. It
// is false when the gap is like neither of those that are being counted.
func (t *target) note(c gapCode) bool {
	t.ring[t.gaps%gapsRemembered] = c
	t.gaps++
	switch c {
	case t.alike[0]:
		t.run[0]++
		return true
	case t.alike[1]:
		t.run[1]++
		return true
	}
	return false
}

// noteGap takes note of a silence that a beat ended. Scans make two lengths of what a
// program does regularly: both are counted in the target, and all at once for its name
// when a third comes.
func (g *Guard) noteGap(ix int32, silent time.Duration) {
	if c := codeOf(silent); !g.targets[ix].note(c) {
		g.countAnew(ix, c)
	}
}

// countAnew begins to count gaps like c, in the place of the older ones.
func (g *Guard) countAnew(ix int32, c gapCode) {
	t := &g.targets[ix]
	g.foldRun(t, 1)
	t.alike[1], t.run[1] = t.alike[0], t.run[0]
	t.alike[0], t.run[0] = c, 1
}

const (
	// Gaps are counted in buckets of which four double: a code without its last five
	// digits, from that of 2^27 ns (134 ms) on, for two hours; what is shorter or
	// longer is in the first or the last.
	gapBuckets  = 64
	bucketBits  = 5
	firstBucket = (127 + 27) << 2
	// maxHabits bounds the names that are counted: a writer of the table chooses
	// them. 300 bytes each.
	maxHabits = 1024
	// adviceMin is how many gaps an advice needs.
	adviceMin = 100
	// wantsFactor is how many times the 99.9th percentile a timeout should be, and
	// loose how many times that makes one needlessly long.
	wantsFactor = 3
	loose       = 4
)

// habit is how programs of one name have beaten.
type habit struct {
	name    string
	beats   uint64
	longest gapCode
	buckets [gapBuckets]uint32
	filled  uint64 // bit i: buckets[i] is not 0
}

// bucket is where a gap is counted.
func (c gapCode) bucket() int {
	return min(max(int(c>>bucketBits)-firstBucket, 0), gapBuckets-1)
}

// bucketEnd is the longest gap of a bucket.
func bucketEnd(i int) time.Duration {
	return time.Duration(math.Float32frombits(uint32(i+1+firstBucket) << (bucketBits + codeBits)))
}

// findHabit has a target's gaps counted for its name.
func (g *Guard) findHabit(ix int32) {
	t := &g.targets[ix]
	name := t.displayName()
	at, ok := g.habitOf[name]
	switch {
	case ok:
	case len(g.habits) < maxHabits:
		at = int32(len(g.habits))
		g.habits = append(g.habits, habit{name: name})
		g.habitOf[name] = at
	default:
		// The first that nobody of today has is given up.
		live := make([]bool, maxHabits)
		for i := range g.targets {
			if o := &g.targets[i]; o.used && o.habit >= 0 {
				live[o.habit] = true
			}
		}
		free := slices.Index(live, false)
		if free < 0 {
			return
		}
		at = int32(free)
		delete(g.habitOf, g.habits[at].name)
		g.habits[at] = habit{name: name}
		g.habitOf[name] = at
	}
	t.habit = at
}

// fold counts the gaps of a target for its name that were not counted yet.
func (g *Guard) fold(ix int32) {
	t := &g.targets[ix]
	g.foldRun(t, 0)
	g.foldRun(t, 1)
}

// foldRun counts gaps that are alike. Those of a target without a name are not counted.
func (g *Guard) foldRun(t *target, i int) {
	if t.habit >= 0 && t.run[i] > 0 {
		h := &g.habits[t.habit]
		h.count(t.alike[i].bucket(), t.run[i])
		h.beats += uint64(t.run[i])
		h.longest = max(h.longest, t.alike[i])
	}
	t.run[i] = 0
}

// count adds gaps to a bucket, which is full at 2^32-1.
func (h *habit) count(bucket int, n uint32) {
	h.buckets[bucket] += min(n, math.MaxUint32-h.buckets[bucket])
	h.filled |= 1 << bucket
}

func (g *Guard) foldAll() {
	for ix := range g.targets {
		if g.targets[ix].used {
			g.fold(int32(ix))
		}
	}
}

// percentile is a gap that permille of 1000 gaps do not exceed, at most a quarter
// too long.
func (h *habit) percentile(permille uint64) time.Duration {
	want := (h.beats*permille + 999) / 1000
	var seen uint64
	for i, n := range h.buckets {
		if seen += uint64(n); seen >= want && seen > 0 {
			if i == gapBuckets-1 {
				break
			}
			return min(bucketEnd(i), h.longest.duration())
		}
	}
	return h.longest.duration()
}

// Advice says how the programs of one name beat, and what timeout they want.
type Advice struct {
	Name    string
	Targets int           // of today
	Beats   uint64        // gaps counted, since the registry began
	P50     time.Duration // of the gaps between beats, as P99, P999 and Max
	P99     time.Duration
	P999    time.Duration
	Max     time.Duration
	Timeout time.Duration // the shortest in force; 0: none
	Wants   time.Duration // three times P999, rounded up
	Verdict string        // raise, lower, keep, too-few (beats), none (no timeout in force)
}

// Advice lists what is known of each name, in their order.
func (g *Guard) Advice() []Advice {
	g.foldAll()
	out := make([]Advice, len(g.habits))
	for i := range g.habits {
		h := &g.habits[i]
		out[i] = Advice{Name: h.name, Beats: h.beats, P50: h.percentile(500), P99: h.percentile(990), P999: h.percentile(999),
			Max: h.longest.duration()}
	}
	for ix := range g.targets {
		t := &g.targets[ix]
		if !t.used || t.habit < 0 || t.state == Ended {
			continue
		}
		a := &out[t.habit]
		a.Targets++
		if t.limit > 0 && (a.Timeout == 0 || t.limit < a.Timeout) {
			a.Timeout = t.limit
		}
	}
	for i := range out {
		out[i].advise()
	}
	slices.SortFunc(out, func(a, b Advice) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (a *Advice) advise() {
	a.Wants = roundTimeout(max(wantsFactor*a.P999, a.Max))
	switch {
	case a.Beats < adviceMin:
		a.Verdict, a.Wants = "too-few", 0
	case a.Timeout == 0:
		a.Verdict = "none"
	case a.Timeout < a.Wants:
		a.Verdict = "raise"
	case a.Timeout > loose*a.Wants:
		a.Verdict = "lower"
	default:
		a.Verdict = "keep"
	}
}

// roundTimeout rounds up to what a person would write down.
func roundTimeout(d time.Duration) time.Duration {
	steps := [...]time.Duration{1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400}
	for _, s := range steps {
		if s*time.Second >= d {
			return s * time.Second
		}
	}
	return d.Truncate(time.Hour) + time.Hour
}
