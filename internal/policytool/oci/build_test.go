package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// layerOf makes the archive of a layer. An entry is "path=content" for a file, "path/" for a directory, "path->target" for
// a symbolic link and "path=>target" for a hard link.
func layerOf(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Mode: 0o755, Typeflag: tar.TypeReg}
		var content string
		if name, target, ok := strings.Cut(e, "=>"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if name, target, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if strings.HasSuffix(e, "/") {
			h.Name, h.Typeflag = e, tar.TypeDir
		} else {
			h.Name, content, _ = strings.Cut(e, "=")
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			t.Fatal(err)
		}
	default:
		return data
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files are the files of a layout by name.
type files map[string][]byte

// blob stores content and returns its descriptor.
func (f files) blob(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(content)), Size: int64(len(content))}
	f["blobs/sha256/"+d.Digest[7:]] = content
	return d
}

func (f files) document(t testing.TB, mediaType string, v any) descriptor {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return f.blob(mediaType, text)
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// image stores an image whose layers are compressed in turn, and returns its manifest's descriptor.
func (f files) image(t testing.TB, arch string, layers ...[]byte) descriptor {
	t.Helper()
	m := manifest{MediaType: manifestType, Config: f.document(t, configType, map[string]any{
		"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers"},
	})}
	for i, l := range layers {
		how := []string{"gzip", "zstd", ""}[i%3]
		m.Layers = append(m.Layers, f.blob(strings.TrimSuffix(layerType+"+"+how, "+"), compressed(t, how, l)))
	}
	return f.document(t, manifestType, m)
}

func (f files) index(t testing.TB, manifests ...descriptor) files {
	t.Helper()
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		t.Fatal(err)
	}
	f["index.json"] = text
	f["oci-layout"] = []byte(`{"imageLayoutVersion": "1.0.0"}`)
	return f
}

// directory writes the layout into a directory.
func (f files) directory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// archive writes the layout into a tar archive.
func (f files) archive(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range f {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return written(t, b.Bytes())
}

func written(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.tar")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

type collector interface {
	Collect(context.Context, *collect.Files, collect.Algorithm) error
}

// collected lists what a source collects as "path=content", where the contents are among the given ones.
func collected(t testing.TB, c collector, contents ...string) (string, error) {
	t.Helper()
	known := map[[32]byte]string{}
	for _, c := range contents {
		known[sha256.Sum256([]byte(c))] = c
	}
	into := collect.NewFiles()
	err := c.Collect(context.Background(), into, collect.SHA256)
	var list []string
	for path, digests := range into.Sorted() {
		for _, d := range digests {
			content, ok := known[[32]byte(d)]
			if !ok {
				content = fmt.Sprintf("%x", d)
			}
			list = append(list, path+"="+content)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " "), err
}

var options = Options{Workers: 2, Log: zerolog.Nop()}

func open(t testing.TB, path string, o Options) *Layout {
	t.Helper()
	l, err := NewLayout(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
