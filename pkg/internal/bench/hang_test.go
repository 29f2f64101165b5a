package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestFigureHang lets clients stop beating one after the other, at points that are spread over many scans, and looks
// when they get SIGTERM. A client's deadline is its latest beat plus timeout plus margin. The daemon counts from the
// scan that saw the beat, so up to one interval later; it writes down by how much its own deadline was passed.
func TestFigureHang(t *testing.T) {
	if outside(t) {
		return
	}
	const hangs, timeout, margin, interval = 300, 2 * time.Second, time.Second, time.Second
	g := startGuard(t, dir(t), "[brake]\nenabled = false\n")
	c := startCrowd(t, hangs, int(timeout.Seconds()), 100*time.Millisecond, 10*time.Second)
	await(t, "300 clients with SIGTERM", g.tail, func() bool {
		for i := range c.notes {
			if c.notes[i].term.Load() == 0 {
				return false
			}
		}
		return true
	})
	early := 0
	var fromBeat []time.Duration
	for i := range c.notes {
		late := time.Duration(c.notes[i].term.Load()-c.notes[i].beat.Load()) - timeout - margin
		if late < 0 {
			early++
		}
		fromBeat = append(fromBeat, late)
	}
	row(t, "SIGTERM before timeout and margin", fmt.Sprintf("%d of %d", early, hangs), "0", early == 0)
	row(t, "hang lateness, cpactive, interval 1s: from the deadline of a client to its SIGTERM", spread(fromBeat), "one interval",
		quantile(fromBeat, 0.99) <= interval)

	var own []time.Duration
	text, err := os.ReadFile(g.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e struct {
			Event   string `json:"event"`
			Silence int64  `json:"silence_usec"`
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == "late" {
			own = append(own, time.Duration(e.Silence)*time.Microsecond-timeout-margin)
		}
	}
	row(t, "… from the daemon's own deadline (the look that saw the latest beat, plus timeout and margin) to its verdict", spread(own), "one interval", quantile(own, 1) <= interval)
}
