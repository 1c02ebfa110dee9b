package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Handler serves one request. It returns the results of the answer (nil = an empty object), an Answer to choose its
// status, a Document, a Raw, a Stream or Lines; or an error, best an *Error.
type Handler func(ctx context.Context, r *Request) (any, error)

// Route is one entry of a server's table of routes.
type Route struct {
	// Pattern is a method and a path, as "GET /{version}/agents/{id}". {version} stands for a served version of API 2,
	// {v3} for one of API 3, {id} for a valid agent id, any other name in braces for one path segment. A trailing
	// slash makes no difference, nor do doubled ones.
	Pattern string
	Access  Access
	Action  string        // what the route does, as a refusal names it: "list_agents"
	MaxBody int64         // bytes; 0 = DefaultMaxBody
	Timeout time.Duration // for the whole exchange from the header on; 0 = DefaultTimeout
	Handle  Handler
}

// Limits of routes that set none of their own. A request without a policy or a log in it is a few kilobytes.
const (
	DefaultMaxBody = 1 << 20
	DefaultTimeout = 30 * time.Second
)

// Options are the manners in which servers differ.
type Options struct {
	Log      zerolog.Logger
	LogLevel zerolog.Level // of the line about each request; the zero value is debug
	Versions []string      // API versions that {version} stands for, oldest first
	Major    bool          // "/v2" is served as well, as the newest version
	V3       []string      // API versions that {v3} stands for, oldest first; "/v3" is the newest
	// Authenticate finds the agent of a bearer token; nil = none is good.
	Authenticate Authenticate
	Indent       bool // answers are indented by four spaces
	// Miss answers a request that no route takes; nil = 404, 405 or 501 without a body.
	Miss func(Miss) *Error
	// BadID answers a request with an invalid {id}; nil = 400.
	BadID func(id string) *Error
}

// Miss is a request that no route takes.
type Miss struct {
	Method   string
	Segments []string // of the path, percent-decoded
	Allowed  []string // methods of the routes with this path; empty = no such path
}

// Router is an http.Handler over a table of routes.
type Router struct {
	opts   Options
	routes []route
	panics atomic.Uint64
}

type route struct {
	Route
	method   string
	segments []string
}

// New returns a router of these routes. A pattern that is not one panics: the table is part of the program.
func New(opts Options, routes ...Route) *Router {
	rt := &Router{opts: opts}
	for _, r := range routes {
		method, path, ok := strings.Cut(r.Pattern, " ")
		segments, clean := split(path)
		if !ok || !clean || r.Handle == nil {
			panic(fmt.Sprintf("web: %q is no route", r.Pattern))
		}
		if r.MaxBody == 0 {
			r.MaxBody = DefaultMaxBody
		}
		if r.Timeout == 0 {
			r.Timeout = DefaultTimeout
		}
		rt.routes = append(rt.routes, route{r, method, segments})
	}
	return rt
}

// Panics counts the requests whose handler panicked.
func (rt *Router) Panics() uint64 { return rt.panics.Load() }

// ServeHTTP finds the route, lets in who may use it, and answers.
func (rt *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := rt.begin(w, req)
	defer x.log()
	defer rt.rescue(x)
	defer func() { x.end() }()
	result, err := x.serve()
	x.answer(result, err)
}

// rescue turns a panic of a handler into a 500. The server lives on; the request is lost.
func (rt *Router) rescue(x *exchange) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		x.status = statusAborted
		panic(cause)
	}
	rt.panics.Add(1)
	rt.opts.Log.Error().Str("request_id", x.id).Str("panic", harmless(fmt.Sprint(cause))).Bytes("stack", debug.Stack()).
		Msg("Handler panicked; the request failed, the server goes on")
	if x.status != 0 {
		panic(http.ErrAbortHandler) // part of an answer is out: it must not look whole
	}
	x.answer(nil, &Error{Code: http.StatusInternalServerError})
}

// find returns the route of a request and the values of its pattern's names.
func (rt *Router) find(method string, segments []string, clean bool) (*route, map[string]string, *Error) {
	miss := Miss{Method: method, Segments: segments}
	for i := range rt.routes {
		r := &rt.routes[i]
		if !clean {
			break
		}
		params, ok := rt.match(r.segments, segments)
		switch {
		case ok && r.method == method:
			return r, params, nil
		case ok && !slices.Contains(miss.Allowed, r.method):
			miss.Allowed = append(miss.Allowed, r.method)
		}
	}
	if rt.opts.Miss != nil {
		return nil, nil, rt.opts.Miss(miss)
	}
	switch {
	case !slices.Contains(methods, method):
		return nil, nil, &Error{Code: http.StatusNotImplemented}
	case len(miss.Allowed) > 0:
		return nil, nil, &Error{Code: http.StatusMethodNotAllowed, Allow: miss.Allowed}
	}
	return nil, nil, &Error{Code: http.StatusNotFound}
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodConnect, http.MethodOptions, http.MethodTrace,
}
