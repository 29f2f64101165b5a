package process

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pressure is the share of the last 10 s in which somebody had to wait for a processor (some), and in which nobody got
// on for want of memory or of a disk (full), in percent. -1 where it cannot be had. Source: Linux
// Documentation/accounting/psi.rst; the kernel brings it up to date each 2 s.
type Pressure struct{ CPU, Memory, IO float64 }

var noPressure = Pressure{-1, -1, -1}

// readPressure reads three files. path gives the path of one with NUL, nil where there is none.
func readPressure(path func(buf []byte, name string) []byte) (Pressure, error) {
	p := noPressure
	var failed error
	for _, x := range []struct {
		name, kind string
		to         *float64
	}{{"cpu", "some", &p.CPU}, {"memory", "full", &p.Memory}, {"io", "full", &p.IO}} {
		var buf [4608]byte
		name := path(buf[:0], x.name)
		if name == nil {
			continue
		}
		var content [256]byte
		fd, err := openPath(name)
		var b []byte
		if err == nil {
			b, err = readAll(fd, content[:])
			unix.Close(fd)
		}
		if err != nil {
			failed = err
			continue
		}
		*x.to = parsePressure(b, x.kind)
	}
	return p, failed
}

func (s *system) hostPressure() (Pressure, error) {
	return readPressure(func(buf []byte, name string) []byte {
		buf = append(append(append(buf, s.proc...), "/pressure/"...), name...)
		return append(buf, 0)
	})
}

// groupPressure is that of a cgroup of the unified hierarchy. The root has none but the host's.
func (s *system) groupPressure(path []byte) (Pressure, error) {
	return readPressure(func(buf []byte, name string) []byte {
		return s.cgroup2.file(buf, path, name+".pressure")
	})
}

// parsePressure finds avg10 in the line of a kind ("some avg10=5.66 avg60=2.94 avg300=2.32 total=1488633465"); -1 when it
// is not there or no percentage.
func parsePressure(b []byte, kind string) float64 {
	for line := range bytes.Lines(b) {
		word, rest := cutWord(line)
		if string(word) != kind {
			continue
		}
		word, _ = cutWord(rest)
		value, ok := bytes.CutPrefix(word, []byte("avg10="))
		if !ok {
			return -1
		}
		f, err := strconv.ParseFloat(string(value), 64)
		if err != nil || !(f >= 0 && f <= 100) {
			return -1
		}
		return f
	}
	return -1
}
