package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylime/internal/policytool/repo"
)

const (
	maxRelease     = 32 << 20
	maxSignature   = 1 << 20
	maxReleaseList = 1 << 20 // files that a Release lists
)

// release is what the Release file of a suite says.
type release struct {
	dir           string // of the suite, in the repository
	components    []string
	architectures []string
	allApart      bool // packages for every architecture have an index of their own
	validUntil    time.Time
	files         map[string]repo.Checksum // by name below dir
}

// parseRelease reads a Release file. Of the checksums only those of SHA-256 count.
func parseRelease(r io.Reader) (*release, error) {
	p, err := newStanzas(r, maxRelease, "components", "architectures", "no-support-for-architecture-all", "valid-until", "sha256").next()
	if err == io.EOF {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	rel := &release{
		components:    strings.Fields(p["components"]),
		architectures: strings.Fields(p["architectures"]),
		files:         map[string]repo.Checksum{},
	}
	rel.allApart = slices.Contains(rel.architectures, "all") && !slices.Contains(strings.Fields(p["no-support-for-architecture-all"]), "Packages")
	if text := p["valid-until"]; text != "" {
		if rel.validUntil, err = time.Parse(time.RFC1123, text); err != nil {
			return nil, fmt.Errorf("Valid-Until: %w", err)
		}
	}
	for line := range strings.SplitSeq(p["sha256"], "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 || len(rel.files) == maxReleaseList {
			return nil, fmt.Errorf("SHA256: %.200q does not state checksum, size and name of a file", line)
		}
		sum, err := parseChecksum(fields[0], fields[1])
		if err != nil {
			return nil, fmt.Errorf("SHA256: %.200s: %w", fields[2], err)
		}
		rel.files[fields[2]] = sum
	}
	if len(rel.files) == 0 {
		return nil, errors.New("it states no SHA256 checksums")
	}
	return rel, nil
}

func parseChecksum(digits, size string) (repo.Checksum, error) {
	n, err := strconv.ParseUint(size, 10, 63)
	if err != nil {
		return repo.Checksum{}, fmt.Errorf("size %.40q is no number", size)
	}
	return repo.ParseChecksum("sha256", digits, int64(n))
}

// errNoRelease says that a suite has neither InRelease nor Release.
var errNoRelease = errors.New("there is neither InRelease nor Release")

// readRelease reads InRelease or Release of the suite in dir. With keys its signature must be of one of them; without, it
// is not looked at.
func readRelease(ctx context.Context, site *repo.Site, dir string, keys *repo.Keyring) (*release, error) {
	text, err := releaseText(ctx, site, dir, keys)
	if err != nil {
		return nil, err
	}
	rel, err := parseRelease(strings.NewReader(string(text)))
	if err != nil {
		return nil, fmt.Errorf("release of %s: %w", site.Where(dir), err)
	}
	rel.dir = dir
	return rel, nil
}

func releaseText(ctx context.Context, site *repo.Site, dir string, keys *repo.Keyring) ([]byte, error) {
	name := path.Join(dir, "InRelease")
	message, found, err := site.ReadIfThere(ctx, name, maxRelease)
	switch {
	case err != nil:
		return nil, err
	case found && keys == nil:
		message, err = repo.Clearsigned(message)
	case found:
		message, err = keys.VerifyClearsigned(message)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", site.Where(name), err)
	}
	if found {
		return message, nil
	}
	name = path.Join(dir, "Release")
	text, found, err := site.ReadIfThere(ctx, name, maxRelease)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%s: %w", site.Where(dir), errNoRelease)
	}
	if keys == nil {
		return text, nil
	}
	signature, err := site.Read(ctx, name+".gpg", maxSignature)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not signed, and a keyring was given: %w", site.Where(name), err)
	}
	if err != nil {
		return nil, err
	}
	if err := keys.VerifyDetached(text, signature); err != nil {
		return nil, fmt.Errorf("%s: %w", site.Where(name), err)
	}
	return text, nil
}

// endings are those that an index may have, best first. Archives list the plain file also where they do not hold it.
var endings = []string{".xz", ".zst", ".gz", ".bz2", ""}

// index passes to parse the index whose name without an ending is given.
func (rel *release) index(ctx context.Context, site *repo.Site, name string, parse func(io.Reader) error) error {
	listed := false
	for _, ending := range endings {
		sum, ok := rel.files[name+ending]
		if !ok {
			continue
		}
		listed = true
		err := site.Index(ctx, path.Join(rel.dir, name+ending), &sum, parse)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if listed {
		return fmt.Errorf("index %s: its Release lists it, and it is not there: %w", site.Where(path.Join(rel.dir, name)), fs.ErrNotExist)
	}
	return fmt.Errorf("its Release lists no index %s: there are components %s for architectures %s",
		name, strings.Join(rel.components, " "), strings.Join(rel.architectures, " "))
}
