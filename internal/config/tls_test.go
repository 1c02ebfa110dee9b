package config

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/pki"
)

// Registrar and verifier may start at the same time on an empty directory, whichever way the registrar is set up, and
// the tenant can contact both.
func TestProvide(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"default", "generate"} {
		t.Run("registrar "+dir, func(t *testing.T) {
			t.Parallel()
			src := machine(t, nil, "KEYLIME_DIR=$ROOT/k", "KEYLIME_REGISTRAR_TLS_DIR="+dir)
			v, _, err := LoadVerifier(src)
			if err != nil {
				t.Fatal(err)
			}
			r, _, err := LoadRegistrar(src)
			if err != nil {
				t.Fatal(err)
			}
			ca, _, err := LoadCA(src)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for _, tls := range []TLS{v.TLS, r.TLS} {
				wg.Go(func() {
					if err := tls.Provide(ca, "192.0.2.1"); err != nil {
						t.Error(err)
					}
					if _, err := pki.ServerTLS(tls.ServerFiles()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			tenant, rep, err := LoadTenant(src)
			if err != nil || len(rep.Warnings) > 0 {
				t.Fatal(rep.Warnings, err)
			}
			if _, err := pki.ClientTLS(tenant.TLS.ClientFiles()); err != nil {
				t.Error(err)
			}
			if tenant.CheckStore() == nil {
				t.Error("a missing tpm_cert_store passes") // NT-97
			}
			if err := os.Mkdir(filepath.Join(src.Root, "k/tpm_cert_store"), 0o755); err != nil || tenant.CheckStore() != nil {
				t.Error(err, tenant.CheckStore())
			}
		})
	}
}

func TestCertificatesThatEndSoon(t *testing.T) {
	t.Parallel()
	src := machine(t, nil, "KEYLIME_DIR=$ROOT/k", "KEYLIME_CA_CERT_LIFETIME=29")
	v, _, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := LoadCA(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.TLS.Provide(ca, ""); err != nil {
		t.Fatal(err)
	}
	_, rep, err := LoadVerifier(src)
	if err != nil || len(rep.Warnings) != 2 || !strings.Contains(rep.Warnings[0], "server-cert.crt is valid until") || !strings.Contains(rep.Warnings[1], "delete the file") {
		t.Errorf("%q, %v", rep.Warnings, err)
	}
	// The cure works: the next start makes another.
	if err := os.Remove(v.TLS.ServerCert); err != nil {
		t.Fatal(err)
	}
	ca.CertLifetime = 365 * 24 * time.Hour
	if err := v.TLS.Provide(ca, ""); err != nil {
		t.Fatal(err)
	}
	if _, rep, err = LoadVerifier(src); err != nil || len(rep.Warnings) != 1 {
		t.Errorf("%q, %v", rep.Warnings, err)
	}
}

// A directory of the administrator's is never written to.
func TestProvideLeavesOtherDirectoriesAlone(t *testing.T) {
	t.Parallel()
	src := machine(t, nil, "KEYLIME_DIR=$ROOT/k", "KEYLIME_VERIFIER_TLS_DIR=mine")
	v, _, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.TLS.Provide(CA{}, ""); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(v.TLS.Dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", v.TLS.Dir, err)
	}
}
