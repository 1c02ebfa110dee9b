package ima

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// layout is a template: its fields in the order in which they stand in the line and in the binary data.
type layout struct {
	name   string
	fields []field
}

// field reads one field's text into the parser's entry and appends its binary form to the template data.
type field func(p *Parser, text []byte) error

// templates are those that Keylime always knows.
var templates = map[string]layout{
	"ima":     {"ima", []field{fieldD, fieldN}},
	"ima-ng":  {"ima-ng", []field{fieldDNG, fieldNNG}},
	"ima-sig": {"ima-sig", []field{fieldDNG, fieldNNG, fieldSig}},
	"ima-buf": {"ima-buf", []field{fieldDNG, fieldNNG, fieldBuf}},
}

var (
	errDigest  = errors.New("digest is not [algorithm:]hex")
	errNameLen = fmt.Errorf("name exceeds %d bytes", maxName)
)

// fieldD is the digest of template "ima", without length or algorithm in binary.
func fieldD(p *Parser, text []byte) error {
	if err := p.readDigest(text); err != nil {
		return err
	}
	p.data = append(p.data, p.entry.Digest...)
	return nil
}

// fieldN is the name of template "ima", padded with zeros to its greatest length and one.
func fieldN(p *Parser, text []byte) error {
	if len(text) > maxName {
		return errNameLen
	}
	p.entry.Name = text
	p.data = append(p.data, text...)
	p.data = append(p.data, zeros[:maxName+1-len(text)]...)
	return nil
}

var zeros [maxName + 1]byte

// fieldDNG is a digest with its algorithm: length, name of the algorithm, colon, NUL, digest. Of a violation the digest
// may have another length than its algorithm's: kernels print zeros for it.
func fieldDNG(p *Parser, text []byte) error {
	if err := p.readDigest(text); err != nil {
		return err
	}
	e := &p.entry
	p.appendLength(len(e.Alg) + 2 + len(e.Digest))
	p.appendDigest(e.Alg, e.Digest)
	return nil
}

// appendDigest writes algorithm, colon, NUL, digest.
func (p *Parser) appendDigest(alg, digest []byte) {
	p.data = append(p.data, alg...)
	p.data = append(p.data, ':', 0)
	p.data = append(p.data, digest...)
}

// fieldNNG is a name that ends with a NUL.
func fieldNNG(p *Parser, text []byte) error {
	p.entry.Name = text
	p.appendText(text)
	return nil
}

// appendText writes a text with its length, and the NUL that is part of it.
func (p *Parser) appendText(text []byte) {
	p.appendLength(len(text) + 1)
	p.data = append(p.data, text...)
	p.data = append(p.data, 0)
}

// fieldSig is the file's security.ima attribute, often empty.
func fieldSig(p *Parser, text []byte) (err error) {
	p.entry.Signature, err = p.readBytes("signature", text)
	return err
}

// fieldBuf is a buffer: a key or critical data.
func fieldBuf(p *Parser, text []byte) (err error) {
	p.entry.IsBuffer = true
	p.entry.Buffer, err = p.readBytes("buffer", text)
	return err
}

// readBytes is a field of bytes in hex, with a length before them in binary.
func (p *Parser) readBytes(what string, text []byte) ([]byte, error) {
	b, err := p.unhex(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not hexadecimal: %w", what, err)
	}
	p.appendLength(len(b))
	p.data = append(p.data, b...)
	return b, nil
}

// readDigest reads "algorithm:hex". Without the algorithm it is told from the length: SHA-1 or MD5.
func (p *Parser) readDigest(text []byte) (err error) {
	e := &p.entry
	alg, digits, named := bytes.Cut(text, colon)
	if !named {
		digits = text
	}
	if e.Digest, err = p.unhex(digits); err != nil || len(e.Digest) == 0 || len(e.Digest) > maxDigest {
		return errDigest
	}
	switch {
	case named && len(alg) > 0 && len(alg) <= maxAlg:
		e.Alg = alg
	case !named && len(e.Digest) == 20:
		e.Alg = algSHA1
	case !named && len(e.Digest) == 16:
		e.Alg = algMD5
	default:
		return errDigest
	}
	return nil
}

var (
	colon   = []byte{':'}
	algSHA1 = []byte("sha1")
	algMD5  = []byte("md5")
)

// appendLength writes a length word, little-endian as on the machines that Keylime attests (a big-endian kernel writes
// the same when started with ima_canonical_fmt).
func (p *Parser) appendLength(n int) {
	p.data = binary.LittleEndian.AppendUint32(p.data, uint32(n))
}
