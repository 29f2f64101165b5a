package daemon

import "time"

const (
	// tidyTargets is how many targets have to come or go for a heap that is tidied up after them: the records of a
	// thousand leave 3 MB of garbage behind, which an idle guard would keep for long.
	tidyTargets = 100
	// tidyAfter is how long nobody has come or gone by then.
	tidyAfter = 10 * time.Second
)

// tidy says when memory is to be given back.
type tidy struct {
	targets int           // how many there were last
	from    int           // how many there were when it was tidied up
	at      time.Duration // since then there are so many
}

// due takes in how many targets there are, and says whether it is time.
func (x *tidy) due(now time.Duration, targets int) bool {
	if targets != x.targets {
		x.targets, x.at = targets, now
	}
	if max(targets-x.from, x.from-targets) < tidyTargets || now-x.at < tidyAfter {
		return false
	}
	x.from = targets
	return true
}
