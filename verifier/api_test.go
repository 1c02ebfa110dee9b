package verifier

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/internal/web"
	"keylime/store"
)

// request sends one request and returns status and body.
func request(t testing.TB, c *http.Client, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// status text of an envelope.
func statusText(body string) string {
	var e api.Envelope
	_ = json.Unmarshal([]byte(body), &e)
	return e.Status
}

// placed puts values in the place of the names in a route's path.
var placed = strings.NewReplacer("{version}", "v2.6", "{v3}", "v3.0", "{id}", "a1", "{name}", "a1", "{index}", "0", "{session}", "x")

// meantForAll are the routes that everybody may use.
var meantForAll = regexp.MustCompile(`^(GET /versions?|GET /({version}|{v3})|(GET|POST) /({version}|{v3})/verify/(evidence|identity)|` +
	`GET (/{v3}|/v3|/v3\.0)?/\.well-known/jwks\.json|(POST|PATCH) /{v3}/sessions(/{session})?)$`)

// NT-52, NT-54: every administrator's and agent's route, with every method, for everybody else.
func TestRoutesAreForThoseTheyAreMeantFor(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(""))
	base, admin := v.serve(t)
	anybody := clientWith(t)
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
	closed := 0
	for _, r := range v.routes() {
		path := r.Pattern[strings.Index(r.Pattern, " ")+1:]
		path = placed.Replace(path)
		if r.Access == web.Public || r.Access == web.Private {
			if !meantForAll.MatchString(r.Pattern) {
				t.Errorf("%s is public", r.Pattern)
			}
			continue
		}
		closed++
		for _, method := range methods {
			status, body := request(t, anybody, method, base+path, "{}")
			if status/100 == 2 || status == 404 || status == 500 || strings.Contains(body, "ak_tpm") || strings.Contains(body, "127.0.0.1") {
				t.Errorf("%s %s without a certificate: %d %s", method, path, status, body)
			}
			if method == strings.Fields(r.Pattern)[0] && status != 403 {
				t.Errorf("%s %s without a certificate: %d, want 403", method, path, status)
			}
		}
		if status, _ := request(t, admin, strings.Fields(r.Pattern)[0], base+path, "{}", "Authorization", "Bearer x"); status != 401 {
			t.Errorf("%s with a certificate and a token: %d, want 401", r.Pattern, status)
		}
	}
	if closed != 44 {
		t.Errorf("%d routes that are not for everybody", closed)
	}
	if _, err := v.agent(t.Context(), "a1", false); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}

// NT-55: who may only look changes nothing, and does not see the payload's key share.
func TestReadOnlyOperatorsOnlyLook(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	req := agent.enrolment("")
	share := base64.StdEncoding.EncodeToString(make([]byte, 32))
	req.V = &share
	v.add(t, agent, req)
	base, admin := v.serve(t)
	ca := testCA(t)
	made, err := pki.OpenCA(ca.dir, testCAOptions())
	if err != nil {
		t.Fatal(err)
	}
	looker := clientWith(t, issue(t, made, ca.dir, pki.Leaf{Name: "looker", Kind: pki.Client, ReadOnly: true}))
	for _, r := range v.routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		if r.Access != web.Admin {
			continue
		}
		status, body := request(t, looker, method, base+placed.Replace(path), "{}")
		if changes := method != http.MethodGet; changes != (status == 403) || changes && !strings.Contains(body, "read-only") {
			t.Errorf("%s: %d %s", r.Pattern, status, body)
		}
	}
	for _, path := range []string{"/v2.6/agents/a1", "/v2.6/agents?bulk=true", "/v3.0/agents/a1", "/v3.0/agents"} {
		if _, body := request(t, looker, "GET", base+path, ""); strings.Contains(body, share) {
			t.Errorf("%s shows V to a read-only operator", path)
		}
		if _, body := request(t, admin, "GET", base+path, ""); !strings.Contains(body, share) {
			t.Errorf("%s does not show V to the administrator", path)
		}
	}
}

// NT-53: certificates that are no administrator's.
func TestCertificatesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	ca := testCA(t)
	self, selfKey, err := pki.SelfSigned(agent.id, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	selfSigned, err := tls.X509KeyPair(self, selfKey)
	if err != nil {
		t.Fatal(err)
	}
	serverOnly, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, "server-cert.crt"), filepath.Join(ca.dir, "server-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	otherDir := t.TempDir()
	opts := testCAOptions()
	other, err := pki.EnsureCA(otherDir, opts)
	if err != nil {
		t.Fatal(err)
	}
	opts.LeafLifetime, opts.Now = time.Hour, func() time.Time { return time.Now().Add(-2 * time.Hour) }
	past, err := pki.OpenCA(ca.dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	somebody := pki.Leaf{Name: "somebody", Kind: pki.Client}
	for name, cert := range map[string]tls.Certificate{
		"self-signed": selfSigned, "for servers only": serverOnly, "of another CA": issue(t, other, otherDir, somebody), "expired": issue(t, past, ca.dir, somebody),
	} {
		c := clientWith(t)
		// Presented whatever the server says that it accepts.
		c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		resp, err := c.Get(base + "/v2.6/agents")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != 401 && resp.StatusCode != 403 {
				t.Errorf("certificate %s: answered %d", name, resp.StatusCode)
			}
		}
	}
	if status, _ := request(t, admin, "GET", base+"/v2.6/agents", ""); status != 200 {
		t.Errorf("the administrator: %d", status)
	}
}

// issue has a CA issue a client certificate.
func issue(t *testing.T, ca *pki.CA, dir string, leaf pki.Leaf) tls.Certificate {
	t.Helper()
	if err := ca.EnsureLeaf(leaf); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, leaf.Name+"-cert.crt"), filepath.Join(dir, leaf.Name+"-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// NT-57: spellings of one path get one decision.
func TestSpellingsOfPaths(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(""))
	base, _ := v.serve(t)
	anybody := clientWith(t)
	for _, path := range []string{
		"//v2.6/agents/", "/v2.6//agents", "/v2.6/agents/../agents/a1", "/v2.6/agents/%2e%2e", "/v2.6/AGENTS", "/V2.6/agents",
		"/v2.6/agents/a1/", "/v2.6/agents/", "/v2/agents", "/v2.6/%61gents", "/v2.6/agents/a1%2f..%2fa1", "/./v2.6/agents", "/version/../v2.6/agents",
		"/v2.6/agents;x=1", "/v2.6/agents/a1%00",
	} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		u.Opaque = path // as it stands
		resp, err := anybody.Do(&http.Request{Method: "DELETE", URL: u, Header: http.Header{}})
		if err != nil {
			t.Fatal(path, err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 == 2 || resp.StatusCode == 500 || resp.StatusCode/100 == 3 {
			t.Errorf("DELETE %s: %d", path, resp.StatusCode)
		}
	}
	if _, err := v.agent(t.Context(), "a1", false); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}

// NT-92 and the policies' routes.
func TestPolicyRoutes(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	body := string(upload(agent.runtimePolicy()))
	for _, name := range []string{"%2e%2e", "a%2fb", "x'%3B%20DROP%20TABLE%20p", "a%00b", strings.Repeat("n", 256), "%0d%0a"} {
		for _, collection := range []string{"allowlists", "mbpolicies"} {
			if status, answer := request(t, admin, "POST", base+"/v2.6/"+collection+"/"+name, body); status != 400 {
				t.Errorf("name %s in %s: %d %s", name, collection, status, answer)
			}
		}
	}
	req := agent.enrolment(agent.runtimePolicy())
	name := "mine"
	req.RuntimePolicyName = &name
	v.add(t, agent, req)
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"POST", "allowlists/mine", body, 409, "Runtime policy with name mine already exists"},
		{"PUT", "allowlists/mine", body, 201, "Created"},
		{"PUT", "allowlists/other", body, 404, "Runtime policy with name other does not already exist, use POST to create"},
		{"DELETE", "allowlists/mine", "", 409, "Can't delete allowlist as it's currently in use by agent a1"},
		{"DELETE", "allowlists/other", "", 404, "Runtime policy other not found"},
		{"POST", "allowlists/other", `{"runtime_policy": null}`, 400, "Exception error: 'runtime_policy'"},
		{"POST", "allowlists/other", `{}`, 400, "Exception error: 'runtime_policy'"},
		{"POST", "allowlists/other", `{"runtime_policy": "e30="}`, 400, "Runtime policy is malformatted: 'meta' is a required property"},
		{"POST", "mbpolicies/boot", `{"mb_policy": "{}"}`, 201, "Created"},
		{"POST", "mbpolicies/boot", `{"mb_policy": "{}"}`, 409, "Measured boot policy with name boot already exists"},
		{"PUT", "mbpolicies/none", `{"mb_policy": "{}"}`, 409, "Measured boot policy with name none does not already exist"},
		{"DELETE", "mbpolicies/boot", "", 204, ""},
	} {
		status, answer := request(t, admin, c.method, base+"/v2.6/"+c.path, c.body)
		if status != c.status || statusText(answer) != c.text {
			t.Errorf("%s %s: answered %d %s, want %d %s", c.method, c.path, status, answer, c.status, c.text)
		}
	}
	status, answer := request(t, admin, "PUT", base+"/v2.6/allowlists/mine", strings.Repeat(" ", 2<<20)+"{}")
	if status != 400 {
		t.Errorf("2 MiB of spaces: %d %s", status, answer)
	}
}

// Agents of another verifier over the same store are seen, and left alone.
func TestAgentsOfOtherVerifiers(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	s := openStore(t)
	cfg := fastConfig(t)
	mine := startVerifier(t, cfg, s)
	cfg.UUID = "other"
	other := newVerifier(t, cfg, s)
	other.add(t, agent, agent.enrolment(""))
	base, admin := mine.serve(t)
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/a1", 200, "Success"},
		{"DELETE", "/a1", 404, textOtherAgent},
		{"PUT", "/a1/stop", 400, textNoRow},
		{"PUT", "/a1/reactivate", 400, textNoRow},
		{"DELETE", "/a2", 404, textNoAgent},
		{"PUT", "/a2/stop", 400, textNoRow},
	} {
		status, body := request(t, admin, c.method, base+"/v2.6/agents"+c.path, "")
		if status != c.status || statusText(body) != c.text {
			t.Errorf("%s %s: answered %d %s, want %d %s", c.method, c.path, status, body, c.status, c.text)
		}
	}
	client := api.NewVerifier(base, admin)
	for id, want := range map[string][][]string{"": {{"a1"}}, "other": {{"a1"}}, "default": {}} {
		got, err := client.Agents(t.Context(), "2.6", id)
		if err != nil || !reflect.DeepEqual(got.UUIDs, want) {
			t.Errorf("agents of verifier %q: %v, %v", id, got, err)
		}
		bulk, err := client.BulkAgents(t.Context(), "2.6", id)
		if err != nil || len(bulk) != len(want) {
			t.Errorf("bulk of verifier %q: %v, %v", id, bulk, err)
		}
	}
	if n := len(agent.asked("")); n > 0 {
		t.Errorf("it was asked %d times", n)
	}
}

// Agents without mutual TLS are spoken to in plain HTTP when that is configured.
func TestAgentsWithoutMTLS(t *testing.T) {
	t.Parallel()
	cfg := fastConfig(t)
	cfg.EnableAgentMTLS = false
	v := startVerifier(t, cfg, openStore(t))
	agent := startAgent(t, "a1")
	agent.servePlain(t)
	req := agent.enrolment("")
	none := mtlsDisabled
	req.MTLSCert = &none
	v.add(t, agent, req)
	v.passes(t, "a1", 2)
}

func TestConvertIsTotal(t *testing.T) {
	t.Parallel()
	// Every key of a status has a source: a record with all fields set leaves none at its zero value.
	a := fullAgent()
	out := reflect.ValueOf(agentToAPI(a, statusView{generator: 3, window: &api.PolicyWindow{}, appraises: []string{"tpm_policy"}, interval: 2 * time.Second}))
	for i := range out.NumField() {
		if out.Field(i).IsZero() {
			t.Errorf("%s is not filled in", out.Type().Field(i).Name)
		}
	}
}

// fullAgent is a record without a zero value in it that a status could show.
func fullAgent() store.Agent {
	at := time.Unix(1, 0)
	return store.Agent{
		ID: "a1",
		Spec: store.AgentSpec{
			VerifierID: "v", VerifierIP: "192.0.2.1", VerifierPort: 1, V: make([]byte, 32), IP: "192.0.2.2", Port: 2,
			TPMPolicy: "{}", Metadata: "{}", RuntimePolicy: "r", MeasuredBootPolicy: "m", PCRPolicy: "p",
			AcceptHash: []string{"h"}, AcceptEnc: []string{"e"}, AcceptSign: []string{"s"},
		},
		Status: store.AgentStatus{
			Operational: store.StateInvalidQuote, HashAlg: "h", EncAlg: "e", SignAlg: "s", AttestationCount: 1,
			LastQuote: at, LastSuccess: at, SeverityRank: 1, LastEventID: "x.y", LastFailure: `{"message":"m"}`,
			RuntimePolicyDigest: "d", PCRPolicyDigest: "e",
		},
	}
}
