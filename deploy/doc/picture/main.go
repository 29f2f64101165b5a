// Command picture runs the demonstration on a terminal of its own and draws what was to be seen there:
//
//	make build && go run ./deploy/doc/picture >deploy/doc/demo.svg
//
// The recording is taken as it is up to the examination at its end, but for two things: the date in front of the time is
// left out, and long lines are broken. script(1) of util-linux makes the terminal.
package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The picture is columns wide, in cells of a fixed size.
const (
	columns    = 125
	indent     = 9 // of what is left of a broken line: behind the time
	cellWidth  = 8
	lineHeight = 17
	border     = 14
)

// end is where the drawing stops; the examination has long lines, and is for reading on the spot.
const end = "\n$ checkprocctl check\n"

// fills are the colours of SGR sequences; 0 is the usual one.
var fills = map[string]string{"0": "#d0d7de", "31": "#ff7b72", "32": "#7ee787", "33": "#f2cc60", "36": "#79c0ff", "90": "#8b949e"}

func main() {
	text, err := record()
	if err == nil {
		err = draw(os.Stdout, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// record returns what the demonstration wrote to its terminal.
func record() (string, error) {
	cmd := exec.Command("script", "--quiet", "--return", "--command", "deploy/demo/run.sh --check", "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "NO_COLOR=")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	text, _, found := strings.Cut(strings.ReplaceAll(string(out), "\r\n", "\n"), end)
	if !found {
		return "", fmt.Errorf("the recording has no %q", end)
	}
	return strings.TrimRight(text, "\n"), nil
}

// cell is one character with its looks.
type cell struct {
	char rune
	fill string
	bold bool
}

var (
	sgr  = regexp.MustCompile(`^\x1b\[([0-9;]*)m`)
	date = regexp.MustCompile(`(?m)^(\x1b\[90m)\d{4}-\d\d-\d\d `)
)

// cells takes the sequences of a terminal out of a text and returns its lines.
func cells(text string) ([][]cell, error) {
	lines := [][]cell{nil}
	fill, bold := fills["0"], false
	for text = date.ReplaceAllString(text, "$1"); text != ""; {
		if m := sgr.FindStringSubmatch(text); m != nil {
			for code := range strings.SplitSeq(m[1], ";") {
				switch colour, known := fills[code]; {
				case code == "1":
					bold = true
				case code == "" || code == "0":
					fill, bold = fills["0"], false
				case known:
					fill = colour
				default:
					return nil, fmt.Errorf("no colour for the sequence %q", m[0])
				}
			}
			text = text[len(m[0]):]
			continue
		}
		char, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		last := &lines[len(lines)-1]
		switch {
		case char == '\n':
			lines = append(lines, nil)
		case char < ' ':
			return nil, fmt.Errorf("a control character %q in the recording", char)
		default:
			*last = append(*last, cell{char, fill, bold})
		}
	}
	return lines, nil
}

// wrap breaks a line at its last blanks before the edge.
func wrap(line []cell) [][]cell {
	var out [][]cell
	for len(line) > columns {
		at := columns
		for at > indent+1 && line[at].char != ' ' {
			at--
		}
		out = append(out, line[:at])
		rest := make([]cell, indent, indent+len(line)-at)
		for i := range rest {
			rest[i] = cell{' ', fills["0"], false}
		}
		line = append(rest, line[at+1:]...)
	}
	return append(out, line)
}

// draw writes the picture.
func draw(w io.Writer, text string) error {
	all, err := cells(text)
	if err != nil {
		return err
	}
	var lines [][]cell
	for _, line := range all {
		lines = append(lines, wrap(line)...)
	}
	wide, high := columns*cellWidth+2*border, len(lines)*lineHeight+2*border
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img">`+"\n", wide, high)
	b.WriteString("<title>A run of the demonstration (make demo)</title>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="8" fill="#0d1117"/>`+"\n", wide, high)
	b.WriteString(`<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="13" style="white-space:pre">` + "\n")
	for i, line := range lines {
		if len(line) > 0 {
			drawLine(&b, line, border+(i+1)*lineHeight-4)
		}
	}
	b.WriteString("</g>\n</svg>\n")
	_, err = w.Write(b.Bytes())
	return err
}

// drawLine places each stretch of one look by its column, so that no font moves the columns.
func drawLine(b *bytes.Buffer, line []cell, y int) {
	for i := 0; i < len(line); {
		var run strings.Builder
		begin := i
		for ; i < len(line) && line[i].fill == line[begin].fill && line[i].bold == line[begin].bold; i++ {
			run.WriteRune(line[i].char)
		}
		text := strings.TrimLeft(run.String(), " ")
		column := i - utf8.RuneCountInString(text)
		if text = strings.TrimRight(text, " "); text == "" {
			continue
		}
		weight := ""
		if line[begin].bold {
			weight = ` font-weight="bold"`
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s"%s textLength="%d" xml:space="preserve">`, border+column*cellWidth, y, line[begin].fill, weight, utf8.RuneCountInString(text)*cellWidth)
		_ = xml.EscapeText(b, []byte(text)) // a Buffer takes everything
		b.WriteString("</text>\n")
	}
}
