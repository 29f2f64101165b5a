package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// listenWait is the pause before a control socket that could not be opened is
// tried again: another guard may serve it, and end.
const listenWait = 2 * time.Second

// listen opens the control socket; without it the guard guards on.
func (d *Daemon) listen() (*control.Server, error) {
	path := d.opts.Config.Control.Socket // a reload does not change it
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return control.Listen(path, control.ServerConfig{
		Group: d.opts.Config.Control.Group, ReadGroup: d.opts.Config.Control.ReadGroup, OwnUID: uint32(os.Geteuid()),
		Version: d.opts.Version, Handler: handler{d},
	})
}

// setGroups says who may what on the control socket, and which group is named and does
// not exist. Those of the defaults need not.
func (d *Daemon) setGroups() {
	if d.server == nil {
		return
	}
	usual := config.Default().Control
	for _, name := range d.server.SetGroups(d.cfg.Control.Group, d.cfg.Control.ReadGroup) {
		if name != usual.Group && name != usual.ReadGroup {
			d.say(evDegraded, guard.LevelWarning, "control.group", fmt.Sprintf("there is no group %q on this host: nobody but root is let in for it until there is", name))
		}
	}
}

func (d *Daemon) noSocket(err error) {
	d.degraded("control", fmt.Sprintf("no control socket: %v; checkprocctl does not reach this guard, trying again each %s", err, listenWait))
}

// serve answers the control socket until ctx ends; server is nil when it could
// not be opened yet.
func (d *Daemon) serve(ctx context.Context, server *control.Server) {
	for {
		if server != nil {
			err := server.Serve(ctx)
			if err == nil {
				return
			}
			_ = d.inLoop(ctx, func() { d.noSocket(err) })
		}
		select {
		case <-time.After(listenWait):
		case <-ctx.Done():
			return
		}
		var err error
		if server, err = d.listen(); err != nil {
			_ = d.inLoop(ctx, func() { d.noSocket(err) })
			continue
		}
		err = d.inLoop(ctx, func() {
			d.server = server
			d.setGroups()
			delete(d.lost, "control")
		})
		if err != nil {
			_ = server.Close()
			return
		}
	}
}
