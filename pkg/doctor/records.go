package doctor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

func (r *report) fullness() {
	used := 0
	for _, rec := range r.second {
		if rec.PID != 0 {
			used++
		}
	}
	switch {
	case used == len(r.second):
		r.add("full", control.SeverityError, r.tableName(), fmt.Sprintf("all %d records are used: the next program runs unguarded, and does not say so", used),
			"find the programs that register again and again; stale records are cleared by checkprocd", nil, nil)
	case used >= len(r.second)*9/10:
		r.add("full", control.SeverityWarning, r.tableName(), fmt.Sprintf("%d of %d records are used: soon a program runs unguarded, and does not say so", used, len(r.second)), "", nil, nil)
	}
}

// group is the records that have one thing wrong.
type group struct {
	pids  []int32
	slots []int
}

func (g *group) add(pid int32, slot int) {
	if pid != 0 && !slices.Contains(g.pids, pid) {
		g.pids = append(g.pids, pid)
	}
	g.slots = append(g.slots, slot)
}

// wrong is what can be wrong with a record; the order is that of the findings.
type wrong int

const (
	wrongForged wrong = iota
	wrongRefused
	wrongLost
	wrongForeign
	wrongNamespace
	wrongStale
	wrongUnreaped
	wrongTimeout
	wrongTorn
	wrongUnknown
	wrongKinds
)

// judge says what is wrong with a record that stood in both looks. A record that changed between them other than by a
// beat is being registered or wiped, and not judged.
func (r *report) judge(slot int) (wrong, bool) {
	a, b := r.first[slot], r.second[slot]
	beat := a.Token != b.Token
	a.Token = b.Token
	if !a.Same(&b) {
		return 0, false
	}
	if b.PID == 0 {
		return wrongLost, beat
	}
	p, ok := r.processes[b.PID]
	if !ok {
		return wrongUnknown, true
	}
	var refused *process.RefusedError
	switch {
	case errors.As(p.openErr, &refused):
		return wrongRefused, true
	case errors.Is(p.openErr, process.ErrZombie):
		return wrongUnreaped, true
	case errors.Is(p.openErr, process.ErrGone) && beat:
		return wrongForeign, true
	case errors.Is(p.openErr, process.ErrGone):
		return wrongStale, true
	case p.openErr != nil:
		return wrongUnknown, true
	}
	switch p.consent {
	case process.ConsentNotMapped:
		return wrongForged, true
	case process.ConsentOtherNamespace:
		return wrongNamespace, true
	case process.ConsentUnknown:
		return wrongUnknown, true
	}
	switch {
	case b.Token == 0:
		return wrongTorn, true
	case b.Timeout <= 0:
		return wrongTimeout, true
	}
	return 0, false
}

func (r *report) records() {
	var groups [wrongKinds]group
	for slot := range r.second {
		if what, bad := r.judge(slot); bad {
			groups[what].add(r.second[slot].PID, slot)
		}
	}
	for what, g := range groups {
		if len(g.slots) > 0 {
			r.wrongRecords(wrong(what), g)
		}
	}
	r.severalRecords()
	r.sameNames()
}

func (r *report) wrongRecords(what wrong, g group) {
	add := func(id string, s control.Severity, message, advice string) {
		r.add(id, s, r.subject(g.slots), message, advice, g.pids, g.slots)
	}
	switch what {
	case wrongForged:
		add("forged", control.SeverityError, "the process does not have the table mapped: the record is forged, or is that of a process whose pid was given out again",
			"checkprocd never signals it; an old guard does")
	case wrongRefused:
		add("forged", control.SeverityError, "the pid is none of a program that could register (0 or less, pid 1, a kernel thread, a thread)",
			"checkprocd never signals it; an old guard does")
	case wrongLost:
		add("lost-record", control.SeverityError, "the record is empty and somebody beats in it: a program lost its record, and runs unguarded",
			"restart the program; which one it is shows in \"unguarded\"")
	case wrongForeign:
		add("foreign", control.SeverityWarning, "there is no such process, and the record is beaten: by a process of another pid namespace, or by children of a dead parent",
			"checkprocd leaves it alone; guard it from within its own namespace, or restart the program")
	case wrongNamespace:
		add("foreign", control.SeverityWarning, "the process of this pid lives in another IPC or pid namespace: it is not the one that registered",
			"checkprocd never signals it; guard it from within its own namespace")
	case wrongStale:
		add("stale", control.SeverityWarning, "there is no such process: it ended without wiping its record (a crash or SIGKILL), or lives in another pid namespace",
			"checkprocd clears the record once it has stood still for its timeout")
	case wrongUnreaped:
		add("unreaped", control.SeverityWarning, "the process has ended, and its parent does not reap it", "see to the parent: a guard by pid takes it for alive")
	case wrongTimeout:
		add("timeout", control.SeverityWarning, "the timeout is 0 or less: an old guard ends the program at once",
			"checkprocd watches it for its exit only; give it a timeout by a rule")
	case wrongTorn:
		add("torn", control.SeverityWarning, "the record has a pid and never had a beat: its registering was cut short", "")
	case wrongUnknown:
		add("unverified", control.SeverityNote, "it could not be verified that the process has the table mapped"+r.unknownWhy(g.pids), "")
	}
}

// unknownWhy is the first reason that was given.
func (r *report) unknownWhy(pids []int32) string {
	for _, pid := range pids {
		if p := r.processes[pid]; p.openErr != nil {
			return ": " + p.openErr.Error()
		} else if p.asked != nil {
			return ": " + p.asked.Error()
		}
	}
	return ""
}

// recordName is a record as findings name it: "pid 4242 (ftpd)".
func recordName(rec *table.Record) string {
	name := table.CleanName(&rec.Name)
	switch {
	case rec.PID == 0:
		return "no pid"
	case name == "":
		return fmt.Sprintf("pid %d", rec.PID)
	}
	return fmt.Sprintf("pid %d (%s)", rec.PID, name)
}

// subject names the first five records.
func (r *report) subject(slots []int) string {
	const shown = 5
	var names []string
	for _, slot := range slots[:min(len(slots), shown)] {
		names = append(names, fmt.Sprintf("record %d, %s", slot, recordName(&r.second[slot])))
	}
	text := strings.Join(names, "; ")
	if more := len(slots) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

func (r *report) severalRecords() {
	byPID := map[int32][]int{}
	for slot, rec := range r.second {
		if rec.PID != 0 {
			byPID[rec.PID] = append(byPID[rec.PID], slot)
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(byPID)) {
		if slots := byPID[pid]; len(slots) > 1 {
			r.add("several-records", control.SeverityWarning, recordName(&r.second[slots[0]]),
				fmt.Sprintf("it has %d records: for checkprocd one target, but it takes the places of others", len(slots)), "", []int32{pid}, slots)
		}
	}
}

func (r *report) sameNames() {
	byName := map[string][]int{}
	for slot, rec := range r.second {
		if name := table.CleanName(&rec.Name); rec.PID != 0 && name != "" {
			byName[name] = append(byName[name], slot)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		var g group
		for _, slot := range byName[name] {
			g.add(r.second[slot].PID, slot)
		}
		if len(g.pids) > 1 {
			r.add("name-twice", control.SeverityNote, name, fmt.Sprintf("%d processes have this name: a rule by name means all of them", len(g.pids)), "", g.pids, g.slots)
		}
	}
}
