package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/web"
)

func echo(_ context.Context, r *web.Request) (any, error) {
	return map[string]string{"version": r.Version, "id": r.Param("id")}, nil
}

// routes is a small server with a route of each sort.
func routes(log io.Writer) *web.Router {
	return web.New(web.Options{Log: zerolog.New(log), LogLevel: zerolog.InfoLevel, Versions: api.ServerVersions, Major: true},
		web.Route{Pattern: "GET /version", Handle: echo},
		web.Route{Pattern: "GET /{version}/agents/{id}", Handle: echo},
		web.Route{Pattern: "GET /{version}/agents", Access: web.Admin, Action: "list_agents", Handle: echo},
		web.Route{Pattern: "POST /{version}/agents/{id}", MaxBody: 100, Handle: func(_ context.Context, r *web.Request) (any, error) {
			var body struct {
				Name string `json:"name"`
			}
			if err := r.Decode(&body); err != nil {
				return nil, err
			}
			return body, nil
		}},
		web.Route{Pattern: "PUT /{version}/agents/{id}", Handle: func(_ context.Context, r *web.Request) (any, error) {
			switch r.Query.Get("do") {
			case "panic":
				panic("\x1b[31mkaboom")
			case "fail":
				return nil, errors.New("disk on fire")
			case "refuse":
				return nil, &web.Error{Code: 409, Msg: "exists", Err: errors.New("the cause")}
			case "empty":
				return nil, &web.Error{Code: 404}
			case "created":
				return web.Answer{Code: 201}, nil
			case "nothing":
				return web.Answer{Code: 204}, nil
			case "stream":
				return web.Stream(func(w io.Writer) error {
					_, err := io.WriteString(w, `{"long":true}`)
					return err
				}), nil
			}
			return nil, nil
		}},
	)
}

func do(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

func TestRouting(t *testing.T) {
	t.Parallel()
	h := routes(io.Discard)
	tests := []struct {
		name, method, target string
		code                 int
		body                 string
	}{
		{"root resource", "GET", "/version", 200, `{"code":200,"status":"Success","results":{"id":"","version":""}}`},
		{"versioned", "GET", "/v2.6/agents/a-1", 200, `{"code":200,"status":"Success","results":{"id":"a-1","version":"2.6"}}`},
		{"oldest version", "GET", "/v2.0/agents/a-1", 200, `{"code":200,"status":"Success","results":{"id":"a-1","version":"2.0"}}`},
		{"major alone is the newest", "GET", "/v2/agents/a-1", 200, `{"code":200,"status":"Success","results":{"id":"a-1","version":"2.6"}}`},
		{"trailing slash", "GET", "/v2.6/agents/a-1/", 200, `{"code":200,"status":"Success","results":{"id":"a-1","version":"2.6"}}`},
		{"id percent-encoded", "GET", "/v2.6/agents/a%2D1", 200, `{"code":200,"status":"Success","results":{"id":"a-1","version":"2.6"}}`},
		{"unknown path", "GET", "/nothing", 404, ""},
		{"root", "GET", "/", 404, ""},
		{"unserved version", "GET", "/v2.9/agents/a", 404, ""},
		{"old version", "GET", "/v1.0/agents/a", 404, ""},
		{"other major", "GET", "/v3.0/agents/a", 404, ""},
		{"wrong method", "PATCH", "/v2.6/agents/a", 405, ""},
		{"HEAD", "HEAD", "/version", 405, ""},
		{"OPTIONS", "OPTIONS", "/version", 405, ""},
		{"TRACE", "TRACE", "/version", 405, ""},
		{"no method of HTTP", "BREW", "/version", 501, ""},
		{"admin route over plain HTTP", "GET", "/v2.6/agents/", 400, ""},
		{"malformed query", "GET", "/version?a=%zz", 400, `{"code":400,"status":"the query string is malformed","results":{}}`},
		{"status of the handler's choice", "PUT", "/v2.6/agents/a?do=created", 201, `{"code":201,"status":"Created","results":{}}`},
		{"no content", "PUT", "/v2.6/agents/a?do=nothing", 204, ""},
		{"stream", "PUT", "/v2.6/agents/a?do=stream", 200, `{"code":200,"status":"Success","results":{"long":true}}`},
		{"refusal", "PUT", "/v2.6/agents/a?do=refuse", 409, `{"code":409,"status":"exists","results":{}}`},
		{"refusal without a text", "PUT", "/v2.6/agents/a?do=empty", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := do(h, tt.method, tt.target, "")
			if w.Code != tt.code || w.Body.String() != tt.body {
				t.Fatalf("%s %s = %d %q, want %d %q", tt.method, tt.target, w.Code, w.Body, tt.code, tt.body)
			}
		})
	}
}

// NT-57: no spelling of a path leads around the decision about the canonical one.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	h := routes(io.Discard)
	for _, target := range []string{
		"//v2.1/agents/", "/v2.1//agents/", "/v2.1/agents//", "/v2.1/./agents/", "/v2.1/agents/../agents/", "/v2.1/%2e%2e/v2.1/agents",
		"/V2.1/agents", "/v2.1/AGENTS", "/v2.1%2fagents", "/v2.1/agents%2f", "/v2.1/agents/%2e%2e", "/v2.1/agents/..", "/%00/agents",
		"/v2.1/agents;x=y", "/v2.1/agents%20", "/v2.1/ agents",
	} {
		req := httptest.NewRequest("GET", "/", nil)
		req.URL.Path, req.URL.RawPath = "", ""
		path, _, _ := strings.Cut(target, "?")
		u, err := req.URL.Parse("http://host" + strings.ReplaceAll(path, " ", "%20"))
		if err != nil {
			t.Fatal(err)
		}
		req.URL = u
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != 400 && w.Code != 404 {
			t.Errorf("GET %s = %d %s", target, w.Code, w.Body)
		}
	}
	if w := do(h, "GET", "http://other.example/v2.1/agents/", ""); w.Code != 400 {
		t.Errorf("absolute form = %d, want the canonical route's 400", w.Code)
	}
	if w := do(h, "GET", "/v2.1/%61gents/", ""); w.Code != 400 {
		t.Errorf("encoded letter = %d, want the canonical route's 400", w.Code)
	}
}

// NT-10, NT-11
func TestInvalidIDsAreRefusedAndLoggedEscaped(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"a%0d%0aFAKE", "a%0aFAKE", "a%00b", "a%1b%5b31m", "%e2%80%aeevil", "..", "%2e%2e", ".", "a%2fb", "a%20b", "é",
		strings.Repeat("a", 81), strings.Repeat("a", 10_000), "%ff",
	} {
		var log bytes.Buffer
		w := do(routes(&log), "GET", "/v2.6/agents/"+id, "")
		if w.Code != 400 {
			t.Errorf("id %.20q = %d", id, w.Code)
		}
		for _, c := range bytes.TrimSuffix(log.Bytes(), []byte("\n")) {
			if c < 0x20 || c > 0x7e {
				t.Errorf("id %.20q: log has the byte %#x: %q", id, c, log.String())
				break
			}
		}
		if log.Len() > 1000 {
			t.Errorf("id of %d characters makes a log line of %d", len(id), log.Len())
		}
	}
}

// NT-40, NT-41
func TestBodyIsBoundedAndStrict(t *testing.T) {
	t.Parallel()
	h := routes(io.Discard)
	tests := []struct {
		name, body string
		header     string
		code       int
	}{
		{"good", `{"name":"x"}`, "", 200},
		{"at the limit", `{"name":"` + strings.Repeat("x", 89) + `"}`, "", 200},
		{"over the limit", `{"name":"` + strings.Repeat("x", 90) + `"}`, "", 413},
		{"compressed", `{"name":"x"}`, "gzip", 415},
		{"identity", `{"name":"x"}`, "identity", 200},
		{"empty", ``, "", 400},
		{"nested", `{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "", 400},
		{"duplicate name", `{"name":"x","name":"y"}`, "", 400},
		{"lone surrogate", `{"name":"\ud800"}`, "", 400},
		{"garbage after it", `{"name":"x"}}`, "", 400},
		{"null", `null`, "", 400},
		{"number for a string", `{"name":1e999}`, "", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, length := range []int64{int64(len(tt.body)), -1} { // announced, and chunked
				req := httptest.NewRequest("POST", "/v2.6/agents/a", strings.NewReader(tt.body))
				req.ContentLength = length
				req.Header.Set("Content-Encoding", tt.header)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				if w.Code != tt.code {
					t.Fatalf("POST = %d %s, want %d", w.Code, w.Body, tt.code)
				}
			}
		})
	}
}

// NT-46
func TestPanicAndErrorStayInside(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := routes(&log)
	w := do(h, "PUT", "/v2.6/agents/a?do=panic", "")
	if w.Code != 500 || w.Body.Len() != 0 || h.Panics() != 1 {
		t.Fatalf("panic = %d %q, counted %d", w.Code, w.Body, h.Panics())
	}
	if !strings.Contains(log.String(), "kaboom") || strings.Contains(log.String(), "\x1b") {
		t.Errorf("log of the panic: %s", log.String())
	}
	log.Reset()
	w = do(h, "PUT", "/v2.6/agents/a?do=fail", "")
	id := w.Header().Get("X-Request-Id")
	if w.Code != 500 || strings.Contains(w.Body.String(), "fire") || !strings.Contains(w.Body.String(), id) {
		t.Errorf("unexpected error = %d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "disk on fire") || !strings.Contains(log.String(), id) {
		t.Errorf("log lacks the cause: %s", log.String())
	}
	log.Reset()
	if do(h, "PUT", "/v2.6/agents/a?do=refuse", ""); !strings.Contains(log.String(), "the cause") {
		t.Errorf("log lacks the cause of a refusal: %s", log.String())
	}
}

func TestRequestIDIsEchoedWithoutWhatForges(t *testing.T) {
	t.Parallel()
	h := routes(io.Discard)
	for sent, want := range map[string]string{
		"mtj1b4":                "mtj1b4",
		"a b\x1b[c-d_E9":        "abcd_E9",
		strings.Repeat("x", 50): strings.Repeat("x", 36),
	} {
		req := httptest.NewRequest("GET", "/version", nil)
		req.Header.Set("X-Request-ID", sent)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if got := w.Header().Get("X-Request-ID"); got != want {
			t.Errorf("%q echoed as %q, want %q", sent, got, want)
		}
	}
	if got := do(h, "GET", "/version", "").Header().Get("X-Request-ID"); len(got) != 10 {
		t.Errorf("made id %q", got)
	}
}

func TestIndentedAnswersAreUpstreamRegistrars(t *testing.T) {
	t.Parallel()
	h := web.New(web.Options{Log: zerolog.Nop(), Indent: true}, web.Route{Pattern: "GET /version", Handle: func(context.Context, *web.Request) (any, error) {
		return api.Version{Current: "2.6", Supported: []string{"2.6"}}, nil
	}})
	const want = "{\n    \"code\": 200,\n    \"status\": \"Success\",\n    \"results\": {\n        \"current_version\": \"2.6\",\n        \"supported_versions\": [\n            \"2.6\"\n        ]\n    }\n}"
	if got := do(h, "GET", "/version", "").Body.String(); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	var empty struct{ Results map[string]any }
	if err := json.Unmarshal(do(routes(io.Discard), "PUT", "/v2/agents/a", "").Body.Bytes(), &empty); err != nil || empty.Results == nil {
		t.Errorf("results of nothing = %v, %v", empty.Results, err)
	}
}

func TestMissIsTheServersToAnswer(t *testing.T) {
	t.Parallel()
	h := web.New(web.Options{Log: zerolog.Nop(), Versions: []string{"2.6"}, Miss: func(m web.Miss) *web.Error {
		return &web.Error{Code: 400, Msg: m.Method + " " + strings.Join(m.Segments, "|") + " " + strings.Join(m.Allowed, ",")}
	}}, web.Route{Pattern: "GET /{version}/a", Handle: echo}, web.Route{Pattern: "PUT /{version}/a", Handle: echo})
	for target, want := range map[string]string{"/v9.9/a": "POST v9.9|a ", "/v2.6/a": "POST v2.6|a GET,PUT"} {
		if w := do(h, "POST", target, ""); !strings.Contains(w.Body.String(), want) {
			t.Errorf("POST %s = %s, want %q", target, w.Body, want)
		}
	}
}
