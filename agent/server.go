package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/tpm"
)

// server answers the verifier and the tenant. Its paths and the texts of its refusals are what Keylime's peers know:
// they tell an API version that is not served from a path that does not exist by them.
type server struct {
	agentID  string
	versions []string    // served, oldest first
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

// resource is one path below a version.
type resource struct {
	method string
	since  string // first API version that has it
	handle func(*server, *http.Request, string) (any, error)
}

// resources are the agent's API. A result that is a stream writes the response itself.
var resources = map[string]resource{
	"agent/info":               {http.MethodGet, "2.2", (*server).info},
	"keys/pubkey":              {http.MethodGet, "2.1", (*server).pubKey},
	"keys/ukey":                {http.MethodPost, "2.1", (*server).uKey},
	"keys/vkey":                {http.MethodPost, "2.1", (*server).vKey},
	"keys/verify":              {http.MethodGet, "2.1", (*server).verifyKey},
	"quotes/identity":          {http.MethodGet, "2.1", (*server).identityQuote},
	"quotes/integrity":         {http.MethodGet, "2.1", (*server).integrityQuote},
	"notifications/revocation": {http.MethodPost, "2.1", (*server).revocation},
}

// stream is a result that is too large to be built in memory.
type stream interface {
	// writeTo writes the response. Once it has begun, an error can only break the connection off.
	writeTo(http.ResponseWriter) error
}

// refusal is an answer that says no; text is for the peer, the cause for the log.
type refusal struct {
	code  int
	text  string
	cause error
	allow string // methods that would do, for 405
	bare  bool   // no body (wire: a wrong method on an existing resource)
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %v", r.text, r.cause)
	}
	return r.text
}

func (r *refusal) Unwrap() error { return r.cause }

// unable refuses for a reason that may pass: the verifier comes again after a 500.
func unable(text string, cause error) error {
	return &refusal{code: http.StatusInternalServerError, text: text, cause: cause}
}

func badRequest(format string, args ...any) error {
	return &refusal{code: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	result, err := s.route(r)
	if err == nil {
		err = s.write(w, result)
	}
	log := s.log.Debug()
	if err != nil {
		log = s.log.Warn().Err(err)
		s.refuse(w, err)
	}
	log.Str("method", r.Method).Str("path", r.URL.Path).Str("peer", r.RemoteAddr).Str("client", clientName(r)).Msg("request")
}

// errBroken says that a response broke off after its beginning.
type errBroken struct{ cause error }

func (e errBroken) Error() string { return "response broke off: " + e.cause.Error() }
func (e errBroken) Unwrap() error { return e.cause }

func (s *server) write(w http.ResponseWriter, result any) error {
	if streamed, ok := result.(stream); ok {
		return streamed.writeTo(w)
	}
	return writeEnvelope(w, http.StatusOK, "Success", result)
}

func (s *server) refuse(w http.ResponseWriter, err error) {
	var broken errBroken
	if errors.As(err, &broken) {
		panic(http.ErrAbortHandler) // the only way to tell the peer that what it got is not whole
	}
	no := &refusal{code: http.StatusInternalServerError, text: "Internal error"}
	errors.As(err, &no)
	if no.allow != "" {
		w.Header().Set("Allow", no.allow)
	}
	if no.bare {
		w.WriteHeader(no.code)
		return
	}
	if err := writeEnvelope(w, no.code, no.text, struct{}{}); err != nil {
		s.log.Debug().Err(err).Msg("refusal not sent")
	}
}

func writeEnvelope(w http.ResponseWriter, code int, status string, results any) error {
	body, err := json.Marshal(envelope{code, status, results})
	if err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if _, err := w.Write(body); err != nil {
		return errBroken{err}
	}
	return nil
}

// envelope is the shape of every answer. Results of a POST are null, those of a refusal {} (wire).
type envelope struct {
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Results any    `json:"results"`
}

// route finds the resource of a path and runs it. Paths are taken literally: nothing is cleaned or redirected, so each
// resource has exactly one.
func (s *server) route(r *http.Request) (any, error) {
	if r.URL.Path == "/version" {
		if r.Method != http.MethodGet {
			return nil, wrongMethod(http.MethodGet)
		}
		return api.AgentVersion{Supported: s.versions[len(s.versions)-1], List: s.versions}, nil
	}
	root, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	version, ok := strings.CutPrefix(root, "v")
	if !ok || !looksLikeVersion(version) {
		return nil, s.unknownRoot(r)
	}
	if !slices.Contains(s.versions, version) {
		return nil, badRequest("API version not supported: v%s", version)
	}
	found, ok := resources[rest]
	if !ok || api.Newer(found.since, version) {
		return nil, unknownResource(r, rest)
	}
	if r.Method != found.method {
		return nil, wrongMethod(found.method)
	}
	if len(r.URL.RawQuery) > maxQuery {
		return nil, badRequest("Query deserialize error: query of more than %d bytes", maxQuery)
	}
	return found.handle(s, r, version)
}

// looksLikeVersion reports whether a path element is N.M, whether served or not: only those are answered as versions.
func looksLikeVersion(s string) bool {
	major, minor, ok := strings.Cut(s, ".")
	return ok && isNumber(major) && isNumber(minor)
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 4 && strings.Trim(s, "0123456789") == ""
}

func wrongMethod(allow string) error {
	return &refusal{code: http.StatusMethodNotAllowed, text: "method not allowed", allow: allow, bare: true}
}

func (s *server) unknownRoot(r *http.Request) error {
	var paths []string
	for _, version := range s.versions {
		paths = append(paths, "/"+version)
	}
	return notImplemented(r, fmt.Sprintf("Not Implemented: Use %s or /version interfaces", strings.Join(paths, ", ")))
}

func unknownResource(r *http.Request, path string) error {
	area, _, _ := strings.Cut(path, "/")
	var known []string
	for name := range resources {
		if strings.HasPrefix(name, area+"/") {
			known = append(known, "/"+name)
		}
	}
	if known == nil {
		return notImplemented(r, "Not Implemented: Use /agent, /keys, or /quotes interfaces")
	}
	slices.Sort(known)
	return notImplemented(r, fmt.Sprintf("Not Implemented: Use %s", strings.Join(known, ", ")))
}

// notImplemented answers for a path that no method would make right: 400 to those that the API uses, 405 to others.
func notImplemented(r *http.Request, text string) error {
	if r.Method == http.MethodGet || r.Method == http.MethodPost {
		return &refusal{code: http.StatusBadRequest, text: text}
	}
	return &refusal{code: http.StatusMethodNotAllowed, text: text, allow: "GET, POST"}
}

// clientName is the common name of the client's certificate, "" without one.
func clientName(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.CommonName
}
