// Package rpm reads repositories of RPM packages for the digests of the files that they install, which RPM states in the
// packages' headers: nothing is unpacked.
package rpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/archive"
	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

// Options say how to read a repository.
type Options struct {
	// Keyring holds the keys one of which must have signed the metadata. Nil leaves it to the key that lies beside them,
	// if they are signed.
	Keyring *repo.Keyring
	// Workers is how many packages are read at a time.
	Workers int
	Log     zerolog.Logger
}

// Repository is a repository as createrepo_c makes one.
type Repository struct {
	site    *repo.Site
	options Options
}

// NewRepository returns the repository in a directory or on a server.
func NewRepository(site *repo.Site, o Options) *Repository { return &Repository{site, o} }

func (r *Repository) String() string { return r.site.String() }

const (
	repomdFile   = "repodata/repomd.xml"
	maxRepomd    = 4 << 20
	maxSignature = 1 << 20
	maxPackage   = 64 << 30
)

// Collect adds the files of every package with the digests that RPM states, whatever alg is. It closes the site.
//
// Packages in a directory are all read; on a server the extended list of files is read instead if there is one. What is
// listed is held to the checksums of the metadata, up to one exception: where the metadata are not signed and vouch for
// nothing, only the headers of packages are transferred from a server.
func (r *Repository) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	defer r.site.Close()
	text, signed, err := r.repomd(ctx)
	if err != nil {
		return err
	}
	indices, err := parseRepomd(text, "primary", "filelists-ext")
	if err != nil {
		return fmt.Errorf("index %s: %w", r.site.Where(repomdFile), err)
	}
	reading := &reading{site: r.site, into: into, alg: alg}
	defer reading.report(r.options.Log)
	if r.site.FS() != nil {
		return r.local(ctx, indices, signed, reading)
	}
	if lists, ok := indices["filelists-ext"]; ok {
		return r.site.Index(ctx, lists.file, &lists.sum, func(x io.Reader) error { return parseFileLists(x, into) })
	}
	r.options.Log.Warn().Msg("filelist-ext.xml not present in the repo")
	packages, err := r.primary(ctx, indices)
	if err != nil {
		return err
	}
	return r.each(ctx, packages, func(ctx context.Context, p listed) error {
		if signed {
			return reading.whole(ctx, p)
		}
		return reading.header(ctx, p.file, p.headerEnd)
	})
}

// repomd reads the list of the metadata and verifies its signature.
func (r *Repository) repomd(ctx context.Context) (text []byte, signed bool, err error) {
	text, err = r.site.Read(ctx, repomdFile, maxRepomd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("%s is no RPM repository, createrepo_c makes one of a directory: %w", r.site, err)
	}
	if err != nil {
		return nil, false, err
	}
	signature, signed, err := r.site.ReadIfThere(ctx, repomdFile+".asc", maxSignature)
	if err != nil {
		return nil, false, err
	}
	keys := r.options.Keyring
	switch {
	case !signed && keys != nil:
		return nil, false, fmt.Errorf("%s is not signed, and a keyring was given", r.site)
	case !signed:
		r.options.Log.Warn().Msg("Unsigned repository. Continuing the RPM scanning")
		return text, false, nil
	case keys == nil:
		if keys, err = r.ownKey(ctx); err != nil {
			return nil, false, err
		}
	}
	if err := keys.VerifyDetached(text, signature); err != nil {
		return nil, false, fmt.Errorf("untrusted repository: signature of %s: %w", r.site.Where(repomdFile), err)
	}
	return text, true, nil
}

// ownKey reads the key beside the metadata. It shows that they were not damaged; whoever made them made it, too.
func (r *Repository) ownKey(ctx context.Context) (*repo.Keyring, error) {
	const name = repomdFile + ".key"
	data, found, err := r.site.ReadIfThere(ctx, name, maxSignature)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("the metadata are signed and the key %s is missing: give --repo-keyring", r.site.Where(name))
	}
	r.options.Log.Debug().Msgf("The key of %s is its own: --repo-keyring names one to trust", r.site)
	keys, err := repo.ParseKeyring(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.site.Where(name), err)
	}
	return keys, nil
}

// primary reads the index of packages.
func (r *Repository) primary(ctx context.Context, indices map[string]index) (packages []listed, err error) {
	primary, ok := indices["primary"]
	if !ok {
		return nil, fmt.Errorf("index %s: it lists no primary metadata", r.site.Where(repomdFile))
	}
	err = r.site.Index(ctx, primary.file, &primary.sum, func(x io.Reader) (err error) {
		packages, err = parsePrimary(x)
		return err
	})
	return packages, err
}

// local reads every package in the directory: those that the metadata list as they are listed, and the others only where
// no signature says what belongs to the repository.
func (r *Repository) local(ctx context.Context, indices map[string]index, signed bool, reading *reading) error {
	var packages []listed
	if _, ok := indices["primary"]; ok || signed {
		var err error
		if packages, err = r.primary(ctx, indices); err != nil {
			return err
		}
	}
	known := map[string]listed{}
	for _, p := range packages {
		known[p.file] = p
	}
	there, err := packagesIn(r.site.FS())
	if err != nil {
		return err
	}
	unlisted, missing := 0, len(packages)
	packages = packages[:0]
	for _, name := range there {
		p, ok := known[name]
		if !ok {
			unlisted++
			if signed {
				continue
			}
			p.file = name
		} else {
			missing--
		}
		packages = append(packages, p)
	}
	if unlisted > 0 {
		done := "read nevertheless, as nothing is signed"
		if signed {
			done = "left out"
		}
		r.options.Log.Warn().Msgf("%d packages in %s are not in its metadata: %s; createrepo_c --update lists them", unlisted, r.site, done)
	}
	if missing > 0 {
		r.options.Log.Warn().Msgf("%d packages that the metadata of %s list are not there: their files are not in the policy", missing, r.site)
	}
	return r.each(ctx, packages, func(ctx context.Context, p listed) error {
		if p.sum.Sum == nil {
			return reading.header(ctx, p.file, 0)
		}
		return reading.whole(ctx, p)
	})
}

func packagesIn(dir fs.FS) (names []string, err error) {
	err = fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(name, ".rpm") {
			names = append(names, name)
		}
		return err
	})
	slices.Sort(names)
	return names, err
}

func (r *Repository) each(ctx context.Context, packages []listed, read func(context.Context, listed) error) error {
	return repo.Each(ctx, r.options.Workers, packages, func(ctx context.Context, p listed) error {
		if err := read(ctx, p); err != nil {
			return fmt.Errorf("package %s: %w", r.site.Where(p.file), err)
		}
		return nil
	})
}

// reading adds the files of packages to a collection.
type reading struct {
	site *repo.Site
	into *collect.Files
	alg  collect.Algorithm

	otherSize atomic.Int64 // files whose digest is not as long as those of alg
}

// header reads a package as far as the header goes, of whose end a hint may be known.
func (r *reading) header(ctx context.Context, name string, end int64) error {
	f, err := r.site.OpenFirst(ctx, name, end)
	if err != nil {
		return err
	}
	defer f.Close()
	files, err := readFiles(&counting{f, r.into})
	if err != nil {
		return err
	}
	r.add(files)
	return nil
}

// whole reads all of a package, which must be the one that was listed.
func (r *reading) whole(ctx context.Context, p listed) error {
	f, err := r.site.Open(ctx, p.file)
	if err != nil {
		return err
	}
	defer f.Close()
	r.into.Expect(p.sum.Size)
	verified := p.sum.Reader(archive.AtMost(&counting{f, r.into}, maxPackage, "the package"))
	files, err := readFiles(verified)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{verified}, make([]byte, 128<<10)); err != nil {
		return err
	}
	r.add(files)
	return nil
}

func (r *reading) add(files []file) {
	for _, f := range files {
		if len(f.digest) != r.alg.Size() {
			r.otherSize.Add(1)
		}
		r.into.Add(f.path, f.digest)
	}
}

func (r *reading) report(log zerolog.Logger) {
	if n := r.otherSize.Load(); n > 0 {
		log.Warn().Msgf("%d files of packages have digests of another algorithm than %s: kernels that measure with it never match them", n, r.alg)
	}
}

// counting tells the collection how far the reading is.
type counting struct {
	io.Reader
	into *collect.Files
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.into.Done(int64(n))
	return n, err
}
