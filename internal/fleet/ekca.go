package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"keylime/tpm"
)

var (
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// Maker is a TPM manufacturer's certificate authority.
type Maker struct {
	rand io.Reader
	key  crypto.Signer
	cert *x509.Certificate
}

// LoadMaker uses the authority of a PEM certificate and its PEM key (PKCS #1 or PKCS #8).
func LoadMaker(rand io.Reader, certPEM, keyPEM []byte) (*Maker, error) {
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, errors.New("load authority: certificate or key is not PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	if key, err := x509.ParsePKCS1PrivateKey(keyBlock.Bytes); err == nil {
		return &Maker{rand: rand, key: key, cert: cert}, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("load authority: no signing with a %T", key)
	}
	return &Maker{rand: rand, key: signer, cert: cert}, nil
}

// NewMaker makes an authority with a self-signed certificate for the given time.
func NewMaker(rand io.Reader, notBefore, notAfter time.Time) (*Maker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Organization: []string{"Example TPM maker"}, CommonName: "Example EK root"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &Maker{rand: rand, key: key, cert: cert}, nil
}

// PEM is the authority's certificate.
func (m *Maker) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})
}

// Certify issues the DER certificate of an endorsement key as the TCG's EK Credential Profile has it: empty
// subject, the TPM's maker, model and version in a critical subject alternative name, extended key usage
// 2.23.133.8.1.
func (m *Maker) Certify(ek *tpm.Public, notBefore, notAfter time.Time) ([]byte, error) {
	san, err := tpmName("id:00001014", "swtpm", "id:20191023")
	if err != nil {
		return nil, fmt.Errorf("certify EK: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(m.rand, serial); err != nil {
		return nil, fmt.Errorf("certify EK: %w", err)
	}
	serial[0] = serial[0]&0x7F | 0x40 // positive and of full length
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
	}
	if _, ok := ek.Key().(*ecdsa.PublicKey); ok {
		template.KeyUsage = x509.KeyUsageKeyAgreement
	}
	der, err := x509.CreateCertificate(m.rand, template, m.cert, ek.Key(), m.key)
	if err != nil {
		return nil, fmt.Errorf("certify EK: %w", err)
	}
	return der, nil
}

// tpmName is a GeneralNames with one directoryName of the TPM's maker, model and version.
func tpmName(maker, model, version string) ([]byte, error) {
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: oidTPMManufacturer, Value: maker}, {Type: oidTPMModel, Value: model}, {Type: oidTPMVersion, Value: version}},
	})
	if err != nil {
		return nil, err
	}
	const directoryName = 4
	return asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: directoryName, IsCompound: true, Bytes: name},
	})
}
