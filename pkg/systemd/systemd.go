// Package systemd is what checkprocd says to systemd and asks of it: start-up and watchdog notifications, native
// journal records, and the state and the start of units over D-Bus.
//
// Nothing here blocks the caller on a stalled PID 1 or journald: a notification or a record is queued, and one
// goroutine of the Notifier or the Journal carries it out. Only Units calls run on the caller's goroutine, for as long
// as their context allows.
package systemd

import (
	"os"
	"strconv"

	"github.com/coreos/go-systemd/v22/journal"
)

// UnderSystemd reports whether systemd itself started this very process (SYSTEMD_EXEC_PID, systemd 248 and newer).
// INVOCATION_ID and NOTIFY_SOCKET do not tell: they are inherited by everything that a service starts, such as a
// program that procctl runs out of rc.local.
func UnderSystemd() bool {
	pid, err := strconv.Atoi(os.Getenv("SYSTEMD_EXEC_PID"))
	return err == nil && pid == os.Getpid()
}

// JournalStream reports whether standard error is connected to the journal (JOURNAL_STREAM names its device and
// inode).
func JournalStream() bool {
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}
