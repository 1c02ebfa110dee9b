package oci

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// TestLayersLieOnEachOther: each case is an image's layers, lowest first, and what a container sees.
func TestLayersLieOnEachOther(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		layers [][]string
		want   string
	}{
		"one":                      {[][]string{{"bin/", "bin/a=1", "./b=2", "/c=3"}}, "/b=2 /bin/a=1 /c=3"},
		"replaced":                 {[][]string{{"a=1", "b=1"}, {"a=2"}, {"a=3"}}, "/a=3 /b=1"},
		"removed":                  {[][]string{{"d/a=1", "d/b=1"}, {"d/.wh.a="}}, "/d/b=1"},
		"directory removed":        {[][]string{{"d/a=1", "d/e/b=1", "da=1"}, {".wh.d="}}, "/da=1"},
		"removed and made again":   {[][]string{{"a=1"}, {".wh.a="}, {"a=3"}}, "/a=3"},
		"removed and made at once": {[][]string{{"d/a=1", "d/b=1"}, {"d/a=2", ".wh.d="}}, "/d/a=2"},
		"emptied":                  {[][]string{{"d/a=1", "d/e/b=1", "x=1"}, {"d/.wh..wh..opq=", "d/c=2"}}, "/d/c=2 /x=1"},
		"emptied at its end":       {[][]string{{"d/a=1"}, {"d/c=2", "d/.wh..wh..opq="}}, "/d/c=2"},
		"emptied root":             {[][]string{{"d/a=1", "x=1"}, {".wh..wh..opq=", "y=2"}}, "/y=2"},
		"emptied below":            {[][]string{{"d/a=1"}, {"d/.wh..wh..opq=", "d/b=2"}, {"d/c=3"}}, "/d/b=2 /d/c=3"},
		"removed only what is below": {[][]string{{"a=1"}, {".wh.a="}, {"b=3"}},
			"/b=3"},
		"directory becomes file":        {[][]string{{"d/a=1"}, {"d=2"}}, "/d=2"},
		"directory becomes link":        {[][]string{{"bin/a=1", "usr/bin/a=2"}, {"bin->usr/bin"}}, "/usr/bin/a=2"},
		"file becomes link":             {[][]string{{"a=1", "b=1"}, {"a->b"}}, "/b=1"},
		"file becomes directory":        {[][]string{{"d=1"}, {"d/", "d/a=2"}}, "/d/a=2"},
		"directory kept":                {[][]string{{"d/", "d/a=1"}, {"d/"}}, "/d/a=1"},
		"last of a layer counts":        {[][]string{{"a=1", "a=2"}}, "/a=2"},
		"hard link":                     {[][]string{{"a=1", "b=>a"}}, "/a=1 /b=1"},
		"hard link outlives its target": {[][]string{{"a=1", "b=>a"}, {".wh.a="}}, "/b=1"},
		"hard link hides":               {[][]string{{"a=1", "b=1"}, {"c=2", "b=>c"}}, "/a=1 /b=2 /c=2"},
		"hard link to elsewhere":        {[][]string{{"a=1", "b=1"}, {"b=>a"}}, "/a=1"},
		"AUFS bookkeeping":              {[][]string{{"a=1", ".wh..wh.plnk/1=2", ".wh..wh.aufs=3"}}, "/a=1 /.wh..wh.plnk/1=2"},
		"whiteout of a whiteout's name": {[][]string{{"a=1"}, {".wh.=2"}}, "/.wh.=2 /a=1"},
		"many":                          {[][]string{{"a=1"}, {"b=2"}, {"c=3"}, {".wh.b="}, {"a=3"}, {"d=1"}}, "/a=3 /c=3 /d=1"},
		"no layers":                     {nil, ""},
	} {
		f := files{}
		var layers [][]byte
		for _, entries := range c.layers {
			layers = append(layers, layerOf(t, entries...))
		}
		f.index(t, f.image(t, "amd64", layers...))
		want := strings.Join(sorted(strings.Fields(c.want)), " ")
		for form, path := range map[string]string{"directory": f.directory(t), "archive": f.archive(t)} {
			if got, err := collected(t, open(t, path, options), "1", "2", "3"); got != want || err != nil {
				t.Errorf("%s, %s: got %s, %v; want %s", what, form, got, err, want)
			}
		}
	}
}

func sorted(list []string) []string { return unique(list) }

func TestSingleLayers(t *testing.T) {
	t.Parallel()
	data := layerOf(t, "a=1", "d/.wh.b=", "c=>a")
	for _, how := range []string{"", "gzip", "zstd"} {
		path := written(t, compressed(t, how, data))
		if got, err := collected(t, NewLayer(path, options), "1"); got != "/a=1 /c=1" || err != nil {
			t.Errorf("%s: %s, %v", how, got, err)
		}
	}
	for what, data := range map[string][]byte{"no archive": []byte(strings.Repeat("x", 1024)), "cut": data[:700]} {
		if got, err := collected(t, NewLayer(written(t, data), options)); err == nil {
			t.Errorf("%s: %s", what, got)
		}
	}
}

func TestPlatformsAndNames(t *testing.T) {
	t.Parallel()
	f := files{}
	amd, arm := f.image(t, "amd64", layerOf(t, "amd=1")), f.image(t, "arm64", layerOf(t, "arm=1"))
	amd.Platform = &platform{OS: "linux", Architecture: "amd64"}
	arm.Platform = &platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	attestation := f.image(t, "amd64", layerOf(t, "attestation=1"))
	attestation.Platform = &platform{OS: "unknown", Architecture: "unknown"}
	signature := f.document(t, manifestType, manifest{MediaType: manifestType, Config: descriptor{MediaType: "application/vnd.example+json", Digest: "sha256:" + strings.Repeat("0", 64)}})
	several := f.document(t, indexType, imageIndex{Manifests: []descriptor{amd, arm, attestation}})
	several.Annotations = map[string]string{refName: "web:1"}
	other := f.image(t, "amd64", layerOf(t, "other=1")) // names its platform in its configuration alone
	other.Annotations = map[string]string{refName: "db:2"}
	dir := f.index(t, several, other, signature, descriptor{MediaType: "text/plain"}).directory(t)
	for _, c := range []struct{ name, platform, want, err string }{
		{"", "linux/amd64", "/amd=1 /other=1", ""},
		{"", "linux/arm64", "/arm=1", ""},
		{"", "linux/arm64/v8", "/arm=1", ""},
		{"web:1", "linux/amd64", "/amd=1", ""},
		{"db:2", "", "/other=1", ""},
		{"", "", "", "choose with --oci-platform: linux/amd64, linux/arm64/v8"},
		{"web:1", "", "", "choose with --oci-platform"},
		{"web:2", "", "", "it has: , db:2, web:1"},
		{"", "linux/arm64/v7", "", "it has: linux/amd64, linux/arm64/v8"},
		{"db:2", "linux/riscv64", "", "linux/amd64"},
	} {
		o := options
		o.Image, o.Platform = c.name, c.platform
		got, err := collected(t, open(t, dir, o), "1")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q %q: %s, %v", c.name, c.platform, got, err)
		}
	}
	for _, bad := range []string{"linux", "linux/", "/amd64", "linux/arm/v7/x"} {
		if _, err := NewLayout(dir, Options{Platform: bad}); err == nil {
			t.Errorf("platform %q was accepted", bad)
		}
	}
}

// TestBlobsAreWhatTheirNamesSay: every document and layer is held to its digest and size.
func TestBlobsAreWhatTheirNamesSay(t *testing.T) {
	t.Parallel()
	whole := files{}
	whole.index(t, whole.image(t, "amd64", layerOf(t, "a=1"), layerOf(t, "b=1")))
	for name, content := range whole {
		if !strings.HasPrefix(name, "blobs/") {
			continue
		}
		for what, changed := range map[string][]byte{
			"longer": append(bytes.Clone(content), ' '), "shorter": content[:len(content)-1], "other": append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]^1), "empty": {}, "missing": nil,
		} {
			f := files{}
			for n, c := range whole {
				f[n] = c
			}
			if f[name] = changed; changed == nil {
				delete(f, name)
			}
			for form, path := range map[string]string{"directory": f.directory(t), "archive": f.archive(t)} {
				if got, err := collected(t, open(t, path, options), "1"); err == nil {
					t.Errorf("%s %s in the %s: %s", content, what, form, got)
				}
			}
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	good := files{}
	descriptorOf := good.image(t, "amd64", layerOf(t, "a=1"))
	loop := files{} // indices in indices, as deep as one likes: each names the one before
	next := loop.image(t, "amd64", layerOf(t, "a=1"))
	for range maxIndices + 1 {
		next = loop.document(t, indexType, imageIndex{Manifests: []descriptor{next}})
	}
	many := files{}
	var list []descriptor
	for i := range maxImages + 1 {
		list = append(list, many.document(t, indexType, map[string]any{"manifests": []descriptor{}, "n": i}))
	}
	encrypted := files{}
	m := manifest{Config: encrypted.document(t, configType, platform{OS: "linux", Architecture: "amd64"})}
	m.Layers = []descriptor{encrypted.blob(layerType+"+gzip+encrypted", []byte("secret"))}
	chart := files{}
	c := manifest{Config: chart.document(t, configType, platform{OS: "linux", Architecture: "amd64"})}
	c.Layers = []descriptor{chart.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("chart"))}
	escape := descriptor{MediaType: manifestType, Digest: "sha256:../../../etc/passwd", Size: 10}
	negative := descriptorOf
	negative.Size = -1
	version := files{}
	version.index(t, version.image(t, "amd64"))["oci-layout"] = []byte(`{"imageLayoutVersion": "2.0.0"}`)
	double := files{}
	double.index(t)["index.json"] = []byte(`{"manifests": [], "manifests": []}`)
	for what, c := range map[string]struct {
		f   files
		err string
	}{
		"too many indices within each other": {loop.index(t, next), "within each other"},
		"too many images":                    {many.index(t, list...), "images and indices"},
		"encrypted layer":                    {encrypted.index(t, encrypted.document(t, manifestType, m)), "encrypted"},
		"chart":                              {chart.index(t, chart.document(t, manifestType, c)), "no file system"},
		"digest that leads out":              {files{}.index(t, escape), "no sha256 checksum"},
		"negative size":                      {good.index(t, negative), "describes nothing"},
		"no image":                           {files{}.index(t), "no such image"},
		"another version":                    {version, "2.0.0"},
		"name twice":                         {double, "manifests"},
		"no layout":                          {files{"readme": []byte("x")}, "no image layout"},
	} {
		for form, path := range map[string]string{"directory": c.f.directory(t), "archive": c.f.archive(t)} {
			if got, err := collected(t, open(t, path, options), "1"); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s, %s: %s, %v", what, form, got, err)
			}
		}
	}
}

func TestLayoutsStayInTheirDirectory(t *testing.T) {
	t.Parallel()
	f := files{}
	f.index(t, f.image(t, "amd64", layerOf(t, "a=1")))
	dir := f.directory(t)
	blobs := filepath.Join(dir, "blobs")
	elsewhere := filepath.Join(t.TempDir(), "blobs")
	if err := os.Rename(blobs, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, blobs); err != nil {
		t.Fatal(err)
	}
	if got, err := collected(t, open(t, dir, options), "1"); err == nil {
		t.Errorf("followed a link out of the layout: %s", got)
	}
}

func TestCompressedArchivesOfLayouts(t *testing.T) {
	t.Parallel()
	path := written(t, compressed(t, "gzip", layerOf(t, "oci-layout=x")))
	if _, err := collected(t, open(t, path, options)); err == nil || !strings.Contains(err.Error(), "compressed with gzip: unpack it first") {
		t.Errorf("%v", err)
	}
}

func TestLeftOutLinksAreTold(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := options
	o.Log = zerolog.New(&log)
	if _, err := collected(t, NewLayer(written(t, layerOf(t, "a=>b")), o)); err != nil || !strings.Contains(log.String(), "1 hard links lead to") {
		t.Errorf("%v: %s", err, log.String())
	}
}

func TestCancelledReadingEnds(t *testing.T) {
	t.Parallel()
	f := files{}
	path := f.index(t, f.image(t, "amd64", layerOf(t, "a=1"), layerOf(t, "b=1"))).directory(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := open(t, path, options).Collect(ctx, collect.NewFiles(), collect.SHA256); err == nil {
		t.Error("no error")
	}
}

func FuzzIndex(f *testing.F) {
	good := files{}
	good.index(f, good.image(f, "amd64", layerOf(f, "a=1")))
	f.Add(good["index.json"])
	f.Add([]byte(`{"manifests":[{"mediaType":"` + indexType + `","digest":"sha256:../x","size":1}]}`))
	f.Add([]byte(`{"manifests":[{"mediaType":"` + manifestType + `","digest":"sha512:ab","size":-1,"platform":{"os":"linux"}}]}`))
	dir := good.directory(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := openLayout(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var index imageIndex
		if decode(text, &index) != nil {
			return
		}
		c := chooser{layout: l, seen: map[string]bool{}}
		for _, d := range index.Manifests {
			if name, sum, err := d.blob(); err == nil && (!strings.HasPrefix(name, "blobs/sha") || len(sum.Sum) < 32 || sum.Size < 0) {
				t.Errorf("descriptor %+v: %s", d, name)
			}
			_ = c.visit(context.Background(), d, maxIndices)
		}
	})
}

// FuzzLayers: whatever two layers hold, what is visible is what applying them one after the other leaves.
func FuzzLayers(f *testing.F) {
	f.Add([]byte("\x00\x01\x12\x23"), []byte("\x34\x45\x56"))
	f.Add([]byte("\x00\x10\x20\x30\x40"), []byte("\x05\x15\x25\x35"))
	f.Fuzz(func(t *testing.T, below, above []byte) {
		lower, upper := randomLayer(below, "1"), randomLayer(above, "2")
		stack := &stack{alg: collect.SHA256, workers: 2, log: zerolog.Nop()}
		for _, entries := range [][]string{lower, upper} {
			stack.layers = append(stack.layers, layer{"", func(ctx context.Context) (*changes, error) {
				return readLayer(ctx, bytes.NewReader(layerOf(t, entries...)), collect.SHA256, stack.into)
			}})
		}
		got, err := collected(t, stacked{stack}, "1", "2")
		if err != nil {
			t.Fatal(err)
		}
		if want := applied(lower, upper); got != want {
			t.Errorf("%q on %q: got %s, want %s", upper, lower, got, want)
		}
	})
}

// stacked makes a source of a stack.
type stacked struct{ *stack }

func (s stacked) Collect(ctx context.Context, into *collect.Files, _ collect.Algorithm) error {
	s.into = into
	return s.collect(ctx)
}

// randomLayer makes entries of a few paths. A path stands once, and nothing below what is no directory.
func randomLayer(data []byte, content string) (entries []string) {
	paths := []string{"a", "d/a", "d/e/a", "d/e/b", "x/y/z"}
	seen := map[string]bool{}
	for _, b := range data[:min(len(data), 12)] {
		path := paths[int(b>>4)%len(paths)]
		dir, name := filepath.Split(path)
		entry := [...]string{path + "=" + content, dir + ".wh." + name + "=", dir + ".wh..wh..opq=", path + "->q", ".wh.d="}[int(b&15)%5]
		if key, _, _ := strings.Cut(strings.Replace(entry, "->", "=", 1), "="); !seen[key] {
			seen[key] = true
			entries = append(entries, entry)
		}
	}
	return entries
}

// applied is what remains when layers are unpacked one after the other: whiteouts of a layer first.
func applied(layers ...[]string) string {
	state := map[string]string{}
	remove := func(path string, self bool) {
		for p := range state {
			if self && p == path || strings.HasPrefix(p, path+"/") || path == "" {
				delete(state, p)
			}
		}
	}
	for _, entries := range layers {
		for _, e := range entries {
			path, _, file := strings.Cut(e, "=")
			dir, name := filepath.Split(path)
			switch {
			case !file:
			case name == opaque:
				remove(strings.TrimSuffix(dir, "/"), false)
			case strings.HasPrefix(name, whiteout):
				remove(dir+name[len(whiteout):], true)
			}
		}
		for _, e := range entries {
			if path, _, link := strings.Cut(e, "->"); link {
				remove(path, true)
			} else if path, content, _ := strings.Cut(e, "="); !strings.Contains(path, whiteout) {
				state[path] = content
			}
		}
	}
	var list []string
	for path, content := range state {
		list = append(list, fmt.Sprintf("/%s=%s", path, content))
	}
	return strings.Join(sorted(list), " ")
}

// BenchmarkLayers reports the rate of an image beside that of hashing the same bytes alone.
func BenchmarkLayers(b *testing.B) {
	f := files{}
	var layers [][]byte
	content := strings.Repeat("0123456789abcdef", 1<<10)
	for l := range 4 {
		var entries []string
		for i := range 2000 {
			entries = append(entries, fmt.Sprintf("usr/share/l%d/f%d=%s", l, i, content))
		}
		layers = append(layers, layerOf(b, entries...))
	}
	path := f.index(b, f.image(b, "amd64", layers...)).directory(b)
	b.SetBytes(int64(4 * 2000 * len(content)))
	for b.Loop() {
		if _, err := collected(b, open(b, path, options)); err != nil {
			b.Fatal(err)
		}
	}
	begin := time.Now()
	h := collect.SHA256.New()
	for range 4 * 2000 {
		h.Write([]byte(content))
	}
	reference := time.Since(begin)
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-of-sha256")
}
