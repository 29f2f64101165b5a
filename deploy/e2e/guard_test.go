package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/daemon"
)

// client is where a machine has the cpactive client of pkg/table/testdata, which a scenario's services run.
const client = "/usr/lib/rig/client"

// scratch is where the layer for all machines of this test run is made.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "checkprocd-stage-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// stage makes the layer that every machine with a guard has: what `make install` installs, as a package would, and the
// programs of the scenarios.
var stage = sync.OnceValues(func() (string, error) {
	at := filepath.Join(scratch, "stage")
	rig := filepath.Join(at, "usr/lib/rig")
	if err := os.MkdirAll(rig, 0o755); err != nil {
		return "", err
	}
	const c = "../../pkg/table/testdata/"
	src := filepath.Join(at, "usr/src/checkprocd")
	for _, args := range [][]string{
		{"make", "-s", "-C", "../..", "install", "DESTDIR=" + at, "PREFIX=/usr"},
		{"install", "-d", src, filepath.Join(src, "cmd"), filepath.Join(src, "pkg")},
		{"cp", "-a", "../../Makefile", "../../go.mod", "../../go.sum", "../../bin", "../../deploy", src}, // for TestMakeInstall
		{"go", "test", "-c", "-o", filepath.Join(rig, "control.test"), "../../pkg/control"},
		{"go", "test", "-c", "-o", filepath.Join(rig, "process.test"), "../../pkg/process"},
		{"go", "build", "-trimpath", "-ldflags=-X main.version=next", "-o", filepath.Join(rig, "checkprocd-next"), "../../cmd/checkprocd"},
		{"cc", "-std=gnu11", "-O2", "-static", "-pthread", "-o", filepath.Join(rig, "client"), c + "client.c"},
		{"cc", "-std=gnu11", "-O2", "-static", "-pthread", "-I", c, "-o", filepath.Join(rig, "threads"), "testdata/threads.c"},
		{"cc", "-std=gnu11", "-O2", "-static", "-o", filepath.Join(rig, "oldguard"), c + "oldguard.c"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return at, os.Chmod(at, 0o755) // it becomes the root of the machine
})

// bootInstalled boots a machine on which checkprocd is installed and not started.
func bootInstalled(t *testing.T, root string, files Files) *Machine {
	t.Helper()
	rootOf(t, root) // skips before anything is built
	installed, err := stage()
	if err != nil {
		t.Fatal(err)
	}
	m := Boot(t, root, files, installed)
	// What a package does after its installation.
	m.Run("systemd-sysusers checkprocd.conf; systemd-tmpfiles --create checkprocd.conf; journalctl --update-catalog")
	return m
}

// service is the text of a unit that runs a command as a user without any rights, and may be started as often as a
// scenario likes.
func service(command string, lines ...string) string {
	return "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nUser=daemon\nExecStart=" + command + "\n" + strings.Join(lines, "\n") + "\n"
}

// crowd is the text of a unit that runs so many healthy clients in one cgroup.
func crowd(clients int) string {
	return service(fmt.Sprintf("/bin/sh -c 'for i in $(seq %d); do %s --name crowd$i --timeout 3 --beat 500 & done; wait'", clients, client))
}

// startGuard returns when the guard has said READY=1.
func (m *Machine) startGuard() {
	m.t.Helper()
	m.Run("systemctl start checkprocd")
}

// status is what `checkprocctl status` says.
func (m *Machine) status() (s control.Status) {
	m.t.Helper()
	m.fromJSON("checkprocctl status --json", &s)
	return s
}

// list is what `checkprocctl list` says, by the name in the record. Those that are forming have none yet, and are left
// out.
func (m *Machine) list() map[string]control.Target {
	m.t.Helper()
	var all []control.Target
	m.fromJSON("checkprocctl list --json", &all)
	byName := make(map[string]control.Target, len(all))
	for _, x := range all {
		if x.State == control.StateForming {
			continue
		}
		if other, twice := byName[x.Name]; twice {
			m.t.Errorf("%s: %q stands twice in the list: %+v, %+v", m.Root, x.Name, other, x)
		}
		byName[x.Name] = x
	}
	return byName
}

func (m *Machine) fromJSON(command string, into any) {
	m.t.Helper()
	m.parse(m.Run(command), into)
}

func (m *Machine) parse(text string, into any) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		m.t.Fatalf("%s: %v\n%s", m.Root, err, text)
	}
}

// waitGuarded waits until so many targets are guarded.
func (m *Machine) waitGuarded(n int) {
	m.t.Helper()
	m.Wait(fmt.Sprintf("%d guarded targets", n), func() bool { return m.status().Targets.Guarded == n })
}

// mainPID is the pid of a service as the machine counts.
func (m *Machine) mainPID(unit string) string {
	m.t.Helper()
	return m.Property(unit, "MainPID")
}

// event is what a record of that event has in any case.
func event(name string, more ...Fields) Fields {
	f := Fields{
		"CHECKPROC_EVENT": name, "MESSAGE_ID": daemon.MessageIDs()[name], "SYSLOG_IDENTIFIER": "checkprocd", "_UID": "0",
		"_SYSTEMD_UNIT": "checkprocd.service",
	}
	for _, x := range more {
		maps.Copy(f, x)
	}
	return f
}

// awaitEvent waits for a record of an event since the last mark, found by the fields of more that name its subject, and
// checks all that each record of the event has.
func (m *Machine) awaitEvent(name string, more ...Fields) Record {
	m.t.Helper()
	find := Fields{"CHECKPROC_EVENT": name}
	for _, x := range more {
		maps.Copy(find, x)
	}
	r := m.Await(find)
	m.check(r, event(name))
	return r
}

// check compares fields of a record: the value, "*" for any that is not empty, "" for none at all.
func (m *Machine) check(r Record, want Fields) {
	m.t.Helper()
	for key, value := range want {
		got, there := r[key]
		switch {
		case value == "" && there:
			m.t.Errorf("%s: %s record has %s=%q", m.Root, r["CHECKPROC_EVENT"], key, got)
		case value == "*" && got == "", value != "*" && got != value:
			m.t.Errorf("%s: %s record: %s is %q, want %q (%s)", m.Root, r["CHECKPROC_EVENT"], key, got, value, r["MESSAGE"])
		}
	}
}

// events gives the records of an event since the last mark.
func (m *Machine) events(name string, more ...Fields) []Record {
	return m.Records(event(name, more...))
}

// segment is the line of /proc/sysvipc/shm about the table, by column.
func (m *Machine) segment() map[string]string {
	m.t.Helper()
	return m.sysvipc("shm")
}

func (m *Machine) sysvipc(kind string) map[string]string {
	m.t.Helper()
	lines := strings.Split(m.Run("cat /proc/sysvipc/"+kind), "\n")
	heads := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) == len(heads) && fields[0] == strconv.Itoa(0x5095) {
			row := map[string]string{}
			for i, h := range heads {
				row[h] = fields[i]
			}
			return row
		}
	}
	m.t.Fatalf("%s: nothing with the key 0x5095 in /proc/sysvipc/%s:\n%s", m.Root, kind, strings.Join(lines, "\n"))
	return nil
}

// startTook is from the fork of a service's process to its being active, with READY=1 or, of Type=exec, when it is
// executed, as systemd measured it.
func (m *Machine) startTook(unit string) time.Duration {
	m.t.Helper()
	from, err1 := strconv.ParseInt(m.Property(unit, "InactiveExitTimestampMonotonic"), 10, 64)
	to, err2 := strconv.ParseInt(m.Property(unit, "ActiveEnterTimestampMonotonic"), 10, 64)
	if err1 != nil || err2 != nil || to < from {
		m.t.Fatalf("%s: start took from %d to %d: %v, %v", m.Root, from, to, err1, err2)
	}
	return time.Duration(to-from) * time.Microsecond
}
