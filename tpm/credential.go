package tpm

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// Credentials travel as tpm2-tools write them to a file: BE32 magic, BE32 version, TPM2B_ID_OBJECT,
// TPM2B_ENCRYPTED_SECRET.
const (
	credentialMagic   = 0xBADCC0DE
	credentialVersion = 1

	// maxIDObject is a TPM2B_DIGEST of integrity and an encrypted one of credential.
	maxIDObject = 2 * (2 + maxDigest)
)

// MakeCredential is TPM2_MakeCredential in software: only the TPM that holds ek can recover secret, and only
// for a loaded object with the Name akName. The secret has at most as many bytes as ek's name digest. The
// result is a tpm2-tools credential file.
func MakeCredential(rand io.Reader, ek *Public, akName, secret []byte) ([]byte, error) {
	blob, err := makeCredential(rand, ek, akName, secret)
	if err != nil {
		return nil, fmt.Errorf("make credential: %w", err)
	}
	return blob, nil
}

func makeCredential(rand io.Reader, ek *Public, akName, secret []byte) ([]byte, error) {
	if err := ek.CheckEK(); err != nil {
		return nil, err
	}
	if err := checkName(akName); err != nil {
		return nil, err
	}
	if n := len(secret); n == 0 || n > ek.nameAlg.Size() {
		return nil, fmt.Errorf("secret of %d bytes, want 1 to %d", n, ek.nameAlg.Size())
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.raw[2:])
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	idObject, encSecret, err := tpm2.CreateCredential(rand, key, akName, secret)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(nil, credentialMagic)
	b = binary.BigEndian.AppendUint32(b, credentialVersion)
	for _, part := range [][]byte{idObject, encSecret} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	return b, nil
}

func checkName(name []byte) error {
	if len(name) < 2 {
		return fmt.Errorf("object name of %d bytes", len(name))
	}
	alg := Hash(binary.BigEndian.Uint16(name))
	if !alg.Valid() || len(name) != 2+alg.Size() {
		return fmt.Errorf("object name of %d bytes with algorithm %v", len(name), alg)
	}
	return nil
}

// ParseCredential takes a tpm2-tools credential file apart into the contents of the TPM2B_ID_OBJECT and the
// TPM2B_ENCRYPTED_SECRET, which alias blob.
func ParseCredential(blob []byte) (idObject, encSecret []byte, err error) {
	r := &reader{rest: blob}
	if magic := r.u32("magic"); r.err == nil && magic != credentialMagic {
		r.fail("magic 0x%08x, want 0x%08x", magic, uint32(credentialMagic))
	}
	if version := r.u32("version"); r.err == nil && version != credentialVersion {
		r.fail("version %d, want %d", version, credentialVersion)
	}
	idObject = r.sized(maxIDObject, "credential")
	encSecret = r.sized(maxRSA, "secret")
	inner := reader{rest: idObject}
	if len(inner.sized(maxDigest, "integrity")) == 0 || len(inner.rest) == 0 {
		r.fail("credential lacks its integrity value or its content")
	}
	if err := r.close(); err != nil {
		return nil, nil, fmt.Errorf("parse credential: %w", err)
	}
	return idObject, encSecret, nil
}
