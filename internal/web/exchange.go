package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
)

// statusAborted marks, in the log, an answer that was broken off.
const statusAborted = 499

// exchange is one request on its way through the router.
type exchange struct {
	rt    *Router
	w     http.ResponseWriter
	req   *http.Request
	id    string
	start time.Time

	route    *route
	subject  string // the path's id or name, for the log
	operator pki.Operator
	agent    string // id of the agent that a token is of
	status   int    // of the answer; 0 = not sent yet
	end      func() // of the handler's context
	cause    error
}

func (rt *Router) begin(w http.ResponseWriter, req *http.Request) *exchange {
	x := &exchange{rt: rt, w: w, req: req, end: func() {}, start: time.Now(), id: requestID(req.Header.Get("X-Request-Id"))}
	w.Header().Set("X-Request-Id", x.id)
	return x
}

const maxRequestID = 36

// requestID is the client's id of the request without what could forge a log line; a random one when none is left.
func requestID(sent string) string {
	var id strings.Builder
	for _, c := range []byte(sent) {
		if c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' {
			id.WriteByte(c)
		}
		if id.Len() == maxRequestID {
			break
		}
	}
	if id.Len() == 0 {
		return rand.Text()[:10]
	}
	return id.String()
}

// serve decides, in this order: is there such a route, may this client use it, is the id one; then handles.
func (x *exchange) serve() (any, error) {
	segments, clean := split(x.req.URL.EscapedPath())
	route, params, miss := x.rt.find(x.req.Method, segments, clean)
	if miss != nil {
		return nil, miss
	}
	x.route = route
	if err := x.admit(params["id"]); err != nil {
		return nil, err
	}
	if err := x.checkID(params); err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(x.req.URL.RawQuery)
	if err != nil {
		return nil, &Error{Code: http.StatusBadRequest, Msg: "the query string is malformed", Err: err}
	}
	ctx, cancel := context.WithTimeout(x.req.Context(), route.Timeout)
	x.end = cancel // not before the answer is out: a Stream works in ctx
	x.deadline(route.Timeout)
	return route.Handle(ctx, &Request{
		ID: x.id, Path: "/" + strings.Join(segments, "/"), Version: cmp.Or(params["version"], params["v3"]),
		Admin: x.operator.Name, ReadOnly: x.operator.ReadOnly, Agent: x.agent,
		Peer: peer(x.req), Header: x.req.Header, Query: query,
		params: params, maxBody: route.MaxBody, length: x.req.ContentLength,
		body: http.MaxBytesReader(x.w, x.req.Body, route.MaxBody),
	})
}

// deadline bounds how long the client may take to send the body and to take the answer. Not every ResponseWriter can;
// those of this package's Server do.
func (x *exchange) deadline(d time.Duration) {
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(x.start.Add(d))
	_ = rc.SetWriteDeadline(x.start.Add(d))
}

func (x *exchange) checkID(params map[string]string) error {
	if name, ok := params["name"]; ok {
		x.subject = name
	}
	id, ok := params["id"]
	if !ok {
		return nil
	}
	x.subject = id
	if api.ValidAgentID(id) {
		return nil
	}
	if x.rt.opts.BadID != nil {
		return x.rt.opts.BadID(id)
	}
	return &Error{Code: http.StatusBadRequest, Msg: "agent_id not valid"}
}

// peer is the client's address; the zero Addr when the connection has none.
func peer(req *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// log writes the one line about a request. Nothing of body or query is in it, and text from the network is quoted
// unless it is harmless.
func (x *exchange) log() {
	level := x.rt.opts.LogLevel
	line := x.rt.opts.Log.WithLevel(level)
	if !line.Enabled() {
		return
	}
	if x.route != nil {
		line.Str("route", x.route.Pattern)
	} else {
		line.Str("method", harmless(x.req.Method)).Str("path", harmless(x.req.URL.Path))
	}
	if x.subject != "" {
		line.Str("id", harmless(x.subject))
	}
	if x.agent != "" {
		line.Str("agent", x.agent)
	}
	if x.operator.Name != "" {
		line.Str("admin", harmless(x.operator.Name))
	}
	if x.cause != nil {
		line.Str("cause", harmless(x.cause.Error()))
	}
	line.Str("peer", x.req.RemoteAddr).Str("request_id", x.id).Int("status", x.status).Dur("ms", time.Since(x.start)).
		Msg("Request")
}

// harmless is s itself when it is short printable ASCII, else a quoted and shortened form of it.
func harmless(s string) string {
	const most = 200
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			s = strconv.QuoteToASCII(s)
			break
		}
	}
	if cut {
		s += "..."
	}
	return s
}
