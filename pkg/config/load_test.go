package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// parseText reads one file that lies in memory.
func parseText(text string) (Config, []Fault) {
	c := Default()
	var l loader
	faults := l.add(&c, "f", []byte(text))
	return c, append(faults, l.finish(&c)...)
}

func lines(faults []Fault) string {
	return (&Faults{List: faults}).Error()
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"wrong unit", "interval = 1", `f:1:12: interval: is the integer 1 (expected a duration such as "1s", 50ms to 10s)`},
		{"bare duration", "interval = 1s", `f:1:13: interval: strings must be quoted (expected a duration such as "1s", 50ms to 10s)`},
		{"no duration", `interval = "1 s"`, `f:1:12: interval: "1 s" is no duration (expected a duration such as "1s", 50ms to 10s)`},
		{"too fast", `interval = "49ms"`, `f:1:12: interval: "49ms" is out of range (expected a duration such as "1s", 50ms to 10s)`},
		{"too slow", `interval = "11s"`, `f:1:12: interval: "11s" is out of range (expected a duration such as "1s", 50ms to 10s)`},
		{"unknown key", "intervall = 1", `f:1:1: intervall: unknown key (expected one of interval, runtime_dir, log, cpactive, control, protect, alert, verdict, pressure, ladder, brake, recovery, limits, rule, names)`},
		{"unknown table", "[native]\nenabled = true", `f:1:2: native: unknown table (expected one of interval, runtime_dir, log, cpactive, control, protect, alert, verdict, pressure, ladder, brake, recovery, limits, rule, names)`},
		{"protect as value", "protect = ['sshd']", `f:1:11: protect: is an array (expected a table with names, units)`},
		{"protect a name", "protect.names = 'sshd'", `f:1:17: protect.names: is the string "sshd" (expected patterns such as [ "db*", "sshd" ], none of them empty)`},
		{"protect all by nothing", "[protect]\nnames = ['a', '']", `f:2:15: protect.names[1]: "" is empty (expected patterns such as [ "db*", "sshd" ], none of them empty)`},
		{"protect patterns", "[protect]\nunits = [ 1, '[' ]", `f:2:11: protect.units[0]: is the integer 1 (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)
f:2:14: protect.units[1]: "[" is no pattern: unfinished [ or \ (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)`},
		{"protect nothing", "[protect]\nunits = ['db', 'a.slice', 'db@.service', '']", `f:2:10: protect.units[0]: "db" matches no unit with processes in it: those end in .service, .scope, .socket, .mount, .swap (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)
f:2:16: protect.units[1]: "a.slice" is a slice: name the units in it (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)
f:2:27: protect.units[2]: "db@.service" is a template, in which nothing runs: its instances have something behind the @, or a * (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)
f:2:42: protect.units[3]: "" is empty (expected patterns such as [ "db@*.service", "session-*.scope" ], none of them empty)`},
		{"rule for no unit", "[[rule]]\nmatch.unit = 'db'", `f:2:14: rule[0].match.unit: "db" matches no unit with processes in it: those end in .service, .scope, .socket, .mount, .swap (expected a pattern such as "ftp@*.service")`},
		{"names of nobody", "[[names]]\nallow = []", `f:1:3: names[0].user: is missing (expected a pattern for the name of a user such as "idc", or a uid such as "1000")`},
		{"names of an empty user", "[[names]]\nuser = ''\nallow = []", `f:2:8: names[0].user: is empty (expected a pattern for the name of a user such as "idc", or a uid such as "1000")`},
		{"names without any", "[[names]]\nuser = 'a'", `f:1:3: names[0].allow: is missing (expected patterns such as [ "db*", "sshd" ], none of them empty)`},
		{"names of a big uid", "[[names]]\nuser = '4294967296'\nallow = ['a']", `f:2:8: names[0].user: "4294967296" is no uid (expected a pattern for the name of a user such as "idc", or a uid such as "1000")`},
		{"names as value", "names = 'a'", `f:1:9: names: is the string "a" (expected [[names]])`},
		{"watch without files", "[[rule]]\nwatch = { settle = '3s' }", `f:2:9: rule[0].watch.files: is missing (expected paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only)`},
		{"watch of odd paths", "[[rule]]\nwatch.files = ['a', '/a/', '/*/a', '/a/[']", `f:2:16: rule[0].watch.files[0]: "a" is no absolute path (expected paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only)
f:2:21: rule[0].watch.files[1]: "/a/" is not the plain path of a file (expected paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only)
f:2:28: rule[0].watch.files[2]: "/*/a" has a pattern before its last part (expected paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only)
f:2:36: rule[0].watch.files[3]: "/a/[" unfinished [ or \ (expected paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only)`},
		{"watch with a check", "[[rule]]\nwatch = { files = ['/a'], check = ['ftpd', '-t'] }", `f:2:35: rule[0].watch.check: has no absolute path in front (expected a command such as [ "/usr/sbin/ftpd", "--check" ], its path absolute)`},
		{"watch that settles at once", "[[rule]]\nwatch = { files = ['/a'], settle = '1ms', action = 'stop', blame = 5 }", `f:2:36: rule[0].watch.settle: "1ms" is out of range (expected a duration such as "1s", 100ms to 10m)
f:2:52: rule[0].watch.action: "stop" is not known (expected "reload" or "restart")
f:2:68: rule[0].watch.blame: is the integer 5 (expected a duration such as "5s", 1s to 1h)`},
		{"unknown nested key", "[log]\n colour = true", `f:2:2: log.colour: unknown key (expected one of level, format, file)`},
		{"unknown key of the ladder", "[ladder]\nscopes = 'process'", `f:2:1: ladder.scopes: unknown key (expected one of steps, scope, shared, dump_wait, max_concurrent)`},
		{"scope", "[ladder]\nscope = 'unit'", `f:2:9: ladder.scope: "unit" is not known (expected "process" or "cgroup")`},
		{"scope boolean", "ladder.scope = true", `f:1:16: ladder.scope: is the boolean true (expected "process" or "cgroup")`},
		{"shared", "ladder.shared = 'cgroup'", `f:1:17: ladder.shared: is the string "cgroup" (expected true or false)`},
		{"dump_wait", "ladder.dump_wait = '61m'", `f:1:20: ladder.dump_wait: "61m" is out of range (expected a duration such as "1s", 0s to 1h)`},
		{"dump_wait negative", "ladder.dump_wait = '-1ns'", `f:1:20: ladder.dump_wait: "-1ns" is out of range (expected a duration such as "1s", 0s to 1h)`},
		{"dump_wait number", "ladder.dump_wait = 0", `f:1:20: ladder.dump_wait: is the integer 0 (expected a duration such as "1s", 0s to 1h)`},
		{"dump_wait bare", "[ladder]\ndump_wait = 2m", `f:2:14: ladder.dump_wait: strings must be quoted (expected a duration such as "1s", 0s to 1h)`},
		{"verdict as value", "verdict = 'ladder'", `f:1:11: verdict: is the string "ladder" (expected a table with hung, starved, blocked, stopped, traced, frozen, dumping)`},
		{"verdict that is none", "[verdict]\nunkillable = 'report'", `f:2:1: verdict.unkillable: unknown key (expected one of hung, starved, blocked, stopped, traced, frozen, dumping)`},
		{"hung may not be held", "verdict.hung = 'hold'", `f:1:16: verdict.hung: "hold" is not known (expected "ladder" or "report")`},
		{"hung gets no more time", "verdict.hung = 'wait'", `f:1:16: verdict.hung: "wait" is not known (expected "ladder" or "report")`},
		{"starved may not be held", "verdict.starved = 'hold'", `f:1:19: verdict.starved: "hold" is not known (expected "wait" or "ladder" or "report")`},
		{"blocked", "verdict.blocked = 1", `f:1:19: verdict.blocked: is the integer 1 (expected "wait" or "ladder" or "report")`},
		{"the other verdicts", "[verdict]\nstopped = 'report'\ntraced = 'wait'\nfrozen = 'Hold'\ndumping = ''",
			`f:2:11: verdict.stopped: "report" is not known (expected "hold" or "ladder")
f:3:10: verdict.traced: "wait" is not known (expected "hold" or "ladder")
f:4:10: verdict.frozen: "Hold" is not known (expected "hold" or "ladder")
f:5:11: verdict.dumping: "" is not known (expected "hold" or "ladder")`},
		{"default is left out, not written", "[[rule]]\nverdict = { hung = 'default' }", `f:2:20: rule[0].verdict.hung: "default" is not known (expected "ladder" or "report")`},
		{"pressure", "pressure.cpu = '100.5%'", `f:1:16: pressure.cpu: "100.5%" is out of range (expected a percentage such as "10%", 0% to 100%)`},
		{"pressure number", "pressure.memory = 40", `f:1:19: pressure.memory: is the integer 40 (expected a percentage such as "10%", 0% to 100%)`},
		{"pressure without sign", "pressure.io = '80'", `f:1:15: pressure.io: "80" is no percentage (expected a percentage such as "10%", 0% to 100%)`},
		{"pressure of a resource that is none", "[pressure]\nirq = '1%'", `f:2:1: pressure.irq: unknown key (expected one of cpu, memory, io)`},
		{"quoted key with a dot", `"log.level" = "info"`, `f:1:1: "log.level": unknown key (expected one of interval, runtime_dir, log, cpactive, control, protect, alert, verdict, pressure, ladder, brake, recovery, limits, rule, names)`},
		{"section as value", "log = 'debug'", `f:1:7: log: is the string "debug" (expected a table with level, format, file)`},
		{"section as array", "[[log]]", `f:1:3: log: is an array of tables (expected a table with level, format, file)`},
		{"key as table", "[interval]", `f:1:2: interval: is a table (expected a duration such as "1s", 50ms to 10s)`},
		{"rule as table", "[rule]", `f:1:2: rule: is a table (expected [[rule]])`},
		{"rule as array", "rule = [ 1 ]", `f:1:10: rule[0]: is the integer 1 (expected [[rule]])`},
		{"level", "log.level = 'INFO'", `f:1:13: log.level: "INFO" is not known (expected one of trace, debug, info, warn, error)`},
		{"format", "log.format = true", `f:1:14: log.format: is the boolean true (expected one of auto, journal, console, json)`},
		{"log file", "log.file = 'x.log'", `f:1:12: log.file: "x.log" is no absolute path (expected an absolute path such as "/run/checkprocd")`},
		{"runtime_dir", `runtime_dir = "/a\u0007"`, `f:1:15: runtime_dir: "/a\a" has control characters in it (expected an absolute path such as "/run/checkprocd")`},
		{"boolean", `cpactive.enabled = "yes"`, `f:1:20: cpactive.enabled: is the string "yes" (expected true or false)`},
		{"key 0", "cpactive.key = 0", `f:1:16: cpactive.key: 0 is out of range (expected an IPC key such as 0x5095, 1 to 0x7fffffff)`},
		{"key large", "cpactive.sem_key = 0x80000000", `f:1:20: cpactive.sem_key: 0x80000000 is out of range (expected an IPC key such as 0x5095, 1 to 0x7fffffff)`},
		{"key string", "cpactive.key = '0x5095'", `f:1:16: cpactive.key: is the string "0x5095" (expected an IPC key such as 0x5095, 1 to 0x7fffffff)`},
		{"records 0", "cpactive.records = 0", `f:1:20: cpactive.records: 0 is out of range (expected an integer, 1 to 100000)`},
		{"records", "cpactive.records = 100_001", `f:1:20: cpactive.records: 100_001 is out of range (expected an integer, 1 to 100000)`},
		{"mode decimal", "cpactive.mode = 666", `f:1:17: cpactive.mode: 666 is not octal (expected an octal number such as 0o666, with 0o600 in it and no other bits than 0o666)`},
		{"mode", "cpactive.mode = 0o066", `f:1:17: cpactive.mode: 0o066 is no mode of a segment (expected an octal number such as 0o666, with 0o600 in it and no other bits than 0o666)`},
		{"margin", `cpactive.margin = "0.1"`, `f:1:19: cpactive.margin: "0.1" is no percentage (expected a percentage such as "10%", 0% to 100%)`},
		{"margin large", `cpactive.margin = "100.1%"`, `f:1:19: cpactive.margin: "100.1%" is out of range (expected a percentage such as "10%", 0% to 100%)`},
		{"margin dots", `cpactive.margin = "1.0.0%"`, `f:1:19: cpactive.margin: "1.0.0%" is no percentage (expected a percentage such as "10%", 0% to 100%)`},
		{"margin negative", `cpactive.margin = "-1%"`, `f:1:19: cpactive.margin: "-1%" is no percentage (expected a percentage such as "10%", 0% to 100%)`},
		{"margin number", `cpactive.margin = 0.1`, `f:1:19: cpactive.margin: is the number 0.1 (expected a percentage such as "10%", 0% to 100%)`},
		{"socket", "control.socket = '/" + strings.Repeat("x", 107) + "'", `f:1:18: control.socket: is 108 bytes long (expected at most 107 bytes, the limit of a unix socket)`},
		{"runtime_dir too long for a socket", "runtime_dir = '/" + strings.Repeat("x", 100) + "'", `f:1:15: runtime_dir: with io.checkproc in it is 114 bytes long (expected at most 107 bytes, the limit of a unix socket)`},
		{"group", "control.group = 'a b'", `f:1:17: control.group: "a b" is no name of a group (expected the name of a group such as "adm", or "")`},
		{"no steps", "ladder.steps = []", `f:1:16: ladder.steps: is empty (expected steps such as [ { signal = "SIGTERM", wait = "5s" } ], 1 to 32 of them)`},
		{"many steps", "ladder.steps = [" + strings.Repeat("1,", 33) + "]", `f:1:16: ladder.steps: has 33 steps (expected steps such as [ { signal = "SIGTERM", wait = "5s" } ], 1 to 32 of them)`},
		{"step", "ladder.steps = ['SIGTERM']", `f:1:17: ladder.steps[0]: is the string "SIGTERM" (expected a step such as { signal = "SIGTERM", wait = "5s" })`},
		{"signal", "ladder.steps = [ { signal = 'TERM', wait = '1s' } ]", `f:1:29: ladder.steps[0].signal: unknown signal "TERM" (expected the name of a signal such as "SIGTERM")`},
		{"signal number", "ladder.steps = [ { signal = 15, wait = '1s' } ]", `f:1:29: ladder.steps[0].signal: is the integer 15 (expected the name of a signal such as "SIGTERM")`},
		{"wait 0", "ladder.steps = [ { signal = 'SIGTERM', wait = '0s' } ]", `f:1:47: ladder.steps[0].wait: "0s" is out of range (expected a duration such as "1s", above 0 and at most 1h)`},
		{"wait", "ladder.steps = [ { signal = 'SIGTERM', wait = '1h1s' } ]", `f:1:47: ladder.steps[0].wait: "1h1s" is out of range (expected a duration such as "1s", above 0 and at most 1h)`},
		{"no wait", "[[ladder.steps]]\nsignal = 'SIGTERM'", `f:1:10: ladder.steps[0].wait: is missing (expected a duration such as "1s", above 0 and at most 1h)`},
		{"max_concurrent", "ladder.max_concurrent = 0", `f:1:25: ladder.max_concurrent: 0 is out of range (expected an integer, 1 to 10000)`},
		{"at_least", "brake.at_least = 1", `f:1:18: brake.at_least: 1 is out of range (expected an integer, 2 to 1000000)`},
		{"fraction 0", "brake.fraction = 0", `f:1:18: brake.fraction: 0 is out of range (expected a number above 0 and at most 1, such as 0.5)`},
		{"fraction nan", "brake.fraction = nan", `f:1:18: brake.fraction: nan is out of range (expected a number above 0 and at most 1, such as 0.5)`},
		{"fraction", "brake.fraction = 1.01", `f:1:18: brake.fraction: 1.01 is out of range (expected a number above 0 and at most 1, such as 0.5)`},
		{"fraction percent", "brake.fraction = '50%'", `f:1:18: brake.fraction: is the string "50%" (expected a number above 0 and at most 1, such as 0.5)`},
		{"window", "brake.window = '2h'", `f:1:16: brake.window: "2h" is out of range (expected a duration such as "1s", 100ms to 1h)`},
		{"date", "brake.window = 2026-01-01", `f:1:16: brake.window: is the date or time 2026-01-01 (expected a duration such as "1s", 100ms to 1h)`},
		{"glob", "[[rule]]\nmatch = { name = 'a[' }", `f:2:18: rule[0].match.name: "a[" is no pattern: unfinished [ or \ (expected a pattern such as "ftp*")`},
		{"match", "[[rule]]\nmatch = 'ftp*'", `f:2:9: rule[0].match: is the string "ftp*" (expected a table with name, user, unit)`},
		{"action", "[[rule]]\naction = 'kill'", `f:2:10: rule[0].action: "kill" is not known (expected "ladder" or "report")`},
		{"restart", "[[rule]]\nrestart = false", `f:2:11: rule[0].restart: is the boolean false (expected "unit", "none" or { command = ["/usr/bin/program", "argument"], user = "name" })`},
		{"restart by a command", "[[rule]]\nrestart = { command = ['ls', 1], user = 'a:b' }\n[[rule]]\nrestart = { user = 'idc' }\n[[rule]]\nrestart = 'start'",
			`f:2:23: rule[0].restart.command: has no absolute path in front (expected a command such as ["/usr/bin/program", "argument"], its path absolute)
f:2:30: rule[0].restart.command[1]: is the integer 1 (expected a command such as ["/usr/bin/program", "argument"], its path absolute)
f:2:41: rule[0].restart.user: "a:b" is no name of a user (expected the name or number of a user such as "idc")
f:4:11: rule[1].restart.command: is missing (expected a command such as ["/usr/bin/program", "argument"], its path absolute)
f:6:11: rule[2].restart: "start" is not known (expected "unit", "none" or { command = ["/usr/bin/program", "argument"], user = "name" })`},
		{"then", "[[rule]]\nthen = ['b.service', 'b', 'b@.service', 'a b.service', '/x.service', '@x.service', 'x.slice']\n[[rule]]\nthen = []\n[[rule]]\nthen = 'b.service'",
			`f:2:22: rule[0].then[1]: "b" has no type such as .service (expected names of units such as ["b.service"], 1 to 32 of them)
f:2:27: rule[0].then[2]: "b@.service" is a template: an instance has something behind the @ (expected names of units such as ["b.service"], 1 to 32 of them)
f:2:41: rule[0].then[3]: "a b.service" is no name of a unit (expected names of units such as ["b.service"], 1 to 32 of them)
f:2:56: rule[0].then[4]: "/x.service" is no name of a unit (expected names of units such as ["b.service"], 1 to 32 of them)
f:2:70: rule[0].then[5]: "@x.service" is no name of a unit (expected names of units such as ["b.service"], 1 to 32 of them)
f:2:84: rule[0].then[6]: "x.slice" has no type such as .service (expected names of units such as ["b.service"], 1 to 32 of them)
f:4:8: rule[1].then: is empty (expected names of units such as ["b.service"], 1 to 32 of them)
f:6:8: rule[2].then: is the string "b.service" (expected names of units such as ["b.service"], 1 to 32 of them)`},
		{"then itself", "[[rule]]\nthen = ['a.service', 'b.service']\nmatch = { unit = 'b.service' }\n[[rule]]\nmatch = { unit = 'b*.service' }\nthen = ['b.service']",
			`f:1:3: rule[0].then: names the unit that it is for, "b.service" (expected names of units such as ["b.service"], 1 to 32 of them)`},
		{"recovery", "[recovery]\nwait = '0s'\ncap = 5\nattempts = 0\nwindow = '25h'\n[[rule]]\nrecovery = { attempts = 101, window = '0s', cap = '1s' }\nstart_grace = '0s'",
			`f:2:8: recovery.wait: "0s" is out of range (expected a duration such as "5s", 1s to 1h)
f:3:7: recovery.cap: is the integer 5 (expected a duration such as "5s", 1s to 24h)
f:4:12: recovery.attempts: 0 is out of range (expected an integer, 1 to 100)
f:5:10: recovery.window: "25h" is out of range (expected a duration such as "5s", 1s to 24h)
f:7:25: rule[0].recovery.attempts: 101 is out of range (expected an integer, 1 to 100)
f:7:39: rule[0].recovery.window: "0s" is out of range (expected a duration such as "5s", 1s to 24h)
f:7:45: rule[0].recovery.cap: unknown key (expected one of attempts, window)
f:8:15: rule[0].start_grace: "0s" is out of range (expected a duration such as "5s", 1s to 24h)`},
		{"rule's verdict", "[[rule]]\nverdict = { blocked = 'ladder', frozen = 'report', gone = 1 }",
			`f:2:42: rule[0].verdict.frozen: "report" is not known (expected "hold" or "ladder")
f:2:52: rule[0].verdict.gone: unknown key (expected one of hung, starved, blocked, stopped, traced, frozen, dumping)`},
		{"rule's ladder", "[[rule]]\n[rule.ladder]\nsteps = []\nscope = 'slice'\nshared = 1\nmax_concurrent = 1",
			`f:3:9: rule[0].ladder.steps: is empty (expected steps such as [ { signal = "SIGTERM", wait = "5s" } ], 1 to 32 of them)
f:4:9: rule[0].ladder.scope: "slice" is not known (expected "process" or "cgroup")
f:5:10: rule[0].ladder.shared: is the integer 1 (expected true or false)
f:6:1: rule[0].ladder.max_concurrent: unknown key (expected one of steps, scope, shared)`},
		{"rule's ladder is no list", "[[rule]]\nladder = [ { signal = 'SIGTERM', wait = '1s' } ]", `f:2:10: rule[0].ladder: is an array (expected a table with steps, scope, shared)`},
		{"rule's step", "[[rule]]\n[[rule]]\nladder = { steps = [ { signal = 'SIGTERM' }, { signal = 'SIGFOO', wait = '1s' } ] }",
			`f:3:22: rule[1].ladder.steps[0].wait: is missing (expected a duration such as "1s", above 0 and at most 1h)
f:3:57: rule[1].ladder.steps[1].signal: unknown signal "SIGFOO" (expected the name of a signal such as "SIGTERM")`},
		{"timeout", "[[rule]]\n[[rule]]\ntimeout = '999ms'", `f:3:11: rule[1].timeout: "999ms" is out of range (expected a duration such as "5s", 1s to 168h)`},
		{"timeout long", "[[rule]]\ntimeout = '169h'", `f:2:11: rule[0].timeout: "169h" is out of range (expected a duration such as "5s", 1s to 168h)`},
		{"timeout number", "[[rule]]\ntimeout = 45", `f:2:11: rule[0].timeout: is the integer 45 (expected a duration such as "5s", 1s to 168h)`},
		{"twice", "interval = '1s'\ninterval = '2s'", "f:2:1: interval: stands twice, first in line 1"},
		{"table twice", "[log]\n[brake]\n[log]\nlevel = 7", "f:3:2: log: stands twice, first in line 1\n" +
			`f:4:9: log.level: is the integer 7 (expected one of trace, debug, info, warn, error)`},
		{"table over a value", "log.level = 'info'\n[log.level]", "f:2:6: log.level: stands twice, first in line 1"},
		{"header", "interval = 1\n[log\nlevel = 'x'", `f:1:12: interval: is the integer 1 (expected a duration such as "1s", 50ms to 10s)` + "\n" +
			`f:2:5: expected ']' to close table name; the file was not read beyond this`},
		{"open array", "ladder.steps = [ {\ninterval = 1", `f:2:12: ladder.steps: inline table is incomplete; the file was not read beyond this (expected steps such as [ { signal = "SIGTERM", wait = "5s" } ], 1 to 32 of them)`},
		{"no equals sign", "interval\n", `f:1:9: expected '=' after key`},
		{"NUL", "interval = \x00", `f:1:12: interval: unexpected character U+0000 at start of value (expected a duration such as "1s", 50ms to 10s)`},
		{"bad date", "brake.window = 2026-13-45", `f:1:16: brake.window: is the date or time 2026-13-45 (expected a duration such as "1s", 100ms to 1h)`},
		{"all at once", "interval = 1\nnope = 1\n[log]\nlevel = 2s\nformat = 3\n[brake]\nat_least = 0\n[[rule]]\ntimeout = 1\naction = 'x'\n",
			`f:1:12: interval: is the integer 1 (expected a duration such as "1s", 50ms to 10s)
f:2:1: nope: unknown key (expected one of interval, runtime_dir, log, cpactive, control, protect, alert, verdict, pressure, ladder, brake, recovery, limits, rule, names)
f:4:10: log.level: strings must be quoted (expected one of trace, debug, info, warn, error)
f:5:10: log.format: is the integer 3 (expected one of auto, journal, console, json)
f:7:12: brake.at_least: 0 is out of range (expected an integer, 2 to 1000000)
f:9:11: rule[0].timeout: is the integer 1 (expected a duration such as "5s", 1s to 168h)
f:10:10: rule[0].action: "x" is not known (expected "ladder" or "report")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, faults := parseText(tt.text)
			if diff := cmp.Diff(strings.Split(tt.want, "\n"), strings.Split(lines(faults), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSpellings: a table is the same however it is written.
func TestSpellings(t *testing.T) {
	want, faults := parseText(`
[log]
level = "debug"
[ladder]
steps = [ { signal = "SIGABRT", wait = "30s" }, { signal = "SIGKILL", wait = "1s" } ]
[[rule]]
match   = { name = "ftp*", user = "idc" }
timeout = "45s"
verdict = { blocked = "ladder", frozen = "ladder" }
[[rule]]
action = "report"
ladder = { steps = [ { signal = "SIGQUIT", wait = "1m" } ], scope = "cgroup", shared = false }
`)
	if faults != nil {
		t.Fatal(lines(faults))
	}
	for _, text := range []string{
		`log = { level = "debug" }
rule = [ { match = { name = "ftp*", user = "idc" }, timeout = "45s", verdict = { blocked = "ladder", frozen = "ladder" } },
  { action = "report", ladder = { steps = [ { signal = "SIGQUIT", wait = "1m" } ], scope = "cgroup", shared = false } } ]
ladder.steps = [ { signal = "SIGABRT", wait = "30s" },
  { signal = "SIGKILL", wait = "1s" }, # the end
]`,
		`log.level = 'debug'
[[ladder.steps]]
signal = "SIGABRT"
wait = "30s"
[[ladder.steps]]
"signal" = """SIGKILL"""
wait = "1000ms"
[[rule]]
timeout = "45s"
[rule.match]
name = "ftp*"
user = "idc"
[rule.verdict]
frozen = "ladder"
blocked = "ladder"
[[rule]]
action = "report"
[rule.ladder]
scope = "cgroup"
shared = false
[[rule.ladder.steps]]
signal = "SIGQUIT"
wait = "60s"`,
		"log.level = 'debug'\r\n[ladder]\r\nsteps = [ { signal = 'SIGABRT', wait = '30s' }, { signal = 'SIGKILL', wait = '1s' } ]\r\n" +
			"[[rule]]\r\nmatch.name = 'ftp*'\r\nmatch.user = 'idc'\r\ntimeout = '45s'\r\n" +
			"verdict.blocked = 'ladder'\r\nverdict.frozen = 'ladder'\r\n[[rule]]\r\naction = 'report'\r\n" +
			"ladder.steps = [ { signal = 'SIGQUIT', wait = '1m' } ]\r\nladder.scope = 'cgroup'\r\nladder.shared = false\r\n",
	} {
		got, faults := parseText(text)
		if faults != nil {
			t.Errorf("%s\n%s", text, lines(faults))
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", text, diff)
		}
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir+"/checkprocd.toml", "interval = '2s'\nruntime_dir = '/run/x'\n[[rule]]\ntimeout = '1s'\n[brake]\nat_least = 3\n")
	write(t, dir+"/conf.d/20-b.toml", "interval = '4s'\n[[rule]]\ntimeout = '3s'\n")
	write(t, dir+"/conf.d/10-a.toml", "interval = '3s'\n[brake]\nenabled = false\n[[rule]]\ntimeout = '2s'\n")
	write(t, dir+"/conf.d/.hidden.toml", "junk")
	write(t, dir+"/conf.d/30-c.toml.bak", "junk")
	want := Default()
	want.Interval = 4 * time.Second
	want.RuntimeDir, want.Control.Socket = "/run/x", "/run/x/io.checkproc"
	want.Brake.AtLeast, want.Brake.Enabled = 3, false
	want.Rules = []Rule{{Timeout: time.Second}, {Timeout: 2 * time.Second}, {Timeout: 3 * time.Second}}
	got, err := load(main, true, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err = Load(main); err != nil || got.Interval != 2*time.Second {
		t.Errorf("a file by name is not read alone: %v, %v", got.Interval, err)
	}

	// Faults of all files, in the order of the files.
	write(t, main, "interval = 1")
	write(t, dir+"/conf.d/10-a.toml", "\n[[rule]]\ntimeout = 1")
	_, err = load(main, true, true)
	want1 := main + `:1:12: interval: is the integer 1 (expected a duration such as "1s", 50ms to 10s)` + "\n" +
		dir + `/conf.d/10-a.toml:3:11: rule[0].timeout: is the integer 1 (expected a duration such as "5s", 1s to 168h)`
	if err == nil || err.Error() != want1 {
		t.Errorf("got %v\nwant %s", err, want1)
	}
	var faults *Faults
	if !errors.As(err, &faults) || faults.List[0].Line != 1 || faults.List[0].Column != 12 {
		t.Errorf("no *Faults: %#v", err)
	}
}

func TestMissingFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "checkprocd.toml")
	got, err := load(path, true, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Error(diff)
	}
	_, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != path+": open: no such file or directory (expected a file that can be read)" {
		t.Errorf("got %v", err)
	}
	write(t, dir+"/conf.d/a.toml", "interval = '2s'")
	if got, err = load(path, true, true); err != nil || got.Interval != 2*time.Second {
		t.Errorf("conf.d without the file: %v, %v", got.Interval, err)
	}
}

func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	large := write(t, dir+"/large", strings.Repeat("# nothing\n", 1<<20))
	for path, want := range map[string]string{
		dir:               ": is a directory (expected a file)",
		fifo:              ": is no regular file (expected a file)",
		large:             ": is 10485760 bytes long (expected at most 1048576)",
		dir + "/loop":     ": open: too many levels of symbolic links (expected a file that can be read)",
		"/proc/self/maps": "", // a file that says it is empty; what is in it is no TOML
	} {
		_, err := Load(path)
		if err == nil || want != "" && err.Error() != path+want {
			t.Errorf("got %v\nwant %s%s", err, path, want)
		}
	}
	if _, err := Load(dir); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("not EISDIR: %v", err)
	}
	t.Run("conf.d is a file", func(t *testing.T) {
		path := write(t, t.TempDir()+"/conf.d", "")
		_, err := load(filepath.Join(filepath.Dir(path), "checkprocd.toml"), true, true)
		if want := path + ": is a file (expected a directory with files *.toml)"; err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	})
}

func TestUnreadable(t *testing.T) {
	path := write(t, t.TempDir()+"/f", "")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(path); err == nil { // CAP_DAC_OVERRIDE
		f.Close()
		// A file that even root may not read: writing is all that this one allows.
		path = "/proc/sys/vm/drop_caches"
		if _, err := os.Stat(path); err != nil {
			t.Skip("no file at hand that root cannot read")
		}
	}
	_, err := Load(path)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

func TestManyFaults(t *testing.T) {
	path := write(t, t.TempDir()+"/f", strings.Repeat("!\n", 1000))
	_, err := Load(path)
	var faults *Faults
	if !errors.As(err, &faults) || len(faults.List) != maxFaults+1 || faults.List[maxFaults].Problem != "and 900 more faults" {
		t.Errorf("got %v", err)
	}
}

func TestManyRules(t *testing.T) {
	_, faults := parseText(strings.Repeat("[[rule]]\n", maxRules+5))
	if got, want := lines(faults), fmt.Sprintf("f:%d:3: rule[%d]: is one rule too many (expected at most %d)", maxRules+1, maxRules, maxRules); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// anyConfig draws a valid configuration.
func anyConfig(t *rapid.T) Config {
	between := func(low, high time.Duration, label string) time.Duration {
		return time.Duration(rapid.Int64Range(int64(low), int64(high)).Draw(t, label))
	}
	path := rapid.Custom(func(t *rapid.T) string {
		return "/" + rapid.StringMatching(`[a-z0-9 "'\\#äλ.=-]{0,20}[a-z]`).Draw(t, "path")
	})
	pattern := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`([a-z*?"' ]|\\\\|\[\^?[a-zä]\]){0,8}`),
		rapid.SampledFrom([]string{"\a\t\n\u007f", `\"`}))
	units := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`([a-z*?"' ]|\\\\|\[\^?[a-zä]\]){1,8}\.service`))
	group := rapid.SampledFrom([]string{"", "adm", "checkprocd", "machine$", "größe", `a"b`, `a\b`})
	signals := rapid.SampledFrom([]unix.Signal{unix.SIGTERM, unix.SIGABRT, unix.SIGKILL, unix.SIGQUIT, unix.SIGIO})
	c := Default()
	c.Interval = between(minInterval, maxInterval, "interval")
	c.RuntimeDir = filepath.Clean(path.Draw(t, "runtime_dir"))
	c.Log = Log{
		Level:  rapid.SampledFrom([]string{"trace", "debug", "info", "warn", "error"}).Draw(t, "level"),
		Format: rapid.SampledFrom([]string{"auto", "journal", "console", "json"}).Draw(t, "format"),
		File:   rapid.OneOf(rapid.Just(""), path).Draw(t, "file"),
	}
	if c.Log.File != "" {
		c.Log.File = filepath.Clean(c.Log.File)
	}
	c.CPActive = CPActive{
		Enabled: rapid.Bool().Draw(t, "enabled"),
		Key:     rapid.Uint32Range(1, maxKey).Draw(t, "key"),
		SemKey:  rapid.Uint32Range(1, maxKey).Draw(t, "sem_key"),
		Records: rapid.IntRange(1, maxRecords).Draw(t, "records"),
		Create:  rapid.Bool().Draw(t, "create"),
		Mode:    0o600 | rapid.SampledFrom([]uint32{0, 0o40, 0o44, 0o66, 0o60}).Draw(t, "mode"),
		Margin:  rapid.Float64Range(0, 1).Draw(t, "margin"),
	}
	c.Control = Control{filepath.Clean(path.Draw(t, "socket")), group.Draw(t, "group"), group.Draw(t, "read_group")}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Step {
		return Step{signals.Draw(t, "signal"), time.Duration(rapid.Int64Range(1, int64(maxWait)).Draw(t, "wait"))}
	}), 1, maxSteps)
	scope := rapid.SampledFrom([]Scope{ScopeProcess, ScopeCgroup})
	percents := rapid.OneOf(rapid.Float64Range(0, 100), rapid.SampledFrom([]float64{0, 0.1, 40, 100}))
	c.Verdict = anyResponses(t)
	c.Pressure = Pressure{percents.Draw(t, "cpu"), percents.Draw(t, "memory"), percents.Draw(t, "io")}
	c.Ladder = Ladder{
		Steps:         steps.Draw(t, "steps"),
		Scope:         scope.Draw(t, "scope"),
		Shared:        rapid.Bool().Draw(t, "shared"),
		DumpWait:      rapid.OneOf(rapid.Just(time.Duration(0)), rapid.Custom(func(t *rapid.T) time.Duration { return between(0, maxWait, "dump_wait") })).Draw(t, "dump_wait"),
		MaxConcurrent: rapid.IntRange(1, maxConcurrent).Draw(t, "max_concurrent"),
	}
	c.Brake = Brake{
		Enabled:  rapid.Bool().Draw(t, "brake"),
		AtLeast:  rapid.IntRange(2, maxAtLeast).Draw(t, "at_least"),
		Fraction: rapid.Float64Range(math.SmallestNonzeroFloat64, 1).Draw(t, "fraction"),
		Window:   between(minWindow, maxWindow, "window"),
	}
	pause := func(label string) time.Duration { return between(time.Second, maxPause, label) }
	c.Recovery = Recovery{between(time.Second, maxWait, "wait"), pause("cap"), rapid.IntRange(1, maxAttempts).Draw(t, "attempts"),
		pause("window"), pause("stable"), between(time.Second, maxTimeout, "give_up")}
	for range rapid.IntRange(0, 4).Draw(t, "rules") {
		r := Rule{
			Match:   Match{pattern.Draw(t, "name"), pattern.Draw(t, "user"), units.Draw(t, "unit")},
			Action:  rapid.SampledFrom([]Action{ActionLadder, ActionReport}).Draw(t, "action"),
			Restart: rapid.SampledFrom([]Restart{RestartUnit, RestartNone, RestartCommand}).Draw(t, "restart"),
		}
		if r.Restart == RestartCommand {
			args := rapid.SliceOfN(rapid.StringMatching(`/[^\x00]{0,20}`), 1, 5)
			r.Command = &Command{Args: args.Draw(t, "command"), User: rapid.SampledFrom([]string{"", "idc", "1000"}).Draw(t, "as")}
		}
		if rapid.Bool().Draw(t, "has then") {
			r.Then = rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9:_.\\-][a-z@-]{0,10}x\.(service|target)`), 1, 5, rapid.ID[string]).Draw(t, "then")
		}
		if rapid.Bool().Draw(t, "has recovery") {
			r.Recovery = RuleRecovery{rapid.IntRange(0, maxAttempts).Draw(t, "attempts"), between(time.Second, maxPause, "window")}
		}
		if rapid.Bool().Draw(t, "has grace") {
			r.StartGrace = between(minTimeout, maxPause, "start_grace")
		}
		if rapid.Bool().Draw(t, "has timeout") {
			r.Timeout = between(minTimeout, maxTimeout, "timeout")
		}
		if rapid.Bool().Draw(t, "has verdicts") {
			r.Verdict = anyResponses(t, RespondDefault)
		}
		if rapid.Bool().Draw(t, "has steps") {
			r.Ladder.Steps = steps.Draw(t, "steps")
		}
		r.Ladder.Scope = rapid.Ptr(scope, true).Draw(t, "scope")
		r.Ladder.Shared = rapid.Ptr(rapid.Bool(), true).Draw(t, "shared")
		if rapid.Bool().Draw(t, "has watch") {
			r.Watch = Watch{
				Files:  rapid.SliceOfN(rapid.StringMatching(`/[a-z ä"']{1,5}/[a-z*?]{1,5}`), 1, 4).Draw(t, "files"),
				Settle: between(minSettle, maxSettle, "settle"),
				Action: rapid.SampledFrom([]WatchAction{WatchReload, WatchRestart}).Draw(t, "watch action"),
				Blame:  between(time.Second, time.Hour, "blame"),
			}
			if rapid.Bool().Draw(t, "has check") {
				r.Watch.Check = append([]string{path.Draw(t, "command")}, rapid.SliceOfN(rapid.StringMatching(`[ -~]{0,6}`), 0, 3).Draw(t, "arguments")...)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "limits") {
			r.Limits = append(r.Limits, anyLimit(t))
		}
		c.Rules = append(c.Rules, r)
	}
	some := rapid.StringMatching(`[a-z*?"' ]{1,8}`)
	listOf := func(of *rapid.Generator[string], label string) []string {
		drawn := rapid.SliceOfN(of, 0, 4).Draw(t, label)
		if len(drawn) == 0 {
			return nil
		}
		return drawn
	}
	list := func(label string) []string { return listOf(some, label) }
	c.Sample = between(minSample, maxSample, "sample")
	c.Alert = Alert{rapid.SampledFrom([]string{"", "a@.service"}).Draw(t, "alert"), list("alert events")}
	c.Protect = Protect{Names: list("protected names"), Units: listOf(rapid.Map(some, func(p string) string { return p + ".scope" }), "protected units")}
	for range rapid.IntRange(0, 3).Draw(t, "names") {
		c.Names = append(c.Names, Names{rapid.OneOf(some, rapid.StringMatching(`[0-9]{1,9}`)).Draw(t, "user"), list("allow")})
	}
	return c
}

// anyResponses draws one for each verdict, of those that a file may give it and of more.
func anyResponses(t *rapid.T, more ...Response) Responses {
	draw := func(label string, allowed ...Response) Response {
		return rapid.SampledFrom(append(allowed, more...)).Draw(t, label)
	}
	return Responses{
		Hung:    draw("hung", RespondLadder, RespondReport),
		Starved: draw("starved", RespondWait, RespondLadder, RespondReport),
		Blocked: draw("blocked", RespondWait, RespondLadder, RespondReport),
		Stopped: draw("stopped", RespondHold, RespondLadder),
		Traced:  draw("traced", RespondHold, RespondLadder),
		Frozen:  draw("frozen", RespondHold, RespondLadder),
		Dumping: draw("dumping", RespondHold, RespondLadder),
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyConfig(t)
		text := want.TOML()
		got, faults := parseText(string(text))
		if faults != nil {
			t.Fatalf("%s\n%s", lines(faults), text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s\n%s", diff, text)
		}
		if d := Diff(want, got); d != nil {
			t.Fatalf("Diff of equals: %q", d)
		}
	})
}

// TestDiffComplete: no two different configurations have an empty Diff, and none differs from itself.
func TestDiffComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyConfig(t), anyConfig(t)
		if got := len(Diff(a, b)) == 0; got != cmp.Equal(a, b) {
			t.Fatalf("%q\n%s", Diff(a, b), cmp.Diff(a, b))
		}
	})
}

const example = "../../deploy/checkprocd.toml"

func TestExample(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", "/run/checkprocd")
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("as it is installed: %s", diff)
	}

	// A line of text begins with "# ", a commented key with "#".
	setting := regexp.MustCompile(`(?m)^#(\S)`)
	text := setting.ReplaceAllString(string(data), "$1")
	got, faults := parseText(text)
	if faults != nil {
		t.Fatal(lines(faults))
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("with every key uncommented: %s", diff)
	}
	for i := range schema {
		for _, f := range append(schema[i].fields, schema[i]) {
			if f.fields == nil && f.key != "rule" && f.key != "names" && !regexp.MustCompile(`(?m)^`+f.key+` *= `).MatchString(text) {
				t.Errorf("does not show %s.%s", schema[i].key, f.key)
			}
		}
	}

	// The rules of the example stand indented in the text.
	var rules []string
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "#     "); ok {
			rules = append(rules, rest)
		}
	}
	got, faults = parseText(strings.Join(rules, "\n"))
	if faults != nil || len(got.Rules) < 2 || len(got.Names) < 1 {
		t.Errorf("%d rules: %s", len(got.Rules), lines(faults))
	}
	_, about, _ := strings.Cut(string(data), "\n# Rules:")
	for i := range namesSchema {
		if key := namesSchema[i].key; !regexp.MustCompile(`\b` + key + `\b`).MatchString(about) {
			t.Errorf("does not name names.%s", key)
		}
	}
	for i := range limitSchema {
		if key := limitSchema[i].key; !regexp.MustCompile(`\b` + key + `\b`).MatchString(about) {
			t.Errorf("does not name rule.limit.%s", key)
		}
	}
	for i := range ruleSchema {
		for _, f := range append(ruleSchema[i].fields, ruleSchema[i]) {
			if !regexp.MustCompile(`\b` + f.key + `\b`).MatchString(about) {
				t.Errorf("does not name rule.%s.%s", ruleSchema[i].key, f.key)
			}
		}
	}
}

// TestManPage: the page has a paragraph for each key, with the default where there is one.
func TestManPage(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", "/run/checkprocd")
	data, err := os.ReadFile("../../deploy/man/checkprocd.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	c := Default()
	check := func(where, entry string) {
		_, section, ok := strings.Cut(page, "\n.Ss "+where+"\n")
		section, _, _ = strings.Cut(section, "\n.Ss ")
		if !ok || !strings.Contains(section, "\n.It Va "+entry) {
			t.Errorf("%s: no paragraph %q", where, entry)
		}
	}
	entry := func(f *field[Config]) string {
		return f.key + " No = Li " + strings.ReplaceAll(f.text(&c), `"`, `\(dq`) + "\n"
	}
	for i := range schema {
		switch f := &schema[i]; {
		case f.fields != nil:
			for j := range f.fields {
				check("["+f.key+"]", entry(&f.fields[j]))
			}
		case f.key != "rule" && f.key != "names":
			check("Top level", entry(f))
		}
	}
	for i := range ruleSchema {
		check("[[rule]]", ruleSchema[i].key)
	}
	for i := range limitSchema {
		check("[[rule.limit]]", limitSchema[i].key)
	}
	for i := range namesSchema {
		check("[[names]]", namesSchema[i].key)
	}
}

func FuzzLoad(f *testing.F) {
	if data, err := os.ReadFile(example); err == nil {
		f.Add(data)
	}
	c := Default()
	f.Add(c.TOML())
	for _, text := range []string{
		"interval = 1s\n[log]\nlevel = 1\n", "[[rule]]\n[rule.match]\nname = \"a\"\n", "a.b.c = { d = [ [ {} ] ] }\n[a.b]\n",
		"log = 1\n[[log]]\n[log.x]\n", "\xef\xbb\xbfinterval = \"1s\"", "# \x00", "ladder.steps = [", "\r", "a = \"\"\"\n", "[a]\n[a]\n[[a]]\n",
		"\"\\u0000\" = 1", "x = 99999999999999999999", "brake.fraction = 1e-400", "rule = []\n[[rule]]\n",
		"[verdict]\nhung = 'report'\nfrozen = 'ladder'\n[pressure]\ncpu = '99.9%'\nio = '.5%'\n",
		"[ladder]\nscope = 'cgroup'\nshared = true\ndump_wait = '0'\n",
		"[[rule]]\nverdict = { blocked = 'ladder' }\nladder = { steps = [ { signal = 'SIGABRT', wait = '1s' } ], scope = 'cgroup', shared = true }\n",
		"[[rule]]\nwatch = { files = ['/etc/x/*.conf', '/etc/y'], settle = '1m', check = ['/bin/x', ''], action = 'restart', blame = '1h' }\n",
		"[protect]\nnames = ['a*']\nunits = []\n[[names]]\nuser = '1000'\nallow = ['b']\n",
		"[[rule]]\n[[rule.limit]]\nof = 'memory'\nabove = '1.5GiB'\naction = 'throttle'\nmemory_high = '1GiB'\n[[rule.limit]]\nof = 'age'\nabove = '1d2h'\naction = 'report'\n",
		"[[rule]]\nlimit = [ { of = 'descriptors', above = '90%', below = '50%', for = '1s', action = 'ladder' } ]\n",
		"[[rule]]\n[rule.ladder]\n[[rule.ladder.steps]]\nsignal = 'SIGKILL'\n[rule.verdict]\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		var l loader
		faults := append(l.add(&c, "f", data), l.finish(&c)...)
		for _, fault := range faults {
			_ = fault.String()
			if fault.Line > 0 && (fault.Column < 1 || fault.Line > strings.Count(string(data), "\n")+1) {
				t.Errorf("position %d:%d outside of the file", fault.Line, fault.Column)
			}
		}
		if len(faults) > 0 {
			return
		}
		again, faults := parseText(string(c.TOML()))
		if faults != nil {
			t.Fatalf("%s\n%s", lines(faults), c.TOML())
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
