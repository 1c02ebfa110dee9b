package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"keylime/internal/policytool/collect"
)

func member(name, content string) string {
	s := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o100644, len(content), content)
	return s + strings.Repeat("\n", len(content)&1)
}

func TestArchivesOfMembers(t *testing.T) {
	t.Parallel()
	read := func(data string) (got string, err error) {
		ar, err := newArReader(strings.NewReader(data))
		if err != nil {
			return "", err
		}
		for {
			name, err := ar.next()
			if err == io.EOF {
				return got, nil
			}
			if err != nil {
				return got, err
			}
			content, err := io.ReadAll(&ar.member)
			if err != nil {
				return got, err
			}
			got += fmt.Sprintf("%s=%s ", name, content)
		}
	}
	for _, c := range []struct{ what, data, want, err string }{
		{"none", arMagic, "", ""},
		{"odd sizes", arMagic + member("a", "odd") + member("b/", "even"), "a=odd b=even ", ""},
		{"last padding missing", arMagic + strings.TrimSuffix(member("a", "odd"), "\n"), "a=odd ", ""},
		{"no magic", "!<arch>x", "", "no Debian package"},
		{"empty", "", "", "no Debian package"},
		{"header cut", arMagic + member("a", "even")[:30], "", "unexpected EOF"},
		{"no end mark", arMagic + strings.Replace(member("a", "even"), "`", "'", 1), "", "end mark"},
		{"negative size", arMagic + strings.Replace(member("a", "even"), "4         `", "-4        `", 1), "", `size "-4"`},
		{"no size", arMagic + strings.Replace(member("a", "even"), "4         `", "          `", 1), "", `size ""`},
	} {
		got, err := read(c.data)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
	}
}

func TestWhatIsNoPackageIsRefused(t *testing.T) {
	t.Parallel()
	version := member("debian-binary", "2.0\n")
	for what, data := range map[string]string{
		"no data":            arMagic + version + member("control.tar", "x"),
		"data cut":           arMagic + version + member("data.tar.xz", "12345678")[:64],
		"another version":    arMagic + member("debian-binary", "3.0\n") + member("data.tar", ""),
		"another first part": arMagic + member("data.tar", ""),
		"data not tar":       arMagic + version + member("data.tar", strings.Repeat("not tar ", 100)),
	} {
		h := &hashing{into: collect.NewFiles(), alg: collect.SHA256}
		if err := h.read(context.Background(), strings.NewReader(data)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestStanzas(t *testing.T) {
	t.Parallel()
	read := func(text string, max int) (got []string, err error) {
		s := newStanzas(strings.NewReader(text), max, "a", "list")
		for {
			p, err := s.next()
			if err == io.EOF {
				return got, nil
			}
			if err != nil {
				return got, err
			}
			got = append(got, fmt.Sprintf("%q %q", p["a"], p["list"]))
		}
	}
	for _, c := range []struct {
		what, text string
		want       string
		err        string
	}{
		{"nothing", "\n\n", "", ""},
		{"two", "A: 1\nX: y\n\n\n \t\na:2", `"1" "";"2" ""`, ""},
		{"lines", "List:\n one\n\ttwo\nX: y\n not kept\nA: 1\r\n", `"1" "\none\ntwo"`, ""},
		{"comment", "# c\nA: 1\n# d\n", `"1" ""`, ""},
		{"continues nothing", " x\n", "", "line 1: it continues a field"},
		{"no field", "A: 1\n\nnonsense\n", `"1" ""`, "line 3"},
		{"twice", "A: 1\na: 2\n", "", "twice"},
		{"too large", "A: " + strings.Repeat("x", 100), "", "larger than 50 bytes"},
		{"too long a line", "X: " + strings.Repeat("x", maxLine), "", "longer than"},
	} {
		got, err := read(c.text, 50)
		if strings.Join(got, ";") != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %s, %v", c.what, got, err)
		}
	}
}

func TestReleaseFiles(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	good := "Components: main contrib\nArchitectures: all amd64\nValid-Until: Sat, 01 Jun 2024 12:00:00 UTC\nSHA256:\n " + sum + " 12 main/binary-amd64/Packages.xz\n"
	rel, err := parseRelease(strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	c := rel.files["main/binary-amd64/Packages.xz"]
	if len(rel.components) != 2 || !rel.allApart || c.Size != 12 || fmt.Sprintf("%x", c.Sum) != sum {
		t.Errorf("%+v", rel)
	}
	if got := rel.indices(nil, []string{"amd64"}); len(got) != 4 || got[1] != "main/binary-all/Packages" {
		t.Errorf("indices %q", got)
	}
	rel, err = parseRelease(strings.NewReader("No-Support-for-Architecture-all: Packages\n" + good))
	if err != nil || rel.allApart {
		t.Errorf("all within: %+v, %v", rel, err)
	}
	for what, text := range map[string]string{
		"empty":         "",
		"no checksums":  "Components: main\n",
		"weak only":     "MD5Sum:\n " + sum[:32] + " 12 x\n",
		"short sum":     "SHA256:\n " + sum[:62] + " 12 x\n",
		"no size":       "SHA256:\n " + sum + " x\n",
		"negative size": "SHA256:\n " + sum + " -1 x\n",
		"bad date":      "Valid-Until: tomorrow\n" + good[strings.Index(good, "SHA256"):],
	} {
		if rel, err := parseRelease(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %+v", what, rel)
		}
	}
}

func TestPackagesIndices(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	paragraph := func(file, size, sum string) string {
		return "Package: p\nFilename: " + file + "\nSize: " + size + "\nSHA256: " + sum + "\n\n"
	}
	got, err := parsePackages(strings.NewReader(paragraph("pool/a.deb", "1", sum)+paragraph("./b_1%3a2.deb", "2", sum)), nil)
	if err != nil || len(got) != 2 || got[0].file != "pool/a.deb" || got[1].file != "b_1%3a2.deb" || got[1].sum.Size != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	for what, text := range map[string]string{
		"outside":   paragraph("../../etc/shadow", "1", sum),
		"absolute":  paragraph("/etc/shadow", "1", sum),
		"no file":   paragraph("", "1", sum),
		"no sum":    "Package: p\nFilename: x\nSize: 1\nMD5sum: " + sum[:32] + "\n",
		"bad sum":   paragraph("x", "1", "zz"),
		"huge size": paragraph("x", "99999999999999999999", sum),
	} {
		if got, err := parsePackages(strings.NewReader(text), nil); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func FuzzPackage(f *testing.F) {
	f.Add([]byte(arMagic + member("debian-binary", "2.0\n") + member("control.tar", "") + member("data.tar", string(make([]byte, 1024)))))
	f.Add([]byte(arMagic + member("debian-binary", "2.0\n") + member("data.tar.gz", "\x1f\x8b")))
	f.Add([]byte(arMagic + member("odd", "x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &hashing{into: collect.NewFiles(), alg: collect.SHA256}
		_ = h.read(context.Background(), strings.NewReader(string(data)))
		for path := range h.into.Sorted() {
			if !strings.HasPrefix(path, "/") {
				t.Errorf("path %q", path)
			}
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add("Components: main\nSHA256:\n " + strings.Repeat("ab", 32) + " 12 main/x\n")
	f.Add("Valid-Until: Sat, 01 Jun 2024 12:00:00 UTC\n")
	f.Add("A: b\n c\n\nD: e")
	f.Fuzz(func(t *testing.T, text string) {
		rel, err := parseRelease(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, sum := range rel.files {
			if len(sum.Sum) != 32 || sum.Size < 0 || len(strings.Fields(name)) != 1 {
				t.Errorf("%q: %+v", name, sum)
			}
		}
	})
}

func FuzzPackages(f *testing.F) {
	f.Add("Package: p\nFilename: pool/p.deb\nSize: 1\nSHA256: " + strings.Repeat("ab", 32) + "\n")
	f.Add("Package: p\nFilename: ../p.deb\n\nPackage: q\n")
	f.Fuzz(func(t *testing.T, text string) {
		packages, err := parsePackages(strings.NewReader(text), nil)
		if err != nil {
			return
		}
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for _, p := range packages {
			if _, err := root.Open(p.file); err == nil || !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "file name too long") && !strings.Contains(err.Error(), "invalid argument") {
				t.Errorf("file %q: %v", p.file, err)
			}
		}
	})
}
