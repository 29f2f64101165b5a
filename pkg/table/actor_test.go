package table

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// actorMain is a guard with an actor lock: it obeys the words on stdin and answers each with a line.
func actorMain() int {
	var l ActorLock
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "try":
			fmt.Println(tryLine(&l))
		case "try-on-dying-thread":
			var line string
			onThread(func() { line = tryLine(&l) })
			fmt.Println(line)
		case "child": // whose end must not undo what the parent did
			fmt.Println(exec.Command("true").Run())
		case "release":
			fmt.Println(l.Release())
		}
	}
	return 0
}

func tryLine(l *ActorLock) string {
	held, holder, err := l.TryAcquire()
	return fmt.Sprint(held, holder, err)
}

// actor is another guard, a process of its own.
type actor struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func startActor(t *testing.T) *actor {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envActor+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &actor{cmd, in, bufio.NewReader(out)}
	t.Cleanup(a.kill)
	return a
}

func (a *actor) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *actor) ask(t *testing.T, word string) string {
	t.Helper()
	if _, err := fmt.Fprintln(a.in, word); err != nil {
		t.Fatal(err)
	}
	line, err := a.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", word, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (a *actor) want(t *testing.T, word, want string) {
	t.Helper()
	if got := a.ask(t, word); got != want {
		t.Fatalf("%s by %d: %q, want %q", word, a.cmd.Process.Pid, got, want)
	}
}

// holds and waits are the answers to "try" of the one that holds the lock and of another.
func (a *actor) holds() string { return fmt.Sprint(true, a.cmd.Process.Pid, nil) }
func (a *actor) waits() string { return fmt.Sprint(false, a.cmd.Process.Pid, nil) }

func actorSemaphore(t *testing.T) int {
	t.Helper()
	id, err := semget(ActorKey, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestActorLock(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	a, b := startActor(t), startActor(t)
	a.want(t, "try", a.holds())
	b.want(t, "try", a.waits())
	a.want(t, "try", a.holds())
	a.want(t, "child", "<nil>")
	b.want(t, "try", a.waits())

	desc, err := semstat(actorSemaphore(t))
	if err != nil {
		t.Fatal(err)
	}
	if mode := desc.perm.Mode & 0o777; mode != 0o600 {
		t.Errorf("mode %#o, want 0600", mode)
	}

	a.kill() // SIGKILL
	b.want(t, "try", b.holds())
	c := startActor(t)
	c.want(t, "release", "<nil>")
	c.want(t, "try", b.waits())
	b.want(t, "release", "<nil>")
	b.want(t, "release", "<nil>")
	c.want(t, "try", c.holds())
	b.want(t, "try", c.waits())
}

// TestActorLockBelongsToProcess takes the lock on a thread that ends right after: the undo list is the process's.
func TestActorLockBelongsToProcess(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	a, b := startActor(t), startActor(t)
	a.want(t, "try-on-dying-thread", a.holds())
	for range 20 {
		b.want(t, "try", a.waits())
		a.want(t, "try", a.holds())
	}
	a.kill()
	b.want(t, "try", b.holds())
}

func TestActorLockRemoved(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	a, b := startActor(t), startActor(t)
	remove := func() {
		if _, err := semctl(actorSemaphore(t), unix.IPC_RMID, 0); err != nil {
			t.Fatal(err)
		}
	}
	a.want(t, "try", a.holds())
	remove()
	a.want(t, "try", a.holds()) // taken anew
	b.want(t, "try", a.waits())
	remove()
	b.want(t, "try", b.holds())
	a.want(t, "try", b.waits())
	a.want(t, "release", "<nil>")
	b.want(t, "try", b.holds())

	// Set free under the holder, and taken by another.
	if _, err := semctl(actorSemaphore(t), semSetVal, 0); err != nil {
		t.Fatal(err)
	}
	a.want(t, "try", a.holds())
	b.want(t, "try", a.waits())
	b.kill() // what it once held is not undone a second time
	b = startActor(t)
	b.want(t, "try", a.waits())

	remove()
	a.want(t, "release", "<nil>")
}

func TestActorLockIsMadeOnce(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	var guards []*actor
	for range 8 {
		guards = append(guards, startActor(t))
	}
	for range 20 { // all at once, each round with a new object
		for _, g := range guards {
			if _, err := fmt.Fprintln(g.in, "try"); err != nil {
				t.Fatal(err)
			}
		}
		held := 0
		for _, g := range guards {
			line, err := g.out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, "true") {
				held++
			}
		}
		if held != 1 {
			t.Fatalf("%d guards hold the lock", held)
		}
		for _, g := range guards {
			g.want(t, "release", "<nil>")
		}
		if _, err := semctl(actorSemaphore(t), unix.IPC_RMID, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestActorLockOfAnotherUser(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	plant := func(mode int) (id int) {
		asUID(1001, func() {
			var err error
			if id, err = semget(ActorKey, 1, unix.IPC_CREAT|unix.IPC_EXCL|mode); err != nil {
				t.Errorf("plant: %v", err)
			}
		})
		return id
	}
	planted := plant(0o666)

	var l ActorLock
	var foreign *ForeignLockError
	asUID(1002, func() {
		held, holder, err := l.TryAcquire()
		if held || holder != 0 || !errors.As(err, &foreign) || !errors.Is(err, errNotRoot) {
			t.Errorf("as another user: %v, %d, %v, want a *ForeignLockError", held, holder, err)
		}
	})
	withoutCapability(unix.CAP_SYS_ADMIN, func() {
		held, _, err := l.TryAcquire()
		if held || !errors.As(err, &foreign) || !errors.Is(err, unix.EPERM) {
			t.Errorf("as root without CAP_SYS_ADMIN: %v, %v, want a *ForeignLockError", held, err)
			return
		}
		if foreign.ID != planted || foreign.CUID != 1001 || foreign.UID != 1001 || foreign.Mode != 0o666 {
			t.Errorf("%+v", foreign)
		}
	})
	if held, _, err := l.TryAcquire(); !held || err != nil {
		t.Fatalf("as root: %v, %v", held, err)
	}
	if id := actorSemaphore(t); id == planted {
		t.Errorf("semaphore %d of uid 1001 is used as the lock", id)
	}
	asUID(1001, func() { // root's lock stands in the way of a user's guard
		var mine ActorLock
		if held, _, err := mine.TryAcquire(); held || !errors.Is(err, unix.EACCES) {
			t.Errorf("a user's guard beside root's: %v, %v, want %v", held, err, unix.EACCES)
		}
	})
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// TestActorLockOfUser has a guard without root make the lock for itself.
func TestActorLockOfUser(t *testing.T) {
	if nstest.Run(t) {
		return
	}
	asUID(1001, func() {
		var l ActorLock
		if held, holder, err := l.TryAcquire(); !held || holder != int32(os.Getpid()) || err != nil {
			t.Errorf("%v, %d, %v", held, holder, err)
		}
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	})
}
