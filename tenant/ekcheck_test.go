package tenant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/internal/recorded"
	"keylime/tpm"
)

// endorsed is a TPM with an EK certificate, a store that has its maker's, and a tenant that checks the one by the other.
type endorsed struct {
	*tenant
	maker *fleet.Maker
	soft  *fleet.SoftTPM
	store string
	reg   *registration
	notes *strings.Builder
}

func newEndorsed(t testing.TB) *endorsed {
	t.Helper()
	now := time.Now()
	maker, err := fleet.NewMaker(rand.Reader, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	e := &endorsed{maker: maker, soft: softTPM(t, "ecc256"), store: t.TempDir(), notes: &strings.Builder{}}
	e.put(t, "maker.pem", maker.PEM())
	e.reg = registrationOf(t, e.soft)
	e.reg.ekCert = e.certify(t, maker, e.reg.ek, now.Add(-30*time.Minute), now.Add(30*time.Minute))
	e.tenant = &tenant{notes: e.notes, now: time.Now, cfg: config.Tenant{
		RequireEKCert: true, TPMCertStore: e.store, EKRules: []string{"validity", "ca", "key_usage", "eku", "critical"},
	}}
	return e
}

func (e *endorsed) certify(t testing.TB, maker *fleet.Maker, ek *tpm.Public, from, to time.Time) []byte {
	t.Helper()
	der, err := maker.Certify(ek, from, to)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (e *endorsed) put(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(e.store, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// notACA is the owner of a certificate that is no CA's, and issues with it all the same.
func notACA(t testing.TB) *fleet.Maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Some device"}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m, err := fleet.LoadMaker(rand.Reader, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGenuineEKIsAccepted(t *testing.T) {
	t.Parallel()
	e := newEndorsed(t)
	if err := e.checkEK(t.Context(), e.reg); err != nil || e.notes.Len() != 0 {
		t.Errorf("got %v, notes %q", err, e.notes)
	}
}

func TestEKsThatProveNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, *endorsed)
		wrong string
		code  int
	}{
		{"no certificate", func(_ *testing.T, e *endorsed) { e.reg.ekCert = nil }, "without an EK certificate", exitUntrusted},
		{"not a certificate", func(_ *testing.T, e *endorsed) { e.reg.ekCert = []byte{0x30, 0x03, 1, 2, 3} }, "EK certificate", exitUntrusted},
		{"issued by a maker of the same name", func(t *testing.T, e *endorsed) { // NT-15
			other, err := fleet.NewMaker(rand.Reader, now.Add(-time.Hour), now.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			e.reg.ekCert = e.certify(t, other, e.reg.ek, now.Add(-30*time.Minute), now.Add(30*time.Minute))
		}, "signature", exitUntrusted},
		{"expired", func(t *testing.T, e *endorsed) { // NT-16
			e.reg.ekCert = e.certify(t, e.maker, e.reg.ek, now.Add(-time.Hour), now.Add(-30*time.Minute))
		}, "validity", exitUntrusted},
		{"not yet valid", func(t *testing.T, e *endorsed) { // NT-16
			e.reg.ekCert = e.certify(t, e.maker, e.reg.ek, now.Add(30*time.Minute), now.Add(time.Hour))
		}, "validity", exitUntrusted},
		{"issued by a certificate of the store that is no CA's", func(t *testing.T, e *endorsed) { // NT-17
			impostor := notACA(t)
			e.put(t, "impostor.pem", impostor.PEM())
			e.reg.ekCert = e.certify(t, impostor, e.reg.ek, now.Add(-30*time.Minute), now.Add(30*time.Minute))
		}, "rule ca", exitUntrusted},
		{"of another TPM", func(t *testing.T, e *endorsed) { // NT-18
			ek, err := tpm.ParsePublic(softTPM(t, "ecc256").EKPublic())
			if err != nil {
				t.Fatal(err)
			}
			e.reg.ekCert = e.certify(t, e.maker, ek, now.Add(-30*time.Minute), now.Add(30*time.Minute))
		}, "key", exitUntrusted},
		{"no maker in the store", func(t *testing.T, e *endorsed) { os.Remove(filepath.Join(e.store, "maker.pem")) }, "no certificates", exitFailed},
		{"no store", func(_ *testing.T, e *endorsed) { e.cfg.TPMCertStore += "/x" }, "certificate store", exitFailed},
		{"host's certificate is nothing", func(_ *testing.T, e *endorsed) { e.reg.record.ProviderKeys = json.RawMessage(`{"ekcert":"AAAA"}`) }, "provider_keys", exitUntrusted},
		{"host has none", func(_ *testing.T, e *endorsed) { e.reg.record.ProviderKeys = json.RawMessage(`{}`) }, "provider_keys", exitUntrusted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEndorsed(t)
			c.spoil(t, e)
			err := e.checkEK(t.Context(), e.reg)
			if err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != c.code {
				t.Errorf("got %v (exit %d), want an error with %q and exit %d", err, exitCode(err), c.wrong, c.code)
			}
		})
	}
}

// NT-16: a rule that is switched off lets pass, and says so.
func TestExpiredEKPassesWithoutTheRule(t *testing.T) {
	t.Parallel()
	e := newEndorsed(t)
	e.cfg.EKRules = []string{"ca", "key_usage", "eku", "critical"}
	e.reg.ekCert = e.certify(t, e.maker, e.reg.ek, time.Now().Add(-time.Hour), time.Now().Add(-30*time.Minute))
	if err := e.checkEK(t.Context(), e.reg); err != nil || !strings.Contains(e.notes.String(), "warning: EK certificate of agent A") {
		t.Errorf("got %v, notes %q", err, e.notes)
	}
}

func TestHostsCertificateIsCheckedToo(t *testing.T) {
	t.Parallel()
	e := newEndorsed(t)
	host, err := tpm.ParsePublic(softTPM(t, "ecc256").EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	provider := func(from, to time.Time) {
		e.reg.record.ProviderKeys = json.RawMessage(fmt.Sprintf(`{"ekcert":%q}`, base64.StdEncoding.EncodeToString(e.certify(t, e.maker, host, from, to))))
	}
	provider(time.Now().Add(-30*time.Minute), time.Now().Add(30*time.Minute))
	if err := e.checkEK(t.Context(), e.reg); err != nil {
		t.Errorf("a good one: %v", err)
	}
	provider(time.Now().Add(-time.Hour), time.Now().Add(-30*time.Minute))
	if err := e.checkEK(t.Context(), e.reg); exitCode(err) != exitUntrusted || !strings.Contains(err.Error(), "of the host") {
		t.Errorf("an expired one: %v", err)
	}
}

// NT-19: a store in disorder is read in bounded time, and what is no certificate is named.
func TestStoreInDisorder(t *testing.T) {
	t.Parallel()
	e := newEndorsed(t)
	e.put(t, "garbage.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	e.put(t, "README", []byte("no certificate, and not read"))
	if err := os.Symlink("loop.pem", filepath.Join(e.store, "loop.pem")); err != nil {
		t.Fatal(err)
	}
	huge, err := os.Create(filepath.Join(e.store, "huge.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := huge.Truncate(1 << 30); err != nil { // a hole: it takes no room
		t.Fatal(err)
	}
	huge.Close()
	for i := range 500 {
		e.put(t, fmt.Sprintf("other-%d.pem", i), e.maker.PEM())
	}
	start := time.Now()
	if err := e.checkEK(t.Context(), e.reg); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	for _, name := range []string{"garbage.pem", "loop.pem", "huge.pem"} {
		if !strings.Contains(e.notes.String(), name) {
			t.Errorf("no warning of %s: %s", name, e.notes)
		}
	}
	if strings.Contains(e.notes.String(), "README") {
		t.Errorf("README was taken for a certificate: %s", e.notes)
	}
}

// TestRecordedEKCertificates holds that certificates as swtpm makes them are accepted with the store that was there.
func TestRecordedEKCertificates(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc"} {
		record := recordedResults[api.RegistrarAgent](t, "wire/"+life+"/004-tenant-GET-v2.6_agents_ID.json")
		r, err := parseRegistration(record.AgentID, record)
		if err != nil {
			t.Fatal(err)
		}
		tn := &tenant{notes: io.Discard, now: func() time.Time { return time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC) }}
		tn.cfg = newEndorsed(t).cfg
		tn.cfg.TPMCertStore = filepath.Join(recorded.Dir(t), "wire", life, "state", "certstore")
		if err := tn.checkEK(t.Context(), r); err != nil {
			t.Errorf("%s: %v", life, err)
		}
	}
}
