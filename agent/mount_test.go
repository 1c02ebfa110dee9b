package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMountinfoIsParsed(t *testing.T) {
	t.Parallel()
	const info = `22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
40 27 0:40 / /var/lib/with\040space\134and\011tab/secure rw - tmpfs tmpfs rw,size=1024k
41 27 0:41 / /var/lib/keylime/secure rw,relatime shared:1 - tmpfs tmpfs rw
42 27 0:42 / /var/lib/keylime/secure rw,relatime - fuse.tmpfs evil rw
43 27 0:43 /sub /bind rw - tmpfs - rw
`
	for path, want := range map[string]mount{
		"/mnt2":                                {"/mnt1", "/mnt2", "ext3"},
		"/var/lib/with space\\and\ttab/secure": {"/", "/var/lib/with space\\and\ttab/secure", "tmpfs"},
		"/var/lib/keylime/secure":              {"/", "/var/lib/keylime/secure", "fuse.tmpfs"}, // the topmost
		"/bind":                                {"/sub", "/bind", "tmpfs"},
	} {
		got, found, err := findMount(strings.NewReader(info), path)
		if err != nil || !found || got != want {
			t.Errorf("%s: got %v, %v, %v; want %v", path, got, found, err, want)
		}
	}
	for _, path := range []string{"/var/lib/keylime", "/var/lib/keylime/secure/x", "/var/lib/keylime/secur"} {
		if m, found, err := findMount(strings.NewReader(info), path); found || err != nil {
			t.Errorf("%s: found %v, %v", path, m, err)
		}
	}
	for _, line := range []string{"22 27 0:21 /", "1 2 3 4 5 6 7 8 9 10", `1 2 0:1 / /a\04 rw - tmpfs t rw`, `1 2 0:1 / /a\999 rw - tmpfs t rw`, "1 2 0:1 / /a rw - tmpfs"} {
		if _, _, err := findMount(strings.NewReader(line), "/x"); err == nil {
			t.Errorf("line %q accepted", line)
		}
	}
}

// FuzzParseMount: no line makes the parser panic, and what it decodes has no escapes left to decode twice.
func FuzzParseMount(f *testing.F) {
	f.Add(`40 27 0:40 / /with\040space rw shared:1 - tmpfs tmpfs rw`)
	f.Add(`1 2 0:1 / /a\0 rw - x y z`)
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parseMount(line)
		if err == nil && (m.fsType == "" || m.target == "") {
			t.Errorf("%q gave %v", line, m)
		}
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// mountAt mounts for the duration of a test.
func mountAt(t *testing.T, source, target, fsType string, flags uintptr, data string) {
	t.Helper()
	if err := os.MkdirAll(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(source, target, fsType, flags, data); err != nil {
		t.Skipf("mount %s at %s: %v", fsType, target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
}

func TestSecureDirIsMountedOnceAndUnmountedByItsMaker(t *testing.T) {
	needRoot(t)
	t.Parallel()
	path := filepath.Join(t.TempDir(), "with space", "secure")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := openSecureDir(path, "1m", currentIdentity())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(path, "big"), make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("secure_size does not bound it: %v", err)
	}
	second, err := openSecureDir(path, "1m", currentIdentity())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, "big")); err != nil {
		t.Errorf("the one that found the mount unmounted it: %v", err)
	}
	if err := first.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, "big")); !os.IsNotExist(err) {
		t.Errorf("still mounted: %v", err)
	}
}

// NT-70, NT-71
func TestSecureDirRefusesForeignMounts(t *testing.T) {
	needRoot(t)
	t.Parallel()
	cases := map[string]struct {
		prepare func(t *testing.T, path string)
		want    string
	}{
		"another file system": {func(t *testing.T, path string) { mountAt(t, "proc", path, "proc", 0, "") },
			"already mounted on wrong file system type: proc"},
		"bind mount of a disk": {func(t *testing.T, path string) { mountAt(t, t.TempDir(), path, "", syscall.MS_BIND, "") },
			"wrong file system type"},
		"part of another tmpfs": {func(t *testing.T, path string) {
			other := t.TempDir()
			mountAt(t, "tmpfs", other, "tmpfs", 0, "size=64k")
			part := filepath.Join(other, "part")
			if err := os.Mkdir(part, 0o700); err != nil {
				t.Fatal(err)
			}
			mountAt(t, part, path, "", syscall.MS_BIND, "")
		}, "directory /part of another tmpfs"},
		"open to others": {func(t *testing.T, path string) { mountAt(t, "tmpfs", path, "tmpfs", 0, "size=64k,mode=0755") },
			"mount it with mode=0700"},
		"another user's": {func(t *testing.T, path string) {
			mountAt(t, "tmpfs", path, "tmpfs", 0, "size=64k,mode=0700,uid=12345")
		}, "belongs to user 12345"},
		"a link": {func(t *testing.T, path string) {
			if err := os.Symlink(t.TempDir(), path); err != nil {
				t.Fatal(err)
			}
		}, "no directory"},
		"a file": {func(t *testing.T, path string) { writeFile(t, path, "", 0o600) }, "no directory"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "secure")
			c.prepare(t, path)
			dir, err := openSecureDir(path, "1m", currentIdentity())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "Secure mount error: ") {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if dir.mounted {
				t.Error("mounted over it")
			}
		})
	}
}
