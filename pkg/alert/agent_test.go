package alert

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
)

// guard is a control.Handler with a list of events, as the daemon has them.
type guard struct {
	control.Handler
	mu       sync.Mutex
	instance string
	events   []control.Event
	targets  []control.Target
	bell     chan struct{}
}

func (g *guard) add(e control.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.TimeUsec = time.Now().UnixMicro()
	g.events = append(g.events, e)
	close(g.bell)
	g.bell = make(chan struct{})
}

func (g *guard) Status(context.Context, control.Caller) (control.Status, error) {
	return control.Status{Mode: control.ModeActing}, nil
}

func (g *guard) List(context.Context, control.Caller) ([]control.Target, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.targets, nil
}

func (g *guard) Follow(ctx context.Context, _ control.Caller, cursor string, send func(control.Followed) error) error {
	next, missed := 0, int64(-1)
	switch n, err := fmt.Sscanf(cursor, g.instance+":%d", &next); {
	case cursor == "nonsense":
		return &control.InvalidError{Parameter: "cursor"}
	case cursor == control.CursorOldest, err == nil && n == 1:
		missed = 0
	}
	for {
		g.mu.Lock()
		events, bell := g.events, g.bell
		g.mu.Unlock()
		for next < len(events) {
			next++
			if err := send(control.Followed{Cursor: fmt.Sprintf("%s:%d", g.instance, next), Missed: missed, Event: &events[next-1]}); err != nil {
				return err
			}
			missed = 0
		}
		if err := send(control.Followed{Cursor: fmt.Sprintf("%s:%d", g.instance, next), Missed: missed}); err != nil {
			return err
		}
		missed = 0
		select {
		case <-bell:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stage is a socket for a guard, a receiver, and a place for the queue.
type stage struct {
	*testing.T
	dir    string
	config Config
	hook   *receiver
	log    log
}

func newStage(t *testing.T) *stage {
	dir, err := os.MkdirTemp("", "alert") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stage{T: t, dir: dir, hook: newReceiver(t)}
	s.config, err = Parse("x", fmt.Appendf(nil, "socket = %q\nhost = \"h\"\nguard_floor = \"1s\"\n[[receiver]]\nname = \"ops\"\ntype = \"webhook\"\nurl = %q\n",
		filepath.Join(dir, "s"), s.hook.URL))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) serve(g *guard) (stop func()) {
	server, err := control.Listen(s.config.Socket, control.ServerConfig{OwnUID: uint32(os.Getuid()), Handler: g})
	if err != nil {
		s.Fatal(err)
	}
	return s.start(func(ctx context.Context) { _ = server.Serve(ctx) })
}

func (s *stage) start(run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	s.Cleanup(stop)
	return stop
}

func (s *stage) store() *Store {
	x, damage, err := OpenStore(filepath.Join(s.dir, "queue"), s.config.names())
	if err != nil || damage != "" {
		s.Fatal(err, damage)
	}
	return x
}

func (s *stage) runAgent() (stop func()) {
	a := Agent{Config: s.config, Store: s.store(), Report: s.log.add, Ready: func() {}, Turn: func(string) {}}
	return s.start(func(ctx context.Context) { a.Run(ctx); _ = a.Store.Close() })
}

// told waits until the receiver was told so: "kind-status" of each notification.
func (s *stage) told(want string) {
	s.Helper()
	var got string
	eventually(s.T, want, func() bool {
		s.hook.mu.Lock()
		defer s.hook.mu.Unlock()
		var words []string
		for _, n := range s.hook.got {
			words = append(words, fmt.Sprintf("%s-%s", n.Alert.Kind, n.Status))
		}
		got = strings.Join(words, " ")
		return got == want || len(got) > len(want)
	})
	if got != want {
		s.Fatalf("told %s, want %s", got, want)
	}
}

// TestAgent follows a guard over the real socket: an episode is told to a real receiver, also over a restart of the agent,
// and over one of the guard that forgets its events.
func TestAgent(t *testing.T) {
	s := newStage(t)
	g := &guard{instance: "a", bell: make(chan struct{})}
	g.targets = []control.Target{{PID: 7, Episode: "7-1", Verdict: "hung", State: control.StateLadder}}
	stopGuard := s.serve(g)
	stopAgent := s.runAgent()
	s.told("process-firing") // that was there before it came
	g.add(control.Event{Name: "late", Episode: "8-1", Level: control.LevelNotice})
	g.add(control.Event{Name: "condemned", Episode: "8-1", Level: control.LevelWarning})
	s.told("process-firing process-firing")

	stopAgent()
	g.add(control.Event{Name: "killed", Episode: "8-1", Level: control.LevelWarning})
	s.runAgent()
	s.told("process-firing process-firing process-resolved")

	// The guard is away for longer than its floor; what was open ends unseen.
	stopGuard()
	s.told("process-firing process-firing process-resolved guard-firing")
	if !s.log.has("the guard is not to be reached") {
		t.Errorf("%v", s.log.lines)
	}
	s.serve(&guard{instance: "b", bell: make(chan struct{})})
	s.told("process-firing process-firing process-resolved guard-firing guard-resolved process-resolved")
}

// TestRefusedCursor: where the guard does not take the cursor, all that it has is read, once. What was told is not told
// again, and what was missed is told.
func TestRefusedCursor(t *testing.T) {
	s := newStage(t)
	g := &guard{instance: "a", bell: make(chan struct{})}
	for _, name := range []string{"late", "condemned", "killed"} {
		g.add(control.Event{Name: name, Episode: "7-1", Level: control.LevelWarning})
	}
	g.add(control.Event{Name: "brake-on", Level: control.LevelError})
	g.add(control.Event{Name: "brake-off", Level: control.LevelWarning})
	g.add(control.Event{Name: "condemned", Episode: "8-1", Level: control.LevelWarning})
	g.targets = []control.Target{{PID: 8, Episode: "8-1", Verdict: "hung", State: control.StateLadder}}
	s.serve(g)
	stop := s.runAgent()
	const before = "process-firing process-resolved brake-firing brake-resolved process-firing"
	s.told(before)
	stop()
	queue := s.store()
	if err := queue.Put(Step{}, "nonsense"); err != nil {
		t.Fatal(err)
	}
	if err := queue.Close(); err != nil {
		t.Fatal(err)
	}
	g.add(control.Event{Name: "alert-test", Level: control.LevelNotice})
	s.runAgent()
	s.told(before + " alert-test-firing")
	g.add(control.Event{Name: "killed", Episode: "8-1", Level: control.LevelWarning})
	s.told(before + " alert-test-firing process-resolved")
	if !s.log.has(`does not know the place "nonsense"`) || s.log.has("not to be reached") {
		t.Errorf("%v", s.log.lines)
	}
}

// TestTurn: of an event that ends an episode and a tick that would fire its alert, both there at once, the event counts.
func TestTurn(t *testing.T) {
	for range 30 { // which of them is taken first is chance
		s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
		start := time.Now().Add(-time.Minute)
		a := Agent{Store: s, Report: func(string) {}, Ready: func() {}, Turn: func(string) {}, tracker: NewTracker(plain(30*time.Second, 0), time.Minute, nil, nil),
			caughtUp: true, compared: time.Now()}
		say := func(after time.Duration, name string) message {
			e := event(0, name, "1-5")
			e.TimeUsec = start.Add(after).UnixMicro()
			return message{followed: control.Followed{Cursor: "a:1", Event: &e}}
		}
		a.take(say(0, "condemned"))
		a.caughtUp = true
		messages, tick := make(chan message, 2), make(chan time.Time, 1)
		messages <- say(20*time.Second, "recovered")
		messages <- message{followed: control.Followed{Cursor: "a:1"}}
		tick <- time.Now()
		if !a.turn(t.Context(), messages, tick) {
			t.Fatal("ended")
		}
		if got := s.head("ops", 9); len(got) > 0 {
			t.Fatalf("%+v", got)
		}
	}
}

// TestDroppedIsSaid: what is dropped is reported, at once and then not more than once an hour.
func TestDroppedIsSaid(t *testing.T) {
	var l log
	a := Agent{Report: l.add}
	now := time.Now()
	for _, x := range []struct {
		after time.Duration
		n     uint64
	}{{0, 0}, {1, 3}, {2, 4}, {time.Hour, 4}, {time.Hour + 2, 9}, {3 * time.Hour, 9}} {
		a.sayDropped(&a.over, now.Add(x.after), x.n, "%d gone, %d stay", 10)
	}
	if got := strings.Join(l.lines, ", "); got != "3 gone, 10 stay, 6 gone, 10 stay" {
		t.Error(got)
	}
}

// TestPartialList: an alert about a process that the guard does not show any more, as its configuration or a group has
// changed, stands.
func TestPartialList(t *testing.T) {
	s := newStage(t)
	listener, err := net.Listen("unix", s.config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var partial atomic.Bool
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for {
				call, err := in.ReadString(0)
				if err != nil {
					break
				}
				answer := `{"parameters":{"status":{"mode":"acting"}}}`
				if strings.Contains(call, ".List") {
					answer = fmt.Sprintf(`{"parameters":{"targets":[],"partial":%v}}`, partial.Load())
				}
				_, _ = conn.Write([]byte(answer + "\x00"))
			}
			_ = conn.Close()
		}
	}()
	a := Agent{Config: s.config, Report: s.log.add, tracker: NewTracker(plain(0, 0), time.Minute, nil, nil)}
	e := event(0, "condemned", "1-5")
	a.tracker.Event(e)
	a.tracker.Step()
	now := time.UnixMicro(e.TimeUsec).Add(time.Minute)
	partial.Store(true)
	a.compare(t.Context(), now)
	if got := a.tracker.Standing(); len(got) != 1 || !a.compared.IsZero() || !s.log.has("does not show the processes of other users") {
		t.Errorf("%+v, %q", got, s.log.lines)
	}
	partial.Store(false)
	a.compare(t.Context(), now)
	if got := a.tracker.Standing(); len(got) != 0 || a.compared.IsZero() {
		t.Errorf("%+v, %q", got, s.log.lines)
	}
}
