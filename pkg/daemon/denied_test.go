package daemon

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
)

// TestDenied: orders that were refused are reported, with who and what, as often as journald can bear and not as somebody
// without rights likes; how many were left out is said.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Default()
		d := &Daemon{ring: newRing(), cfg: &cfg}
		d.log.set(zerolog.Nop())
		d.denials.pace = newPace()
		d.mail.wake = func() {}
		h := handler{d}
		said := func() (out []control.Event) {
			for _, letter := range d.mail.empty() {
				letter()
			}
			out = d.ring.events
			d.ring = newRing()
			return out
		}
		c := control.Caller{UID: 4242, PID: 7}
		h.Denied(c, "Reload", "it takes root")
		e := said()
		if len(e) != 1 || e[0].Name != "denied" || e[0].Level != control.LevelWarning || e[0].Reason != "uid 4242 (pid 7)" ||
			e[0].Message != "uid 4242 (pid 7) ordered Reload, and may not: it takes root" {
			t.Fatalf("%+v", e)
		}
		for i := range 1000 {
			h.Denied(c, fmt.Sprint(i), "")
		}
		if n := len(said()); n != alertBurst-1 {
			t.Errorf("%d of 1000 are reported", n)
		}
		time.Sleep(alertRefill)
		h.Denied(c, "Recover", "it takes root")
		h.Denied(c, "Recover", "it takes root")
		if e := said(); len(e) != 1 || !strings.HasSuffix(e[0].Message, fmt.Sprintf("(%d such orders before this one were left out)", 1001-alertBurst)) {
			t.Errorf("%+v", e)
		}
	})
}
