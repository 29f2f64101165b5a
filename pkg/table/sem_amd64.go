package table

import "golang.org/x/sys/unix"

// semDesc is struct semid64_ds of <asm/sembuf.h>; x86-64 has padding behind both times.
type semDesc struct {
	perm  unix.SysvIpcPerm
	otime int64
	_     uint64
	ctime int64
	_     uint64
	nsems uint64
	_     [2]uint64
}
