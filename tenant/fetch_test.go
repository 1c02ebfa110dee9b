package tenant

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keylime/internal/isolated"
)

func TestFetch(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("the policy"))
	}))
	t.Cleanup(srv.Close)
	text, err := fetch(t.Context(), srv.URL, time.Minute)
	if err != nil || string(text) != "the policy" {
		t.Errorf("got %q, %v", text, err)
	}
}

// NT-59: a policy's address may lead nowhere else, and its answer may not exhaust us.
func TestFetchGoesNowhereElse(t *testing.T) {
	t.Parallel()
	if !isolated.Run(t) {
		return
	}
	var internal atomic.Int32
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { internal.Add(1) }))
	t.Cleanup(secret.Close)
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	redirect := func(path, to string, code int) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(code)
		})
	}
	redirect("/internal", secret.URL, http.StatusFound)
	redirect("/file", "file:///etc/passwd", http.StatusMovedPermanently)
	redirect("/again", "/internal", http.StatusTemporaryRedirect)
	mux.HandleFunc("/announced", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10737418240")
		w.Write(make([]byte, 4096))
	})
	var sent atomic.Int64
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 1<<20); ; {
			n, err := w.Write(chunk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/teapot", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

	for _, c := range []struct{ name, url, wrong string }{
		{"redirect to an internal host", srv.URL + "/internal", "redirects are not followed"},
		{"redirect to a file", srv.URL + "/file", "redirects are not followed"},
		{"redirect within the host", srv.URL + "/again", "redirects are not followed"},
		{"10 GB announced", srv.URL + "/announced", "more than"},
		{"no end", srv.URL + "/endless", "more than 100 MiB"},
		{"refused", srv.URL + "/teapot", "418"},
		{"a file", "file:///etc/passwd", "only http"},
		{"another scheme", "gopher://127.0.0.1/", "only http"},
		{"a path", "/etc/passwd", "only http"},
		{"no host", "https:///x", "only http"},
	} {
		text, err := fetch(t.Context(), c.url, time.Minute)
		if err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %d bytes, %v, want an error with %q", c.name, len(text), err, c.wrong)
		}
	}
	if n := internal.Load(); n != 0 {
		t.Errorf("the internal host was asked %d times", n)
	}
	if n := sent.Load(); n > 2*maxPolicySize {
		t.Errorf("%d bytes of an endless answer were taken", n)
	}
}

func TestFetchGivesUp(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(stop); srv.Close() })
	if _, err := fetch(t.Context(), srv.URL, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("a server that does not answer: %v", err)
	}
}
