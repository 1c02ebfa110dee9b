package api_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/isolated"
)

// answering serves every request with one answer.
func answering(t *testing.T, status int, body string) *httptest.Server {
	t.Helper()
	return serving(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func serving(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// NT-45
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	const good = `{"code":200,"status":"Success","results":{"hmac":"00"}}`
	for name, body := range map[string]string{
		"HTML":                  "<html>hello</html>",
		"nothing":               "",
		"null":                  "null",
		"an array":              "[]",
		"cut":                   good[:len(good)-2],
		"followed by more":      good + "{}",
		"name twice":            good[:len(good)-1] + `,"code":200}`,
		"results twice":         good[:len(good)-1] + `,"results":{}}`,
		"no code":               `{"status":"Success","results":{"hmac":"00"}}`,
		"another code":          `{"code":500,"status":"Success","results":{"hmac":"00"}}`,
		"code as a text":        `{"code":"200","status":"Success","results":{"hmac":"00"}}`,
		"no results":            `{"code":200,"status":"Success"}`,
		"null results":          `{"code":200,"status":"Success","results":null}`,
		"results of a kind":     `{"code":200,"status":"Success","results":"x"}`,
		"member of a kind":      `{"code":200,"status":"Success","results":{"hmac":5}}`,
		"lone surrogate":        `{"code":200,"status":"\ud800","results":{"hmac":"00"}}`,
		"nested deeply":         `{"code":200,"status":"x","results":{"hmac":"00","x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}}`,
		"more than is accepted": `{"code":200,"status":"` + strings.Repeat("x", 2<<20) + `","results":{"hmac":"00"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := answering(t, 200, body)
			_, err := api.NewAgent(s.URL, s.Client()).KeyVerify(t.Context(), "2.6", "x")
			if !errors.Is(err, api.ErrMalformed) {
				t.Errorf("KeyVerify = %v, want ErrMalformed", err)
			}
		})
	}
	s := answering(t, 200, good)
	if k, err := api.NewAgent(s.URL, s.Client()).KeyVerify(t.Context(), "2.6", "x"); err != nil || k.HMAC != "00" {
		t.Errorf("the good one: %+v, %v", k, err)
	}
}

func TestSuccessWithoutResults(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		`{"code":200,"status":"Success","results":null}`: true, // a POST to an agent of another make
		`{"code":200,"status":"Success","results":{}}`:   true,
		`{"code":200,"status":"Success"}`:                true,
		`<html>logged in</html>`:                         false,
		``:                                               false,
		`{"code":404,"status":"gone","results":{}}`:      false,
	} {
		s := answering(t, 200, body)
		if err := api.NewAgent(s.URL, s.Client()).VKey(t.Context(), "2.6", api.VKey{}); (err == nil) != ok {
			t.Errorf("%q: %v", body, err)
		}
	}
	s := answering(t, 204, "")
	if err := api.NewVerifier(s.URL, s.Client()).DeleteRuntimePolicy(t.Context(), "2.6", "p"); err != nil {
		t.Errorf("204: %v", err)
	}
	s = answering(t, 202, `{"code":202,"status":"Accepted","results":{}}`)
	if code, err := api.NewVerifier(s.URL, s.Client()).DeleteAgent(t.Context(), "2.6", "a"); err != nil || code != 202 {
		t.Errorf("202: %d, %v", code, err)
	}
}

func TestRefusalsKeepTheirText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status     int
		body, text string
		json       bool
	}{
		{400, `{"code":400,"status":"API version not supported: v9.9","results":{}}`, "API version not supported: v9.9", true},
		{403, `{"errors":[{"status":"403","title":"Forbidden","detail":"needs a certificate"}]}`, "Forbidden: needs a certificate", true},
		{404, "", "", false},
		{500, "<html>", "", false},
		{400, `{"code":400,"status":"\u001b[31mred\r\nSUCCESS\u202e","results":{}}`, "?[31mred??SUCCESS?", true},
		{400, `{"code":400,"status":"` + strings.Repeat("x", 10_000) + `"}`, strings.Repeat("x", 500) + "...", true},
		{301, "", "", false},
	} {
		s := answering(t, tt.status, tt.body)
		_, err := api.NewRegistrar(s.URL, s.Client()).Agent(t.Context(), "2.6", "a")
		var e *api.Error
		if !errors.As(err, &e) || e.Status != tt.status || e.Message != tt.text || e.JSON != tt.json || !api.IsStatus(err, tt.status) {
			t.Errorf("%d %q: %#v", tt.status, tt.body, err)
		}
	}
}

// NT-47
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	if !isolated.Run(t) {
		return
	}
	reached := false
	inner := serving(t, func(http.ResponseWriter, *http.Request) { reached = true })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := serving(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inner.URL, status) })
		_, err := api.NewAgent(s.URL, s.Client()).IntegrityQuote(t.Context(), "2.6", api.IntegrityRequest{})
		if !api.IsStatus(err, status) || reached {
			t.Errorf("%d: %v, followed: %v", status, err, reached)
		}
	}
}

// NT-40, NT-45
func TestEndlessAnswersAreCut(t *testing.T) {
	t.Parallel()
	endless := func(w io.Writer) {
		chunk := []byte(strings.Repeat("x", 64<<10))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"chunked": func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			endless(gzip.NewWriter(w))
		},
		"announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000000000")
			endless(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serving(t, h)
			_, err := api.NewAgent(s.URL, s.Client()).PubKey(t.Context(), "2.6")
			if !errors.Is(err, api.ErrMalformed) {
				t.Errorf("PubKey = %v", err)
			}
		})
	}
}

func TestDeadlineHoldsForTheBodyToo(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	s := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"code":200,`)
		w.(http.Flusher).Flush()
		<-release
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := api.NewAgent(s.URL, s.Client()).PubKey(ctx, "2.6")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, api.ErrMalformed) {
		t.Errorf("PubKey = %v", err)
	}
}

func TestErrorsDoNotTellTheQuery(t *testing.T) {
	t.Parallel()
	s := serving(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := api.NewAgent(s.URL, s.Client()).IdentityQuote(t.Context(), "2.6", "SecretNonce")
	if err == nil || strings.Contains(err.Error(), "SecretNonce") || !strings.Contains(err.Error(), "GET "+s.URL+"/v2.6/quotes/identity") {
		t.Errorf("error %v", err)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	peers := map[string]bool{}
	s := serving(t, func(w http.ResponseWriter, r *http.Request) {
		peers[r.RemoteAddr] = true
		if r.Header.Get("Authorization") != "" {
			t.Error("an Authorization header is sent")
		}
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"code":404,"status":"none","results":{}}`+strings.Repeat(" ", 100_000))
	})
	for range 5 {
		if _, err := api.NewRegistrar(s.URL+"/", s.Client()).Agent(t.Context(), "2.6", "a"); !api.IsStatus(err, 404) {
			t.Fatal(err)
		}
	}
	if len(peers) != 1 {
		t.Errorf("%d connections for 5 requests in a row", len(peers))
	}
}

func TestNamesAreEscapedInPaths(t *testing.T) {
	t.Parallel()
	var got string
	s := serving(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.RequestURI
		w.WriteHeader(404)
	})
	_, _ = api.NewVerifier(s.URL, s.Client()).RuntimePolicy(t.Context(), "2.6", "a/../b c?d#e")
	if want := "/v2.6/allowlists/a%2F..%2Fb%20c%3Fd%23e"; got != want {
		t.Errorf("path %s, want %s", got, want)
	}
}

func ExampleIsStatus() {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := api.NewRegistrar(s.URL, s.Client()).Agent(context.Background(), "2.6", "nobody")
	fmt.Println(api.IsStatus(err, http.StatusNotFound))
	// Output: true
}
