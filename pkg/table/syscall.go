package table

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and flags of <linux/sem.h> that x/sys does not have.
const (
	semGetPID  = 11 // GETPID: the last that completed an operation; also whose exit undid one, and who set the value
	semGetVal  = 12 // GETVAL
	semGetNCnt = 14 // GETNCNT: how many wait for the value to grow
	semSetVal  = 16 // SETVAL

	semUndo = 0x1000 // SEM_UNDO
)

// semBuf is struct sembuf.
type semBuf struct {
	num uint16
	op  int16
	flg int16
}

func semget(key uint32, nsems, flags int) (id int, err error) {
	r, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(key), uintptr(nsems), uintptr(flags))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// semctl is for the commands about semaphore 0 of a set whose argument is a number or none.
func semctl(id, cmd int, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall6(unix.SYS_SEMCTL, uintptr(id), 0, uintptr(cmd), arg, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

func semstat(id int) (desc semDesc, err error) {
	_, _, errno := unix.Syscall6(unix.SYS_SEMCTL, uintptr(id), 0, unix.IPC_STAT, uintptr(unsafe.Pointer(&desc)), 0, 0)
	if errno != 0 {
		return semDesc{}, errno
	}
	return desc, nil
}

// semop makes all operations at once or none. They carry IPC_NOWAIT: nothing in this package waits.
func semop(id int, ops ...semBuf) error {
	for i := range ops {
		ops[i].flg |= unix.IPC_NOWAIT
	}
	_, _, errno := unix.Syscall(unix.SYS_SEMOP, uintptr(id), uintptr(unsafe.Pointer(unsafe.SliceData(ops))), uintptr(len(ops)))
	if errno != 0 {
		return errno
	}
	return nil
}
