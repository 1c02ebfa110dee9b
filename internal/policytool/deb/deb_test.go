package deb

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

// collector is a source of this package.
type collector interface {
	Collect(context.Context, *collect.Files, collect.Algorithm) error
}

func collected(t testing.TB, c collector) (string, error) {
	t.Helper()
	files := collect.NewFiles()
	err := c.Collect(context.Background(), files, collect.SHA256)
	return listing(files), err
}

func mustCollect(t testing.TB, c collector) string {
	t.Helper()
	got, err := collected(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

var options = Options{Workers: 2, Log: zerolog.Nop()}

// everything is a package with each kind of entry.
var everything = map[string]string{
	"/usr/bin/tool":           "tool",
	"/usr/bin/hard":           "=> /usr/bin/tool",
	"/usr/bin/sym":            "-> tool",
	"/usr/bin/out":            "-> ../../../../etc/shadow",
	"/etc/tool.conf":          "conf",
	"/usr/share/a file":       "spaces",
	"/usr/share/empty":        "",
	"/lib/modules/x.ko":       "module",
	"/usr/share/" + long(150): "long name",
	"/usr/share/ünïcode":      "unicode",
	"/opt/zeros":              string(make([]byte, 1<<20)),
}

func long(n int) string { return strings.Repeat("n", n) }

// TestPackagesAreHashedAsDpkgUnpacksThem: dpkg-deb makes packages and unpacks them, and the digests are those of what it
// unpacks.
func TestPackagesAreHashedAsDpkgUnpacksThem(t *testing.T) {
	t.Parallel()
	requireDpkg(t)
	for _, compression := range []string{"none", "gzip", "xz", "zstd"} {
		file := build(t, t.TempDir(), "every", compression, everything)
		got, want := mustCollect(t, NewArchives(file, options)), unpacked(t, file)
		if got != want || strings.Count(got, "\n") != 8 {
			t.Errorf("%s: got\n%s\nwant\n%s", compression, got, want)
		}
	}
}

func TestDirectoriesOfPackages(t *testing.T) {
	t.Parallel()
	requireDpkg(t)
	dir := t.TempDir()
	a := build(t, dir, "a", "xz", map[string]string{"/usr/bin/a": "a"})
	b := build(t, filepath.Join(dir, "sub"), "b", "gzip", map[string]string{"/usr/bin/b": "b"})
	write(t, filepath.Join(dir, "readme.txt"), "no package", 0o644)
	if got, want := mustCollect(t, NewArchives(dir, options)), unpacked(t, a, b); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := collected(t, NewArchives(t.TempDir(), options)); err == nil || !strings.Contains(err.Error(), "no *.deb") {
		t.Errorf("a directory without packages: %v", err)
	}
	write(t, filepath.Join(dir, "broken.deb"), "!<arch>\nbroken", 0o644)
	if _, err := collected(t, NewArchives(dir, options)); err == nil || !strings.Contains(err.Error(), "broken.deb") {
		t.Errorf("a broken package: %v", err)
	}
}

func TestMergedUsr(t *testing.T) {
	t.Parallel()
	requireDpkg(t)
	file := build(t, t.TempDir(), "usr", "gzip", map[string]string{
		"/bin/sh": "sh", "/lib64/ld.so": "ld", "/usr/lib/x": "x", "/library/y": "y", "/lib.d/z": "z",
	})
	merged := options
	merged.MergedUsr = true
	var log bytes.Buffer
	unmerged := options
	unmerged.Log = zerolog.New(&log)
	paths := func(listing string) string {
		var list []string
		for l := range strings.SplitSeq(listing, "\n") {
			list = append(list, strings.Fields(l)[0])
		}
		return strings.Join(list, " ")
	}
	if got, want := paths(mustCollect(t, NewArchives(file, merged))), "/lib.d/z /library/y /usr/bin/sh /usr/lib/x /usr/lib64/ld.so"; got != want {
		t.Errorf("merged: %s, want %s", got, want)
	}
	if got, want := paths(mustCollect(t, NewArchives(file, unmerged))), "/bin/sh /lib.d/z /lib64/ld.so /library/y /usr/lib/x"; got != want {
		t.Errorf("as packed: %s, want %s", got, want)
	}
	if !strings.Contains(log.String(), "2 files") || !strings.Contains(log.String(), "--merged-usr") {
		t.Errorf("nothing said that files may be elsewhere: %s", log.String())
	}
}

// suite makes a repository with two components and an architecture apart, and returns its root and what its packages
// unpack to.
func suite(t testing.TB) (root, want string) {
	t.Helper()
	requireDpkg(t)
	root = t.TempDir()
	a := build(t, filepath.Join(root, "pool/main/a"), "a", "xz", everything)
	b := build(t, filepath.Join(root, "pool/main/b"), "b", "gzip", map[string]string{"/usr/bin/b": "b"})
	c := build(t, filepath.Join(root, "pool/extra"), "c", "zstd", map[string]string{"/usr/bin/c": "c"})
	d := build(t, filepath.Join(root, "pool/main/d"), "d", "zstd", map[string]string{"/usr/bin/d": "arm64"})
	dir := filepath.Join(root, "dists/stable")
	sums := index(t, dir, "main/binary-amd64/Packages", "xz", entry(t, root, a), entry(t, root, b)) +
		index(t, dir, "extra/binary-amd64/Packages", "zstd", entry(t, root, c), entry(t, root, b)) +
		index(t, dir, "main/binary-arm64/Packages", "gzip", entry(t, root, d)) +
		// Archives list this one and do not hold it.
		fmt.Sprintf(" %064x %16d main/binary-amd64/Packages.zst\n", 7, 7)
	write(t, filepath.Join(dir, "Release"), "Origin: Test\nSuite: stable\nComponents: main extra\nArchitectures: amd64 arm64\nMD5Sum:\n 0 0 x\nSHA256:\n"+sums, 0o644)
	return root, unpacked(t, a, b, c)
}

func amd64(o Options) Options {
	o.Suite, o.Architectures = "stable", []string{"amd64"}
	return o
}

func local(t testing.TB, root string, o Options) *Repository {
	t.Helper()
	site, err := repo.Local(root)
	if err != nil {
		t.Fatal(err)
	}
	return NewRepository(site, o)
}

func remote(t testing.TB, root string, o Options) *Repository {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(root)))
	t.Cleanup(server.Close)
	site, err := repo.Remote(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return NewRepository(site, o)
}

func TestRepositories(t *testing.T) {
	t.Parallel()
	root, want := suite(t)
	for what, r := range map[string]*Repository{"local": local(t, root, amd64(options)), "remote": remote(t, root, amd64(options))} {
		if got := mustCollect(t, r); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
		}
	}
	some := amd64(options)
	some.Components, some.Architectures = []string{"main"}, []string{"arm64"}
	if got := mustCollect(t, local(t, root, some)); got != line("/usr/bin/d", []byte("arm64")) {
		t.Errorf("one component and architecture: %s", got)
	}
	none := amd64(options)
	none.Architectures = []string{"mips"}
	if _, err := collected(t, local(t, root, none)); err == nil || !strings.Contains(err.Error(), "for architectures amd64 arm64") {
		t.Errorf("an architecture that there is not: %v", err)
	}
	if _, err := collected(t, local(t, root, options)); err == nil || !strings.Contains(err.Error(), "--deb-suite") {
		t.Errorf("no suite named: %v", err)
	}
}

func TestFlatRepositories(t *testing.T) {
	t.Parallel()
	requireDpkg(t)
	root := t.TempDir()
	a := build(t, root, "a", "xz", map[string]string{"/usr/bin/a": "a"})
	sums := index(t, root, "Packages", "gzip", strings.Replace(entry(t, root, a), "Filename: ", "Filename: ./", 1))
	want := unpacked(t, a)
	if got := mustCollect(t, local(t, root, options)); got != want {
		t.Errorf("without Release: %s", got)
	}
	if got, err := collected(t, remote(t, root, options)); err == nil {
		t.Errorf("a server without Release: %s", got)
	}
	write(t, filepath.Join(root, "Release"), "SHA256:\n"+sums, 0o644)
	if got := mustCollect(t, remote(t, root, options)); got != want {
		t.Errorf("with Release: %s", got)
	}
}

// TestNothingUnvouchedIsUsed: whatever changes in a repository after its Release was made is found.
func TestNothingUnvouchedIsUsed(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(root string) error{
		"package replaced": func(root string) error {
			name := filepath.Join(root, "pool/main/b/b_1.0_amd64.deb")
			other := build(t, t.TempDir(), "b", "gzip", map[string]string{"/usr/bin/b": "B"})
			return os.Rename(other, name)
		},
		"package extended": func(root string) error { return extend(root, "pool/main/b/b_1.0_amd64.deb") },
		"index extended":   func(root string) error { return extend(root, "dists/stable/main/binary-amd64/Packages.xz") },
		"package missing":  func(root string) error { return os.Remove(filepath.Join(root, "pool/main/b/b_1.0_amd64.deb")) },
		"package cut":      func(root string) error { return os.Truncate(filepath.Join(root, "pool/main/b/b_1.0_amd64.deb"), 200) },
		"index missing": func(root string) error {
			return os.Remove(filepath.Join(root, "dists/stable/main/binary-amd64/Packages.xz"))
		},
	} {
		root, _ := suite(t)
		if err := change(root); err != nil {
			t.Fatal(err)
		}
		if _, err := collected(t, local(t, root, amd64(options))); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func extend(root, name string) error {
	f, err := os.OpenFile(filepath.Join(root, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n")
	if err != nil {
		return err
	}
	return f.Close()
}

func TestSignaturesOfRepositories(t *testing.T) {
	t.Parallel()
	archive, err := openpgp.NewEntity("archive", "", "a@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := archive.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	signed := amd64(options)
	if signed.Keyring, err = repo.ParseKeyring(public.Bytes()); err != nil {
		t.Fatal(err)
	}
	root, want := suite(t)
	release := filepath.Join(root, "dists/stable/Release")
	text, err := os.ReadFile(release)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, good bool) {
		t.Helper()
		got, err := collected(t, local(t, root, signed))
		if good && (err != nil || got != want) || !good && err == nil {
			t.Errorf("%s: %v\n%s", what, err, got)
		}
	}
	check("not signed", false)
	var detached, clear bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&detached, archive, bytes.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	write(t, release+".gpg", detached.String(), 0o644)
	check("Release.gpg", true)
	write(t, release, string(text)+"Extra: field\n", 0o644)
	check("Release changed", false)
	w, err := clearsign.Encode(&clear, archive.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	inRelease := filepath.Join(root, "dists/stable/InRelease")
	write(t, inRelease, clear.String(), 0o644)
	check("InRelease", true)
	// What stands before the signed message is not signed.
	write(t, inRelease, "SHA256:\n 00 1 main/binary-amd64/Packages\n\n"+clear.String(), 0o644)
	check("InRelease with a foreword", true)
	write(t, inRelease, strings.Replace(clear.String(), "main extra", "main other", 1), 0o644)
	check("InRelease changed", false)
}

func TestOutdatedRepositoriesAreTold(t *testing.T) {
	t.Parallel()
	root, _ := suite(t)
	release := filepath.Join(root, "dists/stable/Release")
	text, err := os.ReadFile(release)
	if err != nil {
		t.Fatal(err)
	}
	write(t, release, "Valid-Until: Sat, 01 Jun 2024 12:00:00 UTC\n"+string(text), 0o644)
	for now, told := range map[string]bool{"2024-06-01": false, "2024-06-02": true} {
		var log bytes.Buffer
		o := amd64(options)
		o.Log = zerolog.New(&log)
		if o.Now, err = time.Parse(time.DateOnly, now); err != nil {
			t.Fatal(err)
		}
		mustCollect(t, local(t, root, o))
		if got := strings.Contains(log.String(), "was valid until 2024-06-01"); got != told {
			t.Errorf("on %s: %s", now, log.String())
		}
	}
}

// BenchmarkPackage reports the rate of one package beside that of dpkg-deb unpacking it, which hashes nothing.
func BenchmarkPackage(b *testing.B) {
	requireDpkg(b)
	files := map[string]string{}
	for i := range 500 {
		files[fmt.Sprintf("/usr/share/f%d", i)] = strings.Repeat(fmt.Sprintf("line %d\n", i), 5000)
	}
	for _, compression := range []string{"none", "xz", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			file := build(b, b.TempDir(), "bench", compression, files)
			begin := time.Now()
			run(b, "dpkg-deb", "-x", file, b.TempDir())
			reference := time.Since(begin)
			for b.Loop() {
				mustCollect(b, NewArchives(file, options))
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-of-dpkg-unpack")
		})
	}
}
