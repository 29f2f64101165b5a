package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// reloads is how often TestReloadUnderLoad reloads; `make soak` asks for more.
func reloads(t *testing.T) int {
	text := os.Getenv("SOAK_RELOADS")
	if text == "" {
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SOAK_RELOADS: %v", err)
	}
	return n
}

// TestReloadUnderLoad reloads again and again, good and faulty configurations, while the files that rules watch change in
// all ways, clients come and go, and some hang: no registration is lost, nobody healthy is touched, whoever hangs is
// ended.
func TestReloadUnderLoad(t *testing.T) {
	if namespaces(t) {
		return
	}
	const healthy = 30
	c := testConfig(t)
	dir := filepath.Join(c.RuntimeDir, "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.Rules = []config.Rule{{Match: config.Match{Name: "well*"}, Watch: config.Watch{Files: []string{filepath.Join(dir, "*.conf")}, Settle: 100 * time.Millisecond, Blame: time.Second}}}
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	var well []*client
	for i := range healthy {
		well = append(well, run(t, fmt.Sprintf("--name well%d --timeout 20 --beat 200", i)))
	}
	for _, w := range well {
		g.await(want{event: guard.EvRegistered, pid: w.pid})
	}

	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { // the files change all the time
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(600)) * time.Millisecond):
			}
			name := filepath.Join(dir, fmt.Sprintf("%d.conf", i%4))
			text := fmt.Appendf(nil, "%d\n", rand.IntN(5))
			switch i % 3 {
			case 0:
				_ = os.WriteFile(name, text, 0o644)
			case 1:
				_ = os.WriteFile(name+".new", text, 0o644)
				_ = os.Rename(name+".new", name)
			case 2:
				_ = os.Remove(name)
			}
		}
	})
	cl := g.dial()
	other := []config.Rule{{Match: config.Match{Name: "other"}, Action: config.ActionReport}}
	rules := [][]config.Rule{9: nil, 6: {{Match: config.Match{Name: "well*"}, Timeout: 30 * time.Second}}}
	for i := range rules { // the others watch the files, by the same rule at one place or another
		if i != 9 && i != 6 {
			rules[i] = append(other[:i%2:i%2], c.Rules...)
		}
	}
	total := reloads(t)
	rejections := 0
	sure := ""
	for i := range total {
		switch i % 10 {
		case 4: // this one changes under the reloads that follow, which keep the rule that watches it
			sure = fmt.Sprintf("sure%d.conf", i)
			if err := os.WriteFile(filepath.Join(dir, sure), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		case 6: // the rule is about to go
			g.await(want{event: evConfigChanged, text: sure})
		}
		if i%7 == 3 {
			if err := os.WriteFile(g.path, []byte("interval = 1\n[[rule]\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			var rejected *control.Rejected
			if _, err := cl.Reload(t.Context()); !errors.As(err, &rejected) {
				t.Fatalf("reload %d of a faulty configuration: %v", i, err)
			}
			rejections++
			continue
		}
		next := c
		next.Interval = time.Duration(50+10*(i%6)) * time.Millisecond
		next.Rules = rules[i%len(rules)]
		next.Ladder.MaxConcurrent = 1 + i%5
		if i%4 == 1 {
			next.Protect.Names = []string{"nobody*"}
		}
		g.write(next)
		said, err := cl.Diff(t.Context(), control.DiffRequest{})
		if err != nil {
			t.Fatal(err)
		}
		done, err := cl.Reload(t.Context())
		if err != nil || len(said.Changed) != len(done.Changed) {
			t.Fatalf("reload %d: %v; said %q, done %q", i, err, said.Changed, done.Changed)
		}
		if i%10 == 5 { // one that hangs, under any of them
			hung := run(t, "--name hung --timeout 1 --beat 0 --term-exit")
			t.Cleanup(func() { hung.endsBy(0) })
		}
		s, err := cl.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the daemon scans", func() bool {
			now, err := cl.Status(t.Context())
			return err == nil && now.Scan.Count > s.Scan.Count
		})
	}
	close(stop)
	all.Wait()

	g.write(c)
	if _, err := cl.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all who hung are gone, all others guarded", func() bool {
		s, err := cl.Status(t.Context())
		return err == nil && s.Targets.Total == healthy && s.Targets.Guarded == healthy
	})
	g.untouched(well...)
	for _, w := range well {
		if n := len(g.find(want{event: guard.EvRegistered, pid: w.pid})); n != 1 {
			t.Errorf("%s registered %d times", w.name, n)
		}
	}
	g.none(want{event: guard.EvUnguarded}, want{event: guard.EvUnregistered, text: "well"}, want{event: guard.EvLate, text: "well"})
	if n := len(g.find(want{event: evConfigRejected})); n != rejections {
		t.Errorf("%d rejections are reported, %d were", n, rejections)
	}
	// The rule that stands at the end still sees its files.
	if err := os.WriteFile(filepath.Join(dir, "last.conf"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.await(want{event: evConfigChanged, text: "last.conf"})
	t.Logf("%d reloads, %d of them rejected, %d changes of files", total, rejections, len(g.find(want{event: evConfigChanged})))
}
