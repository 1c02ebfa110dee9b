package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Processor is a software AMD processor with SEV-SNP: it makes attestation reports, and a chain of its own stands for
// that of its maker.
type Processor struct {
	// Roots are ASK and ARK in PEM, VCEK is the certificate of the processor's key in DER.
	Roots, VCEK []byte
	// ChipID and TCB are what its reports and its certificate say.
	ChipID [64]byte
	TCB    [8]byte
	key    *ecdsa.PrivateKey
	cpuid  [2]byte
}

// NewProcessor makes a processor of the line Milan, Genoa or Turin, whose certificates are valid for a day.
func NewProcessor(line string) (*Processor, error) {
	p := &Processor{TCB: [8]byte{3, 1, 0, 0, 0, 0, 21, 209}}
	switch line {
	case "Milan":
		p.cpuid = [2]byte{0x19, 0x01}
	case "Genoa":
		p.cpuid = [2]byte{0x19, 0x11}
	case "Turin":
		p.cpuid, p.TCB = [2]byte{0x1A, 0x02}, [8]byte{1, 3, 1, 4, 0, 0, 0, 72}
	default:
		return nil, fmt.Errorf("no line of processors %q", line)
	}
	id := p.ChipID[:]
	if line == "Turin" {
		id = id[:8]
	}
	_, _ = rand.Read(id) // never fails
	if err := p.certify(line, id); err != nil {
		return nil, fmt.Errorf("certificates of a software processor: %w", err)
	}
	return p, nil
}

func (p *Processor) certify(line string, id []byte) error {
	ark, arkKey, err := p.authority("ARK-"+line, nil, nil)
	if err != nil {
		return err
	}
	ask, askKey, err := p.authority("SEV-"+line, ark, arkKey)
	if err != nil {
		return err
	}
	for _, c := range []*x509.Certificate{ask, ark} {
		p.Roots = append(p.Roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if p.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return err
	}
	leaf := template("SEV-VCEK")
	if leaf.ExtraExtensions, err = p.extensions(line, id); err != nil {
		return err
	}
	p.VCEK, err = x509.CreateCertificate(rand.Reader, leaf, ask, &p.key.PublicKey, askKey)
	return err
}

// authority makes a certificate that certifies others; without an issuer it certifies itself. The keys are shorter than
// AMD's, for the tests' sake.
func (p *Processor) authority(name string, issuer *x509.Certificate, issuerKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	c := template(name)
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	if issuer == nil {
		issuer, issuerKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		return nil, nil, err
	}
	made, err := x509.ParseCertificate(der)
	return made, key, err
}

// template has the names that AMD gives its certificates (publication 57230).
func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:       big.NewInt(1),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		Subject: pkix.Name{
			Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
			Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"}, CommonName: name,
		},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// extensions say what the processor's key was derived for: the line, the firmware's versions and the chip.
func (p *Processor) extensions(line string, id []byte) ([]pkix.Extension, error) {
	parts := map[int]byte{1: p.TCB[0], 2: p.TCB[1], 3: p.TCB[6], 4: p.TCB[2], 5: p.TCB[3], 6: p.TCB[4], 7: p.TCB[5], 8: p.TCB[7]}
	if line == "Turin" {
		parts = map[int]byte{9: p.TCB[0], 1: p.TCB[1], 2: p.TCB[2], 3: p.TCB[3], 8: p.TCB[7]}
	}
	list := []pkix.Extension{{Id: amd(4), Value: id}}
	for arc, version := range parts {
		value, err := asn1.Marshal(int(version))
		if err != nil {
			return nil, err
		}
		list = append(list, pkix.Extension{Id: amd(3, arc), Value: value})
	}
	structure, err := asn1.Marshal(1)
	if err != nil {
		return nil, err
	}
	name, err := asn1.MarshalWithParams(line+"-B0", "ia5")
	return append(list, pkix.Extension{Id: amd(1), Value: structure}, pkix.Extension{Id: amd(2), Value: name}), err
}

func amd(arc ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, arc...)
}

// Report makes a report for a guest that binds data. change, unless nil, is given the report before it is signed.
func (p *Processor) Report(data [64]byte, change func(report []byte)) ([]byte, error) {
	b := make([]byte, 0x4A0)
	binary.LittleEndian.PutUint32(b, 3)           // version
	binary.LittleEndian.PutUint64(b[8:], 0x30133) // policy: SMT allowed, the bit that is always one, ABI 1.51
	binary.LittleEndian.PutUint32(b[0x34:], 1)    // ECDSA P-384 with SHA-384
	b[0x40] = 1                                   // platform: SMT
	copy(b[0x50:], data[:])
	for i := range 48 {
		b[0x90+i] = byte(i) // measurement
	}
	copy(b[0x180:], p.TCB[:])
	copy(b[0x188:], p.cpuid[:])
	copy(b[0x1A0:], p.ChipID[:])
	if change != nil {
		change(b)
	}
	return b, p.sign(b)
}

// sign puts the signature into the report.
func (p *Processor) sign(b []byte) error {
	sum := sha512.Sum384(b[:0x2A0])
	signature, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	if err != nil {
		return fmt.Errorf("sign a report: %w", err)
	}
	var scalars struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &scalars); err != nil {
		return fmt.Errorf("sign a report: %w", err)
	}
	for i, n := range []*big.Int{scalars.R, scalars.S} {
		field := b[0x2A0+72*i:][:72]
		n.FillBytes(field)
		slices.Reverse(field)
	}
	return nil
}
