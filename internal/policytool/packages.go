package policytool

import (
	"fmt"
	"os"
	"strings"
	"time"

	"keylime/internal/policytool/deb"
	"keylime/internal/policytool/oci"
	"keylime/internal/policytool/repo"
	"keylime/internal/policytool/rpm"
)

// packageSettings are the flags that say how to read packages and images.
type packageSettings struct {
	keyring string
	deb     deb.Options
	oci     oci.Options
}

// packageKinds are the kinds of sources that hold packages or images.
func packageKinds() []sourceKind {
	return []sourceKind{
		{"local-rpm-repo", "DIR", "take the digests in the RPM packages of the repository in `DIR`", openRPM(repo.Local)},
		{"remote-rpm-repo", "URL", "take the digests in the RPM packages of the repository at `URL`", openRPM(repo.Remote)},
		{"deb", "PATH", "hash the files in the Debian package `PATH`, or in each *.deb below the directory PATH",
			func(path string, o openOptions) (Source, error) {
				options, err := o.debOptions()
				return deb.NewArchives(path, options), err
			}},
		{"local-deb-repo", "DIR", "hash the files in the Debian packages of the repository in `DIR`", openDeb(repo.Local)},
		{"remote-deb-repo", "URL", "hash the files in the Debian packages of the repository at `URL`", openDeb(repo.Remote)},
		{"oci-layout", "PATH", "hash the files in the container images of the OCI image layout `PATH`, a directory or tar archive",
			func(path string, o openOptions) (Source, error) { return oci.NewLayout(path, o.ociOptions()) }},
		{"oci-layer", "FILE", "hash the files in `FILE`, one layer of a container image",
			func(path string, o openOptions) (Source, error) { return oci.NewLayer(path, o.ociOptions()), nil }},
	}
}

// packageOptions are the flags that say how packages and images are read; each holds for all sources.
func packageOptions(p *packageSettings) []option {
	return []option{
		{"repo-keyring", "", "FILE", "", "read repositories only if a key in `FILE` signed them: OpenPGP keys, or ECDSA keys in PEM", text(&p.keyring)},
		{"deb-suite", "", "NAME", "", "read the suite `NAME` of Debian repositories, e.g. bookworm; without it they are flat", text(&p.deb.Suite)},
		{"deb-component", "", "NAMES", "", "read the components `NAMES`, separated by commas, not all", commas(&p.deb.Components)},
		{"deb-arch", "", "NAMES", "", "read packages for the architectures `NAMES`, separated by commas, not for this machine's", commas(&p.deb.Architectures)},
		{"merged-usr", "", "", "", "the machines' /bin, /sbin and /lib are links into /usr, as of Debian 12", on(&p.deb.MergedUsr)},
		{"oci-image", "", "NAME", "", "read the image `NAME` of image layouts, not all", text(&p.oci.Image)},
		{"oci-platform", "", "PLATFORM", "", "read images for `PLATFORM`, e.g. linux/arm64", text(&p.oci.Platform)},
	}
}

// commas adds the parts of a value.
func commas(to *[]string) func(string) error {
	return func(v string) error {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*to = append(*to, part)
			}
		}
		return nil
	}
}

// openRPM opens an RPM repository on a kind of site.
func openRPM(site func(string) (*repo.Site, error)) func(string, openOptions) (Source, error) {
	return func(where string, o openOptions) (Source, error) {
		keys, err := o.keyring()
		if err != nil {
			return nil, err
		}
		s, err := site(where)
		if err != nil {
			return nil, err
		}
		return rpm.NewRepository(s, rpm.Options{Keyring: keys, Workers: o.workers, Log: o.log}), nil
	}
}

// openDeb opens a Debian repository on a kind of site.
func openDeb(site func(string) (*repo.Site, error)) func(string, openOptions) (Source, error) {
	return func(where string, o openOptions) (Source, error) {
		options, err := o.debOptions()
		if err != nil {
			return nil, err
		}
		s, err := site(where)
		if err != nil {
			return nil, err
		}
		return deb.NewRepository(s, options), nil
	}
}

func (o openOptions) debOptions() (deb.Options, error) {
	keys, err := o.keyring()
	options := o.packages.deb
	options.Keyring, options.Workers, options.Log, options.Now = keys, o.workers, o.log, time.Now()
	return options, err
}

func (o openOptions) ociOptions() oci.Options {
	options := o.packages.oci
	options.Workers, options.Log = o.workers, o.log
	return options
}

// keyring reads the keys that repositories must be signed with; nil when no keyring is named.
func (o openOptions) keyring() (*repo.Keyring, error) {
	if o.packages.keyring == "" {
		return nil, nil
	}
	data, err := os.ReadFile(o.packages.keyring)
	if err != nil {
		return nil, fmt.Errorf("--repo-keyring: %w", err)
	}
	keys, err := repo.ParseKeyring(data)
	if err != nil {
		return nil, fmt.Errorf("--repo-keyring %s: %w", o.packages.keyring, err)
	}
	return keys, nil
}
