package policy

import (
	"bytes"
	"encoding/hex"
	"strings"
)

// table maps names to the digests they may have. Names share one string and digests one slab, so that a table of
// 100,000 names is three allocations and a look-up none.
type table struct {
	spans map[string]span
	slab  []byte // digests, each after its length in one byte
}

// span is the part of the slab with one name's digests.
type span struct{ from, to uint32 }

// find looks for the digest among the name's.
func (t *table) find(name, digest []byte) Finding {
	s, listed := t.spans[string(name)]
	if !listed {
		return Finding{Reason: NotListed}
	}
	all := t.slab[s.from:s.to]
	for rest := all; len(rest) > 0; {
		next := 1 + int(rest[0])
		if bytes.Equal(rest[1:next], digest) {
			return Finding{}
		}
		rest = rest[next:]
	}
	return Finding{WrongDigest, all}
}

func hexDigests(all []byte) []string {
	list := []string{}
	for rest := all; len(rest) > 0; {
		next := 1 + int(rest[0])
		list = append(list, hex.EncodeToString(rest[1:next]))
		rest = rest[next:]
	}
	return list
}

// tableBuilder collects a table. The names it is given may share memory with a larger text; the table's do not.
type tableBuilder struct {
	names []string
	spans []span
	size  int // of all names
	slab  []byte
}

func (b *tableBuilder) name(name string) {
	at := uint32(len(b.slab))
	b.names = append(b.names, name)
	b.spans = append(b.spans, span{at, at})
	b.size += len(name)
}

// digestForm is what a digest looks like in a policy. It is lax: a length between those of hashes can match nothing.
const digestForm = `^[0-9a-f]{40,128}$`

// digest adds a digest to the last name; false when it is not of digestForm. One with an odd number of digits equals
// the hex form of no digest, so that it is valid but accepts nothing.
func (b *tableBuilder) digest(digits string) bool {
	if len(digits) < 40 || len(digits) > 128 {
		return false
	}
	start := len(b.slab)
	b.slab = append(b.slab, byte(len(digits)/2))
	var bad byte
	for i := 0; i+1 < len(digits); i += 2 {
		high, low := nibbles[digits[i]], nibbles[digits[i+1]]
		bad |= high | low
		b.slab = append(b.slab, high<<4|low)
	}
	if len(digits)%2 != 0 {
		bad |= nibbles[digits[len(digits)-1]]
		b.slab = b.slab[:start]
	}
	b.spans[len(b.spans)-1].to = uint32(len(b.slab))
	return bad&0xF0 == 0
}

func (b *tableBuilder) table() table {
	var all strings.Builder
	all.Grow(b.size)
	for _, name := range b.names {
		all.WriteString(name)
	}
	rest := all.String()
	spans := make(map[string]span, len(b.names))
	for i, name := range b.names {
		spans[rest[:len(name)]] = b.spans[i]
		rest = rest[len(name):]
	}
	return table{spans, bytes.Clone(b.slab)}
}

// nibbles are the values of lower-case hex digits; 0xFF for any other byte.
var nibbles = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(strings.IndexByte("0123456789abcdef", byte(i))) // -1 becomes 0xFF
	}
	return t
}()
