package rpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// file is a file of a package and its digest.
type file struct {
	path   string
	digest []byte
}

// digestSizes are the lengths in bytes of the hash algorithms that RPM names by OpenPGP's numbers (RFC 9580, section 9.5).
var digestSizes = map[uint32]int{1: 16, 2: 20, 8: 32, 9: 48, 10: 64, 11: 28}

const (
	md5Algorithm = 1    // of packages that name none
	maxPath      = 4096 // PATH_MAX
	fileType     = 0o170000
	regularFile  = 0o100000
)

// readFiles reads a package up to its payload and returns the regular files that it installs. Directories, links and files
// that are made after the installation have no digest. A source package installs nothing.
func readFiles(r io.Reader) ([]file, error) {
	h, err := readPackageHeader(r)
	if err != nil {
		return nil, err
	}
	if h.has(tagSourcePackage) {
		return nil, nil
	}
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	digests, err := h.texts(tagFileDigests)
	if err != nil {
		return nil, err
	}
	modes, err := h.numbers(tagFileModes)
	if err != nil {
		return nil, err
	}
	algorithm, err := h.numbers(tagFileDigestAlgo)
	if err != nil {
		return nil, err
	}
	if len(algorithm) == 0 {
		algorithm = []uint32{md5Algorithm}
	}
	size := digestSizes[algorithm[0]]
	if size == 0 {
		return nil, fmt.Errorf("digests of an unknown algorithm, %d", algorithm[0])
	}
	if len(digests) != len(names) || len(modes) != len(names) {
		return nil, fmt.Errorf("%d files have %d digests and %d modes", len(names), len(digests), len(modes))
	}
	var files []file
	for i, name := range names {
		if modes[i]&fileType != regularFile || !path.IsAbs(name) {
			continue
		}
		digest, err := parseDigest(digests[i])
		if err != nil || digest != nil && len(digest) != size {
			return nil, fmt.Errorf("file %.200q has the digest %.140q", name, digests[i])
		}
		if digest != nil {
			files = append(files, file{path.Clean(name), digest})
		}
	}
	return files, nil
}

// parseDigest reads a digest; nil is for none, which may also be written as zeros.
func parseDigest(digits string) ([]byte, error) {
	if strings.Trim(digits, "0") == "" {
		return nil, nil
	}
	return hex.DecodeString(digits)
}

// names are the names of all files, which packages of today store in two parts.
func (h *header) names() ([]string, error) {
	if !h.has(tagBaseNames) {
		return h.texts(tagOldFileNames)
	}
	names, err := h.texts(tagBaseNames)
	if err != nil {
		return nil, err
	}
	dirs, err := h.texts(tagDirNames)
	if err != nil {
		return nil, err
	}
	of, err := h.numbers(tagDirIndexes)
	if err != nil {
		return nil, err
	}
	if len(of) != len(names) {
		return nil, errors.New("the files' names and their directories differ in number")
	}
	for i, dir := range of {
		if uint64(dir) >= uint64(len(dirs)) {
			return nil, fmt.Errorf("file %.200q is in directory %d of %d", names[i], dir, len(dirs))
		}
		if len(dirs[dir])+len(names[i]) > maxPath {
			return nil, fmt.Errorf("file %.200q has a longer path than %d bytes", names[i], maxPath)
		}
		names[i] = dirs[dir] + names[i]
	}
	return names, nil
}
