package repo

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"keylime/internal/policytool/collect"
)

// Checksum is what an index states of a file.
type Checksum struct {
	Algorithm collect.Algorithm
	Sum       []byte
	// Size is in bytes, -1 where the index does not tell.
	Size int64
}

// ParseChecksum reads a checksum in hexadecimal digits. SHA-256, SHA-384 and SHA-512 are accepted: files with equal
// checksums of older algorithms can be made by anyone.
func ParseChecksum(algorithm, digits string, size int64) (Checksum, error) {
	c := Checksum{Algorithm: collect.Algorithm(algorithm), Size: size}
	switch c.Algorithm {
	case collect.SHA256, collect.SHA384, collect.SHA512:
	default:
		return c, fmt.Errorf("checksums of algorithm %q prove nothing: make the repository's index with sha256", algorithm)
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != c.Algorithm.Size() {
		return c, fmt.Errorf("%.80q is no %s checksum", digits, algorithm)
	}
	c.Sum = sum
	return c, nil
}

// Reader returns a reader of what r gives. At the end it fails unless the content is what the checksum is of, so nothing
// that was read is to be trusted before io.EOF. It never reads much beyond the stated size.
func (c Checksum) Reader(r io.Reader) io.Reader {
	return &verified{r: r, want: c, hash: c.Algorithm.New()}
}

type verified struct {
	r    io.Reader
	want Checksum
	hash hash.Hash
	n    int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	if v.want.Size >= 0 && v.n > v.want.Size {
		return 0, fmt.Errorf("it is longer than the %d bytes that the index states", v.want.Size)
	}
	if err != io.EOF {
		return n, err
	}
	if v.want.Size >= 0 && v.n != v.want.Size {
		return n, fmt.Errorf("it has %d bytes and the index states %d", v.n, v.want.Size)
	}
	if got := v.hash.Sum(nil); !bytes.Equal(got, v.want.Sum) {
		return n, fmt.Errorf("its %s is %x and the index states %x", v.want.Algorithm, got, v.want.Sum)
	}
	return n, io.EOF
}
