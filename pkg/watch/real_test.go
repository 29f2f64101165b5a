package watch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = 60 * time.Second
	settle   = 60 * time.Millisecond
)

// rig watches real files.
type rig struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	changes  []Change
	troubles []string
	inForce  []map[string]Sum
	refuse   bool // what Changed answers
	stalled  int  // changes that a machine which stood still has made of what is none
	again    time.Duration
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// start watches patterns below the directory of the rig, with inotify or without.
func start(t *testing.T, inotify bool, dir string, patterns ...string) *rig {
	t.Helper()
	return startKnowing(t, inotify, dir, nil, patterns...)
}

// startKnowing is start with what was in force before.
func startKnowing(t *testing.T, inotify bool, dir string, known map[string]Sum, patterns ...string) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir}
	spec := Spec{Settle: settle, Known: known}
	for _, p := range patterns {
		spec.Files = append(spec.Files, r.path(p))
	}
	w := &Watcher{begin: time.Now(), looks: map[string]chan struct{}{}, slots: make(chan struct{}, maxLooks)}
	if inotify {
		var err error
		if w, err = New(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	began := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(done)
		w.run(ctx, spec, Handlers{
			Changed: func(c Change) Answer {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.changes = append(r.changes, c)
				return Answer{InForce: !r.refuse, Again: r.again}
			},
			InForce: func(sums map[string]Sum) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.inForce = append(r.inForce, sums)
			},
			Trouble: func(text string) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.troubles = append(r.troubles, text)
			},
		}, func() { once.Do(func() { close(began) }) })
	}()
	t.Cleanup(func() { cancel(); <-done; w.Close() })
	<-began
	return r
}

func (r *rig) await(n int) Change {
	r.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		got := slices.Clone(r.changes)
		r.mu.Unlock()
		if len(got) >= n {
			return got[n-1]
		}
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: change %d; there are %+v", patience, n, got)
		}
	}
}

// count waits for what should not come, and counts the changes.
func (r *rig) count() int {
	time.Sleep(6 * settle)
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.changes)
}

// write gives a file its text in one step: an empty file in between is a change of its own where the machine stands still
// for the time to settle just then. What is as long as before is written in place.
func (r *rig) write(name, text string) {
	r.t.Helper()
	if st, err := os.Stat(r.path(name)); err == nil && st.Size() == int64(len(text)) {
		f, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	whole := filepath.Join(r.t.TempDir(), "whole")
	if err := os.WriteFile(whole, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(whole, r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// rewrite is what most programs do: the file is empty, then it has its text.
func (r *rig) rewrite(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) rename(from, to string) {
	r.t.Helper()
	if err := os.Rename(r.path(from), r.path(to)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.RemoveAll(r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) link(target, name string) {
	r.t.Helper()
	if err := os.Symlink(target, r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mkdir(name string) {
	r.t.Helper()
	if err := os.MkdirAll(r.path(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// ways are how files get another content in life, each with what it is to be known by.
var ways = map[string]struct {
	pattern string
	prepare func(r *rig)
	do      func(r *rig)
	want    string // added, changed, removed
}{
	"truncate and write": {"a.conf", func(r *rig) { r.write("a.conf", "1") },
		func(r *rig) { r.rewrite("a.conf", "2") }, "[] [a.conf] []"},
	"in place": {"a.conf", func(r *rig) { r.write("a.conf", "1") },
		func(r *rig) { r.write("a.conf", "2") }, "[] [a.conf] []"},
	"rename over it": {"a.conf", func(r *rig) { r.write("a.conf", "1") },
		func(r *rig) { r.write(".a.conf.new", "2"); r.rename(".a.conf.new", "a.conf") }, "[] [a.conf] []"},
	"vim with a backup": {"*", func(r *rig) { r.write("a.conf", "1") }, func(r *rig) {
		r.write("4913", "")
		r.remove("4913")
		r.write(".a.conf.swp", "b0VIM")
		r.rename("a.conf", "a.conf~")
		r.write("a.conf", "2")
		r.remove("a.conf~")
		r.remove(".a.conf.swp")
	}, "[] [a.conf] []"},
	"sed -i": {"*", func(r *rig) { r.write("a.conf", "1") },
		func(r *rig) { r.write("sedAb3dE9", "2"); r.rename("sedAb3dE9", "a.conf") }, "[] [a.conf] []"},
	"emacs": {"*", func(r *rig) { r.write("a.conf", "1") }, func(r *rig) {
		r.link("user@host.1:2", ".#a.conf")
		r.write("#a.conf#", "2")
		r.rename("a.conf", "a.conf~")
		r.write("a.conf", "2")
		r.remove("#a.conf#")
		r.remove(".#a.conf")
	}, "[] [a.conf] []"},
	"unlinked and written anew": {"a.conf", func(r *rig) { r.write("a.conf", "1") }, func(r *rig) {
		r.remove("a.conf")
		time.Sleep(3 * settle) // long enough to be seen without it
		r.write("a.conf", "2")
	}, "[] [a.conf] []"},
	"kubernetes": {"a.conf", func(r *rig) {
		r.mkdir("..2026_1")
		r.write("..2026_1/a.conf", "1")
		r.link("..2026_1", "..data")
		r.link("..data/a.conf", "a.conf")
	}, func(r *rig) {
		r.mkdir("..2026_2")
		r.write("..2026_2/a.conf", "2")
		r.link("..2026_2", "..data_tmp")
		r.rename("..data_tmp", "..data")
		r.remove("..2026_1")
	}, "[] [a.conf] []"},
	"a link above it is swapped": {"current/etc/a.conf", func(r *rig) {
		for _, v := range []string{"1", "2"} {
			r.mkdir("v" + v + "/etc")
			r.write("v"+v+"/etc/a.conf", v)
		}
		r.link("v1", "current")
	}, func(r *rig) { r.link("v2", "next"); r.rename("next", "current") }, "[] [current/etc/a.conf] []"},
	"a link to a file elsewhere, written there": {"a.conf", func(r *rig) {
		r.mkdir("elsewhere")
		r.write("elsewhere/real", "1")
		r.link(r.path("elsewhere/real"), "a.conf")
	}, func(r *rig) { r.write("elsewhere/real", "2") }, "[] [a.conf] []"},
	"one more": {"*.conf", func(r *rig) { r.write("a.conf", "1") },
		func(r *rig) { r.write("b.conf", "1"); r.write("b.txt", "1") }, "[b.conf] [] []"},
	"one less": {"*.conf", func(r *rig) { r.write("a.conf", "1"); r.write("b.conf", "1") },
		func(r *rig) { r.remove("a.conf") }, "[] [] [a.conf]"},
	"the directory comes": {"x/y/*.conf", func(r *rig) {},
		func(r *rig) { r.mkdir("x/y"); r.write("x/y/a.conf", "1") }, "[x/y/a.conf] [] []"},
	"the directory is replaced": {"x/a.conf", func(r *rig) { r.mkdir("x"); r.write("x/a.conf", "1") }, func(r *rig) {
		r.mkdir("y")
		r.write("y/a.conf", "2")
		r.rename("x", "old")
		r.rename("y", "x")
	}, "[] [x/a.conf] []"},
	"same size and times": {"a.conf", func(r *rig) { r.write("a.conf", "1") }, func(r *rig) {
		st, err := os.Stat(r.path("a.conf"))
		if err != nil {
			r.t.Fatal(err)
		}
		r.write("a.conf", "2")
		if err := os.Chtimes(r.path("a.conf"), st.ModTime(), st.ModTime()); err != nil {
			r.t.Fatal(err)
		}
	}, "[] [a.conf] []"},
	"in many pieces": {"a.conf", func(r *rig) { r.write("a.conf", "1") }, func(r *rig) {
		f, err := os.Create(r.path("a.conf"))
		if err != nil {
			r.t.Fatal(err)
		}
		defer f.Close()
		for i := range 20 {
			fmt.Fprintln(f, i)
			time.Sleep(settle / 10)
		}
	}, "[] [a.conf] []"},
}

// TestWays changes files in each way, with inotify and without: one change is reported, by the right name.
func TestWays(t *testing.T) {
	for name, way := range ways {
		for _, inotify := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/inotify=%v", name, inotify), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				way.prepare(&rig{t: t, dir: dir})
				r := start(t, inotify, dir, way.pattern)
				way.do(r)
				// An explicit file that is gone for a while is no change; what is not done in one step may be two, on a machine
				// that stalls in the midst of it.
				c := r.await(1)
				if n := r.count(); n != 1 {
					if !slices.Contains([]string{"truncate and write", "sed -i", "vim with a backup", "emacs", "in many pieces"}, name) {
						t.Errorf("%d changes: %+v", n, r.changes)
					}
					return
				}
				got := strings.ReplaceAll(fmt.Sprint(c.Added, c.Changed, c.Removed), dir+"/", "")
				if got != way.want {
					t.Errorf("%s, want %s", got, way.want)
				}
			})
		}
	}
}

// TestNoChange does what looks like one and is none.
func TestNoChange(t *testing.T) {
	for name, do := range map[string]func(r *rig){
		"the same text":             func(r *rig) { r.write("a.conf", "1") },
		"the same by a rename":      func(r *rig) { r.write("new", "1"); r.rename("new", "a.conf") },
		"touched":                   func(r *rig) { now := time.Now(); _ = os.Chtimes(r.path("a.conf"), now, now) },
		"another mode":              func(r *rig) { _ = os.Chmod(r.path("a.conf"), 0o600) },
		"another file":              func(r *rig) { r.write("a.txt", "1") },
		"copies of editors":         func(r *rig) { r.write("a.conf~", "x"); r.write(".b.conf", "x"); r.write("a.conf.dpkg-new", "x") },
		"a directory that fits":     func(r *rig) { r.mkdir("d.conf") },
		"a link that leads nowhere": func(r *rig) { r.link("nowhere", "l.conf") },
		"there and back":            thereAndBack,
		"a FIFO": func(r *rig) {
			if err := unix.Mkfifo(r.path("f.conf"), 0o644); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := &rig{t: t, dir: dir}
			r.write("a.conf", "1")
			r = start(t, true, dir, "*.conf")
			do(r)
			n := r.count()
			if n != r.stalled {
				t.Errorf("%+v", r.changes)
			}
			// And it still sees what is one.
			r.write("a.conf", "3")
			r.await(n + 1)
		})
	}
}

// thereAndBack changes a file for less than the time to settle; where the machine stood still for longer, those are two
// changes.
func thereAndBack(r *rig) {
	begin := time.Now()
	r.write("a.conf", "2")
	r.write("a.conf", "1")
	if time.Since(begin) > settle {
		r.count()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.stalled = len(r.changes); r.stalled != 2 {
			r.stalled = 0
		}
	}
}

func TestMissing(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.write("a.conf", "1")
	r = start(t, true, dir, "a.conf", "sub/b.conf")
	said := func(want string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			r.mu.Lock()
			got := slices.Clone(r.troubles)
			r.mu.Unlock()
			if len(got) > 0 && strings.ReplaceAll(got[len(got)-1], dir+"/", "") == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("said %q, want %q", got, want)
			}
		}
	}
	said("sub/b.conf is not there; no change is taken before that is mended")
	r.write("a.conf", "2") // nothing is compared before all are there
	if n := r.count(); n != 0 {
		t.Errorf("%+v", r.changes)
	}
	r.mkdir("sub")
	r.write("sub/b.conf", "1")
	said("")
	r.write("a.conf", "3")
	r.await(1)
	r.remove("a.conf")
	said("a.conf is not there; no change is taken before that is mended")
	r.write("a.conf", "3")
	said("")
	if n := r.count(); n != 1 {
		t.Errorf("the same file came back, and is a change: %+v", r.changes)
	}
}

// TestRefused: what was not put in force is not asked about twice, and going back is told as such.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.write("a.conf", "1")
	r = start(t, true, dir, "a.conf")
	r.mu.Lock()
	r.refuse = true
	r.mu.Unlock()
	r.write("a.conf", "bad")
	if c := r.await(1); c.Content == SumOf(r.inForce[0]) {
		t.Errorf("%+v", c)
	}
	r.write("a.conf", "bad")
	if n := r.count(); n != 1 {
		t.Errorf("%+v", r.changes)
	}
	r.write("a.conf", "1")
	if c := r.await(2); c.Content != SumOf(r.inForce[0]) {
		t.Errorf("%+v", c)
	}
}

// TestAgain: a change that cannot be put in force yet is told again with what the files hold by then, and only until it is.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.write("a.conf", "1")
	r = start(t, true, dir, "a.conf")
	r.mu.Lock()
	r.refuse, r.again = true, settle
	r.mu.Unlock()
	r.write("a.conf", "2")
	first, again := r.await(1), r.await(3)
	if again.Content != first.Content || again.Written != first.Written || len(again.Files()) != 1 {
		t.Errorf("%+v, then %+v", first, again)
	}
	r.write("a.conf", "2") // that it was written is told also where it holds the same
	end := time.Now().Add(patience)
	for n := 4; ; n++ {
		if c := r.await(n); c.Content != first.Content {
			t.Fatalf("%+v, then %+v", first, c)
		} else if c.Written != first.Written {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is not told that it was written")
		}
	}
	r.write("a.conf", "3")
	end = time.Now().Add(patience)
	for n := 4; r.await(n).Content == first.Content; n++ {
		if time.Now().After(end) {
			t.Fatal("the newest content is not told")
		}
	}
	r.mu.Lock()
	r.refuse = false
	r.mu.Unlock()
	r.count()
	r.mu.Lock()
	n := len(r.changes)
	r.mu.Unlock()
	if again := r.count(); again != n {
		t.Errorf("told %d times after it was in force", again-n)
	}
}

// TestKnown begins with what was in force before: what has changed in between is found, what has not is no change.
func TestKnown(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.write("a.conf", "1")
	r = start(t, true, dir, "a.conf")
	r.mu.Lock()
	first := r.inForce
	r.mu.Unlock()
	if len(first) != 1 || len(first[0]) != 1 {
		t.Fatalf("in force at the begin: %v", first)
	}
	again := startKnowing(t, true, dir, first[0], "a.conf")
	if n := again.count(); n != 0 || len(again.inForce) != 0 {
		t.Errorf("nothing has changed: %+v, %v", again.changes, again.inForce)
	}
	r.write("a.conf", "2")
	r.await(1)
	later := startKnowing(t, true, dir, first[0], "a.conf")
	later.await(1)
	r.count()
	later.mu.Lock()
	defer later.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(later.inForce) != 1 || len(r.inForce) != 2 || later.inForce[0][r.path("a.conf")] != r.inForce[1][r.path("a.conf")] {
		t.Errorf("in force at the end: %v, %v", later.inForce, r.inForce)
	}
}

// TestBusyDirectory: a file that changes among thousands of other events is seen, and soon.
func TestBusyDirectory(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.write("a.conf", "1")
	r = start(t, true, dir, "a.conf")
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("log%d", i%50)), []byte("x"), 0o644)
		}
	})
	time.Sleep(2 * settle)
	r.write("a.conf", "2")
	r.await(1)
	close(stop)
	all.Wait()
}

// TestBounds: links in a circle, a file that is too big, more files than are looked at.
func TestBounds(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, dir: dir}
	r.link("b.conf", "a.conf")
	r.link("a.conf", "b.conf")
	l := looker{patterns: []string{r.path("a.conf")}}
	if s := l.look(); len(s.Problems) != 1 {
		t.Errorf("%+v", s)
	}
	if n := len(l.directories()); n != 1 {
		t.Errorf("%q", l.directories())
	}
	if err := os.Truncate(r.path("big"), 0); err == nil {
		t.Error("is there")
	}
	r.write("big", "")
	if err := os.Truncate(r.path("big"), maxSize+1); err != nil {
		t.Fatal(err)
	}
	// Each that is wrong is told, and each once.
	l = looker{patterns: []string{r.path("big"), r.path("a.conf"), r.path("bi*")}}
	if s := l.look(); len(s.Problems) != 2 || !strings.HasSuffix(s.Problems[0], "/big has more than 16777216 bytes") || !strings.Contains(s.Problems[1], "a.conf: too many levels") {
		t.Errorf("%+v", s)
	}
	for i := range maxFiles + 1 {
		r.write(fmt.Sprintf("%d.x", i), "")
	}
	l = looker{patterns: []string{r.path("*.x")}}
	if s := l.look(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "more than 1000 files") || len(s.Sums) != maxFiles {
		t.Errorf("%d files, %q", len(s.Sums), s.Problems)
	}
}
