package archive

import (
	"context"
	"hash/maphash"
	"io"

	"keylime/internal/policytool/collect"
)

// Digests walks the tar archive that r gives as Walk does, and passes to visit the digest of each regular file's content
// and, for a hard link, that of the file of this archive that it leads to. The digest is nil for what has no content, and
// for a link to what the archive did not hold before; it is valid during the call only. The content is read already.
// What is read counts as progress of files.
func Digests(ctx context.Context, r io.Reader, alg collect.Algorithm, files *collect.Files, visit func(e Entry, digest []byte) error) error {
	d := digester{keys: NewKeys(), sums: map[Key]uint32{}, size: alg.Size()}
	hash, buf := alg.New(), make([]byte, 128<<10)
	var sum []byte
	return Walk(ctx, r, func(e Entry) error {
		switch e.Kind {
		case Regular:
			files.Expect(e.Size)
			hash.Reset()
			n, err := io.CopyBuffer(hash, onlyReader{e.Content}, buf)
			files.Done(n)
			if err != nil {
				return err
			}
			sum = hash.Sum(sum[:0])
			d.store(e.Path, sum)
			return visit(e, sum)
		case HardLink:
			target := d.load(e.Target)
			if target != nil {
				d.store(e.Path, target)
			}
			return visit(e, target)
		}
		return visit(e, nil)
	})
}

// onlyReader hides every other method of a reader: io.CopyBuffer then uses the buffer that it is given.
type onlyReader struct{ io.Reader }

// digester remembers the digests of an archive's files, for the hard links that may follow.
type digester struct {
	keys Keys
	sums map[Key]uint32 // index into all
	all  []byte
	size int
}

func (d *digester) store(path string, sum []byte) {
	d.sums[d.keys.Of(path)] = uint32(len(d.all) / d.size)
	d.all = append(d.all, sum...)
}

func (d *digester) load(path string) []byte {
	i, known := d.sums[d.keys.Of(path)]
	if !known {
		return nil
	}
	at := int(i) * d.size
	return d.all[at : at+d.size : at+d.size]
}

// Key stands for a path in sets of millions of paths: 16 bytes, of hashes that nobody can foresee.
type Key [2]uint64

// Keys makes the keys of one set.
type Keys struct{ a, b maphash.Seed }

// NewKeys returns a Keys with hashes of its own.
func NewKeys() Keys { return Keys{maphash.MakeSeed(), maphash.MakeSeed()} }

// Of returns the key of a path.
func (k Keys) Of(path string) Key { return Key{maphash.String(k.a, path), maphash.String(k.b, path)} }
