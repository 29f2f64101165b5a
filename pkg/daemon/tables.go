package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// attached is one segment that is looked at.
type attached struct {
	seg     *table.Segment
	id      guard.TableID
	scan    guard.Scan // with the buffer that each look fills
	removed bool
	atime   int64
	lpid    int32
	comm    string // name of lpid, when it attached
	again   int    // scans until its attach is told once more
}

// tables are the segment under the key, those that were removed under live
// clients, and the clients' semaphore.
type tables struct {
	list    []*attached
	current *attached // the one under the key, nil: none
	problem string    // why there is none
	refused bool      // there is one, of another layout or closed to us
	sem     *table.Semaphore
	waiters int
	semBad  string // the problem that was said last
}

func (t *tables) find(id guard.TableID) *attached {
	for _, a := range t.list {
		if a.id == id {
			return a
		}
	}
	return nil
}

// attach maps a segment, for reading only where nothing else is allowed.
func (d *Daemon) attach(id int) (*attached, error) {
	c := &d.cfg.CPActive
	seg, err := table.Attach(id, c.Key, c.Records, false)
	if errors.Is(err, fs.ErrPermission) {
		if ro, roErr := table.Attach(id, c.Key, c.Records, true); roErr == nil {
			d.degraded("table", fmt.Sprintf("table %d can be read but not written: %v; records of ended processes are not cleared", id, err))
			seg, err = ro, nil
		}
	}
	if err != nil {
		return nil, err
	}
	a := &attached{seg: seg, id: guard.TableID(seg.ID())}
	a.scan = guard.Scan{Table: a.id, Records: make([]table.Record, seg.Len())}
	d.tables.list = append(d.tables.list, a)
	return a, nil
}

// attachKnown attaches the tables that the registry knows.
func (d *Daemon) attachKnown() {
	for _, id := range d.guard.TableIDs() {
		a, err := d.attach(int(id))
		if err != nil {
			d.see(guard.TableLost{Table: id, Reason: err.Error()})
			continue
		}
		d.see(guard.TableAttached{Table: id, Slots: a.seg.Len()})
	}
}

// giveUpTables forgets all tables and their targets: the operator said so.
func (d *Daemon) giveUpTables() {
	for _, id := range d.guard.TableIDs() {
		d.see(guard.TableLost{Table: id, Reason: "cpactive.enabled is false", Order: true})
	}
	for _, a := range d.tables.list {
		_ = a.seg.Close()
	}
	d.tables = tables{}
}

// lookAtTables sees whether the segment under the key is still the one that is
// attached, and attaches or creates what is there to be. Two system calls when
// nothing changed.
func (d *Daemon) lookAtTables() {
	t, c := &d.tables, &d.cfg.CPActive
	if !c.Enabled {
		return
	}
	id, err := table.Lookup(c.Key)
	switch {
	case err == nil && t.current != nil && int(t.current.id) == id:
		d.lookAtAttachment(t.current)
		d.lookAtSemaphore()
		return
	case err == nil:
		d.leaveCurrent()
		d.takeCurrent(id, false)
	case errors.Is(err, table.ErrNotExist):
		d.leaveCurrent()
		if ok, why := d.mayCreate(); !ok {
			d.tableProblem(fmt.Sprintf("no table under key %#x, and not creating it: %s; looking for it again each %s", c.Key, why, d.cfg.Interval), false)
			break
		}
		id, err := table.Create(c.Key, c.Records, c.Mode)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			d.tableProblem(fmt.Sprintf("create the table under key %#x: %v; trying again each %s", c.Key, err, d.cfg.Interval), false)
			break
		}
		if err == nil {
			d.takeCurrent(id, true)
		}
	default:
		d.tableProblem(fmt.Sprintf("look for the table under key %#x: %v; trying again each %s", c.Key, err, d.cfg.Interval), true)
	}
	d.lookAtSemaphore()
}

// leaveCurrent notes that the segment under the key is another one now: the old
// one was removed and lives on in its clients.
func (d *Daemon) leaveCurrent() {
	if a := d.tables.current; a != nil {
		a.removed = true
		d.see(guard.TableRemoved{Table: a.id})
		d.tables.current = nil
	}
}

// takeCurrent attaches the segment under the key.
func (d *Daemon) takeCurrent(id int, created bool) {
	t := &d.tables
	a := t.find(guard.TableID(id))
	if a == nil && len(t.list) >= tablesMax {
		d.tableProblem(fmt.Sprintf("table %d is not attached: %d removed ones are still mapped by their clients, which is as many as are looked at; end those that made them", id, len(t.list)), true)
		return
	}
	if a == nil {
		var err error
		if a, err = d.attach(id); err != nil {
			var layout *table.LayoutError
			text := fmt.Sprintf("attach table %d: %v; looking at it again each %s", id, err, d.cfg.Interval)
			if errors.As(err, &layout) {
				text = fmt.Sprintf("%v; looking for another one each %s", err, d.cfg.Interval)
			}
			d.tableProblem(text, true)
			return
		}
		d.see(guard.TableAttached{Table: a.id, Slots: a.seg.Len(), Created: created})
	}
	t.current, t.problem, t.refused = a, "", false
	d.markRemoved()
}

// markRemoved tells the guard of attached tables that are not under the key.
func (d *Daemon) markRemoved() {
	for _, a := range d.tables.list {
		if a != d.tables.current && !a.removed {
			a.removed = true
			d.see(guard.TableRemoved{Table: a.id})
		}
	}
}

// tableProblem reports why there is no table, once for each reason.
func (d *Daemon) tableProblem(text string, refused bool) {
	t := &d.tables
	t.refused = refused
	d.markRemoved()
	if t.problem == text {
		return
	}
	t.problem = text
	d.say(guard.EvTableLost, guard.LevelError, "no table", text)
}

// mayCreate says whether this user's segment would stay: logind removes those
// of login users at their last logout.
func (d *Daemon) mayCreate() (bool, string) {
	if !d.cfg.CPActive.Create {
		return false, "cpactive.create is false"
	}
	if d.opts.Observe {
		return false, "started with --observe"
	}
	uid := os.Geteuid()
	if uid != 0 && uid > systemUIDMax() {
		return false, fmt.Sprintf("uid %d is a login user's, logind would remove it at logout; start checkprocd as root", uid)
	}
	return true, ""
}

// systemUIDMax is SYS_UID_MAX of login.defs(5).
func systemUIDMax() int {
	text, _ := os.ReadFile("/etc/login.defs")
	for line := range strings.Lines(string(text)) {
		var n int
		if _, err := fmt.Sscanf(line, "SYS_UID_MAX %d", &n); err == nil {
			return n
		}
	}
	return 999
}

// attachmentAgain is after how many scans an attach is told once more: a client
// that attached has its record by then, an old guard never has one.
const attachmentAgain = 2

// lookAtAttachment hands shm_atime and shm_lpid to the guard when they moved,
// and once more.
func (d *Daemon) lookAtAttachment(a *attached) {
	st, err := a.seg.Stat()
	if err != nil {
		return
	}
	switch {
	case st.ATime != a.atime || st.LPID != a.lpid:
		a.atime, a.lpid, a.comm, a.again = st.ATime, st.LPID, commOf(st.LPID), attachmentAgain
	case a.again == 0:
		return
	default:
		if a.again--; a.again > 0 {
			return
		}
	}
	d.see(guard.Attachment{Table: a.id, ATime: st.ATime, LastPID: st.LPID, Comm: a.comm})
}

// commOf is the name of a process, "" when there is none of that number. It is
// cleaned: any user may choose one that ends a line or moves a terminal's cursor.
func commOf(pid int32) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	var name [table.NameSize]byte
	copy(name[:], strings.TrimSuffix(string(b), "\n"))
	return table.CleanName(&name)
}

// lookAtSemaphore opens or creates the clients' semaphore and watches it: one
// system call while nobody waits for it.
func (d *Daemon) lookAtSemaphore() {
	t, c := &d.tables, &d.cfg.CPActive
	if t.sem != nil {
		n, err := t.sem.Waiters()
		switch {
		case err != nil:
			t.sem = nil
		case n > 0 || t.waiters > 0:
			t.waiters = n
			d.semaphoreState()
			return
		default:
			return
		}
	}
	sem, err := table.OpenSemaphore(c.SemKey)
	if errors.Is(err, table.ErrNotExist) {
		if ok, _ := d.mayCreate(); !ok || t.current == nil {
			return
		}
		sem, err = table.CreateSemaphore(c.SemKey, c.Mode)
	}
	if err != nil {
		if text := err.Error(); t.semBad != text {
			t.semBad = text
			d.degraded("semaphore", fmt.Sprintf("the clients' semaphore under key %#x cannot be watched: %v", c.SemKey, err))
		}
		return
	}
	t.sem, t.semBad, t.waiters = sem, "", 0
}

func (d *Daemon) semaphoreState() {
	st, err := d.tables.sem.State()
	if err != nil {
		return
	}
	d.see(guard.Semaphore{ID: st.ID, Value: st.Value, Waiters: st.Waiters, LastPID: st.LastPID,
		LastComm: commOf(st.LastPID), OTime: st.OTime, Repairable: true})
}

// scanTables reads every table and hands it to the guard.
func (d *Daemon) scanTables() {
	for _, a := range d.tables.list {
		a.seg.Read(a.scan.Records)
		d.see(&a.scan)
	}
}

func (d *Daemon) dropTable(id guard.TableID) {
	t := &d.tables
	for i, a := range t.list {
		if a.id == id {
			_ = a.seg.Close()
			t.list = append(t.list[:i], t.list[i+1:]...)
			return
		}
	}
}
