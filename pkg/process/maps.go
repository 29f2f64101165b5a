package process

import (
	"bytes"
	"strconv"
)

// segmentLine recognises the mapping of one SysV segment in a line of /proc/PID/maps:
//
//	7f0a1c000000-7f0a1c012000 rw-s 00000000 00:01 32769                      /SYSV00005095 (deleted)
//
// The kernel names the file after the key and gives it the segment's id as inode. Name and inode can be forged by a
// file of that name in a mount namespace of somebody's own, whose descriptor is passed to a program that maps what its
// clients send it (a display server does). The device cannot: it is the kernel's internal tmpfs.
type segmentLine struct {
	name   []byte // "/SYSV00005095"
	inode  []byte
	device []byte // "00:01"
}

func newSegmentLine(key uint32, id int32, device []byte) segmentLine {
	const hex = "0123456789abcdef"
	name := []byte("/SYSV")
	for shift := 28; shift >= 0; shift -= 4 {
		name = append(name, hex[key>>shift&15])
	}
	return segmentLine{name: name, inode: strconv.AppendInt(nil, int64(id), 10), device: device}
}

func (s segmentLine) matches(line []byte) bool {
	_, rest := cutWord(line) // addresses
	perms, rest := cutWord(rest)
	_, rest = cutWord(rest) // offset
	device, rest := cutWord(rest)
	inode, rest := cutWord(rest)
	if len(perms) != 4 || perms[3] != 's' || !bytes.Equal(device, s.device) || !bytes.Equal(inode, s.inode) {
		return false
	}
	path := bytes.TrimLeft(rest, " ")
	path = bytes.TrimSuffix(path, []byte(" (deleted)"))
	return bytes.Equal(path, s.name)
}
