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

// record turns one JSON event into the fields of a journal record. What is no JSON object becomes the message as it is.
// Of a key that comes twice the last value counts.
func record(event []byte, level zerolog.Level) map[string]string {
	fields := map[string]string{"PRIORITY": priority(level)}
	d := json.NewDecoder(bytes.NewReader(event))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		fields["MESSAGE"] = text(event)
		return fields
	}
	for d.More() {
		var raw json.RawMessage
		key, err := d.Token()
		if err == nil {
			err = d.Decode(&raw)
		}
		if err != nil { // cut short: what was read stands, and the message is the event itself
			fields["MESSAGE"] = text(event)
			return fields
		}
		name, value := key.(string), fieldValue(raw)
		switch {
		case string(raw) == "null":
		case name == zerolog.LevelFieldName:
			if l, err := zerolog.ParseLevel(value); err == nil {
				fields["PRIORITY"] = priority(l)
			}
		case name == "priority": // syslog has levels that zerolog lacks
			fields["PRIORITY"] = value
		default:
			fields[fieldName(name)] = value
		}
	}
	return fields
}

func text(event []byte) string { return string(bytes.TrimRight(event, "\n")) }

func priority(l zerolog.Level) string { return strconv.Itoa(int(priorityOf(l))) }

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
	case zerolog.MessageFieldName:
		return "MESSAGE"
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
