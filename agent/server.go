package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/web"
	"keylime/tpm"
)

// server answers the verifier and the tenant. Its paths and the texts of its refusals are what Keylime's peers know:
// they tell an API version that is not served from a path that does not exist by them.
type server struct {
	agentID  string
	versions []string    // served, oldest first
	access   web.Access  // Admin with mutual TLS
	ak       *tpm.Public // for its names on the wire
	bank     tpm.Hash

	attester  *attester
	logs      bootLogs
	transport *transportKey
	bootstrap *bootstrap
	deliver   func(delivery)              // takes what the two key shares opened
	revoke    func(api.Notification) bool // false = too many wait already
	streams   chan struct{}               // one token for each measurement list being sent
	log       zerolog.Logger
}

// handler is the agent's API.
func (s *server) handler() http.Handler {
	route := func(pattern string, timeout time.Duration, handle web.Handler) web.Route {
		return web.Route{Pattern: pattern, Access: s.access, Action: pattern, MaxBody: maxBody, Timeout: timeout, Handle: handle}
	}
	return web.New(web.Options{Log: s.log, Versions: s.versions, Miss: s.miss},
		route("GET /version", 0, s.version),
		route("GET /{version}/agent/info", 0, s.info),
		route("GET /{version}/keys/pubkey", 0, s.pubKey),
		route("POST /{version}/keys/ukey", 0, s.uKey),
		route("POST /{version}/keys/vkey", 0, s.vKey),
		route("GET /{version}/keys/verify", 0, s.verifyKey),
		route("GET /{version}/quotes/identity", quoteTime, s.identityQuote),
		route("GET /{version}/quotes/integrity", quoteTime, s.integrityQuote),
		route("POST /{version}/notifications/revocation", 0, s.revocation),
	)
}

// null is the results of a POST (wire: null, where servers send {}).
func null() any { return json.RawMessage("null") }

func badRequest(format string, args ...any) error {
	return &web.Error{Code: http.StatusBadRequest, Msg: fmt.Sprintf(format, args...)}
}

// miss answers a request that is for none of the routes.
func (s *server) miss(m web.Miss) *web.Error {
	switch {
	case len(m.Allowed) > 0:
		return &web.Error{Code: http.StatusMethodNotAllowed, Allow: m.Allowed}
	case len(m.Segments) == 0:
		return s.unknownRoot(m.Method)
	}
	version, ok := strings.CutPrefix(m.Segments[0], "v")
	if !ok || !looksLikeVersion(version) {
		return s.unknownRoot(m.Method)
	}
	if !slices.Contains(s.versions, version) {
		return &web.Error{Code: http.StatusBadRequest, Msg: "API version not supported: v" + version}
	}
	return unknownResource(m.Method)
}

// looksLikeVersion reports whether a path element is N.M, served or not: only those are answered as versions.
func looksLikeVersion(s string) bool {
	major, minor, ok := strings.Cut(s, ".")
	return ok && isNumber(major) && isNumber(minor)
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 4 && strings.Trim(s, "0123456789") == ""
}

func (s *server) unknownRoot(method string) *web.Error {
	return notImplemented(method, "Not Implemented: Use /"+strings.Join(s.versions, ", /")+" or /version interfaces")
}

func unknownResource(method string) *web.Error {
	return notImplemented(method, "Not Implemented: Use /agent, /keys, or /quotes interfaces")
}

// notImplemented answers for a path that no method would make right: 400 to those that the API uses, 405 to others.
func notImplemented(method, text string) *web.Error {
	if method == http.MethodGet || method == http.MethodPost {
		return &web.Error{Code: http.StatusBadRequest, Msg: text}
	}
	return &web.Error{Code: http.StatusMethodNotAllowed, Msg: text, Allow: []string{http.MethodGet, http.MethodPost}}
}

func (s *server) version(context.Context, *web.Request) (any, error) {
	return api.AgentVersion{Supported: s.versions[len(s.versions)-1], List: s.versions}, nil
}
