package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProtected(t *testing.T) {
	c := Default()
	c.Protect = Protect{Names: []string{"sshd", "db*"}, Units: []string{"postgres*.service", "*.scope"}}
	for _, tt := range []struct{ name, unit, want string }{
		{"ftpd", "ftp.service", ""},
		{"sshd", "ftp.service", `protect.names "sshd"`},
		{"dbwriter", "", `protect.names "db*"`},
		{"xdb", "postgresql.service", `protect.units "postgres*.service"`},
		{"xdb", "session-4.scope", `protect.units "*.scope"`},
		{"", "", ""},
	} {
		if got := c.Protected(tt.name, tt.unit); got != tt.want {
			t.Errorf("Protected(%q, %q) = %q, want %q", tt.name, tt.unit, got, tt.want)
		}
	}
	c.Protect.Units = []string{"*"}
	if got := c.Protected("ftpd", ""); got != "" {
		t.Errorf("without a unit it is protected by %s", got)
	}
}

func TestMayUse(t *testing.T) {
	c := Default()
	c.Names = []Names{
		{User: "idc", Allow: []string{"ftp*", "idc-?"}},
		{User: "1000", Allow: []string{"own"}},
		{User: "svc-*", Allow: []string{"svc"}},
		{User: "nobody"},
	}
	for _, tt := range []struct {
		uid        uint32
		user, name string
		want       bool
	}{
		{7, "idc", "ftpget", true},
		{7, "idc", "idc-1", true},
		{7, "idc", "own", false},
		{7, "idc", "", false},
		{1000, "idc", "own", true}, // by name and by uid: both lists
		{1000, "idc", "ftpget", true},
		{1000, "idc", "svc", false},
		{1000, "1000", "own", true},
		{1000, "1000", "other", false},
		{10001, "other", "anything", true},
		{100, "100", "anything", true},
		{9, "svc-mail", "svc", true},
		{9, "svc-mail", "mail", false},
		{65534, "nobody", "nobody", false},
		{0, "root", "sshd", true},
	} {
		if got := c.MayUse(tt.uid, tt.user, tt.name); got != tt.want {
			t.Errorf("MayUse(%d, %q, %q) = %v", tt.uid, tt.user, tt.name, got)
		}
	}
	empty := Default()
	if !empty.MayUse(1, "a", "b") {
		t.Error("without [[names]] a name is refused")
	}
	if n := testing.AllocsPerRun(100, func() { c.MayUse(9, "svc-mail", "mail") }); n != 0 {
		t.Errorf("MayUse allocates %v times", n)
	}
}

func TestDiffAccess(t *testing.T) {
	a, b := Default(), Default()
	b.Protect = Protect{Names: []string{"sshd"}, Units: []string{"a.service", "b.service"}}
	b.Names = []Names{{"idc", nil}}
	want := []string{
		`protect.names: [] -> [ "sshd" ]`,
		`protect.units: [] -> [ "a.service", "b.service" ]`,
		`names[0]: added { user = "idc", allow = [] }`,
	}
	if diff := cmp.Diff(want, Diff(a, b)); diff != "" {
		t.Error(diff)
	}
	c := b
	c.Names = []Names{{"idc", []string{"x"}}}
	if got, want := Diff(b, c), []string{`names[0]: { user = "idc", allow = [] } -> { user = "idc", allow = [ "x" ] }`}; !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
