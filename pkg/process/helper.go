package process

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// HelperName is argv[0] of the helper process.
const HelperName = "checkprocd-reader"

// helperFD is the helper's end of the socketpair.
const helperFD = 3

// HelperMain serves consent questions on descriptor 3 and exits when this process was started as the helper, and
// returns at once otherwise. main calls it first, and so does the TestMain of a package whose tests use a Reader.
func HelperMain() {
	if len(os.Args) == 0 || os.Args[0] != HelperName {
		return
	}
	becomeHelper()
	w := newWitness()
	serve(w.look)
	os.Exit(0)
}

// becomeHelper drops what came with the daemon's descriptors and signals. The daemon has seen to the rest: a session of
// its own, a small environment, SIGKILL when it dies.
func becomeHelper() {
	// Ended by the end of the socket or SIGKILL: systemd's SIGTERM goes to the whole unit, and the daemon may still
	// have questions while it stops.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)

	// exec named the process "exe". The kernel cuts this to 15 bytes. A name is a convenience: no harm without it.
	_ = os.WriteFile("/proc/self/comm", []byte(HelperName), 0)

	// Descriptors that the daemon inherited. Go's own are close-on-exec, so what is not came from outside.
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= helperFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	unix.CloseOnExec(helperFD)
}

// serve says that it is ready, with an answer about pid 0, and answers requests until the other end is closed.
func serve(look func(request) response) {
	hello := response{}.marshal()
	if _, err := unix.Write(helperFD, hello[:]); err != nil {
		return
	}
	var buf [requestSize + 1]byte
	for {
		n, err := read(helperFD, buf[:])
		if err != nil || n == 0 {
			return
		}
		req, ok := parseRequest(buf[:n])
		if !ok {
			return
		}
		answer := look(req).marshal()
		if _, err := unix.Write(helperFD, answer[:]); err != nil {
			return
		}
	}
}

// witness knows what a consenting process must have in common with this one.
type witness struct {
	ipc, pid []byte // own namespaces, as the links name them: "ipc:[4026531839]"
	device   []byte // of SysV segments, as maps prints it
	errno    unix.Errno
	lines    lines
}

func newWitness() *witness {
	w := &witness{}
	self := func(name string) []byte {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil && w.errno == 0 {
			w.errno = errnoOf(err)
		}
		return []byte(link)
	}
	w.ipc, w.pid = self("ipc"), self("pid")

	// SysV segments and memfds are files of one tmpfs, which the kernel mounts for itself (shm_mnt in mm/shmem.c).
	fd, err := unix.MemfdCreate("device", unix.MFD_CLOEXEC)
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		w.device = fmt.Appendf(nil, "%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
		unix.Close(fd)
	}
	if err != nil && w.errno == 0 {
		w.errno = errnoOf(err)
	}
	return w
}

// look answers one question. Everything is read below one descriptor of /proc/PID, which never shows another process.
func (w *witness) look(req request) response {
	if w.errno != 0 {
		return response{pid: req.pid, op: opSelf, errno: w.errno}
	}
	dir, err := unix.Open("/proc/"+strconv.Itoa(int(req.pid)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return goneOr(response{pid: req.pid, op: opOpen, errno: errnoOf(err)})
	}
	defer unix.Close(dir)

	line := newSegmentLine(req.key, req.segmentID, w.device)
	r := w.lookAt(dir, "", req, line)
	if !r.vanished() {
		return r
	}
	// A leader that has ended shows neither namespaces nor maps, while its threads live and have both.
	tasks, err := unix.Openat(dir, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return goneOr(r)
	}
	f := os.NewFile(uintptr(tasks), "task")
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		if t := w.lookAt(dir, "task/"+name+"/", req, line); !t.vanished() {
			return t
		}
	}
	return goneOr(r)
}

// vanished says that there was nothing to read.
func (r response) vanished() bool { return r.errno == unix.ENOENT || r.errno == unix.ESRCH }

// goneOr tells a process that has ended from one that cannot be seen (hidepid= makes /proc/PID vanish): a pidfd can be
// had without any right.
func goneOr(r response) response {
	if !r.vanished() {
		return r
	}
	if fd, err := unix.PidfdOpen(int(r.pid), 0); err == nil {
		ended := exited(fd)
		unix.Close(fd)
		if !ended {
			return r
		}
	}
	return response{pid: r.pid, consent: ConsentGone}
}

// lookAt reads a task's namespaces and maps; prefix leads from dir to the task.
func (w *witness) lookAt(dir int, prefix string, req request, line segmentLine) response {
	var buf [64]byte
	for _, ns := range []struct {
		name string
		op   operation
		own  []byte
	}{{"ns/ipc", opIPC, w.ipc}, {"ns/pid", opPID, w.pid}} {
		n, err := unix.Readlinkat(dir, prefix+ns.name, buf[:])
		if err != nil {
			return response{pid: req.pid, op: ns.op, errno: errnoOf(err)}
		}
		if !bytes.Equal(buf[:n], ns.own) {
			return response{pid: req.pid, consent: ConsentOtherNamespace}
		}
	}

	fd, err := unix.Openat(dir, prefix+"maps", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return response{pid: req.pid, op: opMaps, errno: errnoOf(err)}
	}
	defer unix.Close(fd)
	w.lines = lines{fd: fd}
	for l := w.lines.next(); l != nil; l = w.lines.next() {
		if line.matches(l) {
			return response{pid: req.pid, consent: ConsentProven}
		}
	}
	if w.lines.err != nil {
		return response{pid: req.pid, op: opMaps, errno: errnoOf(w.lines.err)}
	}
	return response{pid: req.pid, consent: ConsentNotMapped}
}
