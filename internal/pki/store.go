package pki

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Store holds the certificates that vouch for endorsement keys: roots and intermediates of TPM makers. All of them are
// trusted, because an operator put them there. It is immutable and safe for concurrent use.
type Store struct {
	bySubject map[string][]*Certificate
	count     int
}

// Warning tells of a file of the store that was skipped.
type Warning struct {
	File string
	Err  error
}

func (w Warning) String() string { return fmt.Sprintf("%s is skipped: %v", w.File, w.Err) }

// Limits of a store. A full set of all makers' certificates is a few hundred files of a few kilobytes.
const (
	maxStoreFiles        = 20_000
	maxStoreFile         = 1 << 20
	maxStoreCertificates = 50_000
)

// storeSuffixes are the names of certificate files; others are left alone.
var storeSuffixes = []string{".pem", ".crt", ".cer", ".der"}

// LoadStore reads every certificate of every *.pem, *.crt, *.cer and *.der file of a directory, not of its
// subdirectories. Files that cannot be used are skipped with a warning.
func LoadStore(dir string) (*Store, []Warning, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxStoreFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	slices.Sort(names)
	s := &Store{bySubject: map[string][]*Certificate{}}
	var warnings []Warning
	if more, _ := d.Readdirnames(1); len(more) > 0 {
		warnings = append(warnings, Warning{dir, fmt.Errorf("more than %d files: the rest of them", maxStoreFiles)})
	}
	for _, name := range names {
		if !slices.Contains(storeSuffixes, strings.ToLower(filepath.Ext(name))) {
			continue
		}
		path := filepath.Join(dir, name)
		if err := s.addFile(path); err != nil {
			warnings = append(warnings, Warning{path, err})
		}
	}
	return s, warnings, nil
}

func (s *Store) addFile(path string) error {
	info, err := os.Stat(path) // a name may be a link, a pipe, or a link to itself
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStoreFile {
		return fmt.Errorf("not a file of at most %d bytes", maxStoreFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	certs, err := ParseCertificates(text)
	if err != nil {
		return err
	}
	for _, c := range certs {
		if err := s.add(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) add(c *Certificate) error {
	same := s.bySubject[c.Subject.key]
	if slices.ContainsFunc(same, func(o *Certificate) bool { return string(o.Raw) == string(c.Raw) }) {
		return nil
	}
	if s.count == maxStoreCertificates {
		return fmt.Errorf("the store has %d certificates already", maxStoreCertificates)
	}
	s.count++
	s.bySubject[c.Subject.key] = append(same, c)
	return nil
}

// Len is the number of different certificates.
func (s *Store) Len() int { return s.count }

// holds reports whether c is one of the store's certificates.
func (s *Store) holds(c *Certificate) bool {
	return slices.Contains(s.bySubject[c.Subject.key], c)
}
