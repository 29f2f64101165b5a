// Package guard decides. It is a pure function of what it is given:
//
//	decisions := g.Step(now, observations)
//
// It has no clock, no goroutine, no system call and no log. The daemon around
// it looks (scans tables, opens pidfds, reads /proc) and hands over what it
// saw as [Observation]s; the guard answers with [Decision]s: things to look at
// once more, things to do, and [Event]s that explain each decision, also the
// decision not to act. So a simulation can run years of faults through it.
//
// # Words
//
//   - table: shared memory that holds heartbeats, here the cpactive segment;
//     its TableID is the segment's shmid.
//   - record: what one slot of a table holds. Beat: a change of its token.
//   - silence: time on the attention clock since the last beat that was seen.
//   - attention clock: monotonic time that advances only while the daemon looks
//     on schedule; see [clock].
//   - gap: a stretch that the daemon missed; it restarts a silence under way,
//     once for each silence.
//   - forming: a record not yet seen twice with the same pid, name and timeout;
//     it is not judged, reported or cleared.
//   - target: a verified process, one for all records of its pid.
//   - consent: proof that the process joined this table by itself.
//   - episode: the story of one target from late to beating again, or to gone.
//   - brake: the rule that stops a wave of kills.
//
// # From record to end
//
//	record                      target
//	------                      ------
//	empty ──pid──▶ forming      watched ──consent, record latched──▶ guarded ◀──────────────┐
//	  ▲              │ 2 looks     │                                    │ silence > timeout   │
//	  │              ▼ agree       │ no consent                         ▼ + margin, 2nd look  │ beat,
//	  │           latched ─────▶ (refused: reported,                  late                    │ released,
//	  │              │             asked again)            excused ┌────┴────┐ hung           │ recovered
//	  └──cleared─────┘                                             ▼         ▼                │
//	                                                             held     braked ─┐           │
//	                                                               │         │    │(no wave)  │
//	                                                               └─────────┼────┼───────────┤
//	                                                                         ▼    ▼           │
//	                                                                        ladder ───────────┘
//	                                                                         │  └──▶ unkillable
//	                                                     exit notice         ▼             │
//	                                                     from any state ──▶ ended ◀────────┘
//
// All times inside are durations on the attention clock unless a name says
// mono (CLOCK_MONOTONIC as the daemon read it). The wall clock does not occur.
package guard
