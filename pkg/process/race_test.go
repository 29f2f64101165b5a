//go:build race

package process

// raceEnabled: the race detector's hooks move variables to the heap, so allocations are not counted.
const raceEnabled = true
