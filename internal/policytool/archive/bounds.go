package archive

import (
	"fmt"
	"io"

	"keylime/internal/policytool/unpack"
)

// MaxRatio is how many bytes may come out of a compressed byte. Gzip reaches 1,032 at most, xz and zstd more with long
// runs of zeros; what packages hold stays far below.
const MaxRatio = 4096

// ratioFloor is what may come out whatever the ratio: a short file of zeros is no attack.
const ratioFloor = 64 << 20

// Unpack returns what r gives, decompressed whatever its format is. Reading fails once more than max bytes, or more than
// MaxRatio bytes for each byte read, have come out. Close releases the decoder, not r.
func Unpack(r io.Reader, max int64) (io.ReadCloser, error) {
	in := &counter{r: r}
	out, _, err := unpack.Reader(in)
	if err != nil {
		return nil, err
	}
	return &bounded{ReadCloser: out, in: in, max: max}, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type bounded struct {
	io.ReadCloser
	in       *counter
	out, max int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.out += int64(n)
	if b.out > b.max {
		return 0, fmt.Errorf("more than %d bytes come out of the compressed data: refused", b.max)
	}
	if b.out > ratioFloor && b.out/MaxRatio > b.in.n {
		return 0, fmt.Errorf("the data unpack to more than %d times their size: refused", MaxRatio)
	}
	return n, err
}

// AtMost returns r, whose reading fails once it gave more than max bytes. What names it in the error.
func AtMost(r io.Reader, max int64, what string) io.Reader {
	return &limited{r: r, left: max, max: max, what: what}
}

type limited struct {
	r         io.Reader
	left, max int64
	what      string
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%s is larger than %d bytes: refused", l.what, l.max)
	}
	return n, err
}
