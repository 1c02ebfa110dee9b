package uefi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"keylime/tpm"
)

// PCRs are the values that a log adds up to in one bank. Nothing vouches for them.
type PCRs struct {
	bank    tpm.Hash
	touched tpm.Mask
	values  [PCRCount][maxDigest]byte
}

// Bank is the digest algorithm of the values.
func (p *PCRs) Bank() tpm.Hash { return p.bank }

// Touched is the set of PCRs that some event names, those of EV_NO_ACTION included.
func (p *PCRs) Touched() tpm.Mask { return p.touched }

// Value is a PCR's value; zeros for one that the log does not name.
func (p *PCRs) Value(pcr int) []byte { return bytes.Clone(p.values[pcr][:p.bank.Size()]) }

// Aggregates are the digests over PCRs 0 to 7 and PCRs 0 to 9 as far as all of these are in the mask: what the kernel
// measures as boot_aggregate (security/integrity/ima/ima_crypto.c).
func (p *PCRs) Aggregates(mask tpm.Mask) [][]byte {
	var list [][]byte
	for _, n := range []int{8, 10} {
		if all := tpm.Mask(1<<n - 1); mask&p.touched&all != all {
			continue
		}
		h := p.bank.Crypto().New()
		for pcr := range n {
			h.Write(p.values[pcr][:p.bank.Size()])
		}
		list = append(list, h.Sum(nil))
	}
	return list
}

// ErrNoBank says that a log has no digests of the bank that is asked for.
var ErrNoBank = errors.New("the event log has no digests of bank")

// PCRs computes the values of one bank. It fails with ErrNoBank, and with an *EventError where the log says of PCR 0's
// start what no TPM does.
//
// PCRs start with zeros. EV_NO_ACTION extends nothing, but one on PCR 0 may tell the locality that the TPM was started
// from, which PCR 0 then starts with (TPM 2.0 part 1, clause 34.3; PFP, TCG_EfiStartupLocalityEvent). After an
// H-CRTM sequence PCR 0 starts with 4 (TPM 2.0 part 1, clause 34.2), whatever the locality event says.
func (l *Log) PCRs(bank tpm.Hash) (*PCRs, error) {
	if !slices.Contains(l.banks, bank) {
		return nil, fmt.Errorf("%w %v", ErrNoBank, bank)
	}
	x := extender{PCRs: PCRs{bank: bank}}
	for i := range l.events {
		if err := x.extend(&l.events[i]); err != nil {
			return nil, &EventError{i, err}
		}
	}
	return &x.PCRs, nil
}

type extender struct {
	PCRs
	started bool // PCR 0 was extended
	hcrtm   bool // by an H-CRTM sequence first
	locale  bool // a locality event was seen
	sum     [maxDigest]byte
}

const localityHCRTM = 4

func (x *extender) extend(e *Event) error {
	size := x.bank.Size()
	pcr := &x.values[e.PCR]
	x.touched = x.touched.With(e.PCR)
	switch {
	case e.Type == NoAction:
		return x.locality(e)
	case e.Type == HCRTMEvent && e.PCR == 0:
		if x.started {
			return errors.New("H-CRTM event after PCR 0 was extended")
		}
		x.hcrtm = true
		pcr[size-1] = localityHCRTM
	}
	if e.PCR == 0 {
		x.started = true
	}
	for _, d := range e.Digests {
		if d.Alg == x.bank {
			h := x.bank.Crypto().New()
			h.Write(pcr[:size])
			h.Write(d.Value)
			copy(pcr[:size], h.Sum(x.sum[:0]))
		}
	}
	return nil
}

// locality takes a StartupLocality event; other EV_NO_ACTION events mean nothing here.
func (x *extender) locality(e *Event) error {
	level, ok := e.startupLocality()
	switch {
	case !ok || x.hcrtm:
		return nil
	case x.started:
		return errors.New("StartupLocality after PCR 0 was extended")
	case x.locale:
		return errors.New("a second StartupLocality")
	case level != 0 && level != 3 && level != localityHCRTM:
		return fmt.Errorf("StartupLocality %d; a TPM is started from locality 0 or 3, or by an H-CRTM sequence", level)
	}
	x.locale = true
	x.values[0][x.bank.Size()-1] = level
	return nil
}

// startupLocality reads TCG_EfiStartupLocalityEvent.
func (e *Event) startupLocality() (level byte, ok bool) {
	if e.Type != NoAction || e.PCR != 0 || len(e.Data) != len(localitySignature)+1 || string(e.Data[:len(localitySignature)]) != localitySignature {
		return 0, false
	}
	return e.Data[len(localitySignature)], true
}

// Mismatch is a PCR whose quoted value the log does not explain.
type Mismatch struct {
	PCR         int
	Log, Quoted Hex
}

// Replay compares the log with those PCRs of a quote that are in want. Where all agree, the log is proven for them. An
// error is one of the log's own, as of Log.PCRs; it proves nothing then, and neither does it when PCRs mismatch.
func Replay(l *Log, quoted tpm.VerifiedPCRs, want tpm.Mask) (Proven, []Mismatch, error) {
	pcrs, err := l.PCRs(quoted.Bank())
	if err != nil {
		return Proven{}, nil, err
	}
	want &= quoted.Mask()
	var wrong []Mismatch
	for _, pcr := range want.PCRs() {
		value, _ := quoted.PCR(pcr)
		if own := pcrs.Value(pcr); !bytes.Equal(own, value) {
			wrong = append(wrong, Mismatch{pcr, own, value})
		}
	}
	if len(wrong) > 0 {
		return Proven{}, wrong, nil
	}
	return Proven{log: l, pcrs: pcrs, mask: want}, nil, nil
}

// Believe takes a log's word for all its PCRs, for tools that judge a log without a quote. A verifier never does.
func Believe(l *Log, bank tpm.Hash) (Proven, error) {
	pcrs, err := l.PCRs(bank)
	if err != nil {
		return Proven{}, err
	}
	return Proven{log: l, pcrs: pcrs, mask: 1<<PCRCount - 1}, nil
}
