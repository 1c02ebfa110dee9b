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
	Version string // API version of the path, as "2.6"; "" on a route without one
	Admin   string // common name of the administrator's certificate; "" on public routes
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
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, &Error{Code: http.StatusUnsupportedMediaType, Msg: "send the body without Content-Encoding"}
	}
	if r.length > r.maxBody {
		return nil, tooLarge(r.maxBody)
	}
	var buf bytes.Buffer
	buf.Grow(int(min(max(r.length, 0), 1<<20)) + bytes.MinRead) // what is announced is believed up to 1 MiB
	_, err := buf.ReadFrom(r.body)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge(over.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &Error{Code: http.StatusRequestTimeout, Msg: "the body did not arrive in time", Err: err}
	case err != nil:
		return nil, &Error{Code: http.StatusBadRequest, Msg: "the body did not arrive whole", Err: err}
	}
	return buf.Bytes(), nil
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
