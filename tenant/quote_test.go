package tenant

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/recorded"
	"keylime/tpm"
)

var defaultAcceptance = acceptance{
	hash: []string{"sha512", "sha384", "sha256"}, enc: []string{"ecc", "rsa"}, sign: []string{"ecschnorr", "rsassa"},
}

// transportKeys are made once: each takes its time.
var transportKeys = [2]func() (*rsa.PrivateKey, error){
	sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }),
	sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }),
}

// transportKey is an agent's transport key and its PEM text; number 0 or 1.
func transportKey(t testing.TB, number int) (*rsa.PrivateKey, string) {
	t.Helper()
	key, err := transportKeys[number]()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func softTPM(t testing.TB, alg string) *fleet.SoftTPM {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, alg)
	if err != nil {
		t.Fatal(err)
	}
	return soft
}

// registrationOf is the registration of a SoftTPM.
func registrationOf(t testing.TB, soft *fleet.SoftTPM) *registration {
	t.Helper()
	r, err := parseRegistration("A", recordOf(soft))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func recordOf(soft *fleet.SoftTPM) api.RegistrarAgent {
	return api.RegistrarAgent{
		AgentID: "A",
		EKTPM:   base64.StdEncoding.EncodeToString(soft.EKPublic()),
		AIKTPM:  base64.StdEncoding.EncodeToString(soft.AKPublic()),
	}
}

// identityAnswer is an honest agent's answer to a nonce.
func identityAnswer(t testing.TB, soft *fleet.SoftTPM, nonce, pubkey string) api.QuoteResults {
	t.Helper()
	soft.BindData(pubkey)
	q, err := soft.Quote([]byte(nonce), tpm.MaskOf(tpm.PCRData), tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return api.QuoteResults{Quote: q.String(), HashAlg: "sha256", EncAlg: "rsa2048", SignAlg: "rsassa", PubKey: &pubkey}
}

func TestIdentityQuotes(t *testing.T) {
	t.Parallel()
	const nonce = "ABCDEFGHIJKLMNOPQRSTUVWX"
	soft, stranger := softTPM(t, "rsa2048"), softTPM(t, "rsa2048")
	r := registrationOf(t, soft)
	key, pubkey := transportKey(t, 0)
	_, otherKey := transportKey(t, 1)

	good := identityAnswer(t, soft, nonce, pubkey)
	id, err := checkQuote(r, nonce, good, defaultAcceptance)
	if err != nil || !id.transport.Equal(&key.PublicKey) {
		t.Fatalf("an honest quote: %v", err)
	}

	quote := func(soft *fleet.SoftTPM, nonce string, mask tpm.Mask, bank tpm.Hash) string {
		soft.BindData(pubkey)
		q, err := soft.Quote([]byte(nonce), mask, bank)
		if err != nil {
			t.Fatal(err)
		}
		return q.String()
	}
	pcr16 := tpm.MaskOf(tpm.PCRData)
	for _, c := range []struct {
		name  string
		spoil func(*api.QuoteResults)
		wrong string
	}{
		{"another TPM's quote", func(q *api.QuoteResults) { q.Quote = quote(stranger, nonce, pcr16, tpm.SHA256) }, "signature"}, // NT-20
		{"another nonce", func(q *api.QuoteResults) { q.Quote = quote(soft, "other", pcr16, tpm.SHA256) }, "nonce"},             // NT-25
		{"the nonce and more", func(q *api.QuoteResults) { q.Quote = quote(soft, nonce+"Y", pcr16, tpm.SHA256) }, "nonce"},      // NT-25
		{"no PCR 16", func(q *api.QuoteResults) { q.Quote = quote(soft, nonce, tpm.MaskOf(10), tpm.SHA256) }, "PCR"},            // NT-24
		{"PCR 23 beside 16", func(q *api.QuoteResults) { q.Quote = quote(soft, nonce, tpm.MaskOf(16, 23), tpm.SHA256) }, "PCR"}, // NT-22
		{"another bank", func(q *api.QuoteResults) { q.Quote = quote(soft, nonce, pcr16, tpm.SHA384) }, "sha384"},               // NT-30
		{"another transport key", func(q *api.QuoteResults) { q.PubKey = &otherKey }, "does not bind"},                          // replaced on the way
		{"no transport key", func(q *api.QuoteResults) { q.PubKey = nil }, "lacks pubkey"},                                      //
		{"SHA-1", func(q *api.QuoteResults) { q.HashAlg = "sha1" }, "accept_tpm_hash_algs"},                                     // NT-30
		{"unknown hash", func(q *api.QuoteResults) { q.HashAlg = "md5" }, "accept_tpm_hash_algs"},                               //
		{"a scheme not accepted", func(q *api.QuoteResults) { q.SignAlg = "rsapss" }, "accept_tpm_signing_algs"},                //
		{"a size not accepted", func(q *api.QuoteResults) { q.EncAlg = "rsa3072" }, "accept_tpm_encryption_algs"},               //
		{"no quote", func(q *api.QuoteResults) { q.Quote = "" }, "quote"},                                                       // NT-23
		{"a quote cut short", func(q *api.QuoteResults) { q.Quote = q.Quote[:len(q.Quote)/2] }, "quote"},                        // NT-23
		{"a compressed quote", func(q *api.QuoteResults) { q.Quote = "reJwDAAAAAAE=:eJwDAAAAAAE=:eJwDAAAAAAE=" }, ""},           // NT-40
	} {
		spoilt := good
		c.spoil(&spoilt)
		if _, err := checkQuote(r, nonce, spoilt, defaultAcceptance); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.wrong)
		}
	}
}

func TestWhatTheKeyIsCountsNotWhatTheAgentSays(t *testing.T) {
	t.Parallel()
	soft := softTPM(t, "ecc256")
	r := registrationOf(t, soft)
	_, pubkey := transportKey(t, 0)
	answer := identityAnswer(t, soft, "N", pubkey)
	answer.EncAlg, answer.SignAlg = "rsa2048", "rsassa"
	if _, err := checkQuote(r, "N", answer, defaultAcceptance); err == nil || !strings.Contains(err.Error(), "is not that of the AK, ecc256") {
		t.Errorf("an ECC key that calls itself RSA: %v", err)
	}
	wide := defaultAcceptance
	wide.sign = []string{"ecdsa"}
	answer.EncAlg, answer.SignAlg = "ecc", "ecdsa"
	if _, err := checkQuote(r, "N", answer, wide); err != nil {
		t.Errorf("an accepted ECC key under its old name: %v", err)
	}
}

func TestUnsafeClockIsAskedAgain(t *testing.T) {
	t.Parallel()
	soft := softTPM(t, "rsa2048")
	soft.SetClock(tpm.Clock{Clock: 5, ResetCount: 2})
	_, pubkey := transportKey(t, 0)
	_, err := checkQuote(registrationOf(t, soft), "N", identityAnswer(t, soft, "N", pubkey), defaultAcceptance)
	if !errors.Is(err, tpm.ErrClockUnsafe) {
		t.Errorf("got %v, want ErrClockUnsafe", err)
	}
}

func TestTransportKeys(t *testing.T) {
	t.Parallel()
	_, good := transportKey(t, 0)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&small.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "two keys": good + good, "trailing text": good + "x", "short": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"no key in it": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	} {
		if _, err := parseTransportKey(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRecordedIdentityQuotes holds that quotes of agents of another make are accepted, field by field.
func TestRecordedIdentityQuotes(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc"} {
		record := recordedResults[api.RegistrarAgent](t, "wire/"+life+"/004-tenant-GET-v2.6_agents_ID.json")
		r, err := parseRegistration(record.AgentID, record)
		if err != nil {
			t.Fatalf("%s: %v", life, err)
		}
		exchange := recorded.Read(t, "wire/"+life+"/006-tenant-GET-v2.6_quotes_identity.json")
		u, err := url.Parse(exchange.Request.Path)
		if err != nil {
			t.Fatal(err)
		}
		accept := defaultAcceptance
		accept.sign = append(accept.sign, "ecdsa")
		answer := recordedResults[api.QuoteResults](t, exchange.Name)
		if _, err := checkQuote(r, u.Query().Get("nonce"), answer, accept); err != nil {
			t.Errorf("%s: %v", life, err)
		}
		if _, err := checkQuote(r, "another", answer, accept); err == nil {
			t.Errorf("%s: accepted with another nonce", life)
		}
	}
}

// recordedResults are the results of a recorded answer.
func recordedResults[T any](t testing.TB, name string) T {
	t.Helper()
	var envelope struct{ Results T }
	if err := json.Unmarshal([]byte(recorded.Read(t, name).Response.Body), &envelope); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return envelope.Results
}

func TestRegistrationsUnfitToTrust(t *testing.T) {
	t.Parallel()
	good := recordOf(softTPM(t, "ecc256"))
	loose, err := fleet.Build(rand.Reader, fleet.Model{Alg: "ecc256", Attributes: fleet.AKAttributes &^ (1 << 16)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		spoil func(*api.RegistrarAgent)
		wrong string
	}{
		{"an AK that signs anything", func(r *api.RegistrarAgent) { r.AIKTPM = recordOf(loose).AIKTPM }, "aik_tpm"}, // NT-01
		{"an AK for an EK", func(r *api.RegistrarAgent) { r.EKTPM = r.AIKTPM }, "ek_tpm"},
		{"an EK for an AK", func(r *api.RegistrarAgent) { r.AIKTPM = r.EKTPM }, "aik_tpm"},
		{"no key", func(r *api.RegistrarAgent) { r.AIKTPM = "" }, "aik_tpm"},
		{"no base64", func(r *api.RegistrarAgent) { r.EKTPM = "*" }, "ek_tpm"},
		{"no base64 in ekcert", func(r *api.RegistrarAgent) { s := "*"; r.EKCert = &s }, "ekcert"},
	} {
		spoilt := good
		c.spoil(&spoilt)
		if _, err := parseRegistration("A", spoilt); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.wrong)
		}
	}
}
