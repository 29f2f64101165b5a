package process

import (
	"bytes"
	"errors"
	"time"
)

// pfKthread is PF_KTHREAD of linux/sched.h, in the flags of /proc/PID/stat.
const pfKthread = 0x00200000

// stat is what is used of /proc/PID/stat.
type stat struct {
	pid             int32
	comm            []byte
	state           byte
	ppid, pgid, sid int32
	flags           uint64
	cpu             uint64 // utime + stime, clock ticks
	threads         int
	start           uint64 // clock ticks since boot
	rss             int64  // pages
}

var errStat = errors.New("malformed stat")

// parseStat parses the one line of /proc/PID/stat. The name ends at the last parenthesis: it is raw, and may hold
// spaces, parentheses and newlines itself.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open {
		return stat{}, errStat
	}
	pid, ok := number(bytes.TrimRight(b[:open], " "))
	if !ok || pid <= 0 || pid > maxPID {
		return stat{}, errStat
	}
	st := stat{pid: int32(pid), comm: b[open+1 : end]}
	// Fields by their number in proc(5); the first after the name is 3.
	rest := b[end+1:]
	for field := 3; field <= 24; field++ {
		var word []byte
		word, rest = cutWord(rest)
		if field == 3 {
			if len(word) != 1 || word[0]|0x20 < 'a' || word[0]|0x20 > 'z' {
				return stat{}, errStat
			}
			st.state = word[0]
			continue
		}
		n, ok := number(word)
		if !ok {
			return stat{}, errStat
		}
		switch field {
		case 4, 5, 6:
			// -1 where the process is being taken down.
			if n < -1 || n > maxPID {
				return stat{}, errStat
			}
			switch field {
			case 4:
				st.ppid = int32(n)
			case 5:
				st.pgid = int32(n)
			case 6:
				st.sid = int32(n)
			}
		case 9:
			st.flags = uint64(n)
		case 14, 15:
			if n < 0 {
				return stat{}, errStat
			}
			st.cpu += uint64(n)
		case 20:
			if n < 0 || n > maxPID {
				return stat{}, errStat
			}
			st.threads = int(n)
		case 22:
			if n < 0 {
				return stat{}, errStat
			}
			st.start = uint64(n)
		case 24:
			st.rss = min(max(n, 0), (1<<63-1)/pageSize)
		}
	}
	return st, nil
}

// maxPID is far above PID_MAX_LIMIT (4194304).
const maxPID = 1<<31 - 1

// status is what is used of /proc/PID/status.
type status struct {
	tgid, tracer int32
	euid         uint32
	dumping      bool
	rss, swap    int64 // bytes; 0 for a thread that has given its memory back
	seen         uint8
}

const (
	seenTgid = 1 << iota
	seenTracer
	seenUID
	seenDumping // Linux 4.15
)

func (s *status) complete() bool { return s.seen == seenTgid|seenTracer|seenUID|seenDumping }

func (s *status) check() error {
	const needed = seenTgid | seenTracer | seenUID
	if s.seen&needed != needed {
		return errors.New("malformed status")
	}
	return nil
}

// parseLine takes one line. The kernel escapes newlines in the name, so no process can forge a line.
func (s *status) parseLine(line []byte) {
	key, value, ok := bytes.Cut(line, []byte(":\t"))
	if !ok {
		return
	}
	switch string(key) {
	case "Tgid":
		if n, ok := number(value); ok && n > 0 && n <= maxPID {
			s.tgid, s.seen = int32(n), s.seen|seenTgid
		}
	case "TracerPid":
		if n, ok := number(value); ok && n >= 0 && n <= maxPID {
			s.tracer, s.seen = int32(n), s.seen|seenTracer
		}
	case "Uid": // real, effective, saved, file system
		_, rest := cutWord(value)
		word, _ := cutWord(rest)
		if n, ok := number(word); ok && n >= 0 && n <= 1<<32-1 {
			s.euid, s.seen = uint32(n), s.seen|seenUID
		}
	case "VmRSS":
		s.rss = kilobytes(value)
	case "VmSwap":
		s.swap = kilobytes(value)
	case "CoreDumping": // after the figures of memory
		s.dumping, s.seen = string(value) == "1", s.seen|seenDumping
	}
}

// kilobytes parses "   2000 kB" into bytes.
func kilobytes(b []byte) int64 {
	word, _ := cutWord(b)
	n, ok := number(word)
	if !ok || n < 0 || n > (1<<63-1)/1024 {
		return 0
	}
	return n * 1024
}

// parseSchedstat parses "RUN WAIT SLICES" (Linux Documentation/scheduler/sched-stats.rst): nanoseconds on a processor
// and in a run queue.
func parseSchedstat(b []byte) (run, wait time.Duration, err error) {
	first, rest := cutWord(b)
	second, _ := cutWord(rest)
	r, ok1 := number(first)
	w, ok2 := number(second)
	if !ok1 || !ok2 || r < 0 || w < 0 {
		return 0, 0, errors.New("malformed schedstat")
	}
	return time.Duration(r), time.Duration(w), nil
}

// cutWord splits off the first word; words are separated by spaces or tabs.
func cutWord(b []byte) (word, rest []byte) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	j := i
	for j < len(b) && b[j] != ' ' && b[j] != '\t' && b[j] != '\n' {
		j++
	}
	return b[i:j], b[j:]
}

// number parses a decimal number that fits in an int64; a larger one counts as the largest (the kernel prints some
// unsigned 64-bit fields).
func number(b []byte) (int64, bool) {
	neg := len(b) > 1 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	const max = 1<<63 - 1
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if d := int64(c - '0'); n > (max-d)/10 {
			n = max
		} else {
			n = n*10 + d
		}
	}
	if neg {
		n = -n
	}
	return n, true
}
