package tenant

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"keylime/internal/api"
)

func TestAddDeliversAndEnrols(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		s := newStage(t, alg)
		o := &options{agent: s.id, file: writeFile(t, "secret", "the secret payload"), runtimePolicy: writeFile(t, "p", goodPolicy), verify: true}
		var notes strings.Builder
		r, err := add(t.Context(), s.tenant(t, &notes, nil), o)
		if err != nil {
			t.Fatalf("%s: %v\n%s", alg, err, notes.String())
		}
		if e := r.(*enrolled); !e.verified || e.verifier == nil {
			t.Errorf("%s: report %+v", alg, e)
		}
		s.checkDelivery(t, "the secret payload")
		if got := s.enrolment["ak_tpm"]; got != s.record.AIKTPM {
			t.Errorf("%s: the verifier was told another AK: %v", alg, got)
		}
		if got := s.enrolment["tpm_policy"]; got != `{"mask": "0x400"}` {
			t.Errorf("%s: tpm_policy %v", alg, got)
		}
		for _, secret := range []string{"the secret payload", base64.StdEncoding.EncodeToString(s.key())} {
			if strings.Contains(notes.String(), secret) {
				t.Errorf("%s: notes tell a secret: %q", alg, notes.String())
			}
		}
	}
}

// checkDelivery holds that the agent could decrypt what it was sent, and that the tag was right.
func (s *stage) checkDelivery(t testing.TB, want string) {
	t.Helper()
	k := s.key()
	if k == nil {
		t.Fatal("agent and verifier do not have both shares")
	}
	keys := shares{k: k}
	if s.ukey.AuthTag != keys.mac(s.id) {
		t.Errorf("auth tag %s is not that of K and id", s.ukey.AuthTag)
	}
	if s.ukey.Payload == nil {
		t.Fatal("no payload")
	}
	if got := unseal(t, delivery{keys: &keys, payload: *s.ukey.Payload}); string(got) != want {
		t.Errorf("payload %q, want %q", got, want)
	}
}

// TestNothingIsGivenToWhoIsNotTrusted: each of these agents is refused before it or the verifier gets anything.
func TestNothingIsGivenToWhoIsNotTrusted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, *stage, map[string]string)
		code  int
		wrong string
	}{
		{"not registered", func(_ *testing.T, s *stage, _ map[string]string) {
			s.registrar.on("GET /v2.6/agents/"+s.id, refuse(404, "Agent with ID 'x' not found"))
		}, exitNotFound, "does not exist on registrar"},
		{"the AK of another TPM is registered", func(t *testing.T, s *stage, _ map[string]string) { // NT-20
			s.record.AIKTPM = recordOf(softTPM(t, "ecc256")).AIKTPM
		}, exitUntrusted, "identity quote"},
		{"another agent answers at the address", func(t *testing.T, s *stage, _ map[string]string) {
			s.record.MTLSCert = &newStage(t, "ecc256").cert
		}, exitUntrusted, "another certificate"},
		{"transport key replaced on the way", func(t *testing.T, s *stage, _ map[string]string) {
			_, other := transportKey(t, 1)
			s.agent.on("GET /v2.6/quotes/identity", func(w http.ResponseWriter, r *http.Request) {
				mine := s.pubkey
				answer := identityAnswer(t, s.soft, r.URL.Query().Get("nonce"), mine)
				answer.EncAlg, answer.SignAlg, answer.PubKey = "ecc256", "ecdsa", &other
				envelope(w, 200, "Success", answer)
			})
		}, exitUntrusted, "does not bind"},
		{"the same quote for every nonce", func(t *testing.T, s *stage, _ map[string]string) { // NT-25
			answer := identityAnswer(t, s.soft, "AAAAAAAAAAAAAAAAAAAA", s.pubkey)
			answer.EncAlg, answer.SignAlg = "ecc256", "ecdsa"
			s.agent.on("GET /v2.6/quotes/identity", results(answer))
		}, exitUntrusted, "nonce"},
		{"hash not accepted", func(_ *testing.T, _ *stage, set map[string]string) { // NT-30
			set["ACCEPT_TPM_HASH_ALGS"] = "['sha512']"
		}, exitUntrusted, "hint: if it is strong enough for you, add it to accept_tpm_hash_algs"},
		{"plain HTTP registered", func(_ *testing.T, s *stage, _ map[string]string) {
			disabled := withoutTLS
			s.record.MTLSCert = &disabled
		}, exitFailed, "plain HTTP"},
		{"no certificate registered", func(_ *testing.T, s *stage, _ map[string]string) { s.record.MTLSCert = nil }, exitFailed, "without a TLS certificate"},
		{"an address that is more than an address", func(_ *testing.T, s *stage, _ map[string]string) { // NT-47
			host := "127.0.0.1:1/x?"
			s.record.IP = &host
		}, exitFailed, "no host name or address"},
		{"versions that nobody speaks", func(_ *testing.T, s *stage, _ map[string]string) { // NT-58
			s.agent.on("GET /version", results(map[string]any{"supported_versions": []string{"9.9", "1.0"}}))
		}, exitFailed, "no API version in common"},
		{"no EK certificate", func(_ *testing.T, _ *stage, set map[string]string) { set["REQUIRE_EK_CERT"] = "True" }, exitUntrusted, "EK certificate"},
		{"refused by the script", func(t *testing.T, _ *stage, set map[string]string) {
			set["EK_CHECK_SCRIPT"] = judgedBy(t, "exit 1").cfg.EKCheckScript
		}, exitUntrusted, "ek_check_script"},
		{"the agent refuses to quote", func(_ *testing.T, s *stage, _ map[string]string) {
			s.agent.on("GET /v2.6/quotes/identity", refuse(500, "Unable to retrieve quote"))
		}, exitFailed, "Unable to retrieve quote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, set := newStage(t, "ecc256"), map[string]string{}
			c.spoil(t, s, set)
			o := &options{agent: s.id, file: writeFile(t, "secret", "the secret payload")}
			_, err := add(t.Context(), s.tenant(t, io.Discard, set), o)
			if err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != c.code {
				t.Errorf("got %v (exit %d), want an error with %q and exit %d", err, exitCode(err), c.wrong, c.code)
			}
			if err != nil && !strings.Contains(err.Error(), "hint: ") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if s.agent.was("POST") || s.verifier.was("POST") {
				t.Errorf("something was given: agent %v, verifier %v", s.agent.asked(), s.verifier.asked())
			}
		})
	}
}

// NT-07: what the registrar says later makes no difference.
func TestVerifierIsToldTheKeyThatWasChecked(t *testing.T) {
	t.Parallel()
	s, other := newStage(t, "ecc256"), newStage(t, "ecc256")
	checked := s.record
	lookups := 0
	s.registrar.on("GET /v2.6/agents/"+s.id, func(w http.ResponseWriter, _ *http.Request) {
		if lookups++; lookups > 1 {
			envelope(w, 200, "Success", other.record)
			return
		}
		envelope(w, 200, "Success", checked)
	})
	s.agent.on("POST /v2.6/keys/ukey", func(w http.ResponseWriter, r *http.Request) {
		lookups++ // from here on the registrar has another TPM under this id
		s.takeU(w, r)
	})
	if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, file: writeFile(t, "f", "x"), verify: true}); err != nil {
		t.Fatal(err)
	}
	if s.enrolment["ak_tpm"] != checked.AIKTPM || s.enrolment["mtls_cert"] != *checked.MTLSCert {
		t.Error("the verifier was told keys that the tenant did not check")
	}
	if n := len(s.registrar.asked()); n != 2 {
		t.Errorf("the registrar was asked %d times (version and agent, want 2): %v", n, s.registrar.asked())
	}
}

func TestBusyAgentIsAskedAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	asked := 0
	s.agent.on("GET /v2.6/quotes/identity", func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked < 3 {
			envelope(w, 503, "busy", struct{}{})
			return
		}
		s.identity(w, r)
	})
	var notes strings.Builder
	if _, err := add(t.Context(), s.tenant(t, &notes, nil), &options{agent: s.id}); err != nil {
		t.Fatal(err)
	}
	nonces := map[string]bool{}
	for _, r := range s.agent.asked() {
		if strings.Contains(r, "nonce=") {
			nonces[r] = true
		}
	}
	if len(nonces) != 3 {
		t.Errorf("three tries used %d nonces", len(nonces))
	}
	if !strings.Contains(notes.String(), "try 3 of 5") {
		t.Errorf("notes do not tell of the wait: %q", notes.String())
	}
	if s.enrolment["v"] != nil {
		t.Errorf("an agent without payload got a key: %v", s.enrolment["v"])
	}
}

func TestAgentWithoutTheKeyIsStopped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		code   int
	}{
		{"another key", results(api.KeyVerify{HMAC: strings.Repeat("0", 96)}), exitUntrusted},
		{"never a key", refuse(400, "Bootstrap key not yet available."), exitUntrusted},
		{"no proof at all", refuse(404, "no"), exitNotFound},
	} {
		s := newStage(t, "ecc256")
		s.agent.on("GET /v2.6/keys/verify", c.answer)
		o := &options{agent: s.id, file: writeFile(t, "f", "x"), verify: true}
		_, err := add(t.Context(), s.tenant(t, io.Discard, nil), o)
		if err == nil || exitCode(err) != c.code {
			t.Errorf("%s: got %v (exit %d), want exit %d", c.name, err, exitCode(err), c.code)
		}
		if !s.verifier.was("PUT /v2.6/agents/" + s.id + "/stop") {
			t.Errorf("%s: the agent was not stopped: %v", c.name, s.verifier.asked())
		}
	}
}

func TestVerifierThatHasTheAgent(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	s.verifier.on("POST /v2.6/agents/"+s.id, refuse(409, "Agent of uuid x already exists. Please use delete or update."))
	_, err := add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id})
	if err == nil || exitCode(err) != exitFailed || !strings.Contains(err.Error(), "409 Agent of uuid x already exists") || !strings.Contains(err.Error(), "keylime tenant update") {
		t.Errorf("got %v", err)
	}
}

func TestPushAgentIsNeverContacted(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, pushModel: true}); err != nil {
		t.Fatal(err)
	}
	if asked := s.agent.asked(); len(asked) != 0 {
		t.Errorf("the agent was asked %v", asked)
	}
	if s.enrolment["cloudagent_ip"] != "127.0.0.1" || s.enrolment["supported_version"] != "2.6" {
		t.Errorf("enrolment %v", s.enrolment)
	}
}

func TestFailedUpdateLeavesTheAgentAsItWas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		o     options
		spoil func(*stage)
	}{
		{"agent does not prove its identity", options{}, func(s *stage) {
			s.agent.on("GET /v2.6/quotes/identity", refuse(500, "Unable to retrieve quote"))
		}},
		{"policy name is taken", options{runtimePolicy: writeFile(t, "p", goodPolicy), runtimePolicyName: "production"}, func(s *stage) {
			s.verifier.on("GET /v2.6/allowlists", results(map[string]any{"runtimepolicy names": []string{"production"}}))
		}},
	} {
		s := newStage(t, "ecc256")
		c.spoil(s)
		c.o.agent = s.id
		if _, err := update(t.Context(), s.tenant(t, io.Discard, nil), &c.o); err == nil {
			t.Errorf("%s: done", c.name)
		}
		if s.verifier.was("DELETE") || s.verifier.was("POST") {
			t.Errorf("%s: the verifier was asked %v", c.name, s.verifier.asked())
		}
	}
}

func TestUpdateDeletesThenEnrols(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	present := results(api.VerifierAgent{OperationalState: 3})
	s.verifier.on("GET /v2.6/agents/"+s.id, present)
	polls := 0
	s.verifier.on("DELETE /v2.6/agents/"+s.id, func(w http.ResponseWriter, r *http.Request) {
		s.verifier.on("GET /v2.6/agents/"+s.id, func(w http.ResponseWriter, r *http.Request) { // a round is in flight
			if polls++; polls < 3 {
				present(w, r)
				return
			}
			refuse(404, "agent id not found")(w, r)
		})
		envelope(w, 202, "Accepted", struct{}{})
	})
	if _, err := update(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id}); err != nil {
		t.Fatal(err)
	}
	var writes []string
	for _, r := range s.verifier.asked() {
		if !strings.HasPrefix(r, "GET") {
			writes = append(writes, r)
		}
	}
	if strings.Join(writes, " ") != "DELETE /v2.6/agents/"+s.id+" POST /v2.6/agents/"+s.id {
		t.Errorf("the verifier was asked %v", writes)
	}
}
