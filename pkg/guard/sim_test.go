package guard

import (
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// The simulation lets random faults happen to random hosts. A schedule is data:
// a list of small actions, which are taken modulo what there is when their time
// comes. So the same schedule always gives the same run, any part of one is a
// schedule as well, and one that finds a fault is made smaller by leaving things
// out. What must hold is checked at each step, by checks that know the world and
// not the guard (sim_check_test.go, sim_oracle_test.go).

// act is one action of a schedule: after a pause, something happens.
type act struct {
	pause   time.Duration // whole milliseconds
	kind    kind
	a, b, c uint16
}

type schedule []act

func (x act) String() string {
	return fmt.Sprintf("%v %s %d %d %d", x.pause, kinds[x.kind].name, x.a, x.b, x.c)
}

// String is a schedule as text, one action after the other.
func (s schedule) String() string {
	var b strings.Builder
	for i, x := range s {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(x.String())
	}
	return b.String()
}

// parseSchedule reads what String wrote.
func parseSchedule(text string) (schedule, error) {
	var s schedule
	for part := range strings.SplitSeq(text, ";") {
		f := strings.Fields(part)
		if len(f) == 0 {
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("%q: want pause, action and three numbers", part)
		}
		pause, err := time.ParseDuration(f[0])
		if err != nil {
			return nil, err
		}
		x := act{pause: pause, kind: numKinds}
		for k := range kinds {
			if kinds[k].name == f[1] {
				x.kind = kind(k)
			}
		}
		if x.kind == numKinds {
			return nil, fmt.Errorf("%q: no such action", f[1])
		}
		for i, to := range []*uint16{&x.a, &x.b, &x.c} {
			n, err := strconv.ParseUint(f[2+i], 10, 16)
			if err != nil {
				return nil, err
			}
			*to = uint16(n)
		}
		s = append(s, x)
	}
	return s, nil
}

// The hosts are small: what happens between few happens more often.
const (
	simPids    = 12
	simFirst   = 100 // the lowest pid
	simSlots   = 16
	simSettled = 30 * time.Minute // by then all is over that can be
)

// fault is what a run found wrong: the check that failed, and how.
type fault struct {
	check string
	text  string
}

// sim is one run of a schedule. It is the reporter of its world.
type sim struct {
	*world
	found    *fault
	cover    *coverage
	figures  *figures
	cfgIndex int
	interval int

	// The specification's clock, counted by the world.
	attn, last, plan time.Duration
	ticking          bool
	gapUntil         time.Duration // nobody is judged before
	frozen           time.Duration // since the last wake
	intervalMost     time.Duration // the longest that was in force

	seen                                      []fakeSlots
	steps                                     time.Duration // of the wall clock
	race                                      race
	late                                      jitter
	crashIn                                   int
	followed                                  map[string]time.Duration // when a unit was last to be restarted after another
	crash                                     snapshot
	lostPid                                   [simPids]bool // an exit notice of a process with this number never came
	began                                     time.Duration
	wasLate                                   bool
	actsKnown, ladderBegan, pressure, pressed bool
	orders                                    []order
	brakeStop                                 time.Duration // until when an order to the brake may stand
	steered                                   bool          // somebody took a decision: reload, order, right to act
	all                                       []*proc       // that ever began
	brakedAt                                  time.Duration // attention time at which the brake went on
	squeeze                                   [2]Pressure   // of the host, and of all cgroups
	restartedAt, letGoAt, pressedAt           time.Duration
	actsSince                                 time.Duration // or does not act
	slowUntil                                 time.Duration // until when what was asked before may be answered

	// Units, starts and limits.
	fakeUnits             []*fakeUnit
	pidAt                 int32
	statuses              int // of exits: the kernel tells (0, 1), tells later (2), never tells (3)
	refuse                int // starts that are refused
	slowBus               time.Duration
	busDown               bool
	accounts              []*account
	questions             []question
	owings                []owing
	reloaded, stableLeast time.Duration
	unturned              bool // it got an order, and has not turned since
	nextSample            time.Duration
	brakeOn               bool
	limitRestart          string
	cutOff                map[string]bool // units of which a restart of the daemon left a question without an answer
	limitAccount          *account
	limitTaken            time.Duration
	duties                *dutyCoverage
}

// fakeSlots is what the last look at a table saw.
type fakeSlots struct {
	table *fakeTable
	at    []fakeSlot
}

func (s *sim) Helper()             {}
func (s *sim) Logf(string, ...any) {}

func (s *sim) Errorf(f string, a ...any) {
	s.failf("world", f, a...)
}

func (s *sim) Fatalf(f string, a ...any) {
	s.failf("world", f, a...)
	panic(stopped{})
}

// stopped ends a run that cannot go on.
type stopped struct{}

// failf notes what is wrong; the first fault is the one that counts.
func (s *sim) failf(check, f string, a ...any) {
	if s.found == nil {
		s.found = &fault{check, fmt.Sprintf("%v: ", s.now-1000*sec) + fmt.Sprintf(f, a...)}
	}
}

// runSchedule runs a schedule and returns its world.
func runSchedule(list schedule, cover *coverage, fig *figures) *sim {
	s := &sim{followed: map[string]time.Duration{}, cover: cover, duties: &cover.duties, figures: fig}
	s.world = &world{t: s, cfg: variants[0][0], now: 1000 * sec, procs: map[int32]*proc{}, held: map[TargetID]*proc{}, kept: map[string]int{}, acts: true, fresh: true, sim: s}
	s.g = New(s.cfg)
	s.addTable(7, simSlots)
	s.intervalMost = s.cfg.Interval
	s.began = s.now
	s.play(list)
	fig.schedules++
	fig.hosts += s.now - s.began
	fig.signals += len(s.signals)
	fig.restarts += s.restarts
	return s
}

func (s *sim) play(list schedule) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(stopped); !ok {
				s.failf("panic", "%v\n%s", r, debug.Stack())
			}
		}
	}()
	for i, x := range list {
		if i > 0 || x.kind != actHost { // which is there before the daemon
			s.run(x.pause)
		}
		if s.found != nil {
			return
		}
		kinds[x.kind].do(s, x)
	}
	s.settle()
}

// settle ends all faults and lets time pass until nothing is left to be done.
func (s *sim) settle() {
	s.heal()
	for end := s.now + simSettled; s.now < end && s.found == nil; {
		s.run(10 * sec)
		if s.quiet() {
			break
		}
	}
	if s.found == nil {
		s.checkEnd()
	}
}

// variants are the configurations, by interval.
var variants = func() (out [][]*config.Config) {
	for _, i := range intervals {
		out = append(out, withVariants(i))
	}
	return out
}()
