// Package strictjson reads JSON from untrusted peers without the leniency of encoding/json.
//
// A text is accepted when it is exactly one JSON value (RFC 8259) in valid UTF-8, nested at most MaxDepth deep,
// with no object naming a member twice, no lone surrogate and no number beyond float64. All functions are pure
// and safe for concurrent use.
package strictjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// MaxDepth is the deepest nesting of arrays and objects that is read. Keylime's deepest genuine document, a
// measured-boot reference state, has 7 levels.
const MaxDepth = 64

// SyntaxError says what is wrong at which byte.
type SyntaxError struct {
	Offset int
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("json: offset %d: %s", e.Offset, e.Reason)
}

// Check reports whether data is one strict JSON value. The error is a *SyntaxError.
func Check(data []byte) error {
	s := scanner{data: data}
	s.space()
	if err := s.value(); err != nil {
		return err
	}
	return s.end()
}

// Unmarshal checks data and decodes it into v as encoding/json does. When v points to a struct, a member of the
// outermost object that differs from one of its field names only in case is refused; unknown members are ignored.
func Unmarshal(data []byte, v any) error {
	names := fieldNames(v)
	if names == nil {
		if err := Check(data); err != nil {
			return err
		}
		return json.Unmarshal(data, v)
	}
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return &SyntaxError{s.pos, "expected an object"}
	}
	err := s.object(func(name string, _ []byte) error {
		if want, ok := names[strings.ToLower(name)]; ok && want != name {
			return fmt.Errorf("member %q must be spelt %q", name, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.end(); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Object calls field for each member of the one object that data consists of, in order. The value is valid JSON
// text and aliases data.
func Object(data []byte, field func(name string, value []byte) error) error {
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return &SyntaxError{s.pos, "expected an object"}
	}
	if err := s.object(field); err != nil {
		return err
	}
	return s.end()
}

// String decodes a value that Object handed out and that must be a string.
func String(value []byte) (string, error) {
	if len(value) < 2 || value[0] != '"' {
		return "", fmt.Errorf("expected a string, got %s", Kind(value))
	}
	return unquote(value[1 : len(value)-1]), nil
}

// Kind names the type of a value that Object handed out.
func Kind(value []byte) string {
	if len(value) == 0 {
		return "nothing"
	}
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// fieldNames maps the lower-case JSON name of each field of the struct that v points to to its exact name; nil
// when v points to something else.
func fieldNames(v any) map[string]string {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil
	}
	names := make(map[string]string)
	for _, f := range reflect.VisibleFields(t.Elem()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() || f.Anonymous && name == "":
			continue
		case name == "":
			name = f.Name
		}
		names[strings.ToLower(name)] = name
	}
	return names
}
