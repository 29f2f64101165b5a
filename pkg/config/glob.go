package config

import (
	"errors"
	"unicode/utf8"
)

var errPattern = errors.New("unfinished [ or \\")

// Glob reports whether text matches pattern; an empty pattern matches everything. Unlike path.Match, * and ? match
// slashes too. It takes len(pattern)*len(text) steps at most: after a mismatch only the last * is tried again.
// A pattern that CheckGlob refuses matches nothing.
func Glob(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	p, t := 0, 0
	star, mark := -1, 0 // pattern after the last *, text where it began to match
	for {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, mark = p, t
			continue
		}
		if t == len(text) {
			return p == len(pattern)
		}
		if p < len(pattern) {
			r, size := utf8.DecodeRuneInString(text[t:])
			if next, ok, err := matchOne(pattern, p, r); err != nil {
				return false
			} else if ok {
				p, t = next, t+size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[mark:])
		mark += size
		p, t = star, mark
	}
}

// CheckGlob says what is wrong with a pattern.
func CheckGlob(pattern string) error {
	for p := 0; p < len(pattern); {
		if pattern[p] == '*' {
			p++
			continue
		}
		next, _, err := matchOne(pattern, p, 0)
		if err != nil {
			return err
		}
		p = next
	}
	return nil
}

// globEnd is what all that matches a pattern ends with, and whether something else can stand before it. The pattern is
// one that CheckGlob accepts.
func globEnd(pattern string) (end string, open bool) {
	for p := 0; p < len(pattern); {
		switch pattern[p] {
		case '*':
			end, open = "", true
			p++
		case '?', '[':
			end, open = "", true
			p, _, _ = matchOne(pattern, p, 0)
		default:
			c, next, _ := literal(pattern, p)
			end += string(c)
			p = next
		}
	}
	return end, open
}

// matchOne matches r against the one element of the pattern at p, which is no *, and returns where the next begins.
func matchOne(pattern string, p int, r rune) (next int, ok bool, err error) {
	switch pattern[p] {
	case '?':
		return p + 1, true, nil
	case '[':
		return matchClass(pattern, p+1, r)
	}
	c, next, err := literal(pattern, p)
	return next, c == r, err
}

// matchClass matches r against the class whose [ stands before p.
func matchClass(pattern string, p int, r rune) (next int, ok bool, err error) {
	negated := p < len(pattern) && pattern[p] == '^'
	if negated {
		p++
	}
	for first := true; ; first = false {
		if p >= len(pattern) {
			return 0, false, errPattern
		}
		if pattern[p] == ']' && !first {
			return p + 1, ok != negated, nil
		}
		var low rune
		if low, p, err = literal(pattern, p); err != nil {
			return 0, false, err
		}
		high := low
		if p+1 < len(pattern) && pattern[p] == '-' && pattern[p+1] != ']' {
			if high, p, err = literal(pattern, p+1); err != nil {
				return 0, false, err
			}
		}
		if low <= r && r <= high {
			ok = true
		}
	}
}

// literal returns the character at p, without the \ before it.
func literal(pattern string, p int) (c rune, next int, err error) {
	if pattern[p] == '\\' {
		p++
		if p == len(pattern) {
			return 0, 0, errPattern
		}
	}
	c, size := utf8.DecodeRuneInString(pattern[p:])
	return c, p + size, nil
}
