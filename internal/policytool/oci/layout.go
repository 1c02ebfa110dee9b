package oci

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"keylime/internal/policytool/archive"
	"keylime/internal/policytool/repo"
	"keylime/internal/policytool/unpack"
)

// layout is an image layout (OCI image-spec, image-layout.md): files by name, in a directory or in a tar archive of one.
type layout struct {
	name  string
	dir   *repo.Site
	file  *os.File // the archive
	parts map[string]*io.SectionReader
}

// maxParts bounds the files of an archived layout.
const maxParts = 1 << 16

func openLayout(ctx context.Context, name string) (*layout, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	l := &layout{name: name}
	if info.IsDir() {
		l.dir, err = repo.Local(name)
	} else {
		err = l.openArchive(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := l.checkVersion(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openArchive finds where the files of an archived layout lie: they are read from there, in any order.
func (l *layout) openArchive(ctx context.Context) (err error) {
	if l.file, err = os.Open(l.name); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.file.Close())
		}
	}()
	start := make([]byte, 6)
	if _, err := io.ReadFull(l.file, start); err != nil {
		return fmt.Errorf("it is no archive of an image layout: %w", err)
	}
	if f := unpack.Detect(start); f != unpack.Plain {
		return fmt.Errorf("it is compressed with %s: unpack it first, as its parts are read in another order than they stand in", f)
	}
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	l.parts = map[string]*io.SectionReader{}
	tr := tar.NewReader(l.file)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("it is no archive of an image layout: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name, err := archive.Clean(h.Name)
		if err != nil {
			return err
		}
		// Where the content begins; the reader has read no further, as it reads from a file.
		at, err := l.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if len(l.parts) == maxParts {
			return fmt.Errorf("more than %d files: refused", maxParts)
		}
		l.parts[name[1:]] = io.NewSectionReader(l.file, at, h.Size)
	}
}

// Close closes the layout.
func (l *layout) Close() error {
	if l.dir != nil {
		return l.dir.Close()
	}
	return l.file.Close()
}

// open opens a file of the layout.
func (l *layout) open(ctx context.Context, name string) (io.ReadCloser, error) {
	if l.dir != nil {
		return l.dir.Open(ctx, name)
	}
	part, ok := l.parts[name]
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", name, l.name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(part, 0, part.Size())), nil
}

// read reads a small file of the layout.
func (l *layout) read(ctx context.Context, name string) ([]byte, error) {
	f, err := l.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name)
}

func readAll(r io.Reader, name string) ([]byte, error) {
	content, err := io.ReadAll(archive.AtMost(r, maxDocument, "the file"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return content, nil
}

func (l *layout) checkVersion(ctx context.Context) error {
	const name = "oci-layout"
	text, err := l.read(ctx, name)
	if err != nil {
		return fmt.Errorf("it is no image layout: %w", err)
	}
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := decode(text, &v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !strings.HasPrefix(v.Version, "1.") {
		return fmt.Errorf("image layout of version %q: 1.x is supported", v.Version)
	}
	return nil
}

// blob opens what a descriptor describes. At its end reading fails unless the content has the digest and the size.
func (l *layout) blob(ctx context.Context, d descriptor) (io.ReadCloser, error) {
	name, sum, err := d.blob()
	if err != nil {
		return nil, err
	}
	f, err := l.open(ctx, name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{sum.Reader(f), f}, nil
}

// document decodes the JSON document that a descriptor describes.
func (l *layout) document(ctx context.Context, d descriptor, v any) error {
	f, err := l.blob(ctx, d)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := readAll(f, d.Digest)
	if err != nil {
		return err
	}
	if err := decode(text, v); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}

// blob is the name of the file that holds what the descriptor describes, and its checksum.
func (d descriptor) blob() (name string, sum repo.Checksum, err error) {
	algorithm, digits, ok := strings.Cut(d.Digest, ":")
	if !ok || d.Size < 0 {
		return "", sum, fmt.Errorf("the descriptor with digest %.140q and size %d describes nothing", d.Digest, d.Size)
	}
	if sum, err = repo.ParseChecksum(algorithm, digits, d.Size); err != nil {
		return "", sum, err
	}
	return path.Join("blobs", algorithm, hex.EncodeToString(sum.Sum)), sum, nil
}
