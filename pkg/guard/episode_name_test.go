package guard

import (
	"testing"
	"time"
)

// TestEpisodesHaveNames reads the names of episodes off the events: one name from late to its end, also over a restart
// of the daemon; no name outside, and another one for what comes after.
func TestEpisodesHaveNames(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		w := newWorld(t)
		if restarts {
			w.restartAt = func(wake int) bool { return wake%3 == 0 }
		}
		killed, again := w.client(110, "killed", 5, 5*sec), w.client(120, "again", 5, sec)
		w.run(8 * sec)
		killed.hang()
		again.look.Tracer = 99
		again.hang()
		w.run(20 * sec)
		if v := w.view(120); v.Episode == "" || v.State != "held" {
			t.Errorf("in its episode: %+v", v)
		}
		again.look.Tracer = 0
		again.every, again.next = sec, w.now
		w.run(10 * sec)
		if v := w.view(120); v.Episode != "" {
			t.Errorf("after its episode: %+v", v)
		}
		again.hang()
		w.run(time.Minute)

		seen := map[string]TargetID{}
		inside := map[TargetID]string{}
		for _, e := range w.events {
			switch now := inside[e.Target]; e.Name {
			case EvLate:
				if _, twice := seen[e.Episode]; e.Episode == "" || twice {
					t.Errorf("%s begins with the name %q", e.Message, e.Episode)
				}
				seen[e.Episode], inside[e.Target] = e.Target, e.Episode
			default:
				if e.Episode != now {
					t.Errorf("%s: episode %q, want %q", e.Message, e.Episode, now)
				}
			}
			if e.Name == EvRecovered || e.Name == EvReleased {
				delete(inside, e.Target)
			}
		}
		if len(seen) != 3 || len(w.find(EvKilled, 110)) != 1 || len(w.find(EvKilled, 120)) != 1 || len(w.find(EvRecovered, 120)) != 1 {
			t.Errorf("restarts %v: episodes %v\n%s", restarts, seen, w)
		}
	}
}

// TestEpisodeThatCameToNothing has a gap just when a target is late: nothing was found out, and the next silence is
// another episode.
func TestEpisodeThatCameToNothing(t *testing.T) {
	w := newWorld(t)
	w.proofDelay = 5 * sec
	p := w.client(110, "c", 5, sec)
	w.run(3 * sec)
	p.hang()
	w.run(8 * sec)
	if v := w.view(110); v.State != "late" || v.Episode == "" {
		t.Fatalf("%+v", v)
	}
	w.stall(10 * sec)
	w.run(11 * sec)
	if v := w.view(110); v.State != "guarded" || v.Episode != "" {
		t.Errorf("after the gap: %+v", v)
	}
	w.run(time.Minute)
	if e := w.find(EvLate, 110); len(e) != 2 || e[0].Episode == e[1].Episode {
		t.Errorf("%s", w)
	}
}
