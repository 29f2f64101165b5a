package watch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpensOnlyFiles: what stands in the place of a file, or is led to by a link, is not even opened: of some devices that
// is an order.
func TestOpensOnlyFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "x.conf")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	n, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	if _, err := unix.InotifyAddWatch(n, fifo, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	l := looker{patterns: []string{link}}
	if _, err := l.read(link); !errors.Is(err, errNoFile) {
		t.Errorf("%v", err)
	}
	if got, err := unix.Read(n, make([]byte, 4096)); err != unix.EAGAIN {
		t.Errorf("it was opened: %d bytes of events, %v", got, err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := l.read(plain); err != nil || k.stamp.size != 1 {
		t.Errorf("a file: %+v, %v", k, err)
	}
}

// TestTrouble: where there is no room for another watch, changes are found all the same.
func TestTrouble(t *testing.T) {
	full := errors.New("watch /etc: no space left on device")
	for _, tt := range []struct {
		s      Snapshot
		failed error
		want   string
	}{
		{Snapshot{}, nil, ""},
		{Snapshot{}, full, "watch /etc: no space left on device; changes are found each 30s only"},
		{Snapshot{Missing: []string{"/a"}, Problems: []string{"/b is no regular file", "/c: permission denied"}}, full, "/a is not there; /b is no regular file; /c: permission denied; no change is taken before that is mended"},
	} {
		if got := trouble(&tt.s, tt.failed); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
