package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"

	"keylime/tpm"
)

// Replayed is how far a list explains a quoted PCR 10.
type Replayed struct {
	// Matched: the running value equals the quoted one after Proven lines. What follows them is newer than the quote
	// and not yet proven.
	Matched bool
	Proven  int
	Lines   int // up to the last entry
	Entries int // lines that are not empty
}

// Format is what a list looks like.
type Format struct {
	TemplateHash tpm.Hash // algorithm of the template hashes
	Extended     bool     // see Parser
}

// Replay computes PCR 10 from a measurement list and looks for the quoted value: each entry extends the running value
// with the hash of its data in the quote's bank. start is the running value before the list's first line; nil stands
// for that after a reset, zeros.
//
// visit is called for each entry in order, those after the match included; the entry is valid during the call. For a
// line that is no valid entry err says why, and of the entry only Line and Text are set. Such a line extends nothing, so
// that a list that holds one usually does not match.
func Replay(list, start []byte, quoted tpm.VerifiedPCRs, format Format, visit func(e *Entry, err error)) Replayed {
	want, ok := quoted.PCR(tpm.PCRIma)
	if !ok {
		return Replayed{}
	}
	return newExtender(quoted.Bank(), format.TemplateHash, start).replay(list, want, format.Extended, visit)
}

// Rehearse is Replay of a whole list, in a bank, against a value that nobody signed: for trying policies out, and never
// to appraise a machine. With claimed nil the value that the list comes to is taken as given, and all of the list as
// proven. It returns that value besides.
func Rehearse(list, claimed []byte, bank tpm.Hash, format Format, visit func(e *Entry, err error)) (Replayed, []byte) {
	x := newExtender(bank, format.TemplateHash, nil)
	result := x.replay(list, claimed, format.Extended, visit)
	if claimed == nil {
		result.Matched, result.Proven = true, result.Lines
	}
	return result, bytes.Clone(x.value())
}

// replay extends with each entry of the list, and looks for the value.
func (x *extender) replay(list, want []byte, extended bool, visit func(e *Entry, err error)) Replayed {
	result := Replayed{Matched: bytes.Equal(x.value(), want)}
	p := Parser{Extended: extended}
	for number := 1; len(list) > 0; number++ {
		line, rest, _ := bytes.Cut(list, lineFeed)
		list = rest
		if len(line) == 0 {
			continue
		}
		result.Lines = number
		result.Entries++
		e, err := p.Parse(line)
		if err != nil {
			visit(&Entry{Line: number, Text: line}, err)
			continue
		}
		e.Line, e.Text, e.beyond = number, line, result.Matched
		if x.extend(e); !result.Matched && bytes.Equal(x.value(), want) {
			result.Matched, result.Proven = true, number
		}
		visit(e, nil)
	}
	return result
}

var lineFeed = []byte{'\n'}

// extender is PCR 10 in software.
type extender struct {
	bank, log tpm.Hash
	size      int
	pair      [2 * maxDigest]byte // the running value, and behind it what extends it
	sum       [maxDigest]byte
	logSum    [maxDigest]byte
}

func newExtender(bank, log tpm.Hash, start []byte) *extender {
	x := &extender{bank: bank, log: log, size: bank.Size()}
	copy(x.pair[:x.size], start)
	return x
}

func (x *extender) value() []byte { return x.pair[:x.size] }

// extend does as the kernel does with an entry, and notes what its template hash should be. An entry of another PCR
// leaves PCR 10 as it is.
func (x *extender) extend(e *Entry) {
	own := x.pair[x.size : 2*x.size]
	e.violation = len(e.TemplateHash) == x.log.Size() && bytes.Equal(e.TemplateHash, zeros[:x.log.Size()])
	if e.violation {
		for i := range own {
			own[i] = 0xFF
		}
	} else {
		copy(own, digest(x.bank, e.data, &x.sum))
		e.expected = own
		if x.log != x.bank {
			e.expected = digest(x.log, e.data, &x.logSum)
		}
	}
	if e.PCR == tpm.PCRIma {
		copy(x.pair[:x.size], digest(x.bank, x.pair[:2*x.size], &x.sum))
	}
}

// digest hashes data into sum, and returns the part of it that the algorithm fills. An invalid algorithm fills none.
func digest(h tpm.Hash, data []byte, sum *[maxDigest]byte) []byte {
	switch h {
	case tpm.SHA1:
		s := sha1.Sum(data)
		return append(sum[:0], s[:]...)
	case tpm.SHA256:
		s := sha256.Sum256(data)
		return append(sum[:0], s[:]...)
	case tpm.SHA384:
		s := sha512.Sum384(data)
		return append(sum[:0], s[:]...)
	case tpm.SHA512:
		s := sha512.Sum512(data)
		return append(sum[:0], s[:]...)
	}
	return nil
}
