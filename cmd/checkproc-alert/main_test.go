package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"checkproc-alert": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// "status N COMMAND…" runs a command that must end with exit status N.
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				got := "0"
				var exit interface{ ExitCode() int }
				if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
					got = fmt.Sprint(exit.ExitCode())
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if neg || got != args[0] {
					ts.Fatalf("exit status %s, want %s", got, args[0])
				}
			},
		},
	})
}

// guard has one event for whoever follows it.
type guard struct{ control.Handler }

func (guard) Status(context.Context, control.Caller) (control.Status, error) {
	return control.Status{Mode: control.ModeActing}, nil
}
func (guard) List(context.Context, control.Caller) ([]control.Target, error) { return nil, nil }
func (guard) Follow(ctx context.Context, _ control.Caller, cursor string, send func(control.Followed) error) error {
	if cursor != "a:1" {
		e := control.Event{TimeUsec: time.Now().UnixMicro(), Name: "alert-test", Level: control.LevelNotice}
		if err := send(control.Followed{Cursor: "a:1", Event: &e}); err != nil {
			return err
		}
	}
	if err := send(control.Followed{Cursor: "a:1"}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// program is a checkproc-alert that runs, and what it tells its service manager.
type program struct {
	*exec.Cmd
	stderr bytes.Buffer
	told   *net.UnixConn
}

func start(t *testing.T, dir string) *program {
	t.Helper()
	address := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	_ = os.Remove(address.Name)
	told, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.Command("checkproc-alert", "--config", filepath.Join(dir, "alert.toml")), told: told}
	p.Env = append(os.Environ(), "NOTIFY_SOCKET="+address.Name, "STATE_DIRECTORY="+dir)
	p.Stderr = &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait(); _ = told.Close() })
	return p
}

// await reads what it tells its service manager until that has a text.
func (p *program) await(t *testing.T, text string) {
	t.Helper()
	_ = p.told.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 4096)
	for {
		n, err := p.told.Read(b)
		if err != nil {
			t.Fatalf("%s was not told: %v\n%s", text, err, &p.stderr)
		}
		if strings.Contains(string(b[:n]), text) {
			return
		}
	}
}

// end sends SIGTERM and waits for an orderly end.
func (p *program) end(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(t, "STOPPING=1")
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, &p.stderr)
	}
}

// TestRun runs the program before a guard and a receiver: it says when it is ready and how it is, ends at SIGTERM, also in
// the middle of a delivery, and the next one goes on where it was.
func TestRun(t *testing.T) {
	dir, err := os.MkdirTemp("", "alert") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	came, answer := make(chan string, 10), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		came <- string(body)
		<-answer
	}))
	t.Cleanup(receiver.Close)
	socket := filepath.Join(dir, "s")
	text := fmt.Sprintf("socket = %q\nevent_hold = \"1h\"\n[[receiver]]\nname = \"ops\"\ntype = \"webhook\"\nurl = %q\n", socket, receiver.URL)
	if err := os.WriteFile(filepath.Join(dir, "alert.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	p := start(t, dir)
	p.await(t, "READY=1") // a guard that is away is its business, and no failure
	server, err := control.Listen(socket, control.ServerConfig{OwnUID: uint32(os.Getuid()), Handler: guard{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	p.await(t, "STATUS=1 alerts stand, 1 notifications wait")
	if body := <-came; !strings.Contains(body, `"event":"alert-test"`) {
		t.Error(body)
	}
	q := start(t, dir) // a second one keeps off the queue
	if err := q.Wait(); err == nil || q.ProcessState.ExitCode() != exitFailure || !strings.Contains(q.stderr.String(), "another process has it open") {
		t.Errorf("%v\n%s", err, &q.stderr)
	}
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	close(answer)
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, &p.stderr)
	}
	if !strings.Contains(p.stderr.String(), "checkproc-alert: the guard is not to be reached") {
		t.Errorf("stderr: %s", &p.stderr)
	}

	p = start(t, dir)
	p.await(t, "STATUS=1 alerts stand, 0 notifications wait")
	p.end(t)
	select {
	case body := <-came:
		t.Errorf("told once more: %s", body)
	default:
	}
}
