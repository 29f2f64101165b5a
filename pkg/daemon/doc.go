// Package daemon wires the guard to the world: one loop that looks, asks
// pkg/guard what to do, does it, and explains it.
//
//	            mailbox (consent, evidence, ladder reports, restores, requests and orders)
//	                │
//	timerfd ──▶ ┌───┴──┐ observations ┌───────┐ decisions ┌─────┐
//	pidfds  ──▶ │ loop │─────────────▶│ guard │──────────▶│ act │──▶ process, table, escalate, systemd
//	tables  ──▶ └──────┘              └───────┘           └──┬──┘
//	                ▲                                        │ answers "at once"
//	                └────────────────────────────────────────┘
//
// The loop's goroutine owns all state and every pidfd, on a thread of its own.
// Nothing that it calls waits for a guarded process, for PID 1 or for journald:
// what can wait is done by others, who put their answers into the mailbox: the
// helper process about consent, a goroutine for each full look at a late target (64
// at a time, each 5 s at most), the ladders' workers, who also call systemd where a
// cgroup is to be ended, and those that take the memory of what does not go.
//
// The evidence of the latest full look stays with the target until the record of
// its verdict is written; the guard has the few figures that it decides by.
//
// The order in a wake: mailbox, exit notices, scan if due, guard until it has
// no more decisions, registry, and only then the ladders that were decided, so
// that no signal is sent that a restart would not know of.
package daemon
