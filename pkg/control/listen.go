package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is what sun_path holds besides its NUL.
const maxPath = 107

// LiveError: somebody serves the socket already.
type LiveError struct {
	Path string
	PID  int32 // who listens, 0 when it is not in this pid namespace
}

func (e *LiveError) Error() string {
	return fmt.Sprintf("listen on %s: pid %d serves it already", e.Path, e.PID)
}

// bind makes the socket, mode 0666, in place of one that nobody serves any more. The returned file information is the
// socket's own, so that the end removes no other.
func bind(path string) (*net.UnixListener, fs.FileInfo, error) {
	if len(path) > maxPath {
		return nil, nil, fmt.Errorf("listen on %s: the path has %d bytes, a unix socket takes %d", path, len(path), maxPath)
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err == nil {
		// Roles go by credentials, so everybody may connect. bind(2) obeyed the umask.
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, info, nil
}

// lockDir keeps two daemons that start together from removing each other's fresh socket. Whoever can read the directory
// can hold this lock too, so after a second it goes on without.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for range 20 {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return func() { _ = d.Close() }, nil
}

// removeStale removes a socket that refuses connections, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: there is something that is no socket, leaving it alone", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("listen on %s: socket: %w", path, err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED:
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listen on %s: replace the stale socket: %w", path, err)
		}
		return nil
	case unix.ENOENT:
		return nil
	case nil:
		live := &LiveError{Path: path}
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			live.PID = cred.Pid
		}
		return live
	case unix.EAGAIN: // its queue of connections is full
		return &LiveError{Path: path}
	default:
		return fmt.Errorf("listen on %s: probe the socket that is there: %w", path, err)
	}
}

// unlink removes the socket if it still is the one that bind made.
func unlink(path string, made fs.FileInfo) {
	if now, err := os.Lstat(path); err == nil && os.SameFile(now, made) {
		_ = os.Remove(path)
	}
}
