package process

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MaxKept bounds the descriptors that are kept for [KeepFiles], of all processes together. For each statm the kernel
// keeps a page, so it is a bound of its memory as well: 4.4 MB, as measured.
const MaxKept = 2048

// keptNow counts them.
var keptNow atomic.Int32

// keptFiles are descriptors of files of a process, kept from one sample to the next: most of what a sample takes is the
// way to them. They are those of one process, whoever has its number later.
type keptFiles [numKept]struct{ atomic.Int32 } // descriptor and one; 0: none

const (
	keptDir   = iota // its fd directory
	keptStatm        // its statm
	numKept
)

// get is a descriptor, -1: none. With keep it is opened if it can be.
func (k *keptFiles) get(what int, s *system, pid int32, keep bool) int {
	if fd := int(k[what].Load()) - 1; fd >= 0 || !keep {
		return fd
	}
	if keptNow.Add(1) > MaxKept {
		keptNow.Add(-1)
		return -1
	}
	name, flags := "statm", unix.O_RDONLY
	if what == keptDir {
		name, flags = "fd", unix.O_PATH|unix.O_DIRECTORY // which takes no right to read in it
	}
	var buf [512]byte
	fd, err := openAt(unix.AT_FDCWD, s.path(buf[:0], pid, name), flags)
	if err == nil && !k[what].CompareAndSwap(0, int32(fd)+1) { // another call was first
		unix.Close(fd)
		err = unix.EEXIST
	}
	if err != nil {
		keptNow.Add(-1)
	}
	return int(k[what].Load()) - 1
}

// close is called when no other call is under way.
func (k *keptFiles) close() {
	for what := range k {
		if fd := int(k[what].Swap(0)) - 1; fd >= 0 {
			unix.Close(fd)
			keptNow.Add(-1)
		}
	}
}

// sampleKept reads what is wanted from files that are kept, and returns what is still to be read.
func (p *Process) sampleKept(want Want) (descriptors int, memory int64, rest Want) {
	descriptors, memory = -1, -1
	keep := want&KeepFiles != 0
	if want&WantDescriptors != 0 {
		var st unix.Stat_t
		fd := p.files.get(keptDir, p.sys, p.PID, keep)
		if fd >= 0 && unix.Fstat(fd, &st) == nil && st.Size > 0 { // Linux 6.2
			descriptors, want = int(st.Size), want&^WantDescriptors
		}
	}
	if want&WantMemory != 0 && want&(WantThreads|WantChildren) == 0 { // else it comes with these
		var buf [128]byte
		if fd := p.files.get(keptStatm, p.sys, p.PID, keep); fd >= 0 {
			if n, err := unix.Pread(fd, buf[:], 0); err == nil {
				if memory, err = parseStatm(buf[:n]); err == nil {
					want &^= WantMemory
				}
			}
		}
	}
	return descriptors, memory, want
}
