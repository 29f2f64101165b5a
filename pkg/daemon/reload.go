package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// sources says where the configuration in force comes from.
type sources struct {
	files    []string
	rejected time.Duration   // when the last reload was, 0: it was not
	faults   []control.Fault // why
}

// reload reads the configuration anew and puts it in force: validate, compare,
// switch. A faulty one changes nothing. who is for the record.
func (d *Daemon) reload(ctx context.Context, who string) (control.ReloadResult, error) {
	d.reloading.Lock() // one at a time; the files are read off the loop
	defer d.reloading.Unlock()
	d.notify.Reloading()
	next, err := config.Load(d.opts.ConfigPath)
	files := config.Files(d.opts.ConfigPath)
	if err != nil {
		refused := rejected(err)
		text := fmt.Sprintf("configuration rejected (reload by %s), the running one stays in force:\n%v", who, err)
		_ = d.inLoop(ctx, func() {
			d.sources.rejected, d.sources.faults = process.Now(), refused.Faults
			d.say(evConfigRejected, guard.LevelError, who, text)
			d.notify.Ready(statusLine(d.tally, d.notActing()))
		})
		return control.ReloadResult{}, refused
	}
	if d.opts.Override != nil {
		d.opts.Override(&next)
	}
	sinks, logErr := d.nextLog(next.Log)
	var result control.ReloadResult
	err = d.inLoop(ctx, func() {
		if logErr == nil {
			d.switchLog(sinks)
		}
		result = d.switchTo(next, who)
		d.sources = sources{files: files}
		if logErr != nil {
			d.degraded("log", fmt.Sprintf("log: %v; the earlier one stays in use", logErr))
		}
		d.sayLog()
	})
	if err == nil && logErr == nil {
		d.logInForce = next.Log
	}
	return result, err
}

// nextLog opens the log that a new configuration asks for, off the loop: a file
// may lie on a disk that stalls. nil: the one in use stays.
func (d *Daemon) nextLog(next config.Log) (*sinks, error) {
	if d.logInForce == next && (next.File == "" || d.sinks.file != nil) {
		return nil, nil
	}
	return openSinks(next, d.opts.Stderr, d.logTrouble)
}

// switchLog puts a log in use, on the loop; without another one its file is
// opened anew, because it may have been moved away.
func (d *Daemon) switchLog(next *sinks) {
	if next == nil {
		if d.sinks.file != nil {
			d.sinks.file.reopen()
		}
		return
	}
	was := d.sinks
	next.missed.Add(was.dropped())
	d.sinks = next
	d.log.set(next.logger)
	d.side(was.close)
}

func rejected(err error) *control.Rejected {
	out := &control.Rejected{}
	var faults *config.Faults
	if !errors.As(err, &faults) {
		out.Faults = []control.Fault{{Problem: err.Error()}}
		return out
	}
	for _, f := range faults.List {
		out.Faults = append(out.Faults, control.Fault{File: f.File, Line: f.Line, Column: f.Column, Key: f.Key, Problem: f.Problem, Expected: f.Expected})
	}
	return out
}

// compare says what is another in next than in old, and gives next those of
// old's values that hold until a restart.
func compare(old, next *config.Config) control.ReloadResult {
	result := control.ReloadResult{NeedsRestart: config.NeedsRestart(*old, *next)}
	// What names things that are open.
	next.RuntimeDir, next.Control.Socket = old.RuntimeDir, old.Control.Socket
	next.CPActive.Key, next.CPActive.SemKey, next.CPActive.Records = old.CPActive.Key, old.CPActive.SemKey, old.CPActive.Records
	next.Protect.Aliases = maps.Clone(old.Protect.Aliases) // until systemd is asked again
	maps.DeleteFunc(next.Protect.Aliases, func(_, name string) bool { return !slices.Contains(next.Protect.Units, name) })
	result.Changed = config.Diff(*old, *next)
	return result
}

// diff says what a reload would do; with a file named, of that text instead of
// the daemon's own files.
func (d *Daemon) diff(ctx context.Context, file, text string) (control.DiffResult, error) {
	read := func() (config.Config, error) { return config.Load(d.opts.ConfigPath) }
	if file != "" {
		read = func() (config.Config, error) { return config.Parse(file, []byte(text)) }
	}
	next, err := read()
	if err != nil {
		return control.DiffResult{}, rejected(err)
	}
	if d.opts.Override != nil {
		d.opts.Override(&next)
	}
	var result control.DiffResult
	err = d.inLoop(ctx, func() {
		r := compare(d.cfg, &next)
		result.Changed, result.NeedsRestart = r.Changed, r.NeedsRestart
		for _, p := range d.guard.Preview(&next) {
			result.Targets = append(result.Targets, control.Match{PID: p.PID, UID: p.UID, Name: p.Name, Unit: p.Unit, Before: p.Before, After: p.After, Changes: p.Changes})
		}
	})
	return result, err
}

// switchTo puts a valid configuration in force, on the loop.
func (d *Daemon) switchTo(next config.Config, who string) control.ReloadResult {
	old := d.cfg
	result := compare(old, &next)

	d.cfg = &next
	clear(d.users)
	clear(d.lost) // what is still missing is said again
	d.guard.SetConfig(d.cfg)
	d.restorer.follow(next.Rules)
	d.restorer.setNames(d.cfg)
	d.watches.set(next.Rules)
	d.saved.behind = true
	if old.CPActive.Enabled && !next.CPActive.Enabled {
		d.lookAtLock() // no longer: ladders under way are cancelled first
		d.giveUpTables()
	}
	d.pool.SetMax(next.Ladder.MaxConcurrent)
	d.setGroups()
	text := fmt.Sprintf("configuration reloaded by %s: ", who)
	if len(result.Changed) == 0 {
		text += "nothing changed"
	} else {
		text += strings.Join(result.Changed, "; ")
	}
	if len(result.NeedsRestart) > 0 {
		text += "; needs a restart: " + strings.Join(result.NeedsRestart, ", ")
	}
	d.say(evReloaded, guard.LevelInfo, who, text)
	d.notify.Ready(statusLine(d.guard.Tally(), d.notActing()))
	return result
}
