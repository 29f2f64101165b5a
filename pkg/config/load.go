package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	maxFileSize = 1 << 20
	maxFiles    = 1000 // in conf.d
)

// Load reads the configuration. With an empty path that is DefaultPath, where it exists, and then conf.d/*.toml beside
// it in lexical order; DefaultPath by name is the same, but has to exist; any other path is read alone. A later file
// overrides the keys of an earlier one, and its rules come after those of the earlier one.
//
// An error is a *Faults with all that is wrong in all files; errors.Is finds fs.ErrNotExist and fs.ErrPermission in it.
func Load(path string) (Config, error) {
	if path == "" {
		return load(DefaultPath, true, true)
	}
	return load(path, false, path == DefaultPath)
}

func load(path string, mayMiss, withDir bool) (Config, error) {
	files := []string{path}
	var faults []Fault
	if withDir {
		more, fault := listDir(filepath.Join(filepath.Dir(path), "conf.d"))
		if fault != nil {
			faults = append(faults, *fault)
		}
		files = append(files, more...)
	}
	c := Default()
	var l loader
	for i, file := range files {
		data, fault := readFile(file)
		if fault != nil {
			if i > 0 || !mayMiss || !errors.Is(fault.Err, fs.ErrNotExist) {
				faults = append(faults, *fault)
			}
			continue
		}
		faults = append(faults, l.add(&c, file, data)...)
	}
	return outcome(path, c, append(faults, l.finish(&c)...))
}

// Parse reads a text as if it were a file that is read alone; name stands for it in faults. An error is a *Faults.
func Parse(name string, text []byte) (Config, error) {
	c := Default()
	var l loader
	faults := l.add(&c, name, text)
	return outcome(name, c, append(faults, l.finish(&c)...))
}

// outcome is the configuration where it has no faults, else as many of them as a report takes.
func outcome(path string, c Config, faults []Fault) (Config, error) {
	if len(faults) == 0 {
		return c, nil
	}
	if more := len(faults) - maxFaults; more > 0 {
		faults = append(faults[:maxFaults], Fault{File: path, Problem: fmt.Sprintf("and %d more faults", more)})
	}
	return Config{}, &Faults{List: faults}
}

// loader remembers where the keys stand that only make sense together.
type loader struct {
	dir, socket *Fault // position of runtime_dir and control.socket
}

// add reads one file over what earlier files said.
func (l *loader) add(c *Config, file string, data []byte) []Fault {
	doc := newDocument(file, data)
	root := doc.parse()
	r := reader{doc: doc}
	readTable(&r, c, "", root, schema)
	doc.check()
	place := func(v *node, key string) *Fault {
		line, column := doc.position(v.offset)
		return &Fault{File: file, Line: line, Column: column, Key: key}
	}
	if r.runtimeDir != nil {
		l.dir = place(r.runtimeDir, "runtime_dir")
	}
	if r.socket != nil {
		l.socket = place(r.socket, "control.socket")
	}
	slices.SortStableFunc(doc.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return doc.faults
}

// finish derives what no file has set.
func (l *loader) finish(c *Config) []Fault {
	if l.socket != nil {
		return nil
	}
	c.Control.Socket = filepath.Join(c.RuntimeDir, socketName)
	if len(c.Control.Socket) <= maxSocketPath {
		return nil
	}
	fault := Fault{File: "$RUNTIME_DIRECTORY", Key: "runtime_dir"}
	if l.dir != nil {
		fault = *l.dir
	}
	fault.Problem = fmt.Sprintf("with %s in it is %d bytes long", socketName, len(c.Control.Socket))
	fault.Expected = socketExpected
	return []Fault{fault}
}

// listDir returns the files of conf.d in lexical order. Hidden ones are left out: editors keep their copies so.
func listDir(dir string) ([]string, *Fault) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, syscall.ENOTDIR):
		return nil, &Fault{File: dir, Problem: "is a file", Expected: "a directory with files *.toml", Err: err}
	case err != nil:
		return nil, &Fault{File: dir, Problem: reason(err), Err: err}
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) > maxFiles {
		return nil, &Fault{File: dir, Problem: fmt.Sprintf("holds %d files *.toml", len(files)),
			Expected: fmt.Sprintf("at most %d", maxFiles)}
	}
	return files, nil
}

// readFile reads a regular file of bounded size. It does not block on a FIFO that somebody put in its place.
func readFile(path string) ([]byte, *Fault) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, &Fault{File: path, Problem: reason(err), Expected: "a file that can be read", Err: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &Fault{File: path, Problem: reason(err), Err: err}
	}
	size := fmt.Sprintf("at most %d", maxFileSize)
	switch {
	case info.IsDir():
		return nil, &Fault{File: path, Problem: "is a directory", Expected: "a file", Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return nil, &Fault{File: path, Problem: "is no regular file", Expected: "a file"}
	case info.Size() > maxFileSize:
		return nil, &Fault{File: path, Problem: fmt.Sprintf("is %d bytes long", info.Size()), Expected: size}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, &Fault{File: path, Problem: reason(err), Err: err}
	}
	if len(data) > maxFileSize { // files of /proc say that they are empty
		return nil, &Fault{File: path, Problem: "is too long", Expected: size + " bytes"}
	}
	return data, nil
}

// reason is what the system said, without operation and path: the fault names the file.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Op + ": " + pe.Err.Error()
	}
	return err.Error()
}
