package collect

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/emmansun/gmsm/sm3"
)

// Algorithm is a hash that the digests of files may be made with, by its name in the kernel and on the command line.
// "" is none.
type Algorithm string

// The algorithms of Keylime. SM3 is the hash of GB/T 32905-2016, with digests as long as those of SHA-256.
const (
	SHA1   Algorithm = "sha1"
	SHA256 Algorithm = "sha256"
	SHA384 Algorithm = "sha384"
	SHA512 Algorithm = "sha512"
	SM3    Algorithm = "sm3_256"
)

// Algorithms are all of them, in the order in which messages list them.
func Algorithms() []Algorithm { return []Algorithm{SHA1, SHA256, SHA384, SHA512, SM3} }

// ParseAlgorithm reads a name.
func ParseAlgorithm(name string) (Algorithm, error) {
	if a := Algorithm(name); slices.Contains(Algorithms(), a) {
		return a, nil
	}
	return "", fmt.Errorf("unknown digest algorithm %q: choose one of %s", name, AlgorithmNames())
}

// AlgorithmNames lists the names for people.
func AlgorithmNames() string {
	var names []string
	for _, a := range Algorithms() {
		names = append(names, string(a))
	}
	return strings.Join(names, ", ")
}

// New returns a hash of the algorithm, which must be one of this package's.
func (a Algorithm) New() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	case SM3:
		return sm3.New()
	}
	panic("collect: no algorithm " + string(a))
}

// Size is the length of digests in bytes; 0 for what is not of this package.
func (a Algorithm) Size() int {
	switch a {
	case SHA1:
		return sha1.Size
	case SHA256, SM3:
		return sha256.Size
	case SHA384:
		return sha512.Size384
	case SHA512:
		return sha512.Size
	}
	return 0
}
