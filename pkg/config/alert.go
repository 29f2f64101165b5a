package config

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// Alert is what systemd starts for some events.
type Alert struct {
	Unit   string   // a template such as checkprocd-alert@.service, "": none
	Events []string // patterns for the names of events
}

// Alerts says whether a unit is to be started for an event.
func (c *Config) Alerts(event string) bool {
	if c.Alert.Unit == "" {
		return false
	}
	for _, p := range c.Alert.Events {
		if Glob(p, event) {
			return true
		}
	}
	return false
}

const alertUnitExpected = `a template such as "checkprocd-alert@.service", or ""`

// template is a name of unit that takes an instance; systemd allows 255 bytes with it.
var template = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9:_.\\-]{1,100}@\.service$`) })

var alertSchema = []field[Config]{
	{
		key: "unit", expected: alertUnitExpected, comment: "is started for each of the events, with its name as the instance",
		read: func(r *reader, c *Config, path string, v *node) {
			switch {
			case v.kind != kindString:
				r.fault(v, path, v.describe(), alertUnitExpected)
			case v.text != "" && !template().MatchString(v.text):
				problem := "is no template"
				if strings.HasSuffix(v.text, ".service") && !strings.Contains(v.text, "@") {
					problem = "has no @ before .service"
				}
				r.fault(v, path, fmt.Sprintf("%s %s", clip(v.text), problem), alertUnitExpected)
			default:
				c.Alert.Unit = v.text
			}
		},
		text: func(c *Config) string { return quote(c.Alert.Unit) },
	},
	patterns("events", "of these names", patternsExpected, checkPattern, func(c *Config) *[]string { return &c.Alert.Events }),
}
