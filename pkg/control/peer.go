package control

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups bounds what SO_PEERGROUPS may answer: NGROUPS_MAX of Linux.
const maxGroups = 65536

// peer asks the kernel who connected: credentials as they were at connect(2), translated to our namespaces.
func peer(conn *net.UnixConn) (Caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Caller{}, fmt.Errorf("peer credentials: %w", err)
	}
	var c Caller
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = fmt.Errorf("getsockopt SO_PEERCRED: %w", err)
			return
		}
		c.PID, c.UID, c.GID = cred.Pid, cred.Uid, cred.Gid
		// Without its supplementary groups a caller has fewer rights, never more.
		c.Groups, failed = peerGroups(fd)
	})
	if err != nil {
		return Caller{}, fmt.Errorf("peer credentials: %w", err)
	}
	return c, failed
}

// peerGroups is getsockopt(SO_PEERGROUPS), Linux 4.13, which x/sys has no wrapper for. ERANGE tells the length it takes.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size / 4)
		switch {
		case errno == 0 && n <= len(groups):
			return groups[:n], nil
		case errno == unix.ERANGE && n > len(groups) && n <= maxGroups:
			groups = make([]uint32, n)
		case errno == 0:
			return nil, fmt.Errorf("getsockopt SO_PEERGROUPS: length %d for room of %d", n, len(groups))
		default:
			return nil, fmt.Errorf("getsockopt SO_PEERGROUPS: %w", errno)
		}
	}
}
