package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// bootAggregate is the name of the entry that the kernel begins a measurement list with: a digest over the boot PCRs.
const bootAggregate = "boot_aggregate"

// aggregatePCRs are those that boot_aggregate is made of.
const aggregatePCRs tpm.Mask = 0x3FF

// bootLog is an event log on its way through a round.
type bootLog struct {
	key    []byte // names everything that the judgement depends on
	judged bool   // a round before this has judged the very same
	log    *uefi.Log
	failed bool
}

// readBootLog parses the event log, if there is one, and says what the boot aggregates are. A log that was judged already
// is not parsed again, unless the measurement list is read from its beginning.
func (r *round) readBootLog(pcrs tpm.VerifiedPCRs) (b bootLog) {
	raw := r.Evidence.BootLog
	if len(raw) == 0 {
		return b
	}
	b.key = r.bootKey(pcrs)
	b.judged = slices.Equal(b.key, r.State.Boot) && !r.Policy.BootAlways
	if b.judged && r.Evidence.IMAEntry != 0 {
		return b
	}
	b.log, b.failed = r.parseBootLog(raw)
	if b.failed {
		return b
	}
	var err error
	r.aggregates, err = bootAggregates(b.log, pcrs)
	b.failed = r.failReplay(err)
	return b
}

func (r *round) parseBootLog(raw []byte) (log *uefi.Log, failed bool) {
	log, err := uefi.Parse(raw)
	if err != nil {
		r.fail(EventBootLog, true, bootLogContext{"the event log cannot be parsed", err.Error()})
	}
	return log, err != nil
}

// failReplay reports an error of a log's replay, if there is one.
func (r *round) failReplay(err error) bool {
	switch {
	case errors.Is(err, uefi.ErrNoBank):
		r.fail(EventBootBank, true, bootLogContext{"the event log has other banks than the quote", err.Error()})
	case err != nil:
		r.fail(EventBootPCRs, true, bootLogContext{"the event log cannot be replayed", err.Error()})
	}
	return err != nil
}

// bootAggregates are what boot_aggregate may be, given that the log explains the quoted PCRs that it is made of. A log
// that does not gives none.
func bootAggregates(log *uefi.Log, pcrs tpm.VerifiedPCRs) ([][]byte, error) {
	proven, _, err := uefi.Replay(log, pcrs, aggregatePCRs)
	return proven.Aggregates(), err
}

// isBootAggregate reports whether a measurement is the boot aggregate that the event log explains.
func (r *round) isBootAggregate(name, digest []byte) bool {
	return string(name) == bootAggregate && slices.ContainsFunc(r.aggregates, func(own []byte) bool {
		return slices.Equal(own, digest)
	})
}

// bootKey is a digest of the log, the policy, the quoted PCRs of measured boot, their bank and the TPM's reset count. When
// it is that of the last good round, so is the judgement; when any of them changed, the boot is judged again.
func (r *round) bootKey(pcrs tpm.VerifiedPCRs) []byte {
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	part(r.Evidence.BootLog)
	if r.Policy.Boot != nil {
		part([]byte(r.Policy.Boot.Digest()))
	} else {
		part(nil)
	}
	part(binary.BigEndian.AppendUint32(nil, pcrs.Clock().ResetCount))
	part([]byte(pcrs.Bank().String()))
	for pcr := range uefi.PCRCount {
		value, _ := pcrs.PCR(pcr)
		if pcr == tpm.PCRIma || pcr == tpm.PCRData {
			value = nil // they change, and are no boot's
		}
		part(value)
	}
	return h.Sum(nil)
}

// checkBoot has the event log explain the quoted PCRs and the measured-boot policy judge what it says.
func (r *round) checkBoot(b bootLog, pcrs tpm.VerifiedPCRs) {
	switch {
	case b.failed:
	case r.Policy.Boot == nil || b.judged:
		r.next.Boot = b.key
	case b.log == nil:
		r.checkNoBootLog(pcrs.Mask())
	default:
		r.judgeBoot(b, pcrs)
	}
}

// checkNoBootLog reports a boot that nothing explains, given the PCRs that there are.
func (r *round) checkNoBootLog(pcrs tpm.Mask) {
	policy := r.Policy.Boot
	for _, pcr := range (policy.Mask() & pcrs).PCRs() {
		number := strconv.Itoa(pcr)
		r.fail(EventUnusedPCR+number, true, "Measured Boot PCR "+number+" in policy, but no measurement list provided")
	}
	if policy.NeedsLog() {
		r.fail(EventBootMissing, true, missingContext{Context: "PCRs are missing in quote", Data: policy.Mask().PCRs()})
		return
	}
	r.judgeProven(uefi.Proven{})
}

// judgeBoot replays the log and has the policy judge it. A log that does not explain the quote is not read any further.
func (r *round) judgeBoot(b bootLog, pcrs tpm.VerifiedPCRs) {
	policy := r.Policy.Boot
	proven, wrong, err := uefi.Replay(b.log, pcrs, policy.Mask())
	if err != nil { // readBootLog has replayed the same log
		r.fail(EventBootPCRs, true, bootLogContext{"the event log cannot be replayed", err.Error()})
		return
	}
	if r.judgeReplayed(proven, wrong, pcrs.Bank()) {
		r.next.Boot = b.key
	}
}

// judgeReplayed reports the PCRs that the log does not explain and what the policy says of the rest.
func (r *round) judgeReplayed(proven uefi.Proven, wrong []uefi.Mismatch, bank tpm.Hash) bool {
	for _, m := range wrong {
		r.fail(EventBootPCR+strconv.Itoa(m.PCR), true, bootPCRContext{
			Context:  bank.String() + " boot event log PCR value does not match",
			Got:      hexBytes(m.Quoted),
			Expected: hexBytes(m.Log),
		})
	}
	if len(wrong) > 0 && r.Policy.Boot.NeedsLog() {
		return false
	}
	return r.judgeProven(proven) && len(wrong) == 0
}

func (r *round) judgeProven(proven uefi.Proven) bool {
	policy := r.Policy.Boot
	reason := policy.Judge(proven)
	if reason != "" {
		r.fail(EventBootPolicy+policy.Engine(), true, bootPolicyContext{
			Context: "Boot attestation failed",
			Policy:  policy.Engine(),
			Digest:  policy.Digest(),
			Reason:  text{bytes: []byte(reason)},
		})
	}
	return reason == ""
}
