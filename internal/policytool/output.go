package policytool

import (
	"fmt"
	"io"
	"os"
)

// stdoutNames are the outputs that stand for the standard output, which is written to as it is: opening /dev/stdout
// would truncate the file that it may have been redirected to.
var stdoutNames = map[string]bool{"": true, "-": true, "/dev/stdout": true}

// writeOutput calls write with the named output. A file has its new content in full, or what it had before.
func writeOutput(name string, stdout io.Writer, write func(io.Writer) error) error {
	if stdoutNames[name] {
		if err := write(stdout); err != nil {
			return fmt.Errorf("write to standard output: %w", err)
		}
		return nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return writeTo(name, os.O_WRONLY, write) // a pipe or device
	}
	part := name + ".part"
	if err := writeTo(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, write); err != nil {
		os.Remove(part)
		return err
	}
	if err := os.Rename(part, name); err != nil {
		os.Remove(part)
		return err
	}
	return nil
}

func writeTo(name string, flags int, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return err
	}
	err = write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
