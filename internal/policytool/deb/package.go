package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"keylime/internal/policytool/archive"
	"keylime/internal/policytool/collect"
)

// maxData is what the files of one package may take together.
const maxData = 256 << 30

// hashing is how the files of packages are hashed.
type hashing struct {
	into      *collect.Files
	alg       collect.Algorithm
	mergedUsr bool

	aliased  atomic.Int64 // files below directories that a merged /usr replaces
	dangling atomic.Int64 // hard links to what the package does not hold
}

// read adds the files of the package that r gives: those in its data.tar. It reads r to its end.
func (h *hashing) read(ctx context.Context, r io.Reader) error {
	ar, err := newArReader(r)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		name, err := ar.next()
		if err == io.EOF {
			return errors.New("it is no Debian package: it has no member data.tar")
		}
		if err != nil {
			return err
		}
		if first {
			if err := checkVersion(name, &ar.member); err != nil {
				return err
			}
		}
		if name != "data.tar" && !strings.HasPrefix(name, "data.tar.") {
			continue
		}
		if err := h.data(ctx, &ar.member); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		_, err = io.Copy(io.Discard, r)
		return err
	}
}

// checkVersion holds that the format is the one of deb(5) since 1995: a first member debian-binary that says 2.x.
func checkVersion(name string, content io.Reader) error {
	start := make([]byte, 2)
	if _, err := io.ReadFull(content, start); name != "debian-binary" || err != nil || string(start) != "2." {
		return errors.New("it is no Debian package of format 2")
	}
	return nil
}

func (h *hashing) data(ctx context.Context, compressed io.Reader) error {
	content, err := archive.Unpack(compressed, maxData)
	if err != nil {
		return err
	}
	defer content.Close()
	return archive.Digests(ctx, content, h.alg, h.into, func(e archive.Entry, digest []byte) error {
		switch {
		case digest != nil:
			h.add(e.Path, digest)
		case e.Kind == archive.HardLink:
			h.dangling.Add(1)
		}
		return nil
	})
}

// add adds a file under its path in the package and, when /usr is merged, under the one that the kernel then prints.
func (h *hashing) add(path string, digest []byte) {
	if aliased(path) {
		h.aliased.Add(1)
		if h.mergedUsr {
			path = "/usr" + path
		}
	}
	h.into.Add(path, digest)
}

// aliased tells whether a path is below a directory that is a link into /usr where /usr is merged (Debian 12 and later).
func aliased(path string) bool {
	top, _, below := strings.Cut(path[1:], "/")
	if !below {
		return false
	}
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32":
		return true
	}
	return false
}
