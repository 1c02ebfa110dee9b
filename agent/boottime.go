package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// bootClock says when this machine booted. The kernel computes that from the clock of the moment, so the answer changes
// when the clock is set; the first one of each boot is kept, for the verifier takes another for another boot.
type bootClock struct {
	stat   string // /proc/stat
	bootID string // /proc/sys/kernel/random/boot_id
	keep   string // file for the boot's id and its time
}

const maxProcFile = 1 << 20

// read returns the time of the boot, in whole seconds.
func (b bootClock) read() (time.Time, error) {
	id, err := os.ReadFile(b.bootID)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the boot's id: %w", err)
	}
	id = bytes.TrimSpace(id)
	kept, err := readBounded(b.keep, maxIdentityFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, fmt.Errorf("read the time of the boot: %w", err)
	}
	if of, at, ok := strings.Cut(strings.TrimSpace(string(kept)), " "); ok && of == string(id) {
		if seconds, err := strconv.ParseInt(at, 10, 64); err == nil {
			return time.Unix(seconds, 0).UTC(), nil
		}
	}
	seconds, err := b.kernel()
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of the boot: %w", err)
	}
	if err := writePrivate(b.keep, fmt.Appendf(nil, "%s %d\n", id, seconds)); err != nil {
		return time.Time{}, err
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// kernel reads btime of /proc/stat (proc(5)).
func (b bootClock) kernel() (int64, error) {
	text, err := os.ReadFile(b.stat)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text[:min(len(text), maxProcFile)])) {
		if at, ok := strings.CutPrefix(line, "btime "); ok {
			return strconv.ParseInt(strings.TrimSpace(at), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no btime", b.stat)
}
