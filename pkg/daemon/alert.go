package daemon

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/checkprocd/checkprocd/pkg/guard"
	"github.com/checkprocd/checkprocd/pkg/systemd"
)

const (
	// alertWorkers start units at a time; alertQueue bounds those that wait.
	alertWorkers = 2
	alertQueue   = 64
	// alertTimeout bounds one start: of Type=oneshot it lasts as long as the unit.
	alertTimeout = 90 * time.Second
	// A wave of events starts a burst of units, then one at a time; the others wait.
	alertBurst  = 10
	alertRefill = 10 * time.Second
	// maxUnitName is what systemd takes.
	maxUnitName = 255
	// reasonAlert is that of events about these starts: they start nothing.
	reasonAlert = "alert.unit"
)

// alerter has systemd start a unit for an event, on goroutines of its own.
type alerter struct {
	units systemd.Units
	queue chan string
	tell  func(string) // what went wrong; on any goroutine

	left int // out for want of room, since one was not; of the loop

	mu   sync.Mutex
	pace pace
}

func newAlerter(tell func(string)) *alerter {
	return &alerter{queue: make(chan string, alertQueue), tell: tell, pace: newPace()}
}

// pace lets a burst through, then one at a time.
type pace struct {
	every  time.Duration
	tokens int // what is left of the burst
	since  time.Time
}

func newPace() pace { return pace{every: alertRefill, tokens: alertBurst} }

// wait is 0 for one that is let through now, else the time to the next.
func (p *pace) wait(now time.Time) time.Duration {
	if n := int(now.Sub(p.since) / p.every); n > 0 {
		p.tokens, p.since = min(alertBurst, p.tokens+n), now
	}
	if p.tokens == 0 {
		return p.since.Add(p.every).Sub(now)
	}
	p.tokens--
	return 0
}

// instance is the name of the unit for an event: its instance, unescaped, is
// NAME/PROCESS/PID as far as they are known.
func instance(template string, e *guard.Event) string {
	path := string(e.Name)
	if e.Process != "" {
		path += "/" + e.Process
	}
	if e.PID != 0 {
		path += "/" + strconv.Itoa(int(e.PID))
	}
	prefix := template[:len(template)-len(".service")]
	name := prefix + escape(path) + ".service"
	if len(name) > maxUnitName {
		name = prefix + escape(string(e.Name)+"/"+strconv.Itoa(int(e.PID))) + ".service"
	}
	return name
}

// escape is what systemd-escape(1) does. (go-systemd's UnitNameEscape writes bytes
// below 16 with one digit, which systemd does not read back.)
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case c == '/':
			b.WriteByte('-')
		case '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == ':' || c == '_' || c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// ask has a unit started, if there is room. It never waits.
func (a *alerter) ask(name string) {
	select {
	case a.queue <- name:
	default:
		a.left++
		return
	}
	if a.left > 0 {
		a.tell(fmt.Sprintf("alert.unit was not started for %d events before this one: there were too many", a.left))
		a.left = 0
	}
}

func (a *alerter) run(ctx context.Context) {
	defer a.units.Close()
	var all sync.WaitGroup
	for range alertWorkers {
		all.Go(func() {
			for {
				select {
				case name := <-a.queue:
					a.turn(ctx)
					a.start(ctx, name)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

// turn waits until one more may be started.
func (a *alerter) turn(ctx context.Context) {
	for {
		a.mu.Lock()
		wait := a.pace.wait(time.Now())
		a.mu.Unlock()
		if wait == 0 {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (a *alerter) start(ctx context.Context, name string) {
	limited, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	result, err := a.units.Start(limited, name)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		a.tell(fmt.Sprintf("alert.unit of the configuration: %v", err))
	case result != "done":
		a.tell(fmt.Sprintf("alert.unit of the configuration: start %s: its start job ended as %s", name, result))
	}
}

// alert has a unit started for an event that is one to alert of.
func (d *Daemon) alert(e *guard.Event) {
	if e.Reason != reasonAlert && d.cfg.Alert.Unit != "" && (e.Name == evAlertTest || d.cfg.Alerts(string(e.Name))) {
		d.alerter.ask(instance(d.cfg.Alert.Unit, e))
	}
}

// alertTrouble is told, on any goroutine, what is wrong with the starts.
func (d *Daemon) alertTrouble(text string) {
	d.mail.leave(func() { d.say(evDegraded, guard.LevelWarning, reasonAlert, text) })
}
