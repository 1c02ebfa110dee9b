package agent

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/api"
	"keylime/internal/swtpm"
	"keylime/tpm"
)

// verify checks a quote as the verifier does and returns its PCRs.
func (r *running) verify(q api.QuoteResults, nonce string, mask tpm.Mask, pubKey string) tpm.VerifiedPCRs {
	r.t.Helper()
	quote, err := tpm.ParseQuote(q.Quote)
	if err != nil {
		r.t.Fatal(err)
	}
	bank, err := tpm.ParseHash(q.HashAlg)
	if err != nil {
		r.t.Fatal(err)
	}
	pcrs, err := tpm.VerifyQuote(r.ak, quote, tpm.Expected{Nonce: []byte(nonce), Mask: mask.With(tpm.PCRData), Hash: bank})
	if err != nil {
		r.t.Fatal(err)
	}
	if got, _ := pcrs.PCR(tpm.PCRData); string(got) != string(tpm.DataPCR(bank, pubKey)) {
		r.t.Errorf("PCR 16 is %x, which does not bind the transport key", got)
	}
	return pcrs
}

// seal encrypts a key share to the agent's transport key.
func seal(t testing.TB, pubKey string, share []byte) string {
	t.Helper()
	block, _ := pem.Decode([]byte(pubKey))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key.(*rsa.PublicKey), share, nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sealed)
}

// deliver does what tenant and verifier do with a payload.
func (r *running) deliver(payload []byte) {
	r.t.Helper()
	ctx := r.t.Context()
	key, err := r.admin.PubKey(ctx, "2.6")
	if err != nil {
		r.t.Fatal(err)
	}
	k := make([]byte, 32)
	if _, err := rand.Read(k); err != nil {
		r.t.Fatal(err)
	}
	u, v := shares(k, "", "")
	sealed := sealPayload(r.t, k, payload)
	err = r.admin.UKey(ctx, "2.6", api.UKey{EncryptedKey: seal(r.t, key.PubKey, u.u), AuthTag: hex.EncodeToString(authTag(k, exampleID)), Payload: &sealed})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.admin.VKey(ctx, "2.6", api.VKey{EncryptedKey: seal(r.t, key.PubKey, v.v)}); err != nil {
		r.t.Fatal(err)
	}
	proof, err := r.admin.KeyVerify(ctx, "2.6", "abcdefghij0123456789")
	if err != nil {
		r.t.Fatal(err)
	}
	if want := hex.EncodeToString(authTag(k, "abcdefghij0123456789")); proof.HMAC != want {
		r.t.Errorf("proof of the key is %s, want %s", proof.HMAC, want)
	}
}

// The whole life of an agent: quotes, an incremental list, a payload with its script, a revocation, the end.
func TestAgentLife(t *testing.T) {
	t.Parallel()
	m := newRSAMachine(t)
	list := m.measure()
	writeFile(t, m.cfg.MeasuredBootMLPath, "\x00binary\xff", 0o600)
	r := m.start()
	ctx := t.Context()

	identity, err := r.admin.IdentityQuote(ctx, "2.6", "abcdefghij0123456789")
	if err != nil {
		t.Fatal(err)
	}
	r.verify(identity, "abcdefghij0123456789", 0, *identity.PubKey)

	first, err := r.admin.IntegrityQuote(ctx, "2.6", api.IntegrityRequest{Nonce: "n0", Mask: tpm.MaskOf(0, 10).String(), Entry: 0})
	if err != nil {
		t.Fatal(err)
	}
	if *first.IMA != read(t, m.cfg.IMAMLPath) || *first.IMAEntry != 0 || *first.BootLog != base64.StdEncoding.EncodeToString([]byte("\x00binary\xff")) {
		t.Errorf("logs are %q from %d and %q", *first.IMA, *first.IMAEntry, *first.BootLog)
	}
	before, _ := r.verify(first, "n0", tpm.MaskOf(0, 10), *first.PubKey).PCR(tpm.PCRIma)

	digest := sha256.Sum256([]byte("evil"))
	if err := list.Measure(ctx, "/usr/bin/evil", digest[:]); err != nil {
		t.Fatal(err)
	}
	second, err := r.admin.IntegrityQuote(ctx, "2.6", api.IntegrityRequest{Nonce: "n1", Mask: "0x400", Partial: true, Entry: 1})
	if err != nil {
		t.Fatal(err)
	}
	after, _ := r.verify(second, "n1", tpm.MaskOf(10), *identity.PubKey).PCR(tpm.PCRIma)
	if string(before) == string(after) || !strings.HasSuffix(*second.IMA, " /usr/bin/evil\n") || strings.Count(*second.IMA, "\n") != 1 || *second.IMAEntry != 1 {
		t.Errorf("after one more entry: %q from %d", *second.IMA, *second.IMAEntry)
	}
	if second.PubKey != nil || second.BootLog != nil {
		t.Error("a partial quote without PCR 0 carries the key or the boot log")
	}

	n := newNotifier(t)
	ran, revoked := m.path("ran"), m.path("revoked")
	r.deliver(makeZip(t,
		zipEntry{"autorun.sh", 0o644, "pwd > " + ran + "; echo hello from the payload\n"},
		zipEntry{"RevocationNotifier-cert.crt", 0o644, n.certificate(t)},
		zipEntry{"action_list", 0o644, "act, \n"},
		zipEntry{"act", 0o644, "#!/bin/sh\ncp \"$1\" " + revoked + "\n"},
	))
	waitFor(t, "the payload's script", func() bool { return strings.Contains(m.log.String(), "hello from the payload") })
	if got, want := read(t, ran), m.path("secure/unzipped")+"\n"; got != want {
		t.Errorf("script ran in %q, want %q", got, want)
	}
	if err := r.admin.Revoke(ctx, "2.6", n.sign(t, revocationText)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the revocation's action", func() bool { return strings.Contains(read(t, revoked), `"agent_id":"x"`) })

	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, m.path("secure")); len(left) != 0 {
		t.Errorf("secrets are left after the end: %v", left)
	}
	if log := m.log.String(); strings.Contains(log, "panic") || !strings.Contains(log, "SUCCESS: Agent "+exampleID+" activated") ||
		!strings.Contains(log, "Starting server with API versions: 2.1, 2.2, 2.3, 2.4, 2.5, 2.6") || !strings.Contains(log, "Executing revocation action act") {
		t.Errorf("log:\n%s", log)
	}
}

// What a restart keeps, and the modes of what is kept (NT-72).
func TestRestartKeepsKeysAndIdentity(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.cfg.UUID = "generate"
	if err := os.Remove(m.cfg.PayloadKey); err != nil { // this one is to be made
		t.Fatal(err)
	}
	r := m.start()
	first := m.registrar.last()
	pubKey, err := r.admin.PubKey(t.Context(), "2.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent_data.json", "agent_id.json", "payload-private.pem", "server-private.pem"} {
		if info, err := os.Stat(m.path(name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	r = m.start()
	second := m.registrar.last()
	first.Port, second.Port = nil, nil // each start of the test has its own
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("registers otherwise: %s", diff)
	}
	again, err := r.admin.PubKey(t.Context(), "2.1")
	if err != nil || again != pubKey {
		t.Errorf("transport key changed: %v, %v", again, err)
	}
	if paths := m.registrar.paths(); paths[1] != paths[4] {
		t.Errorf("generated id changed: %s, %s", paths[1], paths[4])
	}
}

// NT-69: the AK of another TPM, and a damaged one, give a new AK and a new registration.
func TestForeignAgentDataMakesANewAK(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	first := m.start()
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	own := read(t, m.cfg.AgentDataPath)
	ak := first.ak.Name()
	damagedPrivate := strings.Replace(own, `"ak_private":[0,`, `"ak_private":[1,`, 1)
	if damagedPrivate == own {
		t.Fatalf("agent data does not look as expected: %.200s", own)
	}
	for name, text := range map[string]string{"truncated": own[:len(own)/3], "private part damaged": damagedPrivate, "empty": ""} {
		writeFile(t, m.cfg.AgentDataPath, text, 0o600)
		r := m.start()
		if string(r.ak.Name()) == string(ak) {
			t.Errorf("%s: the AK is still the old one", name)
		}
		if q, err := r.admin.IdentityQuote(t.Context(), "2.6", "abc"); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			r.verify(q, "abc", 0, *q.PubKey)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		ak = r.ak.Name()
	}

	other := newMachine(t)
	other.tpm = swtpm.ForTest(t)
	other.cfg.TCTI = other.tpm.TCTI()
	writeFile(t, other.cfg.AgentDataPath, read(t, m.cfg.AgentDataPath), 0o600)
	r := other.start()
	if string(r.ak.Name()) == string(ak) || !strings.Contains(other.log.String(), "another TPM") {
		t.Errorf("the AK of another TPM is used\n%s", other.log)
	}
}

func TestECCAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.cfg.UUID = "hash_ek"
	r := m.start()
	for version, want := range map[string]string{"2.1": "ecc", "2.4": "ecc", "2.5": "ecc256", "2.6": "ecc256"} {
		q, err := r.admin.IdentityQuote(t.Context(), version, "abc")
		if err != nil {
			t.Fatal(err)
		}
		r.verify(q, "abc", 0, *q.PubKey)
		if q.EncAlg != want || q.SignAlg != "ecdsa" || q.HashAlg != "sha256" {
			t.Errorf("v%s: %s %s %s", version, q.EncAlg, q.SignAlg, q.HashAlg)
		}
	}
	hash, err := ekHash(publicOf(t, *m.registrar.last().EKTPM))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.registrar.paths()[1]; got != "POST /v2.6/agents/"+hash {
		t.Errorf("registered with %s, want the id %s", got, hash)
	}
}

// A software TPM may be restarted under a running agent; the next quote loads the AK again.
func TestQuotesGoOnAfterATPMReset(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	if err := m.tpm.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	q, err := r.admin.IdentityQuote(t.Context(), "2.6", "abc")
	if err != nil {
		t.Fatal(err)
	}
	r.verify(q, "abc", 0, *q.PubKey)
}

// NT-67
func TestParallelQuotesAreServedInTurn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			nonce := fmt.Sprint("nonce", i)
			q, err := r.admin.IdentityQuote(t.Context(), "2.6", nonce)
			if err == nil {
				quote, parseErr := tpm.ParseQuote(q.Quote)
				if err = parseErr; err == nil {
					_, err = tpm.VerifyQuote(r.ak, quote, tpm.Expected{Nonce: []byte(nonce), Mask: tpm.MaskOf(tpm.PCRData), Hash: tpm.SHA256})
				}
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// NT-68
func TestPCR16OfAnotherProgramIsReported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	digest := sha256.Sum256([]byte("another program"))
	m.extend(tpm.PCRData, digest[:])
	r := m.start()
	if !strings.Contains(m.log.String(), "PCR 16 was extended by another program") {
		t.Errorf("not reported:\n%s", m.log)
	}
	q, err := r.admin.IdentityQuote(t.Context(), "2.6", "abc")
	if err != nil {
		t.Fatal(err)
	}
	r.verify(q, "abc", 0, *q.PubKey)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// The agent's own value of the run before is no reason to complain.
	m.log = &logBuffer{}
	m.start()
	if strings.Contains(m.log.String(), "another program") {
		t.Errorf("its own value is reported:\n%s", m.log)
	}
}

func TestAgentWithoutMTLSTakesNoPayload(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.cfg.EnableAgentMTLS = false
	err := Run(t.Context(), m.cfg, testLogger(m))
	if err == nil || !strings.Contains(err.Error(), "'enable_insecure_payload' has to be set to 'True'") {
		t.Fatalf("got %v", err)
	}
	m.cfg.PayloadScript = ""
	r := m.start()
	r.deliver([]byte("payload"))
	waitFor(t, "the refusal", func() bool { return strings.Contains(m.log.String(), "payloads cannot be deployed") })
	if files := tree(t, m.path("secure")); len(files) != 0 {
		t.Errorf("deployed %v", files)
	}
	if !strings.Contains(m.log.String(), "mTLS disabled") {
		t.Errorf("log:\n%s", m.log)
	}
}

func TestImpossibleConfigurationIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for want, change := range map[string]func(*Config){
		"keylime_dir must exist":      func(c *Config) { c.KeylimeDir += "/nowhere" },
		"no directory":                func(c *Config) { c.KeylimeDir = writeFile(t, filepath.Join(t.TempDir(), "file"), "", 0o600) },
		"name two files":              func(c *Config) { c.DecPayloadFile = c.EncKeyname },
		"want user:group":             func(c *Config) { c.RunAs = "nobody" },
		"unknown user":                func(c *Config) { c.RunAs = "no-such-user:no-such-group" },
		"ek_handle":                   func(c *Config) { c.EKHandle = "x" },
		"trusted_client_ca":           func(c *Config) { c.TrustedClientCA = []string{"/nowhere/cacert.crt"} },
		"TPM refused a password":      func(c *Config) { c.TPMOwnerPassword = "wrong" },
		"persistent key 0x81010099":   func(c *Config) { c.EKHandle = "0x81010099" },
		"connect to the software TPM": func(c *Config) { c.TCTI = "swtpm:path=/nowhere" },
		"the bank active":             func(c *Config) { c.TPMHashAlg = "sha512" },
	} {
		cfg := m.cfg
		change(&cfg)
		if err := Run(t.Context(), cfg, testLogger(m)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if n := m.registrar.activations(); n != 0 {
		t.Errorf("registered %d times", n)
	}
}
