package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/alert"
)

// inNetwork runs f on a thread in the machine's network namespace: a socket that f makes stays there.
func (m *Machine) inNetwork(f func()) {
	m.t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.leader))
	if err != nil {
		m.t.Fatal(err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		m.t.Fatalf("enter the machine's network: %v", err)
	}
}

// hook is a webhook that listens inside a machine.
type hook struct {
	mu       sync.Mutex
	got      []alert.Notification
	signed   int
	listener net.Listener
}

const hookSecret = "a secret of some length"

func (h *hook) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var p alert.Payload
	err := json.Unmarshal(body, &p)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && r.Header.Get(alert.HeaderSignature) == alert.Sign([]byte(hookSecret), r.Header.Get(alert.HeaderTimestamp), body) {
		h.signed++
		h.got = append(h.got, p.Notifications...)
	}
}

// open begins to listen, close ends it: connections are refused then.
func (h *hook) open(m *Machine) { h.listener = m.serveHTTP(8080, h) }

// serveHTTP answers requests to a port of 127.0.0.1 inside the machine.
func (m *Machine) serveHTTP(port int, h http.Handler) (l net.Listener) {
	m.t.Helper()
	m.inNetwork(func() {
		var err error
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			m.t.Errorf("listen in the machine: %v", err)
		}
	})
	if l == nil {
		m.t.FailNow()
	}
	go func() { _ = http.Serve(l, h) }()
	m.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (h *hook) close() { _ = h.listener.Close() }

// await waits for a notification about a process or kind, and returns it.
func (h *hook) await(m *Machine, what string, status alert.Status) (n alert.Notification) {
	m.t.Helper()
	m.Wait(fmt.Sprintf("the webhook hears that %s is %s", what, status), func() bool { return h.count(what, status, &n) > 0 })
	return n
}

func (h *hook) count(what string, status alert.Status, last *alert.Notification) (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.got {
		if n.Status == status && (n.Alert.Process == what || n.Alert.Kind == what) {
			count++
			*last = n
		}
	}
	return count
}

// alertmanager runs the real one in the machine's network, and returns what it shows as standing, by name or alertname.
func (m *Machine) alertmanager() (standing func() map[string]bool) {
	m.t.Helper()
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		if os.Getenv("CI") == "true" {
			m.t.Fatal("prometheus-alertmanager is not installed (make deps)")
		}
		m.t.Skip("prometheus-alertmanager is not installed (make deps)")
	}
	dir := m.t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, []byte("route:\n  receiver: none\nreceivers:\n- name: none\n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(m.leader), "--net", "--", program, "--config.file="+file, "--storage.path="+dir,
		"--web.listen-address=127.0.0.1:9093", "--cluster.listen-address=")
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
		m.inNetwork(func() { conn, err = net.Dial(network, address) })
		return conn, err
	}}}
	standing = func() map[string]bool {
		answer, err := client.Get("http://127.0.0.1:9093/api/v2/alerts?active=true")
		if err != nil {
			return nil
		}
		defer answer.Body.Close()
		var list []struct{ Labels map[string]string }
		if answer.StatusCode != 200 || json.NewDecoder(answer.Body).Decode(&list) != nil {
			return nil
		}
		out := map[string]bool{}
		for _, x := range list {
			out[x.Labels["alertname"]+" "+x.Labels["name"]] = true
		}
		return out
	}
	m.Wait("Alertmanager", func() bool { return standing() != nil })
	return standing
}

// TestAlerts has programs hang, receivers away, and processes killed: each episode is told to a webhook and to a real
// Alertmanager, once it is one, and once it is over.
func TestAlerts(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		m := bootInstalled(t, root, Files{
			"/etc/systemd/system/one.service":               hangsOnce("always", "--ignore-term"),
			"/etc/systemd/system/two.service":               hangsOnce("always", "--ignore-term"),
			"/etc/systemd/system/three.service":             hangsOnce("always", "--ignore-term"),
			"/etc/systemd/system/checkprocd-alert@.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo \"$$0\" >>/run/alerts' %I\n",
			"/etc/systemd/system/old.service":               service(beats("old")),
			"/etc/systemd/system/flap.service":              service("/bin/sh -c 'test -e /run/mended || (sleep 3; kill -SEGV $$$$) & exec " + beats("flap") + "'"),
			"/etc/checkprocd/conf.d/alert.toml": "limits.sample = \"1s\"\n" + noPressure + "[alert]\nunit = \"checkprocd-alert@.service\"\n[recovery]\nwait = \"1s\"\nattempts = 1\n" +
				"[[rule]]\nmatch = { name = \"old\" }\nlimit = [ { of = \"age\", above = \"1s\", for = \"1s\", action = \"throttle\", cpu_quota = \"50%\" } ]\n",
			"/etc/checkprocd/hook.secret":                               hookSecret + "\n",
			"/etc/systemd/system/checkproc-alert.service.d/secret.conf": "[Service]\nLoadCredential=hook:/etc/checkprocd/hook.secret\n",
			"/etc/checkprocd/alert.toml": `guard_floor = "2s"
event_hold = "3s"
[[receiver]]
name = "hook"
type = "webhook"
url = "http://127.0.0.1:8080/"
secret_file = "hook"
[[receiver]]
name = "am"
type = "alertmanager"
url = "http://127.0.0.1:9093"
resolve_timeout = "1m"
[[rule]]
match = { name = "three" }
off = true
`,
		})
		standing := m.alertmanager()
		h := &hook{}
		h.open(m)
		m.startGuard()
		m.Run("chmod 0600 /etc/checkprocd/alert.toml /etc/checkprocd/hook.secret") // as make install has it
		m.Run("checkproc-alert --check && systemctl start checkproc-alert")

		// It has no rights.
		pid := m.mainPID("checkproc-alert")
		status := m.Run("cat /proc/" + pid + "/status")
		for _, line := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, line) {
				t.Errorf("%s: %q is not in\n%s", root, line, status)
			}
		}
		if strings.Contains(status, "Uid:\t0") {
			t.Errorf("%s: it runs as root\n%s", root, status)
		}
		if _, code := m.Try("nsenter -t " + pid + " -m -- ls /var/log"); code == 0 {
			if out := m.Run("nsenter -t " + pid + " -m -- stat -c %a /var/log"); out != "0" {
				t.Errorf("%s: /var/log is open to it: mode %s", root, out)
			}
		}

		m.Run("checkprocctl alert test")
		m.check(m.awaitEvent("alert-test"), Fields{"PRIORITY": "5", "CHECKPROC_REASON": "*"})
		h.await(m, "alert-test", alert.Firing)
		m.Wait("Alertmanager shows the test", func() bool { return standing()["CheckprocAlertTest "] })
		h.await(m, "alert-test", alert.Resolved)
		m.Wait("Alertmanager shows its end", func() bool { x := standing(); return x != nil && !x["CheckprocAlertTest "] })

		// An episode.
		m.Run("systemctl start one three flap old")
		first := h.await(m, "one", alert.Firing)
		if a := first.Alert; a.Kind != "process" || a.Verdict != "hung" || a.Unit != "one.service" || a.PID == 0 || a.Severity != "warning" {
			t.Errorf("%s: %+v", root, first)
		}
		m.Wait("Alertmanager shows it", func() bool { return standing()["CheckprocProcess one"] })
		last := h.await(m, "one", alert.Resolved)
		if last.Alert.Event != "killed" || last.Alert.ID != first.Alert.ID || !last.Alert.EndsAt.After(last.Alert.StartsAt) {
			t.Errorf("%s: %+v", root, last)
		}
		m.Wait("Alertmanager shows its end", func() bool { x := standing(); return x != nil && !x["CheckprocProcess one"] })

		// The guard has had a unit started for both.
		for _, line := range []string{"alert-test", fmt.Sprintf("condemned/one/%d", first.Alert.PID)} {
			m.Wait("the unit was started with "+line, func() bool {
				out, _ := m.Try("cat /run/alerts")
				return slices.Contains(strings.Split(out, "\n"), line)
			})
		}

		// A limit, and what is done for it, until it is over; and what is given up, for longer than event_hold.
		for _, kind := range []string{"limit", "throttled"} {
			if a := h.await(m, kind, alert.Firing).Alert; a.Severity != "warning" || a.Unit != "old.service" {
				t.Errorf("%s: %+v", root, a)
			}
		}
		m.Wait("Alertmanager shows both", func() bool { x := standing(); return x["CheckprocLimit old"] && x["CheckprocThrottled "] })
		if a := h.await(m, "gave-up", alert.Firing).Alert; a.Severity != "critical" || a.Unit != "flap.service" || a.Process != "flap" {
			t.Errorf("%s: %+v", root, a)
		}
		m.Run("systemctl stop old")
		h.await(m, "limit", alert.Resolved)
		h.await(m, "throttled", alert.Resolved)

		// The webhook is away, and the alerts are killed meanwhile, in the middle of an episode.
		h.close()
		m.Mark()
		m.Run("systemctl start two")
		m.awaitEvent("condemned", Fields{"CHECKPROC_NAME": "two"})
		m.Run("systemctl kill --signal=KILL checkproc-alert")
		m.awaitEvent("killed", Fields{"CHECKPROC_NAME": "two"})
		m.WaitUnit("checkproc-alert", "active")
		m.Wait("Alertmanager is told without it", func() bool { x := standing(); return x != nil && !x["CheckprocProcess two"] })
		h.open(m)
		h.await(m, "two", alert.Resolved)

		// The guard itself is away.
		m.Run("systemctl stop checkprocd")
		h.await(m, "guard", alert.Firing)
		m.Wait("Alertmanager shows it", func() bool { return standing()["CheckprocGuard "] })
		m.startGuard()
		h.await(m, "guard", alert.Resolved)

		// What is given up stands, also after a comparison with the list of another guard.
		var n alert.Notification
		if standing := standing(); h.count("gave-up", alert.Resolved, &n) > 0 || !standing["CheckprocGaveUp flap"] {
			t.Errorf("%s: flap is down and given up: told that it is over: %+v; Alertmanager shows %v", root, n, standing)
		}
		m.Run("touch /run/mended; checkprocctl recover flap")
		if a := h.await(m, "gave-up", alert.Resolved).Alert; a.Event != "restored" {
			t.Errorf("%s: %+v", root, a)
		}

		for what, want := range map[string][2]int{"gave-up": {1, 1}, "limit": {1, 1}, "throttled": {1, 1}, "one": {1, 1}, "guard": {1, 1}, "alert-test": {1, 1}, "three": {0, 0}} {
			if got := [2]int{h.count(what, alert.Firing, &n), h.count(what, alert.Resolved, &n)}; got != want {
				t.Errorf("%s: %s: told %v times that it stands and is over, want %v", root, what, got, want)
			}
		}
		if out := m.Run("systemctl show -p StatusText --value checkproc-alert"); !strings.Contains(out, "alerts stand") {
			t.Errorf("%s: status %q", root, out)
		}
		// A configuration that cannot be used is the end, and no restart; so is a secret that only root may read.
		for text, want := range map[string]string{
			"nonsense = 1\n": "alert.toml:1:1: nonsense: unknown key",
			"[[receiver]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:8080/\"\nsecret_file = \"/etc/checkprocd/hook.secret\"\n": `receiver hook: secret_file "/etc/checkprocd/hook.secret": open /etc/checkprocd/hook.secret: permission denied for uid`,
		} {
			m.WriteFile("/etc/checkprocd/alert.toml", text)
			m.Run("systemctl restart checkproc-alert || true")
			m.WaitUnit("checkproc-alert", "failed")
			if got := m.Property("checkproc-alert", "ExecMainStatus"); got != "78" {
				t.Errorf("%s: exit status %s", root, got)
			}
			m.Wait("the journal says: "+want, func() bool { return strings.Contains(m.Run("journalctl --no-pager -u checkproc-alert"), want) })
		}
		m.Run("rm /etc/checkprocd/alert.toml; systemctl reset-failed checkproc-alert")
		if out, code := m.Try("systemctl start checkproc-alert"); code == 0 || m.Property("checkproc-alert", "AssertResult") != "no" {
			t.Errorf("%s: started without a configuration: %s", root, out)
		}
	})
}
