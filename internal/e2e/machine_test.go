package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
)

// measureBoot starts the machine's measurement list: boot_aggregate and a few files.
func measureBoot(t *testing.T, w *world) {
	t.Helper()
	list, err := w.tpm.InitList(context.Background(), w.imaLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Close() })
	w.list = list
	for i := range 20 {
		path := fmt.Sprintf("/usr/lib/good/file%02d.so", i)
		measure(t, w, path, path)
	}
}

// measure records a file with the SHA-256 of its content.
func measure(t *testing.T, w *world, path, content string) {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	if err := w.list.Measure(context.Background(), path, sum[:]); err != nil {
		t.Fatal(err)
	}
}
