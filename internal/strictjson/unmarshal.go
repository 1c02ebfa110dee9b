package strictjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Unmarshal decodes a document of one object into the struct that v points to, as encoding/json does, but by the
// rules of this package. A member that differs from a field's name only in case is an error; unknown members are
// ignored, as are the spellings of names within nested objects.
func Unmarshal(doc []byte, maxDepth int, v any) error {
	names := fieldNames(reflect.TypeOf(v).Elem())
	r := NewReader(string(doc), maxDepth)
	err := r.Object(func(name string) error {
		if want, ok := names[strings.ToLower(name)]; ok && want != name {
			return fmt.Errorf("name %q must be spelt %q", clip(name), want)
		}
		return r.Skip()
	})
	if err != nil {
		return err
	}
	if err := r.End(); err != nil {
		return err
	}
	return json.Unmarshal(doc, v)
}

// fieldNames maps the name of each field in lower case to its exact spelling.
func fieldNames(t reflect.Type) map[string]string {
	names := make(map[string]string)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || f.Anonymous {
			continue
		}
		if name == "" {
			name = f.Name
		}
		names[strings.ToLower(name)] = name
	}
	return names
}
