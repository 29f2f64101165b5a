package daemon

import (
	"testing"
	"time"
)

// TestTidy: memory is given back once for many who come or go, when all of them have, and for nobody else.
func TestTidy(t *testing.T) {
	x := tidy{from: 5}
	now := time.Hour
	for _, step := range []struct {
		after   time.Duration
		targets int
		want    bool
	}{
		{0, 5, false}, {tidyAfter, 5, false}, // nobody came
		{0, 5 + tidyTargets - 1, false}, {tidyAfter, 5 + tidyTargets - 1, false}, // not many
		{0, 5 + tidyTargets, false}, {tidyAfter - 1, 5 + tidyTargets, false}, {0, 1000, false}, {tidyAfter - 1, 1000, false}, {1, 1000, true}, // they come for a while
		{1, 1000, false}, {tidyAfter, 1000, false}, {tidyAfter, 1001, false}, // once
		{0, 1001 - tidyTargets, false}, {tidyAfter, 1001 - tidyTargets, false}, {0, 1000 - tidyTargets, false}, {tidyAfter, 1000 - tidyTargets, true}, // they go
	} {
		now += step.after
		if got := x.due(now, step.targets); got != step.want {
			t.Errorf("%d targets, %v later: %v", step.targets, step.after, got)
		}
	}
}
