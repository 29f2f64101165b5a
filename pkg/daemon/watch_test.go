package daemon

import (
	"testing"

	"github.com/checkprocd/checkprocd/pkg/systemd"
)

func TestFailedSince(t *testing.T) {
	for _, tt := range []struct {
		now  systemd.UnitState
		want string
	}{
		{systemd.UnitState{Active: "active", Sub: "running", Restarts: 2}, ""},
		{systemd.UnitState{Active: "active", Sub: "running", Restarts: 3}, "systemd has restarted it"},
		{systemd.UnitState{Active: "active", Sub: "running"}, ""}, // started anew by an operator
		{systemd.UnitState{Active: "failed", Sub: "failed", Result: "exit-code", ExitCode: 1, ExitStatus: 3}, "it failed: exit status 3"},
		{systemd.UnitState{Active: "activating", Sub: "auto-restart", Result: "signal", ExitCode: 2, ExitStatus: 11}, "systemd restarts it: killed by SIGSEGV"},
		{systemd.UnitState{Active: "inactive", Sub: "dead", Result: "success"}, ""}, // stopped in order
		{systemd.UnitState{Active: "reloading", Sub: "reload", Restarts: 2}, ""},
	} {
		if got := failedSince(2, tt.now); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.now, got, tt.want)
		}
	}
}
