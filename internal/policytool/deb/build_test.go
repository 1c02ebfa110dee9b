package deb

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylime/internal/policytool/collect"
)

// requireDpkg skips a test on a machine without dpkg-deb.
func requireDpkg(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err == nil {
		return
	}
	if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
		t.Fatal("dpkg-deb is not installed, and KEYLIME_REQUIRE_TOOLS is set")
	}
	t.Skip("dpkg-deb is not installed; scripts/setup.sh tools installs it")
}

func write(t testing.TB, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// build makes NAME.deb in dir with dpkg-deb and returns its path. The files are by path; one with the content "-> x" is a
// symbolic link, "=> x" a hard link.
func build(t testing.TB, dir, name, compression string, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), name)
	control := fmt.Sprintf("Package: %s\nVersion: 1.0\nArchitecture: amd64\nMaintainer: A <a@example.org>\nDescription: test\n", name)
	write(t, filepath.Join(root, "DEBIAN/control"), control, 0o644)
	var links []string
	for path, content := range files {
		full := filepath.Join(root, path)
		if strings.HasPrefix(content, "=> ") || strings.HasPrefix(content, "-> ") {
			links = append(links, path)
			continue
		}
		write(t, full, content, 0o755)
		if strings.HasPrefix(path, "/etc/") {
			conffiles, _ := os.ReadFile(filepath.Join(root, "DEBIAN/conffiles"))
			write(t, filepath.Join(root, "DEBIAN/conffiles"), string(conffiles)+path+"\n", 0o644)
		}
	}
	for _, path := range links {
		make, target := os.Symlink, files[path][3:]
		if strings.HasPrefix(files[path], "=> ") {
			make, target = os.Link, filepath.Join(root, target)
		}
		if err := make(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, name+"_1.0_amd64.deb")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "dpkg-deb", "--root-owner-group", "-Z"+compression, "--build", root, file)
	return file
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// unpacked lists what dpkg-deb unpacks of packages, as listing does.
func unpacked(t testing.TB, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range packages {
		run(t, "dpkg-deb", "-x", p, dir)
	}
	var lines []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		lines = append(lines, line(strings.ReplaceAll(name[len(dir):], " ", "_"), content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func line(path string, content []byte) string {
	sum := sha256.Sum256(content)
	return path + " " + hex.EncodeToString(sum[:])
}

func listing(f *collect.Files) string {
	var lines []string
	for path, digests := range f.Sorted() {
		for _, d := range digests {
			lines = append(lines, path+" "+hex.EncodeToString(d))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// entry is the paragraph of a package in an index.
func entry(t testing.TB, root, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name, err := filepath.Rel(root, file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("Package: %s\nVersion: 1.0\nArchitecture: amd64\nDescription: it\n continues\n .\nFilename: %s\nSize: %d\nMD5sum: 0\nSHA256: %x\n",
		strings.TrimSuffix(filepath.Base(file), "_1.0_amd64.deb"), name, len(content), sha256.Sum256(content))
}

// index writes an index below a suite's directory with gzip, xz or zstd, and returns its line in Release.
func index(t testing.TB, suite, name, tool string, paragraphs ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(tool, "-c")
	cmd.Stdin, cmd.Stdout = strings.NewReader(strings.Join(paragraphs, "\n")), &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	name += map[string]string{"gzip": ".gz", "xz": ".xz", "zstd": ".zst"}[tool]
	write(t, filepath.Join(suite, name), out.String(), 0o644)
	return fmt.Sprintf(" %x %16d %s\n", sha256.Sum256(out.Bytes()), out.Len(), name)
}
