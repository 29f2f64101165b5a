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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// fake is a Handler that answers what it is told.
type fake struct {
	status   Status
	targets  []Target
	findings []Finding
	result   ReloadResult
	err      error
	block    chan struct{} // not nil: Status waits for it or for ctx
	reloads  atomic.Int32
	hold     Hold
	count    int // of what an order was about
	advice   []Advice
	follow   chan Followed
	diff     DiffResult

	mu     sync.Mutex
	orders []any    // what the server handed on
	by     []uint32 // whose
	denied []string // what it refused
	calls  []string // the methods that it handed on
}

func (f *fake) Status(ctx context.Context, _ Caller) (Status, error) {
	f.note("GetStatus")
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return Status{}, ctx.Err()
		}
	}
	return f.status, f.err
}
func (f *fake) List(context.Context, Caller) ([]Target, error) {
	f.note("List")
	return f.targets, f.err
}
func (f *fake) Check(context.Context, Caller) ([]Finding, error) {
	f.note("Check")
	return f.findings, f.err
}
func (f *fake) Reload(context.Context, Caller) (ReloadResult, error) {
	f.note("Reload")
	f.reloads.Add(1)
	return f.result, f.err
}

func (f *fake) Hold(_ context.Context, c Caller, r HoldRequest) (Hold, error) {
	f.note("Hold")
	f.ordered(c, r)
	if r.PID == 404 {
		return Hold{}, fmt.Errorf("%w: pid 404", ErrNoTarget)
	}
	return f.hold, f.err
}
func (f *fake) Release(_ context.Context, c Caller, s Selector) (int, error) {
	f.note("Release")
	f.ordered(c, s)
	return f.count, f.err
}
func (f *fake) Brake(_ context.Context, c Caller, order BrakeOrder) (int, error) {
	f.note("Brake")
	f.ordered(c, order)
	return f.count, f.err
}
func (f *fake) Recover(_ context.Context, c Caller, name string) (Recovered, error) {
	f.note("Recover")
	f.ordered(c, name)
	return Recovered{f.count, 1}, f.err
}
func (f *fake) Denied(c Caller, method, takes string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.denied = append(f.denied, fmt.Sprintf("%d %s: %s", c.UID, method, takes))
}
func (f *fake) Advise(context.Context, Caller) ([]Advice, error) {
	f.note("Advise")
	return f.advice, f.err
}

func (f *fake) Diff(_ context.Context, c Caller, r DiffRequest) (DiffResult, error) {
	f.note("Diff")
	f.ordered(c, r)
	return f.diff, f.err
}

func (f *fake) AlertTest(_ context.Context, c Caller) (AlertTested, error) {
	f.note("AlertTest")
	f.ordered(c, "alert-test")
	return AlertTested{f.count, "alert@x.service"}, f.err
}

// Follow sends what the test has put into f.follow, and ends when that is closed.
func (f *fake) Follow(ctx context.Context, _ Caller, cursor string, send func(Followed) error) error {
	f.note("Follow")
	if f.err != nil {
		return f.err
	}
	if err := send(Followed{Cursor: "begun:" + cursor}); err != nil {
		return err
	}
	for {
		select {
		case x, ok := <-f.follow:
			if !ok {
				return nil
			}
			if err := send(x); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) note(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
}

func (f *fake) ordered(c Caller, order any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders, f.by = append(f.orders, order), append(f.by, c.UID)
}

// generous is for waits that end early when all is well.
const generous = 30 * time.Second

// socketPath is short: sun_path has 107 bytes, t.TempDir may have more.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "io.checkproc")
}

// serve runs a server until the test ends; change may alter it before it serves.
func serve(t *testing.T, h Handler, change func(*Server)) (path string) {
	t.Helper()
	path = socketPath(t)
	s, err := Listen(path, ServerConfig{OwnUID: uint32(os.Getuid()), Handler: h, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there after Serve: %v", err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// raw is a connection on which the test says what it likes.
type raw struct {
	t *testing.T
	*net.UnixConn
	in *bufio.Reader
}

func dialRaw(t *testing.T, path string) *raw {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(generous))
	return &raw{t, conn.(*net.UnixConn), bufio.NewReader(conn)}
}

func (r *raw) say(text string) {
	r.t.Helper()
	if _, err := r.Write([]byte(text)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) hear() string {
	r.t.Helper()
	text, err := r.in.ReadString(0)
	if err != nil {
		r.t.Fatalf("read reply: %v (have %q)", err, text)
	}
	return strings.TrimSuffix(text, "\x00")
}

func (r *raw) expectEnd() {
	r.t.Helper()
	if b, err := r.in.ReadByte(); err == nil {
		r.t.Fatalf("the connection goes on with %q", b)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatal("the connection is kept open")
	}
}

func TestClientAndServer(t *testing.T) {
	h := &fake{
		status: Status{Version: "1.2.3", PID: 42, Mode: ModeActing, ConfigFiles: []string{"/etc/x.toml"}, RejectedUsec: 7,
			ConfigFaults: []Fault{{File: "/etc/x.toml", Line: 3, Column: 1, Key: "interval", Problem: "is 1h", Expected: "50ms to 10s"}},
			Tables:       []Table{{ID: 7, Key: 0x5095, Size: 72000, Records: 1000, State: TableAttached}},
			Features:     []Feature{{Name: "pidfd_open", Since: "5.3"}},
			Holds:        []Hold{{Name: "ftp*", LeftUsec: 5, Reason: "debugged", By: "uid 0 (root, pid 7)", Targets: 2}},
			Recoveries:   []Recovery{{Name: "ftpd", Unit: "ftpd.service", GivenUp: true, Starts: 5, Attempts: 5, NextUsec: 7}},
			Throttled:    []Throttle{{Unit: "greedy.service", Has: "CPUQuota=50%", Had: "CPUQuota=infinity"}}},
		targets:  []Target{{PID: 1, Slot: 3, Slots: []int{3}, Name: "<ftp> & more", State: StateGuarded, Rule: -1, Limits: []string{"threads 5 > 3: report"}}, {PID: 2, UID: 77}},
		findings: []Finding{{ID: "mode", Severity: SeverityNote, PIDs: []int32{9}}},
		result:   ReloadResult{Changed: []string{"interval"}},
	}
	c := dial(t, serve(t, h, nil))
	ctx := t.Context()

	status, err := c.Status(ctx)
	if diff := cmp.Diff(h.status, status); err != nil || diff != "" {
		t.Errorf("Status: %v\n%s", err, diff)
	}
	targets, _, err := c.List(ctx)
	want := slices.Clone(h.targets)
	want[1].Slots, want[1].Limits = []int{}, []string{}
	if diff := cmp.Diff(want, targets); err != nil || diff != "" {
		t.Errorf("List: %v\n%s", err, diff)
	}
	findings, err := c.Check(ctx)
	if diff := cmp.Diff([]Finding{{ID: "mode", Severity: SeverityNote, PIDs: []int32{9}, Slots: []int{}}}, findings); err != nil || diff != "" {
		t.Errorf("Check: %v\n%s", err, diff)
	}
	result, err := c.Reload(ctx)
	if diff := cmp.Diff(ReloadResult{Changed: []string{"interval"}, NeedsRestart: []string{}}, result); err != nil || diff != "" {
		t.Errorf("Reload: %v\n%s", err, diff)
	}
}

func TestHandlerErrorsReachTheClient(t *testing.T) {
	h := &fake{}
	c := dial(t, serve(t, h, nil))
	faults := []Fault{{File: "/etc/checkprocd/checkprocd.toml", Line: 3, Column: 1, Key: "interval", Problem: "is 1h", Expected: "50ms to 10s"}}
	for _, tt := range []struct {
		err   error
		check func(error) bool
		text  string
	}{
		{fmt.Errorf("reload: %w", &Rejected{faults}), func(err error) bool {
			var r *Rejected
			return errors.As(err, &r) && cmp.Equal(r.Faults, faults)
		}, "the configuration has faults\n/etc/checkprocd/checkprocd.toml:3:1: interval: is 1h (expected 50ms to 10s)"},
		{fmt.Errorf("%w: only at night", ErrNotAllowed), func(err error) bool { return errors.Is(err, ErrNotAllowed) }, "not allowed: only at night"},
		{ErrNotAllowed, func(err error) bool { return errors.Is(err, ErrNotAllowed) }, "not allowed"},
		{fmt.Errorf("%w: pid 7 is no target", ErrNoTarget), func(err error) bool { return errors.Is(err, ErrNoTarget) }, "not there: pid 7 is no target"},
		{fmt.Errorf("hold: %w", &InvalidError{"name"}), func(err error) bool {
			var r *InvalidError
			return errors.As(err, &r) && r.Parameter == "name"
		}, "invalid parameter: name"},
		{ErrBusy, func(err error) bool { return errors.Is(err, ErrBusy) }, "checkprocd is busy"},
		{errors.New("no table"), func(err error) bool {
			var r *RemoteError
			return errors.As(err, &r)
		}, "checkprocd: no table"},
	} {
		h.err = tt.err
		_, err := c.Reload(t.Context())
		if err == nil || !tt.check(err) || err.Error() != tt.text {
			t.Errorf("%v: got %v", tt.err, err)
		}
	}
}

func TestWire(t *testing.T) {
	for _, tt := range []struct{ name, send, want string }{
		{"info", `{"method":"org.varlink.service.GetInfo"}`,
			`{"parameters":{"vendor":"checkprocd","product":"checkprocd","version":"1.2.3","url":"https://github.com/checkprocd/checkprocd","interfaces":["io.checkproc","org.varlink.service"]}}`},
		{"null parameters", `{"method":"io.checkproc.List","parameters":null}`, `{"parameters":{"targets":[],"partial":false}}`},
		{"empty parameters", `{"method":"io.checkproc.List","parameters":{}}`, `{"parameters":{"targets":[],"partial":false}}`},
		{"more", `{"method":"io.checkproc.Check","more":true}`, `{"parameters":{"findings":[]}}`},
		{"no advice", `{"method":"io.checkproc.Advise"}`, `{"parameters":{"advice":[]}}`},
		{"a hold", `{"method":"io.checkproc.Hold","parameters":{"pid":7,"for_usec":1000000}}`,
			`{"parameters":{"hold":{"pid":0,"name":"","all":false,"left_usec":0,"reason":"","by":"","targets":0}}}`},
		{"nobody is there", `{"method":"io.checkproc.Hold","parameters":{"pid":404,"for_usec":1000000}}`,
			`{"error":"io.checkproc.NoTarget","parameters":{"message":"not there: pid 404"}}`},
		{"no difference", `{"method":"io.checkproc.Diff"}`, `{"parameters":{"changed":[],"needs_restart":[],"targets":[]}}`},
		{"nothing is null", `{"method":"io.checkproc.Reload"}`, `{"parameters":{"changed":[],"needs_restart":[]}}`},
		{"unknown interface", `{"method":"io.other.List"}`,
			`{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"io.other"}}`},
		{"unknown method", `{"method":"io.checkproc.Kill"}`,
			`{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.checkproc.Kill"}}`},
		{"unknown service method", `{"method":"org.varlink.service.Kill"}`,
			`{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"org.varlink.service.Kill"}}`},
		{"no interface", `{"method":"List"}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"method"}}`},
		{"no method", `{}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"method"}}`},
		{"method of another type", `{"method":7}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"method"}}`},
		{"flag of another type", `{"method":"io.checkproc.List","more":"yes"}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"more"}}`},
		{"upgrade", `{"method":"io.checkproc.List","upgrade":true}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"upgrade"}}`},
		{"parameters of another type", `{"method":"io.checkproc.List","parameters":[1]}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"parameters"}}`},
		{"unknown parameter", `{"method":"io.checkproc.List","parameters":{"name":"x"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"name"}}`},
		{"missing parameter", `{"method":"org.varlink.service.GetInterfaceDescription"}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"interface"}}`},
		{"parameter of another type", `{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":3}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"interface"}}`},
		{"null parameter", `{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":null}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"interface"}}`},
		{"no such description", `{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.other"}}`, `{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"io.other"}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := dialRaw(t, serve(t, &fake{}, nil))
			r.say(tt.send + "\x00" + `{"method":"io.checkproc.List"}` + "\x00") // two at once: the stream goes on after errors
			if got := r.hear(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if got := r.hear(); got != `{"parameters":{"targets":[],"partial":false}}` {
				t.Errorf("the next call on the connection: %s", got)
			}
		})
	}
}

func TestOrders(t *testing.T) {
	h := &fake{
		hold:   Hold{Name: "ftp*", LeftUsec: 1_800_000_000, Reason: "debugged", By: "uid 0 (root, pid 7)", Targets: 3},
		count:  4,
		advice: []Advice{{Name: "ftpd", Targets: 3, Beats: 500, P50Usec: 1, P99Usec: 2, P999Usec: 3, MaxUsec: 4, TimeoutUsec: 5, WantsUsec: 6, Verdict: "raise"}},
	}
	c := dial(t, serve(t, h, nil))
	ctx := t.Context()
	request := HoldRequest{Name: "ftp*", ForUsec: 1_800_000_000, Reason: "\x1b[2J\n文件"}
	hold, err := c.Hold(ctx, request)
	if err != nil || hold != h.hold {
		t.Errorf("Hold: %+v, %v", hold, err)
	}
	if n, err := c.Release(ctx, Selector{Name: "ftp*"}); err != nil || n != 4 {
		t.Errorf("Release: %d, %v", n, err)
	}
	if n, err := c.Brake(ctx, BrakeStop); err != nil || n != 4 {
		t.Errorf("Brake: %d, %v", n, err)
	}
	if x, err := c.AlertTest(ctx); err != nil || x != (AlertTested{4, "alert@x.service"}) {
		t.Errorf("AlertTest: %+v, %v", x, err)
	}
	if r, err := c.Recover(ctx, "ftp*"); err != nil || r != (Recovered{4, 1}) {
		t.Errorf("Recover: %+v, %v", r, err)
	}
	advice, err := c.Advise(ctx)
	if diff := cmp.Diff(h.advice, advice); err != nil || diff != "" {
		t.Errorf("Advise: %v\n%s", err, diff)
	}
	if diff := cmp.Diff([]any{request, Selector{Name: "ftp*"}, BrakeStop, "alert-test", "ftp*"}, h.orders); diff != "" {
		t.Errorf("handed on (-said +handed):\n%s", diff)
	}
}

func TestDiff(t *testing.T) {
	h := &fake{diff: DiffResult{Changed: []string{"interval: 1s -> 2s"}, NeedsRestart: []string{},
		Targets: []Match{{PID: 7, UID: 1000, Name: "ftpd", Unit: "ftp.service", Before: -1, After: 3, Changes: []string{"action: ladder -> report"}}, {PID: 8}}}}
	c := dial(t, serve(t, h, nil))
	want := h.diff
	want.Targets = slices.Clone(want.Targets)
	want.Targets[1].Changes = []string{}
	request := DiffRequest{"new.toml", "interval = \"2s\"\n"}
	got, err := c.Diff(t.Context(), request)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Diff: %v\n%s", err, diff)
	}
	if diff := cmp.Diff([]any{request}, h.orders); diff != "" {
		t.Errorf("handed on (-said +handed):\n%s", diff)
	}
	// What is too long is not sent, and the connection stays good.
	if _, err = c.Diff(t.Context(), DiffRequest{"new.toml", strings.Repeat("#", 64<<10)}); err == nil || !strings.Contains(err.Error(), "65536 are taken") {
		t.Errorf("a long text: %v", err)
	}
	h.err = &Rejected{[]Fault{{File: "new.toml", Line: 1}}}
	var rejected *Rejected
	if _, err = c.Diff(t.Context(), request); !errors.As(err, &rejected) || len(rejected.Faults) != 1 {
		t.Errorf("with a fault: %v", err)
	}
}

// An order that is not to be understood, or out of bounds, does not reach the handler.
func TestOrdersAreBounded(t *testing.T) {
	day := (24 * time.Hour).Microseconds()
	hold := func(parameters string) string { return `"method":"io.checkproc.Hold","parameters":` + parameters }
	release := func(parameters string) string { return `"method":"io.checkproc.Release","parameters":` + parameters }
	for _, tt := range []struct {
		send    string
		invalid string
		handed  any // where it is valid
	}{
		{hold(`{"pid":7,"for_usec":1000000}`), "", HoldRequest{PID: 7, ForUsec: 1_000_000}},
		{hold(fmt.Sprintf(`{"name":"f?p*","for_usec":%d,"reason":"x","pid":null,"all":false}`, 7*day)), "", HoldRequest{Name: "f?p*", ForUsec: 7 * day, Reason: "x"}},
		{hold(`{"name":"` + strings.Repeat("x", 200) + `","for_usec":1000000}`), "", HoldRequest{Name: strings.Repeat("x", 200), ForUsec: 1_000_000}},
		{hold(`{"all":true,"for_usec":999999}`), "for_usec", nil},
		{hold(fmt.Sprintf(`{"all":true,"for_usec":%d}`, 7*day+1)), "for_usec", nil},
		{hold(`{"all":true,"for_usec":-1}`), "for_usec", nil},
		{hold(`{"all":true,"for_usec":9223372036854775808}`), "for_usec", nil},
		{hold(`{"all":true,"for_usec":1000000.5}`), "for_usec", nil},
		{hold(`{"all":true,"for_usec":"1s"}`), "for_usec", nil},
		{hold(`{"all":true,"for_usec":null}`), "for_usec", nil},
		{hold(`{"all":true}`), "for_usec", nil},
		{hold(`{"for_usec":1000000}`), "pid, name, all", nil},
		{hold(`{"all":false,"pid":0,"name":"","for_usec":1000000}`), "pid, name, all", nil},
		{hold(`{"all":true,"pid":7,"for_usec":1000000}`), "pid, name, all", nil},
		{hold(`{"name":"x","pid":7,"for_usec":1000000}`), "pid, name, all", nil},
		{hold(`{"pid":-7,"for_usec":1000000}`), "pid", nil},
		{hold(`{"pid":2147483648,"for_usec":1000000}`), "pid", nil},
		{hold(`{"pid":"7","for_usec":1000000}`), "pid", nil},
		{hold(`{"name":"` + strings.Repeat("x", 201) + `","for_usec":1000000}`), "name", nil},
		{hold(`{"name":"a\nb","for_usec":1000000}`), "name", nil},
		{hold(`{"name":"\u001b[2J","for_usec":1000000}`), "name", nil},
		{hold(`{"name":"\ud800","for_usec":1000000}`), "name", nil},
		{hold(`{"name":["x"],"for_usec":1000000}`), "name", nil},
		{hold(`{"all":1,"for_usec":1000000}`), "all", nil},
		{hold(`{"all":true,"for_usec":1000000,"reason":5}`), "reason", nil},
		{hold(`{"all":true,"for_usec":1000000,"By":"root"}`), "By", nil},
		{hold(`{"All":true,"for_usec":1000000}`), "All", nil},
		{`"method":"io.checkproc.Hold"`, "for_usec", nil},
		{release(`{"all":true}`), "", Selector{All: true}},
		{release(`{"name":"*"}`), "", Selector{Name: "*"}},
		{release(`{}`), "pid, name, all", nil},
		{release(`null`), "pid, name, all", nil},
		{release(`{"all":true,"name":"x"}`), "pid, name, all", nil},
		{release(`{"pid":-1}`), "pid", nil},
		{release(`{"name":"\u202e"}`), "name", nil},
		{release(`{"all":true,"for_usec":1}`), "for_usec", nil},
		{`"method":"io.checkproc.Recover","parameters":{"name":"ftp*"}`, "", "ftp*"},
		{`"method":"io.checkproc.Recover","parameters":{"name":""}`, "name", nil},
		{`"method":"io.checkproc.Recover","parameters":{"name":"a\u0007"}`, "name", nil},
		{`"method":"io.checkproc.Recover","parameters":{"name":"` + strings.Repeat("x", 201) + `"}`, "name", nil},
		{`"method":"io.checkproc.Recover"`, "name", nil},
		{`"method":"io.checkproc.Recover","parameters":{"name":"x","all":true}`, "all", nil},
		{`"method":"io.checkproc.Brake","parameters":{"order":"stop"}`, "", BrakeStop},
		{`"method":"io.checkproc.Brake","parameters":{"order":"halt"}`, "order", nil},
		{`"method":"io.checkproc.Brake","parameters":{"order":1}`, "order", nil},
		{`"method":"io.checkproc.Brake"`, "order", nil},
		{`"method":"io.checkproc.Advise","parameters":{"name":"x"}`, "name", nil},
		{`"method":"io.checkproc.Diff"`, "", DiffRequest{}},
		{`"method":"io.checkproc.Diff","parameters":{"file":"/x/ä.toml","text":"a = 1\n"}`, "", DiffRequest{"/x/ä.toml", "a = 1\n"}},
		{`"method":"io.checkproc.Diff","parameters":{"file":"empty","text":""}`, "", DiffRequest{File: "empty"}},
		{`"method":"io.checkproc.Diff","parameters":{"text":"a = 1"}`, "file", nil},
		{`"method":"io.checkproc.Diff","parameters":{"file":"a\nb","text":"a = 1"}`, "file", nil},
		{`"method":"io.checkproc.Diff","parameters":{"file":"` + strings.Repeat("x", 4097) + `"}`, "file", nil},
		{`"method":"io.checkproc.Diff","parameters":{"file":"x","text":["a = 1"]}`, "text", nil},
		{`"method":"io.checkproc.Diff","parameters":{"config":"x"}`, "config", nil},
	} {
		h := &fake{}
		s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), roles: newRoles(0, "", "")}
		r, _, last := s.handle(t.Context(), Caller{UID: 0}, []byte("{"+tt.send+"}"))
		switch {
		case tt.invalid != "" && (!cmp.Equal(r, invalid(tt.invalid)) || h.orders != nil):
			t.Errorf("%.80s: %+v, handed on %+v", tt.send, r, h.orders)
		case tt.invalid == "" && (r.Error != "" || !cmp.Equal(h.orders, []any{tt.handed})):
			t.Errorf("%.80s: %+v, handed on %+v", tt.send, r, h.orders)
		case last:
			t.Errorf("%.80s ends the connection", tt.send)
		}
	}
}

func TestDescriptionOverTheWire(t *testing.T) {
	r := dialRaw(t, serve(t, &fake{}, nil))
	for name, want := range map[string]string{Interface: checkprocDescription, serviceInterface: serviceDescription} {
		r.say(`{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"` + name + `"}}` + "\x00")
		var got struct{ Parameters descriptionReply }
		if err := json.Unmarshal([]byte(r.hear()), &got); err != nil || got.Parameters.Description != want {
			t.Errorf("%s: %v, %.40q", name, err, got.Parameters.Description)
		}
	}
}

func TestMalformedEndsTheConnection(t *testing.T) {
	wrong := `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":""}}`
	for name, send := range map[string]string{
		"no JSON":   "GET / HTTP/1.1\r\n\r\n\x00",
		"empty":     "\x00",
		"no object": "[]\x00",
		"cut":       `{"method":"io.checkproc.List"` + "\x00",
		"too long":  strings.Repeat(" ", 64<<10) + "{}\x00",
		"endless":   strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			h := &fake{}
			path := serve(t, h, nil)
			r := dialRaw(t, path)
			go func() { _, _ = r.Write([]byte(send)) }() // the server may stop reading half-way
			if got := r.hear(); got != wrong {
				t.Errorf("got %s", got)
			}
			r.expectEnd()
			if _, err := dial(t, path).Status(t.Context()); err != nil {
				t.Errorf("another client: %v", err)
			}
		})
	}
}

func TestLongestRequest(t *testing.T) {
	r := dialRaw(t, serve(t, &fake{}, nil))
	request := `{"method":"io.checkproc.List"}`
	r.say(request + strings.Repeat(" ", 64<<10-len(request)) + "\x00")
	if got := r.hear(); got != `{"parameters":{"targets":[],"partial":false}}` {
		t.Errorf("got %s", got)
	}
}

func TestOneway(t *testing.T) {
	h := &fake{}
	path := serve(t, h, nil)
	r := dialRaw(t, path)
	r.say(`{"method":"io.checkproc.Reload","oneway":true}` + "\x00" + `{"method":"io.other.X","oneway":true}` + "\x00" +
		`{"method":"io.checkproc.List","parameters":{"a":1},"oneway":true}` + "\x00" + `{"method":"io.checkproc.List"}` + "\x00")
	if got := r.hear(); got != `{"parameters":{"targets":[],"partial":false}}` {
		t.Errorf("the first reply is %s, not that of the last call", got)
	}
	if n := h.reloads.Load(); n != 1 {
		t.Errorf("%d reloads", n)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(generous); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, generous)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestRolesDecide: see TestWhoMay for the other methods.
func TestRolesDecide(t *testing.T) {
	h := &fake{targets: []Target{{PID: 1, UID: 0}, {PID: 2, UID: 1000}, {PID: 3, UID: 1001}},
		status: Status{RejectedUsec: 7, ConfigFaults: []Fault{{Problem: "secret"}}}}
	s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), roles: &roles{ownUID: 990, now: time.Now,
		lookup: func(name string) (uint32, bool) {
			gid, ok := map[string]uint32{"steer": 50, "adm": 4}[name]
			return gid, ok
		}}}
	s.roles.set("steer", "adm")
	for _, tt := range []struct {
		name   string
		caller Caller
		pids   []int32
	}{
		{"root", Caller{UID: 0, GID: 0}, []int32{1, 2, 3}},
		{"own uid", Caller{UID: 990, GID: 990}, []int32{1, 2, 3}},
		{"steers by primary group", Caller{UID: 1000, GID: 50}, []int32{1, 2, 3}},
		{"steers by supplementary group", Caller{UID: 1000, GID: 1000, Groups: []uint32{7, 50}}, []int32{1, 2, 3}},
		{"reads", Caller{UID: 1000, GID: 1000, Groups: []uint32{4}}, []int32{1, 2, 3}},
		{"anybody", Caller{UID: 1000, GID: 1000, Groups: []uint32{1000}}, []int32{2}},
		{"stranger", Caller{UID: 5, GID: 5}, []int32{}},
		{"claims roles of its own", Caller{UID: 5, GID: 5, CanSteer: true, CanSeeAll: true}, []int32{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			do := func(method string) (reply, bool) {
				r, _, _ := s.handle(t.Context(), tt.caller, []byte(`{"method":"io.checkproc.`+method+`"}`))
				return r, r.Error == ""
			}
			list, _ := do("List")
			pids := []int32{}
			seen := list.Parameters.(listReply)
			for _, target := range seen.Targets {
				pids = append(pids, target.PID)
			}
			if seen.Partial != (len(pids) < len(h.targets)) {
				t.Errorf("partial: %v", seen.Partial)
			}
			if diff := cmp.Diff(tt.pids, pids); diff != "" {
				t.Errorf("sees (-want +got):\n%s", diff)
			}
			status, ok := do("GetStatus")
			if !ok {
				t.Fatal("may not ask for the status")
			}
			if s := status.Parameters.(statusReply).Status; s.RejectedUsec != 7 || len(s.ConfigFaults) > 0 == seen.Partial {
				t.Errorf("sees of a rejected reload %d, %+v", s.RejectedUsec, s.ConfigFaults)
			}
		})
	}
}

func TestGroupsAreLookedUpAgain(t *testing.T) {
	now := time.Unix(0, 0)
	known := map[string]uint32{"adm": 4}
	lookups := 0
	r := &roles{now: func() time.Time { return now }, lookup: func(name string) (uint32, bool) {
		lookups++
		gid, ok := known[name]
		return gid, ok
	}}
	r.set("steer", "adm")
	member := func() Caller {
		c := Caller{UID: 1, Groups: []uint32{50}}
		r.grant(&c)
		return c
	}
	if member().CanSteer {
		t.Error("a missing group has members")
	}
	known["steer"] = 50
	before := lookups
	if member().CanSteer || lookups != before {
		t.Error("looked up at once again")
	}
	now = now.Add(missingAge)
	if c := member(); !c.CanSteer || !c.CanSeeAll {
		t.Errorf("the group that came: %+v", c)
	}
	now = now.Add(missingAge)
	before = lookups
	if member(); lookups != before {
		t.Error("known groups are looked up each second")
	}
	delete(known, "steer")
	now = now.Add(groupAge)
	if member().CanSteer {
		t.Error("the group that went still has members")
	}

	// Somebody hangs in the look-up: others go on with what is known.
	r.refresh.Lock()
	defer r.refresh.Unlock()
	now = now.Add(groupAge)
	if member().CanSteer {
		t.Error("rights from nowhere")
	}
}

func TestLookupGroup(t *testing.T) {
	for name, want := range map[string]struct {
		gid uint32
		ok  bool
	}{"root": {0, true}, "4711": {4711, true}, "": {0, false}, "no such group": {0, false}, "-1": {0, false}} {
		if gid, ok := lookupGroup(name); ok != want.ok || ok && gid != want.gid {
			t.Errorf("%q: %d, %t", name, gid, ok)
		}
	}
}

// TestPeerCredentials has real processes of other users and groups ask.
func TestPeerCredentials(t *testing.T) {
	if os.Getuid() != 0 {
		nstest.Unavailable(t, "processes of other users need root")
	}
	h := &fake{targets: []Target{{PID: 1, UID: 0}, {PID: 2, UID: 61234}}}
	path := serve(t, h, func(s *Server) { s.SetGroups("61250", "61204") })
	for _, tt := range []struct {
		name          string
		cred          syscall.Credential
		pids          []int32
		check, reload string
	}{
		{"root", syscall.Credential{}, []int32{1, 2}, "", ""},
		{"no groups", syscall.Credential{Uid: 61234, Gid: 61234}, []int32{2},
			"not allowed: it takes root or a member of group 61250 or a member of group 61204", "not allowed: it takes root or a member of group 61250"},
		{"reads", syscall.Credential{Uid: 61234, Gid: 61204}, []int32{1, 2}, "", "not allowed: it takes root or a member of group 61250"},
		{"steers", syscall.Credential{Uid: 61234, Gid: 61234, Groups: []uint32{3, 61250}}, []int32{1, 2}, "", ""},
		{"many groups", syscall.Credential{Uid: 61234, Gid: 61234, Groups: append(numbers(1000), 61250)}, []int32{1, 2}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), envClient+"="+path)
			cmd.Dir = "/"
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &tt.cred}
			// The test binary lies where only root may look: it is opened here and handed on.
			exe, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer exe.Close()
			cmd.ExtraFiles = []*os.File{exe}
			cmd.Path = "/proc/self/fd/3"
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var v clientView
			if err := json.Unmarshal(out, &v); err != nil {
				t.Fatal(err)
			}
			pids := []int32{}
			for _, target := range v.Targets {
				pids = append(pids, target.PID)
			}
			follow := tt.check // the same right
			if follow == "" {
				follow = io.EOF.Error() // the client's own way to end it
			}
			if !slices.Equal(pids, tt.pids) || v.Partial != (len(pids) < len(h.targets)) || v.List != "" || v.Check != tt.check || v.Reload != tt.reload || v.Hold != tt.reload || v.Follow != follow {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func numbers(n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = uint32(70000 + i)
	}
	return list
}

func TestSlowClientsHarmNobody(t *testing.T) {
	// Replies of some MB, more than socket buffers hold, so that a writer has to wait for its reader.
	h := &fake{targets: make([]Target, 20000)}
	var server *Server
	path := serve(t, h, func(s *Server) {
		server = s
		s.limits.idle, s.limits.request, s.limits.write = 4*time.Second, 4*time.Second, 4*time.Second
	})
	silent, slow, deaf := dialRaw(t, path), dialRaw(t, path), dialRaw(t, path)
	slow.say(`{"method":`)
	deaf.say(`{"method":"io.checkproc.List"}` + "\x00")
	for range 3 {
		if _, err := dial(t, path).Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	silent.expectEnd()
	slow.expectEnd()
	eventually(t, "all are dismissed", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.conns) == 0
	})
	// The deaf one's connection was cut in the middle of the reply.
	got, err := io.ReadAll(deaf.in)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	if bytes.IndexByte(got, 0) >= 0 {
		t.Errorf("the whole reply of %d bytes waited for its reader", len(got))
	}
}

func TestTooManyConnections(t *testing.T) {
	path := serve(t, &fake{}, func(s *Server) { s.limits.conns = 2 })
	a, b := dial(t, path), dial(t, path)
	for _, c := range []*Client{a, b} {
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dial(t, path).Status(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("the third: %v", err)
	}
	a.Close()
	eventually(t, "a place is free again", func() bool {
		_, err := dial(t, path).Status(t.Context())
		return err == nil
	})
}

func TestAdmission(t *testing.T) {
	s := &Server{limits: limits{conns: 10, reserved: 3, perUID: 4}, roles: newRoles(990, "50", ""), conns: map[*net.UnixConn]Caller{}}
	in := func(uid, gid uint32) bool {
		c := Caller{UID: uid, GID: gid}
		s.roles.grant(&c)
		return s.admit(&net.UnixConn{}, c)
	}
	count := func(uid uint32) (n int) {
		for range 20 {
			if in(uid, uid) {
				n++
			}
		}
		return n
	}
	if n := count(1000); n != 4 {
		t.Errorf("one user gets %d places, want 4", n)
	}
	if n := count(1001); n != 3 {
		t.Errorf("the users together get %d places, want 7", 4+n)
	}
	if in(1000, 50) {
		t.Error("who may steer has more places than others have")
	}
	if !in(1002, 50) || !in(990, 990) || !in(0, 0) || in(0, 0) {
		t.Error("root, the own uid and who may steer have the 3 reserved places, and no more")
	}
}

func TestServeEndsUnderACall(t *testing.T) {
	path := socketPath(t)
	s, err := Listen(path, ServerConfig{Handler: &fake{block: make(chan struct{})}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	dialRaw(t, path).say(`{"method":"io.checkproc.GetStatus"}` + "\x00") // waits in the handler
	idle := dialRaw(t, path)
	idle.say(`{"method":"io.checkproc.List"}` + "\x00")
	idle.hear()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(generous):
		t.Fatal("Serve goes on")
	}
	idle.expectEnd()
}

func TestCallIsBounded(t *testing.T) {
	path := serve(t, &fake{block: make(chan struct{})}, func(s *Server) { s.limits.call = time.Millisecond })
	_, err := dial(t, path).Status(t.Context())
	if err == nil || err.Error() != "checkprocd: context deadline exceeded" {
		t.Errorf("got %v", err)
	}
}

func TestClientContext(t *testing.T) {
	path := serve(t, &fake{block: make(chan struct{})}, nil)
	c := dial(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Status(ctx)
	var lost *LostError
	if !errors.As(err, &lost) || !errors.Is(err, context.DeadlineExceeded) ||
		err.Error() != "io.checkproc.GetStatus: checkprocd did not answer in time" {
		t.Errorf("got %v", err)
	}
	if _, _, err := c.List(t.Context()); !errors.As(err, &lost) {
		t.Errorf("a lost connection is used again: %v", err)
	}
	canceled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := dial(t, path).Status(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	path := socketPath(t)
	_, err := Dial(path)
	if want := "connect to checkprocd at " + path + ": no such file (is it running? systemctl status checkprocd)"; err == nil || err.Error() != want || !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing: %v", err)
	}
	leaveStale(t, path)
	_, err = Dial(path)
	if want := "connect to checkprocd at " + path + ": nobody listens (it has ended: systemctl status checkprocd)"; err == nil || err.Error() != want {
		t.Errorf("stale: %v", err)
	}
	if _, err := Dial("/" + strings.Repeat("x", 120)); err == nil || !strings.Contains(err.Error(), "121 bytes") {
		t.Errorf("long: %v", err)
	}
}

// leaveStale leaves a socket behind as a killed daemon does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListen(t *testing.T) {
	c := ServerConfig{Handler: &fake{}}

	t.Run("mode", func(t *testing.T) {
		path := socketPath(t)
		s, err := Listen(path, c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|0o666 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("stale", func(t *testing.T) {
		path := socketPath(t)
		leaveStale(t, path)
		s, err := Listen(path, c)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
	t.Run("live", func(t *testing.T) {
		path := serve(t, &fake{}, nil)
		_, err := Listen(path, c)
		var live *LiveError
		if !errors.As(err, &live) || live.PID != int32(os.Getpid()) ||
			err.Error() != fmt.Sprintf("listen on %s: pid %d serves it already", path, os.Getpid()) {
			t.Errorf("got %v", err)
		}
		if _, err := dial(t, path).Status(t.Context()); err != nil {
			t.Errorf("the live one: %v", err)
		}
	})
	t.Run("no socket", func(t *testing.T) {
		path := socketPath(t)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path, c); err == nil || !strings.Contains(err.Error(), "no socket, leaving it alone") {
			t.Errorf("got %v", err)
		}
		if text, _ := os.ReadFile(path); string(text) != "precious" {
			t.Error("the file is gone")
		}
	})
	t.Run("no directory", func(t *testing.T) {
		if _, err := Listen(filepath.Join(socketPath(t), "x"), c); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("long", func(t *testing.T) {
		if _, err := Listen("/"+strings.Repeat("x", 120), c); err == nil || !strings.Contains(err.Error(), "121 bytes") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another's socket is not removed at the end", func(t *testing.T) {
		path := socketPath(t)
		s, err := Listen(path, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		leaveStale(t, path)
		s.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
}
