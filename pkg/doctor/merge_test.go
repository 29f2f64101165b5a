package doctor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/control"
)

func TestMerge(t *testing.T) {
	fine := control.Finding{ID: "table", Severity: control.SeverityOK}
	two := control.Finding{ID: "unguarded", Severity: control.SeverityWarning, PIDs: []int32{7, 8}}
	one := control.Finding{ID: "unguarded", Severity: control.SeverityWarning, PIDs: []int32{8}}
	guard := control.Finding{ID: "old-guard", Severity: control.SeverityError, PIDs: []int32{9}}
	for _, c := range []struct {
		name               string
		found, known, want []control.Finding
	}{
		{"nothing known", []control.Finding{fine}, nil, []control.Finding{fine}},
		{"within another", []control.Finding{two}, []control.Finding{one}, []control.Finding{two}},
		{"more than was found", []control.Finding{one}, []control.Finding{two}, []control.Finding{one, two}},
		{"all is well no more, the worst first", []control.Finding{fine, two}, []control.Finding{guard}, []control.Finding{guard, two}},
	} {
		if diff := cmp.Diff(c.want, Merge(c.found, c.known)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
