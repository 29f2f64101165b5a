package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// self is the examiner's pid in these facts.
const self = 9000

// healthy is a table of ten records with two clients, 100 in slot 0 and 101 in slot 1, both proven.
func healthy() facts {
	f := facts{
		key: 0x5095, semKey: 0x5095, records: 10, hasStat: true, maxSystem: 999,
		stat:      table.Stat{ID: 7, Key: 0x5095, Size: 720, Mode: 0o666, CPID: 50},
		attached:  table.Stat{LPID: self, ATime: 1000},
		after:     table.Stat{LPID: self, ATime: 1000},
		first:     make([]table.Record, 10),
		second:    make([]table.Record, 10),
		semKept:   true,
		sem:       table.SemState{ID: 3, Value: 1, OTime: 900, Mode: 0o666, LastPID: 101},
		semNext:   table.SemState{ID: 3, Value: 1, OTime: 900, Mode: 0o666, LastPID: 101},
		processes: map[int32]proc{},
		users:     map[uint32]string{0: "root", 1000: "alice", 33: "www-data"},
		holders:   map[int][]int32{},
	}
	client(&f, 0, 100, "ftpd")
	client(&f, 1, 101, "maild")
	return f
}

func record(pid int32, name string) table.Record {
	r := table.Record{PID: pid, Timeout: 30, Token: 500}
	copy(r.Name[:], name)
	return r
}

func client(f *facts, slot int, pid int32, name string) {
	f.first[slot], f.second[slot] = record(pid, name), record(pid, name)
	f.processes[pid] = alive(pid, name)
}

func alive(pid int32, comm string) proc {
	return proc{Facts: process.Facts{PID: pid, PGID: pid, PPID: 1, Comm: comm}, look: process.Look{State: 'S'}, consent: process.ConsentProven}
}

func both(f *facts, slot int, change func(*table.Record)) {
	change(&f.first[slot])
	change(&f.second[slot])
}

// fate makes a process of something else.
func fate(f *facts, pid int32, change func(*proc)) {
	p := f.processes[pid]
	change(&p)
	f.processes[pid] = p
}

func TestExamine(t *testing.T) {
	gone := fmt.Errorf("open pidfd: %w", process.ErrGone)
	for _, tt := range []struct {
		name   string
		change func(*facts)
		want   []string // "severity id pids slots", in order
		text   string   // in a message, an advice or a subject
	}{
		{"healthy", func(*facts) {}, []string{"ok table"}, "2 of 10 records are used"},
		{"empty", func(f *facts) {
			f.first, f.second = make([]table.Record, 10), make([]table.Record, 10)
		}, []string{"ok table"}, "0 of 10"},
		{"a beat", func(f *facts) { f.second[0].Token++ }, []string{"ok table"}, ""},

		{"no table", func(f *facts) { f.segmentErr, f.hasStat = table.ErrNotExist, false },
			[]string{"warning missing"}, "no program is guarded"},
		{"no table, no semaphore", func(f *facts) {
			f.segmentErr, f.hasStat, f.semErr = table.ErrNotExist, false, table.ErrNotExist
		}, []string{"warning missing"}, ""},
		{"layout", func(f *facts) {
			f.stat.Size, f.stat.Mode, f.stat.UID, f.stat.CUID = 400, 0o640, 1000, 1000
			f.segmentErr = &table.LayoutError{Stat: f.stat, Want: 720}
		}, []string{"error layout [50]", "warning mode", "warning removeipc"}, "tutorial"},
		{"permission", func(f *facts) { f.segmentErr, f.hasStat = fmt.Errorf("attach: %w", fs.ErrPermission), false },
			[]string{"error permission"}, "as root"},
		{"unreadable", func(f *facts) { f.segmentErr, f.hasStat = errors.New("attach: out of memory"), false },
			[]string{"error unreadable"}, "out of memory"},

		{"mode 0640", func(f *facts) { f.stat.Mode = 0o640 }, []string{"warning mode"}, "mode is 0640, not 0666"},
		{"mode 0777", func(f *facts) { f.stat.Mode = 0o777 }, []string{"note mode", "ok table"}, ""},
		{"login user", func(f *facts) { f.stat.UID, f.stat.CUID = 1000, 1000 }, []string{"warning removeipc"}, "login user alice"},
		{"made by a login user", func(f *facts) { f.stat.CUID = 1000 }, []string{"note owner", "ok table"}, "alice"},
		{"system user", func(f *facts) { f.stat.UID, f.stat.CUID = 33, 33 }, []string{"note owner", "ok table"}, "www-data"},
		{"many system users", func(f *facts) { f.stat.UID, f.stat.CUID, f.maxSystem = 1000, 1000, 1999 }, []string{"note owner", "ok table"}, ""},
		{"nameless login user", func(f *facts) { f.semNext.UID = 4711 }, []string{"warning removeipc"}, "uid 4711"},

		{"no semaphore", func(f *facts) { f.semErr = table.ErrNotExist }, []string{"note semaphore-missing", "ok table"}, ""},
		{"semaphore denied", func(f *facts) { f.semErr = fs.ErrPermission }, []string{"note semaphore-unreadable", "ok table"}, ""},
		{"semaphore mode", func(f *facts) { f.semNext.Mode = 0o600 }, []string{"warning mode"}, "semaphore 0x5095"},
		{"taken for a moment", func(f *facts) { f.sem.Value = 0 }, []string{"ok table"}, ""},
		{"taken twice", func(f *facts) { f.sem.Value, f.semNext.Value, f.semNext.OTime = 0, 0, 901 }, []string{"ok table"}, ""},
		{"taken by one and the next", func(f *facts) { f.sem.Value, f.semNext.Value, f.semNext.LastPID = 0, 0, 100 }, []string{"ok table"}, ""},
		{"made anew", func(f *facts) { f.sem.Value, f.semNext.Value, f.semKept = 0, 0, false }, []string{"ok table"}, ""},
		{"held", func(f *facts) { f.sem.Value, f.semNext.Value = 0, 0 }, []string{"warning semaphore-held [101]"}, "pid 101 (maild):"},
		{"held, with waiters", func(f *facts) {
			f.sem.Value, f.semNext.Value, f.semNext.Waiters = 0, 0, 2
			fate(f, 101, func(p *proc) { p.look.State = 'T' })
		}, []string{"error semaphore-held [101]"}, "pid 101 (maild), which is stopped: 2 programs hang"},
		{"held, frozen", func(f *facts) {
			f.sem.Value, f.semNext.Value, f.semNext.Waiters = 0, 0, 1
			fate(f, 101, func(p *proc) { p.look.Frozen = true })
		}, []string{"error semaphore-held [101]"}, "which is frozen: 1 program hangs"},
		{"held from elsewhere", func(f *facts) { f.sem.Value, f.semNext.Value, f.sem.LastPID, f.semNext.LastPID = 0, 0, 0, 0 },
			[]string{"warning semaphore-held [0]"}, "another pid namespace"},
		{"never initialised", func(f *facts) {
			f.sem, f.semNext = table.SemState{ID: 3}, table.SemState{ID: 3, Mode: 0o666, Waiters: 1}
		},
			[]string{"error semaphore-uninitialised"}, "ipcrm -s 3"},

		{"full", func(f *facts) {
			for slot := range 10 {
				client(f, slot, int32(100+slot), "client"+string(rune('a'+slot)))
			}
		}, []string{"error full"}, "all 10 records"},
		{"nearly full", func(f *facts) {
			for slot := range 9 {
				client(f, slot, int32(100+slot), "client"+string(rune('a'+slot)))
			}
		}, []string{"warning full"}, "9 of 10"},

		{"stale", func(f *facts) { fate(f, 100, func(p *proc) { *p = proc{openErr: gone} }) },
			[]string{"warning stale [100] [0]"}, "record 0, pid 100 (ftpd)"},
		{"foreign", func(f *facts) {
			fate(f, 100, func(p *proc) { *p = proc{openErr: gone} })
			f.second[0].Token++
		}, []string{"warning foreign [100] [0]"}, ""},
		{"stale, and wiped between the looks", func(f *facts) {
			fate(f, 100, func(p *proc) { *p = proc{openErr: gone} })
			f.second[0] = table.Record{}
		}, []string{"ok table"}, ""},
		{"stale, and taken by another", func(f *facts) {
			fate(f, 100, func(p *proc) { *p = proc{openErr: gone} })
			f.second[0] = record(200, "new")
		}, []string{"ok table"}, ""},
		{"other namespace", func(f *facts) { fate(f, 100, func(p *proc) { p.consent = process.ConsentOtherNamespace }) },
			[]string{"warning foreign [100] [0]"}, ""},
		{"unreaped", func(f *facts) { fate(f, 100, func(p *proc) { *p = proc{openErr: process.ErrZombie} }) },
			[]string{"warning unreaped [100] [0]"}, ""},
		{"forged", func(f *facts) { fate(f, 100, func(p *proc) { p.consent = process.ConsentNotMapped }) },
			[]string{"error forged [100] [0]"}, "does not have the table mapped"},
		{"minus one", func(f *facts) {
			client(f, 4, -1, "")
			f.processes[-1] = proc{openErr: &process.RefusedError{PID: -1, Reason: "not the pid of a process"}}
		}, []string{"error forged [-1] [4]"}, ""},
		{"lost", func(f *facts) { f.second[5].Token = 77 }, []string{"error lost-record [] [5]"}, "record 5, no pid"},
		{"leftovers", func(f *facts) { both(f, 5, func(r *table.Record) { *r = record(0, "was here") }) }, []string{"ok table"}, ""},
		{"timeout 0", func(f *facts) { both(f, 1, func(r *table.Record) { r.Timeout = 0 }) }, []string{"warning timeout [101] [1]"}, ""},
		{"timeout below 0", func(f *facts) { both(f, 1, func(r *table.Record) { r.Timeout = -5 }) }, []string{"warning timeout [101] [1]"}, ""},
		{"torn", func(f *facts) { both(f, 1, func(r *table.Record) { r.Token, r.Timeout = 0, 0 }) }, []string{"warning torn [101] [1]"}, ""},
		{"registering", func(f *facts) { f.first[1].Token, f.first[1].Timeout = 0, 0 }, []string{"ok table"}, ""},
		{"registered between the looks", func(f *facts) { f.second[2] = record(300, "new") }, []string{"ok table"}, ""},
		{"unverified", func(f *facts) {
			fate(f, 100, func(p *proc) {
				p.consent, p.asked = process.ConsentUnknown, errors.New("read /proc/100/maps: permission denied")
			})
		}, []string{"note unverified [100] [0]", "ok table"}, "permission denied"},
		{"not looked at", func(f *facts) { delete(f.processes, 100) }, []string{"note unverified [100] [0]", "ok table"}, ""},
		{"several records", func(f *facts) { client(f, 3, 100, "ftpd") }, []string{"warning several-records [100] [0 3]"}, "2 records"},
		{"name twice", func(f *facts) { client(f, 3, 103, "ftpd") }, []string{"note name-twice [100 103] [0 3]", "ok table"}, "2 processes"},
		{"empty names", func(f *facts) { client(f, 3, 103, ""); client(f, 4, 104, "") }, []string{"ok table"}, ""},
		{"many", func(f *facts) {
			for slot := range 7 {
				client(f, slot, int32(100+slot), "client"+string(rune('a'+slot)))
				fate(f, int32(100+slot), func(p *proc) { *p = proc{openErr: gone} })
			}
		}, []string{"warning stale [100 101 102 103 104 105 106] [0 1 2 3 4 5 6]"}, "record 4, pid 104 (cliente); and 2 more"},

		{"unguarded", func(f *facts) {
			f.processes[400] = alive(400, "lost")
			f.mapping = []int32{400}
		}, []string{"warning unguarded [400]"}, "pid 400 (lost)"},
		{"child of a client", func(f *facts) {
			f.processes[400], f.processes[401] = alive(400, "sh"), alive(401, "worker")
			fate(f, 400, func(p *proc) { p.PPID = 100 })
			fate(f, 401, func(p *proc) { p.PPID = 400 })
			f.mapping = []int32{401}
		}, []string{"note children [401]", "ok table"}, ""},
		{"registered after the first look", func(f *facts) {
			f.processes[400] = alive(400, "new")
			f.mapping, f.second[2] = []int32{400}, record(400, "new")
		}, []string{"ok table"}, ""},
		{"the guard itself", func(f *facts) {
			f.processes[400], f.processes[401] = alive(400, "checkprocd"), alive(401, "checkprocd-read")
			f.mapping = []int32{400, 401}
		}, []string{"ok table"}, ""},
		{"loop of parents", func(f *facts) {
			f.processes[400], f.processes[401] = alive(400, "a"), alive(401, "b")
			fate(f, 400, func(p *proc) { p.PPID = 401 })
			fate(f, 401, func(p *proc) { p.PPID = 400 })
			f.mapping = []int32{400}
		}, []string{"warning unguarded [400]"}, ""},

		{"process group", func(f *facts) { fate(f, 101, func(p *proc) { p.PGID = 100 }) },
			[]string{"note process-group [100 101]", "ok table"}, "2 guarded processes are in one process group"},
		{"shell job", func(f *facts) {
			f.processes[400] = alive(400, "sh")
			fate(f, 400, func(p *proc) { p.PGID = 100 })
		}, []string{"ok table"}, ""},
		{"procctl", func(f *facts) {
			f.processes[400] = alive(400, "procctl")
			fate(f, 400, func(p *proc) { p.PGID = 100 })
		}, []string{"note process-group [100]", "ok table"}, "1 procctl with them"},
		{"old guard in the group", func(f *facts) {
			f.processes[400] = alive(400, "checkproc")
			fate(f, 400, func(p *proc) { p.PGID = 100 })
		}, []string{"error process-group [100]", "warning old-guard [400]"}, "kills its own group"},
		{"old guard", func(f *facts) { f.processes[400] = alive(400, "checkproc2") }, []string{"warning old-guard [400]"}, ""},
		{"old guard has ended", func(f *facts) { f.processes[400] = proc{Facts: process.Facts{Comm: "checkproc"}, openErr: gone} }, []string{"ok table"}, ""},
		{"traces", func(f *facts) { f.after.LPID, f.after.ATime = 777, 1001 }, []string{"note old-guard [777]", "ok table"}, "pid 777"},
		{"traces of a client", func(f *facts) { f.after.LPID, f.after.ATime = 100, 1001 }, []string{"ok table"}, ""},
		{"traces of one that is ours", func(f *facts) {
			f.after.LPID, f.processes[400] = 400, alive(400, "checkprocd")
		}, []string{"ok table"}, ""},

		{"removed", func(f *facts) {
			f.removed = []removedSegment{{id: 5, attached: 2}}
			f.processes[400] = alive(400, "left")
			f.holders[5] = []int32{400}
		}, []string{"warning removed [400]"}, "lives on in pid 400 (left)"},
		{"removed, by nobody seen", func(f *facts) { f.removed = []removedSegment{{id: 5, attached: 2}} }, []string{"warning removed"}, "2 mappings"},
		{"limits", func(f *facts) { f.limits = []string{"processes: hidden"} }, []string{"note incomplete", "ok table"}, "processes: hidden"},
		{"the worst first", func(f *facts) {
			both(f, 1, func(r *table.Record) { r.Timeout = 0 })
			fate(f, 100, func(p *proc) { p.consent = process.ConsentNotMapped })
			f.limits = []string{"x"}
		}, []string{"error forged [100] [0]", "warning timeout [101] [1]", "note incomplete"}, ""},
		{"a terminal's enemy", func(f *facts) {
			f.processes[400] = alive(400, "checkproc\x1b[2J")
		}, []string{"warning old-guard [400]"}, `pid 400 ("checkproc\x1b[2J")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.change(&f)
			findings := examine(f)
			var got []string
			found := tt.text == ""
			for _, x := range findings {
				line := string(x.Severity) + " " + x.ID
				if len(x.PIDs) > 0 || len(x.Slots) > 0 {
					line += fmt.Sprint(" ", x.PIDs)
				}
				if len(x.Slots) > 0 {
					line += fmt.Sprint(" ", x.Slots)
				}
				got = append(got, line)
				all := x.Subject + "\n" + x.Message + "\n" + x.Advice
				found = found || strings.Contains(all, tt.text)
				if x.Subject == "" || x.Message == "" || strings.ContainsAny(all, "\x1b\x00") {
					t.Errorf("finding %+v", x)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s%+v", diff, findings)
			}
			if !found {
				t.Errorf("nothing says %q:\n%+v", tt.text, findings)
			}
		})
	}
}

func TestParseShm(t *testing.T) {
	text := []byte(`       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
     20629          0   666                 72000   100   101      3     0     0     0     0 1700000000          0 1700000000                 72000                     0
         0          5  1666                 72000   200   201      2  1000  1000  1000  1000 1700000000          0 1700000000                 72000                     0
         0          6  1600                524288   300   301      0  1000  1000  1000  1000 1700000000          0 1700000000                 72000                     0
         0          7   600                 72000   300   301      2  1000  1000  1000  1000 1700000000          0 1700000000                 72000                     0
         0          x  1666                 72000   300   301      2  1000
garbage
`)
	want := []removedSegment{{id: 5, size: 72000, attached: 2}}
	if diff := cmp.Diff(want, parseShm(text), cmp.AllowUnexported(removedSegment{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseShm(f *testing.F) {
	f.Add([]byte("key\n0 5 1666 72000 1 2 3 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, r := range parseShm(text) {
			if r.attached <= 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestSystemMax(t *testing.T) {
	for text, want := range map[string]uint32{
		"": 999, "# SYS_UID_MAX 5\n": 999, "SYS_UID_MAX\t\t499\n": 499, "SYS_UID_MAX x\n": 999, "SYS_UID_MAX": 999,
	} {
		if got := systemMax([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestSeveritiesAreRanked(t *testing.T) {
	order := []control.Severity{control.SeverityOK, control.SeverityNote, control.SeverityWarning, control.SeverityError}
	if !slices.IsSortedFunc(order, func(a, b control.Severity) int { return rank(a) - rank(b) }) {
		t.Error("not in order")
	}
}
