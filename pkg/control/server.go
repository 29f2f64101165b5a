package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ServerConfig is what a Server needs; Handler must be set.
type ServerConfig struct {
	Group     string // members may steer and see all; a name or a number, empty: nobody
	ReadGroup string // members may see all
	OwnUID    uint32 // may do all, as uid 0
	Version   string // for GetInfo
	Handler   Handler
}

// limits bound what clients can take from the daemon.
type limits struct {
	conns    int // connections at a time
	reserved int // of these kept for callers that may steer
	perUID   int // connections of one uid that may not do all
	size     int // bytes of a request

	followers int // at a time

	idle    time.Duration // between requests
	request time.Duration // from the first byte of a request to its last
	write   time.Duration // until the peer has taken the whole reply
	call    time.Duration // what the handler's ctx grants
}

func defaultLimits() limits {
	return limits{
		conns: 64, reserved: 8, perUID: 16, size: 64 << 10, followers: 8,
		idle: 60 * time.Second, request: 10 * time.Second, write: 10 * time.Second, call: 30 * time.Second,
	}
}

// Server owns the listening socket and its connections.
type Server struct {
	config   ServerConfig
	limits   limits
	path     string
	made     fs.FileInfo
	listener *net.UnixListener
	roles    *roles
	lanes    lanes
	closed   sync.Once

	mu        sync.Mutex
	conns     map[*net.UnixConn]Caller
	followers int
}

// Listen makes the socket with mode 0666; its directory must exist. A socket that nobody serves any more is replaced; one
// that is served is a *LiveError, anything else under the path is left alone. Connections wait until Serve is called.
func Listen(path string, c ServerConfig) (*Server, error) {
	listener, made, err := bind(path)
	if err != nil {
		return nil, err
	}
	return &Server{
		config:   c,
		limits:   defaultLimits(),
		path:     path,
		made:     made,
		listener: listener,
		roles:    newRoles(c.OwnUID, c.Group, c.ReadGroup),
		lanes:    newLanes(),
		conns:    map[*net.UnixConn]Caller{},
	}, nil
}

// SetGroups replaces the groups of ServerConfig, also for connections that stand, and names those that this host does
// not have: they have no members until they are made.
func (s *Server) SetGroups(steer, read string) (missing []string) { return s.roles.set(steer, read) }

// Close stops listening and removes the socket. Only needed where Serve is not called; Serve does it at its end.
func (s *Server) Close() error {
	var err error
	s.closed.Do(func() {
		unlink(s.path, s.made)
		err = s.listener.Close()
	})
	return err
}

// Serve answers until ctx ends, then closes all connections, waits for their goroutines and returns nil. It returns an
// error only when no connection can be accepted any more.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer func() {
		cancel()
		_ = s.Close()
		s.closeAll()
		wg.Wait()
		stop()
	}()
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err != nil && exhausted(err):
			select { // descriptors or memory may come back
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		case err != nil:
			return fmt.Errorf("accept on %s: %w", s.path, err)
		}
		caller, err := peer(conn)
		if err != nil {
			_ = conn.Close()
			continue
		}
		s.roles.grant(&caller)
		if !s.admit(conn, caller) {
			s.turnAway(conn)
			continue
		}
		wg.Go(func() {
			defer s.dismiss(conn)
			s.serve(ctx, conn, caller)
		})
	}
}

// exhausted: accept(2) failed for want of something, or for a connection that is gone already.
func exhausted(err error) bool {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit counts the connection in, or refuses it: nobody may take the places of all others. The caller's roles are granted.
func (s *Server) admit(conn *net.UnixConn, c Caller) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.limits.conns
	if !c.CanSteer {
		room -= s.limits.reserved
	}
	if !s.roles.all(&c) {
		same := 0
		for _, other := range s.conns {
			if other.UID == c.UID {
				same++
			}
		}
		if same >= s.limits.perUID {
			return false
		}
	}
	if len(s.conns) >= room {
		return false
	}
	s.conns[conn] = c
	return true
}

// turnAway says Busy without having read a request. A fresh socket's buffer has room for it.
func (s *Server) turnAway(conn *net.UnixConn) {
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	if message, err := encode(reply{Error: errBusy, Parameters: noParameters{}}); err == nil {
		_, _ = conn.Write(message)
	}
	_ = conn.Close()
}

func (s *Server) dismiss(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	_ = conn.Close()
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

// serve answers one connection, one request after the other, until the peer leaves or breaks the protocol.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn, c Caller) {
	in := bufio.NewReader(conn)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(s.limits.idle))
		if _, err := in.Peek(1); err != nil {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(s.limits.request))
		message, err := readMessage(in, s.limits.size)
		if errors.Is(err, errTooLong) {
			s.send(conn, invalid("")) // the rest of it is not read, so this connection ends
			return
		}
		if err != nil {
			return
		}
		if r, ok := follows(message); ok {
			s.follow(ctx, conn, in, c, r)
			return
		}
		s.roles.grant(&c)
		leave, ok := s.lanes.enter(ctx, &c)
		if !ok {
			return
		}
		out, oneway, last := s.handle(ctx, c, message)
		leave()
		if !oneway && !s.send(conn, out) || last {
			return
		}
	}
}

// handle is one message's way from bytes to reply. last: the stream cannot be trusted any more.
func (s *Server) handle(ctx context.Context, c Caller, message []byte) (out reply, oneway, last bool) {
	r, wrong, malformed := decode(message)
	if wrong != nil {
		return *wrong, r.Oneway, malformed
	}
	s.roles.grant(&c) // groups may have changed since the last request
	ctx, cancel := context.WithTimeout(ctx, s.limits.call)
	defer cancel()
	return s.answer(ctx, c, r), r.Oneway, false
}

func (s *Server) send(conn *net.UnixConn, r reply) bool { return s.write(conn, r) == nil }

func (s *Server) write(conn *net.UnixConn, r reply) error {
	message, err := encode(r)
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.limits.write))
	_, err = conn.Write(message)
	return err
}
