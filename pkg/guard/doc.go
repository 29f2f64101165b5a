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
//   - soft look: state and processor time at half of what a silence may last, to be
//     compared with those at its end.
//   - evidence: what a verdict rests on beside the state; it is read outside and
//     comes as [Examined].
//   - verdict: hung, starved, blocked; or what excuses the silence. What is done
//     about each is the rule's to say ([config.Responses]).
//   - limit: how much of something a target may have ([config.Limit]). Who is ended
//     for one goes from guarded to late and on like who is silent, with the verdict
//     limit; beats do not save it, and what excuses it leads back to guarded. See
//     [gauge] and [throttle].
//   - hold: a late target is left alone, while something excuses it (Held), or
//     because of an order ([Guard.Hold]), which ends on CLOCK_MONOTONIC.
//   - brake: the rule that stops a wave of kills.
//
// # From record to end
//
//	record   empty ──pid──▶ forming ──2 looks agree──▶ latched ──cleared──▶ empty
//
//	target   watched ──consent, a latched record──▶ guarded ◀──── beats, released, recovered:
//	            │ no consent                           │           from any state below it
//	            ▼                                      │ silence > timeout + margin
//	         (refused: reported,                       ▼
//	          asked again)                         rereading
//	                                                   │ second look: no beat either
//	                                                   ▼
//	       ┌─────────────────────────────────────────▶ late
//	       │                                           │ evidence, consent, last look: verdict
//	       │      ┌────────────┬───────────────┬───────┴───────┐
//	       │      │ excused    │ starved,      │ not to be     │ hung, or
//	       │      ▼            ▼ blocked       ▼ acted on      ▼ waited before
//	       │     held       waiting         reported        braked ──no wave, or alone──▶ ladder
//	       │      │            │               │               │                           │ │
//	       └──────┴────────────┴───────────────┴───────────────┘               ended ◀─────┘ ▼
//	         its rule says   one more timeout  the order,     its turn: looked   ▲       unkillable
//	         ladder, or an   is over, once     the rule, …    at once more,      │ exit      │
//	         hour of tracer  an episode        has changed    then the ladder    └ notice ◀──┘
//
// Reported is who is late and not acted on: an order holds it, its rule or the
// verdict's response says report, this guard only observes, consent is not proven,
// or it could not be looked at or signalled (which is tried again in a minute). An
// exit notice ends any state; a record that is wiped leads to wiped, which is
// given 5 s to end, and from there to unguarded.
//
// All times inside are durations on the attention clock unless a name says
// mono (CLOCK_MONOTONIC as the daemon read it). The wall clock does not occur.
package guard
