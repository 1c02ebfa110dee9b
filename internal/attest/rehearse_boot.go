package attest

import (
	"slices"

	"keylime/internal/uefi"
)

// rehearseBootLog is readBootLog with a log that is believed where no PCR contradicts it.
func (r *round) rehearseBootLog(in Rehearsal) (b bootLog) {
	if len(in.BootLog) == 0 {
		return b
	}
	if b.log, b.failed = r.parseBootLog(in.BootLog); b.failed {
		return b
	}
	believed, err := uefi.Believe(b.log, in.Bank)
	if b.failed = r.failReplay(err); b.failed {
		return b
	}
	if len(contradictions(b.log, in, aggregatePCRs.PCRs())) == 0 {
		r.aggregates = believed.Aggregates()
	}
	return b
}

// rehearseBoot is checkBoot.
func (r *round) rehearseBoot(in Rehearsal, b bootLog) {
	switch {
	case b.failed || r.Policy.Boot == nil:
	case b.log == nil:
		r.checkNoBootLog(maskOf(in.PCRs))
	default:
		believed, err := uefi.Believe(b.log, in.Bank)
		if r.failReplay(err) {
			return
		}
		r.judgeReplayed(believed, contradictions(b.log, in, r.Policy.Boot.Mask().PCRs()), in.Bank)
	}
}

// contradictions are those of the PCRs that are claimed to have other values than the log says.
func contradictions(log *uefi.Log, in Rehearsal, pcrs []int) (list []uefi.Mismatch) {
	own, err := log.PCRs(in.Bank)
	if err != nil {
		return nil // and nothing of the log is believed
	}
	for _, pcr := range pcrs {
		claimed, ok := in.PCRs[pcr]
		if value := own.Value(pcr); ok && !slices.Equal(value, claimed) {
			list = append(list, uefi.Mismatch{PCR: pcr, Log: value, Quoted: claimed})
		}
	}
	return list
}
