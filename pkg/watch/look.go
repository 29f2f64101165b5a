package watch

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxFiles = 1000     // of one Spec
	maxSize  = 16 << 20 // of a file: a configuration; hashing more would take the disk's time
	maxLinks = 40       // on the way to a file, as the kernel has it
	// maxProblems are told of one look; others are when these are mended.
	maxProblems = 10
)

// stamp tells that a file is the one of the last look. The time of the inode's change is in it, because the other two
// can be set back.
type stamp struct {
	dev, inode   uint64
	size         int64
	mtime, ctime unix.Timespec
}

type known struct {
	stamp stamp
	sum   Sum
}

// looker looks at files; a content is read again only where the stamp of its file is another.
type looker struct {
	patterns []string
	seen     map[string]known
	written  uint64
}

// isPattern says whether the last part of a path stands for several.
func isPattern(path string) bool { return strings.ContainsAny(filepath.Base(path), `*?[\`) }

// byEditors is what editors and package managers leave beside a file: copies and half-written ones. 4913 is what vim
// probes a directory with, sedXXXXXX what sed -i writes.
var byEditors = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(4913|sed[A-Za-z0-9]{6}|#.*#|.*(~|\.swp|\.swo|\.swx|\.tmp|\.temp|\.bak|\.orig|\.rej|\.part|` +
		`\.dpkg-(new|old|dist|tmp|bak)|\.ucf-(new|old|dist)|\.rpm(new|save|orig)|,v|___jb_(tmp|old)___))$`)
})

// matches lists the files of a directory that a pattern stands for. Hidden ones count only where the pattern says so.
func matches(pattern string) ([]string, error) {
	dir, last := filepath.Split(pattern)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		name := e.Name()
		if ok, _ := filepath.Match(last, name); !ok || strings.HasPrefix(name, ".") && !strings.HasPrefix(last, ".") || byEditors().MatchString(name) {
			continue
		}
		out = append(out, dir+name)
	}
	return out, nil
}

// look takes a snapshot.
func (l *looker) look() Snapshot {
	s := Snapshot{Sums: map[string]Sum{}}
	now := map[string]known{}
	problem := func(err error) {
		if text := err.Error(); len(s.Problems) < maxProblems && !slices.Contains(s.Problems, text) { // a file can be named, and match
			s.Problems = append(s.Problems, text)
		}
	}
	for _, pattern := range l.patterns {
		paths := []string{pattern}
		several := isPattern(pattern)
		if several {
			var err error
			if paths, err = matches(pattern); err != nil {
				problem(err)
			}
		}
		for _, path := range paths {
			if _, ok := now[path]; ok {
				continue
			}
			if len(now) == maxFiles {
				problem(fmt.Errorf("more than %d files match", maxFiles))
				break
			}
			k, err := l.read(path)
			switch {
			case err == nil:
				now[path], s.Sums[path] = k, k.sum
			case errors.Is(err, fs.ErrNotExist) && several: // gone between the two calls, or a link that leads nowhere
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
				s.Missing = append(s.Missing, path)
			case errors.Is(err, errNoFile) && several: // a directory that matches
			default:
				problem(err)
			}
		}
	}
	if !maps.Equal(l.seen, now) {
		l.written++
	}
	l.seen, s.Written = now, l.written
	return s
}

var errNoFile = errors.New("is no regular file")

// read gives stamp and content of a file. Nothing else in its place is opened: that alone starts a hardware watchdog, or
// rewinds a tape, and others may write to that directory.
func (l *looker) read(path string) (known, error) {
	at, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return known{}, err
	}
	defer at.Close()
	if _, err := stampOf(at); err != nil {
		return known{}, err
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", at.Fd()), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return known{}, fmt.Errorf("%s: %w", path, errors.Unwrap(err)) // not the name under which it was opened
	}
	defer f.Close()
	before, err := stampOf(f)
	if err != nil {
		return known{}, err
	}
	if was, ok := l.seen[path]; ok && was.stamp == before {
		return was, nil
	}
	if before.size > maxSize {
		return known{}, fmt.Errorf("%s has more than %d bytes", path, maxSize) // it may be another number each time
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxSize)); err != nil {
		return known{}, err
	}
	k := known{stamp: before, sum: Sum(h.Sum(nil))}
	if after, err := stampOf(f); err != nil || after != before {
		k.stamp = stamp{} // it was written to under this look: read it again
	}
	return k, nil
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stamp{}, fmt.Errorf("%s: %w", f.Name(), errNoFile)
	}
	return stamp{dev: uint64(st.Dev), inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// directories lists those in which a file that comes, goes or is written to can change what the patterns lead to.
func (l *looker) directories() []string {
	var out []string
	for _, pattern := range l.patterns {
		paths := []string{pattern}
		if isPattern(pattern) {
			paths, _ = matches(pattern)
			paths = append(paths, filepath.Dir(pattern)+"/\x00") // the directory itself, also while it is empty
		}
		for _, path := range paths[:min(len(paths), maxFiles)] {
			out = trail(out, path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// trail appends the directories of all symbolic links on the way to a path, and of what it leads to; where that ends
// before, the last one that is there.
func trail(out []string, path string) []string {
	at, rest := "/", strings.TrimPrefix(path, "/")
	for links := 0; ; {
		name, more, _ := strings.Cut(rest, "/")
		switch name {
		case "", ".":
			if more == "" {
				return append(out, at) // a link that leads to a directory
			}
			rest = more
			continue
		case "..":
			at, rest = filepath.Dir(at), more
			if rest == "" {
				return append(out, at)
			}
			continue
		}
		full := filepath.Join(at, name)
		target, err := "", error(unix.ENOENT)
		if name != "\x00" {
			target, err = os.Readlink(full)
		}
		switch {
		case err == nil && links < maxLinks:
			links++
			out = append(out, at)
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = strings.TrimPrefix(target, "/")
			if more != "" {
				rest += "/" + more
			}
		case more == "", err == nil, errors.Is(err, fs.ErrNotExist):
			return append(out, at)
		default: // no link: EINVAL
			at, rest = full, more
		}
	}
}
