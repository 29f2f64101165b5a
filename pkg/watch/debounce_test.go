package watch

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const sec = time.Second

func snap(contents ...string) Snapshot {
	s := Snapshot{Sums: map[string]Sum{}}
	for i, c := range contents {
		if c != "" {
			s.Sums[fmt.Sprintf("/%c", 'a'+i)] = Sum{c[0]}
		}
	}
	return s
}

// steps are what a debouncer is told; want is "" for no change.
type step struct {
	at    time.Duration
	touch bool
	snap  Snapshot
	want  string
	next  time.Duration
}

func describe(d *Debouncer, c Change, is bool) string {
	if !is {
		return ""
	}
	text := fmt.Sprint(c.Added, c.Changed, c.Removed)
	if c.Content == SumOf(d.inForce) {
		text += " back"
	}
	return text
}

func told(d *Debouncer) func(Change, bool) string {
	return func(c Change, is bool) string { return describe(d, c, is) }
}

func TestDebouncer(t *testing.T) {
	for name, steps := range map[string][]step{
		"nothing": {{at: 0, snap: snap("1"), next: 30 * sec}, {at: 30 * sec, snap: snap("1"), next: 60 * sec}},
		"written and quiet": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("2"), want: "[] [/a] []", next: 37 * sec},
		},
		"still being written": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 6 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("2"), next: 9 * sec},
			{at: 8 * sec, touch: true, next: 9 * sec},
			{at: 9 * sec, snap: snap("3"), next: 11 * sec},
			{at: 11 * sec, snap: snap("3"), want: "[] [/a] []", next: 41 * sec},
		},
		"others move in the directory all the time": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7*sec - 1, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("2"), next: 9 * sec},
			{at: 9*sec - 1, touch: true, next: 9 * sec},
			{at: 9 * sec, snap: snap("2"), want: "[] [/a] []", next: 39 * sec},
		},
		"no notice of it": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 30 * sec, snap: snap("2"), next: 32 * sec},
			{at: 32 * sec, snap: snap("2"), want: "[] [/a] []", next: 62 * sec},
		},
		"the same again": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("1"), next: 37 * sec},
		},
		"gone for a moment": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: Snapshot{Missing: []string{"/a"}}, next: 37 * sec},
			{at: 8 * sec, touch: true, next: 10 * sec},
			{at: 10 * sec, snap: snap("2"), want: "[] [/a] []", next: 40 * sec},
		},
		"not there at first": {
			{at: 0, snap: Snapshot{Missing: []string{"/a"}}, next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("1"), next: 37 * sec},
			{at: 37 * sec, snap: snap("2"), next: 39 * sec},
		},
		"unreadable": {
			{at: 0, snap: snap("1"), next: 30 * sec},
			{at: 30 * sec, snap: Snapshot{Problems: []string{"input/output error"}, Sums: snap().Sums}, next: 60 * sec},
			{at: 60 * sec, snap: snap("1"), next: 90 * sec},
		},
		"comes and goes": {
			{at: 0, snap: snap("1", "1"), next: 30 * sec},
			{at: 5 * sec, touch: true, next: 7 * sec},
			{at: 7 * sec, snap: snap("1", "2", "3"), want: "[/c] [/b] []", next: 37 * sec},
			{at: 8 * sec, touch: true, next: 10 * sec},
			{at: 10 * sec, snap: snap("", "2", "3"), want: "[] [] [/a]", next: 40 * sec},
			{at: 11 * sec, touch: true, next: 13 * sec},
			{at: 13 * sec, snap: snap("1", "1"), want: "[/a] [/b] [/c] back", next: 43 * sec},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDebouncer(2*sec, 30*sec)
			for _, s := range steps {
				if s.touch {
					d.Touch(s.at)
				} else if got := told(d)(d.Look(s.at, s.snap)); got != s.want {
					t.Errorf("at %v: %q, want %q", s.at, got, s.want)
				}
				if d.Next() != s.next {
					t.Errorf("at %v: next look at %v, want %v", s.at, d.Next(), s.next)
				}
			}
		})
	}
}

func TestBack(t *testing.T) {
	d := NewDebouncer(sec, 30*sec)
	change := func(at time.Duration, content string) string {
		d.Touch(at)
		return told(d)(d.Look(at+sec, snap(content)))
	}
	d.Look(0, snap("1"))
	if got := change(10*sec, "2"); got != "[] [/a] []" {
		t.Error(got)
	}
	d.Answer(11*sec, Answer{InForce: true})
	if got := change(20*sec, "1"); got != "[] [/a] []" { // that is in force no longer
		t.Error(got)
	}
	if got := change(30*sec, "2"); got != "[] [/a] [] back" {
		t.Error(got)
	}
	if got := (&Change{Added: []string{"/c"}, Changed: []string{"/a"}, Removed: []string{"/b"}}).Files(); !cmp.Equal(got, []string{"/a", "/b", "/c"}) {
		t.Error(got)
	}
}

// TestPending: a change is told again when its time has come, not while something moves, and no more once it is in force, or
// the files went back.
func TestPending(t *testing.T) {
	d := NewDebouncer(2*sec, 30*sec)
	look := func(at time.Duration, content, want string, next time.Duration) {
		t.Helper()
		if got := told(d)(d.Look(at, snap(content))); got != want {
			t.Errorf("at %v: %q, want %q", at, got, want)
		}
		if d.Next() != next {
			t.Errorf("at %v: next look at %v, want %v", at, d.Next(), next)
		}
	}
	d.Look(0, snap("1"))
	d.Touch(5 * sec)
	look(7*sec, "2", "[] [/a] []", 37*sec)
	d.Answer(7*sec, Answer{Again: 5 * sec})
	look(10*sec, "2", "", 12*sec)
	look(12*sec, "2", "[] [/a] []", 42*sec)
	d.Answer(12*sec, Answer{Again: 5 * sec})
	d.Touch(17*sec - 1)
	look(17*sec, "3", "", 19*sec)
	look(19*sec, "2", "[] [/a] []", 49*sec)
	d.Answer(19*sec, Answer{Again: 5 * sec})
	look(24*sec, "2", "[] [/a] []", 54*sec)
	d.Answer(24*sec, Answer{InForce: true})
	look(54*sec, "2", "", 84*sec)
	d.Touch(55 * sec)
	look(57*sec, "3", "[] [/a] []", 87*sec)
	d.Answer(57*sec, Answer{Again: 5 * sec})
	d.Touch(58 * sec)
	look(60*sec, "2", "[] [/a] [] back", 90*sec)
	d.Answer(60*sec, Answer{InForce: true})
	look(90*sec, "2", "", 120*sec)
}

// TestDebouncerProperties writes to files at random times, in random order, all with notices or all without: what is
// reported has stood still for the time to settle, or was seen twice that far apart; it is never reported twice, and what stands at the end is reported.
func TestDebouncerProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const settle, patrol = 2 * sec, 30 * sec
		d := NewDebouncer(settle, patrol)
		content := []string{"1", "1", ""}
		var written time.Duration // when the content last changed
		var told Snapshot
		var same Snapshot // what the last looks saw, all of them since
		var since time.Duration
		first := true
		now := time.Duration(0)
		look := func() {
			now = max(now, d.Next())
			before := d.Next()
			s := snap(content...)
			c, is := d.Look(now, s)
			if d.Next() <= now {
				t.Fatalf("at %v it wants a look at %v, after one at %v", now, d.Next(), before)
			}
			if d.Next() > now+patrol {
				t.Fatalf("at %v it wants no look before %v", now, d.Next())
			}
			switch {
			case first:
				first, told = false, s
			case is && maps.Equal(s.Sums, told.Sums):
				t.Fatalf("at %v: %v is reported twice", now, c)
			case is && now-written < settle && (!maps.Equal(s.Sums, same.Sums) || now-since < settle):
				t.Fatalf("at %v: reported %v after the last write, %v after a look that saw the same", now, now-written, now-since)
			case is:
				told = s
			}
			if !maps.Equal(s.Sums, same.Sums) {
				same, since = s, now
			}
		}
		look()
		notices := rapid.Bool().Draw(t, "notices")
		for range rapid.IntRange(1, 40).Draw(t, "writes") {
			wait := time.Duration(rapid.IntRange(1, 5000).Draw(t, "wait")) * time.Millisecond
			for d.Next() <= now+wait {
				wait -= d.Next() - now
				look()
			}
			now += max(wait, 0)
			i := rapid.IntRange(0, 2).Draw(t, "file")
			if c := rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "content"); c != content[i] {
				content[i], written = c, now
			}
			if notices {
				// The notice comes at once, or a little later.
				now += time.Duration(rapid.IntRange(0, 50).Draw(t, "late")) * time.Millisecond
				d.Touch(now)
			}
		}
		for now < written+patrol+2*settle {
			look()
		}
		if !maps.Equal(told.Sums, snap(content...).Sums) {
			t.Fatalf("what stands since %v is not reported at %v", written, now)
		}
	})
}

// TestDebouncerTells: what is known to be in force is reported at the first look where that is wanted, and once.
func TestDebouncerTells(t *testing.T) {
	for _, tell := range []bool{false, true} {
		d := NewDebouncer(sec, 30*sec)
		d.Know(snap("1").Sums, tell)
		c, is := d.Look(0, snap("1"))
		if is != tell || tell && c.Content != SumOf(snap("1").Sums) {
			t.Errorf("tell %v: the first look is reported: %v, %+v", tell, is, c)
		}
		if c, is := d.Look(30*sec, snap("1")); is {
			t.Errorf("tell %v: the second look is reported: %+v", tell, c)
		}
	}
}
