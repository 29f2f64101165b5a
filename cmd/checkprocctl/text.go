package main

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// span is a duration for people: two units from a minute up, three digits below.
func span(usec int64) string {
	if usec < 0 {
		return "-" + span(-usec)
	}
	d := time.Duration(usec) * time.Microsecond
	two := func(big, small time.Duration, bigName, smallName string) string {
		text := strconv.FormatInt(int64(d/big), 10) + bigName
		if rest := d % big / small; rest > 0 {
			text += " " + strconv.FormatInt(int64(rest), 10) + smallName
		}
		return text
	}
	switch {
	case d < time.Millisecond:
		return strconv.FormatInt(usec, 10) + "µs"
	case d < time.Second:
		return digits(float64(usec)/1e3) + "ms"
	case d < time.Minute:
		return digits(float64(usec)/1e6) + "s"
	case d < time.Hour:
		return two(time.Minute, time.Second, "m", "s")
	case d < 48*time.Hour:
		return two(time.Hour, time.Minute, "h", "m")
	}
	return two(24*time.Hour, time.Hour, "d", "h")
}

// digits cuts to three digits and never rounds up to the next unit: 59.96 is 59.9.
func digits(v float64) string {
	decimals := 1
	if v < 10 {
		decimals = 2
	} else if v >= 100 {
		decimals = 0
	}
	whole, part, _ := strings.Cut(strconv.FormatFloat(v, 'f', 6, 64), ".")
	part = strings.TrimRight(part[:decimals], "0")
	if part == "" {
		return whole
	}
	return whole + "." + part
}

// size is a count of bytes for people.
func size(bytes int64) string {
	if bytes < 10<<10 {
		return strconv.FormatInt(bytes, 10) + " bytes"
	}
	if bytes < 10<<20 {
		return strconv.FormatInt(bytes>>10, 10) + " KiB"
	}
	return strconv.FormatInt(bytes>>20, 10) + " MiB"
}

// plural is "1 target", "2 targets".
func plural(n int64, one string) string {
	text := strconv.FormatInt(n, 10) + " " + one
	if n != 1 {
		text += "s"
	}
	return text
}

// clean makes text that others chose safe for a terminal: what does not print becomes \xNN or \u{NNNN}.
func clean(text string) string {
	bad := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	if !strings.ContainsFunc(text, bad) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if bad(r) {
			quoted := strconv.QuoteToASCII(text[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// width is the columns that text takes on a terminal: East Asian wide characters take two, combining ones none.
func width(text string) int {
	n := 0
	for _, r := range text {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case r >= 0x1100 && (unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) ||
			r >= 0x3000 && r <= 0x303e || r >= 0xff01 && r <= 0xff60 || r >= 0x1f300 && r <= 0x1faff):
			n += 2
		default:
			n++
		}
	}
	return n
}
