package guard

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// census counts what is to be seen.
func census(views []View) Census {
	n := Census{Used: map[TableID]int{}, Live: map[TableID]int{}}
	for _, v := range views {
		switch v.State {
		case "refused":
			n.Refused++
		case "foreign":
			n.Foreign++
		}
		if len(v.Limits) > 0 {
			n.Limited++
		}
		if len(v.Slots) > 0 {
			n.Used[v.Table] += len(v.Slots)
		}
		if len(v.Slots) > 0 && v.Target {
			n.Live[v.Table] += len(v.Slots)
		}
	}
	return n
}

// sameSeen checks that what is counted, and what a user sees, is what is listed.
func (w *world) sameSeen() {
	w.t.Helper()
	all := w.g.Views()
	if diff := cmp.Diff(census(all), w.g.Census()); diff != "" {
		w.t.Errorf("the census (-listed +counted):\n%s\n%s", diff, w)
	}
	for _, uid := range []uint32{0, 1000, 1001} {
		own := slices.DeleteFunc(slices.Clone(all), func(v View) bool { return v.UID != uid })
		if diff := cmp.Diff(own, w.g.ViewsOf(uid)); len(own)+len(w.g.ViewsOf(uid)) > 0 && diff != "" {
			w.t.Errorf("of user %d (-listed +his):\n%s\n%s", uid, diff, w)
		}
	}
}

// TestViewsOf: users see their own, and records of nobody are root's.
func TestViewsOf(t *testing.T) {
	w := newWorld(t)
	for pid, uid := range map[int32]uint32{110: 1000, 111: 1001, 112: 1001} {
		w.client(pid, "c", 30, 10*sec).facts.UID = uid
	}
	w.tb().records[30] = record(111, "c", 30, 1) // a second one
	w.tb().records[31] = record(4000, "nobody", 30, 1)
	w.run(5 * sec)
	w.sameSeen()
	for uid, want := range map[uint32][]int32{0: {4000}, 1000: {110}, 1001: {111, 112}, 1002: nil} {
		var pids []int32
		for _, v := range w.g.ViewsOf(uid) {
			pids = append(pids, v.PID)
		}
		if slices.Sort(pids); !slices.Equal(pids, want) {
			t.Errorf("user %d sees %v, want %v", uid, pids, want)
		}
	}
}

// TestSeenCheaply: what anybody may ask for does not cost the loop a view of each
// target, nor an order for one a look at all.
func TestSeenCheaply(t *testing.T) {
	w, _ := thousand(t)
	for pid := int32(1000); pid < 1900; pid++ {
		if _, err := w.g.Hold(HoldOrder{PID: pid, For: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(20, func() { w.g.Census() }); n > 20 {
		t.Errorf("the census allocates %v times", n)
	}
	if n := testing.AllocsPerRun(20, func() { w.g.ViewsOf(4711) }); n > 20 {
		t.Errorf("the list of a user without targets allocates %v times", n)
	}
	for _, v := range w.g.Holds() {
		if v.Targets != 1 {
			t.Fatalf("%+v", v)
		}
	}
	if allocs := testing.AllocsPerRun(20, func() { w.g.Holds() }); allocs > 20 {
		t.Errorf("the list of orders allocates %v times", allocs)
	}
}

func BenchmarkViews(b *testing.B) {
	w, _ := thousand(b)
	for pid := int32(1000); pid < 1900; pid++ {
		if _, err := w.g.Hold(HoldOrder{PID: pid, For: time.Hour}); err != nil {
			b.Fatal(err)
		}
	}
	for name, do := range map[string]func(){
		"all": func() { w.g.Views() }, "of a stranger": func() { w.g.ViewsOf(4711) }, "census": func() { w.g.Census() }, "holds": func() { w.g.Holds() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}
