package jsonapi

import (
	"errors"
	"fmt"
	"mime"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/strictjson"
	"keylime/internal/web"
)

// Declared reports whether a request's body is declared to be a document: application/vnd.api+json.
func Declared(r *web.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == api.JSONAPIType
}

// maxDepth is the deepest nesting that is read.
const maxDepth = 16

// Sent is a resource of a request, as far as the format goes.
type Sent struct {
	Type       string
	ID         string // "" = none
	Attributes string // JSON text of an object; "" = none
}

// Read reads a request's body as far as the format goes. What is no document with one resource is refused without a word, as
// frameworks do. The error is a *web.Error.
func Read(r *web.Request) (Sent, error) {
	if !Declared(r) {
		return Sent{}, &web.Error{Code: http.StatusUnsupportedMediaType}
	}
	body, err := r.Text()
	if err != nil {
		return Sent{}, err
	}
	sent, err := Parse(body)
	if err != nil {
		return Sent{}, &web.Error{Code: http.StatusBadRequest, Err: err}
	}
	return sent, nil
}

// Parse reads a document with one resource. Nothing beyond the format is held against it: members that it does not know, or
// that are there and say nothing, are.
func Parse(text string) (Sent, error) {
	var data string
	r := strictjson.NewReader(text, maxDepth)
	err := r.Object(func(name string) (err error) {
		switch name {
		case "data":
			data, err = r.Raw()
			return err
		case "errors", "meta", "links", "jsonapi":
			return filled(r, name)
		}
		return fmt.Errorf("%.64q is no member of a document", name)
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return Sent{}, fmt.Errorf("JSON:API document: %w", err)
	}
	sent, err := parseResource(data)
	if err != nil {
		return Sent{}, fmt.Errorf("JSON:API resource: %w", err)
	}
	return sent, nil
}

// parseResource reads a resource, or a list of one.
func parseResource(text string) (sent Sent, err error) {
	if text == "" {
		return sent, errors.New("no data")
	}
	r := strictjson.NewReader(text, maxDepth)
	if r.Kind() == strictjson.Array {
		n := 0
		err := r.Array(func() (err error) {
			n++
			text, err = r.Raw()
			return err
		})
		if err != nil || n != 1 {
			return sent, errors.Join(err, fmt.Errorf("%d resources, want one", n))
		}
		r = strictjson.NewReader(text, maxDepth)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "type":
			sent.Type, err = r.String()
			return err
		case "attributes":
			sent.Attributes, err = r.Raw()
			if err == nil && sent.Attributes[0] != '{' {
				return errors.New("attributes are no object")
			}
			return err
		case "id":
			if sent.ID, err = r.String(); err == nil && sent.ID == "" {
				return errors.New("id is empty")
			}
			return err
		case "links", "meta":
			return filled(r, name)
		}
		return fmt.Errorf("%.64q is no member of a resource", name)
	})
	switch {
	case err != nil:
		return Sent{}, err
	case sent.Type == "":
		return Sent{}, errors.New("no type")
	}
	return sent, nil
}

// filled reads a member that must not be there when it says nothing.
func filled(r *strictjson.Reader, name string) error {
	raw, err := r.Raw()
	if err == nil && (raw == "null" || raw == `""` || raw == "{}") {
		return fmt.Errorf("%s is empty", name)
	}
	return err
}
