package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// newGroup makes a cgroup in the hierarchy that is mounted at top, and removes it and all below it at the end.
func newGroup(t *testing.T, top string) string {
	t.Helper()
	dir := filepath.Join(top, fmt.Sprintf("checkprocd-test-%d-%s", os.Getpid(), strings.ToLower(t.Name())))
	below(t, dir)
	return dir
}

func below(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		nstest.Unavailable(t, "no cgroup can be made: "+err.Error())
	}
	t.Cleanup(func() {
		eventually(t, "removal of "+dir, func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
	})
}

func join(t *testing.T, dir string, c *child) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(int(c.pid()))), 0); err != nil {
		t.Fatal(err)
	}
}

// leaveGroups puts a child into the root, wherever the test itself is.
func leaveGroups(t *testing.T, c *child) {
	t.Helper()
	for _, m := range []mount{host().cgroup2, host().systemd} {
		if m.dir != "" {
			join(t, m.dir, c)
		}
	}
}

func unified(t *testing.T) string {
	t.Helper()
	if host().cgroup2.dir == "" {
		nstest.Unavailable(t, "no cgroup2 mount")
	}
	return host().cgroup2.dir
}

func groupFor(t *testing.T, c *child) *Group {
	t.Helper()
	g, err := open(t, c.pid()).Group()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func pids(cs ...*child) (list []int32) {
	for _, c := range cs {
		list = append(list, c.pid())
	}
	slices.Sort(list)
	return list
}

func TestGroup(t *testing.T) {
	top := newGroup(t, unified(t))
	inner, deep := filepath.Join(top, "inner"), filepath.Join(top, "inner", "deep")
	other := top + "-other"
	for _, dir := range []string{inner, deep, other} {
		below(t, dir)
	}
	a, b, c, d, e := actor(t, "pause"), actor(t, "pause"), actor(t, "pause"), actor(t, "pause"), actor(t, "pause")
	join(t, top, a)
	join(t, top, b)
	join(t, inner, c)
	join(t, deep, d)
	join(t, other, e)

	g := groupFor(t, a)
	if want := strings.TrimPrefix(top, unified(t)); g.Path() != want {
		t.Errorf("path %q, want %q", g.Path(), want)
	}
	if got, err := g.Members(); !slices.Equal(got, pids(a, b, c, d)) || err != nil {
		t.Errorf("members %v, %v; want %v", got, err, pids(a, b, c, d))
	}
	if got, err := groupFor(t, c).Members(); !slices.Equal(got, pids(c, d)) || err != nil {
		t.Errorf("members further down %v, %v; want %v", got, err, pids(c, d))
	}

	p := open(t, c.pid())
	ev, err := p.Examine(context.Background(), true)
	if err != nil || !slices.Equal(ev.Members, pids(c, d)) || ev.Cgroup != g.Path()+"/inner" || len(ev.Problems) != 0 {
		t.Errorf("%+v, %v", ev, err)
	}
	if _, err := os.Stat(filepath.Join(inner, "memory.pressure")); err == nil {
		if ev.Group.CPU < 0 || ev.Group.Memory < 0 || ev.Group.IO < 0 {
			t.Errorf("pressure %+v", ev.Group)
		}
	} else {
		t.Logf("no pressure of cgroups here: %v", err)
	}
	if _, err := os.Stat("/proc/pressure/io"); err == nil && (ev.Host.CPU < 0 || ev.Host.Memory < 0 || ev.Host.IO < 0) {
		t.Errorf("pressure of the host %+v", ev.Host)
	}

	inside := []*child{a, b, c, d}
	var ps []*Process
	for _, c := range inside {
		ps = append(ps, open(t, c.pid()))
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, c := range inside {
		eventually(t, "the end of a member", ps[i].Exited)
		c.reap()
		if status := c.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGKILL {
			t.Errorf("%d ended: %v", c.pid(), c.ProcessState)
		}
	}
	if open(t, e.pid()).Exited() {
		t.Error("the neighbour was killed")
	}
	if got, err := g.Members(); len(got) != 0 || err != nil {
		t.Errorf("members after the kill: %v, %v", got, err)
	}
	if _, err := p.Group(); !errors.Is(err, ErrGone) {
		t.Errorf("group of the dead: %v", err)
	}
}

// A group that was removed and made anew under the same name is another one.
func TestGroupMadeAnew(t *testing.T) {
	dir := newGroup(t, unified(t))
	old := actor(t, "pause")
	join(t, dir, old)
	g := groupFor(t, old)
	old.end()
	eventually(t, "removal", func() bool { return os.Remove(dir) == nil })
	if err := g.Kill(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill a group that is gone: %v", err)
	}
	if got, err := g.Members(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("members of a group that is gone: %v, %v", got, err)
	}
	below(t, dir)
	fresh := actor(t, "pause")
	join(t, dir, fresh)
	if err := g.Kill(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill: %v", err)
	}
	if got, err := g.Members(); !errors.Is(err, fs.ErrNotExist) || got != nil {
		t.Errorf("members %v, %v", got, err)
	}
	if open(t, fresh.pid()).Exited() {
		t.Error("the new group was killed")
	}
}

func TestGroupRefused(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	top := unified(t)
	c := actor(t, "pause")
	leaveGroups(t, c)
	if e, err := open(t, c.pid()).Examine(context.Background(), true); err != nil || e.Cgroup != "/" || e.Members != nil || !slices.Contains(e.Problems, "members: in no cgroup but the root") || e.Group != noPressure {
		t.Errorf("in the root: %+v, %v", e, err)
	}
	if g, err := open(t, c.pid()).Group(); !errors.Is(err, ErrRootGroup) {
		t.Errorf("the root: %+v, %v", g, err)
	}

	dir := newGroup(t, top)
	join(t, dir, c)
	g := groupFor(t, c)
	if got := actor(t, "kill-group "+strconv.Itoa(int(c.pid())), nobody(t)).ready; !strings.HasPrefix(got, "true ") {
		t.Errorf("nobody kills: %s", got)
	}
	if err := unix.Mount(top, top, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); !errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill on a read-only mount: %v", err)
	}
	if got, err := g.Members(); !slices.Equal(got, pids(c)) || err != nil {
		t.Errorf("members on a read-only mount: %v, %v", got, err)
	}
	if err := unix.Unmount(top, 0); err != nil {
		t.Fatal(err)
	}
	if open(t, c.pid()).Exited() {
		t.Error("killed after all")
	}
	c.end()
}

// Where systemd uses v1, v2 stands beside it with everybody in its root. There is no cgroup.kill in v1.
func TestGroupOfSystemdHierarchy(t *testing.T) {
	top := host().systemd.dir
	if top == "" {
		t.Skip("no v1 hierarchy of systemd here")
	}
	dir := newGroup(t, top)
	c := actor(t, "pause")
	leaveGroups(t, c)
	join(t, dir, c)
	p := open(t, c.pid())
	if e, err := p.Examine(context.Background(), true); err != nil || e.Cgroup != strings.TrimPrefix(dir, top) || !slices.Equal(e.Members, pids(c)) {
		t.Errorf("%+v, %v", e, err)
	}
	g, err := p.Group()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill: %v", err)
	}
	if p.Exited() {
		t.Error("killed after all")
	}
	c.end()
}

func TestExamineFrozen(t *testing.T) {
	dir := newGroup(t, unified(t))
	c := states(t, "spin")
	join(t, dir, c)
	set := func(value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, c.pid())
	examineUntil(t, p, "running", func(e Evidence) bool { return !e.Frozen && e.thread("spin").Moved })
	set("1")
	examineUntil(t, p, "frozen", func(e Evidence) bool { return e.Frozen && !e.thread("spin").Moved && e.Runnable == 0 })
	set("0")
	examineUntil(t, p, "running again", func(e Evidence) bool { return !e.Frozen && e.thread("spin").Moved })
	c.end()
}

// fakeGroup is a group made of plain directories.
func fakeGroup(t *testing.T, files map[string]string) *Group {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return &Group{path: "/fake", dir: dir, ino: st.Ino}
}

func TestGroupMembersOfFakes(t *testing.T) {
	g := fakeGroup(t, map[string]string{
		"cgroup.procs": "9\n3\n9\n0\n", "a/cgroup.procs": "5\n", "a/b/c/cgroup.procs": "7\n3\n", "a/b/cgroup.procs": "", "d/cgroup.procs": "x\n-1\n4",
		"empty/other": "", // a group that is being removed
	})
	if got, err := g.Members(); !slices.Equal(got, []int32{3, 4, 5, 7, 9}) || err != nil {
		t.Errorf("%v, %v", got, err)
	}

	var full strings.Builder
	for i := range maxMembers {
		fmt.Fprintln(&full, i+100)
	}
	g = fakeGroup(t, map[string]string{"cgroup.procs": full.String()})
	if got, err := g.Members(); len(got) != maxMembers || err != nil {
		t.Errorf("%d members, %v", len(got), err)
	}
	g = fakeGroup(t, map[string]string{"cgroup.procs": full.String(), "a/cgroup.procs": "1\n"})
	if got, err := g.Members(); got != nil || !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %d members, %v", len(got), err)
	}
	g = fakeGroup(t, map[string]string{"cgroup.procs": "1\n"})
	for i := range maxGroups {
		if err := os.Mkdir(filepath.Join(g.dir, strconv.Itoa(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := g.Members(); got != nil || !errors.Is(err, ErrTooMany) {
		t.Errorf("too many groups: %d members, %v", len(got), err)
	}
	deep := map[string]string{"cgroup.procs": "1\n", strings.Repeat("d/", 300) + "cgroup.procs": "2\n"}
	for i := 1; i < 300; i++ {
		deep[strings.Repeat("d/", i)+"cgroup.procs"] = ""
	}
	if got, err := fakeGroup(t, deep).Members(); !slices.Equal(got, []int32{1, 2}) || err != nil {
		t.Errorf("deep: %v, %v", got, err)
	}
}

func TestOpenGroup(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"v2/a", "v1/b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v2, v1 := mount{filepath.Join(dir, "v2"), "/"}, mount{filepath.Join(dir, "v1"), "/"}
	for _, test := range []struct {
		v2, v1 mount
		m      membership
		path   string
		err    error
	}{
		{v2, v1, membership{v2: "/a", systemd: "/b"}, "/a", nil},
		{v2, v1, membership{v2: "/", systemd: "/b"}, "/b", nil},
		{mount{}, v1, membership{v2: "/a", systemd: "/b"}, "/b", nil},
		{v2, mount{}, membership{v2: "/a"}, "/a", nil},
		{v2, v1, membership{v2: "/", systemd: "/"}, "", ErrRootGroup},
		{v2, v1, membership{}, "", ErrRootGroup},
		{v2, v1, membership{v2: "/gone"}, "", fs.ErrNotExist},
		{v2, v1, membership{v2: "/../out"}, "", fs.ErrNotExist},
		{mount{}, mount{}, membership{v2: "/a"}, "", fs.ErrNotExist},
	} {
		g, err := (&system{cgroup2: test.v2, systemd: test.v1}).openGroup(test.m)
		if !errors.Is(err, test.err) || err == nil && g.Path() != test.path {
			t.Errorf("%+v: %+v, %v", test.m, g, err)
		}
	}
}
