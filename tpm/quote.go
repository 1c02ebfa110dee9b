package tpm

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// Quote is TPM evidence in its wire parts.
type Quote struct {
	Attest    []byte // TPMS_ATTEST, no size prefix
	Signature []byte // TPMT_SIGNATURE
	PCRBlob   []byte // PCR values as tpm2-tools writes them (little-endian)
}

// maxQuoteText bounds a quote on the wire. The largest that can verify (24 PCRs, RSA-4096) has 3,400 characters.
const maxQuoteText = 8192

// ParseQuote reads the wire form r<b64>:<b64>:<b64> of attestation, signature and PCR blob. It is strict: what
// it accepts is exactly what String writes. The parts themselves are left to VerifyQuote.
func ParseQuote(s string) (Quote, error) {
	if len(s) > maxQuoteText {
		return Quote{}, fmt.Errorf("quote has %d characters, at most %d are allowed", len(s), maxQuoteText)
	}
	body, ok := strings.CutPrefix(s, "r")
	parts := strings.Split(body, ":")
	if !ok || len(parts) != 3 {
		return Quote{}, errors.New("quote is not of the form r<attestation>:<signature>:<PCRs>")
	}
	var q Quote
	for i, dst := range []*[]byte{&q.Attest, &q.Signature, &q.PCRBlob} {
		b, err := decodeBase64(parts[i])
		if err != nil {
			return Quote{}, fmt.Errorf("quote, part %d of 3: %w", i+1, err)
		}
		*dst = b
	}
	return q, nil
}

// decodeBase64 refuses what the standard decoder forgives: line breaks and set trailing bits.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64 text")
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// String is the wire form.
func (q Quote) String() string {
	e := base64.StdEncoding
	return "r" + e.EncodeToString(q.Attest) + ":" + e.EncodeToString(q.Signature) + ":" + e.EncodeToString(q.PCRBlob)
}

// Expected says what a quote must be to be believed.
type Expected struct {
	Nonce []byte // the exact qualifying data; not empty
	Mask  Mask   // the exact signed selection; not empty
	Hash  Hash   // signature scheme's hash and PCR bank
}

// VerifiedPCRs are PCR values that a verified quote covers. VerifyQuote is their only constructor; the zero
// value covers no PCR.
type VerifiedPCRs struct {
	bank   Hash
	mask   Mask
	values []byte // back to back, ascending
	clock  Clock
}

// Bank is the digest algorithm of the values.
func (v VerifiedPCRs) Bank() Hash { return v.bank }

// Mask is the set of PCRs covered.
func (v VerifiedPCRs) Mask() Mask { return v.mask }

// PCR returns a copy of the value of PCR i; false when the quote does not cover it.
func (v VerifiedPCRs) PCR(i int) ([]byte, bool) {
	if !v.mask.Has(i) {
		return nil, false
	}
	n := bits.OnesCount32(uint32(v.mask) & (1<<i - 1))
	size := v.bank.Size()
	return bytes.Clone(v.values[n*size : (n+1)*size]), true
}

// Clock is the TPM's clock when it signed.
func (v VerifiedPCRs) Clock() Clock { return v.clock }

// MissingPCRsError says that a quote is genuine and fresh but does not cover all PCRs that it had to.
type MissingPCRsError struct{ PCRs []int }

func (e MissingPCRsError) Error() string {
	return fmt.Sprintf("quote lacks PCRs %v that were asked for", e.PCRs)
}

// VerifyQuote checks q against want with the AK's key, which must pass CheckAK. In order: the structures parse,
// the AK signed the attestation, it is a quote by a TPM, its nonce is want's, its one PCR selection is want's
// bank and exactly want's mask, and the values in the blob are those of the signed digest.
//
// Nothing in the quote is to be believed when it returns an error, with one exception: *MissingPCRsError is
// returned only for a quote with a good signature and nonce.
func VerifyQuote(ak *Public, q Quote, want Expected) (VerifiedPCRs, error) {
	if len(want.Nonce) == 0 || want.Mask == 0 || want.Mask>>(maxPCR+1) != 0 || !want.Hash.Valid() {
		return VerifiedPCRs{}, fmt.Errorf("verify quote: expectation with %d bytes of nonce, PCRs %v, hash %v is none a quote can meet",
			len(want.Nonce), want.Mask, want.Hash)
	}
	v, err := verifyQuote(ak, q, want)
	if err != nil {
		return VerifiedPCRs{}, fmt.Errorf("verify quote: %w", err)
	}
	return v, nil
}

func verifyQuote(ak *Public, q Quote, want Expected) (VerifiedPCRs, error) {
	if err := ak.CheckAK(); err != nil {
		return VerifiedPCRs{}, err
	}
	sig, err := parseSignature(q.Signature)
	if err != nil {
		return VerifiedPCRs{}, err
	}
	if sig.hash != want.Hash {
		return VerifiedPCRs{}, fmt.Errorf("signature hash %v, want %v", sig.hash, want.Hash)
	}
	if err := sig.verify(ak, q.Attest); err != nil {
		return VerifiedPCRs{}, err
	}
	att, err := parseQuoted(q.Attest)
	if err != nil {
		return VerifiedPCRs{}, err
	}
	if !bytes.Equal(att.extraData, want.Nonce) {
		return VerifiedPCRs{}, errors.New("nonce is not the one asked for")
	}
	if att.bank != want.Hash {
		return VerifiedPCRs{}, fmt.Errorf("PCR bank %v, want %v", att.bank, want.Hash)
	}
	if missing := want.Mask &^ att.mask; missing != 0 {
		return VerifiedPCRs{}, &MissingPCRsError{PCRs: missing.PCRs()}
	}
	if att.mask != want.Mask {
		return VerifiedPCRs{}, fmt.Errorf("quote covers PCRs %v, want %v", att.mask, want.Mask)
	}
	return checkValues(att, q.PCRBlob)
}

// checkValues compares the blob, which nobody signed, with the signed selection and digest.
func checkValues(att quoted, blob []byte) (VerifiedPCRs, error) {
	pcrs, err := parsePCRBlob(blob)
	if err != nil {
		return VerifiedPCRs{}, err
	}
	if pcrs.bank != att.bank || pcrs.mask != att.mask {
		return VerifiedPCRs{}, fmt.Errorf("PCR blob has %v of bank %v, the quote %v of %v", pcrs.mask, pcrs.bank, att.mask, att.bank)
	}
	h := att.bank.Crypto().New()
	h.Write(pcrs.values)
	if !bytes.Equal(h.Sum(make([]byte, 0, maxDigest)), att.digest) {
		return VerifiedPCRs{}, errors.New("PCR values are not those of the signed digest")
	}
	return VerifiedPCRs{bank: att.bank, mask: att.mask, values: pcrs.values, clock: att.clock}, nil
}

// DataPCR is what PCR 16 holds after a reset and one extension with the digest of the transport key's PEM
// text, exactly as it stands on the wire. The bank must be valid.
func DataPCR(bank Hash, pubKeyPEM string) []byte {
	h := bank.Crypto().New()
	h.Write([]byte(pubKeyPEM))
	inner := h.Sum(nil)
	h.Reset()
	h.Write(make([]byte, bank.Size()))
	h.Write(inner)
	return h.Sum(inner[:0])
}
