package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Kind is what a certificate is for.
type Kind int

const (
	Server Kind = iota // serverAuth
	Client             // clientAuth: an administrator
)

// Leaf asks for a certificate.
type Leaf struct {
	Name        string // common name, and first part of the file names: NAME-cert.crt, NAME-private.pem, NAME-public.pem
	Kind        Kind
	Hosts       []string // names and addresses it is for; empty = Name
	KeyPassword string   // encrypts the private key; "" = plain
	ReadOnly    bool     // a client that may look, but change nothing
}

// EnsureLeaf issues the certificate unless its certificate and private key are there.
func (ca *CA) EnsureLeaf(l Leaf) error {
	unlock, err := lockDir(ca.dir)
	if err != nil {
		return err
	}
	defer unlock()
	cert, err := exists(ca.leafPath(l.Name, certSuffix))
	if err != nil {
		return err
	}
	key, err := exists(ca.leafPath(l.Name, keySuffix))
	if err != nil {
		return err
	}
	if cert && key {
		return nil
	}
	return ca.issue(l)
}

// Issue issues a certificate and replaces the one of that name, if any.
func (ca *CA) Issue(l Leaf) error {
	unlock, err := lockDir(ca.dir)
	if err != nil {
		return err
	}
	defer unlock()
	return ca.issue(l)
}

const (
	certSuffix   = "-cert.crt"
	keySuffix    = "-private.pem"
	publicSuffix = "-public.pem"
)

func (ca *CA) leafPath(name, suffix string) string { return ca.path(name + suffix) }

// issue makes a key and signs its certificate. The serial is used up before the certificate exists, so that a crash
// cannot make two certificates with the same serial.
func (ca *CA) issue(l Leaf) error {
	if l.Name == "" || l.Name != filepath.Base(l.Name) || strings.HasPrefix(l.Name, ".") {
		return fmt.Errorf("%q cannot be the name of a certificate: it names files", l.Name)
	}
	ks, caKey, err := ca.key()
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	serial := new(big.Int).Add(ks.LastSerial, big.NewInt(1))
	ks.LastSerial = serial
	if err := ca.writeKeystore(ks); err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, ca.opts.Bits)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, ca.leafTemplate(l, serial), ca.cert, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("sign certificate %s: %w", l.Name, err)
	}
	return ca.writeLeaf(l, key, der)
}

func (ca *CA) leafTemplate(l Leaf, serial *big.Int) *x509.Certificate {
	now := ca.now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               ca.subject(l.Name),
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(ca.opts.LeafLifetime), ca.cert.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CRLDistributionPoints: ca.crlURLs(),
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	if l.Kind == Client {
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	hosts := l.Hosts
	if len(hosts) == 0 {
		hosts = []string{l.Name}
	}
	t.DNSNames, t.IPAddresses = splitHosts(hosts)
	if l.ReadOnly {
		t.URIs = []*url.URL{{Scheme: "urn", Opaque: strings.TrimPrefix(roleURI, "urn:") + roleReadOnly}}
	}
	return t
}

// writeLeaf writes the certificate last and removes an old one first: a certificate without its key, left by a crash,
// would look complete.
func (ca *CA) writeLeaf(l Leaf, key crypto.Signer, der []byte) error {
	private, err := EncodePrivateKey(key, l.KeyPassword)
	if err != nil {
		return err
	}
	public, err := encodePublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.Remove(ca.leafPath(l.Name, certSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace certificate %s: %w", l.Name, err)
	}
	if err := WriteFile(ca.leafPath(l.Name, keySuffix), private, secretMode); err != nil {
		return err
	}
	if err := WriteFile(ca.leafPath(l.Name, publicSuffix), public, publicMode); err != nil {
		return err
	}
	return WriteFile(ca.leafPath(l.Name, certSuffix), encodeCertificate(der), publicMode)
}

// splitHosts tells addresses from names.
func splitHosts(hosts []string) (names []string, ips []net.IP) {
	for _, h := range hosts {
		if ip := net.ParseIP(strings.Trim(h, "[]")); ip != nil {
			ips = append(ips, ip)
		} else if h != "" {
			names = append(names, h)
		}
	}
	return names, ips
}

// ServerHosts are the names and addresses that a server listening on bind is reached under: those of this machine,
// bind itself unless it stands for every address, and the further ones given.
func ServerHosts(bind string, further ...string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil && name != "" {
		hosts = append(hosts, name)
	}
	if ip := net.ParseIP(strings.Trim(bind, "[]")); bind != "" && (ip == nil || !ip.IsUnspecified()) {
		hosts = append(hosts, bind)
	}
	return unique(append(hosts, further...))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// unique drops later duplicates.
func unique(items []string) []string {
	seen := make(map[string]bool, len(items))
	out := items[:0:0]
	for _, s := range items {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
