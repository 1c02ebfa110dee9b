package uefi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"keylime/tpm"
)

// Log is a parsed event log. It is immutable and safe for concurrent use; it shares memory with the text that it was
// parsed from.
type Log struct {
	events []Event
	banks  []tpm.Hash
}

// Event is one record of the log.
type Event struct {
	Number  int // from 0
	PCR     int
	Type    EventType
	Digests []Digest
	Data    []byte
	Content any // what Data says, see content.go; nil when there is nothing to say
	spec    *SpecID
}

// Digest is what a PCR of one bank was extended with.
type Digest struct {
	Alg   tpm.Hash
	Value Hex
}

// SpecID is the header of a crypto-agile log (PFP, TCG_EfiSpecIdEvent).
type SpecID struct {
	PlatformClass                          uint32
	VersionMinor, VersionMajor, VersionErr uint8
	UintnSize                              uint8
	Algorithms                             []SpecAlgorithm
	Vendor                                 Hex
}

// SpecAlgorithm is one digest algorithm of a crypto-agile log. Its identifier is the TPM's, and need not be one that
// this project can compute.
type SpecAlgorithm struct {
	ID   tpm.Hash
	Size int
}

// sm3 is computed by nobody here, but logs may hold its digests.
const sm3 tpm.Hash = 0x0012

// algorithmSizes cross-check what a log says of its digests.
var algorithmSizes = map[tpm.Hash]int{tpm.SHA1: 20, tpm.SHA256: 32, tpm.SHA384: 48, tpm.SHA512: 64, sm3: 32}

// EventError is a fault in one event of a log.
type EventError struct {
	Number int // of the event, from 0
	Err    error
}

func (e *EventError) Error() string { return fmt.Sprintf("event %d: %v", e.Number, e.Err) }
func (e *EventError) Unwrap() error { return e.Err }

// Parse reads a whole log. The empty text is a log without events. Any structure that does not fit, in the log's
// framing or in the data of an event whose form the PFP prescribes, is an error: *EventError, or one on the log's size.
func Parse(raw []byte) (*Log, error) {
	if len(raw) > MaxLog {
		return nil, fmt.Errorf("event log of %d bytes, at most %d are read", len(raw), MaxLog)
	}
	p := parser{reader: reader{rest: raw}, log: &Log{}}
	for len(p.rest) > 0 {
		number := len(p.log.events)
		if number == maxEvents {
			return nil, &EventError{number, fmt.Errorf("a log has at most %d events", maxEvents)}
		}
		e, err := p.event(number)
		if err == nil {
			e.Content, err = content(e)
		}
		if err != nil {
			return nil, &EventError{number, err}
		}
		p.log.events = append(p.log.events, e)
	}
	return p.log, nil
}

// Events returns the log's events, which must not be modified. Nothing vouches for them.
func (l *Log) Events() []Event { return l.events }

// Banks lists the algorithms that the log has digests of and that can be replayed.
func (l *Log) Banks() []tpm.Hash { return slices.Clone(l.banks) }

// parser is a position in a log.
type parser struct {
	reader
	log   *Log
	sizes map[tpm.Hash]int // of a crypto-agile log; nil before its header and in TCG 1.2
}

func (p *parser) event(number int) (Event, error) {
	e := Event{Number: number}
	pcr := p.u32("PCR")
	e.Type = EventType(p.u32("event type"))
	if p.err == nil && pcr >= PCRCount {
		return e, fmt.Errorf("PCR %d: a TPM has PCRs 0 to %d", pcr, PCRCount-1)
	}
	e.PCR = int(pcr)
	if p.sizes == nil {
		e.Digests = []Digest{{tpm.SHA1, p.bytes(20, "SHA-1 digest")}}
	} else if err := p.digests(&e); err != nil {
		return e, err
	}
	e.Data = p.bytes(uint64(p.u32("event size")), "event data")
	switch {
	case p.err != nil:
		return e, p.err
	case number == 0 && e.Type == NoAction && bytes.HasPrefix(e.Data, []byte(specIDSignature)):
		return e, p.header(&e)
	case number == 0:
		p.log.banks = []tpm.Hash{tpm.SHA1}
	}
	if e.Type == NoAction && slices.ContainsFunc(e.Digests, func(d Digest) bool { return !zero(d.Value) }) {
		return e, errors.New("EV_NO_ACTION with a digest; it extends nothing, its digests are zeros")
	}
	return e, nil
}

// digests reads TPML_DIGEST_VALUES: each algorithm of the header, once.
func (p *parser) digests(e *Event) error {
	count := p.u32("digest count")
	if p.err == nil && int64(count) != int64(len(p.sizes)) {
		return fmt.Errorf("%d digests, the log's header names %d algorithms", count, len(p.sizes))
	}
	if p.err != nil {
		return p.err
	}
	e.Digests = make([]Digest, 0, count)
	for range count {
		alg := tpm.Hash(p.u16("digest algorithm"))
		size, known := p.sizes[alg]
		if p.err == nil && !known {
			return fmt.Errorf("digest algorithm 0x%04x is not one of the log's header", uint16(alg))
		}
		if slices.ContainsFunc(e.Digests, func(d Digest) bool { return d.Alg == alg }) {
			return fmt.Errorf("two digests of algorithm %s", algorithmName(alg))
		}
		e.Digests = append(e.Digests, Digest{alg, p.bytes(uint64(size), "digest")})
	}
	return p.err
}

// header reads the Spec ID event, after which records are crypto-agile.
func (p *parser) header(e *Event) error {
	if e.PCR != 0 || !zero(e.Digests[0].Value) {
		return errors.New("log header: want PCR 0 and a digest of zeros")
	}
	r := reader{rest: e.Data[len(specIDSignature):]}
	s := SpecID{PlatformClass: r.u32("platform class")}
	s.VersionMinor, s.VersionMajor = r.u8("version"), r.u8("version")
	s.VersionErr, s.UintnSize = r.u8("errata"), r.u8("UINTN size")
	count := r.u32("algorithm count")
	if r.err == nil && (count == 0 || count > maxAlgorithms) {
		return fmt.Errorf("log header: %d digest algorithms, want 1 to %d", count, maxAlgorithms)
	}
	sizes := map[tpm.Hash]int{}
	for range count {
		alg, size := tpm.Hash(r.u16("algorithm")), int(r.u16("digest size"))
		if r.err != nil {
			break
		}
		if _, twice := sizes[alg]; twice {
			return fmt.Errorf("log header: algorithm %s stands twice", algorithmName(alg))
		}
		if want, known := algorithmSizes[alg]; known && size != want || size == 0 || size > maxDigest {
			return fmt.Errorf("log header: digests of %s cannot have %d bytes", algorithmName(alg), size)
		}
		sizes[alg] = size
		s.Algorithms = append(s.Algorithms, SpecAlgorithm{alg, size})
		if alg.Valid() {
			p.log.banks = append(p.log.banks, alg)
		}
	}
	s.Vendor = r.bytes(uint64(r.u8("vendor size")), "vendor information")
	if r.err != nil {
		return fmt.Errorf("log header: %w", r.err)
	}
	p.sizes, e.spec = sizes, &s
	return nil
}

func algorithmName(alg tpm.Hash) string {
	if alg == sm3 {
		return "sm3_256"
	}
	return alg.String()
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
