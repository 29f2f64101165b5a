package alert

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	if n, err := fmt.Sscanf(cursor, g.instance+":%d", &next); err == nil && n == 1 {
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

// TestAgent follows a guard over the real socket: an episode is told to a real receiver, also over a restart of the agent,
// and over one of the guard that forgets its events.
func TestAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "alert") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	serve := func(g *guard) (stop func()) {
		s, err := control.Listen(socket, control.ServerConfig{OwnUID: uint32(os.Getuid()), Handler: g})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ctx) }()
		return sync.OnceFunc(func() { cancel(); <-done })
	}
	x := newReceiver(t)
	c, err := Parse("x", fmt.Appendf(nil, "socket = %q\nhost = \"h\"\nguard_floor = \"1s\"\n[[receiver]]\nname = \"ops\"\ntype = \"webhook\"\nurl = %q\n", socket, x.URL))
	if err != nil {
		t.Fatal(err)
	}
	l := &log{}
	run := func() (stop func()) {
		s, damage, err := OpenStore(filepath.Join(dir, "queue"), c.names())
		if err != nil || damage != "" {
			t.Fatal(err, damage)
		}
		a := Agent{Config: c, Store: s, Report: l.add, Ready: func() {}, Turn: func(string) {}}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); a.Run(ctx) }()
		return sync.OnceFunc(func() { cancel(); <-done; _ = s.Close() })
	}
	told := func(want string) {
		t.Helper()
		var got string
		eventually(t, want, func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			var words []string
			for _, n := range x.got {
				words = append(words, fmt.Sprintf("%s-%s", n.Alert.Kind, n.Status))
			}
			got = strings.Join(words, " ")
			return got == want || len(got) > len(want)
		})
		if got != want {
			t.Fatalf("told %s, want %s", got, want)
		}
	}

	g := &guard{instance: "a", bell: make(chan struct{})}
	g.targets = []control.Target{{PID: 7, Episode: "7-1", Verdict: "hung", State: control.StateLadder}}
	stopGuard := serve(g)
	defer func() { stopGuard() }()
	stopAgent := run()
	defer func() { stopAgent() }()
	told("process-firing") // that was there before it came
	g.add(control.Event{Name: "late", Episode: "8-1", Level: control.LevelNotice})
	g.add(control.Event{Name: "condemned", Episode: "8-1", Level: control.LevelWarning})
	told("process-firing process-firing")

	stopAgent()
	g.add(control.Event{Name: "killed", Episode: "8-1", Level: control.LevelWarning})
	stopAgent = run()
	told("process-firing process-firing process-resolved")

	// The guard is away for longer than its floor; what was open ends unseen.
	stopGuard()
	told("process-firing process-firing process-resolved guard-firing")
	if !l.has("the guard is not to be reached") {
		t.Errorf("%v", l.lines)
	}
	stopGuard = serve(&guard{instance: "b", bell: make(chan struct{})})
	told("process-firing process-firing process-resolved guard-firing guard-resolved process-resolved")
}
