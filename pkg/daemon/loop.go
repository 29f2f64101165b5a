package daemon

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// see hands an observation to the guard's next Step.
func (d *Daemon) see(o guard.Observation) { d.seen = append(d.seen, o) }

// startTime is what the first look may take.
const startTime = time.Minute

// loop owns all state until the daemon is told to end.
func (d *Daemon) loop() error {
	d.makeReady()
	var ids []uint64
	var due time.Duration
	for {
		select {
		case <-d.ending:
			d.wind()
			return nil
		default:
		}
		if err := d.poller.Arm(due); err != nil {
			return err
		}
		var err error
		if ids, err = d.poller.Wait(ids[:0]); err != nil {
			return err
		}
		due = d.turn(process.Now(), ids)
	}
}

// makeReady asks for what makes the loop punctual; all of it may be refused.
func (d *Daemon) makeReady() {
	// A table of 100000 records takes some seconds to open.
	d.notify.Extend(startTime)
	if err := process.RealtimeThread(); err != nil {
		d.degraded("realtime", fmt.Sprintf("no real-time priority for the loop: %v; on a busy host exits and hangs are noticed some milliseconds later", err))
	}
	if err := process.LockMemory(); err != nil {
		d.degraded("mlock", fmt.Sprintf("memory is not locked: %v; under memory pressure the guard is some tens of milliseconds late", err))
	}
}

// turn is one wake: look, decide, act, remember. It returns the time of the
// next.
func (d *Daemon) turn(now time.Duration, exited []uint64) time.Duration {
	for _, open := range d.mail.empty() {
		open()
	}
	for _, id := range exited {
		d.exitNotice(guard.TargetID(id))
	}
	scan := d.guard.ScanDue(now)
	if scan || !d.ready { // a ladder that was under way goes on only where this guard acts
		d.lookAtLock()
	}
	if scan {
		d.takeRegistry()
		d.lookAtTables()
		d.scanTables()
		d.takeSamples()
		d.guard.ScanDone(now)
	}
	decided := d.decide(now)
	if scan {
		d.scan.count++
		d.scan.last = process.Now() - now
		d.scan.max = max(d.scan.max, d.scan.last)
		d.tell(now)
	}
	d.saved.behind = d.saved.behind || decided
	if len(d.ladders) > 0 || len(d.starts) > 0 || len(d.limitJobs) > 0 || d.saved.behind && now >= d.saved.rest || scan && now-d.saved.at >= saveEvery {
		d.save(now)
	}
	d.startLadders()
	d.startUnits()
	d.startLimitJobs()
	d.askConsents()
	d.watches.learnUnits()
	// The token is earned: no scan is due that was not done, and the workers'
	// lock was free. The loop turns once each attention step, also when scans are
	// further apart than systemd's watchdog.
	_ = d.pool.Active()
	d.notify.Alive()
	next := d.guard.Next()
	if d.saved.behind {
		next = min(next, d.saved.rest)
	}
	return next
}

// decide has the guard decide until it has nothing more to say, and says
// whether it decided anything.
func (d *Daemon) decide(now time.Duration) (decided bool) {
	for {
		// What acting sees goes into the next Step, so the two lists alternate.
		d.batch, d.seen = d.seen, d.batch[:0]
		decisions := d.guard.Step(now, d.batch...)
		clear(d.batch)
		d.opened = openMany(decisions)
		for _, x := range decisions {
			d.act(x)
		}
		decided = decided || len(decisions) > 0
		if len(d.seen) == 0 {
			return decided
		}
	}
}

// tell keeps the status line of systemd up to date, and says READY=1 once.
func (d *Daemon) tell(now time.Duration) {
	n := d.guard.Tally()
	if d.tidy.due(now, n.Targets) && d.ready && d.opts.Tidy != nil {
		d.side(d.opts.Tidy)
	}
	if d.ready && n == d.tally {
		return
	}
	d.tally = n
	line := statusLine(n, d.notActing())
	if !d.ready {
		d.ready = true
		d.notify.Ready(line)
		if d.opts.Tidy != nil {
			d.side(d.opts.Tidy)
		}
		return
	}
	d.notify.Status(line)
}

func (d *Daemon) notActing() string {
	_, why := d.guard.Acts()
	return why
}

// lookAtLock sees whether this guard is the one that acts.
func (d *Daemon) lookAtLock() {
	now := d.tryLock()
	if now == d.lockSeen {
		return
	}
	d.lockSeen = now
	o := guard.Acting{Acts: now.held, Off: now.off, Holder: now.holder, Reason: now.why}
	if now.holder != 0 {
		o.Reason = fmt.Sprintf("pid %d (%s) acts here", now.holder, commOf(now.holder))
	}
	d.see(o)
}

// lockView is what was seen of the right to act.
type lockView struct {
	held   bool
	holder int32  // who else has it, 0: nobody known
	why    string // it is not held
	off    bool   // as nobody is to be guarded
}

func (d *Daemon) tryLock() lockView {
	switch {
	case d.opts.Observe:
		return lockView{why: "started with --observe"}
	case !d.cfg.CPActive.Enabled:
		if d.lockSeen.held {
			_ = d.lock.Release()
		}
		return lockView{why: "cpactive.enabled is false", off: true}
	}
	held, holder, err := d.lock.TryAcquire()
	switch {
	case held:
		return lockView{held: true}
	case err == nil && holder != 0:
		return lockView{holder: holder}
	case err == nil:
		return lockView{why: "a guard that cannot be seen from here acts"}
	case d.registry == nil || os.Geteuid() != 0:
		return lockView{why: "the right to act could not be taken: " + err.Error()}
	}
	// Any user can make the lock's object first, or use up all semaphores of the
	// system, and the unit lacks CAP_SYS_ADMIN, which removing one takes. Nobody
	// may switch the guard off by that: the registry's lock keeps two guards of
	// root apart.
	text := fmt.Sprintf("%v; acting without the lock", err)
	var hostile *table.ForeignLockError
	if errors.As(err, &hostile) {
		text += fmt.Sprintf(". Remove it: ipcrm -s %d", hostile.ID)
	}
	d.degraded("lock", text)
	return lockView{held: true}
}

// wind ends the loop: no further signal, and the last word to the registry.
func (d *Daemon) wind() {
	d.pool.Close()
	now := process.Now()
	for _, open := range d.mail.close() {
		open()
	}
	d.decide(now)
	d.ladders, d.starts, d.limitJobs = d.ladders[:0], d.starts[:0], d.limitJobs[:0]
	d.save(now)
}

// loggerOf is the logger in force; a reload replaces it.
type loggerOf struct {
	l atomic.Pointer[zerolog.Logger]
}

func (x *loggerOf) set(l zerolog.Logger) { x.l.Store(&l) }

func (x *loggerOf) WithLevel(l zerolog.Level) *zerolog.Event { return x.l.Load().WithLevel(l) }
