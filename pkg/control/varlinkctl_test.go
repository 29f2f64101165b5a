package control

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// TestVarlinkctl has systemd's own client talk to the server. It exists from systemd 255 on.
func TestVarlinkctl(t *testing.T) {
	if _, err := exec.LookPath("varlinkctl"); err != nil {
		t.Skip("varlinkctl (systemd 255) is not there")
	}
	h := &fake{status: Status{Version: "1.2.3", Mode: ModeActing}, result: ReloadResult{Changed: []string{"interval"}}}
	path := serve(t, h, nil)
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "varlinkctl", args...).CombinedOutput()
		return string(out), err
	}

	out, err := run("info", path)
	if err != nil || !strings.Contains(out, "io.checkproc") || !strings.Contains(out, "1.2.3") {
		t.Errorf("info: %v\n%s", err, out)
	}
	for name, symbol := range map[string]string{Interface: "method GetStatus", serviceInterface: "method GetInfo"} {
		out, err = run("introspect", path, name)
		if err != nil || !strings.Contains(out, symbol) {
			t.Errorf("introspect %s: %v\n%s", name, err, out)
		}
	}
	out, err = run("call", "--json=short", path, "io.checkproc.GetStatus", "{}")
	var got statusReply
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || got.Status.Version != "1.2.3" {
		t.Errorf("call: %v\n%s", err, out)
	}
	out, err = run("call", "--more", "--json=short", path, "io.checkproc.List", "{}")
	if err != nil || !strings.Contains(out, `"targets":[]`) {
		t.Errorf("call --more: %v\n%s", err, out)
	}
	out, err = run("call", "--oneway", path, "io.checkproc.Reload", "{}")
	if err != nil {
		t.Errorf("call --oneway: %v\n%s", err, out)
	}
	eventually(t, "the reload that was submitted", func() bool { return h.reloads.Load() == 1 })

	h.err = &Rejected{[]Fault{{File: "x.toml", Line: 3, Key: "interval", Problem: "is 1h"}}}
	out, err = run("call", path, "io.checkproc.Reload", "{}")
	if err == nil || !strings.Contains(out, "io.checkproc.Rejected") {
		t.Errorf("rejected reload: %v\n%s", err, out)
	}
	out, err = run("call", path, "io.checkproc.Kill", "{}")
	if err == nil || !strings.Contains(out, "MethodNotFound") {
		t.Errorf("unknown method: %v\n%s", err, out)
	}
}
