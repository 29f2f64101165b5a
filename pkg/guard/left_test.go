package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// spent is the world in which c.service is up, and has no start left: an hour ago it
// was started as often as it may be.
func spent(t *testing.T) (w *world, p *proc) {
	w = newWorld(t, func(c *config.Config) {
		c.Recovery.Attempts, c.Recovery.Window, c.Recovery.Stable = 1, 24*time.Hour, 24*time.Hour
	})
	w.onRestore = func(RestoreUnit) RestoreDone {
		p = w.client(111, "c", 5, 2*sec)
		p.facts.Unit = "c.service"
		return RestoreDone{Started: true}
	}
	first := w.client(110, "c", 5, 2*sec)
	first.facts.Unit, first.ending = "c.service", EndedBadly
	w.run(10 * sec)
	first.exit(false)
	w.run(time.Hour)
	if len(w.asked) != 1 || len(w.find(EvRestored, 110)) != 1 {
		t.Fatal(w)
	}
	return w, p
}

// TestLookFirst: that a process has ended is no reason to give its unit up, also if there is no start left: an operator has
// restarted it or stopped it, or systemd has restarted it.
func TestLookFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		answers []RestoreDone // to the looks
		want    string        // what is said of it
	}{
		"restarted":      {[]RestoreDone{{Up: true}}, ""},
		"stopped":        {[]RestoreDone{{Reason: "it was stopped: inactive"}}, "c.service (c) is left down: it was stopped: inactive"},
		"comes up late":  {[]RestoreDone{{Coming: true}, {Coming: true}, {Up: true}}, ""},
		"nobody answers": {[]RestoreDone{{Failed: true, Unasked: true, Reason: "no bus"}, {Up: true}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := spent(t)
			var looks []time.Duration
			w.onGlance = func(x RestoreUnit) RestoreDone {
				looks = append(looks, w.now)
				if len(looks) > len(tt.answers) {
					return RestoreDone{Down: true}
				}
				return tt.answers[len(looks)-1]
			}
			ended := w.now
			p.exit(false) // of SIGTERM, say, which leaves the record behind
			w.run(5 * time.Minute)
			w.none(EvGaveUp)
			said := ""
			for _, e := range w.find(EvLeftDown, 0) {
				said += e.Message
			}
			if len(w.asked) != 1 || len(looks) != len(tt.answers) || said != tt.want || looks[0]-ended > 7*sec {
				t.Errorf("%d starts, looks at %v, said %q\n%s", len(w.asked), looks, said, w)
			}
			// It is nobody's fault: no start is given back, none is taken, and the next crash is found to be one too many.
			again := w.client(112, "c", 5, 2*sec)
			again.facts.Unit, again.ending = "c.service", EndedBadly
			w.run(10 * sec)
			again.exit(false)
			w.run(time.Minute)
			if len(w.asked) != 1 || len(w.find(EvGaveUp, 112)) != 1 {
				t.Fatal(w)
			}
			// And what is started by hand, and crashes, is said to be left down: it is given up.
			byHand := w.client(113, "c", 5, 2*sec)
			byHand.facts.Unit, byHand.ending = "c.service", EndedBadly
			w.run(10 * sec)
			byHand.exit(false)
			w.run(time.Minute)
			if e := w.find(EvLeftDown, 113); len(w.asked) != 1 || len(w.find(EvGaveUp, 0)) != 1 || len(e) != 1 || !strings.Contains(e[0].Message, "it is given up for") || e[0].Level != LevelNotice {
				t.Errorf("%v\n%s", e, w)
			}
		})
	}
}

// TestComing: what somebody else is starting or stopping is looked at until that is over, or for more than an hour.
func TestComing(t *testing.T) {
	for name, tt := range map[string]struct {
		lasts time.Duration
		then  RestoreDone
		want  EventName // that tells of it
	}{
		"slow stop":    {89 * sec, RestoreDone{Started: true}, EvRestored},
		"comes up":     {30 * time.Minute, RestoreDone{Up: true}, ""},
		"was stopped":  {3 * sec, RestoreDone{Reason: "it was stopped"}, EvLeftDown},
		"is for ever":  {1000 * time.Hour, RestoreDone{}, EvLeftDown},
		"fails though": {time.Minute, RestoreDone{Failed: true, Reason: "no"}, EvRestoreFailed},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				looks, ended, over := 0, time.Duration(0), false
				var last time.Duration
				w.onRestore = func(RestoreUnit) RestoreDone {
					if looks, last = looks+1, w.now; w.now-ended < tt.lasts {
						return RestoreDone{Coming: true, Reason: "it is deactivating"}
					}
					if over {
						return RestoreDone{Up: true}
					}
					over = true
					return tt.then
				}
				p := w.client(110, "c", 5, 2*sec)
				p.facts.Unit, p.ending = "c.service", EndedBadly
				w.run(10 * sec)
				ended = w.now
				p.exit(false)
				if restart {
					w.restartAt = func(wake int) bool { return wake%397 == 0 }
				}
				w.run(min(2*tt.lasts, 3*time.Hour) + 15*time.Minute)
				if since := last - ended; looks > maxLooks || name == "is for ever" && (since < time.Hour || since > 3*time.Hour) {
					t.Errorf("%d looks in %v", looks, since)
				}
				for _, e := range []EventName{EvRestored, EvRestoreFailed, EvLeftDown} {
					if got := w.find(e, 110); len(got) != map[bool]int{true: 1}[e == tt.want] {
						t.Errorf("%d times %s\n%s", len(got), e, w)
					}
				}
				if len(w.g.pending) > 0 || w.kept["c.service"] != 0 {
					t.Errorf("%d wait, and %v are remembered", len(w.g.pending), w.kept)
				}
			})
		}
	}
}

// TestLeftDown: each end that leads to nothing is explained, once; none that systemd has seen to.
func TestLeftDown(t *testing.T) {
	for name, tt := range map[string]struct {
		answer RestoreDone
		change func(c *config.Config) // while it waits
		want   string
	}{
		"stopped":            {RestoreDone{Reason: "it was stopped: inactive"}, nil, "it was stopped: inactive"},
		"up":                 {RestoreDone{Up: true}, nil, ""},
		"started":            {RestoreDone{Started: true}, nil, ""},
		"none by now":        {RestoreDone{Started: true}, func(c *config.Config) { c.Rules = []config.Rule{{Restart: config.RestartNone}} }, "its rule says so by now"},
		"protected by now":   {RestoreDone{Started: true}, func(c *config.Config) { c.Protect.Names = []string{"c"} }, "protected by"},
		"ended after it was": {RestoreDone{Started: true}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.onRestore = func(RestoreUnit) RestoreDone { return tt.answer }
			want := tt.want
			if name == "ended after it was" {
				w.onLook = func(LookAtStarted) RestoreDone { return RestoreDone{Reason: "it is inactive"} }
				want = "it was stopped, or ended well, after it was started: it is inactive"
			}
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.run(10 * sec)
			p.exit(false)
			w.run(sec)
			if w.kept["c.service"] != 1 {
				t.Errorf("%v are remembered", w.kept)
			}
			if tt.change != nil {
				tt.change(w.cfg)
				w.g.SetConfig(w.cfg)
			}
			w.run(time.Hour)
			e := w.find(EvLeftDown, 110)
			if want == "" && len(e) != 0 || want != "" && (len(e) != 1 || !strings.HasPrefix(e[0].Message, "c.service (c) is left down: "+want) || e[0].Level != LevelNotice || e[0].Unit != "c.service") {
				t.Errorf("%v\n%s", e, w)
			}
			if len(w.g.pending) != 0 || w.kept["c.service"] != 0 {
				t.Errorf("%d wait, and %v are remembered", len(w.g.pending), w.kept)
			}
		})
	}
	t.Run("protected", func(t *testing.T) {
		w := newWorld(t, func(c *config.Config) { c.Protect.Units = []string{"c.service"} })
		p := w.client(110, "c", 5, 2*sec)
		p.facts.Unit, p.ending = "c.service", EndedBadly
		w.run(10 * sec)
		p.exit(false)
		w.run(time.Hour)
		if e := w.find(EvLeftDown, 110); len(e) != 1 || !strings.Contains(e[0].Message, "is left down: protected by") || len(w.asked) > 0 {
			t.Errorf("%v\n%s", e, w)
		}
	})
}

// TestMisnamedByNow: a rule that came after its end keeps a program from coming back by a
// name that its user may not use.
func TestMisnamedByNow(t *testing.T) {
	for name, tt := range map[string]struct {
		names config.Names
		asks  int
	}{
		"another's, by user": {config.Names{User: "idc", Allow: []string{"ftp*"}}, 0},
		"another's, by uid":  {config.Names{User: "1000", Allow: []string{"ftp*"}}, 0},
		"allowed":            {config.Names{User: "idc", Allow: []string{"c*"}}, 1},
		"of somebody else":   {config.Names{User: "other", Allow: []string{"ftp*"}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.client(110, "c", 5, 2*sec)
			p.facts.Unit, p.ending = "c.service", EndedBadly
			w.run(5 * sec)
			p.exit(false)
			w.run(sec)
			w.reload(func(c *config.Config) { c.Names = []config.Names{tt.names} })
			w.restart()
			w.run(time.Minute)
			left := w.find(EvLeftDown, 110)
			if len(w.asked) != tt.asks || len(left) != 1-tt.asks {
				t.Errorf("asked %v\n%s", w.asked, w)
			}
			if len(left) == 1 && !strings.Contains(left[0].Message, "[[names]] does not let idc use that name") {
				t.Error(left[0].Message)
			}
		})
	}
}
