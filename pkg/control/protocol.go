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

// request is one varlink call as it lies on the wire. More asks for a stream of replies; a single reply without
// "continues" answers it too, so it is accepted and needs nothing.
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
}

// Parameters of replies and errors.
type (
	statusReply struct {
		Status Status `json:"status"`
	}
	listReply struct {
		Targets []Target `json:"targets"`
	}
	checkReply struct {
		Findings []Finding `json:"findings"`
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
	return reply{errInvalidParameter, map[string]string{"parameter": parameter}}
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

// arguments reads the parameters of a call into the string fields that it names. Any other parameter, a missing one and
// one that is no string is invalid.
func arguments(parameters json.RawMessage, fields map[string]*string) *reply {
	given := map[string]json.RawMessage{}
	if len(parameters) > 0 {
		if err := json.Unmarshal(parameters, &given); err != nil { // null leaves it empty
			bad := invalid("parameters")
			return &bad
		}
	}
	for name := range given {
		if fields[name] == nil {
			bad := invalid(name)
			return &bad
		}
	}
	for name, to := range fields {
		var text *string
		if err := json.Unmarshal(given[name], &text); err != nil || text == nil {
			bad := invalid(name)
			return &bad
		}
		*to = *text
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
	return reply{errInterfaceNotFound, map[string]string{"interface": r.Method[:dot]}}
}

func (s *Server) answerService(r request) reply {
	switch r.Method {
	case serviceInterface + ".GetInfo":
		if wrong := arguments(r.Parameters, nil); wrong != nil {
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
		if wrong := arguments(r.Parameters, map[string]*string{"interface": &name}); wrong != nil {
			return *wrong
		}
		switch name {
		case Interface:
			return reply{Parameters: descriptionReply{checkprocDescription}}
		case serviceInterface:
			return reply{Parameters: descriptionReply{serviceDescription}}
		}
		return reply{errInterfaceNotFound, map[string]string{"interface": name}}
	}
	return reply{errMethodNotFound, map[string]string{"method": r.Method}}
}

func (s *Server) answerCheckproc(ctx context.Context, c Caller, r request) reply {
	var call func() (any, error)
	switch r.Method {
	case Interface + ".GetStatus":
		call = func() (any, error) {
			status, err := s.config.Handler.Status(ctx, c)
			return statusReply{fullStatus(status)}, err
		}
	case Interface + ".List":
		call = func() (any, error) {
			targets, err := s.config.Handler.List(ctx, c)
			return listReply{visible(targets, c)}, err
		}
	case Interface + ".Check":
		if !c.CanSeeAll {
			return reply{errNotAllowed, reasonParameters{s.roles.requirement(false)}}
		}
		call = func() (any, error) {
			findings, err := s.config.Handler.Check(ctx, c)
			return checkReply{fullFindings(findings)}, err
		}
	case Interface + ".Reload":
		if !c.CanSteer {
			return reply{errNotAllowed, reasonParameters{s.roles.requirement(true)}}
		}
		call = func() (any, error) {
			result, err := s.config.Handler.Reload(ctx, c)
			return ReloadResult{full(result.Changed), full(result.NeedsRestart)}, err
		}
	default:
		return reply{errMethodNotFound, map[string]string{"method": r.Method}}
	}
	if wrong := arguments(r.Parameters, nil); wrong != nil {
		return *wrong
	}
	parameters, err := call()
	if err != nil {
		return failure(err)
	}
	return reply{Parameters: parameters}
}

// failure is a handler's error on the wire.
func failure(err error) reply {
	var rejected *Rejected
	switch {
	case errors.As(err, &rejected):
		return reply{errRejected, faultsParameters{full(rejected.Faults)}}
	case errors.Is(err, ErrNotAllowed):
		return reply{errNotAllowed, reasonParameters{err.Error()}}
	case errors.Is(err, ErrBusy):
		return reply{errBusy, noParameters{}}
	}
	return reply{errFailed, messageParameters{err.Error()}}
}

// visible leaves a caller that may not see all the targets of its own uid.
func visible(targets []Target, c Caller) []Target {
	out := make([]Target, 0, len(targets))
	for _, t := range targets {
		if c.CanSeeAll || t.UID == c.UID {
			t.Slots = full(t.Slots)
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
	s.ConfigFiles, s.Tables, s.Features = full(s.ConfigFiles), full(s.Tables), full(s.Features)
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
