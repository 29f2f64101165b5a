package bench

import (
	"fmt"
	"testing"
	"time"
)

// TestFigureWave ends 1000 clients that ignore SIGTERM all at once.
func TestFigureWave(t *testing.T) {
	if outside(t) {
		return
	}
	const grace = 2 * time.Second
	config := fmt.Sprintf("[brake]\nenabled = false\n[ladder]\nmax_concurrent = %d\nsteps = [ { signal = \"SIGTERM\", wait = %q }, { signal = \"SIGKILL\", wait = \"5s\" } ]\n", clients, grace)
	d := dir(t)
	g := startGuard(t, d, config)
	var afterFirst, afterLast, terms []time.Duration
	for range 7 {
		c := startCrowd(t, clients, 1, 0, 0)
		await(t, "end of all", g.tail, func() bool { return c.dead() == clients })
		first, last, end := c.notes[0].term.Load(), int64(0), int64(0)
		for i := range c.notes {
			n := &c.notes[i]
			first, last, end = min(first, n.term.Load()), max(last, n.term.Load()), max(end, n.exit.Load())
		}
		terms = append(terms, time.Duration(last-first))
		afterFirst = append(afterFirst, time.Duration(end-first)-grace)
		afterLast = append(afterLast, time.Duration(end-last)-grace)
		c.end(t)
	}
	write := func(all []time.Duration) string {
		return fmt.Sprintf("median %s, max %s (%d rounds)", short(median(all)), short(quantile(all, 1)), len(all))
	}
	row(t, "1000 that ignore SIGTERM: from the end of the first one's grace until all are dead and reaped", write(afterFirst), "60 ms", median(afterFirst) <= 60*time.Millisecond)
	note(t, "… from the end of the last one's grace", write(afterLast))
	note(t, "… from the first SIGTERM to the last", write(terms))
}
