package control

import (
	"os/user"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// groupAge is how long a looked-up group id is believed; a group that was missing is looked up again after missingAge.
const (
	groupAge   = time.Minute
	missingAge = time.Second
)

// group is a group name and the id that it had when last looked up. A group that does not exist has no members.
type group struct {
	name string
	gid  uint32
	ok   bool
}

func (g group) has(c *Caller) bool {
	return g.ok && (c.GID == g.gid || slices.Contains(c.Groups, g.gid))
}

// roles maps credentials to what a caller may do.
type roles struct {
	ownUID uint32
	lookup func(name string) (gid uint32, ok bool)
	now    func() time.Time

	groups    atomic.Pointer[[2]group] // steer, read
	refresh   sync.Mutex               // held by the one that looks up: a directory service may hang
	refreshed time.Time
}

func newRoles(ownUID uint32, steer, read string) *roles {
	r := &roles{ownUID: ownUID, lookup: lookupGroup, now: time.Now}
	r.set(steer, read)
	return r
}

// lookupGroup knows names and plain numbers; an empty name is no group.
func lookupGroup(name string) (uint32, bool) {
	if name == "" {
		return 0, false
	}
	id := name
	if g, err := user.LookupGroup(name); err == nil {
		id = g.Gid
	}
	gid, err := strconv.ParseUint(id, 10, 32)
	return uint32(gid), err == nil
}

// set names those that do not exist.
func (r *roles) set(steer, read string) (missing []string) {
	r.refresh.Lock()
	defer r.refresh.Unlock()
	r.resolve(steer, read)
	for _, g := range r.groups.Load() {
		if g.name != "" && !g.ok {
			missing = append(missing, g.name)
		}
	}
	return missing
}

// resolve is called with refresh held.
func (r *roles) resolve(steer, read string) {
	groups := [2]group{{name: steer}, {name: read}}
	for i := range groups {
		groups[i].gid, groups[i].ok = r.lookup(groups[i].name)
	}
	r.groups.Store(&groups)
	r.refreshed = r.now()
}

// current answers with the groups as known, and looks them up again where that is due and nobody else does it now.
func (r *roles) current() [2]group {
	if r.refresh.TryLock() {
		g := r.groups.Load()
		age := groupAge
		for _, one := range g {
			if one.name != "" && !one.ok {
				age = missingAge
			}
		}
		if r.now().Sub(r.refreshed) >= age {
			r.resolve(g[0].name, g[1].name)
		}
		r.refresh.Unlock()
	}
	return *r.groups.Load()
}

// all: uid 0 and the daemon's own uid may do all, whatever the groups.
func (r *roles) all(c *Caller) bool { return c.UID == 0 || c.UID == r.ownUID }

// grant fills in what the caller may do.
func (r *roles) grant(c *Caller) {
	if r.all(c) {
		c.CanSteer, c.CanSeeAll = true, true
		return
	}
	groups := r.current()
	c.CanSteer = groups[0].has(c)
	c.CanSeeAll = c.CanSteer || groups[1].has(c)
}

// requirement says which credentials would do.
func (r *roles) requirement(steer bool) string {
	text := "root"
	for i, g := range *r.groups.Load() {
		if g.name != "" && (i == 0 || !steer) {
			text += " or a member of group " + g.name
		}
	}
	return "it takes " + text
}
