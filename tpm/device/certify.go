package device

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CertifySelf has the AK certify itself over a nonce of 1 to 64 bytes: the proof that it is in this TPM
// (tpm.VerifyPossession). attest is a TPMS_ATTEST, signature a TPMT_SIGNATURE.
func (t *TPM) CertifySelf(ctx context.Context, ak *AK, nonce []byte) (attest, signature []byte, err error) {
	if n := len(nonce); n == 0 || n > maxNonce {
		return nil, nil, fmt.Errorf("certify: nonce of %d bytes, want 1 to %d", n, maxNonce)
	}
	err = t.run(ctx, "certify", func(c *conn) error {
		return c.withAK(ak, func(key tpm2.AuthHandle) error {
			rsp, err := tpm2.Certify{
				ObjectHandle:   key,
				SignHandle:     key,
				QualifyingData: tpm2.TPM2BData{Buffer: nonce},
				InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			}.Execute(c)
			if err != nil {
				return err
			}
			attest, signature = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
			return nil
		})
	})
	return attest, signature, err
}
