package policytool

import (
	"archive/tar"
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// abc is the SHA-256 of "abc".
const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

// layerFile makes a layer of an image with one file, whose content is "abc".
func layerFile(t testing.TB, path string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeReg, Size: 3, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file(t, "layer.tar", b.String())
}

func TestSourcesAddUp(t *testing.T) {
	t.Parallel()
	list := file(t, "allow", strings.Repeat("0f", 32)+"  /usr/bin/a\n")
	got := create(t, "--oci-layer", layerFile(t, "usr/bin/a"), "--oci-layer", layerFile(t, "usr/bin/b c"), "-a", list)
	want := map[string][]string{"/usr/bin/a": {strings.Repeat("0f", 32), abc}, "/usr/bin/b_c": {abc}}
	if diff := cmp.Diff(want, got.Digests); diff != "" {
		t.Error(diff)
	}
}

func TestDebianPackagesAreSources(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
			t.Fatal("dpkg-deb is not installed, and KEYLIME_REQUIRE_TOOLS is set")
		}
		t.Skip("dpkg-deb is not installed; scripts/setup.sh tools installs it")
	}
	root := t.TempDir()
	for name, content := range map[string]string{
		"DEBIAN/control": "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: d\n", "bin/p": "abc",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), "p.deb")
	if out, err := exec.Command("dpkg-deb", "--build", root, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for flags, path := range map[string]string{"": "/bin/p", "--merged-usr": "/usr/bin/p"} {
		got := create(t, append([]string{"--deb", deb}, strings.Fields(flags)...)...)
		if diff := cmp.Diff(map[string][]string{path: {abc}}, got.Digests); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSourcesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for line, want := range map[string]string{
		"--deb /nowhere":                                                "no such file",
		"--local-deb-repo /nowhere":                                     "no such file",
		"--local-rpm-repo " + t.TempDir():                               "is no RPM repository",
		"--remote-rpm-repo " + server.URL:                               "is no RPM repository",
		"--remote-deb-repo " + server.URL:                               "neither InRelease nor Release",
		"--remote-rpm-repo ftp://example.org":                           "http://HOST/PATH",
		"--oci-layout " + t.TempDir():                                   "no image layout",
		"--oci-layout / --oci-platform amd64":                           "OS/ARCHITECTURE",
		"--deb / --repo-keyring /nowhere":                               "--repo-keyring",
		"--local-rpm-repo / --repo-keyring " + file(t, "key", "no key"): "--repo-keyring",
	} {
		out, _, err := tool(t, append([]string{"create", "runtime"}, strings.Fields(line)...)...)
		if err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v; wrote %q", line, err, out)
		}
	}
}
