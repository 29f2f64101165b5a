package alert

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func openStore(t *testing.T, path string, receivers ...string) (*Store, string) {
	t.Helper()
	s, damage, err := OpenStore(path, receivers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, damage
}

// numbered is a step with the n-th order.
func numbered(n int, status Status) Step {
	a := Alert{ID: fmt.Sprint(n), Kind: KindProcess, StartsAt: epoch}
	o := Order{Notification{ID: fmt.Sprint(n), Status: status, Alert: a}, []string{"ops", "gone"}}
	return Step{Orders: []Order{o}, Set: []Open{{Key: fmt.Sprint(n % 7), Alert: a, Fired: true, To: []string{"ops"}}}}
}

func put(t *testing.T, s *Store, n int) {
	t.Helper()
	if err := s.Put(numbered(n, Firing), fmt.Sprintf("c:%d", n)); err != nil {
		t.Fatal(err)
	}
}

func ids(list []Notification) string {
	var b strings.Builder
	for _, n := range list {
		b.WriteString(n.ID + " ")
	}
	return strings.TrimSpace(b.String())
}

func TestStoreLasts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue")
	s, damage := openStore(t, path, "ops")
	if damage != "" {
		t.Error(damage)
	}
	if _, _, err := OpenStore(path, nil); err == nil || !strings.Contains(err.Error(), ErrHeld.Error()) {
		t.Errorf("opened twice: %v", err)
	}
	for n := range 10 {
		put(t, s, n)
	}
	if err := s.Ack("ops", s.head("ops", 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(Step{Del: []string{"5", "6"}, Closed: []string{"5", "6"}}, "c:10"); err != nil {
		t.Fatal(err)
	}
	type state struct {
		Cursor string
		Open   []Open
		Closed []string
		Queue  []Notification
	}
	look := func(s *Store) (x state) {
		x.Cursor, x.Open, x.Closed = s.Load()
		x.Queue = s.head("ops", 100)
		return x
	}
	before := look(s)
	if before.Cursor != "c:10" || len(before.Open) != 5 || ids(before.Queue) != "3 4 5 6 7 8 9" || len(before.Closed) != 2 {
		t.Errorf("%+v", before)
	}
	for _, crash := range []bool{true, false} {
		if crash {
			_ = s.lock.Close() // as the kernel does
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, damage = openStore(t, path, "ops")
		if diff := cmp.Diff(before, look(s)); diff != "" || damage != "" {
			t.Errorf("crash %v: %s %s", crash, damage, diff)
		}
	}
}

// TestStoreDamaged cuts the file at each byte, and turns over bits of it: what was whole stays, and it is never worse
// than that.
func TestStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "queue")
	s, _ := openStore(t, path, "ops")
	for n := range 5 {
		put(t, s, n)
	}
	_ = s.lock.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, text []byte, want string, damaged bool) {
		t.Helper()
		path := filepath.Join(dir, "try")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, damage, err := OpenStore(path, []string{"ops"})
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(s.head("ops", 100)); got != want || (damage != "") != damaged {
			t.Fatalf("%s: %q, want %q; damage %q", what, got, want, damage)
		}
		put(t, s, 9) // and goes on
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path)
	}
	for at := 0; at < len(whole); at += 3 {
		n := bytes.Count(whole[:at], []byte{'\n'}) // whole lines; the first is the snapshot
		try(fmt.Sprintf("cut at %d", at), whole[:at], strings.TrimSpace("0 1 2 3 4 5"[:max(0, 2*n-2)]), false)
	}
	lines := bytes.SplitAfter(whole, []byte{'\n'})
	start := len(lines[0]) + len(lines[1])
	for at := start; at < start+len(lines[2])-1; at += 5 {
		text := bytes.Clone(whole)
		text[at] ^= 1
		if text[at] == '\n' {
			continue
		}
		try(fmt.Sprintf("bit at %d", at), text, "0 2 3 4", true)
	}
	try("binary", []byte("\x00\xff\n\n\xfe"), "", true)
	if kept, err := os.ReadFile(filepath.Join(dir, "try.damaged")); err != nil || string(kept) != "\x00\xff\n\n\xfe" {
		t.Errorf("the damaged file is not kept: %q, %v", kept, err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	big := Step{}
	for n := range maxQueue + 5 {
		big.Orders = append(big.Orders, numbered(n, Firing).Orders...)
	}
	if err := s.Put(big, ""); err != nil {
		t.Fatal(err)
	}
	if waiting, dropped := s.Waiting(); waiting != maxQueue || dropped != 5 || s.head("ops", 1)[0].ID != "5" {
		t.Errorf("%d wait, %d dropped", waiting, dropped)
	}
	// A repeat is no news to who has not heard the first.
	again := numbered(7, Firing)
	again.Orders[0].Repeat = 3
	if err := s.Put(again, ""); err != nil {
		t.Fatal(err)
	}
	if _, dropped := s.Waiting(); dropped != 5 {
		t.Errorf("%d dropped", dropped)
	}
	// What was taken does not make the file grow for ever.
	list := s.head("ops", maxQueue)
	for range 2000 {
		if err := s.Ack("ops", list[:1000]); err != nil {
			t.Fatal(err)
		}
		list = append(list[1000:], list[:1000]...)
		if s.size > 4*max(s.least, compactAt)+64<<10 { // and a line
			t.Fatalf("the file has %d bytes, %d when it was written anew", s.size, s.least)
		}
		if s.least < 4096 {
			return
		}
	}
	t.Errorf("the file has %d bytes and was not written anew", s.size)
}

const envPut = "ALERT_TEST_PUT"

// TestStoreKilled kills a process that writes, again and again: what a batch of events led to is there as a whole with
// its cursor, or not at all.
func TestStoreKilled(t *testing.T) {
	if path := os.Getenv(envPut); path != "" {
		s, _ := openStore(t, path, "ops")
		cursor, _, _ := s.Load()
		n, _ := strconv.Atoi(strings.TrimPrefix(cursor, "c:"))
		for first := true; ; first = false {
			n++
			put(t, s, n)
			if first { // however slow the disk is
				fmt.Println("begun")
			}
			if n%3 == 0 {
				_ = s.Ack("ops", s.head("ops", 2))
			}
		}
	}
	path := filepath.Join(t.TempDir(), "queue")
	last := 0
	for round := range 10 {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestStoreKilled$")
		cmd.Env = append(os.Environ(), envPut+"="+path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = out.Read(make([]byte, 6))
		time.Sleep(time.Duration(20+round*7) * time.Millisecond) // wherever it is then
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s, damage, err := OpenStore(path, []string{"ops"})
		if err != nil || damage != "" {
			t.Fatalf("round %d: %v %s", round, err, damage)
		}
		cursor, _, _ := s.Load()
		n, _ := strconv.Atoi(strings.TrimPrefix(cursor, "c:"))
		queue := s.head("ops", maxQueue)
		if n < last || n == 0 || len(queue) == 0 || queue[len(queue)-1].ID != fmt.Sprint(n) {
			t.Fatalf("round %d: cursor %s after %d, queue ends with %+v", round, cursor, last, queue[max(0, len(queue)-1):])
		}
		for i, x := range queue[1:] {
			a, _ := strconv.Atoi(queue[i].ID)
			if b, _ := strconv.Atoi(x.ID); b != a+1 {
				t.Fatalf("round %d: %d follows %d", round, b, a)
			}
		}
		last = n
		_ = s.Close()
	}
	t.Logf("measured: %d steps written and forced to the disk between the kills", last)
}

// smallDisk mounts a file system of 64 KiB.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestStoreOnFullDisk fills a real file system: it goes on in memory, and on the disk when there is room again.
func TestStoreOnFullDisk(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	dir := smallDisk(t)
	path := filepath.Join(dir, "queue")
	s, _ := openStore(t, path, "ops")
	put(t, s, 0)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<10), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	failed := 0
	for n := 1; n < 200; n++ {
		if s.Put(numbered(n, Firing), fmt.Sprintf("c:%d", n)) != nil {
			failed++
		}
	}
	if waiting, _ := s.Waiting(); waiting != 200 || failed == 0 {
		t.Errorf("%d wait, %d writes failed", waiting, failed)
	}
	if err := unix.Unmount(dir, 0); err == nil {
		t.Error("nothing is open there")
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = s.lock.Close()
	s, damage := openStore(t, path, "ops")
	if cursor, _, _ := s.Load(); cursor != "c:199" || damage != "" || len(s.head("ops", 1000)) != 200 {
		t.Errorf("%s, %s", cursor, damage)
	}
	_ = s.Close()
}

// TestDamagedOnFullDisk: a file that is damaged is kept also where there is no room for a copy.
func TestDamagedOnFullDisk(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	dir := smallDisk(t)
	path := filepath.Join(dir, "queue")
	if err := os.WriteFile(path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<10), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	s, damage := openStore(t, path, "ops")
	if s.Flush() == nil {
		t.Error("the disk is not full")
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	put(t, s, 1)
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != "nonsense\n" || !strings.Contains(damage, "kept as") {
		t.Errorf("%q, %v; %s", kept, err, damage)
	}
}

// FuzzStore has any bytes as the file: what is read keeps the bounds, and is written back.
func FuzzStore(f *testing.F) {
	line, err := formatLine(&record{Cursor: "c", Step: numbered(1, Firing)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, ok := parseLine(text); ok {
			s := &Store{open: map[string]Open{}, queues: map[string][]Notification{"ops": nil}, bells: map[string]chan struct{}{"ops": make(chan struct{}, 1)}}
			s.apply(&r)
			if len(s.closed) > maxClosed || len(s.queues["ops"]) > maxQueue {
				t.Errorf("%d closed, %d wait", len(s.closed), len(s.queues["ops"]))
			}
		}
	})
}
