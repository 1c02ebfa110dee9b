package tenant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// issuer is a CA that issues whatever it is asked for.
type issuer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string // PEM
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &issuer{key: key, file: filepath.Join(t.TempDir(), "ca.crt")}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue is a server certificate for 127.0.0.1 that the test may change before it is signed.
func (ca *issuer) issue(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}
}

// NT-56: a server that is not the one configured is not spoken to, and the message says what to change.
func TestServersThatAreNotWhomWeLookFor(t *testing.T) {
	t.Parallel()
	ca, other := newIssuer(t), newIssuer(t)
	for _, c := range []struct {
		name     string
		settings func() *tls.Config
		wrong    []string // all of them; none = accepted
	}{
		{"the right one", func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}} }, nil},
		{"another CA", func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{other.issue(t, nil)}} },
			[]string{"certificate", "hint: its certificate is signed by another CA"}},
		{"another address", func() *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) { c.IPAddresses[0] = net.IPv4(192, 0, 2, 1) })}}
		}, []string{"192.0.2.1", "127.0.0.1", "hint: "}},
		{"expired", func() *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}
		}, []string{"valid", "hint: its certificate is expired"}},
		{"not for servers", func() *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}}
		}, []string{"extended key usage", "hint: its certificate may not be used for a server"}},
		{"TLS 1.1", func() *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}
		}, []string{"protocol version", "hint: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, "ecc256")
			srv := serve(t, c.settings())
			srv.on("GET /version", results(map[string]any{"supported_versions": []string{"2.6"}}))
			srv.on("GET /v2.6/agents", results(map[string]any{"uuids": [][]string{}}))
			tn := s.tenant(t, io.Discard, map[string]string{"TRUSTED_SERVER_CA": ca.file, "VERIFIER_PORT": strconv.Itoa(srv.port())})
			_, err := listEnrolled(t.Context(), tn, &options{})
			if len(c.wrong) == 0 {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || exitCode(err) != exitUnreachable || len(srv.asked()) != 0 {
				t.Fatalf("got %v (exit %d); the server was asked %v", err, exitCode(err), srv.asked())
			}
			for _, wrong := range c.wrong {
				if !strings.Contains(err.Error(), wrong) {
					t.Errorf("got %v, want an error with %q", err, wrong)
				}
			}
		})
	}
}

func TestServerWithoutTLS(t *testing.T) {
	t.Parallel()
	plain := listen(t)
	t.Cleanup(func() { plain.Close() })
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	tn := newStage(t, "ecc256").tenant(t, io.Discard, map[string]string{"VERIFIER_PORT": strconv.Itoa(plain.Addr().(*net.TCPAddr).Port)})
	_, err := listEnrolled(t.Context(), tn, &options{})
	if exitCode(err) != exitUnreachable || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("got %v", err)
	}
}

// TestAdministratorsCertificateIsNeeded: without one that the server trusts, the message says which option it is.
func TestAdministratorsCertificateIsNeeded(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	for request, refusal := range map[string]int{"GET /v2.6/agents": 403} {
		s.verifier.on(request, refuse(refusal, "Forbidden: Action requires admin authentication (mTLS certificate)"))
	}
	_, err := listEnrolled(t.Context(), s.tenant(t, io.Discard, nil), &options{})
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(), "403 Forbidden") || !strings.Contains(err.Error(), "client_cert and client_key") {
		t.Errorf("got %v", err)
	}
}
