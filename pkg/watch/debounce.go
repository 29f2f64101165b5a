package watch

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Sum is the SHA-256 of a file's content.
type Sum = [sha256.Size]byte

// Snapshot is what one look found.
type Snapshot struct {
	Sums     map[string]Sum // of the files that are there, by path
	Missing  []string       // files that are named without a pattern and are not there
	Problems []string       // why not all could be looked at
	Written  uint64         // greater than at the look before if they were written since, be it with the same content
}

// whole: an unlinked file that its editor is about to write anew is no change.
func (s *Snapshot) whole() bool { return len(s.Missing)+len(s.Problems) == 0 }

// Change is another content that has settled.
type Change struct {
	Added, Changed, Removed []string // paths in order, against the last change; against what is in force where it is reported again
	Content                 Sum      // of all of it, see SumOf
	Written                 uint64   // another one if the files were written since it was told before, see Snapshot
}

// Files lists all paths of the change.
func (c *Change) Files() []string {
	return slices.Sorted(slices.Values(slices.Concat(c.Added, c.Changed, c.Removed)))
}

// Answer says what came of a change.
type Answer struct {
	InForce bool          // it is in force now
	Again   time.Duration // else it is to be reported again so much later, or what the files hold by then; 0: not before they change
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
// The first look that is whole is what all later ones are compared with. A change whose [Answer] says so is reported again.
type Debouncer struct {
	settle, patrol time.Duration

	begun   bool
	written uint64
	told    map[string]Sum // of the last change that was reported
	inForce map[string]Sum // of the last one that InForce was called for

	moved     bool          // Touch was called since the last quiet look
	touched   time.Duration // when last
	candidate map[string]Sum
	since     time.Duration // when the candidate was seen first
	next      time.Duration
	again     time.Duration // when the last change is to be reported again
}

// NewDebouncer wants a look at once, and then each patrol even where nothing was said to have moved.
func NewDebouncer(settle, patrol time.Duration) *Debouncer {
	return &Debouncer{settle: settle, patrol: patrol, again: Never}
}

// Know says what was in force before the first look, which is compared with that then. tell has that look reported also
// where it finds the same.
func (d *Debouncer) Know(sums map[string]Sum, tell bool) {
	d.begun, d.told, d.inForce = true, sums, sums
	if tell {
		d.again = 0
	}
}

// Touch says that something may have changed.
func (d *Debouncer) Touch(now time.Duration) {
	d.moved, d.touched = true, now
	d.next = min(d.next, now+d.settle)
}

// Next is when the next look is wanted.
func (d *Debouncer) Next() time.Duration { return min(d.next, d.again) }

// Answer says what came of the last change.
func (d *Debouncer) Answer(now time.Duration, a Answer) {
	d.again = Never
	switch {
	case a.InForce:
		d.inForce = d.told
	case a.Again > 0:
		d.again = now + a.Again
	}
}

// Look takes in what a look found and says whether that is a change.
func (d *Debouncer) Look(now time.Duration, s Snapshot) (Change, bool) {
	d.written = s.Written
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
		if now >= d.again {
			d.again = Never
			return d.change(d.inForce), true
		}
	case quiet, d.candidate != nil && maps.Equal(s.Sums, d.candidate) && now-d.since >= d.settle:
		before := d.told
		d.told, d.candidate, d.again = s.Sums, nil, Never
		d.rest(now, true)
		return d.change(before), true
	default:
		if d.candidate == nil || !maps.Equal(s.Sums, d.candidate) {
			d.candidate, d.since = s.Sums, now
		}
		d.next = max(now, d.since) + d.settle
	}
	if now >= d.again { // not what it was at the moment
		d.again = now + d.settle
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

// change is what the files hold now, with what they held before.
func (d *Debouncer) change(before map[string]Sum) Change {
	c := difference(before, d.told)
	c.Content, c.Written = SumOf(d.told), d.written
	return c
}

// SumOf has files and contents in one.
func SumOf(files map[string]Sum) Sum {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		sum := files[path]
		fmt.Fprintf(h, "%q %x\n", path, sum)
	}
	return Sum(h.Sum(nil))
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
