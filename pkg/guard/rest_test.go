package guard

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// leaves is a world in which c hangs with two children in its cgroup: it ends of SIGTERM, and they do not. The rest of
// its ladder, SIGKILL, is due 30 s after that.
func leaves(t *testing.T, configure ...func(*config.Config)) (w *world, children [2]*proc) {
	w = newWorld(t, append([]func(*config.Config){func(c *config.Config) {
		rule := groupRule("c")
		rule.Ladder.Steps = []config.Step{{Signal: unix.SIGTERM, Wait: 30 * sec}, {Signal: unix.SIGKILL, Wait: 5 * sec}}
		c.Rules = []config.Rule{rule}
	}}, configure...)...)
	p := w.client(110, "c", 10, 5*sec)
	p.facts.Cgroup, p.facts.Unit, p.proof.Members, p.termIn = "/a", "a.service", []int32{110, 120, 121}, 100*ms
	for i := range children {
		children[i] = w.start(int32(120 + i))
		children[i].child, children[i].facts.Cgroup = true, "/a/b"
	}
	w.run(20 * sec)
	p.hang()
	for len(w.signals) == 0 {
		w.run(100 * ms)
	}
	return w, children
}

// TestRest: the rest of a cgroup whose target has gone gets the rest of the ladder, whenever the daemon dies.
func TestRest(t *testing.T) {
	for name, at := range map[string]time.Duration{"never": 0, "before the target ends": 50 * ms, "before it is forgotten": 3 * sec, "after that": 10 * sec,
		"for long": 29 * sec} {
		for _, inodes := range []bool{true, false} {
			w, children := leaves(t)
			w.noInodes = !inodes
			struck := w.now
			if at > 0 {
				w.run(at)
				if name == "for long" {
					w.stall(time.Minute)
				}
				w.restart()
			}
			for children[0].alive && w.now < struck+3*time.Minute {
				w.run(100 * ms)
			}
			took := w.now - struck
			w.run(time.Minute)
			if least, most := 29*sec, 32*sec; children[0].alive || children[1].alive || name != "for long" && (took < least || took > most) {
				t.Errorf("%s: %v, %v live, SIGKILL after %v: %v\n%s", name, children[0].alive, children[1].alive, took, w.signals, w)
			}
			if len(w.signals) != 5 || len(w.g.rests) != 0 {
				t.Errorf("%s: %d signals, %d rests\n%s", name, len(w.signals), len(w.g.rests), w)
			}
			kills := 0
			for _, e := range w.find(EvSignalled, 110) {
				if e.Signal == sigkill {
					kills++
					if e.Message != "SIGKILL sent to the rest of the cgroup of pid 110 (c), step 2" || e.Unit != "a.service" || e.Step != 2 {
						t.Errorf("%+v", e.Event)
					}
				}
			}
			// Its target ended of SIGTERM, whatever its rest got.
			if e := w.find(EvKilled, 110); kills != 1 || len(e) != 1 || e[0].Signal != "SIGTERM" || e[0].Step != 1 {
				t.Errorf("%s: SIGKILL is said %d times; %+v\n%s", name, kills, e, w)
			}
			w.none(EvRefused, EvUnkillable)
		}
	}
}

// TestRestDies: what ends in time gets no signal more, and nothing of it is kept.
func TestRestDies(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w, children := leaves(t)
		w.run(10 * sec)
		if restart {
			w.restart()
			w.run(2 * sec)
		}
		children[0].exit(false)
		children[1].exit(false)
		w.run(time.Minute)
		if len(w.signals) != 3 || len(w.g.rests) != 0 {
			t.Errorf("%v, %d rests\n%s", w.signals, len(w.g.rests), w)
		}
	}
}

// TestRestOfAnother: a number that is another's by now, a process that has left, and one that has become a client get nothing;
// nor does anybody when that was ordered, or the next daemon does not act.
func TestRestOfAnother(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, c [2]*proc)
		ends   int    // children that are ended
		why    string // that is said
	}{
		"a number is another's": {func(w *world, c [2]*proc) {
			c[0].exit(false)
			o := w.start(120)
			o.child, o.facts.Cgroup = true, "/a/b"
		}, 1, ""},
		"one has left": {func(w *world, c [2]*proc) { c[0].facts.Cgroup = "/b" }, 1, ""},
		"another came": {func(w *world, c [2]*proc) { o := w.start(122); o.child, o.facts.Cgroup = true, "/a" }, 2, ""},
		"a unit anew":  {func(w *world, c [2]*proc) { w.client(130, "c", 10, 5*sec).facts.Cgroup = "/a" }, 2, ""},
		"one registered": {func(w *world, c [2]*proc) {
			c[0].child = false
			c[0].join(20, "d", 10).every = 5 * sec
			c[0].next = w.now
		}, 0, "is among it, which is not to be ended"},
		"an order":   {func(w *world, c [2]*proc) { _, _ = w.g.Hold(HoldOrder{Name: "c", For: time.Hour}) }, 0, "an order holds it"},
		"for all":    {func(w *world, c [2]*proc) { _, _ = w.g.Hold(HoldOrder{All: true, For: time.Hour}) }, 0, "an order holds it"},
		"for others": {func(w *world, c [2]*proc) { _, _ = w.g.Hold(HoldOrder{Name: "d", For: time.Hour}) }, 2, ""},
		"no right to act": {func(w *world, c [2]*proc) {
			w.acts = false
			w.post(0, Acting{Reason: "told so"})
		}, 0, "told so"},
		"its rule": {func(w *world, c [2]*proc) {
			w.reload(func(c *config.Config) { c.Rules[0].Action = config.ActionReport })
		}, 0, "rule[0] says report"},
		"protect": {func(w *world, c [2]*proc) { w.reload(func(c *config.Config) { c.Protect.Units = []string{"a.*"} }) }, 0, "protected by"},
		"names": {func(w *world, c [2]*proc) {
			w.reload(func(c *config.Config) { c.Names = []config.Names{{User: "idc", Allow: []string{"x"}}} })
		}, 0, "does not let idc"},
	} {
		for when, at := range map[string]time.Duration{"never": 0, "at once": 10 * sec, "later": 25 * sec, "when all is overdue": 11 * sec} {
			t.Run(name+"/"+when, func(t *testing.T) {
				w, children := leaves(t)
				w.run(10 * sec)
				if at == 0 && (name == "a number is another's" || name == "one has left") { // that is a matter of pidfds
					return
				}
				tt.change(w, children)
				switch {
				case when == "when all is overdue":
					w.stall(time.Minute)
					w.run(sec)
					w.restart()
				case at > 0:
					w.run(at - 10*sec)
					w.restart()
				}
				w.run(2 * time.Minute)
				killed, said := 0, ""
				for _, s := range w.signals {
					if s.sig == unix.SIGKILL {
						killed++
					}
				}
				for _, e := range w.find(EvRefused, 110) {
					said += e.Message + "\n"
				}
				if killed != tt.ends || (said == "") != (tt.why == "") || !strings.Contains(said, tt.why) || strings.Count(said, "\n") > 1 || len(w.g.rests) != 0 {
					t.Errorf("%d of %d ended, said %q, %d rests\n%s", killed, tt.ends, said, len(w.g.rests), w)
				}
			})
		}
	}
}

// TestRestUnknown: a daemon that dies before it was told who got a signal with the target leaves nothing to go on with.
func TestRestUnknown(t *testing.T) {
	w, _ := leaves(t)
	w.g.rests[0].known, w.g.rests[0].group = false, Group{}
	w.run(sec)
	w.restart()
	w.run(time.Minute)
	if e := w.find(EvRefused, 110); len(e) != 1 || !strings.Contains(e[0].Message, "nobody knows who was in it") || len(w.signals) != 3 || len(w.g.rests) != 0 {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestRestUnsure: who cannot be shown to be who they were are told of.
func TestRestUnsure(t *testing.T) {
	w, _ := leaves(t)
	w.run(sec)
	w.post(0, Gathered{Target: w.g.rests[0].id, Group: w.g.rests[0].group, Unsure: 2})
	w.run(sec)
	if e := w.find(EvRefused, 110); len(e) != 1 || !strings.Contains(e[0].Message, "2 of it cannot be shown to be who they were") {
		t.Errorf("%v\n%s", e, w)
	}
}

// TestRestStays: what outlives the whole ladder is said once. That its target ended of another signal stays so.
func TestRestStays(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w, children := leaves(t, func(c *config.Config) { c.Rules[0].Ladder.Steps[0].Wait = 3 * sec })
		children[0].stays = true
		if restart {
			w.run(sec)
			w.restart()
		}
		w.run(time.Minute)
		e := w.find(EvUnkillable, 0)
		if len(e) != 1 || e[0].Message != "the rest of the cgroup of pid 110 (c) does not end after SIGKILL: nothing more is sent" || e[0].Unit != "a.service" || len(w.g.rests) != 0 {
			t.Errorf("%v\n%s", e, w)
		}
		if e := w.find(EvKilled, 110); len(e) != 1 || e[0].Signal != "SIGTERM" {
			t.Errorf("%v\n%s", e, w)
		}
	}
}

// TestRestTwice: a ladder that is stopped as the daemon dies is not gone on with.
func TestRestTwice(t *testing.T) {
	w, _ := leaves(t)
	w.run(10 * sec)
	w.wordDelay = time.Minute
	_, _ = w.g.Hold(HoldOrder{Name: "c", For: 5 * sec})
	w.run(sec)
	w.restart()
	w.run(2 * time.Minute)
	if len(w.signals) != 3 || len(w.g.rests) != 0 || len(w.find(EvRefused, 110)) != 1 {
		t.Errorf("%v\n%s", w.signals, w)
	}
}

// TestRestStopped: who is not to be ended any more by a reload just after its end takes the rest with it.
func TestRestStopped(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w, _ := leaves(t)
		w.run(sec)
		w.reload(func(c *config.Config) { c.Verdict.Hung = config.RespondReport })
		w.run(sec)
		if restart {
			w.restart()
		}
		w.run(time.Minute)
		if e := w.find(EvRefused, 110); len(e) != 1 || !strings.Contains(e[0].Message, "the ladder was stopped") || len(w.signals) != 3 || len(w.g.rests) != 0 {
			t.Errorf("%v\n%s", e, w)
		}
	}
}

func TestRestSize(t *testing.T) {
	var w writer
	new(rest).save(&w)
	if len(w.b) != leastRest {
		t.Errorf("one takes %d bytes at least, not %d", len(w.b), leastRest)
	}
}
