package table

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ErrNotExist says that there is no segment or semaphore under a key, or no longer one with an id. Errors for a missing
// right satisfy errors.Is(err, fs.ErrPermission), for an existing object errors.Is(err, fs.ErrExist).
var ErrNotExist = errors.New("no such System V IPC object")

// errPrivate refuses key 0: it is IPC_PRIVATE, under which every get makes a new object.
var errPrivate = errors.New("key 0 is IPC_PRIVATE and names no shared object")

// ipcError maps what the kernel says about a key (ENOENT) or an id (EINVAL: never existed, EIDRM: removed) that names
// nothing to ErrNotExist. Only calls whose other arguments are known to be good may pass EINVAL here.
func ipcError(err error) error {
	switch err {
	case unix.ENOENT, unix.EIDRM, unix.EINVAL:
		return ErrNotExist
	}
	return err
}

// checkMode refuses bits beyond the permissions: the get calls would take them for flags.
func checkMode(mode uint32) error {
	if mode&^0o777 != 0 {
		return fmt.Errorf("mode %#o has bits other than permissions: %w", mode, fs.ErrInvalid)
	}
	return nil
}
