package systemd

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

const (
	maxPulled = 50  // units that are looked at for what the start of one starts
	maxAlong  = 200 // units that are looked at for who goes with one
)

// Along says what else a start, or restart, of a unit in that state would do. along are the names of the units that systemd
// would start with it, because it needs them and they are down, and, where it is up, of those that it would stop or restart
// with it; both from one to the next.
//
// Or rival says which unit is in the way, and along is nil: one that runs, although it is not to run beside that (Conflicts=,
// of either of them), or not beside what that needs, is down, and is started with it (Requires=, BindsTo=, from one to the
// next). systemd would stop it, or run both. What is merely wanted (Wants=, Upholds=) needs no look: systemd stops nothing
// that runs for its sake, as we ask for no job that may replace others.
//
// Errors: ErrBusy where a rival is about to go, or to come; that there are too many to look at.
func (u *Units) Along(ctx context.Context, unit string, s UnitState) (along []string, rival string, err error) {
	starts, err := u.pulled(ctx, unit, s)
	if err != nil {
		return nil, "", err
	}
	if rival, err = u.rival(ctx, unit, starts); rival != "" || err != nil {
		return nil, rival, err
	}
	delete(starts, unit)
	along = slices.Sorted(maps.Keys(starts))
	if !s.Down() {
		along, err = u.taken(ctx, s, along)
	}
	return along, "", err
}

// rival says who runs that is not to run beside one of those that a start of a unit starts.
func (u *Units) rival(ctx context.Context, unit string, starts map[string]UnitState) (string, error) {
	with := map[string]string{} // of each rival with whom it conflicts
	for _, name := range slices.Sorted(maps.Keys(starts)) {
		for _, rival := range starts[name].Rivals {
			if with[rival] == "" || name == unit {
				with[rival] = name
			}
		}
	}
	if len(with) == 0 {
		return "", nil
	}
	conn, err := u.connection(ctx)
	if err != nil {
		return "", fmt.Errorf("read who conflicts with %s: %w", unit, err)
	}
	states, err := conn.ListUnitsByNamesContext(ctx, slices.Sorted(maps.Keys(with)))
	if err != nil {
		u.failed(conn, err)
		return "", fmt.Errorf("read who conflicts with %s: %w", unit, err)
	}
	for _, o := range states {
		if _, own := starts[o.Name]; own || isIdle(o) && o.JobId == 0 {
			continue
		}
		whom := "it"
		if with[o.Name] != unit {
			whom = with[o.Name] + ", which it needs"
		}
		rival := fmt.Sprintf("%s, which conflicts with %s, is %s", o.Name, whom, o.ActiveState)
		if o.ActiveState == "activating" || !isIdle(o) && o.ActiveState != "deactivating" && o.JobId == 0 {
			return rival, nil
		}
		err = fmt.Errorf("%w: %s", ErrBusy, rival)
	}
	return "", err
}

// pulled is a unit in that state, and those that are down and that its start starts with it, from one to the next.
func (u *Units) pulled(ctx context.Context, unit string, s UnitState) (map[string]UnitState, error) {
	starts := map[string]UnitState{unit: s}
	for needs := s.Pulls; len(needs) > 0; {
		idle, err := u.Idle(ctx, needs)
		if err != nil {
			return nil, err
		}
		needs = nil
		for _, need := range idle {
			if _, known := starts[need]; known {
				continue
			}
			if len(starts) > maxPulled {
				return nil, fmt.Errorf("read what a start of %s starts: more than %d units", unit, maxPulled)
			}
			if starts[need], err = u.State(ctx, need); err != nil {
				return nil, err
			}
			needs = append(needs, starts[need].Pulls...)
		}
	}
	return starts, nil
}

// taken adds to along who is stopped or restarted with a unit in that state.
func (u *Units) taken(ctx context.Context, s UnitState, along []string) ([]string, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return nil, fmt.Errorf("read who goes with %s: %w", s.ID, err)
	}
	next := slices.Clone(s.Takes)
	for known := map[string]bool{s.ID: true}; len(next) > 0; {
		next = slices.DeleteFunc(next, func(unit string) bool { was := known[unit]; known[unit] = true; return was })
		states, err := conn.ListUnitsByNamesContext(ctx, next)
		if err != nil {
			u.failed(conn, err)
			return nil, fmt.Errorf("read who goes with %s: %w", s.ID, err)
		}
		next = nil
		for _, other := range states {
			if isIdle(other) {
				continue
			}
			if along = append(along, other.Name); len(along) > maxAlong {
				return nil, fmt.Errorf("read who goes with %s: more than %d units do", s.ID, maxAlong)
			}
			o, err := u.State(ctx, other.Name)
			if err != nil {
				return nil, err
			}
			next = append(append(next, o.Takes...), o.Rivals...)
		}
	}
	return along, nil
}
