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
// nothing else. When the slot was given to another process in the meantime the swap fails and nothing is lost; a client
// that is just writing its record is not written over. Clearing all 72 bytes, as the clients and the guards before this
// one do, would wipe such a client. What remains: a process with the same, reused pid that takes the record over
// between the look and the swap loses its pid word. Its beats then move the token of a record with pid 0.
package table
