package web

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"keylime/internal/api"
)

// Error is an answer that says no. Msg goes to the client as the envelope's status, without Msg the answer has no
// body; Err is the cause, for the log alone.
type Error struct {
	Code  int // HTTP status
	Msg   string
	Err   error
	Retry time.Duration // when to come back, for 429 and 503; 0 = not said
	Allow []string      // methods that the path has, for 405
	Type  string        // media type of Body; "" = application/json
	Body  any           // sent as it is instead of an envelope, Msg then being for the log alone

	title string // set by this package: the body is a JSON:API error instead of an envelope
}

func (e *Error) Error() string {
	msg := e.Msg
	if msg == "" {
		msg = http.StatusText(e.Code)
	}
	if e.Err != nil {
		return msg + ": " + e.Err.Error()
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

func tooLarge(limit int64) *Error {
	return &Error{Code: http.StatusRequestEntityTooLarge, Msg: fmt.Sprintf("the body is larger than %d bytes", limit)}
}

// Answer is a result with a status of its own. Without a Status text it is HTTP's; 204 has no body.
type Answer struct {
	Code    int
	Status  string
	Results any
}

// Document is an answer that is no envelope.
type Document struct {
	Code     int    // HTTP status
	Location string // header; "" = none
	Type     string // media type; "" = application/json
	Body     any    // encoded as JSON; nil = no body
}

// Raw is a result with a body and a type of its own, without the envelope. An error of Write breaks off the connection.
type Raw struct {
	Code  int
	Type  string
	Write func(w io.Writer) error
}

// Stream writes the JSON text of the results, of any size. An error breaks off the connection, so that the client
// does not take the part for the whole.
type Stream func(w io.Writer) error

// Lines sends JSON values, one a line (application/x-ndjson), each at once: for answers whose parts take their time. An
// error breaks off the connection, as for a Stream.
type Lines func(send func(v any) error) error

// envelope is the shape of every answer with a body.
type envelope struct {
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Results any    `json:"results"`
}

// answer sends the outcome of a request, once.
func (x *exchange) answer(result any, err error) {
	if x.status != 0 {
		return
	}
	if err != nil {
		x.refuse(x.rate(err))
		return
	}
	switch a := result.(type) {
	case Raw:
		x.raw(a)
	case Stream:
		x.stream(a)
	case Lines:
		x.lines(a)
	case Document:
		x.document(a)
	case Answer:
		if a.Status == "" {
			a.Status = http.StatusText(a.Code)
		}
		x.send(a.Code, envelope(a))
	default:
		x.send(http.StatusOK, envelope{http.StatusOK, "Success", result})
	}
}

// rate makes an *Error of what a handler returned.
func (x *exchange) rate(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return &Error{Code: http.StatusServiceUnavailable, Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: http.StatusServiceUnavailable, Msg: "the server was too busy to answer in time; try again", Err: err}
	}
	return &Error{Code: http.StatusInternalServerError, Msg: "internal error; the server's log has the cause under request id " + x.id, Err: err}
}

func (x *exchange) refuse(e *Error) {
	x.cause = e
	if len(e.Allow) > 0 {
		x.w.Header().Set("Allow", strings.Join(e.Allow, ", "))
	}
	if e.Retry > 0 {
		x.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.Retry.Seconds()))))
	}
	switch {
	case e.Body != nil:
		x.write(e.Code, e.Body, e.Type, false)
	case e.title != "":
		item := api.ErrorItem{Status: strconv.Itoa(e.Code), Title: e.title, Detail: e.Msg}
		x.write(e.Code, api.ErrorDocument{Errors: []api.ErrorItem{item}}, "", false)
	case e.Msg == "":
		x.status = e.Code
		x.w.WriteHeader(e.Code)
	default:
		x.send(e.Code, envelope{e.Code, e.Msg, nil})
	}
}

func (x *exchange) send(code int, e envelope) {
	if code == http.StatusNoContent {
		x.status = code
		x.w.WriteHeader(code)
		return
	}
	if e.Results == nil {
		e.Results = struct{}{}
	}
	x.write(code, e, "", x.rt.opts.Indent)
}

// document sends an answer that is no envelope.
func (x *exchange) document(d Document) {
	if d.Location != "" {
		x.w.Header().Set("Location", d.Location)
	}
	if d.Body == nil {
		x.status = d.Code
		x.w.WriteHeader(d.Code)
		return
	}
	x.write(d.Code, d.Body, d.Type, false)
}

// write sends a body as JSON.
func (x *exchange) write(code int, body any, mediaType string, indent bool) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "    ")
	}
	if err := enc.Encode(body); err != nil {
		x.status, x.cause = http.StatusInternalServerError, fmt.Errorf("encode the answer: %w", err)
		x.w.WriteHeader(x.status)
		return
	}
	x.status = code
	x.w.Header().Set("Content-Type", cmp.Or(mediaType, "application/json"))
	x.w.WriteHeader(code)
	// An error means that the client is gone; nobody is left to tell.
	_, _ = x.w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
}

func (x *exchange) stream(s Stream) {
	x.raw(Raw{http.StatusOK, "application/json", func(w io.Writer) error {
		_, _ = io.WriteString(w, `{"code":200,"status":"Success","results":`)
		err := s(w)
		if err == nil {
			_, err = io.WriteString(w, "}")
		}
		return err
	}})
}

func (x *exchange) raw(r Raw) {
	x.status = r.Code
	x.w.Header().Set("Content-Type", r.Type)
	x.w.WriteHeader(r.Code)
	out := bufio.NewWriterSize(x.w, 16<<10)
	err := r.Write(out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		x.cause = fmt.Errorf("break off the answer: %w", err)
		panic(http.ErrAbortHandler)
	}
}

func (x *exchange) lines(l Lines) {
	x.status = http.StatusOK
	x.w.Header().Set("Content-Type", "application/x-ndjson")
	x.w.WriteHeader(x.status)
	rc := http.NewResponseController(x.w)
	enc := json.NewEncoder(x.w)
	enc.SetEscapeHTML(false)
	err := l(func(v any) error {
		if err := enc.Encode(v); err != nil {
			return err
		}
		return rc.Flush()
	})
	if err != nil {
		x.cause = fmt.Errorf("break off the answer: %w", err)
		panic(http.ErrAbortHandler)
	}
}
