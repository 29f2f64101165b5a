package table

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/internal/nstest"
)

// TestLayoutEqualsC compares offsets, sizes and constants with what the C compiler of this machine says.
func TestLayoutEqualsC(t *testing.T) {
	out, err := exec.Command(nstest.CC(t, "testdata/layout.c")).Output()
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]int{}
	for line := range strings.Lines(string(out)) {
		var name string
		var value int
		if _, err := fmt.Sscan(line, &name, &value); err != nil {
			t.Fatalf("parse %q: %v", line, err)
		}
		c[name] = value
	}
	var r Record
	var d semDesc
	want := map[string]int{
		"record.pid":     int(unsafe.Offsetof(r.PID)),
		"record.name":    int(unsafe.Offsetof(r.Name)),
		"record.timeout": int(unsafe.Offsetof(r.Timeout)),
		"record.token":   int(unsafe.Offsetof(r.Token)),
		"record.size":    RecordSize,
		"name.size":      NameSize,
		"sem.otime":      int(unsafe.Offsetof(d.otime)),
		"sem.ctime":      int(unsafe.Offsetof(d.ctime)),
		"sem.nsems":      int(unsafe.Offsetof(d.nsems)),
		"sem.size":       int(unsafe.Sizeof(d)),
		"GETPID":         semGetPID,
		"GETVAL":         semGetVal,
		"GETNCNT":        semGetNCnt,
		"SETVAL":         semSetVal,
		"SEM_UNDO":       semUndo,
		"SHM_DEST":       shmDest,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("Go (-) and C (+) differ:\n%s", diff)
	}
}

func TestLayoutErrorNamesLayout(t *testing.T) {
	tests := []struct {
		size int
		want string
	}{
		{64000, "1000 records of 32-bit clients with 32-bit time_t"},
		{68000, "1000 records of i686 clients with 64-bit time_t"},
		{40000, "1000 records of a tutorial program with 40-byte records"},
		{36000, "500 records of this layout, where 1000 are configured"},
		{12345, "no known layout"},
		{0, "no known layout"},
	}
	for _, test := range tests {
		err := &LayoutError{Stat: Stat{ID: 7, Key: DefaultKey, Size: test.size, CUID: 1001, CPID: 4242}, Want: 72000}
		for _, want := range []string{
			test.want, fmt.Sprintf("has %d bytes, not 72000", test.size),
			"segment 7 under key 0x5095", "created by uid 1001, pid 4242", `"ipcrm -m 7"`,
		} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%d bytes: %q lacks %q", test.size, err, want)
			}
		}
	}
}
