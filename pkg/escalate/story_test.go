package escalate

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// story is a target's life, in times since the ladder began, and what is done to the ladder. No two things happen at
// the same time.
type story struct {
	steps            []config.Step
	dumpWait         time.Duration
	dumpFrom, dumpTo time.Duration
	beats            time.Duration
	exits            time.Duration
	remains          time.Duration // others end then
	restart          time.Duration // the pool ends and another one takes the ladder up
}

func anyStory(t *rapid.T) story {
	const never = 24 * time.Hour
	// Ladders keep to multiples of 10 ms while the target lives.
	at := func(label string, offset time.Duration) time.Duration {
		if rapid.Bool().Draw(t, label+" comes") {
			return time.Duration(rapid.IntRange(0, 10_000).Draw(t, label))*10*time.Millisecond + offset
		}
		return never
	}
	s := story{
		steps: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) config.Step {
			return config.Step{
				Signal: rapid.SampledFrom([]unix.Signal{unix.SIGTERM, unix.SIGABRT, unix.SIGQUIT, unix.SIGKILL}).Draw(t, "signal"),
				Wait:   time.Duration(rapid.IntRange(1, 2000).Draw(t, "wait")) * 10 * time.Millisecond,
			}
		}), 1, 5).Draw(t, "steps"),
		dumpWait: time.Duration(rapid.IntRange(0, 4000).Draw(t, "dump wait")) * 10 * time.Millisecond,
		dumpFrom: at("dump", time.Millisecond),
		beats:    at("beat", 2*time.Millisecond),
		exits:    at("exit", 3*time.Millisecond),
		restart:  at("restart", 4*time.Millisecond),
	}
	s.dumpTo = s.dumpFrom + time.Duration(rapid.IntRange(1, 6000).Draw(t, "dump for"))*10*time.Millisecond
	s.remains = s.exits + time.Duration(rapid.IntRange(0, 4000).Draw(t, "remains for"))*10*time.Millisecond
	return s
}

func (s *story) dumping(t time.Duration) bool { return s.dumpFrom <= t && t < s.dumpTo && t < s.exits }

type chapter struct {
	at time.Duration
	Outcome
}

// tell runs the story on fake time.
func (s *story) tell(t *testing.T) (chapters []chapter) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		now := func() time.Duration { return time.Since(began) }
		var mu sync.Mutex
		report := func(o Outcome) {
			mu.Lock()
			defer mu.Unlock()
			chapters = append(chapters, chapter{now(), o})
		}
		f := newFake()
		f.dumping = func() bool { return s.dumping(now()) }
		f.recovered = func() bool {
			if now() > s.exits {
				t.Error("Recovered is asked after the exit")
			}
			return now() > s.beats
		}
		f.remains = func() bool {
			if now() < s.exits {
				t.Error("Remains is asked before the exit")
			}
			return now() < s.remains
		}
		exit := time.AfterFunc(s.exits, f.exit)
		defer exit.Stop()
		j := Job{Target: f, Steps: s.steps, DumpWait: s.dumpWait, Exited: f.exited}
		p := New(1, report)
		p.Start(j)
		over := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(chapters) > 0 && chapters[len(chapters)-1].Kind > Dumping
		}
		for now() < s.restart && !over() {
			time.Sleep(min(time.Hour, s.restart-now()))
		}
		p.Close()
		if n := len(chapters); n > 0 && chapters[n-1].Kind == Cancelled {
			chapters = chapters[:n-1]
			if i := slices.IndexFunc(chapters, func(c chapter) bool { return c.Step == chapters[n-2].Step }); n > 1 {
				j.From, j.Sent, j.Waited = chapters[i].Step, true, now()-chapters[i].at
			}
			p = New(1, report)
			p.Start(j)
			time.Sleep(time.Hour)
			p.Close()
		}
	})
	return chapters
}

// check says what is wrong with how the story went.
func (s *story) check(chapters []chapter) error {
	over := time.Duration(0) // the wait of the last step is over
	step, dumps := -1, false
	// goesOn judges the time at which a wait gave way to the next step.
	goesOn := func(at time.Duration) error {
		switch {
		case step < 0:
			if at != 0 && at != s.restart {
				return fmt.Errorf("begins late")
			}
		case at < over:
			return fmt.Errorf("comes before the wait of step %d is over, at %v", step, over)
		case at > over+s.dumpWait && at != s.restart:
			return fmt.Errorf("comes later than a dump may hold it up")
		case at > over && !dumps && at != s.restart:
			return fmt.Errorf("comes late, without a dump")
		case s.steps[step].Signal == unix.SIGKILL || at >= over+s.dumpWait:
		case s.dumping(at):
			return fmt.Errorf("does not wait for the dump")
		case at > over && at != s.restart && at < s.exits && s.dumping(at-exitNotice):
			return fmt.Errorf("gives it no time to end after its dump")
		}
		return nil
	}
	if len(chapters) == 0 {
		return fmt.Errorf("nothing is reported")
	}
	for i, c := range chapters {
		wrong := func(err error) error { return fmt.Errorf("%v %v of step %d: %w", c.at, c.Kind, c.Step, err) }
		if last := i == len(chapters)-1; last != (c.Kind > Dumping) {
			return wrong(fmt.Errorf("last: %v", last))
		}
		switch c.Kind {
		case Signalled:
			if c.Step != step+1 || c.Signal != s.steps[c.Step].Signal {
				return wrong(fmt.Errorf("after step %d", step))
			}
			if err := goesOn(c.at); err != nil {
				return wrong(err)
			}
			if c.at > s.exits && (step < 0 || c.at > s.remains) || c.at < s.exits && c.at > s.beats {
				return wrong(fmt.Errorf("nobody is to be signalled"))
			}
			step, dumps, over = c.Step, false, c.at+s.steps[c.Step].Wait
		case Dumping:
			if c.Step != step || c.Signal == unix.SIGKILL || !s.dumping(c.at) || c.at != over && (c.at != s.restart || c.at < over) || dumps && c.at != s.restart {
				return wrong(fmt.Errorf("the wait is over at %v", over))
			}
			dumps = true
		case Recovered:
			if err := goesOn(c.at); err != nil {
				return wrong(err)
			}
			if c.at > s.exits || c.at < s.beats {
				return wrong(fmt.Errorf("did not beat, or did not live"))
			}
		case Gone:
			since := s.exits
			if step >= 0 {
				since = max(since, s.remains)
			}
			if c.at < since || c.at > since+remainsStep && c.at != s.restart {
				return wrong(fmt.Errorf("is gone since %v", since))
			}
		case Unkillable:
			if err := goesOn(c.at); err != nil {
				return wrong(err)
			}
			if step != len(s.steps)-1 || c.at > s.remains {
				return wrong(fmt.Errorf("there was more to do, or nothing"))
			}
		default:
			return wrong(fmt.Errorf("is not possible"))
		}
		if c.Step != step {
			return wrong(fmt.Errorf("names another step than %d", step))
		}
	}
	return nil
}

// TestStories: whatever a target does, and whenever the daemon is restarted, the ladder keeps to its rules.
func TestStories(t *testing.T) {
	told := map[Kind]int{}
	rapid.Check(t, func(rt *rapid.T) {
		s := anyStory(rt)
		chapters := s.tell(t)
		for _, c := range chapters {
			told[c.Kind]++
		}
		if err := s.check(chapters); err != nil {
			rt.Fatalf("%v\n%+v\n%+v", err, s, chapters)
		}
	})
	for _, k := range []Kind{Signalled, Dumping, Recovered, Gone, Unkillable} {
		if told[k] == 0 {
			t.Errorf("no story tells of %v", k)
		}
	}
}
