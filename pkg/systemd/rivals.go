package systemd

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// maxPulled bounds the units that are looked at for what the start of one starts.
const maxPulled = 50

// Rival says which unit is in the way of a start, or restart, of a unit in that state: one that runs, although it is not to
// run beside that (Conflicts=, of either of them), or not beside what that needs, is down, and is started with it
// (Requires=, BindsTo=, from one to the next). systemd would stop it, or run both. "": there is none.
//
// What is merely wanted (Wants=, Upholds=) needs no look: systemd stops nothing that runs for its sake, as we ask for no
// job that may replace others. Errors: ErrBusy where a rival is about to go, or to come; that too many would be started.
func (u *Units) Rival(ctx context.Context, unit string, s UnitState) (string, error) {
	starts, err := u.pulled(ctx, unit, s)
	if err != nil {
		return "", err
	}
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
