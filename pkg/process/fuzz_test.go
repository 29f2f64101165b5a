package process

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func FuzzStat(f *testing.F) {
	f.Add([]byte(statLine(42, "a) (b", "S", 0)))
	f.Add([]byte("1 () R -1 0 -1 0 -1 99999999999999999999 1 1 1 1 1 1 1 1 1 1 1 1 18446744073709551615"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStat(b)
		if err != nil {
			return
		}
		// What it took must be what the slow parser finds, where that one accepts it.
		if st.pid <= 0 || st.threads < 0 || st.state == 0 {
			t.Errorf("%q: %+v", b, st)
		}
		if m := statRE.FindSubmatch(b); m != nil && !bytes.Equal(m[2], st.comm) {
			t.Errorf("%q: name %q, want %q", b, st.comm, m[2])
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(statusText, "1 2")))
	f.Add([]byte("Tgid:\t-1\nTracerPid:\t99999999999\nUid:\t\nCoreDumping:\t2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var st status
		for line := range bytes.Lines(b) {
			st.parseLine(bytes.TrimSuffix(line, []byte("\n")))
		}
		if st.check() == nil && (st.tgid <= 0 || st.tracer < 0) {
			t.Errorf("%q: %+v", b, st)
		}
	})
}

func FuzzCgroup(f *testing.F) {
	f.Add([]byte("0::/user.slice/user@1.service/app.slice/x.service"), "/")
	f.Add([]byte("4:cpu,freezer:/a/b"), "/docker/0")
	f.Add([]byte("1:name=systemd:/../_x.scope"), "/..")
	f.Fuzz(func(t *testing.T, line []byte, root string) {
		h, path := parseCgroupLine(line)
		if h == hierarchyOther {
			return
		}
		if len(path) == 0 || path[0] != '/' {
			t.Fatalf("%q: path %q", line, path)
		}
		unit, user := (&system{}).unit(string(path))
		if user != "" && !strings.HasPrefix(unit, "user@") || strings.ContainsAny(unit+user, "/ \n") {
			t.Errorf("%q: units %q, %q", path, unit, user)
		}
		var buf [4608]byte
		file := mount{"/cg", root}.file(buf[:0], path, "cgroup.events")
		if file != nil && (!bytes.HasPrefix(file, []byte("/cg/")) || bytes.HasPrefix(file, []byte("/cg/..")) || file[len(file)-1] != 0) {
			t.Errorf("%q below %q: %q", path, root, file)
		}
	})
}

func FuzzMaps(f *testing.F) {
	f.Add([]byte(mapsLine), uint32(0x5095), int32(32769))
	f.Add([]byte("0-1 r--s 0 00:01 0 /SYSV00000000"), uint32(0), int32(0))
	f.Fuzz(func(t *testing.T, line []byte, key uint32, id int32) {
		if !newSegmentLine(key, id, []byte("00:01")).matches(line) {
			return
		}
		// A slow reading of the same line.
		fields := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) < 6 || fields[3] != "00:01" || fields[4] != strconv.Itoa(int(id)) || fields[1][3] != 's' ||
			fields[5] != fmt.Sprintf("/SYSV%08x", key) {
			t.Errorf("%q taken for segment %d of %x", line, id, key)
		}
	})
}
