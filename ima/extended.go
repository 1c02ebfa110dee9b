package ima

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Templates of newer kernels (security/integrity/ima/ima_template.c), which are read on demand only: Keylime's other
// verifiers refuse them. All begin with a digest and a name. That must stay so, for PCR 10 covers the fields and not the
// template's name: were a template to have its digest elsewhere, an attacker could have another field taken for it.
var extendedTemplates = map[string]layout{
	"ima-ngv2":   {"ima-ngv2", []field{fieldDNGv2, fieldNNG}},
	"ima-sigv2":  {"ima-sigv2", []field{fieldDNGv2, fieldNNG, fieldSig}},
	"ima-modsig": {"ima-modsig", []field{fieldDNG, fieldNNG, fieldSig, fieldDModsig, fieldBytes}},
	"evm-sig": {"evm-sig", []field{
		fieldDNG, fieldNNG, fieldBytes, fieldText, fieldBytes, fieldBytes, fieldNumber(4), fieldNumber(4), fieldNumber(2),
	}},
}

// digestFields and otherFields are what the templates of ima_template_fmt may be made of, one of the first, a name
// (n-ng), and any of the others.
var (
	digestFields = map[string]field{"d-ng": fieldDNG, "d-ngv2": fieldDNGv2}
	otherFields  = map[string]field{
		"sig": fieldSig, "buf": fieldBuf, "d-modsig": fieldDModsig, "modsig": fieldBytes, "evmsig": fieldBytes,
		"xattrnames": fieldText, "xattrlengths": fieldBytes, "xattrvalues": fieldBytes,
		"iuid": fieldNumber(4), "igid": fieldNumber(4), "imode": fieldNumber(2),
	}
)

// maxFormatFields is the kernel's limit (IMA_TEMPLATE_NUM_FIELDS_MAX).
const maxFormatFields = 15

var errFormat = errors.New("a template in form of a format must begin with d-ng|n-ng or d-ngv2|n-ng")

// extendedLayout finds a template that newer kernels have, or that ima_template_fmt describes; then the list shows the
// format in place of a name.
func (p *Parser) extendedLayout(name []byte) (layout, error) {
	if l, ok := extendedTemplates[string(name)]; ok {
		return l, nil
	}
	if len(name) > 0 && string(name) == p.custom.name {
		return p.custom, nil
	}
	ids := strings.Split(string(name), "|")
	digest, ok := digestFields[ids[0]]
	switch {
	case len(ids) < 2:
		return layout{}, fmt.Errorf("unknown template %q", clip(name))
	case len(ids) > maxFormatFields || !ok || ids[1] != "n-ng":
		return layout{}, errFormat
	}
	l := layout{string(name), []field{digest, fieldNNG}}
	for i, id := range ids[2:] {
		f, ok := otherFields[id]
		if !ok || slices.Contains(ids[2:2+i], id) {
			return layout{}, fmt.Errorf("template format %q: unknown or repeated field %q", clip(name), clip([]byte(id)))
		}
		l.fields = append(l.fields, f)
	}
	p.custom = l
	return l, nil
}

// Types of a digest in d-ngv2: of the file's content, or fs-verity's of its tree of hashes.
var (
	typeIMA    = []byte("ima")
	typeVerity = []byte("verity")
)

// fieldDNGv2 is a digest with its type and algorithm: length, type, colon, algorithm, colon, NUL, digest.
func fieldDNGv2(p *Parser, text []byte) error {
	kind, rest, _ := bytes.Cut(text, colon)
	if !bytes.Equal(kind, typeIMA) && !bytes.Equal(kind, typeVerity) {
		return errors.New("type of the digest is neither ima nor verity")
	}
	if err := p.readDigest(rest); err != nil {
		return err
	}
	e := &p.entry
	e.Verity = bytes.Equal(kind, typeVerity)
	p.appendLength(len(kind) + 1 + len(e.Alg) + 2 + len(e.Digest))
	p.data = append(append(p.data, kind...), ':')
	p.appendDigest(e.Alg, e.Digest)
	return nil
}

// fieldDModsig is the digest that an appended signature is of; empty when there is none. It is not appraised.
func fieldDModsig(p *Parser, text []byte) error {
	if len(text) == 0 {
		p.appendLength(0)
		return nil
	}
	alg, digits, named := bytes.Cut(text, colon)
	digest, err := p.unhex(digits)
	if !named || err != nil || len(alg) == 0 || len(alg) > maxAlg || len(digest) == 0 || len(digest) > maxDigest {
		return errors.New("digest of the appended signature is not algorithm:hex")
	}
	p.appendLength(len(alg) + 2 + len(digest))
	p.appendDigest(alg, digest)
	return nil
}

// fieldBytes is a field in hex that is not appraised.
func fieldBytes(p *Parser, text []byte) error {
	_, err := p.readBytes("a field", text)
	return err
}

// fieldText is a text that ends with a NUL and is not appraised.
func fieldText(p *Parser, text []byte) error {
	p.appendText(text)
	return nil
}

// fieldNumber is a decimal number of size bytes in binary.
func fieldNumber(size int) field {
	return func(p *Parser, text []byte) error {
		n, err := strconv.ParseUint(string(text), 10, 8*size)
		if err != nil || len(text) > 1 && text[0] == '0' || text[0] == '+' {
			return fmt.Errorf("%q is not a number of %d bytes", clip(text), size)
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], n)
		p.appendLength(size)
		p.data = append(p.data, b[:size]...)
		return nil
	}
}
