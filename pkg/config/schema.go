package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// Limits. A value outside of them is a fault.
const (
	minInterval   = 50 * time.Millisecond
	maxInterval   = 10 * time.Second
	maxRecords    = 100_000 // 7.2 MB, a hundred times the table of the cpactive programs
	maxSteps      = 32
	maxWait       = time.Hour
	maxConcurrent = 10_000
	maxAtLeast    = 1_000_000
	minWindow     = 100 * time.Millisecond
	maxWindow     = time.Hour
	minTimeout    = time.Second
	maxTimeout    = 7 * 24 * time.Hour
	maxAttempts   = 100
	maxPause      = 24 * time.Hour
	maxThen       = 32
	maxUnit       = 255        // of systemd: UNIT_NAME_MAX, without its NUL
	maxRules      = 1000       // each new record is matched against all of them
	maxKey        = 0x7fffffff // key_t is a signed 32-bit integer
	maxSocketPath = 107        // sun_path of unix(7), without its NUL
)

// field is one key of a table that sets something in a T.
type field[T any] struct {
	key      string
	expected string
	comment  string
	read     func(r *reader, to *T, path string, v *node)
	text     func(from *T) string // as TOML; empty: nothing to write
	fields   []field[T]           // of a table
}

// reader reads one document into a configuration that earlier documents may have changed.
type reader struct {
	doc        *document
	runtimeDir *node // where it is set
	socket     *node
}

func (r *reader) fault(v *node, path, problem, expected string) {
	r.doc.fault(v.offset, path, problem, expected)
}

// readTable reads the keys of a table; those that no field has are faults.
func readTable[T any](r *reader, to *T, path string, table *node, fields []field[T]) {
	for _, name := range table.names {
		c := table.children[name]
		full := joinKey(path, []keyPart{{name: name}})
		i := slices.IndexFunc(fields, func(f field[T]) bool { return f.key == name })
		if i < 0 {
			what := "unknown key"
			if c.kind == kindTable || c.kind == kindArray && c.header {
				what = "unknown table"
			}
			r.doc.fault(c.keyOffset, full, what, "one of "+names(fields))
			continue
		}
		fields[i].read(r, to, full, c.node)
	}
}

func names[T any](fields []field[T]) string {
	list := make([]string, len(fields))
	for i := range fields {
		list[i] = fields[i].key
	}
	return strings.Join(list, ", ")
}

// schema is the whole configuration, in the order in which it is printed.
var schema = []field[Config]{
	duration("interval", minInterval, maxInterval, "between two scans; 50ms to 10s",
		func(c *Config) *time.Duration { return &c.Interval }),
	{
		key: "runtime_dir", expected: pathExpected, comment: "the registry lies here; $RUNTIME_DIRECTORY when systemd sets it",
		read: func(r *reader, c *Config, path string, v *node) {
			r.runtimeDir = v
			readPath(r, &c.RuntimeDir, path, v)
		},
		text: func(c *Config) string { return quote(c.RuntimeDir) },
	},
	section("log",
		choice("level", logLevels, "",
			func(c *Config) *string { return &c.Log.Level }),
		choice("format", logFormats,
			"auto: journal under systemd, console on a terminal, json otherwise",
			func(c *Config) *string { return &c.Log.Format }),
		field[Config]{
			key: "file", expected: `an absolute path, or ""`, comment: "events are written to it as well",
			read: func(r *reader, c *Config, path string, v *node) {
				if v.kind == kindString && v.text == "" {
					c.Log.File = ""
					return
				}
				readPath(r, &c.Log.File, path, v)
			},
			text: func(c *Config) string { return quote(c.Log.File) },
		},
	),
	section("cpactive",
		boolean("enabled", "", func(c *Config) *bool { return &c.CPActive.Enabled }),
		ipcKey("key", "of the segment", func(c *Config) *uint32 { return &c.CPActive.Key }),
		ipcKey("sem_key", "of the clients' semaphore", func(c *Config) *uint32 { return &c.CPActive.SemKey }),
		integer("records", 1, maxRecords, "of the segment", func(c *Config) *int { return &c.CPActive.Records }),
		boolean("create", "the segment and the semaphore, when they are missing", func(c *Config) *bool { return &c.CPActive.Create }),
		field[Config]{
			key: "mode", expected: modeExpected, comment: "of what is created",
			read: func(r *reader, c *Config, path string, v *node) { readMode(r, &c.CPActive.Mode, path, v) },
			text: func(c *Config) string { return fmt.Sprintf("0o%03o", c.CPActive.Mode) },
		},
		field[Config]{
			key: "margin", expected: percentExpected, comment: "of the timeout, at least 1s",
			read: func(r *reader, c *Config, path string, v *node) {
				// The decimal point is moved in the text: a division would make 7% of 0.07000000000000001.
				readPercent(r, &c.CPActive.Margin, "e-2", 1, path, v)
			},
			text: func(c *Config) string { return quote(percent(c.CPActive.Margin)) },
		},
	),
	section("control",
		field[Config]{
			key: "socket", expected: pathExpected, comment: "io.checkproc in runtime_dir unless set",
			read: func(r *reader, c *Config, path string, v *node) {
				r.socket = v
				before := len(r.doc.faults)
				readPath(r, &c.Control.Socket, path, v)
				if len(r.doc.faults) == before && len(c.Control.Socket) > maxSocketPath {
					r.fault(v, path, fmt.Sprintf("is %d bytes long", len(c.Control.Socket)), socketExpected)
				}
			},
			text: func(c *Config) string { return quote(c.Control.Socket) },
		},
		group("group", "may see and steer", func(c *Config) *string { return &c.Control.Group }),
		group("read_group", "may see all; anyone may see what is their own", func(c *Config) *string { return &c.Control.ReadGroup }),
	),
	section("protect",
		patterns("names", "of records that are never signalled and never restarted", patternsExpected, checkPattern, func(c *Config) *[]string { return &c.Protect.Names }),
		patterns("units", "of systemd, in which nobody is signalled, and that are never restarted", unitsExpected, checkUnitPattern, func(c *Config) *[]string { return &c.Protect.Units }),
	),
	section("alert", alertSchema...),
	section("verdict", responses(func(c *Config) *Responses { return &c.Verdict })...),
	section("pressure",
		pressure("cpu", "some waited for a processor", func(c *Config) *float64 { return &c.Pressure.CPU }),
		pressure("memory", "all waited for memory", func(c *Config) *float64 { return &c.Pressure.Memory }),
		pressure("io", "all waited for a disk", func(c *Config) *float64 { return &c.Pressure.IO }),
	),
	section("ladder",
		steps("signals, and how long a target has to end after each", func(c *Config) *[]Step { return &c.Ladder.Steps }),
		field[Config]{
			key: "scope", expected: scopeExpected, comment: "cgroup: ends all processes of the target's cgroup",
			read: func(r *reader, c *Config, path string, v *node) { readScope(r, &c.Ladder.Scope, path, v) },
			text: func(c *Config) string { return quote(c.Ladder.Scope.String()) },
		},
		boolean("shared", "scope cgroup also ends healthy targets that live in it", func(c *Config) *bool { return &c.Ladder.Shared }),
		duration("dump_wait", 0, maxWait, "for a core dump, beyond the wait of a step",
			func(c *Config) *time.Duration { return &c.Ladder.DumpWait }),
		integer("max_concurrent", 1, maxConcurrent, "ladders under way at once", func(c *Config) *int { return &c.Ladder.MaxConcurrent }),
	),
	section("brake",
		boolean("enabled", "", func(c *Config) *bool { return &c.Brake.Enabled }),
		integer("at_least", 2, maxAtLeast, "targets", func(c *Config) *int { return &c.Brake.AtLeast }),
		field[Config]{
			key: "fraction", expected: fractionExpected, comment: "of all live targets",
			read: func(r *reader, c *Config, path string, v *node) { readFraction(r, &c.Brake.Fraction, path, v) },
			text: func(c *Config) string { return number(c.Brake.Fraction) },
		},
		duration("window", minWindow, maxWindow, "in which they fall overdue", func(c *Config) *time.Duration { return &c.Brake.Window }),
	),
	section("recovery",
		duration("wait", time.Second, maxWait, "systemd's own restart goes first", func(c *Config) *time.Duration { return &c.Recovery.Wait }),
		duration("cap", time.Second, maxPause, "the wait doubles with each start, up to this", func(c *Config) *time.Duration { return &c.Recovery.Cap }),
		integer("attempts", 1, maxAttempts, "starts in the window before a name is given up", func(c *Config) *int { return &c.Recovery.Attempts }),
		duration("window", time.Second, maxPause, "", func(c *Config) *time.Duration { return &c.Recovery.Window }),
		duration("stable", time.Second, maxPause, "without another end: all begins anew", func(c *Config) *time.Duration { return &c.Recovery.Stable }),
		duration("give_up", time.Second, maxTimeout, "then it is tried anew", func(c *Config) *time.Duration { return &c.Recovery.GiveUp }),
	),
	section("limits",
		duration("sample", minSample, maxSample, "between two looks at what a target uses, where its rule has limits",
			func(c *Config) *time.Duration { return &c.Sample }),
	),
	{key: "rule", expected: "[[rule]]", read: readRules, text: func(*Config) string { return "" }},
	{key: "names", expected: "[[names]]", read: readNames, text: func(*Config) string { return "" }},
}

var stepSchema = []field[Step]{
	{
		key: "signal", expected: signalExpected,
		read: func(r *reader, s *Step, path string, v *node) {
			if v.kind != kindString {
				r.fault(v, path, v.describe(), signalExpected)
			} else if s.Signal = unix.SignalNum(v.text); s.Signal == 0 {
				r.fault(v, path, "unknown signal "+clip(v.text), signalExpected)
			}
		},
		text: func(s *Step) string { return quote(unix.SignalName(s.Signal)) },
	},
	duration("wait", 1, maxWait, "", func(s *Step) *time.Duration { return &s.Wait }),
}

var ruleSchema = []field[Rule]{
	section("match",
		pattern("name", patternExpected, checkPattern, func(r *Rule) *string { return &r.Match.Name }),
		pattern("user", patternExpected, checkPattern, func(r *Rule) *string { return &r.Match.User }),
		pattern("unit", unitExpected, checkUnitPattern, func(r *Rule) *string { return &r.Match.Unit }),
	),
	{
		key: "action", expected: `"ladder" or "report"`,
		read: func(r *reader, rule *Rule, path string, v *node) {
			readEnum(r, &rule.Action, path, v, ActionLadder, ActionReport)
		},
		text: func(rule *Rule) string { return enumText(rule.Action) },
	},
	duration("timeout", minTimeout, maxTimeout, "", func(r *Rule) *time.Duration { return &r.Timeout }),
	duration("start_grace", minTimeout, maxPause, "", func(r *Rule) *time.Duration { return &r.StartGrace }),
	{key: "restart", expected: restartExpected, read: readRestart, text: restartText},
	{
		key: "then", expected: thenExpected,
		read: func(r *reader, rule *Rule, path string, v *node) {
			readSome(r, &rule.Then, path, v, thenExpected, maxThen, checkUnit)
		},
		text: func(rule *Rule) string { return someText(rule.Then) },
	},
	section("recovery",
		field[Rule]{
			key: "attempts", expected: attemptsExpected,
			read: func(r *reader, rule *Rule, path string, v *node) {
				if n, ok := readInteger(r, path, v, attemptsExpected, 1, maxAttempts); ok {
					rule.Recovery.Attempts = int(n)
				}
			},
			text: func(rule *Rule) string {
				if rule.Recovery.Attempts == 0 {
					return ""
				}
				return strconv.Itoa(rule.Recovery.Attempts)
			},
		},
		duration("window", time.Second, maxPause, "", func(r *Rule) *time.Duration { return &r.Recovery.Window }),
	),
	section("verdict", responses(func(r *Rule) *Responses { return &r.Verdict })...),
	section("ladder",
		steps("", func(r *Rule) *[]Step { return &r.Ladder.Steps }),
		field[Rule]{
			key: "scope", expected: scopeExpected,
			read: func(r *reader, rule *Rule, path string, v *node) {
				rule.Ladder.Scope = new(Scope)
				readScope(r, rule.Ladder.Scope, path, v)
			},
			text: func(rule *Rule) string {
				if rule.Ladder.Scope == nil {
					return ""
				}
				return quote(rule.Ladder.Scope.String())
			},
		},
		field[Rule]{
			key: "shared", expected: booleanExpected,
			read: func(r *reader, rule *Rule, path string, v *node) {
				rule.Ladder.Shared = new(bool)
				readBoolean(r, rule.Ladder.Shared, path, v)
			},
			text: func(rule *Rule) string {
				if rule.Ladder.Shared == nil {
					return ""
				}
				return strconv.FormatBool(*rule.Ladder.Shared)
			},
		},
	),
	watchField(),
	limits,
}

const (
	pathExpected     = `an absolute path such as "/run/checkprocd"`
	modeExpected     = "an octal number such as 0o666, with 0o600 in it and no other bits than 0o666"
	percentExpected  = `a percentage such as "10%", 0% to 100%`
	booleanExpected  = "true or false"
	scopeExpected    = `"process" or "cgroup"`
	socketExpected   = "at most 107 bytes, the limit of a unix socket"
	groupExpected    = `the name of a group such as "adm", or ""`
	stepsExpected    = `steps such as [ { signal = "SIGTERM", wait = "5s" } ], 1 to 32 of them`
	stepExpected     = `a step such as { signal = "SIGTERM", wait = "5s" }`
	signalExpected   = `the name of a signal such as "SIGTERM"`
	fractionExpected = "a number above 0 and at most 1, such as 0.5"
	patternExpected  = `a pattern such as "ftp*"`
	attemptsExpected = "an integer, 1 to 100"
)

// section is a table of fields of T.
func section[T any](key string, fields ...field[T]) field[T] {
	expected := "a table with " + names(fields)
	return field[T]{key: key, expected: expected, fields: fields,
		read: func(r *reader, to *T, path string, v *node) {
			if v.kind != kindTable {
				r.fault(v, path, v.describe(), expected)
				return
			}
			readTable(r, to, path, v, fields)
		},
		text: func(*T) string { return "" },
	}
}

// duration is a length of time; the smallest is 1 ns where only 0 is ruled out. A zero is written only where it can be
// read.
func duration[T any](key string, low, high time.Duration, comment string, at func(*T) *time.Duration) field[T] {
	expected := fmt.Sprintf(`a duration such as "5s", %s to %s`, durationText(low), durationText(high))
	if low == 1 {
		expected = fmt.Sprintf(`a duration such as "5s", above 0 and at most %s`, durationText(high))
	}
	if low < time.Second {
		expected = strings.Replace(expected, `"5s"`, `"1s"`, 1)
	}
	return field[T]{key: key, expected: expected, comment: comment,
		read: func(r *reader, to *T, path string, v *node) {
			if v.kind != kindString {
				r.fault(v, path, v.describe(), expected)
				return
			}
			d, err := time.ParseDuration(v.text)
			if err != nil {
				r.fault(v, path, clip(v.text)+" is no duration", expected)
				return
			}
			if d < low || d > high {
				r.fault(v, path, clip(v.text)+" is out of range", expected)
				return
			}
			*at(to) = d
		},
		text: func(from *T) string {
			if *at(from) == 0 && low > 0 {
				return ""
			}
			return quote(durationText(*at(from)))
		},
	}
}

func boolean(key, comment string, at func(*Config) *bool) field[Config] {
	return field[Config]{key: key, expected: booleanExpected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) { readBoolean(r, at(c), path, v) },
		text: func(c *Config) string { return strconv.FormatBool(*at(c)) },
	}
}

func pressure(key, comment string, at func(*Config) *float64) field[Config] {
	return field[Config]{key: key, expected: percentExpected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) { readPercent(r, at(c), "", 100, path, v) },
		text: func(c *Config) string { return quote(strconv.FormatFloat(*at(c), 'f', -1, 64) + "%") },
	}
}

func integer(key string, low, high int, comment string, at func(*Config) *int) field[Config] {
	expected := fmt.Sprintf("an integer, %d to %d", low, high)
	return field[Config]{key: key, expected: expected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) {
			if n, ok := readInteger(r, path, v, expected, int64(low), int64(high)); ok {
				*at(c) = int(n)
			}
		},
		text: func(c *Config) string { return strconv.Itoa(*at(c)) },
	}
}

func ipcKey(key, comment string, at func(*Config) *uint32) field[Config] {
	const expected = "an IPC key such as 0x5095, 1 to 0x7fffffff"
	return field[Config]{key: key, expected: expected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) {
			if n, ok := readInteger(r, path, v, expected, 1, maxKey); ok {
				*at(c) = uint32(n)
			}
		},
		text: func(c *Config) string { return fmt.Sprintf("0x%x", *at(c)) },
	}
}

func choice(key string, values []string, comment string, at func(*Config) *string) field[Config] {
	expected := "one of " + strings.Join(values, ", ")
	return field[Config]{key: key, expected: expected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) {
			switch {
			case v.kind != kindString:
				r.fault(v, path, v.describe(), expected)
			case !slices.Contains(values, v.text):
				r.fault(v, path, clip(v.text)+" is not known", expected)
			default:
				*at(c) = v.text
			}
		},
		text: func(c *Config) string { return quote(*at(c)) },
	}
}

// responses has a field for each verdict, in the order of Responses.
func responses[T any](at func(*T) *Responses) []field[T] {
	one := func(key, comment string, of func(*Responses) *Response, allowed ...Response) field[T] {
		return field[T]{key: key, expected: enumExpected(allowed), comment: comment,
			read: func(r *reader, to *T, path string, v *node) { readEnum(r, of(at(to)), path, v, allowed...) },
			text: func(from *T) string { return enumText(*of(at(from))) },
		}
	}
	return []field[T]{
		one("hung", "nothing excuses the silence", func(r *Responses) *Response { return &r.Hung }, RespondLadder, RespondReport),
		one("starved", "was given no processor, or the host is under pressure", func(r *Responses) *Response { return &r.Starved }, RespondWait, RespondLadder, RespondReport),
		one("blocked", "in an uninterruptible sleep (D)", func(r *Responses) *Response { return &r.Blocked }, RespondWait, RespondLadder, RespondReport),
		one("stopped", "by a signal such as SIGSTOP", func(r *Responses) *Response { return &r.Stopped }, RespondHold, RespondLadder),
		one("traced", "by a debugger", func(r *Responses) *Response { return &r.Traced }, RespondHold, RespondLadder),
		one("frozen", "by the freezer of its cgroup", func(r *Responses) *Response { return &r.Frozen }, RespondHold, RespondLadder),
		one("dumping", "writes a core dump", func(r *Responses) *Response { return &r.Dumping }, RespondHold, RespondLadder),
	}
}

// steps is a list of steps; none is not written.
func steps[T any](comment string, at func(*T) *[]Step) field[T] {
	return field[T]{key: "steps", expected: stepsExpected, comment: comment,
		read: func(r *reader, to *T, path string, v *node) { readSteps(r, at(to), path, v) },
		text: func(from *T) string {
			if *at(from) == nil {
				return ""
			}
			return stepsText(*at(from))
		},
	}
}

func group(key, comment string, at func(*Config) *string) field[Config] {
	return field[Config]{key: key, expected: groupExpected, comment: comment,
		read: func(r *reader, c *Config, path string, v *node) {
			switch {
			case v.kind != kindString:
				r.fault(v, path, v.describe(), groupExpected)
			case len(v.text) > 256 || strings.ContainsFunc(v.text, notInGroup):
				r.fault(v, path, clip(v.text)+" is no name of a group", groupExpected)
			default:
				*at(c) = v.text
			}
		},
		text: func(c *Config) string { return quote(*at(c)) },
	}
}

// notInGroup is true of what /etc/group cannot hold in a name.
func notInGroup(c rune) bool {
	return c == ':' || c == ',' || c == '/' || unicode.IsSpace(c) || unicode.IsControl(c)
}

func pattern(key, expected string, check func(string) error, at func(*Rule) *string) field[Rule] {
	return field[Rule]{key: key, expected: expected,
		read: func(r *reader, rule *Rule, path string, v *node) {
			readPattern(r, at(rule), path, v, expected, check)
		},
		text: func(rule *Rule) string {
			if *at(rule) == "" {
				return ""
			}
			return quote(*at(rule))
		},
	}
}

func readInteger(r *reader, path string, v *node, expected string, low, high int64) (n int64, ok bool) {
	if v.kind != kindInteger {
		r.fault(v, path, v.describe(), expected)
		return 0, false
	}
	// TOML's prefixes and underscores are Go's; a leading 0, which is octal to Go, is no TOML.
	n, err := strconv.ParseInt(v.text, 0, 64)
	if err != nil || n < low || n > high {
		r.fault(v, path, clipBare(v.text)+" is out of range", expected)
		return 0, false
	}
	return n, true
}

func readPath(r *reader, to *string, path string, v *node) {
	switch {
	case v.kind != kindString:
		r.fault(v, path, v.describe(), pathExpected)
	case !filepath.IsAbs(v.text):
		r.fault(v, path, clip(v.text)+" is no absolute path", pathExpected)
	case strings.ContainsFunc(v.text, unicode.IsControl):
		r.fault(v, path, clip(v.text)+" has control characters in it", pathExpected)
	case len(v.text) >= unix.PathMax:
		r.fault(v, path, fmt.Sprintf("is %d bytes long", len(v.text)), pathExpected)
	default:
		*to = filepath.Clean(v.text)
	}
}

// readMode wants octal digits: 400, which somebody meant for 0o400, would be 0o620.
func readMode(r *reader, to *uint32, path string, v *node) {
	n, err := strconv.ParseUint(v.text, 0, 32)
	switch {
	case v.kind != kindInteger:
		r.fault(v, path, v.describe(), modeExpected)
	case !strings.HasPrefix(v.text, "0o"):
		r.fault(v, path, clipBare(v.text)+" is not octal", modeExpected)
	case err != nil || n&^0o666 != 0 || n&0o600 != 0o600:
		r.fault(v, path, clipBare(v.text)+" is no mode of a segment", modeExpected)
	default:
		*to = uint32(n)
	}
}

// readPercent reads the digits with an exponent behind them; whole is what 100% is then.
func readPercent(r *reader, to *float64, exponent string, whole float64, path string, v *node) {
	if v.kind != kindString {
		r.fault(v, path, v.describe(), percentExpected)
		return
	}
	digits, ok := strings.CutSuffix(v.text, "%")
	if !ok || digits == "" || strings.Trim(digits, "0123456789.") != "" {
		r.fault(v, path, clip(v.text)+" is no percentage", percentExpected)
		return
	}
	f, err := strconv.ParseFloat(digits+exponent, 64)
	if err != nil {
		r.fault(v, path, clip(v.text)+" is no percentage", percentExpected)
		return
	}
	if f > whole {
		r.fault(v, path, clip(v.text)+" is out of range", percentExpected)
		return
	}
	*to = f
}

func readFraction(r *reader, to *float64, path string, v *node) {
	if v.kind != kindFloat && v.kind != kindInteger {
		r.fault(v, path, v.describe(), fractionExpected)
		return
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(v.text, "_", ""), 64)
	if v.kind == kindInteger && err != nil || math.IsNaN(f) || f <= 0 || f > 1 {
		r.fault(v, path, clipBare(v.text)+" is out of range", fractionExpected)
		return
	}
	*to = f
}

func readBoolean(r *reader, to *bool, path string, v *node) {
	if v.kind != kindBool {
		r.fault(v, path, v.describe(), booleanExpected)
		return
	}
	*to = v.text == "true"
}

func readScope(r *reader, to *Scope, path string, v *node) {
	readEnum(r, to, path, v, ScopeProcess, ScopeCgroup)
}

// enumExpected lists the names of values for a message.
func enumExpected[E fmt.Stringer](values []E) string {
	list := make([]string, len(values))
	for i, e := range values {
		list[i] = quote(e.String())
	}
	return strings.Join(list, " or ")
}

// readEnum takes the value whose name the node holds.
func readEnum[E fmt.Stringer](r *reader, to *E, path string, v *node, values ...E) {
	for _, e := range values {
		if v.kind == kindString && v.text == e.String() {
			*to = e
			return
		}
	}
	problem := v.describe()
	if v.kind == kindString {
		problem = clip(v.text) + " is not known"
	}
	r.fault(v, path, problem, enumExpected(values))
}

func readSteps(r *reader, to *[]Step, path string, v *node) {
	switch {
	case v.kind != kindArray:
		r.fault(v, path, v.describe(), stepsExpected)
		return
	case len(v.elems) == 0:
		r.fault(v, path, "is empty", stepsExpected)
		return
	case len(v.elems) > maxSteps:
		r.fault(v, path, fmt.Sprintf("has %d steps", len(v.elems)), stepsExpected)
		return
	}
	steps := make([]Step, len(v.elems))
	for i, e := range v.elems {
		at := fmt.Sprintf("%s[%d]", path, i)
		if e.kind != kindTable {
			r.fault(e, at, e.describe(), stepExpected)
			continue
		}
		readTable(r, &steps[i], at, e, stepSchema)
		requireAll(r, at, e, stepSchema)
	}
	*to = steps
}

// requireAll reports the keys that a table lacks.
func requireAll[T any](r *reader, path string, table *node, fields []field[T]) {
	for i := range fields {
		if _, ok := table.children[fields[i].key]; !ok {
			r.fault(table, path+"."+fields[i].key, "is missing", fields[i].expected)
		}
	}
}

// readRules appends: the rules of a later file come after those of an earlier one.
func readRules(r *reader, c *Config, path string, v *node) {
	if v.kind != kindArray {
		r.fault(v, path, v.describe(), "[[rule]]")
		return
	}
	watches := 0
	for i := range c.Rules {
		watches += min(len(c.Rules[i].Watch.Files), 1)
	}
	for _, e := range v.elems {
		at := fmt.Sprintf("%s[%d]", path, len(c.Rules))
		if len(c.Rules) == maxRules {
			r.fault(e, at, "is one rule too many", fmt.Sprintf("at most %d", maxRules))
			return
		}
		var rule Rule
		if e.kind != kindTable {
			r.fault(e, at, e.describe(), "[[rule]]")
		} else {
			readTable(r, &rule, at, e, ruleSchema)
		}
		for k, unit := range rule.Then {
			if slices.Contains(rule.Then[:k], unit) {
				r.fault(e, at+".then", "names "+quote(unit)+" twice", thenExpected)
			}
		}
		if slices.Contains(rule.Then, rule.Match.Unit) {
			r.fault(e, at+".then", "names the unit that it is for, "+quote(rule.Match.Unit), thenExpected)
		}
		if len(rule.Watch.Files) > 0 {
			if watches++; watches > maxWatches {
				r.fault(e, at+".watch", "is one watch too many", fmt.Sprintf("at most %d", maxWatches))
			}
		}
		c.Rules = append(c.Rules, rule)
	}
}

// expectedOf returns what a key of the schema takes; empty for a key that does not exist.
func expectedOf(key string) string {
	first, rest, nested := strings.Cut(key, ".")
	switch first {
	case "rule":
		if of, ok := strings.CutPrefix(rest, "limit."); ok {
			return expectedIn(limitSchema, of)
		}
		return expectedIn(ruleSchema, rest)
	case "names":
		return expectedIn(namesSchema, rest)
	}
	if nested {
		return expectedIn(schema, key)
	}
	return expectedIn(schema, first)
}

func expectedIn[T any](fields []field[T], key string) string {
	first, rest, _ := strings.Cut(key, ".")
	for i := range fields {
		if fields[i].key != first {
			continue
		}
		if rest != "" {
			return expectedIn(fields[i].fields, rest)
		}
		return fields[i].expected
	}
	return ""
}
