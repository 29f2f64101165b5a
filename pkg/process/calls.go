package process

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
)

//go:generate go run gencalls.go

// callName is the name of a system call of the running architecture, its number when it is not known.
func callName(number int64) string {
	calls := callsAMD64
	if runtime.GOARCH == "arm64" {
		calls = callsARM64
	}
	return callNameIn(calls, number)
}

// callNameIn looks a number up in a table as gencalls writes it: a word of digits is the number of the name after it,
// the number of every other name is that of the name before it plus one.
func callNameIn(calls string, number int64) string {
	next := int64(0)
	for word := range strings.FieldsSeq(calls) {
		if word[0] <= '9' {
			next, _ = strconv.ParseInt(word, 10, 64)
			continue
		}
		if next == number {
			return word
		}
		next++
	}
	return strconv.FormatInt(number, 10)
}

// parseCall reads /proc/PID/syscall: "running", "-1 SP PC" outside of a system call, or "NUMBER ARG1…ARG6 SP PC".
func parseCall(b []byte) string {
	b = bytes.TrimSuffix(b, []byte("\n"))
	word, rest := cutWord(b)
	if string(word) == "running" {
		return "running"
	}
	n, ok := number(word)
	if !ok || n < 0 {
		return ""
	}
	var sp []byte
	for range 7 {
		sp, rest = cutWord(rest)
	}
	// A stack below 4 GiB is that of a 32-bit program: its numbers mean other calls, and nothing else here tells.
	if len(sp) <= len("0x12345678") {
		return strconv.FormatInt(n, 10)
	}
	return callName(n)
}
