package alert

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const someConfig = `
floor = "10s"
[[receiver]]
name = "ops"
type = "webhook"
url = "https://example.org/hook"
[[receiver]]
name = "am"
type = "alertmanager"
url = "http://127.0.0.1:9093"
[[rule]]
match = { name = "batch*" }
off = true
[[rule]]
match = { kind = "process", unit = "db.service" }
floor = "0s"
repeat = "15m"
severity = "critical"
receivers = ["ops"]
`

func TestTerms(t *testing.T) {
	c, err := Parse("x", []byte(someConfig))
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		alert Alert
		want  Terms
	}{
		"default": {Alert{Kind: KindProcess, Process: "ftp"}, Terms{Floor: 10 * time.Second, Repeat: 4 * time.Hour, Receivers: []string{"ops", "am"}}},
		"guard":   {Alert{Kind: KindGuard}, Terms{Floor: 30 * time.Second, Repeat: 4 * time.Hour, Receivers: []string{"ops", "am"}}},
		"off":     {Alert{Kind: KindProcess, Process: "batch7"}, Terms{Off: true, Floor: 10 * time.Second, Repeat: 4 * time.Hour, Receivers: []string{"ops", "am"}}},
		"rule":    {Alert{Kind: KindProcess, Unit: "db.service"}, Terms{Repeat: 15 * time.Minute, Severity: "critical", Receivers: []string{"ops"}}},
		"kind":    {Alert{Kind: "restore-failed", Unit: "db.service"}, Terms{Floor: 10 * time.Second, Repeat: 4 * time.Hour, Receivers: []string{"ops", "am"}}},
	} {
		if got := c.Terms(&x.alert); got.Off != x.want.Off || got.Floor != x.want.Floor || got.Repeat != x.want.Repeat || got.Severity != x.want.Severity ||
			strings.Join(got.Receivers, " ") != strings.Join(x.want.Receivers, " ") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	const receiver = "[[receiver]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"http://x/\"\n"
	for text, want := range map[string]string{
		"":                                                   "x: receiver: there is none",
		receiver + "sceret_file = \"\"":                      "x:5:1: receiver.sceret_file: unknown key",
		"flor = 1\n" + receiver + "a=2":                      "x:1:1: flor: unknown key\nx:6:1: receiver.a: unknown key",
		"floor = 5\n" + receiver:                             `x: floor: "5" is no duration`,
		"floor = \"5\"\n" + receiver:                         `x: floor: "5" is no duration`,
		"floor = \"48h\"\n" + receiver:                       "x: floor: 48h0m0s is out of range",
		"floor = \"-1s\"\n" + receiver:                       "x: floor: -1s is out of range",
		"socket = \"a\"\n" + receiver:                        `x: socket: "a" is no absolute path`,
		receiver + receiver:                                  `x: receiver[1].name: "ops" stands twice`,
		receiver + "resolve_timeout = \"5m\"":                "receiver[0].resolve_timeout: only Alertmanager has one",
		strings.Replace(receiver, "webhook", "mail", 1):      `receiver[0].type: "mail" is not known`,
		strings.Replace(receiver, "http://x/", "ftp://x", 1): `receiver[0].url: "ftp://x" is no URL`,
		receiver + "[[rule]]\nreceivers = [\"nobody\"]":      `rule[0].receivers: there is no receiver "nobody"`,
		receiver + "[[rule]]\nseverity = \"loud\"":           `rule[0].severity: "loud" is not known`,
		receiver + "[[rule]]\nmatch = { name = \"[a\" }":     "rule[0].match.name",
		receiver + "[[rule":                                  "x:5:",
	} {
		if _, err := Parse("x", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "alert.toml")
	for secret, want := range map[string]string{"0123456789abcdef\n": "", "short": "the secret has 5 bytes, it takes 16"} {
		for name, text := range map[string]string{"hook": secret, "alert.toml": someConfig + "[[receiver]]\nname=\"s\"\ntype=\"webhook\"\nurl=\"http://x\"\nsecret_file=\"hook\"\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Load(path)
		switch {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		case err != nil || string(c.Receivers[2].secret) != "0123456789abcdef" || c.Host == "":
			t.Errorf("%v, %+v", err, c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(someConfig))
	f.Add([]byte("floor = 1979-05-27\nrule = []"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("x", text)
		if err != nil {
			return
		}
		for _, r := range c.Receivers {
			if r.Name == "" || r.Timeout.Duration <= 0 || r.ResolveTimeout.Duration < 4*time.Second {
				t.Errorf("%+v", r)
			}
		}
		if terms := c.Terms(&Alert{Kind: KindProcess, Process: "x"}); terms.Floor < 0 || terms.Repeat < 0 {
			t.Errorf("%+v", terms)
		}
	})
}
