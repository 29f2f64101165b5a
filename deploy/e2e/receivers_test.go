package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/alert"
)

// moody is a webhook that is not well until all are.
type moody struct {
	takes, hangs bool          // what it does until then; neither: it fails at once
	well         chan struct{} // closed when it is

	mu  sync.Mutex
	got []alert.Notification
}

func (h *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var p alert.Payload
	err := json.Unmarshal(body, &p)
	well := false
	select {
	case <-h.well:
		well = true
	default:
	}
	if err == nil && (well || h.takes) {
		h.mu.Lock()
		h.got = append(h.got, p.Notifications...)
		h.mu.Unlock()
	}
	if !well && h.hangs {
		select {
		case <-h.well:
		case <-r.Context().Done():
		}
	}
	if !well {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// about are the ids of what was told about a process, in the order in which they came first: "firing ID".
func (h *moody) about(process string) (told []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]bool{}
	for _, n := range h.got {
		if n.Alert.Process == process && !seen[n.ID] {
			seen[n.ID] = true
			told = append(told, fmt.Sprintf("%s %s", n.Status, n.ID))
		}
	}
	return told
}

// TestReceiversUnwell has programs hang while receivers hang, fail, refuse, and take what they then deny to have taken,
// while checkproc-alert is killed again and again, and the unit that the guard has started hangs as well. The guard decides
// as fast as without all that; and when all are well, each has been told of each episode, that it stands and that it is
// over, and twice only by the same id.
func TestReceiversUnwell(t *testing.T) {
	eachSystemd(t, func(t *testing.T, root string) {
		const victims = 4
		files := Files{
			"/etc/checkprocd/conf.d/e2e.toml":               "interval = \"200ms\"\nbrake.enabled = false\nprotect.names = [\"kept\"]\n" + noPressure,
			"/etc/systemd/system/kept.service":              service(client + " --name kept --timeout 2 --beat 500 --beats 3"),
			"/etc/systemd/system/checkprocd-alert@.service": "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n",
		}
		var before, during []string
		for i := range victims {
			before, during = append(before, fmt.Sprintf("before%d", i)), append(during, fmt.Sprintf("during%d", i))
			files["/etc/systemd/system/"+before[i]+".service"] = hangsOnce("always", "")
			files["/etc/systemd/system/"+during[i]+".service"] = hangsOnce("always", "")
		}
		well := make(chan struct{})
		hooks := map[string]*moody{"hangs": {hangs: true}, "fails": {}, "refuses": {}, "denies": {takes: true}, "loses": {takes: true, hangs: true}}
		ports := map[string]int{"hangs": 8081, "fails": 8082, "refuses": 8083, "denies": 8084, "loses": 8085}
		conf := "[[receiver]]\nname = \"am\"\ntype = \"alertmanager\"\nurl = \"http://127.0.0.1:9093\"\n"
		for name, port := range ports {
			hooks[name].well = well
			conf += fmt.Sprintf("[[receiver]]\nname = %q\ntype = \"webhook\"\nurl = \"http://127.0.0.1:%d/\"\ntimeout = \"10s\"\n", name, port)
		}
		files["/etc/checkprocd/alert.toml"] = conf
		m := bootInstalled(t, root, files)
		standing := m.alertmanager()
		for name, port := range ports {
			if name != "refuses" {
				m.serveHTTP(port, hooks[name])
			}
		}

		// How soon the guard acts: by its own clock, from the last beat, of which timeout and margin are 3 s. A decision that
		// waits for a receiver or for a unit would wait for 10 s.
		acts := func(units []string) (most time.Duration) {
			t.Helper()
			for _, unit := range units {
				about := Fields{"CHECKPROC_UNIT": unit + ".service"}
				m.awaitEvent("killed", about)
				for _, event := range []string{"late", "condemned", "signalled"} {
					usec, _ := strconv.Atoi(m.awaitEvent(event, about)["CHECKPROC_SILENCE_USEC"])
					if usec < 3_000_000 || usec > 6_000_000 {
						t.Errorf("%s: %s: %s after %d µs of silence, timeout and margin are 3 s", root, unit, event, usec)
					}
					most = max(most, time.Duration(usec)*time.Microsecond)
				}
			}
			return most
		}
		m.startGuard()
		m.Run("systemctl start " + strings.Join(before, " "))
		without := acts(before)

		m.WriteFile("/etc/checkprocd/conf.d/alert.toml", "[alert]\nunit = \"checkprocd-alert@.service\"\n")
		m.Run("systemctl reload checkprocd; systemctl start checkproc-alert kept " + during[0])
		for i, unit := range during {
			if i > 0 {
				m.Run("systemctl start " + unit)
			}
			m.awaitEvent([]string{"late", "condemned", "signalled", "killed"}[i%4], Fields{"CHECKPROC_UNIT": unit + ".service"})
			m.WaitUnit("checkproc-alert", "active")
			m.Run("systemctl kill --signal=KILL checkproc-alert")
		}
		with := acts(during)
		m.awaitEvent("protected", Fields{"CHECKPROC_UNIT": "kept.service"})
		t.Logf("measured: %s: signalled %v after the last beat at most, %v while no receiver is well", root, without, with)

		// One is well all the time, and is not kept waiting by the others.
		m.Wait("Alertmanager shows what hangs and is protected, and nothing else", func() bool {
			now := standing()
			for _, unit := range during {
				if now["CheckprocProcess "+unit] {
					return false
				}
			}
			return now["CheckprocProcess kept"]
		})
		for name, h := range hooks {
			for _, unit := range during {
				if !h.takes && len(h.about(unit)) > 0 {
					t.Errorf("%s: %s has been told before it was well: %q", root, name, h.about(unit))
				}
			}
		}

		close(well)
		m.serveHTTP(ports["refuses"], hooks["refuses"])
		m.Run("systemctl stop kept")
		for name, h := range hooks {
			for _, unit := range append(during, "kept") {
				m.Wait(fmt.Sprintf("%s is told of both ends of %s", name, unit), func() bool { return len(h.about(unit)) >= 2 })
			}
		}
		m.Wait("nothing waits", func() bool {
			return strings.Contains(m.Property("checkproc-alert", "StatusText"), "0 alerts stand, 0 notifications wait")
		})
		for name, h := range hooks {
			for _, unit := range append(during, "kept") {
				told := h.about(unit)
				id, _, _ := strings.Cut(strings.TrimPrefix(told[0], "firing "), "/")
				if want := fmt.Sprintf("firing %s/0, resolved %s/resolved", id, id); strings.Join(told, ", ") != want {
					t.Errorf("%s: %s was told of %s: %q", root, name, unit, told)
				}
			}
		}
		m.Wait("Alertmanager shows nothing", func() bool { x := standing(); return x != nil && len(x) == 0 })
	})
}
