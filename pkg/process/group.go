package process

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxMembers = 4096
	maxGroups  = 1024 // cgroups below one that are looked into
)

var (
	// ErrRootGroup says that a process is in no cgroup but the root, which holds everybody.
	ErrRootGroup = errors.New("in no cgroup but the root")

	// ErrTooMany says that a cgroup has more than 4096 members, or 1024 cgroups below it.
	ErrTooMany = fmt.Errorf("more than %d members, or %d groups below it", maxMembers, maxGroups)
)

// Group is a cgroup of the unified hierarchy or, where that only stands beside v1, of name=systemd. It holds nothing
// open: it is known by its directory's inode, which a later cgroup of the same path does not have.
type Group struct {
	path string // as in Facts
	dir  string
	ino  uint64
}

// Group is the cgroup that the process is in now. Errors: ErrRootGroup, ErrGone, ErrClosed, fs.ErrNotExist where its
// hierarchy is not mounted, or the errno.
func (p *Process) Group() (*Group, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return nil, fmt.Errorf("find cgroup of %d: %w", p.PID, ErrClosed)
	}
	dir, err := p.sys.folder(p.PID)
	var g *Group
	if err == nil {
		g, err = p.sys.groupOf(dir)
		dir.close()
	}
	if exited(p.fd) {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("find cgroup of %d: %w", p.PID, err)
	}
	return g, nil
}

func (s *system) groupOf(f folder) (*Group, error) {
	before, err := f.membership()
	if err != nil {
		return nil, err
	}
	g, err := s.openGroup(before)
	if err != nil {
		return nil, err
	}
	// Who still is where it was has kept that directory from being removed and made anew in between.
	if after, err := f.membership(); err != nil || after.v2 != before.v2 || after.systemd != before.systemd {
		return nil, errors.Join(errors.New("moved to another cgroup meanwhile"), err)
	}
	return g, nil
}

func (s *system) openGroup(m membership) (*Group, error) {
	var buf [4608]byte
	for _, x := range []struct {
		mount mount
		path  string
	}{{s.cgroup2, m.v2}, {s.systemd, m.systemd}} {
		if len(x.path) < 2 {
			continue
		}
		b := x.mount.file(buf[:0], []byte(x.path), "")
		if b == nil {
			continue
		}
		dir := strings.TrimSuffix(string(b[:len(b)-1]), "/")
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		return &Group{path: x.path, dir: dir, ino: st.Ino}, nil
	}
	if len(m.v2) < 2 && len(m.systemd) < 2 {
		return nil, ErrRootGroup
	}
	return nil, &fs.PathError{Op: "find mount", Path: m.path(), Err: fs.ErrNotExist}
}

// GroupAt is the cgroup of that path that an earlier program of this boot knew by its inode. Errors: fs.ErrNotExist when
// it is gone, also where a later one has its path, or the errno.
func GroupAt(path string, inode uint64) (*Group, error) { return host().groupAt(path, inode) }

func (s *system) groupAt(path string, inode uint64) (*Group, error) {
	var buf [4608]byte
	for _, m := range []mount{s.cgroup2, s.systemd} {
		b := m.file(buf[:0], []byte(path), "")
		if b == nil {
			continue
		}
		g := &Group{path: path, dir: strings.TrimSuffix(string(b[:len(b)-1]), "/"), ino: inode}
		fd, err := g.open(unix.O_PATH)
		if err == nil {
			unix.Close(fd)
			return g, nil
		}
		if err != unix.ENOENT {
			return nil, fmt.Errorf("find cgroup %s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("find cgroup %s: %w", path, fs.ErrNotExist)
}

// Inode is that of its directory: no other cgroup of this boot has it.
func (g *Group) Inode() uint64 { return g.ino }

// Path is the path within the hierarchy, as in Facts.Cgroup.
func (g *Group) Path() string { return g.path }

// open opens the directory. A group that was removed, and perhaps made anew, is fs.ErrNotExist.
func (g *Group) open(flags int) (int, error) {
	fd, err := openAt(unix.AT_FDCWD, []byte(g.dir+"\x00"), flags|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Ino != g.ino {
		unix.Close(fd)
		return -1, unix.ENOENT
	}
	return fd, nil
}

// Members are the pids of the processes in the group and in those below it, sorted; without those of other pid
// namespaces. Who is moved between two of them during the call can be missed. Errors: ErrTooMany, fs.ErrNotExist when the
// group is gone, or the errno; then there is no list.
func (g *Group) Members() ([]int32, error) {
	pids, err := g.members()
	if err != nil {
		return nil, fmt.Errorf("list members of %s: %w", g.path, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func (g *Group) members() ([]int32, error) {
	root, err := g.open(unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	var pids []int32
	for todo, seen := []string{"."}, 1; len(todo) > 0; {
		rel := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		pids, err = appendMembers(pids, root, rel)
		switch {
		case err == nil:
		case rel != "." && (err == unix.ENOENT || err == unix.ENODEV): // removed meanwhile
			continue
		case rel != "." && err == unix.EOPNOTSUPP: // a threaded group: its processes are listed further up
		default:
			return nil, err
		}
		dir, err := openAt(root, []byte(rel+"\x00"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err == unix.ENOENT && rel != "." {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = eachEntry(dir, func(name []byte, kind byte) bool {
			if kind == unix.DT_DIR {
				todo = append(todo, filepath.Join(rel, string(name)))
				seen++
			}
			return seen <= maxGroups
		})
		unix.Close(dir)
		if err != nil && err != unix.ENOENT {
			return nil, err
		}
		if seen > maxGroups {
			return nil, ErrTooMany
		}
	}
	return pids, nil
}

// appendMembers reads cgroup.procs: one number in each line, 0 for a process of another pid namespace.
func appendMembers(pids []int32, root int, rel string) ([]int32, error) {
	fd, err := openAt(root, []byte(rel+"/cgroup.procs\x00"), unix.O_RDONLY)
	if err != nil {
		return pids, err
	}
	defer unix.Close(fd)
	l := lines{fd: fd}
	for line := l.next(); line != nil; line = l.next() {
		n, ok := number(line)
		if !ok || n <= 0 || n > maxPID {
			continue
		}
		if pids = append(pids, int32(n)); len(pids) > maxMembers {
			return pids, ErrTooMany
		}
	}
	return pids, l.err
}

// Kill sends SIGKILL to all processes of the group and of those below it, also to ones that are just being made: it
// writes cgroup.kill (Linux 5.14). It can wait for the kernel's lock on all cgroups. Errors wrap what the kernel says:
// fs.ErrNotExist (no such file in v1, in the root and before 5.14; or the group is gone), fs.ErrPermission, EROFS,
// EOPNOTSUPP (a threaded group).
func (g *Group) Kill() error {
	root, err := g.open(unix.O_PATH)
	if err == nil {
		var fd int
		if fd, err = openAt(root, []byte("cgroup.kill\x00"), unix.O_WRONLY); err == nil {
			_, err = unix.Write(fd, []byte("1"))
			unix.Close(fd)
		}
		unix.Close(root)
	}
	if err != nil {
		return fmt.Errorf("kill cgroup %s: %w", g.path, err)
	}
	return nil
}
