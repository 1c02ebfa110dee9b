package uefi

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// GUID is an EFI_GUID as it lies in memory: the first three fields are little-endian (UEFI specification, appendix A).
type GUID [16]byte

// ParseGUID reads the canonical text, lower or upper case.
func ParseGUID(s string) (g GUID, err error) {
	var digits []byte
	for i := range len(s) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash != (s[i] == '-'):
			return GUID{}, fmt.Errorf("GUID %.40q is not of the form 8be4df61-93ca-11d2-aa0d-00e098032b8c", s)
		case !dash:
			digits = append(digits, s[i])
		}
	}
	if _, err := hex.Decode(g[:], digits[:min(len(digits), 2*len(g))]); err != nil || len(digits) != 2*len(g) {
		return GUID{}, fmt.Errorf("GUID %.40q is not of the form 8be4df61-93ca-11d2-aa0d-00e098032b8c", s)
	}
	return g.Swapped(), nil
}

// Swapped is the GUID that other programs mean when they write the bytes of g in memory order.
func (g GUID) Swapped() GUID {
	s := g
	le, be := binary.LittleEndian, binary.BigEndian
	be.PutUint32(s[0:], le.Uint32(g[0:]))
	be.PutUint16(s[4:], le.Uint16(g[4:]))
	be.PutUint16(s[6:], le.Uint16(g[6:]))
	return s
}

// String is the canonical text in lower case.
func (g GUID) String() string {
	s := g.Swapped()
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[0:4], s[4:6], s[6:8], s[8:10], s[10:16])
}

// MarshalText implements encoding.TextMarshaler.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// Hex is bytes that are written as lower-case hex.
type Hex []byte

func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }
