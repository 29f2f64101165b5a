package bench

import (
	"fmt"
	"testing"
	"time"
)

// TestFigureStart measures from just before the fork to READY=1.
func TestFigureStart(t *testing.T) {
	if outside(t) {
		return
	}
	measure := func(what string, fresh bool) {
		const rounds = 15
		var all []time.Duration
		d := dir(t)
		for range rounds {
			if fresh {
				d = dir(t)
			}
			g := startGuard(t, d, "")
			all = append(all, g.ready)
			if !fresh {
				g.awaitEvents(t, "started", 1)
				time.Sleep(1500 * time.Millisecond) // second look: all are latched
			}
			g.stop(t)
		}
		row(t, "start to READY=1, "+what, fmt.Sprintf("median %s, max %s (%d)", short(median(all)), short(quantile(all, 1)), rounds), "50 ms", median(all) <= 50*time.Millisecond)
	}
	measure("empty table", true)
	startCrowd(t, clients, 30, time.Second, 0)
	measure("1000 live records", true)
	measure("1000 live records, all known from before (a restart)", false)
}
