// Package snp verifies attestation reports of AMD SEV-SNP: that a genuine AMD processor made one, and for whom.
//
// The structures are those of AMD's publications 56860 (firmware ABI) and 57230 (certificates). The rules are few and
// need the standard library alone, where a library for the whole ecosystem would bring the protobuf runtime along; the
// tests hold the verdicts against such a library.
package snp

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// ReportSize is the size of an attestation report: ATTESTATION_REPORT, with its signature.
const ReportSize = 0x4A0

// Offsets in ATTESTATION_REPORT (56860, "Attestation"). Integers are little-endian.
const (
	atVersion     = 0x000
	atPolicy      = 0x008
	atAlgorithm   = 0x034
	atPlatform    = 0x040
	atSigner      = 0x048
	atReportData  = 0x050
	atMeasurement = 0x090
	atHostData    = 0x0C0
	atReportedTCB = 0x180
	atFamily      = 0x188 // CPUID family and model, since version 3
	atModel       = 0x189
	atChipID      = 0x1A0
	atSignature   = 0x2A0

	scalarSize = 72 // R and S of the signature
	fieldSize  = 48 // of which P-384 uses these
)

const (
	minVersion, maxVersion = 2, 5
	ecdsaP384SHA384        = 1
)

// Report is a report whose form is right. Nothing in it is to be believed before Chain.Verify.
type Report struct {
	raw []byte
	r,
	s *big.Int
}

// ParseReport reads a report of exactly ReportSize bytes, signed by a VCEK with ECDSA P-384.
func ParseReport(raw []byte) (Report, error) {
	if len(raw) != ReportSize {
		return Report{}, fmt.Errorf("SEV-SNP report of %d bytes, want %d", len(raw), ReportSize)
	}
	raw = slices.Clone(raw)
	if v := binary.LittleEndian.Uint32(raw[atVersion:]); v < minVersion || v > maxVersion {
		return Report{}, fmt.Errorf("SEV-SNP report of version %d, want %d to %d", v, minVersion, maxVersion)
	}
	if a := binary.LittleEndian.Uint32(raw[atAlgorithm:]); a != ecdsaP384SHA384 {
		return Report{}, fmt.Errorf("SEV-SNP report with signature algorithm %d, want %d, ECDSA P-384 with SHA-384", a, ecdsaP384SHA384)
	}
	switch key := binary.LittleEndian.Uint32(raw[atSigner:]) >> 2 & 7; key {
	case 0:
	case 1:
		return Report{}, errors.New("SEV-SNP report is signed by a VLEK, which is of a cloud and no processor's; want one signed by a VCEK")
	default:
		return Report{}, fmt.Errorf("SEV-SNP report is signed by key %d, want 0, the VCEK", key)
	}
	rep := Report{raw: raw}
	var err error
	if rep.r, err = readScalar(raw[atSignature:]); err == nil {
		rep.s, err = readScalar(raw[atSignature+scalarSize:])
	}
	return rep, err
}

// readScalar reads a little-endian number of P-384 in its wider field.
func readScalar(b []byte) (*big.Int, error) {
	field := slices.Clone(b[:scalarSize])
	slices.Reverse(field)
	for _, c := range field[:scalarSize-fieldSize] {
		if c != 0 {
			return nil, errors.New("SEV-SNP report with a signature that is none of P-384")
		}
	}
	return new(big.Int).SetBytes(field), nil
}

// signedBy reports whether the key signed the report.
func (r Report) signedBy(key *ecdsa.PublicKey) bool {
	sum := sha512.Sum384(r.raw[:atSignature])
	signature, err := asn1.Marshal(struct{ R, S *big.Int }{r.r, r.s})
	return err == nil && ecdsa.VerifyASN1(key, sum[:], signature)
}

// chipID names the processor; all zero when the host's owner hides it (MASK_CHIP_ID).
func (r Report) chipID() []byte { return r.raw[atChipID : atChipID+64] }

// reportedTCB is the version of the firmware that the VCEK was derived from.
func (r Report) reportedTCB() []byte { return r.raw[atReportedTCB : atReportedTCB+8] }

// Product is the line of processors that the report says it is from; false in reports of version 2, which do not say.
func (r Report) Product() (Product, bool) {
	if binary.LittleEndian.Uint32(r.raw[atVersion:]) < 3 {
		return "", false
	}
	return productOf(r.raw[atFamily], r.raw[atModel])
}

// Binds reports whether the guest asked for the report with SHA-512(x ‖ y ‖ nonce): the key with these coordinates is
// the guest's, and the report is no older than the nonce.
func (r Report) Binds(x, y, nonce []byte) bool {
	h := sha512.New()
	h.Write(x)
	h.Write(y)
	h.Write(nonce)
	return string(h.Sum(nil)) == string(r.raw[atReportData:atMeasurement])
}

// vcekKey is the certificate's key, which must be of the curve that reports are signed on.
func vcekKey(vcek *x509.Certificate) (*ecdsa.PublicKey, bool) {
	key, ok := vcek.PublicKey.(*ecdsa.PublicKey)
	return key, ok && key.Curve.Params().BitSize == 384
}
