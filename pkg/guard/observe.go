package guard

import (
	"time"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// TableID names a table: its shmid.
type TableID int32

// TargetID names a target for the life of the registry; it is never reused.
type TargetID uint64

// An Observation is one thing that the daemon saw.
type Observation interface{ apply(g *Guard) }

// TableAttached says that a table is looked at from now on. A table that the
// guard already knows (after a restart) keeps its state if Slots is the same.
type TableAttached struct {
	Table   TableID
	Slots   int
	Created bool // by this daemon, just now
}

// TableRemoved says that the segment was removed (IPC_RMID) while it is still
// mapped: it lives on in its clients, and is dropped with its last target.
type TableRemoved struct{ Table TableID }

// Scan is one pass over all records of a table. Records is read only during
// the Step and not kept.
type Scan struct {
	Table   TableID
	Records []table.Record
}

// Reread is the second look at one record that was asked for by [ReadAgain].
type Reread struct {
	Target TargetID
	Table  TableID
	Slot   int32
	Record table.Record
}

// Facts is what is known of a verified process.
type Facts struct {
	Start  uint64 // start time, clock ticks since boot
	Inode  uint64 // inode of the pidfd, 0 where the kernel has no unique ones
	UID    uint32
	PPID   int32
	PGID   int32
	User   string
	Unit   string // systemd unit, "" for none
	Comm   string
	Parent string // comm of its parent, when it was first seen

	Cgroup string // path in the hierarchy that systemd uses
}

// Sight says how opening a process went.
type Sight uint8

const (
	SightVerified Sight = iota // a pidfd is held, Facts are of that process
	SightGone                  // ESRCH: no such process in this pid namespace
	SightRefused               // never to be signalled (pid <= 1, kernel thread, the guard itself, a thread)
	SightError                 // anything else, e.g. no descriptors left: asked again
)

// Identified answers [Identify].
type Identified struct {
	Target TargetID
	PID    int32
	Sight  Sight
	Facts  Facts
	Reason string // for SightRefused and SightError
}

// Consent says whether a process joined the table by itself.
type Consent uint8

const (
	ConsentUnknown        Consent = iota // not asked yet, or could not be read
	ConsentProven                        // it maps this very segment, in our namespaces
	ConsentNotMapped                     // it does not map the segment
	ConsentOtherNamespace                // it lives in another IPC or pid namespace
)

// Consented answers [AskConsent].
type Consented struct {
	Target  TargetID
	Consent Consent
	Reason  string // why it could not be read
}

// Looked answers [LookAt]: the state of a target.
type Looked struct {
	Target   TargetID
	State    byte          // of /proc/PID/stat: R S D T t Z …
	CPU      time.Duration // used by all its threads so far
	RunWait  time.Duration // for how long its main thread has waited for a processor so far
	Tracer   int32
	PGID     int32
	Frozen   bool // its cgroup is frozen
	Dumping  bool // a core dump is being written
	Problem  string
	Vanished bool // the process ended while it was looked at; its exit notice follows
}

// Pressure is what stalls there are of a host or of a cgroup (PSI): the share of
// the last 10 s, in percent; -1 where it cannot be had.
type Pressure struct {
	CPU    float64 // somebody waited for a processor
	Memory float64 // nobody got on for want of memory
	IO     float64 // nobody got on because of input and output
}

// Examined answers [Examine]: the evidence about a late target.
type Examined struct {
	Target   TargetID
	Problem  string // why there is none
	TimedOut bool   // because this host gave no time for it
	Threads  int
	Runnable int    // of these, in state R
	Blocked  int    // of these, in state D
	Starving int    // of these, runnable for a while and given no processor
	State    byte   // of the main thread
	Channel  string // the wait channel of the first blocked thread, else of the main one
	Call     string // the system call that the main thread is in, by name
	Host     Pressure
	Group    Pressure // of its cgroup

	Members     []int32 // pids of its cgroup, if asked for
	GuardInside bool    // the guard is one of them, or its helper
	InitInside  bool    // pid 1 is
}

// Exited is the exit notice: the pidfd became readable.
type Exited struct {
	Target TargetID
	Status string // how it ended, "" where the kernel does not tell
	Ending Ending
}

// Ending is what the exit status says about an end.
type Ending uint8

const (
	EndedUnknown Ending = iota // the kernel does not tell (before Linux 6.15)
	EndedWell                  // as on request: status 0, or SIGHUP, SIGINT, SIGTERM, SIGPIPE
	EndedBadly                 // it crashed
)

// ClearDone answers [Clear].
type ClearDone struct {
	Table   TableID
	Slot    int32
	PID     int32
	Cleared bool // the pid word was PID and is now 0
	Reused  bool // PID is another living process by now: nothing was written
	Denied  bool // the table can only be read here
}

// LadderKind is what a ladder reports.
type LadderKind uint8

const (
	LadderSignalled  LadderKind = iota // a signal was sent
	LadderRecovered                    // the record beat again: spared
	LadderGone                         // it ended; the exit notice tells the rest
	LadderUnkillable                   // SIGKILL and its wait are over, it still exists
	LadderFailed                       // a signal could not be sent
	LadderCancelled                    // by CancelLadder, or because the daemon ends
	LadderDumping                      // the next step waits for a core dump to finish
)

// LadderReport is one step of a ladder's story.
type LadderReport struct {
	Target TargetID
	Kind   LadderKind
	Step   int32
	Signal string
	Reason string
}

// Gathered says whom a ladder with ScopeCgroup is for beside its target. It comes before
// the report of a signal that was sent to them, and when those of an earlier daemon were
// opened.
type Gathered struct {
	Target TargetID
	Group  Group
	Alone  bool // the target had ended before that signal
	Unsure int  // who live under the number of a member and cannot be shown to be that
}

// Group is a cgroup and who was found in it.
type Group struct {
	Path    string
	Inode   uint64 // of its directory: a later one of that path has another
	Members []Member
}

// Member is a process as another daemon can tell it from a later one of its number: by
// Inode, or where the kernel has no unique ones by Start, with which it was seen alive
// after that clock tick. Both are 0 where neither is to be had.
type Member struct {
	PID          int32
	Start, Inode uint64 // as in Facts
}

// Reaped answers [CheckReaped].
type Reaped struct {
	Target     TargetID
	Zombie     bool
	Ending     Ending // where the exit notice came before it was known
	Parent     int32
	ParentComm string
}

// MainProcess says that a target is the main process of its unit. systemd forgets that of
// a unit that ended well and to which nobody refers.
type MainProcess struct{ Target TargetID }

// UnitStarted says that a unit was started anew because its configuration has changed,
// after [Guard.TakeStart]. Problem is why it did not come up, "" if it did. Name and User are
// of a process that it had.
type UnitStarted struct {
	Unit, Name, User string
	Problem          string
}

// UnitStopped says that somebody has stopped a unit that was down, or one that it needs:
// it stays down. Reason says so.
type UnitStopped struct{ Unit, Reason string }

// RestoreDone answers [RestoreUnit], [RestartUnit] and [LookAtStarted]. At most one of Forbidden,
// Started, Up, Coming, Down and Failed is set; none: it is left alone.
type RestoreDone struct {
	Ask       uint64 // of the question
	Forbidden bool   // by now: see [Guard.Forbids]; or for the Reason
	Started   bool
	Up        bool   // it runs again
	Coming    bool   // somebody else is about to start it, or to stop it
	Down      bool   // it would be started
	Failed    bool   // worth another try
	Unasked   bool   // and nothing was started: nobody could be asked
	Beside    bool   // Unit is restarted when one of Beside is
	As        string // the unit of a command that was started
	Reason    string // the state that made a start unnecessary, or the error
}

// RestartedForLimit answers [RestartForLimit]; Problem is why it could not be, "" if it was.
type RestartedForLimit struct {
	Unit    string
	Target  TargetID
	PID     int32
	Problem string
	Begun   bool // it was stopped, at least
	Refused bool // see [Guard.ForbidsLimit]
	Unknown bool // nobody could say what became of it
}

// UnitSeen answers [LookAtUnit]: what a unit has, [Unlimited] where there is no limit.
type UnitSeen struct {
	Unit    string
	Limits  UnitLimits
	Gone    bool // there is no such unit
	Problem string
}

// UnitLimitsSet answers [SetUnitLimits]; Problem is why they could not be, "" if they
// were.
type UnitLimitsSet struct {
	Unit    string
	Theirs  UnitLimits // what was left alone: somebody else has set it
	Gone    bool       // there is no such unit
	Problem string
	Unknown bool // they may have been set all the same
}

// Semaphore is a look at the clients' semaphore.
type Semaphore struct {
	ID         int
	Value      int
	Waiters    int
	LastPID    int32
	LastComm   string
	OTime      int64 // time of the last semop; 0: never used
	Repairable bool  // this process may set it
}

// Attachment is a look at shm_atime and shm_lpid of a table. Comm is the name
// of LastPID if it still exists.
type Attachment struct {
	Table   TableID
	ATime   int64
	LastPID int32
	Comm    string
}

// GuardCaught answers [CatchOldGuard].
type GuardCaught struct {
	PID  int32
	Comm string
}

// Acting says whether this daemon holds the right to act; Holder is the pid of
// the guard that does, 0 for none.
type Acting struct {
	Acts   bool
	Off    bool // it was switched off by the configuration: what is throttled is taken back
	Reason string
	Holder int32
}

// TableLost says that a table can no longer be looked at (it is gone, or could
// not be attached again after a restart). Its records are given up, not cleared.
type TableLost struct {
	Table  TableID
	Reason string
	Order  bool // given up by order: its targets are forgotten, not reported as unguarded
}

// Resumed is the first observation after [Restore]: every target is to be
// identified again before anything goes on.
type Resumed struct{}
