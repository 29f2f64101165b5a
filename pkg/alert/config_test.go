package alert

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
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
		"":                                                                   "x: receiver: there is none",
		receiver + "sceret_file = \"\"":                                      "x:5:1: receiver.sceret_file: unknown key",
		"flor = 1\n" + receiver + "a=2":                                      "x:1:1: flor: unknown key\nx:6:1: receiver.a: unknown key",
		"floor = 5\n" + receiver:                                             `x: floor: "5" is no duration`,
		"floor = \"5\"\n" + receiver:                                         `x: floor: "5" is no duration`,
		"floor = \"48h\"\n" + receiver:                                       "x: floor: 48h0m0s is out of range",
		"floor = \"-1s\"\n" + receiver:                                       "x: floor: -1s is out of range",
		"socket = \"a\"\n" + receiver:                                        `x: socket: "a" is no absolute path`,
		receiver + receiver:                                                  `x: receiver[1].name: "ops" stands twice`,
		receiver + "resolve_timeout = \"5m\"":                                "receiver[0].resolve_timeout: only Alertmanager has one",
		strings.Replace(receiver, "webhook", "mail", 1):                      `receiver[0].type: "mail" is not known`,
		strings.Replace(receiver, "http://x/", "ftp://x", 1):                 `receiver[0].url: "ftp://x" is no URL`,
		receiver + "[[rule]]\nreceivers = [\"nobody\"]":                      `rule[0].receivers: there is no receiver "nobody"`,
		receiver + "[[rule]]\nseverity = \"loud\"":                           `rule[0].severity: "loud" is not known`,
		receiver + "[[rule]]\nmatch = { name = \"[a\" }":                     "rule[0].match.name",
		receiver + "[[rule":                                                  "x:5:",
		receiver + "url_file = \"x\"":                                        "receiver[0].url_file: there is a url as well",
		receiver + "min_severity = \"low\"":                                  `receiver[0].min_severity: "low" is not known`,
		receiver + "headers = { \"a b\" = \"\" }":                            `receiver[0].headers: "a b" is no name of a header`,
		receiver + "headers = { a = \"b\\r\\nc: d\" }":                       "receiver[0].headers: the value of A does not fit",
		receiver + "headers = { host = \"a\" }":                              "receiver[0].headers: Host is set already",
		receiver + "token_file = \"x\"\nheaders = { authorization = \"a\" }": "receiver[0].headers: Authorization is set already",
	} {
		if _, err := Parse("x", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// load writes a configuration and reads it as the program does.
func load(t *testing.T, text string) (Config, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "alert.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		return c, nil, err
	}
	unread, err := c.ReadFiles()
	return c, unread, err
}

const hook = "[[receiver]]\nname = \"ops\"\ntype = \"webhook\"\n"

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, text := range map[string]string{"long": " 0123456789abcdef\n", "short": "short\n", "url": "http://h/x\n", "lines": "a\nb\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const url = "url = \"http://h\"\n"
	c, unread, err := load(t, hook+"url_file = \"url\"\nsecret_file = \"long\"\ntoken_file = \""+dir+"/short\"\n")
	if err != nil || len(unread) > 0 || c.Host == "" {
		t.Fatal(err, unread)
	}
	if r := c.Receivers[0]; r.URL != "http://h/x" || string(r.secret) != "0123456789abcdef" || r.token != "short" {
		t.Errorf("%+v", r)
	}
	for text, want := range map[string]string{
		url + "secret_file = \"short\"": `receiver ops: secret_file "short": the secret has 5 bytes, it takes 16`,
		url + "secret_file = \"gone\"":  `receiver ops: secret_file "gone": open ` + dir + "/gone: no such file",
		url + "token_file = \"lines\"":  `token_file "lines": it is empty, or has more`,
		url + "token_file = \"empty\"":  `token_file "empty": it is empty, or has more`,
		url + "ca_file = \"short\"":     `ca_file "short": it has no certificate in PEM`,
		"url_file = \"short\"":          `url_file "short": "://" is no URL of http or https`,
	} {
		if _, _, err := load(t, hook+text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, unread, err := load(t, hook+url+"secret_file = \"long\"\n"); err != nil || strings.Join(unread, ", ") != `receiver ops: secret_file "long"` {
		t.Error(unread, err)
	}
}

func TestMinSeverity(t *testing.T) {
	c, err := Parse("x", []byte(someConfig+"[[receiver]]\nname = \"pager\"\ntype = \"webhook\"\nurl = \"http://x\"\nmin_severity = \"critical\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, a := range map[string]Alert{
		"ops am":       {Kind: KindProcess, Process: "ftp"},
		"ops am pager": {Kind: KindProcess, Process: "ftp", Severity: "critical"},
		"ops":          {Kind: KindProcess, Unit: "db.service"}, // its rule says critical, and names ops only
	} {
		if got := strings.Join(c.Terms(&a).Receivers, " "); got != want {
			t.Errorf("%+v: %s", a, got)
		}
	}
	// What becomes critical while it stands is told to the pager then, and so is its end.
	tr := NewTracker(c.Terms, time.Minute, nil, nil)
	worse := event(time.Minute, "unkillable", "1-5")
	worse.Level = control.LevelError
	var got []string
	for _, e := range []control.Event{event(0, "late", "1-5"), event(20*time.Second, "condemned", "1-5"), worse, worse, event(2*time.Minute, "killed", "1-5")} {
		tr.Event(e)
		for _, o := range tr.Step().Orders {
			got = append(got, fmt.Sprintf("%s %d %s: %s", o.Status, o.Repeat, o.Alert.Severity, strings.Join(o.To, " ")))
		}
	}
	if got, want := strings.Join(got, ", "), "firing 0 warning: ops am, firing 1 critical: ops am pager, resolved 1 critical: ops am pager"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	// One that waits for who is away says less than this.
	s, _ := openStore(t, filepath.Join(t.TempDir(), "queue"), "ops")
	for _, severity := range []string{"warning", "warning", "critical", "critical"} {
		n := Notification{ID: severity, Status: Firing, Repeat: 1, Alert: Alert{ID: "1-5", Severity: severity}}
		if err := s.Put(Step{Orders: []Order{{n, []string{"ops"}}}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := ids(s.head("ops", 9)); got != "warning critical" {
		t.Error(got)
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
