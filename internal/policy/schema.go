package policy

import (
	"fmt"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
)

// schema reads JSON and holds it to a schema. A violation does not end the reading: of several, the one nearest to
// the root is kept, the first of these. Texts are those of Python's jsonschema, which users of Keylime know.
//
// Methods return an error only where the text is not JSON. depth is the number of names and indices that lead from the
// root to the value.
type schema struct {
	r          *strictjson.Reader
	fault      string
	faultDepth int
	// table and entry name one of very many entries of like form; "" outside of tables.
	table, entry string
}

func (s *schema) violation(depth int, format string, args ...any) {
	if s.fault == "" || depth < s.faultDepth {
		s.fault, s.faultDepth = fmt.Sprintf(format, args...), depth
		if s.table != "" {
			s.fault += fmt.Sprintf(" (%s of %s)", pythonString(clipText(s.entry)), s.table)
		}
	}
}

// wrongType skips a value of the wrong type.
func (s *schema) wrongType(depth int, want string) error {
	raw, err := s.r.Raw()
	if err == nil {
		s.violation(depth, "%s is not of type '%s'", pythonLiteral(raw), want)
	}
	return err
}

func (s *schema) object(depth int, required []string, member func(name string) error) error {
	if s.r.Kind() != strictjson.Object {
		return s.wrongType(depth, "object")
	}
	missing := make(map[string]bool, len(required))
	for _, name := range required {
		missing[name] = true
	}
	err := s.r.Object(func(name string) error {
		delete(missing, name)
		return member(name)
	})
	for _, name := range required {
		if missing[name] {
			s.violation(depth, "'%s' is a required property", name)
		}
	}
	return err
}

func (s *schema) array(depth int, element func() error) error {
	if s.r.Kind() != strictjson.Array {
		return s.wrongType(depth, "array")
	}
	return s.r.Array(element)
}

func (s *schema) strings(depth int, each func(string)) error {
	return s.array(depth, func() error { return s.string(depth+1, each) })
}

// string reads a string. What use is given may share memory with the whole text.
func (s *schema) string(depth int, use func(string)) error {
	if s.r.Kind() != strictjson.String {
		return s.wrongType(depth, "string")
	}
	value, err := s.r.String()
	if err == nil {
		use(value)
	}
	return err
}

// integer reads a whole number; 1.0 is one.
func (s *schema) integer(depth int, low, high int64, into *int) error {
	if s.r.Kind() != strictjson.Number {
		return s.wrongType(depth, "integer")
	}
	text, err := s.r.Number()
	if err != nil {
		return err
	}
	value, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || value != float64(int64(value)):
		s.violation(depth, "%s is not of type 'integer'", text)
	case int64(value) < low:
		s.violation(depth, "%s is less than the minimum of %d", text, low)
	case int64(value) > high:
		s.violation(depth, "%s is greater than the maximum of %d", text, high)
	default:
		*into = int(value)
	}
	return nil
}

// pythonLiteral shows a valid JSON value as Python prints it, which is how jsonschema quotes it.
func pythonLiteral(raw string) string {
	const most = 200
	if len(raw) > most {
		return strings.ToValidUTF8(raw[:most], "") + "…"
	}
	var b strings.Builder
	writePython(&b, strictjson.NewReader(raw, maxDepth))
	return b.String()
}

func writePython(b *strings.Builder, r *strictjson.Reader) {
	separator := ""
	next := func() {
		b.WriteString(separator)
		separator = ", "
	}
	switch r.Kind() {
	case strictjson.Object:
		b.WriteString("{")
		_ = r.Object(func(name string) error {
			next()
			b.WriteString(pythonString(name) + ": ")
			writePython(b, r)
			return nil
		})
		b.WriteString("}")
	case strictjson.Array:
		b.WriteString("[")
		_ = r.Array(func() error {
			next()
			writePython(b, r)
			return nil
		})
		b.WriteString("]")
	case strictjson.String:
		s, _ := r.String()
		b.WriteString(pythonString(s))
	default:
		word, _ := r.Raw()
		if python := map[string]string{"true": "True", "false": "False", "null": "None"}[word]; python != "" {
			word = python
		}
		b.WriteString(word)
	}
}

func pythonString(s string) string {
	quoted := strconv.Quote(s)
	return "'" + strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`) + "'"
}
