package tpm

import (
	"crypto"
	"errors"
	"fmt"
)

// Hash is a TPM_ALG_ID of a digest algorithm that this project can compute.
type Hash uint16

// The digest algorithms of TCG Algorithm Registry that a quote, a PCR bank or a name may use here.
const (
	SHA1   Hash = 0x0004
	SHA256 Hash = 0x000B
	SHA384 Hash = 0x000C
	SHA512 Hash = 0x000D
)

// ErrUnknownHash is returned for a digest algorithm outside the list above.
var ErrUnknownHash = errors.New("unknown hash algorithm")

// ParseHash reads a name as it stands on the wire: "sha1", "sha256", "sha384" or "sha512".
func ParseHash(name string) (Hash, error) {
	for _, h := range []Hash{SHA1, SHA256, SHA384, SHA512} {
		if h.String() == name {
			return h, nil
		}
	}
	return 0, fmt.Errorf("%w %q", ErrUnknownHash, name)
}

// Crypto returns the standard library's identifier; 0 for an unknown algorithm.
func (h Hash) Crypto() crypto.Hash {
	switch h {
	case SHA1:
		return crypto.SHA1
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Valid reports whether h is one of the constants of this package.
func (h Hash) Valid() bool { return h.Crypto() != 0 }

// Size is the digest's length in bytes; 0 for an unknown algorithm.
func (h Hash) Size() int {
	if c := h.Crypto(); c != 0 {
		return c.Size()
	}
	return 0
}

// String is the name on the wire.
func (h Hash) String() string {
	switch h {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg-0x%04x", uint16(h))
}
