package guard

import (
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
