package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// tiny is a cgroup of version 1 of the test's own, in which something is scarce: a small host in a big one.
type tiny struct {
	t   *testing.T
	dir string
}

// smallHost makes one of a controller's.
func smallHost(t *testing.T, controller string) tiny {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Join("/sys/fs/cgroup", controller), "checkprocd-test")
	if err != nil {
		nstest.Unavailable(t, fmt.Sprintf("no cgroup of version 1 for %s: %v", controller, err))
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup is empty", func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, os.ErrNotExist)
		})
	})
	return tiny{t, dir}
}

func (s tiny) set(file string, value int64) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, file), []byte(strconv.FormatInt(value, 10)), 0); err != nil {
		s.t.Fatal(err)
	}
}

// count reads a number of the cgroup, alone or after a word.
func (s tiny) count(file, word string) int64 {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if word == "" || fields[0] == word {
			n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	s.t.Fatalf("%s has no %s", file, word)
	return 0
}

// inside starts the command in the cgroup.
func (s tiny) inside(c *exec.Cmd) {
	wrap("sh", "-c", "echo $$ >"+s.dir+"/cgroup.procs && exec \"$@\"", "sh")(c)
}

// neighbour starts testdata/neighbour.c in the cgroup.
func (s tiny) neighbour(args ...string) *client {
	s.t.Helper()
	return spawn(s.t, nstest.CC(s.t, "testdata/neighbour.c"), args, s.inside).ready()
}

// gaps measures the longest time between two beats of each client, for a while.
func gaps(t *testing.T, all []*client, d time.Duration) (longest time.Duration) {
	t.Helper()
	m := mapTable(t)
	last, at := make([]int64, len(all)), make([]time.Time, len(all))
	begin := time.Now()
	for now := begin; now.Sub(begin) < d; now = time.Now() {
		for i, c := range all {
			if token := m[c.slot].Token; token != last[i] || now.Equal(begin) {
				if !at[i].IsZero() {
					longest = max(longest, now.Sub(at[i]))
				}
				last[i], at[i] = token, now
			}
		}
		settle(10 * time.Millisecond)
	}
	return longest
}

// TestStarvedTogether: guard and clients get a twentieth of one processor, in one piece each second, beside a crowd that
// wants all of it. Who beats when it may is left alone, and who hangs is ended.
func TestStarvedTogether(t *testing.T) {
	if namespaces(t) {
		return
	}
	host := smallHost(t, "cpu")
	g := launch(t, punctual(testConfig(t)), host.inside)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range 8 {
		all = append(all, member(t, fmt.Sprint("client", i), 2, "exit", host.inside))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	for range 16 {
		host.neighbour("cpu", "10")
	}
	host.set("cpu.cfs_period_us", 1_000_000)
	host.set("cpu.cfs_quota_us", 50_000)
	longest := gaps(t, all, 4*time.Second)
	g.untouched(all...)
	all[0].signal(unix.SIGUSR1)
	hung := time.Now()
	all[0].end()
	t.Logf("measured: starved together: %d periods throttled, gaps of up to %v between beats of 100ms, a hung one gone after %v",
		host.count("cpu.stat", "nr_throttled"), longest.Round(time.Millisecond), time.Since(hung).Round(time.Millisecond))
	if longest < 500*time.Millisecond {
		t.Errorf("nobody starved: the longest gap was %v", longest)
	}
	g.untouched(all[1:]...)
	host.set("cpu.cfs_quota_us", -1)
}

// TestStarvedClients: the guard has all it wants, and its clients get no processor for longer than their timeouts. They
// are runnable, which is no hang: they are given one more timeout, and beat within it.
func TestStarvedClients(t *testing.T) {
	if namespaces(t) {
		return
	}
	host := smallHost(t, "cpu")
	g := begin(t, punctual(testConfig(t)))
	var all []*client
	for i := range 4 {
		all = append(all, member(t, fmt.Sprint("client", i), 2, "exit", host.inside))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	for range 8 {
		host.neighbour("cpu", "10")
	}
	host.set("cpu.cfs_period_us", 1_000_000)
	host.set("cpu.cfs_quota_us", 1000) // the least that there is: a client has its turn after many seconds
	// Of the first only: on a busy machine the others come when its one more timeout is over.
	e := g.await(want{event: guard.EvWaiting})
	if e.Verdict != "starved" {
		t.Errorf("%s", e.Message)
	}
	host.set("cpu.cfs_quota_us", -1)
	g.await(want{event: guard.EvRecovered, pid: e.PID})
	g.untouched(all...)
}

// TestThrashing: guard and clients live in a memory that a neighbour reads a large file through, again and again.
func TestThrashing(t *testing.T) {
	if namespaces(t) {
		return
	}
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<30); err != nil { // all holes: no disk is read for it
		t.Fatal(err)
	}
	host := smallHost(t, "memory")
	host.set("memory.limit_in_bytes", 64<<20)
	g := launch(t, punctual(testConfig(t)), host.inside)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range 8 {
		all = append(all, member(t, fmt.Sprint("client", i), 1, "exit", host.inside))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	for range 2 {
		host.neighbour("memory", "8", file)
	}
	longest := gaps(t, all, 4*time.Second)
	g.untouched(all...)
	late := hangs(t, g, all[0], 2*time.Second)
	full := host.count("memory.failcnt", "")
	t.Logf("measured: thrashing: %d times at the limit, gaps of up to %v between beats of 100ms, a hung one condemned %v after its deadline",
		full, longest.Round(time.Millisecond), late.Round(time.Millisecond))
	if full < 1000 {
		t.Errorf("memory was short %d times only", full)
	}
	g.untouched(all[1:]...)
}

// TestForkBomb: hundreds of processes that fork and end, in a pid namespace whose numbers go round within a second. The
// guard guards on; those that end meanwhile have their numbers given to strangers, who are left alone.
func TestForkBomb(t *testing.T) {
	if namespaces(t) {
		return
	}
	fewPIDs(t, 4096)
	pids, cpu := smallHost(t, "pids"), smallHost(t, "cpu")
	pids.set("pids.max", 2000)
	cpu.set("cpu.cfs_period_us", 100_000)
	cpu.set("cpu.cfs_quota_us", 100_000) // one processor: other tests run beside this one
	c := punctual(testConfig(t))
	g := launch(t, c)
	g.await(want{event: guard.EvActing})
	g.await(want{event: guard.EvTableAttached})
	var all []*client
	for i := range 12 {
		all = append(all, member(t, fmt.Sprint("client", i), 1, "exit"))
	}
	for _, c := range all {
		g.await(want{event: guard.EvRegistered, pid: c.pid})
	}
	before := forks(t)
	spawn(t, nstest.CC(t, "testdata/neighbour.c"), []string{"forks", "90", "500"}, pids.inside, cpu.inside).ready()
	crash := func(list ...*client) {
		for _, c := range list {
			c.signal(unix.SIGKILL)
			c.end()
		}
	}
	late := hangs(t, g, all[0], 2*time.Second)
	crash(all[1:4]...)
	g.kill()
	crash(all[4:7]...)
	was := forks(t)
	eventually(t, "the numbers have gone round", func() bool { return forks(t) > was+2*4096 })
	g = launch(t, c)
	g.await(want{event: guard.EvActing})
	late = max(late, hangs(t, g, all[7], 2*time.Second))
	newcomer := member(t, "newcomer", 1, "exit")
	g.await(want{event: guard.EvRegistered, pid: newcomer.pid})
	t.Logf("measured: fork bomb: %d forks in a namespace of 4096 numbers, those that hung condemned up to %v after their deadline", forks(t)-before, late.Round(time.Millisecond))
	for _, c := range all[1:7] {
		eventually(t, "the record of "+c.name+" is cleared", func() bool { return mapTable(t).pid(c.slot) != c.pid })
	}
	for _, e := range g.find(want{event: guard.EvSignalled}) {
		if e.PID != all[7].pid || e.Name != all[7].name {
			t.Errorf("%s", e.Message)
		}
	}
	g.untouched(append(all[8:], newcomer)...)
}

// fewPIDs lets the pid namespace have few numbers, so that they are soon used again.
func fewPIDs(t *testing.T, n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(b), "%d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor < 14 {
		nstest.Unavailable(t, fmt.Sprintf("pid_max is the whole machine's on Linux %s; a namespace has its own since 6.14", b))
	}
	if err := os.WriteFile("/proc/sys/kernel/pid_max", []byte(strconv.Itoa(n)), 0); err != nil {
		t.Fatal(err)
	}
}

// forks is how many processes and threads this machine has made since it was booted.
func forks(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nprocesses ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
