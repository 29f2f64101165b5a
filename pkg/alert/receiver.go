package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Payload is what a webhook gets, as JSON; deploy/webhook.schema.json describes it.
type Payload struct {
	Version       int            `json:"version"` // 1
	Host          string         `json:"host"`
	SentAt        time.Time      `json:"sent_at"`
	Notifications []Notification `json:"notifications"` // in their order
}

// Headers of a webhook that has a secret. The signature is "sha256=" and, in
// hexadecimal digits, the HMAC-SHA256 of the timestamp, a full stop and the body.
const (
	HeaderTimestamp = "X-Checkproc-Timestamp" // seconds since 1970
	HeaderSignature = "X-Checkproc-Signature"
)

// Sign is the signature of a body that is sent at a time.
func Sign(secret []byte, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%s.", timestamp)
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// errRejected: the receiver will not take this content, however often it is sent.
var errRejected = errors.New("rejected")

// statusError is an answer that is not 2xx.
type statusError struct {
	status string
	code   int
	text   string        // the beginning of its body, on one line
	after  time.Duration // Retry-After
}

func (e *statusError) Error() string {
	if e.text == "" {
		return "it answers " + e.status
	}
	return "it answers " + e.status + ": " + e.text
}

// Is says which answers are about the content.
func (e *statusError) Is(target error) bool {
	return target == errRejected && (e.code == http.StatusBadRequest || e.code == http.StatusRequestEntityTooLarge || e.code == http.StatusUnprocessableEntity)
}

// poster sends notifications to a receiver.
type poster struct {
	r      Receiver
	host   string
	client *http.Client
	now    func() time.Time
}

func newPoster(r Receiver, host string) *poster {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.IdleConnTimeout = 2, 30*time.Second
	if r.roots != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: r.roots}
	}
	return &poster{r: r, host: host, now: time.Now, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// post delivers notifications, all or none.
func (p *poster) post(ctx context.Context, list []Notification) error {
	now := p.now()
	var body any = Payload{Version: 1, Host: p.host, SentAt: now, Notifications: list}
	url := p.r.URL
	if p.r.Type == TypeAlertmanager {
		body, url = p.postable(list, now), strings.TrimSuffix(url, "/")+"/api/v2/alerts"
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.r.Timeout.Duration)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "checkproc-alert")
	for name, value := range p.r.Headers {
		request.Header.Set(name, value)
	}
	if p.r.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.r.token)
	}
	if len(p.r.secret) > 0 {
		stamp := strconv.FormatInt(now.Unix(), 10)
		request.Header.Set(HeaderTimestamp, stamp)
		request.Header.Set(HeaderSignature, Sign(p.r.secret, stamp, text))
	}
	answer, err := p.client.Do(request)
	if err != nil {
		var whole *neturl.Error // has the URL, which may be the secret
		if errors.As(err, &whole) {
			err = fmt.Errorf("%s: %w", request.URL.Host, whole.Err)
		}
		return err
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 4096)) // and the connection can be used again
	if answer.StatusCode/100 == 2 {
		return nil
	}
	e := &statusError{status: answer.Status, code: answer.StatusCode, text: oneLine(said)}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(seconds) * time.Second
	}
	return e
}

// oneLine is the beginning of what a receiver says, fit for a log.
func oneLine(said []byte) string {
	text := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(said), "?"), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "…"
	}
	return text
}

// postable is an alert of Alertmanager's v2 API.
type postable struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// postable translates for Alertmanager. An alert that stands ends after the resolve
// timeout unless it is sent again, as it is: what stands when this program is gone
// does not stand for ever. Labels are what stays the same for an alert's life.
func (p *poster) postable(list []Notification, now time.Time) []postable {
	out := make([]postable, len(list))
	for i, n := range list {
		a := n.Alert
		x := postable{
			Labels:      map[string]string{"alertname": alertName(a.Kind), "severity": a.Severity, "host": p.host, "id": a.ID},
			Annotations: map[string]string{"summary": a.Message, "event": a.Event},
		}
		// Alertmanager rejects what ends before it begins, and what ends in the future
		// stands until then: both come of a clock that was set back.
		x.StartsAt, x.EndsAt = earlier(a.StartsAt, now), earlier(a.EndsAt, now)
		if n.Status == Firing {
			x.EndsAt = now.Add(p.r.ResolveTimeout.Duration)
		}
		for _, f := range []struct {
			to         map[string]string
			key, value string
		}{{x.Labels, "name", a.Process}, {x.Labels, "unit", a.Unit}, {x.Annotations, "verdict", a.Verdict}, {x.Annotations, "reason", a.Reason}} {
			if f.value != "" {
				f.to[f.key] = f.value
			}
		}
		if a.PID != 0 {
			x.Labels["pid"] = strconv.Itoa(int(a.PID))
		}
		out[i] = x
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// alertName is CheckprocRestoreFailed for restore-failed.
func alertName(kind string) string {
	var b strings.Builder
	b.WriteString("Checkproc")
	for part := range strings.SplitSeq(kind, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
