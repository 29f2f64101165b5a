package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const journaldSocket = "/run/systemd/journal/socket"

// journald owns a socket that is connected to journald. go-systemd's journal.Send does not connect its own: poll(2)
// then calls it writable although journald's queue is full, and a send that waits for a stalled journald takes a whole
// CPU (2.0 s of CPU time in 2 s, Linux 6.18). A connected one sleeps, and has a deadline.
type journald struct {
	path string

	mu      sync.Mutex
	conn    *net.UnixConn
	aborted bool
}

func dialJournald(path string) (*journald, error) {
	d := &journald{path: path}
	if _, err := d.connection(); err != nil {
		return nil, err
	}
	return d, nil
}

// send writes one record and waits for room in journald's queue. The socket belongs to PID 1 and outlives a restart of
// journald; when it was made anew, the record is sent again to the new one.
func (d *journald) send(fields map[string]string) error {
	data := encode(fields)
	err := d.write(data)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNRESET) {
		d.drop()
		err = d.write(data)
	}
	return err
}

func (d *journald) write(data []byte) error {
	conn, err := d.connection()
	if err != nil {
		return err
	}
	err = sendmsg(conn, data, nil)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) { // beyond the socket's buffer: 208 KiB by default
		err = sendFile(conn, data)
	}
	if err != nil {
		return fmt.Errorf("write to %s: %w", d.path, err)
	}
	return nil
}

// abort makes the send under way and every later one fail.
func (d *journald) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = true
	if d.conn != nil {
		_ = d.conn.SetWriteDeadline(time.Unix(1, 0)) // fails only on a closed socket, whose sends fail as well
	}
}

func (d *journald) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		_ = d.conn.Close() // a datagram socket has nothing to lose at close
		d.conn = nil
	}
}

func (d *journald) connection() (*net.UnixConn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.aborted {
		return nil, fmt.Errorf("write to %s: %w", d.path, fs.ErrClosed)
	}
	if d.conn == nil {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: d.path, Net: "unixgram"})
		if err != nil {
			return nil, fmt.Errorf("connect to journald: %w", err)
		}
		d.conn = conn
	}
	return d.conn, nil
}

// sendmsg is WriteMsgUnix, which refuses a connected datagram socket.
func sendmsg(conn *net.UnixConn, data, rights []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), data, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return sent
}

// sendFile passes a record that is too big for a datagram in a sealed memfd
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
func sendFile(conn *net.UnixConn, data []byte) error {
	fd, err := unix.MemfdCreate("checkprocd-record", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("create memfd: %w", err)
	}
	defer unix.Close(fd)
	for rest := data; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			return fmt.Errorf("write memfd: %w", err)
		}
		rest = rest[n:]
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memfd: %w", err)
	}
	return sendmsg(conn, nil, unix.UnixRights(fd))
}

// encode writes fields in journald's native format: NAME=value and newline, or, for a value with a newline in it, NAME,
// newline, its length as 64 bits little-endian, the value, newline.
func encode(fields map[string]string) []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := fields[name]
		b = append(b, name...)
		if strings.Contains(value, "\n") {
			b = append(b, '\n')
			b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
		} else {
			b = append(b, '=')
		}
		b = append(b, value...)
		b = append(b, '\n')
	}
	return b
}
