package attest

import (
	"encoding/hex"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/tpm"
)

// Rehearsal is evidence whose PCR values nobody signed, to try policies out with.
type Rehearsal struct {
	Policy *policy.Set
	Bank   tpm.Hash       // of the PCRs
	PCRs   map[int][]byte // as claimed. Without PCR 10 the measurement list is taken as given
	IMA    []byte         // measurement list from its first entry on
	HasIMA bool
	// BootLog is a binary UEFI event log; nil when absent. It is believed where no PCR contradicts it.
	BootLog []byte
	// Visit, unless nil, is called for each line of the list with the failures that it caused. The entry is valid during
	// the call; for a line that is none, err says why, and of the entry only Line and Text are set.
	Visit func(e *ima.Entry, err error, failures []Failure)
}

// Rehearsed is what Verify would say of an agent with such evidence. It says nothing about any machine.
type Rehearsed struct {
	Failures []Failure // all of them
	Entries  int       // IMA entries appraised
	Proven   int       // of these, covered by PCR 10
	PCR10    []byte    // what the list comes to in Bank; nil without a list
}

// Rehearse does the last steps of Verify, those of the policies, on PCR values that are only claimed. A caller that holds
// a quote verifies it first, or says that it did not.
func Rehearse(in Rehearsal) Rehearsed {
	r := round{Input: Input{Policy: in.Policy}, listAll: true}
	boot := r.rehearseBootLog(in)
	if missing := r.Policy.PCR.Constrained() &^ maskOf(in.PCRs); missing != 0 {
		r.failMissing(missing.PCRs())
	} else {
		r.checkPCRPolicy(func(pcr int) ([]byte, bool) { return in.PCRs[pcr], true })
	}
	out := Rehearsed{}
	claimed := in.PCRs[tpm.PCRIma]
	switch {
	case in.HasIMA && in.Policy.Runtime != nil:
		out = r.rehearseMeasurements(in, claimed)
	case !in.HasIMA && claimed != nil:
		r.failNoList()
	}
	r.rehearseBoot(in, boot)
	out.Failures = r.failures
	return out
}

// rehearseMeasurements is checkMeasurements for a whole list, without a state.
func (r *round) rehearseMeasurements(in Rehearsal, claimed []byte) Rehearsed {
	result, value := ima.Rehearse(in.IMA, claimed, in.Bank, listFormat(in.Policy), func(e *ima.Entry, err error) {
		before := len(r.failures)
		r.checkEntry(uint64(e.Line), e, err)
		if in.Visit != nil {
			in.Visit(e, err, r.failures[before:])
		}
	})
	if !result.Matched {
		r.failMismatch(claimed)
	} else {
		r.checkDevices()
	}
	return Rehearsed{Entries: result.Entries, Proven: result.Proven, PCR10: value}
}

// failMismatch reports that the list does not explain PCR 10.
func (r *round) failMismatch(pcr10 []byte) {
	r.fail(EventIMAPCRMismatch, true, "IMA measurement list does not match TPM PCR "+hex.EncodeToString(pcr10))
}

func maskOf(pcrs map[int][]byte) (m tpm.Mask) {
	for pcr := range pcrs {
		m = m.With(pcr)
	}
	return m
}
