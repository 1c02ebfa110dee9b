package rpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

// requireTools skips a test on a machine without RPM's tools.
func requireTools(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"rpmbuild", "rpm2archive", "createrepo_c"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
			t.Fatalf("%s is not installed, and KEYLIME_REQUIRE_TOOLS is set", tool)
		}
		t.Skipf("%s is not installed; scripts/setup.sh tools installs it", tool)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recipe is a package to build.
type recipe struct {
	name    string
	digests int // algorithm of the files' digests, by OpenPGP's numbers
	files   map[string]string
	extra   string // lines of %files, and commands of %install before a line "%%"
}

// build makes a binary and a source package with rpmbuild, in dir.
func build(t testing.TB, dir string, r recipe) {
	t.Helper()
	top := t.TempDir()
	var install, files strings.Builder
	i := 0
	for path, content := range r.files {
		source := filepath.Join(top, fmt.Sprintf("content%d", i))
		i++
		write(t, source, content)
		fmt.Fprintf(&install, "install -D -m 644 %s '%%{buildroot}%s'\n", source, path)
		fmt.Fprintf(&files, "\"%s\"\n", path)
	}
	commands, list, ok := strings.Cut(r.extra, "%%\n")
	if ok {
		install.WriteString(commands)
		files.WriteString(list)
	}
	spec := filepath.Join(top, r.name+".spec")
	write(t, spec, fmt.Sprintf(`Name: %s
Version: 1.0
Release: 1
Summary: test
License: MIT
BuildArch: noarch
%%description
test
%%install
%s
%%files
%s`, r.name, install.String(), files.String()))
	run(t, "rpmbuild", "-ba", "--quiet", "--define", "_topdir "+top, "--define", "_rpmdir "+dir, "--define", "_srcrpmdir "+dir,
		"--define", fmt.Sprintf("_binary_filedigest_algorithm %d", r.digests), "--define", "__os_install_post %{nil}", spec)
}

func collected(t testing.TB, r *Repository) (string, error) {
	t.Helper()
	files := collect.NewFiles()
	err := r.Collect(context.Background(), files, collect.SHA256)
	var lines []string
	for path, digests := range files.Sorted() {
		for _, d := range digests {
			lines = append(lines, path+" "+hex.EncodeToString(d))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), err
}

func mustCollect(t testing.TB, r *Repository) string {
	t.Helper()
	got, err := collected(t, r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

var options = Options{Workers: 2, Log: zerolog.Nop()}

func local(t testing.TB, dir string, o Options) *Repository {
	t.Helper()
	site, err := repo.Local(dir)
	if err != nil {
		t.Fatal(err)
	}
	return NewRepository(site, o)
}

// unpacked lists the regular files that rpm2archive and tar make of the packages in a directory.
func unpacked(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".noarch.rpm") {
			return err
		}
		root := t.TempDir()
		run(t, "sh", "-c", fmt.Sprintf("rpm2archive - < %s | tar -xz -C %s", name, root))
		return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(name)
			lines = append(lines, fmt.Sprintf("%s %x", strings.ReplaceAll(name[len(root):], " ", "_"), sha256.Sum256(content)))
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// template is a directory with two packages, built once for all tests.
var template struct {
	once sync.Once
	dir  string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if template.dir != "" {
		os.RemoveAll(template.dir)
	}
	os.Exit(code)
}

// repository makes a repository of two packages and returns its directory.
func repository(t testing.TB, createrepoFlags ...string) string {
	t.Helper()
	requireTools(t)
	template.once.Do(func() { buildTemplate(t) })
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(template.dir)); err != nil {
		t.Fatal(err)
	}
	run(t, "createrepo_c", append(append([]string{"--quiet"}, createrepoFlags...), dir)...)
	return dir
}

func buildTemplate(t testing.TB) {
	t.Helper()
	var err error
	if template.dir, err = os.MkdirTemp("", "rpm"); err != nil {
		t.Fatal(err)
	}
	build(t, template.dir, recipe{"alpha", 8, map[string]string{
		"/usr/bin/alpha": "alpha", "/etc/alpha.conf": "conf", "/usr/share/alpha/a file": "spaces", "/usr/share/alpha/empty": "",
		"/usr/share/alpha/ünïcode": "unicode",
	}, `ln -s alpha %{buildroot}/usr/bin/sym
ln %{buildroot}/usr/bin/alpha %{buildroot}/usr/bin/hard
mkdir -p %{buildroot}/var/lib/alpha
%%
/usr/bin/sym
/usr/bin/hard
%dir /var/lib/alpha
%ghost /var/lib/alpha/ghost
`})
	build(t, template.dir, recipe{"beta", 8, map[string]string{"/usr/bin/beta": "beta", "/usr/share/big": strings.Repeat("big", 1<<18)}, ""})
}

// extend adds the extended list of files to a repository, which createrepo_c makes since release 1.0.
func extend(t testing.TB, dir, listing string) {
	t.Helper()
	var list bytes.Buffer
	list.WriteString(`<?xml version="1.0" encoding="UTF-8"?><filelists-ext xmlns="http://linux.duke.edu/metadata/filelists-ext" packages="1">` +
		`<package pkgid="0" name="all" arch="noarch"><version epoch="0" ver="1" rel="1"/><checksum type="sha256"/>` +
		`<file type="dir">/usr/share/dir</file><file hash="">/none</file><file hash="` + strings.Repeat("0", 64) + `">/zero</file>`)
	for line := range strings.SplitSeq(listing, "\n") {
		path, digest, _ := strings.Cut(line, " ")
		fmt.Fprintf(&list, `<file hash="%s">`, digest)
		if err := xml.EscapeText(&list, []byte(path)); err != nil {
			t.Fatal(err)
		}
		list.WriteString("</file>")
	}
	list.WriteString("</package></filelists-ext>")
	write(t, filepath.Join(dir, "repodata/filelists-ext.xml"), list.String())
	name := filepath.Join(dir, repomdFile)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf(`<data type="filelists-ext"><checksum type="sha256">%x</checksum><location href="repodata/filelists-ext.xml"/><size>%d</size></data></repomd>`,
		sha256.Sum256(list.Bytes()), list.Len())
	write(t, name, strings.Replace(string(text), "</repomd>", entry, 1))
}
