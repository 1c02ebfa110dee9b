package snp

import (
	"bytes"
	"crypto/x509"
	"embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors of Chain.Verify, for callers that tell them apart.
var (
	ErrKey       = errors.New("the VCEK certificate's key is not an EC key of P-384")
	ErrSignature = errors.New("the VCEK did not sign the SEV-SNP report")
)

// Chain is what is trusted of one product: AMD's root key (ARK) and the key that it certified to certify processors'
// keys (ASK). It is immutable and safe for concurrent use.
type Chain struct {
	product  Product
	ark, ask *x509.CertPool
}

//go:embed roots/*.pem
var roots embed.FS

// AMD is the chain that AMD publishes for a product.
func AMD(p Product) (Chain, error) {
	text, err := roots.ReadFile("roots/" + strings.ToLower(string(p)) + ".pem")
	if err != nil {
		return Chain{}, fmt.Errorf("no certificates of AMD for product %q", p)
	}
	return ParseChain(p, text)
}

// ParseChain reads ASK and ARK, in either order: two certificates in PEM, of which the ARK signed both.
func ParseChain(p Product, text []byte) (Chain, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Chain{}, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) != 2 {
		return Chain{}, fmt.Errorf("%d certificates in PEM, want two, ASK and ARK", len(certs))
	}
	ask, ark := certs[0], certs[1]
	if bytes.Equal(ask.RawIssuer, ask.RawSubject) {
		ask, ark = ark, ask
	}
	if err := ark.CheckSignatureFrom(ark); err != nil {
		return Chain{}, fmt.Errorf("neither certificate is an ARK, which signs itself: %w", err)
	}
	if err := ask.CheckSignatureFrom(ark); err != nil {
		return Chain{}, fmt.Errorf("the ARK %q did not sign the ASK %q: %w", ark.Subject.CommonName, ask.Subject.CommonName, err)
	}
	c := Chain{p, x509.NewCertPool(), x509.NewCertPool()}
	c.ark.AddCert(ark)
	c.ask.AddCert(ask)
	return c, nil
}

// Product is the line of processors that the chain is for.
func (c Chain) Product() Product { return c.product }

// Verify holds a report to being made by a processor of the product: the chain vouches for the VCEK now, it is that of
// the report's chip and firmware, and it signed the report.
func (c Chain) Verify(r Report, vcek *x509.Certificate, now time.Time) (Claims, error) {
	if err := c.check(r, vcek, now); err != nil {
		return Claims{}, err
	}
	key, ok := vcekKey(vcek)
	if !ok {
		return Claims{}, ErrKey
	}
	if !r.signedBy(key) {
		return Claims{}, ErrSignature
	}
	return r.claims(c.product), nil
}

// check holds a certificate to being a VCEK that the chain vouches for, of the chip and the firmware of the report.
func (c Chain) check(r Report, vcek *x509.Certificate, now time.Time) error {
	if said, ok := r.Product(); ok && said != c.product {
		return fmt.Errorf("the report is from a processor of %s, the certificates are for %s", said, c.product)
	}
	_, err := vcek.Verify(x509.VerifyOptions{
		Roots: c.ark, Intermediates: c.ask, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("the VCEK certificate is not vouched for by the trusted ASK and ARK of %s: %w", c.product, err)
	}
	got, err := readVCEK(c.product, vcek)
	switch want := c.product.splitTCB(r.reportedTCB()); {
	case err != nil:
		return fmt.Errorf("the VCEK certificate: %w", err)
	case got.tcb != want:
		return fmt.Errorf("the VCEK certificate is for firmware %v, the report says %v", got.tcb, want)
	case !isZero(r.chipID()) && !bytes.Equal(got.hardwareID, c.product.hardwareID(r.chipID())):
		return errors.New("the VCEK certificate is that of another processor")
	}
	return nil
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// String shows the parts' versions: FMC, boot loader, TEE, SNP and microcode.
func (t tcb) String() string {
	return fmt.Sprintf("%d.%d.%d.%d.%d", t.fmc, t.bootloader, t.tee, t.snp, t.microcode)
}

// vcekNames are what a VCEK certificate says its key was derived for.
type vcekNames struct {
	hardwareID []byte
	tcb        tcb
}

// readVCEK reads AMD's extensions (57230, "VCEK Certificate").
func readVCEK(p Product, cert *x509.Certificate) (v vcekNames, err error) {
	type part struct {
		arc  int
		into *uint8
	}
	parts := []part{{1, &v.tcb.bootloader}, {2, &v.tcb.tee}, {3, &v.tcb.snp}, {8, &v.tcb.microcode}}
	if p == Turin {
		parts = append(parts, part{9, &v.tcb.fmc})
	}
	for _, part := range parts {
		id := amdExtension(3, part.arc)
		value, err := extension(cert, id)
		if err != nil {
			return v, err
		}
		var n int
		if rest, err := asn1.Unmarshal(value, &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
			return v, fmt.Errorf("extension %v is not a number from 0 to 255", id)
		}
		*part.into = uint8(n)
	}
	v.hardwareID, err = extension(cert, amdExtension(4))
	if err != nil || len(v.hardwareID) == p.hardwareIDSize() {
		return v, err // the bare bytes, as AMD writes them
	}
	octets := v.hardwareID
	if rest, err := asn1.Unmarshal(octets, &v.hardwareID); err != nil || len(rest) > 0 {
		return v, fmt.Errorf("extension %v is no OCTET STRING", amdExtension(4))
	}
	return v, nil
}

func amdExtension(arc ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, arc...)
}

func extension(cert *x509.Certificate, id asn1.ObjectIdentifier) ([]byte, error) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(id) {
			return e.Value, nil
		}
	}
	return nil, fmt.Errorf("extension %v is missing", id)
}
