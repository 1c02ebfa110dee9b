package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// CAOptions say what a CA and the certificates it issues are like. Opening a CA to read its certificate needs none.
type CAOptions struct {
	Password string // of the keystore private.yml

	// Subject of the CA; certificates it issues differ in the common name alone.
	Country, CommonName, State, Locality, Organization, OrgUnit string

	Lifetime     time.Duration // of the CA certificate
	LeafLifetime time.Duration
	Bits         int    // of RSA keys
	CRLURL       string // put into certificates; "" = nowhere

	Now func() time.Time // nil = time.Now
}

// CA is a directory with a CA certificate, its keystore and what it issued. Its methods may be called concurrently,
// by several processes too: those that write take the directory's lock.
type CA struct {
	dir  string
	opts CAOptions
	cert *x509.Certificate
}

// File names of a CA directory.
const (
	caCertName   = "cacert.crt"
	caPublicName = "ca-public.pem"
	crlDERName   = "cacrl.der"
	crlPEMName   = "cacrl.pem"
)

// backdate is how far certificates start in the past, for machines whose clocks are a little behind.
const backdate = 5 * time.Minute

// EnsureCA opens the CA in dir, creating directory and CA when it holds no CA certificate.
func EnsureCA(dir string, opts CAOptions) (*CA, error) {
	if opts.CommonName == "" || opts.Bits < 2048 || opts.Lifetime <= 0 || opts.LeafLifetime <= 0 || opts.Password == "" {
		return nil, errors.New("a CA needs a common name, keys of 2048 bits or more, lifetimes, and a keystore password")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create CA directory: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ca := &CA{dir: dir, opts: opts}
	found, err := exists(ca.path(caCertName))
	if err != nil {
		return nil, fmt.Errorf("look for CA certificate: %w", err)
	}
	if !found {
		if err := ca.create(); err != nil {
			return nil, fmt.Errorf("create CA in %s: %w", dir, err)
		}
	}
	return ca, ca.load()
}

// OpenCA opens an existing CA.
func OpenCA(dir string, opts CAOptions) (*CA, error) {
	ca := &CA{dir: dir, opts: opts}
	return ca, ca.load()
}

// Certificate is the CA's certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Path of a file in the CA's directory.
func (ca *CA) path(name string) string { return filepath.Join(ca.dir, name) }

func (ca *CA) now() time.Time {
	if ca.opts.Now != nil {
		return ca.opts.Now()
	}
	return time.Now()
}

func (ca *CA) load() error {
	text, err := os.ReadFile(ca.path(caCertName))
	if err != nil {
		return fmt.Errorf("read CA certificate: %w", err)
	}
	if ca.cert, err = firstCertificate(text); err != nil {
		return fmt.Errorf("%s: %w", ca.path(caCertName), err)
	}
	return nil
}

// create makes key, certificate, empty revocation list and keystore. The certificate is written last: while it is
// absent, an interrupted creation starts again from nothing.
func (ca *CA) create() error {
	if found, err := exists(ca.path(keystoreName)); err != nil || found {
		return errors.Join(err, fmt.Errorf("%s is there but %s is not: restore the certificate, or move the directory away to start anew", keystoreName, caCertName))
	}
	key, err := rsa.GenerateKey(rand.Reader, ca.opts.Bits)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	now := ca.now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               ca.subject(ca.opts.CommonName),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ca.opts.Lifetime),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		CRLDistributionPoints: ca.crlURLs(),
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("sign CA certificate: %w", err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	keyPEM, err := EncodePrivateKey(key, "")
	if err != nil {
		return err
	}
	ks := &keystore{CAKey: keyPEM, LastSerial: big.NewInt(1)}
	if err := ca.writePublic(key); err != nil {
		return err
	}
	if err := ca.writeCRL(ks, key); err != nil {
		return err
	}
	if err := ca.writeKeystore(ks); err != nil {
		return err
	}
	return WriteFile(ca.path(caCertName), encodeCertificate(der), publicMode)
}

func (ca *CA) writePublic(key crypto.Signer) error {
	pub, err := encodePublicKey(key.Public())
	if err != nil {
		return err
	}
	return WriteFile(ca.path(caPublicName), pub, publicMode)
}

func (ca *CA) writeKeystore(ks *keystore) error {
	sealed, err := ks.seal(ca.opts.Password)
	if err != nil {
		return err
	}
	return WriteFile(ca.path(keystoreName), sealed, secretMode)
}

// writeCRL writes the revocation list in both forms. It is valid as long as the CA: it changes only with a revocation.
func (ca *CA) writeCRL(ks *keystore, key crypto.Signer) error {
	now := ca.now()
	list := &x509.RevocationList{
		Number:             big.NewInt(now.UnixNano()),
		ThisUpdate:         now.Add(-backdate),
		NextUpdate:         ca.cert.NotAfter,
		SignatureAlgorithm: x509.SHA256WithRSA,
	}
	for _, s := range ks.Revoked {
		serial, ok := new(big.Int).SetString(s, 10)
		if !ok {
			return fmt.Errorf("keystore lists %q as a revoked serial, which is no number", s)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, key)
	if err != nil {
		return fmt.Errorf("sign revocation list: %w", err)
	}
	if err := WriteFile(ca.path(crlDERName), der, publicMode); err != nil {
		return err
	}
	return WriteFile(ca.path(crlPEMName), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), publicMode)
}

// key decrypts the keystore and returns it with the CA's private key.
func (ca *CA) key() (*keystore, crypto.Signer, error) {
	ks, err := readKeystore(ca.path(keystoreName), ca.opts.Password)
	if err != nil {
		return nil, nil, err
	}
	key, err := ReadPrivateKey(ks.CAKey, "")
	if err != nil {
		return nil, nil, fmt.Errorf("CA key in %s: %w", ca.path(keystoreName), err)
	}
	if !samePublicKey(key.Public(), ca.cert.PublicKey) {
		return nil, nil, fmt.Errorf("the keystore in %s belongs to another CA certificate than %s", ca.dir, caCertName)
	}
	return ks, key, nil
}

// Revoke puts a serial on the revocation list. Servers heed the list when their configuration names it.
func (ca *CA) Revoke(serial *big.Int) error {
	unlock, err := lockDir(ca.dir)
	if err != nil {
		return err
	}
	defer unlock()
	ks, key, err := ca.key()
	if err != nil {
		return err
	}
	if !slices.Contains(ks.Revoked, serial.String()) {
		ks.Revoked = append(ks.Revoked, serial.String())
	}
	if err := ca.writeKeystore(ks); err != nil {
		return err
	}
	return ca.writeCRL(ks, key)
}

func (ca *CA) crlURLs() []string {
	if ca.opts.CRLURL == "" {
		return nil
	}
	return []string{ca.opts.CRLURL}
}

// subject has the attributes in the order that Keylime's certificates have had from the start: C, CN, ST, L, O, OU.
func (ca *CA) subject(commonName string) pkix.Name {
	var name pkix.Name
	for _, a := range []struct {
		oid   asn1.ObjectIdentifier
		value string
	}{
		{asn1.ObjectIdentifier{2, 5, 4, 6}, ca.opts.Country},
		{asn1.ObjectIdentifier{2, 5, 4, 3}, commonName},
		{asn1.ObjectIdentifier{2, 5, 4, 8}, ca.opts.State},
		{asn1.ObjectIdentifier{2, 5, 4, 7}, ca.opts.Locality},
		{asn1.ObjectIdentifier{2, 5, 4, 10}, ca.opts.Organization},
		{asn1.ObjectIdentifier{2, 5, 4, 11}, ca.opts.OrgUnit},
	} {
		if a.value != "" {
			name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: a.oid, Value: a.value})
		}
	}
	return name
}
