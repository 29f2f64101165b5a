package guard

import (
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// A Decision is one thing that the daemon shall do. Those marked "at once" are
// answered by an observation in the same wake.
type Decision interface{ decision() }

// ReadAgain asks for a second look at a record, at once ([Reread]).
type ReadAgain struct {
	Target TargetID
	Table  TableID
	Slot   int32
}

// Identify asks to open a process, at once ([Identified]). With Expect set,
// only the process with these facts is meant (after a restart of the daemon);
// another one under the number is SightGone.
type Identify struct {
	Target TargetID
	PID    int32
	Expect *Facts
}

// Release gives up a target: its pidfd is closed.
type Release struct{ Target TargetID }

// AskConsent asks whether the target maps the table ([Consented], later).
type AskConsent struct {
	Target TargetID
	PID    int32
	Table  TableID
}

// LookAt asks for the state of a target, at once ([Looked]).
type LookAt struct{ Target TargetID }

// Examine asks for the evidence about a late target ([Examined], later); with
// Group, for the members of its cgroup as well.
type Examine struct {
	Target TargetID
	PID    int32
	Group  bool
}

// Clear asks to set the pid word of a record from PID to 0, at once
// ([ClearDone]).
type Clear struct {
	Table  TableID
	Slot   int32
	PID    int32
	Target TargetID // that has ended, 0 where its process was nobody's
}

// Place is a record of a target with the token that it had when its target was
// condemned: the ladder compares it before each signal.
type Place struct {
	Table TableID
	Slot  int32
	Token int64
}

// BeginLadder asks to end a target ([LadderReport]s follow). From, Sent and
// Waited are set when a ladder goes on after a restart of the daemon: step From
// is next, and if Sent its signal was sent Waited ago.
type BeginLadder struct {
	Target TargetID
	PID    int32
	Steps  []config.Step
	From   int
	Sent   bool
	Waited time.Duration
	Places []Place

	Scope    config.Scope  // whom the signals go to
	DumpWait time.Duration // how long a step waits at most for a core dump to finish

	// Of ScopeCgroup, where an earlier daemon began it: who it was for then. They are
	// opened anew, and those that are who they were are signalled with the others; or,
	// where the target has ended, alone.
	Group Group
	Left  bool // it has ended; Places are none
}

// CancelLadder asks to send no further signal to a target: by an order, a new rule,
// or because the right to act was lost ([LadderReport] with LadderCancelled follows).
type CancelLadder struct{ Target TargetID }

// CheckReaped asks whether an ended target is still a zombie, at once.
type CheckReaped struct {
	Target TargetID
	PID    int32
}

// RestoreUnit asks to start Unit if PID was its main process (0: whoever), it is inactive
// or failed now, and no job waits ([RestoreDone], later). What has Crashed is started
// only if its unit failed by itself, and was not being stopped. Look: nothing is started;
// the answer to what would be is Down. Beside are units that were restarted around that
// end.
type RestoreUnit struct {
	Ask     uint64 // the number of this question
	Unit    string
	PID     int32
	Target  TargetID // that ended
	Look    bool
	Crashed bool
	Sure    bool            // that it crashed, by its exit status
	Main    bool            // it was the unit's main process while it lived; else systemd may still say so
	Command *config.Command // started instead, in a transient unit; nil: Unit
	Name    string
	User    string        // that PID ran as
	Struck  time.Duration // when the first signal was sent to it, CLOCK_MONOTONIC; 0: there was none
	Ended   time.Duration // when, CLOCK_MONOTONIC: the same when it is asked for again
	Beside  []string
}

// RememberUnit asks to keep what systemd knows about a unit until that is Over, although
// it is down and nobody refers to it; once for each time that it was asked for.
type RememberUnit struct {
	Unit string
	Over bool
}

// RestartUnit asks to restart a unit because the unit After came back ("" for a
// command), if it runs, or has failed, or is down only since Ended, a time of
// CLOCK_MONOTONIC ([RestoreDone], later). Was it begun after Back already, that is done.
type RestartUnit struct {
	Ask   uint64
	Unit  string
	After string
	Ended time.Duration
	Back  time.Duration // when After was known to be up again, CLOCK_MONOTONIC
}

// LookAtStarted asks how a unit is that was started, as long as nobody in it has
// registered ([RestoreDone], later: Up, Coming, Failed, or none: it ended well, or
// somebody stopped it).
type LookAtStarted struct {
	Ask  uint64
	Unit string
}

// RestartForLimit asks to restart a unit in which a target exceeds a limit
// ([RestartedForLimit], later). Look: nothing is restarted; the answer is what became of it
// since it was Asked for.
type RestartForLimit struct {
	Unit   string
	Target TargetID
	PID    int32
	Asked  time.Duration // for the first time, CLOCK_MONOTONIC: a unit that was started later is not restarted
	Look   bool
}

// LookAtUnit asks for what limits a unit has ([UnitSeen], later).
type LookAtUnit struct{ Unit string }

// SetUnitLimits asks to set run-time properties of a unit, those that are not 0
// ([UnitLimitsSet], later), but none that has another value by now than it Has by what the
// guard knows: see [SetUnitLimits.Against]. The state has to be saved before: what they
// were is in it.
type SetUnitLimits struct {
	Unit   string
	Limits UnitLimits
	Back   UnitLimits // set back: what it had before
	Has    UnitLimits
}

// RepairSemaphore asks to set a never-initialised semaphore to 1.
type RepairSemaphore struct{ ID int }

// CatchOldGuard asks to watch for the next attach, expected at Mono, so that
// the short-lived process can be named ([GuardCaught], later).
type CatchOldGuard struct {
	Table TableID
	Mono  time.Duration
}

// DropTable gives up a removed table whose last target is gone.
type DropTable struct{ Table TableID }

func (ReadAgain) decision()       {}
func (Identify) decision()        {}
func (Release) decision()         {}
func (AskConsent) decision()      {}
func (LookAt) decision()          {}
func (Examine) decision()         {}
func (Clear) decision()           {}
func (BeginLadder) decision()     {}
func (CancelLadder) decision()    {}
func (CheckReaped) decision()     {}
func (RestoreUnit) decision()     {}
func (RememberUnit) decision()    {}
func (RestartUnit) decision()     {}
func (LookAtStarted) decision()   {}
func (RestartForLimit) decision() {}
func (LookAtUnit) decision()      {}
func (SetUnitLimits) decision()   {}
func (RepairSemaphore) decision() {}
func (CatchOldGuard) decision()   {}
func (DropTable) decision()       {}
func (*Event) decision()          {}

// Level is the weight of an event.
type Level uint8

const (
	LevelInfo Level = iota
	LevelNotice
	LevelWarning
	LevelError
)

// An Event is one line of the journal. Fields that do not apply are zero; Slot
// is -1 then.
type Event struct {
	Name    EventName
	Level   Level
	Message string // reads well alone
	Target  TargetID
	PID     int32
	Process string // the record's name, cleaned
	Table   TableID
	Slot    int32
	Timeout time.Duration
	Silence time.Duration
	Verdict string
	Signal  string
	Step    int // 1 is the first
	Unit    string
	Reason  string
	Episode string // the same for all events of one episode, "" outside of one

	// Of a verdict.
	Gaps     []time.Duration // between the last beats, the newest last; at most 32
	Lateness time.Duration   // what the daemon's own lateness has added to this silence
}
