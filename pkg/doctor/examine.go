package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// report collects findings.
type report struct {
	facts
	findings []control.Finding
}

// examine judges. Findings come the worst first, then in the order of the examination.
func examine(f facts) []control.Finding {
	r := &report{facts: f}
	r.segment()
	r.semaphore()
	r.removedSegments()
	if f.segmentErr == nil {
		r.fullness()
		r.records()
		r.unguarded()
		r.processGroups()
	}
	r.oldGuard()
	if len(f.limits) > 0 {
		r.add("incomplete", control.SeverityNote, "examination", "not everything could be looked at: "+strings.Join(f.limits, "; "),
			"run it as root to see all", nil, nil)
	}
	if f.segmentErr == nil && !slices.ContainsFunc(r.findings, worse) {
		used := 0
		for _, rec := range f.second {
			if rec.PID != 0 {
				used++
			}
		}
		r.add("table", control.SeverityOK, r.tableName(), fmt.Sprintf("%d of %d records are used, nothing is wrong with them", used, f.records), "", nil, nil)
	}
	slices.SortStableFunc(r.findings, func(a, b control.Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
	return r.findings
}

func worse(f control.Finding) bool { return rank(f.Severity) > rank(control.SeverityNote) }

func rank(s control.Severity) int {
	return slices.Index([]control.Severity{control.SeverityOK, control.SeverityNote, control.SeverityWarning, control.SeverityError}, s)
}

func (r *report) add(id string, s control.Severity, subject, message, advice string, pids []int32, slots []int) {
	if pids == nil {
		pids = []int32{} // in JSON an empty list, not null
	}
	if slots == nil {
		slots = []int{}
	}
	r.findings = append(r.findings, control.Finding{ID: id, Severity: s, Subject: subject, Message: message, Advice: advice,
		PIDs: pids, Slots: slots})
}

func (r *report) tableName() string     { return fmt.Sprintf("table %#x", r.key) }
func (r *report) semaphoreName() string { return fmt.Sprintf("semaphore %#x", r.semKey) }

// user is a uid with its name where there is one.
func (r *report) user(uid uint32) string {
	if name := r.users[uid]; name != "" {
		return name
	}
	return "uid " + strconv.FormatUint(uint64(uid), 10)
}

// login: logind removes the IPC objects of these users at their last logout.
func (r *report) login(uid uint32) bool { return uid > r.maxSystem }

func (r *report) segment() {
	var layout *table.LayoutError
	switch {
	case errors.As(r.segmentErr, &layout):
		r.add("layout", control.SeverityError, r.tableName(), layout.Error(),
			"clients of the right layout fail to register and run unguarded until it is removed", creator(layout.Stat), nil)
	case errors.Is(r.segmentErr, table.ErrNotExist):
		r.add("missing", control.SeverityWarning, r.tableName(), "there is no table: no program is guarded",
			"start checkprocd, which creates it, before the programs", nil, nil)
	case denied(r.segmentErr):
		r.add("permission", control.SeverityError, r.tableName(), r.segmentErr.Error(), "run the examination as root", nil, nil)
	case r.segmentErr != nil:
		r.add("unreadable", control.SeverityError, r.tableName(), r.segmentErr.Error(), "", nil, nil)
	}
	if r.hasStat {
		r.access(r.tableName(), r.stat.Mode, r.stat.UID, r.stat.CUID, fmt.Sprintf("-m %d", r.stat.ID))
	}
}

func creator(s table.Stat) []int32 {
	if s.CPID > 0 {
		return []int32{s.CPID}
	}
	return nil
}

// access judges mode and owner of the segment or the semaphore; remove are the arguments of ipcrm for it.
func (r *report) access(subject string, mode, uid, cuid uint32, remove string) {
	if mode != 0o666 {
		what := fmt.Sprintf("mode is %#o, not 0666: ", mode)
		if mode == 0o640 {
			what += "made by a program that follows the tutorial; "
		}
		if mode&0o006 != 0o006 {
			r.add("mode", control.SeverityWarning, subject, what+"programs of other users than "+r.user(uid)+" cannot register and run unguarded",
				"stop its programs, \"ipcrm "+remove+"\", start checkprocd, then the programs", nil, nil)
		} else {
			r.add("mode", control.SeverityNote, subject, what+"everybody can use it still", "", nil, nil)
		}
	}
	switch {
	case r.login(uid):
		r.add("removeipc", control.SeverityWarning, subject,
			"it belongs to the login user "+r.user(uid)+": logind removes it at the last logout of that user (RemoveIPC=yes)",
			"have checkprocd create it at boot, before the programs, or set RemoveIPC=no in logind.conf", nil, nil)
	case uid != cuid && r.login(cuid):
		r.add("owner", control.SeverityNote, subject, "it was created by the login user "+r.user(cuid)+", who may remove it at any time", "", nil, nil)
	case uid != 0:
		r.add("owner", control.SeverityNote, subject, "it belongs to "+r.user(uid)+", not to root: that user may remove it at any time", "", nil, nil)
	}
}

func (r *report) semaphore() {
	switch {
	case errors.Is(r.semErr, table.ErrNotExist):
		if r.segmentErr == nil {
			r.add("semaphore-missing", control.SeverityNote, r.semaphoreName(), "there is none: the first program that registers makes it", "", nil, nil)
		}
		return
	case r.semErr != nil:
		r.add("semaphore-unreadable", control.SeverityNote, r.semaphoreName(), r.semErr.Error(), "run the examination as root", nil, nil)
		return
	}
	now := r.semNext
	r.access(r.semaphoreName(), now.Mode&0o777, now.UID, now.CUID, fmt.Sprintf("-s %d", now.ID))
	if !r.semKept || r.sem.Value != 0 || now.Value != 0 || r.sem.OTime != now.OTime || r.sem.CTime != now.CTime || r.sem.LastPID != now.LastPID {
		return // it moves
	}
	severity, hang := control.SeverityWarning, "new programs will hang in it before they are in the table"
	if now.Waiters > 0 {
		severity, hang = control.SeverityError, fmt.Sprintf("%s there and not in the table, so nobody guards them", count(now.Waiters, "program hangs", "programs hang"))
	}
	if now.OTime == 0 {
		r.add("semaphore-uninitialised", severity, r.semaphoreName(), "it never got its first value, its creator died before: "+hang,
			"checkprocd sets it to 1; without it: \"ipcrm -s "+strconv.Itoa(now.ID)+"\"", nil, nil)
		return
	}
	holder, state := r.describe(now.LastPID), ""
	p, known := r.processes[now.LastPID]
	switch {
	case known && p.openErr == nil:
		state = stateName(p)
	case now.LastPID == 0:
		holder = "a process of another pid namespace"
	}
	r.add("semaphore-held", severity, r.semaphoreName(), "it is held by "+holder+state+": "+hang,
		"see what keeps that process from going on; if it is stopped, continue it or end it: the kernel then gives the semaphore back", []int32{now.LastPID}, nil)
}

// stateName says what keeps a process from going on, where that shows.
func stateName(p proc) string {
	switch {
	case p.look.Frozen:
		return ", which is frozen"
	case p.look.State == 't':
		return ", which is being traced by pid " + strconv.Itoa(int(p.look.TracerPID))
	case p.look.State == 'T':
		return ", which is stopped"
	case p.look.State == 'D':
		return ", which waits uninterruptibly (D)"
	}
	return ""
}

// describe is a pid with the name of its process.
func (r *report) describe(pid int32) string {
	if p := r.processes[pid]; p.Comm != "" {
		return fmt.Sprintf("pid %d (%s)", pid, printable(p.Comm))
	}
	return fmt.Sprintf("pid %d", pid)
}

// printable quotes what a process chose as its name, where that could harm a terminal.
func printable(comm string) string {
	if quoted := strconv.QuoteToGraphic(comm); quoted != `"`+comm+`"` {
		return quoted
	}
	return comm
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func (r *report) removedSegments() {
	for _, s := range r.removed {
		pids := r.holders[s.id]
		who := count(s.attached, "mapping", "mappings")
		if len(pids) > 0 {
			who = r.list(pids)
		}
		r.add("removed", control.SeverityWarning, fmt.Sprintf("segment %d", s.id),
			fmt.Sprintf("a table that was removed from the system lives on in %s: its programs beat where no newly started guard looks", who),
			"restart these programs once the table exists anew", pids, nil)
	}
}

// list names the first five processes.
func (r *report) list(pids []int32) string {
	const shown = 5
	var names []string
	for _, pid := range pids[:min(len(pids), shown)] {
		names = append(names, r.describe(pid))
	}
	text := strings.Join(names, ", ")
	if more := len(pids) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
