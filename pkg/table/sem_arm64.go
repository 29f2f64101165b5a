package table

import "golang.org/x/sys/unix"

// semDesc is struct semid64_ds of <asm-generic/sembuf.h>.
type semDesc struct {
	perm  unix.SysvIpcPerm
	otime int64
	ctime int64
	nsems uint64
	_     [2]uint64
}
