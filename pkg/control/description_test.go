package control

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// symbols is a reader of descriptions as strict as that of systemd 255: comments stand on lines of their own between
// symbols, never inside one.
func symbols(t *testing.T, text string) (name string, out map[string]string) {
	t.Helper()
	var body strings.Builder
	open := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, "#") {
			if !strings.HasPrefix(line, "#") || open != 0 {
				t.Errorf("comment inside a symbol: %q", line)
			}
			continue
		}
		open += strings.Count(line, "(") - strings.Count(line, ")")
		body.WriteString(line)
	}
	flat := strings.Join(strings.Fields(body.String()), " ")
	flat = strings.NewReplacer("( ", "(", " )", ")").Replace(flat)
	head := regexp.MustCompile(`^interface ([a-z.]+)`).FindStringSubmatch(flat)
	if head == nil {
		t.Fatalf("no interface line: %.60s", flat)
	}
	symbol := regexp.MustCompile(`^ (type|error) ([A-Z][A-Za-z0-9]*) ?(\([^()]*\))|^ (method) ([A-Z][A-Za-z0-9]*) ?(\([^()]*\) -> \([^()]*\))`)
	out = map[string]string{}
	for rest := flat[len(head[0]):]; rest != ""; {
		m := symbol.FindStringSubmatch(rest)
		if m == nil {
			t.Fatalf("unreadable description at %.80q", rest)
		}
		out[m[1]+m[4]+" "+m[2]+m[5]] = m[3] + m[6]
		rest = rest[len(m[0]):]
	}
	return head[1], out
}

// fields is how a Go type of the wire must stand in the description.
func fields(t *testing.T, of any) string {
	t.Helper()
	var list []string
	typ := reflect.TypeOf(of)
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, omitted, _ := strings.Cut(f.Tag.Get("json"), ",")
		maybe := map[string]string{"": "", "omitempty": "?"}[omitted]
		list = append(list, name+": "+maybe+wireType(t, f.Type))
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func wireType(t *testing.T, typ reflect.Type) string {
	t.Helper()
	switch typ.Kind() {
	case reflect.Pointer: // what is not there is left out
		return wireType(t, typ.Elem())
	case reflect.Slice:
		return "[]" + wireType(t, typ.Elem())
	case reflect.Struct:
		return typ.Name()
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32:
		return "int"
	case reflect.String:
		if typ.Name() != "string" {
			return typ.Name() // an enum
		}
		return "string"
	}
	t.Fatalf("no varlink type for %v", typ)
	return ""
}

func enum[T ~string](values ...T) string {
	var list []string
	for _, v := range values {
		list = append(list, string(v))
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func TestDescriptionIsTheGoTypes(t *testing.T) {
	name, got := symbols(t, checkprocDescription)
	if name != Interface {
		t.Errorf("interface %q", name)
	}
	want := map[string]string{
		"type Mode":       enum(ModeActing, ModeObserving, ModeReportOnly),
		"type TableState": enum(TableAttached, TableMissing, TableRefused),
		"type TargetState": enum(StateForming, StateGuarded, StateLate, StateHeld, StateWaiting, StateLadder, StateEnded, StateIgnored,
			StateUnverified, StateRefused, StateForeign, StateUnguarded, StateStale),
		"type Severity":    enum(SeverityOK, SeverityNote, SeverityWarning, SeverityError),
		"method GetStatus": "() -> " + fields(t, statusReply{}),
		"method List":      "() -> " + fields(t, listReply{}),
		"method Check":     "() -> " + fields(t, checkReply{}),
		"method Diff":      fields(t, DiffRequest{}) + " -> " + fields(t, DiffResult{}),
		"method Reload":    "() -> " + fields(t, ReloadResult{}),
		"type BrakeOrder":  enum(BrakeGo, BrakeStop),
		"method Hold":      fields(t, HoldRequest{}) + " -> " + fields(t, holdReply{}),
		"method Release":   fields(t, Selector{}) + " -> " + fields(t, releaseReply{}),
		"method Recover":   fields(t, recoverParameters{}) + " -> " + fields(t, Recovered{}),
		"method Brake":     fields(t, brakeParameters{}) + " -> " + fields(t, brakeReply{}),
		"method Advise":    "() -> " + fields(t, adviseReply{}),
		"type Level":       enum(LevelInfo, LevelNotice, LevelWarning, LevelError),
		"method AlertTest": "() -> " + fields(t, AlertTested{}),
		"method Follow":    fields(t, followParameters{}) + " -> " + fields(t, Followed{}),
		"error NoTarget":   fields(t, messageParameters{}),
		"error NotAllowed": fields(t, reasonParameters{}),
		"error Rejected":   fields(t, faultsParameters{}),
		"error Busy":       "()",
		"error Failed":     fields(t, messageParameters{}),
	}
	for _, v := range []any{Table{}, Targets{}, Counters{}, Brake{}, Scan{}, Feature{}, Registry{}, Status{}, Target{},
		Finding{}, Fault{}, Event{}, Hold{}, Recovery{}, Throttle{}, Advice{}, Match{}} {
		want["type "+reflect.TypeOf(v).Name()] = fields(t, v)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("description (-Go +varlink):\n%s", diff)
	}
}

func TestServiceDescription(t *testing.T) {
	name, got := symbols(t, serviceDescription)
	if name != serviceInterface {
		t.Errorf("interface %q", name)
	}
	if want := "() -> " + fields(t, infoReply{}); got["method GetInfo"] != want {
		t.Errorf("GetInfo %s, want %s", got["method GetInfo"], want)
	}
	for _, e := range []string{errInterfaceNotFound, errMethodNotFound, errInvalidParameter, errExpectedMore} {
		if _, ok := got["error "+strings.TrimPrefix(e, serviceInterface+".")]; !ok {
			t.Errorf("%s is not described", e)
		}
	}
}

// A varlink name has letters, digits and single underscores.
func TestEnumsAreVarlinkNames(t *testing.T) {
	_, got := symbols(t, checkprocDescription)
	valid := regexp.MustCompile(`^[A-Za-z](_?[A-Za-z0-9])*$`)
	for symbol, body := range got {
		if strings.HasPrefix(symbol, "type ") && !strings.Contains(body, ":") {
			for _, v := range strings.Split(strings.Trim(body, "()"), ", ") {
				if !valid.MatchString(v) {
					t.Errorf("%s: %q is no varlink name", symbol, v)
				}
			}
		}
	}
}
