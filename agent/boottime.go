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

// boot is one boot of this machine.
type boot struct {
	id   string
	time time.Time // in whole seconds; the same whenever it is asked for
}

const maxProcFile = 1 << 20

// read returns this boot.
func (b bootClock) read() (boot, error) {
	text, err := os.ReadFile(b.bootID)
	if err != nil {
		return boot{}, fmt.Errorf("read the boot's id: %w", err)
	}
	id := string(bytes.TrimSpace(text))
	kept, err := readBounded(b.keep, maxIdentityFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return boot{}, fmt.Errorf("read the time of the boot: %w", err)
	}
	if of, at, ok := strings.Cut(strings.TrimSpace(string(kept)), " "); ok && of == id {
		if seconds, err := strconv.ParseInt(at, 10, 64); err == nil {
			return boot{id, time.Unix(seconds, 0).UTC()}, nil
		}
	}
	seconds, err := b.kernel()
	if err != nil {
		return boot{}, fmt.Errorf("read the time of the boot: %w", err)
	}
	return boot{id, time.Unix(seconds, 0).UTC()}, writePrivate(b.keep, fmt.Appendf(nil, "%s %d\n", id, seconds))
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
