package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// hold gives an order that must be taken.
func (g *guardian) hold(r control.HoldRequest, d time.Duration) control.Hold {
	g.t.Helper()
	r.ForUsec = d.Microseconds()
	h, err := g.dial().Hold(g.t.Context(), r)
	if err != nil {
		g.t.Fatalf("hold %+v: %v", r, err)
	}
	return h
}

func (g *guardian) release(s control.Selector) {
	g.t.Helper()
	if n, err := g.dial().Release(g.t.Context(), s); err != nil || n != 1 {
		g.t.Fatalf("release %+v: %d, %v", s, n, err)
	}
}

func (g *guardian) holds() []control.Hold {
	g.t.Helper()
	s, err := g.dial().Status(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return s.Holds
}

// registered starts a client that the guard knows when it returns.
func (g *guardian) registered(name string, timeout int, term string) *client {
	g.t.Helper()
	c := member(g.t, name, timeout, term)
	g.await(want{event: guard.EvRegistered, pid: c.pid})
	return c
}

// hang stops the heartbeat of clients for good.
func hang(list ...*client) {
	for _, c := range list {
		c.signal(unix.SIGUSR1)
	}
}

// TestHolds has a hung client held in each way, beside one that nobody holds, until the hold ends in each way.
func TestHolds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		order   func(pid int32) control.HoldRequest
		release bool // before its time
		others  bool // are held by it, too
		began   guard.EventName
		ended   guard.EventName
	}{
		{"a pid until its time is up", func(pid int32) control.HoldRequest { return control.HoldRequest{PID: pid} }, false, false, guard.EvHeld, guard.EvReleased},
		{"a pid until it is released", func(pid int32) control.HoldRequest { return control.HoldRequest{PID: pid} }, true, false, guard.EvHeld, guard.EvReleased},
		{"a name until its time is up", func(int32) control.HoldRequest { return control.HoldRequest{Name: "h?ld*"} }, false, false, guard.EvHeld, guard.EvReleased},
		{"a name until it is released", func(int32) control.HoldRequest { return control.HoldRequest{Name: "h?ld*"} }, true, false, guard.EvHeld, guard.EvReleased},
		{"pause and resume", func(int32) control.HoldRequest { return control.HoldRequest{All: true} }, true, true, guard.EvPaused, guard.EvResumed},
		{"a pause until its time is up", func(int32) control.HoldRequest { return control.HoldRequest{All: true} }, false, true, guard.EvPaused, guard.EvResumed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			g := begin(t, testConfig(t))
			held, other := g.registered("held", 1, "exit"), g.registered("other", 1, "exit")
			request := tt.order(held.pid)
			limit := 15 * time.Second
			if tt.release {
				limit = time.Hour
			}
			given := time.Now()
			g.hold(request, limit)
			g.await(want{event: tt.began, reason: "order", text: fmt.Sprintf("uid 0 (root, pid %d)", g.pid())})
			list := []*client{held}
			if request.PID == 0 { // one that comes later
				list = append(list, g.registered("held too", 1, "exit"))
			}
			hang(append(list, other)...)
			if tt.others {
				list = append(list, other)
			} else {
				other.endsBy(0)
			}
			for _, c := range list {
				g.await(want{event: guard.EvHeld, pid: c.pid, reason: "order", text: "nothing is done"})
			}
			g.scans(5)
			g.untouched(list...)
			if h := g.holds(); len(h) != 1 || h[0].Targets != len(list) || h[0].PID != request.PID || h[0].Name != request.Name || h[0].All != request.All {
				t.Errorf("holds %+v, want %+v of %d targets", h, request, len(list))
			}
			if tt.release {
				g.release(control.Selector{PID: request.PID, Name: request.Name, All: request.All})
			}
			end := g.await(want{event: tt.ended, reason: "order"})
			if d := end.at.Sub(given); !tt.release && d < limit-time.Second {
				t.Errorf("over after %v, want %v", d, limit)
			}
			for _, c := range list {
				c.endsBy(0)
				if e := g.await(want{event: guard.EvSignalled, pid: c.pid}); e.at.Before(end.at) {
					t.Errorf("%s was signalled before its hold was over", c.name)
				}
				g.await(want{event: guard.EvKilled, pid: c.pid})
			}
			if h := g.holds(); len(h) != 0 {
				t.Errorf("%+v is left", h)
			}
		})
	}
}

// TestHoldWhoBeats: a hold does nothing to a client that is well, and a hung one that beats again under it stays.
func TestHoldWhoBeats(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	well, back := g.registered("well", 1, "exit"), g.registered("back", 1, "exit")
	g.hold(control.HoldRequest{All: true}, time.Hour)
	hang(back)
	g.await(want{event: guard.EvHeld, pid: back.pid, reason: "order"})
	back.signal(unix.SIGUSR2)
	g.await(want{event: guard.EvRecovered, pid: back.pid})
	g.release(control.Selector{All: true})
	g.await(want{event: guard.EvResumed})
	settle(3 * time.Second)
	g.untouched(well, back)
}

// TestHoldStopsLadder: SIGTERM was sent already; SIGKILL is not, as long as the hold stands.
func TestHoldStopsLadder(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = 4 * time.Second
	g := begin(t, c)
	target := g.registered("target", 1, "tell")
	hang(target)
	g.await(want{event: guard.EvSignalled, pid: target.pid, signal: "SIGTERM"})
	g.hold(control.HoldRequest{PID: target.pid, Reason: "debugged"}, time.Hour)
	settle(c.Ladder.Steps[0].Wait + time.Second)
	g.none(want{signal: "SIGKILL"})
	if !target.alive() {
		t.Fatal("ended while it was held")
	}
	targets, _, err := g.dial().List(t.Context())
	if err != nil || len(targets) != 1 || !strings.Contains(targets[0].Hold, "debugged") || targets[0].State == control.StateLadder {
		t.Errorf("%+v, %v", targets, err)
	}
	g.release(control.Selector{PID: target.pid})
	target.endsBy(unix.SIGKILL)
	g.await(want{event: guard.EvKilled, pid: target.pid})
	if n := len(g.find(want{event: guard.EvSignalled, signal: "SIGTERM"})); n != 2 {
		t.Errorf("%d times SIGTERM, want one for each ladder", n)
	}
}

// TestHoldOutlivesDaemon ends the daemon in both ways while a hung client is held.
func TestHoldOutlivesDaemon(t *testing.T) {
	for name, end := range map[string]func(*guardian){"kill -9": (*guardian).kill, "stop": (*guardian).stop} {
		t.Run(name, func(t *testing.T) {
			if namespaces(t) {
				return
			}
			c := testConfig(t)
			g := launch(t, c)
			g.await(want{event: guard.EvActing})
			g.await(want{event: guard.EvTableAttached})
			byPID, byName := g.registered("one", 1, "exit"), g.registered("two", 1, "exit")
			g.hold(control.HoldRequest{PID: byPID.pid, Reason: "core"}, time.Hour)
			g.hold(control.HoldRequest{Name: "t*"}, 2*time.Hour)
			hang(byPID)
			g.await(want{event: guard.EvHeld, pid: byPID.pid, reason: "order", text: "nothing is done"})
			hang(byName) // falls late under the next daemon
			before := g.holds()
			g.scans(5) // it is in the registry
			end(g)
			g.untouched(byPID, byName)

			g = launch(t, c)
			g.await(want{event: guard.EvHeld, pid: byName.pid, reason: "order", text: "nothing is done"})
			g.scans(10)
			g.untouched(byPID, byName)
			after := g.holds()
			if len(after) != 2 {
				t.Fatalf("%+v stand, %+v stood before", after, before)
			}
			for i, h := range after {
				b := before[i]
				if h.LeftUsec >= b.LeftUsec || b.LeftUsec-h.LeftUsec > patience.Microseconds() {
					t.Errorf("%d µs left, before %d", h.LeftUsec, b.LeftUsec)
				}
				if h.LeftUsec = b.LeftUsec; h != b {
					t.Errorf("%+v, before %+v", h, b)
				}
			}
			g.release(control.Selector{Name: "t*"})
			byName.endsBy(0)
			g.untouched(byPID)
			g.release(control.Selector{PID: byPID.pid})
			byPID.endsBy(0)
			g.await(want{event: guard.EvKilled, pid: byPID.pid})
		})
	}
}

// TestOrdersOfStrangers has another user give each order.
func TestOrdersOfStrangers(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	target := g.registered("target", 1, "exit")
	g.hold(control.HoldRequest{Name: "somebody else"}, time.Hour)
	asUID(61234, func() {
		c, err := control.Dial(g.cfg.Control.Socket)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		ctx := t.Context()
		refused := func(what string, err error) {
			if !errors.Is(err, control.ErrNotAllowed) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, r := range []control.HoldRequest{{PID: target.pid}, {Name: "*"}, {All: true}} {
			r.ForUsec = time.Hour.Microseconds()
			_, err := c.Hold(ctx, r)
			refused("Hold", err)
		}
		_, err = c.Release(ctx, control.Selector{Name: "somebody else"})
		refused("Release", err)
		_, err = c.Brake(ctx, control.BrakeStop)
		refused("Brake", err)
		_, err = c.Advise(ctx)
		refused("Advise", err)
	})
	if h := g.holds(); len(h) != 1 || h[0].Name != "somebody else" {
		t.Errorf("%+v", h)
	}
	hang(target)
	target.endsBy(0)
	g.await(want{event: guard.EvKilled, pid: target.pid})
}

// TestOrdersThatNameNobody: a pid or a hold that is not there is an error, a name that may come is none; what a caller
// writes is fit to be shown.
func TestOrdersThatNameNobody(t *testing.T) {
	if namespaces(t) {
		return
	}
	g := begin(t, testConfig(t))
	stranger := sleeper(t)
	c, ctx := g.dial(), t.Context()
	hour := time.Hour.Microseconds()
	if _, err := c.Hold(ctx, control.HoldRequest{PID: stranger.pid, ForUsec: hour}); !errors.Is(err, control.ErrNoTarget) {
		t.Errorf("hold of a pid that is no target: %v", err)
	}
	for _, s := range []control.Selector{{PID: stranger.pid}, {Name: "ftp*"}, {All: true}} {
		if n, err := c.Release(ctx, s); !errors.Is(err, control.ErrNoTarget) {
			t.Errorf("release of %+v: %d, %v", s, n, err)
		}
	}
	for _, order := range []control.BrakeOrder{control.BrakeGo, control.BrakeStop} {
		if n, err := c.Brake(ctx, order); err != nil || n != 0 {
			t.Errorf("brake %s: %d, %v", order, n, err)
		}
		if e := g.await(want{event: guard.EvReleased, text: fmt.Sprintf("ordered the brake to %s: it holds nobody", order)}); !strings.HasPrefix(e.Message, "uid 0 (root, pid ") {
			t.Errorf("whose order? %s", e.Message)
		}
	}
	h, err := c.Hold(ctx, control.HoldRequest{Name: "ftp*", ForUsec: hour, Reason: " \x1b[2Ja\nb\u202e" + strings.Repeat("文", 1000)})
	if err != nil || h.Targets != 0 || h.By == "" {
		t.Errorf("hold of a name that is to come: %+v, %v", h, err)
	}
	if !strings.HasPrefix(h.Reason, `\x1b[2Ja\nb\u202e文`) || len(h.Reason) > control.MaxText || len(h.Reason) < control.MaxText-3 {
		t.Errorf("its reason has %d bytes: %q", len(h.Reason), h.Reason)
	}
	e := g.await(want{event: guard.EvHeld, reason: "order"})
	if strings.ContainsFunc(e.Message, func(r rune) bool { return !unicode.IsPrint(r) }) || len(e.Message) > 2*control.MaxText {
		t.Errorf("%q", e.Message)
	}
}

// TestBrakeOrders tells the brake what to do with a wave: stop keeps all of it alive beyond the 10 s after which the brake
// lets the first go, go ends all of it before.
func TestBrakeOrders(t *testing.T) {
	for _, order := range []control.BrakeOrder{control.BrakeStop, control.BrakeGo} {
		t.Run(string(order), func(t *testing.T) {
			if namespaces(t) {
				return
			}
			c := testConfig(t)
			c.Brake.AtLeast, c.Brake.Window = 4, time.Minute
			g := begin(t, c)
			var wave []*client
			for i := range 6 {
				wave = append(wave, g.registered(fmt.Sprint("wave", i), 2, "exit"))
			}
			hang(wave...)
			g.await(want{event: guard.EvBrakeOn})
			cl := g.dial()
			eventually(t, "the brake holds all of them", func() bool {
				wave = slices.DeleteFunc(wave, func(m *client) bool { return !m.alive() }) // condemned a scan before it was a wave
				s, err := cl.Status(t.Context())
				return err == nil && s.Brake.On && s.Brake.Waiting == len(wave)
			})
			if n, err := cl.Brake(t.Context(), order); err != nil || n != len(wave) {
				t.Errorf("brake %s: %d, %v", order, n, err)
			}
			if order == control.BrakeGo {
				order := g.await(want{event: guard.EvReleased, reason: "order", text: fmt.Sprintf("the brake lets go of all %d", len(wave))})
				for _, m := range wave {
					m.endsBy(0)
					if e := g.await(want{event: guard.EvSignalled, pid: m.pid}); e.at.Before(order.at) || e.at.Sub(order.at) > 9*time.Second {
						t.Errorf("pid %d was signalled %v after the order", m.pid, e.at.Sub(order.at))
					}
				}
				return
			}
			holds := g.holds()
			for _, h := range holds {
				if h.PID == 0 || h.LeftUsec > (10*time.Minute).Microseconds() || h.LeftUsec < (8*time.Minute).Microseconds() || !strings.HasPrefix(h.By, "uid 0 (root") {
					t.Errorf("%+v", h)
				}
			}
			if len(holds) != len(wave) {
				t.Errorf("%d holds, want %d", len(holds), len(wave))
			}
			settle(14 * time.Second)
			for _, m := range wave {
				g.none(want{event: guard.EvSignalled, pid: m.pid})
				if !m.alive() {
					t.Errorf("pid %d is gone", m.pid)
				}
			}
		})
	}
}

// TestAdvise measures beats until there is an advice.
func TestAdvise(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Interval = 50 * time.Millisecond
	g := begin(t, c)
	patient, hasty := g.registered("patient", 100, "exit"), g.registered("hasty", 1, "exit")
	cl := g.dial()
	var last []control.Advice
	early := false
	eventually(t, "there is an advice", func() bool {
		var err error
		if last, err = cl.Advise(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, a := range last {
			few := a.Beats < control.AdviceBeats
			early = early || few
			if few != (a.Verdict == "too-few") || a.Targets != 1 {
				t.Fatalf("%+v", a)
			}
		}
		return len(last) == 2 && last[0].Verdict != "too-few" && last[1].Verdict != "too-few"
	})
	if !early {
		t.Error("an advice from the first beat on")
	}
	a := last[1]
	if last[0].Name != "hasty" || a.Name != "patient" || a.TimeoutUsec != 100_000_000 || a.Verdict != "lower" || a.WantsUsec < 1_000_000 || a.WantsUsec > 25_000_000 {
		t.Errorf("%+v", last)
	}
	if a.P50Usec < 50_000 || a.P50Usec > a.P99Usec || a.P99Usec > a.P999Usec || a.P999Usec > a.MaxUsec || a.MaxUsec == 0 {
		t.Errorf("%+v", a)
	}
	g.untouched(patient, hasty)
}

func TestOneLine(t *testing.T) {
	long := strings.Repeat("x", control.MaxText)
	for text, want := range map[string]string{
		"": "", "debugged by alice": "debugged by alice", "文件": "文件", "a\nb\tc": `a\nb\tc`, "\x1b[31m": `\x1b[31m`, "\x00": `\x00`,
		"\u202e\u2028\u0085": `\u202e\u2028\u0085`, "\xff": "\ufffd", `back\slash`: `back\slash`,
		long: long, long + "y": long, long[2:] + "文": long[2:], long[3:] + "文": long[3:] + "文", long[3:] + "\x1b": long[3:],
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestWho(t *testing.T) {
	for want, c := range map[string]control.Caller{
		"uid 0 (root, pid 42)": {UID: 0, PID: 42}, "uid 0 (root)": {UID: 0}, "uid 4294960000 (pid 42)": {UID: 4294960000, PID: 42}, "uid 4294960000": {UID: 4294960000},
	} {
		if got := who(c); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}
