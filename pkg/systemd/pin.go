package systemd

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
)

// pins keep units loaded: of one that is down and to which nobody refers systemd forgets at once when and how it ended.
// They hang on a connection of their own, and end with it.
type pins struct {
	mu   sync.Mutex
	conn *dbus.Conn
	end  context.CancelFunc
	all  map[string]bool
	told func(unit string)
	jobs atomic.Pointer[jobs] // heard of on conn
}

// OnStop has told called when somebody has stopped a pinned unit while it was down: see StoppedDown. It comes before the
// first Pin, and told must not wait for anything.
func (u *Units) OnStop(told func(unit string)) { u.pins.told = told }

// Pin has systemd remember what a unit did last, until Unpin, and hears of its jobs. It does nothing for one that is pinned
// already. Without a system bus there are no pins.
func (u *Units) Pin(ctx context.Context, unit string) error {
	if err := u.pins.call(ctx, "RefUnit", unit); err != nil {
		return err
	}
	return u.pins.hear(ctx, unit)
}

// Unpin ends that.
func (u *Units) Unpin(ctx context.Context, unit string) error {
	return u.pins.call(ctx, "UnrefUnit", unit)
}

func (p *pins) call(ctx context.Context, method, unit string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil || !p.conn.Connected() {
		life, end := context.WithCancel(context.Background()) // of the connection
		dial, cancel := context.WithTimeout(ctx, dialWait)
		defer cancel()
		stop := context.AfterFunc(dial, end)
		conn, err := dbus.ConnectSystemBus(dbus.WithContext(life), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
		if err != nil || !stop() {
			end()
			return fmt.Errorf("%s of %s: connect to the system bus: %w", method, unit, cmp.Or(err, context.Cause(dial)))
		}
		p.conn, p.end, p.all = conn, end, map[string]bool{}
		j := p.jobs.Load().anew(p.told)
		j.listen(conn)
		p.jobs.Store(j)
	}
	if method == "UnrefUnit" {
		p.jobs.Load().forget(unit)
	}
	if p.all[unit] == (method == "RefUnit") {
		return nil
	}
	if method == "UnrefUnit" {
		p.ignore(ctx, unit)
	}
	call := p.conn.Object(systemdName, systemdPath).CallWithContext(ctx, managerName+"."+method, 0, unit)
	if call.Err != nil {
		return fmt.Errorf("%s of %s: %w", method, unit, call.Err)
	}
	if method == "RefUnit" {
		p.all[unit] = true
	} else {
		delete(p.all, unit)
	}
	return nil
}

func (p *pins) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.Close()
		p.end()
		p.conn = nil
	}
}
