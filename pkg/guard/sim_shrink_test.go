package guard

import (
	"slices"
	"time"
)

// shrinkTries bounds the runs that shrinking takes.
const shrinkTries = 5000

// shrink makes a schedule smaller that fails a check: without some of its actions,
// and with smaller numbers.
func shrink(list schedule, check string) schedule {
	tries := 0
	fails := func(l schedule) bool {
		tries++
		s := runSchedule(l, new(coverage), new(figures))
		return s.found != nil && s.found.check == check
	}
	for changed := true; changed && tries < shrinkTries; {
		changed = false
		for size := len(list); size > 0; size /= 2 {
			for at := 0; at+size <= len(list); {
				less, ok := without(list, at, size, fails)
				if list = less; ok {
					changed = true
				} else {
					at++
				}
			}
		}
		for i := range list {
			for _, simpler := range []func(x *act){
				func(x *act) { x.a = 0 }, func(x *act) { x.b = 0 }, func(x *act) { x.c = 0 },
				func(x *act) { x.a &= 15 }, func(x *act) { x.b &= 0xff }, func(x *act) { x.c &= 0xff },
				func(x *act) { x.pause = 0 }, func(x *act) { x.pause = x.pause / 2 / sec * sec }, func(x *act) { x.pause = x.pause / sec * sec },
			} {
				less := slices.Clone(list)
				if simpler(&less[i]); less[i] != list[i] && fails(less) {
					list, changed = less, true
				}
			}
		}
	}
	return list
}

// without leaves some actions out, with their pauses or without them, if what is
// left still fails.
func without(list schedule, at, size int, fails func(schedule) bool) (schedule, bool) {
	less := slices.Delete(slices.Clone(list), at, at+size)
	if fails(less) {
		return less, true
	}
	var gone time.Duration
	for _, x := range list[at : at+size] {
		gone += x.pause
	}
	if at == len(less) || gone == 0 {
		return list, false
	}
	if less[at].pause += gone; fails(less) {
		return less, true
	}
	return list, false
}
