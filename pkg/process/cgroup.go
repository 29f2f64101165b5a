package process

import (
	"bytes"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is where a cgroup hierarchy can be seen.
type mount struct {
	dir  string // mount point, "" when there is none
	root string // the cgroup that is mounted there: "/", or deeper in a container
}

type hierarchy uint8

const (
	hierarchyOther hierarchy = iota
	hierarchyV2
	hierarchySystemd // v1, name=systemd: no controllers, for tracking
	hierarchyFreezer // v1
)

// parseCgroupLine parses a line of /proc/PID/cgroup: ID:CONTROLLERS:PATH.
func parseCgroupLine(line []byte) (hierarchy, []byte) {
	id, rest, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return hierarchyOther, nil
	}
	controllers, path, ok := bytes.Cut(rest, []byte(":"))
	if !ok || len(path) == 0 || path[0] != '/' {
		return hierarchyOther, nil
	}
	switch {
	case string(id) == "0" && len(controllers) == 0:
		return hierarchyV2, path
	case string(controllers) == "name=systemd":
		return hierarchySystemd, path
	}
	for len(controllers) > 0 {
		var c []byte
		c, controllers, _ = bytes.Cut(controllers, []byte(","))
		if string(c) == "freezer" {
			return hierarchyFreezer, path
		}
	}
	return hierarchyOther, nil
}

// parseMounts finds the cgroup mounts in /proc/self/mountinfo (proc(5)). Of several it takes the one that shows most.
func parseMounts(info string) (v2, freezer, systemd mount) {
	for line := range strings.Lines(info) {
		left, right, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 1 {
			continue
		}
		m := mount{root: unescapeMount(l[3]), dir: unescapeMount(l[4])}
		to := &v2
		switch r[0] {
		case "cgroup2":
		case "cgroup":
			switch {
			case len(r) < 3:
				continue
			case hasOption(r[2], "freezer"):
				to = &freezer
			case hasOption(r[2], "name=systemd"):
				to = &systemd
			default:
				continue
			}
		default:
			continue
		}
		if to.dir == "" || len(m.root) < len(to.root) {
			*to = m
		}
	}
	return v2, freezer, systemd
}

func hasOption(options, name string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == name {
			return true
		}
	}
	return false
}

// unescapeMount undoes the \ooo of space, tab, newline and backslash in mountinfo.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// membership is where a process is in the hierarchies that matter; "" where it is in none.
type membership struct{ v2, systemd, freezer string }

// path is the one of Facts.Cgroup, in the hierarchy that systemd uses: v2, or name=systemd where v2 only stands beside
// v1.
func (m membership) path() string {
	if len(m.systemd) > 1 || m.v2 == "" {
		return m.systemd
	}
	return m.v2
}

// readMembership reads an open /proc/PID/cgroup.
func readMembership(fd int) (membership, error) {
	var m membership
	l := lines{fd: fd}
	for line := l.next(); line != nil; line = l.next() {
		switch h, path := parseCgroupLine(line); h {
		case hierarchyV2:
			m.v2 = string(path)
		case hierarchySystemd:
			m.systemd = string(path)
		case hierarchyFreezer:
			m.freezer = string(path)
		}
	}
	return m, l.err
}

// file writes the path of a file of a cgroup into buf, with NUL; nil when the cgroup cannot be seen under the mount:
// outside of the cgroup namespace ("/../x") or of what is mounted, or the root, which can never be frozen.
func (m mount) file(buf []byte, path []byte, name string) []byte {
	if m.dir == "" {
		return nil
	}
	if m.root != "/" {
		if !bytes.HasPrefix(path, []byte(m.root)) {
			return nil
		}
		path = path[len(m.root):]
	}
	if len(path) < 2 || path[0] != '/' || bytes.HasPrefix(path, []byte("/..")) {
		return nil
	}
	if len(m.dir)+len(path)+1+len(name)+1 > cap(buf) {
		return nil
	}
	b := append(buf[:0], m.dir...)
	b = append(b, path...)
	b = append(b, '/')
	b = append(b, name...)
	return append(b, 0)
}

// isFrozen says whether a cgroup is frozen or told to freeze. A group in which one member sits in D never says
// "frozen 1", yet its other members stand still: so the orders to freeze, its own and those above it, count as well.
// What cannot be read counts as not frozen.
func (s *system) isFrozen(h hierarchy, path []byte) bool {
	var buf [4608]byte
	var content [256]byte
	switch h {
	case hierarchyFreezer:
		// Effective, with the orders from above: THAWED, FREEZING or FROZEN.
		b := readCgroup(s.freezer.file(buf[:0], path, "freezer.state"), &content)
		return len(b) > 0 && !bytes.HasPrefix(b, []byte("THAWED"))
	case hierarchyV2:
		b := readCgroup(s.cgroup2.file(buf[:0], path, "cgroup.events"), &content) // Linux 5.2
		for len(b) > 0 {
			var line []byte
			line, b, _ = bytes.Cut(b, []byte("\n"))
			if string(line) == "frozen 1" {
				return true
			}
		}
		for len(path) > 1 {
			b := readCgroup(s.cgroup2.file(buf[:0], path, "cgroup.freeze"), &content)
			if len(b) > 0 && b[0] == '1' {
				return true
			}
			path = path[:max(bytes.LastIndexByte(path, '/'), 0)]
		}
	}
	return false
}

func readCgroup(path []byte, content *[256]byte) []byte {
	if path == nil {
		return nil
	}
	fd, err := openPath(path)
	if err != nil {
		return nil
	}
	n, err := read(fd, content[:])
	unix.Close(fd)
	if err != nil {
		return nil
	}
	return content[:n]
}
