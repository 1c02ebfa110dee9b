package ima

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"keylime/tpm"
)

// Entry is one measurement. Its slices are views into the line or into the parser's buffers, valid until the parser
// reads its next line.
type Entry struct {
	Line int    // number of the line in the list it was read from, from 1
	Text []byte // the line, without its line feed

	PCR          int
	TemplateHash []byte // as logged; believe nothing of it before TemplateHashMatches
	Template     string
	Alg          []byte // name of the digest's algorithm
	Digest       []byte // of the file, or of the buffer
	Name         []byte // path, keyring or name of critical data
	Signature    []byte // template ima-sig: security.ima, empty when the file has none
	IsBuffer     bool   // template ima-buf: not a file, but a key or critical data
	Buffer       []byte // its content
	Verity       bool   // template ima-ngv2 or ima-sigv2: the digest is fs-verity's

	data []byte // the template data in binary, which PCRs are extended with a hash of
	// Set by Replay:
	beyond    bool
	violation bool
	expected  []byte // what TemplateHash should be
}

// Beyond reports whether the entry is newer than the quote, which the entries before it explain already. Set by Replay.
func (e *Entry) Beyond() bool { return e.beyond }

// Violation reports whether the kernel logged that it could not measure reliably: the file was opened for reading while
// open for writing, or the other way round. It logs a template hash of zeros then, and extends PCRs with ones. Set by
// Replay.
func (e *Entry) Violation() bool { return e.violation }

// TemplateHashMatches reports whether the logged template hash is that of the entry's data. For entries that Replay has
// seen and that are no violations.
func (e *Entry) TemplateHashMatches() bool { return bytes.Equal(e.TemplateHash, e.expected) }

// ExpectedTemplateHash is what TemplateHash should be.
func (e *Entry) ExpectedTemplateHash() []byte { return e.expected }

// BufferMatches reports whether Digest is that of Buffer. Nothing else ties the two together: the kernel hashes the
// buffer's digest and the buffer side by side.
func (e *Entry) BufferMatches() bool {
	h, err := tpm.ParseHash(string(e.Alg))
	if err != nil {
		return false
	}
	var sum [maxDigest]byte
	return bytes.Equal(e.Digest, digest(h, e.Buffer, &sum))
}

// Parser reads lines. Its buffers are reused: once they have grown, reading allocates nothing.
type Parser struct {
	// Extended: the templates of newer kernels are read too.
	Extended bool

	entry   Entry
	custom  layout // the last one that a line described by its format
	decoded []byte // binary of the line's hex fields
	data    []byte
}

var (
	errFields  = errors.New("want PCR, template hash, template name and template data, with one space between them")
	errPCR     = errors.New("PCR is not a number from 0 to 23")
	errTooLong = fmt.Errorf("line exceeds %d bytes", maxLine)
)

// Parse reads one line, without its line feed. The entry is valid until the next call.
func (p *Parser) Parse(line []byte) (*Entry, error) {
	if len(line) > maxLine {
		return nil, errTooLong
	}
	pcr, rest, ok1 := bytes.Cut(line, space)
	hash, rest, ok2 := bytes.Cut(rest, space)
	name, rest, ok3 := bytes.Cut(rest, space)
	if !ok1 || !ok2 || !ok3 {
		return nil, errFields
	}
	p.reset(line)
	var err error
	if p.entry.PCR, err = parsePCR(pcr); err != nil {
		return nil, err
	}
	if p.entry.TemplateHash, err = p.unhex(hash); err != nil || len(hash) == 0 {
		return nil, fmt.Errorf("template hash %q is not hexadecimal", clip(hash))
	}
	layout, ok := templates[string(name)]
	if !ok && p.Extended {
		if layout, err = p.extendedLayout(name); err != nil {
			return nil, err
		}
	} else if !ok {
		return nil, fmt.Errorf("unknown template %q", clip(name))
	}
	p.entry.Template = layout.name
	if err := p.fields(layout.fields, rest); err != nil {
		return nil, fmt.Errorf("template %s: %w", layout.name, err)
	}
	p.entry.data = p.data
	return &p.entry, nil
}

var space = []byte{' '}

// reset makes room for a line: all binary fields together are at most half as long as it, and the template data is
// not longer than it but for length words and the padding of template "ima".
func (p *Parser) reset(line []byte) {
	if cap(p.decoded) < len(line)/2 {
		p.decoded = make([]byte, 0, len(line))
		p.data = make([]byte, 0, len(line)+2*maxName)
	}
	p.entry, p.decoded, p.data = Entry{}, p.decoded[:0], p.data[:0]
}

// fields splits the template data: the last field has the rest of the line, spaces included.
func (p *Parser) fields(fields []field, text []byte) error {
	for i, read := range fields {
		value := text
		if i < len(fields)-1 {
			var ok bool
			if value, text, ok = bytes.Cut(text, space); !ok {
				return fmt.Errorf("want %d fields, got %d", len(fields), i+1)
			}
		}
		if err := read(p, value); err != nil {
			return err
		}
	}
	return nil
}

// unhex decodes a field. The result stays valid until the next line.
func (p *Parser) unhex(text []byte) ([]byte, error) {
	from := len(p.decoded)
	var err error
	p.decoded, err = hex.AppendDecode(p.decoded, text)
	return p.decoded[from:], err
}

func parsePCR(text []byte) (int, error) {
	switch {
	case len(text) == 1 && isDigit(text[0]):
		return int(text[0] - '0'), nil
	case len(text) == 2 && text[0] != '0' && isDigit(text[0]) && isDigit(text[1]):
		if n := int(text[0]-'0')*10 + int(text[1]-'0'); n < 24 {
			return n, nil
		}
	}
	return 0, errPCR
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// clip shortens what an error text quotes.
func clip(text []byte) []byte { return text[:min(len(text), 64)] }
