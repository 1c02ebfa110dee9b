package tenant

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"keylime/internal/api"
)

// payloadRoute is where payloads for the stage's agent are left.
func (s *stage) payloadRoute() string { return "/v3.0/agents/" + s.id + "/payload" }

// takesPayloads has the verifier answer as one of this release does.
func (s *stage) takesPayloads(left *api.Payload) {
	s.verifier.on("GET "+s.payloadRoute(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	s.verifier.on("PUT "+s.payloadRoute(), func(w http.ResponseWriter, r *http.Request) {
		var d api.Document[api.Payload]
		if json.NewDecoder(r.Body).Decode(&d) != nil || d.Data.Type != api.TypePayload || r.Header.Get("Content-Type") != api.JSONAPIType {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		*left = d.Data.Attributes
		w.WriteHeader(http.StatusNoContent)
	})
}

// TestPayloadForACaller: the verifier gets one half of the key and the other sealed; the agent's TPM opens it, and both
// give the payload.
func TestPayloadForACaller(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	var left api.Payload
	s.takesPayloads(&left)
	o := &options{agent: s.id, pushModel: true, file: writeFile(t, "payload", "secret")}
	if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), o); err != nil {
		t.Fatal(err)
	}
	if asked := s.agent.asked(); len(asked) != 0 {
		t.Errorf("the agent was asked %v", asked)
	}
	if s.enrolment["attestation_mode"] != api.ModePush {
		t.Errorf("enrolment %v", s.enrolment)
	}
	v := decode(t, s.enrolment["v"].(string))
	u, err := s.soft.Activate(decode(t, left.SealedU))
	if err != nil {
		t.Fatalf("the TPM does not open the key's half: %v", err)
	}
	k := make([]byte, keySize)
	for i := range k {
		k[i] = u[i] ^ v[i]
	}
	keys := shares{k: k, u: u, v: v}
	if left.Tag != keys.mac(s.id) {
		t.Error("the tag is not that of the key")
	}
	if bytes.Contains(decode(t, left.Data), []byte("secret")) || strings.Contains(left.SealedU, base64.StdEncoding.EncodeToString(u)) {
		t.Error("the verifier can read what it is not to read")
	}
	other := newStage(t, "ecc256")
	if _, err := other.soft.Activate(decode(t, left.SealedU)); err == nil {
		t.Error("another TPM opens the key's half")
	}
}

// A verifier that takes no payloads is found out before anything is enrolled.
func TestPayloadIsRefusedBeforeEnrolment(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	o := &options{agent: s.id, pushModel: true, file: writeFile(t, "payload", "secret")}
	_, err := add(t.Context(), s.tenant(t, io.Discard, nil), o)
	if err == nil || !strings.Contains(err.Error(), "takes no payloads") || s.enrolment != nil {
		t.Errorf("error %v, enrolment %v", err, s.enrolment)
	}
}

func TestModelsThatDoNotMatch(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256") // which registered a certificate
	var notes bytes.Buffer
	if _, err := add(t.Context(), s.tenant(t, &notes, nil), &options{agent: s.id, pushModel: true}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(notes.String(), "registered as one that listens") {
		t.Errorf("no warning about the agent's model: %s", notes.String())
	}

	s = newStage(t, "ecc256")
	s.record.MTLSCert = new(withoutTLS)
	_, err := add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id})
	if err == nil || !strings.Contains(err.Error(), "add it with --push-model") {
		t.Errorf("an agent that calls in, added to be asked: %v", err)
	}

	s = newStage(t, "ecc256")
	s.verifier.on("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, `{"code": 410, "status": "Gone", "results": {}}`)
	})
	_, err = add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id})
	if err == nil || !strings.Contains(err.Error(), "takes only agents that call in") || len(s.agent.asked()) != 0 || s.enrolment != nil {
		t.Errorf("an agent to be asked, at a verifier that asks none: %v", err)
	}
	if _, err := add(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, pushModel: true}); err != nil {
		t.Error(err)
	}
}

// The EK certificate is checked whoever calls whom.
func TestCallersEKIsChecked(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	s.record.EKCert = nil
	_, err := add(t.Context(), s.tenant(t, io.Discard, map[string]string{"REQUIRE_EK_CERT": "True"}), &options{agent: s.id, pushModel: true})
	if exitCode(err) != exitUntrusted || s.enrolment != nil {
		t.Errorf("%v, enrolment %v", err, s.enrolment)
	}
}

func TestAttestations(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	all := "/v3.0/agents/" + s.id + "/attestations"
	record := func(index, evaluation, event string) string {
		return `{"type":"attestation","attributes":{"stage":"verification_complete","evaluation":"` + evaluation + `","evidence":[],` +
			`"system_info":{"boot_time":"2027-01-01T00:00:00.000000+00:00"},"capabilities_received_at":"2027-01-02T00:00:00.000000+00:00",` +
			`"event_id":"` + event + `"},"links":{"self":"` + all + `/` + index + `"}}`
	}
	s.verifier.on("GET "+all, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			_, _ = io.WriteString(w, `{"data":[`+record("7", "fail", "ima.pcr_mismatch")+`],"links":{"self":"`+all+`","next":"`+all+`?page=2"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"data":`+record("6", "pass", "")+`}`) // one alone is no list (wire)
	})
	s.verifier.on("GET "+all+"/latest", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated) // as upstream's verifier answers
		_, _ = io.WriteString(w, `{"data":`+record("7", "fail", "ima.pcr_mismatch")+`}`)
	})
	for _, c := range []struct {
		o    options
		want []string
	}{
		{options{}, []string{"     7  2027-01-02T00:00:00Z  fail     ima.pcr_mismatch", "     6  2027-01-02T00:00:00Z  pass"}},
		{options{latest: true}, []string{"     7  2027-01-02T00:00:00Z  fail     ima.pcr_mismatch"}},
	} {
		c.o.agent = s.id
		r, err := attestations(t.Context(), s.tenant(t, io.Discard, nil), &c.o)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := write(&out, "table", false, s.tenant(t, io.Discard, nil).now(), r); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(out.String()); got != strings.TrimSpace(strings.Join(c.want, "\n")) {
			t.Errorf("%+v:\n%s", c.o, out.String())
		}
	}
	_, err := attestations(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, index: "99"})
	if exitCode(err) != exitNotFound {
		t.Errorf("an attestation that is not there: %v", err)
	}
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
