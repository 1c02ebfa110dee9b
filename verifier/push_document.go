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

// readAttributes reads a request's body as far as the format goes: the type and the attributes of its one resource. What
// is no such document is refused without a word, as frameworks do.
func readAttributes(r *web.Request) (kind, attributes string, err error) {
	if !isJSONAPI(r) {
		return "", "", &web.Error{Code: http.StatusUnsupportedMediaType}
	}
	body, err := r.Text()
	if err != nil {
		return "", "", err
	}
	kind, attributes, err = parseDocument(body)
	if err != nil {
		return "", "", &web.Error{Code: http.StatusBadRequest, Err: err}
	}
	return kind, attributes, nil
}

// parseDocument reads a JSON:API document with one resource.
func parseDocument(text string) (kind, attributes string, err error) {
	var data string
	r := strictjson.NewReader(text, maxJSONDepth)
	err = r.Object(func(name string) (err error) {
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
		return "", "", fmt.Errorf("JSON:API document: %w", err)
	}
	kind, attributes, err = parseResource(data)
	if err != nil {
		return "", "", fmt.Errorf("JSON:API resource: %w", err)
	}
	return kind, attributes, nil
}

// parseResource reads a resource, or a list of one.
func parseResource(text string) (kind, attributes string, err error) {
	if text == "" {
		return "", "", errors.New("no data")
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
			return "", "", errors.Join(err, fmt.Errorf("%d resources, want one", n))
		}
		r = strictjson.NewReader(text, maxJSONDepth)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "type":
			kind, err = r.String()
			return err
		case "attributes":
			attributes, err = r.Raw()
			if err == nil && attributes[0] != '{' {
				return errors.New("attributes are no object")
			}
			return err
		case "id", "links", "meta":
			return filled(r, name)
		}
		return fmt.Errorf("%q is no member of a resource", clip(name))
	})
	switch {
	case err != nil:
		return "", "", err
	case kind == "":
		return "", "", errors.New("no type")
	}
	return kind, attributes, nil
}

// filled reads a member that must not be there when it says nothing.
func filled(r *strictjson.Reader, name string) error {
	raw, err := r.Raw()
	if err == nil && (raw == "null" || raw == `""` || raw == "{}") {
		return fmt.Errorf("%s is empty", name)
	}
	return err
}
