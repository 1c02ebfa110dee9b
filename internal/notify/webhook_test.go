package notify_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keylime/internal/notify"
)

func TestWebhookPostsTheMessage(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusOK, http.StatusAccepted} {
		var got, contentType string
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got, contentType = r.Method+" "+r.URL.Path+" "+string(body), r.Header.Get("Content-Type")
			w.WriteHeader(status)
		}))
		defer srv.Close()
		hook := newWebhook(t, srv.URL+"/revoked", trust(srv))
		if err := hook.Send(t.Context(), []byte(`{"msg":"m"}`)); err != nil {
			t.Fatalf("status %d: %v", status, err)
		}
		if got != `POST /revoked {"msg":"m"}` || contentType != "application/json" {
			t.Errorf("received %q as %q", got, contentType)
		}
	}
}

// NT-98: every way in which a receiver can be unfit is an error that the outbox can act on.
func TestWebhookFailures(t *testing.T) {
	t.Parallel()
	var redirected atomic.Int32
	victim := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected.Add(1) }))
	defer victim.Close()
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", victim.URL)
			w.WriteHeader(status)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, c := range []struct {
		name, want string
		handler    http.HandlerFunc
		untrusted  bool
	}{
		{name: "server error", handler: answer(500), want: "500"},
		{name: "redirect", handler: answer(302), want: "302"},
		{name: "permanent redirect", handler: answer(308), want: "308"},
		{name: "other success", handler: answer(204), want: "204"},
		{name: "certificate of a stranger", handler: answer(200), untrusted: true, want: "certificate"},
		{name: "hangs up", handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(c.handler)
			srv.Config.ErrorLog = quiet
			srv.StartTLS()
			defer srv.Close()
			cfg := trust(srv)
			if c.untrusted {
				cfg = &tls.Config{RootCAs: x509.NewCertPool()}
			}
			err := newWebhook(t, srv.URL+"/secret-path", cfg).Send(t.Context(), []byte("m"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret-path") {
				t.Errorf("the error repeats the URL: %v", err)
			}
		})
	}
	if err := newWebhook(t, gone.URL, nil).Send(t.Context(), []byte("m")); err == nil {
		t.Error("nobody listens, and there is no error")
	}
	if redirected.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestWebhookURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"hooks.example/a":                "https://hooks.example/a",
		"https://hooks.example:8443/a?b": "https://hooks.example:8443/a?b",
		"http://hooks.example":           "http://hooks.example",
		"https://user:pw@hooks.example/": "https://user:xxxxx@hooks.example/",
		"ftp://hooks.example":            "",
		"https://":                       "",
		"https://bad host/":              "",
	} {
		hook, err := notify.NewWebhook(raw, nil)
		if (err != nil) != (want == "") {
			t.Errorf("%q: error %v", raw, err)
			continue
		}
		if err == nil && hook.URL() != want {
			t.Errorf("%q: %q, want %q", raw, hook.URL(), want)
		}
		if err != nil && !strings.Contains(err.Error(), "webhook_url") {
			t.Errorf("%q: the error does not name the option: %v", raw, err)
		}
	}
}

func newWebhook(t *testing.T, url string, cfg *tls.Config) *notify.Webhook {
	t.Helper()
	hook, err := notify.NewWebhook(url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hook.Close)
	return hook
}

func trust(srv *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return &tls.Config{RootCAs: pool}
}

// eventually polls, because the other side works in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s: ", what)
		}
	}
}
