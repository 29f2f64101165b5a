package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
)

func TestSpan(t *testing.T) {
	const s = 1_000_000
	for usec, want := range map[int64]string{
		0: "0µs", 999: "999µs", 1000: "1ms", 1234: "1.23ms", 12_345: "12.3ms", 123_456: "123ms", 999_999: "999ms",
		s: "1s", 1_500_000: "1.5s", 59_990_000: "59.9s", 60 * s: "1m", 61 * s: "1m 1s", 3599 * s: "59m 59s",
		3600 * s: "1h", 3660 * s: "1h 1m", 47 * 3600 * s: "47h", 48 * 3600 * s: "2d", 53 * 3600 * s: "2d 5h",
		-2 * s: "-2s", 5000 * s: "1h 23m",
	} {
		if got := span(usec); got != want {
			t.Errorf("%d: %q, want %q", usec, got, want)
		}
	}
}

// What --for reads, and that it shows its default in the same way.
func TestLasting(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "90s": 90 * time.Second, "30m": 30 * time.Minute, "1h30m": 90 * time.Minute, "2h": 2 * time.Hour, "7d": 7 * 24 * time.Hour,
		"168h": 7 * 24 * time.Hour, "0": 0, "0d": 0, "": 0, "d": 0, "-1s": 0, "-1d": 0, "999ms": 0, "168h0m1s": 0, "8d": 0, "18446744073709551615d": 0,
		"65535d": 0, "1.5d": 0, "1d12h": 0, "30": 0, "1 m": 0, "2h\n": 0,
	} {
		var l lasting
		if err := l.Set(text); (err == nil) != (want > 0) || time.Duration(l) != want {
			t.Errorf("%q: %v, %v, want %v", text, time.Duration(l), err, want)
		}
		if want > 0 {
			var again lasting
			if err := again.Set(l.String()); err != nil || again != l {
				t.Errorf("%v shows as %q", want, l.String())
			}
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 9999: "9999 bytes", 65536: "64 KiB", 12 << 20: "12 MiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"ftpd": "ftpd", "文件": "文件", "a b": "a b", "\x1b[31m": `\x1b[31m`, "a\nb": `a\nb`, "\xff": `\xff`,
		"\u202eevil": `\u202eevil`, `back\slash`: `back\slash`, "\u0085": `\u0085`,
	} {
		if got := clean(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestWidth(t *testing.T) {
	for text, want := range map[string]int{"": 0, "abc": 3, "文件": 4, "é": 1, "e\u0301": 1, "µs": 2, "ｆ": 2} {
		if got := width(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestColourOnlyOnATerminal(t *testing.T) {
	none := func(string) string { return "" }
	if colourful(&bytes.Buffer{}, none) {
		t.Error("colour into a buffer")
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	if colourful(write, none) {
		t.Error("colour into a pipe")
	}
	terminal := openTerminal(t)
	if !colourful(terminal, none) {
		t.Error("no colour on a terminal")
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		name, value, _ := strings.Cut(env, "=")
		if colourful(terminal, func(n string) string { return map[string]string{name: value}[n] }) {
			t.Errorf("colour with %s", env)
		}
	}
}

// openTerminal is the slave side of a new pseudoterminal.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return slave
}

func render(colour bool, what func(*printer)) string {
	var b bytes.Buffer
	p := &printer{to: &b, colour: colour, user: func(uid uint32) string { return fmt.Sprintf("user%d", uid) }}
	what(p)
	_ = p.flush()
	return b.String()
}

// Colour must not move columns, and is all that differs.
func TestColourAddsNothingElse(t *testing.T) {
	targets := []control.Target{
		{PID: 1, Name: "a", State: control.StateGuarded, TimeoutUsec: 5, UID: 3},
		{PID: 22, Name: "bbb", State: control.StateLadder, TimeoutUsec: 5, DeadlineUsec: -1, UID: 4, Reason: "hung"},
	}
	plainText := render(false, func(p *printer) { p.list(targets) })
	coloured := render(true, func(p *printer) { p.list(targets) })
	if !strings.Contains(coloured, "\x1b[31mladder\x1b[0m") {
		t.Errorf("no colour in %q", coloured)
	}
	strip := coloured
	for _, c := range []colour{bold, red, green, yellow, cyan, 0} {
		strip = strings.ReplaceAll(strip, fmt.Sprintf("\x1b[%dm", c), "")
	}
	if diff := cmp.Diff(plainText, strip); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(plainText, "\x1b") {
		t.Errorf("%q", plainText)
	}
}

func TestNothingIsThere(t *testing.T) {
	got := render(false, func(p *printer) {
		p.status(control.Status{Version: "1", Mode: control.ModeReportOnly, ModeReason: "not root"})
	})
	want := `checkprocd 1, pid 0, up 0µs
  mode           report-only: not root
  configuration  defaults, no file
  scans          every 0µs; 0 scans, last 0µs, longest 0µs
  registry       none
  brake          off
  targets        none: no program has registered
  so far         nothing has happened

no table is configured
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzRender: whatever the daemon says of names and reasons, no control character reaches the terminal.
func FuzzRender(f *testing.F) {
	f.Add("ftpd", "hung")
	f.Add("\x1b[2J", "\r\n\x9b\u202e")
	f.Fuzz(func(t *testing.T, a, b string) {
		got := render(false, func(p *printer) {
			p.list([]control.Target{{Name: a, Unit: b, State: control.TargetState(a), Verdict: b, Reason: a, Hold: b, Recovery: a, Limits: []string{a, b}}})
			p.findings([]control.Finding{{ID: a, Severity: control.Severity(b), Subject: a, Message: b, Advice: a}})
			p.reload(control.ReloadResult{Changed: []string{a}, NeedsRestart: []string{b}})
			p.status(control.Status{Version: a, Mode: control.Mode(b), ModeReason: a, ConfigFiles: []string{b}, RejectedUsec: 1, ConfigFaults: []control.Fault{{File: a, Line: 1, Key: b, Problem: a, Expected: b}},
				Tables: []control.Table{{State: control.TableState(a), Problem: b}}, Features: []control.Feature{{Name: a, Since: b, Error: a + "!"}},
				Registry: control.Registry{Path: a, Error: b}, Holds: []control.Hold{{Name: a, Reason: b, By: a}, {PID: 1, Reason: a, By: b}}, Recoveries: []control.Recovery{{Name: a, Unit: b}},
				Throttled: []control.Throttle{{Unit: a, Has: b, Had: a}}})
			p.held(control.Hold{Name: a, Reason: b, By: a})
			p.advice([]control.Advice{{Name: a, Verdict: b}, {Name: b, Verdict: "raise"}})
		})
		if i := strings.IndexFunc(got, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e) }); i >= 0 {
			t.Fatalf("%q", got[i:])
		}
	})
}

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errFound, 1}, {fmt.Errorf("x"), 1}, {usageError{fmt.Errorf("x")}, 64},
		{&control.DialError{Err: unix.ENOENT}, 69}, {&control.DialError{Err: unix.ECONNREFUSED}, 69}, {&control.LostError{}, 69},
		{control.ErrBusy, 69}, {control.ErrNotAllowed, 77}, {&control.DialError{Err: unix.EACCES}, 77},
		{fmt.Errorf("x: %w", fs.ErrPermission), 77}, {&control.Rejected{}, 78}, {&control.RemoteError{}, 1},
	} {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}
