package ima

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// length writes a field with its length as the kernel does; join puts fields together.
func length(field string) string {
	n := len(field)
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) + field
}

func TestExtendedTemplates(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("\x0a", 32)
	hexDigest := hex.EncodeToString([]byte(digest))
	ng, name := length("sha256:\x00"+digest), length("/a b\x00")
	name2 := length("/a\x00")
	for _, c := range []struct {
		template, text, data string
		verity               bool
	}{
		{"ima-ngv2", "ima:sha256:" + hexDigest + " /a b", length("ima:sha256:\x00"+digest) + name, false},
		{"ima-ngv2", "verity:sha256:" + hexDigest + " /a b", length("verity:sha256:\x00"+digest) + name, true},
		{"ima-sigv2", "ima:sha256:" + hexDigest + " /a 0302", length("ima:sha256:\x00"+digest) + name2 + length("\x03\x02"), false},
		{"ima-sigv2", "verity:sha256:" + hexDigest + " /a ", length("verity:sha256:\x00"+digest) + name2 + length(""), true},
		{"ima-modsig", "sha256:" + hexDigest + " /a 0302 sha1:abcd 3003", ng + name2 + length("\x03\x02") + length("sha1:\x00\xab\xcd") + length("\x30\x03"), false},
		{"ima-modsig", "sha256:" + hexDigest + " /a   ", ng + name2 + length("") + length("") + length(""), false},
		{"evm-sig", "sha256:" + hexDigest + " /a 05 security.ima|x 0102 03 1000 0 33188",
			ng + name2 + length("\x05") + length("security.ima|x\x00") + length("\x01\x02") + length("\x03") + length("\xe8\x03\x00\x00") + length("\x00\x00\x00\x00") + length("\xa4\x81"), false},
		{"d-ng|n-ng", "sha256:" + hexDigest + " /a b", ng + name, false},
		{"d-ngv2|n-ng|iuid|sig", "ima:sha256:" + hexDigest + " /a 7 03", length("ima:sha256:\x00"+digest) + name2 + length("\x07\x00\x00\x00") + length("\x03"), false},
	} {
		p := Parser{Extended: true}
		for range 2 { // a format is remembered
			e, err := p.Parse([]byte("10 ab " + c.template + " " + c.text))
			if err != nil {
				t.Errorf("%s %s: %v", c.template, c.text, err)
				continue
			}
			if string(e.data) != c.data || string(e.Digest) != digest || e.Verity != c.verity || e.Template != c.template {
				t.Errorf("%s %s: reads as %+v\nwant data %x", c.template, c.text, e, c.data)
			}
		}
		var plain Parser
		if _, err := plain.Parse([]byte("10 ab " + c.template + " " + c.text)); err == nil || !strings.HasPrefix(err.Error(), "unknown template") {
			t.Errorf("%s: without being asked for: %v", c.template, err)
		}
	}
}

func TestExtendedTemplatesRefuse(t *testing.T) {
	t.Parallel()
	const digest = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	for _, c := range []struct{ template, text, want string }{
		{"ima-xx", digest + " /a", "unknown template"},
		{"", digest + " /a", "unknown template"},
		{"ima-ngv2", digest + " /a", "template ima-ngv2: type of the digest"},
		{"ima-ngv2", "other:" + digest + " /a", "template ima-ngv2: type of the digest"},
		{"ima-ngv2", "ima:x:" + digest + " /a", "template ima-ngv2: digest is not"},
		{"ima-modsig", digest + " /a 03 xx ", "template ima-modsig: digest of the appended signature"},
		{"ima-modsig", digest + " /a 03 abcd ", "template ima-modsig: digest of the appended signature"},
		{"ima-modsig", digest + " /a 03", "template ima-modsig: want 5 fields, got 3"},
		{"evm-sig", digest + " /a 05 x 01 01 -1 0 0", `template evm-sig: "-1" is not a number`},
		{"evm-sig", digest + " /a 05 x 01 01 1 00 0", `template evm-sig: "00" is not a number`},
		{"evm-sig", digest + " /a 05 x 01 01 1 0 65536", `template evm-sig: "65536" is not a number`},
		{"d-ng", digest + " /a", "unknown template"},
		{"d|n", digest + " /a", "a template in form of a format must begin"},
		{"d-ng|n", digest + " /a", "a template in form of a format must begin"},
		{"d-ng|sig", digest + " /a", "a template in form of a format must begin"},
		{"d-ng|n-ng|", digest + " /a ", "template format"},
		{"d-ng|n-ng|d-ng", digest + " /a ", "template format"},
		{"d-ng|n-ng|n-ng", digest + " /a ", "template format"},
		{"d-ng|n-ng|sig|sig", digest + " /a  ", "template format"},
		{"d-ng|n-ng" + strings.Repeat("|sig", 14), digest + " /a ", "a template in form of a format must begin"},
	} {
		p := Parser{Extended: true}
		if e, err := p.Parse([]byte("10 ab " + c.template + " " + c.text)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s %s: %+v, %v", c.template, c.text, e, err)
		}
	}
}

// PCR 10 does not cover the template's name: an attacker may put another in its place, if the fields come out the same
// in binary. No template may then take another field for the digest or the name.
func TestNoTemplateMovesTheDigest(t *testing.T) {
	t.Parallel()
	// The file's own attribute holds what reads as a digest that the policy lists.
	listed := append([]byte("sha256:\x00"), bytes.Repeat([]byte{0xaa}, 32)...)
	evil := bytes.Repeat([]byte{0xee}, 32)
	p := Parser{Extended: true}
	e, err := p.Parse([]byte("10 ab ima-sig sha256:" + hex.EncodeToString(evil) + " /usr/bin/ls " + hex.EncodeToString(listed)))
	if err != nil {
		t.Fatal(err)
	}
	data := slices.Clone(e.data)
	first := hex.EncodeToString(append([]byte("sha256:\x00"), evil...))
	for _, line := range []string{
		"10 ab evmsig|n-ng|d-ng " + first + " /usr/bin/ls sha256:" + strings.Repeat("aa", 32),
		"10 ab sig|n-ng|d-ng " + first + " /usr/bin/ls sha256:" + strings.Repeat("aa", 32),
		"10 ab d-modsig|n-ng|d-ng sha256:" + hex.EncodeToString(evil) + " /usr/bin/ls sha256:" + strings.Repeat("aa", 32),
	} {
		if e, err := p.Parse([]byte(line)); err == nil && bytes.Equal(e.data, data) {
			t.Errorf("%s: reads as %+v", line, e)
		}
	}
	for _, all := range []map[string]layout{templates, extendedTemplates} {
		for name := range all {
			p := Parser{Extended: true}
			if e, err := p.Parse([]byte("10 ab " + name + " sha256:" + hex.EncodeToString(evil) + " /usr/bin/ls " + hex.EncodeToString(listed))); err == nil &&
				bytes.Equal(e.data, data) && !bytes.Equal(e.Digest, evil) {
				t.Errorf("%s: has digest %x", name, e.Digest)
			}
		}
	}
}

func TestVeritySignaturesAreNotTaken(t *testing.T) {
	t.Parallel()
	s := signers(t)[1]
	digest := make([]byte, 32)
	e := &Entry{Alg: []byte("sha256"), Digest: digest, Signature: attribute(3, 2, 4, s.key.ID(), s.sign(0, digest)), Verity: true}
	if NewKeyring(s.key).Verify(e, nil) {
		t.Error("a signature of a file's digest is accepted for an fs-verity digest")
	}
}

// FuzzParseExtended: no line panics, and the digest and the name stand first in what is measured.
func FuzzParseExtended(f *testing.F) {
	for _, line := range genuine(f) {
		f.Add(line)
	}
	f.Add([]byte("0 00  "))
	f.Add([]byte("10 ab ima-sigv2 verity:sha256:abcd /a 0603"))
	f.Add([]byte("10 ab evm-sig sha256:abcd /a 05 security.ima 01 02 1000 0 33188"))
	f.Add([]byte("10 ab d-ng|n-ng|buf|imode sha256:abcd /a 05 7"))
	f.Fuzz(func(t *testing.T, line []byte) {
		p := Parser{Extended: true}
		e, err := p.Parse(line)
		if err != nil || e.Template == "ima" {
			return
		}
		alg := string(e.Alg)
		if strings.Contains(e.Template, "v2") {
			alg = map[bool]string{false: "ima:", true: "verity:"}[e.Verity] + alg
		}
		if want := length(alg+":\x00"+string(e.Digest)) + length(string(e.Name)+"\x00"); !strings.HasPrefix(string(e.data), want) {
			t.Fatalf("%q reads as %+v", line, e)
		}
	})
}
