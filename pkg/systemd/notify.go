package systemd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	notifyRetry = time.Second // after an error of the socket, the same message is tried again
	closeWait   = time.Second // a Close waits no longer for what is still queued
	statusMax   = 512         // bytes of STATUS=; PID 1 drops a datagram beyond 4096 bytes whole
)

// A kind is what a notification is about. Of each kind only the newest waits to be sent, so that a PID 1 that stalls
// for an hour costs five messages of memory.
type kind uint8

const (
	kindReady kind = iota
	kindReloading
	kindStopping
	kindStatus
	kindExtend
)

type notification struct {
	kind kind
	text string
}

// Notifier tells systemd about start-up, reload, shutdown and liveness (sd_notify(3)). One goroutine sends, in the
// order of the calls; no method blocks. While PID 1 does not read its socket, a newer notification replaces the waiting
// one of its kind. A nil Notifier works: every method does nothing.
//
// The watchdog ping is earned: Alive leaves a token, and a ping goes out at half of WATCHDOG_USEC, for a token that was
// left since the last ping and is not older than that half. Without a token there is no ping, and systemd ends and
// restarts the daemon.
type Notifier struct {
	send  func(state string) error
	half  time.Duration // 0: no watchdog, or another process is watched
	epoch time.Time

	token atomic.Int64 // when Alive was last called, in nanoseconds since epoch; 0: no token
	due   atomic.Bool  // half is over and no token was there: the next one is a ping at once

	mu      sync.Mutex
	pending []notification
	closing bool

	wake chan struct{}
	done chan struct{}
}

// NewNotifier returns a notifier for the socket in NOTIFY_SOCKET, or nil when there is none. WATCHDOG_USEC is honoured
// when WATCHDOG_PID names this process or nobody.
func NewNotifier() *Notifier {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		timeout = 0 // systemd wrote the variable itself; what it did not write it does not wait for
	}
	return newNotifier(timeout, func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	})
}

func newNotifier(timeout time.Duration, send func(string) error) *Notifier {
	n := &Notifier{
		send:  send,
		half:  timeout / 2,
		epoch: time.Now(),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	go n.run()
	return n
}

// Ready says that start-up or a reload is complete, and sets the status line unless it is empty.
func (n *Notifier) Ready(status string) {
	text := daemon.SdNotifyReady
	if status != "" {
		text += "\nSTATUS=" + oneLine(status)
	}
	n.post(kindReady, text)
}

// Status sets the line that `systemctl status` shows.
func (n *Notifier) Status(s string) { n.post(kindStatus, "STATUS="+oneLine(s)) }

// Reloading says that a reload begins now; Ready ends it.
func (n *Notifier) Reloading() {
	if n == nil {
		return
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail: the clock exists on every Linux
	n.post(kindReloading, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping says that the shutdown has begun.
func (n *Notifier) Stopping() { n.post(kindStopping, daemon.SdNotifyStopping) }

// Extend asks for d more, from now on, to start, run or stop.
func (n *Notifier) Extend(d time.Duration) {
	n.post(kindExtend, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Alive leaves the token that earns the next watchdog ping. It costs an atomic store.
func (n *Notifier) Alive() {
	if n == nil || n.half == 0 {
		return
	}
	n.token.Store(max(1, int64(time.Since(n.epoch))))
	if n.due.Load() {
		n.signal()
	}
}

// Close sends what is queued and ends the notifier, within a second: when PID 1 does not read its socket the goroutine
// is left behind and ends as soon as PID 1 reads or closes it. Later calls do nothing.
func (n *Notifier) Close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.signal()
	select {
	case <-n.done:
	case <-time.After(closeWait):
	}
}

func (n *Notifier) post(k kind, text string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return
	}
	n.pending = slices.DeleteFunc(n.pending, func(p notification) bool { return p.kind == k })
	n.pending = append(n.pending, notification{k, text})
	n.signal()
}

func (n *Notifier) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Notifier) run() {
	defer close(n.done)
	var ping, retry <-chan time.Time
	if n.half > 0 {
		ping = time.After(n.half)
	}
	for {
		retry = nil
		for {
			m, ok := n.next()
			if !ok {
				break
			}
			if n.send(m.text) != nil {
				n.putBack(m)
				retry = time.After(notifyRetry)
				break
			}
		}
		if n.isClosing() {
			return
		}
		if n.due.Load() && n.takeToken() && n.send(daemon.SdNotifyWatchdog) == nil {
			n.due.Store(false)
			ping = time.After(n.half)
		}
		select {
		case <-n.wake:
		case <-retry:
		case <-ping:
			ping = nil
			n.due.Store(true)
		}
	}
}

// takeToken takes the token away and reports whether it was fresh. A token grows old while a send waits for PID 1: it
// says nothing about a loop that has stood still since.
func (n *Notifier) takeToken() bool {
	left := n.token.Swap(0)
	return left != 0 && time.Since(n.epoch)-time.Duration(left) <= n.half
}

func (n *Notifier) next() (notification, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.pending) == 0 {
		return notification{}, false
	}
	m := n.pending[0]
	n.pending = slices.Delete(n.pending, 0, 1)
	return m, true
}

// putBack puts m first again, unless a newer one of its kind has come, or the notifier is being closed.
func (n *Notifier) putBack(m notification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || slices.ContainsFunc(n.pending, func(p notification) bool { return p.kind == m.kind }) {
		return
	}
	n.pending = slices.Insert(n.pending, 0, m)
}

func (n *Notifier) isClosing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closing && len(n.pending) == 0
}

// oneLine makes s fit for STATUS=: a newline in it would begin another assignment, and systemd drops what is not
// UTF-8.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > statusMax {
		s = strings.ToValidUTF8(s[:statusMax], "")
	}
	return s
}
