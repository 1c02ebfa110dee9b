package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCallMemoryOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), callMemoryFile)
	open := func(boot string) *callMemory {
		t.Helper()
		m, err := readCallMemory(file, boot)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open("boot 1")
	for _, err := range []error{m.unpacked("https://a", 3), m.took("https://a", 7), m.took("https://b", 1), m.took("https://a", 9)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if m = open("boot 1"); m.Payloads["https://a"] != 3 || m.Notices["https://a"] != 9 || m.Notices["https://b"] != 1 {
		t.Errorf("in the same boot: %+v", m)
	}
	// The secure directory is gone with its boot; what was carried out stays so.
	if m = open("boot 2"); m.Payloads["https://a"] != 0 || m.Notices["https://a"] != 9 {
		t.Errorf("in the next boot: %+v", m)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file has mode %v, %v", info.Mode(), err)
	}
	writeFile(t, file, "{damaged", 0o600)
	if _, err := readCallMemory(file, "boot 2"); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("damaged file: %v", err)
	}
}

// The kernel's answer changes with the clock; the agent's does not until the next boot.
func TestBootTimeIsTheSameInAllOfABoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := bootClock{
		stat: filepath.Join(dir, "stat"), bootID: filepath.Join(dir, "boot_id"), keep: filepath.Join(dir, bootTimeFile),
	}
	read := func(id, stat string) (boot, error) {
		writeFile(t, clock.bootID, id+"\n", 0o600)
		writeFile(t, clock.stat, stat, 0o600)
		return clock.read()
	}
	first, err := read("one", "cpu 1 2\nbtime 1000\nprocesses 7\n")
	if err != nil || first.id != "one" || first.time != time.Unix(1000, 0).UTC() {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := read("one", "btime 1001\n"); err != nil || again != first {
		t.Errorf("the clock was set: %+v, %v", again, err)
	}
	if next, err := read("two", "btime 2000\n"); err != nil || next.time.Unix() != 2000 {
		t.Errorf("next boot: %+v, %v", next, err)
	}
	writeFile(t, clock.keep, "two what", 0o600)
	if mended, err := read("two", "btime 2000\n"); err != nil || mended.time.Unix() != 2000 {
		t.Errorf("file that makes no sense: %+v, %v", mended, err)
	}
	if _, err := read("three", "cpu 1 2\n"); err == nil {
		t.Error("no time of the boot, and no error")
	}
}
