package daemon

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/checkprocd/checkprocd/pkg/watch"
)

const (
	// maxWatched bounds what is read of the file: 64 rules of 1000 files and units.
	maxWatched = 64 << 20
	// maxUnits bounds the services that are remembered for one rule, maxNames the
	// names of processes in each.
	maxUnits = 1000
	maxNames = 100
)

// watched remembers over a restart, in a file beside the registry, what content of
// watched files is in force, and for which services: a change that is made while no
// guard runs is found by the next, and one that has failed because of a bad change has
// no process by the time of the good one. The guard that has the registry writes it.
type watched struct {
	path    string
	writing sync.Mutex // held while the file is written, which the loop does not wait for

	mu  sync.Mutex
	all map[string]*watchedRule // by keyOf
}

type watchedRule struct {
	Named []string                `json:"named"` // the files, as the rule names them
	Files map[string]string       `json:"files"` // what is in force: SHA-256 in hex, by path; nil: not known
	Units map[string]*watchedUnit `json:"units"`
}

// unsure is in the place of a content where nobody knows what a unit has read.
const unsure = "unsure"

// watchedUnit is a service of which a process has or had the rule.
type watchedUnit struct {
	Names []string `json:"names"`          // of the processes
	User  string   `json:"user,omitempty"` // of the last of them
	Took  string   `json:"took,omitempty"` // the content that it took, where that is not in force for all; unsure: not known
}

// load reads the file. The error is about one that is there and is of no use.
func (w *watched) load() error {
	all := map[string]*watchedRule{}
	f, err := os.Open(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer f.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(f, maxWatched)); err == nil {
			err = json.Unmarshal(text, &all)
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, rule := range all {
		if rule == nil {
			continue
		}
		maps.DeleteFunc(rule.Units, func(_ string, u *watchedUnit) bool { return u == nil || len(u.Names) == 0 })
		if rule.Units == nil {
			rule.Units = map[string]*watchedUnit{}
		}
		w.all[key] = rule
	}
	return nil
}

// save writes the file.
func (w *watched) save() error {
	w.writing.Lock()
	defer w.writing.Unlock()
	text, err := json.Marshal(w.copy())
	if err != nil {
		return fmt.Errorf("write %s: %w", w.path, err)
	}
	if err := os.WriteFile(w.path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(w.path+".new", w.path)
}

// copy is what is known by now: the loop does not wait for it to be written.
func (w *watched) copy() map[string]*watchedRule {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]*watchedRule, len(w.all))
	for key, rule := range w.all {
		units := make(map[string]*watchedUnit, len(rule.Units))
		for unit, u := range rule.Units {
			units[unit] = &watchedUnit{slices.Clone(u.Names), u.User, u.Took}
		}
		out[key] = &watchedRule{rule.Named, maps.Clone(rule.Files), units} // Named is replaced, never changed
	}
	return out
}

// stand forgets all rules but these, by what they name. A new one begins with what is known
// of the files of one that goes and names the same: who changes for whom a rule is may have
// changed the files with it.
func (w *watched) stand(rules map[string][]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := maps.Clone(w.all)
	maps.DeleteFunc(w.all, func(key string, _ *watchedRule) bool { return rules[key] == nil })
	for key, named := range rules {
		if w.all[key] != nil {
			w.all[key].Named = named
			continue
		}
		rule := &watchedRule{Named: named, Units: map[string]*watchedUnit{}}
		for old, was := range before {
			if rules[old] == nil && rule.Files == nil && slices.Equal(was.Named, named) {
				rule.Files = maps.Clone(was.Files)
			}
		}
		w.all[key] = rule
	}
}

// known is what is in force for a rule, nil for one that nothing is known of.
func (w *watched) known(key string) map[string]watch.Sum {
	w.mu.Lock()
	defer w.mu.Unlock()
	rule := w.all[key]
	if rule == nil || rule.Files == nil {
		return nil
	}
	out := map[string]watch.Sum{}
	for path, text := range rule.Files {
		var sum watch.Sum
		if n, err := hex.Decode(sum[:], []byte(text)); len(text) != 2*len(sum) || err != nil || n != len(sum) {
			return nil
		}
		out[path] = sum
	}
	return out
}

// keep takes what is in force for a rule, and for all of its units.
func (w *watched) keep(key string, sums map[string]watch.Sum) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rule := w.all[key]
	if rule == nil {
		return
	}
	rule.Files = make(map[string]string, len(sums))
	for path, sum := range sums {
		rule.Files[path] = hex.EncodeToString(sum[:])
	}
	for _, u := range rule.Units {
		u.Took = ""
	}
}

// learn takes a process that has a rule, and says whether that is news.
func (w *watched) learn(key, unit, name, user string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	rule := w.all[key]
	if rule == nil {
		return false
	}
	u := rule.Units[unit]
	if u == nil {
		if len(rule.Units) >= maxUnits {
			clear(rule.Units) // those of instances that are gone, most of them
		}
		u = &watchedUnit{}
		rule.Units[unit] = u
	}
	if slices.Contains(u.Names, name) && (u.User != "" || user == "") {
		return false
	}
	if u.User = user; slices.Contains(u.Names, name) {
		return true
	}
	u.Names = append(u.Names[max(0, len(u.Names)-maxNames+1):], name)
	return true
}

// units are those of a rule, with the names of their processes and what they took since
// something was in force for all.
func (w *watched) units(key string) map[string]watchedUnit {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]watchedUnit{}
	if rule := w.all[key]; rule != nil {
		for unit, u := range rule.Units {
			out[unit] = watchedUnit{slices.Clone(u.Names), u.User, u.Took}
		}
	}
	return out
}

// took notes that a unit has another content than the others, in hex, or unsure.
func (w *watched) took(key, unit, content string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rule := w.all[key]; rule != nil && rule.Units[unit] != nil {
		rule.Units[unit].Took = content
	}
}

// has says whether a unit has a content, if it took what is in force for all or another one.
func (u *watchedUnit) has(content, inForce watch.Sum) bool {
	if u.Took == "" {
		return content == inForce
	}
	return u.Took == hex.EncodeToString(content[:])
}

// astray says whether a unit has another content than the one that is in force for all.
func (w *watched) astray(key string) bool {
	inForce := watch.SumOf(w.known(key))
	for _, u := range w.units(key) {
		if !u.has(inForce, inForce) {
			return true
		}
	}
	return false
}

// forget forgets a unit that does not exist any more.
func (w *watched) forget(key, unit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rule := w.all[key]; rule != nil {
		delete(rule.Units, unit)
	}
}
