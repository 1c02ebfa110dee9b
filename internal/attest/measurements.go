package attest

import (
	"strconv"

	"keylime/ima"
	"keylime/ima/dm"
	"keylime/internal/policy"
	"keylime/tpm"
)

// checkMeasurements is the last two steps: the list against PCR 10, and its entries against the runtime policy.
//
// The list may be longer than what the quote covers, for the attester quotes first and reads the list then. The
// entries beyond are appraised like the others, but the state does not move past them: they are asked for again, and
// the next round must prove them.
func (r *round) checkMeasurements(pcrs tpm.VerifiedPCRs) {
	first := r.Evidence.IMAEntry
	switch {
	case !r.Evidence.HasIMA:
		r.failNoList()
		return
	case len(r.Evidence.IMA) > ima.MaxList:
		r.fail(EventIMAEntry, true, "the measurement list exceeds "+strconv.Itoa(ima.MaxList)+" bytes")
		return
	case first != 0 && first != r.Challenge.Entry:
		r.fail(EventInvalidIMAEntryNb, false, entryNumberContext{
			Message:  "the measurement list does not begin with the entry that was asked for",
			Got:      first,
			Expected: r.Challenge.Entry,
		})
		return
	}
	if r.rebooted() {
		r.next.Shown = 0
	}
	if first != 0 && (r.rebooted() || pcrs.Bank() != r.State.Bank || r.unknownDevices()) {
		r.again = true // the entries continue a list that we do not have, or did not judge by this policy
		return
	}
	var start []byte
	if first != 0 {
		start = r.State.PCR10
		r.keys.proven = r.State.Keyrings
	}
	r.startDevices(first != 0)
	before := len(r.failures)
	result := ima.Replay(r.Evidence.IMA, start, pcrs, listFormat(r.Policy), func(e *ima.Entry, err error) {
		r.checkEntry(first+uint64(e.Line), e, err)
	})
	r.stats.Entries, r.stats.Proven = result.Entries, result.Proven
	proven := first + uint64(result.Proven)
	switch {
	case !result.Matched && first != 0 && len(r.failures) == before:
		r.again = true
	case !result.Matched:
		got, _ := pcrs.PCR(tpm.PCRIma)
		r.failMismatch(got)
	case proven < r.next.Shown:
		r.fail(EventIMAQuoteProgress, true, progressContext{
			Message: "PCR quote did not make progress to catch up with log",
			Proven:  proven,
			Shown:   r.next.Shown,
		})
	default:
		r.next.Bank = pcrs.Bank()
		r.next.PCR10, _ = pcrs.PCR(tpm.PCRIma)
		r.next.NextEntry = proven
		r.next.Shown = first + uint64(result.Lines)
		r.next.Keyrings = r.keys.upTo(proven)
		r.checkDevices()
	}
}

// failNoList reports that PCR 10 is there, but nothing that explains it.
func (r *round) failNoList() {
	r.fail(EventUnusedPCR+strconv.Itoa(tpm.PCRIma), true, "PCR 10 was quoted, but the agent sent no measurement list")
}

// listFormat is what a list looks like under the policy.
func listFormat(p *policy.Set) ima.Format {
	return ima.Format{TemplateHash: p.Runtime.LogHash(), Extended: p.ExtendedTemplates}
}

// checkEntry appraises one line of the list. line is its number in the attester's whole list, from 1.
func (r *round) checkEntry(line uint64, e *ima.Entry, err error) {
	switch {
	case err != nil:
		r.fail(EventIMAEntry, true, lineContext{
			Message: "Line was not parsable into a valid IMA entry: " + err.Error(),
			Line:    line,
			Entry:   text{bytes: clip(e.Text)},
		})
	case e.PCR != tpm.PCRIma:
		r.fail(EventIMAPCR, true, hashContext{
			Message:  text{prefix: "IMA PCR is not the configured one"},
			Expected: strconv.Itoa(tpm.PCRIma),
			Got:      strconv.Itoa(e.PCR),
			Line:     line,
		})
	case e.Violation():
		if !r.Policy.IgnoreToMToU {
			r.fail(EventIMAToMToU, true, lineContext{
				Message: "the file changed while it was measured: hash validation was skipped",
				Line:    line,
				Entry:   text{bytes: clip(e.Text)},
			})
		}
	case !e.TemplateHashMatches():
		r.fail(EventIMAHash, true, hashContext{
			Message:  text{prefix: "IMA template hash does not match the calculated hash."},
			Expected: hexBytes(e.ExpectedTemplateHash()),
			Got:      hexBytes(e.TemplateHash),
			Line:     line,
		})
	case e.IsBuffer:
		r.checkBuffer(line, e)
	case len(e.Signature) > 0 && ima.CheckSignature(e.Signature) != nil:
		r.fail(EventIMASignature, true, fileContext{
			Message: text{"signature could not be validated for file ", e.Name},
			Line:    line,
		})
	case r.isBootAggregate(e.Name, e.Digest):
	default:
		r.checkFile(line, e)
	}
}

// checkFile appraises a file: the policy lists its digest, or somebody trusted signed it. The list is asked first, for
// it is quick.
func (r *round) checkFile(line uint64, e *ima.Entry) {
	f := r.Policy.Runtime.File(e.Name, e.Digest)
	if f.Reason != policy.Accepted && len(e.Signature) > 0 && r.signed(e) {
		return
	}
	r.checkFinding(line, e, f)
}

// checkBuffer appraises a key or critical data. Policies name the digest, and so it must be that of the buffer.
func (r *round) checkBuffer(line uint64, e *ima.Entry) {
	devices := r.Policy.Runtime.DeviceMapper()
	if !dm.IsEvent(e.Name) {
		devices = nil
	}
	if !e.BufferMatches() {
		r.failBuffer(line, e, devices != nil)
		return
	}
	switch ima.ClassifyKey(e.Buffer) {
	case ima.UnsupportedKey:
		r.fail(EventIMAInvalidKey, true, fileContext{Message: text{"the key's algorithm is not supported, keyring ", e.Name}, Line: line})
	case ima.UsableKey:
		f, trusted := r.Policy.Runtime.Key(e.Name, e.Digest)
		if trusted {
			r.keys.learn(line, e)
		}
		r.checkFinding(line, e, f)
	case ima.NotKey:
		if devices != nil {
			r.checkDevice(line, e, devices)
			return
		}
		r.checkFinding(line, e, r.Policy.Runtime.Buffer(e.Name, e.Digest))
	}
}

// failBuffer reports that the digest is another buffer's.
func (r *round) failBuffer(line uint64, e *ima.Entry, device bool) {
	context := hashContext{Message: text{"digest is not that of the measured buffer ", e.Name}, Got: hexBytes(e.Digest), Line: line}
	if device {
		r.fail(EventDM+"invalid_data", true, context)
		return
	}
	r.fail(EventIMAHash, true, context)
}

// checkFinding reports what the runtime policy says of a file, a key or critical data.
func (r *round) checkFinding(line uint64, e *ima.Entry, f policy.Finding) {
	switch f.Reason {
	case policy.NotListed:
		r.fail(EventIMANotListed, true, fileContext{
			Message: text{"File not found in allowlist: ", e.Name},
			Got:     hexBytes(e.Digest),
			Line:    line,
		})
	case policy.WrongDigest:
		r.fail(EventIMAWrongHash, true, digestContext{
			Message:  "Hash not found in runtime policy",
			Path:     text{bytes: e.Name},
			Got:      hexBytes(e.Digest),
			Expected: expected(f),
			Line:     line,
		})
	}
}

// clip shortens what a context quotes of a line.
func clip(line []byte) []byte {
	const most = 512
	return line[:min(len(line), most)]
}
