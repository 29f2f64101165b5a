package guard

import (
	"bytes"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// Tests that wrong versions of the guard asked for, which all others let pass
// (see TestMutations).

// many starts clients 110 and up that beat every 5 s, with timeout 10 s (patience
// 11 s), and small waves.
func many(t *testing.T, n int, atLeast int) (*world, []*proc) {
	w := newWorld(t, func(c *config.Config) { c.Brake.AtLeast, c.Brake.Fraction = atLeast, 0.5 })
	var all []*proc
	for i := range n {
		all = append(all, w.client(int32(110+i), "c", 10, 5*sec))
	}
	w.run(21 * sec)
	return w, all
}

func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		path, group string
		want        bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false},
		{"/a", "/", false}, {"", "", false}, {"/a.slice/b.service", "/a.slice", true}, {"/a.slice2", "/a.slice", false},
	} {
		if within(tt.path, tt.group) != tt.want {
			t.Errorf("%s within %s: not %v", tt.path, tt.group, tt.want)
		}
	}
}

// TestWaveLimits: a wave is at least so many, and more than that part of all, those
// that it has ended with them.
func TestWaveLimits(t *testing.T) {
	for _, tt := range []struct {
		hang, of int
		want     bool
	}{{3, 5, true}, {2, 3, false}, {3, 6, false}, {4, 6, true}} {
		w, all := many(t, tt.of, 3)
		for _, p := range all[:tt.hang] {
			p.hang()
		}
		w.run(13 * sec)
		if on := len(w.find(EvBrakeOn, 0)) > 0; on != tt.want {
			t.Errorf("%d of %d: brake %v\n%s", tt.hang, tt.of, on, w)
		}
	}
	w, all := many(t, 8, 3)
	for _, p := range all[:2] {
		p.hang()
		p.termIn = sec
	}
	w.run(5 * sec) // a beat later
	all[2].hang()
	all[3].hang()
	w.run(13500 * ms) // by then two have ended: 4 of 8 fell late, and 2 of 6 are
	if n := len(w.find(EvKilled, 0)); n != 2 {
		t.Fatalf("%d ended\n%s", n, w)
	}
	w.none(EvBrakeOn)
}

// TestRecoveredIsNoWave: who beat again is none of those that fell late together.
func TestRecoveredIsNoWave(t *testing.T) {
	w, all := many(t, 6, 3)
	w.proofDelay = 3 * sec
	for _, p := range all[:3] {
		p.every = 0
		p.next = 0
	}
	all[3].hang()
	w.run(6 * sec)
	for w.now < 1021*sec+20*sec && len(w.find(EvLate, 0)) < 3 {
		w.run(100 * ms)
	}
	for _, p := range all[:3] {
		p.beat()
		p.every, p.next = 5*sec, w.now+5*sec
	}
	w.run(10 * sec)
	if n := len(w.find(EvRecovered, 0)); n != 3 {
		t.Fatalf("%d recovered\n%s", n, w)
	}
	if len(w.find(EvCondemned, 113)) != 1 {
		t.Errorf("%s", w)
	}
	w.none(EvBrakeOn)
}

// TestSlowAsEver: neighbours that are silent for long, as they always are, do not make a
// wave of one that hangs.
func TestSlowAsEver(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Brake.AtLeast = 3 })
	p := w.client(110, "c", 10, 5*sec)
	for i := range 6 {
		q := w.client(int32(120+i), "slow", 30, 25*sec)
		q.next = w.now + 15*sec
	}
	// They beat at 15 s and each 25 s after, and the last beat of 110 is at 150 s: it is
	// late at 161 s, and they have been silent for 21 s, more than half of 33 s.
	w.in(151*sec, p.hang)
	w.run(163 * sec)
	if e := w.find(EvCondemned, 110); len(e) != 1 || len(w.signals) == 0 || w.signals[0].at != e[0].at {
		t.Errorf("%v\n%s", e, w)
	}
	w.none(EvBrakeOn)
}

// TestAloneInLongWave: while a brake of many holds most of a wave, and more than half
// of all beat again, one that hangs now is not held with them.
func TestAloneInLongWave(t *testing.T) {
	w, all := many(t, 20, 8)
	for _, p := range all[:16] {
		p.hang()
	}
	w.run(14 * sec)
	if b := w.g.Brake(); !b.On || b.Waiting != 16 {
		t.Fatalf("%+v\n%s", b, w)
	}
	w.hold(HoldOrder{All: true, For: time.Second}) // nothing to do with it
	for _, p := range all[4:16] {
		p.beat()
		p.every, p.next = 2*sec, w.now+2*sec
	}
	all[19].hang()
	ix := w.g.byPID[129]
	w.run(3 * sec)
	if !w.g.brake.on || !w.g.brake.many {
		t.Fatalf("%+v\n%s", w.g.brake, w)
	}
	if !w.g.othersBeat() {
		t.Errorf("16 of 20 beat\n%s", w)
	}
	// What is decided about it now, with the brake on:
	w.g.targets[ix].state, w.g.targets[ix].verdict = Braked, verdictHung
	w.g.condemned = append(w.g.condemned, w.g.targets[ix].id)
	w.g.decisions = w.g.decisions[:0]
	w.g.settle()
	if s := w.g.targets[ix].state; s == Braked {
		t.Errorf("it is held with the others\n%s", w)
	}
}

// TestBrakeSlowsDown: once one of those that it holds beats, the brake lets go of one
// at a time again.
func TestBrakeSlowsDown(t *testing.T) {
	w, all := many(t, 90, 8)
	for _, p := range all {
		p.hang()
		p.termIn = 0
	}
	for range 400 {
		w.run(100 * ms)
		if w.g.brake.rate >= 4 {
			break
		}
	}
	if w.g.brake.rate < 4 || w.g.Brake().Waiting == 0 {
		t.Fatalf("%+v\n%s", w.g.brake, w)
	}
	all[89].beat()
	w.run(2100 * ms) // a scan, and a release after it
	if w.g.brake.rate > 2 || w.g.Brake().Waiting == 0 {
		t.Errorf("%+v\n%s", w.g.brake, w)
	}
}

// TestStoppedWaveStaysStopped: an order to the brake to stop is also for those of the
// wave that fall late after it, for as long as it stands.
func TestStoppedWaveStaysStopped(t *testing.T) {
	w, all := many(t, 20, 8)
	for _, p := range all[:14] {
		p.hang()
	}
	w.run(5 * sec)
	for _, p := range all[14:] {
		p.hang()
	}
	w.run(8 * sec)
	if b := w.g.Brake(); !b.On || b.Waiting != 14 {
		t.Fatalf("%+v\n%s", b, w)
	}
	w.g.OrderBrake(false, "uid 0")
	w.run(5 * time.Minute)
	if len(w.signals) > 0 {
		t.Errorf("%d signals\n%s", len(w.signals), w)
	}
}

// TestGapDelaysBrakeOnce: gaps that repeat do not keep the brake from letting go.
func TestGapDelaysBrakeOnce(t *testing.T) {
	w, all := many(t, 20, 8)
	for _, p := range all {
		p.hang()
	}
	w.run(13 * sec)
	if !w.g.brake.on {
		t.Fatalf("%s", w)
	}
	on := w.g.brake.since
	for range 60 { // of about 0.5 s of attention each
		w.stall(4 * sec)
		w.run(4*sec + 300*ms)
		if w.g.brake.released > 0 {
			break
		}
	}
	if after := w.g.Attention() - on; w.g.brake.released == 0 || after > brakeHold+gapGrace+2*sec {
		t.Errorf("%d let go %v after it went on\n%s", w.g.brake.released, after, w)
	}
}

// TestGapForgetsSoftLook: what a soft look saw before a gap excuses nothing after it.
func TestGapForgetsSoftLook(t *testing.T) {
	w := newWorld(t)
	p := w.client(110, "c", 30, 10*sec)
	w.client(120, "other", 30, 10*sec)
	w.run(41 * sec)
	p.hang()
	w.run(12 * sec)
	p.state = 'T'
	w.run(6 * sec)
	p.state = 'S'
	w.run(sec)
	w.stall(time.Minute)
	w.run(time.Minute + 35*sec)
	if len(w.find(EvGap, 0)) != 1 || len(w.find(EvCondemned, 110)) != 1 {
		t.Errorf("%s", w)
	}
	w.none(EvReleased)
}

// TestTornRecord: a record whose rest comes seconds after its pid is not latched
// without its timeout.
func TestTornRecord(t *testing.T) {
	w := newWorld(t)
	p := w.start(110)
	p.consent = ConsentProven
	w.tb().records[10] = record(110, "c", 0, 0)
	w.run(5 * sec)
	p.join(10, "c", 10)
	w.run(30 * sec)
	if len(w.find(EvCondemned, 110)) != 1 {
		t.Errorf("%s", w)
	}
	w.none(EvIgnored)
}

// TestJoinsWhenLate: a record is forged under a pid, and that process joins, with a
// longer timeout, just when it is late by the forged one.
func TestJoinsWhenLate(t *testing.T) {
	for phase := time.Duration(0); phase < sec; phase += 50 * ms {
		w := newWorld(t)
		w.askDelay = 100 * ms
		p := w.start(110)
		w.tb().records[50] = record(110, "forged", 5, 1)
		w.run(phase)
		for w.now < 1020*sec && len(w.find(EvLate, 110)) == 0 {
			w.run(10 * ms)
		}
		w.run(50 * ms) // it is asked now
		p.join(10, "c", 60)
		p.every, p.next = 30*sec, w.now+30*sec
		w.run(30 * sec)
		if len(w.find(EvLate, 110)) != 1 || len(w.signals) > 0 || len(w.find(EvCondemned, 110)) > 0 {
			t.Fatalf("phase %v: %s", phase, w)
		}
	}
}

// TestUnprovenAfterRestart: without unique inodes the consent of whoever has the number
// now is not taken from before the restart, also if no answer is to be had.
func TestUnprovenAfterRestart(t *testing.T) {
	for _, at := range []time.Duration{3 * sec, 8 * sec} {
		w := newWorld(t)
		w.noInodes = true
		p := w.client(110, "c", 5, 0)
		w.run(at)
		before := len(w.signals)
		w.restart()
		p.exit(false)
		q := w.start(110)
		q.facts.Start = p.facts.Start
		w.unreadable = q
		w.run(5 * time.Minute)
		if !q.alive || len(w.signals) != before {
			t.Errorf("%v\n%s", w.signals, w)
		}
	}
}

// TestStarvedSinceSoftLook: what a target used of the processors before the soft look
// does not count, and what it used after it does.
func TestStarvedSinceSoftLook(t *testing.T) {
	for _, tt := range []struct {
		before, each time.Duration
		want         string
	}{{100 * sec, 0, verdictStarved}, {0, 40 * ms, verdictHung}} {
		w := newWorld(t)
		p := w.client(110, "c", 10, 5*sec)
		w.client(120, "other", 10, 5*sec)
		w.run(21 * sec)
		p.hang()
		p.proof = Examined{Threads: 3, Runnable: 1, Starving: 1}
		p.look.CPU = tt.before
		w.each(100*ms, func() { p.look.CPU += tt.each })
		w.run(30 * sec)
		if e := w.find(EvCondemned, 110); len(e) != 1 || e[0].Verdict != tt.want {
			t.Errorf("%+v: %v\n%s", tt, e, w)
		}
	}
}

// TestBeatBetweenScans: a beat that comes while the evidence is gathered, or while the
// state cannot be read, counts, though no scan has seen it.
func TestBeatBetweenScans(t *testing.T) {
	for _, blind := range []bool{false, true} {
		seen := 0
		for phase := time.Duration(0); phase < 5*sec; phase += 500 * ms {
			w := newWorld(t, func(c *config.Config) { c.Interval = 5 * sec })
			w.run(phase)
			p := w.client(110, "c", 10, 5*sec)
			w.client(120, "other", 10, 5*sec)
			w.run(41 * sec)
			p.hang()
			if blind {
				w.in(7*sec, func() { p.blind = "no descriptors left" })
			} else {
				w.proofDelay = 1500 * ms
			}
			for w.now < 1080*sec && len(w.find(EvLate, 110)) == 0 {
				w.run(50 * ms)
			}
			w.run(300 * ms)
			p.beat()
			w.in(900*ms, func() { p.blind = "" })
			w.run(4 * sec)
			if len(w.find(EvCondemned, 110)) > 0 {
				t.Errorf("phase %v: condemned, and it has beaten\n%s", phase, w)
			}
			seen += len(w.find(EvRecovered, 110))
		}
		if seen == 0 {
			t.Error("it was never late")
		}
	}
}

// TestGapKeepsEpisode: a gap does not end an episode in which one more timeout was
// given.
func TestGapKeepsEpisode(t *testing.T) {
	w := newWorld(t)
	w.proofDelay = 2 * sec
	p := w.client(110, "c", 10, 5*sec)
	w.client(120, "other", 10, 5*sec)
	w.run(21 * sec)
	p.hang()
	p.proof.Host = Pressure{CPU: 99}
	for w.now < 1060*sec && len(w.find(EvWaiting, 110)) == 0 {
		w.run(100 * ms)
	}
	for w.now < 1080*sec && w.view(110).State != "late" {
		w.run(50 * ms)
	}
	w.stall(20 * sec)
	w.run(60 * sec)
	e := w.find(EvCondemned, 110)
	if len(e) != 1 || len(w.find(EvWaiting, 110)) != 1 || e[0].Episode != w.find(EvLate, 110)[0].Episode {
		t.Errorf("%s", w)
	}
}

// TestSavedTarget: all that is saved of a target is read again.
func TestSavedTarget(t *testing.T) {
	a := target{used: true, id: 3, pid: 110, facts: Facts{1, 2, 3, 4, 5, "u", "unit", "comm", "parent", "/cg"}, state: Reported, timeout: 10,
		table: 7, slot: 10, since: 1, given: 2, gapSpent: true, soft: true, softWhy: "frozen", softSeen: true, softAt: 3, softCPU: 4, softRun: 5,
		softState: 'D', waited: true, heldBy: true, channel: "pipe", waitEnd: 6, reported: true, beaten: true, known: true, consent: ConsentProven,
		complaint: "why", lateAt: 7, began: 8, verdict: "hung", heldSince: 9, brakedSince: 10, killedBy: "SIGTERM", step: 1, let: true, sent: true,
		sentMono: 11, struck: 12, said: true, limited: "limit"}
	copy(a.name[:], "name")
	w := writer{}
	a.save(&w, 12)
	r := reader{b: w.b}
	var b target
	b.restore(&r, 100)
	if due := r.upTo(never); due != 12 || r.bad {
		t.Fatalf("due %d, bad %v", due, r.bad)
	}
	again := writer{}
	b.save(&again, 12)
	if !bytes.Equal(w.b, again.b) {
		t.Errorf("saved\n%+v\nread\n%+v", a, b)
	}
}

// TestSavedGuard: all that is saved of the guard itself is read again.
func TestSavedGuard(t *testing.T) {
	g := New(testConfig())
	g.clock = clock{last: 100 * sec, plan: 101 * sec, attn: 90 * sec, started: true}
	g.nextID, g.judgeFrom, g.gaps = 9, 91*sec, []time.Duration{80 * sec}
	for i, c := range g.counters() {
		*c = uint64(i + 1)
	}
	g.brake = brake{on: true, many: true, stopEnd: 200 * sec, stopBy: "ann", since: 85 * sec, next: 92 * sec, rate: 2, held: 3, spared: 4, released: 5}
	g.overdue = []overdue{{84 * sec, 5}}
	g.holds = []hold{{Selector: Selector{Name: "c*"}, until: 300 * sec, reason: "why", by: "ann"}, {Selector: Selector{All: true}, until: 400 * sec}}
	state := g.Save(nil)
	again, err := Restore(testConfig(), state)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(state, again.Save(nil)) {
		t.Errorf("saved\n%+v\nread\n%+v", g, again)
	}
}

// TestTake: a budget has no more starts than it may, within its window.
func TestTake(t *testing.T) {
	b := budget{name: "c"}
	for i, want := range []bool{true, true, true, false} {
		if got := b.take(&recovery{}, 10*sec, 3, 100*sec+time.Duration(i)*sec); got != want {
			t.Errorf("start %d: %v", i, got)
		}
	}
	if n := b.within(10*sec, 111*sec); n != 1 {
		t.Errorf("%d starts within 10 s, 2 of 3 are older", n)
	}
	if !b.take(&recovery{}, 10*sec, 3, 111*sec) {
		t.Error("no start, though two are over")
	}
}

// TestOneRecovery: one end leads to one start, by whatever way it is heard of twice; and
// an order that comes while that waits puts it off.
func TestOneRecovery(t *testing.T) {
	w := newWorld(t)
	n := 0
	c := crashes(w, func() time.Duration { n++; return []time.Duration{8 * sec, time.Hour}[min(n-1, 1)] })
	w.run(8500 * ms)
	if len(w.g.pending) != 1 {
		t.Fatalf("%d wait\n%s", len(w.g.pending), w)
	}
	ix, ok := w.g.byID[w.g.pending[0].id]
	if !ok {
		t.Fatal("its target is forgotten already")
	}
	w.g.planRecovery(ix, true, true)
	if len(w.g.pending) != 1 {
		t.Errorf("%d wait", len(w.g.pending))
	}
	w.hold(HoldOrder{Name: "c*", For: time.Minute})
	w.run(58 * sec)
	if len(c.asks) > 0 {
		t.Errorf("started against an order\n%s", w)
	}
	w.run(12 * sec)
	if len(c.asks) != 1 {
		t.Errorf("%d starts\n%s", len(c.asks), w)
	}
}

// TestGapBeforeLastWord: a gap begins the silence anew of one that beat while it got its
// ladder, also before that has said its last word.
func TestGapBeforeLastWord(t *testing.T) {
	w, p := hung(t)
	w.wordDelay = 10200 * ms
	for w.now < 1060*sec && len(w.signals) == 0 {
		w.run(100 * ms)
	}
	p.beat()
	p.every, p.next = 20*sec, w.now+16*sec
	w.run(10 * sec)
	if s := w.view(110).State; s != "ladder" {
		t.Fatalf("%s\n%s", s, w)
	}
	w.freeze(time.Minute)
	w.run(8 * sec)
	if len(w.find(EvRecovered, 110)) != 1 || len(w.find(EvLate, 110)) != 1 || len(w.signals) != 1 {
		t.Errorf("%s", w)
	}
}
