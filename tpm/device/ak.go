package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

var (
	// ErrForeignAK says that an AK blob is damaged, or was made by another TPM or under another EK.
	ErrForeignAK = errors.New("attestation key does not belong to this TPM and EK")

	// ErrTPMReset says that the TPM was reset since a key was loaded: make EK and AK available anew.
	ErrTPMReset = errors.New("TPM was reset since the key was loaded")
)

// AKBlob is an AK outside the TPM: only the EK's TPM can load it.
type AKBlob struct {
	Public  []byte // TPM2B_PUBLIC
	Private []byte // TPM2B_PRIVATE
}

// AK is an attestation key of this TPM. It is immutable.
type AK struct {
	Public *tpm.Public

	saved tpm2.TPMSContext
}

// CreateAK creates a restricted signing key under the EK. signScheme is "rsassa", "rsapss" or "ecdsa"; alg as in
// EKOptions.
func (t *TPM) CreateAK(ctx context.Context, ek *EK, hash tpm.Hash, signScheme, alg string) (AKBlob, error) {
	template, err := akTemplate(hash, signScheme, alg)
	if err != nil {
		return AKBlob{}, fmt.Errorf("create AK: %w", err)
	}
	var blob AKBlob
	err = t.run(ctx, "create AK", func(c *conn) error {
		return c.withEK(ek, func(parent tpm2.AuthHandle) error {
			rsp, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}.Execute(c)
			if err != nil {
				return err
			}
			blob = AKBlob{Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
			return nil
		})
	})
	return blob, err
}

// LoadAK makes an AK available that CreateAK made. ErrForeignAK says that the blob cannot be loaded here; a new
// AK must then be created and registered.
func (t *TPM) LoadAK(ctx context.Context, ek *EK, blob AKBlob) (*AK, error) {
	ak, err := parseAK(blob)
	if err != nil {
		return nil, fmt.Errorf("load AK: %w: %w", ErrForeignAK, err)
	}
	err = t.run(ctx, "load AK", func(c *conn) error {
		return c.withEK(ek, func(parent tpm2.AuthHandle) (err error) {
			rsp, err := tpm2.Load{
				ParentHandle: parent,
				InPrivate:    tpm2.TPM2BPrivate{Buffer: blob.Private[2:]},
				InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](blob.Public[2:]),
			}.Execute(c)
			if refusedParameter(err) {
				return fmt.Errorf("%w: %w", ErrForeignAK, err)
			}
			if err != nil {
				return err
			}
			defer c.flushing(rsp.ObjectHandle, &err)
			ak.saved, err = c.save(rsp.ObjectHandle)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return ak, nil
}

func parseAK(blob AKBlob) (*AK, error) {
	public, err := tpm.ParsePublic(blob.Public)
	if err != nil {
		return nil, err
	}
	if err := public.CheckAK(); err != nil {
		return nil, err
	}
	if n := len(blob.Private); n < 2 || int(binary.BigEndian.Uint16(blob.Private)) != n-2 {
		return nil, fmt.Errorf("private part of %d bytes is no TPM2B_PRIVATE", n)
	}
	return &AK{Public: public}, nil
}

// refusedParameter reports whether the TPM found fault with a parameter of the command rather than with its
// handles or authorisation.
func refusedParameter(err error) bool {
	var rc tpm2.TPMFmt1Error
	if !errors.As(err, &rc) {
		return false
	}
	isParameter, _ := rc.Parameter()
	return isParameter
}

// ActivateCredential recovers the secret of a tpm2-tools credential file that was made for this EK and AK.
func (t *TPM) ActivateCredential(ctx context.Context, ek *EK, ak *AK, blob []byte) ([]byte, error) {
	idObject, encSecret, err := tpm.ParseCredential(blob)
	if err != nil {
		return nil, fmt.Errorf("activate credential: %w", err)
	}
	var secret []byte
	err = t.run(ctx, "activate credential", func(c *conn) error {
		return c.withAK(ak, func(key tpm2.AuthHandle) error {
			return c.withEK(ek, func(parent tpm2.AuthHandle) error {
				rsp, err := tpm2.ActivateCredential{
					ActivateHandle: key,
					KeyHandle:      parent,
					CredentialBlob: tpm2.TPM2BIDObject{Buffer: idObject},
					Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encSecret},
				}.Execute(c)
				if err != nil {
					return err
				}
				secret = rsp.CertInfo.Buffer
				return nil
			})
		})
	})
	return secret, err
}

// withAK loads the AK for the length of use.
func (c *conn) withAK(ak *AK, use func(tpm2.AuthHandle) error) (err error) {
	handle, err := c.load(ak.saved)
	if err != nil {
		return fmt.Errorf("load AK: %w", err)
	}
	defer c.flushing(handle, &err)
	return use(tpm2.AuthHandle{
		Handle: handle,
		Name:   tpm2.TPM2BName{Buffer: ak.Public.Name()},
		Auth:   tpm2.PasswordAuth(nil),
	})
}
