package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// patience bounds every wait of the rig.
const patience = 2 * time.Minute

// guard is a running daemon.
type guard struct {
	cmd   *exec.Cmd
	pid   int
	ready time.Duration // from just before the fork to READY=1
	log   string
	close func()
}

// startGuard runs bin/checkprocd with a configuration in a fresh or a given runtime directory, on a tmpfs as /run is,
// and waits for its READY=1. It ends with the test.
func startGuard(t *testing.T, dir, config string) *guard {
	t.Helper()
	program, err := filepath.Abs("../../../bin/checkprocd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: `make build` makes it", err)
	}
	conf := filepath.Join(dir, "checkprocd.toml")
	config = fmt.Sprintf("runtime_dir = %q\n%s", filepath.Join(dir, "run"), config)
	if err := os.WriteFile(conf, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{log: log.Name(), cmd: exec.Command(program, "--config", conf, "--log-format", "json")}
	g.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	g.cmd.Stderr = log
	begin := process.Now()
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.pid = g.cmd.Process.Pid
	g.close = func() { _, _ = notify.Close(), os.Remove(filepath.Join(dir, "notify")) }
	t.Cleanup(func() { g.stop(t) })
	if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			t.Fatalf("wait for READY=1: %v\n%s", err, g.tail())
		}
		if bytes.Contains(buf[:n], []byte("READY=1")) {
			g.ready = process.Now() - begin
			break
		}
	}
	go func() { // the status lines
		for {
			if _, err := notify.Read(buf); err != nil && !os.IsTimeout(err) {
				return
			}
			_ = notify.SetReadDeadline(time.Time{})
		}
	}()
	return g
}

func (g *guard) stop(t *testing.T) {
	t.Helper()
	if g.cmd.ProcessState != nil {
		return
	}
	_ = g.cmd.Process.Signal(unix.SIGTERM)
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("checkprocd: %v\n%s", err, g.tail())
	}
	g.close()
}

// tail is the end of the log.
func (g *guard) tail() string {
	text, _ := os.ReadFile(g.log)
	return string(text[max(0, len(text)-2000):])
}

// events counts the events of a name in the log.
func (g *guard) events(name string) int {
	text, _ := os.ReadFile(g.log)
	return bytes.Count(text, []byte(`"event":"`+name+`"`))
}

// awaitEvents waits until that many events of a name were reported.
func (g *guard) awaitEvents(t *testing.T, name string, n int) {
	t.Helper()
	await(t, fmt.Sprintf("%d events %s", n, name), g.tail, func() bool { return g.events(name) >= n })
}

// await polls until done is true.
func await(t *testing.T, what string, detail func() string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v\n%s", what, patience, detail())
		}
	}
}

// helper is the pid of the daemon's helper process.
func (g *guard) helper(t *testing.T) int {
	t.Helper()
	children, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range children {
		text, _ := os.ReadFile(dir + "/stat")
		_, after, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(after); len(f) > 1 && f[1] == strconv.Itoa(g.pid) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}

// cpu is the CPU time of a process, all its threads, ended ones as well.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	// CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^uint32(pid)<<3|2), &ts); err != nil {
		t.Fatalf("read the CPU clock of %d: %v", pid, err)
	}
	return time.Duration(ts.Nano())
}

// memory is a line of /proc/PID/status or smaps_rollup, in KiB.
func memory(t *testing.T, pid int, file, key string) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	t.Fatalf("no %s in %s", key, f.Name())
	return 0
}

// dir is a directory on a tmpfs of its own.
func dir(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	if err := unix.Mount("tmpfs", d, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
	return d
}

// stamps is what a client of the crowd writes down, struct note of crowd.c.
type stamps struct{ pid, beat, term, exit atomic.Int64 }

// crowd is many clients, see testdata/crowd.c.
type crowd struct {
	cmd   *exec.Cmd
	notes []stamps
	mem   []byte
}

// startCrowd starts n clients and waits until they are registered. beat and stop are in whole milliseconds.
func startCrowd(t *testing.T, n, timeout int, beat, stop time.Duration) *crowd {
	t.Helper()
	program := nstest.CC(t, "testdata/crowd.c", "-I../../table/testdata")
	fd, err := unix.MemfdCreate("notes", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "notes")
	defer f.Close()
	size := n * int(unsafe.Sizeof(stamps{}))
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	c := &crowd{}
	if c.mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	c.notes = unsafe.Slice((*stamps)(unsafe.Pointer(&c.mem[0])), n)
	number := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	c.cmd = exec.Command(program, strconv.Itoa(n), strconv.Itoa(timeout), number(beat), number(stop))
	c.cmd.ExtraFiles = []*os.File{f}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end(t) })
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "ready\n" {
		t.Fatalf("the crowd says %q, %v", said, err)
	}
	return c
}

// end ends the crowd and waits until all are gone.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	for i := range c.notes { // reaped by pid 1
		dir := fmt.Sprintf("/proc/%d", c.notes[i].pid.Load())
		await(t, "end of "+dir, func() string { return "" }, func() bool {
			_, err := os.Stat(dir)
			return err != nil
		})
	}
}

// dead counts the clients that have ended.
func (c *crowd) dead() int {
	n := 0
	for i := range c.notes {
		if c.notes[i].exit.Load() != 0 {
			n++
		}
	}
	return n
}

// attach maps the table.
func attach(t *testing.T) *table.Segment {
	t.Helper()
	id, err := table.Lookup(table.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := table.Attach(id, table.DefaultKey, table.DefaultRecords, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seg.Close() })
	return seg
}

// quantile of what was measured; it sorts.
func quantile[T ~int64](all []T, q float64) T {
	slices.Sort(all)
	return all[max(int(math.Ceil(q*float64(len(all))))-1, 0)]
}

func median[T ~int64](all []T) T { return quantile(all, 0.5) }

// spread writes p50, p99 and the largest.
func spread(all []time.Duration) string {
	return fmt.Sprintf("p50 %s, p99 %s, max %s (%d)", short(quantile(all, 0.5)), short(quantile(all, 0.99)), short(quantile(all, 1)), len(all))
}
