package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errnoOf is the errno in err, EIO for an error without one.
func errnoOf(err error) unix.Errno {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return unix.EIO
}
