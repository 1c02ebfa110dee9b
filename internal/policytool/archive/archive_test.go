package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"keylime/internal/policytool/collect"
)

// tarOf makes an archive of entries: headers with their content in Name's place of the map.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Uname // carries the content into here
		h.Uname = ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
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

func TestDigestsOfFilesAndHardLinks(t *testing.T) {
	t.Parallel()
	data := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir},
		tar.Header{Name: "./usr/bin/tool", Uname: "tool"},
		tar.Header{Name: "usr/bin/same", Typeflag: tar.TypeLink, Linkname: "./usr/bin/tool"},
		tar.Header{Name: "usr/bin/again", Typeflag: tar.TypeLink, Linkname: "/usr/bin/same"},
		tar.Header{Name: "usr/bin/none", Typeflag: tar.TypeLink, Linkname: "usr/bin/missing"},
		tar.Header{Name: "usr/bin/sym", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc/shadow"},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "/etc//empty"},
	)
	files := collect.NewFiles()
	var got []string
	err := Digests(context.Background(), bytes.NewReader(data), collect.SHA256, files, func(e Entry, digest []byte) error {
		sum := "-"
		if digest != nil {
			sum = fmt.Sprintf("%x", digest[:4])
		}
		got = append(got, fmt.Sprintf("%d %s %s", e.Kind, e.Path, sum))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tool, empty := sha256.Sum256([]byte("tool")), sha256.Sum256(nil)
	want := []string{
		"2 / -",
		fmt.Sprintf("0 /usr/bin/tool %x", tool[:4]),
		fmt.Sprintf("1 /usr/bin/same %x", tool[:4]),
		fmt.Sprintf("1 /usr/bin/again %x", tool[:4]),
		"1 /usr/bin/none -",
		"3 /usr/bin/sym -",
		"3 /dev/null -",
		fmt.Sprintf("0 /etc/empty %x", empty[:4]),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p := files.Progress(); p.Bytes != 4 || p.Expected != 4 {
		t.Errorf("progress %+v", p)
	}
}

func TestNamesNeverLeadOutOfTheRoot(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"./a/b": "/a/b", "a": "/a", "/a//b/./c": "/a/b/c", "./": "/", "a/": "/a", "..a/b..": "/..a/b..",
		"../a": "", "a/../b": "", "a/..": "", "": "", "a\x00b": "", strings.Repeat("a", 4097): "",
	} {
		got, err := Clean(name)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%.20q: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, h := range []tar.Header{
		{Name: "a/../../etc/passwd"},
		{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"},
	} {
		err := Walk(context.Background(), bytes.NewReader(tarOf(t, h)), func(Entry) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "leads out of the archive") {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
}

func TestWalkReadsToTheEndAndStopsWhenAsked(t *testing.T) {
	t.Parallel()
	data := append(tarOf(t, tar.Header{Name: "a"}), "after the archive's end"...)
	r := bytes.NewReader(data)
	if err := Walk(context.Background(), r, func(Entry) error { return nil }); err != nil || r.Len() != 0 {
		t.Errorf("%v, and %d bytes are left", err, r.Len())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Walk(ctx, bytes.NewReader(data), func(Entry) error { return nil }); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	data = tarOf(t, tar.Header{Name: "a", Uname: "x"}, tar.Header{Name: "b"})
	for n := range len(data) - 512 {
		if err := Walk(context.Background(), bytes.NewReader(data[:n]), func(Entry) error { return nil }); err == nil {
			t.Fatalf("an archive that was cut after %d bytes was read without an error", n)
		}
	}
}

// TestBombsAreRefused: data that unpack to more than the limit, and to more than is plausible.
func TestBombsAreRefused(t *testing.T) {
	t.Parallel()
	var zeros bytes.Buffer
	w := gzip.NewWriter(&zeros)
	if _, err := io.CopyN(w, zeroReader{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	unpacked := func(max int64) (int64, error) {
		r, err := Unpack(bytes.NewReader(zeros.Bytes()), max)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		return io.Copy(io.Discard, r)
	}
	if n, err := unpacked(1 << 20); n != 1<<20 || err != nil {
		t.Errorf("within the limit: %d, %v", n, err)
	}
	if n, err := unpacked(1<<20 - 1); n > 1<<20 || err == nil {
		t.Errorf("beyond the limit: %d, %v", n, err)
	}
	b := &bounded{ReadCloser: io.NopCloser(zeroReader{}), in: &counter{n: 1 << 14}, max: 1 << 40}
	if n, err := io.Copy(io.Discard, b); err == nil || n > ratioFloor+1<<20 {
		t.Errorf("16 KiB unpacked to %d: %v", n, err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAtMost(t *testing.T) {
	t.Parallel()
	if got, err := io.ReadAll(AtMost(strings.NewReader("12345"), 5, "it")); string(got) != "12345" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := io.ReadAll(AtMost(strings.NewReader("123456"), 5, "it")); err == nil || !strings.Contains(err.Error(), "it is larger than 5 bytes") {
		t.Errorf("%v", err)
	}
}

// FuzzWalk: whatever the bytes, paths are absolute and clean and nothing panics.
func FuzzWalk(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "./a", Uname: "x"}, tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add(tarOf(f, tar.Header{Name: "a/../b"}))
	f.Add(tarOf(f, tar.Header{Name: strings.Repeat("long/", 60), Typeflag: tar.TypeDir}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = Digests(context.Background(), bytes.NewReader(data), collect.SHA1, collect.NewFiles(), func(e Entry, _ []byte) error {
			if again, err := Clean(e.Path); again != e.Path || err != nil {
				t.Errorf("path %q: cleaned %q, %v", e.Path, again, err)
			}
			return nil
		})
	})
}
