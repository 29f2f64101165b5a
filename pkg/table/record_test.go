package table

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func name(s string) (n [NameSize]byte) {
	copy(n[:], s)
	return n
}

func TestCleanName(t *testing.T) {
	tests := []struct{ what, raw, want string }{
		{"empty", "", ""},
		{"plain", "ftpputfiles", "ftpputfiles"},
		{"with a space", "crt survey data", "crt survey data"},
		{"ends at the first NUL", "abc\x00def", "abc"},
		{"NUL first", "\x00abc", ""},
		{"51 bytes, no NUL", strings.Repeat("x", 51), strings.Repeat("x", 51)},
		{"UTF-8", "气象站-é", "气象站-é"},
		{"UTF-8 cut in the middle", strings.Repeat("x", 49) + "气", strings.Repeat("x", 49) + `\xe6\xb0`},
		{"GBK", "\xc6\xf8\xcf\xf3", `\xc6\xf8\xcf\xf3`},
		{"GBK cut in the middle", strings.Repeat("x", 50) + "\xc6", strings.Repeat("x", 50) + `\xc6`},
		{"escape sequence", "a\x1b[2Jb", `a\x1b[2Jb`},
		{"newline forges a line", "a\nkilled", `a\x0akilled`},
		{"tab, DEL", "a\tb\x7f", `a\x09b\x7f`},
		{"C1 control", "a\u009bb", `a\xc2\x9bb`},
		{"right-to-left override", "a\u202eb", `a\xe2\x80\xaeb`},
		{"line separator", "a\u2028b", `a\xe2\x80\xa8b`},
		{"the replacement character itself", "a\ufffdb", "a\ufffdb"},
		{"backslash", `a\x0ab`, `a\x5cx0ab`},
		{"all 0xff", strings.Repeat("\xff", 51), strings.Repeat(`\xff`, 51)},
	}
	for _, test := range tests {
		n := name(test.raw)
		if got := CleanName(&n); got != test.want {
			t.Errorf("%s: CleanName(%q) = %q, want %q", test.what, test.raw, got, test.want)
		}
	}
}

func TestCleanNameOfEmptyAllocatesNothing(t *testing.T) {
	var empty [NameSize]byte
	if n := testing.AllocsPerRun(100, func() { CleanName(&empty) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSame(t *testing.T) {
	base := Record{PID: 4242, Name: name("a"), Timeout: 30, Token: 1700000000}
	tests := []struct {
		what   string
		change func(*Record)
		want   bool
	}{
		{"equal", func(*Record) {}, true},
		{"garbage in the padding", func(r *Record) { b := bytesOf(r); b[55], b[60], b[63] = 1, 2, 3 }, true},
		{"garbage behind the NUL", func(r *Record) { r.Name[2], r.Name[50] = 'x', 'y' }, true},
		{"pid", func(r *Record) { r.PID++ }, false},
		{"name", func(r *Record) { r.Name[0] = 'b' }, false},
		{"longer name", func(r *Record) { r.Name[1] = 'b' }, false},
		{"timeout", func(r *Record) { r.Timeout = -r.Timeout }, false},
		{"token backwards", func(r *Record) { r.Token-- }, false},
	}
	for _, test := range tests {
		other := base
		test.change(&other)
		if base.Same(&other) != test.want || other.Same(&base) != test.want {
			t.Errorf("%s: Same is not %v", test.what, test.want)
		}
	}
	full, longer := base, base
	full.Name = name(strings.Repeat("x", 51))
	longer.Name = name(strings.Repeat("x", 50))
	if full.Same(&longer) || !full.Same(&full) {
		t.Error("a name of 51 bytes is not compared to its end")
	}
}

// TestAlike: each byte makes two records differ, but those of the token.
func TestAlike(t *testing.T) {
	base := Record{PID: 4242, Name: name("a"), Timeout: 30, Token: 1700000000}
	for i := range RecordSize {
		other := base
		bytesOf(&other)[i]++
		if want := i >= 64; base.Alike(&other) != want || other.Alike(&base) != want {
			t.Errorf("with another byte %d, Alike is not %v", i, want)
		}
	}
}

// TestReadHostile puts bytes into shared memory as clients leave them and looks at what comes out.
func TestReadHostile(t *testing.T) {
	garbage := bytes.Repeat([]byte{0xa5}, RecordSize)
	tests := []struct {
		what string
		raw  func(b []byte)
		want Record
	}{
		{"zero", func([]byte) {}, Record{}},
		{"all ones", func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, RecordSize)) },
			Record{PID: -1, Name: name(strings.Repeat("\xff", 51)), Timeout: -1, Token: -1}},
		{"torn: pid alone", func(b []byte) { put32(b[0:], 4242) }, Record{PID: 4242}},
		{"torn: all but the pid", func(b []byte) { copy(b[4:], "left"); put32(b[56:], 30); put64(b[64:], 99) },
			Record{Name: name("left"), Timeout: 30, Token: 99}},
		{"extremes", func(b []byte) {
			put32(b[0:], math.MinInt32)
			put32(b[56:], math.MinInt32)
			put64(b[64:], math.MinInt64)
		},
			Record{PID: math.MinInt32, Timeout: math.MinInt32, Token: math.MinInt64}},
		{"padding of garbage", func(b []byte) {
			copy(b, garbage)
			put32(b[0:], 1)
			copy(b[4:55], make([]byte, 51))
			put32(b[56:], 2)
			put64(b[64:], 3)
		}, Record{PID: 1, Timeout: 2, Token: 3}},
	}
	s := privateSegment(t, len(tests)+2)
	for i, test := range tests {
		test.raw(s.raw(i + 1))
	}
	all := make([]Record, s.Len())
	s.Read(all)
	for i, test := range tests {
		if all[i+1] != test.want || !bytes.Equal(bytesOf(&all[i+1]), bytesOf(&test.want)) {
			t.Errorf("%s: read %+v, want %+v, padding zero", test.what, all[i+1], test.want)
		}
		if got := s.Load(i + 1); got != test.want {
			t.Errorf("%s: loaded %+v, want %+v", test.what, got, test.want)
		}
		if pid, token := s.Token(i + 1); pid != test.want.PID || token != test.want.Token {
			t.Errorf("%s: pid %d, token %d, want %d, %d", test.what, pid, token, test.want.PID, test.want.Token)
		}
	}
	if all[0] != (Record{}) || all[len(all)-1] != (Record{}) {
		t.Error("a record spilled over into its neighbours")
	}
}

func put32(b []byte, n int32) { binary.NativeEndian.PutUint32(b, uint32(n)) }
func put64(b []byte, n int64) { binary.NativeEndian.PutUint64(b, uint64(n)) }

// FuzzRecord lays two records of any bytes side by side in shared memory.
func FuzzRecord(f *testing.F) {
	f.Add(make([]byte, 2*RecordSize))
	f.Add(bytes.Repeat([]byte{0xff}, 2*RecordSize))
	f.Add(bytes.Repeat([]byte{0x92, 0x10, 0, 0, 'f', 't', 'p', 0, 0x1b, '\\', 0xe6, 0xb0}, 12))
	s := privateSegment(f, 2)
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(s.mem)
		copy(s.mem, data)
		before := bytes.Clone(s.mem)

		var got [2]Record
		s.Read(got[:])
		for i := range got {
			r, raw := &got[i], before[i*RecordSize:(i+1)*RecordSize]
			if r.PID != int32(binary.NativeEndian.Uint32(raw[0:])) ||
				!bytes.Equal(r.Name[:], raw[4:55]) ||
				r.Timeout != int32(binary.NativeEndian.Uint32(raw[56:])) ||
				r.Token != int64(binary.NativeEndian.Uint64(raw[64:])) {
				t.Fatalf("%x decoded as %+v", raw, r)
			}
			if *r != s.Load(i) || !r.Same(r) {
				t.Fatalf("%x: Read, Load and Same disagree", raw)
			}
			clean := CleanName(&r.Name)
			if !utf8.ValidString(clean) || len(clean) > 4*NameSize {
				t.Fatalf("%x: name %q", raw, clean)
			}
			for _, c := range clean {
				if !unicode.IsPrint(c) {
					t.Fatalf("%x: name %q has %U", raw, clean, c)
				}
			}
		}
		sameName := bytes.Equal(nameBytes(&got[0].Name), nameBytes(&got[1].Name))
		if (CleanName(&got[0].Name) == CleanName(&got[1].Name)) != sameName {
			t.Fatalf("names %x and %x, clean %q and %q", got[0].Name, got[1].Name, CleanName(&got[0].Name), CleanName(&got[1].Name))
		}
		same := sameName && got[0].PID == got[1].PID && got[0].Timeout == got[1].Timeout && got[0].Token == got[1].Token
		if got[0].Same(&got[1]) != same || got[1].Same(&got[0]) != same {
			t.Fatalf("Same is not %v of %+v and %+v", same, got[0], got[1])
		}

		cleared := s.Clear(0, got[1].PID)
		if cleared != (got[0].PID == got[1].PID && got[0].PID != 0) {
			t.Fatalf("Clear(0, %d) is %v with pid %d there", got[1].PID, cleared, got[0].PID)
		}
		if cleared {
			clear(before[:4])
		}
		if !bytes.Equal(before, s.mem) {
			t.Fatalf("Clear wrote more than the pid:\n%x\n%x", before, s.mem)
		}
	})
}
