package tenant

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/tpm"
)

// newCallingStage is a stage whose agent calls in: it registered without a certificate, and nobody answers at its
// address. The verifier takes payloads.
func newCallingStage(t testing.TB, alg string) *stage {
	t.Helper()
	s := newStage(t, alg)
	s.agent.Close()
	s.record.MTLSCert = new(withoutTLS)
	s.verifier.on("GET "+s.payloadPath(), document(403, `{"errors":[{"status":"403","title":"Forbidden","detail":"Action read_payload requires agent authentication"}]}`))
	s.verifier.on("PUT "+s.payloadPath(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return s
}

func (s *stage) payloadPath() string { return "/v3.0/agents/" + s.id + "/payload" }

// document answers with a JSON:API document.
func document(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", api.JSONAPIType)
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

// left is the payload that the verifier was left.
func (s *stage) left(t testing.TB) api.Payload {
	t.Helper()
	at := slices.Index(s.verifier.asked(), "PUT "+s.payloadPath())
	if at < 0 {
		t.Fatalf("no payload was left: %v", s.verifier.asked())
	}
	var d api.Document[api.Payload]
	if err := json.Unmarshal(s.verifier.seen[at].body, &d); err != nil || d.Data.Type != api.TypePayload {
		t.Fatalf("left %s: %v", s.verifier.seen[at].body, err)
	}
	return d.Data.Attributes
}

// TestPayloadIsLeftForTheTPMAndTheVerifier: the verifier is told V and left U as only the TPM opens it; together they
// give the payload.
func TestPayloadIsLeftForTheTPMAndTheVerifier(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		s := newCallingStage(t, alg)
		o := &options{agent: s.id, pushModel: true, file: writeFile(t, "secret", "the secret payload"), runtimePolicy: writeFile(t, "p", goodPolicy)}
		var notes strings.Builder
		if _, err := add(t.Context(), s.tenant(t, &notes, nil), o); err != nil {
			t.Fatalf("%s: %v\n%s", alg, err, notes.String())
		}
		if asked := s.agent.asked(); len(asked) != 0 {
			t.Errorf("%s: the agent was asked %v", alg, asked)
		}
		if s.enrolment["attestation_mode"] != "push" {
			t.Errorf("%s: the verifier was told attestation_mode %v", alg, s.enrolment["attestation_mode"])
		}
		p := s.left(t)
		if p.V != "" {
			t.Errorf("%s: V lies beside U", alg)
		}
		sealed, err := base64.StdEncoding.DecodeString(p.SealedU)
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.soft.Activate(sealed)
		if err != nil {
			t.Fatalf("%s: the agent's TPM does not open U: %v", alg, err)
		}
		s.setShares(u, nil)
		keys := shares{k: s.key()}
		if !hmac.Equal([]byte(p.Tag), []byte(keys.mac(s.id))) {
			t.Errorf("%s: tag %s is not that of K and id", alg, p.Tag)
		}
		if got := unseal(t, delivery{keys: &keys, payload: p.Data}); string(got) != "the secret payload" {
			t.Errorf("%s: payload %q", alg, got)
		}
		if _, err := softTPM(t, alg).Activate(sealed); err == nil { // another machine
			t.Errorf("%s: another TPM opens U", alg)
		}
		asked := s.verifier.asked()
		if slices.Index(asked, "POST /v2.6/agents/"+s.id) > slices.Index(asked, "PUT "+s.payloadPath()) {
			t.Errorf("%s: the payload was left before the agent was enrolled: %v", alg, asked)
		}
	}
}

// TestPayloadOnlyWhereItIsTaken: a verifier that has no such route is found out before the agent is enrolled.
func TestPayloadOnlyWhereItIsTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		body   string
		code   int
		wrong  string
	}{
		{"no such route", 404, "", exitFailed, "takes no payloads for agents that call in; agent " + defaultAgent + " was not enrolled"},
		{"no such method", 405, "", exitFailed, "takes no payloads"},
		{"a page for people", 200, "<html>welcome</html>", exitFailed, "takes no payloads"},
		{"led elsewhere", 307, "", exitFailed, "takes no payloads"},
		{"out of order", 500, "", exitFailed, "ask whether it takes a payload"},
		{"busy", 503, "", exitUnreachable, "hint: it is busy; try again"},
	} {
		s := newCallingStage(t, "ecc256")
		s.verifier.on("GET "+s.payloadPath(), document(c.status, c.body))
		o := &options{agent: s.id, pushModel: true, file: writeFile(t, "secret", "the secret payload")}
		_, err := add(t.Context(), s.tenant(t, io.Discard, nil), o)
		if exitCode(err) != c.code || !strings.Contains(fmt.Sprint(err), c.wrong) {
			t.Errorf("%s: exit code %d, error %v", c.name, exitCode(err), err)
		}
		if s.enrolment != nil || s.verifier.was("PUT") {
			t.Errorf("%s: the verifier was asked %v", c.name, s.verifier.asked())
		}
		o.file = ""
		if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), o); err != nil {
			t.Errorf("%s: without a payload: %v", c.name, err)
		}
	}
}

// TestCallingAgentsAreCheckedToo: nobody learns of an agent whose TPM is not shown to be one, or whose AK could sign
// anything. The agent is not there to prove anything; its registration is.
func TestCallingAgentsAreCheckedToo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, *stage, map[string]string)
		wrong string
	}{
		{"no EK certificate", func(_ *testing.T, _ *stage, set map[string]string) { set["REQUIRE_EK_CERT"] = "True" }, "EK certificate"},
		{"refused by the script", func(t *testing.T, _ *stage, set map[string]string) {
			set["EK_CHECK_SCRIPT"] = judgedBy(t, "exit 1").cfg.EKCheckScript
		}, "ek_check_script"},
		{"an EK that is none", func(_ *testing.T, s *stage, _ map[string]string) { s.record.EKTPM = s.record.AIKTPM }, "ek_tpm"},
		{"an AK that signs anything", func(t *testing.T, s *stage, _ map[string]string) {
			s.record.AIKTPM = unrestricted(t, s.record.AIKTPM)
		}, "aik_tpm"},
		{"hash not accepted", func(_ *testing.T, _ *stage, set map[string]string) { // NT-30
			set["ACCEPT_TPM_HASH_ALGS"] = "['sha512']"
		}, "add it to accept_tpm_hash_algs"},
		{"signatures not accepted", func(_ *testing.T, _ *stage, set map[string]string) {
			set["ACCEPT_TPM_SIGNING_ALGS"] = "['rsapss']"
		}, "add it to accept_tpm_signing_algs"},
	} {
		s, set := newCallingStage(t, "ecc256"), map[string]string{}
		c.spoil(t, s, set)
		o := &options{agent: s.id, pushModel: true, file: writeFile(t, "secret", "the secret payload")}
		_, err := add(t.Context(), s.tenant(t, io.Discard, set), o)
		if exitCode(err) != exitUntrusted || !strings.Contains(fmt.Sprint(err), c.wrong) {
			t.Errorf("%s: exit code %d, error %v", c.name, exitCode(err), err)
		}
		if s.enrolment != nil || s.verifier.was("PUT") || s.verifier.was("POST") {
			t.Errorf("%s: the verifier was asked %v", c.name, s.verifier.asked())
		}
	}
}

// unrestricted is a key's public area without the attribute by which it signs nothing but what the TPM made (TPM 2.0
// Part 2, 8.3).
func unrestricted(t testing.TB, public string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		t.Fatal(err)
	}
	const attributes, restricted = 6, 1 << 16 // after size, type and nameAlg, big endian
	raw[attributes+1] &^= restricted >> 16
	if _, err := tpm.ParsePublic(raw); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// TestTheCheckedKeyIsEnrolled: what the registrar says after the check is of no account, for it is not asked again.
func TestTheCheckedKeyIsEnrolled(t *testing.T) {
	t.Parallel()
	s := newCallingStage(t, "ecc256")
	genuine, forged := s.record, s.record
	impostor := softTPM(t, "rsa2048")
	forged.EKTPM, forged.AIKTPM = recordOf(impostor).EKTPM, recordOf(impostor).AIKTPM
	asked := 0
	s.registrar.on("GET /v2.6/agents/"+s.id, func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			envelope(w, 200, "Success", genuine)
			return
		}
		envelope(w, 200, "Success", forged)
	})
	o := &options{agent: s.id, pushModel: true, file: writeFile(t, "secret", "the secret payload")}
	if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), o); err != nil {
		t.Fatal(err)
	}
	if s.enrolment["ak_tpm"] != genuine.AIKTPM {
		t.Errorf("the verifier was told the AK %v", s.enrolment["ak_tpm"])
	}
	sealed, err := base64.StdEncoding.DecodeString(s.left(t).SealedU)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.soft.Activate(sealed); err != nil {
		t.Errorf("the genuine TPM does not open U: %v", err)
	}
	if _, err := impostor.Activate(sealed); err == nil {
		t.Error("the impostor's TPM opens U")
	}
}

// TestModelsThatDoNotMatch: agent, verifier and command line must agree about who calls whom.
func TestModelsThatDoNotMatch(t *testing.T) {
	t.Parallel()
	gone := func(s *stage) { s.verifier.on("GET /version", refuse(410, "Gone")) }
	for _, c := range []struct {
		name    string
		push    bool
		prepare func(*stage, map[string]string)
		wrong   []string // "" = enrolled
		note    string
	}{
		{"an agent without a listener is to be asked", false, func(*stage, map[string]string) {},
			[]string{"registered without a TLS certificate", "if it runs with --push, add it with --push-model"}, ""},
		{"the same where plain HTTP is allowed", false, func(_ *stage, set map[string]string) { set["ENABLE_AGENT_MTLS"] = "False" },
			[]string{"connection refused", "if it runs with --push it listens nowhere: add it with --push-model"}, ""},
		{"the same without an address", false, func(s *stage, _ map[string]string) { s.record.IP, s.record.Port = nil, nil },
			[]string{"is no port", "add it with --push-model"}, ""},
		{"the verifier asks nobody", false, func(s *stage, _ map[string]string) { gone(s) },
			[]string{"takes only agents that call in", "add the agent with --push-model"}, ""},
		{"the verifier asks nobody, as it should", true, func(s *stage, _ map[string]string) { gone(s) }, nil, ""},
		{"an agent without an address calls", true, func(s *stage, _ map[string]string) { s.record.IP, s.record.Port = nil, nil }, nil, ""},
		{"an agent with a listener is to call", true, func(s *stage, _ map[string]string) { s.record.MTLSCert = &s.cert }, nil,
			"registered as one that listens: --push-model has it attested only once it runs with --push"},
	} {
		s, set := newCallingStage(t, "ecc256"), map[string]string{"MAX_RETRIES": "1"}
		c.prepare(s, set)
		var notes strings.Builder
		_, err := add(t.Context(), s.tenant(t, &notes, set), &options{agent: s.id, pushModel: c.push})
		if (err == nil) != (c.wrong == nil) || (s.enrolment != nil) != (c.wrong == nil) {
			t.Errorf("%s: %v, verifier was told %v", c.name, err, s.enrolment)
		}
		for _, text := range c.wrong {
			if !strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("%s: error lacks %q: %v", c.name, text, err)
			}
		}
		if !strings.Contains(notes.String(), c.note) {
			t.Errorf("%s: notes lack %q: %s", c.name, c.note, notes.String())
		}
	}
}

// TestPayloadThatCannotBeLeft: the agent is enrolled then, and the operator is told what to do.
func TestPayloadThatCannotBeLeft(t *testing.T) {
	t.Parallel()
	s := newCallingStage(t, "ecc256")
	s.verifier.on("PUT "+s.payloadPath(), document(422, `{"errors":[{"status":"422","code":"invalid_resource_data","detail":"too large"}]}`))
	var notes strings.Builder
	o := &options{agent: s.id, pushModel: true, file: writeFile(t, "secret", "the secret payload")}
	_, err := add(t.Context(), s.tenant(t, &notes, nil), o)
	if err == nil || !strings.Contains(err.Error(), "too large") || s.enrolment == nil {
		t.Errorf("error %v, enrolment %v", err, s.enrolment != nil)
	}
	if !strings.Contains(notes.String(), "`keylime tenant update` with the same flags leaves it") {
		t.Errorf("notes %q", notes.String())
	}
}
