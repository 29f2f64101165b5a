package config

import (
	"errors"
	"path/filepath"
	"strings"
)

const (
	restartExpected = `"unit", "none" or { command = ["/usr/bin/program", "argument"], user = "name" }`
	commandExpected = `a command such as ["/usr/bin/program", "argument"], its path absolute`
	runAsExpected   = `the name or number of a user such as "idc"`
	thenExpected    = `names of units such as ["b.service"], 1 to 32 of them`
)

var commandSchema = []field[Command]{
	{
		key: "command", expected: commandExpected,
		read: func(r *reader, c *Command, path string, v *node) {
			readSome(r, &c.Args, path, v, commandExpected, maxArgs, checkArgument)
			if len(c.Args) > 0 && !filepath.IsAbs(c.Args[0]) {
				r.fault(v, path, "has no absolute path in front", commandExpected)
			}
		},
		text: func(c *Command) string { return someText(c.Args) },
	},
	{
		key: "user", expected: runAsExpected,
		read: func(r *reader, c *Command, path string, v *node) {
			switch {
			case v.kind != kindString:
				r.fault(v, path, v.describe(), runAsExpected)
			case v.text == "" || len(v.text) > 256 || strings.ContainsFunc(v.text, notInGroup):
				r.fault(v, path, clip(v.text)+" is no name of a user", runAsExpected)
			default:
				c.User = v.text
			}
		},
		text: func(c *Command) string {
			if c.User == "" {
				return ""
			}
			return quote(c.User)
		},
	},
}

// readRestart takes a word, or a table with a command.
func readRestart(r *reader, rule *Rule, path string, v *node) {
	switch {
	case v.kind == kindTable:
		c := &Command{}
		readTable(r, c, path, v, commandSchema)
		if _, ok := v.children["command"]; !ok {
			r.fault(v, path+".command", "is missing", commandExpected)
		}
		rule.Restart, rule.Command = RestartCommand, c
	case v.kind == kindString && v.text == RestartUnit.String():
		rule.Restart, rule.Command = RestartUnit, nil
	case v.kind == kindString && v.text == RestartNone.String():
		rule.Restart, rule.Command = RestartNone, nil
	case v.kind == kindString:
		r.fault(v, path, clip(v.text)+" is not known", restartExpected)
	default:
		r.fault(v, path, v.describe(), restartExpected)
	}
}

func restartText(rule *Rule) string {
	if rule.Command != nil {
		return inline(commandSchema, rule.Command)
	}
	return enumText(rule.Restart)
}

// readSome reads a list that is not empty.
func readSome(r *reader, to *[]string, path string, v *node, expected string, most int, check func(string) error) {
	readStrings(r, to, path, v, expected, most, check)
	if v.kind == kindArray && len(v.elems) == 0 {
		r.fault(v, path, "is empty", expected)
	}
}

// unitTypes are those that can be restarted.
var unitTypes = []string{".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap"}

// checkUnit says why a text is no name of a unit that can be restarted (systemd.unit(5)).
func checkUnit(name string) error {
	base := ""
	for _, t := range unitTypes {
		if b, ok := strings.CutSuffix(name, t); ok {
			base = b
		}
	}
	bad := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(":-_.\\@", c)
	}
	switch {
	case base == "":
		return errors.New("has no type such as .service")
	case len(name) > maxUnit, strings.ContainsFunc(base, bad), base[0] == '@':
		return errors.New("is no name of a unit")
	case strings.HasSuffix(base, "@"):
		return errors.New("is a template: an instance has something behind the @")
	}
	return nil
}

// someText leaves out a list that has nothing in it.
func someText(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return stringsText(list)
}
