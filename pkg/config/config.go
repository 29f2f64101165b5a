// Package config turns TOML text into validated values, and matches targets against rules.
//
// Load reports every fault of every file at once, each with file, line, column and key. What it returns
// without an error is complete: defaults are filled in, and every value lies within the limits of schema.go.
package config

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPath is the configuration that is read when none is named. The directory conf.d beside it is read after it.
const DefaultPath = "/etc/checkprocd/checkprocd.toml"

// socketName is the file name of the control socket in the runtime directory: the name of its varlink interface.
const socketName = "io.checkproc"

// Config is the complete configuration of the daemon.
type Config struct {
	Interval   time.Duration // between two scans, 50 ms to 10 s
	RuntimeDir string        // absolute; the registry lies here
	Log        Log
	CPActive   CPActive
	Control    Control
	Protect    Protect
	Alert      Alert
	Verdict    Responses // none of them RespondDefault
	Pressure   Pressure
	Ladder     Ladder
	Brake      Brake
	Recovery   Recovery
	Sample     time.Duration // between two samples of a target whose rule has limits, 1 s to 10 min
	Rules      []Rule        // first match wins
	Names      []Names       // what records of which users may be called
}

// Log says where events go, and how.
type Log struct {
	Level  string // trace, debug, info, warn, error
	Format string // auto, journal, console, json
	File   string // absolute; events are written to it as well; empty: to none
}

// CPActive is the heartbeat table of the cpactive programs.
type CPActive struct {
	Enabled bool
	Key     uint32  // of the segment, never 0 (IPC_PRIVATE)
	SemKey  uint32  // of the clients' semaphore, never 0
	Records int     // of 72 bytes each
	Create  bool    // the segment and the semaphore, when they are missing
	Mode    uint32  // permission bits of what is created
	Margin  float64 // fraction of the timeout that is given beyond it, 0 to 1; at least 1 s is given
}

// Control is the control socket.
type Control struct {
	Socket    string // absolute path
	Group     string // its members may see and steer; empty: nobody but root
	ReadGroup string // its members may see all; empty: nobody but root
}

// Ladder is how a target is ended.
type Ladder struct {
	Steps         []Step // at least one
	Scope         Scope
	Shared        bool          // scope cgroup also where healthy targets live in it
	DumpWait      time.Duration // for which a step's wait goes on while the target dumps core, 0 to 1 h
	MaxConcurrent int           // ladders under way at once
}

// Scope is what a ladder ends.
type Scope uint8

const (
	ScopeProcess Scope = iota // the target alone
	ScopeCgroup               // all processes of the target's cgroup and of those below it
)

func (s Scope) String() string {
	if s == ScopeCgroup {
		return "cgroup"
	}
	return "process"
}

// Step is one signal and the time that the target has to end after it.
type Step struct {
	Signal unix.Signal
	Wait   time.Duration // more than 0, at most 1 h
}

// Brake stops a wave of kills: AtLeast targets, and more than Fraction of all, that fall overdue within Window.
type Brake struct {
	Enabled  bool
	AtLeast  int     // targets, at least 2
	Fraction float64 // of all live targets, above 0 and at most 1
	Window   time.Duration
}

// Recovery bounds how what was ended, or crashed, is brought back, within one budget of starts for each unit.
type Recovery struct {
	Wait     time.Duration // from the end to the first start, 1 s to 1 h: systemd's own restart goes first
	Cap      time.Duration // the wait doubles with each start, up to this or Wait, whichever is longer; 1 s to 24 h
	Attempts int           // starts within Window before it is given up, 1 to 100
	Window   time.Duration // 1 s to 24 h
	Stable   time.Duration // after so long without another end, all begins anew; 1 s to 24 h
	GiveUp   time.Duration // what was given up is tried anew after this, 1 s to 7 d
}

// Rule says what is done with the targets that it matches.
type Rule struct {
	Match      Match
	Action     Action
	Timeout    time.Duration // replaces the client's own; 0: the client's
	StartGrace time.Duration // one that has never beaten is not judged before; 0: it is judged as others are
	Restart    Restart
	Command    *Command  // of RestartCommand, else nil
	Then       []string  // units that are restarted after it came back, in this order
	Verdict    Responses // RespondDefault: as Config.Verdict says
	Ladder     RuleLadder
	Recovery   RuleRecovery
	Watch      Watch
	Limits     []Limit
}

// RuleRecovery replaces parts of Config.Recovery; what is 0 is as it says there.
type RuleRecovery struct {
	Attempts int
	Window   time.Duration
}

// RuleLadder replaces parts of Config.Ladder; what is nil is as it says there.
type RuleLadder struct {
	Steps  []Step // at least one, or nil
	Scope  *Scope
	Shared *bool
}

// Match names targets by globs: * is any text (slashes too), ? one character, [a-z] and [^a-z] one of a class,
// \ takes the next character as it is. An empty pattern matches everything; all patterns of a Match have to match.
type Match struct {
	Name string // of the record
	User string // that the process runs as
	Unit string // of systemd, with its suffix
}

// Action is what is done with a target that hangs.
type Action uint8

const (
	ActionLadder Action = iota // end it
	ActionReport               // say what would have been done, and do nothing
)

func (a Action) String() string {
	if a == ActionReport {
		return "report"
	}
	return "ladder"
}

// Restart is what is done when a target was ended, or has crashed.
type Restart uint8

const (
	RestartUnit    Restart = iota // start the unit when it is inactive or failed Recovery.Wait later
	RestartNone                   // nothing
	RestartCommand                // start a command in place of the unit
)

func (r Restart) String() string {
	switch r {
	case RestartNone:
		return "none"
	case RestartCommand:
		return "command"
	}
	return "unit"
}

// Command is a program that is started in a transient unit of systemd.
type Command struct {
	Args []string // the first one is an absolute path; 1 to 100
	User string   // name or number; empty: that of the process that ended
}

// Policy is what the rules say about one target.
type Policy struct {
	Action     Action
	Timeout    time.Duration // 0: the client's own
	StartGrace time.Duration
	Restart    Restart
	Command    *Command // of the configuration itself, as Then and Steps are: not to be changed
	Then       []string
	Attempts   int
	Window     time.Duration
	Rule       int // index in Config.Rules; -1: no rule matches
	Steps      []Step
	Scope      Scope
	Shared     bool
	Verdict    Responses // none of them RespondDefault
	Limits     []Limit   // of the configuration itself, as Steps
}

// Default returns the configuration that is in force without any file. The runtime directory depends on the
// environment: $RUNTIME_DIRECTORY (set by systemd), else /run/checkprocd for root, else $XDG_RUNTIME_DIR/checkprocd.
func Default() Config {
	dir := runtimeDir(os.Getenv, os.Geteuid())
	return Config{
		Interval:   time.Second,
		RuntimeDir: dir,
		Log:        Log{Level: "info", Format: "auto"},
		CPActive: CPActive{
			Enabled: true,
			Key:     0x5095,
			SemKey:  0x5095,
			Records: 1000,
			Create:  true,
			Mode:    0o666,
			Margin:  0.1,
		},
		Control: Control{Socket: filepath.Join(dir, socketName), Group: "checkprocd", ReadGroup: "adm"},
		Alert:   Alert{Events: []string{"condemned", "protected", "unkillable", "gave-up", "restore-failed"}},
		Verdict: Responses{
			Hung:    RespondLadder,
			Starved: RespondWait,
			Blocked: RespondWait,
			Stopped: RespondHold,
			Traced:  RespondHold,
			Frozen:  RespondHold,
			Dumping: RespondHold,
		},
		Pressure: Pressure{CPU: 90, Memory: 40, IO: 80},
		Ladder: Ladder{
			Steps:         []Step{{unix.SIGTERM, 5 * time.Second}, {unix.SIGKILL, 5 * time.Second}},
			DumpWait:      2 * time.Minute,
			MaxConcurrent: 256,
		},
		Brake: Brake{Enabled: true, AtLeast: 8, Fraction: 0.5, Window: 10 * time.Second},
		Recovery: Recovery{
			Wait:     5 * time.Second,
			Cap:      5 * time.Minute,
			Attempts: 5,
			Window:   10 * time.Minute,
			Stable:   10 * time.Minute,
			GiveUp:   time.Hour,
		},
		Sample: 10 * time.Second,
	}
}

// Policy returns what the first matching rule says about a target: name of its record, user that it runs as, systemd
// unit. What is not known is empty; the pattern "?*" matches all that is known. It does not allocate.
func (c *Config) Policy(name, user, unit string) Policy {
	p := Policy{Rule: -1, Steps: c.Ladder.Steps, Scope: c.Ladder.Scope, Shared: c.Ladder.Shared, Verdict: c.Verdict,
		Attempts: c.Recovery.Attempts, Window: c.Recovery.Window}
	for i := range c.Rules {
		r := &c.Rules[i]
		if Glob(r.Match.Name, name) && Glob(r.Match.User, user) && Glob(r.Match.Unit, unit) {
			p.Action, p.Timeout, p.StartGrace, p.Restart, p.Rule = r.Action, r.Timeout, r.StartGrace, r.Restart, i
			p.Command, p.Then = r.Command, r.Then
			p.Verdict = r.Verdict.or(&c.Verdict)
			r.Ladder.apply(&p)
			r.Recovery.apply(&p)
			p.Limits = r.Limits
			break
		}
	}
	return p
}

func (l *RuleLadder) apply(p *Policy) {
	if l.Steps != nil {
		p.Steps = l.Steps
	}
	if l.Scope != nil {
		p.Scope = *l.Scope
	}
	if l.Shared != nil {
		p.Shared = *l.Shared
	}
}

func (r *RuleRecovery) apply(p *Policy) {
	if r.Attempts > 0 {
		p.Attempts = r.Attempts
	}
	if r.Window > 0 {
		p.Window = r.Window
	}
}

// runtimeDir is where the daemon's files lie: getenv and euid are those of the process.
func runtimeDir(getenv func(string) string, euid int) string {
	// systemd sets several directories with colons between them: the first is the unit's own.
	if list := filepath.SplitList(getenv("RUNTIME_DIRECTORY")); len(list) > 0 && filepath.IsAbs(list[0]) {
		return filepath.Clean(list[0])
	}
	if euid != 0 {
		if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
			return filepath.Join(dir, "checkprocd")
		}
	}
	return "/run/checkprocd"
}

// SignalName is the name of the step's signal: SIGTERM.
func (s Step) SignalName() string { return unix.SignalName(s.Signal) }
