package watch

import (
	"crypto/sha256"
	"maps"
	"math"
	"slices"
	"time"
)

// Sum is the SHA-256 of a file's content.
type Sum = [sha256.Size]byte

// Snapshot is what one look found.
type Snapshot struct {
	Sums    map[string]Sum // of the files that are there, by path
	Missing []string       // files that are named without a pattern and are not there
	Problem string         // why not all could be looked at, "" if all could
}

// whole: an unlinked file that its editor is about to write anew is no change.
func (s *Snapshot) whole() bool { return len(s.Missing) == 0 && s.Problem == "" }

// Change is another content that has settled.
type Change struct {
	Added, Changed, Removed []string // paths, against the last change that was reported, each in order
	Back                    bool     // to the content that was in force last: nothing is to be done
}

// Files lists all paths of the change.
func (c *Change) Files() []string {
	return slices.Sorted(slices.Values(slices.Concat(c.Added, c.Changed, c.Removed)))
}

// Never is a time that does not come.
const Never = time.Duration(math.MaxInt64)

// Debouncer decides when to look at files, and whether a look is a change that has settled: nothing moved for the time
// to settle, or two looks that far apart saw the same. All times are of one clock that does not go back.
//
//	        Touch                 look: other content, and quiet for settle;
//	quiet ────────▶ moved ──────────────── or the same as one look before ───▶ Change ──▶ quiet
//	  ▲               │ ▲ │
//	  └─ same content ┘ └─┘ look: other content, and it still moves
//
// The first look that is whole is what all later ones are compared with.
type Debouncer struct {
	settle, patrol time.Duration

	begun   bool
	told    map[string]Sum // of the last change that was reported
	inForce map[string]Sum // of the last one that InForce was called for

	moved     bool          // Touch was called since the last quiet look
	touched   time.Duration // when last
	candidate map[string]Sum
	since     time.Duration // when the candidate was seen first
	next      time.Duration
}

// NewDebouncer wants a look at once, and then each patrol even where nothing was said to have moved.
func NewDebouncer(settle, patrol time.Duration) *Debouncer {
	return &Debouncer{settle: settle, patrol: patrol}
}

// Know says what was in force before the first look, which is compared with that then.
func (d *Debouncer) Know(sums map[string]Sum) { d.begun, d.told, d.inForce = true, sums, sums }

// Touch says that something may have changed.
func (d *Debouncer) Touch(now time.Duration) {
	d.moved, d.touched = true, now
	d.next = min(d.next, now+d.settle)
}

// Next is when the next look is wanted.
func (d *Debouncer) Next() time.Duration { return d.next }

// InForce says that the content of the last change is in force now: going back to it later is no change.
func (d *Debouncer) InForce() { d.inForce = d.told }

// Look takes in what a look found and says whether that is a change.
func (d *Debouncer) Look(now time.Duration, s Snapshot) (Change, bool) {
	quiet := d.moved && now-d.touched >= d.settle
	switch {
	case !s.whole():
		d.candidate = nil
		d.rest(now, quiet)
	case !d.begun:
		d.begun, d.told, d.inForce = true, s.Sums, s.Sums
		d.rest(now, true)
	case maps.Equal(s.Sums, d.told):
		d.candidate = nil
		d.rest(now, quiet)
	case quiet, d.candidate != nil && maps.Equal(s.Sums, d.candidate) && now-d.since >= d.settle:
		c := difference(d.told, s.Sums)
		c.Back = maps.Equal(s.Sums, d.inForce)
		d.told, d.candidate = s.Sums, nil
		d.rest(now, true)
		return c, true
	default:
		if d.candidate == nil || !maps.Equal(s.Sums, d.candidate) {
			d.candidate, d.since = s.Sums, now
		}
		d.next = max(now, d.since) + d.settle
	}
	return Change{}, false
}

// rest plans the next look; it is soon while something moves.
func (d *Debouncer) rest(now time.Duration, quiet bool) {
	if quiet || !d.moved {
		d.moved, d.next = false, now+d.patrol
		return
	}
	d.next = max(d.touched+d.settle, now+1)
}

func difference(before, after map[string]Sum) Change {
	var c Change
	for path, sum := range after {
		if was, ok := before[path]; !ok {
			c.Added = append(c.Added, path)
		} else if was != sum {
			c.Changed = append(c.Changed, path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			c.Removed = append(c.Removed, path)
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Changed)
	slices.Sort(c.Removed)
	return c
}
