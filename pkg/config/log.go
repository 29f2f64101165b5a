package config

import (
	"fmt"
	"slices"
	"strings"
)

var (
	logLevels  = []string{"trace", "debug", "info", "warn", "error"}
	logFormats = []string{"auto", "journal", "console", "json"}
)

// Validate checks what a command line can set.
func (l Log) Validate() error {
	if !slices.Contains(logLevels, l.Level) {
		return fmt.Errorf("log level %q: expected one of %s", l.Level, strings.Join(logLevels, ", "))
	}
	if !slices.Contains(logFormats, l.Format) {
		return fmt.Errorf("log format %q: expected one of %s", l.Format, strings.Join(logFormats, ", "))
	}
	return nil
}
