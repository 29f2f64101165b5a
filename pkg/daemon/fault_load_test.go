package daemon

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// How much of TestLoad there is; `make soak` asks for more.
const (
	envLoadClients = "LOAD_CLIENTS" // at a time; 1000 fill the table
	envLoadFor     = "LOAD_FOR"     // how long its faults go on
)

// punctual switches the excuse off that a starved host is: these tests run on busy machines.
func punctual(c config.Config) config.Config {
	c.Pressure = config.Pressure{CPU: 100, Memory: 100, IO: 100}
	return c
}

// worker is a client under load.
type worker struct {
	*client
	timeout time.Duration
	tells   bool      // it says when it is told to end, and does not: SIGKILL has to come
	hung    time.Time // when it was made to hang
}

// load is what TestLoad does to a crowd and its guard.
type load struct {
	t       *testing.T
	cfg     config.Config
	g       *guardian
	table   memory
	healthy []*worker
	hung    []*worker
	gone    []*worker         // exited or crashed; their records may still stand
	last    map[int32]*worker // by pid

	restarts, kills, clients int
	late                     []time.Duration // on the attention clock
}

func (l *load) start() {
	l.g = launch(l.t, l.cfg)
}

// restart ends the daemon, takes in what it said, and starts the next one.
func (l *load) restart() {
	l.t.Helper()
	if rand.IntN(2) == 0 {
		l.g.kill()
		l.kills++
	} else {
		l.g.stop()
	}
	l.restarts++
	l.takeIn()
	l.start()
}

// takeIn checks what the daemon that has just ended did.
func (l *load) takeIn() {
	l.t.Helper()
	for _, e := range l.g.find(want{}) {
		w := l.last[e.PID]
		switch guard.EventName(e.Event) {
		case guard.EvSignalled, guard.EvCondemned, guard.EvUnkillable:
			if w == nil || w.hung.IsZero() {
				l.t.Errorf("a healthy one: %s", e.Message)
			} else if e.Event == string(guard.EvCondemned) {
				silence := time.Duration(e.SilenceUsec) * time.Microsecond
				l.late = append(l.late, silence-w.timeout-max(w.timeout/10, time.Second))
			}
		case guard.EvRefused, guard.EvUnguarded, guard.EvForeign:
			l.t.Errorf("%s", e.Message)
		}
	}
}

// come starts a client, once there is a free record.
func (l *load) come() bool {
	l.t.Helper()
	free := slices.ContainsFunc(l.table, func(r table.Record) bool { return r.PID == 0 })
	if !free {
		return false
	}
	l.clients++
	w := &worker{timeout: time.Duration(1+rand.IntN(3)) * time.Second, tells: rand.IntN(2) == 0}
	term := "exit"
	if w.tells {
		term = "tell"
	}
	w.client = member(l.t, fmt.Sprint("client", l.clients), int(w.timeout/time.Second), term)
	l.healthy = append(l.healthy, w)
	l.last[w.pid] = w
	return true
}

// leave has one client hang, exit or crash.
func (l *load) leave() {
	l.t.Helper()
	i := rand.IntN(len(l.healthy))
	w := l.healthy[i]
	l.healthy = slices.Delete(l.healthy, i, i+1)
	switch rand.IntN(3) {
	case 0:
		w.signal(unix.SIGUSR1)
		w.hung = time.Now()
		l.hung = append(l.hung, w)
		return
	case 1:
		if w.tells {
			w.signal(unix.SIGKILL)
			break
		}
		w.signal(unix.SIGTERM)
	case 2:
		w.signal(unix.SIGKILL)
	}
	w.end()
	l.gone = append(l.gone, w)
}

// TestLoad restarts the daemon at any moment, by SIGTERM and by kill -9, while its clients hang, exit, crash and come.
// Nobody who beats is touched, nobody who hangs is missed, nobody is lost, and no ladder is walked twice.
func TestLoad(t *testing.T) {
	clients, duration := 50, 8*time.Second
	var err error
	if text := os.Getenv(envLoadClients); text != "" {
		if clients, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv(envLoadFor); text != "" {
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	prepare(t)
	if nstest.RunWithin(t, duration+5*time.Minute) {
		return
	}
	l := &load{t: t, cfg: punctual(testConfig(t)), last: map[int32]*worker{}}
	l.cfg.Brake.Enabled = false // with 50 clients some seconds' hangs may look like a wave
	l.start()
	l.g.await(want{event: guard.EvActing})
	l.g.await(want{event: guard.EvTableAttached})
	l.table = mapTable(t)
	for range clients {
		if !l.come() {
			t.Fatalf("no room for %d clients", clients)
		}
	}
	next, nextRestart := time.Now(), time.Now()
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		now := time.Now()
		if now.After(next) {
			if len(l.healthy) > clients*9/10 {
				l.leave()
			}
			if len(l.healthy) < clients {
				l.come()
			}
			next = now.Add(rand.N(400 * time.Millisecond))
		}
		if now.After(nextRestart) {
			l.restart()
			nextRestart = now.Add(rand.N(1500 * time.Millisecond))
		}
	}

	// From here on one daemon is left alone.
	var missed, doubled int
	for _, w := range l.hung {
		select {
		case <-w.done:
		case <-time.After(patience):
			missed++
			t.Errorf("pid %d (%s) hangs since %v and was not ended", w.pid, w.name, time.Since(w.hung))
			continue
		}
		if sig := w.status.Signal(); w.tells && sig != unix.SIGKILL || !w.tells && !w.status.Exited() {
			t.Errorf("pid %d (%s) ended with status %#x", w.pid, w.name, int(w.status))
		}
		if w.tells {
			n := 0
			for {
				if _, err := w.out.ReadString('\n'); err != nil {
					break
				}
				n++
			}
			if n != 1 {
				doubled++
				t.Errorf("pid %d (%s) got %d times SIGTERM", w.pid, w.name, n)
			}
		}
	}
	var list []control.Target
	eventually(t, "all that are left are guarded, and nobody else", func() bool {
		c := l.g.dial()
		defer c.Close()
		list, _, err = c.List(t.Context())
		return err == nil && len(list) == len(l.healthy) && !slices.ContainsFunc(list, func(x control.Target) bool { return x.State != control.StateGuarded })
	})
	settle(5 * time.Second) // longer than the longest timeout and its margin
	l.g.stop()
	l.takeIn()
	killed := 0
	known := map[int32]control.Target{}
	for _, x := range list {
		known[x.PID] = x
	}
	for _, w := range l.healthy {
		if !w.alive() {
			killed++
			t.Errorf("pid %d (%s) was healthy, and is gone: status %#x", w.pid, w.name, int(w.status))
		} else if x := known[w.pid]; x.Name != w.name || x.Slot != w.slot {
			t.Errorf("pid %d (%s) in slot %d is known as %q in slot %d", w.pid, w.name, w.slot, x.Name, x.Slot)
		}
	}
	slices.Sort(l.late)
	at := func(q float64) time.Duration {
		if len(l.late) == 0 {
			return 0
		}
		return l.late[min(int(q*float64(len(l.late))), len(l.late)-1)].Round(time.Millisecond)
	}
	fmt.Printf("measured: load: %d clients (%d at a time), %d restarts (%d by kill -9) in %v: %d false kills, %d missed hangs of %d, %d ladders walked twice, late by p50 %v p99 %v max %v\n",
		l.clients, clients, l.restarts, l.kills, duration, killed, missed, len(l.hung), doubled, at(0.5), at(0.99), at(1))
}
