package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/policy"
)

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
		{map[string]json.RawMessage{"mb_policy": str(`{"has_secureboot": true}`)}, []string{"mb_policy"}, ""},
		{map[string]json.RawMessage{"mb_policy": str("x")}, nil, "measured boot policy: byte 0: want a value"},
		{map[string]json.RawMessage{"mb_policy": str("[]")}, nil, "measured boot policy: want a JSON object, not a list"},
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
	v.mode = api.ModePull // in which an agent without a certificate is none that calls in
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
		{"tpm_policy", str(`{"24": "00", "mask": "0x1000000"}`), "pcr number"},
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

// Who starts an agent's attestations is a property of the agent.
func TestModeOfAnAgent(t *testing.T) {
	t.Parallel()
	share, cert := "c2l4dGVlbiBieXRlcy4uLg==", "-----BEGIN CERTIFICATE-----"
	for _, c := range []struct {
		verifier, asked string
		v, cert         *string
		plain           bool // agents may do without a certificate
		push            bool
		refused         string
	}{
		{verifier: "both", cert: &cert},
		{verifier: "both", push: true},
		{verifier: "both", cert: new(""), push: true},
		{verifier: "both", cert: new("disabled"), push: true},
		{verifier: "both", cert: new("disabled"), v: &share},
		{verifier: "both", cert: new("disabled"), plain: true},
		{verifier: "both", asked: "push", cert: &cert, v: &share, push: true},
		{verifier: "both", asked: "push", plain: true, push: true},
		{verifier: "both", asked: "pull"},
		{verifier: "both", asked: "sometimes", refused: "neither pull nor push"},
		{verifier: "pull"},
		{verifier: "pull", asked: "pull"},
		{verifier: "pull", asked: "push", refused: "this verifier has mode = pull"},
		{verifier: "push", cert: &cert, v: &share, push: true},
		{verifier: "push", asked: "push", push: true},
		{verifier: "push", asked: "pull", refused: "this verifier has mode = push"},
	} {
		req := api.EnrolRequest{V: c.v, MTLSCert: c.cert}
		if c.asked != "" {
			req.AttestationMode = &c.asked
		}
		v := &Verifier{mode: c.verifier, cfg: config.Verifier{EnableAgentMTLS: !c.plain}}
		push, err := v.modeOf(req)
		if push != c.push || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%+v: push %v, %v", c, push, err)
		}
	}
}
