package process

import (
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// folder is an open /proc/PID. Whatever becomes of the number, a look-up in it finds files of the process that had the
// number when it was opened, or none.
type folder int

// folder opens /proc/PID. The error is the bare errno.
func (s *system) folder(pid int32) (folder, error) {
	fd, err := openAt(unix.AT_FDCWD, []byte(s.proc+"/"+strconv.Itoa(int(pid))+"\x00"), unix.O_PATH|unix.O_DIRECTORY)
	return folder(fd), err
}

func (f folder) close() { unix.Close(int(f)) }

func (f folder) dup() (folder, error) {
	fd, err := unix.FcntlInt(uintptr(f), unix.F_DUPFD_CLOEXEC, 0)
	return folder(fd), err
}

// open opens a file of the process, or of the thread tid when that is not 0.
func (f folder) open(tid int32, name string, flags int) (int, error) {
	var buf [64]byte
	return openAt(int(f), threadPath(buf[:0], tid, name), flags)
}

func threadPath(b []byte, tid int32, name string) []byte {
	if tid != 0 {
		b = append(b, "task/"...)
		b = strconv.AppendInt(b, int64(tid), 10)
		b = append(b, '/')
	}
	return append(append(b, name...), 0)
}

// read reads such a file from its beginning, as much as fits into buf.
func (f folder) read(tid int32, name string, buf []byte) ([]byte, error) {
	fd, err := f.open(tid, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, buf)
}

// membership reads where the process is now.
func (f folder) membership() (membership, error) {
	fd, err := f.open(0, "cgroup", unix.O_RDONLY)
	if err != nil {
		return membership{}, err
	}
	defer unix.Close(fd)
	return readMembership(fd)
}

// readAll reads to the end of the file or of buf.
func readAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for n < len(buf) {
		m, err := read(fd, buf[n:])
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

// maxListings bounds the reads of one directory: entries that come and go while it is read could make it endless.
const maxListings = 4096

var errEndless = errors.New("directory changes while it is read")

// eachEntry calls do for each name in an open directory, without "." and "..", until it returns false. The name is valid
// during the call only. kind is a DT_ constant.
func eachEntry(fd int, do func(name []byte, kind byte) bool) error {
	var buf [16384]byte
	for range maxListings {
		n, err := unix.ReadDirent(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		if !parseEntries(buf[:n], do) {
			return nil
		}
	}
	return errEndless
}

// parseEntries walks what getdents64(2) has written. It returns false when do did.
func parseEntries(b []byte, do func(name []byte, kind byte) bool) bool {
	const header = 8 + 8 + 2 + 1 // d_ino, d_off, d_reclen, d_type
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= header || size > len(b) {
			return true
		}
		name := b[header:size]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		if string(name) != "." && string(name) != ".." && !do(name, b[18]) {
			return false
		}
		b = b[size:]
	}
	return true
}
