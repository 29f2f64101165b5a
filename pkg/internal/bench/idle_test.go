package bench

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// clients of a full table.
const clients = 1000

// TestFigureIdle measures what guarding 1000 live clients costs, at the default interval, beside the guard that
// checkprocd replaces: a process for each pass, one kill(pid, 0) for each record. Both look at the same clients, in
// turns.
func TestFigureIdle(t *testing.T) {
	if outside(t) {
		return
	}
	old := nstest.CC(t, "../../table/testdata/oldguard.c")
	g := startGuard(t, dir(t), "")
	startCrowd(t, clients, 30, time.Second, 0)
	g.awaitEvents(t, "registered", clients)
	time.Sleep(3 * time.Second)
	helper := g.helper(t)

	const rounds, passes, stretch = 5, 21, 6 * time.Second
	var oldPass, ourScan []time.Duration
	var total, helperTotal, wall time.Duration
	for range rounds {
		for range passes {
			cmd := exec.Command(old, "--pass-only")
			cmd.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("old guard: %v\n%s", err, out)
			}
			oldPass = append(oldPass, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
		begin := time.Now()
		was, helperWas := cpu(t, g.pid), cpu(t, helper)
		time.Sleep(stretch)
		used, helperUsed, took := cpu(t, g.pid)-was, cpu(t, helper)-helperWas, time.Since(begin)
		scans := time.Duration(stretch / time.Second)
		ourScan = append(ourScan, used/scans)
		total, helperTotal, wall = total+used, helperTotal+helperUsed, wall+took
	}
	a, b := median(oldPass), median(ourScan)
	note(t, "CPU of a pass of the old guard over 1000 healthy records", short(a))
	note(t, "CPU of the daemon for each scan of them, all of it (two wake-ups, registry, runtime)", fmt.Sprintf("%s, 1/%.0f", short(b), float64(a)/float64(b)))
	share := 100 * float64(total) / float64(wall)
	row(t, "CPU of the daemon, 1000 live clients, interval 1s", fmt.Sprintf("%.4f %% of a core", share), "0.1 %", share <= 0.1)
	note(t, "CPU of its helper process meanwhile", fmt.Sprintf("%.4f %% of a core", 100*float64(helperTotal)/float64(wall)))

	rss := memory(t, g.pid, "status", "VmRSS")
	row(t, "resident memory of the daemon, 1000 live clients", mib(rss)+", of it "+mib(memory(t, g.pid, "status", "RssAnon"))+" anonymous; proportional "+mib(memory(t, g.pid, "smaps_rollup", "Pss")), "12 MiB", rss <= 12<<10)
	rss = memory(t, helper, "status", "VmRSS")
	note(t, "resident memory of its helper process", mib(rss)+", of it "+mib(memory(t, helper, "status", "RssAnon"))+" anonymous; proportional "+mib(memory(t, helper, "smaps_rollup", "Pss")))
}

func mib(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
