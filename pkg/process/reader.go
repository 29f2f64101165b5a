package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	answerTime = time.Second     // an answer later than this costs the helper its life
	startTime  = 5 * time.Second // from exec to ready; 4 ms on an idle machine
	maxQueue   = 4096            // questions; a table has 1000 records
	maxStuck   = 8               // killed helpers that have not ended: reads that not even SIGKILL interrupts

	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second

	closeTime = 2 * time.Second
)

var (
	errQueueFull = fmt.Errorf("more than %d questions wait", maxQueue)
	errStuck     = fmt.Errorf("%d helpers were killed and have not ended", maxStuck)
	errHelper    = errors.New("helper ended without an answer")
)

// Reader asks one helper process for what can block for ever on just the process that is stuck: /proc/PID/maps waits
// while the process holds its mmap_lock. The helper is this binary started anew; it starts with the first question.
//
//	         Ask                   answer in time
//	idle ──────────▶ asking ─────────────────────▶ idle
//	                   │ 1 s late: kill the helper, answer unknown
//	                   │ helper ended: answer unknown; at once after its start: no new one before the backoff is over
//	                   ▼
//	                no helper ──next question──▶ asking, with a new helper
type Reader struct {
	answer func(ConsentAnswer)
	env    []string // the helper's environment

	mu       sync.Mutex
	queue    []question
	overflow []question
	asked    map[question]struct{} // in queue or overflow
	closed   bool

	kick chan struct{} // capacity 1: something was queued, or closed was set
	done chan struct{} // closed when run has returned

	pid    atomic.Int32
	stuck  atomic.Int32
	reaped sync.WaitGroup
}

// NewReader starts the reader's goroutine. answer is called on it, once for each question; Close waits for it, so it
// must not wait for the goroutine that calls Close.
func NewReader(answer func(ConsentAnswer)) *Reader {
	return newReader(answer)
}

func newReader(answer func(ConsentAnswer), env ...string) *Reader {
	r := &Reader{
		answer: answer,
		// A helper that serves one question after the other needs one processor and makes no garbage to speak of.
		env:   append([]string{"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=8MiB", "PATH=", "LANG=C"}, env...),
		asked: make(map[question]struct{}),
		kick:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	go r.run()
	return r
}

// question is a request and the asker's name for it.
type question struct {
	request
	id uint64
}

// Ask queues a question and never blocks; id comes back with the answer, so that one about an earlier process of the
// same number is not taken for one about its successor. A question that already waits is not queued again: one answer
// serves both. When more than 4096 wait the answer is ConsentUnknown, soon. Nothing is answered after Close.
func (r *Reader) Ask(pid int32, key uint32, segmentID int, id uint64) {
	req := question{request{pid, key, int32(segmentID)}, id}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.asked[req]; ok || r.closed {
		return
	}
	r.asked[req] = struct{}{}
	if len(r.queue) < maxQueue {
		r.queue = append(r.queue, req)
	} else {
		r.overflow = append(r.overflow, req)
	}
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// PID is the pid of the running helper, 0 when none runs.
func (r *Reader) PID() int32 { return r.pid.Load() }

// Close ends the helper and waits for it, without answers to what is still queued. A question under way is waited for
// (a second at most). Error: a killed helper has not ended within 2 s. A second Close does nothing.
func (r *Reader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	<-r.done

	gone := make(chan struct{})
	go func() { r.reaped.Wait(); close(gone) }()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-gone:
		return nil
	case <-timer.C:
		return fmt.Errorf("close reader: %d helpers have not ended %v after SIGKILL", r.stuck.Load(), closeTime)
	}
}

// next takes the next question; unanswered ones of the overflow come first, since their answer is known.
func (r *Reader) next() (req question, overflow, ok bool) {
	for {
		r.mu.Lock()
		switch {
		case r.closed:
			r.mu.Unlock()
			return question{}, false, false
		case len(r.overflow) > 0:
			req, overflow, ok = r.overflow[0], true, true
			r.overflow = r.overflow[1:]
		case len(r.queue) > 0:
			req, ok = r.queue[0], true
			r.queue = r.queue[1:]
		}
		if ok {
			delete(r.asked, req)
			r.mu.Unlock()
			return req, overflow, true
		}
		r.queue, r.overflow = nil, nil
		r.mu.Unlock()
		<-r.kick
	}
}

func (r *Reader) run() {
	defer close(r.done)
	// The helper's parent-death signal is sent when the thread that started it ends, so that must be this one's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var (
		h       *helper
		backoff time.Duration
		notTill time.Time
		reason  error
	)
	defer func() { r.dismiss(h) }()
	for {
		req, overflow, ok := r.next()
		if !ok {
			return
		}
		var (
			resp response
			err  error
		)
		switch {
		case overflow:
			err = errQueueFull
		case h == nil && time.Now().Before(notTill):
			err = reason
		case h == nil && r.stuck.Load() >= maxStuck:
			err = errStuck
		default:
			started := h == nil
			if started {
				h, err = r.start()
			}
			if err == nil {
				if resp, err = h.ask(req.request); err == nil {
					backoff = 0
					err = resp.err()
					break
				}
				// A process that is stuck is no fault of the helper: the next question gets a new one at once.
				started = started && !errors.Is(err, os.ErrDeadlineExceeded)
			}
			r.dismiss(h)
			h = nil
			if started {
				backoff = min(max(2*backoff, firstBackoff), maxBackoff)
				notTill, reason = time.Now().Add(backoff), err
			}
		}
		if err != nil {
			err = fmt.Errorf("ask for consent of %d: %w", req.pid, err)
		}
		r.answer(ConsentAnswer{ID: req.id, PID: req.pid, SegmentID: int(req.segmentID), Consent: resp.consent, Err: err})
	}
}

// helper is one helper process. It owns the socket.
type helper struct {
	cmd    *exec.Cmd
	socket *os.File
}

// start starts a helper and waits until it is ready. With an error the helper can be nil or not.
func (r *Reader) start() (*helper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "helper's socket")
	if err := unix.SetNonblock(fds[0], true); err != nil {
		theirs.Close()
		unix.Close(fds[0])
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "socket to the helper")

	cmd := &exec.Cmd{
		// Executes this binary also after an upgrade has removed or replaced the file.
		Path:       "/proc/self/exe",
		Args:       []string{HelperName},
		Env:        r.env,
		Dir:        "/",
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:    true, // under procctl some services signal their whole process group
			Pdeathsig: syscall.SIGKILL,
		},
	}
	err = cmd.Start()
	theirs.Close() // else its end would not end ours
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start helper: %w", err)
	}
	pid := int32(cmd.Process.Pid)
	r.pid.Store(pid)
	helpers.Store(pid, struct{}{})
	h := &helper{cmd: cmd, socket: ours}
	if _, err := h.receive(0, startTime); err != nil {
		return h, fmt.Errorf("start helper: %w", err)
	}
	return h, nil
}

// receive waits for the answer about pid.
func (h *helper) receive(pid int32, limit time.Duration) (response, error) {
	if err := h.socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return response{}, err
	}
	var buf [responseSize + 1]byte
	n, err := h.socket.Read(buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return response{}, fmt.Errorf("no answer within %v, helper killed: %w", limit, err)
	}
	if err != nil {
		return response{}, errHelper
	}
	resp, ok := parseResponse(buf[:n])
	if !ok || resp.pid != pid {
		return response{}, errors.New("helper sent a malformed answer")
	}
	return resp, nil
}

// ask sends one question and waits for its answer. After an error of its own the helper is of no more use.
func (h *helper) ask(req request) (response, error) {
	question := req.marshal()
	// Never waits: one small packet at a time is under way.
	if _, err := h.socket.Write(question[:]); err != nil {
		return response{}, errHelper
	}
	return h.receive(req.pid, answerTime)
}

// dismiss kills the helper, if any. It does not wait: a helper in an uninterruptible read ends when that read does.
func (r *Reader) dismiss(h *helper) {
	if h == nil {
		return
	}
	h.socket.Close()
	_ = h.cmd.Process.Kill() // through the pidfd that os/exec holds
	r.pid.Store(0)
	r.stuck.Add(1)
	r.reaped.Go(func() {
		_ = h.cmd.Wait()
		helpers.Delete(int32(h.cmd.Process.Pid))
		r.stuck.Add(-1)
	})
}
