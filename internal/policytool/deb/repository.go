// Package deb reads Debian packages, and repositories of them, for the digests of the files that they install.
package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

// Options say what to read and how.
type Options struct {
	// Suite is the distribution, such as "bookworm" or "bookworm-security"; "" or a name with a slash at its end is the
	// directory of a flat repository.
	Suite string
	// Components and Architectures choose indices of a suite: none is all components, and this machine's architecture.
	Components, Architectures []string
	// MergedUsr adds the files in /bin, /lib and the like under /usr, which is where the kernel finds them if those are
	// links into it.
	MergedUsr bool
	// Keyring holds the keys one of which must have signed the repository; nil is any, or none.
	Keyring *repo.Keyring
	// Workers is how many packages are read at a time.
	Workers int
	Log     zerolog.Logger
	// Now is the time that the validity of a repository is held against.
	Now time.Time
}

const maxPackages = 1 << 20

// Repository is a repository of packages.
type Repository struct {
	site    *repo.Site
	options Options
}

// NewRepository returns the repository in a directory or on a server.
func NewRepository(site *repo.Site, o Options) *Repository { return &Repository{site, o} }

func (r *Repository) String() string { return r.site.String() }

// listed is a package that an index lists.
type listed struct {
	file string
	sum  repo.Checksum
}

// Collect adds the files of every package that the chosen indices list. Release vouches for the indices, they for the
// packages. It closes the site.
func (r *Repository) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	defer r.site.Close()
	packages, err := r.list(ctx)
	if err != nil {
		return err
	}
	r.options.Log.Debug().Msgf("%s lists %d packages", r.site, len(packages))
	h := &hashing{into: into, alg: alg, mergedUsr: r.options.MergedUsr}
	err = repo.Each(ctx, r.options.Workers, packages, func(ctx context.Context, p listed) error {
		if err := r.read(ctx, p, h); err != nil {
			return fmt.Errorf("package %s: %w", r.site.Where(p.file), err)
		}
		return nil
	})
	h.report(r.options.Log)
	return err
}

func (r *Repository) read(ctx context.Context, p listed, h *hashing) error {
	f, err := r.site.Open(ctx, p.file)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.read(ctx, p.sum.Reader(f))
}

// list reads the indices.
func (r *Repository) list(ctx context.Context) ([]listed, error) {
	o := &r.options
	dir, flat := strings.Trim(o.Suite, "/"), o.Suite == "" || strings.HasSuffix(o.Suite, "/")
	if !flat {
		dir = path.Join("dists", o.Suite)
	}
	if dir == "" {
		dir = "."
	}
	if o.Keyring == nil {
		o.Log.Warn().Msgf("No keyring given: the signature of %s is not verified", r.site)
	}
	var packages []listed
	parse := func(index io.Reader) (err error) {
		packages, err = parsePackages(index, packages)
		return err
	}
	rel, err := readRelease(ctx, r.site, dir, o.Keyring)
	switch {
	case errors.Is(err, errNoRelease) && flat && o.Keyring == nil && r.site.FS() != nil:
		o.Log.Warn().Msgf("%s has no Release: nothing vouches for its index", r.site)
		err = r.loneIndex(ctx, dir, parse)
	case err == nil && flat:
		r.checkAge(rel)
		err = rel.index(ctx, r.site, "Packages", parse)
	case err == nil:
		r.checkAge(rel)
		for _, name := range rel.indices(o.Components, o.Architectures) {
			if err = rel.index(ctx, r.site, name, parse); err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(packages, func(a, b listed) int { return strings.Compare(a.file, b.file) })
	return slices.CompactFunc(packages, func(a, b listed) bool {
		return a.file == b.file && string(a.sum.Sum) == string(b.sum.Sum)
	}), nil
}

// loneIndex reads the Packages of a directory without a Release, as dpkg-scanpackages makes one.
func (r *Repository) loneIndex(ctx context.Context, dir string, parse func(io.Reader) error) error {
	for _, ending := range endings {
		err := r.site.Index(ctx, path.Join(dir, "Packages"+ending), nil, parse)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s is no Debian repository: it has neither Release nor Packages; name its --deb-suite if it has directories below dists", r.site)
}

func (r *Repository) checkAge(rel *release) {
	if !rel.validUntil.IsZero() && r.options.Now.After(rel.validUntil) {
		r.options.Log.Warn().Msgf("%s was valid until %s: packages may have been replaced since", r.site, rel.validUntil.Format(time.DateOnly))
	}
}

// indices are the names of the indices of components and architectures.
func (rel *release) indices(components, architectures []string) (names []string) {
	if len(components) == 0 {
		components = rel.components
	}
	if len(architectures) == 0 {
		architectures = []string{thisArchitecture()}
	}
	if rel.allApart && !slices.Contains(architectures, "all") {
		architectures = append(slices.Clone(architectures), "all")
	}
	for _, c := range components {
		for _, a := range architectures {
			names = append(names, path.Join(c, "binary-"+a, "Packages"))
		}
	}
	return names
}

// thisArchitecture is Debian's name of the architecture that this program was built for.
func thisArchitecture() string {
	switch runtime.GOARCH {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return runtime.GOARCH
}

// parsePackages appends the packages that an index lists.
func parsePackages(index io.Reader, to []listed) ([]listed, error) {
	const maxParagraph = 1 << 20
	s := newStanzas(index, maxParagraph, "package", "filename", "size", "sha256")
	for {
		p, err := s.next()
		if err == io.EOF {
			return to, nil
		}
		if err != nil {
			return nil, err
		}
		if len(to) == maxPackages {
			return nil, fmt.Errorf("more than %d packages: refused", maxPackages)
		}
		sum, err := parseChecksum(p["sha256"], p["size"])
		if err != nil {
			return nil, fmt.Errorf("package %.80q before line %d: %w", p["package"], s.line, err)
		}
		file := path.Clean(p["filename"])
		if !fs.ValidPath(file) || file == "." {
			return nil, fmt.Errorf("package %.80q before line %d: %.200q is no name of a file in the repository", p["package"], s.line, p["filename"])
		}
		to = append(to, listed{file, sum})
	}
}
