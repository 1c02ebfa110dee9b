package web

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"keylime/internal/strictjson"
)

// Request is what a handler sees of a request. Its methods are for the handler's goroutine only.
type Request struct {
	ID      string // of this exchange, in its log lines and in X-Request-ID
	Path    string // decoded, without doubled or trailing slashes
	Version string // API version of the path, as "2.6"; "" on a route without one
	Admin   string // common name of the administrator's certificate; "" on public routes
	Agent   string // id of the agent whose token came with the request; "" = none
	// ReadOnly: the administrator may see no secret. Routes that change something are closed to them already.
	ReadOnly bool
	Peer     netip.Addr // the client's address
	Header   http.Header
	Query    url.Values

	params  map[string]string
	body    io.ReadCloser
	length  int64
	maxBody int64
}

// Length is the body's length in bytes as announced; -1 when it is not.
func (r *Request) Length() int64 { return r.length }

// Param is the value of a name in the route's pattern.
func (r *Request) Param(name string) string { return r.params[name] }

// JSON reports whether the body is declared to be JSON: application/json or application/…+json.
func (r *Request) JSON() bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
}

// Body reads the whole body, once. The error is an *Error: 413 beyond the route's limit, 415 for a compressed body
// (CVE-2022-23951: nothing here decompresses), 408 when it does not come in time.
func (r *Request) Body() ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(int(min(max(r.length, 0), 1<<20)) + bytes.MinRead) // what is announced is believed up to 1 MiB
	err := r.read(&buf)
	return buf.Bytes(), err
}

// Text is Body for large texts: what is announced is believed, so that there is one copy of it. The handler bounds how
// many are read at once.
func (r *Request) Text() (string, error) {
	var text strings.Builder
	text.Grow(int(min(max(r.length, 0), r.maxBody)))
	err := r.read(&text)
	return text.String(), err
}

// read copies the body to w.
func (r *Request) read(w io.Writer) error {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &Error{Code: http.StatusUnsupportedMediaType, Msg: "send the body without Content-Encoding"}
	}
	if r.length > r.maxBody {
		return tooLarge(r.maxBody)
	}
	_, err := io.Copy(w, r.body)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return tooLarge(over.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Code: http.StatusRequestTimeout, Msg: "the body did not arrive in time", Err: err}
	case err != nil:
		return &Error{Code: http.StatusBadRequest, Msg: "the body did not arrive whole", Err: err}
	}
	return nil
}

// MaxDepth is the deepest nesting that Decode reads; the requests of the API are flat.
const MaxDepth = 16

// Decode reads the body, whatever its Content-Type, into the struct that v points to, by the rules of strictjson. The
// error is an *Error: those of Body, or 400 without a text.
func (r *Request) Decode(v any) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(body, MaxDepth, v); err != nil {
		return &Error{Code: http.StatusBadRequest, Err: err}
	}
	return nil
}
