package device

import (
	"context"

	"keylime/tpm"
)

// TPM is an open TPM. Its methods may be called concurrently; they run one after the other.
type TPM struct{}

// Open connects to the TPM that tcti names: "device:/dev/tpmrm0", "swtpm:host=127.0.0.1,port=2321" or
// "swtpm:path=/run/tpm.sock". An empty name stands for device:/dev/tpmrm0.
func Open(ctx context.Context, tcti string) (*TPM, error) { panic("unimplemented") }

// Close releases the TPM.
func (t *TPM) Close() error { panic("unimplemented") }

// EKOptions say which endorsement key to use.
type EKOptions struct {
	Alg      string // "rsa" or "rsa2048", "ecc" or "ecc256", "ecc384"; empty is rsa2048
	Handle   uint32 // of a persistent EK; zero: create it from the template that its certificate was made for
	Password []byte // of the endorsement hierarchy
}

// EK is an endorsement key of this TPM.
type EK struct {
	Public *tpm.Public
	Cert   []byte   // DER as it stands in NV, padding removed; nil when the TPM has none
	Chain  [][]byte // DER of the issuers' certificates in NV, in the order of their indices
}

// CreateEK makes the EK available and reads its certificate.
func (t *TPM) CreateEK(ctx context.Context, o EKOptions) (*EK, error) { panic("unimplemented") }

// AKBlob is an AK outside the TPM: only the EK's TPM can load it.
type AKBlob struct {
	Public  []byte // TPM2B_PUBLIC
	Private []byte // TPM2B_PRIVATE
}

// AK is an attestation key of this TPM.
type AK struct{ Public *tpm.Public }

// CreateAK creates a restricted signing key under the EK. signScheme is "rsassa", "rsapss" or "ecdsa"; alg as in
// EKOptions.
func (t *TPM) CreateAK(ctx context.Context, ek *EK, hash tpm.Hash, signScheme, alg string) (AKBlob, error) {
	panic("unimplemented")
}

// LoadAK makes an AK available that CreateAK made. ErrForeignAK says that the blob is damaged or from another
// TPM or EK.
func (t *TPM) LoadAK(ctx context.Context, ek *EK, blob AKBlob) (*AK, error) { panic("unimplemented") }

// ActivateCredential recovers the secret of a tpm2-tools credential file.
func (t *TPM) ActivateCredential(ctx context.Context, ek *EK, ak *AK, blob []byte) ([]byte, error) {
	panic("unimplemented")
}

// Quote quotes the PCRs of mask and returns them with their values. Unless dataDigest is nil, PCR 16 is first
// reset, extended with it and added to mask.
func (t *TPM) Quote(ctx context.Context, ak *AK, nonce []byte, mask tpm.Mask, bank tpm.Hash, dataDigest []byte) (tpm.Quote, error) {
	panic("unimplemented")
}

// ReadPCR returns the value of one PCR.
func (t *TPM) ReadPCR(ctx context.Context, bank tpm.Hash, pcr int) ([]byte, error) {
	panic("unimplemented")
}

// ExtendPCR extends a PCR with a digest in each bank that has one.
func (t *TPM) ExtendPCR(ctx context.Context, pcr int, digests map[tpm.Hash][]byte) error {
	panic("unimplemented")
}

// ResetPCR resets a resettable PCR (16 or 23) in all banks.
func (t *TPM) ResetPCR(ctx context.Context, pcr int) error { panic("unimplemented") }

// GetRandom returns n bytes from the TPM's generator.
func (t *TPM) GetRandom(ctx context.Context, n int) ([]byte, error) { panic("unimplemented") }
