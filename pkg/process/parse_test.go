package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// statRE is a slow parser of stat, to compare with: name and the other fields, by number in proc(5) less one.
var statRE = regexp.MustCompile(`(?s)^(\d+) \((.*)\) (\S) ([^()]*)$`)

func slowStat(t testing.TB, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := statRE.FindStringSubmatch(string(b))
	if m == nil {
		t.Fatalf("stat %q", b)
	}
	return append(m[1:4], strings.Fields(m[4])...)
}

// statLine has its fields' numbers as values where nothing else is given.
func statLine(pid int, comm string, state string, flags uint64) string {
	s := fmt.Sprintf("%d (%s) %s", pid, comm, state)
	for field := 4; field <= 52; field++ {
		if field == 9 {
			s += fmt.Sprint(" ", flags)
		} else {
			s += fmt.Sprint(" ", field)
		}
	}
	return s + "\n"
}

func TestParseStat(t *testing.T) {
	for _, comm := range []string{"sleep", "", "a b", "a) R 1 1 1 (b", ")", "(", "))((", "x\ny) Z 7", "(sd-pam)", "\xff\x00"} {
		st, err := parseStat([]byte(statLine(42, comm, "S", 0x400000)))
		if err != nil {
			t.Errorf("%q: %v", comm, err)
			continue
		}
		if string(st.comm) != comm || st.pid != 42 || st.state != 'S' || st.ppid != 4 || st.pgid != 5 || st.sid != 6 ||
			st.flags != 0x400000 || st.cpu != 14+15 || st.threads != 20 || st.start != 22 {
			t.Errorf("%q: %+v", comm, st)
		}
	}
	for _, bad := range []string{
		"", "42", "42 (x", "42 x) S 1", "42 (x) S", "42 (x) SS 1 2", "x (x) S 1 1 1", "-1 (x) S 1 1 1", ")(",
		strings.Replace(statLine(42, "x", "S", 0), " 14 ", " 1x4 ", 1),
		strings.Replace(statLine(42, "x", "S", 0), " 4 ", " 99999999999 ", 1),
	} {
		if st, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, st)
		}
	}
}

// All processes of this machine, against the slow parser. Only what does not change from read to read.
func TestStatOfEverybody(t *testing.T) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	compared := 0
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		var buf [statSize]byte
		st, err := host().stat(int32(pid), &buf)
		b, err2 := os.ReadFile(dir + "/stat")
		if err != nil || err2 != nil {
			continue // ended in between
		}
		slow := statRE.FindStringSubmatch(string(b))
		if slow == nil {
			t.Fatalf("%q", b)
		}
		rest := strings.Fields(slow[4])
		if slow[1] != fmt.Sprint(st.pid) || rest[18] != fmt.Sprint(st.start) {
			t.Errorf("%q: %+v", b, st)
		}
		compared++
	}
	if compared == 0 {
		t.Error("none compared")
	}
}

const statusText = "Name:\tx\\nUid:\t7\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nNgid:\t0\nPid:\t42\nPPid:\t1\n" +
	"TracerPid:\t77\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\t1\t1\t1\nGroups:\t%s\nVmPeak:\t    2000 kB\nCoreDumping:\t1\n" +
	"Threads:\t3\n"

func TestParseStatus(t *testing.T) {
	for _, groups := range []string{"", "4 24 27", strings.Repeat("65534 ", 65536)} {
		dir := t.TempDir()
		fakeProc(t, dir, 42, map[string]string{"status": fmt.Sprintf(statusText, groups)})
		st, err := (&system{proc: dir}).status(42)
		if err != nil || st.tgid != 42 || st.tracer != 77 || st.euid != 1001 || !st.dumping {
			t.Errorf("%d bytes of groups: %+v, %v", len(groups), st, err)
		}
	}
	dir := t.TempDir()
	fakeProc(t, dir, 42, map[string]string{"status": "Name:\tx\nTgid:\t42\nUid:\t1\n"})
	if st, err := (&system{proc: dir}).status(42); err == nil {
		t.Errorf("half a status: %+v", st)
	}
}

func fakeProc(t testing.TB, dir string, pid int, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, strconv.Itoa(pid), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFactsOfFakes(t *testing.T) {
	dir := t.TempDir()
	s := &system{proc: dir}
	files := map[string]string{
		"stat":   statLine(42, "my (x", "S", 0),
		"status": fmt.Sprintf(statusText, "1"),
		"cgroup": "1:name=systemd:/\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service/deep\n",
	}
	fakeProc(t, dir, 42, files)
	f, err := s.facts(42, -1)
	want := Facts{PID: 42, StartTime: 22, UID: 1001, PPID: 4, PGID: 5, SID: 6, Comm: "my (x",
		Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service/deep",
		Unit:   "user@1000.service", UserUnit: "x.service", Threads: 20}
	if err != nil || f != want {
		t.Errorf("got  %+v, %v\nwant %+v", f, err, want)
	}

	files["stat"] = statLine(42, "kthread", "S", pfKthread)
	fakeProc(t, dir, 42, files)
	if _, err := s.facts(42, -1); !errors.As(err, new(*RefusedError)) {
		t.Errorf("kernel thread: %v", err)
	}
	if _, err := s.facts(43, -1); !errors.Is(err, unix.ENOENT) || errors.Is(err, ErrGone) {
		t.Errorf("hidden process: %v", err)
	}
}

func TestCgroupChoice(t *testing.T) {
	for content, want := range map[string]string{
		"0::/system.slice/a.service\n":                                         "/system.slice/a.service",
		"3:cpu,cpuacct:/x\n1:name=systemd:/system.slice/a.service\n0::/\n":     "/system.slice/a.service",
		"1:name=systemd:/\n0::/system.slice/a.service\n":                       "/system.slice/a.service",
		"1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n": "/system.slice/a.service",
		"9:freezer:/docker/0\n0::/\n":                                          "/",
		"9:freezer:/docker/0\n":                                                "",
		"":                                                                     "",
		"garbage\n0::relative\n:::\n":                                          "",
		"0::/a:b/c.service\n":                                                  "/a:b/c.service",
		"0::/" + strings.Repeat("x", 4090) + "\n":                              "/" + strings.Repeat("x", 4090),
		strings.Repeat("2:cpu:/"+strings.Repeat("y", 4000)+"\n", 5) + "0::/a.service\n": "/a.service",
	} {
		dir := t.TempDir()
		fakeProc(t, dir, 42, map[string]string{"cgroup": content})
		if got, err := (&system{proc: dir}).cgroup(42); got != want || err != nil {
			t.Errorf("%.80q: %.80q, %v", content, got, err)
		}
	}
}

func TestUnit(t *testing.T) {
	for _, test := range []struct{ root, path, unit, user string }{
		{"", "/", "", ""},
		{"", "", "", ""},
		{"", "/system.slice/cron.service", "cron.service", ""},
		{"", "/system.slice/cron.service/payload/x.service", "cron.service", ""},
		{"", "/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", ""},
		{"", "/init.scope", "init.scope", ""},
		{"", "/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""},
		{"", "/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service", "init.scope"},
		{"", "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.slice/y@1.service/z", "user@1000.service", "y@1.service"},
		{"", "/user.slice/user-1000.slice/user@1000.service", "user@1000.service", ""},
		{"", "/system.slice/_cgroup.service", "cgroup.service", ""},
		{"", "/system.slice/__x.service", "_x.service", ""},
		{"", `/system.slice/a\x2db.service`, `a\x2db.service`, ""},
		{"", "/system.slice/run-x.mount", "run-x.mount", ""},
		{"", "/docker/0123/system.slice/x.service", "", ""},
		{"", "/system.slice/docker-0123.scope/system.slice/x.service", "docker-0123.scope", ""},
		{"", "/system.slice/not a unit.service", "", ""},
		{"", "/system.slice/.service", "", ""},
		{"", "/system.slice/@.service", "", ""},
		{"", "/system.slice", "", ""},
		{"", "/../../system.slice/x.service", "", ""},
		{"", "/system.slice/gone.service (deleted)", "gone.service", ""},
		{"", "/system.slice/" + strings.Repeat("x", 300) + ".service", "", ""},
		{"/docker/0123", "/docker/0123/system.slice/x.service", "x.service", ""},
		{"/docker/0123", "/docker/01234/system.slice/x.service", "", ""},
		{"/docker/0123", "/system.slice/x.service", "", ""},
	} {
		unit, user := (&system{root: test.root}).unit(test.path)
		if unit != test.unit || user != test.user {
			t.Errorf("%q below %q: %q %q, want %q %q", test.path, test.root, unit, user, test.unit, test.user)
		}
	}
}

func TestManagerRoot(t *testing.T) {
	for path, want := range map[string]string{
		"/": "", "": "", "/init.scope": "", "/docker/0/init.scope": "/docker/0", "/system.slice": "", "/x": "",
		"/lxc/a/system": "/lxc/a",
	} {
		if got := managerRoot(path); got != want {
			t.Errorf("%q: %q", path, got)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	for _, test := range []struct {
		info                 string
		v2, freezer, systemd mount
	}{
		{"", mount{}, mount{}, mount{}},
		{v2, mount{"/sys/fs/cgroup", "/"}, mount{}, mount{}},
		{"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n", mount{}, mount{}, mount{"/sys/fs/cgroup/systemd", "/"}},
		{"37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			mount{"/sys/fs/cgroup/unified", "/"}, mount{"/sys/fs/cgroup/freezer", "/"}, mount{}},
		{"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", mount{}, mount{}, mount{}},
		{"50 1 0:26 /docker/0 /sys/fs/cgroup rw - cgroup2 cgroup rw\n", mount{"/sys/fs/cgroup", "/docker/0"}, mount{}, mount{}},
		{"50 1 0:26 /docker/0 /mnt rw - cgroup2 cgroup rw\n" + v2, mount{"/sys/fs/cgroup", "/"}, mount{}, mount{}},
		{v2 + "50 1 0:26 / /mnt rw - cgroup2 cgroup rw\n", mount{"/sys/fs/cgroup", "/"}, mount{}, mount{}},
		{`30 23 0:26 / /my\040cg\134x rw - cgroup2 cgroup2 rw` + "\n", mount{`/my cg\x`, "/"}, mount{}, mount{}},
		{"short\n1 2 3 - cgroup2\n - \n", mount{}, mount{}, mount{}},
	} {
		if v2, freezer, systemd := parseMounts(test.info); v2 != test.v2 || freezer != test.freezer || systemd != test.systemd {
			t.Errorf("%q: %+v %+v %+v", test.info, v2, freezer, systemd)
		}
	}
}

func TestFrozenFakes(t *testing.T) {
	dir := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("v2/ice/cgroup.events", "populated 1\nfrozen 1\n")
	write("v2/sun/cgroup.events", "populated 1\nfrozen 0\n")
	write("v2/sun/cgroup.freeze", "0\n")
	write("v2/slush/cgroup.events", "populated 1\nfrozen 0\n")
	write("v2/slush/cgroup.freeze", "1\n")
	write("v2/slush/in/cgroup.events", "populated 1\nfrozen 0\n")
	write("v2/slush/in/cgroup.freeze", "0\n")
	write("v1/ice/freezer.state", "FROZEN\n")
	write("v1/slush/freezer.state", "FREEZING\n")
	write("v1/sun/freezer.state", "THAWED\n")
	both := system{proc: dir, cgroup2: mount{dir + "/v2", "/"}, freezer: mount{dir + "/v1", "/"}}
	inContainer := system{proc: dir, cgroup2: mount{dir + "/v2", "/docker/0"}}
	for _, test := range []struct {
		s      system
		cgroup string
		want   bool
	}{
		{both, "0::/ice\n", true},
		{both, "0::/sun\n", false},
		{both, "0::/slush\n", true},
		{both, "0::/slush/in\n", true},
		{both, "0::/\n", false},
		{both, "0::/none\n", false},
		{both, "0::/../ice\n", false},
		{both, "5:freezer:/ice\n0::/\n", true},
		{both, "5:cpu,freezer:/slush\n0::/sun\n", true},
		{both, "5:freezer:/sun\n1:name=systemd:/ice\n0::/sun\n", false},
		{both, "5:freezer:/\n0::/ice\n", true},
		{system{proc: dir}, "5:freezer:/ice\n0::/ice\n", false},
		{inContainer, "0::/docker/0/ice\n", true},
		{inContainer, "0::/docker/0/sun\n", false},
		{inContainer, "0::/ice\n", false},
		{inContainer, "0::/docker/0\n", false},
		{inContainer, "0::/docker/01/ice\n", false},
	} {
		fakeProc(t, dir, 42, map[string]string{"cgroup": test.cgroup})
		if got, err := test.s.frozen(42); got != test.want || err != nil {
			t.Errorf("%q: %t, %v", test.cgroup, got, err)
		}
	}
}

// lines against a slow splitter, with lines around and above the buffer's size.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	size := len(lines{}.buf)
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		var want []string
		for range rapid.IntRange(0, 8).Draw(t, "lines") {
			n := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(size-3, size+3), rapid.IntRange(0, 3*size)).Draw(t, "length")
			line := bytes.Repeat([]byte{byte('a' + len(want))}, n)
			text = append(append(text, line...), '\n')
			want = append(want, string(line[:min(n, size)]))
		}
		if n := len(want); n > 0 && len(want[n-1]) > 0 && rapid.Bool().Draw(t, "no last newline") {
			text = text[:len(text)-1]
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		l := lines{fd: fd}
		var got []string
		for line := l.next(); line != nil; line = l.next() {
			got = append(got, string(line))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") || len(got) != len(want) || l.err != nil {
			t.Fatalf("%d lines, want %d, %v", len(got), len(want), l.err)
		}
	})
}

func TestLinesError(t *testing.T) {
	fd, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l := lines{fd: fd}
	if line := l.next(); line != nil || !errors.Is(l.err, unix.EISDIR) {
		t.Errorf("%q, %v", line, l.err)
	}
}

const mapsLine = "7f0a1c000000-7f0a1c012000 rw-s 00000000 00:01 32769                      /SYSV00005095 (deleted)"

func TestSegmentLine(t *testing.T) {
	s := newSegmentLine(0x5095, 32769, []byte("00:01"))
	for line, want := range map[string]bool{
		mapsLine: true,
		strings.TrimSuffix(mapsLine, " (deleted)"):         true,
		strings.Replace(mapsLine, "rw-s", "r--s", 1):       true,
		strings.Replace(mapsLine, "rw-s", "rw-p", 1):       false, // a private file mapping
		strings.Replace(mapsLine, "00:01", "00:2a", 1):     false, // a file of that name on another file system
		strings.Replace(mapsLine, "32769", "32768", 1):     false,
		strings.Replace(mapsLine, "5095", "5096", 1):       false,
		strings.Replace(mapsLine, "/SYSV", "/tmp/SYSV", 1): false,
		mapsLine + "x": false,
		strings.Replace(mapsLine, "/SYSV", "/memfd:/SYSV", 1): false,
		"7ffd000-7ffe000 rw-p 00000000 00:00 0 [stack]":       false,
		"": false,
	} {
		if got := s.matches([]byte(line)); got != want {
			t.Errorf("%q: %t", line, got)
		}
	}
	for key, want := range map[uint32]string{0: "/SYSV00000000", 0x5095: "/SYSV00005095", 0xdeadbeef: "/SYSVdeadbeef"} {
		if got := newSegmentLine(key, 0, nil).name; string(got) != want {
			t.Errorf("%x: %s", key, got)
		}
	}
}

func TestProbe(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Probe() {
		if f.Name == "" || f.Since == "" || seen[f.Name] {
			t.Errorf("%+v", f)
		}
		seen[f.Name] = true
		if f.Name == FeaturePidfdOpen && f.Err != "" {
			t.Errorf("%+v", f)
		}
	}
	// Also from the process's first thread and often, as the probe ends threads.
	for range 20 {
		if a, b := probeExitStatus(), probeExitStatus(); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%v, then %v", a, b)
		}
	}
}
