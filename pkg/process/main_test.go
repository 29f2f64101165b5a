package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// envRole makes the test binary play a part; the parts are the cases of play.
const envRole = "CHECKPROCD_TEST_ROLE"

// envHelper makes the helper one of the bad ones of badHelper.
const envHelper = "CHECKPROCD_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Args[0] == HelperName && os.Getenv(envHelper) != "" {
		badHelper(os.Getenv(envHelper))
	}
	HelperMain()
	if role := os.Getenv(envRole); role != "" {
		if err := play(strings.Fields(role)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}

	before := openFiles()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if after := openFiles(); len(after) > len(before) {
			fmt.Fprintf(os.Stderr, "descriptors leaked: before %v, after %v\n", before, after)
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles lists this process's descriptors, without the runtime's epoll set and eventfd and the listing's own.
func openFiles() map[string]string {
	files := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		link, err := os.Readlink(name)
		if err == nil && link != "anon_inode:[eventpoll]" && link != "anon_inode:[eventfd]" {
			files[filepath.Base(name)] = link
		}
	}
	return files
}

// stuckPID is never the pid of a process: a stuck helper does not answer about it.
const stuckPID = 1 << 30

func badHelper(kind string) {
	if kind == "mute" {
		os.Exit(3)
	}
	becomeHelper()
	w := newWitness()
	serve(func(req request) response {
		if req.pid != stuckPID {
			return w.look(req)
		}
		switch kind {
		case "stuck":
			for {
				_ = unix.Pause()
			}
		case "dies":
			os.Exit(3)
		}
		return response{pid: req.pid + 1} // "liar"
	})
	os.Exit(0)
}

// play plays a part as a child of the test: it prints a line when it is set up, and ends with its standard input.
func play(role []string) error {
	ready := "ready"
	switch role[0] {
	case "pause":
	case "attach": // ID
		id, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		if _, err := unix.SysvShmAttach(id, 0, 0); err != nil {
			return fmt.Errorf("shmat: %w", err)
		}
	case "create": // KEY
		key, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		id, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
		if err != nil {
			return fmt.Errorf("shmget: %w", err)
		}
		if _, err := unix.SysvShmAttach(id, 0, 0); err != nil {
			return fmt.Errorf("shmat: %w", err)
		}
		ready = strconv.Itoa(id)
	case "ask", "ask-removed": // PID: asks whether PID has a segment, after removing the own binary
		if role[0] == "ask-removed" {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			if err := os.Remove(exe); err != nil {
				return err
			}
		}
		pid, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		answers := make(chan ConsentAnswer, 1)
		r := NewReader(func(a ConsentAnswer) { answers <- a })
		defer r.Close()
		a := ask(r, answers, int32(pid), testKey, 7)
		ready = fmt.Sprintf("%d %d %t %v", r.PID(), a.Consent, errors.Is(a.Err, os.ErrPermission), a.Err)
	case "open": // PID: tells what Open says
		pid, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		_, err = Open(int32(pid))
		ready = fmt.Sprintf("%t %t", err != nil, errors.Is(err, ErrGone))
	case "signal": // PID: tells what Open and Signal say
		pid, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		p, err := Open(int32(pid))
		if err != nil {
			return err
		}
		defer p.Close()
		err = p.Signal(unix.SIGTERM)
		ready = fmt.Sprintf("%t %t", errors.Is(err, unix.EPERM), errors.Is(err, ErrGone))
	case "kill-group": // PID: tells whether the group of PID may be killed
		g, err := groupOf(role[1])
		if err != nil {
			return err
		}
		err = g.Kill()
		ready = fmt.Sprintf("%t %v", errors.Is(err, fs.ErrPermission), err)
	case "examine": // PID: tells what can be read
		pid, err := strconv.Atoi(role[1])
		if err != nil {
			return err
		}
		p, err := Open(int32(pid))
		if err != nil {
			return err
		}
		defer p.Close()
		e, err := p.Examine(context.Background(), true)
		if err != nil {
			return err
		}
		b, err := json.Marshal(told{e, errText(p.ReleaseMemory())})
		if err != nil {
			return err
		}
		ready = string(b)
	case "use": // MEMORY (bytes) FILES THREADS CHILDREN: uses so much more than it has, and spins
		if err := use(role[1:]); err != nil {
			return err
		}
	case "bare": // FILE: does all that the daemon does with processes, and writes how it went
		ready := "ok"
		if err := bare(); err != nil {
			ready = err.Error()
		}
		return os.WriteFile(role[1], []byte(ready), 0o600)
	default:
		return fmt.Errorf("no role %q", role)
	}
	fmt.Println(ready)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// told is what the role "examine" prints.
type told struct {
	Evidence
	Release string // what ReleaseMemory says
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func groupOf(pid string) (*Group, error) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return nil, err
	}
	p, err := Open(int32(n))
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.Group()
}

func bare() error {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		return err
	}
	p, err := Open(int32(cmd.Process.Pid))
	if err != nil {
		return err
	}
	defer p.Close()
	answers := make(chan ConsentAnswer, 1)
	r := NewReader(func(a ConsentAnswer) { answers <- a })
	if a := ask(r, answers, p.PID, testKey, 7); a.Consent != ConsentNotMapped {
		return fmt.Errorf("consent %v %v", a.Consent, a.Err)
	}
	if err := r.Close(); err != nil {
		return err
	}
	poller, err := NewPoller()
	if err != nil {
		return err
	}
	defer poller.Close()
	if err := poller.Watch(p.FD(), 1); err != nil {
		return err
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	for {
		ready, err := poller.Wait(nil)
		if err != nil {
			return err
		}
		if len(ready) == 1 {
			break
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		return fmt.Errorf("wait: %v", err)
	}
	return nil
}

// child is a child process of the test.
type child struct {
	*exec.Cmd
	t      testing.TB
	stdin  io.WriteCloser
	ready  string // the line that it printed
	waited bool
}

// actor starts the test binary in a role. change may change the command before it starts.
func actor(t testing.TB, role string, change ...func(*exec.Cmd)) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envRole+"="+role)
	for _, f := range change {
		f(cmd)
	}
	return start(t, cmd)
}

// start starts a program that prints a line when it is set up and ends with its standard input.
func start(t testing.TB, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{Cmd: cmd, t: t}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %v: %v", cmd.Args, err)
	}
	t.Cleanup(c.end)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%v %v did not get ready: %v", cmd.Args, cmd.Env, err)
	}
	c.ready = strings.TrimSuffix(line, "\n")
	return c
}

func (c *child) pid() int32 { return int32(c.Process.Pid) }

// end kills and reaps the child.
func (c *child) end() {
	if !c.waited {
		_ = c.Process.Kill()
		c.reap()
	}
}

func (c *child) reap() {
	c.waited = true
	_ = c.Wait()
}

// open opens the process or fails the test.
func open(t testing.TB, pid int32) *Process {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}
