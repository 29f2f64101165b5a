package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is the type of a TOML value.
type kind uint8

const (
	kindTable kind = iota
	kindArray
	kindString
	kindInteger
	kindFloat
	kindBool
	kindDate
)

// node is one value of a document and where it stands. All spellings of a table (header, dotted key, inline) give
// the same nodes, so that what reads them does not care how a file is written.
type node struct {
	kind   kind
	offset int    // of the value; of the key for a table that a header or a dotted key made
	text   string // a string's value; any other scalar as it is written

	names    []string // keys of a table, as they came
	children map[string]child
	header   bool // a table or an array that headers make

	elems []*node // of an array
}

type child struct {
	keyOffset int
	*node
}

func newTable(offset int) *node {
	return &node{kind: kindTable, offset: offset, children: map[string]child{}}
}

func (n *node) put(name string, keyOffset int, v *node) {
	n.names = append(n.names, name)
	n.children[name] = child{keyOffset, v}
}

// keyPart is one part of a dotted key.
type keyPart struct {
	name   string
	offset int
}

// document is a file under inspection, and what is wrong with it.
type document struct {
	file   string
	data   []byte
	lines  []int // offset of each line
	faults []Fault
	broken bool // does not follow TOML's grammar
}

func newDocument(file string, data []byte) *document {
	d := &document{file: file, data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	return d
}

// position returns line and column of an offset, both from 1.
func (d *document) position(offset int) (line, column int) {
	line = sort.Search(len(d.lines), func(i int) bool { return d.lines[i] > offset })
	return line, offset - d.lines[line-1] + 1
}

func (d *document) fault(offset int, key, problem, expected string) {
	line, column := d.position(offset)
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Column: column, Key: key, Problem: problem, Expected: expected})
}

// parse reads the whole document. After an expression that does not follow the grammar it goes on with the next line
// where that is safe, so that one slip does not hide the faults below it.
func (d *document) parse() *node {
	root := newTable(0)
	current, prefix := root, "" // the table of the last header
	var p unstable.Parser
	base := 0 // offset of the parser's data
	next := 0 // the line after the last good expression
	p.Reset(d.data)
	for {
		if p.NextExpression() {
			e := p.Expression()
			parts := keyParts(e.Key(), base)
			end := parts[len(parts)-1].offset
			switch e.Kind {
			case unstable.Table:
				current, prefix = d.enterTable(root, parts), joinKey("", parts)
			case unstable.ArrayTable:
				current, prefix = d.enterArrayTable(root, parts), joinKey("", parts)
			case unstable.KeyValue:
				d.putValue(current, prefix, parts, d.value(e, base, parts))
				end = base + int(e.Raw.Offset+e.Raw.Length)
			}
			next = d.lineAfter(end)
			continue
		}
		if p.Error() == nil {
			return root
		}
		d.broken = true
		if base = d.syntaxFault(p.Error(), &p, base, next, prefix); base < 0 {
			return root
		}
		next = base
		p.Reset(d.data[base:])
	}
}

// check asks the library about what parse does not know: keys and tables that stand at once as two things,
// dates and numbers that do not exist. A line that has a fault already gets no second one.
func (d *document) check() {
	if d.broken {
		return
	}
	var all map[string]any
	var fault *toml.DecodeError
	err := toml.Unmarshal(d.data, &all)
	if err == nil {
		return
	}
	if !errors.As(err, &fault) {
		d.faults = append(d.faults, Fault{File: d.file, Problem: strings.TrimPrefix(err.Error(), "toml: ")})
		return
	}
	line, column := fault.Position()
	for i := range d.faults {
		if d.faults[i].Line == line {
			return
		}
	}
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Column: column, Key: strings.Join(fault.Key(), "."),
		Problem: strings.TrimPrefix(fault.Error(), "toml: ")})
}

// keyValueLine is a line such as `interval = 1s`, of which the key can be named although the value is no TOML.
var keyValueLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([A-Za-z0-9_.-]+)[ \t]*=`) })

// syntaxFault reports what the parser met and returns where to go on; -1 where nobody can tell.
func (d *document) syntaxFault(err error, p *unstable.Parser, base, next int, prefix string) (resume int) {
	start := d.skipBlank(next)
	offset := start
	var pe *unstable.ParserError
	if errors.As(err, &pe) {
		offset = base + int(p.Range(pe.Highlight).Offset)
	}
	line := string(bytes.TrimRight(d.data[start:d.lineAfter(start)], "\r\n"))
	problem, key, expected := err.Error(), "", ""
	if m := keyValueLine().FindStringSubmatch(line); m != nil {
		key = m[1]
		if prefix != "" {
			key = prefix + "." + key
		}
		expected = expectedOf(key)
	}
	startLine, _ := d.position(start)
	faultLine, _ := d.position(min(offset, len(d.data)))
	resume = d.lineAfter(start)
	// Keys after a broken header would be taken for keys of another table; an open bracket or a multi-line string
	// makes the next line part of the broken one.
	if startLine != faultLine || strings.HasPrefix(line, "[") ||
		strings.Count(line, "[") != strings.Count(line, "]") || strings.Count(line, "{") != strings.Count(line, "}") ||
		strings.Contains(line, `"""`) || strings.Contains(line, "'''") {
		problem += "; the file was not read beyond this"
		resume = -1
	}
	d.fault(offset, key, problem, expected)
	return resume
}

// lineAfter returns the offset of the line after the one that holds offset.
func (d *document) lineAfter(offset int) int {
	if i := bytes.IndexByte(d.data[offset:], '\n'); i >= 0 {
		return offset + i + 1
	}
	return len(d.data)
}

// skipBlank returns the offset of the first character at or after offset that is neither blank nor in a comment.
func (d *document) skipBlank(offset int) int {
	for offset < len(d.data) {
		switch d.data[offset] {
		case ' ', '\t', '\r', '\n':
			offset++
		case '#':
			after := d.lineAfter(offset)
			if after == len(d.data) {
				return offset
			}
			offset = after
		default:
			return offset
		}
	}
	return max(len(d.data)-1, 0)
}

func keyParts(it unstable.Iterator, base int) []keyPart {
	var parts []keyPart
	for it.Next() {
		n := it.Node()
		parts = append(parts, keyPart{string(n.Data), base + int(n.Raw.Offset)})
	}
	return parts
}

// joinKey returns the key as a user writes it: parts that are no bare keys stand in quotes.
func joinKey(prefix string, parts []keyPart) string {
	for _, p := range parts {
		name := p.name
		if !bareKey(name) {
			name = clip(name)
		}
		if prefix != "" {
			prefix += "."
		}
		prefix += name
	}
	return prefix
}

func bareKey(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxQuoted
}

// maxQuoted is how much of a key or value a message repeats, in bytes.
const maxQuoted = 60

// clip quotes a piece of the file for a message.
func clip(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(strings.ToValidUTF8(s[:maxQuoted], "")) + "…"
	}
	return strconv.Quote(s)
}

// descend walks from n over the parts of a key, making tables that are missing. Where something else stands in the
// way, it reports that and returns a table that belongs to nobody.
func (d *document) descend(n *node, prefix string, parts []keyPart) *node {
	for i, part := range parts {
		c, ok := n.children[part.name]
		if !ok {
			c = child{part.offset, newTable(part.offset)}
			n.put(part.name, part.offset, c.node)
		}
		n = c.node
		if n.kind == kindArray && n.header {
			n = n.elems[len(n.elems)-1]
		}
		if n.kind != kindTable {
			d.twice(part.offset, joinKey(prefix, parts[:i+1]), c)
			return newTable(part.offset)
		}
	}
	return n
}

func (d *document) twice(offset int, key string, first child) {
	line, _ := d.position(first.keyOffset)
	d.fault(offset, key, fmt.Sprintf("stands twice, first in line %d", line), "")
}

func (d *document) enterTable(root *node, parts []keyPart) *node {
	last := parts[len(parts)-1]
	parent := d.descend(root, "", parts[:len(parts)-1])
	c, ok := parent.children[last.name]
	switch {
	case !ok:
		t := newTable(last.offset)
		t.header = true
		parent.put(last.name, last.offset, t)
		return t
	case c.kind == kindTable && !c.header:
		c.header = true // was made by the header of a table below it
		return c.node
	case c.kind == kindTable:
		d.twice(last.offset, joinKey("", parts), c)
		return c.node // the keys below are judged nevertheless
	}
	d.twice(last.offset, joinKey("", parts), c)
	return newTable(last.offset)
}

func (d *document) enterArrayTable(root *node, parts []keyPart) *node {
	last := parts[len(parts)-1]
	parent := d.descend(root, "", parts[:len(parts)-1])
	t := newTable(last.offset)
	c, ok := parent.children[last.name]
	switch {
	case !ok:
		parent.put(last.name, last.offset, &node{kind: kindArray, offset: last.offset, header: true, elems: []*node{t}})
	case c.kind == kindArray && c.header:
		c.elems = append(c.elems, t)
	default:
		d.twice(last.offset, joinKey("", parts), c)
	}
	return t
}

func (d *document) putValue(table *node, prefix string, parts []keyPart, v *node) {
	last := parts[len(parts)-1]
	parent := d.descend(table, prefix, parts[:len(parts)-1])
	if c, ok := parent.children[last.name]; ok {
		d.twice(last.offset, joinKey(prefix, parts), c)
		return
	}
	parent.put(last.name, last.offset, v)
}

// value returns the value of a key-value expression.
func (d *document) value(e *unstable.Node, base int, parts []keyPart) *node {
	// The parser tells no position of an array: it begins behind the equals sign behind the last part of the key.
	var raw unstable.Range
	for it := e.Key(); it.Next(); {
		raw = it.Node().Raw
	}
	offset := base + int(raw.Offset+raw.Length)
	for offset < len(d.data)-1 && strings.IndexByte(" \t=", d.data[offset]) >= 0 {
		offset++
	}
	return d.build(e.Value(), base, offset, joinKey("", parts))
}

// build copies what the parser found: its nodes last until the next expression only.
func (d *document) build(n *unstable.Node, base, offset int, key string) *node {
	if n.Raw.Length > 0 {
		offset = base + int(n.Raw.Offset)
	}
	v := &node{offset: offset}
	switch n.Kind {
	case unstable.InlineTable:
		v = newTable(offset)
		for it := n.Children(); it.Next(); {
			kv := it.Node()
			parts := keyParts(kv.Key(), base)
			d.putValue(v, key, parts, d.value(kv, base, parts))
		}
	case unstable.Array:
		v.kind = kindArray
		for it := n.Children(); it.Next(); {
			v.elems = append(v.elems, d.build(it.Node(), base, offset, key))
		}
	case unstable.String:
		v.kind, v.text = kindString, string(n.Data)
	case unstable.Integer:
		v.kind, v.text = kindInteger, string(n.Data)
	case unstable.Float:
		v.kind, v.text = kindFloat, string(n.Data)
	case unstable.Bool:
		v.kind, v.text = kindBool, string(n.Data)
	default:
		v.kind, v.text = kindDate, string(n.Data)
	}
	return v
}

// describe says what a value is, for a message about a wrong type.
func (n *node) describe() string {
	switch n.kind {
	case kindTable:
		return "is a table"
	case kindArray:
		if n.header {
			return "is an array of tables"
		}
		return "is an array"
	case kindString:
		return "is the string " + clip(n.text)
	case kindInteger:
		return "is the integer " + clipBare(n.text)
	case kindFloat:
		return "is the number " + clipBare(n.text)
	case kindBool:
		return "is the boolean " + n.text
	}
	return "is the date or time " + clipBare(n.text)
}

func clipBare(s string) string {
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "…"
	}
	return s
}
