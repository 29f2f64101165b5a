// Package registry keeps the state of a daemon in one file that survives its death at any moment.
//
// The file holds two generations of an opaque payload. Save overwrites the older one, and its header last; Open returns
// the newest whose checksums are right. A process that is killed within Save leaves the former generation behind. The
// file is not synced: it serves within one boot, and lies on a tmpfs.
package registry

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process has the file open.
var ErrHeld = errors.New("held by another daemon")

// DamagedError says that the file held no usable generation. It was set aside, and a new one begun.
type DamagedError struct {
	Path   string
	Kept   string // where the old file is now
	Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("read %s: %s; begun anew, the old file is kept as %s", e.Path, e.Reason, e.Kept)
}

// File is an open registry. It owns the descriptor and the lock on it. Its methods may be called from any goroutine.
type File struct {
	mu     sync.Mutex
	path   string
	f      *os.File // nil when closed
	slots  [2]generation
	live   int // index of the newest valid slot
	header [headerSize]byte

	version uint32
	bootID  [bootIDSize]byte
}

// BootID returns the kernel's id of this boot, /proc/sys/kernel/random/boot_id.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(b))
	if len(id) != 36 {
		return "", fmt.Errorf("read boot id: %q is no UUID", id)
	}
	return id, nil
}

// Open opens or creates the registry at path, mode 0600, and locks it: ErrHeld when another process has it. Symbolic
// links and files that are not regular are refused.
//
// payload is what was saved last; nil for a new file, and for one of another boot. With a *DamagedError (no generation
// is whole, another version, another owner) the File is usable and new, and the old file is kept as path.damaged.
func Open(path string, version uint32, bootID string) (f *File, payload []byte, err error) {
	r := &File{path: path, version: version}
	if bootID == "" || len(bootID) > bootIDSize {
		return nil, nil, fmt.Errorf("open %s: boot id %q", path, bootID)
	}
	copy(r.bootID[:], bootID)
	if r.f, err = openLocked(path, path, unix.O_RDWR); errors.Is(err, fs.ErrNotExist) {
		if err := r.create(); err != nil {
			return nil, nil, err
		}
		return r, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	payload, reason, err := r.load()
	if err != nil {
		r.f.Close()
		return nil, nil, err
	}
	if reason == "" {
		return r, payload, nil
	}
	damaged := &DamagedError{Path: path, Kept: path + ".damaged", Reason: reason}
	err = os.Rename(path, damaged.Kept)
	r.f.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("set aside a damaged registry (%s): %w", reason, err)
	}
	if err := r.create(); err != nil {
		return nil, nil, err
	}
	return r, nil, damaged
}

// openLocked opens a regular file and locks it. What it returns is still the file of that name; its errors and those of
// the file call it name.
func openLocked(path, name string, flags int) (*os.File, error) {
	for range 10 {
		// O_NONBLOCK: a FIFO or a device in the file's place must not block.
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ELOOP {
			return nil, fmt.Errorf("open %s: is a symbolic link", name)
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		f := os.NewFile(uintptr(fd), name)
		var st, now unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			f.Close()
			return nil, fmt.Errorf("open %s: is no regular file", name)
		}
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if err == unix.EWOULDBLOCK {
				err = ErrHeld
			}
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		// The one who had the lock may have set the file aside before this process got it.
		if err := unix.Lstat(path, &now); err == nil && now.Dev == st.Dev && now.Ino == st.Ino {
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("open %s: it is replaced again and again", name)
}

// create makes the file under another name, with an empty generation in it, and then gives it its name: whoever dies
// at whatever moment, a registry is whole or is not there.
func (r *File) create() error {
	next := r.path + ".new"
	f, err := openLocked(next, r.path, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return err
	}
	r.f, r.slots, r.live = f, [2]generation{}, 0
	err = f.Truncate(0)
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err == nil { // room for both generations from the start
		err = r.allocate(0, payloadBase+2*growStep)
	}
	if err == nil {
		err = r.save(nil)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, r.path, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST { // made by another process meanwhile
			err = fmt.Errorf("lock %s: %w", r.path, ErrHeld)
		} else if err != nil {
			err = &os.LinkError{Op: "rename", Old: next, New: r.path, Err: err}
		}
	}
	if err != nil {
		os.Remove(next)
		f.Close()
	}
	return err
}

// load reads the newest whole generation. reason says why the file is of no use.
func (r *File) load() (payload []byte, reason string, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(r.f.Fd()), &st); err != nil {
		return nil, "", &fs.PathError{Op: "stat", Path: r.path, Err: err}
	}
	if uid := uint32(os.Geteuid()); st.Uid != uid {
		return nil, fmt.Sprintf("belongs to uid %d, not to %d", st.Uid, uid), nil
	}
	if st.Mode&0o777 != 0o600 {
		if err := r.f.Chmod(0o600); err != nil {
			return nil, "", err
		}
	}
	r.live = -1
	var reasons [2]error
	for i := range r.slots {
		var data []byte
		r.slots[i], data, reasons[i], err = r.loadSlot(i, st.Size)
		if err != nil {
			return nil, "", err
		}
		if reasons[i] != nil {
			r.slots[i] = generation{}
		} else if r.live < 0 || r.slots[i].number > r.slots[r.live].number {
			r.live, payload = i, data
		}
	}
	if r.live < 0 {
		return nil, fmt.Sprintf("no generation is whole: first: %v; second: %v", reasons[0], reasons[1]), nil
	}
	g := &r.slots[r.live]
	if g.bootID != r.bootID {
		return nil, "", nil
	}
	if g.version != r.version {
		return nil, fmt.Sprintf("foreign version: the file has %d, this daemon reads %d", g.version, r.version), nil
	}
	if len(payload) == 0 {
		payload = nil
	}
	return payload, "", nil
}

// loadSlot reads one generation; reason says why it is not whole.
func (r *File) loadSlot(slot int, size int64) (g generation, data []byte, reason, err error) {
	var header [headerSize]byte
	n, err := r.f.ReadAt(header[:], int64(slot)*headerPage)
	if err != nil && err != io.EOF {
		return g, nil, nil, err
	}
	if g, reason = decode(header[:n], size); reason != nil {
		return g, nil, reason, nil
	}
	data = make([]byte, g.length)
	if n, err := r.f.ReadAt(data, g.offset); n < len(data) {
		if err != io.EOF {
			return g, nil, nil, err
		}
		return g, nil, errors.New("payload is cut off"), nil
	}
	if crc32.Checksum(data, castagnoli) != g.sum {
		return g, nil, errors.New("checksum of the payload is wrong"), nil
	}
	return g, data, nil, nil
}

// Save makes payload the newest generation. After an error (ENOSPC, for one) the former generation still is it.
// It does not allocate memory; the file grows when the payload has outgrown its room.
func (r *File) Save(payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return fmt.Errorf("save %s: %w", r.path, fs.ErrClosed)
	}
	return r.save(payload)
}

func (r *File) save(payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("save %s: payload of %d bytes, at most %d", r.path, len(payload), maxPayload)
	}
	live, slot := &r.slots[r.live], 1-r.live
	next := r.slots[slot]
	if next.room < int64(len(payload)) || next.room == 0 || overlap(&next, live) {
		next.offset, next.room = place(live, int64(len(payload)))
		if err := r.allocate(next.offset, next.room); err != nil {
			return err
		}
	}
	next.version, next.bootID = r.version, r.bootID
	next.number = live.number + 1
	next.length, next.sum = int64(len(payload)), crc32.Checksum(payload, castagnoli)
	// From here the older generation is lost; until the header is complete, the newer one counts.
	r.slots[slot] = generation{offset: next.offset, room: next.room}
	if _, err := r.f.WriteAt(payload, next.offset); err != nil {
		return err
	}
	next.encode(&r.header)
	if _, err := r.f.WriteAt(r.header[:], int64(slot)*headerPage); err != nil {
		return err
	}
	r.slots[slot], r.live = next, slot
	return nil
}

// overlap is true of headers that a damaged file left behind: this package writes none.
func overlap(a, b *generation) bool {
	return a.offset < b.end() && b.offset < a.end()
}

// allocate reserves room, so that a full disk is met before anything is overwritten.
func (r *File) allocate(offset, length int64) error {
	for {
		err := unix.Fallocate(int(r.f.Fd()), 0, offset, length)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EOPNOTSUPP { // then a full disk shows at the write
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "allocate", Path: r.path, Err: err}
		}
		return nil
	}
}

// Close gives up the lock. It may be called again.
func (r *File) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}
