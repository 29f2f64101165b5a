package alert

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// minSecret is what a key for signatures has at least, in bytes.
const minSecret = 16

// ReadFiles reads the files that the receivers name. unread are those that are
// credentials of the unit, where it does not run as a unit that has any.
func (c *Config) ReadFiles() (unread []string, err error) {
	for i := range c.Receivers {
		r := &c.Receivers[i]
		for _, f := range []struct {
			key, name string
			take      func([]byte) error
		}{
			{"url_file", r.URLFile, r.takeURL}, {"secret_file", r.SecretFile, r.takeSecret},
			{"token_file", r.TokenFile, r.takeToken}, {"ca_file", r.CAFile, r.takeRoots},
		} {
			if f.name == "" {
				continue
			}
			what := fmt.Sprintf("receiver %s: %s %q", r.Name, f.key, f.name)
			path := f.name
			if !strings.Contains(path, "/") {
				dir := os.Getenv("CREDENTIALS_DIRECTORY")
				if dir == "" {
					unread = append(unread, what)
					continue
				}
				path = filepath.Join(dir, path)
			}
			text, err := os.ReadFile(path)
			if err == nil {
				err = f.take(bytes.TrimSpace(text))
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, withHint(err))
			}
		}
	}
	return unread, nil
}

// withHint says what helps where a file may not be read.
func withHint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w for uid %d (LoadCredential= in its unit hands over what only root may read)", err, os.Getuid())
	}
	return err
}

func (r *Receiver) takeURL(text []byte) error {
	r.URL = string(text)
	return checkURL(r.URL)
}

func (r *Receiver) takeSecret(text []byte) error {
	if len(text) < minSecret {
		return fmt.Errorf("the secret has %d bytes, it takes %d", len(text), minSecret)
	}
	r.secret = text
	return nil
}

func (r *Receiver) takeToken(text []byte) error {
	r.token = string(text)
	if r.token == "" || !isFieldValue(r.token) {
		return errors.New("it is empty, or has more than one line")
	}
	return nil
}

func (r *Receiver) takeRoots(text []byte) error {
	r.roots = x509.NewCertPool()
	if !r.roots.AppendCertsFromPEM(text) {
		return errors.New("it has no certificate in PEM")
	}
	return nil
}

// checkURL says what is wrong with a URL, without what may be a secret in it.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q is no URL of http or https", u.Scheme+"://"+u.Host)
	}
	return nil
}

// checkHeader says what is wrong with a header of one's own.
func (r *Receiver) checkHeader(name string) error {
	const marks = "!#$%&'*+-.^_`|~" // of a token, RFC 9110 5.6.2
	bad := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(marks, c))
	}
	switch canonical := textproto.CanonicalMIMEHeaderKey(name); {
	case name == "" || strings.ContainsFunc(name, bad):
		return fmt.Errorf("%q is no name of a header", name)
	case canonical == "Host" || canonical == "Content-Type" || canonical == "Content-Length" || canonical == HeaderTimestamp || canonical == HeaderSignature,
		canonical == "Authorization" && r.TokenFile != "":
		return fmt.Errorf("%s is set already", canonical)
	case !isFieldValue(r.Headers[name]):
		return fmt.Errorf("the value of %s does not fit on one line", canonical)
	}
	return nil
}

func isFieldValue(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}
