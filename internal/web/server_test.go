package web_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"keylime/internal/pki"
	"keylime/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server for the length of a test and returns its address and a function that stops it and waits.
func serve(t *testing.T, h http.Handler, settings *tls.Config, limits web.Limits) (addr string, stop func()) {
	t.Helper()
	ln, err := web.Listen(t.Context(), "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(ctx, ln, h, settings, limits, zerolog.Nop()) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// authority is a CA directory with a listener's certificate and an administrator's.
type authority struct {
	dir string
	ca  *pki.CA
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.EnsureCA(dir, pki.CAOptions{CommonName: "Test CA", Password: "test", Bits: 2048, Lifetime: time.Hour, LeafLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a := authority{dir, ca}
	a.issue(t, ca, "server", pki.Server)
	a.issue(t, ca, "client", pki.Client)
	return a
}

func (a authority) issue(t *testing.T, ca *pki.CA, name string, kind pki.Kind) {
	t.Helper()
	if err := ca.EnsureLeaf(pki.Leaf{Name: name, Kind: kind, Hosts: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
}

func (a authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a authority) server(t *testing.T) *tls.Config {
	t.Helper()
	settings, err := pki.ServerTLS(pki.ServerFiles{
		CertFile: a.file("server-cert.crt"), KeyFile: a.file("server-private.pem"), ClientCAs: []string{a.file("cacert.crt")}, CRLFile: a.file("cacrl.pem"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

// client returns a client with the named certificate; "" = none.
func (a authority) client(t *testing.T, name string) *http.Client {
	t.Helper()
	files := pki.ClientFiles{ServerCAs: []string{a.file("cacert.crt")}}
	if name != "" {
		files.CertFile, files.KeyFile = a.file(name+"-cert.crt"), a.file(name+"-private.pem")
	}
	settings, err := pki.ClientTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: settings}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// NT-52, NT-54
func TestOnlyAnAdministratorsCertificateOpensAdminRoutes(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr, _ := serve(t, routes(io.Discard), a.server(t), web.Limits{})
	const refused = `{"errors":[{"status":"403","title":"Forbidden","detail":"Action list_agents requires admin authentication (mTLS certificate)"}]}`
	tests := []struct {
		name, cert, method, authorization string
		code                              int
		body                              string
	}{
		{"administrator", "client", "GET", "", 200, `{"code":200,"status":"Success","results":{"id":"","version":"2.6"}}`},
		{"nobody", "", "GET", "", 403, refused},
		{"nobody, HEAD", "", "HEAD", "", 405, ""},
		{"nobody, OPTIONS", "", "OPTIONS", "", 405, ""},
		{"nobody, TRACE", "", "TRACE", "", 405, ""},
		{"administrator with a token", "client", "GET", "Bearer made.up", 401, ""},
		{"administrator with an empty Authorization", "client", "GET", " ", 401, ""},
		{"administrator with Basic", "client", "GET", "Basic Og==", 401, ""},
		{"nobody with a token", "", "GET", "Bearer made.up", 401, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequest(tt.method, "https://"+addr+"/v2.6/agents/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.authorization != "" {
				req.Header["Authorization"] = []string{strings.TrimSpace(tt.authorization)}
			}
			rsp, err := a.client(t, tt.cert).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer rsp.Body.Close()
			body, err := io.ReadAll(rsp.Body)
			if err != nil || rsp.StatusCode != tt.code || tt.code != 401 && string(body) != tt.body {
				t.Fatalf("%d %s, %v", rsp.StatusCode, body, err)
			}
			if tt.code == 401 && !strings.Contains(string(body), `"title":"Unauthorized"`) {
				t.Fatalf("401 %s", body)
			}
		})
	}
}

// NT-53
func TestOtherCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	a.issue(t, a.ca, "machine", pki.Server)
	a.issue(t, a.ca, "gone", pki.Client)
	past := pki.CAOptions{CommonName: "Test CA", Password: "test", Bits: 2048, Lifetime: time.Hour, LeafLifetime: time.Hour,
		Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}
	early, err := pki.OpenCA(a.dir, past)
	if err != nil {
		t.Fatal(err)
	}
	a.issue(t, early, "expired", pki.Client)
	gone, err := tls.LoadX509KeyPair(a.file("gone-cert.crt"), a.file("gone-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ca.Revoke(gone.Leaf.SerialNumber); err != nil {
		t.Fatal(err)
	}
	addr, _ := serve(t, routes(io.Discard), a.server(t), web.Limits{})
	selfCert, selfKey, err := pki.SelfSigned("agent", []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	self, err := tls.X509KeyPair(selfCert, selfKey)
	if err != nil {
		t.Fatal(err)
	}
	load := func(a authority, name string) tls.Certificate {
		c, err := tls.LoadX509KeyPair(a.file(name+"-cert.crt"), a.file(name+"-private.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, cert := range map[string]tls.Certificate{
		"an agent's self-signed one": self, "of another CA": load(foreign, "client"), "for servers only": load(a, "machine"),
		"expired": load(a, "expired"), "revoked": load(a, "gone"),
	} {
		hc := a.client(t, "")
		settings := hc.Transport.(*http.Transport).TLSClientConfig
		// Send it even where the server's list of CAs says that it is of no use.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		if rsp, err := hc.Get("https://" + addr + "/v2.6/agents"); err == nil {
			rsp.Body.Close()
			t.Errorf("%s: answered with %d", name, rsp.StatusCode)
		}
	}
}

// NT-50
func TestHalfOpenConnectionsDoNotStopTheService(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr, _ := serve(t, routes(io.Discard), a.server(t), web.Limits{HeaderTime: time.Minute})
	for i := range 2_000 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
		if i%2 == 0 {
			if _, err := conn.Write([]byte{22, 3, 1, 2}); err != nil { // the start of a ClientHello
				t.Fatal(err)
			}
		}
		if i%500 == 499 {
			get(t, a.client(t, "client"), "https://"+addr+"/v2.6/agents")
		}
	}
}

func get(t *testing.T, hc *http.Client, url string) {
	t.Helper()
	rsp, err := hc.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	if _, err := io.Copy(io.Discard, rsp.Body); err != nil || rsp.StatusCode != 200 {
		t.Fatalf("GET %s = %d, %v", url, rsp.StatusCode, err)
	}
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, routes(io.Discard), nil, web.Limits{MaxConns: 3})
	for range 20 {
		get(t, fresh(t), "http://"+addr+"/version") // each leaves an idle connection behind
	}
}

// fresh is a client with a connection of its own.
func fresh(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// NT-51
func TestSlowClientsAreClosed(t *testing.T) {
	t.Parallel()
	slow := web.Route{Pattern: "POST /{version}/agents/{id}", Timeout: 200 * time.Millisecond, Handle: func(_ context.Context, r *web.Request) (any, error) {
		_, err := r.Body()
		return nil, err
	}}
	h := web.New(web.Options{Log: zerolog.Nop(), Versions: []string{"2.6"}}, slow)
	addr, _ := serve(t, h, nil, web.Limits{HeaderTime: 200 * time.Millisecond, IdleTime: 200 * time.Millisecond})
	for name, sent := range map[string]string{
		"nothing":      "",
		"slow header":  "POST /v2.6/agents/a HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"slow body":    "POST /v2.6/agents/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"slow chunks":  "POST /v2.6/agents/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"idle":         "POST /v2.6/agents/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"endless line": "POST /" + strings.Repeat("a", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, sent) // fails when the server has had enough
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // ends when the server closes
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("still open after 10 s; got %q", answer)
			}
		})
	}
}

// NT-57
func TestAmbiguousRequestsAreRefused(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, routes(io.Discard), nil, web.Limits{})
	for name, request := range map[string]string{
		"two hosts":                         "GET /version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host":                           "GET /version HTTP/1.1\r\n\r\n",
		"two lengths":                       "PUT /v2.6/agents/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"negative length":                   "PUT /v2.6/agents/a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
		"line break in a header":            "GET /version HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
		"admin route, asterisk":             "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"admin route, absolute form":        "GET https://a/v2.6/agents/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"admin route, dots":                 "GET /version/../v2.6/agents/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"admin route, X-Forwarded-Proto":    "GET /v2.6/agents/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n",
		"admin route, X-HTTP-Method":        "POST /v2.6/agents/ HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n",
		"admin route, X-Original-URL":       "GET /nothing HTTP/1.1\r\nHost: a\r\nX-Original-URL: /v2.6/agents/\r\n\r\n",
		"authority form":                    "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
		"HTTP/2 with prior knowledge":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"path that is no path":              "GET version HTTP/1.1\r\nHost: a\r\n\r\n",
		"percent sign without its two hex":  "GET /v2.6/agents/%zz HTTP/1.1\r\nHost: a\r\n\r\n",
		"length and chunks: chunks count":   "PUT /v2.6/agents/a?do=empty HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"transfer coding that is no coding": "PUT /v2.6/agents/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			rsp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer rsp.Body.Close()
			if rsp.StatusCode < 400 {
				t.Errorf("%d", rsp.StatusCode)
			}
		})
	}
}

func TestStopLetsRequestsFinishAndClosesTheRest(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	h := web.New(web.Options{Log: zerolog.Nop()}, web.Route{Pattern: "GET /wait", Handle: func(ctx context.Context, _ *web.Request) (any, error) {
		close(entered)
		<-release
		return nil, ctx.Err()
	}})
	addr, stop := serve(t, h, nil, web.Limits{})
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	answered := make(chan error, 1)
	hc := fresh(t)
	go func() {
		rsp, err := hc.Get("http://" + addr + "/wait")
		if err == nil {
			rsp.Body.Close()
			if rsp.StatusCode != 200 {
				err = fmt.Errorf("status %d", rsp.StatusCode)
			}
		}
		answered <- err
	}()
	<-entered
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	if err := silent.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := silent.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a connection without a request: read %d, %v; want it closed", n, err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("request under way: %v", err)
	}
	<-stopped
}

func TestRequestsBeyondTheDrainTimeAreBrokenOff(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	h := web.New(web.Options{Log: zerolog.Nop()}, web.Route{Pattern: "GET /wait", Handle: func(ctx context.Context, _ *web.Request) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	addr, stop := serve(t, h, nil, web.Limits{Drain: 50 * time.Millisecond})
	hc := fresh(t)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if rsp, err := hc.Get("http://" + addr + "/wait"); err == nil {
			rsp.Body.Close()
		}
	}()
	<-entered
	stop()
	<-answered
}

func TestStreamThatFailsDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	h := web.New(web.Options{Log: zerolog.Nop()}, web.Route{Pattern: "GET /log", Handle: func(context.Context, *web.Request) (any, error) {
		return web.Stream(func(w io.Writer) error {
			if _, err := io.WriteString(w, `"`+strings.Repeat("x", 100_000)); err != nil {
				return err
			}
			return io.ErrUnexpectedEOF
		}), nil
	}})
	addr, _ := serve(t, h, nil, web.Limits{})
	rsp, err := fresh(t).Get("http://" + addr + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	if _, err := io.ReadAll(rsp.Body); err == nil {
		t.Error("the answer ended as if it were whole")
	}
}

// Lines arrive one by one, and an answer that breaks off does not look whole.
func TestLines(t *testing.T) {
	t.Parallel()
	seen := make(chan struct{})
	h := web.New(web.Options{Log: zerolog.Nop()}, web.Route{Pattern: "GET /log", Handle: func(context.Context, *web.Request) (any, error) {
		return web.Lines(func(send func(any) error) error {
			if err := send(map[string]int{"n": 1}); err != nil {
				return err
			}
			<-seen
			if err := send("<&>"); err != nil {
				return err
			}
			return io.ErrUnexpectedEOF
		}), nil
	}})
	addr, _ := serve(t, h, nil, web.Limits{})
	rsp, err := fresh(t).Get("http://" + addr + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	in := bufio.NewReader(rsp.Body)
	first, err := in.ReadString('\n')
	close(seen)
	if err != nil || first != `{"n":1}`+"\n" || rsp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%q, %v, %s", first, err, rsp.Header)
	}
	rest, err := io.ReadAll(in)
	if err == nil || string(rest) != `"<&>"`+"\n" {
		t.Errorf("%q, %v; want the second line and an error", rest, err)
	}
}
