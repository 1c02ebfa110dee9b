package uefi

import (
	"bytes"
	"errors"
	"iter"

	"keylime/tpm"
)

// Proven is a log that replays to PCRs of a quote. Replay makes it; the zero value has no events and proves nothing.
type Proven struct {
	log  *Log
	pcrs *PCRs
	mask tpm.Mask
}

// Mask is the set of PCRs whose events are proven.
func (p Proven) Mask() tpm.Mask { return p.mask }

// Aggregates are the boot aggregates of the quote's bank, see PCRs.Aggregates.
func (p Proven) Aggregates() [][]byte {
	if p.log == nil {
		return nil
	}
	return p.pcrs.Aggregates(p.mask)
}

// Events yields all events of the log in order. Those of PCRs outside Mask are not proven; they are there so that a
// policy can refuse what it does not expect.
func (p Proven) Events() iter.Seq[Fact] {
	return func(yield func(Fact) bool) {
		if p.log == nil {
			return
		}
		for i := range p.log.events {
			if !yield(Fact{&p.log.events[i], p.pcrs.bank, p.log.banks}) {
				return
			}
		}
	}
}

// Fact is an event as a policy may read it.
type Fact struct {
	event *Event
	bank  tpm.Hash
	banks []tpm.Hash
}

// Number is the event's place in the log, from 0.
func (f Fact) Number() int { return f.event.Number }

// PCR is the register that the event extends.
func (f Fact) PCR() int { return f.event.PCR }

// Type is the event's type. No digest covers it: whoever relies on it needs a digest or a bound payload besides.
func (f Fact) Type() EventType { return f.event.Type }

// Digest is what the PCR was extended with in the quote's bank: the only digest of the event that the quote covers.
func (f Fact) Digest() Digest {
	for _, d := range f.event.Digests {
		if d.Alg == f.bank {
			return d
		}
	}
	return Digest{}
}

// Errors of Fact.Content.
var (
	ErrDigestMismatch = errors.New("digest does not match payload")
	ErrNotMeasured    = errors.New("payload is not measured")
)

// Content is what the event's data says, nil when there is none. Where the data must be what was measured, its digests
// in each bank must say so: else the error is ErrDigestMismatch. EV_NO_ACTION has no measured data, ErrNotMeasured.
// What is returned for Hint types is the log's word only.
func (f Fact) Content() (any, error) {
	switch f.Binding() {
	case Mismatched:
		return nil, ErrDigestMismatch
	case Unmeasured:
		return nil, ErrNotMeasured
	}
	return f.event.Content, nil
}

// Binding says what ties an event's data to the digest that the quote proves.
type Binding int

const (
	// Bound: the digests are those of the data.
	Bound Binding = iota
	// Mismatched: for this type they should be, and are not.
	Mismatched
	// Hint: the type's digests are those of something else, as an image, of which the data is a label.
	Hint
	// Unmeasured: nothing was extended.
	Unmeasured
)

// Binding compares the event's data with its digests in every bank of the log.
func (f Fact) Binding() Binding {
	if f.event.Type == NoAction {
		return Unmeasured
	}
	candidates, required := f.event.hashed()
	for _, text := range candidates {
		if f.isDigestOf(text) {
			return Bound
		}
	}
	if required {
		return Mismatched
	}
	return Hint
}

func (f Fact) isDigestOf(text []byte) bool {
	var sum [maxDigest]byte
	for _, d := range f.event.Digests {
		if !d.Alg.Valid() {
			continue
		}
		h := d.Alg.Crypto().New()
		h.Write(text)
		if !bytes.Equal(h.Sum(sum[:0]), d.Value) {
			return false
		}
	}
	return len(f.banks) > 0
}

// hashed lists the texts that an event's digests may be of, and whether they must be of one of them (PFP, "Events";
// EV_IPL as GRUB and systemd-boot use it). For the others the digest is of an image or a table, which is not in the log.
func (e *Event) hashed() (candidates [][]byte, required bool) {
	switch e.Type {
	case VariableDriverConfig, VariableAuthority, Separator, SCRTMVersion, EFIAction, GPTEvent:
		return [][]byte{e.Data}, true
	case VariableBoot, VariableBoot2:
		// Firmware of both kinds exists: the variable's data, or the whole structure.
		if v, ok := e.Content.(*Variable); ok {
			return [][]byte{v.raw, e.Data}, true
		}
		return [][]byte{e.Data}, true
	case IPL:
		switch e.PCR {
		case grubCommandPCR:
			_, text, ok := bytes.Cut(e.Data, []byte{' '})
			if !ok {
				return [][]byte{e.Data}, true
			}
			return [][]byte{bytes.TrimSuffix(text, []byte{0}), text}, true
		case systemdBootPCR:
			return [][]byte{e.Data}, true
		}
	}
	return [][]byte{e.Data}, false
}

const (
	grubCommandPCR = 8  // GRUB: "grub_cmd: …" and "kernel_cmdline: …", the digest is of what follows the first space
	systemdBootPCR = 12 // systemd-boot: the kernel command line, UTF-16
)
