package alert

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// schema is as much of a JSON Schema as deploy/webhook.schema.json has.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Required             []string
	Properties           map[string]schema
	AdditionalProperties *bool
	Items                *schema
	Defs                 map[string]schema `json:"$defs"`
	Enum                 []any
	Const                any
}

// TestSchemaIsThePayload compares the installed schema with the Go types, field by field.
func TestSchemaIsThePayload(t *testing.T) {
	text, err := os.ReadFile("../../deploy/webhook.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	compared := 0
	var compare func(at string, s schema, typ reflect.Type)
	compare = func(at string, s schema, typ reflect.Type) {
		if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
			s = root.Defs[name]
		}
		switch {
		case typ.String() == "time.Time", typ.Kind() == reflect.String:
			if s.Type != "string" && len(s.Enum) == 0 {
				t.Errorf("%s is %q, not a string", at, s.Type)
			}
		case typ.Kind() == reflect.Slice:
			if s.Type != "array" || s.Items == nil {
				t.Errorf("%s is no array", at)
				return
			}
			compare(at+"[]", *s.Items, typ.Elem())
		case typ.Kind() == reflect.Struct:
			if s.Type != "object" || s.AdditionalProperties == nil || *s.AdditionalProperties {
				t.Errorf("%s is not a closed object", at)
			}
			var all, required []string
			for i := range typ.NumField() {
				name, option, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				all = append(all, name)
				if option == "" {
					required = append(required, name)
				}
				compared++
				compare(at+"."+name, s.Properties[name], typ.Field(i).Type)
			}
			if !slices.Equal(required, s.Required) || len(all) != len(s.Properties) {
				t.Errorf("%s: required %v, want %v; %d properties, want %d", at, s.Required, required, len(s.Properties), len(all))
			}
		default:
			if s.Type != "integer" && s.Const == nil {
				t.Errorf("%s is %q, not a number", at, s.Type)
			}
		}
	}
	compare("", root, reflect.TypeOf(Payload{}))
	if compared < 20 {
		t.Errorf("only %d fields were compared", compared)
	}
	for name, want := range map[string][]any{"status": {string(Firing), string(Resolved)}} {
		if got := root.Defs["notification"].Properties[name].Enum; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
