package systemd

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/rs/zerolog"
)

const fieldMax = 64 // bytes of a field's name: journald drops a longer one (journal_field_valid in systemd)

// record turns one JSON event into the parts of a journal record. What is no JSON object becomes the message as it is.
func record(event []byte, level zerolog.Level) (message string, priority journal.Priority, fields map[string]string) {
	fields = make(map[string]string)
	priority = priorityOf(level)
	d := json.NewDecoder(bytes.NewReader(event))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return text(event), priority, fields
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return text(event), priority, fields
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return text(event), priority, fields
		}
		if string(raw) == "null" {
			continue
		}
		value := fieldValue(raw)
		switch name := key.(string); name {
		case zerolog.MessageFieldName:
			message = value
		case zerolog.LevelFieldName:
			if l, err := zerolog.ParseLevel(value); err == nil {
				priority = priorityOf(l)
			}
		default:
			fields[fieldName(name)] = value
		}
	}
	return message, priority, fields
}

func text(event []byte) string { return string(bytes.TrimRight(event, "\n")) }

// priorityOf maps a level to syslog's. Nothing is above critical: journald writes emergencies to every terminal.
func priorityOf(l zerolog.Level) journal.Priority {
	switch l {
	case zerolog.TraceLevel, zerolog.DebugLevel:
		return journal.PriDebug
	case zerolog.WarnLevel:
		return journal.PriWarning
	case zerolog.ErrorLevel:
		return journal.PriErr
	case zerolog.FatalLevel, zerolog.PanicLevel:
		return journal.PriCrit
	default:
		return journal.PriInfo
	}
}

// fieldName returns the journal's name for a key. A name has capitals, digits and underscores only, and does not begin
// with an underscore (systemd.journal-fields(7)).
func fieldName(key string) string {
	switch key {
	case "message_id":
		return "MESSAGE_ID"
	case "object_pid":
		return "OBJECT_PID"
	case "object_unit":
		return "OBJECT_SYSTEMD_UNIT"
	}
	name := "CHECKPROC_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), fieldMax)]
}

// fieldValue returns a JSON value as text: a string without its quotes, a number without an exponent, the rest as JSON.
func fieldValue(raw json.RawMessage) string {
	switch c := raw[0]; {
	case c == '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	case c == '-' || c >= '0' && c <= '9':
		if bytes.ContainsAny(raw, "eE") {
			if f, err := strconv.ParseFloat(string(raw), 64); err == nil {
				return strconv.FormatFloat(f, 'f', -1, 64)
			}
		}
	}
	return string(raw)
}
