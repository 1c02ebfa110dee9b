package agent

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// errNotZip marks a payload that is not an archive; it is then delivered as it is.
var errNotZip = errors.New("not a zip archive")

// openArchive reads a payload's directory and refuses the archive as a whole when any entry could leave the target
// directory, is no plain file or directory, or when the whole is larger than a payload may be. Nothing has been
// written then.
func openArchive(payload []byte) (*zip.Reader, error) {
	archive, err := zip.NewReader(bytes.NewReader(payload), int64(len(payload)))
	if errors.Is(err, zip.ErrFormat) {
		return nil, errNotZip
	}
	if err != nil {
		return nil, fmt.Errorf("read the payload's zip directory: %w", err)
	}
	if len(archive.File) > maxZipEntries {
		return nil, fmt.Errorf("payload has %d entries, more than the %d allowed", len(archive.File), maxZipEntries)
	}
	seen := make(map[string]bool, len(archive.File))
	var total uint64
	for _, f := range archive.File {
		if err := checkEntry(f); err != nil {
			return nil, fmt.Errorf("payload entry %q: %w", f.Name, err)
		}
		name := path.Clean(f.Name)
		if seen[name] {
			return nil, fmt.Errorf("payload entry %q: the name occurs twice", f.Name)
		}
		seen[name] = true
		if f.UncompressedSize64 > maxUnpacked-total {
			return nil, fmt.Errorf("payload unpacks to more than %d bytes", maxUnpacked)
		}
		total += f.UncompressedSize64
	}
	if total > minRatioSize && total/uint64(len(payload)) > maxRatio {
		return nil, fmt.Errorf("payload of %d bytes unpacks to %d, more than %d times its size", len(payload), total, maxRatio)
	}
	return archive, nil
}

func checkEntry(f *zip.File) error {
	name, mode := f.Name, f.Mode()
	switch {
	case mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0:
		return errors.New("setuid, setgid and sticky bits are not allowed")
	case !mode.IsDir() && !mode.IsRegular():
		return fmt.Errorf("only files and directories are allowed, not %v", mode.Type())
	case !filepath.IsLocal(filepath.FromSlash(name)):
		return errors.New("the name leads out of the payload's directory")
	}
	for _, c := range []byte(name) {
		if c < 0x20 || c == 0x7f || c == '\\' {
			return errors.New("control characters and backslashes are not allowed in names")
		}
	}
	return nil
}

// unpack writes the archive's files below dir, which os.Root confines: no name and no link leads out of it. Files are
// made anew with mode 0600, or 0700 where the archive has the owner's execute bit. Declared sizes are not believed.
func unpack(archive *zip.Reader, dir *os.Root) error {
	left := int64(maxUnpacked)
	for _, f := range archive.File {
		n, err := unpackEntry(f, dir, left)
		if err != nil {
			return fmt.Errorf("unpack payload entry %q: %w", f.Name, err)
		}
		left -= n
	}
	return nil
}

func unpackEntry(f *zip.File, dir *os.Root, left int64) (int64, error) {
	name := path.Clean(f.Name)
	if f.Mode().IsDir() {
		return 0, dir.MkdirAll(name, 0o700)
	}
	if parent := path.Dir(name); parent != "." {
		if err := dir.MkdirAll(parent, 0o700); err != nil {
			return 0, err
		}
	}
	in, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600|f.Mode().Perm()&0o100)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, io.LimitReader(in, left+1))
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil && n > left {
		err = fmt.Errorf("the payload unpacks to more than %d bytes", maxUnpacked)
	}
	return n, err
}
