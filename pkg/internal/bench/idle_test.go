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

	// Ten seconds after the last has come the heap is tidied up, once for so many: it is no part of idling, and is
	// measured by itself.
	const settling = 12 * time.Second
	came := cpu(t, g.pid)
	time.Sleep(settling)
	note(t, fmt.Sprintf("CPU of the daemon in the %s in which it tidies up its heap, once, after 1000 clients have come", settling), short(cpu(t, g.pid)-came))

	const stretch = 24 * time.Second
	begin := time.Now()
	was, helperWas := cpu(t, g.pid), cpu(t, helper)
	time.Sleep(stretch)
	share := func(used time.Duration) float64 { return 100 * float64(used) / float64(time.Since(begin)) }
	ours, helpers := share(cpu(t, g.pid)-was), share(cpu(t, helper)-helperWas)
	row(t, "CPU of the daemon, 1000 live clients, interval 1s", fmt.Sprintf("%.4f %% of a core", ours), "0.1 %", ours <= 0.1)
	note(t, "CPU of its helper process meanwhile", fmt.Sprintf("%.4f %% of a core", helpers))

	// The first passes make the daemon look closer: an old guard beside it is to be named.
	const rounds, passes, scans = 7, 15, 5
	var oldPass, ourScan []time.Duration
	for range rounds {
		for range passes {
			cmd := exec.Command(old, "--pass-only")
			cmd.Env = append(os.Environ(), "CHECKPROCD_TEST_NAMESPACE=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("old guard: %v\n%s", err, out)
			}
			oldPass = append(oldPass, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
		was := cpu(t, g.pid)
		time.Sleep(scans * time.Second)
		ourScan = append(ourScan, (cpu(t, g.pid)-was)/scans)
	}
	a, b := median(oldPass), median(ourScan)
	note(t, "CPU of a pass of the old guard over 1000 healthy records, with its process", short(a))
	note(t, "CPU of the daemon for each of its scans, in turns with that: two wake-ups, registry, runtime, all", fmt.Sprintf("%s, 1/%.1f", short(b), float64(a)/float64(b)))

	rss := memory(t, g.pid, "status", "VmRSS")
	row(t, "resident memory of the daemon, 1000 live clients", mib(rss)+", of it "+mib(memory(t, g.pid, "status", "RssAnon"))+" anonymous; proportional "+mib(memory(t, g.pid, "smaps_rollup", "Pss")), "12 MiB", rss <= 12<<10)
	rss = memory(t, helper, "status", "VmRSS")
	note(t, "resident memory of its helper process", mib(rss)+", of it "+mib(memory(t, helper, "status", "RssAnon"))+" anonymous; proportional "+mib(memory(t, helper, "smaps_rollup", "Pss")))
}

func mib(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
