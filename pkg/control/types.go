package control

import (
	"context"
	"time"
)

// Interface is the name of the varlink interface that the daemon serves. Its description is io.checkproc.varlink.
const Interface = "io.checkproc"

// Mode says what the daemon does with a verdict.
type Mode string

const (
	ModeActing     Mode = "acting"      // signals what it condemns
	ModeObserving  Mode = "observing"   // another guard holds the right to act, or --observe
	ModeReportOnly Mode = "report_only" // it lacks the rights to act
)

// TableState says whether a table can be read.
type TableState string

const (
	TableAttached TableState = "attached"
	TableMissing  TableState = "missing"
	TableRefused  TableState = "refused" // another layout, or no permission
)

// TargetState says where a target stands between its first record and its end.
type TargetState string

const (
	StateForming    TargetState = "forming"    // not yet seen twice with the same pid, name and timeout
	StateGuarded    TargetState = "guarded"    // beats, or its deadline is to come
	StateLate       TargetState = "late"       // silent for its timeout and margin, the verdict is not final
	StateHeld       TargetState = "held"       // late and stopped, traced, frozen, dumping, or held by the brake
	StateWaiting    TargetState = "waiting"    // late and starved or blocked: given one more timeout
	StateLadder     TargetState = "ladder"     // condemned, its ladder is under way
	StateEnded      TargetState = "ended"      // has exited, its record is about to go
	StateIgnored    TargetState = "ignored"    // timeout 0 or less: watched for its exit only
	StateUnverified TargetState = "unverified" // consent not proven yet
	StateRefused    TargetState = "refused"    // never signalled: forged, or a process that is always refused
	StateForeign    TargetState = "foreign"    // kept alive by a process of another pid namespace, or by a child
	StateUnguarded  TargetState = "unguarded"  // alive, and has lost its record
	StateStale      TargetState = "stale"      // the process is gone, its record still stands
)

// Severity orders findings: ok, note, warning, error.
type Severity string

const (
	SeverityOK      Severity = "ok"
	SeverityNote    Severity = "note"
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error"
)

// Status is the daemon as a whole. All spans of time are microseconds.
type Status struct {
	Version      string     `json:"version"`
	PID          int32      `json:"pid"`
	SinceUsec    int64      `json:"since_usec"` // how long the daemon has been up
	Mode         Mode       `json:"mode"`
	ModeReason   string     `json:"mode_reason"` // empty while acting
	IntervalUsec int64      `json:"interval_usec"`
	ConfigFiles  []string   `json:"config_files"`  // those in force, as they were when they were read
	RejectedUsec int64      `json:"rejected_usec"` // how long ago the last reload was rejected, 0: it was not
	ConfigFaults []Fault    `json:"config_faults"` // why, for callers that may see all
	Tables       []Table    `json:"tables"`
	Targets      Targets    `json:"targets"`
	Counters     Counters   `json:"counters"`
	Brake        Brake      `json:"brake"`
	Scan         Scan       `json:"scan"`
	Features     []Feature  `json:"features"`
	BootID       string     `json:"boot_id"`
	Registry     Registry   `json:"registry"`
	Holds        []Hold     `json:"holds"`
	Recoveries   []Recovery `json:"recoveries"`
	Throttled    []Throttle `json:"throttled"`
}

// Throttle is a unit that has less while a process in it exceeds a limit, in the words of systemd: MemoryHigh=400MiB.
type Throttle struct {
	Unit string `json:"unit"`
	Has  string `json:"has"`
	Had  string `json:"had"` // and has again afterwards
}

// Table is one shared memory segment.
type Table struct {
	ID      int        `json:"id"`   // the segment's id, -1 while it is missing
	Key     int64      `json:"key"`  // the SysV key
	Size    int64      `json:"size"` // bytes
	Records int        `json:"records"`
	Used    int        `json:"used"`    // records with a pid
	Live    int        `json:"live"`    // of these, records whose process is alive
	Removed bool       `json:"removed"` // removed from the system, still mapped by clients
	State   TableState `json:"state"`
	Problem string     `json:"problem"` // empty: none
}

// Targets counts the targets by what is the matter with them.
type Targets struct {
	Total      int `json:"total"`
	Guarded    int `json:"guarded"`
	Forming    int `json:"forming"`
	Late       int `json:"late"`
	Held       int `json:"held"`
	Ladders    int `json:"ladders"`
	Unverified int `json:"unverified"`
	Refused    int `json:"refused"`
	Foreign    int `json:"foreign"`
	Limited    int `json:"limited"` // exceed a limit, whatever else is the matter with them
}

// Counters count events since the registry was begun: they outlive a restart of the daemon. DroppedLogRecords does not.
type Counters struct {
	Condemned         int64 `json:"condemned"`
	Signalled         int64 `json:"signalled"`
	Killed            int64 `json:"killed"`
	Recovered         int64 `json:"recovered"`
	Cleared           int64 `json:"cleared"`
	Unkillable        int64 `json:"unkillable"`
	Gaps              int64 `json:"gaps"`
	Exits             int64 `json:"exits"`
	DroppedLogRecords int64 `json:"dropped_log_records"`
	Would             int64 `json:"would"`  // would have been condemned, and the action or the mode is to report
	Waited            int64 `json:"waited"` // were late, starved or blocked, and got one more timeout
}

// Brake says whether new ladders wait because many targets fell overdue together.
type Brake struct {
	On        bool  `json:"on"`
	Waiting   int   `json:"waiting"`    // targets that it holds
	SinceUsec int64 `json:"since_usec"` // for how long it has been on, 0 while off
}

// Scan says what the passes over the tables cost.
type Scan struct {
	Count    int64 `json:"count"`
	LastUsec int64 `json:"last_usec"`
	MaxUsec  int64 `json:"max_usec"`
}

// Feature is something of kernel or rights that the daemon probed at its start.
type Feature struct {
	Name  string `json:"name"`
	Since string `json:"since"` // the Linux version that has it, empty for rights
	Error string `json:"error"` // why it is not to be had, empty: it is
}

// Registry is the file that carries the daemon's knowledge over a restart.
type Registry struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Error string `json:"error"` // why the last save failed, empty: it did not
}

// Target is one guarded process, or one record that cannot be guarded.
type Target struct {
	Table          int         `json:"table"` // the segment's id
	Slot           int         `json:"slot"`  // the first of Slots
	Slots          []int       `json:"slots"` // all records of this pid
	PID            int32       `json:"pid"`
	Name           string      `json:"name"` // cleaned: valid UTF-8 without control characters
	Unit           string      `json:"unit"`
	UID            uint32      `json:"uid"`
	TimeoutUsec    int64       `json:"timeout_usec"`
	SilenceUsec    int64       `json:"silence_usec"`  // since the last beat, on the attention clock
	DeadlineUsec   int64       `json:"deadline_usec"` // from now until it is late, below 0 when it is
	State          TargetState `json:"state"`
	Verdict        string      `json:"verdict"` // empty while there is none
	Reason         string      `json:"reason"`
	Rule           int         `json:"rule"`            // index of the configured rule, -1: the defaults
	RegisteredUsec int64       `json:"registered_usec"` // how long ago the daemon first saw it
	Protected      string      `json:"protected"`       // the pattern that protects it: protect.names "db*"; empty: none does
	Hold           string      `json:"hold"`            // by whose order it is held, and why; empty: by none
	Recovery       string      `json:"recovery"`        // how often it was started again lately: "3 of 5 starts"; empty: never
	Episode        string      `json:"episode"`         // that it is in, as in Event; empty: in none
	Limits         []string    `json:"limits"`          // that it exceeds, and what is done: "memory 612MiB > 500MiB: throttle"
}

// Finding is one result of an examination of the table.
type Finding struct {
	ID       string   `json:"id"` // stable, kebab-case: "layout", "mode", "semaphore-held"
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject"` // what it is about: "table 0x5095", "pid 4242 (ftpd)"
	Message  string   `json:"message"`
	Advice   string   `json:"advice"` // what to do, empty: nothing
	PIDs     []int32  `json:"pids"`
	Slots    []int    `json:"slots"`
}

// ReloadResult says what a reload of the configuration changed.
type ReloadResult struct {
	Changed      []string `json:"changed"`       // keys that are in force now
	NeedsRestart []string `json:"needs_restart"` // keys that differ and take a restart of the daemon
}

// DiffRequest names the configuration that Diff looks at: the daemon's own files, or a text that the caller has read.
type DiffRequest struct {
	File string `json:"file,omitempty"` // what Text is called in faults; empty: the daemon's own files
	Text string `json:"text,omitempty"` // of a file that is read alone, without conf.d
}

// DiffResult says what a reload would change. Nothing has changed yet.
type DiffResult struct {
	Changed      []string `json:"changed"`       // keys that would be in force
	NeedsRestart []string `json:"needs_restart"` // keys that differ and take a restart of the daemon
	Targets      []Match  `json:"targets"`       // all live ones, by pid
}

// Match is the rule of a live target now and after a reload.
type Match struct {
	PID     int32    `json:"pid"`
	UID     uint32   `json:"uid"`
	Name    string   `json:"name"`
	Unit    string   `json:"unit"`
	Before  int      `json:"before"`  // index of the rule in force, -1: the defaults
	After   int      `json:"after"`   // the same after a reload
	Changes []string `json:"changes"` // what would differ for this target: "timeout: its own -> 45s"
}

// AdviceBeats is how many beats an advice takes.
const AdviceBeats = 100

// Bounds of an order to hold.
const (
	MinHold = time.Second
	MaxHold = 7 * 24 * time.Hour
	MaxText = 200 // bytes of a name; what a reason has beyond them is cut off
)

// HoldRequest is an order not to act on targets for some time. Exactly one of PID, Name and All says on which.
type HoldRequest struct {
	PID     int32  `json:"pid,omitempty"`  // a target's
	Name    string `json:"name,omitempty"` // a pattern as in a rule: * is any text, ? one character; also for targets to come
	All     bool   `json:"all,omitempty"`  // all targets, also those to come
	ForUsec int64  `json:"for_usec"`       // MinHold to MaxHold
	Reason  string `json:"reason,omitempty"`
}

// Selector names holds. Exactly one of its fields is set.
type Selector struct {
	PID  int32  `json:"pid,omitempty"`  // the one of this target
	Name string `json:"name,omitempty"` // the one with this very pattern
	All  bool   `json:"all,omitempty"`  // the one of all targets
}

// Hold is an order in force not to act on targets.
type Hold struct {
	PID      int32  `json:"pid"`  // 0: it is for a name or for all
	Name     string `json:"name"` // the pattern, empty: it is for a pid or for all
	All      bool   `json:"all"`
	LeftUsec int64  `json:"left_usec"` // until it ends by itself
	Reason   string `json:"reason"`    // cleaned, as given
	By       string `json:"by"`        // who gave it: "uid 1000 (alice, pid 4242)"
	Targets  int    `json:"targets"`   // whom it holds now
}

// BrakeOrder says what becomes of the targets that the brake holds.
type BrakeOrder string

const (
	BrakeGo   BrakeOrder = "go"   // they are ended now
	BrakeStop BrakeOrder = "stop" // each of them is held for ten minutes
)

// Advice says what the gaps between the beats of all targets of a name tell about its timeout.
type Advice struct {
	Name        string `json:"name"`
	Targets     int    `json:"targets"`
	Beats       int64  `json:"beats"` // gaps between beats that were measured
	P50Usec     int64  `json:"p50_usec"`
	P99Usec     int64  `json:"p99_usec"`
	P999Usec    int64  `json:"p999_usec"`
	MaxUsec     int64  `json:"max_usec"`
	TimeoutUsec int64  `json:"timeout_usec"` // the smallest one in force
	WantsUsec   int64  `json:"wants_usec"`   // the timeout that would suit
	Verdict     string `json:"verdict"`      // raise, lower, keep, too-few (beats) or none
}

// Level is the weight of an event.
type Level string

const (
	LevelInfo    Level = "info"
	LevelNotice  Level = "notice"
	LevelWarning Level = "warning"
	LevelError   Level = "error"
)

// Event is one line of the journal. What does not apply is empty, 0, or -1 for Table and Slot.
type Event struct {
	TimeUsec int64  `json:"time_usec"` // of the wall clock, since 1970
	Name     string `json:"name"`
	Level    Level  `json:"level"`
	Message  string `json:"message"` // reads well alone
	PID      int32  `json:"pid"`
	Process  string `json:"process"` // the name in the record, cleaned
	Unit     string `json:"unit"`
	Table    int    `json:"table"` // the segment's id
	Slot     int    `json:"slot"`
	Verdict  string `json:"verdict"`
	Reason   string `json:"reason"`
	Signal   string `json:"signal"`
	Episode  string `json:"episode"` // the same for all events of one episode of one target
}

// Followed is one message to a follower of the events: the next event, or none, which says that there is no other one yet.
type Followed struct {
	Cursor string `json:"cursor"` // where to go on after this message
	Missed int64  `json:"missed"` // events lost before this message; -1: some, of a daemon that has ended
	Event  *Event `json:"event,omitempty"`
}

// CursorOldest begins with the oldest event that the daemon still has.
const CursorOldest = "oldest"

// Fault is one mistake in a configuration file.
type Fault struct {
	File     string `json:"file"`
	Line     int    `json:"line"` // 1-based, 0: unknown
	Column   int    `json:"column"`
	Key      string `json:"key"`
	Problem  string `json:"problem"`
	Expected string `json:"expected"`
}

// Caller is the peer of a connection, as the kernel vouches for it (SO_PEERCRED, SO_PEERGROUPS).
type Caller struct {
	PID       int32 // 0 for a process of another pid namespace
	UID, GID  uint32
	Groups    []uint32 // supplementary
	CanSteer  bool     // may reload, hold, release and order the brake
	CanSeeAll bool     // may see the targets of all users, check, and ask for advice and for what a reload would do
}

// Handler is what the daemon answers. Its methods are called from many goroutines; ctx ends with the server and after a
// bounded time. Besides plain errors (sent as Failed with their text) they may return ErrNotAllowed, ErrNoTarget, ErrBusy,
// *Rejected or *InvalidError, wrapped or not.
//
// The server itself refuses Check, Advise, Diff and Follow to a caller that cannot see all, and Reload, Hold, Release, Brake, Recover and AlertTest to one
// that cannot steer, and takes other users' targets out of the answer of List where the caller cannot see all. It hands on
// no order that does not keep to what HoldRequest, Selector and BrakeOrder say, but for the reason of a hold, which is as
// long and as hostile as the caller likes.
type Handler interface {
	// Denied is told of an order that the server has refused: its method, but Pause and Resume for a hold of all and its
	// release, and what it takes. It must not wait.
	Denied(c Caller, order, takes string)
	Status(ctx context.Context, c Caller) (Status, error)
	List(ctx context.Context, c Caller) ([]Target, error)
	Check(ctx context.Context, c Caller) ([]Finding, error)
	Reload(ctx context.Context, c Caller) (ReloadResult, error)
	Hold(ctx context.Context, c Caller, r HoldRequest) (Hold, error)
	Release(ctx context.Context, c Caller, s Selector) (released int, err error)
	Brake(ctx context.Context, c Caller, order BrakeOrder) (targets int, err error)
	Recover(ctx context.Context, c Caller, name string) (Recovered, error)
	Advise(ctx context.Context, c Caller) ([]Advice, error)
	Diff(ctx context.Context, c Caller, r DiffRequest) (DiffResult, error)
	// AlertTest has the daemon report an event that is delivered as all others are.
	AlertTest(ctx context.Context, c Caller) (AlertTested, error)
	// Follow sends events from cursor on until send fails, ctx ends or there will be no more; its ctx has no bound in time.
	Follow(ctx context.Context, c Caller, cursor string, send func(Followed) error) error
}
