package device

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// Banks lists the PCR banks that are active, with their PCRs. Banks of hashes unknown here are left out.
func (t *TPM) Banks(ctx context.Context) (map[tpm.Hash]tpm.Mask, error) {
	banks := map[tpm.Hash]tpm.Mask{}
	err := t.run(ctx, "read the PCR banks", func(c *conn) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(c)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.AssignedPCR()
		if err != nil {
			return err
		}
		for _, s := range list.PCRSelections {
			if bank := tpm.Hash(s.Hash); bank.Valid() {
				if mask := returned(*list, bank) & allPCRs; mask != 0 {
					banks[bank] = mask
				}
			}
		}
		if len(banks) == 0 {
			return errors.New("TPM has no active bank of PCRs; see tpm2_pcrallocate")
		}
		return nil
	})
	return banks, err
}
