package deb

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

// Archives are packages that somebody chose: a file, or every *.deb in a directory and those below.
type Archives struct {
	path    string
	options Options
}

// NewArchives returns the packages at a path. Of the options those of repositories do not matter.
func NewArchives(path string, o Options) *Archives { return &Archives{path, o} }

func (a *Archives) String() string { return a.path }

// Collect adds the files of the packages.
func (a *Archives) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	info, err := os.Stat(a.path)
	if err != nil {
		return err
	}
	dir, names := filepath.Dir(a.path), []string{filepath.Base(a.path)}
	if info.IsDir() {
		dir = a.path
		if names, err = archivesIn(dir); err != nil {
			return err
		}
	}
	site, err := repo.Local(dir)
	if err != nil {
		return err
	}
	defer site.Close()
	h := &hashing{into: into, alg: alg, mergedUsr: a.options.MergedUsr}
	err = repo.Each(ctx, a.options.Workers, names, func(ctx context.Context, name string) error {
		f, err := site.Open(ctx, name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := h.read(ctx, f); err != nil {
			return fmt.Errorf("package %s: %w", site.Where(name), err)
		}
		return nil
	})
	h.report(a.options.Log)
	return err
}

func archivesIn(dir string) (names []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(name, ".deb") {
			names = append(names, name)
		}
		return err
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("there is no *.deb in %s", dir)
	}
	return names, err
}

// report says what a reader of the policy should know.
func (h *hashing) report(log zerolog.Logger) {
	if n := h.aliased.Load(); n > 0 && !h.mergedUsr {
		log.Warn().Msgf("%d files are in /bin, /lib and the like: for machines where those are links into /usr, as of Debian 12, add --merged-usr", n)
	}
	if n := h.dangling.Load(); n > 0 {
		log.Warn().Msgf("%d hard links lead to files that their package does not hold: left out", n)
	}
}
