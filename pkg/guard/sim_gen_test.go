package guard

import (
	"math/rand/v2"
	"time"
)

// pause draws the time between two actions: often none, rarely long.
func pause(r *rand.Rand) time.Duration {
	switch r.IntN(8) {
	case 0, 1:
		return 0
	case 2, 3:
		return time.Duration(r.IntN(1000)) * ms
	case 7:
		return time.Duration(r.IntN(20000)) * ms
	default:
		return time.Duration(r.IntN(5000)) * ms
	}
}

func some16(r *rand.Rand) uint16 { return uint16(r.Uint32()) }

// host draws what the host is like.
func host(r *rand.Rand) act {
	x := act{kind: actHost, a: uint16([]int{0, 0, 0, 0, 1, 2, 3}[r.IntN(7)]), b: some16(r), c: uint16(r.IntN(numVariants))}
	if r.IntN(2) == 0 {
		x.c = 0
	}
	return x
}

// scatter draws any actions.
func scatter(r *rand.Rand) schedule {
	list := schedule{host(r)}
	for range 2 + r.IntN(5) {
		list = append(list, act{0, actStart, some16(r), some16(r), some16(r)})
	}
	for range r.IntN(30) {
		list = append(list, act{pause(r), actStart + kind(r.IntN(int(numKinds-actStart))), some16(r), some16(r), some16(r)})
	}
	return list
}

// steer draws actions that bring some targets into chosen states, and then has
// something happen to them.
func steer(r *rand.Rand) schedule {
	return scatter(r)
}
