package main

import (
	"strconv"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// held is the answer to an order to hold.
func (p *printer) held(h control.Hold) {
	line := holdsWhom(h)
	if h.All {
		line = "paused"
	}
	line += ": held for " + span(h.LeftUsec)
	if h.PID == 0 {
		line += ", " + plural(int64(h.Targets), "target") + " now"
	}
	p.line("%s", line)
}

// holdsWhom is "pid 4242", the pattern of a name, or "all".
func holdsWhom(h control.Hold) string {
	switch {
	case h.All:
		return "all"
	case h.PID != 0:
		return "pid " + strconv.Itoa(int(h.PID))
	}
	return clean(h.Name)
}

// holds are the orders in force.
func (p *printer) holds(holds []control.Hold) {
	if len(holds) == 0 {
		return
	}
	var rows [][]cell
	for _, h := range holds {
		rows = append(rows, []cell{{holdsWhom(h), yellow}, {text: span(h.LeftUsec)}, number(int64(h.Targets)), text(h.Reason), text(h.By)})
	}
	p.table([]string{"HELD", "FOR", "TARGETS", "REASON", "BY"}, []string{"TARGETS"}, rows)
	p.line("")
}

func (p *printer) braked(order control.BrakeOrder, n int) {
	switch {
	case n == 0:
		p.line("the brake holds nobody")
	case order == control.BrakeGo:
		p.line("%s: the brake lets go", plural(int64(n), "target"))
	default:
		p.line("%s: held for 10m", plural(int64(n), "target"))
	}
}

var adviceColours = map[string]colour{"raise": red, "lower": cyan, "keep": green}

// adviceText says what to do about a timeout, and why.
func adviceText(a control.Advice) string {
	gap := "p99.9 gap " + span(a.P999Usec)
	why := gap + ", timeout " + span(a.TimeoutUsec)
	switch a.Verdict {
	case "raise", "lower":
		return why + ": " + a.Verdict + " to " + span(a.WantsUsec)
	case "keep":
		return why + ": keep"
	case "too-few":
		return "too few beats (" + strconv.FormatInt(a.Beats, 10) + " of " + strconv.Itoa(control.AdviceBeats) + ")"
	case "none":
		return gap + ", no timeout: " + span(a.WantsUsec) + " would do"
	}
	return clean(a.Verdict)
}

func (p *printer) advice(list []control.Advice) {
	if len(list) == 0 {
		p.line("no targets")
		return
	}
	var rows [][]cell
	for _, a := range list {
		row := []cell{text(a.Name), number(int64(a.Targets)), number(a.Beats), {text: "-"}, {text: "-"}, {text: "-"}, {text: "-"}, {text: "-"},
			{adviceText(a), adviceColours[a.Verdict]}}
		if a.Beats > 0 {
			for i, usec := range []int64{a.P50Usec, a.P99Usec, a.P999Usec, a.MaxUsec} {
				row[3+i].text = span(usec)
			}
		}
		if a.TimeoutUsec > 0 {
			row[7].text = span(a.TimeoutUsec)
		}
		rows = append(rows, row)
	}
	p.table([]string{"NAME", "TARGETS", "BEATS", "P50", "P99", "P99.9", "MAX", "TIMEOUT", "ADVICE"},
		[]string{"TARGETS", "BEATS", "P50", "P99", "P99.9", "MAX", "TIMEOUT"}, rows)
}
