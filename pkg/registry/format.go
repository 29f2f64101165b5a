package registry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The file begins with two headers, each in a page of its own; the payloads lie behind them, where the headers say.
//
//	0      header 0
//	4096   header 1
//	8192   payloads
//
// A header, little endian:
//
//	0    8   magic
//	8    4   version of the payload, the caller's
//	12   64  boot id, filled up with NUL
//	76   8   generation
//	84   8   offset of the payload
//	92   8   room for it
//	100  8   its length
//	108  4   its CRC-32C
//	112  4   CRC-32C of the header before this field
const (
	magic       = "checkpr\x01"
	headerPage  = 4096
	headerSize  = 116
	bootIDSize  = 64
	payloadBase = 2 * headerPage

	growStep   = 64 << 10  // room for a payload comes in multiples of this
	maxPayload = 256 << 20 // about 1 KB for each of 250 000 targets
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// generation is one saved payload as its header describes it.
type generation struct {
	version uint32
	bootID  [bootIDSize]byte
	number  uint64 // 0: none
	offset  int64
	room    int64
	length  int64
	sum     uint32
}

func (g *generation) end() int64 { return g.offset + g.room }

// encode writes the header to b without allocating.
func (g *generation) encode(b *[headerSize]byte) {
	le := binary.LittleEndian
	copy(b[0:], magic)
	le.PutUint32(b[8:], g.version)
	copy(b[12:], g.bootID[:])
	le.PutUint64(b[76:], g.number)
	le.PutUint64(b[84:], uint64(g.offset))
	le.PutUint64(b[92:], uint64(g.room))
	le.PutUint64(b[100:], uint64(g.length))
	le.PutUint32(b[108:], g.sum)
	le.PutUint32(b[112:], crc32.Checksum(b[:112], castagnoli))
}

// decode reads a header. Its numbers are believed only within the limits of a file of that size.
func decode(b []byte, fileSize int64) (g generation, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < headerSize:
		return g, fmt.Errorf("header is cut off after %d bytes", len(b))
	case !bytes.Equal(b[:8], []byte(magic)):
		return g, fmt.Errorf("header begins with %q", b[:8])
	case le.Uint32(b[112:]) != crc32.Checksum(b[:112], castagnoli):
		return g, fmt.Errorf("checksum of the header is wrong")
	}
	g.version = le.Uint32(b[8:])
	copy(g.bootID[:], b[12:])
	g.number = le.Uint64(b[76:])
	offset, room, length := le.Uint64(b[84:]), le.Uint64(b[92:]), le.Uint64(b[100:])
	g.sum = le.Uint32(b[108:])
	if g.number == 0 || g.number > 1<<62 || offset < payloadBase || offset > 4*maxPayload || room > 2*maxPayload || length > room || length > maxPayload {
		return g, fmt.Errorf("header has impossible numbers: generation %d, %d of %d bytes at %d", g.number, length, room, offset)
	}
	g.offset, g.room, g.length = int64(offset), int64(room), int64(length)
	if g.offset+g.length > fileSize {
		return g, fmt.Errorf("payload of %d bytes at %d is cut off at %d", g.length, g.offset, fileSize)
	}
	return g, nil
}

// place returns where a payload of that length finds room beside the live generation: in front of it where there is
// enough, else behind it. So the file stays below three times the largest room.
func place(live *generation, length int64) (offset, room int64) {
	// Half as much again, so that a slowly growing payload does not move each time.
	room = (length + length/2 + growStep - 1) / growStep * growStep
	room = max(room, growStep)
	if payloadBase+room <= live.offset {
		return payloadBase, room
	}
	return max(live.end(), payloadBase), room
}
