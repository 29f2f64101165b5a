package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// journalSocket listens where journald would.
func journalSocket(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "socket"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t *testing.T, socket *net.UnixConn, queue int) *Journal {
	t.Helper()
	j, err := openJournal(socket.LocalAddr().String(), "checkprocd", queue)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// receive reads one record as journald does: from the datagram, or from the memfd that comes with it.
func receive(t *testing.T, conn *net.UnixConn) map[string]string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	data, control := make([]byte, 1<<20), make([]byte, 100)
	n, nc, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatal(err)
	}
	data = data[:n]
	if nc > 0 {
		messages, err := unix.ParseSocketControlMessage(control[:nc])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fds[0]), "record")
		defer file.Close()
		seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
		if err != nil || seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("the memfd has seals %#x, %v: journald refuses it", seals, err)
		}
		if data, err = io.ReadAll(io.NewSectionReader(file, 0, 1<<30)); err != nil {
			t.Fatal(err)
		}
	}
	return decode(t, data)
}

func decode(t *testing.T, data []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(data) > 0 {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			t.Fatalf("no newline after %q", line)
		}
		name, value, ok := strings.Cut(string(line), "=")
		if !ok {
			size := binary.LittleEndian.Uint64(rest)
			value, rest = string(rest[8:8+size]), rest[8+size+1:]
		}
		fields[name], data = value, rest
	}
	return fields
}

func TestJournalFields(t *testing.T) {
	for _, test := range []struct {
		name  string
		event string
		level zerolog.Level
		want  map[string]string
	}{
		{"an event", `{"level":"warn","message_id":"eba0","event":"late","pid":4242,"name":"ftp","table":"0x5095","slot":7,` +
			`"timeout_usec":60000000,"object_pid":4242,"object_unit":"ftp.service","unit":"ftp.service","message":"ftp is late"}` + "\n",
			zerolog.NoLevel, map[string]string{
				"PRIORITY": "4", "MESSAGE_ID": "eba0", "CHECKPROC_EVENT": "late", "CHECKPROC_PID": "4242",
				"CHECKPROC_NAME": "ftp", "CHECKPROC_TABLE": "0x5095", "CHECKPROC_SLOT": "7",
				"CHECKPROC_TIMEOUT_USEC": "60000000", "OBJECT_PID": "4242", "OBJECT_SYSTEMD_UNIT": "ftp.service",
				"CHECKPROC_UNIT": "ftp.service", "MESSAGE": "ftp is late",
			}},
		{"a notice", `{"level":"info","priority":5,"message":"m"}`, zerolog.NoLevel, map[string]string{"PRIORITY": "5", "MESSAGE": "m"}},
		{"numbers", `{"a":1e6,"b":9007199254740993,"c":1.5E-3,"d":-2,"e":1e400}`, zerolog.InfoLevel, map[string]string{
			"PRIORITY": "6", "CHECKPROC_A": "1000000", "CHECKPROC_B": "9007199254740993", "CHECKPROC_C": "0.0015",
			"CHECKPROC_D": "-2", "CHECKPROC_E": "1e400",
		}},
		{"other values", `{"yes":true,"none":null,"list":[1,"a"],"object":{"k":1},"empty":""}`, zerolog.NoLevel, map[string]string{
			"PRIORITY": "6", "CHECKPROC_YES": "true", "CHECKPROC_LIST": `[1,"a"]`, "CHECKPROC_OBJECT": `{"k":1}`, "CHECKPROC_EMPTY": "",
		}},
		{"keys", `{"Über key=1\n":1,"_x":2,"PRIORITY":3}`, zerolog.NoLevel, map[string]string{
			"PRIORITY": "6", "CHECKPROC__BER_KEY_1_": "1", "CHECKPROC__X": "2", "CHECKPROC_PRIORITY": "3",
		}},
		{"a long key", `{"` + strings.Repeat("k", 100) + `":1}`, zerolog.NoLevel, map[string]string{
			"PRIORITY": "6", "CHECKPROC_" + strings.Repeat("K", 54): "1",
		}},
		{"lines", `{"message":"one\ntwo","evidence":"a=1\nb=2\n"}`, zerolog.ErrorLevel, map[string]string{
			"PRIORITY": "3", "MESSAGE": "one\ntwo", "CHECKPROC_EVIDENCE": "a=1\nb=2\n",
		}},
		{"twice", `{"reason":"a","reason":"b"}`, zerolog.NoLevel, map[string]string{"PRIORITY": "6", "CHECKPROC_REASON": "b"}},
		{"no JSON", "panic: boom\n", zerolog.PanicLevel, map[string]string{"PRIORITY": "2", "MESSAGE": "panic: boom"}},
		{"cut short", `{"event":"late","na`, zerolog.NoLevel, map[string]string{
			"PRIORITY": "6", "CHECKPROC_EVENT": "late", "MESSAGE": `{"event":"late","na`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := journalSocket(t)
			j := open(t, socket, 10)
			if n, err := j.WriteLevel(test.level, []byte(test.event)); n != len(test.event) || err != nil {
				t.Errorf("write: %d, %v", n, err)
			}
			test.want["SYSLOG_IDENTIFIER"] = "checkprocd"
			if diff := cmp.Diff(test.want, receive(t, socket)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournalPriorities(t *testing.T) {
	socket := journalSocket(t)
	j := open(t, socket, 10)
	for level, want := range map[zerolog.Level]string{
		zerolog.TraceLevel: "7", zerolog.DebugLevel: "7", zerolog.InfoLevel: "6", zerolog.WarnLevel: "4",
		zerolog.ErrorLevel: "3", zerolog.FatalLevel: "2", zerolog.PanicLevel: "2", zerolog.NoLevel: "6",
	} {
		log := zerolog.New(j).Level(zerolog.TraceLevel)
		log.WithLevel(level).Msg("hello")
		got := receive(t, socket)
		if got["PRIORITY"] != want || got["MESSAGE"] != "hello" {
			t.Errorf("%s: PRIORITY=%s, want %s (%v)", level, got["PRIORITY"], want, got)
		}
	}
}

func TestJournalBigRecord(t *testing.T) {
	socket := journalSocket(t)
	j := open(t, socket, 10)
	big := strings.Repeat("x", 2<<20)
	fmt.Fprintf(j, `{"message":"m","evidence":"%s"}`, big)
	if got := receive(t, socket)["CHECKPROC_EVIDENCE"]; got != big {
		t.Errorf("%d bytes arrived, want %d", len(got), len(big))
	}
}

// stall fills the queue of journald's socket (10 to 512, net.unix.max_dgram_qlen) from elsewhere, and says with how many.
func stall(t *testing.T, socket *net.UnixConn) (filled int) {
	t.Helper()
	other, err := net.DialUnix("unixgram", nil, socket.LocalAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	raw, err := other.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Write(func(fd uintptr) bool {
		for unix.Sendto(int(fd), []byte("MESSAGE=other\n"), unix.MSG_DONTWAIT, nil) == nil {
			filled++
		}
		return true
	})
	return filled
}

// journald stalls: no write waits, the rest is dropped and counted, the CPU rests, and one record says how many.
func TestJournalStall(t *testing.T) {
	const queue, writes = 20, 5000
	socket := journalSocket(t)
	filled := stall(t, socket)
	j := open(t, socket, queue)
	for i := range writes {
		fmt.Fprintf(j, `{"message":"%d"}`, i)
	}
	dropped := j.Dropped()
	if dropped < writes-queue-1 { // one is on its way
		t.Fatalf("%d dropped of %d", dropped, writes)
	}
	for range filled {
		receive(t, socket)
	}
	var told []string
	messages := 0
	for messages+int(dropped) < writes || len(told) == 0 {
		fields := receive(t, socket)
		if n, ok := fields["CHECKPROC_DROPPED"]; ok {
			told = append(told, n)
			if fields["PRIORITY"] != "4" || !strings.Contains(fields["MESSAGE"], n+" records") {
				t.Errorf("%v", fields)
			}
			continue
		}
		messages++
	}
	if diff := cmp.Diff([]string{strconv.FormatUint(dropped, 10)}, told); diff != "" {
		t.Error(diff)
	}
	fmt.Fprint(j, `{"message":"after"}`)
	if got := receive(t, socket)["MESSAGE"]; got != "after" {
		t.Errorf("after the stall: %q", got)
	}
}

// A send that waits for journald sleeps: poll(2) would call a socket that is not connected writable all the time.
func TestJournalStallRestsTheCPU(t *testing.T) {
	socket := journalSocket(t)
	filled := stall(t, socket)
	j := open(t, socket, 10)
	fmt.Fprint(j, `{"message":"ours"}`)
	before := cpu(t)
	time.Sleep(500 * time.Millisecond) // the wait is what is measured
	if used := cpu(t) - before; used > 250*time.Millisecond {
		t.Errorf("%v of CPU time in half a second of waiting", used)
	}
	for range filled {
		receive(t, socket)
	}
	if got := receive(t, socket)["MESSAGE"]; got != "ours" {
		t.Errorf("after the stall: %q", got)
	}
}

func TestJournalCloseIsBounded(t *testing.T) {
	socket := journalSocket(t)
	j := open(t, socket, 1000)
	for i := range 1000 {
		fmt.Fprintf(j, `{"message":"%d"}`, i)
	}
	if err := j.Close(); err == nil {
		t.Error("a close that left records behind says nothing")
	}
	if _, err := j.Write([]byte("{}")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestJournalCloseFlushes(t *testing.T) {
	socket := journalSocket(t)
	j := open(t, socket, 10)
	for range 5 {
		fmt.Fprint(j, `{"message":"m"}`)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		receive(t, socket)
	}
}

// journald's socket was made anew (systemd-journald.socket restarted): the next record goes to the new one.
func TestJournalSocketReplaced(t *testing.T) {
	old := journalSocket(t)
	addr := old.LocalAddr().(*net.UnixAddr)
	j := open(t, old, 10)
	fmt.Fprint(j, `{"message":"one"}`)
	receive(t, old)
	old.Close()
	if err := os.Remove(addr.Name); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(j, `{"message":"lost"}`)
	for began := time.Now(); j.Dropped() == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("a record without a journald was not counted as dropped")
		}
	}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(j, `{"message":"two"}`)
	if got := receive(t, conn)["MESSAGE"]; got != "two" {
		t.Errorf("after the new socket: %q", got)
	}
	if got := receive(t, conn)["CHECKPROC_DROPPED"]; got != "1" {
		t.Errorf("dropped: %q, want 1", got)
	}
}

func TestJournalMissing(t *testing.T) {
	if _, err := openJournal(filepath.Join(t.TempDir(), "none"), "x", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"level":"warn","message":"m","n":1e6,"s":"a\nb","o":{"x":[1]},"z":null}`))
	f.Add([]byte(`{"level":7}{`))
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, event []byte) {
		fields := record(event, zerolog.NoLevel)
		for name := range fields {
			if len(name) == 0 || len(name) > fieldMax || name[0] == '_' || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
				t.Errorf("journald refuses the field %q", name)
			}
		}
		if diff := cmp.Diff(fields, decode(t, encode(fields))); diff != "" {
			t.Error(diff)
		}
	})
}

func BenchmarkJournalWrite(b *testing.B) {
	j := &Journal{queue: make(chan entry, 1)}
	event := []byte(`{"level":"warn","event":"late","pid":4242,"name":"ftp","message":"ftp is late"}`)
	b.ReportAllocs()
	for b.Loop() {
		j.Write(event)
		select {
		case <-j.queue:
		default:
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	event := []byte(`{"level":"warn","event":"late","pid":4242,"name":"ftp","message":"ftp is late"}`)
	b.ReportAllocs()
	for b.Loop() {
		encode(record(event, zerolog.NoLevel))
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
