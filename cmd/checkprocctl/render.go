package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// colour is the number of an SGR sequence; 0 is none.
type colour int

const (
	plain  colour = 0
	bold   colour = 1
	red    colour = 31
	green  colour = 32
	yellow colour = 33
	cyan   colour = 36
)

// printer renders the wire types for people. All text from outside goes through clean.
type printer struct {
	to     io.Writer
	b      bytes.Buffer
	colour bool
	user   func(uid uint32) string
}

func newPrinter(to io.Writer) *printer {
	return &printer{to: to, colour: colourful(to, os.Getenv), user: userName}
}

// colourful: only on a terminal that can, and not against the user's wish (https://no-color.org).
func colourful(to io.Writer, getenv func(string) string) bool {
	file, ok := to.(*os.File)
	if !ok || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (p *printer) flush() error {
	_, err := p.to.Write(p.b.Bytes())
	return err
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(&p.b, format+"\n", args...)
}

func (p *printer) paint(c colour, text string) string {
	if c == plain || !p.colour || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func text(s string) cell   { return cell{text: clean(s)} }
func number(n int64) cell  { return cell{text: strconv.FormatInt(n, 10)} }
func (c cell) empty() bool { return c.text == "" || c.text == "-" }

// table aligns rows under their heads. Columns in which nothing stands are left out; those named in right are aligned to
// the right.
func (p *printer) table(heads, right []string, rows [][]cell) {
	widths := make([]int, len(heads))
	for _, row := range rows {
		for i, c := range row {
			if !c.empty() {
				widths[i] = max(widths[i], width(c.text), width(heads[i]))
			}
		}
	}
	all := make([][]cell, 0, len(rows)+1)
	head := make([]cell, len(heads))
	for i, h := range heads {
		head[i] = cell{h, bold}
	}
	for _, row := range append(append(all, head), rows...) {
		var line strings.Builder
		gap := 0
		for i, c := range row {
			if widths[i] == 0 {
				continue
			}
			before, after := 0, widths[i]-width(c.text)
			if slices.Contains(right, heads[i]) {
				before, after = after, 0
			}
			if c.text != "" { // blanks are written when something follows, so no line ends in one
				line.WriteString(strings.Repeat(" ", gap+before) + p.paint(c.colour, c.text))
				gap, before = 0, 0
			}
			gap += before + after + 2
		}
		p.line("%s", line.String())
	}
}

// field is a name and its value, two columns.
func (p *printer) field(name, format string, args ...any) {
	p.line("  %-14s %s", name, fmt.Sprintf(format, args...))
}

func modeColour(m control.Mode) colour {
	if m == control.ModeActing {
		return green
	}
	return yellow
}

// faultsShown are listed in the status.
const faultsShown = 5

func (p *printer) status(s control.Status) {
	mode := p.paint(modeColour(s.Mode), strings.ReplaceAll(clean(string(s.Mode)), "_", "-"))
	if s.ModeReason != "" {
		mode += ": " + clean(s.ModeReason)
	}
	p.line("%s %s, pid %d, up %s", p.paint(bold, "checkprocd"), clean(s.Version), s.PID, span(s.SinceUsec))
	p.field("mode", "%s", mode)
	files := "defaults, no file"
	if len(s.ConfigFiles) > 0 {
		files = clean(strings.Join(s.ConfigFiles, ", "))
	}
	p.field("configuration", "%s", files)
	if s.RejectedUsec > 0 {
		p.field("reload", "%s", p.paint(red, "rejected "+span(s.RejectedUsec)+" ago, what was read before stays in force"))
		for i, f := range s.ConfigFaults {
			if i == faultsShown {
				p.field("", "and %s: checkprocctl diff", plural(int64(len(s.ConfigFaults)-i), "more fault"))
				break
			}
			p.field("", "%s", clean(f.String()))
		}
	}
	p.field("scans", "every %s; %s, last %s, longest %s", span(s.IntervalUsec), plural(s.Scan.Count, "scan"), span(s.Scan.LastUsec), span(s.Scan.MaxUsec))
	registry := clean(s.Registry.Path) + ", " + size(s.Registry.Bytes)
	if s.Registry.Path == "" {
		registry = p.paint(yellow, "none")
	}
	if s.Registry.Error != "" {
		registry += ", " + p.paint(red, clean(s.Registry.Error))
	}
	p.field("registry", "%s", registry)
	brake := "off"
	if s.Brake.On {
		brake = p.paint(red, "on") + " for " + span(s.Brake.SinceUsec) + ", " + plural(int64(s.Brake.Waiting), "target") + " held by it"
	}
	p.field("brake", "%s", brake)
	p.field("targets", "%s", p.targets(s.Targets))
	p.field("so far", "%s", counters(s.Counters))
	p.line("")
	p.holds(s.Holds)
	p.recoveries(s.Recoveries)
	p.throttled(s.Throttled)
	p.tables(s.Tables)
	p.features(s.Features)
}

// part is a count with its word; a bad one is painted when it is not 0, and a 0 is left out.
type part struct {
	n    int64
	word string
	bad  colour
}

func (p *printer) parts(list []part) string {
	var out []string
	for _, x := range list {
		if x.n != 0 {
			out = append(out, p.paint(x.bad, strconv.FormatInt(x.n, 10)+" "+x.word))
		}
	}
	return strings.Join(out, ", ")
}

func (p *printer) targets(t control.Targets) string {
	if t.Total == 0 {
		return "none: no program has registered"
	}
	rest := p.parts([]part{
		{int64(t.Guarded), "guarded", green}, {int64(t.Forming), "forming", plain}, {int64(t.Late), "late", yellow},
		{int64(t.Held), "held", yellow}, {int64(t.Ladders), "being ended", red}, {int64(t.Unverified), "unverified", yellow},
		{int64(t.Refused), "refused", yellow}, {int64(t.Foreign), "foreign", yellow}, {int64(t.Limited), "over a limit", yellow},
	})
	if rest != "" {
		rest = ": " + rest
	}
	return strconv.Itoa(t.Total) + rest
}

func counters(c control.Counters) string {
	plainPrinter := &printer{}
	out := plainPrinter.parts([]part{
		{c.Exits, "exits", plain}, {c.Cleared, "records cleared", plain}, {c.Condemned, "condemned", plain},
		{c.Signalled, "signals", plain}, {c.Killed, "ended", plain}, {c.Recovered, "recovered", plain},
		{c.Unkillable, "unkillable", plain}, {c.Waited, "given one more timeout", plain}, {c.Would, "would have been condemned", plain},
		{c.Gaps, "gaps", plain}, {c.DroppedLogRecords, "log records dropped", plain},
	})
	if out == "" {
		return "nothing has happened"
	}
	return out
}

func (p *printer) tables(tables []control.Table) {
	if len(tables) == 0 {
		p.line("no table is configured")
		return
	}
	var rows [][]cell
	for _, t := range tables {
		state := cell{text: clean(string(t.State)), colour: red}
		if t.State == control.TableAttached {
			state.colour = green
		}
		if t.Removed {
			state = cell{text: state.text + ", removed", colour: yellow}
		}
		row := []cell{{text: fmt.Sprintf("%#x", t.Key)}, {text: "-"}, state, {text: "-"}, {text: "-"}, {text: "-"}, text(t.Problem)}
		if t.ID >= 0 {
			row[1], row[3], row[4], row[5] = number(int64(t.ID)), number(int64(t.Records)), number(int64(t.Used)), number(int64(t.Live))
		}
		rows = append(rows, row)
	}
	p.table([]string{"TABLE", "ID", "STATE", "RECORDS", "USED", "LIVE", "PROBLEM"}, []string{"ID", "RECORDS", "USED", "LIVE"}, rows)
}

// features are shown where they are missing.
func (p *printer) features(features []control.Feature) {
	var rows [][]cell
	for _, f := range features {
		if f.Error != "" {
			rows = append(rows, []cell{text(f.Name), text(f.Since), text(f.Error)})
		}
	}
	if len(rows) > 0 {
		p.line("")
		p.table([]string{"MISSING HERE", "COMES WITH", "BECAUSE"}, nil, rows)
	}
}

var stateColours = map[control.TargetState]colour{
	control.StateGuarded: green, control.StateForming: cyan, control.StateLate: yellow, control.StateHeld: yellow,
	control.StateLadder: red, control.StateUnverified: yellow, control.StateRefused: yellow, control.StateForeign: yellow,
	control.StateWaiting: yellow, control.StateUnguarded: red, control.StateStale: yellow, control.StateIgnored: cyan,
}

func (p *printer) list(targets []control.Target) {
	if len(targets) == 0 {
		p.line("no targets")
		return
	}
	names := map[uint32]string{}
	var rows [][]cell
	for _, t := range targets {
		if _, ok := names[t.UID]; !ok {
			names[t.UID] = p.user(t.UID)
		}
		deadline := cell{text: "in " + span(t.DeadlineUsec)}
		switch {
		case t.TimeoutUsec <= 0:
			deadline.text = "never"
		case t.DeadlineUsec < 0:
			deadline = cell{span(-t.DeadlineUsec) + " ago", yellow}
		}
		slots := strconv.Itoa(t.Slot)
		if more := len(t.Slots) - 1; more > 0 {
			slots += fmt.Sprintf("+%d", more)
		}
		rows = append(rows, []cell{
			{text: strconv.Itoa(int(t.PID))}, text(t.Name), {text: clean(string(t.State)), colour: stateColours[t.State]},
			{text: span(t.TimeoutUsec)}, {text: span(t.SilenceUsec)}, deadline, {text: span(t.RegisteredUsec)},
			{text: slots}, text(names[t.UID]), text(t.Unit), text(t.Verdict), text(t.Reason), {clean(t.Protected), cyan}, {clean(t.Hold), yellow}, text(t.Recovery),
			{clean(strings.Join(t.Limits, "; ")), yellow},
		})
	}
	p.table([]string{"PID", "NAME", "STATE", "TIMEOUT", "SILENCE", "DEADLINE", "SEEN FOR", "SLOT", "USER", "UNIT", "VERDICT", "REASON", "PROTECTED", "HOLD", "RECOVERY", "LIMITS"},
		[]string{"PID", "TIMEOUT", "SILENCE", "DEADLINE", "SLOT"}, rows)
}

// throttled are the units that have less for a limit.
func (p *printer) throttled(list []control.Throttle) {
	if len(list) == 0 {
		return
	}
	var rows [][]cell
	for _, t := range list {
		rows = append(rows, []cell{text(t.Unit), text(t.Has), text(t.Had)})
	}
	p.table([]string{"THROTTLED", "HAS", "BEFORE"}, nil, rows)
	p.line("")
}

var severityColours = map[control.Severity]colour{
	control.SeverityOK: green, control.SeverityNote: cyan, control.SeverityWarning: yellow, control.SeverityError: red,
}

func (p *printer) findings(findings []control.Finding) {
	if len(findings) == 0 {
		p.line("%s: nothing was found", p.paint(green, "ok"))
	}
	for _, f := range findings {
		p.line("%s %s: %s: %s", p.paint(severityColours[f.Severity], clean(string(f.Severity))), p.paint(bold, clean(f.ID)), clean(f.Subject), clean(f.Message))
		if f.Advice != "" {
			p.line("    %s", clean(f.Advice))
		}
	}
}

func (p *printer) reload(r control.ReloadResult) {
	if len(r.Changed) == 0 && len(r.NeedsRestart) == 0 {
		p.line("reloaded, nothing has changed")
		return
	}
	if len(r.Changed) > 0 {
		p.line("reloaded, in force now:")
		for _, c := range r.Changed {
			p.line("  %s", clean(c))
		}
	}
	if len(r.NeedsRestart) > 0 {
		p.line("%s", p.paint(yellow, "needs a restart of checkprocd:"))
		for _, c := range r.NeedsRestart {
			p.line("  %s", clean(c))
		}
	}
}
