package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

// A unit can have several names (Alias=, or a link), of which systemd uses one: that is
// what the guard finds in the path of a cgroup, and what it knows processes, orders and
// budgets by. So it is asked what the names in the configuration mean, each pinEvery: the bus
// may be away, and an alias may be enabled later.

// setNames has systemd asked about the units that a configuration names.
func (r *restorer) setNames(c *config.Config) {
	var names []string
	for _, p := range c.Protect.Units {
		if !strings.ContainsAny(p, `*?[\`) { // what a pattern matches are names that systemd uses
			names = append(names, p)
		}
	}
	for i := range c.Rules {
		names = append(names, c.Rules[i].Then...)
	}
	r.mu.Lock()
	r.names = names
	r.mu.Unlock()
	select {
	case r.renamed <- struct{}{}:
	default:
	}
}

// learnNames tells which of these are other names, and of which units.
func (r *restorer) learnNames(ctx context.Context) {
	every := time.NewTicker(pinEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.renamed:
		case <-every.C:
		}
		r.mu.Lock()
		names := r.names
		r.mu.Unlock()
		if ids, err := r.idsOf(ctx, names); err == nil {
			r.known(ids)
		}
	}
}

// idsOf returns what those are called that are other names of units; an error is that nobody
// can be asked.
func (r *restorer) idsOf(ctx context.Context, names []string) (map[string]string, error) {
	ids := map[string]string{}
	for _, name := range names {
		limited, cancel := context.WithTimeout(ctx, learnTimeout)
		id, err := r.units.ID(limited, name)
		cancel()
		switch {
		case systemd.Unanswered(err):
			return nil, err
		case err == nil && id != "" && id != name: // else it is no name of a unit at all
			ids[name] = id
		}
	}
	return ids, nil
}

// namesKnown takes in which names in the configuration are other names of units, on the
// loop: what is protected by one is protected, and nothing is restarted under one.
func (d *Daemon) namesKnown(ids map[string]string) {
	aliases := map[string]string{}
	for _, name := range d.cfg.Protect.Units {
		if id := ids[name]; id != "" {
			aliases[id] = name
		}
	}
	if !maps.Equal(aliases, d.cfg.Protect.Aliases) {
		d.cfg.Protect.Aliases = aliases
		d.guard.SetConfig(d.cfg)
		d.saved.behind = true
	}
	rules := map[string][]string{} // that have such a name: it is said once for all of them
	for i := range d.cfg.Rules {
		for _, name := range d.cfg.Rules[i].Then {
			if ids[name] != "" {
				rules[name] = append(rules[name], fmt.Sprintf("rule[%d].then", i))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		d.degraded("then "+name, fmt.Sprintf("%s: %s is not restarted: %s", strings.Join(rules[name], ", "), name, otherName(ids[name])))
	}
}

func otherName(id string) string {
	return fmt.Sprintf("it is another name of %s, and its rule has to name that", id)
}
