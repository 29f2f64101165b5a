package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where the daemon listens when nothing else is configured and it runs as root.
const DefaultSocket = "/run/checkprocd/io.checkproc"

// dialTimeout bounds connect(2), which waits while the server's queue is full; maxReply bounds what is read: 65536
// records make less.
const (
	dialTimeout = 5 * time.Second
	maxReply    = 64 << 20
)

// DialError: nobody could be reached at the socket. It unwraps to the errno: ENOENT, ECONNREFUSED, EACCES.
type DialError struct {
	Path string
	Err  error
}

func (e *DialError) Unwrap() error { return e.Err }

func (e *DialError) Error() string {
	text := "connect to checkprocd at " + e.Path + ": "
	switch {
	case errors.Is(e.Err, unix.ENOENT):
		return text + "no such file (is it running? systemctl status checkprocd)"
	case errors.Is(e.Err, unix.ECONNREFUSED):
		return text + "nobody listens (it has ended: systemctl status checkprocd)"
	case errors.Is(e.Err, unix.EACCES):
		return text + "permission denied"
	}
	var errno unix.Errno
	if errors.As(e.Err, &errno) {
		return text + errno.Error()
	}
	return text + e.Err.Error()
}

// LostError: the connection ended or timed out in a call.
type LostError struct {
	Method string
	Err    error
}

func (e *LostError) Unwrap() error { return e.Err }

func (e *LostError) Error() string {
	switch {
	case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF), errors.Is(e.Err, unix.ECONNRESET),
		errors.Is(e.Err, unix.EPIPE):
		return e.Method + ": checkprocd closed the connection"
	case errors.Is(e.Err, context.DeadlineExceeded):
		return e.Method + ": checkprocd did not answer in time"
	}
	return e.Method + ": " + e.Err.Error()
}

// Client is a connection to the daemon. Its methods may be called from many goroutines; calls go one after the other.
// After a *LostError it is of no more use.
type Client struct {
	mu   sync.Mutex
	conn *net.UnixConn
	in   *bufio.Reader
	lost error
}

// Dial connects to the daemon's socket; its error is a *DialError.
func Dial(path string) (*Client, error) {
	if len(path) > maxPath {
		return nil, &DialError{path, fmt.Errorf("the path has %d bytes, a unix socket takes %d", len(path), maxPath)}
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err != nil {
		return nil, &DialError{path, err}
	}
	return &Client{conn: conn.(*net.UnixConn), in: bufio.NewReader(conn)}, nil
}

// Close ends the connection, also under a call.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks for the daemon as a whole.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out statusReply
	err := c.call(ctx, request{Method: Interface + ".GetStatus"}, &out)
	return out.Status, err
}

// List asks for the targets that the caller may see; partial: there may be others.
func (c *Client) List(ctx context.Context) (targets []Target, partial bool, err error) {
	var out listReply
	err = c.call(ctx, request{Method: Interface + ".List"}, &out)
	return out.Targets, out.Partial, err
}

// Check asks for an examination of the tables; it takes a second or two. Errors: ErrNotAllowed.
func (c *Client) Check(ctx context.Context) ([]Finding, error) {
	var out checkReply
	err := c.call(ctx, request{Method: Interface + ".Check"}, &out)
	return out.Findings, err
}

// Reload has the daemon read its configuration and waits until it is in force. Errors: *Rejected, ErrNotAllowed, ErrBusy.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	var out ReloadResult
	err := c.call(ctx, request{Method: Interface + ".Reload"}, &out)
	return out, err
}

// Hold orders the daemon not to act on targets for some time. Errors: ErrNoTarget for a pid that is no target, ErrNotAllowed.
func (c *Client) Hold(ctx context.Context, r HoldRequest) (Hold, error) {
	var out holdReply
	err := c.order(ctx, "Hold", r, &out)
	return out.Hold, err
}

// Release ends holds before their time and says how many. Errors: ErrNoTarget where there is none, ErrNotAllowed.
func (c *Client) Release(ctx context.Context, s Selector) (int, error) {
	var out releaseReply
	err := c.order(ctx, "Release", s, &out)
	return out.Released, err
}

// Brake says what becomes of the targets that the brake holds, and how many they were. Errors: ErrNotAllowed.
func (c *Client) Brake(ctx context.Context, order BrakeOrder) (int, error) {
	var out brakeReply
	err := c.order(ctx, "Brake", brakeParameters{order}, &out)
	return out.Targets, err
}

// Advise asks how the timeouts suit the beats. Errors: ErrNotAllowed.
func (c *Client) Advise(ctx context.Context) ([]Advice, error) {
	var out adviseReply
	err := c.call(ctx, request{Method: Interface + ".Advise"}, &out)
	return out.Advice, err
}

// Diff asks what a reload would do, of the daemon's own files or of another text. Errors: *Rejected for one with faults,
// ErrNotAllowed.
func (c *Client) Diff(ctx context.Context, r DiffRequest) (DiffResult, error) {
	var out DiffResult
	err := c.order(ctx, "Diff", r, &out)
	return out, err
}

// order sends a request that has parameters.
func (c *Client) order(ctx context.Context, method string, parameters, out any) error {
	text, err := json.Marshal(parameters)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return c.call(ctx, request{Method: Interface + "." + method, Parameters: text}, out)
}

// call sends one request and reads its reply into out.
func (c *Client) call(ctx context.Context, r request, out any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return &LostError{r.Method, c.lost}
	}
	message, err := encode(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Method, err)
	}
	if most := defaultLimits().size; len(message) > most+1 { // the server would end the connection
		return fmt.Errorf("%s: the request has %d bytes, %d are taken", r.Method, len(message)-1, most)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	answer, err := c.exchange(message)
	if !stop() { // ctx ended under the call, and its deadline is on the connection
		c.lost = context.Cause(ctx)
		if err != nil {
			err = c.lost
		}
	}
	if err != nil {
		c.lost = err
		_ = c.conn.Close()
		return &LostError{r.Method, err}
	}
	return parseReply(r.Method, answer, out)
}

// exchange writes the message and reads one. A server that turned the connection away has said so before
// it closed, so a failed write is told only when there is nothing to read.
func (c *Client) exchange(message []byte) ([]byte, error) {
	_, failed := c.conn.Write(message)
	answer, err := readMessage(c.in, maxReply)
	if err != nil && failed != nil {
		err = failed
	}
	return answer, err
}

func parseReply(method string, answer []byte, out any) error {
	var r struct {
		Error      string          `json:"error"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("%s: unreadable answer: %w", method, err)
	}
	if r.Error != "" {
		return remoteError(r.Error, r.Parameters)
	}
	if len(r.Parameters) == 0 {
		return fmt.Errorf("%s: the answer has no parameters", method)
	}
	if err := json.Unmarshal(r.Parameters, out); err != nil {
		return fmt.Errorf("%s: unreadable answer: %w", method, err)
	}
	return nil
}

// saying is err with the text that the daemon sent about it, which may begin with that of err.
func saying(err error, text string) error {
	text = strings.TrimPrefix(strings.TrimPrefix(text, err.Error()), ": ")
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

func remoteError(name string, parameters json.RawMessage) error {
	var p struct {
		reasonParameters
		faultsParameters
		messageParameters
		Parameter string `json:"parameter"`
	}
	_ = json.Unmarshal(parameters, &p) // an error without its parameters is an error still
	switch name {
	case errNotAllowed:
		return saying(ErrNotAllowed, p.Reason)
	case errNoTarget:
		return saying(ErrNoTarget, p.Message)
	case errBusy:
		return ErrBusy
	case errRejected:
		return &Rejected{p.Faults}
	case errInvalidParameter:
		return &InvalidError{p.Parameter}
	case errFailed:
		return &RemoteError{name, p.Message}
	}
	return &RemoteError{name, string(bytes.TrimSpace(parameters))}
}
