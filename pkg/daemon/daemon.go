package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/escalate"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/registry"
	"github.com/checkprocd/checkprocd/pkg/systemd"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// Options is what a daemon is started with.
type Options struct {
	Config     config.Config
	ConfigPath string               // what Reload reads: "" is the default path
	Override   func(*config.Config) // the command line's word over a configuration, also at a reload; nil: none
	Observe    bool                 // decide and report, act on nothing
	Version    string
	Hangup     <-chan os.Signal // each one is a reload; nil: none
	Stderr     *os.File         // console or JSON lines; nil: os.Stderr
	Tidy       func()           // called beside the loop once READY=1 is on its way, and after many targets came or went; nil: nothing
}

// Daemon guards until its context ends. See Run.
type Daemon struct {
	opts     Options
	cfg      *config.Config
	sources  sources
	sinks    *sinks
	guard    *guard.Guard
	poller   *process.Poller
	reader   *process.Reader
	pool     *escalate.Pool
	restorer *restorer
	limiter  *limiter
	sampler  *sampler
	watches  *watches
	notify   *systemd.Notifier
	server   *control.Server
	lock     table.ActorLock
	registry *registry.File
	log      loggerOf
	ring     *ring
	alerter  *alerter
	denials  denials
	mail     mailbox

	// Owned by the loop.
	seen     []guard.Observation
	batch    []guard.Observation
	held     map[guard.TargetID]*held
	examines examines
	users    map[uint32]string
	parents  map[int32]parent
	ladders  []guard.BeginLadder
	groups   map[guard.TargetID]*groupTarget // of the ladders under way with scope cgroup
	asks     []guard.AskConsent
	samples  samples

	starts    []restoreJob     // of units that come back, begun when the registry has them
	limitJobs []limitJob       // of limits, likewise
	opened    map[int32]opened // by openMany, of the decisions that are being carried out
	tables    tables
	scan      scanCost
	tally     guard.Tally
	ready     bool
	tidy      tidy
	saved     savedState
	lockSeen  lockView
	lost      map[string]string // what is degraded, by its key: said once for each text
	features  []process.Feature
	begun     time.Duration

	reloading  sync.Mutex
	logInForce config.Log // under reloading

	releases atomic.Int32 // of memory, under way

	sides   sync.WaitGroup
	ending  chan struct{} // closed when the loop is told to end
	stopped chan struct{} // closed when the loop has ended
}

// scanCost is what the passes over the tables cost.
type scanCost struct {
	count     int64
	last, max time.Duration
}

// savedState is about the registry.
type savedState struct {
	buf   []byte
	path  string
	at    time.Duration
	error string
	boot  string

	absent bool          // held by another guard, or no room for it: tried again and again
	behind bool          // something was decided since
	rest   time.Duration // not written before, unless a ladder begins
}

const (
	// saveEvery is how often quiet beats are written to the registry; whatever
	// is decided is written at once…
	saveEvery = time.Second
	// …but when a thousand clients come or go together, writing takes no more
	// than one part in so many of the loop's time: with a full table, one write
	// of 0.4 ms in 4 ms. A ladder does not begin before it is written.
	saveShare = 10
	// saveRest bounds the wait after a write that was itself held up.
	saveRest = 50 * time.Millisecond
	// tablesMax bounds the attached tables: each removal leaves one behind, for
	// as long as a client has it mapped.
	tablesMax = 16
	// staysNamed bounds the units that the last event names.
	staysNamed = 20
)

// ErrNoPidfd says that the kernel cannot do what nothing here works without.
var ErrNoPidfd = errors.New("pidfd_open is not to be had (Linux 5.10 or newer, and no sandbox in the way)")

// Run guards until ctx ends, then stops in order and returns nil. It returns an
// error only when it could not begin. It must not be called twice.
func Run(ctx context.Context, opts Options) error {
	if opts.Stderr == nil {
		opts.Stderr = os.Stderr
	}
	d, err := start(opts)
	if err != nil {
		return err
	}
	defer d.stop()
	return d.run(ctx)
}

// start opens all that the loop needs.
func start(opts Options) (*Daemon, error) {
	cfg := opts.Config
	d := &Daemon{
		opts: opts, cfg: &cfg, sources: sources{files: config.Files(opts.ConfigPath)}, begun: process.Now(),
		held: map[guard.TargetID]*held{}, groups: map[guard.TargetID]*groupTarget{}, users: map[uint32]string{}, parents: map[int32]parent{},
		ring: newRing(), lost: map[string]string{}, ending: make(chan struct{}), stopped: make(chan struct{}),
	}
	var err error
	if d.sinks, err = openSinks(cfg.Log, opts.Stderr, d.logTrouble); err != nil {
		return nil, err
	}
	d.log.set(d.sinks.logger)
	d.logInForce = cfg.Log
	d.features = process.Probe()
	for _, f := range d.features {
		if f.Name == process.FeaturePidfdOpen && f.Err != "" {
			return nil, fmt.Errorf("%w: %s", ErrNoPidfd, f.Err)
		}
	}
	if d.poller, err = process.NewPoller(); err != nil {
		return nil, err
	}
	d.mail.wake = d.poller.Wake
	d.notify = systemd.NewNotifier()
	d.reader = process.NewReader(func(a process.ConsentAnswer) { d.mail.leave(func() { d.consentAnswer(a) }) })
	d.pool = escalate.New(cfg.Ladder.MaxConcurrent, d.ladderOutcome)
	d.restorer = newRestorer(d.post)
	d.restorer.forbids = func(ctx context.Context, ask uint64, along []string) (is bool, why string) {
		err := d.inLoop(ctx, func() { is, why = d.guard.Forbids(ask, along) })
		return is || err != nil, why // it ends, or took too long: nothing was asked for yet
	}
	d.restorer.known = func(ids map[string]string) { d.mail.leave(func() { d.namesKnown(ids) }) }
	d.alerter = newAlerter(d.alertTrouble)
	d.denials.pace = newPace()
	d.limiter = &limiter{units: &d.restorer.units, queue: make(chan limitJob, limitQueue), post: d.post}
	d.limiter.forbids = func(ctx context.Context, x guard.RestartForLimit, along []string) (why string, err error) {
		err = d.inLoop(ctx, func() { why = d.guard.ForbidsLimit(x, along) })
		return why, err
	}
	d.sampler = newSampler()
	d.watches = newWatches(d)
	return d, nil
}

// greet says what this daemon is and what it cannot do here.
func (d *Daemon) greet() {
	c := d.cfg
	text := fmt.Sprintf("checkprocd %s guards the table under key %#x, interval %s, pid %d", d.opts.Version, c.CPActive.Key, c.Interval, os.Getpid())
	if !c.CPActive.Enabled {
		text = fmt.Sprintf("checkprocd %s: cpactive.enabled is false, nothing is guarded, pid %d", d.opts.Version, os.Getpid())
	}
	d.say(evStarted, guard.LevelInfo, "", text)
	for _, f := range d.features {
		if f.Err != "" {
			d.degraded(f.Name, fmt.Sprintf("%s (%s): %s", f.Name, f.Since, f.Err))
		}
	}
	d.sayLog()
}

// sayLog reports what is wrong with the log.
func (d *Daemon) sayLog() {
	if err := d.sinks.noted; err != nil {
		d.degraded("journal", fmt.Sprintf("the journal is not there: %v; writing to standard error", err))
	}
	if err := d.sinks.broken; err != nil {
		d.degraded("log.file", fmt.Sprintf("the log file cannot be written: %v; guarding without it. Under systemd, let the unit write there: `systemctl edit checkprocd` with [Service] ReadWritePaths=%s (and CapabilityBoundingSet=CAP_DAC_OVERRIDE for a directory of another user)", err, filepath.Dir(d.cfg.Log.File)))
	}
}

// logTrouble is told, on any goroutine, what is wrong with the log file since
// its last line.
func (d *Daemon) logTrouble(text string) {
	d.mail.leave(func() { d.say(evDegraded, guard.LevelWarning, "log.file", text) })
}

// degraded reports something that is missing, once for each text.
func (d *Daemon) degraded(key, text string) {
	if d.lost[key] == text {
		return
	}
	d.lost[key] = text
	d.say(evDegraded, guard.LevelWarning, key, text)
}

// side runs f beside the loop; the daemon waits for it at its end.
func (d *Daemon) side(f func()) {
	d.sides.Add(1)
	go func() {
		defer d.sides.Done()
		f()
	}()
}

// run is the daemon's life between start and stop.
func (d *Daemon) run(ctx context.Context) error {
	sideCtx, cancel := context.WithCancel(ctx)
	defer d.sides.Wait()
	defer cancel()
	d.greet()
	d.openRegistry()
	d.side(func() { d.restorer.run(sideCtx) })
	d.side(func() { d.alerter.run(sideCtx) })
	d.side(func() { d.limiter.run(sideCtx) })
	d.side(func() { d.sampler.run(sideCtx) })
	d.restorer.follow(d.cfg.Rules)
	d.restorer.setNames(d.cfg)
	d.watches.set(d.cfg.Rules)
	var err error
	if d.server, err = d.listen(); err != nil {
		d.noSocket(err)
	}
	d.setGroups()
	// It serves until the followers of the events have the last of them.
	serveCtx, endServe := context.WithCancel(context.WithoutCancel(ctx))
	defer endServe()
	d.side(func() { d.serve(serveCtx, d.server) })
	d.side(func() {
		for {
			select {
			case <-d.opts.Hangup:
				_, _ = d.reload(sideCtx, "SIGHUP") // what comes of it is in the journal
			case <-sideCtx.Done():
				return
			}
		}
	})
	stopWaking := context.AfterFunc(ctx, func() { close(d.ending); d.poller.Wake() })
	defer stopWaking()

	failed := make(chan error, 1)
	go func() {
		// The loop keeps its thread: its timerfd wakes it tens of microseconds
		// late, not a millisecond, and it may be real-time.
		runtime.LockOSThread()
		failed <- d.loop()
	}()
	err = <-failed
	close(d.stopped)
	d.watches.stop()
	d.notify.Stopping()
	d.say(evStopping, guard.LevelInfo, "", "checkprocd stops: nothing is guarded until it runs again; the table, its clients and the registry stay"+stays(d.guard.Throttled()))
	d.ring.close()
	return err
}

// stays says which units have less until a guard runs again, and how somebody else gives
// them back what they had: nobody knows whether one will.
func stays(throttled []guard.ThrottleView) string {
	text := ""
	for i, v := range throttled {
		if i == staysNamed {
			return text + fmt.Sprintf("; so do %d more units", len(throttled)-i)
		}
		text += fmt.Sprintf("; %s keeps %s until then, or: systemctl set-property --runtime '%s' %s", v.Unit, v.Has, v.Unit, v.Back)
	}
	return text
}

// openRegistry takes up what an earlier daemon left.
func (d *Daemon) openRegistry() {
	d.guard = guard.New(d.cfg)
	boot, err := registry.BootID()
	if err != nil {
		d.degraded("registry", fmt.Sprintf("no registry: %v; a restart forgets what was seen", err))
		return
	}
	d.saved.boot, d.saved.path = boot, filepath.Join(d.cfg.RuntimeDir, "registry")
	if err := os.MkdirAll(d.cfg.RuntimeDir, 0o755); err != nil {
		d.degraded("registry", fmt.Sprintf("no registry: %v; a restart forgets what was seen", err))
		return
	}
	file, payload, err := registry.Open(d.saved.path, guard.StateVersion, boot)
	d.registry, d.saved.absent = file, file == nil
	if err != nil {
		if file == nil {
			d.noRegistry(err)
			return
		}
		d.degraded("registry", fmt.Sprintf("registry: %v", err))
	}
	if payload == nil {
		return
	}
	g, err := guard.Restore(d.cfg, payload)
	if err != nil {
		d.degraded("registry", fmt.Sprintf("registry %s: %v; beginning anew", d.saved.path, err))
		return
	}
	d.guard = g
	d.lookAtLock() // what has ended meanwhile is restored only where this guard acts
	if d.cfg.CPActive.Enabled {
		d.attachKnown()
	} else {
		d.giveUpTables()
	}
	d.see(guard.Resumed{})
}

func (d *Daemon) noRegistry(err error) {
	d.degraded("registry", fmt.Sprintf("no registry: %v; a restart forgets what was seen; trying again each %s", err, d.cfg.Interval))
}

// takeRegistry opens the registry of a guard that has ended since, or the one
// that the disk had no room for; what an earlier guard knew, this one has seen
// itself.
func (d *Daemon) takeRegistry() {
	if d.registry != nil || !d.saved.absent {
		return
	}
	file, _, err := registry.Open(d.saved.path, guard.StateVersion, d.saved.boot)
	if file != nil {
		d.registry, d.saved.absent = file, false
	} else if !errors.Is(err, registry.ErrHeld) {
		d.noRegistry(err)
	}
}

// save writes the state. A full disk costs the memory of a restart, not the
// guarding.
func (d *Daemon) save(now time.Duration) {
	s := &d.saved
	if d.registry == nil {
		s.behind = false
		return
	}
	begin := process.Now()
	s.buf, s.at, s.behind = d.guard.Save(s.buf[:0]), now, false
	err := d.registry.Save(s.buf)
	end := process.Now()
	s.rest = end + min(saveShare*(end-begin), saveRest)
	switch {
	case err == nil:
		s.error = ""
	case s.error != err.Error():
		s.error = err.Error()
		d.say(evDegraded, guard.LevelError, "registry", fmt.Sprintf("registry %s: %v; guarding on, a restart would forget what was seen since", s.path, err))
	}
}

// stop ends what start began. Ladders under way are left where they are: the
// registry has them, and the next daemon goes on with them.
func (d *Daemon) stop() {
	_ = d.reader.Close()
	for id := range d.held {
		d.release(id)
	}
	for _, a := range d.tables.list {
		_ = a.seg.Close()
	}
	if d.registry != nil {
		_ = d.registry.Close()
	}
	_ = d.lock.Release()
	_ = d.poller.Close()
	d.sinks.close()
	d.notify.Close()
}

// statusLine is what `systemctl status` shows.
func statusLine(n guard.Tally, acting string) string {
	parts := []string{fmt.Sprintf("guarding %d of %d targets", n.Guarded, n.Targets)}
	for _, p := range [...]struct {
		n    int
		what string
	}{{n.Late, "late"}, {n.Held, "held"}, {n.Ladders, "being ended"}, {n.Unverified, "unverified"}, {n.Forming, "forming"}, {n.GivenUp, "given up"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if n.Slots > 0 {
		parts = append(parts, fmt.Sprintf("table %d of %d used", n.Used, n.Slots))
	} else {
		parts = append(parts, "no table")
	}
	if acting != "" {
		parts = append(parts, "not acting: "+acting)
	}
	return strings.Join(parts, ", ")
}
