package guard

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/checkprocd/checkprocd/pkg/config"
)

// TestPreview: what is said about another configuration is what its reload then does, and saying it does nothing.
func TestPreview(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.Rules = []config.Rule{{Match: config.Match{Name: "b"}, Timeout: 60 * sec}}
	})
	for pid, name := range map[int32]string{42: "a", 41: "b", 43: "c"} {
		w.client(pid, name, 30, sec)
	}
	w.procs[42].facts.Unit = "a.service"
	w.run(5 * sec)
	late := w.client(44, "d", 30, sec) // forming: it has no rule yet
	next := *w.cfg
	next.Rules = []config.Rule{
		{Match: config.Match{Unit: "a.*"}, Action: config.ActionReport},
		{Match: config.Match{Name: "b"}, Timeout: 60 * sec},
		{Match: config.Match{Name: "c"}},
	}
	next.Protect.Names = []string{"c"}
	next.Names = []config.Names{{User: "idc", Allow: []string{"[^b]"}}}
	want := []Preview{
		{PID: 41, UID: 1000, Name: "b", Before: 0, After: 1, Changes: []string{"its name: allowed -> refused"}},
		{PID: 42, UID: 1000, Name: "a", Unit: "a.service", Before: -1, After: 0, Changes: []string{"action: ladder -> report"}},
		{PID: 43, UID: 1000, Name: "c", Before: -1, After: 2, Changes: []string{`protected: no -> protect.names "c"`}},
	}
	if diff := cmp.Diff(want, w.g.Preview(&next)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	rules := map[string]int{}
	for _, v := range w.g.Views() {
		rules[v.Name] = v.Rule
	}
	if rules["a"] != -1 || rules["b"] != 0 || rules["c"] != -1 {
		t.Errorf("the preview has changed the rules in force: %v", rules)
	}
	w.run(5 * sec)
	w.g.SetConfig(&next)
	for _, p := range w.g.Preview(&next) {
		if p.Before != p.After || p.Changes != nil {
			t.Errorf("after the reload: %+v", p)
		}
	}
	late.exit(true)
	w.run(5 * sec)
	if n := len(w.g.Preview(&next)); n != 3 {
		t.Errorf("%d targets after one has ended", n)
	}
}
