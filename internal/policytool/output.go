package policytool

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// stdoutNames are the outputs that stand for the standard output, which is written to as it is: opening /dev/stdout
// would truncate the file that it may have been redirected to.
var stdoutNames = map[string]bool{"": true, "-": true, "/dev/stdout": true}

// Modes of the files that are written.
const (
	publicMode fs.FileMode = 0o644
	secretMode fs.FileMode = 0o600
)

// writeOutput calls write with the named output. A file has its new content in full, or what it had before.
func writeOutput(name string, stdout io.Writer, write func(io.Writer) error) error {
	if stdoutNames[name] {
		if err := write(stdout); err != nil {
			return fmt.Errorf("write to standard output: %w", err)
		}
		return nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() { // a pipe or device
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return finish(f, write)
	}
	return replaceFile(name, publicMode, write)
}

// replaceFile puts a file in place that nobody sees before it is complete.
func replaceFile(name string, mode fs.FileMode, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = finish(f, write)
	if err == nil {
		err = os.Chmod(f.Name(), mode)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func finish(f *os.File, write func(io.Writer) error) error {
	err := write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
