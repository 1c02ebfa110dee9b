// Package repo reads repositories of packages, those in directories and those on HTTP servers alike. It bounds and checks
// what every kind of repository has in common: names, sizes, checksums, signatures.
package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"keylime/internal/policytool/archive"
)

// Site holds the files of a repository. Its methods may be called from several goroutines at once.
type Site struct {
	name   string
	root   *os.Root // of a local repository
	remote *remote
}

// File is an open file of a site.
type File struct {
	io.Reader
	// Size is in bytes, -1 when the server does not tell.
	Size  int64
	close func() error
}

// Close ends the reading; of a file on a server the rest is not transferred.
func (f *File) Close() error { return f.close() }

// Local opens the repository in a directory. No name and no symbolic link leads out of it.
func Local(dir string) (*Site, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return &Site{name: dir, root: root}, nil
}

// Close releases the site.
func (s *Site) Close() error {
	if s.remote != nil {
		s.remote.client.CloseIdleConnections()
		return nil
	}
	return s.root.Close()
}

// String is the directory or address.
func (s *Site) String() string { return s.name }

// Where is the full name of a file, for messages.
func (s *Site) Where(name string) string {
	if s.remote != nil {
		return s.remote.address(name).Redacted()
	}
	return path.Join(s.name, name)
}

// FS is the directory of a local site; nil for a remote one.
func (s *Site) FS() fs.FS {
	if s.root == nil {
		return nil
	}
	return s.root.FS()
}

// Open opens a file by its name in the repository. A file that does not exist is fs.ErrNotExist.
func (s *Site) Open(ctx context.Context, name string) (*File, error) {
	return s.OpenFirst(ctx, name, 0)
}

// OpenFirst is Open for a reader that needs the first n bytes of the file only; 0 is all. It may get more.
func (s *Site) OpenFirst(ctx context.Context, name string, n int64) (*File, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("the repository names a file %.200q: only names within it are read", name)
	}
	if s.remote != nil {
		return s.remote.open(ctx, name, n)
	}
	// Opening a named pipe would wait for its writer.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", s.Where(name))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{Reader: f, Size: info.Size(), close: f.Close}, nil
}

// Read reads a whole file of at most max bytes.
func (s *Site) Read(ctx context.Context, name string, max int64) ([]byte, error) {
	f, err := s.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(archive.AtMost(f, max, "the file"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.Where(name), err)
	}
	return content, nil
}

// ReadIfThere is Read, with found false for a file that does not exist.
func (s *Site) ReadIfThere(ctx context.Context, name string, max int64) (content []byte, found bool, err error) {
	content, err = s.Read(ctx, name, max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

// maxIndex is what an index may unpack to. Those of the largest distributions have 2 GB.
const maxIndex = 16 << 30

// Index passes to parse what an index file gives, decompressed, and fails unless the file is the one that sum is of. What
// parse learns may be used once Index has returned without an error. A nil sum vouches for nothing.
func (s *Site) Index(ctx context.Context, name string, sum *Checksum, parse func(io.Reader) error) error {
	f, err := s.Open(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	raw := f.Reader
	if sum != nil {
		raw = sum.Reader(raw)
	}
	if err := parseIndex(raw, parse); err != nil {
		return fmt.Errorf("index %s: %w", s.Where(name), err)
	}
	return nil
}

func parseIndex(raw io.Reader, parse func(io.Reader) error) error {
	content, err := archive.Unpack(raw, maxIndex)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := parse(content); err != nil {
		return err
	}
	// What follows is none of the parser's business but the checksum covers it.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, raw)
	return err
}
