package rpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keylime/internal/policytool/collect"
)

// tag is a value of a header under construction.
type tag struct {
	tag, kind, count uint32
	data             string
}

func headerOf(tags ...tag) []byte {
	var index, store bytes.Buffer
	for _, t := range tags {
		for _, n := range []uint32{t.tag, t.kind, uint32(store.Len()), t.count} {
			binary.Write(&index, binary.BigEndian, n)
		}
		store.WriteString(t.data)
	}
	b := []byte("\x8e\xad\xe8\x01\x00\x00\x00\x00")
	b = binary.BigEndian.AppendUint32(b, uint32(len(tags)))
	b = binary.BigEndian.AppendUint32(b, uint32(store.Len()))
	return append(append(b, index.Bytes()...), store.Bytes()...)
}

func packageOf(signature, header []byte) []byte {
	b := append([]byte("\xed\xab\xee\xdb"), make([]byte, leadSize-4)...)
	b = append(b, signature...)
	b = append(b, make([]byte, -len(signature)&7)...)
	return append(b, header...)
}

func numbers(list ...uint32) (s string) {
	for _, n := range list {
		s += string(binary.BigEndian.AppendUint32(nil, n))
	}
	return s
}

// oneFile is the header of a package with one file, /d/f, whose tags a test may change.
func oneFile(change func(map[uint32]*tag)) []byte {
	tags := []*tag{
		{tagBaseNames, typeStringArray, 1, "f\x00"},
		{tagDirNames, typeStringArray, 1, "/d/\x00"},
		{tagDirIndexes, typeInt32, 1, numbers(0)},
		{tagFileDigests, typeStringArray, 1, strings.Repeat("ab", 32) + "\x00"},
		{tagFileModes, typeInt16, 1, "\x81\xa4"},
		{tagFileDigestAlgo, typeInt32, 1, numbers(8)},
	}
	by := map[uint32]*tag{}
	for _, t := range tags {
		by[t.tag] = t
	}
	if change != nil {
		change(by)
	}
	var list []tag
	for _, t := range tags {
		list = append(list, *t)
	}
	return headerOf(list...)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	plain := headerOf()
	read := func(data []byte) (string, error) {
		files, err := readFiles(bytes.NewReader(data))
		var list []string
		for _, f := range files {
			list = append(list, fmt.Sprintf("%s %x", f.path, f.digest))
		}
		return strings.Join(list, ";"), err
	}
	one := "/d/f " + strings.Repeat("ab", 32)
	if got, err := read(packageOf(plain, oneFile(nil))); got != one || err != nil {
		t.Errorf("one file: %s, %v", got, err)
	}
	for what, c := range map[string]struct {
		change func(map[uint32]*tag)
		want   string // "": an error
	}{
		"directory":              {func(m map[uint32]*tag) { m[tagFileModes].data = "\x41\xed" }, "none"},
		"symbolic link":          {func(m map[uint32]*tag) { m[tagFileModes].data = "\xa1\xff" }, "none"},
		"no digest":              {func(m map[uint32]*tag) { m[tagFileDigests].data = "\x00" }, "none"},
		"zeros":                  {func(m map[uint32]*tag) { m[tagFileDigests].data = strings.Repeat("0", 64) + "\x00" }, "none"},
		"relative":               {func(m map[uint32]*tag) { m[tagDirNames].data = "d/\x00" }, "none"},
		"leading out":            {func(m map[uint32]*tag) { m[tagDirNames].data = "/d/../../\x00" }, "/f"},
		"old names":              {func(m map[uint32]*tag) { m[tagBaseNames].tag, m[tagBaseNames].data = tagOldFileNames, "/d/f\x00" }, one},
		"short digest":           {func(m map[uint32]*tag) { m[tagFileDigests].data = "abcd\x00" }, ""},
		"no hexadecimal digest":  {func(m map[uint32]*tag) { m[tagFileDigests].data = strings.Repeat("xy", 32) + "\x00" }, ""},
		"unknown algorithm":      {func(m map[uint32]*tag) { m[tagFileDigestAlgo].data = numbers(99) }, ""},
		"directory out of range": {func(m map[uint32]*tag) { m[tagDirIndexes].data = numbers(1) }, ""},
		"negative directory":     {func(m map[uint32]*tag) { m[tagDirIndexes].data = numbers(0xffffffff) }, ""},
		"fewer digests":          {func(m map[uint32]*tag) { m[tagFileDigests].count = 0 }, ""},
		"more names than there":  {func(m map[uint32]*tag) { m[tagBaseNames].count = 200 }, ""},
		"count beyond all":       {func(m map[uint32]*tag) { m[tagBaseNames].count = 1 << 31 }, ""},
		"modes beyond the store": {func(m map[uint32]*tag) { m[tagFileModes].count = 60 }, ""},
		"names as numbers":       {func(m map[uint32]*tag) { m[tagBaseNames].kind = typeInt32 }, ""},
		"modes as strings":       {func(m map[uint32]*tag) { m[tagFileModes].kind = typeStringArray }, ""},
		"twice":                  {func(m map[uint32]*tag) { m[tagDirNames].tag = tagBaseNames }, ""},
		"long path":              {func(m map[uint32]*tag) { m[tagDirNames].data = "/" + strings.Repeat("d", 5000) + "\x00" }, ""},
	} {
		got, err := read(packageOf(plain, oneFile(c.change)))
		switch {
		case (err == nil) != (c.want != ""):
			t.Errorf("%s: %s, %v", what, got, err)
		case c.want == "none" && got != "", c.want == "/f" && !strings.HasPrefix(got, "/f "), c.want == one && got != one:
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	source := append(oneFile(nil)[:0:0], headerOf(tag{tagSourcePackage, typeInt32, 1, numbers(1)})...)
	if got, err := read(packageOf(plain, source)); got != "" || err != nil {
		t.Errorf("source package: %s, %v", got, err)
	}
	whole := packageOf(plain, oneFile(nil))
	for n := range whole {
		if _, err := read(whole[:n]); err == nil {
			t.Fatalf("the first %d bytes of %d are no package", n, len(whole))
		}
	}
}

func TestDigestsOfHeaders(t *testing.T) {
	t.Parallel()
	h := oneFile(nil)
	sum := sha256.Sum256(h)
	signature := headerOf(tag{sigSHA256, typeString, 1, hex.EncodeToString(sum[:]) + "\x00"})
	if _, err := readFiles(bytes.NewReader(packageOf(signature, h))); err != nil {
		t.Error(err)
	}
	other := oneFile(func(m map[uint32]*tag) { m[tagBaseNames].data = "g\x00" })
	if _, err := readFiles(bytes.NewReader(packageOf(signature, other))); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("a changed header: %v", err)
	}
}

// TestPromisedSizesCostNothing: a header that promises more than it holds is no reason to allocate.
func TestPromisedSizesCostNothing(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][2]uint32{{maxTags + 1, 0}, {0, maxStore + 1}, {1 << 31, 1 << 31}} {
		h := append([]byte("\x8e\xad\xe8\x01\x00\x00\x00\x00"), numbers(sizes[0], sizes[1])...)
		if _, err := readFiles(bytes.NewReader(packageOf(h, nil))); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%d tags, %d bytes: %v", sizes[0], sizes[1], err)
		}
	}
	promise := packageOf(append([]byte("\x8e\xad\xe8\x01\x00\x00\x00\x00"), numbers(maxTags, maxStore)...), nil)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = readFiles(bytes.NewReader(promise))
		}
	}).AllocedBytesPerOp()
	if allocated > 64<<10 {
		t.Errorf("%d bytes are allocated for a package of %d", allocated, len(promise))
	}
}

const repomd = `<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>
<data type="primary"><checksum type="sha256">%s</checksum><location href="%s"%s/><size>12</size></data>%s</repomd>`

func TestRepomd(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	found, err := parseRepomd(fmt.Appendf(nil, repomd, sum, "repodata/primary.xml.gz", "", `<data type="other"><checksum type="md5">x</checksum></data>`), "primary", "filelists-ext")
	if p := found["primary"]; err != nil || len(found) != 1 || p.file != "repodata/primary.xml.gz" || p.sum.Size != 12 || hex.EncodeToString(p.sum.Sum) != sum {
		t.Errorf("%+v, %v", found, err)
	}
	for what, text := range map[string]string{
		"empty":      "",
		"other root": `<repomd/>`,
		"outside":    fmt.Sprintf(repomd, sum, "../../etc/shadow", "", ""),
		"escaped":    fmt.Sprintf(repomd, sum, "%2e%2e/x", "", ""),
		"absolute":   fmt.Sprintf(repomd, sum, "http://elsewhere/x", ` xml:base="http://elsewhere/"`, ""),
		"weak":       strings.Replace(fmt.Sprintf(repomd, sum[:40], "x", "", ""), "sha256", "sha", 1),
		"twice":      fmt.Sprintf(repomd, sum, "x", "", `<data type="primary"><checksum type="sha256">`+sum+`</checksum><location href="y"/></data>`),
		"cut":        fmt.Sprintf(repomd, sum, "x", "", "")[:200],
	} {
		if found, err := parseRepomd([]byte(text), "primary"); err == nil {
			t.Errorf("%s: %+v", what, found)
		}
	}
}

func TestPrimary(t *testing.T) {
	t.Parallel()
	const entry = `<package type="rpm"><arch>%s</arch><checksum type="sha256" pkgid="YES">%s</checksum><size package="34" installed="1"/>` +
		`<location href="%s"/><format><rpm:header-range start="10" end="56"/></format></package>`
	document := func(entries string) string {
		return `<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="9">` + entries + `</metadata>`
	}
	sum := strings.Repeat("ab", 32)
	got, err := parsePrimary(strings.NewReader(document(fmt.Sprintf(entry, "noarch", sum, "Packages/a%5E1.rpm") + fmt.Sprintf(entry, "src", sum, "b.src.rpm"))))
	if err != nil || len(got) != 1 || got[0].file != "Packages/a^1.rpm" || got[0].headerEnd != 56 || got[0].sum.Size != 34 {
		t.Errorf("%+v, %v", got, err)
	}
	for what, entries := range map[string]string{
		"outside": fmt.Sprintf(entry, "noarch", sum, "../a.rpm"),
		"no sum":  fmt.Sprintf(entry, "noarch", "", "a.rpm"),
		"cut":     `<package type="rpm">`,
	} {
		if got, err := parsePrimary(strings.NewReader(document(entries))); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// endless gives a document's start and then the same bytes for ever.
type endless struct{ start, more string }

func (e *endless) Read(p []byte) (int, error) {
	if n := copy(p, e.start); n > 0 {
		e.start = e.start[n:]
		return n, nil
	}
	n := 0
	for n+len(e.more) <= len(p) {
		n += copy(p[n:], e.more)
	}
	return n, nil
}

func TestEndlessElementsAreRefused(t *testing.T) {
	t.Parallel()
	const start = `<metadata xmlns="http://linux.duke.edu/metadata/common"><package type="rpm"><arch>`
	for what, r := range map[string]*endless{"text": {start, "xxxxxxxx"}, "attribute": {start + `<a b="`, "xxxxxxxx"}, "before any": {"<metadata>", "<!-- -->"}} {
		err := eachElement(r, 64<<10, "http://linux.duke.edu/metadata/common", "package", func(d *xml.Decoder, start *xml.StartElement) error {
			var p struct{}
			return d.DecodeElement(&p, start)
		})
		if !errors.Is(err, errElement) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(packageOf(headerOf(), oneFile(nil)))
	f.Add(packageOf(headerOf(tag{sigSHA1, typeString, 1, strings.Repeat("a", 40) + "\x00"}), oneFile(nil)))
	f.Add(packageOf(headerOf(), oneFile(func(m map[uint32]*tag) { m[tagBaseNames].tag = tagOldFileNames })))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := readFiles(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, file := range files {
			if !strings.HasPrefix(file.path, "/") || len(file.digest) < 16 {
				t.Errorf("%q %x", file.path, file.digest)
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add(fmt.Sprintf(repomd, strings.Repeat("ab", 32), "repodata/x", "", ""))
	f.Add(`<metadata xmlns="http://linux.duke.edu/metadata/common"><package type="rpm"><location href="a"/></package></metadata>`)
	f.Add(`<filelists-ext xmlns="http://linux.duke.edu/metadata/filelists-ext"><file hash="` + strings.Repeat("ab", 32) + `">/a</file></filelists-ext>`)
	f.Fuzz(func(t *testing.T, text string) {
		if found, err := parseRepomd([]byte(text), "primary"); err == nil {
			for _, i := range found {
				if strings.HasPrefix(i.file, "/") || strings.HasPrefix(i.file, "..") || len(i.sum.Sum) < 32 {
					t.Errorf("%+v", i)
				}
			}
		}
		_, _ = parsePrimary(strings.NewReader(text))
		_ = parseFileLists(strings.NewReader(text), collect.NewFiles())
	})
}
