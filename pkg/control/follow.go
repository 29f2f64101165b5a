package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// follows says whether a message calls Follow, which alone is answered with a stream.
func follows(message []byte) (request, bool) {
	r, wrong, _ := decode(message)
	return r, wrong == nil && r.Method == Interface+".Follow"
}

// follow streams events to one follower. Its connection ends with the stream: nothing else is read from it, so that what
// comes in, or that the peer has left, ends the stream at once.
func (s *Server) follow(ctx context.Context, conn *net.UnixConn, in *bufio.Reader, c Caller, r request) {
	s.roles.grant(&c)
	var cursor string
	wrong := arguments(r.Parameters, argument{"cursor", &cursor, true})
	switch {
	case r.Oneway:
		return
	case !c.CanSeeAll:
		s.send(conn, reply{Error: errNotAllowed, Parameters: reasonParameters{s.roles.requirement(false)}})
		return
	case !r.More:
		s.send(conn, reply{Error: errExpectedMore, Parameters: noParameters{}})
		return
	case wrong != nil:
		s.send(conn, *wrong)
		return
	case !s.addFollower(1):
		s.send(conn, reply{Error: errBusy, Parameters: noParameters{}})
		return
	}
	defer s.addFollower(-1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := make(chan struct{})
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(left)
		_, _ = in.Peek(1)
		cancel()
	}()
	last, broken := Followed{Cursor: cursor}, false
	err := s.config.Handler.Follow(ctx, c, cursor, func(x Followed) error {
		if s.roles.grant(&c); !c.CanSeeAll { // groups may have changed since it began
			return fmt.Errorf("%w: %s", ErrNotAllowed, s.roles.requirement(false))
		}
		last = Followed{Cursor: x.Cursor}
		err := s.write(conn, reply{Parameters: x, Continues: true})
		broken = err != nil // perhaps in the middle of a message: nothing may follow
		return err
	})
	if !broken && ctx.Err() == nil { // the peer is there, and the daemon has something to say
		if err != nil {
			s.send(conn, failure(err))
		} else {
			s.send(conn, reply{Parameters: last})
		}
	}
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	<-left
}

// addFollower counts a follower in, if there is room, or out.
func (s *Server) addFollower(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.followers >= s.limits.followers {
		return false
	}
	s.followers += n
	return true
}

// Follow calls got for each message of the stream of events from cursor on: "" for what comes from now on, CursorOldest,
// or the cursor of an earlier message. It returns nil when the daemon has ended in order, and else what got returned, a
// *LostError or what the daemon said: ErrNotAllowed, ErrBusy, an *InvalidError about the cursor. The client is of no more use afterwards.
func (c *Client) Follow(ctx context.Context, cursor string, got func(Followed) error) error {
	const method = Interface + ".Follow"
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return &LostError{method, c.lost}
	}
	c.lost = net.ErrClosed
	defer c.conn.Close()
	parameters, err := json.Marshal(followParameters{cursor})
	if err != nil {
		return err
	}
	message, err := encode(request{Method: method, Parameters: parameters, More: true})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := c.exchange(message)
	for {
		if ctx.Err() != nil {
			return &LostError{method, context.Cause(ctx)}
		}
		if err != nil {
			return &LostError{method, err}
		}
		var x Followed
		var more struct {
			Continues bool `json:"continues"`
		}
		if err := parseReply(method, answer, &x); err != nil {
			return err
		}
		if err := json.Unmarshal(answer, &more); err != nil {
			return err
		}
		if err := got(x); err != nil || !more.Continues {
			return err
		}
		answer, err = readMessage(c.in, maxReply)
	}
}

// AlertTested says to whom a test of the alerts goes, besides the journal.
type AlertTested struct {
	Followers int    `json:"followers"` // of the events
	Unit      string `json:"unit"`      // that alert.unit of the configuration starts; empty: none
}

// AlertTest has the daemon report an event that is delivered as all others are. Errors: ErrNotAllowed.
func (c *Client) AlertTest(ctx context.Context) (out AlertTested, err error) {
	err = c.call(ctx, request{Method: Interface + ".AlertTest"}, &out)
	return out, err
}
