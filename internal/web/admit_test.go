package web_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/web"
)

// authenticated is a server with a route of each sort of access, and two agents with tokens.
func authenticated(t *testing.T) http.Handler {
	t.Helper()
	whoami := func(_ context.Context, r *web.Request) (any, error) { return map[string]string{"agent": r.Agent}, nil }
	return web.New(web.Options{
		Log: zerolog.New(io.Discard), V3: []string{"3.0"},
		Authenticate: func(_ context.Context, token string) (string, error) {
			switch token {
			case "token-of-a":
				return "a", nil
			case "old":
				return "", web.ErrTokenExpired
			case "trouble":
				return "", errors.New("disk on fire")
			}
			return "", web.ErrToken
		},
	},
		web.Route{Pattern: "GET /version", Action: "read_version", Handle: whoami},
		web.Route{Pattern: "POST /{v3}/sessions", Access: web.Private, Action: "create_session", Handle: whoami},
		web.Route{Pattern: "POST /{v3}/agents/{id}/attestations", Access: web.Agent, Action: "submit_attestation", Handle: whoami},
		web.Route{Pattern: "GET /{v3}/agents/{id}", Access: web.AgentOrAdmin, Action: "read_agent", Handle: whoami},
		web.Route{Pattern: "GET /{v3}/agents", Access: web.Admin, Action: "list_agents", Handle: whoami},
	)
}

// NT-54, NT-80, NT-83: an agent is who its token says, speaks for itself alone, and over TLS only.
func TestAgentsSpeakForThemselves(t *testing.T) {
	t.Parallel()
	h := authenticated(t)
	const attestations = "/v3.0/agents/a/attestations"
	for name, c := range map[string]struct {
		method, path, authorization string
		plain                       bool
		code                        int
		want                        string
	}{
		"own token":                    {"POST", attestations, "Bearer token-of-a", false, 200, `"agent":"a"`},
		"newest version by its major":  {"POST", "/v3/agents/a/attestations", "Bearer token-of-a", false, 200, `"agent":"a"`},
		"doubled slash":                {"POST", "//v3.0//agents/a/attestations/", "Bearer token-of-a", false, 200, `"agent":"a"`},
		"version not served":           {"POST", "/v3.1/agents/a/attestations", "Bearer token-of-a", false, 404, ""},
		"another agent's":              {"POST", "/v3.0/agents/b/attestations", "Bearer token-of-a", false, 403, "Agent a cannot access resource b (ownership required)"},
		"no token":                     {"POST", attestations, "", false, 403, "Action submit_attestation requires agent authentication (PoP token)"},
		"unknown token":                {"POST", attestations, "Bearer x", false, 401, `"title":"Unauthorized","detail":"Invalid authentication token"`},
		"expired token":                {"POST", attestations, "Bearer old", false, 401, "Authentication token expired"},
		"scheme in lower case":         {"POST", attestations, "bearer token-of-a", false, 401, "Invalid Authorization header format"},
		"other scheme":                 {"POST", attestations, "Basic YTpi", false, 401, "Invalid Authorization header format"},
		"store in trouble":             {"POST", attestations, "Bearer trouble", false, 500, "internal error"},
		"over plain HTTP":              {"POST", attestations, "Bearer token-of-a", true, 400, ""},
		"session over plain HTTP":      {"POST", "/v3.0/sessions", "", true, 400, ""},
		"session with a stale token":   {"POST", "/v3.0/sessions", "Bearer x", false, 200, `"agent":""`},
		"public":                       {"GET", "/version", "", false, 200, `"agent":""`},
		"public with a token":          {"GET", "/version", "Bearer token-of-a", false, 200, `"agent":"a"`},
		"public with a stale token":    {"GET", "/version", "Bearer old", false, 401, "Authentication token expired"},
		"public over plain HTTP":       {"GET", "/version", "Bearer old", true, 200, `"agent":""`},
		"own record":                   {"GET", "/v3.0/agents/a", "Bearer token-of-a", false, 200, `"agent":"a"`},
		"another's record":             {"GET", "/v3.0/agents/b", "Bearer token-of-a", false, 403, "ownership required"},
		"record without credentials":   {"GET", "/v3.0/agents/a", "", false, 403, "Action read_agent requires authentication"},
		"agent on an operator's route": {"GET", "/v3.0/agents", "Bearer token-of-a", false, 403, "Action list_agents requires admin authentication (mTLS certificate)"},
	} {
		r := httptest.NewRequest(c.method, "https://verifier"+c.path, strings.NewReader("{}"))
		if c.plain {
			r.TLS = nil
		} else {
			r.TLS = &tls.ConnectionState{}
		}
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s, want %d with %q", name, w.Code, w.Body, c.code, c.want)
		}
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	h := web.New(web.Options{Log: zerolog.New(io.Discard)},
		web.Route{Pattern: "GET /made", Handle: func(context.Context, *web.Request) (any, error) {
			return web.Document{Code: 201, Location: "/made/1", Type: "application/vnd.api+json", Body: map[string]int{"data": 1}}, nil
		}},
		web.Route{Pattern: "GET /bare", Handle: func(context.Context, *web.Request) (any, error) { return web.Document{Code: 202}, nil }},
		web.Route{Pattern: "GET /refused", Handle: func(context.Context, *web.Request) (any, error) {
			return nil, &web.Error{Code: 422, Msg: "for the log", Type: "application/vnd.api+json", Body: map[string]int{"errors": 1}}
		}},
	)
	for path, want := range map[string]struct {
		code             int
		body, kind, link string
	}{
		"/made":    {201, `{"data":1}`, "application/vnd.api+json", "/made/1"},
		"/bare":    {202, "", "", ""},
		"/refused": {422, `{"errors":1}`, "application/vnd.api+json", ""},
	} {
		w := do(h, "GET", path, "")
		if w.Code != want.code || w.Body.String() != want.body || w.Header().Get("Content-Type") != want.kind || w.Header().Get("Location") != want.link {
			t.Errorf("%s: %d %q %v", path, w.Code, w.Body, w.Header())
		}
	}
}
