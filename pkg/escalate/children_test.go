package escalate

import (
	"bufio"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// child is a real process as a target: os/exec signals it through a pidfd.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// startChild runs a shell script that says so when it is ready.
func startChild(t *testing.T, script string) *child {
	t.Helper()
	c := &child{cmd: exec.Command("sh", "-c", script), exited: make(chan struct{})}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.exited
	})
	_, err = bufio.NewReader(out).ReadString('\n')
	go func() {
		c.cmd.Wait() // says how the child was ended, which ProcessState holds
		close(c.exited)
	}()
	if err != nil {
		t.Fatalf("the child is not ready: %v", err)
	}
	return c
}

func (c *child) Signal(sig unix.Signal) error { return c.cmd.Process.Signal(sig) }
func (c *child) Recovered() bool              { return false }
func (c *child) Dumping() bool                { return false }
func (c *child) Remains() bool                { return false }

// TestChildren ends real processes, stubborn and obedient ones, four at a time.
func TestChildren(t *testing.T) {
	// exec keeps ignored signals ignored, and leaves one process for each child.
	const stubborn, obedient = `trap "" TERM; echo ready; exec sleep 600`, `echo ready; exec sleep 600`
	const n, limit = 20, 4
	steps := []config.Step{{Signal: unix.SIGTERM, Wait: 100 * time.Millisecond}, {Signal: unix.SIGKILL, Wait: time.Minute}}
	// An obedient child needs no SIGKILL, however busy the machine is.
	patient := []config.Step{{Signal: unix.SIGTERM, Wait: time.Minute}, {Signal: unix.SIGKILL, Wait: time.Minute}}

	var mu sync.Mutex
	outcomes := map[uint64][]Outcome{}
	over := make(chan struct{}, n)
	p := New(limit, func(o Outcome) {
		mu.Lock()
		outcomes[o.ID] = append(outcomes[o.ID], o)
		mu.Unlock()
		if o.Kind != Signalled {
			over <- struct{}{}
		}
	})
	defer p.Close()
	children := make([]*child, n)
	for i := range children {
		script := stubborn
		if i%4 == 3 {
			script = obedient
		}
		children[i] = startChild(t, script)
	}
	for i, c := range children {
		j := Job{ID: uint64(i), Target: c, Steps: steps, Exited: c.exited}
		if i%4 == 3 {
			j.Steps = patient
		}
		p.Start(j)
	}
	deadline := time.After(2 * time.Minute)
	for range n {
		select {
		case <-over:
		case <-deadline:
			t.Fatalf("%d active, %d queued after 2 minutes", p.Active(), p.Queued())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i, c := range children {
		sig, last := unix.SIGKILL, 1
		if i%4 == 3 {
			sig, last = unix.SIGTERM, 0
		}
		got := outcomes[uint64(i)]
		if len(got) != last+2 || got[len(got)-1] != (Outcome{ID: uint64(i), Kind: Gone, Step: last, Signal: sig}) {
			t.Errorf("child %d: %+v", i, got)
		}
		if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != sig {
			t.Errorf("child %d ended by %v, want %v", i, status.Signal(), sig)
		}
	}
}

// pair is a child and a helper beside it, which is ended with it.
type pair struct {
	*child
	helper *child
}

func (p pair) Signal(sig unix.Signal) error {
	if err := p.helper.Signal(sig); err == nil {
		_ = p.child.Signal(sig) // ended already, or gets it
		return nil
	}
	return p.child.Signal(sig)
}

func (p pair) Remains() bool { return !closed(p.helper.exited) }

// TestStubbornHelper: the child obeys, its helper needs SIGKILL.
func TestStubbornHelper(t *testing.T) {
	p := pair{startChild(t, `echo ready; exec sleep 600`), startChild(t, `trap "" TERM; echo ready; exec sleep 600`)}
	outcomes := make(chan Outcome, 10)
	pool := New(1, func(o Outcome) { outcomes <- o })
	defer pool.Close()
	pool.Start(Job{Target: p, Exited: p.exited,
		Steps: []config.Step{{Signal: unix.SIGTERM, Wait: 2 * time.Second}, {Signal: unix.SIGKILL, Wait: time.Minute}}})
	deadline := time.After(2 * time.Minute)
	for _, want := range []Outcome{
		{Kind: Signalled, Step: 0, Signal: unix.SIGTERM},
		{Kind: Signalled, Step: 1, Signal: unix.SIGKILL},
		{Kind: Gone, Step: 1, Signal: unix.SIGKILL},
	} {
		select {
		case got := <-outcomes:
			if got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		case <-deadline:
			t.Fatalf("no %v within 2 minutes", want.Kind)
		}
	}
	for c, want := range map[*child]syscall.Signal{p.child: unix.SIGTERM, p.helper: unix.SIGKILL} {
		<-c.exited
		if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != want {
			t.Errorf("ended by %v, want %v", status.Signal(), want)
		}
	}
}
