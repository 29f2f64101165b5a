package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestLimitsSeen: what is exceeded, and what is done about it, is to be seen while it is, and not before and after.
func TestLimitsSeen(t *testing.T) {
	throttled := threadsAbove(100, config.LimitThrottle)
	throttled.MemoryHigh = 400 << 20
	w, _, threads := limited(t, throttled, threadsAbove(120, config.LimitReport), threadsAbove(200, config.LimitReport))
	check := func(limits, units string) {
		t.Helper()
		var list []string
		for _, x := range w.g.Throttled() {
			list = append(list, x.Unit+" "+x.Has+" "+x.Had)
		}
		if got := strings.Join(w.view(110).Limits, ", "); got != limits || strings.Join(list, ", ") != units {
			t.Errorf("%q, %q; want %q, %q", got, list, limits, units)
		}
	}
	check("", "")
	*threads = 150
	w.run(20 * sec)
	check("", "")
	w.run(30 * sec)
	check("threads 150 > 100: throttle, threads 150 > 120: report", "c.service MemoryHigh=400MiB MemoryHigh=infinity")
	*threads = 105
	w.run(30 * sec)
	check("threads 105 > 100: throttle", "c.service MemoryHigh=400MiB MemoryHigh=infinity")
	*threads = 50
	w.run(30 * sec)
	check("", "")

	if _, err := w.g.Hold(HoldOrder{PID: 110, For: time.Hour, By: "ann"}); err != nil {
		t.Fatal(err)
	}
	*threads = 110
	w.run(time.Minute)
	check("threads 110 > 100: not acting: ann ordered to leave it alone", "")
}
