// Package alert turns the guard's events into alerts and delivers them.
//
//	 events   ┌─────────┐ notifications ┌───────┐   ┌────────┐
//	─────────▶│ Tracker │──────────────▶│ Store │──▶│ Sender │──▶ webhook, Alertmanager
//	 (cursor) └─────────┘               └───────┘   └────────┘
//
// The Tracker is pure: time is an argument. Each episode of a target opens one
// alert, once it has lasted for its floor, and closes it; so do conditions of the
// guard itself. The Store keeps the cursor, the open alerts and what waits for each
// receiver in one file: what one batch of events led to is one line of it, so that
// a crash leaves all of it or nothing, and the events are read once more.
// A Sender delivers what waits for one receiver, in order, until it is accepted.
package alert
