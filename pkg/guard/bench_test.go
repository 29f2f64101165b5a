package guard

import (
	"fmt"
	"slices"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// thousand is a guard of 1000 healthy clients, and their table.
func thousand(t reporter) (*world, []table.Record) {
	w := newWorld(t, func(c *config.Config) { c.Interval = attentionStep }) // a scan in each wake
	w.tables = nil
	tb := w.addTable(7, 1000)
	for pid := int32(1000); pid < 2000; pid++ {
		w.client(pid, "client", 60, 0)
	}
	w.run(5 * sec)
	return w, tb.records
}

// wakeOnce is a wake with a scan, one interval later.
func (w *world) wakeOnce(obs []Observation) {
	w.now = w.g.Next() // in time, as the daemon's nearly always are
	if !w.g.ScanDue(w.now) {
		panic("no scan is due")
	}
	w.g.ScanDone(w.now)
	if len(w.g.Step(w.now, obs...)) > 0 {
		panic("decisions about the healthy")
	}
}

func TestNoAllocation(t *testing.T) {
	w, records := thousand(t)
	obs := []Observation{&w.tb().scan}
	if n := testing.AllocsPerRun(100, func() {
		for i := range records {
			records[i].Token++
		}
		w.wakeOnce(obs)
	}); n != 0 {
		t.Errorf("a scan in which all beat allocates %v times", n)
	}
	if n := testing.AllocsPerRun(30, func() { w.wakeOnce(obs) }); n != 0 {
		t.Errorf("a scan in which nobody beats allocates %v times", n)
	}
	if n := testing.AllocsPerRun(20, func() { w.now += 10 * ms; w.g.Step(w.now) }); n != 0 {
		t.Errorf("a wake without a scan allocates %v times", n)
	}
	state := w.g.Save(nil)
	if n := testing.AllocsPerRun(20, func() { state = w.g.Save(state[:0]) }); n != 0 {
		t.Errorf("saving allocates %v times", n)
	}
}

// TestDecisionsAreLetGo: what was decided about a wave is garbage with the next step.
func TestDecisionsAreLetGo(t *testing.T) {
	w, _ := thousand(t)
	w.g.Step(w.now)
	for i, d := range w.g.decisions[:cap(w.g.decisions)] {
		if d != nil {
			t.Fatalf("of %d decisions, %d is still %T", cap(w.g.decisions), i, d)
		}
	}
}

// BenchmarkStep1000Healthy has all of them beat before each scan.
func BenchmarkStep1000Healthy(b *testing.B) {
	w, records := thousand(b)
	obs := []Observation{&w.tb().scan}
	b.ReportAllocs()
	for b.Loop() {
		for i := range records {
			records[i].Token++
		}
		w.wakeOnce(obs)
	}
}

// BenchmarkStep1000Idle has none of them beat.
func BenchmarkStep1000Idle(b *testing.B) {
	w, records := thousand(b)
	obs := []Observation{&w.tb().scan}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if n++; n%30 == 0 { // or they would be late
			b.StopTimer()
			for i := range records {
				records[i].Token++
			}
			w.wakeOnce(obs)
			b.StartTimer()
		}
		w.wakeOnce(obs)
	}
}

func BenchmarkSave1000(b *testing.B) {
	w, _ := thousand(b)
	state := w.g.Save(nil)
	b.SetBytes(int64(len(state)))
	b.ReportAllocs()
	for b.Loop() {
		state = w.g.Save(state[:0])
	}
}

// unitsOf is a guard of clients each of which is in a unit of its own.
func unitsOf(t reporter, n int, change ...func(*config.Config)) *world {
	w := newWorld(t, change...)
	w.tables = nil
	w.addTable(7, n)
	for i := range n {
		p := w.client(int32(1000+i), "client", 60, 0)
		p.facts.Unit, p.ending = fmt.Sprintf("a-service-of-the-site@%d.service", i), EndedBadly
	}
	w.run(5 * sec)
	return w
}

// BenchmarkCrash10000 is the wake in which all programs of a host have crashed, each
// in a unit of its own.
func BenchmarkCrash10000(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := unitsOf(b, 10000)
		var obs []Observation
		for _, p := range slices.Clone(w.running) {
			p.exit(false)
		}
		for _, l := range w.mail {
			obs = append(obs, l.obs)
		}
		w.now = w.g.Next()
		for len(obs) > 0 {
			b.StartTimer()
			decisions := w.g.Step(w.now, obs...)
			b.StopTimer()
			obs = obs[:0]
			for _, d := range decisions {
				if o := w.do(d); o != nil {
					obs = append(obs, o)
				}
			}
		}
		if len(w.g.pending) != 10000 {
			b.Fatalf("%d come back", len(w.g.pending))
		}
		b.StartTimer()
	}
}

// BenchmarkRecoveries10000 is what status asks for while all of them wait to come back.
func BenchmarkRecoveries10000(b *testing.B) {
	w := unitsOf(b, 10000)
	w.onRestore = func(RestoreUnit) RestoreDone { return RestoreDone{Failed: true, Reason: "broken"} }
	for _, p := range slices.Clone(w.running) {
		p.exit(false)
	}
	w.run(10 * sec)
	for b.Loop() {
		if n := len(w.g.Recoveries()); n != 10000 {
			b.Fatal(n)
		}
	}
}

// BenchmarkThrottle4000 is the wake in which one unit more is throttled, and 4000 are.
func BenchmarkThrottle4000(b *testing.B) {
	w := unitsOf(b, 4000, func(c *config.Config) {
		c.Rules = []config.Rule{{Limits: []config.Limit{{Of: config.Threads, Above: 5, For: 30 * sec, Action: config.LimitThrottle, CPUQuota: 50}}}}
	})
	w.limitsToo = true
	sample := func(n int, value float64) {
		s := Sampled{}
		for _, x := range w.g.ToSample(nil)[:n] {
			s.Samples = append(s.Samples, *sampleOf(config.Threads, w.now, value))
			s.Samples[len(s.Samples)-1].Target = x.Target
		}
		w.post(0, s)
	}
	for range 6 {
		sample(3999, 9)
		w.run(10 * sec)
	}
	if n := len(w.g.throttles); n != 3999 {
		b.Fatalf("%d throttled", n)
	}
	for b.Loop() {
		w.g.throttled = true
		w.now += 10 * ms
		w.g.Step(w.now)
	}
}
