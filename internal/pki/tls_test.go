package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve accepts TLS connections until the test ends, echoes what it reads, and returns the address.
func serve(t testing.TB, cfg *tls.Config) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// talk makes one connection and exchanges a byte, so that the server's judgement of the client is known too.
func talk(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

func serverFiles(dir string) ServerFiles {
	return ServerFiles{CertFile: filepath.Join(dir, "server-cert.crt"), KeyFile: filepath.Join(dir, "server-private.pem"), ClientCAs: []string{filepath.Join(dir, "cacert.crt")}}
}

func clientFiles(dir, name string) ClientFiles {
	f := ClientFiles{ServerCAs: []string{filepath.Join(dir, "cacert.crt")}, Host: "127.0.0.1"}
	if name != "" {
		f.CertFile, f.KeyFile = filepath.Join(dir, name+"-cert.crt"), filepath.Join(dir, name+"-private.pem")
	}
	return f
}

func serverTLS(t testing.TB, f ServerFiles) *tls.Config {
	t.Helper()
	cfg, err := ServerTLS(f)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func clientTLS(t testing.TB, f ClientFiles) *tls.Config {
	t.Helper()
	cfg, err := ClientTLS(f)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// NT-53: which client certificates a listener lets in.
func TestServerAdmitsOnlyAdminCertificates(t *testing.T) {
	t.Parallel()
	ca, dir := newCA(t)
	if err := ca.Issue(Leaf{Name: "revoked", Kind: Client}); err != nil {
		t.Fatal(err)
	}
	if err := ca.Revoke(readCert(t, filepath.Join(dir, "revoked-cert.crt")).SerialNumber); err != nil {
		t.Fatal(err)
	}
	past := testOptions()
	past.LeafLifetime = time.Hour
	past.Now = func() time.Time { return time.Now().Add(-48 * time.Hour) }
	old, err := OpenCA(dir, past)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Issue(Leaf{Name: "expired", Kind: Client}); err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := SelfSigned("d432fbb3-d2f1-4a97-9ef7-75bd81c00000", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, filepath.Join(dir, "agent-cert.crt"), certPEM)
	writeTestFile(t, filepath.Join(dir, "agent-private.pem"), keyPEM)
	_, foreign := copyCA(t, made[1])

	files := serverFiles(dir)
	files.CRLFile = filepath.Join(dir, "cacrl.der")
	addr := serve(t, serverTLS(t, files))
	required := files
	required.RequireClient = true
	mutual := serve(t, serverTLS(t, required))

	for _, tc := range []struct {
		name string
		cert ClientFiles
		ok   bool
	}{
		{"administrator", clientFiles(dir, "client"), true},
		{"agent's own", clientFiles(dir, "agent"), false},
		{"right CA, server only", clientFiles(dir, "server"), false},
		{"expired", clientFiles(dir, "expired"), false},
		{"revoked", clientFiles(dir, "revoked"), false},
		{"other CA", clientFiles(foreign, "client"), false},
	} {
		cfg := clientTLS(t, tc.cert)
		// A client normally keeps a certificate to itself that the server did not ask for; an attacker does not.
		cert := cfg.Certificates[0]
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		if tc.name == "other CA" {
			cfg.RootCAs, cfg.VerifyConnection = nil, nil // it accepts any server
		}
		for _, a := range []string{addr, mutual} {
			if _, err := talk(a, cfg); (err == nil) != tc.ok {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
	none := clientTLS(t, clientFiles(dir, ""))
	if _, err := talk(addr, none); err != nil {
		t.Errorf("no certificate where it is optional: %v", err)
	}
	if _, err := talk(mutual, none); err == nil {
		t.Error("no certificate where one is required: let in")
	}
}

// NT-53: what an accepted certificate makes of its owner.
func TestAdmin(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	good := func() *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "client"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	}
	for _, tc := range []struct {
		name string
		edit func(*x509.Certificate)
		ok   bool
	}{
		{"without usages", func(*x509.Certificate) {}, true},
		{"for clients", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, true},
		{"for both", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}, true},
		{"for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, false},
		{"for something unknown only", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}} }, false},
		{"expired after the handshake", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, false},
		{"of the future", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, false},
		{"without common name", func(c *x509.Certificate) { c.Subject.CommonName = "" }, false},
		{"a CA's", func(c *x509.Certificate) { c.IsCA = true }, false},
		{"of a role unknown here", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "urn", Opaque: "keylime:role:janitor"}} }, false},
	} {
		c := good()
		tc.edit(c)
		op, err := Admin(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}, now)
		if (err == nil) != tc.ok || (tc.ok && op != Operator{Name: "client"}) {
			t.Errorf("%s: %+v, %v", tc.name, op, err)
		}
	}
	for _, cs := range []*tls.ConnectionState{nil, {}} {
		if _, err := Admin(cs, now); !errors.Is(err, ErrNoCertificate) {
			t.Errorf("without certificate: %v", err)
		}
	}
	if _, err := Admin(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{good()}}, now); err == nil {
		t.Error("an unverified certificate made an administrator")
	}
}

// NT-56: a client refuses a server and says why.
func TestClientRefusesServer(t *testing.T) {
	t.Parallel()
	ca, dir := newCA(t)
	for _, l := range []Leaf{{Name: "elsewhere", Hosts: []string{"192.0.2.7", "other.example"}}, {Name: "nameless"}} {
		if err := ca.Issue(l); err != nil {
			t.Fatal(err)
		}
	}
	past := testOptions()
	past.LeafLifetime = time.Hour
	past.Now = func() time.Time { return time.Now().Add(-48 * time.Hour) }
	old, err := OpenCA(dir, past)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Issue(Leaf{Name: "expired", Hosts: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	_, foreign := copyCA(t, made[1])
	noAKI := withoutAKI(t, dir)

	for _, tc := range []struct {
		name   string
		dir    string
		cert   string
		change func(*tls.Config)
		mode   VerifyName
		host   string
		want   string // part of the error; "" = accepted
	}{
		{name: "right", dir: dir, cert: "server"},
		{name: "right, resolved by the dialler", dir: dir, cert: "server", host: "-"},
		{name: "wrong name", dir: dir, cert: "elsewhere", want: "is for other.example, 192.0.2.7, not for 127.0.0.1"},
		{name: "wrong name, check on", dir: dir, cert: "elsewhere", mode: NameOn, want: "not for 127.0.0.1"},
		{name: "wrong name, check off", dir: dir, cert: "elsewhere", mode: NameOff},
		{name: "wrong name, dialler checks", dir: dir, cert: "elsewhere", host: "-", want: "192.0.2.7"},
		{name: "no names, auto", dir: dir, cert: "nameless"},
		{name: "no names, check on", dir: dir, cert: "nameless", mode: NameOn, want: "not for 127.0.0.1"},
		{name: "other CA", dir: foreign, cert: "server", want: "not among the configured CA certificates"},
		{name: "other CA, names off", dir: foreign, cert: "server", mode: NameOff, want: "not among the configured CA certificates"},
		{name: "expired", dir: dir, cert: "expired", want: "have it renewed"},
		{name: "client's certificate", dir: dir, cert: "client", mode: NameOff, want: "not issued for this use"},
		{name: "TLS 1.1", dir: dir, cert: "server", change: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, want: "protocol version"},
		{name: "no authority key identifier", dir: dir, cert: noAKI},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files := serverFiles(tc.dir)
			files.CertFile, files.KeyFile = filepath.Join(tc.dir, tc.cert+"-cert.crt"), filepath.Join(tc.dir, tc.cert+"-private.pem")
			server := serverTLS(t, files)
			if tc.change != nil {
				tc.change(server)
			}
			client := clientFiles(dir, "client")
			client.VerifyHostname = tc.mode
			if tc.host == "-" {
				client.Host = ""
			}
			_, err := talk(serve(t, server), clientTLS(t, client))
			if tc.want == "" && err != nil {
				t.Error(err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// withoutAKI issues a certificate for 127.0.0.1 that lacks the identifiers, as other tools make them.
func withoutAKI(t *testing.T, dir string) (name string) {
	t.Helper()
	ks, err := readKeystore(filepath.Join(dir, "private.yml"), "default")
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := ReadPrivateKey(ks.CAKey, "")
	if err != nil {
		t.Fatal(err)
	}
	parent := *readCert(t, filepath.Join(dir, "cacert.crt"))
	parent.SubjectKeyId = nil
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(99), Subject: pkix.Name{CommonName: "bare"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, &parent, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := EncodePrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, filepath.Join(dir, "bare-cert.crt"), encodeCertificate(der))
	writeTestFile(t, filepath.Join(dir, "bare-private.pem"), keyPEM)
	return "bare"
}

func TestPinnedClient(t *testing.T) {
	t.Parallel()
	_, dir := newCA(t)
	now := time.Now()
	addr, certPEM := serveAgent(t, dir, now)
	otherPEM, otherKey, err := SelfSigned("agent", []string{"192.0.2.1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	base := clientTLS(t, clientFiles(dir, "client"))
	cfg := pinned(t, base, certPEM)
	first, err := talk(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := talk(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if first.DidResume || !second.DidResume {
		t.Errorf("resumed: first %v, second %v", first.DidResume, second.DidResume)
	}

	other := pinned(t, base, otherPEM)
	if _, err := talk(addr, other); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("another certificate with the same names: %v", err)
	}
	// The pin holds on resumption too: a session made under one pin is of no use under another.
	other.ClientSessionCache = cfg.ClientSessionCache
	if _, err := talk(addr, other); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("resumed session of another pin: %v", err)
	}
	for _, bad := range []string{"", "disabled", string(otherKey), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := PinnedClient(base, bad); err == nil {
			t.Errorf("pinned to %.30q", bad)
		}
	}
}

func TestPinnedClientIgnoresDates(t *testing.T) {
	t.Parallel()
	_, dir := newCA(t)
	addr, certPEM := serveAgent(t, dir, time.Now().Add(-2*agentLifetime))
	if _, err := talk(addr, pinned(t, clientTLS(t, clientFiles(dir, "client")), certPEM)); err != nil {
		t.Error(err)
	}
}

// serveAgent serves with a certificate as agents have them, made at the time given.
func serveAgent(t *testing.T, dir string, made time.Time) (addr string, certPEM []byte) {
	t.Helper()
	certPEM, keyPEM, err := SelfSigned("agent", []string{"192.0.2.1"}, made)
	if err != nil {
		t.Fatal(err)
	}
	files := serverFiles(dir)
	files.RequireClient = true
	files.CertFile, files.KeyFile = filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.pem")
	writeTestFile(t, files.CertFile, certPEM)
	writeTestFile(t, files.KeyFile, keyPEM)
	return serve(t, serverTLS(t, files)), certPEM
}

func pinned(t *testing.T, base *tls.Config, certPEM []byte) *tls.Config {
	t.Helper()
	cfg, err := PinnedClient(base, string(certPEM))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestSelfSignedVerifies(t *testing.T) {
	t.Parallel()
	certPEM, _, err := SelfSigned("d432fbb3-d2f1-4a97-9ef7-75bd81c00000", []string{"192.0.2.1", "node.example", "127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.crt")
	writeTestFile(t, path, certPEM)
	c := readCert(t, path)
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.1", "node.example"} {
		if err := c.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if c.Subject.CommonName != "d432fbb3-d2f1-4a97-9ef7-75bd81c00000" || c.SerialNumber.Sign() <= 0 {
		t.Errorf("subject %s, serial %s", c.Subject, c.SerialNumber)
	}
}

func TestUnusableFiles(t *testing.T) {
	t.Parallel()
	_, dir := newCA(t)
	empty := filepath.Join(dir, "empty")
	writeTestFile(t, empty, nil)
	for want, edit := range map[string]func(*ServerFiles){
		"read certificate":            func(f *ServerFiles) { f.CertFile += "x" },
		"read private key":            func(f *ServerFiles) { f.KeyFile += "x" },
		"no private key":              func(f *ServerFiles) { f.KeyFile = empty },
		"does not belong":             func(f *ServerFiles) { f.KeyFile = filepath.Join(dir, "client-private.pem") },
		"none is configured":          func(f *ServerFiles) { f.ClientCAs = nil },
		"no certificate in PEM form":  func(f *ServerFiles) { f.ClientCAs = []string{empty} },
		"holds no certificate in PEM": func(f *ServerFiles) { f.CertFile = empty },
		"read revocation list":        func(f *ServerFiles) { f.CRLFile = empty + "x" },
		"parse revocation list":       func(f *ServerFiles) { f.CRLFile = empty },
	} {
		f := serverFiles(dir)
		edit(&f)
		if _, err := ServerTLS(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func writeTestFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
