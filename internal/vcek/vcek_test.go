package vcek

import (
	"bytes"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/fleet"
	"keylime/internal/snp"
)

// machine is a processor, its chain and a report of it.
func machine(t *testing.T) (*fleet.Processor, snp.Chain, snp.Report) {
	t.Helper()
	p, err := fleet.NewProcessor("Milan")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := snp.ParseChain(snp.Milan, p.Roots)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.Report([64]byte{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p, chain, r
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	p, chain, r := machine(t)
	dir := t.TempDir()
	s := New(dir, false, zerolog.Nop())
	name := filepath.Join(dir, r.VCEKName()+".der")
	if _, err := s.Find(t.Context(), r, chain, time.Now()); err == nil || !strings.Contains(err.Error(), r.VCEKName()+".der is not kept here; AMD has it at https://kdsintf.amd.com/vcek/v1/Milan/") {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.WriteFile(name, p.VCEK, 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := s.Find(t.Context(), r, chain, time.Now())
	if err != nil || !bytes.Equal(cert.Raw, p.VCEK) {
		t.Errorf("%v", err)
	}
	for _, content := range []string{"no certificate", strings.Repeat("x", maxCertificate+1)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(t.Context(), r, chain, time.Now()); err == nil || !strings.HasSuffix(err.Error(), "cannot be read") || strings.Contains(err.Error(), dir) {
			t.Errorf("%.20s: %v", content, err)
		}
	}
	if _, err := New("", false, zerolog.Nop()).Find(t.Context(), r, chain, time.Now()); err == nil || !strings.Contains(err.Error(), "is not kept here") {
		t.Errorf("no directory: %v", err)
	}
}

func TestFetchedCertificatesAreKept(t *testing.T) {
	t.Parallel()
	p, chain, r := machine(t)
	var asked atomic.Int64
	amd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		if req.URL.RequestURI() != r.VCEKPath(snp.Milan) {
			http.NotFound(w, req)
			return
		}
		_, _ = w.Write(p.VCEK)
	}))
	defer amd.Close()
	s := New(t.TempDir(), true, zerolog.Nop())
	s.service = amd.URL
	for range 3 {
		cert, err := s.Find(t.Context(), r, chain, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chain.Verify(r, cert, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("AMD was asked %d times", asked.Load())
	}
}

// What cannot be verified is not kept, and whoever answers cannot send the verifier elsewhere.
func TestWhatIsFetchedIsNotTrusted(t *testing.T) {
	t.Parallel()
	_, chain, r := machine(t)
	stranger, _, _ := machine(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string // "": a certificate comes back, which Verify refuses
	}{
		"another's certificate": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stranger.VCEK) }, ""},
		"a redirect":            {func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, elsewhere.URL, http.StatusFound) }, "302 Found"},
		"too many requests":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "429"},
		"an endless body":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, "more than"},
	} {
		amd := httptest.NewServer(c.answer)
		dir := t.TempDir()
		s := New(dir, true, zerolog.Nop())
		s.service = amd.URL
		cert, err := s.Find(t.Context(), r, chain, time.Now())
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			if _, err := chain.Verify(r, cert, time.Now()); err == nil {
				t.Errorf("%s is good", name)
			}
		}
		if kept, err := os.ReadDir(dir); err != nil || len(kept) > 0 {
			t.Errorf("%s: %d files are kept, %v", name, len(kept), err)
		}
		amd.Close()
	}
}

func TestOnlyAMDIsAsked(t *testing.T) {
	t.Parallel()
	if s := New("", true, zerolog.Nop()); s.service != "https://kdsintf.amd.com" {
		t.Errorf("asked is %s", s.service)
	}
	if s := New("", false, zerolog.Nop()); s.service != "" {
		t.Error("somebody is asked without being allowed to")
	}
}

func TestChains(t *testing.T) {
	t.Parallel()
	p, _, r := machine(t)
	name := filepath.Join(t.TempDir(), "milan.pem")
	if err := os.WriteFile(name, p.Roots, 0o600); err != nil {
		t.Fatal(err)
	}
	chains, err := Chains([]string{"Milan=" + name})
	if err != nil || len(chains) != 1 || chains[0].Product() != snp.Milan {
		t.Fatalf("%v, %v", chains, err)
	}
	cert, err := x509.ParseCertificate(p.VCEK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chains[0].Verify(r, cert, time.Now()); err != nil {
		t.Error(err)
	}
	if chains, err := Chains(nil); err != nil || len(chains) != len(snp.Products()) {
		t.Errorf("AMD's: %d, %v", len(chains), err)
	}
	for _, file := range []string{name, "Rome=" + name, "Milan=" + name + ".none", "Milan=" + os.Args[0]} {
		if _, err := Chains([]string{file}); err == nil {
			t.Errorf("%s passes", file)
		}
	}
}
