package table

import (
	"bytes"
	"unicode"
	"unicode/utf8"
	"unsafe"
)

// Shape of the table as all current clients have it.
const (
	DefaultKey     = 0x5095 // of the segment and of the clients' semaphore
	DefaultRecords = 1000
	RecordSize     = 72 // bytes
	NameSize       = 51 // bytes of a name; one of this length has no NUL
)

// Record is one record as it lies in the segment. Timeout is in seconds; Token is the client's time(0) at its last
// beat, to be taken as opaque: different means a beat, whatever the value. No field has been validated.
type Record struct {
	PID     int32
	Name    [NameSize]byte
	_       [1]byte
	Timeout int32
	_       [4]byte
	Token   int64
}

// The layout is the clients'; a build in which it differs must fail.
var (
	_ [0]byte          = [unsafe.Offsetof(Record{}.PID)]byte{}
	_ [4]byte          = [unsafe.Offsetof(Record{}.Name)]byte{}
	_ [56]byte         = [unsafe.Offsetof(Record{}.Timeout)]byte{}
	_ [64]byte         = [unsafe.Offsetof(Record{}.Token)]byte{}
	_ [RecordSize]byte = [unsafe.Sizeof(Record{})]byte{}
)

// Same reports whether r and o agree in pid, name (the bytes before the first NUL), timeout and token. Padding and
// what stands behind the NUL are ignored: most clients leave garbage there.
func (r *Record) Same(o *Record) bool {
	return r.PID == o.PID && r.Timeout == o.Timeout && r.Token == o.Token &&
		bytes.Equal(nameBytes(&r.Name), nameBytes(&o.Name))
}

// Alike reports whether r and o are the same but for their tokens, to the byte. It is for those who compare thousands:
// four words are compared in place, 51 bytes by a call. Garbage in the padding makes a difference; [Segment.Read] copies
// none.
func (r *Record) Alike(o *Record) bool {
	a, b := (*[2][4]uint64)(unsafe.Pointer(r)), (*[2][4]uint64)(unsafe.Pointer(o))
	return a[0] == b[0] && a[1] == b[1]
}

// CleanName is name up to its first NUL as text that is safe in a log line and on a terminal. Bytes that are no UTF-8
// (a GBK name, a character cut at the end) and bytes of characters that do not print (control characters, bidirectional
// overrides, line separators) become \xNN, the backslash itself \x5c, so that different names stay different. An empty
// name allocates nothing.
func CleanName(name *[NameSize]byte) string {
	raw := nameBytes(name)
	if len(raw) == 0 {
		return ""
	}
	clean := true
	for _, c := range raw {
		clean = clean && ' ' <= c && c <= '~' && c != '\\'
	}
	if clean {
		return string(raw)
	}

	const hex = "0123456789abcdef"
	out := make([]byte, 0, 4*len(raw))
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		invalid := r == utf8.RuneError && size == 1
		if invalid || r == '\\' || !unicode.IsPrint(r) {
			for _, c := range raw[:size] {
				out = append(out, '\\', 'x', hex[c>>4], hex[c&15])
			}
		} else {
			out = append(out, raw[:size]...)
		}
		raw = raw[size:]
	}
	return string(out)
}

func nameBytes(name *[NameSize]byte) []byte {
	if end := bytes.IndexByte(name[:], 0); end >= 0 {
		return name[:end]
	}
	return name[:]
}
