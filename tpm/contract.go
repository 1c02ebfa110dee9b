package tpm

import "io"

// Public is a parsed TPM2B_PUBLIC. It is immutable and safe for concurrent use.
type Public struct{ raw []byte }

// ParsePublic parses a TPM2B_PUBLIC (BE16 size and TPMT_PUBLIC, nothing after it) of an RSA or ECC key.
func ParsePublic(tpm2b []byte) (*Public, error) { panic("unimplemented") }

// Quote is TPM evidence in its wire parts.
type Quote struct {
	Attest    []byte // TPMS_ATTEST, no size prefix
	Signature []byte // TPMT_SIGNATURE
	PCRBlob   []byte // PCR values as tpm2-tools writes them (little-endian)
}

// Expected says what a quote must be to be believed.
type Expected struct {
	Nonce []byte // the exact qualifying data
	Mask  Mask   // the exact signed selection
	Hash  Hash   // signature scheme's hash and PCR bank
}

// Clock is TPMS_CLOCK_INFO.
type Clock struct {
	Clock        uint64 `json:"clock"` // milliseconds the TPM has been powered
	ResetCount   uint32 `json:"resetCount"`
	RestartCount uint32 `json:"restartCount"`
	Safe         bool   `json:"safe"`
}

// VerifiedPCRs are PCR values that a verified quote covers. VerifyQuote is their only constructor.
type VerifiedPCRs struct {
	bank  Hash
	mask  Mask
	clock Clock
}

// VerifyQuote checks q against want with the AK's key.
func VerifyQuote(ak *Public, q Quote, want Expected) (VerifiedPCRs, error) { panic("unimplemented") }

// MakeCredential is TPM2_MakeCredential in software.
func MakeCredential(rand io.Reader, ek *Public, akName, secret []byte) ([]byte, error) {
	panic("unimplemented")
}
