package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func testOptions() CAOptions {
	return CAOptions{
		Password: "default", Country: "US", CommonName: "Test CA", State: "MA", Locality: "Lexington", Organization: "Keylime", OrgUnit: "53",
		Lifetime: 3650 * 24 * time.Hour, LeafLifetime: 365 * 24 * time.Hour, Bits: 2048, CRLURL: "http://localhost:38080/crl",
	}
}

// made are two CA directories, made once because RSA keys take their time. Tests work on copies.
var made [2]string

func TestMain(m *testing.M) {
	base, err := os.MkdirTemp("", "keylime-pki")
	for i := range made {
		made[i] = filepath.Join(base, string('a'+rune(i)))
		if err == nil {
			err = makeCA(made[i])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(base)
	os.Exit(status)
}

// makeCA makes a CA with a server and a client certificate, as the verifier does on its first start.
func makeCA(dir string) error {
	ca, err := EnsureCA(dir, testOptions())
	if err != nil {
		return err
	}
	return errors.Join(
		ca.EnsureLeaf(Leaf{Name: "server", Kind: Server, Hosts: []string{"localhost", "127.0.0.1", "::1"}}),
		ca.EnsureLeaf(Leaf{Name: "client", Kind: Client}))
}

// newCA is a CA of the test's own.
func newCA(t testing.TB) (*CA, string) {
	t.Helper()
	return copyCA(t, made[0])
}

func copyCA(t testing.TB, from string) (*CA, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cv_ca")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	ca, err := EnsureCA(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func readCert(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(readFile(t, path))
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNewCADirectory(t *testing.T) {
	t.Parallel()
	dir := made[0] // not a copy: those have other modes
	modes := map[string]fs.FileMode{
		"cacert.crt": 0o640, "ca-public.pem": 0o640, "cacrl.der": 0o640, "cacrl.pem": 0o640, "private.yml": 0o600, ".lock": 0o600,
		"server-cert.crt": 0o640, "server-public.pem": 0o640, "server-private.pem": 0o600,
		"client-cert.crt": 0o640, "client-public.pem": 0o640, "client-private.pem": 0o600,
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := modes[e.Name()]; !ok || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), info.Mode(), want)
		}
		delete(modes, e.Name())
	}
	for name := range modes {
		t.Errorf("%s is missing", name)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
}

func TestIssuedCertificates(t *testing.T) {
	t.Parallel()
	ca, dir := newCA(t)
	root := ca.Certificate()
	if root.SerialNumber.Cmp(big.NewInt(1)) != 0 || !root.IsCA || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(root.SubjectKeyId) == 0 {
		t.Errorf("CA certificate: serial %s, CA %v, usage %b, SKI %x", root.SerialNumber, root.IsCA, root.KeyUsage, root.SubjectKeyId)
	}
	var subject pkix.RDNSequence
	if _, err := asn1.Unmarshal(root.RawSubject, &subject); err != nil {
		t.Fatal(err)
	}
	if got := subject.String(); got != "OU=53,O=Keylime,L=Lexington,ST=MA,CN=Test CA,C=US" {
		t.Errorf("CA subject %s", got)
	}
	for _, want := range []struct {
		file   string
		serial int64
		usage  x509.ExtKeyUsage
		names  []string
		ips    int
	}{
		{"server-cert.crt", 2, x509.ExtKeyUsageServerAuth, []string{"localhost"}, 2},
		{"client-cert.crt", 3, x509.ExtKeyUsageClientAuth, []string{"client"}, 0},
	} {
		c := readCert(t, filepath.Join(dir, want.file))
		if err := c.CheckSignatureFrom(root); err != nil {
			t.Errorf("%s: %v", want.file, err)
		}
		if c.SerialNumber.Int64() != want.serial || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{want.usage}) || c.IsCA ||
			c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || !bytes.Equal(c.AuthorityKeyId, root.SubjectKeyId) ||
			!slices.Equal(c.DNSNames, want.names) || len(c.IPAddresses) != want.ips {
			t.Errorf("%s: serial %s, usages %v, names %v %v", want.file, c.SerialNumber, c.ExtKeyUsage, c.DNSNames, c.IPAddresses)
		}
	}
}

func TestEnsureKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	_, dir := newCA(t)
	before := map[string][]byte{}
	for _, name := range []string{"cacert.crt", "server-cert.crt", "server-private.pem", "private.yml"} {
		before[name] = readFile(t, filepath.Join(dir, name))
	}
	ca, err := EnsureCA(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.EnsureLeaf(Leaf{Name: "server"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range before {
		if !bytes.Equal(readFile(t, filepath.Join(dir, name)), want) {
			t.Errorf("%s changed", name)
		}
	}
}

func TestConcurrentStartsShareOneCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cv_ca")
	serials := make([]*big.Int, 4)
	var wg sync.WaitGroup
	for i := range serials {
		wg.Go(func() {
			ca, err := EnsureCA(dir, testOptions())
			if err != nil {
				t.Error(err)
				return
			}
			if err := ca.EnsureLeaf(Leaf{Name: "server"}); err != nil {
				t.Error(err)
				return
			}
			serials[i] = readCert(t, filepath.Join(dir, "server-cert.crt")).SerialNumber
			if err := readCert(t, filepath.Join(dir, "server-cert.crt")).CheckSignatureFrom(ca.Certificate()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range serials {
		if s == nil || s.Int64() != 2 {
			t.Errorf("serials %v, want 2 for all: issued once", serials)
			break
		}
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	ca, dir := newCA(t)
	for range 2 { // the second time changes nothing
		if err := ca.Revoke(big.NewInt(3)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := x509.ParseRevocationList(readFile(t, filepath.Join(dir, "cacrl.der")))
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(ca.Certificate()); err != nil {
		t.Error(err)
	}
	if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Int64() != 3 {
		t.Errorf("revoked: %v", list.RevokedCertificateEntries)
	}
	block, _ := pem.Decode(readFile(t, filepath.Join(dir, "cacrl.pem")))
	if block == nil || !bytes.Equal(block.Bytes, list.Raw) {
		t.Error("cacrl.pem differs from cacrl.der")
	}
}

func TestCARefusals(t *testing.T) {
	t.Parallel()
	ca, dir := newCA(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden"} {
		if err := ca.Issue(Leaf{Name: name}); err == nil {
			t.Errorf("issued a certificate named %q", name)
		}
	}
	wrong := testOptions()
	wrong.Password = "another"
	other, err := EnsureCA(dir, wrong)
	if err != nil {
		t.Fatal(err) // the certificate is readable without the password
	}
	if err := other.Issue(Leaf{Name: "x"}); !errors.Is(err, errKeystorePassword) {
		t.Errorf("issue with a wrong password: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "cacert.crt")); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureCA(dir, testOptions()); err == nil {
		t.Error("a keystore without its certificate was overwritten")
	}
	weak := testOptions()
	weak.Bits = 1024
	if _, err := EnsureCA(t.TempDir(), weak); err == nil {
		t.Error("made a CA with a key of 1024 bits")
	}
}

func TestServerHosts(t *testing.T) {
	t.Parallel()
	for bind, want := range map[string]bool{"0.0.0.0": false, "::": false, "[::]": false, "": false, "192.0.2.1": true, "attest.example": true} {
		hosts := ServerHosts(bind, "extra.example", "localhost")
		if slices.Contains(hosts, bind) != want {
			t.Errorf("ServerHosts(%q) = %v", bind, hosts)
		}
		if !slices.Contains(hosts, "127.0.0.1") || !slices.Contains(hosts, "::1") || !slices.Contains(hosts, "extra.example") {
			t.Errorf("ServerHosts(%q) = %v", bind, hosts)
		}
	}
	names, ips := splitHosts([]string{"a.example", "[::1]", "192.0.2.1", ""})
	if !slices.Equal(names, []string{"a.example"}) || len(ips) != 2 || !ips[0].Equal(net.IPv6loopback) {
		t.Errorf("split into %v and %v", names, ips)
	}
}
