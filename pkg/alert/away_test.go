package alert

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestAwayForLong has a receiver refuse, hang and fail for three days, while an episode begins and ends each 20 s, and the
// agent is started anew each six hours: it is tried each minute; of what does not fit into the queue the oldest is dropped,
// and that is said; all else arrives within a minute after it is back, in order, each once.
func TestAwayForLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue")
	synctest.Test(t, func(t *testing.T) {
		const away, lives, pause = 72*time.Hour + 30*time.Minute, 6 * time.Hour, 20 * time.Second
		begin := time.Now()
		back := begin.Add(away)
		var got []string
		var tries, taken []time.Time
		post := func(ctx context.Context, list []Notification) error {
			if now := time.Now(); now.Before(back) {
				tries = append(tries, now)
				switch len(tries) % 3 {
				case 0:
					return &statusError{code: http.StatusInternalServerError}
				case 1:
					ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
					defer cancel()
					<-ctx.Done()
					return ctx.Err()
				}
				return errors.New("connection refused")
			}
			taken = append(taken, time.Now())
			for _, n := range list {
				got = append(got, n.ID)
			}
			return nil
		}

		var l log
		var want []string // all that was to be told
		produced := 0     // of that, while it was away
		status := ""      // then
		live := func(until time.Time) {
			s, damage := openStore(t, path, "ops")
			if damage != "" {
				t.Fatal(damage)
			}
			_, open, closed := s.Load()
			a := Agent{Store: s, Report: l.add, Ready: func() {}, caughtUp: true,
				Turn: func(text string) {
					if time.Now().Before(back) {
						produced, status = len(want), text
					}
				},
				tracker: NewTracker(plain(0, time.Hour), time.Minute, open, closed)}
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			d := delivery{name: "ops", store: s, post: post, report: l.add}
			all.Go(func() { d.run(ctx) })
			for time.Now().Before(until) {
				from := time.Now()
				time.Sleep(time.Hour)
				for at := from; at.Before(time.Now()); at = at.Add(pause) {
					n := len(want) / 2
					for i, name := range []string{"late", "condemned", "killed"} {
						e := event(0, name, fmt.Sprintf("%d-1", n))
						e.TimeUsec = at.Add(time.Duration(i) * time.Second).UnixMicro()
						a.take(message{followed: control.Followed{Cursor: "c:1", Event: &e}})
					}
					id := fmt.Sprintf("%d-1@%d", n, at.UnixMicro())
					want = append(want, id+"/0", id+"/resolved")
				}
				a.caughtUp, a.compared = true, time.Now()
				a.pass(ctx, time.Now())
			}
			cancel()
			all.Wait()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for time.Now().Before(back) {
			live(time.Now().Add(lives))
		}
		if waits := fmt.Sprintf("0 alerts stand, %d notifications wait", maxQueue); !regexp.MustCompile("^" + waits + `, \d+ were dropped$`).MatchString(status) {
			t.Errorf("status %q", status)
		}
		kept := want[produced-maxQueue:]
		if last := 2 * int(time.Hour/pause); len(got) < len(kept)-last || !slices.Equal(got, kept[:min(len(got), len(kept))]) { // those were told just now
			t.Errorf("%d arrived, %d were kept; the first are %q and %q", len(got), len(kept), got[:min(3, len(got))], kept[:3])
		}
		said := 0
		for _, line := range l.lines {
			if m := regexp.MustCompile(`^(\d+) notifications were dropped`).FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				said += n
			}
		}
		if dropped := produced - maxQueue; dropped < 10_000 || said != dropped {
			t.Errorf("%d are said to be dropped, %d were", said, dropped)
		}
		if !l.has("ops: delivers again") {
			t.Error("it is not said that it delivers again")
		}
		if n := maxQueue / batchSize; len(taken) < n || taken[n-1].Sub(back) > retryMax {
			t.Errorf("it is back at %s, and was given to from %s on", back, taken)
		}
		last := tries[0]
		for _, at := range append(tries, back) {
			if at.Sub(last) > retryMax+10*time.Second { // and what the try itself took
				t.Errorf("%s after it went away it was not tried for %s", last.Sub(begin), at.Sub(last))
			}
			last = at
		}
		if n := time.Duration(len(tries)); n > away/(retryMax/2) {
			t.Errorf("%d tries within %s", n, away)
		}
	})
}
