package daemon

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/checkprocd/checkprocd/pkg/watch"
)

// maxWatched bounds what is read of the file: 64 rules of 1000 files.
const maxWatched = 64 << 20

// watched remembers over a restart what content of watched files is in force, in a
// file beside the registry: a change that is made while no guard runs is found by
// the next. It is written by the guard that has the registry, when something is in
// force anew, on the goroutine that looks.
type watched struct {
	path    string
	writing sync.Mutex // held while the file is written, which the loop does not wait for

	mu  sync.Mutex
	all map[string]map[string]string // SHA-256 in hex, by what the rule says and by path
}

// loadWatched reads the file. The error is about one that is there and is of no use.
func loadWatched(dir string) (*watched, error) {
	w := &watched{path: filepath.Join(dir, "watched"), all: map[string]map[string]string{}}
	f, err := os.Open(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxWatched))
	if err == nil {
		err = json.Unmarshal(text, &w.all)
	}
	if err != nil {
		clear(w.all)
		return w, fmt.Errorf("read %s: %w", w.path, err)
	}
	return w, nil
}

// known is what was in force for a rule, nil for one that nothing is known of.
func (w *watched) known(key string) map[string]watch.Sum {
	w.mu.Lock()
	defer w.mu.Unlock()
	files, ok := w.all[key]
	if !ok {
		return nil
	}
	out := map[string]watch.Sum{}
	for path, text := range files {
		var sum watch.Sum
		if n, err := hex.Decode(sum[:], []byte(text)); len(text) != 2*len(sum) || err != nil || n != len(sum) {
			return nil
		}
		out[path] = sum
	}
	return out
}

// keep takes what is in force for a rule, and forgets rules that are no more.
func (w *watched) keep(key string, sums map[string]watch.Sum, stands func(key string) bool) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	files := make(map[string]string, len(sums))
	for path, sum := range sums {
		files[path] = hex.EncodeToString(sum[:])
	}
	w.mu.Lock()
	w.all[key] = files
	for key := range w.all {
		if !stands(key) {
			delete(w.all, key)
		}
	}
	text, err := json.Marshal(w.all)
	w.mu.Unlock()
	if err != nil {
		return fmt.Errorf("write %s: %w", w.path, err)
	}
	if err := os.WriteFile(w.path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(w.path+".new", w.path)
}
