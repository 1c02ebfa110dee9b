package bolt

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestFileIsPrivate(t *testing.T) { // NT-72
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	var log bytes.Buffer
	mustClose(t, mustOpen(t, path, Options{Log: zerolog.New(&log)}))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v (%v), want 0600", info.Mode().Perm(), err)
	}
	if log.Len() > 0 {
		t.Errorf("a private file is reported: %s", &log)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, path, Options{Log: zerolog.New(&log)}))
	if !strings.Contains(log.String(), "0600") {
		t.Errorf("a file that others can read is not reported: %s", &log)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	db := mustOpen(t, path, Options{})
	defer mustClose(t, db)
	_, err := Open(path, Options{LockTimeout: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "keylime server") {
		t.Errorf("error is %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, path := range map[string]string{"directory": dir, "no directory": filepath.Join(dir, "missing", "keylime.db")} {
		if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
