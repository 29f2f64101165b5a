package bench

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestFigureExit kills clients one after the other and watches the pid words of their records. The observer spins on
// one core, real-time while it does, so that it is not late itself. A client that is to end on just that core has to
// wait for it, so of the times from the SIGKILL only the median says something.
func TestFigureExit(t *testing.T) {
	if outside(t) {
		return
	}
	g := startGuard(t, dir(t), "")
	c := startCrowd(t, clients, 30, time.Second, 0)
	g.awaitEvents(t, "registered", clients)
	seg := attach(t)

	const each = clients / 2
	fromKill, fromExit := exits(t, c, seg.Token, 0, each)
	row(t, "exit notice, idle machine: from the end of a client to its cleared record", spread(fromExit), "p50 150 µs, p99 500 µs",
		quantile(fromExit, 0.5) <= 150*time.Microsecond && quantile(fromExit, 0.99) <= 500*time.Microsecond)
	note(t, "… from the SIGKILL", "p50 "+short(median(fromKill)))

	for range runtime.NumCPU() {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	time.Sleep(time.Second)
	_, fromExit = exits(t, c, seg.Token, each, clients)
	row(t, "exit notice, all cores busy: from the end of a client to its cleared record", spread(fromExit), "p99 500 µs", quantile(fromExit, 0.99) <= 500*time.Microsecond)
}

// exits kills the clients in slots from to end.
func exits(t *testing.T, c *crowd, token func(slot int) (int32, int64), from, end int) (fromKill, fromExit []time.Duration) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	rt := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	other := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	for slot := from; slot < end; slot++ {
		p, err := process.Open(int32(c.notes[slot].pid.Load()))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetAttr(0, &rt, 0); err != nil {
			t.Fatalf("SCHED_RR for the observer: %v", err)
		}
		begin := process.Now()
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var dead, cleared time.Duration
		for cleared == 0 && process.Now()-begin < 5*time.Second {
			if dead == 0 && p.Exited() {
				dead = process.Now()
			}
			if pid, _ := token(slot); pid == 0 {
				cleared = process.Now()
			}
		}
		if err := unix.SchedSetAttr(0, &other, 0); err != nil {
			t.Fatal(err)
		}
		_ = p.Close()
		if cleared == 0 {
			t.Fatalf("the record in slot %d was not cleared within 5s", slot)
		}
		if dead == 0 {
			dead = cleared
		}
		fromKill, fromExit = append(fromKill, cleared-begin), append(fromExit, cleared-dead)
		time.Sleep(10 * time.Millisecond)
	}
	return fromKill, fromExit
}
