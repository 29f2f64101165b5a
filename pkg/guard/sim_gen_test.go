package guard

import (
	"math/rand/v2"
	"time"
)

// generate draws the schedule with a number: any actions, or such as bring a
// target into a state and have something happen to it there, or many stops of host
// and daemon in one silence.
func generate(seed, n uint64) schedule {
	r := rand.New(rand.NewPCG(seed, n))
	switch n % 8 {
	case 0:
		return scatter(r)
	case 1:
		return storm(r)
	case 2, 3:
		return duty(r)
	}
	return steer(r)
}

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

func any16(r *rand.Rand) uint16 { return uint16(r.Uint32()) }

// drawHost draws what the host is like; half have the default configuration.
func drawHost(r *rand.Rand) act {
	x := act{kind: actHost, a: uint16([]int{0, 0, 0, 0, 1, 2, 3}[r.IntN(7)]), b: any16(r), c: uint16(r.IntN(numVariants))}
	if r.IntN(2) == 0 {
		x.c = 0
	}
	return x
}

// scatter draws any actions.
func scatter(r *rand.Rand) schedule {
	list := schedule{drawHost(r)}
	for range 2 + r.IntN(5) {
		list = append(list, act{0, actStart, any16(r), any16(r), any16(r)})
	}
	for range r.IntN(30) {
		list = append(list, act{pause(r), actStart + kind(r.IntN(int(numKinds-actStart))), any16(r), any16(r), any16(r)})
	}
	return list
}

// storm draws a host that stands still again and again, with a daemon that does so
// or that is restarted: what hangs is found all the same, who beats is not.
func storm(r *rand.Rand) schedule {
	list := schedule{drawHost(r)}
	for range 1 + r.IntN(3) {
		list = append(list, act{0, actStart, any16(r), any16(r), any16(r) &^ (15 << 3)})
	}
	stops := []kind{actStall, actStall, actStall, actPause, actPause, actLateTicks, actLateTicks, actRestart, actDown, actBeat, actHang, actHang}
	for range 10 + r.IntN(40) {
		k := stops[r.IntN(len(stops))]
		x := act{time.Duration(r.IntN(1500)) * ms, k, any16(r), any16(r), 0}
		if k == actStall || k == actPause || k == actDown {
			x.a = uint16(r.IntN(len(lengths) - 3)) // up to 6 s
		}
		list = append(list, x)
	}
	return list
}
