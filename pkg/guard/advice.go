package guard

import (
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// gapsRemembered is how many gaps between beats are kept for each target.
const gapsRemembered = 32

// gapUnit is what gaps are counted in, 1.05 ms: a shift takes a third of the time
// of a division, and a scan in which 1000 beat notes 1000 gaps.
const (
	gapUnitShift = 20
	gapUnit      = time.Duration(1) << gapUnitShift
)

// gapRing holds the last gaps between the beats of one target, in units.
type gapRing [gapsRemembered]uint32

// lastGaps lists the gaps that are remembered of a target, the newest last.
func (g *Guard) lastGaps(ix int32) []time.Duration {
	var out []time.Duration
	n := g.targets[ix].gaps
	for i := n - min(n, gapsRemembered); i < n; i++ {
		out = append(out, time.Duration(g.rings[ix][i%gapsRemembered])*gapUnit)
	}
	return out
}

// noteGap takes note of a silence that a beat ended.
func (g *Guard) noteGap(ix int32, silent time.Duration) {
	t := &g.targets[ix]
	g.rings[ix][t.gaps%gapsRemembered] = uint32(min(silent>>gapUnitShift, math.MaxUint32))
	t.gaps++
	if t.gaps-t.folded == gapsRemembered {
		g.fold(ix)
	}
}

const (
	// Gaps are counted in buckets that grow by a fifth: bucket 4k+j holds those
	// from 2^k*(4+j)/4 times 134 ms on, for two hours; longer ones are in the last.
	gapShift    = 7 // 2^7 units
	gapBuckets  = 64
	gapSubShift = 2
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
	longest uint32 // units
	buckets [gapBuckets]uint32
}

// bucketOfGap is the bucket for a gap in units.
func bucketOfGap(gap uint32) int {
	if gap < 1<<gapShift {
		return 0
	}
	k := bits.Len32(gap) - 1 - gapShift
	sub := int(gap>>(k+gapShift-gapSubShift)) & (1<<gapSubShift - 1)
	return min(k<<gapSubShift+sub, gapBuckets-1)
}

// bucketEnd is the longest gap of a bucket, in units.
func bucketEnd(i int) uint32 {
	k, sub := i>>gapSubShift, i&(1<<gapSubShift-1)
	return uint32((1<<gapSubShift + sub + 1) << (k + gapShift - gapSubShift))
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

// fold counts a target's gaps that were not counted for its name yet.
func (g *Guard) fold(ix int32) {
	t := &g.targets[ix]
	if t.habit < 0 {
		t.folded = t.gaps - min(t.gaps, gapsRemembered-1) // counted once it has a name, as far as they are kept
		return
	}
	h := &g.habits[t.habit]
	for ; t.folded < t.gaps; t.folded++ {
		gap := g.rings[ix][t.folded%gapsRemembered]
		h.beats++
		h.longest = max(h.longest, gap)
		if n := &h.buckets[bucketOfGap(gap)]; *n < math.MaxUint32 {
			*n++
		}
	}
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
			return time.Duration(min(bucketEnd(i), h.longest)) * gapUnit
		}
	}
	return time.Duration(h.longest) * gapUnit
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
			Max: time.Duration(h.longest) * gapUnit}
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
