package alert

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// alertmanager starts the real one and returns its URL.
func alertmanager(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		nstest.Unavailable(t, "prometheus-alertmanager is not installed (make deps)")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, []byte("route:\n  receiver: none\nreceivers:\n- name: none\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+file, "--storage.path="+dir, "--web.listen-address=127.0.0.1:0", "--cluster.listen-address=")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	// It takes a port that is free, and says which.
	url := ""
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for url == "" && lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if m := regexp.MustCompile(`"Listening on" address=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			url = "http://" + m[1]
		}
	}
	if url == "" {
		t.Fatalf("Alertmanager does not listen:\n%s", &said)
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	eventually(t, "Alertmanager is ready", func() bool {
		answer, err := http.Get(url + "/-/ready")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == 200
	})
	return url
}

// shown is an alert as Alertmanager shows it.
type shown struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	Status              struct{ State string }
}

// active are the alerts that Alertmanager shows as standing, by their id.
func active(t *testing.T, url string) map[string]shown {
	t.Helper()
	answer, err := http.Get(url + "/api/v2/alerts?active=true")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	var list []shown
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	out := map[string]shown{}
	for _, x := range list {
		out[x.Labels["id"]] = x
	}
	return out
}

// TestAlertmanager shows an alert and its end in a real Alertmanager: it is kept alive beyond its resolve timeout while it
// stands, and one that nobody keeps alive ends by itself.
func TestAlertmanager(t *testing.T) {
	url := alertmanager(t)
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	a := Alert{ID: "7-1@5", Kind: KindProcess, Severity: "warning", Process: "ftp get", PID: 42, Unit: "a.service", Verdict: "hung", Event: "condemned",
		Message: "pid 42 is silent", StartsAt: time.Now().Add(-time.Minute).Round(time.Millisecond)}
	step := func(status Status) Step {
		return Step{Orders: []Order{{Notification{ID: a.ID + "/" + string(status), Status: status, Alert: a}, []string{"ops"}}}}
	}
	fired := step(Firing)
	fired.Set = []Open{{Key: "7-1", Alert: a, Fired: true, To: []string{"ops"}}}
	if err := s.Put(fired, ""); err != nil {
		t.Fatal(err)
	}
	l := deliver(t, s, Receiver{Type: TypeAlertmanager, URL: url + "/", Timeout: Duration{Duration: 5 * time.Second}, ResolveTimeout: Duration{Duration: 4 * time.Second}})
	eventually(t, "it stands", func() bool { return len(active(t, url)) == 1 })
	x := active(t, url)[a.ID]
	if fmt.Sprint(x.Labels) != "map[alertname:CheckprocProcess host:host id:7-1@5 name:ftp get pid:42 severity:warning unit:a.service]" ||
		fmt.Sprint(x.Annotations) != "map[event:condemned summary:pid 42 is silent verdict:hung]" || !x.StartsAt.Equal(a.StartsAt) {
		t.Errorf("%+v", x)
	}
	first := x.EndsAt
	eventually(t, "it was sent again", func() bool { return active(t, url)[a.ID].EndsAt.After(first.Add(5 * time.Second)) })
	a.EndsAt = time.Now()
	over := step(Resolved)
	over.Del = []string{"7-1"}
	if err := s.Put(over, ""); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, "it is over", func() bool { return len(active(t, url)) == 0 })
	t.Logf("measured: resolved in Alertmanager after %v", time.Since(begin))
	if l.has("") {
		t.Errorf("%v", l.lines)
	}

	// One that nobody keeps alive.
	p := newPoster(Receiver{Type: TypeAlertmanager, URL: url, Timeout: Duration{Duration: 5 * time.Second}, ResolveTimeout: Duration{Duration: time.Second}}, "host")
	b := a
	b.ID, b.EndsAt = "8-1@5", time.Time{}
	if err := p.post(t.Context(), []Notification{{Status: Firing, Alert: b}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ends by itself", func() bool { return len(active(t, url)) == 0 })

	// One that began, and ended, before the clock was set back.
	b.ID, b.StartsAt = "9-1@5", time.Now().Add(time.Hour)
	if err := p.post(t.Context(), []Notification{{Status: Firing, Alert: b}}); err != nil {
		t.Fatal(err)
	}
	b.EndsAt = b.StartsAt.Add(time.Minute)
	if err := p.post(t.Context(), []Notification{{Status: Resolved, Alert: b}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is over at once", func() bool { return len(active(t, url)) == 0 })
}
