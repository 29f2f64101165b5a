package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// logQueue is how many records wait for a sink that does not take them; a
	// stopped journald or a terminal under ^S must not stop the guard.
	logQueue = 4096
	// identifier is SYSLOG_IDENTIFIER.
	identifier = "checkprocd"
	// logFileMax is the size at which LOGFILE is moved to LOGFILE.1: the old
	// guard began a new one at 100 MiB.
	logFileMax = 100 << 20
)

// quiet are the fields that a console line leaves out: its message says them.
var quiet = []string{"message_id", "priority", "pid", "name", "table", "slot", "timeout_usec", "silence_usec", "verdict", "signal", "unit", "object_unit", "object_pid", "reason", "step", "episode",
	"beat_gaps_msec", "lateness_usec", "thread_count", "threads", "descriptors", "descriptor_limit", "open", "rss_bytes", "swap_bytes",
	"tracer", "dumping", "frozen", "pressure", "cgroup", "evidence_problems"}

// sinks are where events go. Every sink is behind a bounded queue.
type sinks struct {
	logger  zerolog.Logger
	journal *systemd.Journal
	closers []io.Closer
	file    *logFile
	missed  atomic.Uint64
	broken  error // the file could not be opened
	noted   error // the journal is not there
}

// openSinks makes the logger for a configuration. stderr is where console and
// JSON lines go; trouble is told when the file cannot be written or opened again
// later, on another goroutine.
func openSinks(c config.Log, stderr *os.File, trouble func(string)) (*sinks, error) {
	s := &sinks{}
	var writers []io.Writer
	format := c.Format
	if format == "" || format == "auto" {
		switch {
		case systemd.JournalStream():
			format = "journal"
		case term.IsTerminal(int(stderr.Fd())):
			format = "console"
		default:
			format = "json"
		}
	}
	switch format {
	case "journal":
		j, err := systemd.NewJournal(identifier, logQueue)
		if err != nil && c.Format == "journal" {
			return nil, fmt.Errorf("log to the journal: %w", err)
		}
		if err != nil {
			s.noted = err
			writers = append(writers, s.queued(stderr))
			break
		}
		s.journal = j
		writers = append(writers, j)
		s.closers = append(s.closers, j)
	case "console":
		writers = append(writers, s.queued(console(stderr, os.Getenv("NO_COLOR") != "" || !term.IsTerminal(int(stderr.Fd())))))
	default:
		writers = append(writers, s.queued(stderr))
	}
	if c.File != "" {
		f, err := openLogFile(c.File, trouble)
		if err != nil {
			s.broken = err
		} else {
			s.file = f
			writers = append(writers, s.queued(console(f, true)))
			s.closers = append(s.closers, f)
		}
	}
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil || c.Level == "" {
		level = zerolog.InfoLevel
	}
	logger := zerolog.New(zerolog.MultiLevelWriter(writers...)).Level(level)
	if s.journal == nil || s.file != nil {
		logger = logger.With().Timestamp().Logger()
	}
	s.logger = logger
	return s, nil
}

func (s *sinks) queued(w io.Writer) io.Writer {
	q := newQueue(w, logQueue, &s.missed)
	s.closers = append([]io.Closer{q}, s.closers...)
	return q
}

// dropped is how many records were not written.
func (s *sinks) dropped() uint64 {
	n := s.missed.Load()
	if s.journal != nil {
		n += s.journal.Dropped()
	}
	return n
}

// close writes what is queued, for a second at most: a sink that does not take
// it must not keep the daemon from ending.
func (s *sinks) close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, c := range s.closers {
			_ = c.Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

func console(w io.Writer, plain bool) io.Writer {
	return &zerolog.ConsoleWriter{
		Out: w, NoColor: plain, TimeFormat: "2006-01-02 15:04:05",
		PartsOrder:    []string{zerolog.TimestampFieldName, zerolog.LevelFieldName, "event", zerolog.MessageFieldName},
		FieldsExclude: append([]string{"event"}, quiet...),
	}
}

// logFile is the LOGFILE that the old guard wrote as well. After it was opened
// only the goroutine of the queue in front of it uses it: a disk that stalls
// stops nobody else.
type logFile struct {
	path    string
	f       *os.File
	size    int64
	again   atomic.Bool // to be opened anew before the next line
	failed  bool        // the last line was not written, or not whole
	torn    bool        // …not whole
	trouble func(string)
}

func openLogFile(path string, trouble func(string)) (*logFile, error) {
	l := &logFile{path: path, trouble: trouble}
	return l, l.open()
}

// reopen has the file opened anew, after logrotate moved it away.
func (l *logFile) reopen() { l.again.Store(true) }

// open opens the file in place of what was open. Its directory may be another
// user's: no symbolic link is followed, and nothing else than a regular file is
// written to (a FIFO without a reader would block).
func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("open %s: it is a symbolic link", l.path)
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is no regular file", l.path)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.size = f, st.Size()
	return nil
}

func (l *logFile) Write(p []byte) (int, error) {
	full := l.size+int64(len(p)) > logFileMax && os.Rename(l.path, l.path+".1") == nil
	if l.again.Swap(false) || full {
		if err := l.open(); err != nil {
			l.trouble(fmt.Sprintf("the log file cannot be opened again: %v; going on with the earlier one", err))
		}
	}
	if l.torn { // what is left of a line stays a line of its own
		if _, err := l.f.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	l.torn = n > 0 && n < len(p)
	if err != nil && !l.failed {
		l.trouble(fmt.Sprintf("the log file cannot be written: %v; guarding without it, lines are lost until it can", err))
	}
	l.failed = err != nil
	return n, err
}

func (l *logFile) Close() error { return l.f.Close() }
