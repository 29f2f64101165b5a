package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/process"
)

const (
	// maxExamines full looks are taken at a time; each mostly sleeps between two
	// samples.
	maxExamines = 64
	// examineTimeout bounds one. The guard waits for 10 s.
	examineTimeout = 5 * time.Second
)

// examines are the full looks that are under way and those that wait, on the loop.
type examines struct {
	running int
	waiting []guard.Examine
}

// examine takes the full look at a target beside the loop.
func (d *Daemon) examine(x guard.Examine) {
	e := &d.examines
	if e.running >= maxExamines {
		e.waiting = append(e.waiting, x)
		return
	}
	h := d.held[x.Target]
	if h == nil {
		d.see(guard.Examined{Target: x.Target, Problem: "not opened"})
		return
	}
	e.running++
	d.side(func() {
		ctx, cancel := context.WithTimeout(context.Background(), examineTimeout)
		defer cancel()
		proof, err := h.proc.Examine(ctx, x.Group)
		d.mail.leave(func() {
			e.running--
			d.examined(x.Target, &proof, err)
			for len(e.waiting) > 0 && e.running < maxExamines {
				next := e.waiting[0]
				e.waiting = e.waiting[1:]
				d.examine(next)
			}
		})
	})
}

// examined takes in the evidence, on the loop.
func (d *Daemon) examined(id guard.TargetID, proof *process.Evidence, err error) {
	o := guard.Examined{Target: id}
	if err != nil {
		o.Problem, o.TimedOut = err.Error(), errors.Is(err, context.DeadlineExceeded)
		d.see(o)
		return
	}
	if h := d.held[id]; h != nil {
		h.proof, h.group = proof, proof.Cgroup
	}
	o.Threads, o.Runnable, o.Blocked, o.Starving, o.State = proof.ThreadCount, proof.Runnable, proof.Blocked, proof.Waiting, proof.State
	for i := range proof.Threads {
		th := &proof.Threads[i]
		if i == 0 {
			o.Channel, o.Call = clean(th.Channel), clean(th.Syscall)
		}
		if th.State == 'D' && th.Channel != "" {
			o.Channel = clean(th.Channel)
			break
		}
	}
	o.Host, o.Group = guard.Pressure(proof.Host), guard.Pressure(proof.Group)
	o.Members = proof.Members
	o.InitInside = slices.Contains(proof.Members, 1)
	o.GuardInside = slices.Contains(proof.Members, int32(os.Getpid())) || d.reader.PID() != 0 && slices.Contains(proof.Members, d.reader.PID())
	d.see(o)
}

// provenBy are the events that carry the evidence.
var provenBy = map[guard.EventName]bool{
	guard.EvCondemned: true, guard.EvWouldCondemn: true, guard.EvWaiting: true, guard.EvHeld: true,
	guard.EvProtected: true,
}

// addEvidence adds to a record what the full look found.
func addEvidence(z *zerolog.Event, e *guard.Event, p *process.Evidence) {
	if len(e.Gaps) > 0 {
		gaps := make([]string, len(e.Gaps))
		for i, g := range e.Gaps {
			gaps[i] = fmt.Sprint(g.Milliseconds())
		}
		z.Str("beat_gaps_msec", strings.Join(gaps, " "))
	}
	if e.Verdict != "" {
		z.Int64("lateness_usec", e.Lateness.Microseconds())
	}
	if p == nil {
		return
	}
	z.Int("thread_count", p.ThreadCount).Str("threads", threadsText(p.Threads))
	if p.Descriptors >= 0 {
		z.Int("descriptors", p.Descriptors).Int64("descriptor_limit", p.DescriptorLimit)
	}
	if len(p.Open) > 0 {
		z.Str("open", clean(strings.Join(p.Open, "; ")))
	}
	z.Int64("rss_bytes", p.RSS).Int64("swap_bytes", p.Swap)
	if p.TracerPID != 0 {
		z.Str("tracer", fmt.Sprintf("%d (%s)", p.TracerPID, clean(p.TracerComm)))
	}
	if p.Dumping {
		z.Bool("dumping", true)
	}
	if p.Frozen {
		z.Bool("frozen", true)
	}
	z.Str("pressure", "host "+pressureText(p.Host)+"; cgroup "+pressureText(p.Group))
	if p.Cgroup != "" {
		z.Str("cgroup", clean(p.Cgroup))
	}
	if len(p.Problems) > 0 {
		z.Str("evidence_problems", clean(strings.Join(p.Problems, "; ")))
	}
}

// threadsText has one line for each thread: its id, name, state, wait channel,
// system call, processor time, and whether that moved between the two samples.
func threadsText(threads []process.Thread) string {
	var b strings.Builder
	for i := range threads {
		th := &threads[i]
		if i > 0 {
			b.WriteByte('\n')
		}
		moved := "still"
		if th.Moved {
			moved = "moved"
		}
		fmt.Fprintf(&b, "%d %s state=%c wchan=%s syscall=%s cpu=%.3fs waited=%.3fs %s", th.TID, clean(th.Comm), th.State,
			orDash(clean(th.Channel)), orDash(clean(th.Syscall)), th.CPU.Seconds(), th.RunWait.Seconds(), moved)
		if th.Stack != "" {
			fmt.Fprintf(&b, " stack=%s", clean(strings.ReplaceAll(strings.TrimSpace(th.Stack), "\n", " < ")))
		}
	}
	return b.String()
}

func pressureText(p process.Pressure) string {
	return fmt.Sprintf("cpu %s memory %s io %s", percentText(p.CPU), percentText(p.Memory), percentText(p.IO))
}

func percentText(v float64) string {
	if v < 0 {
		return "?"
	}
	return fmt.Sprintf("%.1f%%", v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// clean makes text from /proc fit for a line: names of processes and files are any
// bytes that their makers chose.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
