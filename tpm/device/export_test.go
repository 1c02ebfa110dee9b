package device

import (
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
