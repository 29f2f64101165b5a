package config

import "fmt"

// Response is what is done about a target with a certain verdict.
type Response uint8

const (
	RespondDefault Response = iota // in a rule: as [verdict] says
	RespondLadder                  // end it
	RespondWait                    // one more timeout, once for each episode, then as RespondLadder
	RespondHold                    // nothing while it lasts; the silence begins anew afterwards
	RespondReport                  // say what would have been done, and do nothing
)

func (r Response) String() string {
	switch r {
	case RespondDefault:
		return "default"
	case RespondLadder:
		return "ladder"
	case RespondWait:
		return "wait"
	case RespondHold:
		return "hold"
	case RespondReport:
		return "report"
	}
	return fmt.Sprintf("response %d", r)
}

// Responses has a Response for each verdict about a target that is late.
type Responses struct {
	Hung             Response // ladder, report
	Starved, Blocked Response // wait, ladder, report

	Stopped, Traced, Frozen, Dumping Response // hold, ladder
}

// or takes from base what r leaves to the default.
func (r Responses) or(base *Responses) Responses {
	for _, p := range [...]struct{ to, from *Response }{
		{&r.Hung, &base.Hung},
		{&r.Starved, &base.Starved},
		{&r.Blocked, &base.Blocked},
		{&r.Stopped, &base.Stopped},
		{&r.Traced, &base.Traced},
		{&r.Frozen, &base.Frozen},
		{&r.Dumping, &base.Dumping},
	} {
		if *p.to == RespondDefault {
			*p.to = *p.from
		}
	}
	return r
}

// Pressure is what the kernel's pressure stall information (/proc/pressure, avg10) may say before a silence counts as
// starved rather than hung: percent of the last 10 s, 0 to 100. A value is exceeded by more than it, so that 100 takes
// no pressure for an excuse.
type Pressure struct {
	CPU    float64 // some task waited for a processor
	Memory float64 // all tasks waited for memory
	IO     float64 // all tasks waited for a disk
}
