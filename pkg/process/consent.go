package process

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Consent says whether a process has joined a heartbeat table by itself.
type Consent uint8

const (
	ConsentUnknown        Consent = iota // could not be read, or not in time
	ConsentProven                        // the segment is mapped, in our IPC and pid namespaces
	ConsentNotMapped                     // the whole address space was read, and the segment is not in it
	ConsentOtherNamespace                // its IPC or pid namespace is not ours
	ConsentGone                          // no such process
)

func (c Consent) String() string {
	switch c {
	case ConsentProven:
		return "proven"
	case ConsentNotMapped:
		return "not mapped"
	case ConsentOtherNamespace:
		return "other namespace"
	case ConsentGone:
		return "gone"
	}
	return "unknown"
}

// ConsentAnswer is the answer to one Reader.Ask. The question went by number: the answer is about a Process only if
// that Process has not exited when the answer is there.
type ConsentAnswer struct {
	ID        uint64 // of the question
	PID       int32
	SegmentID int
	Consent   Consent
	Err       error // why the consent is unknown; nil otherwise
}

// request is one question to the helper.
type request struct {
	pid       int32
	key       uint32
	segmentID int32
}

// response is the helper's answer: where the consent is unknown, the operation that was refused and its errno.
type response struct {
	pid     int32
	consent Consent
	op      operation
	errno   unix.Errno
}

// operation is what the helper was doing.
type operation uint8

const (
	opNone operation = iota
	opOpen
	opIPC
	opPID
	opMaps
	opSelf
)

// On the socket: packets of fixed size in the machine's byte order; both ends are one binary.
const (
	requestSize  = 12
	responseSize = 12
)

func (r request) marshal() (b [requestSize]byte) {
	binary.NativeEndian.PutUint32(b[0:], uint32(r.pid))
	binary.NativeEndian.PutUint32(b[4:], r.key)
	binary.NativeEndian.PutUint32(b[8:], uint32(r.segmentID))
	return b
}

func parseRequest(b []byte) (request, bool) {
	if len(b) != requestSize {
		return request{}, false
	}
	return request{
		pid:       int32(binary.NativeEndian.Uint32(b[0:])),
		key:       binary.NativeEndian.Uint32(b[4:]),
		segmentID: int32(binary.NativeEndian.Uint32(b[8:])),
	}, true
}

func (r response) marshal() (b [responseSize]byte) {
	binary.NativeEndian.PutUint32(b[0:], uint32(r.pid))
	b[4], b[5] = byte(r.consent), byte(r.op)
	binary.NativeEndian.PutUint32(b[8:], uint32(r.errno))
	return b
}

func parseResponse(b []byte) (response, bool) {
	if len(b) != responseSize || Consent(b[4]) > ConsentGone {
		return response{}, false
	}
	return response{
		pid:     int32(binary.NativeEndian.Uint32(b[0:])),
		consent: Consent(b[4]),
		op:      operation(b[5]),
		errno:   unix.Errno(binary.NativeEndian.Uint32(b[8:])),
	}, true
}

// err is nil unless the consent is unknown.
func (r response) err() error {
	if r.consent != ConsentUnknown {
		return nil
	}
	what := fmt.Sprintf("read consent of %d", r.pid)
	switch r.op {
	case opOpen:
		what = fmt.Sprintf("open /proc/%d", r.pid)
	case opIPC:
		what = fmt.Sprintf("read /proc/%d/ns/ipc", r.pid)
	case opPID:
		what = fmt.Sprintf("read /proc/%d/ns/pid", r.pid)
	case opMaps:
		what = fmt.Sprintf("read /proc/%d/maps", r.pid)
	case opSelf:
		what = "read the helper's own namespaces"
	}
	return fmt.Errorf("%s: %w", what, r.errno)
}
