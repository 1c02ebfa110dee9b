package device

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// allPCRs are those that a PC Client TPM has.
const allPCRs tpm.Mask = 0xFFFFFF

// ReadPCR returns the value of one PCR.
func (t *TPM) ReadPCR(ctx context.Context, bank tpm.Hash, pcr int) ([]byte, error) {
	if !allPCRs.Has(pcr) {
		return nil, fmt.Errorf("read PCRs: no PCR %d", pcr)
	}
	values, err := t.ReadPCRs(ctx, bank, tpm.MaskOf(pcr))
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// ReadPCRs returns the values of the PCRs of mask, ascending.
func (t *TPM) ReadPCRs(ctx context.Context, bank tpm.Hash, mask tpm.Mask) ([][]byte, error) {
	var values [][]byte
	err := t.run(ctx, "read PCRs", func(c *conn) (err error) {
		values, err = c.readPCRs(bank, mask)
		return err
	})
	return values, err
}

// ExtendPCR extends a PCR with a digest in each bank that has one, in one command.
func (t *TPM) ExtendPCR(ctx context.Context, pcr int, digests map[tpm.Hash][]byte) error {
	return t.run(ctx, "extend PCR", func(c *conn) error { return c.extendPCR(pcr, digests) })
}

// ResetPCR resets a resettable PCR (16 or 23) in all banks.
func (t *TPM) ResetPCR(ctx context.Context, pcr int) error {
	return t.run(ctx, "reset PCR", func(c *conn) error { return c.resetPCR(pcr) })
}

// readPCRs reads as often as it takes: one command returns at most eight values.
func (c *conn) readPCRs(bank tpm.Hash, mask tpm.Mask) ([][]byte, error) {
	values := make([][]byte, 0, mask.Count())
	for rest := mask & allPCRs; rest != 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(bank, rest)}.Execute(c)
		if err != nil {
			return nil, err
		}
		got := returned(rsp.PCRSelectionOut, bank) & rest
		if got == 0 || got.Count() != len(rsp.PCRValues.Digests) {
			return nil, fmt.Errorf("TPM has no PCRs %v in bank %v; see tpm2_getcap pcrs for its banks", rest, bank)
		}
		// The TPM answers ascending, so a later answer continues an earlier one.
		for _, d := range rsp.PCRValues.Digests {
			values = append(values, d.Buffer)
		}
		rest &^= got
	}
	return values, nil
}

func selection(bank tpm.Hash, mask tpm.Mask) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      tpm2.TPMAlgID(bank),
		PCRSelect: []byte{byte(mask), byte(mask >> 8), byte(mask >> 16)},
	}}}
}

func returned(list tpm2.TPMLPCRSelection, bank tpm.Hash) tpm.Mask {
	var mask tpm.Mask
	for _, s := range list.PCRSelections {
		if s.Hash != tpm2.TPMAlgID(bank) {
			continue
		}
		for i, b := range s.PCRSelect {
			mask |= tpm.Mask(b) << (8 * i)
		}
	}
	return mask
}

func (c *conn) extendPCR(pcr int, digests map[tpm.Hash][]byte) error {
	var list []tpm2.TPMTHA
	for _, bank := range slices.Sorted(maps.Keys(digests)) {
		list = append(list, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(bank), Digest: digests[bank]})
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: list},
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("extend PCR %d: %w", pcr, err)
	}
	return nil
}

func (c *conn) resetPCR(pcr int) error {
	_, err := tpm2.PCRReset{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("reset PCR %d: %w", pcr, err)
	}
	return nil
}
