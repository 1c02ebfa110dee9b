// Package archive reads the archives that packages and images are made of. They come from elsewhere: sizes, numbers of
// entries and names are bounded and checked, and nothing is ever written to disk.
package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	maxEntries = 4 << 20
	maxName    = 4096 // PATH_MAX
)

// Kind is what an entry of an archive makes.
type Kind byte

// The kinds that matter for the digests of files. Other is symbolic links, devices and named pipes: they have no content
// that is measured.
const (
	Regular Kind = iota
	HardLink
	Directory
	Other
)

// blockSize is the unit of tar archives; a block of zeros marks the end.
const blockSize = 512

// zeroTail counts the zeros at the end of what was read: tar.Reader takes the end of its input for the end of the archive.
type zeroTail struct {
	r     io.Reader
	zeros int64
}

func (z *zeroTail) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if rest := len(bytes.TrimRight(p[:n], "\x00")); rest > 0 {
		z.zeros = int64(n - rest)
	} else {
		z.zeros += int64(n)
	}
	return n, err
}

// Entry is one entry of a tar archive.
type Entry struct {
	Kind Kind
	// Path is absolute and clean: what the entry is called when the archive is unpacked at the root.
	Path string
	// Target is the path that a hard link leads to, in the form of Path.
	Target string
	Size   int64
	// Content is valid during the call only.
	Content io.Reader
}

// Walk calls visit for each entry of the tar archive that r gives, in its order. It reads r to its end, so that checksums
// of the whole see everything.
func Walk(ctx context.Context, r io.Reader, visit func(Entry) error) error {
	tail := &zeroTail{r: r}
	tr := tar.NewReader(tail)
	for n := 1; ; n++ {
		h, err := tr.Next()
		if err == io.EOF && tail.zeros < blockSize {
			return fmt.Errorf("entry %d: the archive is cut: it lacks the mark of its end", n)
		}
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // Clean judges names
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if n > maxEntries {
			return fmt.Errorf("more than %d entries: refused", maxEntries)
		}
		e, wanted, err := entry(h)
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if !wanted {
			continue
		}
		e.Content = tr
		if err := visit(e); err != nil {
			return fmt.Errorf("entry %s: %w", e.Path, err)
		}
	}
}

func entry(h *tar.Header) (e Entry, wanted bool, err error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Kind, e.Size = Regular, h.Size
	case tar.TypeLink:
		e.Kind = HardLink
		if e.Target, err = Clean(h.Linkname); err != nil {
			return e, false, fmt.Errorf("target of a hard link: %w", err)
		}
	case tar.TypeDir:
		e.Kind = Directory
	case tar.TypeXGlobalHeader:
		return e, false, nil
	default:
		e.Kind = Other
	}
	e.Path, err = Clean(h.Name)
	return e, true, err
}

// Clean returns the absolute path of a name in an archive. Names that lead out of the root, as "../x" does, are errors:
// no packager makes them.
func Clean(name string) (string, error) {
	if name == "" || len(name) > maxName {
		return "", fmt.Errorf("a name of %d bytes: 1 to %d are allowed", len(name), maxName)
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("the name %q has a zero byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("the name %q leads out of the archive", name)
		}
	}
	return path.Clean("/" + name), nil
}
