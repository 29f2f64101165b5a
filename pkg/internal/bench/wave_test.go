package bench

import (
	"fmt"
	"testing"
	"time"
)

// TestFigureWave ends 1000 clients that ignore SIGTERM at once. The graces of all do not end at the same moment: before
// each verdict a process's consent is asked anew.
func TestFigureWave(t *testing.T) {
	if outside(t) {
		return
	}
	const grace = 2 * time.Second
	config := fmt.Sprintf("[brake]\nenabled = false\n[ladder]\nmax_concurrent = %d\nsteps = [ { signal = \"SIGTERM\", wait = %q }, { signal = \"SIGKILL\", wait = \"5s\" } ]\n", clients, grace)
	g := startGuard(t, dir(t), config)
	var own, last, terms []time.Duration
	for range 7 {
		c := startCrowd(t, clients, 1, 0, 0)
		await(t, "end of all", g.tail, func() bool { return c.dead() == clients })
		first, latest, end, worst := c.notes[0].term.Load(), int64(0), int64(0), int64(0)
		for i := range c.notes {
			term, exit := c.notes[i].term.Load(), c.notes[i].exit.Load()
			first, latest, end = min(first, term), max(latest, term), max(end, exit)
			worst = max(worst, exit-term)
		}
		own = append(own, time.Duration(worst)-grace)
		last = append(last, time.Duration(end-latest)-grace)
		terms = append(terms, time.Duration(latest-first))
		c.end(t)
	}
	write := func(all []time.Duration) string {
		return fmt.Sprintf("median %s, max %s (%d rounds)", short(median(all)), short(quantile(all, 1)), len(all))
	}
	row(t, "1000 that ignore SIGTERM: all dead and reaped after the end of the last grace", write(last), "60 ms", median(last) <= 60*time.Millisecond)
	note(t, "… the slowest of them, after the end of its own grace", write(own))
	note(t, "… from the first SIGTERM to the last", write(terms))
}
