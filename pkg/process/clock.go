package process

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_MONOTONIC: it stands still in suspend and is never set.
func Now() time.Duration {
	var ts unix.Timespec
	// Cannot fail: the clock id is valid and the pointer is good.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// Ticks is the time since boot in clock ticks (1/100 s), as Facts.StartTime has it.
func Ticks() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // as above
	return uint64(ts.Nano() / 1e7)
}
