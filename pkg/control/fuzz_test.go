package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzRequest sends bytes as a stream of requests of somebody without rights.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"method":"org.varlink.service.GetInfo"}`, `{"method":"io.checkproc.GetStatus","more":true}`,
		`{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.checkproc"}}`,
		`{"method":"io.checkproc.Reload","parameters":{},"oneway":true}`, `{"method":"io.checkproc.List"}` + "\x00" + `{`,
		`{"method":"io.checkproc.Hold","parameters":{"name":"a*","for_usec":1000000}}`, `{"method":"io.checkproc.Brake","parameters":{"order":"go"}}`,
		`{"method":"io.checkproc.Release","parameters":{"pid":-1}}`, `{"method":"io.checkproc.Advise"}`,
		`{"method":7}`, `[]`, `null`, `"`, `{"method":"io.checkproc.List","parameters":{"a":{"b":[[[[]]]]}}}`,
	} {
		f.Add([]byte(seed + "\x00"))
	}
	known := []string{"", errNotAllowed, errBusy, errFailed, errInterfaceNotFound, errMethodNotFound, errInvalidParameter}
	h := &fake{targets: []Target{{PID: 1, UID: 0, Name: "secret"}}, findings: []Finding{{ID: "secret"}}, advice: []Advice{{Name: "secret"}}}
	s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), lanes: newLanes(), roles: newRoles(1, "", "")}
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(stream), 16)
		for {
			message, err := readMessage(in, 4096)
			if err != nil {
				return
			}
			if len(message) > 4096 || bytes.IndexByte(message, 0) >= 0 {
				t.Fatalf("message of %d bytes: %q", len(message), message)
			}
			r, _, last := s.handle(t.Context(), Caller{UID: 1000}, message)
			out, err := encode(r)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.IndexByte(out, 0) != len(out)-1 || !json.Valid(out[:len(out)-1]) {
				t.Fatalf("reply %q", out)
			}
			if !slices.Contains(known, r.Error) {
				t.Fatalf("error %q", r.Error)
			}
			if bytes.Contains(out, []byte("secret")) && !bytes.Contains(message, []byte("secret")) || h.reloads.Load() != 0 || len(h.orders) != 0 {
				t.Fatalf("rights from nowhere: %q -> %q", message, out)
			}
			if last {
				return
			}
		}
	})
}

// FuzzOrder sends bytes as the parameters of orders of somebody who may steer: what comes through keeps the bounds.
func FuzzOrder(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a*","for_usec":1000000,"reason":"why"}`, `{"pid":7,"for_usec":604800000000}`, `{"all":true,"for_usec":1e6}`,
		`{"all":true}`, `{"order":"stop"}`, `{"name":"\u001b","for_usec":2000000}`, `{"pid":-1}`, `null`, `[]`, `{"pid":null,"name":"\u00a0x"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, parameters string) {
		h := &fake{}
		s := &Server{config: ServerConfig{Handler: h}, limits: defaultLimits(), lanes: newLanes(), roles: newRoles(1, "", "")}
		for _, method := range []string{"Hold", "Release", "Brake"} {
			r := s.answer(t.Context(), Caller{CanSteer: true}, request{Method: Interface + "." + method, Parameters: json.RawMessage(parameters)})
			if _, err := encode(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, order := range h.orders {
			var sel Selector
			switch o := order.(type) {
			case HoldRequest:
				sel = Selector{PID: o.PID, Name: o.Name, All: o.All}
				if d := time.Duration(o.ForUsec) * time.Microsecond; d < MinHold || d > MaxHold {
					t.Fatalf("%q: for %v", parameters, d)
				}
			case Selector:
				sel = o
			case BrakeOrder:
				if o != BrakeGo && o != BrakeStop {
					t.Fatalf("%q: %q", parameters, o)
				}
				continue
			}
			if sel.PID < 0 || len(sel.Name) > MaxText || strings.ContainsFunc(sel.Name, unicode.IsControl) ||
				(sel != Selector{PID: sel.PID} && sel != Selector{Name: sel.Name} && sel != Selector{All: true}) || sel == (Selector{}) {
				t.Fatalf("%q: %+v", parameters, sel)
			}
		}
	})
}

// FuzzReply has the client read whatever a server may send.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"parameters":{"status":{"pid":1}}}`))
	f.Add([]byte(`{"error":"io.checkproc.Rejected","parameters":{"faults":[{"line":1}]}}`))
	f.Add([]byte(`{"error":"io.checkproc.NotAllowed","parameters":null}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		var out statusReply
		if err := parseReply("m", answer, &out); err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}
