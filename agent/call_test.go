package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/tpm"
	"keylime/tpm/device"
)

// token is a bearer token: a session's id and its secret.
var token = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}\.[A-Za-z0-9_-]{43}`)

func bytesOf(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// pcr is the value of a PCR of the SHA-256 bank, in hex.
func (m *machine) pcr(index int) string {
	m.t.Helper()
	other, err := device.Open(m.t.Context(), m.tpm.TCTI())
	if err != nil {
		m.t.Fatal(err)
	}
	defer other.Close()
	value, err := other.ReadPCR(m.t.Context(), tpm.SHA256, index)
	if err != nil {
		m.t.Fatal(err)
	}
	return hex.EncodeToString(value)
}

// The life of an agent that calls in: it passes, sends what is new, fails, and all the while touches no PCR.
func TestCallingAgentLife(t *testing.T) {
	t.Parallel()
	for _, make := range []func(*testing.T) *machine{newMachine, newRSAMachine} {
		m := make(t)
		t.Run(m.cfg.TPMSigningAlg, func(t *testing.T) {
			m.t = t
			v := m.verifier()
			m.calling(v.url)
			list := m.measure()
			m.extend(tpm.PCRData, bytesOf(32, 1))
			before := m.pcr(tpm.PCRData)
			r := m.caller()
			v.enrol(m.cfg.UUID, m.enrolment())
			v.passes(m.cfg.UUID, 1)
			digest := sha256.Sum256([]byte(goodFile))
			if err := list.Measure(t.Context(), goodFile, digest[:]); err != nil {
				t.Fatal(err)
			}
			v.passes(m.cfg.UUID, 2)
			if got := m.pcr(tpm.PCRData); got != before {
				t.Errorf("PCR 16 was %s and is %s", before, got)
			}
			boots := map[string]bool{}
			for _, a := range v.attestations(m.cfg.UUID) {
				boots[a.System.BootTime] = true
			}
			if len(boots) != 1 {
				t.Errorf("one boot has the times %v", boots)
			}
			if entries := lastLog(t, v, m.cfg.UUID); strings.Contains(entries, "boot_aggregate") {
				t.Errorf("what is proven was sent again: %q", entries)
			}
			if err := list.Measure(t.Context(), "/usr/bin/evil", bytesOf(32, 2)); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the failure", func() bool { return v.status(m.cfg.UUID).AttestationStatus == "FAIL" })
			if id := v.status(m.cfg.UUID).LastEventID; id == nil || !strings.HasPrefix(*id, "ima.validation.") {
				t.Errorf("failed with %v", id)
			}
			r.stop()
			if request := m.registrar.last(); *request.MTLSCert != "disabled" {
				t.Errorf("registered mtls_cert %.30q", *request.MTLSCert)
			}
			noSecrets(t, m, v)
		})
	}
}

// NT-85: neither side's log holds a token.
func noSecrets(t *testing.T, m *machine, v *callee) {
	t.Helper()
	for _, log := range []string{m.log.String(), v.log.String()} {
		if token.MatchString(log) {
			t.Errorf("a token is in the log: %s", token.FindString(log))
		}
	}
}

// lastLog is the measurement list of the last attestation that the verifier kept.
func lastLog(t *testing.T, v *callee, id string) string {
	t.Helper()
	for _, a := range v.attestations(id) {
		for _, item := range a.Evidence {
			if item.Type != api.EvidenceIMA || item.Data == nil {
				continue
			}
			var data api.LogData
			if err := json.Unmarshal(item.Data, &data); err != nil {
				t.Fatal(err)
			}
			if data.Entries != nil {
				return *data.Entries
			}
			return ""
		}
	}
	t.Fatal("no attestation has a measurement list")
	return ""
}

// leave leaves a payload as a tenant does, and returns the key's half for the enrolment.
func (m *machine) leave(v *callee, key, share, plain []byte) {
	m.t.Helper()
	u := make([]byte, len(key))
	for i := range u {
		u[i] = key[i] ^ share[i]
	}
	registered := m.registrar.last()
	sealed, err := tpm.MakeCredential(rand.Reader, publicOf(m.t, *registered.EKTPM), publicOf(m.t, *registered.AIKTPM).Name(), u)
	if err != nil {
		m.t.Fatal(err)
	}
	body, err := json.Marshal(api.Document[api.Payload]{Data: api.Resource[api.Payload]{Type: api.TypePayload, Attributes: api.Payload{
		SealedU: base64.StdEncoding.EncodeToString(sealed), Tag: hex.EncodeToString(authTag(key, m.cfg.UUID)), Data: sealPayload(m.t, key, plain),
	}}})
	if err != nil {
		m.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(m.t.Context(), http.MethodPut, v.url+"/v3.0/agents/"+m.cfg.UUID+"/payload", strings.NewReader(string(body)))
	if err != nil {
		m.t.Fatal(err)
	}
	request.Header.Set("Content-Type", api.JSONAPIType)
	rsp, err := v.http.Do(request)
	if err != nil {
		m.t.Fatal(err)
	}
	rsp.Body.Close()
	if rsp.StatusCode != http.StatusNoContent {
		m.t.Fatalf("payload was answered with %d", rsp.StatusCode)
	}
}

// A payload comes with the first attestation that passes, once, and again only when another one is left; revocations of
// other agents come with it, and are carried out once, a restart in between or not.
func TestPayloadAndRevocationsReachACallingAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.verifier()
	m.calling(v.url)
	m.measure()
	r := m.caller()
	key, share := bytesOf(32, 9), bytesOf(32, 4)
	enrolment := m.enrolment()
	enrolment.V, enrolment.AttestationMode = new(base64.StdEncoding.EncodeToString(share)), new(api.ModePush)
	secret := newNotifier(t)
	revocationKey, err := pki.EncodePrivateKey(secret.key, "")
	if err != nil {
		t.Fatal(err)
	}
	enrolment.RevocationKey = new(string(revocationKey))
	v.enrol(m.cfg.UUID, enrolment)
	runs, noted := filepath.Join(t.TempDir(), "runs"), filepath.Join(t.TempDir(), "noted")
	m.leave(v, key, share, makeZip(t,
		zipEntry{"autorun.sh", 0o700, "#!/bin/sh\necho run >>" + runs + "\n"},
		zipEntry{"RevocationNotifier-cert.crt", 0o600, secret.certificate(t)},
		zipEntry{"action_list", 0o600, "note\n"},
		zipEntry{"note", 0o700, "#!/bin/sh\ncat $1 >>" + noted + "\n"},
	))
	waitFor(t, "the payload's script", func() bool { return exists(runs) })
	v.passes(m.cfg.UUID, 2)
	r.stop()

	// Another agent of the same verifier fails while this one is down.
	other := newMachine(t)
	other.cfg.UUID = "11111111-2222-4333-8444-555555555555"
	other.calling(v.url)
	list := other.measure()
	other.caller()
	of := other.enrolment()
	of.RevocationKey, of.V, of.AttestationMode = enrolment.RevocationKey, enrolment.V, new(api.ModePush)
	v.enrol(other.cfg.UUID, of)
	v.passes(other.cfg.UUID, 1)
	if err := list.Measure(t.Context(), "/usr/bin/evil", bytesOf(32, 2)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the other's failure", func() bool { return v.status(other.cfg.UUID).AttestationStatus == "FAIL" })

	r = m.caller()
	waitFor(t, "the payload's revocation action", func() bool { return exists(noted) })
	v.passes(m.cfg.UUID, 2)
	r.stop()
	m.caller()
	v.passes(m.cfg.UUID, 2)
	if n := strings.Count(read(t, noted), other.cfg.UUID); n != 1 {
		t.Errorf("the revocation was carried out %d times", n)
	}
	// The agent's stop unmounts the secure directory, so that each start unpacks the payload anew.
	if n := strings.Count(read(t, runs), "run"); n != 3 {
		t.Errorf("the payload was unpacked %d times at 3 starts", n)
	}
}
