package daemon

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
	"github.com/checkprocd/checkprocd/pkg/watch"
)

// TestChangeUnderRestart changes a watched file while no guard runs, and while one only observes: the next one that acts
// finds it, and none finds it twice.
func TestChangeUnderRestart(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	file := filepath.Join(c.RuntimeDir, "a.conf")
	write := func(text string) { t.Helper(); replace(t, file, text) }
	c.Rules = []config.Rule{{Match: config.Match{Name: "x"}, Watch: config.Watch{Files: []string{file}, Settle: 100 * time.Millisecond, Blame: time.Second}}}
	memory := filepath.Join(c.RuntimeDir, "watched")
	begins := func(changes int) *guardian {
		t.Helper()
		g := launch(t, c)
		g.await(only(guard.EvActing))
		if changes > 0 {
			g.awaitNth(only(evConfigChanged), changes)
		}
		settle(500 * time.Millisecond)
		if n := len(g.find(only(evConfigChanged))); n != changes {
			t.Errorf("%d changes, want %d", n, changes)
		}
		eventually(t, "it is remembered", func() bool { _, err := os.Stat(memory); return err == nil })
		return g
	}
	write("1")
	begins(0).kill()
	begins(0).kill()
	write("2")
	begins(1).kill()
	begins(0).kill()
	// What is remembered is damaged: what is there counts.
	if err := os.WriteFile(memory, []byte(`{"x": [`), 0o600); err != nil {
		t.Fatal(err)
	}
	write("3")
	g := begins(0)
	g.await(want{event: evDegraded, reason: "watched"})
	g.kill()
	// A guard that acts not remembers nothing as done.
	observer := embed(t, c, func(o *Options) { o.Observe = true })
	observer.await(only(guard.EvObserving))
	write("4")
	observer.await(want{event: evConfigChanged, text: "not acting"})
	observer.stop()
	begins(1).stop()
}

// TestStand: a rule that is for others by now keeps what is known of its files, one that names others does not, and none
// takes it from one that stands.
func TestStand(t *testing.T) {
	w := &watched{all: map[string]*watchedRule{}}
	a, b := []string{"/a", "/b"}, []string{"/b"}
	sums := map[string]watch.Sum{"/a": {1}}
	w.stand(map[string][]string{"x a": a})
	w.learn("x a", "x.service", "x", "u")
	if u := w.units("x a")["x.service"]; u.User != "u" || w.learn("x a", "x.service", "x", "u") {
		t.Errorf("%+v", u)
	}
	// One that an earlier version has written is without a user until its process is seen again.
	w.all["x a"].Units["x.service"].User = ""
	if news := w.learn("x a", "x.service", "x", "v"); !news || w.units("x a")["x.service"].User != "v" || len(w.units("x a")["x.service"].Names) != 1 {
		t.Errorf("%+v", w.units("x a"))
	}
	w.keep("x a", sums)
	for key, named := range map[string][]string{"z a": a, "x b": b} {
		w.stand(map[string][]string{"x a": a, key: named})
		if got := w.known(key); got != nil {
			t.Errorf("%s: %v", key, got)
		}
	}
	w.stand(map[string][]string{"y a": a, "x b": b})
	if got := w.known("y a"); !maps.Equal(got, sums) || len(w.units("y a")) != 0 {
		t.Errorf("%v, %v", got, w.units("y a"))
	}
	if got := w.known("x b"); got != nil {
		t.Errorf("%v", got)
	}
	w.stand(map[string][]string{})
	if len(w.all) != 0 {
		t.Errorf("%v", w.all)
	}
}

// TestWatchedCopy: what is written is what was known, whatever is learned meanwhile.
func TestWatchedCopy(t *testing.T) {
	w := &watched{path: filepath.Join(t.TempDir(), "watched"), all: map[string]*watchedRule{}}
	w.stand(map[string][]string{"x a": {"/a"}})
	w.learn("x a", "x.service", "x", "u")
	w.keep("x a", map[string]watch.Sum{"/a": {1}})
	copied := w.copy()
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := range 1000 {
			w.learn("x a", fmt.Sprintf("x%d.service", i%20), fmt.Sprint(i), "u")
			w.took("x a", "x.service", unsure)
			w.keep("x a", map[string]watch.Sum{"/a": {2}, "/b": {3}})
			w.forget("x a", "x.service")
		}
	})
	for range 20 {
		if err := w.save(); err != nil {
			t.Error(err)
		}
	}
	wait.Wait()
	x := copied["x a"]
	if len(x.Units) != 1 || x.Units["x.service"].Took != "" || len(x.Units["x.service"].Names) != 1 || len(x.Files) != 1 {
		t.Errorf("%+v", x)
	}
	again := &watched{path: w.path, all: map[string]*watchedRule{}}
	if err := again.load(); err != nil || len(again.all) != 1 {
		t.Errorf("%v, %v", again.all, err)
	}
}

func only(name guard.EventName) want { return want{event: name} }

func TestFailedSince(t *testing.T) {
	for _, tt := range []struct {
		now  systemd.UnitState
		want string
	}{
		{systemd.UnitState{Active: "active", Sub: "running", Restarts: 2}, ""},
		{systemd.UnitState{Active: "active", Sub: "running", Restarts: 3}, "systemd has restarted it"},
		{systemd.UnitState{Active: "active", Sub: "running"}, ""}, // started anew by an operator
		{systemd.UnitState{Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code", ExitCode: 1, ExitStatus: 3}, "it failed: exit status 3"},
		{systemd.UnitState{Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code", ExitCode: 1, ExitStatus: 143, Left: 8, Ended: 9}, ""}, // stopped, and it says so
		{systemd.UnitState{Active: "activating", Sub: "auto-restart", Result: "signal", ExitCode: 2, ExitStatus: 11}, "systemd restarts it: killed by SIGSEGV"},
		{systemd.UnitState{Active: "inactive", Sub: "dead", Result: "success"}, ""}, // stopped in order
		{systemd.UnitState{Active: "reloading", Sub: "reload", Restarts: 2}, ""},
	} {
		if got := failedSince(2, tt.now); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.now, got, tt.want)
		}
	}
}
