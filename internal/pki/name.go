package pki

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// Name is a distinguished name. Two names match when their attributes do, whatever string types they are encoded in,
// and whatever case and blanks they are written with (RFC 5280 section 7.1).
type Name struct {
	text string // for people
	key  string // equal for names that match; "" for an empty name
}

func (n Name) String() string {
	if n.text == "" {
		return "(no name)"
	}
	return n.text
}

// matches is false for empty names: they name nothing.
func (n Name) matches(m Name) bool { return n.key != "" && n.key == m.key }

// attributeNames are short names of common attributes.
var attributeNames = map[string]string{"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU"}

func parseName(e element) (Name, error) {
	var texts, keys []string
	r := ber{rest: e.content}
	for r.more() {
		set := ber{rest: r.expect(tagSet, "relative name").content}
		var parts []string
		for set.more() {
			pair := ber{rest: set.expect(tagSequence, "attribute").content}
			id, err := pair.expect(tagOID, "attribute type").oid()
			value := pair.next()
			if err = errors.Join(set.err, pair.err, err); err != nil {
				return Name{}, err
			}
			s := stringOf(value)
			short := attributeNames[id]
			if short == "" {
				short = id
			}
			texts = append(texts, short+"="+printable(s))
			parts = append(parts, id+"="+strings.ToLower(strings.Join(strings.Fields(s), " ")))
		}
		slices.Sort(parts) // the order within a set means nothing
		for _, p := range parts {
			keys = append(keys, fmt.Sprintf("%d:%s", len(p), p))
		}
		keys = append(keys, ";")
	}
	return Name{text: strings.Join(texts, ","), key: strings.Join(keys, "")}, r.err
}

// stringOf decodes the content of any string type.
func stringOf(e element) string {
	if e.tag != tagBMPString || len(e.content)%2 != 0 {
		return string(e.content)
	}
	units := make([]uint16, len(e.content)/2)
	for i := range units {
		units[i] = uint16(e.content[2*i])<<8 | uint16(e.content[2*i+1])
	}
	return string(utf16.Decode(units))
}

// printable keeps control characters of a certificate out of messages.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return '?'
		}
		return r
	}, s)
}
