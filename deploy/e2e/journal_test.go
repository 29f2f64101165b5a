package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Record is one journal record, as `journalctl -o json` prints it. A field that stands in a record several times is
// joined by newlines; one that is no valid text is given as its bytes.
type Record map[string]string

// Fields is what a record must have to match: the value itself, or "*" for any value that is not empty.
type Fields map[string]string

func (f Fields) match(r Record) bool {
	for key, want := range f {
		got, ok := r[key]
		if !ok || want != got && (want != "*" || got == "") {
			return false
		}
	}
	return true
}

func (f Fields) String() string {
	parts := make([]string, 0, len(f))
	for _, key := range slices.Sorted(maps.Keys(f)) {
		parts = append(parts, key+"="+f[key])
	}
	return strings.Join(parts, " ")
}

// follower collects the machine's journal from its first record on, while it is written.
type follower struct {
	cmd *exec.Cmd
	out io.ReadCloser

	mu      sync.Mutex
	records []Record
	mark    int           // records before it are of no interest to Await
	more    chan struct{} // closed and replaced when a record arrives
}

func newFollower() *follower { return &follower{more: make(chan struct{})} }

func (f *follower) start(m *Machine) error {
	f.cmd = m.command(context.Background(), "journalctl", "--follow", "--no-tail", "--all", "--output=json")
	var err error
	if f.out, err = f.cmd.StdoutPipe(); err != nil {
		return err
	}
	if err := f.cmd.Start(); err != nil {
		f.cmd = nil
		return err
	}
	go f.read(f.out)
	return nil
}

// stop ends journalctl before its machine ends, by closing its output: pid 1 there would wait 10 s for the end of a
// process that is no child of its own.
func (f *follower) stop() {
	if f.cmd == nil {
		return
	}
	_ = f.out.Close()
	late := time.AfterFunc(5*time.Second, func() { _ = f.cmd.Process.Kill() })
	defer late.Stop()
	_ = f.cmd.Wait()
}

func (f *follower) read(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		r, err := decode(line)
		if err != nil {
			r = Record{"MESSAGE": fmt.Sprintf("(unreadable journal line %q: %v)", line, err)}
		}
		f.mu.Lock()
		f.records = append(f.records, r)
		close(f.more)
		f.more = make(chan struct{})
		f.mu.Unlock()
	}
}

// find gives the records since the mark that match, and a channel that closes when there are more to look at.
func (f *follower) find(match Fields) (found []Record, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.records[f.mark:] {
		if match.match(r) {
			found = append(found, r)
		}
	}
	return found, f.more
}

// tail is the end of the journal as text.
func (f *follower) tail(lines int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, r := range f.records[max(0, len(f.records)-lines):] {
		fmt.Fprintf(&b, "%s %s[%s]: %s\n", r.Time().Format("15:04:05.000"), r["SYSLOG_IDENTIFIER"], r["_PID"], r["MESSAGE"])
	}
	return b.String()
}

// Time is when the record was sent or, if that is not known, received.
func (r Record) Time() time.Time {
	text, sent := r["_SOURCE_REALTIME_TIMESTAMP"]
	if !sent {
		text = r["__REALTIME_TIMESTAMP"]
	}
	usec, _ := strconv.ParseInt(text, 10, 64)
	return time.UnixMicro(usec)
}

// Await waits for the first record since the last Mark that matches.
func (m *Machine) Await(match Fields) Record {
	m.t.Helper()
	deadline := time.After(patience)
	for {
		found, more := m.journal.find(match)
		if len(found) > 0 {
			return found[0]
		}
		select {
		case <-more:
		case <-deadline:
			m.t.Fatalf("%s: no record with %v came within %v", m.Root, match, patience)
		}
	}
}

// Mark makes Await and Records look only at what comes from now on.
func (m *Machine) Mark() {
	m.t.Helper()
	cursor := fmt.Sprintf("e2e mark %d", time.Now().UnixNano())
	m.Run("echo '" + cursor + "' | systemd-cat -t e2e") // whatever was sent before it is in the journal before it
	m.Await(Fields{"MESSAGE": cursor})
	m.journal.mu.Lock()
	defer m.journal.mu.Unlock()
	m.journal.mark = 1 + slices.IndexFunc(m.journal.records, Fields{"MESSAGE": cursor}.match)
}

// Records gives what has matched since the last Mark.
func (m *Machine) Records(match Fields) []Record {
	found, _ := m.journal.find(match)
	return found
}

// Journal is what journalctl itself answers with these arguments.
func (m *Machine) Journal(args ...string) []Record {
	m.t.Helper()
	out := m.Run("journalctl --all --output=json " + strings.Join(args, " "))
	var records []Record
	for line := range strings.Lines(out) {
		r, err := decode([]byte(line))
		if err != nil {
			m.t.Fatalf("journalctl %v: %q: %v", args, line, err)
		}
		records = append(records, r)
	}
	return records
}

func decode(line []byte) (Record, error) {
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, err
	}
	r := make(Record, len(fields))
	for key, value := range fields {
		r[key] = text(value)
	}
	return r, nil
}

// text flattens a field: a string, a list of byte values (no valid UTF-8), or a list of those.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []any:
		if len(v) > 0 {
			if _, isBytes := v[0].(float64); isBytes {
				b := make([]byte, len(v))
				for i, n := range v {
					f, _ := n.(float64)
					b[i] = byte(f)
				}
				return string(b)
			}
		}
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = text(e)
		}
		return strings.Join(parts, "\n")
	}
	return ""
}
