package control

import (
	"bufio"
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
	}{
		"GetStatus": {`{}`, anyone}, "List": {`{}`, anyone},
		"Check": {`{}`, see}, "Advise": {`{}`, see}, "Diff": {`{}`, see}, "Follow": {`{}`, see},
		"Reload": {`{}`, steer}, "Hold": {`{"all":true,"for_usec":5000000}`, steer}, "Release": {`{"pid":7}`, steer},
		"Brake": {`{"order":"go"}`, steer}, "Recover": {`{"name":"ftp*"}`, steer}, "AlertTest": {`{}`, steer},
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
				s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), roles: &roles{ownUID: 990, now: time.Now,
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
					denied = []string{fmt.Sprintf("%d %s: %s", tt.caller.UID, name, takes)}
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

type answer struct {
	Error      string
	Parameters struct{ Reason string }
}

// answered is the server's first answer to a call that comes over a connection of this caller.
func answered(t *testing.T, s *Server, c Caller, call string) (a answer) {
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
	done := make(chan struct{})
	go func() { defer close(done); s.serve(t.Context(), ends[0], c); ends[0].Close() }()
	if _, err := ends[1].Write([]byte(call + "\x00")); err != nil {
		t.Fatal(err)
	}
	message, err := bufio.NewReader(ends[1]).ReadString(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.TrimSuffix(message, "\x00")), &a); err != nil {
		t.Fatal(err)
	}
	ends[1].Close()
	<-done
	return a
}
