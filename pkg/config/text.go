package config

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// TOML returns the configuration as a file that Load reads back to an equal one.
func (c *Config) TOML() []byte {
	var b bytes.Buffer
	writeFields(&b, c, schema)
	writeList(&b, "rule", c.Rules, ruleSchema)
	writeList(&b, "names", c.Names, namesSchema)
	return b.Bytes()
}

func writeList[T any](b *bytes.Buffer, key string, list []T, fields []field[T]) {
	for i := range list {
		fmt.Fprintf(b, "\n[[%s]]\n", key)
		for _, f := range fields {
			if text := fieldText(&f, &list[i]); text != "" {
				fmt.Fprintf(b, "%s = %s\n", f.key, text)
			}
		}
	}
}

func writeFields(b *bytes.Buffer, c *Config, fields []field[Config]) {
	for i := range fields {
		f := &fields[i]
		if f.fields != nil {
			fmt.Fprintf(b, "\n[%s]\n", f.key)
			writeFields(b, c, f.fields)
			continue
		}
		text := f.text(c)
		if text == "" {
			continue
		}
		fmt.Fprintf(b, "%s = %s", f.key, text)
		if f.comment != "" {
			fmt.Fprintf(b, " # %s", f.comment)
		}
		b.WriteByte('\n')
	}
}

// fieldText returns a field's value, a table as an inline one; empty where there is nothing to write.
func fieldText[T any](f *field[T], from *T) string {
	if f.fields == nil {
		return f.text(from)
	}
	return inline(f.fields, from)
}

func inline[T any](fields []field[T], from *T) string {
	var parts []string
	for i := range fields {
		if text := fieldText(&fields[i], from); text != "" {
			parts = append(parts, fields[i].key+" = "+text)
		}
	}
	if parts == nil {
		return ""
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func stepsText(steps []Step) string {
	parts := make([]string, len(steps))
	for i := range steps {
		parts[i] = inline(stepSchema, &steps[i])
	}
	return "[ " + strings.Join(parts, ", ") + " ]"
}

// inlineOr is an element of a list in one line, for a message.
func inlineOr[T any](fields []field[T], from *T) string {
	if text := inline(fields, from); text != "" {
		return text
	}
	return "{}"
}

// enumText leaves out the zero value, which is the default.
func enumText[E interface {
	~uint8
	fmt.Stringer
}](e E) string {
	if e == 0 {
		return ""
	}
	return quote(e.String())
}

// durationText is time.Duration's own form without zero minutes and seconds: 1h, not 1h0m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// percent moves the decimal point in the text, as the reader does.
func percent(f float64) string {
	whole, part, _ := strings.Cut(strconv.FormatFloat(f, 'f', -1, 64), ".")
	for len(part) < 2 {
		part += "0"
	}
	whole = strings.TrimLeft(whole+part[:2], "0")
	if whole == "" {
		whole = "0"
	}
	if part = part[2:]; part != "" {
		whole += "." + part
	}
	return whole + "%"
}

// number is a TOML float: it has a point.
func number(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote is a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f || c == utf8.RuneError:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Diff names what differs, one line for each key: `interval: 1s -> 2s`, `rule[2]: added { … }`.
func Diff(old, new Config) []string {
	lines := diffFields(nil, "", &old, &new, schema)
	lines = diffList(lines, "rule", old.Rules, new.Rules, ruleSchema)
	return diffList(lines, "names", old.Names, new.Names, namesSchema)
}

func diffFields[T any](lines []string, prefix string, old, new *T, fields []field[T]) []string {
	for i := range fields {
		f := &fields[i]
		if f.fields != nil {
			lines = diffFields(lines, f.key+".", old, new, f.fields)
			continue
		}
		if was, is := f.text(old), f.text(new); was != is {
			lines = append(lines, fmt.Sprintf("%s%s: %s -> %s", prefix, f.key, unquoted(was), unquoted(is)))
		}
	}
	return lines
}

// unquoted leaves the quotes away where the text needs none.
func unquoted(text string) string {
	if plain := strings.Trim(text, `"`); plain != "" && quote(plain) == text && !strings.ContainsAny(plain, " >") {
		return plain
	}
	return text
}

// diffList leaves out what both lists begin and end with; in between, elements at the same place are taken for the
// same one. Changed and added ones have their new index, removed ones their old one.
func diffList[T any](lines []string, key string, old, new []T, fields []field[T]) []string {
	text := func(e *T) string { return inlineOr(fields, e) }
	first := 0
	for first < min(len(old), len(new)) && text(&old[first]) == text(&new[first]) {
		first++
	}
	oldEnd, newEnd := len(old), len(new)
	for oldEnd > first && newEnd > first && text(&old[oldEnd-1]) == text(&new[newEnd-1]) {
		oldEnd--
		newEnd--
	}
	for i := first; i < max(oldEnd, newEnd); i++ {
		switch {
		case i >= oldEnd:
			lines = append(lines, fmt.Sprintf("%s[%d]: added %s", key, i, text(&new[i])))
		case i >= newEnd:
			lines = append(lines, fmt.Sprintf("%s[%d]: removed %s", key, i, text(&old[i])))
		case text(&old[i]) != text(&new[i]):
			lines = append(lines, fmt.Sprintf("%s[%d]: %s -> %s", key, i, text(&old[i]), text(&new[i])))
		}
	}
	return lines
}

// fixed are the keys that hold for the life of the daemon: what they name is open.
var fixed = []string{"runtime_dir", "control.socket", "cpactive.key", "cpactive.sem_key", "cpactive.records"}

// NeedsRestart returns the keys that differ and that a reload cannot apply.
func NeedsRestart(old, new Config) []string {
	var keys []string
	for _, line := range diffFields(nil, "", &old, &new, schema) {
		if key, _, _ := strings.Cut(line, ":"); slices.Contains(fixed, key) {
			keys = append(keys, key)
		}
	}
	return keys
}
