package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestLeaks: processes that beat and grow, each in its way. Of each kind one grows to just below its limit and is left
// alone, one grows past it and is reported, and one grows past it and is ended.
func TestLeaks(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Sample = time.Second
	c.Brake.Enabled = false // it would end them one by one
	program := clientProgram(t)
	leaks := []struct {
		kind        string
		below, past string // what it grows by, and to
		limit       config.Limit
		value       func(process.Sample) float64
	}{
		{"memory", "--leak-by 4096 --leak-to 50000", "--leak-by 4096 --leak-to 80000", config.Limit{Of: config.Memory, Above: 64 << 20},
			func(s process.Sample) float64 { return float64(s.Memory) }},
		{"descriptors", "--leak-by 20 --leak-to 80", "--leak-by 20 --leak-to 93", config.Limit{Of: config.Descriptors, Above: 90, Share: true},
			func(s process.Sample) float64 { return 100 * float64(s.Descriptors) / float64(s.OpenLimit) }},
		{"threads", "--leak-by 3 --leak-to 18", "--leak-by 3 --leak-to 24", config.Limit{Of: config.Threads, Above: 20}, func(s process.Sample) float64 { return float64(s.Threads) }},
		{"children", "--leak-by 3 --leak-to 18", "--leak-by 3 --leak-to 24", config.Limit{Of: config.Children, Above: 20}, func(s process.Sample) float64 { return float64(s.Children) }},
		{"cpu", "--leak-by 1", "--leak-by 60", config.Limit{Of: config.CPU, Above: 6}, nil}, // other tests leave it so much
	}
	for _, x := range leaks {
		x.limit.For = 2 * time.Second
		for _, end := range []config.LimitAction{config.LimitReport, config.LimitLadder} {
			x.limit.Action = end
			name := x.kind + "-end"
			if end == config.LimitReport {
				name = x.kind + "-report"
			}
			c.Rules = append(c.Rules, config.Rule{Match: config.Match{Name: name}, Limits: []config.Limit{x.limit}})
		}
		c.Rules = append(c.Rules, config.Rule{Match: config.Match{Name: x.kind + "-below"}, Limits: []config.Limit{x.limit}})
	}
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	begin := func(name, kind, how string) *client {
		args := strings.Fields(fmt.Sprintf("--name %s --timeout 600 --beat 100 --leak %s %s", name, kind, how))
		return spawn(t, "/bin/sh", append([]string{"-c", "ulimit -S -n 100; exec \"$@\"", "sh", program}, args...)).ready()
	}
	var below, report, end []*client
	for _, x := range leaks {
		below = append(below, begin(x.kind+"-below", x.kind, x.below))
		report = append(report, begin(x.kind+"-report", x.kind, x.past))
		end = append(end, begin(x.kind+"-end", x.kind, x.past))
	}
	for i, x := range leaks {
		g.await(want{event: guard.EvLimit, pid: report[i].pid, text: "its limit says report"})
		g.await(want{event: guard.EvLimit, pid: end[i].pid, text: "ending it"})
		g.await(want{event: guard.EvCondemned, pid: end[i].pid, text: x.limit.Of.String() + " "})
		g.await(want{event: guard.EvKilled, pid: end[i].pid})
	}
	for i, x := range leaks {
		if !report[i].alive() || !below[i].alive() {
			t.Errorf("%s: one was ended that may live", x.kind)
		}
		if x.value == nil {
			continue
		}
		p, err := process.Open(below[i].pid)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Sample(process.WantMemory | process.WantDescriptors | process.WantOpenLimit | process.WantThreads | process.WantChildren)
		if got := x.value(s); err != nil || got < 0.75*x.limit.Above || got > x.limit.Above {
			t.Errorf("%s: just below %v, it is %v, %v", x.kind, x.limit.Above, got, err)
		}
		_ = p.Close()
	}
	for _, x := range below {
		if said := g.find(want{event: guard.EvLimit, pid: x.pid}); len(said) > 0 {
			t.Errorf("below its limit: %v", said)
		}
	}
	if t.Failed() {
		t.Log(g.print())
	}
}
