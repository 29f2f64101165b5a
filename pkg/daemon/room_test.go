package daemon

import (
	"testing"

	"github.com/checkprocd/checkprocd/pkg/process"
)

// TestRoom: what is kept for samples takes no descriptor that a target or the daemon needs.
func TestRoom(t *testing.T) {
	for _, limit := range []int{16, 256, 1024, 4096, 8*process.MaxKept - 1, 8 * process.MaxKept, 131072} {
		kept := 0
		if keepsFiles(limit) {
			kept = process.MaxKept
		}
		targets := roomIn(limit)
		if targets+kept+min(spareFiles, limit/2) != limit || targets < limit/2 {
			t.Errorf("of %d descriptors, %d are for targets beside %d that are kept", limit, targets, kept)
		}
		if keeps := kept > 0; keeps != (limit >= 16384) {
			t.Errorf("of %d descriptors, %d are kept", limit, kept)
		}
	}
}
