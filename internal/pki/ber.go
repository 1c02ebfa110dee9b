package pki

import (
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Some TPM vendors' certificates are not DER: lengths are not minimal, sets are not sorted, integers are negative or
// padded, indefinite lengths occur. The reader here takes BER (X.690) and further small faults, and keeps the
// original bytes of everything, because signatures are over those.

// maxDepth bounds the nesting of indefinite lengths.
const maxDepth = 16

// element is one BER element.
type element struct {
	tag     byte   // identifier octet: class, constructed bit and number
	content []byte // without an end-of-contents mark
	raw     []byte // the whole element
}

// Identifier octets of the types that certificates use.
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	tagUTCTime     = 0x17
	tagGenTime     = 0x18
	tagBMPString   = 0x1e
)

var errTruncated = errors.New("truncated")

// readElement takes the first element off b.
func readElement(b []byte) (e element, rest []byte, err error) { return readNested(b, 0) }

func readNested(b []byte, depth int) (e element, rest []byte, err error) {
	if len(b) < 2 {
		return e, nil, errTruncated
	}
	if b[0]&0x1f == 0x1f {
		return e, nil, errors.New("tag numbers above 30 do not occur in certificates")
	}
	e.tag = b[0]
	if b[1] == 0x80 {
		return readIndefinite(b, depth)
	}
	length, header := int(b[1]), 2
	if b[1] > 0x80 {
		n := int(b[1] & 0x7f)
		if len(b) < 2+n {
			return e, nil, errTruncated
		}
		length, header = 0, 2+n
		for _, octet := range b[2:header] {
			if length > len(b) {
				return e, nil, errTruncated
			}
			length = length<<8 | int(octet)
		}
	}
	if length > len(b)-header {
		return e, nil, errTruncated
	}
	end := header + length
	e.content, e.raw = b[header:end], b[:end]
	return e, b[end:], nil
}

// readIndefinite finds the end of an element by reading the elements in it.
func readIndefinite(b []byte, depth int) (e element, rest []byte, err error) {
	if b[0]&0x20 == 0 || depth >= maxDepth {
		return e, nil, errors.New("indefinite length where none may be")
	}
	e.tag = b[0]
	inner := b[2:]
	for {
		if len(inner) >= 2 && inner[0] == 0 && inner[1] == 0 {
			end := len(b) - len(inner)
			e.content, e.raw = b[2:end], b[:end+2]
			return e, inner[2:], nil
		}
		if _, inner, err = readNested(inner, depth+1); err != nil {
			return e, nil, err
		}
	}
}

// ber reads elements one after the other; the first error sticks.
type ber struct {
	rest []byte
	err  error
}

func (r *ber) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *ber) next() (e element) {
	if r.err == nil {
		e, r.rest, r.err = readElement(r.rest)
	}
	return e
}

// expect reads an element of one type. Strings may be in pieces (constructed) in BER, but never are in certificates.
func (r *ber) expect(tag byte, what string) element {
	e := r.next()
	if r.err == nil && e.tag != tag {
		r.err = fmt.Errorf("has tag %#x, not %#x", e.tag, tag)
	}
	if r.err != nil {
		r.fail(what)
	}
	return e
}

// optional reads an element if it is of that type.
func (r *ber) optional(tag byte) (e element, ok bool) {
	if r.more() && r.rest[0] == tag {
		e = r.next()
		return e, r.err == nil
	}
	return e, false
}

func (r *ber) fail(what string) {
	if r.err != nil {
		r.err = fmt.Errorf("%s: %w", what, r.err)
	}
}

// oid is an object identifier as text, such as 2.5.4.3.
func (e element) oid() (string, error) {
	if e.tag != tagOID || len(e.content) == 0 || len(e.content) > 64 {
		return "", errors.New("not an object identifier")
	}
	var arcs []byte
	value, first := new(big.Int), true
	for i, octet := range e.content {
		value.Lsh(value, 7).Or(value, big.NewInt(int64(octet&0x7f)))
		if octet&0x80 != 0 {
			if i == len(e.content)-1 {
				return "", errTruncated
			}
			continue
		}
		if first {
			root := min(value.Int64(), 80) / 40
			if !value.IsInt64() {
				root = 2
			}
			arcs = fmt.Appendf(arcs, "%d", root)
			value.Sub(value, big.NewInt(root*40))
			first = false
		}
		arcs = fmt.Appendf(arcs, ".%s", value)
		value.SetInt64(0)
	}
	return string(arcs), nil
}

// unsigned is an integer read as if a sign did not exist: moduli lack their leading zero at times.
func (e element) unsigned() *big.Int { return new(big.Int).SetBytes(e.content) }

// bits is the content of a bit string of whole octets.
func (e element) bits() ([]byte, error) {
	if e.tag != tagBitString || len(e.content) == 0 || e.content[0] > 7 {
		return nil, errors.New("not a bit string")
	}
	return e.content[1:], nil
}

// time reads UTCTime and GeneralizedTime; seconds may be missing.
func (e element) time() (time.Time, error) {
	layouts := []string{"20060102150405Z0700", "200601021504Z0700"}
	text := string(e.content)
	switch e.tag {
	case tagGenTime:
	case tagUTCTime: // years 1950 to 2049
		if len(text) < 2 {
			return time.Time{}, errTruncated
		}
		if text[0] >= '5' {
			text = "19" + text
		} else {
			text = "20" + text
		}
	default:
		return time.Time{}, errors.New("not a time")
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time", text)
}
