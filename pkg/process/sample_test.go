package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const wantAll = WantMemory | WantGroupMemory | WantCPU | WantThreads | WantDescriptors | WantOpenLimit | WantChildren | WantAge | wantPressure

// kept is what the role "use" holds on to.
var kept []any

// use is the role: memory in bytes, and how many files, threads and children.
func use(words []string) error {
	var n [4]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(words[i]); err != nil {
			return err
		}
	}
	memory := make([]byte, n[0])
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	kept = append(kept, memory)
	for range n[1] {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		kept = append(kept, f)
	}
	started := make(chan error)
	for range n[2] {
		go func() {
			runtime.LockOSThread()
			// Children are listed with the thread that made them.
			var err error
			if n[3] > 0 {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), envRole+"=pause")
				_, err = cmd.StdinPipe() // it ends with this process
				err = errors.Join(err, cmd.Start())
			}
			started <- err
			select {}
		}()
		if err := <-started; err != nil {
			return err
		}
		n[3]--
	}
	go func() {
		for {
			runtime.Gosched()
		}
	}()
	return nil
}

// TestSample: what is found is what others find.
func TestSample(t *testing.T) {
	const memory, files, threads, children = 64 << 20, 300, 20, 7
	c := actor(t, fmt.Sprintf("use %d %d %d %d", memory, files, threads, children))
	p := open(t, c.pid())
	first, err := p.Sample(wantAll &^ WantGroupMemory)
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d", c.pid())
	open, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	if first.Descriptors != len(open) || first.Descriptors < files {
		t.Errorf("%d descriptors, listed are %d", first.Descriptors, len(open))
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(int(c.pid()), unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	if first.OpenLimit != int64(limit.Cur) {
		t.Errorf("limit of %d descriptors, it is %d", first.OpenLimit, limit.Cur)
	}
	if first.Children != children {
		t.Errorf("%d children, %d were started", first.Children, children)
	}
	if tasks, err := os.ReadDir(dir + "/task"); err != nil || first.Threads < threads || max(first.Threads, len(tasks))-min(first.Threads, len(tasks)) > 3 { // the runtime makes some
		t.Errorf("%d threads, listed are %d, %v", first.Threads, len(tasks), err)
	}
	if first.Memory < memory || first.Memory > memory+(200<<20) {
		t.Errorf("%d bytes", first.Memory)
	}
	if first.Age < 0 || first.Age > time.Hour {
		t.Errorf("%v old", first.Age)
	}
	if look, err := p.Look(); err != nil || look.CPU < first.CPU-2*time.Second/userHZ || look.CPU > first.CPU+time.Minute { // a tick each of user and system time
		t.Errorf("%v of processor time, then %v, %v", first.CPU, look.CPU, err)
	}
	if s, err := p.Sample(WantCPU); err != nil || s.CPU < first.CPU || s.Memory >= 0 || s.Threads >= 0 || s.Problems != nil {
		t.Errorf("only processor time was wanted: %+v, %v", s, err)
	}
	eventually(t, "processor time", func() bool {
		s, err := p.Sample(WantCPU | WantAge)
		return err == nil && s.CPU > first.CPU && s.Age > first.Age && s.At > first.At
	})
	if s, err := p.Sample(WantMemory); err != nil || s.Memory < 0 || s.CPU >= 0 || s.Threads >= 0 || s.Descriptors >= 0 || s.OpenLimit >= 0 || s.Children >= 0 || s.Age >= 0 || s.GroupMemory >= 0 || s.Pressure != noPressure || s.Problems != nil {
		t.Errorf("more than was wanted: %+v, %v", s, err)
	}

	c.end()
	if _, err := p.Sample(wantAll); !errors.Is(err, ErrGone) {
		t.Errorf("of a dead one: %v", err)
	}
	_ = p.Close()
	if _, err := p.Sample(wantAll); !errors.Is(err, ErrClosed) {
		t.Errorf("when closed: %v", err)
	}
}

// TestSampleOneThread: children of a process with one thread are found without a list of its threads.
func TestSampleOneThread(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "exec 3<&0; cat <&3 >/dev/null 2>&1 & cat <&3 >/dev/null 2>&1 & echo ready; wait")
	c := start(t, cmd)
	if s, err := open(t, c.pid()).Sample(WantChildren | WantThreads); err != nil || s.Threads != 1 || s.Children != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestSampleGroup asks the kernel about a real cgroup, and compares with what it says to others.
func TestSampleGroup(t *testing.T) {
	dir := newGroup(t, unified(t))
	c := actor(t, "pause")
	defer leaveGroups(t, c)
	join(t, dir, c)
	s, err := open(t, c.pid()).Sample(WantGroupMemory | wantPressure)
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string]float64{"cpu.pressure": s.Pressure.CPU, "memory.pressure": s.Pressure.Memory, "io.pressure": s.Pressure.IO} {
		_, err := os.ReadFile(filepath.Join(dir, file))
		if (err == nil) != (got >= 0) {
			t.Errorf("%s: %v, but reading it says %v; %q", file, got, err, s.Problems)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "memory.current")); (err == nil) != (s.GroupMemory >= 0) {
		t.Errorf("memory of the group: %d, but its file says %v; %q", s.GroupMemory, err, s.Problems)
	}
}

// TestSampleFakes: files as any kernel may have them.
func TestSampleFakes(t *testing.T) {
	write := func(dir string, files map[string]string) {
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	proc, group := t.TempDir(), t.TempDir()
	s := &system{proc: proc, cgroup2: mount{dir: group, root: "/"}}
	stat := "42 (a) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 100 0 100"
	write(proc, map[string]string{"42/stat": stat, "42/statm": "9000 100 7 1 0 5 0\n", "42/cgroup": "1:name=systemd:/x\n0::/a/b\n",
		"42/limits": "Max open files            1024                 524288               files     \n", "42/fd/0": "", "42/fd/1": "",
		"42/task/42/children": "7 8 ", "42/task/43/children": "", "42/task/44/children": "9 "})
	write(group, map[string]string{"a/b/memory.current": "4096\n", "a/b/cpu.pressure": pressureText, "a/b/memory.pressure": pressureText, "a/b/io.pressure": pressureText})
	got := s.sample(42, 100, wantAll)
	if got.Memory != 100*pageSize || got.GroupMemory != 4096 || got.Threads != 3 || got.OpenLimit != 1024 || got.Children != 3 ||
		got.Pressure != (Pressure{5.66, 0.34, 0.34}) || got.Age <= 0 || len(got.Problems) != 0 {
		t.Errorf("%+v", got)
	}
	if got.Descriptors < 2 { // the size of a directory of a real file system says nothing
		t.Errorf("%d descriptors", got.Descriptors)
	}

	write(proc, map[string]string{"42/statm": "garbage", "42/stat": "garbage", "42/cgroup": "0::/a/c\n"})
	got = s.sample(42, math.MaxUint64, wantAll)
	want := []string{"stat: malformed stat", "memory: malformed statm", "group memory: no memory controller in the unified hierarchy",
		"cpu pressure: the kernel does not count it", "memory pressure: the kernel does not count it", "io pressure: the kernel does not count it"}
	if !slices.Equal(got.Problems, want) || got.Memory >= 0 || got.CPU >= 0 || got.GroupMemory >= 0 || got.Pressure != noPressure || got.Age != 0 || got.Children != 3 {
		t.Errorf("%+v", got)
	}
	for cgroup, problem := range map[string]string{"0::/\n": "cgroup: it is in no cgroup", "1:name=systemd:/x\n": "cgroup: it is in no cgroup"} {
		write(proc, map[string]string{"42/cgroup": cgroup})
		if got = s.sample(42, 0, WantGroupMemory|WantPressureCPU); len(got.Problems) != 1 || !strings.HasPrefix(got.Problems[0], problem) {
			t.Errorf("%q: %q", cgroup, got.Problems)
		}
	}
	if got = s.sample(43, 0, wantAll&^WantAge); len(got.Problems) < 5 || got.Memory >= 0 || got.Descriptors >= 0 || got.Children >= 0 {
		t.Errorf("of nobody: %+v", got)
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := open(t, actor(t, "pause").pid())
	if n := testing.AllocsPerRun(100, func() {
		if _, err := p.Sample(WantMemory | WantCPU | WantThreads | WantDescriptors | WantOpenLimit | WantAge); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Sample(WantMemory | WantDescriptors | KeepFiles); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSample(b *testing.B) {
	p := open(b, actor(b, "pause").pid())
	for name, want := range map[string]Want{"memory": WantMemory, "cpu": WantCPU, "threads": WantThreads, "limits of the bench": WantMemory | WantCPU | WantDescriptors,
		"the same, kept": WantMemory | WantCPU | WantDescriptors | KeepFiles, "descriptors": WantDescriptors, "limit": WantOpenLimit,
		"children": WantChildren, "pressure": WantPressureCPU, "all": wantAll &^ WantGroupMemory} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Sample(want); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestKeepFiles: files that are kept tell of their own process, as often as they are asked, and are given back.
func TestKeepFiles(t *testing.T) {
	const memory, files = 32 << 20, 30
	c := actor(t, fmt.Sprintf("use %d %d 0 0", memory, files))
	p := open(t, c.pid())
	before := keptNow.Load()
	for range 3 {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.pid()))
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Sample(WantDescriptors | WantMemory | KeepFiles)
		if err != nil || s.Descriptors != len(list) || len(list) < files || s.Memory < memory || s.Memory > memory+(200<<20) || s.Problems != nil {
			t.Fatalf("%+v, %v; listed are %d", s, err, len(list))
		}
		if n := keptNow.Load() - before; n != numKept {
			t.Fatalf("%d are kept", n)
		}
	}
	open := keptOf(c.pid())
	if open != numKept {
		t.Errorf("%d files of it are open", open)
	}
	c.end()
	eventually(t, "its end", p.Exited)
	if s, err := p.Sample(WantDescriptors | WantMemory | KeepFiles); !errors.Is(err, ErrGone) {
		t.Errorf("when it has ended: %+v, %v", s, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n := keptNow.Load() - before; n != 0 {
		t.Errorf("%d are kept of a closed process", n)
	}
}

// keptOf counts the files of a process in /proc that this one has open.
func keptOf(pid int32) (n int) {
	list, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range list {
		if link, _ := os.Readlink(name); strings.HasPrefix(link, fmt.Sprintf("/proc/%d/", pid)) {
			n++
		}
	}
	return n
}

// TestKeptIsOfOne: with its number in the hands of another, a kept file still tells of the process that it was opened for.
func TestKeptIsOfOne(t *testing.T) {
	c, other := actor(t, "pause"), actor(t, "use 33554432 0 0 0")
	p := open(t, c.pid())
	first, err := p.Sample(WantMemory | KeepFiles)
	if err != nil {
		t.Fatal(err)
	}
	p.PID = other.pid()
	if s, err := p.Sample(WantMemory | KeepFiles); err != nil || s.Memory > first.Memory+(16<<20) {
		t.Errorf("%+v after %+v, %v", s, first, err)
	}
}

// TestKeepFilesBound: beyond the bound none is kept, and what is found is right all the same.
func TestKeepFilesBound(t *testing.T) {
	c := actor(t, "pause")
	p := open(t, c.pid())
	before := keptNow.Swap(MaxKept - 1)
	defer keptNow.Add(before - (MaxKept - 1))
	s, err := p.Sample(WantDescriptors | WantMemory | KeepFiles)
	if err != nil || s.Descriptors <= 0 || s.Memory <= 0 || keptNow.Load() != MaxKept || keptOf(c.pid()) != 1 {
		t.Errorf("%+v, %v; %d are kept of it, %d of all", s, err, keptOf(c.pid()), keptNow.Load())
	}
	if err := p.Close(); err != nil || keptNow.Load() != MaxKept-1 {
		t.Errorf("%v; %d are kept of all", err, keptNow.Load())
	}
}
