package process

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// What can be read about a process of another user by uid 0 with few capabilities, as a service has them.
func TestExamineRights(t *testing.T) {
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		nstest.Unavailable(t, "setpriv (package util-linux)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nstest.CC(t, "testdata/states.c", "-pthread"))
	nobody(t)(cmd)
	victim := start(t, cmd)
	examineUntil(t, open(t, victim.pid()), "the victim where it waits", func(e Evidence) bool {
		return e.State == 'S' && e.Threads[0].Syscall == "read" && e.Threads[0].Channel != ""
	})
	const ptrace, search = "sys_ptrace", "dac_read_search"
	for _, test := range []struct {
		caps     []string
		problems []string
	}{
		{[]string{ptrace, search}, nil},
		{[]string{ptrace}, []string{"fd: permission denied", "syscall: permission denied"}},
		{[]string{search}, []string{"fd: permission denied", "syscall: operation not permitted", "wchan: operation not permitted"}},
		{nil, []string{"fd: permission denied", "syscall: permission denied", "wchan: permission denied"}},
	} {
		t.Run(strings.Join(test.caps, "+"), func(t *testing.T) {
			bounding := "-all"
			for _, c := range test.caps {
				bounding += ",+" + c
			}
			c := actor(t, "examine "+strconv.Itoa(int(victim.pid())), func(cmd *exec.Cmd) {
				cmd.Path = setpriv
				cmd.Args = []string{"setpriv", "--bounding-set=" + bounding, "--inh-caps=-all", self}
			})
			var e told
			if err := json.Unmarshal([]byte(c.ready), &e); err != nil {
				t.Fatalf("%s: %v", c.ready, err)
			}
			main := e.Threads[0]
			if got := main.Channel != ""; got != slices.Contains(test.caps, ptrace) {
				t.Errorf("wait channel %q", main.Channel)
			}
			if got := main.Syscall == "read"; got != (len(test.caps) == 2) {
				t.Errorf("system call %q", main.Syscall)
			}
			if got := e.Descriptors > 0; got != slices.Contains(test.caps, search) {
				t.Errorf("%d descriptors", e.Descriptors)
			}
			if got := len(e.Open) > 0; got != (len(test.caps) == 2) {
				t.Errorf("open: %q", e.Open)
			}
			if main.Stack != "" {
				t.Errorf("stack without CAP_SYS_ADMIN: %q", main.Stack)
			}
			if e.RSS == 0 || e.DescriptorLimit == 0 || main.CPU == 0 || e.Host.CPU < 0 {
				t.Errorf("what needs no rights: %+v", e)
			}
			problems := slices.DeleteFunc(e.Problems, func(p string) bool { return strings.HasPrefix(p, "members: ") })
			slices.Sort(problems)
			if !slices.Equal(problems, test.problems) {
				t.Errorf("problems %q, want %q", problems, test.problems)
			}
			if !strings.HasSuffix(e.Release, "invalid argument") { // it was not killed
				t.Errorf("release of memory: %s", e.Release)
			}
		})
	}
}
