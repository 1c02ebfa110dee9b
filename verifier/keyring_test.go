package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/store"
)

// An agent's own keyring vouches for the files that its keys signed, and for no others. NT-3B
func TestAgentWithKeyring(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	const id = 0x01020304
	sign := func(path string) fleet.Measurement {
		signature, err := ecdsa.SignASN1(rand.Reader, key, fileDigest(path))
		if err != nil {
			t.Fatal(err)
		}
		attribute := binary.BigEndian.AppendUint32([]byte{3, 2, 4}, id)
		attribute = binary.BigEndian.AppendUint16(attribute, uint16(len(signature)))
		return fleet.Measurement{Path: path, Digest: fileDigest(path), Signature: append(attribute, signature...)}
	}
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	req := agent.enrolment(agent.runtimePolicy())
	keyring := fmt.Sprintf(`{"pubkeys": ["%s"], "keyids": [%d]}`, base64.StdEncoding.EncodeToString(spki), id)
	req.IMAVerificationKey = &keyring
	v.add(t, agent, req)
	v.passes(t, "a1", 1)
	if _, err := agent.list.Measure(sign("/usr/bin/signed")); err != nil {
		t.Fatal(err)
	}
	v.passes(t, "a1", 3)
	forged := sign("/usr/bin/signed")
	forged.Path, forged.Digest = "/usr/bin/evil", fileDigest("/usr/bin/evil")
	if _, err := agent.list.Measure(forged); err != nil {
		t.Fatal(err)
	}
	st := v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
	if !strings.Contains(string(st.LastEventContext), "/usr/bin/evil") {
		t.Errorf("status %s", encode(t, st))
	}
}

// NT-90: a keyring in place of a runtime policy is something to be held to; one that says nothing is refused.
func TestEnrolmentWithKeyring(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	key, err := x509.MarshalPKIXPublicKey(&mustECKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := `{"pubkeys":["` + base64.StdEncoding.EncodeToString(key) + `"],"keyids":[0]}`
	for i, c := range []struct{ keyring, want string }{
		{good, ""},
		{string(encode(t, good)), ""}, // wrapped once more
		{"{}", `want an object with "pubkeys"`},
		{"x", "ima_sign_verification_keys: keyring"},
		{`{"pubkeys":["AAAA"],"keyids":[0]}`, "pubkeys[0]: neither a certificate nor a key"},
	} {
		set := map[string]json.RawMessage{"ima_sign_verification_keys": encode(t, c.keyring)}
		id := fmt.Sprintf("a%d", i)
		status, body := request(t, admin, "POST", base+"/v2.6/agents/"+id, with(t, agent.enrolment(""), set))
		if c.want != "" {
			if status != 400 || !strings.Contains(statusText(body), c.want) {
				t.Errorf("%s: answered %d %s", c.keyring, status, body)
			}
			continue
		}
		if status != 200 {
			t.Errorf("%s: answered %d %s", c.keyring, status, body)
			continue
		}
		a, err := v.store.Agent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.view(t.Context(), a).appraises; len(got) != 1 {
			t.Errorf("%s: appraises %q", c.keyring, got)
		}
	}
}

func mustECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// HARDEN 11: enable_dm_policy decides whether a policy may have rules for the device mapper.
func TestDMPolicyNeedsItsOption(t *testing.T) {
	t.Parallel()
	rules := `{"version":1,"match_on":"name","rules":{}}`
	text := strings.Replace(policy.EmptyRuntime, `"dm_policy":null`, `"dm_policy":`+rules, 1)
	body := []byte(`{"runtime_policy":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"}`)
	for enabled, want := range map[bool]string{true: "", false: "Runtime policy is malformatted: {'version': 1, 'match_on': 'name', 'rules': {}} is not of type 'null'"} {
		cfg := fastConfig(t)
		cfg.EnableDMPolicy = enabled
		v := newVerifier(t, cfg, openStore(t))
		err := v.addRuntimePolicy(t.Context(), "p", body)
		if (err == nil) != enabled || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("enabled %v: %v", enabled, err)
		}
		if enabled {
			if _, err := v.policies.runtime(t.Context(), "p", time.Now()); err != nil {
				t.Error(err)
			}
		}
	}
}

// A policy may bring keys that cannot be used; whoever uploads it can see which in the log.
func TestUnusableKeysOfPoliciesAreLogged(t *testing.T) {
	t.Parallel()
	var document map[string]any
	if err := json.Unmarshal([]byte(policy.EmptyRuntime), &document); err != nil {
		t.Fatal(err)
	}
	document["verification-keys"] = `{"meta": {"version": 1}, "release": 0, "pubkeys": ["bm8ga2V5"], "keyids": [1]}`
	content := base64.StdEncoding.EncodeToString(encode(t, document))
	v := newVerifier(t, fastConfig(t), openStore(t))
	if err := v.addRuntimePolicy(t.Context(), "keys", encode(t, api.RuntimePolicyUpload{RuntimePolicy: &content})); err != nil {
		t.Fatal(err)
	}
	if log := v.log.String(); !strings.Contains(log, "pubkeys[0]") || !strings.Contains(log, `"policy":"keys"`) {
		t.Errorf("log:\n%s", log)
	}
}
