package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/recorded"
)

// gate stands between an agent and a verifier, on this machine: it sees each request, and may answer in the verifier's
// place.
type gate struct {
	url string

	mu     sync.Mutex
	seen   []passage
	answer func(n int, r *http.Request) (status int, header http.Header) // of the n-th such request; 0 = the verifier's
}

type passage struct {
	what string // method and path, with names for what differs
	at   time.Time
	body []byte
	auth string
}

func newGate(t *testing.T, v *callee) *gate {
	t.Helper()
	target, err := url.Parse(v.url)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{}
	known := v.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	known.Certificates, known.ClientSessionCache = nil, nil
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{TLSClientConfig: known, DisableKeepAlives: true},
		ErrorLog:  log.New(io.Discard, "", 0), // a request that its agent's end broke off
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, header := g.pass(r); status != 0 {
			for name := range header {
				w.Header().Set(name, header.Get(name))
			}
			w.WriteHeader(status)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

func (g *gate) pass(r *http.Request) (int, http.Header) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	what := r.Method + " session"
	switch {
	case strings.Contains(r.URL.Path, "/attestations"):
		what = r.Method + " attestation"
	case strings.Contains(r.URL.Path, "/agents/"):
		what = r.Method + " agent"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, passage{what, time.Now(), body, r.Header.Get("Authorization")})
	if g.answer == nil {
		return 0, nil
	}
	return g.answer(len(g.all(what)), r)
}

// all are the requests of a kind so far. The caller holds the lock, or there are none under way.
func (g *gate) all(what string) []passage {
	var some []passage
	for _, p := range g.seen {
		if p.what == what {
			some = append(some, p)
		}
	}
	return some
}

// enrolled is a machine whose agent calls a verifier through a gate and is enrolled there.
func enrolled(t *testing.T, answer func(n int, r *http.Request) (int, http.Header)) (*machine, *callee, *gate) {
	t.Helper()
	m := newMachine(t)
	v := m.verifier()
	g := newGate(t, v)
	g.answer = answer
	m.calling(g.url)
	m.measure()
	m.caller()
	v.enrol(m.cfg.UUID, m.enrolment())
	return m, v, g
}

func isPost(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/attestations")
}

// A token that is refused is replaced at once, the next one not before a second has passed; none is used again.
func TestRefusedTokensAreReplacedWithPauses(t *testing.T) {
	t.Parallel()
	m, v, g := enrolled(t, func(n int, r *http.Request) (int, http.Header) {
		if isPost(r) && n <= 3 {
			return http.StatusUnauthorized, nil
		}
		return 0, nil
	})
	m.cfg.BackoffInitialDelay = time.Millisecond
	v.passes(m.cfg.UUID, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	posts := g.all("POST attestation")
	if pause := posts[1].at.Sub(posts[0].at); pause > 900*time.Millisecond {
		t.Errorf("the first new token took %v", pause)
	}
	for i := 1; i < 3; i++ {
		if pause := posts[i+1].at.Sub(posts[i].at); pause < time.Second {
			t.Errorf("%d refusals in a row were followed by a pause of %v", i+1, pause)
		}
	}
	for i := range 3 {
		if posts[i].auth == posts[i+1].auth {
			t.Error("a token that was refused was used again")
		}
	}
}

func TestVerifierSaysWhenToComeAgain(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusForbidden} {
		m, v, g := enrolled(t, func(n int, r *http.Request) (int, http.Header) {
			if isPost(r) && n == 1 {
				return status, http.Header{"Retry-After": {"2"}}
			}
			return 0, nil
		})
		v.passes(m.cfg.UUID, 1)
		g.mu.Lock()
		posts := g.all("POST attestation")
		if pause := posts[1].at.Sub(posts[0].at); pause < 2*time.Second || pause > 4*time.Second {
			t.Errorf("after %d with Retry-After: 2 the agent came again in %v", status, pause)
		}
		if same := posts[0].auth == posts[1].auth; same == (status == http.StatusForbidden) {
			t.Errorf("after %d the same token was used: %v", status, same)
		}
		g.mu.Unlock()
	}
}

// The bodies that this agent sends have the members that the recorded agent's have, of the same types.
func TestBodiesAreThoseOfTheRecordedAgent(t *testing.T) {
	t.Parallel()
	m := newRSAMachine(t)
	v := m.verifier()
	g := newGate(t, v)
	m.calling(g.url)
	m.measure()
	m.caller()
	v.enrol(m.cfg.UUID, m.enrolment())
	v.passes(m.cfg.UUID, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range []struct{ what, recording string }{
		{"POST session", "003-to-verifier-POST-v3.0_sessions"},
		{"PATCH session", "004-to-verifier-PATCH-v3.0_sessions_ID"},
		{"POST attestation", "012-to-verifier-POST-v3.0_agents_ID_attestations"},
		{"PATCH attestation", "013-to-verifier-PATCH-v3.0_agents_ID_attestations_0"},
	} {
		theirs := recorded.Read(t, "wire/push/"+c.recording+".json").Request.Body
		ours := g.all(c.what)[0].body
		if c.what == "POST attestation" { // extensions of the wire
			ours = without(t, ours, "extensions")
		}
		if want, got := outline(t, []byte(theirs)), outline(t, ours); !reflect.DeepEqual(want, got) {
			t.Errorf("%s\n has %v\nwant %v", c.what, got, want)
		}
	}
}

// outline is a JSON text with its values replaced by their types, and lists by the shapes of their elements, each once.
func outline(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var of func(v any) any
	of = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			members := map[string]any{}
			for name, member := range v {
				members[name] = of(member)
			}
			return members
		case []any:
			var kinds []any
			for _, e := range v {
				if s := of(e); !slices.ContainsFunc(kinds, func(k any) bool { return reflect.DeepEqual(k, s) }) {
					kinds = append(kinds, s)
				}
			}
			return kinds
		}
		return reflect.TypeOf(v)
	}
	return of(v)
}

func without(t *testing.T, text []byte, attribute string) []byte {
	t.Helper()
	var d struct {
		Data struct {
			Type       string         `json:"type"`
			Attributes map[string]any `json:"attributes"`
		} `json:"data"`
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	delete(d.Data.Attributes, attribute)
	out, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An agent stays with a verifier that answers, turns to another when it stops, and needs a session there.
func TestFailOver(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	first, second := m.verifier(), m.verifier()
	m.calling(first.url, second.url)
	m.measure()
	m.caller()
	first.enrol(m.cfg.UUID, m.enrolment())
	first.passes(m.cfg.UUID, 1)
	second.enrol(m.cfg.UUID, m.enrolment())
	first.passes(m.cfg.UUID, 2)
	if n := second.status(m.cfg.UUID).AttestationCount; n > 0 {
		t.Errorf("the second verifier was called %d times while the first answered", n)
	}
	first.stop()
	second.passes(m.cfg.UUID, 2)
	first.start()
	second.stop()
	first.passes(m.cfg.UUID, 1)
}

// Sessions outlive the verifier's process; they end, and new ones are opened.
func TestVerifierRestartsAndSessionsEnd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.verifier("SESSION_LIFETIME=1", "EXTEND_TOKEN_ON_ATTESTATION=False")
	m.calling(v.url)
	m.measure()
	m.caller()
	v.enrol(m.cfg.UUID, m.enrolment())
	v.passes(m.cfg.UUID, 3)
	v.stop()
	v.start()
	v.passes(m.cfg.UUID, 2)
	if n := strings.Count(v.log.String(), "Session opened"); n < 2 {
		t.Errorf("%d sessions", n)
	}
}

// connectProxy is the least of an HTTP proxy: CONNECT, and nothing else.
func connectProxy(t *testing.T) (address string, connects func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		mu.Unlock()
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, bufio.NewReader(buffered))
			to.Close()
		}()
		_, _ = io.Copy(from, to)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

func TestVerifierIsCalledThroughAProxy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.verifier()
	m.calling(v.url)
	proxy, connects := connectProxy(t)
	m.cfg.Calling.VerifierProxy = config.Secret("http://user:geheim@" + proxy)
	m.measure()
	r := m.caller()
	v.enrol(m.cfg.UUID, m.enrolment())
	v.passes(m.cfg.UUID, 2)
	r.stop()
	want := "CONNECT " + strings.TrimPrefix(v.url, "https://") + " Basic dXNlcjpnZWhlaW0="
	if got := connects(); len(got) == 0 || got[0] != want {
		t.Errorf("proxy saw %v, want %q", got, want)
	}
	if m.logged("geheim") > 0 {
		t.Error("the proxy's password is in the log")
	}
}

// NT-83: what is not encrypted stays on this machine, and goes to no proxy.
func TestPlainHTTPTakesNoProxy(t *testing.T) {
	t.Parallel()
	find, err := proxies("http://proxy.example.org:3128")
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"https://verifier.example.org": "http://proxy.example.org:3128", "http://127.0.0.1:8881": ""} {
		request, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := find(request)
		got := ""
		if proxy != nil {
			got = proxy.String()
		}
		if err != nil || got != want {
			t.Errorf("%s goes through %q, %v; want %q", target, got, err, want)
		}
	}
}

// What an agent does about each answer: the pause, whether it turns to another verifier, and whether the token is kept.
func TestAfterEachFailure(t *testing.T) {
	t.Parallel()
	refusal := func(status int, retryAfter string) error { return &api.Error{Status: status, RetryAfter: retryAfter} }
	second := time.Second
	for _, c := range []struct {
		what      string
		err       error
		verifiers int
		least     time.Duration
		most      time.Duration
		turns     bool
		keeps     bool
	}{
		{"token refused", refusal(401, ""), 1, 0, 0, false, false},
		{"forbidden", refusal(403, ""), 1, 45 * second, 75 * second, false, false},
		{"not there any more", refusal(404, ""), 1, 45 * second, 75 * second, false, true},
		{"not enrolled", errNotEnrolled, 2, 45 * second, 75 * second, true, false},
		{"too early", refusal(429, "90"), 1, 90 * second, 90 * second, false, true},
		{"too early for ever", refusal(429, "99999999"), 1, time.Hour, time.Hour, false, true},
		{"busy", refusal(503, "3"), 1, 3 * second, 3 * second, false, true},
		{"busy, and there is another", refusal(503, "3"), 2, 0, 0, true, false},
		{"broken", refusal(500, ""), 1, 5 * second, 10 * second, false, false},
		{"unreachable", io.EOF, 3, 0, 0, true, false},
		{"this machine's trouble", errEvidence, 2, 45 * second, 75 * second, false, true},
	} {
		caller := &caller{
			interval: time.Minute, retry: backoff{first: 10 * second, longest: 300 * second}, now: time.Now,
			verifiers: make([]*api.PushClient, c.verifiers), session: session{token: "t"},
		}
		wait := caller.after(c.err)
		if wait < c.least || wait > c.most {
			t.Errorf("%s: waits %v, want %v to %v", c.what, wait, c.least, c.most)
		}
		if turns := caller.at != 0; turns != c.turns && c.verifiers > 1 {
			t.Errorf("%s: turns to another verifier: %v", c.what, turns)
		}
		if kept := caller.session.token != ""; kept != c.keeps {
			t.Errorf("%s: the token is kept: %v", c.what, kept)
		}
	}
}
