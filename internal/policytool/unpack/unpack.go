// Package unpack reads compressed data of whichever format it has.
package unpack

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// Format is how data is compressed.
type Format string

// The formats, told from the first bytes of the data. Plain is what has none of the others' marks.
const (
	Plain Format = "uncompressed"
	Gzip  Format = "gzip"
	Bzip2 Format = "bzip2"
	Xz    Format = "xz"
	Zstd  Format = "zstd"
	Lz4   Format = "lz4" // both the frame format and the one that "lz4 -l" and the kernel write
	Lzo   Format = "lzo"
)

// magics are the first bytes of the formats: of the kernel's Documentation/driver-api/early-userspace and of each
// format's specification.
var magics = []struct {
	bytes  string
	format Format
}{
	{"\x1f\x8b", Gzip},
	{"BZh", Bzip2},
	{"\xfd7zXZ\x00", Xz},
	{"\x28\xb5\x2f\xfd", Zstd},
	{"\x04\x22\x4d\x18", Lz4},
	{"\x02\x21\x4c\x18", Lz4},
	{"\x89LZO\x00\x0d", Lzo},
}

// windowLimit bounds the memory that a stream may ask a decoder for: what "xz -9", and "zstd --ultra -22 --long=27", need.
const windowLimit = 128 << 20

// Detect tells the format of data from its first bytes; six suffice.
func Detect(start []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(start, []byte(m.bytes)) {
			return m.format
		}
	}
	return Plain
}

// Reader returns what r gives, decompressed, and its format. The size of what comes out is not bounded: callers bound
// it. Close releases the decoder, not r.
func Reader(r io.Reader) (io.ReadCloser, Format, error) {
	buffered, ok := r.(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReaderSize(r, 64<<10)
	}
	start, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	format := Detect(start)
	decoder, err := open(buffered, format)
	if err != nil {
		return nil, format, fmt.Errorf("%s data: %w", format, err)
	}
	return decoder, format, nil
}

func open(r *bufio.Reader, format Format) (io.ReadCloser, error) {
	switch format {
	case Gzip:
		return gzip.NewReader(r)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case Xz:
		d, err := xz.NewReader(r, windowLimit)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(d), nil
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowLimit), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case Lz4:
		return io.NopCloser(lz4.NewReader(r)), nil
	case Lzo:
		return nil, fmt.Errorf("this compression is not supported: unpack it with lzop -d first")
	}
	return io.NopCloser(r), nil
}
