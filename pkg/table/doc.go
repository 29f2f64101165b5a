// Package table is heartbeat memory as bytes: it finds, creates, attaches, reads and clears the shared table of the
// cpactive clients, and looks after the semaphore beside it. It knows where a field lies and nothing of what it means:
// no timeouts, no policy, no processes.
//
// # Words
//
//	table      the System V shared memory segment under key 0x5095
//	record     72 bytes of it, one guarded process; pid 0 means free
//	slot       the index of a record, 0 to 999
//	beat       a client's store to its record's token
//	token      the 8 bytes that a beat changes; clients store time(0), readers take it as opaque
//	semaphore  the one that clients hold while they look for a free record, also under key 0x5095
//	actor lock a semaphore of the guards' own: of several guards in one IPC namespace, its holder acts
//
// # Layout
//
// A record is this C struct, in native byte order. Offsets are the same on x86-64 and aarch64.
//
//	offset  bytes  field    C type
//	     0      4  pid      int
//	     4     51  name     char[51], to the first NUL, or all 51 bytes
//	    55      1  padding, not zeroed by most clients
//	    56      4  timeout  int, seconds
//	    60      4  padding, not zeroed by most clients
//	    64      8  atime    time_t, the token
//
// 32-bit clients have records of 64 bytes (32-bit time_t) or 68 bytes (i686 with 64-bit time_t), and one tutorial
// program has 40. A segment of another size than expected is refused with a [LayoutError] and never read.
//
// # What a record can hold
//
// Everything. Clients copy the 72 bytes without a lock that readers take part in, beat without looking whose record it
// is, and wipe without a lock. A reader sees torn records (pid set and the rest not yet, or the reverse), names cut in
// the middle of a character or full of control characters, and padding that is garbage. So records are compared by
// [Record.Same] and never as raw bytes, names are shown through [CleanName], and pid, timeout and token are read by one
// atomic load each, which is what makes each of them whole. A record as a whole is believed by nobody who saw it once.
//
// # What a writer of the table can do
//
// The table has mode 0666 because the clients expect it: every user of the host can write every byte. That cannot be
// mended in this layout. Such a writer can
//
//   - hide a hang of another client, by beating into its record;
//   - wipe another client's record, which then runs unguarded: its own further beats move the token of a record with
//     pid 0, which is how it can be noticed;
//   - fill all records, so that a new client finds no room and runs unguarded;
//   - make a victim look silent: whoever writes the old token back after every beat, without a pause, makes every look
//     see the same token. Looking again before acting narrows this but does not close it: the value is all there is
//     to see. A guard that acts on what this table says can therefore be made to end a client that is healthy, by any
//     local user who can write the table and spends a processor on it;
//   - stop registrations, by holding the semaphore or by setting it to 0.
//
// It cannot make a guard signal a process that never joined the table, as long as the guard demands that a target has
// this segment mapped: a pid in a record is a claim and no proof, so a forged pid names a process that does not map
// it. Nor can it make reading fail: a System V segment cannot be shrunk, a slot is bounds-checked, and no length or
// index is ever taken from the table.
//
// Where local users are not trusted, narrow the mode and let the clients share a group.
//
// # Clearing
//
// [Segment.Clear] is one compare-and-swap of the aligned pid word, from the pid that was found dead to 0, and writes
// nothing else. The guard clears a record when the process that it holds has ended, or, when it never held one, when the
// pid is nobody's and the token stood still for max(timeout, 10 s). Just before, it looks once more whether the pid is
// free or a zombie's. What that can and what it cannot lose is not argued but explored: clearing_model_test.go visits
// every interleaving of the steps of up to three processes and the guard over two records, within bounds that it names.
//
// What cannot be lost to the guard:
//
//   - the record of a living client here, in whatever order clients store, zero, exit and are killed, also in the midst
//     of registering; also of one that may not be opened, never beats, or whose leader ended before its threads; except
//     in the window below. With the window closed, nothing is lost to the guard, and the clients lose to one another
//     what they lose without a guard;
//   - a name, a timeout or a token: nothing but a pid word is written, and only the pid found dead becomes 0;
//   - a record that was given to another process meanwhile: the swap fails.
//
// What can be lost to it:
//
//   - the window: between the last look at a pid and the swap, its number comes again, for a client that takes over the
//     record that it finds under it and stores its pid there. It runs on unguarded. When the swap comes before that
//     store, a third one can take the free record, and then both have it;
//   - of another pid namespace, whose processes the guard cannot look at: a client whose token stood still for that
//     long (it never beats, or is stopped), and one that takes over a stale record under its own number, as in a
//     restarted container, and stores its token after the guard's last look at it;
//   - of another pid namespace as well: a client whose number is also that of a client here, when that one ends. The
//     guard holds the namesake for the owner, and its end for the owner's. (The end of a process that was not proven to
//     have the table mapped says nothing: such a record is one without a process, and has to stand still.)
//
// The beats of one that lost its record so move the token of a record with pid 0, which is how it can be noticed, until
// another client takes that record.
//
// What clients lose to one another, with a guard and without:
//
//   - an exit frees the pid word first and zeroes the rest after: a client that registers in between loses name, timeout
//     or token, and keeps its pid;
//   - clients that store after they gave the semaphore back take the same record: the last pid stands, with fields of
//     both, all beat it, which hides a hang, and the first exit wipes it;
//   - children of one that registered before it forked beat for it, which hides its hang, and the first child's exit
//     wipes the record. It runs on unguarded. Once the record is another's, all of them beat that one's and wipe it;
//   - a client takes a namesake of another pid namespace for its own past, and takes over its record: both beat it, and
//     the first exit wipes it;
//   - one that finds no free record runs unguarded, and is told nothing.
//
// The check, the compare, the swap of the pid alone, the wait for an orphan, and that neither EPERM nor the state Z of a
// leader is an end: without any one of them the model finds a living client that loses its record, or a field that the
// guard must not write. That a record is cleared only after two looks agreed on it is not what protects a client; that
// one which they do not agree on is never taken for a leftover is.
package table
