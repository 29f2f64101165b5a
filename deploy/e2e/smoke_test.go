package e2e

import "testing"

// TestMachine shows that the rig itself works: a unit with a handshake, its state, its record, two boots at once.
func TestMachine(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := Boot(t, root, Files{
			"/usr/local/bin/hello":              "#!/bin/sh\nsystemd-notify --ready --status='says hello'\necho hello\nexec sleep infinity\n",
			"/etc/systemd/system/hello.service": "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/local/bin/hello\n",
		})
		want := map[string]string{"bookworm": "systemd 252", "trixie": "systemd 257"}[root]
		if got := m.Run("systemctl --version"); len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("systemctl --version: %q, want %s", got, want)
		}
		if got, _ := m.Try("systemctl is-system-running"); got != "running" {
			t.Errorf("is-system-running: %s\n%s", got, m.Run("systemctl --failed"))
		}
		m.Run("systemctl start hello")
		if got := m.Property("hello", "StatusText"); got != "says hello" {
			t.Errorf("StatusText: %q", got)
		}
		r := m.Await(Fields{"_SYSTEMD_UNIT": "hello.service", "MESSAGE": "hello"})
		if got, want := r["_PID"], m.Property("hello", "MainPID"); got != want {
			t.Errorf("_PID of the record is %s, MainPID %s", got, want)
		}
		m.Mark()
		m.WriteFile("/run/bye", "#!/bin/sh\nprintf 'bye \\377\\351\\n'\n")
		m.WriteFile("/etc/systemd/system/hello.service.d/bye.conf", "[Service]\nExecStop=/run/bye\n")
		m.Run("systemctl daemon-reload; systemctl stop hello")
		m.WaitUnit("hello", "inactive")
		m.Await(Fields{"_SYSTEMD_UNIT": "hello.service", "MESSAGE": "bye \xff\xe9"})
		if got := m.Records(Fields{"MESSAGE": "hello"}); len(got) != 0 {
			t.Errorf("records before the mark: %v", got)
		}
		if got := m.Journal("--unit=hello.service", "_SYSTEMD_UNIT=hello.service"); len(got) != 2 {
			t.Errorf("journalctl --unit=hello.service: %d records", len(got))
		}
	})
}
