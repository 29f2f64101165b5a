package process

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseSchedstat(t *testing.T) {
	for text, want := range map[string][2]time.Duration{
		"435574 17 1\n":                     {435574, 17},
		"0 0 0\n":                           {},
		"18446744073709551615 1 2":          {math.MaxInt64, 1},
		"1600000000000000000 3028278 700\n": {1600000000000000000, 3028278},
	} {
		run, wait, err := parseSchedstat([]byte(text))
		if run != want[0] || wait != want[1] || err != nil {
			t.Errorf("%q: %v %v %v", text, run, wait, err)
		}
	}
	for _, bad := range []string{"", "1", "1\n2", "-1 2 3", "1 -2 3", "x 2 3", "1 2x 3"} {
		if run, wait, err := parseSchedstat([]byte(bad)); err == nil {
			t.Errorf("%q: %v %v", bad, run, wait)
		}
	}
}

const pressureText = "some avg10=5.66 avg60=2.94 avg300=2.32 total=1488633465\nfull avg10=0.34 avg60=0.18 avg300=0.08 total=32165774\n"

func TestParsePressure(t *testing.T) {
	for _, test := range []struct {
		text, kind string
		want       float64
	}{
		{pressureText, "some", 5.66},
		{pressureText, "full", 0.34},
		{"some avg10=100.00 avg60=2.94\n", "some", 100},
		{"some avg10=5.66 avg60=2.94\n", "full", -1}, // cpu before Linux 5.13
		{"some avg60=5.66\n", "some", -1},
		{"some avg10=NaN\n", "some", -1},
		{"some avg10=-1\n", "some", -1},
		{"some avg10=100.01\n", "some", -1},
		{"somewhat avg10=1.00\nsome avg10=2.00", "some", 2},
		{"some", "some", -1},
		{"", "some", -1},
	} {
		if got := parsePressure([]byte(test.text), test.kind); got != test.want {
			t.Errorf("%q, %s: %v, want %v", test.text, test.kind, got, test.want)
		}
	}
}

func TestParseOpenLimit(t *testing.T) {
	const head = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max processes             96365                96365                processes \n"
	for text, want := range map[string]int64{
		head + "Max open files            1024                 524288               files     \n": 1024,
		head + "Max open files            unlimited            unlimited            files     \n": math.MaxInt64,
		head + "Max open files            0                    0                    files     \n": 0,
		head + "Max open files            -5                   0                    files     \n": 0,
		head + "Max open files            \n":                                                     0,
		head:                                                                                      0,
		"":                                                                                        0,
	} {
		if got := parseOpenLimit([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestParseStack(t *testing.T) {
	for text, want := range map[string]string{
		"[<0>] hrtimer_nanosleep+0x74/0xf0\n[<0>] common_nsleep+0x30/0x60 [nfs]\n": "hrtimer_nanosleep+0x74/0xf0\ncommon_nsleep+0x30/0x60 [nfs]",
		"[<0>] whole+0x1/0x2\n[<0>] cut+0":                                         "whole+0x1/0x2",
		"garbage\n":                                                                "",
		"":                                                                         "",
	} {
		if got := parseStack([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// entry is one linux_dirent64.
func entry(name string, kind byte, pad int) []byte {
	size := 19 + len(name) + 1 + pad
	b := make([]byte, size)
	binary.NativeEndian.PutUint64(b, 7)
	binary.NativeEndian.PutUint16(b[16:], uint16(size))
	b[18] = kind
	copy(b[19:], name)
	return b
}

func TestParseEntries(t *testing.T) {
	all := slices.Concat(entry(".", unix.DT_DIR, 4), entry("..", unix.DT_DIR, 0), entry("1", unix.DT_LNK, 3), entry("23", unix.DT_DIR, 0))
	read := func(b []byte, limit int) (names string, whole bool) {
		whole = parseEntries(b, func(name []byte, kind byte) bool {
			if kind == unix.DT_DIR {
				names += "/"
			}
			names += string(name) + " "
			limit--
			return limit > 0
		})
		return names, whole
	}
	if names, whole := read(all, 9); names != "1 /23 " || !whole {
		t.Errorf("%q %t", names, whole)
	}
	if names, whole := read(all, 1); names != "1 " || whole {
		t.Errorf("%q %t", names, whole)
	}
	if names, _ := read(all[:len(all)-1], 9); names != "1 " {
		t.Errorf("cut: %q", names)
	}
	empty := entry("x", 0, 0)
	binary.NativeEndian.PutUint16(empty[16:], 0)
	if names, whole := read(empty, 9); names != "" || !whole {
		t.Errorf("an entry without size: %q", names)
	}
}

func TestStatusMemory(t *testing.T) {
	for text, want := range map[string][2]int64{
		"VmRSS:\t    7252 kB\nVmSwap:\t       3 kB\n":                {7252 * 1024, 3 * 1024},
		"VmRSS:\t 99999999999999999999 kB\nVmSwap:\t -1 kB\nVmRSS\n": {},
		"RssAnon:\t    7252 kB\n":                                    {},
	} {
		var st status
		for line := range strings.Lines(text) {
			st.parseLine([]byte(strings.TrimSuffix(line, "\n")))
		}
		if st.rss != want[0] || st.swap != want[1] {
			t.Errorf("%q: %d %d", text, st.rss, st.swap)
		}
	}
}

// What the kernel prints after the figures of memory ends the reading: they must have been seen by then.
func TestStatusOrder(t *testing.T) {
	p := open(t, actor(t, "pause").pid())
	st, err := host().status(p.PID)
	if err != nil || st.rss < 1<<20 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestTicks(t *testing.T) {
	for n, want := range map[uint64]time.Duration{0: 0, 1: 10 * time.Millisecond, 100: time.Second} {
		if got := ticks(n); got != want {
			t.Errorf("%d: %v", n, got)
		}
	}
	if got := ticks(math.MaxUint64); got < 290*365*24*time.Hour {
		t.Errorf("the largest number of ticks is %v", got)
	}
}

func FuzzEvidence(f *testing.F) {
	for _, text := range []string{
		pressureText, "435574 0 1\n", "running", "0 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffe42ab1a78 0x7f6908303503\n", "Max open files  1024 2 files\n",
		"[<0>] a+0x1/0x2\n", "futex_do_wait", string(entry("12", 4, 2)),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if run, wait, err := parseSchedstat(b); err == nil && (run < 0 || wait < 0) {
			t.Errorf("schedstat %q: %v %v", b, run, wait)
		}
		for _, kind := range []string{"some", "full"} {
			if p := parsePressure(b, kind); p != -1 && !(p >= 0 && p <= 100) {
				t.Errorf("pressure %q: %v", b, p)
			}
		}
		if n := parseOpenLimit(b); n < 0 {
			t.Errorf("limit %q: %d", b, n)
		}
		if name := parseCall(b); strings.ContainsAny(name, " \n") || len(name) > 64 {
			t.Errorf("syscall %q: %q", b, name)
		}
		if s := parseStack(b); len(s) > len(b) || strings.HasSuffix(s, "\n\n") {
			t.Errorf("stack %q: %q", b, s)
		}
		if s := parseChannel(b); len(s) > len(b) || s == "0" {
			t.Errorf("wchan %q: %q", b, s)
		}
		parseEntries(b, func(name []byte, _ byte) bool {
			if len(name) > len(b) || string(name) == "." || string(name) == ".." || strings.Contains(string(name), "\x00") {
				t.Errorf("entries %q: %q", b, name)
			}
			return true
		})
	})
}
