package control

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

//go:embed io.checkproc.varlink
var checkprocDescription string

//go:embed org.varlink.service.varlink
var serviceDescription string

const serviceInterface = "org.varlink.service"

// request is one varlink call as it lies on the wire. More asks for a stream of replies, which only Follow gives; a single
// reply without "continues" answers it too, so that other methods accept it and need nothing.
type request struct {
	Method     string          `json:"method"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Oneway     bool            `json:"oneway,omitempty"`
	More       bool            `json:"more,omitempty"`
	Upgrade    bool            `json:"upgrade,omitempty"`
}

type reply struct {
	Error      string `json:"error,omitempty"`
	Parameters any    `json:"parameters"`
	Continues  bool   `json:"continues,omitempty"`
}

// Parameters of replies and errors.
type (
	statusReply struct {
		Status Status `json:"status"`
	}
	listReply struct {
		Targets []Target `json:"targets"`
		Partial bool     `json:"partial"`
	}
	checkReply struct {
		Findings []Finding `json:"findings"`
	}
	holdReply struct {
		Hold Hold `json:"hold"`
	}
	releaseReply struct {
		Released int `json:"released"`
	}
	brakeParameters struct {
		Order BrakeOrder `json:"order"`
	}
	brakeReply struct {
		Targets int `json:"targets"`
	}
	adviseReply struct {
		Advice []Advice `json:"advice"`
	}
	followParameters struct {
		Cursor string `json:"cursor,omitempty"`
	}
	infoReply struct {
		Vendor     string   `json:"vendor"`
		Product    string   `json:"product"`
		Version    string   `json:"version"`
		URL        string   `json:"url"`
		Interfaces []string `json:"interfaces"`
	}
	descriptionReply struct {
		Description string `json:"description"`
	}
	reasonParameters struct {
		Reason string `json:"reason"`
	}
	faultsParameters struct {
		Faults []Fault `json:"faults"`
	}
	messageParameters struct {
		Message string `json:"message"`
	}
	noParameters struct{}
)

func invalid(parameter string) reply {
	return reply{Error: errInvalidParameter, Parameters: map[string]string{"parameter": parameter}}
}

// decode reads one request. malformed: what follows in this stream cannot be trusted any more.
func decode(message []byte) (r request, wrong *reply, malformed bool) {
	if err := json.Unmarshal(message, &r); err != nil {
		var kind *json.UnmarshalTypeError
		if !errors.As(err, &kind) || kind.Field == "" {
			bad := invalid("")
			return request{}, &bad, true
		}
		bad := invalid(kind.Field)
		return r, &bad, false
	}
	if r.Upgrade {
		bad := invalid("upgrade")
		return r, &bad, false
	}
	return r, nil, false
}

// argument is a parameter of a call and the variable that it goes to.
type argument struct {
	name     string
	to       any
	optional bool // missing or null leaves the variable alone
}

// arguments reads the parameters of a call into the variables that it names. Any other parameter, a missing one and one of
// another type is invalid.
func arguments(parameters json.RawMessage, list ...argument) *reply {
	given := map[string]json.RawMessage{}
	if len(parameters) > 0 {
		if err := json.Unmarshal(parameters, &given); err != nil { // null leaves it empty
			bad := invalid("parameters")
			return &bad
		}
	}
	for _, a := range list {
		text := given[a.name]
		delete(given, a.name)
		missing := len(text) == 0 || string(text) == "null"
		if missing && a.optional {
			continue
		}
		if missing || json.Unmarshal(text, a.to) != nil {
			bad := invalid(a.name)
			return &bad
		}
	}
	for name := range given {
		bad := invalid(name)
		return &bad
	}
	return nil
}

// answer serves one call of a caller whose roles are granted.
func (s *Server) answer(ctx context.Context, c Caller, r request) reply {
	dot := strings.LastIndexByte(r.Method, '.')
	if dot < 0 {
		return invalid("method")
	}
	switch r.Method[:dot] {
	case serviceInterface:
		return s.answerService(r)
	case Interface:
		return s.answerCheckproc(ctx, c, r)
	}
	return reply{Error: errInterfaceNotFound, Parameters: map[string]string{"interface": r.Method[:dot]}}
}

func (s *Server) answerService(r request) reply {
	switch r.Method {
	case serviceInterface + ".GetInfo":
		if wrong := arguments(r.Parameters); wrong != nil {
			return *wrong
		}
		return reply{Parameters: infoReply{
			Vendor:     "checkprocd",
			Product:    "checkprocd",
			Version:    s.config.Version,
			URL:        "https://github.com/checkprocd/checkprocd",
			Interfaces: []string{Interface, serviceInterface},
		}}
	case serviceInterface + ".GetInterfaceDescription":
		var name string
		if wrong := arguments(r.Parameters, argument{name: "interface", to: &name}); wrong != nil {
			return *wrong
		}
		switch name {
		case Interface:
			return reply{Parameters: descriptionReply{checkprocDescription}}
		case serviceInterface:
			return reply{Parameters: descriptionReply{serviceDescription}}
		}
		return reply{Error: errInterfaceNotFound, Parameters: map[string]string{"interface": name}}
	}
	return reply{Error: errMethodNotFound, Parameters: map[string]string{"method": r.Method}}
}

// method is what is to be known of a method of Interface for one call of it.
type method struct {
	seeAll, steer bool // what the caller must be allowed
	arguments     []argument
	valid         func() error // of the arguments together; nil: each is
	call          func() (any, error)

	all   *bool  // of an order for all targets: it is another one for those who give it
	ofAll string // that one's name
}

func (s *Server) answerCheckproc(ctx context.Context, c Caller, r request) reply {
	name := strings.TrimPrefix(r.Method, Interface+".")
	m, ok := s.method(ctx, c, name)
	switch {
	case !ok:
		return reply{Error: errMethodNotFound, Parameters: map[string]string{"method": r.Method}}
	case m.steer && !c.CanSteer, m.seeAll && !c.CanSeeAll:
		takes := s.roles.requirement(m.steer)
		if m.steer {
			if wrong := arguments(r.Parameters, m.arguments...); wrong == nil && m.all != nil && *m.all {
				name = m.ofAll
			}
			s.config.Handler.Denied(c, name, takes)
		}
		return reply{Error: errNotAllowed, Parameters: reasonParameters{takes}}
	}
	if wrong := arguments(r.Parameters, m.arguments...); wrong != nil {
		return *wrong
	}
	if m.valid != nil {
		if err := m.valid(); err != nil {
			return failure(err)
		}
	}
	parameters, err := m.call()
	if err != nil {
		return failure(err)
	}
	return reply{Parameters: parameters}
}

func (s *Server) method(ctx context.Context, c Caller, name string) (method, bool) {
	h := s.config.Handler
	switch name {
	case "GetStatus":
		return method{call: func() (any, error) {
			status, err := h.Status(ctx, c)
			if !c.CanSeeAll { // they quote what perhaps not everybody may read
				status.ConfigFaults = nil
			}
			return statusReply{fullStatus(status)}, err
		}}, true
	case "List":
		return method{call: func() (any, error) {
			targets, err := h.List(ctx, c)
			return listReply{visible(targets, c), !c.CanSeeAll}, err
		}}, true
	case "Check":
		return method{seeAll: true, call: func() (any, error) {
			findings, err := h.Check(ctx, c)
			return checkReply{fullFindings(findings)}, err
		}}, true
	case "Advise":
		return method{seeAll: true, call: func() (any, error) {
			advice, err := h.Advise(ctx, c)
			return adviseReply{full(advice)}, err
		}}, true
	case "Diff":
		var r DiffRequest
		return method{seeAll: true, valid: r.valid, arguments: []argument{{"file", &r.File, true}, {"text", &r.Text, true}},
			call: func() (any, error) {
				result, err := h.Diff(ctx, c, r)
				return fullDiff(result), err
			}}, true
	case "AlertTest":
		return method{steer: true, call: func() (any, error) { return h.AlertTest(ctx, c) }}, true
	case "Reload":
		return method{steer: true, call: func() (any, error) {
			result, err := h.Reload(ctx, c)
			return ReloadResult{full(result.Changed), full(result.NeedsRestart)}, err
		}}, true
	case "Hold":
		var r HoldRequest
		return method{steer: true, valid: r.valid, all: &r.All, ofAll: "Pause",
			arguments: []argument{{"pid", &r.PID, true}, {"name", &r.Name, true}, {"all", &r.All, true}, {"for_usec", &r.ForUsec, false},
				{"reason", &r.Reason, true}},
			call: func() (any, error) {
				hold, err := h.Hold(ctx, c, r)
				return holdReply{hold}, err
			}}, true
	case "Release":
		var sel Selector
		return method{steer: true, valid: sel.valid, all: &sel.All, ofAll: "Resume",
			arguments: []argument{{"pid", &sel.PID, true}, {"name", &sel.Name, true}, {"all", &sel.All, true}},
			call: func() (any, error) {
				n, err := h.Release(ctx, c, sel)
				return releaseReply{n}, err
			}}, true
	case "Recover":
		var p recoverParameters
		return method{steer: true, valid: p.valid, arguments: []argument{{"name", &p.Name, false}},
			call: func() (any, error) {
				return h.Recover(ctx, c, p.Name)
			}}, true
	case "Brake":
		var b brakeParameters
		return method{steer: true, valid: b.valid, arguments: []argument{{"order", &b.Order, false}},
			call: func() (any, error) {
				n, err := h.Brake(ctx, c, b.Order)
				return brakeReply{n}, err
			}}, true
	}
	return method{}, false
}

// failure is a handler's error on the wire.
func failure(err error) reply {
	var rejected *Rejected
	var wrong *InvalidError
	switch {
	case errors.As(err, &wrong):
		return invalid(wrong.Parameter)
	case errors.As(err, &rejected):
		return reply{Error: errRejected, Parameters: faultsParameters{full(rejected.Faults)}}
	case errors.Is(err, ErrNotAllowed):
		return reply{Error: errNotAllowed, Parameters: reasonParameters{err.Error()}}
	case errors.Is(err, ErrNoTarget):
		return reply{Error: errNoTarget, Parameters: messageParameters{err.Error()}}
	case errors.Is(err, ErrBusy):
		return reply{Error: errBusy, Parameters: noParameters{}}
	}
	return reply{Error: errFailed, Parameters: messageParameters{err.Error()}}
}

// visible leaves a caller that may not see all the targets of its own uid.
func visible(targets []Target, c Caller) []Target {
	out := make([]Target, 0, len(targets))
	for _, t := range targets {
		if c.CanSeeAll || t.UID == c.UID {
			t.Slots, t.Limits = full(t.Slots), full(t.Limits)
			out = append(out, t)
		}
	}
	return out
}

// full turns a nil slice, which JSON would show as null, into an empty one: the description has no nullable fields.
func full[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func fullStatus(s Status) Status {
	s.ConfigFiles, s.Tables, s.Features, s.Holds = full(s.ConfigFiles), full(s.Tables), full(s.Features), full(s.Holds)
	s.Recoveries, s.Throttled, s.ConfigFaults = full(s.Recoveries), full(s.Throttled), full(s.ConfigFaults)
	return s
}

func fullFindings(findings []Finding) []Finding {
	out := make([]Finding, len(findings))
	for i, f := range findings {
		f.PIDs, f.Slots = full(f.PIDs), full(f.Slots)
		out[i] = f
	}
	return out
}

func fullDiff(r DiffResult) DiffResult {
	out := DiffResult{full(r.Changed), full(r.NeedsRestart), make([]Match, len(r.Targets))}
	for i, m := range r.Targets {
		m.Changes = full(m.Changes)
		out.Targets[i] = m
	}
	return out
}

// encode is one message with its NUL. JSON escapes a NUL inside a string, so the only one is the last byte.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	message := b.Bytes()
	message[len(message)-1] = 0 // the encoder's newline
	return message, nil
}

// errTooLong: a message without its NUL within the limit.
var errTooLong = errors.New("message too long")

// readMessage reads up to a NUL, which is not part of the result. It buffers no more than limit bytes.
func readMessage(r *bufio.Reader, limit int) ([]byte, error) {
	var message []byte
	for {
		part, err := r.ReadSlice(0)
		if len(message)+len(part) > limit+1 {
			return nil, errTooLong
		}
		message = append(message, part...)
		switch {
		case err == nil:
			return message[:len(message)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(message) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}
