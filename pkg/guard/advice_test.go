package guard

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestGapBuckets: each gap lies in its bucket, and the buckets follow one another.
func TestGapBuckets(t *testing.T) {
	for i := range gapBuckets - 1 {
		if end := bucketEnd(i); codeOf(end-end/100).bucket() != i || codeOf(end).bucket() != i+1 {
			t.Fatalf("bucket %d ends at %v, which is in %d, and what is before in %d", i, end, codeOf(end).bucket(), codeOf(end-end/100).bucket())
		}
	}
	if codeOf(0).bucket() != 0 || codeOf(never).bucket() != gapBuckets-1 {
		t.Error("the ends")
	}
	if end := bucketEnd(gapBuckets - 2); end < 2*time.Hour-20*time.Minute {
		t.Errorf("the last is from %v on", end)
	}
}

// TestGapCode: a code is exact to 0.4 %.
func TestGapCode(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := time.Duration(rapid.Int64Range(1000, int64(maxTime)).Draw(r, "gap"))
		if c := codeOf(d); (c.duration()-d).Abs() > d/250 || codeOf(c.duration()) != c {
			r.Errorf("%v is kept as %v", d, c.duration())
		}
	})
}

// TestPercentile compares with the sorted gaps.
func TestPercentile(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r)
		p := w.client(110, "c", 0, 0)
		w.run(5 * sec)
		gaps := rapid.SliceOfN(rapid.Uint32Range(200, 7_000_000), 1, 300).Draw(r, "gaps")
		for _, ms := range gaps {
			ix := w.g.byPID[p.pid]
			w.g.noteGap(ix, time.Duration(ms)*time.Millisecond)
		}
		a := w.g.Advice()[0]
		if int(a.Beats) != len(gaps) || (a.Max-time.Duration(maxOf(gaps))*time.Millisecond).Abs() > a.Max/200 {
			r.Fatalf("%+v of %v", a, gaps)
		}
		for _, x := range []struct {
			permille int
			got      time.Duration
		}{{500, a.P50}, {990, a.P99}, {999, a.P999}} {
			below, under := 0, 0
			for _, ms := range gaps {
				if time.Duration(ms)*time.Millisecond <= x.got+x.got/200 {
					below++
				}
				if time.Duration(ms)*time.Millisecond <= x.got*79/100 {
					under++
				}
			}
			want := (len(gaps)*x.permille + 999) / 1000
			if below < want || under >= want {
				r.Errorf("%d ‰ is %v: %d of %d are not longer, %d clearly shorter", x.permille, x.got, below, len(gaps), under)
			}
		}
	})
}

func maxOf(list []uint32) uint32 {
	var m uint32
	for _, x := range list {
		m = max(m, x)
	}
	return m
}

func TestAdvice(t *testing.T) {
	w := newWorld(t)
	w.client(110, "tight", 10, 9*sec)
	w.client(111, "fine", 20, 5*sec)
	w.client(112, "fine", 30, 5*sec)
	w.client(113, "loose", 600, 5*sec)
	w.client(114, "new", 10, 5*sec)
	w.client(115, "free", 0, 5*sec)
	w.in(20*time.Minute, func() { w.procs[114].exit(true) })
	w.in(2*time.Minute, func() { w.procs[114].hang(); w.procs[114].state = 'T' })
	check := func() {
		t.Helper()
		got := map[string]Advice{}
		for _, a := range w.g.Advice() {
			got[a.Name] = a
		}
		for name, want := range map[string]struct {
			verdict        string
			timeout, wants time.Duration
			targets        int
		}{
			"tight": {"raise", 10 * sec, 30 * sec, 1}, "fine": {"keep", 20 * sec, 20 * sec, 2}, "loose": {"lower", 600 * sec, 20 * sec, 1},
			"new": {"too-few", 0, 0, 0}, "free": {"none", 0, 20 * sec, 1},
		} {
			if a := got[name]; a.Verdict != want.verdict || a.Timeout != want.timeout || a.Wants != want.wants || a.Targets != want.targets {
				t.Errorf("%s: %+v", name, a)
			}
		}
		if a := got["fine"]; a.P50 < 4*sec || a.P50 > 7*sec || a.Beats < 400 {
			t.Errorf("%+v", a)
		}
	}
	w.run(25 * time.Minute)
	check()
	w.restart()
	w.run(sec)
	check() // what was learned is kept
}

// TestHabitsAreBounded has one program after the other register under a name of
// its own; what a live one does is not forgotten for them.
func TestHabitsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.client(90, "stays", 10, 5*sec)
	for i := range 3 * maxHabits / 90 {
		var gone []*proc
		for k := range 90 {
			gone = append(gone, w.client(int32(1000+100*i+k), string([]byte{'a' + byte(i%26), 'a' + byte(i/26), 'A' + byte(k%26), 'A' + byte(k/26)}), 10, 5*sec))
		}
		w.run(3 * sec)
		for _, p := range gone {
			p.exit(true)
		}
		w.run(8 * sec)
	}
	if n := len(w.g.habits); n != maxHabits || len(w.g.habitOf) != n {
		t.Errorf("%d names, %d", n, len(w.g.habitOf))
	}
	for _, a := range w.g.Advice() {
		if a.Name == "stays" && a.Targets == 1 && a.Beats > 50 {
			return
		}
	}
	t.Error("the live one was forgotten")
}
