package config

import (
	"os"
	"path/filepath"
)

// Files lists the files that Load(path) reads, as far as they are there.
func Files(path string) []string {
	all := []string{path}
	if path == "" || path == DefaultPath {
		all[0] = DefaultPath
		more, _ := listDir(filepath.Join(filepath.Dir(DefaultPath), "conf.d"))
		all = append(all, more...)
	}
	var files []string
	for _, f := range all {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	return files
}
