package collect

import (
	"hash"
	"io"
)

// Hasher hashes files one after the other, without allocating for each. It is for one goroutine.
type Hasher struct {
	files *Files
	hash  hash.Hash
	sum   []byte
	buf   []byte
}

// bufferSize is how much of a file is read at a time: large enough that system calls do not count.
const bufferSize = 128 << 10

// Hasher returns a hasher that adds to f.
func (f *Files) Hasher(alg Algorithm) *Hasher {
	return &Hasher{files: f, hash: alg.New(), buf: make([]byte, bufferSize)}
}

// Add hashes what r gives up to its end and adds it under the path. When r fails nothing is added.
func (h *Hasher) Add(path string, r io.Reader) error {
	sum, err := h.Sum(r)
	if err != nil {
		return err
	}
	h.files.Add(path, sum)
	return nil
}

// Sum hashes what r gives up to its end. The digest is valid until the next call.
func (h *Hasher) Sum(r io.Reader) ([]byte, error) {
	h.hash.Reset()
	for {
		n, err := r.Read(h.buf)
		h.hash.Write(h.buf[:n])
		h.files.Done(int64(n))
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	h.sum = h.hash.Sum(h.sum[:0])
	return h.sum, nil
}
