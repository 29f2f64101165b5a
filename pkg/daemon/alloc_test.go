package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestTickDoesNotAllocate turns the loop by hand over a full table: 1000 processes, half of which beat between two looks.
func TestTickDoesNotAllocate(t *testing.T) {
	if namespaces(t) {
		return
	}
	const n = 1000
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := testConfig(t)
	c.Log.Level = "error"
	d, err := start(Options{Config: c, Version: "test", Stderr: null})
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop()
	d.openRegistry()
	defer d.wind()
	d.makeReady()
	d.turn(process.Now(), nil)
	crowd := spawn(t, memberProgram(t), []string{"--crowd", strconv.Itoa(n), "600"}).ready()
	m := mapTable(t)
	eventually(t, "all are guarded", func() bool {
		d.turn(process.Now(), nil)
		return d.guard.Tally().Guarded == n
	})

	now := process.Now()
	turn := func() {
		for slot := 0; slot < n; slot += 2 {
			m.beat(slot)
		}
		now = max(now, d.turn(now, nil))
	}
	for range 30 { // buffers grow to their size, the registry to its
		turn()
	}
	scans, saved := d.scan.count, d.saved.at
	if a := testing.AllocsPerRun(100, turn); a != 0 {
		t.Errorf("a turn makes %v allocations", a)
	}
	if d.scan.count-scans < 100 || d.saved.at-saved < 5*time.Second || d.saved.error != "" {
		t.Errorf("%d scans, saved after %v, %q: not what was to be measured", d.scan.count-scans, d.saved.at-saved, d.saved.error)
	}
	if g := d.guard.Tally().Guarded; g != n || !crowd.alive() {
		t.Errorf("%d of %d are guarded", g, n)
	}
}

// TestDescriptors: clients come and go, and the daemon's descriptors with them.
func TestDescriptors(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := launch(t, testConfig(t))
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	first := run(t, "--name first --timeout 600 --beat 200") // starts the helper
	g.await(want{event: guard.EvRegistered, pid: first.pid})
	g.scans(1)
	count := func() int {
		list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.pid()))
		return len(list)
	}
	before := count()
	for round := range 3 {
		var all []*client
		for range 40 {
			all = append(all, run(t, "--name client --timeout 600 --beat 200 --term-exit"))
		}
		for _, c := range all {
			g.await(want{event: guard.EvRegistered, pid: c.pid})
		}
		if now := count(); now < before+len(all) {
			t.Errorf("%d descriptors with %d clients, %d before: no pidfds?", now, len(all), before)
		}
		for i, c := range all {
			if i%2 == 0 {
				_ = c.cmd.Process.Kill()
			} else {
				c.signal(os.Interrupt)
			}
			c.end()
		}
		// Ended targets are kept until it is known whether they were reaped.
		eventually(t, fmt.Sprintf("round %d: %d descriptors again", round, before), func() bool { return count() <= before })
	}
	g.untouched(first)
}
