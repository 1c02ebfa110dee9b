package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

// genuine are lines that kernels wrote, of each template; their second field is the SHA-1 of their template data.
func genuine(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/genuine")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSuffix(text, lineFeed), lineFeed)
}

func TestParseGenuineLines(t *testing.T) {
	t.Parallel()
	var p Parser
	for _, line := range genuine(t) {
		e, err := p.Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if sum := sha1.Sum(e.data); !bytes.Equal(sum[:], e.TemplateHash) {
			t.Errorf("%s: template data %x does not hash to the template hash", line, e.data)
		}
	}
}

func TestParseReadsFields(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0a", 32)
	for _, c := range []struct {
		line string
		want Entry
	}{
		{
			"10 00ff ima-ng sha256:" + digest + " /a b/\xff c ",
			Entry{PCR: 10, TemplateHash: []byte{0, 0xff}, Template: "ima-ng", Alg: []byte("sha256"), Name: []byte("/a b/\xff c ")},
		},
		{
			"0 AB ima-sig sm3-256:" + digest + " /a 0302",
			Entry{TemplateHash: []byte{0xab}, Template: "ima-sig", Alg: []byte("sm3-256"), Name: []byte("/a"), Signature: []byte{3, 2}},
		},
		{
			"23 ab ima-buf sha256:" + digest + " .ima ",
			Entry{PCR: 23, TemplateHash: []byte{0xab}, Template: "ima-buf", Alg: []byte("sha256"), Name: []byte(".ima")},
		},
		{
			"10 ab ima-ng unknown:" + digest + " ",
			Entry{PCR: 10, TemplateHash: []byte{0xab}, Template: "ima-ng", Alg: []byte("unknown"), Name: []byte{}},
		},
	} {
		var p Parser
		e, err := p.Parse([]byte(c.line))
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		c.want.Digest, _ = hex.DecodeString(digest)
		if e.PCR != c.want.PCR || e.Template != c.want.Template || !bytes.Equal(e.TemplateHash, c.want.TemplateHash) ||
			!bytes.Equal(e.Alg, c.want.Alg) || !bytes.Equal(e.Digest, c.want.Digest) || !bytes.Equal(e.Name, c.want.Name) ||
			!bytes.Equal(e.Signature, c.want.Signature) || !bytes.Equal(e.Buffer, c.want.Buffer) {
			t.Errorf("%q reads as %+v", c.line, e)
		}
	}
}

func TestDigestWithoutAlgorithm(t *testing.T) {
	t.Parallel()
	for digits, want := range map[string]string{strings.Repeat("ab", 20): "sha1", strings.Repeat("ab", 16): "md5"} {
		var p Parser
		e, err := p.Parse([]byte("10 ab ima-ng " + digits + " /a"))
		if err != nil || string(e.Alg) != want || !bytes.Contains(e.data, []byte(want+":\x00")) {
			t.Errorf("%s: %+v, %v", want, e, err)
		}
	}
}

// NT-39, HARDEN 12: a malformed line is an error that says what is wrong.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const sha256 = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ name, line, want string }{
		{"empty", "", "want PCR, template hash"},
		{"three fields", "10 ab ima-ng", "want PCR, template hash"},
		{"two spaces", "10  ab ima-ng " + sha256 + " /a", `template hash "" is not hexadecimal`},
		{"PCR padded", " 1 ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"PCR with zero", "01 ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"PCR with sign", "+1 ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"PCR 24", "24 ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"PCR 100", "100 ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"PCR in letters", "x ab ima-ng " + sha256 + " /a", "PCR is not a number"},
		{"odd hex", "10 abc ima-ng " + sha256 + " /a", `template hash "abc" is not hexadecimal`},
		{"hex with prefix", "10 0xab ima-ng " + sha256 + " /a", `template hash "0xab" is not hexadecimal`},
		{"hex with tab", "10 a\tb ima-ng " + sha256 + " /a", `template hash "a\tb" is not hexadecimal`},
		{"unknown template", "10 ab ima-ngv2 " + sha256 + " /a", `unknown template "ima-ngv2"`},
		{"long template", "10 ab " + strings.Repeat("x", 1000) + " " + sha256 + " /a", `unknown template "` + strings.Repeat("x", 64) + `"`},
		{"no name", "10 ab ima-ng " + sha256, "template ima-ng: want 2 fields, got 1"},
		{"no signature field", "10 ab ima-sig " + sha256 + " /a", "template ima-sig: want 3 fields, got 2"},
		{"no buffer", "10 ab ima-buf " + sha256 + " /a", "template ima-buf: want 3 fields, got 2"},
		{"odd signature", "10 ab ima-sig " + sha256 + " /a 030", "template ima-sig: signature is not hexadecimal"},
		{"space in signature", "10 ab ima-sig " + sha256 + " /a 03 02", "template ima-sig: signature is not hexadecimal"},
		{"CRLF", "10 ab ima-sig " + sha256 + " /a 0302\r", "template ima-sig: signature is not hexadecimal"},
		{"digest of two algorithms", "10 ab ima-ng ima:" + sha256 + " /a", "template ima-ng: digest is not"},
		{"digest without hex", "10 ab ima-ng sha256: /a", "template ima-ng: digest is not"},
		{"digest too long", "10 ab ima-ng x:" + strings.Repeat("ab", 65) + " /a", "template ima-ng: digest is not"},
		{"algorithm too long", "10 ab ima-ng " + strings.Repeat("x", 33) + ":abcd /a", "template ima-ng: digest is not"},
		{"algorithm empty", "10 ab ima-ng :abcd /a", "template ima-ng: digest is not"},
		{"32 bytes without algorithm", "10 ab ima-ng " + strings.Repeat("ab", 32) + " /a", "template ima-ng: digest is not"},
		{"name of 256 bytes", "10 ab ima " + strings.Repeat("ab", 20) + " " + strings.Repeat("n", 256), "template ima: name exceeds 255 bytes"},
		{"line of 1 MB", "10 ab ima-ng " + sha256 + " " + strings.Repeat("n", 1<<20), "line exceeds 524288 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var p Parser
			_, err := p.Parse([]byte(c.line))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestBufferMatchesItsDigestOnly(t *testing.T) {
	t.Parallel()
	buffer := []byte("critical")
	sum := sha256.Sum256(buffer)
	for _, c := range []struct {
		alg    string
		digest []byte
		want   bool
	}{
		{"sha256", sum[:], true},
		{"sha1", sum[:20], false},
		{"sha256", sum[:20], false},
		{"sha3-256", sum[:], false},
	} {
		e := Entry{Alg: []byte(c.alg), Digest: c.digest, Buffer: buffer}
		if got := e.BufferMatches(); got != c.want {
			t.Errorf("%s %x: %v", c.alg, c.digest, got)
		}
	}
}

// render writes an entry as a kernel does.
func render(e *Entry) string {
	switch e.Template {
	case "ima":
		return fmt.Sprintf("%d %x ima %s:%x %s", e.PCR, e.TemplateHash, e.Alg, e.Digest, e.Name)
	case "ima-ng":
		return fmt.Sprintf("%d %x ima-ng %s:%x %s", e.PCR, e.TemplateHash, e.Alg, e.Digest, e.Name)
	case "ima-sig":
		return fmt.Sprintf("%d %x ima-sig %s:%x %s %x", e.PCR, e.TemplateHash, e.Alg, e.Digest, e.Name, e.Signature)
	}
	return fmt.Sprintf("%d %x ima-buf %s:%x %s %x", e.PCR, e.TemplateHash, e.Alg, e.Digest, e.Name, e.Buffer)
}

// templateData is the binary form of an entry, written a second time and from the kernel's description of the fields.
func templateData(e *Entry) []byte {
	withLength := func(b string) string {
		return string(binary.LittleEndian.AppendUint32(nil, uint32(len(b)))) + b
	}
	if e.Template == "ima" {
		return []byte(string(e.Digest) + string(e.Name) + strings.Repeat("\x00", 256-len(e.Name)))
	}
	data := withLength(string(e.Alg)+":\x00"+string(e.Digest)) + withLength(string(e.Name)+"\x00")
	switch e.Template {
	case "ima-sig":
		data += withLength(string(e.Signature))
	case "ima-buf":
		data += withLength(string(e.Buffer))
	}
	return []byte(data)
}

// FuzzParse: no line panics, and what is accepted can be written and read again without a change of what it measures.
func FuzzParse(f *testing.F) {
	for _, line := range genuine(f) {
		f.Add(line)
	}
	f.Add([]byte("10 00 ima-buf sha256:00 .ima 3003020100"))
	f.Add([]byte("10 0000000000000000000000000000000000000000 ima-ng sha1:0000000000000000000000000000000000000000 /var/log/x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var p, q Parser
		e, err := p.Parse(line)
		if err != nil {
			return
		}
		if e.PCR < 0 || e.PCR > 23 || !bytes.Equal(e.data, templateData(e)) {
			t.Fatalf("%q reads as %+v", line, e)
		}
		again, err := q.Parse([]byte(render(e)))
		if err != nil || !bytes.Equal(again.data, e.data) || !bytes.Equal(again.TemplateHash, e.TemplateHash) {
			t.Fatalf("%q reads as %+v, and that as %+v, %v", line, e, again, err)
		}
	})
}

func TestParseAllocatesNothing(t *testing.T) {
	var p Parser
	lines := genuine(t)
	allocs := testing.AllocsPerRun(100, func() {
		for _, line := range lines {
			if _, err := p.Parse(line); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for %d lines", allocs, len(lines))
	}
}

func ExampleParser_Parse() {
	var p Parser
	e, err := p.Parse([]byte("10 7936eb315fb4e74b99e7d461bc5c96049e1ee092 ima-ng sha1:bc026ae66d81713e4e852465e980784dc96651f8 /usr/lib/systemd/systemd"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("PCR %d: %s has %s %x\n", e.PCR, e.Name, e.Alg, e.Digest)
	// Output: PCR 10: /usr/lib/systemd/systemd has sha1 bc026ae66d81713e4e852465e980784dc96651f8
}
