package guard

import (
	"fmt"

	"github.com/checkprocd/checkprocd/pkg/table"
)

// applyAccess works out whether anything may be done to a target at all: by none of
// its names may it be protected, and its first, by which rules find it, has to be one
// that its user may use. What changes in a ladder's way is up to the caller.
func (g *Guard) applyAccess(ix int32) {
	t := &g.targets[ix]
	name := t.displayName()
	t.shield = g.cfg.Protected(name, t.facts.Unit)
	g.eachRecord(ix, func(tb *tableState, i int32) {
		if s := &tb.slots[i]; s.phase == slotLatched && t.shield == "" {
			t.shield = g.cfg.Protected(table.CleanName(&s.name), t.facts.Unit)
		}
	})
	was := t.misnamed
	t.misnamed = !g.cfg.MayUse(t.facts.UID, t.facts.User, name)
	if t.misnamed && !was {
		e := g.about(ix, EvRefused, LevelWarning, "name")
		e.Message = fmt.Sprintf("%s: %s: never signalled, and never started again", t.describe(), t.notAllowed())
		g.told = append(g.told, e) // this may be between two steps
	}
}

// notAllowed says what is wrong with the name of a target that is misnamed.
func (t *target) notAllowed() string {
	return fmt.Sprintf("[[names]] does not let %s use the name %q", t.userText(), t.displayName())
}

func (t *target) userText() string {
	if t.facts.User == "" {
		return fmt.Sprintf("uid %d", t.facts.UID)
	}
	return t.facts.User
}

// untouchable says why neither a signal nor a restart may come of a target, "" if
// they may.
func (t *target) untouchable() string {
	switch {
	case t.shield != "":
		return "protected by " + t.shield
	case t.misnamed:
		return t.notAllowed()
	}
	return ""
}
