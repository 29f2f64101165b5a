package alert

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/checkprocd/checkprocd/pkg/config"
	"github.com/checkprocd/checkprocd/pkg/control"
)

// DefaultPath is the configuration that is read when none is named.
const DefaultPath = "/etc/checkprocd/alert.toml"

// Types of receivers.
const (
	TypeWebhook      = "webhook"
	TypeAlertmanager = "alertmanager"
)

// Duration is a time.Duration that is written as "30s".
type Duration struct {
	time.Duration
	wrong string // what stands there instead of one
}

// UnmarshalText takes anything: Parse says what is wrong, with the key.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.wrong = ""
	if d.Duration, err = time.ParseDuration(string(text)); err != nil {
		d.wrong = string(text)
	}
	return nil
}

// Config is the configuration of checkproc-alert.
type Config struct {
	Socket     string     `toml:"socket"`      // of the guard
	Host       string     `toml:"host"`        // in each notification; empty: the host's name
	Floor      Duration   `toml:"floor"`       // what ends sooner is no alert
	Repeat     Duration   `toml:"repeat"`      // while an alert stands; 0: never
	GuardFloor Duration   `toml:"guard_floor"` // floor of the alert that the guard is not to be reached
	EventHold  Duration   `toml:"event_hold"`  // how long an alert stands whose event has no end
	Receivers  []Receiver `toml:"receiver"`
	Rules      []Rule     `toml:"rule"`
}

// Receiver is where notifications go. A file whose name has no slash is a credential
// of the unit, one of $CREDENTIALS_DIRECTORY.
type Receiver struct {
	Name           string            `toml:"name"`
	Type           string            `toml:"type"` // webhook or alertmanager
	URL            string            `toml:"url"`
	URLFile        string            `toml:"url_file"`        // has the URL
	Timeout        Duration          `toml:"timeout"`         // of one request
	MinSeverity    string            `toml:"min_severity"`    // warning or critical: what is less does not go there
	Headers        map[string]string `toml:"headers"`         // of each request
	TokenFile      string            `toml:"token_file"`      // for Authorization: Bearer
	CAFile         string            `toml:"ca_file"`         // PEM; who may vouch for it, instead of the system's
	SecretFile     string            `toml:"secret_file"`     // of a webhook
	ResolveTimeout Duration          `toml:"resolve_timeout"` // of Alertmanager: an alert that is not sent again ends after it

	secret []byte
	token  string
	roots  *x509.CertPool // nil: the system's
}

// Rule says what holds for the alerts that it matches; the first one that does wins.
type Rule struct {
	Match struct {
		Name string `toml:"name"` // patterns as in checkprocd.toml
		Unit string `toml:"unit"`
		Kind string `toml:"kind"`
	} `toml:"match"`
	Off       bool      `toml:"off"`
	Floor     *Duration `toml:"floor"`
	Repeat    *Duration `toml:"repeat"`
	Severity  string    `toml:"severity"`
	Receivers []string  `toml:"receivers"` // nil: all
}

// Load reads a configuration; see Parse and ReadFiles.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, withHint(err)
	}
	c, err := Parse(path, text)
	if err != nil {
		return Config{}, err
	}
	if c.Host == "" {
		c.Host, err = os.Hostname()
	}
	return c, err
}

// Parse reads a configuration. An error has a line for each fault that was found,
// with file, position and key as far as they are known.
func Parse(path string, text []byte) (Config, error) {
	c := Config{Socket: control.DefaultSocket, Repeat: Duration{Duration: 4 * time.Hour}, GuardFloor: Duration{Duration: 30 * time.Second}, EventHold: Duration{Duration: 5 * time.Minute}}
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return Config{}, decodeFaults(path, err)
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(path+": "+format, args...))
	}
	within := func(key string, d *Duration, preset, low, high time.Duration) {
		if d.wrong != "" {
			fault("%s: %q is no duration (expected one such as \"30s\")", key, d.wrong)
			return
		}
		d.Duration = cmp.Or(d.Duration, preset)
		if v := d.Duration; v < low || v > high {
			fault("%s: %s is out of range (expected %s to %s)", key, v, low, high)
		}
	}
	const day = 24 * time.Hour
	within("floor", &c.Floor, 0, 0, day)
	within("repeat", &c.Repeat, 0, 0, 30*day)
	within("guard_floor", &c.GuardFloor, 0, 0, day)
	within("event_hold", &c.EventHold, 0, time.Second, day)
	if !filepath.IsAbs(c.Socket) {
		fault("socket: %q is no absolute path", c.Socket)
	}
	if len(c.Receivers) == 0 {
		fault("receiver: there is none (expected at least one [[receiver]])")
	}
	var names []string
	for i := range c.Receivers {
		r := &c.Receivers[i]
		at := fmt.Sprintf("receiver[%d]", i)
		if r.Name == "" || strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			fault("%s.name: %q is no name", at, r.Name)
		}
		if slices.Contains(names, r.Name) {
			fault("%s.name: %q stands twice", at, r.Name)
		}
		names = append(names, r.Name)
		if r.Type != TypeWebhook && r.Type != TypeAlertmanager {
			fault("%s.type: %q is not known (expected %q or %q)", at, r.Type, TypeWebhook, TypeAlertmanager)
		}
		switch {
		case r.URL != "" && r.URLFile != "":
			fault("%s.url_file: there is a url as well", at)
		case r.URLFile == "":
			if err := checkURL(r.URL); err != nil {
				fault("%s.url: %v", at, err)
			}
		}
		if !isSeverity(r.MinSeverity) {
			fault("%s.min_severity: %q is not known (expected \"warning\" or \"critical\")", at, r.MinSeverity)
		}
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			if err := r.checkHeader(name); err != nil {
				fault("%s.headers: %v", at, err)
			}
		}
		if r.Type == TypeAlertmanager && r.SecretFile != "" {
			fault("%s.secret_file: only a webhook is signed", at)
		}
		if r.Type == TypeWebhook && r.ResolveTimeout.Duration != 0 {
			fault("%s.resolve_timeout: only Alertmanager has one", at)
		}
		within(at+".timeout", &r.Timeout, 10*time.Second, 100*time.Millisecond, 5*time.Minute)
		within(at+".resolve_timeout", &r.ResolveTimeout, 5*time.Minute, 4*time.Second, day)
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		at := fmt.Sprintf("rule[%d]", i)
		for key, pattern := range map[string]string{"name": r.Match.Name, "unit": r.Match.Unit, "kind": r.Match.Kind} {
			if err := config.CheckGlob(pattern); err != nil {
				fault("%s.match.%s: %v", at, key, err)
			}
		}
		if r.Floor != nil {
			within(at+".floor", r.Floor, 0, 0, day)
		}
		if r.Repeat != nil {
			within(at+".repeat", r.Repeat, 0, 0, 30*day)
		}
		if !isSeverity(r.Severity) {
			fault("%s.severity: %q is not known (expected \"warning\" or \"critical\")", at, r.Severity)
		}
		for _, name := range r.Receivers {
			if !slices.Contains(names, name) {
				fault("%s.receivers: there is no receiver %q", at, name)
			}
		}
	}
	return c, errors.Join(faults...)
}

// decodeFaults says where a file is no configuration.
func decodeFaults(path string, err error) error {
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var faults []error
		for _, e := range strict.Errors {
			line, column := e.Position()
			faults = append(faults, fmt.Errorf("%s:%d:%d: %s: unknown key", path, line, column, strings.Join(e.Key(), ".")))
		}
		return errors.Join(faults...)
	case errors.As(err, &decode):
		line, column := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s: %s", path, line, column, strings.Join(decode.Key(), "."), strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// Terms are what holds for an alert.
func (c *Config) Terms(a *Alert) Terms {
	t := Terms{Floor: c.Floor.Duration, Repeat: c.Repeat.Duration}
	if a.Kind == KindGuard {
		t.Floor = c.GuardFloor.Duration
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		if !config.Glob(r.Match.Name, a.Process) || !config.Glob(r.Match.Unit, a.Unit) || !config.Glob(r.Match.Kind, a.Kind) {
			continue
		}
		t.Off, t.Severity, t.Receivers = r.Off, r.Severity, r.Receivers
		if r.Floor != nil {
			t.Floor = r.Floor.Duration
		}
		if r.Repeat != nil {
			t.Repeat = r.Repeat.Duration
		}
		break
	}
	if t.Receivers == nil {
		t.Receivers = c.names()
	}
	if cmp.Or(t.Severity, a.Severity, warning) != critical {
		t.Receivers = slices.DeleteFunc(slices.Clone(t.Receivers), func(name string) bool {
			return slices.ContainsFunc(c.Receivers, func(r Receiver) bool { return r.Name == name && r.MinSeverity == critical })
		})
	}
	return t
}

func isSeverity(s string) bool { return s == "" || s == warning || s == critical }

func (c *Config) names() []string {
	names := make([]string, len(c.Receivers))
	for i := range c.Receivers {
		names[i] = c.Receivers[i].Name
	}
	return names
}
