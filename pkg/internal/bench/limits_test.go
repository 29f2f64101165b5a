package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFigureLimits measures what sampling 1000 clients once in 10 s costs: the daemon with limits of memory, processor
// time and descriptors, less the same daemon without, in turns.
func TestFigureLimits(t *testing.T) {
	if outside(t) {
		return
	}
	const limits = `
[[rule]]
[[rule.limit]]
of = "memory"
above = "100GiB"
action = "report"
[[rule.limit]]
of = "cpu"
above = "400%"
action = "report"
[[rule.limit]]
of = "descriptors"
above = 100000
action = "report"
`
	where := dir(t)
	g := startGuard(t, where, "")
	startCrowd(t, clients, 30, time.Second, 0)
	g.awaitEvents(t, "registered", clients)
	conf := filepath.Join(where, "checkprocd.toml")
	without, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	reloads := 0
	measure := func(text string) float64 {
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads++
		g.awaitEvents(t, "reloaded", reloads)
		time.Sleep(2 * time.Second)
		begin, was := time.Now(), cpu(t, g.pid)
		time.Sleep(20 * time.Second) // each is sampled twice
		return 100 * float64(cpu(t, g.pid)-was) / float64(time.Since(begin))
	}
	var costs []int64 // millionths of a percent
	for range 3 {
		before := measure(string(without))
		costs = append(costs, int64(1e6*(measure(string(without)+limits)-before)))
	}
	cost := float64(median(costs)) / 1e6
	row(t, "CPU for sampling memory, processor time and descriptors of 1000 clients, each once in 10s", fmt.Sprintf("%.4f %% of a core", cost), "0.2 %", cost <= 0.2)
}
