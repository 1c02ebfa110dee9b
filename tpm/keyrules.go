package tpm

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
)

// attributes is a TPMA_OBJECT (part 2, "TPMA_OBJECT").
type attributes uint32

const (
	attrFixedTPM            attributes = 1 << 1
	attrFixedParent         attributes = 1 << 4
	attrSensitiveDataOrigin attributes = 1 << 5
	attrRestricted          attributes = 1 << 16
	attrDecrypt             attributes = 1 << 17
	attrSign                attributes = 1 << 18

	// attrDefined has every bit that the specification defines: stClear, userWithAuth, adminWithPolicy,
	// firmwareLimited, svnLimited, noDA, encryptedDuplication and x509sign beside those above.
	attrDefined = 0x000F0FF6
)

// ErrKeyUnfit is wrapped by the errors of CheckAK and CheckEK.
var ErrKeyUnfit = errors.New("key is not fit")

// CheckAK reports whether the key may attest. A restricted signing key signs nothing that starts with the
// TPM's own magic number unless the TPM itself made it, and a key that is fixed to the TPM cannot be used
// outside it: without any of these a signature proves nothing. The algorithms must be ones VerifyQuote checks. Name
// and scheme may have any known hash, SHA-1 too, for which a forger would need a second preimage; which hash a
// quote may use is the caller's choice.
func (p *Public) CheckAK() error {
	const must = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrRestricted | attrSign
	if err := p.checkAttributes("attestation", must, attrDecrypt); err != nil {
		return err
	}
	if err := p.checkSize("attestation"); err != nil {
		return err
	}
	switch {
	case p.symmetric.alg != algNull:
		return unfit("attestation", "a signing key has no symmetric algorithm")
	case p.isRSA() && p.scheme != algRSASSA && p.scheme != algRSAPSS:
		return unfit("attestation", "scheme %v, want rsassa or rsapss for an RSA key", p.scheme)
	case !p.isRSA() && p.scheme != algECDSA:
		return unfit("attestation", "scheme %v, want ecdsa for an ECC key", p.scheme)
	}
	return nil
}

// CheckEK reports whether the key may be the endorsement key of an activation: only a restricted decryption
// key makes the TPM check what it decrypts, and only one fixed to the TPM ties the answer to it.
// The TCG's default templates (EK Credential Profile) pass.
func (p *Public) CheckEK() error {
	const must = attrFixedTPM | attrFixedParent | attrRestricted | attrDecrypt
	if err := p.checkAttributes("endorsement", must, attrSign); err != nil {
		return err
	}
	if err := p.checkSize("endorsement"); err != nil {
		return err
	}
	switch s := p.symmetric; {
	case p.nameAlg == SHA1:
		return unfit("endorsement", "name algorithm sha1, want sha256, sha384 or sha512")
	case s.alg != algAES || s.mode != algCFB || (s.bits != 128 && s.bits != 192 && s.bits != 256):
		return unfit("endorsement", "symmetric algorithm %v of %d bits in mode %v, want AES in CFB mode", s.alg, s.bits, s.mode)
	case p.scheme != algNull:
		return unfit("endorsement", "scheme %v, want none", p.scheme)
	}
	return nil
}

// checkAttributes wants all of must and none of mustNot.
func (p *Public) checkAttributes(purpose string, must, mustNot attributes) error {
	if lacks := must &^ p.attributes; lacks != 0 {
		return unfit(purpose, "it lacks the attributes %v", lacks)
	}
	if has := mustNot & p.attributes; has != 0 {
		return unfit(purpose, "it has the attribute %v", has)
	}
	return nil
}

func (p *Public) checkSize(purpose string) error {
	if k, ok := p.key.(*rsa.PublicKey); ok && k.N.BitLen() < 2048 {
		return unfit(purpose, "RSA key of %d bits, want at least 2048", k.N.BitLen())
	}
	return nil
}

func (p *Public) isRSA() bool {
	_, ok := p.key.(*rsa.PublicKey)
	return ok
}

func unfit(purpose, format string, args ...any) error {
	return fmt.Errorf("%w for %s: %s", ErrKeyUnfit, purpose, fmt.Sprintf(format, args...))
}

// String lists the attributes that the rules speak of.
func (a attributes) String() string {
	var names []string
	for _, n := range []struct {
		bit  attributes
		name string
	}{
		{attrFixedTPM, "fixedTPM"},
		{attrFixedParent, "fixedParent"},
		{attrSensitiveDataOrigin, "sensitiveDataOrigin"},
		{attrRestricted, "restricted"},
		{attrDecrypt, "decrypt"},
		{attrSign, "sign"},
	} {
		if a&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "|")
}
