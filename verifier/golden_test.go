package verifier

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/store"
)

// Lives of agents that were recorded between Keylime's Python verifier and its Rust agent are lived again with this
// verifier: the tenant's requests as recorded, the agent's answers as recorded. Our requests must be those of the
// Python verifier, our decisions its decisions, our answers to the tenant of the same shape and content.

// recordedAgent plays a recorded agent: it answers each request with what was recorded for exactly that request.
type recordedAgent struct {
	t       *testing.T
	mu      sync.Mutex
	answers []recorded.Exchange // to quotes and vkey, in order
	nonces  []string            // of the quotes, in order; the verifier takes its nonces from here
	asked   []string
	told    []json.RawMessage
}

func newRecordedAgent(t *testing.T, life string) *recordedAgent {
	a := &recordedAgent{t: t}
	for _, e := range recorded.Glob(t, "wire/"+life+"/*-verifier-*.json") {
		if strings.Contains(e.Name, "quotes_integrity") {
			u, err := url.Parse(e.Request.Path)
			if err != nil {
				t.Fatal(err)
			}
			a.nonces = append(a.nonces, u.Query().Get("nonce"))
		}
		if strings.Contains(e.Name, "quotes_integrity") || strings.Contains(e.Name, "vkey") {
			a.answers = append(a.answers, e)
		}
	}
	return a
}

// nonce gives the recorded nonces in their order.
func (a *recordedAgent) nonce() (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.nonces) == 0 {
		return newNonce()
	}
	n := a.nonces[0]
	a.nonces = a.nonces[1:]
	return n, nil
}

func (a *recordedAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/v2.6/notifications/revocation" {
		a.told = append(a.told, body)
		replyOK(w, nil)
		return
	}
	if len(a.answers) == 0 {
		reply(w, 503, "the recording has ended", nil)
		return
	}
	e := a.answers[0]
	a.answers = a.answers[1:]
	a.asked = append(a.asked, r.Method+" "+r.URL.RequestURI())
	if got, want := r.Method+" "+r.URL.RequestURI(), e.Request.Method+" "+e.Request.Path; got != want {
		a.t.Errorf("request %s, recorded %s", got, want)
	}
	a.compareBody(r, body, e)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Response.Status)
	_, _ = io.WriteString(w, e.Response.Body)
}

// compareBody holds a request's body to the keys and the content type recorded.
func (a *recordedAgent) compareBody(r *http.Request, body []byte, e recorded.Exchange) {
	if e.Request.Body == "" {
		if len(body) > 0 {
			a.t.Errorf("%s: body %q, recorded none", e.Name, body)
		}
		return
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		a.t.Errorf("%s: Content-Type %q", e.Name, got)
	}
	var got, want map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		a.t.Error(err)
	}
	if err := json.Unmarshal([]byte(e.Request.Body), &want); err != nil {
		a.t.Error(err)
	}
	for k, v := range want {
		if s, ok := got[k].(string); !ok || len(s) != len(fmt.Sprint(v)) {
			a.t.Errorf("%s: %s is %v, recorded %v", e.Name, k, got[k], v)
		}
	}
	if len(got) != len(want) {
		a.t.Errorf("%s: keys %v, recorded %v", e.Name, got, want)
	}
}

func (a *recordedAgent) messages() []json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]json.RawMessage(nil), a.told...)
}

// startWebhook serves a receiver with a certificate of the test CA.
func startWebhook(t testing.TB, h http.Handler) string {
	t.Helper()
	ca := testCA(t)
	pair, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, "server-cert.crt"), filepath.Join(ca.dir, "server-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = quietLog
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL + "/revoked"
}

func TestRecordedLives(t *testing.T) {
	t.Parallel()
	recorded.Dir(t)
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		t.Run(life, func(t *testing.T) { t.Parallel(); liveAgain(t, life, policy.BootAcceptAll) })
	}
	// The reference state was made of that machine's boot.
	t.Run("mb, example", func(t *testing.T) { t.Parallel(); liveAgain(t, "mb", policy.BootExample) })
}

func liveAgain(t *testing.T, life, bootEngine string) {
	agent := newRecordedAgent(t, life)
	server := &testAgent{id: "recorded"} // its certificate stands in for the recorded one, whose key nobody has
	server.serve(t, agent)
	var posted bytes.Buffer
	var mu sync.Mutex
	cfg := fastConfig(t)
	cfg.MeasuredBootEngine = bootEngine
	cfg.Revocations.Enabled = []string{"agent", "webhook"}
	cfg.Revocations.WebhookURL = startWebhook(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		posted.Reset()
		_, _ = posted.ReadFrom(r.Body)
	}))
	v := newVerifier(t, cfg, openStore(t))
	v.cycle.nonce = agent.nonce
	base, admin := v.serve(t)
	tenant := func(name string, prepare func(body string) string) map[string]any {
		return replay(t, base, admin, recorded.Read(t, "wire/"+life+"/"+name), prepare)
	}

	tenant("008-tenant-POST-v2.6_agents_ID.json", func(body string) string { return readdress(t, body, server) })
	before := tenant("009-tenant-GET-v2.6_agents_ID.json", nil)
	compareStatus(t, before, recorded.Read(t, "wire/"+life+"/009-tenant-GET-v2.6_agents_ID.json"), nil)
	v.start(t)

	const id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	v.until(t, id, "failure", inState(store.StateInvalidQuote))
	if len(agent.answers) > 0 {
		t.Errorf("failed before %s", agent.answers[0].Name)
	}
	failed := tenant("024-tenant-GET-v2.6_agents_ID.json", nil)
	compareStatus(t, failed, recorded.Read(t, "wire/"+life+"/024-tenant-GET-v2.6_agents_ID.json"),
		map[string]bool{"attestation_count": true, "last_received_quote": true, "last_successful_attestation": true})
	if n := failed["attestation_count"].(float64); n != 5 { // quotes recorded but the last
		t.Errorf("%v good rounds", n)
	}

	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return posted.Len() > 0 && len(agent.messages()) > 0 },
		func() { t.Error("no notifications\n", v.log) })
	mu.Lock()
	compareMessage(t, posted.Bytes(), life, "-verifier-POST-revoked.json")
	mu.Unlock()
	compareMessage(t, agent.messages()[0], life, "-verifier-POST-v2.6_notifications_revocation.json")

	for _, name := range []string{
		"025-tenant-DELETE-v2.6_agents_ID.json", "026-tenant-DELETE-v2.6_allowlists_demo_policy.json",
	} {
		tenant(name, nil)
	}
}

// readdress points a recorded enrolment to where the agent is played.
func readdress(t *testing.T, body string, a *testAgent) string {
	var keys map[string]any
	if err := json.Unmarshal([]byte(body), &keys); err != nil {
		t.Fatal(err)
	}
	keys["cloudagent_port"], keys["mtls_cert"] = strconv.Itoa(a.port), a.certPEM
	return string(encode(t, keys))
}

// replay sends a recorded request and holds the answer to the recorded status, envelope and shape. It returns the
// results.
func replay(t *testing.T, base string, client *http.Client, e recorded.Exchange, prepare func(string) string) map[string]any {
	t.Helper()
	body := e.Request.Body
	if prepare != nil {
		body = prepare(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), e.Request.Method, base+e.Request.Path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range e.Request.Headers {
		if strings.EqualFold(h[0], "Content-Type") || strings.EqualFold(h[0], "Authorization") {
			req.Header.Set(h[0], h[1])
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", e.Name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != e.Response.Status {
		t.Errorf("%s: answered %d %s, recorded %d %s", e.Name, resp.StatusCode, text, e.Response.Status, e.Response.Body)
	}
	if e.Response.Body == "" {
		if len(text) > 0 {
			t.Errorf("%s: answered %s, recorded no body", e.Name, text)
		}
		return nil
	}
	var got, want map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%s: answered %q: %v", e.Name, text, err)
	}
	if err := json.Unmarshal([]byte(e.Response.Body), &want); err != nil {
		t.Fatal(err)
	}
	if got["code"] != want["code"] || got["status"] != want["status"] {
		t.Errorf("%s: answered %v %q, recorded %v %q", e.Name, got["code"], got["status"], want["code"], want["status"])
	}
	results, _ := got["results"].(map[string]any)
	compareShape(t, e.Name, results, want["results"])
	return results
}

// compareShape wants every recorded key, with a value of the same type.
func compareShape(t *testing.T, name string, got map[string]any, recordedResults any) {
	t.Helper()
	want, _ := recordedResults.(map[string]any)
	for k, v := range want {
		g, ok := got[k]
		if !ok || v != nil && reflect.TypeOf(g) != reflect.TypeOf(v) {
			t.Errorf("%s: %s is %v, recorded %v", name, k, g, v)
		}
	}
}

// compareStatus compares the values too, except those that depend on where and how fast the recording ran.
func compareStatus(t *testing.T, got map[string]any, e recorded.Exchange, except map[string]bool) {
	t.Helper()
	var want struct{ Results map[string]any }
	if err := json.Unmarshal([]byte(e.Response.Body), &want); err != nil {
		t.Fatal(err)
	}
	for k, v := range want.Results {
		switch {
		case k == "port", k == "attestation_period", k == "maximum_attestation_interval", except[k]:
		case !reflect.DeepEqual(got[k], v):
			t.Errorf("%s: %s is %v, recorded %v", e.Name, k, got[k], v)
		}
	}
}

// compareMessage holds a notification to the one recorded: what was recorded must be there, byte for byte, except
// port and time; what is ours stands after it.
func compareMessage(t *testing.T, body []byte, life, suffix string) {
	t.Helper()
	e := recorded.Glob(t, "wire/"+life+"/*"+suffix)[0]
	var ours, theirs api.Notification
	for text, into := range map[string]*api.Notification{string(body): &ours, e.Request.Body: &theirs} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	var got, want map[string]any
	if err := json.Unmarshal([]byte(ours.Msg), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(theirs.Msg), &want); err != nil {
		t.Fatal(err)
	}
	for k, v := range want {
		switch k {
		case "port", "event_time":
			if reflect.TypeOf(got[k]) != reflect.TypeOf(v) {
				t.Errorf("%s: %s is %v, recorded %v", e.Name, k, got[k], v)
			}
		case "context": // ours says more
			var g, w map[string]any
			_ = json.Unmarshal([]byte(got[k].(string)), &g)
			_ = json.Unmarshal([]byte(v.(string)), &w)
			for key, value := range w {
				if g[key] != value {
					t.Errorf("%s: context %s is %v, recorded %v", e.Name, key, g[key], value)
				}
			}
		default:
			if got[k] != v {
				t.Errorf("%s: %s is %v, recorded %v", e.Name, k, got[k], v)
			}
		}
	}
	if (ours.Signature == "") != (theirs.Signature == "") {
		t.Errorf("%s: signature %q, recorded %q", e.Name, ours.Signature, theirs.Signature)
	}
	if ours.Signature != "" {
		checkSignature(t, life, ours)
	}
}

// checkSignature verifies a message with the key that the recorded enrolment carries.
func checkSignature(t *testing.T, life string, n api.Notification) {
	t.Helper()
	var enrolled struct {
		Key string `json:"revocation_key"`
	}
	e := recorded.Read(t, "wire/"+life+"/008-tenant-POST-v2.6_agents_ID.json")
	if err := json.Unmarshal([]byte(e.Request.Body), &enrolled); err != nil {
		t.Fatal(err)
	}
	key, err := pki.ReadPrivateKey([]byte(enrolled.Key), "")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(n.Signature)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(n.Msg))
	pub := key.Public().(*rsa.PublicKey)
	opts := &rsa.PSSOptions{SaltLength: pub.Size() - 34, Hash: crypto.SHA256}
	if err := rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, opts); err != nil {
		t.Errorf("signature: %v", err)
	}
}
