package guard

import (
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestAnswerOfAnother: of two processes of a unit that had the same number each gets the answer to its own question, in
// whatever order they come.
func TestAnswerOfAnother(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Recovery.Wait = sec })
	var asks []uint64
	w.onRestore = func(x RestoreUnit) RestoreDone {
		asks = append(asks, x.Ask)
		return RestoreDone{Up: true}
	}
	w.restoreTime = time.Hour // none of these comes
	for range 2 {
		p := w.client(110, "c", 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		w.run(10 * sec)
		p.exit(false)
		w.run(10 * sec)
	}
	if len(w.g.pending) != 2 || len(asks) != 2 || asks[0] == asks[1] {
		t.Fatalf("%d wait, asked %v\n%s", len(w.g.pending), asks, w)
	}
	first, second := w.g.pending[0].id, w.g.pending[1].id
	w.post(0, RestoreDone{Ask: asks[1], Up: true})
	w.run(sec)
	if len(w.g.pending) != 1 || w.g.pending[0].id != first {
		t.Errorf("%d is answered, and not %d", first, second)
	}
	w.post(0, RestoreDone{Ask: asks[1], Up: true}) // nobody waits for it
	w.run(sec)
	if len(w.g.pending) != 1 {
		t.Error("an answer to another question is taken")
	}
	w.post(0, RestoreDone{Ask: asks[0], Up: true})
	w.run(sec)
	if len(w.g.pending) != 0 {
		t.Errorf("%+v", w.g.pending)
	}
}
