package policytool

import (
	"fmt"
	"strconv"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// sourceSettings are the flags that name sources, and those that say how to read them.
type sourceSettings struct {
	named   []namedSource // in the order of the command line
	skip    []string
	workers int

	packages packageSettings
}

// namedSource is one use of a flag of a source.
type namedSource struct {
	kind  sourceKind
	value string
}

// sourceKind is a kind of source: the flag that names one, and how it is opened.
type sourceKind struct {
	flag  string
	value string // what the value is, for the help
	help  string
	open  func(value string, o openOptions) (Source, error)
}

// openOptions are what the opening of a source may need.
type openOptions struct {
	skip    []string // directories to leave out, as given
	workers int      // for what is read from elsewhere: packages, repositories
	watched bool     // somebody sees the progress
	log     zerolog.Logger

	packages *packageSettings
}

// sourceKinds are all kinds of sources.
func sourceKinds() []sourceKind {
	return append([]sourceKind{
		{"ramdisk-dir", "DIR", "hash the files in the initial RAM disks (initr*) in `DIR`, e.g. /boot",
			func(dir string, o openOptions) (Source, error) { return &initrds{dir, o.log}, nil }},
		{"rootfs", "DIR", "hash the files of the root file system in `DIR`, e.g. /, that belong to root",
			func(dir string, o openOptions) (Source, error) {
				t, err := newTree(dir, o.skip, o.log)
				if err == nil {
					t.measure = o.watched
				}
				return t, err
			}},
	}, packageKinds()...)
}

func (s *sourceSettings) empty() bool { return len(s.named) == 0 }

// open prepares the sources.
func (s *sourceSettings) open(watched bool, log zerolog.Logger) ([]Source, error) {
	var list []Source
	for _, n := range s.named {
		source, err := n.kind.open(n.value, openOptions{s.skip, s.workers, watched, log, &s.packages})
		if err != nil {
			return nil, fmt.Errorf("--%s %s: %w", n.kind.flag, n.value, err)
		}
		list = append(list, source)
	}
	return list, nil
}

// defaultWorkers is how many packages are read at a time.
const defaultWorkers = 8

func (s *sourceSettings) setWorkers(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		return fmt.Errorf("'%s' is not a positive integer", value)
	}
	s.workers = n
	return nil
}

func setAlgorithm(to *collect.Algorithm) func(string) error {
	return func(name string) (err error) {
		*to, err = collect.ParseAlgorithm(name)
		return err
	}
}
