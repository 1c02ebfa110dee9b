package device

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// SetPatience shortens how long a TPM may ask to repeat a command.
func (t *TPM) SetPatience(d time.Duration) { t.patience = d }

// EKTemplate is the n-th template of an algorithm and the NV index of its certificate.
func EKTemplate(alg string, n int) (tpm2.TPMHandle, tpm2.TPMTPublic) {
	list, err := ekTemplates(alg)
	if err != nil {
		panic(err)
	}
	return list[n].index, list[n].public
}

// PolicyB is the policy of the high range's templates.
func PolicyB(h tpm.Hash) []byte { return policyB(h) }

// SplitDER splits concatenated certificates.
func SplitDER(b []byte) [][]byte { return splitDER(b) }

// TrimPadding removes what follows a certificate.
func TrimPadding(b []byte) []byte { return trimPadding(b) }

// GetRandom returns n bytes from the TPM's generator: a command that needs nothing of the TPM.
func (t *TPM) GetRandom(ctx context.Context, n int) ([]byte, error) {
	random := make([]byte, 0, n)
	err := t.run(ctx, "get random bytes", func(c *conn) error {
		for len(random) < n {
			// The TPM returns at most as many as its largest digest has.
			rsp, err := tpm2.GetRandom{BytesRequested: uint16(min(n-len(random), 32))}.Execute(c)
			if err != nil {
				return err
			}
			if len(rsp.RandomBytes.Buffer) == 0 {
				return fmt.Errorf("TPM returned none")
			}
			random = append(random, rsp.RandomBytes.Buffer...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return random[:n], nil
}
