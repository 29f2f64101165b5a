package guard

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/checkprocd/checkprocd/pkg/config"
)

func protect(names, units []string) func(*config.Config) {
	return func(c *config.Config) { c.Protect = config.Protect{Names: names, Units: units} }
}

// TestProtected hangs targets that are protected in each way there is: nothing is done, that is said once, and the
// order to hold one is answered with why.
func TestProtected(t *testing.T) {
	for name, tc := range map[string]struct {
		with   func(*config.Config)
		forge  bool // a second record, with a name that is protected
		shield string
	}{
		"by its name":          {with: protect([]string{"x", "db*"}, nil), shield: `protect.names "db*"`},
		"by its unit":          {with: protect(nil, []string{"db.*"}), shield: `protect.units "db.*"`},
		"by its second record": {with: protect([]string{"other"}, nil), forge: true, shield: `protect.names "other"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.with)
			p := w.client(110, "dbwriter", 10, 5*sec)
			p.facts.Unit = "db.service"
			w.run(5 * sec)
			if tc.forge {
				w.tb().records[50] = record(110, "other", 10, 1)
				w.run(5 * sec)
			}
			p.hang()
			w.run(60 * sec)
			story := "registered late protected"
			if tc.forge {
				story = "registered changed late protected"
			}
			w.want(110, story)
			if e := w.find(EvProtected, 110); len(e) != 1 || !strings.Contains(e[0].Message, "hung; not acting: protected by "+tc.shield+"; it would have got SIGTERM") {
				t.Errorf("%v", e)
			}
			if v := w.view(110); v.Shield != tc.shield || v.State != "reported" {
				t.Errorf("%+v", v)
			}
			_, err := w.g.Hold(HoldOrder{PID: 110, For: sec})
			if err == nil || !strings.Contains(err.Error(), "pid 110 (dbwriter) is protected by "+tc.shield) {
				t.Errorf("an order to hold it: %v", err)
			}
			w.restart()
			w.run(30 * sec)
			if len(w.signals) > 0 || w.g.Count().Would != 1 {
				t.Errorf("%v, %d\n%s", w.signals, w.g.Count().Would, w)
			}
			// It is ended by nobody, crashes, and its unit is left alone.
			p.exit(false)
			w.run(30 * sec)
			if len(w.asked) > 0 {
				t.Errorf("%+v", w.asked)
			}
		})
	}
}

// TestProtectedLater protects a target in the midst of its ladder, and then no more.
func TestProtectedLater(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "dbwriter", 10, 5*sec)
	p.facts.Unit = "db.service"
	w.run(10 * sec)
	p.hang()
	for len(w.signals) == 0 {
		w.run(sec)
	}
	next := *w.cfg
	protect([]string{"db*"}, nil)(&next)
	was := w.cfg
	w.cfg = &next
	w.g.SetConfig(w.cfg)
	w.wake()
	w.run(60 * sec)
	if len(w.signals) != 1 {
		t.Fatalf("%v\n%s", w.signals, w)
	}
	w.want(110, "registered late condemned signalled protected")
	w.restart()
	w.run(10 * sec)
	w.cfg = was
	w.g.SetConfig(w.cfg)
	w.run(30 * sec)
	w.want(110, "registered late condemned signalled protected condemned signalled signalled killed cleared")
	if len(w.asked) != 1 {
		t.Errorf("%+v", w.asked)
	}
}

// TestProtectedEndsAnyway: what dies of a signal that was sent before it was protected is not started again.
func TestProtectedEndsAnyway(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "dbwriter", 10, 5*sec)
	p.facts.Unit, p.termIn = "db.service", 3*sec
	w.run(10 * sec)
	p.hang()
	for len(w.signals) == 0 {
		w.run(sec)
	}
	next := *w.cfg
	protect(nil, []string{"db.service"})(&next)
	w.g.SetConfig(&next)
	w.run(60 * sec)
	if len(w.signals) != 1 || len(w.asked) != 0 || p.alive {
		t.Errorf("%v, %v\n%s", w.signals, w.asked, w)
	}
}

// TestProtectedNeighbour: a ladder for a whole cgroup is none while one that is protected lives in it, also where the rule
// says shared, and stops to be one when such a one comes.
func TestProtectedNeighbour(t *testing.T) {
	scope, shared := config.ScopeCgroup, true
	for _, later := range []bool{false, true} {
		w := newWorld(t, protect([]string{"db*"}, nil), func(c *config.Config) {
			c.Rules = []config.Rule{{Match: config.Match{Name: "c"}, Ladder: config.RuleLadder{Scope: &scope, Shared: &shared,
				Steps: []config.Step{{Signal: unix.SIGTERM, Wait: 20 * sec}, {Signal: unix.SIGKILL, Wait: 2 * sec}}}}}
		})
		p := w.client(110, "c", 10, 5*sec)
		p.facts.Cgroup = "/a"
		q := w.client(111, "healthy", 10, 5*sec)
		q.facts.Cgroup = "/a"
		db := func() { w.client(120, "dbwriter", 10, 5*sec).facts.Cgroup = "/a/b" }
		if !later {
			db()
		}
		w.run(20 * sec)
		p.proof = Examined{Members: []int32{110, 111}}
		p.hang()
		for len(w.ladders) == 0 {
			w.run(sec)
		}
		if got := w.ladders[0].Scope; (got == config.ScopeCgroup) != later {
			t.Errorf("later=%v: scope %v\n%s", later, got, w)
		}
		if later {
			db()
			w.run(5 * sec)
			if len(w.ladders) != 1 || w.ladders[0].Scope != config.ScopeProcess {
				t.Errorf("%+v\n%s", w.ladders, w)
			}
		}
	}
}

// TestMisnamed: a record with a name that its user may not use is refused; with one that it may, it is not.
func TestMisnamed(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Names = []config.Names{{User: "idc", Allow: []string{"ftp*"}}} })
	good, bad, other := w.client(110, "ftpget", 10, 5*sec), w.client(111, "dbwriter", 10, 5*sec), w.client(112, "dbwriter", 10, 5*sec)
	other.facts.User, other.facts.UID = "db", 7
	bad.facts.Unit = "bad.service"
	w.run(10 * sec)
	if e := w.find(EvRefused, 0); len(e) != 1 || e[0].PID != 111 || e[0].Reason != "name" ||
		!strings.Contains(e[0].Message, `pid 111 (dbwriter): [[names]] does not let idc use the name "dbwriter": never signalled`) {
		t.Errorf("%v", e)
	}
	if v := w.view(111); v.State != "refused" || !strings.Contains(v.Reason, "[[names]]") {
		t.Errorf("%+v", v)
	}
	if n := w.g.Tally(); n.Refused != 1 || n.Guarded != 2 {
		t.Errorf("%+v", n)
	}
	good.hang()
	bad.hang()
	other.hang()
	w.run(60 * sec)
	for _, s := range w.signals {
		if s.pid == 111 {
			t.Errorf("%v", s)
		}
	}
	if good.alive || other.alive || !bad.alive {
		t.Errorf("%v %v %v\n%s", good.alive, bad.alive, other.alive, w)
	}
	w.want(111, "registered refused late would-condemn")
	// Allowed by now.
	next := *w.cfg
	next.Names = nil
	w.g.SetConfig(&next)
	w.run(30 * sec)
	if bad.alive || w.find(EvKilled, 111) == nil {
		t.Errorf("%s", w)
	}
}

// TestAccessRandom changes what is protected at any time, under hangs, ladders and restarts: nobody is signalled or
// started again while he is.
func TestAccessRandom(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r)
		barred := map[int32]bool{}
		names := []string{"a", "b", "c"}
		for i := range int32(6) {
			p := w.client(110+i, names[i%3], 10, 5*sec)
			p.facts.Unit = names[i%3] + ".service"
			p.termIn = rapid.SampledFrom([]time.Duration{termIgnored, 0, 2 * sec}).Draw(r, "on SIGTERM")
		}
		w.run(20 * sec)
		for range rapid.IntRange(1, 20).Draw(r, "actions") {
			signals, asked := len(w.signals), len(w.asked)
			w.run(time.Duration(rapid.Int64Range(0, int64(15*sec)).Draw(r, "pause")))
			for _, s := range w.signals[signals:] {
				if barred[s.pid] {
					r.Fatalf("%v to %d, which is protected\n%s", s.sig, s.pid, w)
				}
			}
			for _, d := range w.asked[asked:] {
				if x, ok := d.(RestoreUnit); ok && w.cfg.Protected("", x.Unit) != "" {
					r.Fatalf("%s, which is protected, is started\n%s", x.Unit, w)
				}
			}
			switch p := w.procs[rapid.Int32Range(110, 115).Draw(r, "pid")]; rapid.IntRange(0, 3).Draw(r, "action") {
			case 0:
				if p != nil {
					p.hang()
				}
			case 1:
				w.restart()
				w.wake()
			default:
				next := *w.cfg
				next.Protect, next.Names = config.Protect{}, nil
				switch i := rapid.IntRange(0, 5).Draw(r, "what"); i {
				case 0, 1, 2:
					next.Protect.Names = names[i : i+1]
				case 3:
					next.Protect.Units = []string{"a.*"}
				case 4:
					next.Names = []config.Names{{User: "idc", Allow: []string{"a", "b"}}}
				}
				for i := range int32(6) {
					name := names[i%3]
					barred[110+i] = next.Protected(name, name+".service") != "" || !next.MayUse(1000, "idc", name)
				}
				w.cfg = &next
				w.g.SetConfig(w.cfg)
				w.wake()
			}
		}
	})
}
