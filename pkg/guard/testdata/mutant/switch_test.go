package guard

import "testing"

// TestMutant is TestSimulation up to the first fault, which is not made smaller.
func TestMutant(t *testing.T) {
	cover, fig := new(coverage), new(figures)
	for n := uint64(1); n <= number(t, "SIMULATE", 1); n++ {
		if s := runSchedule(generate(1, n), cover, fig); s.found != nil {
			t.Fatalf("schedule %d: %s: %s", n, s.found.check, s.found.text)
		}
	}
}
