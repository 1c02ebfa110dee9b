package policytool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/unpack"
)

// initrds are the initial RAM disks in a directory such as /boot: the files whose name begins with "initr".
type initrds struct {
	dir string
	log zerolog.Logger
}

func (s *initrds) String() string { return "RAM disks in " + s.dir }

const (
	// maxInitrd bounds what one image may unpack to: nothing that is to fit into a machine's memory is larger.
	maxInitrd = 16 << 30
	// maxArchives bounds the archives behind each other in an image: microcode, ACPI tables, firmware, the main one, ...
	maxArchives = 64
)

// Collect hashes the files in every image.
func (s *initrds) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("%w: give --ramdisk-dir a directory that can be read", err)
	}
	hasher := into.Hasher(alg)
	images := 0
	for _, e := range entries {
		name := filepath.Join(s.dir, e.Name())
		info, err := os.Stat(name)
		if !strings.HasPrefix(e.Name(), "initr") || err != nil || !info.Mode().IsRegular() {
			continue
		}
		images++
		if err := s.image(ctx, name, into, hasher); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if images == 0 {
		s.log.Warn().Msgf("%s holds no RAM disk: no file's name begins with \"initr\"", s.dir)
	}
	return nil
}

func (s *initrds) image(ctx context.Context, name string, into *collect.Files, hasher *collect.Hasher) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := initrdReader{log: s.log.With().Str("image", name).Logger(), file: func(e *cpioEntry) error {
		digest, err := hasher.Sum(e.content)
		if err != nil {
			return err
		}
		for _, name := range e.names {
			into.Add(name, digest)
		}
		return ctx.Err()
	}}
	return r.image(f)
}

// initrdReader reads an image: cpio archives behind each other, with zeros between them, the last usually compressed.
type initrdReader struct {
	file func(*cpioEntry) error // called with every regular file
	log  zerolog.Logger
}

// image reads all archives. The first is left out when more follow it and it is not compressed: it is for the kernel
// alone (microcode, ACPI tables), and no file of it is ever opened.
func (r *initrdReader) image(f io.ReadSeeker) error {
	in := bufio.NewReaderSize(f, 64<<10)
	if isCPIO(in) {
		early := initrdReader{file: func(*cpioEntry) error { return nil }, log: r.log}
		if err := early.archive(in); err != nil {
			return err
		}
		switch err := skipZeros(in); err {
		case nil:
			return r.archives(in, false)
		case io.EOF: // it is the only one
		default:
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		in.Reset(f)
	}
	return r.archives(in, false)
}

// archives reads archives to the end of the input. Within compressed data there is no more compressed data.
func (r *initrdReader) archives(in *bufio.Reader, unpacked bool) error {
	for n := range maxArchives {
		err := skipZeros(in)
		switch {
		case err == io.EOF && n > 0:
			return nil
		case err == io.EOF:
			return errors.New("an empty image")
		case err != nil && n > 0:
			r.log.Warn().Err(err).Msg("what follows the last archive cannot be unpacked, and is not in the policy")
			return nil
		case err != nil:
			return err
		case isCPIO(in):
			err = r.archive(in)
		case unpacked:
			return errors.New("neither a cpio archive nor zeros")
		default:
			return r.compressed(in)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d archives behind each other", maxArchives)
}

// compressed reads the archives in compressed data, which extends to the end of the image.
func (r *initrdReader) compressed(in *bufio.Reader) error {
	data, format, err := unpack.Reader(in)
	if err != nil {
		return err
	}
	defer data.Close()
	if format == unpack.Plain {
		return errors.New("neither a cpio archive nor compressed by gzip, bzip2, xz, zstd or lz4")
	}
	r.log.Debug().Str("format", string(format)).Msg("unpacking")
	if err := r.archives(bufio.NewReaderSize(io.LimitReader(data, maxInitrd), 64<<10), true); err != nil {
		return fmt.Errorf("in %s data: %w", format, err)
	}
	return nil
}

// archive reads one archive up to its trailer.
func (r *initrdReader) archive(in *bufio.Reader) error {
	c := newCPIO(in)
	for {
		e, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.file(e); err != nil {
			return err
		}
	}
}

// skipZeros moves to the next byte that is not zero; io.EOF when there is none.
func skipZeros(in *bufio.Reader) error {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return in.UnreadByte()
		}
	}
}
