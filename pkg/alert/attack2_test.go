package alert

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestURLIsNoLogText: the URL of a webhook is often its secret: what goes to the log when it cannot be delivered to, or is
// no URL, has nothing of it but the host.
func TestURLIsNoLogText(t *testing.T) {
	host, _ := refusing(t)
	p := newPoster(Receiver{Name: "r", Type: TypeWebhook, URL: "http://bob:swordfish@" + host + "/services/T0/hush?token=hush", Timeout: Duration{Duration: time.Second}}, "h")
	err := p.post(context.Background(), nil)
	if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "swordfish") || !strings.Contains(err.Error(), host) {
		t.Errorf("%v", err)
	}
	for _, url := range []string{"ftp://h/hush", "http://h:port/hush", "http:///hush", "://hush"} {
		_, err := Parse("alert.toml", []byte("[[receiver]]\nname = \"r\"\ntype = \"webhook\"\nurl = \""+url+"\"\n"))
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
