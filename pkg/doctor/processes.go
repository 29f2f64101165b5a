package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// targets are the pids that have a record in both looks and were alive.
func (r *report) targets() map[int32]bool {
	out := map[int32]bool{}
	for slot := range r.second {
		pid := r.second[slot].PID
		if p, ok := r.processes[pid]; pid != 0 && pid == r.first[slot].PID && ok && p.openErr == nil {
			out[pid] = true
		}
	}
	return out
}

// unguarded are processes that map the table and have no record. A forked child keeps the mapping of its parent, so it
// is one only when no ancestor has a record; a guard maps the table too.
func (r *report) unguarded() {
	inTable := map[int32]bool{}
	for _, pid := range pidsOf(r.facts) {
		inTable[pid] = true
	}
	var alone, children []int32
	for _, pid := range r.mapping {
		switch {
		case inTable[pid] || ours(r.processes[pid].Comm):
		case r.descends(pid, inTable):
			children = append(children, pid)
		default:
			alone = append(alone, pid)
		}
	}
	if len(alone) > 0 {
		r.add("unguarded", control.SeverityWarning, r.list(alone),
			"it has the table mapped and no record: it found the table full, lost its record to another, or hangs while it registers",
			"restart it", alone, nil)
	}
	if len(children) > 0 {
		r.add("children", control.SeverityNote, r.list(children), "a child of a registered process, without a record of its own: its parent's guards it, or nobody does", "", children, nil)
	}
}

// pidsOf are the pids of both looks.
func pidsOf(f facts) []int32 {
	var out []int32
	for slot := range f.second {
		out = append(out, f.first[slot].PID, f.second[slot].PID)
	}
	return out
}

// descends: one of the ancestors of pid is in the set. The walk is bounded, for the facts are not of one moment.
func (r *report) descends(pid int32, set map[int32]bool) bool {
	for range 64 {
		p, ok := r.processes[pid]
		if !ok || p.PPID <= 1 {
			return false
		}
		if pid = p.PPID; set[pid] {
			return true
		}
	}
	return false
}

// ours are the names of this guard's own programs; the kernel cuts a name to 15 bytes.
func ours(comm string) bool {
	return comm == "checkprocd" || comm == "checkprocctl" || comm == process.HelperName[:15]
}

// oldName: an old guard, which is called checkproc and perhaps something behind it.
func oldName(comm string) bool { return strings.HasPrefix(comm, "checkproc") && !ours(comm) }

// processGroups says which targets share their process group with others: a signal to the group meets them all. Under
// procctl that is every service of a start script. While an old guard is among them it is a danger: after a clean exit
// it signals its own group.
func (r *report) processGroups() {
	targets := r.targets()
	members := map[int32][]int32{}
	for pid, p := range r.processes {
		if p.openErr == nil && p.PGID > 0 {
			members[p.PGID] = append(members[p.PGID], pid)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(members)) {
		pids := members[group]
		slices.Sort(pids)
		var inside, scheduler, guard []int32
		for _, pid := range pids {
			switch comm := r.processes[pid].Comm; {
			case targets[pid]:
				inside = append(inside, pid)
			case oldName(comm):
				guard = append(guard, pid)
			case comm == "procctl":
				scheduler = append(scheduler, pid)
			}
		}
		if len(inside) == 0 || len(inside) < 2 && len(scheduler)+len(guard) == 0 {
			continue
		}
		severity, message, advice := control.SeverityNote,
			fmt.Sprintf("%s in one process group: a signal to the group meets them all", count(len(inside), "guarded process is", "guarded processes are")),
			"run each as a unit of its own, or with setsid"
		if len(scheduler) > 0 {
			message += fmt.Sprintf(", and %s with them", count(len(scheduler), "procctl", "procctls"))
		}
		if len(guard) > 0 {
			severity = control.SeverityError
			message += fmt.Sprintf("; so does the old guard %s, which kills its own group when a hung program ends cleanly", r.describe(guard[0]))
			advice = "stop the old guard"
		}
		r.add("process-group", severity, fmt.Sprintf("process group %d", group), message, advice, inside, nil)
	}
}

// oldGuard looks for another guard by name, and by its traces: it attaches, reads and detaches without a record.
func (r *report) oldGuard() {
	var named []int32
	for pid, p := range r.processes {
		if p.openErr == nil && oldName(p.Comm) {
			named = append(named, pid)
		}
	}
	slices.Sort(named)
	if len(named) > 0 {
		r.add("old-guard", control.SeverityWarning, r.list(named), "an old guard is at work: it signals by number whatever pid stands in a record",
			"stop it, and take it out of the start script", named, nil)
		return
	}
	if r.segmentErr != nil || r.after.LPID == r.attached.LPID && r.after.ATime == r.attached.ATime {
		return
	}
	last := r.after.LPID
	p, seen := r.processes[last]
	if slices.Contains(pidsOf(r.facts), last) || slices.Contains(r.mapping, last) || seen && ours(p.Comm) {
		return
	}
	r.add("old-guard", control.SeverityNote, r.tableName(),
		fmt.Sprintf("%s attached or detached during the examination and has no record: perhaps an old guard, or a look like this one", r.describe(last)),
		"", []int32{last}, nil)
}
