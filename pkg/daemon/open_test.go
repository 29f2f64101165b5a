package daemon

import (
	"errors"
	"os"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestOpenMany: what was opened ahead is what Open would have said, and nothing is left over.
func TestOpenMany(t *testing.T) {
	var decisions []guard.Decision
	for i := range openAhead {
		decisions = append(decisions, guard.Identify{Target: guard.TargetID(i + 1), PID: int32(os.Getppid())}, guard.LookAt{})
	}
	decisions = append(decisions, guard.Identify{Target: 1000, PID: 1})
	if few := openMany(decisions[:2]); few != nil {
		t.Errorf("opened ahead for one: %v", few)
	}
	d := &Daemon{opened: openMany(decisions)}
	if n := len(d.opened); n != 2 {
		t.Errorf("%d opened, want one for each pid", n)
	}
	for range 2 { // ahead, and when asked
		p, err := d.open(guard.Identify{PID: int32(os.Getppid())})
		if err != nil {
			t.Fatal(err)
		}
		if p.PID != int32(os.Getppid()) {
			t.Errorf("pid %d", p.PID)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.open(guard.Identify{PID: 1}); !errors.As(err, new(*process.RefusedError)) {
		t.Errorf("pid 1: %v", err)
	}
	if len(d.opened) != 0 {
		t.Errorf("left over: %v", d.opened)
	}
}
