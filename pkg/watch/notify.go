package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_CLOSE_WRITE | unix.IN_MODIFY |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	// pace lets events come together: a program that writes a thousand lines a second into a directory that is watched
	// must not cost a thousand wakes. The kernel keeps 16384 events, and says when there were more.
	pace = 50 * time.Millisecond
)

// notifier tells subscribers that something moved in directories, by one inotify instance: a user has 128 of them.
type notifier struct {
	file *os.File

	mu  sync.Mutex
	all map[*subscription]bool
	by  map[int32]map[*subscription]bool // subscribers of a watch
	// A directory on a disk that is gone is waited for by who wants it watched, and by nobody else: that is without mu,
	// and no watch may end meanwhile, which could be the one that it is about to get.
	adding int
	unused map[int32]bool // watches without a subscriber
}

// subscription has one subscriber.
type subscription struct {
	n     *notifier
	moved chan struct{} // holds one value when something moved
	dirs  map[int32]bool
}

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &notifier{file: os.NewFile(uintptr(fd), "inotify"), all: map[*subscription]bool{}, by: map[int32]map[*subscription]bool{}, unused: map[int32]bool{}}, nil
}

// run tells the subscribers until close.
func (n *notifier) run() {
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil {
			return
		}
		n.tell(buf[:size])
		time.Sleep(pace)
	}
}

func (n *notifier) close() { _ = n.file.Close() }

// tell takes events apart: inotify(7).
func (n *notifier) tell(events []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		what := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(size, len(events)):]
		to := n.by[wd]
		if what&unix.IN_Q_OVERFLOW != 0 {
			to = n.all
		}
		for s := range to {
			select {
			case s.moved <- struct{}{}:
			default:
			}
		}
		if what&unix.IN_IGNORED != 0 { // the directory is gone, and the number with it
			for s := range n.by[wd] {
				delete(s.dirs, wd)
			}
			delete(n.by, wd)
			delete(n.unused, wd)
		}
	}
}

func (n *notifier) subscribe() *subscription {
	s := &subscription{n: n, moved: make(chan struct{}, 1), dirs: map[int32]bool{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[s] = true
	return s
}

// watch makes these the directories of the subscription, and no others. A directory that is not there any more is left
// out; the error is the first other one.
func (s *subscription) watch(dirs []string) error {
	n := s.n
	n.mu.Lock()
	n.adding++
	n.mu.Unlock()
	var failed error
	now := map[int32]bool{}
	for _, dir := range dirs {
		var wd int
		err := n.control(func(fd int) (err error) {
			wd, err = unix.InotifyAddWatch(fd, dir, mask) // the same number for the same directory
			return err
		})
		switch {
		case err == nil:
			now[int32(wd)] = true
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		case failed == nil:
			failed = fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.sweep()
	n.adding--
	if !n.all[s] { // its end came meanwhile
		for wd := range now {
			n.unused[wd] = true
		}
		return failed
	}
	for wd := range now {
		if n.by[wd] == nil {
			n.by[wd] = map[*subscription]bool{}
		}
		n.by[wd][s] = true
	}
	for wd := range s.dirs {
		if !now[wd] {
			n.drop(wd, s)
		}
	}
	s.dirs = now
	return failed
}

func (s *subscription) end() {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	for wd := range s.dirs {
		s.n.drop(wd, s)
	}
	delete(s.n.all, s)
	s.n.sweep()
}

// drop is called with mu held, and followed by sweep.
func (n *notifier) drop(wd int32, s *subscription) {
	delete(n.by[wd], s)
	if len(n.by[wd]) == 0 {
		delete(n.by, wd)
		n.unused[wd] = true
	}
}

// sweep ends watches without a subscriber, with mu held.
func (n *notifier) sweep() {
	if n.adding > 0 {
		return
	}
	for wd := range n.unused {
		if n.by[wd] == nil {
			_ = n.control(func(fd int) error {
				_, err := unix.InotifyRmWatch(fd, uint32(wd))
				return err
			})
		}
	}
	clear(n.unused)
}

// control runs f with the descriptor, which stays open for as long.
func (n *notifier) control(f func(fd int) error) error {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
