package process

import (
	"bytes"
	"math"

	"golang.org/x/sys/unix"
)

const (
	maxOpen        = 32    // descriptors named in Evidence
	maxLink        = 256   // bytes of what one of them is
	maxDescriptors = 65536 // counted where the kernel does not tell their number
)

// descriptors counts what a process has open, -1 when that cannot be had, and names the first ones. tid is a thread that
// has not ended: the leader can end before the others, and then has none.
func (f folder) descriptors(tid int32) (count int, first []string, err error) {
	fd, err := f.open(tid, "fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, nil, err
	}
	if count = int(st.Size); count > 0 { // Linux 6.2
		first, _, err = nameDescriptors(fd, maxOpen)
	} else {
		first, count, err = nameDescriptors(fd, maxDescriptors)
	}
	return count, first, err
}

// nameDescriptors lists up to limit descriptors and names the first ones: "3 socket:[81]". The names are as raw as the
// paths in them.
func nameDescriptors(fd, limit int) (first []string, count int, err error) {
	var refused error
	err = eachEntry(fd, func(name []byte, _ byte) bool {
		if count++; count <= maxOpen && refused == nil {
			var link [maxLink]byte
			n, err := unix.Readlinkat(fd, string(name), link[:])
			switch err {
			case nil:
				first = append(first, string(name)+" "+string(link[:n]))
			case unix.ENOENT: // closed meanwhile
			default:
				refused = err
			}
		}
		return count < limit
	})
	if err == nil {
		err = refused
	}
	return first, count, err
}

// parseOpenLimit finds the soft limit in /proc/PID/limits:
//
//	Max open files            1024                 524288               files
//
// "unlimited" is the largest number; 0 when it is not there.
func parseOpenLimit(b []byte) int64 {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		rest, ok := bytes.CutPrefix(line, []byte("Max open files "))
		if !ok {
			continue
		}
		word, _ := cutWord(rest)
		if string(word) == "unlimited" {
			return math.MaxInt64
		}
		n, _ := number(word)
		return max(n, 0)
	}
	return 0
}
