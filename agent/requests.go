package agent

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"keylime/internal/strictjson"
	"keylime/internal/web"
)

// bodyDepth bounds the nesting of a request's JSON; legal ones are flat.
const bodyDepth = 8

// readFields reads the string members of a JSON object in the request's body: those that must be there and those that
// may. Other members are passed over, as newer peers may send some. The texts of the refusals are Keylime's.
func readFields(r *web.Request, required, optional []string) (map[string]string, error) {
	if !r.JSON() {
		return nil, badRequest("Content type error")
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	fields, err := decodeFields(string(body), append(slices.Clone(required), optional...))
	if err != nil {
		return nil, badRequest("Json deserialize error: %v", err)
	}
	for _, name := range required {
		if _, ok := fields[name]; !ok {
			return nil, badRequest("Json deserialize error: missing field `%s` at %s", name, endOf(string(body)))
		}
	}
	return fields, nil
}

func decodeFields(body string, names []string) (map[string]string, error) {
	fields := map[string]string{}
	reader := strictjson.NewReader(body, bodyDepth)
	err := reader.Object(func(name string) error {
		if !slices.Contains(names, name) || reader.Kind() == strictjson.Null {
			return reader.Skip()
		}
		text, err := reader.String()
		fields[name] = text
		return err
	})
	if err == nil {
		err = reader.End()
	}
	return fields, err
}

// endOf says where a document ends, as Keylime's agents count.
func endOf(body string) string {
	body = strings.TrimRight(body, " \t\r\n")
	line := strings.Count(body, "\n") + 1
	column := len(body) - strings.LastIndexByte(body, '\n') - 1
	return fmt.Sprintf("line %d column %d", line, column)
}

// query are the parameters of a request.
type query url.Values

// readQuery holds that each parameter stands once.
func readQuery(r *web.Request) (query, error) {
	for name, all := range r.Query {
		if len(all) > 1 {
			return nil, badRequest("Query deserialize error: duplicate field `%s`", name)
		}
	}
	return query(r.Query), nil
}

// required returns a parameter that must be there, perhaps empty.
func (q query) required(name string) (string, error) {
	values, ok := q[name]
	if !ok {
		return "", badRequest("Query deserialize error: missing field `%s`", name)
	}
	return values[0], nil
}

// alphanumeric returns a parameter that must be there and hold ASCII letters and digits alone, at least one.
func (q query) alphanumeric(name string) (string, error) {
	value, err := q.required(name)
	if err != nil {
		return "", err
	}
	if value == "" || strings.ContainsFunc(value, notAlphanumeric) {
		return "", badRequest("Parameters should be strictly alphanumeric: %s", value)
	}
	return value, nil
}

func notAlphanumeric(r rune) bool {
	return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
}
