package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // the digests that Hash stands for
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/big"
)

// algorithm is a TPM_ALG_ID of TPM 2.0 Library part 2, table "TPM_ALG_ID Constants".
type algorithm uint16

const (
	algRSA       algorithm = 0x0001
	algAES       algorithm = 0x0006
	algNull      algorithm = 0x0010
	algRSASSA    algorithm = 0x0014
	algRSAES     algorithm = 0x0015
	algRSAPSS    algorithm = 0x0016
	algOAEP      algorithm = 0x0017
	algECDSA     algorithm = 0x0018
	algECDH      algorithm = 0x0019
	algSM2       algorithm = 0x001B
	algECSchnorr algorithm = 0x001C
	algECMQV     algorithm = 0x001D
	algECC       algorithm = 0x0023
	algCFB       algorithm = 0x0043
)

// String is the name that Keylime gives a signing scheme, or the number of any other algorithm.
func (a algorithm) String() string {
	switch a {
	case algRSASSA:
		return "rsassa"
	case algRSAPSS:
		return "rsapss"
	case algECDSA:
		return "ecdsa"
	case algECSchnorr:
		return "ecschnorr"
	case algNull:
		return "null"
	}
	return fmt.Sprintf("alg-0x%04x", uint16(a))
}

const (
	maxPublic = 1024 // bytes of a TPMT_PUBLIC; an RSA-4096 key needs 570
	maxDigest = 64   // SHA-512
	maxRSA    = 512  // RSA-4096
	maxField  = 66   // P-521

	defaultExponent = 65537
)

// symmetric is a TPMT_SYM_DEF_OBJECT.
type symmetric struct {
	alg  algorithm // algNull: none
	bits uint16
	mode algorithm
}

// Public is a parsed TPM2B_PUBLIC of an RSA or ECC key. It is immutable and safe for concurrent use; parse a
// key once and keep it.
type Public struct {
	raw        []byte
	name       []byte
	nameAlg    Hash
	attributes attributes
	symmetric  symmetric
	scheme     algorithm // signing scheme, algNull when the key has none
	schemeHash Hash      // zero when the scheme has none
	key        crypto.PublicKey
}

// ParsePublic parses a TPM2B_PUBLIC (BE16 size and TPMT_PUBLIC, nothing after it) of an RSA or ECC key. It
// checks that the key is well-formed, not that it is fit for a purpose: see CheckAK and CheckEK.
func ParsePublic(tpm2b []byte) (*Public, error) {
	p, err := parsePublic(tpm2b)
	if err != nil {
		return nil, fmt.Errorf("parse TPM2B_PUBLIC: %w", err)
	}
	return p, nil
}

func parsePublic(tpm2b []byte) (*Public, error) {
	outer := reader{rest: tpm2b}
	area := outer.sized(maxPublic, "public area")
	if err := outer.close(); err != nil {
		return nil, err
	}
	p := &Public{raw: bytes.Clone(tpm2b)}
	r := &reader{rest: area}
	kind := algorithm(r.u16("type"))
	p.nameAlg = Hash(r.u16("nameAlg"))
	if r.err == nil && !p.nameAlg.Valid() {
		return nil, fmt.Errorf("nameAlg: %w %v", ErrUnknownHash, p.nameAlg)
	}
	p.attributes = attributes(r.u32("objectAttributes"))
	if unknown := p.attributes &^ attrDefined; unknown != 0 {
		r.fail("objectAttributes has reserved bits 0x%08x", uint32(unknown))
	}
	if n := len(r.sized(maxDigest, "authPolicy")); n != 0 && n != p.nameAlg.Size() {
		r.fail("authPolicy has %d bytes, want none or a %v digest", n, p.nameAlg)
	}
	switch kind {
	case algRSA:
		p.readRSA(r)
	case algECC:
		p.readECC(r)
	default:
		r.fail("type %v is neither RSA nor ECC", kind)
	}
	if err := r.close(); err != nil {
		return nil, err
	}
	p.name = nameOf(p.nameAlg, area)
	return p, nil
}

// nameOf computes an object's Name (part 1, "Names"): its nameAlg and the digest of its public area.
func nameOf(alg Hash, area []byte) []byte {
	h := alg.Crypto().New()
	h.Write(area)
	return h.Sum(binary.BigEndian.AppendUint16(make([]byte, 0, 2+alg.Size()), uint16(alg)))
}

// readRSA reads TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA.
func (p *Public) readRSA(r *reader) {
	p.symmetric = readSymmetric(r)
	switch p.scheme = algorithm(r.u16("scheme")); p.scheme {
	case algNull, algRSAES:
	case algRSASSA, algRSAPSS, algOAEP:
		p.schemeHash = readHash(r, "scheme hash")
	default:
		r.fail("scheme %v is not one of RSA", p.scheme)
	}
	bits := int(r.u16("keyBits"))
	switch bits {
	case 1024, 2048, 3072, 4096:
	default:
		r.fail("RSA key of %d bits, want 1024, 2048, 3072 or 4096", bits)
	}
	// Zero stands for the default (part 2, TPMS_RSA_PARMS).
	if e := r.u32("exponent"); e != 0 && e != defaultExponent {
		r.fail("RSA exponent %d, want %d", e, defaultExponent)
	}
	modulus := r.sized(maxRSA, "RSA modulus")
	n := new(big.Int).SetBytes(modulus)
	if len(modulus) != bits/8 || n.BitLen() != bits || n.Bit(0) == 0 {
		r.fail("RSA modulus of %d bits in %d bytes is no odd number of %d bits", n.BitLen(), len(modulus), bits)
	}
	p.key = &rsa.PublicKey{N: n, E: defaultExponent}
}

// readECC reads TPMS_ECC_PARMS and TPMS_ECC_POINT.
func (p *Public) readECC(r *reader) {
	p.symmetric = readSymmetric(r)
	switch p.scheme = algorithm(r.u16("scheme")); p.scheme {
	case algNull:
	case algECDSA, algECDH, algSM2, algECSchnorr, algECMQV:
		p.schemeHash = readHash(r, "scheme hash")
	default:
		// ECDAA, which has a counter as well, cannot be verified with the key alone.
		r.fail("scheme %v is not a supported one of ECC", p.scheme)
	}
	id := r.u16("curveID")
	curve := curveOf(id)
	if curve == nil {
		r.fail("curve 0x%04x is none of P-256, P-384, P-521", id)
	}
	if kdf := algorithm(r.u16("kdf")); kdf != algNull {
		readHash(r, "kdf hash")
	}
	x, y := r.sized(maxField, "x"), r.sized(maxField, "y")
	if r.err != nil {
		return
	}
	width := (curve.Params().BitSize + 7) / 8
	point := make([]byte, 1+2*width)
	point[0] = 4 // uncompressed (SEC 1, 2.3.3)
	if !place(point[1:1+width], x) || !place(point[1+width:], y) {
		r.fail("coordinates of %d and %d bytes do not fit %s", len(x), len(y), curve.Params().Name)
		return
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		r.fail("point is not on %s", curve.Params().Name)
		return
	}
	p.key = key
}

// place right-aligns a coordinate in its field. TPMs write the full width; a P-521 coordinate may lack its
// first byte, which is nearly always zero.
func place(field, coordinate []byte) bool {
	n := len(coordinate)
	if n != len(field) && (len(field) != maxField || n != maxField-1) {
		return false
	}
	copy(field[len(field)-n:], coordinate)
	return true
}

func curveOf(id uint16) elliptic.Curve {
	switch id { // part 2, TPM_ECC_CURVE
	case 0x0003:
		return elliptic.P256()
	case 0x0004:
		return elliptic.P384()
	case 0x0005:
		return elliptic.P521()
	}
	return nil
}

func readSymmetric(r *reader) symmetric {
	s := symmetric{alg: algorithm(r.u16("symmetric"))}
	if s.alg != algNull {
		s.bits = r.u16("symmetric keyBits")
		s.mode = algorithm(r.u16("symmetric mode"))
	}
	return s
}

func readHash(r *reader, field string) Hash {
	h := Hash(r.u16(field))
	if r.err == nil && !h.Valid() {
		r.fail("%s: %w %v", field, ErrUnknownHash, h)
	}
	return h
}

// Bytes is the TPM2B_PUBLIC as it was parsed. Don't modify it.
func (p *Public) Bytes() []byte { return p.raw }

// Key is the key as an *rsa.PublicKey or *ecdsa.PublicKey. Don't modify it.
func (p *Public) Key() crypto.PublicKey { return p.key }

// Name is the object's Name: BE16 nameAlg ‖ digest of the public area. Don't modify it.
func (p *Public) Name() []byte { return p.name }

// EncAlg is the key's type and size as Keylime names it: "rsa2048", "ecc256" and so on.
func (p *Public) EncAlg() string {
	switch k := p.key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecc%d", k.Curve.Params().BitSize)
	}
	panic("tpm: Public without a key")
}

// SignAlg is the signing scheme as Keylime names it: "rsassa", "rsapss" or "ecdsa"; "null" for none.
func (p *Public) SignAlg() string { return p.scheme.String() }

// SchemeHash is the digest of the key's scheme; zero when it has none.
func (p *Public) SchemeHash() Hash { return p.schemeHash }
