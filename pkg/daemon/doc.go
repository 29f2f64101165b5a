// Package daemon wires the guard to the world: one loop that looks, asks
// pkg/guard what to do, does it, and explains it.
//
//	            mailbox (consent, ladder reports, restores, requests)
//	                │
//	timerfd ──▶ ┌───┴──┐ observations ┌───────┐ decisions ┌─────┐
//	pidfds  ──▶ │ loop │─────────────▶│ guard │──────────▶│ act │──▶ process, table, escalate, systemd
//	tables  ──▶ └──────┘              └───────┘           └──┬──┘
//	                ▲                                        │ answers "at once"
//	                └────────────────────────────────────────┘
//
// The loop's goroutine owns all state and every pidfd, on a thread of its own.
// Nothing that it calls waits for a guarded process, for PID 1 or for journald:
// what can wait is done by others, who put their answers into the mailbox.
//
// The order in a wake: mailbox, exit notices, scan if due, guard until it has
// no more decisions, registry, and only then the ladders that were decided, so
// that no signal is sent that a restart would not know of.
package daemon
