package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/guard"
)

// errEnough ends a follower of the tests.
var errEnough = errors.New("enough")

// followed collects n messages from cursor on.
func followed(r *ring, cursor string, n int) (got []control.Followed, err error) {
	err = r.follow(context.Background(), cursor, func(x control.Followed) error {
		got = append(got, x)
		if len(got) == n {
			return errEnough
		}
		return nil
	})
	return got, err
}

// story is "missed:message" of each, and "-" for no event.
func story(list []control.Followed) string {
	var words []string
	for _, x := range list {
		text := "-"
		if x.Event != nil {
			text = x.Event.Message
		}
		words = append(words, fmt.Sprintf("%d:%s", x.Missed, text))
	}
	return strings.Join(words, " ")
}

func feed(r *ring, from, to int) {
	for i := from; i < to; i++ {
		r.add(control.Event{Message: fmt.Sprint(i)})
	}
}

func TestRing(t *testing.T) {
	r := newRing()
	feed(r, 0, 3)
	check := func(cursor string, n int, want string) string {
		t.Helper()
		got, err := followed(r, cursor, n)
		if err != errEnough || story(got) != want {
			t.Errorf("from %q: %v, %s; want %s", cursor, err, story(got), want)
		}
		return got[len(got)-1].Cursor
	}
	check("", 1, "0:-")
	second := check(control.CursorOldest, 2, "0:0 0:1")
	end := check(second, 2, "0:2 0:-")
	feed(r, 3, 5)
	check(end, 3, "0:3 0:4 0:-")
	check("another:2", 3, "-1:0 0:1 0:2") // that daemon has ended
	feed(r, 5, ringSize+7)
	check(second, 2, "5:7 0:8") // 2 to 6 are overwritten
	check(control.CursorOldest, 1, "0:7")
	for _, bad := range []string{"x", ":", r.instance, r.instance + ":", r.instance + ":-1", r.instance + ":999999", "a:b"} {
		var wrong *control.InvalidError
		if got, err := followed(r, bad, 1); !errors.As(err, &wrong) || got != nil {
			t.Errorf("cursor %q: %v, %v", bad, story(got), err)
		}
	}
}

// TestRingNeverWaits has a follower that stands still: adding goes on, and it learns what it missed.
func TestRingNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing()
		got := make([]control.Followed, 0, 2*ringSize)
		var mu sync.Mutex // a bubble that waits orders one side only
		length := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
		stand := make(chan struct{})
		done := make(chan error)
		go func() {
			done <- r.follow(t.Context(), "", func(x control.Followed) error {
				<-stand
				mu.Lock()
				defer mu.Unlock()
				got = append(got, x)
				return nil
			})
		}()
		synctest.Wait()
		feed(r, 0, 2*ringSize)
		close(stand)
		synctest.Wait()
		if want := int64(ringSize); length() != ringSize+2 || got[1].Missed != want || got[1].Event.Message != fmt.Sprint(want) {
			t.Errorf("%d messages, the second: %+v", len(got), got[1])
		}
		n := length()
		time.Sleep(followIdle + time.Second) // of the bubble's time
		synctest.Wait()
		if length() != n+1 || got[:n+1][n].Event != nil {
			t.Errorf("nothing was said while nothing happened: %d messages", length()-n)
		}
		r.add(control.Event{Message: "last"})
		r.close()
		err := <-done
		if got[len(got)-1].Event == nil { // the end was not known yet: that there is nothing more was said, too
			got = got[:len(got)-1]
		}
		if e := got[len(got)-1].Event; err != nil || e == nil || e.Message != "last" {
			t.Errorf("%v, %+v", err, e)
		}
		if _, err := followed(r, "", 1); err != errStopping {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestRingEndsInTime: who does not take the last events is not waited for.
func TestRingEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.follow(ctx, "", func(control.Followed) error { <-ctx.Done(); return ctx.Err() }) }()
		synctest.Wait()
		begin := time.Now()
		r.close()
		if took := time.Since(begin); took != followEnd {
			t.Errorf("it took %v", took)
		}
		cancel()
		synctest.Wait()
	})
}

// TestFollowEvents follows a real daemon: an episode under one name, over a restart, and up to its last word.
func TestFollowEvents(t *testing.T) {
	if namespaces(t) {
		return
	}
	c := testConfig(t)
	c.Ladder.Steps[0].Wait = time.Minute // the first daemon ends within
	g := launch(t, c)
	g.await(want{event: guard.EvTableAttached})
	var mu sync.Mutex
	var events []control.Event
	var last control.Followed
	follow := func(g *guardian, cursor string) <-chan error {
		done := make(chan error, 1)
		client := g.dial()
		go func() {
			done <- client.Follow(context.Background(), cursor, func(x control.Followed) error {
				mu.Lock()
				defer mu.Unlock()
				last = x
				if x.Event != nil {
					events = append(events, *x.Event)
				}
				return nil
			})
		}()
		return done
	}
	done := follow(g, control.CursorOldest)
	m := member(t, "hangs", 1, "tell")
	g.await(want{event: guard.EvRegistered, pid: m.pid})
	m.signal(unix.SIGUSR1)
	g.await(want{event: guard.EvSignalled, pid: m.pid})
	list, _, err := g.dial().List(t.Context())
	if err != nil || len(list) != 1 || list[0].Episode == "" {
		t.Fatalf("%v, %+v", err, list)
	}
	episode := list[0].Episode
	g.stop()
	if err := <-done; err != nil {
		t.Errorf("at an orderly end: %v", err)
	}
	if n := len(events); n == 0 || events[n-1].Name != "stopping" || events[0].Name != "started" {
		t.Errorf("%+v", events)
	}
	before := last.Cursor

	c.Ladder.Steps[0].Wait = time.Second
	g = launch(t, c)
	g.await(want{event: guard.EvKilled, pid: m.pid})
	if x, err := g.dial().AlertTest(t.Context()); err != nil || x != (control.AlertTested{}) {
		t.Fatalf("nobody follows: %+v, %v", x, err)
	}
	g.await(want{event: evAlertTest, text: "uid 0"})
	missed := int64(0)
	err = g.dial().Follow(t.Context(), before, func(x control.Followed) error {
		missed += x.Missed
		if x.Event == nil {
			return errEnough
		}
		events = append(events, *x.Event)
		return nil
	})
	if err != errEnough || missed != -1 {
		t.Errorf("%v, missed %d", err, missed)
	}
	names := map[string]string{}
	for _, e := range events {
		if e.TimeUsec == 0 || e.Message == "" || e.Level == "" {
			t.Errorf("%+v", e)
		}
		names[e.Name] = e.Episode
	}
	for name, want := range map[string]string{"registered": "", "late": episode, "condemned": episode, "signalled": episode, "killed": episode, "alert-test": ""} {
		if got, ok := names[name]; !ok || got != want {
			t.Errorf("%s: %t, episode %q, want %q", name, ok, got, want)
		}
	}
}
