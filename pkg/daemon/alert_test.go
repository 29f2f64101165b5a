package daemon

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

func TestInstance(t *testing.T) {
	const template = "checkprocd-alert@.service"
	for _, tt := range []struct {
		e    guard.Event
		want string
	}{
		{guard.Event{Name: "condemned", Process: "ftp", PID: 42}, "checkprocd-alert@condemned-ftp-42.service"},
		{guard.Event{Name: "brake-on"}, `checkprocd-alert@brake\x2don.service`},
		{guard.Event{Name: "condemned", Process: "a/../b ;$(x)\n%", PID: 1}, `checkprocd-alert@condemned-a-..-b\x20\x3b\x24\x28x\x29\x0a\x25-1.service`},
		{guard.Event{Name: "condemned", Process: strings.Repeat("ä", 100), PID: 1}, "checkprocd-alert@condemned-1.service"},
	} {
		if got := instance(template, &tt.e); got != tt.want || len(got) > maxUnitName {
			t.Errorf("%+v: %s, want %s", tt.e, got, tt.want)
		}
	}
}

// TestEscape asks systemd-escape.
func TestEscape(t *testing.T) {
	if _, err := exec.LookPath("systemd-escape"); err != nil {
		nstest.Unavailable(t, "systemd-escape is not installed (package systemd)")
	}
	for _, text := range []string{"condemned/ftp/42", "would-condemn/a b", ".x/.y", "ä/\x01\x0f%;", "a:b_c.D9\\"} {
		want, err := exec.Command("systemd-escape", text).Output()
		if got := escape(text); err != nil || got != strings.TrimSuffix(string(want), "\n") {
			t.Errorf("%q: %s, want %s, %v", text, got, want, err)
		}
	}
}

// TestAlerter starts units over a real bus, tells what failed, and keeps to its rate in a wave.
func TestAlerter(t *testing.T) {
	m := fakeBus(t)
	m.mu.Lock()
	m.result["a@bad.service"] = "failed"
	m.mu.Unlock()
	told := make(chan string, 100)
	a := newAlerter(func(text string) { told <- text })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	a.pace.every = 20 * time.Millisecond
	a.ask("a@bad.service")
	const most = alertQueue // nobody serves the queue yet: it does not wait
	for n := range 3 * alertQueue {
		a.ask(fmt.Sprintf("a@%d.service", n))
	}
	begin := time.Now()
	go func() { defer close(done); a.run(ctx) }()
	if text := <-told; text != "alert.unit of the configuration: start a@bad.service: its start job ended as failed" {
		t.Errorf("told %q", text)
	}
	eventually(t, "all that there was room for are started", func() bool { return len(m.calls()) == most })
	if took := time.Since(begin); took < (most-alertBurst-1)*a.pace.every {
		t.Errorf("%d starts took %s", most, took)
	}
	a.ask("a@later.service")
	if text := <-told; !strings.Contains(text, fmt.Sprintf("for %d events", 3*alertQueue+1-most)) {
		t.Errorf("told %q", text)
	}
	eventually(t, "one more is started", func() bool { return slices.Contains(m.calls(), "start a@later.service") })
	cancel()
	<-done
	if n := len(m.calls()); n != most+1 {
		t.Errorf("%d starts", n)
	}
}

// TestAlertTest: the answer says who is told: each that follows, and the unit of alert.unit if there was room for it.
func TestAlertTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Default()
		d := &Daemon{ring: newRing(), cfg: &cfg, alerter: newAlerter(func(string) {}), stopped: make(chan struct{})}
		d.log.set(zerolog.Nop())
		d.mail.wake = func() {}
		test := func(want control.AlertTested) {
			t.Helper()
			var got control.AlertTested
			var err error
			go func() { got, err = handler{d}.AlertTest(t.Context(), control.Caller{}) }()
			synctest.Wait()
			for _, letter := range d.mail.empty() {
				letter()
			}
			synctest.Wait()
			if err != nil || got != want {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		}
		test(control.AlertTested{})
		_, leave, _ := d.ring.enter()
		_, _, _ = d.ring.enter()
		test(control.AlertTested{Followers: 2})
		leave()
		cfg.Alert.Unit = "tell@.service"
		test(control.AlertTested{Followers: 1, Unit: `tell@alert\x2dtest.service`})
		if asked := <-d.alerter.queue; asked != `tell@alert\x2dtest.service` {
			t.Errorf("asked for %s", asked)
		}
		for range alertQueue {
			d.alerter.ask("tell@other.service")
		}
		test(control.AlertTested{Followers: 1})
	})
}
