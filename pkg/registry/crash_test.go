package registry

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// envSaver makes the test binary a process that saves until it is killed: its value is the path.
const envSaver = "CHECKPROCD_TEST_SAVER"

// saveForEver saves payloads of changing size that begin with a rising number, and prints each number after its Save.
func saveForEver(path string) {
	f, payload, err := Open(path, 1, boot)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	n := uint64(0)
	if len(payload) >= 8 {
		n = binary.LittleEndian.Uint64(payload)
	}
	for {
		n++
		b := pattern(byte(n), 8+int(n*7919%200_000))
		binary.LittleEndian.PutUint64(b, n)
		if err := f.Save(b); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// TestKilled kills a process that saves, again and again: nothing that it said was saved is lost.
func TestKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "registry")
	for round := range 30 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), envSaver+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if round%3 == 2 { // also while it creates or opens the file
			time.AfterFunc(time.Duration(rand.Int64N(int64(10*time.Millisecond))), func() { cmd.Process.Kill() })
		}
		var last uint64
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			var n uint64
			if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
				t.Fatalf("the process says %q", lines.Text())
			}
			last = n
			if i == 20+round {
				cmd.Process.Kill() // and reads on what it still said
			}
		}
		cmd.Wait() // says that it was killed
		f, payload := mustOpen(t, path)
		f.Close()
		if last == 0 {
			continue
		}
		if len(payload) < 8 {
			t.Fatalf("round %d: %d was saved, and %d bytes are there", round, last, len(payload))
		}
		n := binary.LittleEndian.Uint64(payload)
		if n < last || n > last+1 {
			t.Errorf("round %d: %d was saved, %d is there", round, last, n)
		}
	}
}

// TestFullDisk: a Save that finds no room says so, and the former generation stays.
func TestFullDisk(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	dir := t.TempDir()
	const size = 1 << 20
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "registry")
	f, _ := mustOpen(t, path)
	defer f.Close()
	good := pattern(1, 100_000)
	mustSave(t, f, pattern(0, 100_000))
	mustSave(t, f, good)
	for range 3 {
		if err := f.Save(pattern(2, size)); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("got %v", err)
		}
	}
	// Somebody else fills the rest: what has room already can still be saved.
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, size+1), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := f.Save(pattern(3, 400_000)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	f.Close()
	f, got := mustOpen(t, path)
	if string(got) != string(good) {
		t.Fatal("the former generation is gone")
	}
	for i := range 4 {
		good = pattern(byte(4+i), 100_000)
		mustSave(t, f, good)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f, got = mustOpen(t, path)
	if string(got) != string(good) {
		t.Error("what was saved on the full disk is gone")
	}
	mustSave(t, f, pattern(9, 300_000))
	f.Close()

	// There is no room for a new one at all.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, size+1), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if _, _, err := Open(path, 1, boot); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}
