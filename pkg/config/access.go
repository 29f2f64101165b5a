package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protect names what is never signalled and never restarted, whatever a rule, an order or a record says.
type Protect struct {
	Names []string // patterns for the names of records
	Units []string // patterns for units of systemd

	// Aliases are those of Units that are other names of a unit, by the name that systemd has for it. They are learnt
	// from it, and not of the file.
	Aliases map[string]string
}

// Names says which names the records of some users may have. A user that no Names is about may use any; one that several
// are about may use those of each.
type Names struct {
	User  string   // pattern for the name of a user; digits only: a uid. Never empty
	Allow []string // patterns for the names; none: no name
}

// Protected names the pattern that protects a target, such as `protect.names "db*"`; it is empty for one that is not
// protected. What is not known of the target is empty.
func (c *Config) Protected(name, unit string) string {
	for _, p := range c.Protect.Names {
		if Glob(p, name) {
			return "protect.names " + quote(p)
		}
	}
	if unit == "" {
		return ""
	}
	for _, p := range c.Protect.Units {
		if Glob(p, unit) {
			return "protect.units " + quote(p)
		}
	}
	if p := c.Protect.Aliases[unit]; p != "" {
		return "protect.units " + quote(p)
	}
	return ""
}

// MayUse says whether a record of a user may have a name.
func (c *Config) MayUse(uid uint32, user, name string) bool {
	concerned := false
	for i := range c.Names {
		n := &c.Names[i]
		if !n.is(uid, user) {
			continue
		}
		concerned = true
		if slices.ContainsFunc(n.Allow, func(p string) bool { return Glob(p, name) }) {
			return true
		}
	}
	return !concerned
}

func (n *Names) is(uid uint32, user string) bool {
	if strings.Trim(n.User, "0123456789") == "" {
		id, err := strconv.ParseUint(n.User, 10, 32)
		return err == nil && uint32(id) == uid
	}
	return Glob(n.User, user)
}

const (
	maxPatterns      = 1000 // of one list
	maxNames         = 1000
	patternsExpected = `patterns such as [ "db*", "sshd" ], none of them empty`
	unitsExpected    = `patterns such as [ "db@*.service", "session-*.scope" ], none of them empty`
	unitExpected     = `a pattern such as "ftp@*.service"`
	userExpected     = `a pattern for the name of a user such as "idc", or a uid such as "1000"`
)

var namesSchema = []field[Names]{
	{
		key: "user", expected: userExpected,
		read: func(r *reader, n *Names, path string, v *node) {
			if v.kind == kindString && v.text == "" {
				r.fault(v, path, "is empty", userExpected)
			} else if v.kind == kindString && strings.Trim(v.text, "0123456789") == "" {
				if _, err := strconv.ParseUint(v.text, 10, 32); err != nil {
					r.fault(v, path, clip(v.text)+" is no uid", userExpected)
				}
				n.User = v.text
			} else {
				readPattern(r, &n.User, path, v, userExpected, checkPattern)
			}
		},
		text: func(n *Names) string { return quote(n.User) },
	},
	patterns("allow", "", patternsExpected, checkPattern, func(n *Names) *[]string { return &n.Allow }),
}

// patterns is a list of them, each with nothing that check finds; an empty one is nil.
func patterns[T any](key, comment, expected string, check func(string) error, at func(*T) *[]string) field[T] {
	return field[T]{key: key, expected: expected, comment: comment,
		read: func(r *reader, to *T, path string, v *node) {
			readStrings(r, at(to), path, v, expected, maxPatterns, func(text string) error {
				if text == "" {
					return errors.New("is empty") // it would match everything
				}
				return check(text)
			})
		},
		text: func(from *T) string { return stringsText(*at(from)) },
	}
}

func readPattern(r *reader, to *string, path string, v *node, expected string, check func(string) error) {
	if v.kind != kindString {
		r.fault(v, path, v.describe(), expected)
	} else if err := check(v.text); err != nil {
		r.fault(v, path, clip(v.text)+" "+err.Error(), expected)
	} else {
		*to = v.text
	}
}

// checkPattern says why a text is no pattern.
func checkPattern(text string) error {
	if err := CheckGlob(text); err != nil {
		return fmt.Errorf("is no pattern: %w", err)
	}
	return nil
}

// populated are the types of units that processes are in; those in a slice are in a unit below it.
var populated = []string{".service", ".scope", ".socket", ".mount", ".swap"}

// checkUnitPattern says why a text is no pattern, or none that a unit with processes in it can match: who takes it for
// a protection has none.
func checkUnitPattern(text string) error {
	if err := checkPattern(text); err != nil || text == "" {
		return err
	}
	for rest := text; ; {
		_, escape, ok := strings.Cut(rest, `\`)
		if !ok {
			break
		}
		if strings.IndexByte(`\*?[]^-`, escape[0]) < 0 {
			return errors.New(`takes the \ away from what stands behind it: where it is in the name itself, write it twice`)
		}
		rest = escape[1:]
	}
	end, some := globEnd(text)
	for _, suffix := range populated {
		switch base, ok := strings.CutSuffix(end, suffix); {
		case ok && strings.HasSuffix(base, "@"):
			return errors.New("is a template, in which nothing runs: its instances have something behind the @, or a *")
		case ok && (some || base != ""), some && strings.HasSuffix(suffix, end):
			return nil
		}
	}
	if strings.HasSuffix(end, ".slice") {
		return errors.New("is a slice: name the units in it")
	}
	return errors.New("matches no unit with processes in it: those end in " + strings.Join(populated, ", "))
}

// stringsText is a list of strings; an empty one is written, too.
func stringsText(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = quote(s)
	}
	return "[ " + strings.Join(parts, ", ") + " ]"
}

// readNames appends, as readRules does.
func readNames(r *reader, c *Config, path string, v *node) {
	if v.kind != kindArray {
		r.fault(v, path, v.describe(), "[[names]]")
		return
	}
	for _, e := range v.elems {
		at := fmt.Sprintf("%s[%d]", path, len(c.Names))
		if len(c.Names) == maxNames {
			r.fault(e, at, "is one too many", fmt.Sprintf("at most %d", maxNames))
			return
		}
		var n Names
		if e.kind != kindTable {
			r.fault(e, at, e.describe(), "[[names]]")
		} else {
			readTable(r, &n, at, e, namesSchema)
			requireAll(r, at, e, namesSchema)
		}
		c.Names = append(c.Names, n)
	}
}
