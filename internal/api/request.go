package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Caps on what a peer may answer, in bytes. They protect this process's memory, not the peer's policy.
const (
	smallAnswer = 1 << 20   // everything but lists, policies and integrity quotes
	largeAnswer = 128 << 20 // policies and lists of every agent; the upload cap plus its encoding
	// quoteAnswer bounds one integrity quote: an IMA list of 64 MiB and a UEFI log of 1 MiB, with JSON's escapes.
	quoteAnswer = 80 << 20
	// evidenceAnswer bounds the answer to evidence, which repeats it. It is read as it comes, and not kept.
	evidenceAnswer = 512 << 20
	// payloadAnswer bounds a payload: 8 MiB in base64, and its keys.
	payloadAnswer = 12 << 20
)

// ErrMalformed is an answer that is not the API's: no JSON envelope, results of another shape, or too large.
var ErrMalformed = errors.New("malformed answer")

// Error is an answer that says no.
type Error struct {
	Status      int // HTTP status
	Message     string
	Method, URL string // the request, without its query
	JSON        bool   // the answer was an envelope, and Message is its status text
	RetryAfter  string // the header of that name
	Code        string // of a JSON:API error, as "challenges_expired"
}

func (e *Error) Error() string {
	msg := e.Message
	if msg == "" {
		msg = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.URL, e.Status, msg)
}

// IsStatus reports whether err is an answer with that HTTP status.
func IsStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// URL makes a base URL of a host name or literal address (IPv6 too) and a port.
func URL(scheme, host string, port int) string {
	return scheme + "://" + net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port))
}

// caller sends requests to one server. The http.Client decides about TLS, time-outs and connections; redirects are
// never followed, and no Authorization header is sent but that of a request with a token: its presence switches off
// certificate identity.
type caller struct {
	base string
	http *http.Client
}

func newCaller(base string, hc *http.Client) caller {
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return caller{base: strings.TrimSuffix(base, "/"), http: &own}
}

// request is one call. Path segments are escaped by path().
type request struct {
	method string
	path   string
	query  string // as it stands on the wire
	body   any    // nil = none
	limit  int64  // cap on the answer; 0 = smallAnswer

	kind   string    // media type of body and answer; "" = application/json
	token  string    // bearer token; "" = none
	stream io.Reader // the body, instead of body
	length int64     // of the stream, in bytes
}

func path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// call sends one request and decodes the envelope's results into results, unless that is nil. It returns the HTTP
// status of the answer, 0 when there was none. Errors name the request without its query, which holds nonces.
func (c caller) call(ctx context.Context, r request, results any) (int, error) {
	rsp, err := c.send(ctx, c.http, r)
	if err != nil {
		return 0, err
	}
	defer rsp.Body.Close()
	data, err := c.read(r, rsp)
	if err != nil || rsp.StatusCode == http.StatusNoContent && results == nil {
		return rsp.StatusCode, err
	}
	if err := decodeEnvelope(data, rsp.StatusCode, results); err != nil {
		return rsp.StatusCode, fmt.Errorf("%s %s: %w: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return rsp.StatusCode, nil
}

// lines sends one request and calls each with the lines of the answer, as they come. How long that may take is up to
// ctx alone. An answer that breaks off is an error.
func (c caller) lines(ctx context.Context, r request, each func(line []byte) error) error {
	patient := *c.http
	patient.Timeout = 0
	rsp, err := c.send(ctx, &patient, r)
	if err != nil {
		return err
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		if _, err = c.read(r, rsp); err == nil {
			err = fmt.Errorf("%s %s: %w: status %d", r.method, c.base+r.path, ErrMalformed, rsp.StatusCode)
		}
		return err
	}
	in := bufio.NewScanner(rsp.Body)
	in.Buffer(nil, smallAnswer)
	for in.Scan() {
		if err := each(in.Bytes()); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", r.method, c.base+r.path, err)
	}
	return nil
}

// send sends one request. The caller closes the answer's body.
func (c caller) send(ctx context.Context, client *http.Client, r request) (*http.Response, error) {
	req, err := c.build(ctx, r)
	if err != nil {
		return nil, err
	}
	rsp, err := client.Do(req)
	if err != nil {
		if sent := (*url.Error)(nil); errors.As(err, &sent) {
			err = sent.Err
		}
		return nil, fmt.Errorf("%s %s: %w", r.method, c.base+r.path, err)
	}
	return rsp, nil
}

// read reads a whole answer. One that says no is an *Error.
func (c caller) read(r request, rsp *http.Response) (string, error) {
	data, err := readAnswer(rsp, r.limit)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", r.method, c.base+r.path, err)
	}
	if rsp.StatusCode < 200 || rsp.StatusCode > 299 {
		refused := answeredError(r, c.base, rsp.StatusCode, data)
		refused.RetryAfter = rsp.Header.Get("Retry-After")
		return "", refused
	}
	return data, nil
}

func (c caller) build(ctx context.Context, r request) (*http.Request, error) {
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	if r.stream != nil {
		body = r.stream
	}
	target := c.base + r.path
	if r.query != "" {
		target += "?" + r.query
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	if r.stream != nil {
		req.ContentLength = r.length
	}
	kind := cmp.Or(r.kind, "application/json")
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("Accept", kind)
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	return req, nil
}

func (c caller) get(ctx context.Context, path string, results any) error {
	_, err := c.call(ctx, request{method: http.MethodGet, path: path}, results)
	return err
}

// readAnswer reads the body up to the limit; more is ErrMalformed. Reading it whole keeps the connection warm.
func readAnswer(rsp *http.Response, limit int64) (string, error) {
	limit = cmp.Or(limit, smallAnswer)
	if rsp.ContentLength > limit {
		return "", fmt.Errorf("%w: %d bytes announced, at most %d are read", ErrMalformed, rsp.ContentLength, limit)
	}
	var text strings.Builder
	text.Grow(int(min(max(rsp.ContentLength, 0), 1<<20))) // what is announced is believed up to 1 MiB
	n, err := io.Copy(&text, io.LimitReader(rsp.Body, limit+1))
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	if n > limit {
		return "", fmt.Errorf("%w: more than %d bytes", ErrMalformed, limit)
	}
	return text.String(), nil
}

func answeredError(r request, base string, status int, text string) *Error {
	e := &Error{Status: status, Method: r.method, URL: base + r.path}
	var env struct {
		Status *string `json:"status"`
		Errors []struct {
			Detail string `json:"detail"`
			Title  string `json:"title"`
			Code   string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal([]byte(text), &env) != nil {
		return e
	}
	e.JSON = true
	switch {
	case env.Status != nil:
		e.Message = printable(*env.Status)
	case len(env.Errors) > 0:
		first := env.Errors[0]
		e.Message, e.Code = printable(cmp.Or(first.Title, first.Code)+": "+first.Detail), first.Code
	}
	return e
}

// printable is a peer's text made fit for logs and terminals: one short line without control characters.
func printable(s string) string {
	const most = 500
	if len(s) > most {
		s = s[:most] + "..."
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
