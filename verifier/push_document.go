package verifier

import (
	"errors"
	"fmt"
	"mime"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/strictjson"
	"keylime/internal/web"
)

// isJSONAPI reports whether a request's body is declared to be of the type that attestations have.
func isJSONAPI(r *web.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == api.JSONAPIType
}

// sentResource is a resource as far as the format goes.
type sentResource struct {
	kind       string
	id         string // "" = none
	attributes string // JSON text of an object; "" = none
}

// readResource reads a request's body as far as the format goes. What is no document with one resource is refused without
// a word, as frameworks do.
func readResource(r *web.Request) (sentResource, error) {
	if !isJSONAPI(r) {
		return sentResource{}, &web.Error{Code: http.StatusUnsupportedMediaType}
	}
	body, err := r.Text()
	if err != nil {
		return sentResource{}, err
	}
	sent, err := parseDocument(body)
	if err != nil {
		return sentResource{}, &web.Error{Code: http.StatusBadRequest, Err: err}
	}
	return sent, nil
}

// parseDocument reads a JSON:API document with one resource.
func parseDocument(text string) (sentResource, error) {
	var data string
	r := strictjson.NewReader(text, maxJSONDepth)
	err := r.Object(func(name string) (err error) {
		switch name {
		case "data":
			data, err = r.Raw()
			return err
		case "errors", "meta", "links", "jsonapi":
			return filled(r, name)
		}
		return fmt.Errorf("%q is no member of a document", clip(name))
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return sentResource{}, fmt.Errorf("JSON:API document: %w", err)
	}
	sent, err := parseResource(data)
	if err != nil {
		return sentResource{}, fmt.Errorf("JSON:API resource: %w", err)
	}
	return sent, nil
}

// parseResource reads a resource, or a list of one.
func parseResource(text string) (sent sentResource, err error) {
	if text == "" {
		return sent, errors.New("no data")
	}
	r := strictjson.NewReader(text, maxJSONDepth)
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
		r = strictjson.NewReader(text, maxJSONDepth)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "type":
			sent.kind, err = r.String()
			return err
		case "attributes":
			sent.attributes, err = r.Raw()
			if err == nil && sent.attributes[0] != '{' {
				return errors.New("attributes are no object")
			}
			return err
		case "id":
			if sent.id, err = r.String(); err == nil && sent.id == "" {
				return errors.New("id is empty")
			}
			return err
		case "links", "meta":
			return filled(r, name)
		}
		return fmt.Errorf("%q is no member of a resource", clip(name))
	})
	switch {
	case err != nil:
		return sentResource{}, err
	case sent.kind == "":
		return sentResource{}, errors.New("no type")
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
