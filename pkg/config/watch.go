package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// Watch names the configuration of the programs that a rule matches, and what is done when it has changed.
type Watch struct {
	Files  []string      // absolute paths, the last part of each may have *, ? and [a-z]; none: nothing is watched
	Settle time.Duration // for so long the content has to stay as it is
	Check  []string      // a command that has to succeed before the change is put in force, an absolute path first; none: no check
	Action WatchAction
	Blame  time.Duration // for so long after that a failure of the unit is put down to the change
}

// WatchAction is how a unit is made to take its new configuration.
type WatchAction uint8

const (
	WatchReload WatchAction = iota
	WatchRestart
)

func (a WatchAction) String() string {
	if a == WatchRestart {
		return "restart"
	}
	return "reload"
}

const (
	maxWatches = 64 // each looks at its files by itself
	maxArgs    = 100
	minSettle  = 100 * time.Millisecond
	maxSettle  = 10 * time.Minute

	filesExpected = `paths such as [ "/etc/ftp/*.conf" ], with *, ? and [a-z] in their last part only`
	checkExpected = `a command such as [ "/usr/sbin/ftpd", "--check" ], its path absolute`
)

// usualWatch is what a watch leaves out.
var usualWatch = Watch{Settle: 2 * time.Second, Blame: time.Minute}

// watchField is the table of a rule; it is written only where there are files.
func watchField() field[Rule] {
	f := section("watch",
		field[Rule]{key: "files", expected: filesExpected,
			read: func(r *reader, rule *Rule, path string, v *node) {
				readStrings(r, &rule.Watch.Files, path, v, filesExpected, maxPatterns, CheckPath)
			},
			text: func(rule *Rule) string { return stringsText(rule.Watch.Files) },
		},
		duration("settle", minSettle, maxSettle, "", func(r *Rule) *time.Duration { return &r.Watch.Settle }),
		field[Rule]{key: "check", expected: checkExpected,
			read: func(r *reader, rule *Rule, path string, v *node) {
				before := len(r.doc.faults)
				readStrings(r, &rule.Watch.Check, path, v, checkExpected, maxArgs, checkArgument)
				if c := rule.Watch.Check; before == len(r.doc.faults) && (len(c) == 0 || !filepath.IsAbs(c[0])) {
					r.fault(v, path, "has no absolute path in front", checkExpected)
				}
			},
			text: func(rule *Rule) string {
				if rule.Watch.Check == nil {
					return ""
				}
				return stringsText(rule.Watch.Check)
			},
		},
		field[Rule]{key: "action", expected: `"reload" or "restart"`,
			read: func(r *reader, rule *Rule, path string, v *node) {
				readEnum(r, &rule.Watch.Action, path, v, WatchReload, WatchRestart)
			},
			text: func(rule *Rule) string { return enumText(rule.Watch.Action) },
		},
		duration("blame", time.Second, time.Hour, "", func(r *Rule) *time.Duration { return &r.Watch.Blame }),
	)
	for i := range f.fields {
		text := f.fields[i].text
		f.fields[i].text = func(rule *Rule) string {
			if len(rule.Watch.Files) == 0 {
				return ""
			}
			return text(rule)
		}
	}
	read := f.read
	f.read = func(r *reader, rule *Rule, path string, v *node) {
		rule.Watch = usualWatch
		before := len(r.doc.faults)
		read(r, rule, path, v)
		if before == len(r.doc.faults) && len(rule.Watch.Files) == 0 {
			r.fault(v, path+".files", "is missing", filesExpected)
		}
	}
	return f
}

// CheckPath says what is wrong with a path whose last part may be a pattern (path.Match).
func CheckPath(pattern string) error {
	dir, last := filepath.Split(pattern)
	switch {
	case !filepath.IsAbs(pattern):
		return errors.New("is no absolute path")
	case filepath.Clean(pattern) != pattern || last == "":
		return errors.New("is not the plain path of a file")
	case strings.ContainsFunc(pattern, unicode.IsControl):
		return errors.New("has control characters in it")
	case len(pattern) >= unix.PathMax:
		return fmt.Errorf("is %d bytes long", len(pattern))
	case strings.ContainsAny(dir, `*?[\`):
		return errors.New("has a pattern before its last part")
	}
	if _, err := filepath.Match(last, ""); err != nil {
		return errPattern
	}
	return nil
}

func checkArgument(text string) error {
	if strings.ContainsRune(text, 0) {
		return errors.New("has a NUL in it")
	}
	return nil
}

// readStrings reads a list of strings, each of which check takes; an empty one is nil.
func readStrings(r *reader, to *[]string, path string, v *node, expected string, most int, check func(string) error) {
	if v.kind != kindArray {
		r.fault(v, path, v.describe(), expected)
		return
	}
	if len(v.elems) > most {
		r.fault(v, path, fmt.Sprintf("has %d elements", len(v.elems)), fmt.Sprintf("at most %d", most))
		return
	}
	var list []string
	for i, e := range v.elems {
		where := fmt.Sprintf("%s[%d]", path, i)
		if e.kind != kindString {
			r.fault(e, where, e.describe(), expected)
		} else if err := check(e.text); err != nil {
			r.fault(e, where, clip(e.text)+" "+err.Error(), expected)
		} else {
			list = append(list, e.text)
		}
	}
	*to = list
}
