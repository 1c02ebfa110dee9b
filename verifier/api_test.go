package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/internal/policy"
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

// NT-52, NT-54: every administrator's route, with every method, for everybody else.
func TestAdminRoutesAreForAdministrators(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(""))
	base, admin := v.serve(t)
	anybody := clientWith(t)
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
	admins := 0
	for _, r := range v.routes() {
		path := r.Pattern[strings.Index(r.Pattern, " ")+1:]
		path = strings.NewReplacer("{version}", "v2.6", "{id}", "a1", "{name}", "a1").Replace(path)
		if r.Access != web.Admin {
			if !strings.HasPrefix(path, "/version") {
				t.Errorf("%s is public", r.Pattern)
			}
			continue
		}
		admins++
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
	if admins != 16 {
		t.Errorf("%d routes for administrators", admins)
	}
	if _, err := v.agent(t.Context(), "a1"); err != nil {
		t.Errorf("the agent is gone: %v", err)
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
	for name, cert := range map[string]tls.Certificate{
		"self-signed": selfSigned, "for servers only": serverOnly, "of another CA": issue(t, other, otherDir), "expired": issue(t, past, ca.dir),
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
func issue(t *testing.T, ca *pki.CA, dir string) tls.Certificate {
	t.Helper()
	if err := ca.EnsureLeaf(pki.Leaf{Name: "somebody", Kind: pki.Client}); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "somebody-cert.crt"), filepath.Join(dir, "somebody-private.pem"))
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
	if _, err := v.agent(t.Context(), "a1"); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}

// NT-90: an agent that is held to nothing is one by explicit form, and its status says so.
func TestWhatAnAgentIsHeldTo(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	null := json.RawMessage("null")
	str := func(s string) json.RawMessage { return encode(t, s) }
	real := agent.enrolment(agent.runtimePolicy()).RuntimePolicy
	for i, c := range []struct {
		set       map[string]json.RawMessage
		appraises []string // nil: refused
		text      string
	}{
		{map[string]json.RawMessage{"tpm_policy": str(`{"mask":"0x0"}`)}, []string{}, ""},
		{map[string]json.RawMessage{"tpm_policy": str(`{}`)}, []string{}, ""},
		{map[string]json.RawMessage{"tpm_policy": str("")}, nil, "tpm_policy"},
		{map[string]json.RawMessage{"tpm_policy": null}, nil, "'tpm_policy'"},
		{map[string]json.RawMessage{"tpm_policy": str("null")}, nil, "tpm_policy"},
		{map[string]json.RawMessage{"tpm_policy": str(`{"mask":"0x400"}`)}, []string{"runtime_policy"}, ""}, // with the empty policy: every file fails
		{map[string]json.RawMessage{"tpm_policy": str(`{"mask":"0x0"}`), "runtime_policy": str(*real)}, []string{"runtime_policy"}, ""},
		{map[string]json.RawMessage{"tpm_policy": str(`{"22":"` + strings.Repeat("00", 32) + `","mask":"0x400000"}`)}, []string{"tpm_policy"}, ""},
		{map[string]json.RawMessage{"runtime_policy": null}, nil, "'runtime_policy'"},
		{map[string]json.RawMessage{"runtime_policy": str("e30=")}, nil, "malformatted"}, // {}
		{map[string]json.RawMessage{"runtime_policy": str("bnVsbA==")}, nil, ""},         // null
		{map[string]json.RawMessage{"mb_policy": null}, []string{}, ""},
		{map[string]json.RawMessage{"mb_policy": str("")}, []string{}, ""},
		{map[string]json.RawMessage{"mb_policy": str("{}")}, []string{}, ""},
		{map[string]json.RawMessage{"mb_policy": str(`{"has_secureboot": true}`)}, nil, "measured boot policies are not evaluated"},
		{map[string]json.RawMessage{"mb_policy": str("x")}, nil, "measured boot policies are not evaluated"},
		{map[string]json.RawMessage{"mb_policy_name": str("nosuch")}, nil, "Could not find mb_policy with name nosuch!"},
		{map[string]json.RawMessage{"ima_sign_verification_keys": null, "metadata": null, "revocation_key": null, "v": null}, []string{}, ""},
		{map[string]json.RawMessage{"accept_tpm_hash_algs": json.RawMessage("[]")}, nil, "accept_tpm_hash_algs"},
		{map[string]json.RawMessage{"accept_tpm_signing_algs": null}, nil, "'accept_tpm_signing_algs'"},
	} {
		id := fmt.Sprintf("a%d", i)
		status, body := request(t, admin, "POST", base+"/v2.6/agents/"+id, with(t, agent.enrolment(""), c.set))
		if c.appraises == nil {
			if status != 400 && status != 404 || !strings.Contains(statusText(body), c.text) {
				t.Errorf("%s: answered %d %s, want a refusal with %q", c.set, status, body, c.text)
			}
			continue
		}
		if status != 200 {
			t.Errorf("%s: answered %d %s", c.set, status, body)
			continue
		}
		if st := v.status(t, id); !slices.Equal(st.Appraises, c.appraises) {
			t.Errorf("%s: the status says that it appraises %v, want %v", c.set, st.Appraises, c.appraises)
		}
	}
}

// with is an enrolment with some keys replaced; a nil value removes the key.
func with(t testing.TB, req api.EnrolRequest, set map[string]json.RawMessage) string {
	t.Helper()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(encode(t, req), &keys); err != nil {
		t.Fatal(err)
	}
	for k, v := range set {
		if v == nil {
			delete(keys, k)
		} else {
			keys[k] = v
		}
	}
	return string(encode(t, keys))
}

// NT-01 to NT-03, NT-10, NT-11, NT-13, NT-41, NT-47: enrolments that are refused, and leave nothing.
func TestRefusedEnrolments(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	str := func(s string) json.RawMessage { return encode(t, s) }
	good := agent.enrolment("")
	ecKey := ecKeyPEM(t)
	for _, c := range []struct {
		key   string
		value json.RawMessage
		text  string
	}{
		{"v", str("!"), "v is not base64"},
		{"v", str("AAAA"), "v is not base64"},
		{"cloudagent_ip", nil, "cloudagent_ip is missing"},
		{"cloudagent_ip", str(""), "cloudagent_ip is missing"},
		{"cloudagent_ip", str("169.254.169.254"), "link-local"},
		{"cloudagent_ip", str("::ffff:169.254.169.254"), "link-local"},
		{"cloudagent_ip", str("0.0.0.0"), "no single machine"},
		{"cloudagent_ip", str("fe80::1"), "link-local"},
		{"cloudagent_ip", str("host with spaces"), "neither an address nor a host name"},
		{"cloudagent_ip", str("a/b"), "neither an address nor a host name"},
		{"cloudagent_ip", str("user@host"), "neither an address nor a host name"},
		{"cloudagent_ip", str("host\r\nX: y"), "neither an address nor a host name"},
		{"cloudagent_ip", str(strings.Repeat("a", 300)), "cloudagent_ip has 300 bytes"},
		{"cloudagent_port", nil, "cloudagent_port is missing"},
		{"cloudagent_port", json.RawMessage("0"), "cloudagent_port 0 is not a port"},
		{"cloudagent_port", json.RawMessage("-1"), "is not a port"},
		{"cloudagent_port", json.RawMessage("65536"), "is not a port"},
		{"cloudagent_port", json.RawMessage("1e3"), "is not a port"},
		{"cloudagent_port", str("9002x"), "is not a port"},
		{"cloudagent_port", json.RawMessage("8881"), "own port"},
		{"verifier_port", str("x"), "verifier_port"},
		{"tpm_policy", str("nope"), "tpm_policy"},
		{"tpm_policy", str(`{"24": "00", "mask": "0x1000000"}`), "tpm_policy"},
		{"tpm_policy", str(`{"mask": "zz"}`), "tpm_policy"},
		{"tpm_policy", str(strings.Repeat(" ", 40_000)), "tpm_policy has 40000 bytes"},
		{"metadata", str(strings.Repeat("x", 40_000)), "metadata has 40000 bytes"},
		{"metadata", str("a\x00b"), "metadata is not text"},
		{"revocation_key", str("nope"), "revocation_key"},
		{"revocation_key", str(ecKey), "revocation_key: not an RSA key"},
		{"ak_tpm", str("AAAA"), "ak_tpm"},
		{"ak_tpm", str("nope"), "ak_tpm"},
		{"ak_tpm", str(base64.StdEncoding.EncodeToString(agent.tpm.EKPublic())), "ak_tpm"}, // a storage key
		{"mtls_cert", str("nope"), "mtls_cert"},
		{"mtls_cert", str("disabled"), textNoAgentCert},
		{"mtls_cert", json.RawMessage("null"), textNoAgentCert},
		{"mtls_cert", str(""), textNoAgentCert},
		{"accept_tpm_hash_algs", json.RawMessage(`"sha256"`), "Exception error"},
		{"accept_tpm_hash_algs", json.RawMessage(`[""]`), "is not the name of an algorithm"},
		{"runtime_policy", str("%"), "runtime_policy"},
		{"runtime_policy_name", str("../x"), "policy name"},
		{"runtime_policy_name", str("x'; DROP TABLE policies; --"), "policy name"},
		{"metadata", nil, "'metadata'"},
		{"mb_policy", nil, "'mb_policy'"},
	} {
		status, body := request(t, admin, "POST", base+"/v2.6/agents/a1", with(t, good, map[string]json.RawMessage{c.key: c.value}))
		if status != 400 || !strings.Contains(statusText(body), c.text) {
			t.Errorf("%s = %.60s: answered %d %s, want 400 with %q", c.key, c.value, status, body, c.text)
		}
	}
	for _, body := range []string{
		"", "null", "[]", "{", `{"v":1}{}`, `{"tpm_policy":"{}","tpm_policy":"{}"}`, strings.Repeat("[", 100_000), "\xff",
	} {
		if status, answer := request(t, admin, "POST", base+"/v2.6/agents/a1", body); status != 400 {
			t.Errorf("body %.40q: answered %d %s", body, status, answer)
		}
	}
	for _, id := range []string{"bad%20id", "%2e%2e", "a%2fb", "a%00", "a%0ab", strings.Repeat("a", 81), "%E2%80%AEx"} {
		status, answer := request(t, admin, "POST", base+"/v2.6/agents/"+id, string(encode(t, good)))
		if status != 400 || statusText(answer) != textBadID {
			t.Errorf("id %s: answered %d %s", id, status, answer)
		}
	}
	list, err := v.agents(t.Context(), "")
	if err != nil || len(list.UUIDs) > 0 {
		t.Errorf("agents %v, %v", list, err)
	}
	if names, err := v.runtimePolicies(t.Context()); err != nil || len(names.Names) > 0 {
		t.Errorf("policies %v, %v", names, err)
	}
}

// The four combinations of name and text of a runtime policy, and what is left over from before.
func TestRuntimePolicyOfAnEnrolment(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	text, other := agent.runtimePolicy(), agent.runtimePolicy("/x")
	enrol := func(id, name, content string) (int, string) {
		req := agent.enrolment(content)
		req.RuntimePolicyName = &name
		status, body := request(t, admin, "POST", base+"/v2.6/agents/"+id, string(encode(t, req)))
		return status, statusText(body)
	}
	stored := func(name string) string {
		p, err := v.runtimePolicy(t.Context(), name)
		if err != nil {
			return ""
		}
		return p.RuntimePolicy
	}
	for _, c := range []struct {
		id, name, text string
		status         int
		reply          string
		policy         string // name → text after it
	}{
		{"a1", "", "", 200, "Success", policy.EmptyRuntime},
		{"a2", "", text, 200, "Success", text},
		{"a3", "shared", text, 200, "Success", text},
		{"a4", "shared", "", 200, "Success", text},
		{"a5", "shared", other, 409, "IMA policy with name shared already exists. Please use a different name or delete the allowlist from the verifier.", text},
		{"a6", "nosuch", "", 404, "Could not find IMA policy with name nosuch!", ""},
		{"a3", "", text, 409, "Agent of uuid a3 already exists. Please use delete or update.", ""},
	} {
		status, reply := enrol(c.id, c.name, c.text)
		if status != c.status || reply != c.reply {
			t.Errorf("%s, name %q, text %.20q: answered %d %s, want %d %s", c.id, c.name, c.text, status, reply, c.status, c.reply)
		}
		name := c.name
		if name == "" {
			name = c.id
		}
		if got := stored(name); got != c.policy {
			t.Errorf("%s: policy %s is %.40q, want %.40q", c.id, name, got, c.policy)
		}
	}
	// A policy under the id of an agent that is gone, as its deletion leaves it when another agent uses it.
	for id, content := range map[string]string{"left": text, "gone": text} {
		if err := v.addRuntimePolicy(t.Context(), id, upload(content)); err != nil {
			t.Fatal(err)
		}
	}
	if status, reply := enrol("left", "", text); status != 200 {
		t.Errorf("the same text again: %d %s", status, reply)
	}
	for _, content := range []string{other, ""} {
		if status, reply := enrol("gone", "", content); status != 409 || !strings.Contains(reply, "IMA policy with name gone already exists") {
			t.Errorf("another text than the one left over: %d %s", status, reply)
		}
	}
	if got := stored("gone"); got != text {
		t.Errorf("the policy left over became %.40q", got)
	}
	// Policies that bear the agent's id go with it.
	if status, _ := request(t, admin, "DELETE", base+"/v2.6/agents/a2", ""); status != 200 || stored("a2") != "" {
		t.Errorf("deletion: %d, policy %.40q", status, stored("a2"))
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

// A named measured-boot policy that gets content after an agent was enrolled with it fails the agent: nothing here
// evaluates it.
func TestMeasuredBootPolicyIsNotPassedOver(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	if err := v.addMBPolicy(t.Context(), "boot", []byte(`{"mb_policy": "{}"}`)); err != nil {
		t.Fatal(err)
	}
	req := agent.enrolment("")
	name := "boot"
	req.MBPolicyName = &name
	v.add(t, agent, req)
	if st := v.passes(t, "a1", 1); st.HasMBRefstate != 1 {
		t.Errorf("status %s", encode(t, st))
	}
	if err := v.updateMBPolicy(t.Context(), "boot", []byte(`{"mb_policy": "{\"has_secureboot\": true}"}`)); err != nil {
		t.Fatal(err)
	}
	st := v.until(t, "a1", "failure", func(a api.VerifierAgent) bool { return a.AttestationStatus == "FAIL" })
	if *st.LastEventID != "pcr_validation.invalid_mb_policy" {
		t.Errorf("status %s", encode(t, st))
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
	out := reflect.ValueOf(agentToAPI(a, statusView{generator: 3, appraises: []string{"tpm_policy"}, interval: 2 * time.Second}))
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
			TPMPolicy: "{}", Metadata: "{}", RuntimePolicy: "r", MeasuredBootPolicy: "m",
			AcceptHash: []string{"h"}, AcceptEnc: []string{"e"}, AcceptSign: []string{"s"},
		},
		Status: store.AgentStatus{
			Operational: store.StateInvalidQuote, HashAlg: "h", EncAlg: "e", SignAlg: "s", AttestationCount: 1,
			LastQuote: at, LastSuccess: at, SeverityRank: 1, LastEventID: "x.y", LastFailure: `{"message":"m"}`,
			RuntimePolicyDigest: "d",
		},
	}
}

func ecKeyPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
