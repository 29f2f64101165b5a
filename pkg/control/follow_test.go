package control

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFollow(t *testing.T) {
	h := &fake{follow: make(chan Followed, 10)}
	path := serve(t, h, nil)
	event := Event{Name: "condemned", Level: LevelWarning, PID: 42, Table: -1, Slot: -1, Message: "a \x00 b", Episode: "1-2"}
	h.follow <- Followed{Cursor: "a:1", Missed: 3, Event: &event}
	h.follow <- Followed{Cursor: "a:2", Missed: -1}
	close(h.follow)
	var got []Followed
	err := dial(t, path).Follow(t.Context(), "a:0", func(x Followed) error {
		got = append(got, x)
		return nil
	})
	want := []Followed{{Cursor: "begun:a:0"}, {Cursor: "a:1", Missed: 3, Event: &event}, {Cursor: "a:2", Missed: -1}, {Cursor: "a:2"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestFollowEnds(t *testing.T) {
	h := &fake{follow: make(chan Followed)}
	var server *Server
	path := serve(t, h, func(s *Server) { server = s })
	gone := func() {
		t.Helper()
		eventually(t, "nobody follows", func() bool {
			server.mu.Lock()
			defer server.mu.Unlock()
			return server.followers == 0 && len(server.conns) == 0
		})
	}

	enough := errors.New("enough")
	c := dial(t, path)
	if err := c.Follow(t.Context(), "", func(Followed) error { return enough }); err != enough {
		t.Errorf("the callback's error is %v", err)
	}
	gone()
	var lost *LostError
	if err := c.Follow(t.Context(), "", nil); !errors.As(err, &lost) {
		t.Errorf("a second time: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	err := dial(t, path).Follow(ctx, "", func(Followed) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	gone()

	r := dialRaw(t, path) // one that leaves while nothing happens
	r.say(`{"method":"io.checkproc.Follow","more":true}` + "\x00")
	r.hear()
	r.Close()
	gone()

	r = dialRaw(t, path) // one that asks for something else meanwhile
	r.say(`{"method":"io.checkproc.Follow","more":true}` + "\x00")
	r.hear()
	r.say(`{"method":"io.checkproc.List"}` + "\x00")
	r.expectEnd()
	gone()
}

func TestFollowIsRefused(t *testing.T) {
	h := &fake{follow: make(chan Followed)}
	path := serve(t, h, func(s *Server) { s.limits.followers = 1 })
	for call, want := range map[string]string{
		`{"method":"io.checkproc.Follow"}`:                                         `{"error":"org.varlink.service.ExpectedMore","parameters":{}}`,
		`{"method":"io.checkproc.Follow","more":true,"parameters":{"cursor":1}}`:   `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"cursor"}}`,
		`{"method":"io.checkproc.Follow","more":true,"parameters":{"cursors":""}}`: `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"cursors"}}`,
	} {
		r := dialRaw(t, path)
		r.say(call + "\x00")
		if got := r.hear(); got != want {
			t.Errorf("%s: %s", call, got)
		}
		r.expectEnd()
	}
	first := dialRaw(t, path)
	first.say(`{"method":"io.checkproc.Follow","more":true}` + "\x00")
	first.hear()
	if err := dial(t, path).Follow(t.Context(), "", nil); !errors.Is(err, ErrBusy) {
		t.Errorf("the second follower: %v", err)
	}
	h.follow <- Followed{Cursor: "x"}
	first.hear()

	h2 := &fake{err: ErrNotAllowed}
	if err := dial(t, serve(t, h2, nil)).Follow(t.Context(), "", nil); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("refused by the daemon: %v", err)
	}
}

// A follower that does not read is cut off, and its place is free again.
func TestDeafFollower(t *testing.T) {
	h := &fake{follow: make(chan Followed)}
	var server *Server
	path := serve(t, h, func(s *Server) { server, s.limits.write = s, s.limits.write/100 })
	r := dialRaw(t, path)
	r.say(`{"method":"io.checkproc.Follow","more":true}` + "\x00")
	r.hear()
	big := &Event{Message: string(make([]byte, 64<<10))}
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		for {
			server.mu.Lock()
			n := server.followers
			server.mu.Unlock()
			select {
			case h.follow <- Followed{Cursor: "x", Event: big}:
			default:
				if n == 0 {
					return
				}
			}
		}
	}()
	<-cut
}
