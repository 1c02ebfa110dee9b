package agent

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"keylime/internal/pki"
)

func testCertificate(t *testing.T) serverCertificate {
	dir := t.TempDir()
	return serverCertificate{
		keyFile: filepath.Join(dir, "server-private.pem"), certFile: filepath.Join(dir, "server-cert.crt"),
		agentID: exampleID, hosts: []string{"192.0.2.1", "node.example.org"},
	}
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate: %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificateIsMadeOnceAndIsSelfSigned(t *testing.T) {
	t.Parallel()
	s := testCertificate(t)
	now := time.Now()
	text, err := s.open(now, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, text)
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error(err)
	}
	var addresses []string
	for _, ip := range cert.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	if diff := cmp.Diff([]string{"127.0.0.1", "::1", "192.0.2.1"}, addresses); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"localhost", "localhost.domain", "node.example.org"}, cert.DNSNames); diff != "" {
		t.Error(diff)
	}
	if cert.Subject.CommonName != exampleID {
		t.Errorf("common name %q", cert.Subject.CommonName)
	}
	if again, err := s.open(now.Add(300*24*time.Hour), zerolog.Nop()); err != nil || again != text {
		t.Errorf("a later start makes another: %v", err)
	}
}

func TestCertificateThatWillNotDoIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*serverCertificate) (later time.Duration){
		"expired":         func(*serverCertificate) time.Duration { return 366 * 24 * time.Hour },
		"another agent":   func(s *serverCertificate) time.Duration { s.agentID = "another"; return 0 },
		"another address": func(s *serverCertificate) time.Duration { s.hosts = []string{"192.0.2.2"}; return 0 },
		"another key":     func(s *serverCertificate) time.Duration { s.keyFile += ".new"; return 0 },
	} {
		s := testCertificate(t)
		before, err := s.open(time.Now(), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Add(change(&s))
		after, err := s.open(now, zerolog.Nop())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cert := parse(t, after); after == before || cert.Subject.CommonName != s.agentID || now.After(cert.NotAfter) {
			t.Errorf("%s: the old certificate is used", name)
		}
		if again, err := s.open(now, zerolog.Nop()); err != nil || again != after {
			t.Errorf("%s: made anew at each start: %v", name, err)
		}
	}
}

// A CA's certificate is the operator's: it is used, or refused, but never replaced.
func TestCertificateOfACAIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cv_ca")
	ca, err := pki.EnsureCA(dir, pki.CAOptions{Password: "test", CommonName: "CA", Bits: 2048, Lifetime: time.Hour, LeafLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.EnsureLeaf(pki.Leaf{Name: "agent", Kind: pki.Server, Hosts: []string{"agent.example.org"}}); err != nil {
		t.Fatal(err)
	}
	s := testCertificate(t)
	s.certFile, s.keyFile = filepath.Join(dir, "agent-cert.crt"), filepath.Join(dir, "agent-private.pem")
	before := read(t, s.certFile)
	var log logBuffer
	text, err := s.open(time.Now(), zerolog.New(&log))
	if err != nil || text != before || read(t, s.certFile) != before {
		t.Errorf("not left alone: %v", err)
	}
	if !strings.Contains(log.String(), "used as it is") {
		t.Errorf("log: %s", &log)
	}
	s.keyFile += ".new"
	if _, err := s.open(time.Now(), zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("with another key: %v", err)
	}
	for name, text := range map[string]string{"garbage": "garbage", "empty": "", "a key": read(t, filepath.Join(dir, "agent-private.pem"))} {
		writeFile(t, s.certFile, text, 0o600)
		if _, err := s.open(time.Now(), zerolog.Nop()); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func TestCertificateHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		contact, listen string
		want            []string
	}{
		{"192.0.2.1", "0.0.0.0", []string{"192.0.2.1"}},
		{"node.example.org", "::", []string{"node.example.org"}},
		{"192.0.2.1", "10.0.0.1", []string{"192.0.2.1", "10.0.0.1"}},
		{"", "", nil},
	} {
		if diff := cmp.Diff(c.want, certificateHosts(c.contact, c.listen)); diff != "" {
			t.Errorf("%v: %s", c, diff)
		}
	}
}

func TestTransportKeyIsKeptAndChecked(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "payload-private.pem")
	for _, password := range []string{"", "secret"} {
		name := file + password
		first, err := openTransportKey(name, password)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if got := strings.Contains(read(t, name), "ENCRYPTED"); got != (password != "") {
			t.Errorf("password %q: encrypted %v", password, got)
		}
		if again, err := openTransportKey(name, password); err != nil || again.public != first.public {
			t.Errorf("not kept: %v", err)
		}
	}
	if _, err := openTransportKey(file+"secret", "wrong"); err == nil {
		t.Error("wrong password accepted")
	}
	long, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	longKey, err := pki.EncodePrivateKey(long, "")
	if err != nil {
		t.Fatal(err)
	}
	_, ecKey, err := pki.SelfSigned("x", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{"RSA-3072": longKey, "EC": ecKey, "garbage": []byte("garbage")} {
		bad := writeFile(t, file+".bad", string(key), 0o600)
		if _, err := openTransportKey(bad, ""); err == nil || read(t, bad) != string(key) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
