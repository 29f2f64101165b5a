package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	core "github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// TestFigureScan measures one scan by itself, hot: all records are read, all of them have beaten, all are judged. It is
// compared with one pass of the old guard as it is run, a process each time, and with a hot one of many in one process.
func TestFigureScan(t *testing.T) {
	if outside(t) {
		return
	}
	old := nstest.CC(t, "../../table/testdata/oldguard.c")
	startCrowd(t, clients, 30, 0, 0)
	seg := attach(t)
	records := make([]table.Record, seg.Len())
	seg.Read(records)

	cfg := config.Default()
	g := core.New(&cfg)
	now := 100 * time.Second
	answer := func(first ...core.Observation) {
		for todo := first; len(todo) > 0; {
			decisions := g.Step(now, todo...)
			todo = nil
			for _, d := range decisions {
				switch x := d.(type) {
				case core.Identify:
					todo = append(todo, core.Identified{Target: x.Target, PID: x.PID})
				case core.AskConsent:
					todo = append(todo, core.Consented{Target: x.Target, Consent: core.ConsentProven})
				}
			}
		}
	}
	id := core.TableID(seg.ID())
	scan := &core.Scan{Table: id, Records: records}
	answer(core.Acting{Acts: true}, core.TableAttached{Table: id, Slots: len(records)}, scan)
	now += time.Second
	answer(scan)
	if n := g.Tally(); n.Guarded != clients {
		t.Fatalf("%d of %d guarded", n.Guarded, clients)
	}
	seen := make([]core.Observation, 1)

	var oldRun, oldPass, whole, read []time.Duration
	for range 7 {
		for range 20 {
			oldRun = append(oldRun, oldPasses(t, old, 1))
		}
		oldPass = append(oldPass, oldPasses(t, old, 100))
		whole = append(whole, each(t, func() {
			seg.Read(records)
			for i := range records {
				records[i].Token += now.Nanoseconds()
			}
			if now = g.Next(); g.ScanDue(now) { // in time: a late wake has more to do
				g.ScanDone(now)
			}
			seen[0] = scan
			if d := g.Step(now, seen...); len(d) != 0 {
				t.Fatalf("%d decisions", len(d))
			}
		}))
		read = append(read, each(t, func() { seg.Read(records) }))
	}
	a, b := median(oldRun), median(whole)
	row(t, "CPU of a scan of 1000 healthy records that have all beaten, to a pass of the old guard, which is a process each time",
		fmt.Sprintf("%s (of it reading %s) to %s: 1/%.0f", short(b), short(median(read)), short(a), float64(a)/float64(b)), "1/100", b*100 <= a)
	a = median(oldPass)
	note(t, "… to the loop of that process alone, 100 times", fmt.Sprintf("%s: 1/%.0f", short(a), float64(a)/float64(b)))
}

// each is the CPU time of one call of many: the wall clock would count what else the machine does.
func each(t *testing.T, f func()) time.Duration {
	t.Helper()
	const times = 20000
	begin := cpu(t, os.Getpid())
	for range times {
		f()
	}
	return (cpu(t, os.Getpid()) - begin) / times
}

// oldPasses is the CPU time of a process that makes n passes, by n; of 100, without its start and end.
func oldPasses(t *testing.T, program string, n int) time.Duration {
	t.Helper()
	cmd := exec.Command(program, "--pass-only", strconv.Itoa(n))
	cmd.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("old guard: %v", err)
	}
	if n == 1 {
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	f := strings.Fields(string(out)) // passes N wall NS cpu NS …
	ns, err := strconv.ParseInt(f[5], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns) / time.Duration(n)
}
