package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// Bounds of an examination. A Reader queues 4096 questions.
const (
	maxProcesses = 8192
	maxQuestions = 2048
	askTime      = 5 * time.Second
)

// gather asks the kernel. Its error is that of ctx; whatever else fails is a fact.
func gather(ctx context.Context, o Options) (facts, error) {
	f := facts{key: o.Key, semKey: o.SemKey, records: o.Records, processes: map[int32]proc{}, users: map[uint32]string{},
		holders: map[int][]int32{}, maxSystem: defaultSystemMax}
	if text, err := os.ReadFile("/etc/login.defs"); err == nil {
		f.maxSystem = systemMax(text)
	}

	segment := f.attach(o)
	if segment != nil {
		defer segment.Close()
		f.first = make([]table.Record, segment.Len())
		segment.Read(f.first)
	}
	f.readSemaphore(&f.sem)
	first := time.Now()

	f.findRemoved()
	f.lookAtProcesses(o.Ignore)
	if segment != nil || len(f.removed) > 0 {
		f.ask(ctx, o, segment)
	}

	if err := sleep(ctx, time.Until(first.Add(o.Between))); err != nil {
		return facts{}, err
	}
	if segment != nil {
		f.second = make([]table.Record, segment.Len())
		segment.Read(f.second)
		f.after, _ = segment.Stat()
	}
	before := f.sem.ID
	f.readSemaphore(&f.semNext)
	f.semKept = f.semErr == nil && before == f.semNext.ID
	f.nameUsers()
	return f, ctx.Err()
}

// attach is nil where the table cannot be read.
func (f *facts) attach(o Options) *table.Segment {
	id, err := table.Lookup(o.Key)
	if err == nil {
		if f.stat, err = table.StatID(id); err == nil {
			f.hasStat = true
			var segment *table.Segment
			if segment, err = table.Attach(id, o.Key, o.Records, true); err == nil {
				f.attached, _ = segment.Stat()
				return segment
			}
		}
	}
	f.segmentErr = err
	return nil
}

func (f *facts) readSemaphore(to *table.SemState) {
	sem, err := table.OpenSemaphore(f.semKey)
	if err == nil {
		*to, err = sem.State()
	}
	f.semErr = err
}

// findRemoved looks for removed segments of the table's size.
func (f *facts) findRemoved() {
	text, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		f.limit("removed segments", err)
		return
	}
	for _, r := range parseShm(text) {
		if r.size == f.records*table.RecordSize {
			f.removed = append(f.removed, r)
		}
	}
}

func (f *facts) limit(what string, err error) {
	f.limits = append(f.limits, fmt.Sprintf("%s: %v", what, err))
}

// lookAtProcesses opens every process that there is, and every one that a record names.
func (f *facts) lookAtProcesses(ignore []int32) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		f.limit("processes", err)
	}
	for _, r := range f.first {
		if r.PID != 0 {
			f.look(r.PID)
		}
	}
	for _, e := range entries {
		pid, err := strconv.ParseInt(e.Name(), 10, 32)
		if err != nil || pid <= 0 || slices.Contains(ignore, int32(pid)) {
			continue
		}
		if len(f.processes) >= maxProcesses {
			f.limit("processes", fmt.Errorf("there are more than %d", maxProcesses))
			return
		}
		f.look(int32(pid))
	}
}

func (f *facts) look(pid int32) {
	if _, ok := f.processes[pid]; ok {
		return
	}
	p, err := process.Open(pid)
	if err != nil {
		f.processes[pid] = proc{openErr: err}
		return
	}
	defer p.Close()
	look, err := p.Look()
	f.processes[pid] = proc{Facts: p.Facts, look: look, openErr: err}
}

// question is one about the mappings of a process.
type question struct {
	pid     int32
	segment int
}

// ask has the mappings read by a helper process, because reading them can block on a stuck one: whether those that a
// record names have the table mapped, and, as root, who else maps it and who still maps a removed one.
func (f *facts) ask(ctx context.Context, o Options, segment *table.Segment) {
	var questions []question
	named := map[int32]bool{}
	for _, r := range f.first {
		named[r.PID] = true
	}
	pids := slices.Sorted(maps.Keys(f.processes))
	others := os.Geteuid() == 0
	if !others {
		f.limit("processes that map the table without a record", errors.New("takes root"))
	}
	if segment != nil {
		for _, pid := range pids {
			if f.processes[pid].openErr == nil && (named[pid] || others) {
				questions = append(questions, question{pid, segment.ID()})
			}
		}
	}
	for _, r := range f.removed {
		for _, pid := range pids {
			if f.processes[pid].openErr == nil && others {
				questions = append(questions, question{pid, r.id})
			}
		}
	}

	answers, err := askAll(ctx, o.Key, questions)
	if err != nil {
		f.limit("mappings of processes", err)
	}
	for q, a := range answers {
		switch {
		case segment == nil || q.segment != segment.ID():
			if a.Consent == process.ConsentProven {
				f.holders[q.segment] = append(f.holders[q.segment], q.pid)
			}
		case named[q.pid]:
			p := f.processes[q.pid]
			p.consent, p.asked = a.Consent, a.Err
			f.processes[q.pid] = p
		case a.Consent == process.ConsentProven && !slices.Contains(o.Ignore, q.pid):
			f.mapping = append(f.mapping, q.pid)
		}
	}
	slices.Sort(f.mapping)
	for _, pids := range f.holders {
		slices.Sort(pids)
	}
}

// askAll puts the questions in portions that fit the queue of a Reader, and gives up after askTime; the answers that
// came until then are good.
func askAll(ctx context.Context, key uint32, questions []question) (map[question]process.ConsentAnswer, error) {
	out := make(map[question]process.ConsentAnswer, len(questions))
	if len(questions) == 0 {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answers := make(chan process.ConsentAnswer, maxQuestions)
	reader := process.NewReader(func(a process.ConsentAnswer) {
		select {
		case answers <- a:
		case <-ctx.Done():
		}
	})
	defer func() {
		cancel() // Close waits for an answer that is being handed over
		_ = reader.Close()
	}()
	round := func(questions []question) error {
		for portion := range slices.Chunk(questions, maxQuestions) {
			for _, q := range portion {
				reader.Ask(q.pid, key, q.segment, 0)
			}
			for range portion {
				select {
				case a := <-answers:
					out[question{a.PID, a.SegmentID}] = a
				case <-ctx.Done():
					return fmt.Errorf("%d of %d were read within %v", len(out), len(questions), askTime)
				}
			}
		}
		return nil
	}
	if err := round(questions); err != nil {
		return out, err
	}
	// A busy machine makes an answer late; a missing right stays missing.
	again := slices.DeleteFunc(slices.Clone(questions), func(q question) bool {
		a := out[q]
		return a.Consent != process.ConsentUnknown || denied(a.Err)
	})
	return out, round(again)
}

func (f *facts) nameUsers() {
	uids := []uint32{f.stat.UID, f.stat.CUID, f.sem.UID, f.sem.CUID}
	for _, uid := range uids {
		if _, ok := f.users[uid]; ok {
			continue
		}
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			f.users[uid] = u.Username
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// denied: it is there, and this user may not read it.
func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }
