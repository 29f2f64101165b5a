package control

import (
	"bufio"
	gocmp "cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestWhoMay has callers of each kind call each method of the interface: who may not gets NotAllowed, with what it takes,
// the daemon is not asked, and is told of each order that was refused.
func TestWhoMay(t *testing.T) {
	type least int
	const (
		anyone least = iota
		see
		steer
	)
	methods := map[string]struct {
		parameters string
		takes      least
		named      string // when it is refused; else by the method
	}{
		"GetStatus": {`{}`, anyone, ""}, "List": {`{}`, anyone, ""},
		"Check": {`{}`, see, ""}, "Advise": {`{}`, see, ""}, "Diff": {`{}`, see, ""}, "Follow": {`{}`, see, ""},
		"Reload": {`{}`, steer, ""}, "Hold": {`{"all":true,"for_usec":5000000}`, steer, "Pause"}, "Release": {`{"pid":7}`, steer, ""},
		"Brake": {`{"order":"go"}`, steer, ""}, "Recover": {`{"name":"ftp*"}`, steer, ""}, "AlertTest": {`{}`, steer, ""},
	}
	var described []string
	for _, m := range regexp.MustCompile(`(?m)^method (\w+)\(`).FindAllStringSubmatch(checkprocDescription, -1) {
		described = append(described, m[1])
		if _, ok := methods[m[1]]; !ok {
			t.Errorf("who may call %s is not said here", m[1])
		}
	}
	if len(described) != len(methods) {
		t.Errorf("described are %q", described)
	}
	for _, tt := range []struct {
		name   string
		caller Caller
		may    least
	}{
		{"root", Caller{UID: 0, GID: 0}, steer},
		{"own uid", Caller{UID: 990, GID: 990}, steer},
		{"steers by primary group", Caller{UID: 1000, GID: 50}, steer},
		{"steers by supplementary group", Caller{UID: 1000, GID: 1000, Groups: []uint32{7, 50}}, steer},
		{"reads by primary group", Caller{UID: 1000, GID: 4}, see},
		{"reads by supplementary group", Caller{UID: 1000, GID: 1000, Groups: []uint32{4}}, see},
		{"anybody", Caller{UID: 1000, GID: 1000, Groups: []uint32{1000, 51}}, anyone},
		{"of gid 0", Caller{UID: 1000, GID: 0, Groups: []uint32{0}}, anyone},
		{"claims roles of its own", Caller{UID: 5, GID: 5, CanSteer: true, CanSeeAll: true}, anyone},
	} {
		for name, m := range methods {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				h := &fake{follow: make(chan Followed)}
				close(h.follow)
				s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), lanes: newLanes(), roles: &roles{ownUID: 990, now: time.Now,
					lookup: func(name string) (uint32, bool) {
						gid, ok := map[string]uint32{"steer": 50, "adm": 4}[name]
						return gid, ok
					}}}
				s.roles.set("steer", "adm")
				got := answered(t, s, tt.caller, fmt.Sprintf(`{"method":"%s.%s","parameters":%s,"more":true}`, Interface, name, m.parameters))
				if tt.may >= m.takes {
					if got.Error != "" || !slices.Equal(h.calls, []string{name}) || h.denied != nil {
						t.Errorf("answer %+v, the daemon was asked for %q and told of %q", got, h.calls, h.denied)
					}
					return
				}
				takes := "it takes root or a member of group steer"
				var denied []string
				if m.takes == see {
					takes += " or a member of group adm"
				} else {
					denied = []string{fmt.Sprintf("%d %s: %s", tt.caller.UID, gocmp.Or(m.named, name), takes)}
				}
				if got.Error != errNotAllowed || got.Parameters.Reason != takes || h.calls != nil {
					t.Errorf("answer %+v, the daemon was asked for %q", got, h.calls)
				}
				if diff := cmp.Diff(denied, h.denied); diff != "" {
					t.Errorf("told of what was refused:\n%s", diff)
				}
			})
		}
	}
}

// TestFollowerLosesRole: who may no longer see all, by a reload, gets no event more.
func TestFollowerLosesRole(t *testing.T) {
	h := &fake{follow: make(chan Followed)}
	s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), lanes: newLanes(), roles: newRoles(990, "", "61204")}
	conn, done := connected(t, s, Caller{UID: 1000, GID: 61204})
	if _, err := conn.Write([]byte(`{"method":"io.checkproc.Follow","more":true}` + "\x00")); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if first, err := in.ReadString(0); err != nil || !strings.Contains(first, `"continues":true`) {
		t.Fatalf("%q, %v", first, err)
	}
	if missing := s.SetGroups("", "61205"); missing != nil {
		t.Errorf("%q are missing", missing)
	}
	h.follow <- Followed{Cursor: "x", Event: &Event{Name: "condemned"}}
	if last, err := in.ReadString(0); err != nil || !strings.Contains(last, errNotAllowed) || strings.Contains(last, "condemned") {
		t.Errorf("%q, %v", last, err)
	}
	conn.Close()
	<-done
}

type answer struct {
	Error      string
	Parameters struct{ Reason string }
}

// connected is the other end of a connection of this caller; done is closed when the server has left it.
func connected(t *testing.T, s *Server, c Caller) (conn *net.UnixConn, done chan struct{}) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
	}
	done = make(chan struct{})
	go func() { defer close(done); s.serve(t.Context(), ends[0], c); ends[0].Close() }()
	return ends[1], done
}

// answered is the server's first answer to a call that comes over a connection of this caller.
func answered(t *testing.T, s *Server, c Caller, call string) (a answer) {
	t.Helper()
	conn, done := connected(t, s, c)
	if _, err := conn.Write([]byte(call + "\x00")); err != nil {
		t.Fatal(err)
	}
	message, err := bufio.NewReader(conn).ReadString(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.TrimSuffix(message, "\x00")), &a); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-done
	return a
}
