package alert

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what must happen sooner or later.
const patience = 60 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// receiver is a real HTTP server that is told how to behave.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	behave   func(w http.ResponseWriter, r *http.Request, p Payload) bool // false: it took nothing
	got      []Notification
	requests int
	headers  http.Header
	body     []byte
}

func newReceiver(t *testing.T) *receiver {
	x := &receiver{}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var p Payload
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%v: %s", err, body)
		}
		x.mu.Lock()
		behave := x.behave
		x.requests++
		x.headers, x.body = r.Header, body
		x.mu.Unlock()
		if behave != nil && !behave(w, r, p) {
			return
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.got = append(x.got, p.Notifications...)
	}))
	t.Cleanup(x.Close)
	return x
}

func (x *receiver) set(behave func(http.ResponseWriter, *http.Request, Payload) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.behave = behave
}

func (x *receiver) ids() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return ids(x.got)
}

// log collects reports.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(s string) bool { return strings.Contains(s, text) })
}

// deliver runs a delivery to a URL until the test ends.
func deliver(t *testing.T, s *Store, r Receiver) *log {
	l := &log{}
	r.Name = "ops"
	if r.Timeout.Duration == 0 {
		r.Timeout = Duration{Duration: patience} // what came too late is sent again, and the tests count
	}
	d := delivery{name: "ops", store: s, post: newPoster(r, "host").post, report: l.add}
	if r.Type == TypeAlertmanager {
		d.refresh = r.ResolveTimeout.Duration / 4
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// refusing is an address that nobody else can take, where connections are refused until listen is called.
func refusing(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), func() net.Listener {
		t.Helper()
		if err := unix.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
}

func numbers(from, to int) string {
	var words []string
	for n := from; n < to; n++ {
		words = append(words, fmt.Sprint(n))
	}
	return strings.Join(words, " ")
}

// TestNothingIsLost has receivers that misbehave in each way and then recover: all arrives, in order.
func TestNothingIsLost(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, behave := range map[string]func(http.ResponseWriter, *http.Request, Payload) bool{
		"hangs": func(w http.ResponseWriter, r *http.Request, _ Payload) bool {
			select {
			case <-r.Context().Done():
			case <-release:
			}
			return false
		},
		"500": func(w http.ResponseWriter, _ *http.Request, _ Payload) bool {
			http.Error(w, "out of\norder", 500)
			return false
		},
		"404": func(w http.ResponseWriter, _ *http.Request, _ Payload) bool { w.WriteHeader(404); return false },
		"redirects": func(w http.ResponseWriter, r *http.Request, _ Payload) bool {
			http.Redirect(w, r, "/x", http.StatusFound)
			return false
		},
		"busy": func(w http.ResponseWriter, _ *http.Request, _ Payload) bool {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
			return false
		},
		"cuts it off": func(http.ResponseWriter, *http.Request, Payload) bool { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
			x := newReceiver(t)
			x.set(behave)
			r := Receiver{Type: TypeWebhook, URL: x.URL}
			if name == "hangs" {
				r.Timeout = Duration{Duration: 2 * time.Second}
			}
			l := deliver(t, s, r)
			for n := range 5 {
				put(t, s, n)
			}
			eventually(t, "it was tried twice", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.requests >= 2 })
			begin := time.Now()
			put(t, s, 5) // nobody waits for it
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("a decision waited %v for the receiver", took)
			}
			if !l.has("cannot deliver") || x.ids() != "" {
				t.Errorf("%q, %v", x.ids(), l.lines)
			}
			x.set(nil)
			eventually(t, "all has arrived", func() bool { return x.ids() == numbers(0, 6) })
			eventually(t, "nothing waits", func() bool { n, _ := s.Waiting(); return n == 0 })
			if !l.has("delivers again") {
				t.Errorf("%v", l.lines)
			}
		})
	}
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		address, listen := refusing(t)
		path := filepath.Join(t.TempDir(), "queue")
		s, _ := openStore(t, path, "ops")
		l := deliver(t, s, Receiver{Type: TypeWebhook, URL: "http://" + address})
		for n := range 250 {
			put(t, s, n)
		}
		eventually(t, "it is said", func() bool { return l.has("connection refused") })
		x := newReceiver(t)
		listener := listen()
		go func() { _ = http.Serve(listener, x.Config.Handler) }()
		eventually(t, "all has arrived", func() bool { return x.ids() == numbers(0, 250) })
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.requests > 10 {
			t.Errorf("%d requests for 250 notifications", x.requests)
		}
	})
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
		x := newReceiver(t)
		x.set(func(_ http.ResponseWriter, _ *http.Request, p Payload) bool {
			time.Sleep(time.Duration(len(p.Notifications)) * time.Millisecond)
			return true
		})
		deliver(t, s, Receiver{Type: TypeWebhook, URL: x.URL})
		for n := range 300 {
			put(t, s, n)
		}
		eventually(t, "all has arrived", func() bool { return x.ids() == numbers(0, 300) })
	})
}

// TestEndWhileSending: what a receiver takes while this process ends is not sent again by the next one, and a receiver
// that never answers does not keep it from ending.
func TestEndWhileSending(t *testing.T) {
	for name, answers := range map[string]bool{"answers": true, "hangs": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue")
			s, _ := openStore(t, path, "ops")
			put(t, s, 1)
			synctest.Test(t, func(t *testing.T) {
				answer := make(chan error)
				d := delivery{name: "ops", store: s, report: (&log{}).add, post: func(ctx context.Context, _ []Notification) error {
					select {
					case err := <-answer:
						return err
					case <-ctx.Done():
						return ctx.Err()
					}
				}}
				s.bells["ops"] = make(chan struct{}, 1) // of the bubble
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); d.run(ctx) }()
				synctest.Wait()
				begin := time.Now()
				cancel()
				synctest.Wait()
				if answers {
					answer <- nil
				}
				<-done
				if took := time.Since(begin); !answers && took != lastChance {
					t.Errorf("ended after %v", took)
				}
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, _ = openStore(t, path, "ops")
			if left := ids(s.head("ops", 9)); left == "1" == answers {
				t.Errorf("%q waits", left)
			}
		})
	}
}

// TestStandingIsSaidAgain: what stands is sent again on time, also while more and more waits, and all of it, also where the
// receiver rejects some.
func TestStandingIsSaidAgain(t *testing.T) {
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	step := Step{}
	for n := range 2*batchSize + 1 {
		step.Set = append(step.Set, Open{Key: fmt.Sprint("k", n), Alert: Alert{ID: fmt.Sprint("k", n)}, Fired: true, To: []string{"ops"}})
	}
	if err := s.Put(step, ""); err != nil {
		t.Fatal(err)
	}
	put(t, s, 0)
	l := &log{}
	synctest.Test(t, func(t *testing.T) {
		said, next := map[string]int{}, 1
		d := delivery{name: "ops", store: s, refresh: time.Second, report: l.add, post: func(_ context.Context, list []Notification) error {
			time.Sleep(100 * time.Millisecond) // of the bubble
			for _, n := range list {
				said[n.ID]++
			}
			switch {
			case slices.ContainsFunc(list, func(n Notification) bool { return n.ID == "k0" }):
				return &statusError{code: http.StatusBadRequest}
			case len(list) == 1: // of the queue
				put(t, s, next)
				next++
			}
			return nil
		}}
		s.bells["ops"] = make(chan struct{}, 1) // of the bubble
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		d.run(ctx)
		for key, n := range said {
			if strings.HasPrefix(key, "k") && n < 6 || n > 10 {
				t.Errorf("%s was sent %d times", key, n)
			}
		}
		if len(said) < 2*batchSize+1 || next < 20 {
			t.Errorf("%d alerts were sent again, %d of the queue were sent", len(said), next)
		}
	})
	if len(l.lines) != 1 || !l.has("rejected in part") {
		t.Errorf("%v", l.lines)
	}
}

// TestPoison: what a receiver rejects is given up, and only that.
func TestPoison(t *testing.T) {
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	x := newReceiver(t)
	x.set(func(w http.ResponseWriter, _ *http.Request, p Payload) bool {
		if slices.ContainsFunc(p.Notifications, func(n Notification) bool { return n.ID == "3" }) {
			http.Error(w, "I do not like 3", http.StatusUnprocessableEntity)
			return false
		}
		return true
	})
	for n := range 6 {
		put(t, s, n)
	}
	l := deliver(t, s, Receiver{Type: TypeWebhook, URL: x.URL})
	eventually(t, "the others have arrived", func() bool { return x.ids() == "0 1 2 4 5" })
	if !l.has("notification 3 is rejected, giving it up: it answers 422 Unprocessable Entity: I do not like 3") {
		t.Errorf("%v", l.lines)
	}
}

func TestSigned(t *testing.T) {
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	x := newReceiver(t)
	secret := []byte("0123456789abcdef")
	deliver(t, s, Receiver{Type: TypeWebhook, URL: x.URL, secret: secret})
	put(t, s, 1)
	eventually(t, "it has arrived", func() bool { return x.ids() == "1" })
	stamp := x.headers.Get(HeaderTimestamp)
	if got, want := x.headers.Get(HeaderSignature), Sign(secret, stamp, x.body); got != want || stamp == "" || len(got) != 71 {
		t.Errorf("%s, want %s", got, want)
	}
	// As openssl has it: printf '%s' '1.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
	if got := Sign(secret, "1", []byte("{}")); got != "sha256=2af693cb56b22c16912222aeefdc75a01de562bf70ee2015f41ecea48382997f" {
		t.Errorf("Sign: %s", got)
	}
}

// TestOwnHeaders: a receiver behind TLS of one's own, that wants a token. Without the certificate it is not spoken to.
func TestOwnHeaders(t *testing.T) {
	got := make(chan http.Header, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }))
	server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("swordfish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%surl = %q\ntoken_file = %q\nheaders = { x-site = \"north\" }\n", hook, server.URL, token)
	post := func(text string) error {
		c, _, err := load(t, text)
		if err != nil {
			t.Fatal(err)
		}
		return newPoster(c.Receivers[0], "h").post(t.Context(), nil)
	}
	if err := post(text); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without ca_file: %v", err)
	}
	if err := post(text + fmt.Sprintf("ca_file = %q\n", ca)); err != nil {
		t.Fatal(err)
	}
	if h := <-got; h.Get("Authorization") != "Bearer swordfish" || h.Get("X-Site") != "north" || h.Get("Content-Type") != "application/json" {
		t.Errorf("%v", h)
	}
}
